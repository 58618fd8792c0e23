//! Whatever bytes, and however they are cut: the same replies, no panic, bounded memory.

use node::resp::{Limits, Parser, Progress, ProtocolError};
use proptest::prelude::*;

use crate::driver::{Driver, encode};

type Words = Vec<Vec<u8>>;

/// What a parser makes of bytes that arrive in pieces.
fn parse_in_pieces<'a>(
    limits: Limits,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Words>, Option<ProtocolError>) {
    let (mut parser, mut input, mut requests) = (Parser::new(limits), Vec::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let consumed = match parser.parse(&input) {
                Ok(Progress::Request { arguments, consumed }) => {
                    requests.push(arguments.iter().map(<[u8]>::to_vec).collect());
                    consumed
                }
                Ok(Progress::Blank { consumed }) => consumed,
                Ok(Progress::Incomplete { wanted }) => {
                    assert!(wanted > input.len());
                    assert!(wanted <= limits.request_max.max(input.len() + 1), "bounded");
                    break;
                }
                Err(error) => return (requests, Some(error)),
            };
            assert!(consumed > 0 && consumed <= input.len());
            input.drain(..consumed);
        }
    }
    assert!(input.len() <= limits.request_max + limits.line_max, "more than a request is held");
    (requests, None)
}

fn tiny() -> Limits {
    Limits { bulk_max: 40, arguments_max: 5, line_max: 60, request_max: 100 }
}

fn names() -> Vec<&'static str> {
    node::resp::table::COMMANDS.iter().map(|command| command.name).collect()
}

/// Bytes that are nearly requests.
fn nearly_requests() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        8 => prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 1..5)
            .prop_map(|words| encode(&words.iter().map(Vec::as_slice).collect::<Vec<_>>())),
        4 => "[a-z\"' \\\\x0-9]{0,20}\r?\n".prop_map(String::into_bytes),
        2 => "\\*-?[0-9]{0,3}\r\n".prop_map(String::into_bytes),
        2 => "\\$-?[0-9]{0,3}\r\n".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn cuts_change_nothing(
        bytes in nearly_requests(),
        cuts in prop::collection::vec(1usize..9, 1..9),
    ) {
        for limits in [tiny(), Limits::for_prepare(1 << 20)] {
            let whole = parse_in_pieces(limits, std::iter::once(&bytes[..]));
            prop_assert_eq!(&parse_in_pieces(limits, bytes.chunks(1)), &whole);
            let (mut rest, mut pieces) = (&bytes[..], Vec::new());
            for size in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*size).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(&parse_in_pieces(limits, pieces.into_iter()), &whole);
        }
    }

    #[test]
    fn commands_of_any_words_are_answered(
        name in prop::sample::select(names()),
        words in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..6),
            "[0-9-]{0,20}".prop_map(String::into_bytes),
            prop::sample::select(vec!["NX", "XX", "GET", "EX", "PX", "KEEPTTL", "MATCH", "COUNT",
                "TYPE", "ON", "OFF", "SKIP", "SETNAME", "AUTH", "ID", "LIST", "REPLY", "INFO", "GT",
                "DOCS", "3", "*", "0", "1"]).prop_map(|word| word.as_bytes().to_vec()),
        ], 0..6),
    ) {
        let mut driver = Driver::new(1);
        let mut all: Vec<&[u8]> = vec![name.as_bytes()];
        all.extend(words.iter().map(Vec::as_slice));
        let reply = driver.command(&all);
        if driver.session_is_answered() {
            prop_assert_eq!(crate::driver::reply_size(&reply), Some(reply.len()));
        }
    }
}

#[test]
fn every_boundary_of_a_long_pipeline() {
    let mut pipeline = Vec::new();
    for index in 0..20 {
        let value = vec![b'v'; index * 7];
        pipeline.extend(encode(&[b"SET", format!("key{index}").as_bytes(), &value]));
        pipeline.extend(encode(&[b"get", format!("key{index}").as_bytes()]));
        pipeline.extend(b"exists key1 \"key2\"\r\n");
    }
    let expected = Driver::new(1).receive(&pipeline);
    for at in 0..=pipeline.len() {
        let mut driver = Driver::new(1);
        let mut replies = driver.receive(&pipeline[..at]);
        replies.extend(driver.receive(&pipeline[at..]));
        assert_eq!(replies, expected, "cut at {at}");
    }
}

#[test]
fn errors_have_redis_texts_and_close() {
    let long = |start: &str| [start.as_bytes(), &vec![b'1'; 70_000]].concat();
    let cases: [(Vec<u8>, &str); 13] = [
        (b"*x\r\n".to_vec(), "Protocol error: invalid multibulk length"),
        (b"*99999999999\r\n".to_vec(), "Protocol error: invalid multibulk length"),
        (b"*65537\r\n".to_vec(), "Protocol error: invalid multibulk length"),
        (b"*1\r\n$x\r\n".to_vec(), "Protocol error: invalid bulk length"),
        (b"*1\r\n$-1\r\n".to_vec(), "Protocol error: invalid bulk length"),
        (b"*1\r\n$1044481\r\n".to_vec(), "Protocol error: invalid bulk length"),
        (b"*1\r\nGET\r\n".to_vec(), "Protocol error: expected '$', got 'G'"),
        (b"*1\r\n\r\n".to_vec(), "Protocol error: expected '$', got ' '"),
        (b"set \"a\r\n".to_vec(), "Protocol error: unbalanced quotes in request"),
        (long("*"), "Protocol error: too big mbulk count string"),
        (long("*1\r\n$"), "Protocol error: too big bulk count string"),
        (long("GET "), "Protocol error: too big inline request"),
        (
            [&b"*9\r\n"[..], &[&b"$1000000\r\n"[..], &vec![b'x'; 1_000_002]].concat().repeat(5)]
                .concat(),
            "Protocol error: request exceeds 4194304 bytes",
        ),
    ];
    for (bytes, text) in cases {
        let mut driver = Driver::new(1);
        let reply = driver.receive(&bytes);
        assert_eq!(String::from_utf8_lossy(&reply), format!("-ERR {text}\r\n"));
        assert!(driver.closed);
    }
}

#[test]
fn a_large_value_in_many_pieces_is_not_scanned_again() {
    // A value without any line end, a byte at a time: rescanning would take a minute.
    let value = vec![b'x'; 300_000];
    let request = encode(&[b"set", b"k", &value]);
    let mut parser = Parser::new(Limits::for_prepare(1 << 20));
    for end in 0..request.len() {
        let progress = parser.parse(&request[..end]).unwrap();
        assert!(matches!(progress, Progress::Incomplete { wanted } if wanted > end));
    }
    let Ok(Progress::Request { consumed, .. }) = parser.parse(&request) else { panic!() };
    assert_eq!(consumed, request.len());
}

/// A request whose first line was cut is followed by a shorter one: what was scanned of the first
/// must not be remembered for the second. It once ended the process.
#[test]
fn a_request_cut_in_its_first_line_leaves_nothing_behind() {
    let pieces: [&[u8]; 3] = [b"*2\r\n$4\r", b"\nECHO\r\n$1\r\nx\r\n", b"*"];
    for cut in 0..pieces[0].len() {
        let (first, rest) = pieces[0].split_at(cut);
        let rest = [rest, pieces[1]].concat();
        let (requests, error) = parse_in_pieces(tiny(), [first, &rest, pieces[2]].into_iter());
        assert_eq!((requests.len(), error), (1, None), "cut at {cut}");
    }
}

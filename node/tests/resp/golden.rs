//! Commands and the replies that they must have, recorded from Redis 7.0.15 where it has one.
//!
//! The table is `golden.txt`: a line `> words` is a command in the syntax of redis-cli's quotes,
//! the line below it the reply with its line ends written as spaces. `# now +MS` moves log time.

use crate::driver::Driver;

#[test]
fn recorded_replies() {
    let mut driver = Driver::new(42);
    let mut checked = 0;
    let mut lines = include_str!("golden.txt").lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(milliseconds) = line.strip_prefix("# now +") {
            driver.now += milliseconds.parse::<u64>().unwrap() * 1_000_000;
        } else if line == "# connect" {
            driver.session = node::resp::Session::new(42);
            driver.closed = false;
        } else if let Some(command) = line.strip_prefix("> ") {
            let reply = driver.receive(format!("{command}\r\n").as_bytes());
            let reply = String::from_utf8(reply).unwrap().replace("\r\n", " ");
            let (_, expected) = lines.next().expect("a reply follows");
            assert_eq!(reply.trim_end(), expected.trim_end(), "line {}: {command}", number + 1);
            checked += 1;
        }
    }
    assert!(checked > 150, "the table was read");
}

#[test]
fn the_effects_of_a_command_are_bounded() {
    let mut driver = Driver::new(1);
    driver.budget = node::machine::Budget(100);
    let value = [b'x'; 60];
    assert_eq!(driver.command(&[b"set", b"k", &value]), b"+OK\r\n");
    assert_eq!(driver.command(&[b"append", b"k", b"abc"]), b":63\r\n");
    assert_eq!(driver.command(&[b"setrange", b"k", b"0", b"abc"]), b":63\r\n");
    let refused = driver.command(&[b"setrange", b"k", b"200", b"abc"]);
    assert!(refused.starts_with(b"-TRYAGAIN overloaded"), "{}", refused.escape_ascii());
    assert_eq!(driver.command(&[b"strlen", b"k"]), b":63\r\n");
}

#[test]
fn sizes_beyond_the_limits_are_refused_by_name() {
    let mut driver = Driver::new(1);
    let limit = driver.limits.bulk_max;
    let (key, value) = (vec![b'k'; 1025], vec![b'v'; limit]);
    let starts = |reply: Vec<u8>, text: &str| {
        assert!(reply.starts_with(text.as_bytes()), "{}", reply.escape_ascii());
    };
    starts(driver.command(&[b"set", &key, b"v"]), "-ERR too_large: a key of 1025 bytes");
    starts(driver.command(&[b"get", &key]), "-ERR too_large: a key of 1025 bytes");
    starts(driver.command(&[b"get", b""]), "-ERR bad_request: a key has at least one byte");
    starts(driver.command(&[b"set", &key[..1024], &value]), "+OK");
    starts(driver.command(&[b"append", &key[..1024], b"x"]), "-ERR string exceeds maximum");
    let mut words: Vec<&[u8]> = vec![b"mset"];
    words.resize(9, &value[..limit / 2]);
    for index in (1..9).step_by(2) {
        words[index] = b"k";
    }
    // Four halves fit a request; whether they fit a log entry is for the sink to say.
    starts(driver.command(&words), "+OK");
    starts(driver.receive(b"*2\r\n$3\r\nGET\r\n$1044481\r\n"), "-ERR Protocol error: invalid bulk");
    assert!(driver.closed);
}

#[test]
fn a_request_that_does_not_fit_its_log_entry_leaves_no_trace() {
    use node::resp::{Host, Limits, Parser, Progress, Session, Work, plan};
    let mut parser = Parser::new(Limits::for_prepare(1 << 20));
    let input = crate::driver::encode(&[b"mset", b"a", b"1", b"b", &[b'x'; 300]]);
    let Ok(Progress::Request { arguments, .. }) = parser.parse(&input) else { panic!() };
    let mut space = [0xee; 256];
    let mut sink = wire::SliceSink::new(&mut space);
    let host = Host { now: wire::Timestamp(1), wall_clock_ns: 1, value_max: 1000 };
    let (mut session, mut out) = (Session::new(1), Vec::new());
    let planned = plan(arguments, &mut session, &host, &mut sink, wire::ClientTag(1), &mut out);
    assert!(matches!(planned.work, Work::Replied));
    assert!(out.starts_with(b"-ERR too_large"), "{}", out.escape_ascii());
    assert_eq!(wire::Sink::position(&sink), 0);
}

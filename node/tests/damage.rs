//! A node in the simulator on a grid with a corrupt block, as its only replica: what needs the
//! block fails by name, everything else goes on, in a replay and after a restart too, and what was
//! acknowledged is never silently taken back.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ioring::Stream;
use ioring::sim::config::Config as SimConfig;
use ioring::sim::world::{Crash, NodeId, World};
use node::server;
use support::{DIR, PORT, configuration, format, parts, request};

/// Keys, each with a number.
const KEYS: usize = 1200;
/// Keys that are asked for at once.
const BATCH: usize = 40;
/// Type of a value block, and where it stands in a block's header.
const VALUE_BLOCK: u8 = 2;
const TYPE_OFFSET: usize = 72;
/// What damage looks like.
const ROT: u8 = 0xA5;

fn key(number: usize) -> String {
    format!("k{number:05}")
}

/// Sends requests that are answered with one line, or a bulk of one line; gives the answers.
async fn ask(stream: &Stream, requests: &[Vec<String>]) -> Vec<String> {
    let bytes: Vec<u8> = requests.iter().flat_map(|words| request(words)).collect();
    let (sent, _) = stream.send(bytes).await;
    sent.expect("the node takes requests");
    let mut text = String::new();
    loop {
        let mut lines = text.split_inclusive("\r\n").filter(|line| line.ends_with("\r\n"));
        let mut answers = Vec::new();
        while let Some(line) = lines.next() {
            let bulk = line.starts_with('$') && line != "$-1\r\n";
            let Some(answer) = (if bulk { lines.next() } else { Some(line) }) else { break };
            answers.push(answer.trim_end().to_owned());
        }
        if answers.len() == requests.len() {
            return answers;
        }
        let received = ioring::timeout(Duration::from_secs(60), stream.recv()).await;
        let received = received.expect("in time").expect("the node answers");
        assert!(!received.is_empty(), "the node serves");
        text += std::str::from_utf8(&received).expect("replies are text");
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Asks the same of every key.
async fn ask_all(stream: &Stream, command: &str, rest: &[&str]) -> Vec<String> {
    let mut answers = Vec::new();
    for first in (0..KEYS).step_by(BATCH) {
        let of = |number| [&words(&[command, &key(number)])[..], &words(rest)].concat();
        let batch: Vec<_> = (first..first + BATCH).map(of).collect();
        answers.extend(ask(stream, &batch).await);
    }
    answers
}

async fn one(stream: &Stream, request: &[&str]) -> String {
    ask(stream, &[words(request)]).await.remove(0)
}

/// Connects to a node that serves.
async fn connect(address: SocketAddr) -> Stream {
    loop {
        if let Ok(stream) = Stream::connect(address).await
            && one(&stream, &["GET", "none"]).await == "$-1"
        {
            return stream;
        }
        ioring::sleep(Duration::from_millis(5)).await;
    }
}

/// Keys whose answer is that a block is corrupt.
fn corrupt(answers: &[String]) -> BTreeSet<usize> {
    let corrupt = |answer: &String| answer.starts_with("-ERR corrupt_block");
    (0..answers.len()).filter(|&key| corrupt(&answers[key])).collect()
}

/// Numbers of cores to try: with three, what is damaged is not on the core that has the log.
const CORES: [u16; 2] = [1, 3];

/// A node that lives and dies on one disk.
struct Lives {
    world: World,
    server: NodeId,
    client: NodeId,
    cores: u16,
    /// What damaged blocks held: file, offset, bytes.
    healthy: Vec<(String, u64, Vec<u8>)>,
}

impl Lives {
    fn new(cores: u16) -> Lives {
        let mut world = World::new(3, SimConfig::default());
        let (server, client) = (world.add_node("server"), world.add_node("client"));
        world.run(server, format).expect("formatting ends");
        Lives { world, server, client, cores, healthy: Vec::new() }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.world.address(self.server), PORT)
    }

    fn start(&mut self) {
        let (parts, _ask) = parts(self.address(), self.cores);
        self.world.start(self.server, parts, |part| async move {
            server::serve(part).await.expect("the node starts");
        });
    }

    /// Runs what a client does.
    fn run<F, R>(&mut self, client: impl FnOnce(Stream) -> F + 'static) -> R
    where
        F: Future<Output = R> + 'static,
        R: 'static,
    {
        let address = self.address();
        let run = move || async move { client(connect(address).await).await };
        self.world.run(self.client, run).expect("the client is done")
    }

    fn kill(&mut self) {
        self.world.crash(self.server, Crash::Process);
    }

    /// Starts the node, runs what a client does, and kills the node.
    fn life<F, R>(&mut self, client: impl FnOnce(Stream) -> F + 'static) -> R
    where
        F: Future<Output = R> + 'static,
        R: 'static,
    {
        self.start();
        let result = self.run(client);
        self.kill();
        result
    }

    /// Damages every value block of the first shard's grid.
    fn damage(&mut self) {
        let size = configuration().block_size as usize;
        let file = format!("{DIR}/shard-0000.grid");
        let disk = &mut *self.world.disk(self.server);
        let contents = disk.contents(Path::new(&file)).expect("there is a grid");
        let blocks = contents.chunks(size).enumerate().skip(1);
        for (number, block) in blocks.filter(|(_, block)| block[TYPE_OFFSET] == VALUE_BLOCK) {
            let offset = (number * size) as u64;
            self.healthy.push((file.clone(), offset, block.to_vec()));
            disk.overwrite(Path::new(&file), offset + 256, &vec![ROT; size - 256])
                .expect("the file is that long");
        }
        assert!(!self.healthy.is_empty(), "nothing is in tables");
    }

    /// Undoes it: a device that has recovered.
    fn heal(&mut self) {
        let disk = &mut *self.world.disk(self.server);
        for (file, offset, bytes) in self.healthy.drain(..) {
            let contents = disk.contents(Path::new(&file)).expect("there is a grid");
            if contents[offset as usize + 256] != ROT {
                // It was released and written anew.
                continue;
            }
            disk.overwrite(Path::new(&file), offset, &bytes).expect("the file is that long");
        }
    }
}

/// Gives every key its number, and has that checkpointed.
async fn fill(stream: Stream) {
    for first in (0..KEYS).step_by(BATCH) {
        let set = |number| words(&["SET", &key(number), &number.to_string()]);
        let batch: Vec<_> = (first..first + BATCH).map(set).collect();
        assert!(ask(&stream, &batch).await.iter().all(|answer| answer == "+OK"));
    }
    write_on(&stream).await;
}

/// Writes so much that several checkpoints are taken.
async fn write_on(stream: &Stream) {
    let value = "x".repeat(300);
    for first in (0..600).step_by(BATCH) {
        let set = |number: usize| words(&["SET", &format!("other{number}"), &value]);
        let batch: Vec<_> = (first..first + BATCH).map(set).collect();
        assert!(ask(stream, &batch).await.iter().all(|answer| answer == "+OK"));
    }
}

/// What a read must find: the number raised by `by`, unless the key is among the unreadable.
fn assert_raised(answers: &[String], unreadable: &BTreeSet<usize>, by: usize) {
    for (key, answer) in answers.iter().enumerate() {
        if !unreadable.contains(&key) {
            assert_eq!(answer.trim_start_matches(':'), (key + by).to_string(), "key {key}");
        }
    }
}

#[test]
fn an_operation_that_needs_a_corrupt_block_changes_nothing_and_all_others_are_done() {
    CORES.into_iter().for_each(operations_that_need_it);
}

fn operations_that_need_it(cores: u16) {
    let mut lives = Lives::new(cores);
    lives.life(fill);
    lives.damage();
    let bad = lives.life(|stream| async move {
        let read = ask_all(&stream, "GET", &[]).await;
        assert_raised(&read, &corrupt(&read), 0);
        let answer = &read[*corrupt(&read).first().expect("something is damaged")];
        assert!(answer.contains("shard 0, tree Objects, level "), "{answer}");
        corrupt(&read)
    });
    assert!(bad.len() <= KEYS / 2, "{} keys, and the other shard is whole", bad.len());
    let (first, second) =
        (*bad.first().expect("some keys are damaged"), *bad.last().expect("and more"));
    let known = bad.clone();
    // Damaged while the node runs, which does not know: an op is given, and does nothing.
    lives.heal();
    lives.start();
    lives.run(|_| ioring::sleep(Duration::from_secs(2)));
    lives.damage();
    lives.run(move |stream| async move {
        let both = ["MSETNX", "fresh", "1", &key(first), "1"];
        assert!(one(&stream, &both).await.starts_with("-ERR corrupt_block"));
        assert_eq!(one(&stream, &["GET", "fresh"]).await, "$-1");
        let raised = ask_all(&stream, "INCR", &[]).await;
        assert_eq!(corrupt(&raised), known);
        assert_raised(&raised, &known, 1);
        for command in ["APPEND", "PEXPIREAT", "GETSET", "SETNX"] {
            let answer = one(&stream, &[command, &key(first), "1"]).await;
            assert!(answer.starts_with("-ERR corrupt_block"), "{command}: {answer}");
        }
        // A value that needs nothing of the old one is written, and then known.
        assert_eq!(one(&stream, &["SET", &key(second), "5"]).await, "+OK");
        assert_eq!(one(&stream, &["INCR", &key(second)]).await, ":6");
    });
    lives.kill();
    // All of this is replayed.
    lives.life(move |stream| async move {
        let read = ask_all(&stream, "GET", &[]).await;
        let mut unreadable = bad.clone();
        unreadable.remove(&second);
        assert_eq!(corrupt(&read), unreadable);
        assert_eq!(read[second], "6");
        assert_raised(&read, &bad, 1);
        write_on(&stream).await;
    });
}

#[test]
fn what_a_replay_cannot_do_again_is_not_read_as_it_was_before() {
    CORES.into_iter().for_each(replays_that_need_it);
}

fn replays_that_need_it(cores: u16) {
    let mut lives = Lives::new(cores);
    lives.life(fill);
    lives.life(|stream| async move {
        assert_raised(&ask_all(&stream, "INCR", &[]).await, &BTreeSet::new(), 1);
    });
    // Acknowledged; now the block goes bad, for as long as a replay and some checkpoints take.
    lives.damage();
    let bad = lives.life(|stream| async move {
        let read = ask_all(&stream, "GET", &[]).await;
        assert_raised(&read, &corrupt(&read), 1);
        write_on(&stream).await;
        corrupt(&read)
    });
    assert!(!bad.is_empty(), "nothing was in the damaged blocks");
    lives.heal();
    lives.life(move |stream| async move {
        let read = ask_all(&stream, "GET", &[]).await;
        assert_raised(&read, &corrupt(&read), 1);
        assert!(corrupt(&read).is_subset(&bad));
    });
}

#[test]
fn once_damage_is_known_a_write_that_needs_it_is_not_given_an_op() {
    CORES.into_iter().for_each(writes_once_it_is_known);
}

fn writes_once_it_is_known(cores: u16) {
    let mut lives = Lives::new(cores);
    lives.life(fill);
    lives.damage();
    let bad = lives.life(|stream| async move {
        let bad = corrupt(&ask_all(&stream, "GET", &[]).await);
        for _ in 0..3 {
            assert_eq!(corrupt(&ask_all(&stream, "INCR", &[]).await), bad);
        }
        assert!(!bad.is_empty(), "nothing was in the damaged blocks");
        bad
    });
    // A crash before the next checkpoint, and a device that has recovered: what was refused stays
    // not done.
    lives.heal();
    lives.life(move |stream| async move {
        let read = ask_all(&stream, "GET", &[]).await;
        assert_raised(&read, &bad, 3);
        for key in bad {
            assert_eq!(read[key], key.to_string(), "a refused increment was done");
        }
    });
}

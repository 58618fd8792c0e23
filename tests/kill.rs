//! No acknowledged write is ever lost: `kill -9` under load, again and again on one directory.
//!
//! Each round starts the node, loads it with pipelined reads and overwrites from many connections,
//! kills it at another moment, starts it again and reads every key back. The ledger is carried
//! through all rounds, so what was acknowledged in the first still counts in the last. The long
//! form: `QUORATE_TEST_ROUNDS=100`.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod support;

use std::thread;
use std::time::Duration;

use bench::ledger::Ledger;
use bench::load::{self, Options, Run};
use bench::workload::{Distribution, ValueSizes};
use support::{Folder, Node};

const KEYS: u64 = 20_000;

fn options(node: &Node, seed: u64, depth: usize) -> Options {
    Options {
        address: node.resp.clone(),
        mix: "a".parse().unwrap(),
        distribution: Distribution::Zipf(0.9),
        keys: KEYS,
        values: ValueSizes { min: 16, max: 2_000 },
        clients: 24,
        depth,
        rate: None,
        duration: Duration::from_secs(600),
        seed,
        run: 77,
        preload: false,
        verify_keys: 0,
        cpu: None,
        server_pid: None,
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let folder = Folder::new();
    let mut ledger = Ledger::new(77, KEYS);
    let rounds = support::rounds(4);
    for round in 0..rounds {
        // A directory knows nothing of cores: it is written with one number and read with another.
        let cores = support::cores();
        let in_turn = |turn: u32| ["--cores", cores[turn as usize % cores.len()]];
        let mut node = Node::start(&folder.data(), &in_turn(round));
        let options = options(&node, u64::from(round), 1 + round as usize % 8);
        let load = thread::spawn(move || load::resume(&options, ledger, |_| {}).unwrap());
        // Moments between a tenth and two seconds, spread over the rounds.
        thread::sleep(Duration::from_millis(100 + u64::from(round) * 677 % 1_900));
        node.kill();
        let Run { report, ledger: after } = load.join().unwrap();
        ledger = after;
        assert_eq!(report.wrong_reads, 0, "round {round}:\n{report}");
        assert!(report.operations > 0, "round {round} did nothing:\n{report}");

        let node = Node::start(&folder.data(), &in_turn(round + 1 + round / 2));
        let found = load::verify(&node.resp, &ledger, u64::MAX, 0).unwrap();
        assert!(found.is_good(), "round {round}: {found:?}\n{}", node.log());
        println!(
            "round {round}: {} writes acknowledged so far, {} keys read back, none lost",
            ledger.acknowledged_total(),
            found.keys_read
        );
    }
    assert!(ledger.acknowledged_total() > 0);
}

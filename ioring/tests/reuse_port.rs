//! How evenly the kernel spreads connections over listeners that share an address
//! (`SO_REUSEPORT`), compared with giving them out by turns. The figures stand in
//! `docs/DECISIONS.md`; `cargo test -p ioring --test reuse_port -- --nocapture` prints them.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ioring::uring::{Config, Runtime};
use ioring::{ListenOptions, Listener, timeout};

const CONNECTIONS: usize = 50;
const ROUNDS: usize = 21;

/// The most connections that one of so many listeners got.
async fn most_by_hash(listeners: usize) -> usize {
    let options = || ListenOptions { reuse_port: true, ..ListenOptions::default() };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut all = vec![Listener::bind(any, options()).unwrap()];
    let address = all[0].local_addr();
    all.extend((1..listeners).map(|_| Listener::bind(address, options()).unwrap()));
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut counts = Vec::new();
    for listener in &all {
        let mut accepted = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(5), listener.accept()).await {
            accepted.push(stream.unwrap());
        }
        counts.push(accepted.len());
    }
    assert_eq!(counts.iter().sum::<usize>(), clients.len(), "every connection is somewhere");
    counts.into_iter().max().unwrap()
}

#[test]
fn a_hash_spreads_connections_less_evenly_than_taking_turns() {
    for listeners in [2, 4, 8] {
        let runtime = Runtime::new(Config::test_min(1)).unwrap();
        let rounds = move || async move {
            let mut most = Vec::new();
            for _ in 0..ROUNDS {
                most.push(most_by_hash(listeners).await);
            }
            most
        };
        let mut most = runtime.run(vec![()], move |()| rounds()).pop().unwrap();
        most.sort_unstable();
        let by_turns = CONNECTIONS.div_ceil(listeners);
        let (median, worst) = (most[ROUNDS / 2], most[ROUNDS - 1]);
        println!(
            "{CONNECTIONS} connections, {listeners} listeners: the fullest has {by_turns} by \
             turns, by hash {median} in the median and {worst} at most of {ROUNDS} rounds"
        );
        assert!(worst > by_turns, "a hash that is never uneven is none");
    }
}

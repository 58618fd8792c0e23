//! From a peer's name to an address, without holding up the core.
//!
//! The system's resolver blocks, for seconds when a name server is silent. A name is therefore
//! looked up on a thread of its own, which lives as long as the look-up, sends its answer through a
//! lane and ends. There is at most one per connection, as a connection looks up before each attempt
//! and waits for the answer; nothing is remembered from one attempt to the next, so a peer that
//! moved is found again. What is an address already needs no resolver: the simulator, which has no
//! threads, knows only addresses.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use ioring::lane;

/// The address of `name` for an attempt: of several addresses, each attempt takes the next.
///
/// # Errors
/// The name, and what the resolver says.
pub(super) async fn resolve(name: &str, attempt: usize) -> io::Result<SocketAddr> {
    if let Ok(address) = name.parse() {
        return Ok(address);
    }
    let (answer, answers) = lane(1);
    let asked = name.to_owned();
    let look_up = move || {
        let found = asked.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        // Whoever asked may have stopped waiting.
        drop(answer.try_send(found));
    };
    std::thread::Builder::new().name("resolver".to_owned()).spawn(look_up)?;
    let found = answers.recv().await.ok_or_else(|| io::Error::other("the resolver died"))?;
    let found = found.map_err(|error| {
        io::Error::new(error.kind(), format!("{name} cannot be resolved: {error}"))
    })?;
    let none = || io::Error::new(io::ErrorKind::NotFound, format!("{name} has no address"));
    found.get(attempt % found.len().max(1)).copied().ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ioring::uring::{Config, Runtime};

    #[test]
    fn names_are_looked_up_and_addresses_are_not() {
        let runtime = Runtime::new(Config::test_min(1)).unwrap();
        runtime.run(vec![()], |()| async {
            let literal = resolve("10.1.2.3:7", 0).await.unwrap();
            assert_eq!(literal, SocketAddr::from(([10, 1, 2, 3], 7)));
            let local = resolve("localhost:7400", 3).await.unwrap();
            assert!(local.ip().is_loopback() && local.port() == 7400);
            for wrong in ["no-such-host.invalid:1", "localhost", "localhost:port"] {
                let error = resolve(wrong, 0).await.unwrap_err().to_string();
                assert!(error.contains(wrong), "{error}");
            }
        });
    }
}

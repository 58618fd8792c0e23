//! The read-back: is everything there that was acknowledged?

use std::time::Duration;

use client::{ClientError, Connection, Reply};
use rand::RngExt;

use crate::ledger::{Finding, Ledger};
use crate::report::Verification;
use crate::workload::{key_name, random_stream};

/// Requests outstanding at once.
const DEPTH: usize = 256;

/// How long the node may take for one reply.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Reads `sample` keys back from the node at `address`, all of them when that is at least as many
/// as there are, and judges each byte of them by `ledger`. No writes may be under way.
pub fn verify(
    address: &str,
    ledger: &Ledger,
    sample: u64,
    seed: u64,
) -> Result<Verification, ClientError> {
    let mut connection = Connection::connect(address, TIMEOUT)?;
    let mut verification = Verification::default();
    let mut random = random_stream(seed, u64::MAX - 1);
    let all = sample >= ledger.keys();
    let count = sample.min(ledger.keys());
    let mut pending = Vec::with_capacity(DEPTH);
    let mut next = 0;
    while next < count {
        while next < count && pending.len() < DEPTH {
            let key = if all { next } else { random.random_range(0..ledger.keys()) };
            connection.send(&[b"GET".as_slice(), &key_name(key)]);
            pending.push(key);
            next += 1;
        }
        for key in pending.drain(..) {
            let found = match connection.receive()? {
                Reply::Bulk(value) => Some(ledger.find(&value)),
                Reply::Nil => None,
                _ => Some(crate::ledger::Found::Damaged),
            };
            verification.keys_read += 1;
            match ledger.judge(key, ledger.acknowledged(key), found) {
                Finding::Good => {}
                Finding::Lost => verification.lost += 1,
                Finding::Wrong => verification.wrong += 1,
            }
        }
    }
    Ok(verification)
}

//! The load of the demonstration with three replicas: clients that go elsewhere when their node is
//! gone, as any client of a cluster does.
//!
//! Each has keys of its own and writes them, many at once. When a connection breaks, or a node does
//! not answer, what was sent and not answered may have happened; those keys are left as they are
//! from then on, so that no late write of before can be taken for a lost one of after, and the
//! client connects to the next node. The ledger knows of each key what was acknowledged and what
//! may have happened.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bench::ledger::Ledger;
use bench::report::Latencies;
use bench::workload::{
    Distribution, KeyChooser, KeyShare, Origin, ValueSizes, key_name, random_stream,
};
use client::{ClientError, Connection, Reply};

/// Keys written.
pub(super) const KEYS: u64 = 60_000;
/// Clients in all.
const CLIENTS: u64 = 12;
/// Writes that a client sends at once.
const DEPTH: usize = 16;
const VALUES: ValueSizes = ValueSizes { min: 100, max: 100 };
/// A client gives a node up after so long.
const TIMEOUT: Duration = Duration::from_secs(4);

/// What all clients know together.
pub(super) struct Load {
    addresses: Vec<String>,
    stop: AtomicBool,
    tally: Mutex<Tally>,
}

/// What was seen so far.
pub(super) struct Tally {
    pub(super) ledger: Ledger,
    pub(super) acknowledged: u64,
    pub(super) latencies: Latencies,
    last: Instant,
    pause: Duration,
}

impl Load {
    pub(super) fn new(addresses: Vec<String>, run: u32) -> Load {
        let tally = Tally {
            ledger: Ledger::new(run, KEYS),
            acknowledged: 0,
            latencies: Latencies::default(),
            last: Instant::now(),
            pause: Duration::ZERO,
        };
        Load { addresses, stop: AtomicBool::new(false), tally: Mutex::new(tally) }
    }

    /// Starts the clients.
    pub(super) fn start<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) {
        for number in 0..CLIENTS {
            scope.spawn(move || self.client(number));
        }
    }

    /// Tells them to end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// What was seen so far.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the longest time without any acknowledgement is measured.
    pub(super) fn measure_pause(&self) {
        let mut tally = self.tally();
        (tally.last, tally.pause) = (Instant::now(), Duration::ZERO);
    }

    /// That time.
    pub(super) fn pause(&self) -> Duration {
        let tally = self.tally();
        tally.pause.max(tally.last.elapsed())
    }

    fn client(&self, number: u64) {
        let share = KeyShare::new(KEYS, number, CLIENTS);
        let chooser = KeyChooser::new(share, Distribution::Uniform);
        let mut random = random_stream(1, number);
        let mut doubtful: HashSet<u64> = HashSet::new();
        let mut node = number as usize;
        while !self.stop.load(Ordering::Relaxed) {
            node += 1;
            let address = &self.addresses[node % self.addresses.len()];
            let Ok(mut connection) = Connection::connect(address, TIMEOUT) else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            while !self.stop.load(Ordering::Relaxed) {
                let keys = std::iter::repeat_with(|| chooser.choose(&mut random));
                let keys = keys.take(DEPTH).filter(|key| !doubtful.contains(key)).collect();
                let (unanswered, result) = self.write(&mut connection, keys);
                doubtful.extend(unanswered);
                if result.is_err() {
                    break;
                }
            }
        }
    }

    /// Writes some keys once; those that nobody knows about, and why if there are any.
    fn write(
        &self,
        connection: &mut Connection,
        keys: Vec<u64>,
    ) -> (Vec<u64>, Result<(), ClientError>) {
        let origins: Vec<Origin> = {
            let mut tally = self.tally();
            keys.iter().map(|&key| tally.ledger.send(key)).collect()
        };
        let mut value = Vec::new();
        for origin in &origins {
            value.clear();
            VALUES.push_value(&mut value, *origin);
            connection.send(&[b"SET".as_slice(), &key_name(origin.key), &value]);
        }
        let sent = Instant::now();
        let mut refused = false;
        let mut result = connection.flush();
        let mut answered = 0;
        while result.is_ok() && answered < keys.len() {
            match connection.receive() {
                Ok(Reply::Simple(_)) => self.acknowledge(&origins[answered], sent),
                // Nothing was done; it may be taken a moment later.
                Ok(_) => refused = true,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
            answered += 1;
        }
        if refused {
            thread::sleep(Duration::from_millis(5));
        }
        (keys[answered..].to_vec(), result)
    }

    fn acknowledge(&self, origin: &Origin, sent: Instant) {
        let mut tally = self.tally();
        let now = Instant::now();
        tally.ledger.acknowledge(origin.key, origin.sequence);
        tally.acknowledged += 1;
        tally.latencies.record(now - sent);
        tally.pause = tally.pause.max(now.saturating_duration_since(tally.last));
        tally.last = now;
    }
}

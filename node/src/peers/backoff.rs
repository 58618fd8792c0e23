//! How long to wait before the next attempt to connect.
//!
//! The first pauses are short, because a process that was just restarted listens again within
//! milliseconds and a fail-over waits for it; each is twice the one before, up to a second, so that
//! a host that is gone costs a packet a second. Each is shortened by up to half at random, or two
//! replicas that lost each other would go on knocking at the same moments.
//!
//! A connection that broke at once does not start the pauses over: two processes that take each
//! other's place would else do so hundreds of times a second. Whoever was *refused* by name comes
//! back slowly, for nothing but a person changes that.

use std::time::Duration;

use ioring::Random;

/// The first pause.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// After a refusal.
const PAUSE_REFUSED: Duration = Duration::from_secs(5);
/// A connection that lasted this long was a good one.
pub(super) const STABLE_AFTER: Duration = Duration::from_secs(1);

/// The pauses of one connection.
#[derive(Debug)]
pub(super) struct Backoff {
    random: Random,
    next: Duration,
}

impl Backoff {
    /// Pauses that begin with the shortest.
    pub(super) fn new(random: Random) -> Backoff {
        Backoff { random, next: PAUSE_MIN }
    }

    /// The pause after an attempt that failed, or a connection that broke.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(PAUSE_MAX);
        self.shorten(pause)
    }

    /// The pause after a refusal.
    pub(super) fn pause_refused(&mut self) -> Duration {
        self.next = PAUSE_MAX;
        self.shorten(PAUSE_REFUSED)
    }

    /// The connection was a good one: the next pauses are short again.
    pub(super) fn reset(&mut self) {
        self.next = PAUSE_MIN;
    }

    fn shorten(&mut self, pause: Duration) -> Duration {
        let half = pause.as_nanos() as u64 / 2;
        Duration::from_nanos(half + self.random.below(half + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_differ() {
        let mut backoff = Backoff::new(Random::from_seed([1; 32]));
        let pauses: Vec<Duration> = (0..12).map(|_| backoff.pause()).collect();
        for (number, pause) in pauses.iter().enumerate() {
            let whole = (PAUSE_MIN * 2u32.pow(number as u32)).min(PAUSE_MAX);
            assert!(*pause >= whole / 2 && *pause <= whole, "{number}: {pause:?} of {whole:?}");
        }
        assert_ne!(pauses[10], pauses[11], "jitter");
        assert!(backoff.pause_refused() >= PAUSE_REFUSED / 2);
        assert!(backoff.pause() >= PAUSE_MAX / 2, "a refusal does not hurry what follows");
        backoff.reset();
        assert!(backoff.pause() <= PAUSE_MIN);
    }
}

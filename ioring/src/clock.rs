//! Reading clocks and waiting for them.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::combine::{Either, select};
use crate::core::Core;
use crate::time::{Instant, WallClock};
use crate::timers::TimerId;

/// The present, on the monotonic clock; on a thread without a runtime, the operating system's.
pub fn now() -> Instant {
    Core::try_with(|core| core.driver.now()).unwrap_or_else(system_now)
}

/// Time of day. It may jump; it decides no deadline.
pub fn wall_clock() -> WallClock {
    Core::try_with(|core| core.driver.wall_clock()).unwrap_or_else(system_wall_clock)
}

/// The operating system's monotonic clock, counted from the first use in this process.
pub(crate) fn system_now() -> Instant {
    static ORIGIN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let origin = ORIGIN.get_or_init(std::time::Instant::now);
    Instant::from_nanos(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

pub(crate) fn system_wall_clock() -> WallClock {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    WallClock(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Waits until a moment; see [`sleep_until`].
#[must_use = "a future does nothing unless awaited"]
pub struct Sleep {
    deadline: Instant,
    timer: Option<TimerId>,
}

/// Waits for a while. The time counts from this call, and not from the first poll.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// Waits until a moment of the monotonic clock.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, timer: None }
}

impl Sleep {
    /// The moment this waits for.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        Core::with(|core| {
            if let Some(timer) = self.timer {
                if core.renew_timer(timer, context.waker()) {
                    return Poll::Pending;
                }
                self.timer = None;
                return Poll::Ready(());
            }
            if deadline <= core.driver.now() {
                return Poll::Ready(());
            }
            self.timer = Some(core.insert_timer(deadline, context.waker()));
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            Core::with(|core| core.remove_timer(timer));
        }
    }
}

/// The time limit of [`timeout`] passed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not done within {0:?}")]
pub struct Elapsed(pub Duration);

/// Waits for a future, but no longer than `limit`; then the future is dropped. A future that is
/// ready at the limit wins.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let future = pin!(future);
    match select(future, sleep(limit)).await {
        Either::First(output) => Ok(output),
        Either::Second(()) => Err(Elapsed(limit)),
    }
}

//! Starting tasks and waiting for what they return.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::core::Core;
use crate::task::{Queue, TaskId};

/// What a task and its handle share.
struct Outcome<T> {
    value: Cell<Option<T>>,
    waiter: RefCell<Option<Waker>>,
}

/// A task that was started on this core. Awaiting it gives what it returns; dropping it lets the
/// task run on by itself.
#[must_use = "dropping the handle detaches the task: say so with `detach`"]
pub struct Task<T> {
    id: TaskId,
    outcome: Rc<Outcome<T>>,
}

impl<T> Task<T> {
    /// Ends the task: its future is dropped, at once or, if it is this very task, when it next
    /// waits.
    pub fn cancel(self) {
        Core::with(|core| core.cancel_task(self.id));
    }

    /// Lets the task run on by itself.
    pub fn detach(self) {}

    /// What the task returned, if it is finished and nobody took it before.
    pub fn try_take(&self) -> Option<T> {
        self.outcome.value.take()
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if let Some(value) = self.outcome.value.take() {
            return Poll::Ready(value);
        }
        *self.outcome.waiter.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Starts a task on the core that is running. `name` appears in stall reports.
///
/// # Panics
/// On a thread without a runtime, or when the core holds 65,536 tasks already.
pub fn spawn<F>(queue: Queue, name: &'static str, future: F) -> Task<F::Output>
where
    F: Future + 'static,
{
    Core::with(|core| core.spawn(queue, name, future))
}

impl Core {
    /// As the free function, on a core that need not be installed.
    pub(crate) fn spawn<F>(&self, queue: Queue, name: &'static str, future: F) -> Task<F::Output>
    where
        F: Future + 'static,
    {
        let outcome = Rc::new(Outcome { value: Cell::new(None), waiter: RefCell::new(None) });
        let shared = outcome.clone();
        let id = self.spawn_boxed(queue, name, async move {
            let value = future.await;
            shared.value.set(Some(value));
            if let Some(waiter) = shared.waiter.take() {
                waiter.wake();
            }
        });
        Task { id, outcome }
    }
}

/// Lets every other runnable task of the core have a turn.
pub fn yield_now() -> impl Future<Output = ()> {
    let mut yielded = false;
    std::future::poll_fn(move |context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

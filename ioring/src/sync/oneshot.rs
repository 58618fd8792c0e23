//! One value from one task to another.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct Shared<T> {
    value: Cell<Option<T>>,
    waker: RefCell<Option<Waker>>,
}

/// Makes a pair.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared { value: Cell::new(None), waker: RefCell::new(None) });
    (Sender { shared: shared.clone() }, Receiver { shared })
}

/// Sends the value.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Sends; gives the value back if nobody waits for it any more.
    pub fn send(self, value: T) -> Result<(), T> {
        if self.is_closed() {
            return Err(value);
        }
        self.shared.value.set(Some(value));
        Ok(())
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        Rc::strong_count(&self.shared) == 1
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if let Some(waker) = self.shared.waker.take() {
            waker.wake();
        }
    }
}

/// Waits for the value: `None` if the sender was dropped without sending.
#[must_use = "a future does nothing unless awaited"]
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Future for Receiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(value) = self.shared.value.take() {
            return Poll::Ready(Some(value));
        }
        if Rc::strong_count(&self.shared) == 1 {
            return Poll::Ready(None);
        }
        *self.shared.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

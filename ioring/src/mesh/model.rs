//! Loom tries every interleaving of a sender and a receiver on a lane of one slot, so that both
//! full and empty happen, and reports a wake-up that got lost as a deadlock.

use std::future::Future;
use std::pin::pin;

use super::board::model::{Bell, explore};
use super::*;

impl std::task::Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        self.ring();
    }
}

/// Runs a future on the thread, which sleeps whenever the future waits.
fn block_on<F: Future>(future: F) -> F::Output {
    let bell = std::sync::Arc::new(Bell::new());
    let waker = Waker::from(bell.clone());
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => bell.wait(),
        }
    }
}

#[test]
fn everything_arrives_in_order_and_nobody_sleeps_for_ever() {
    explore(|| {
        let (outbox, inbox) = lane::<u32>(1);
        let sender = loom::thread::spawn(move || {
            block_on(async {
                outbox.send(1).await.unwrap();
                outbox.send(2).await.unwrap();
            });
        });
        block_on(async {
            assert_eq!(inbox.recv().await, Some(1));
            assert_eq!(inbox.recv().await, Some(2));
            assert_eq!(inbox.recv().await, None);
        });
        sender.join().unwrap();
    });
}

#[test]
fn a_receiver_that_goes_away_releases_the_sender() {
    explore(|| {
        let (outbox, inbox) = lane::<Box<u32>>(1);
        let receiver = loom::thread::spawn(move || drop(inbox));
        block_on(async {
            let _ = outbox.send(Box::new(1)).await;
            while outbox.send(Box::new(2)).await.is_ok() {}
        });
        receiver.join().unwrap();
    });
}

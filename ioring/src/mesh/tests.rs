//! Lanes against a bounded queue, and waking across threads.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::AtomicU32;

use proptest::prelude::*;

use super::*;

/// Polls once with a waker that does nothing.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

proptest! {
    #[test]
    fn a_lane_is_a_bounded_queue(
        capacity in 1usize..5,
        steps in prop::collection::vec(0u8..3, 0..200),
    ) {
        let (outbox, inbox) = lane(capacity);
        let mut model = VecDeque::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                0 | 1 if model.len() < capacity => {
                    prop_assert_eq!(outbox.try_send(number), Ok(()));
                    model.push_back(number);
                }
                0 | 1 => prop_assert_eq!(outbox.try_send(number), Err(number)),
                _ => prop_assert_eq!(inbox.try_recv(), model.pop_front()),
            }
            prop_assert_eq!(inbox.len(), model.len());
            prop_assert_eq!(outbox.free(), capacity - model.len());
        }
    }
}

#[test]
fn closing_loses_nothing_that_was_sent() {
    let (outbox, inbox) = lane(4);
    outbox.try_send("a").unwrap();
    outbox.try_send("b").unwrap();
    drop(outbox);
    let mut items = Vec::new();
    assert!(matches!(poll_once(pin!(inbox.recv_many(&mut items, 10))), Poll::Ready(2)));
    assert!(matches!(poll_once(pin!(inbox.recv())), Poll::Ready(None)));
}

#[test]
fn what_nobody_received_is_dropped_with_the_lane() {
    let item = std::sync::Arc::new(());
    let (outbox, inbox) = lane(4);
    outbox.try_send(item.clone()).unwrap();
    outbox.try_send(item.clone()).unwrap();
    drop(inbox);
    assert!(outbox.try_send(item.clone()).is_err(), "the receiver is gone");
    drop(outbox);
    assert_eq!(std::sync::Arc::strong_count(&item), 1);
}

struct Count(AtomicU32);

impl std::task::Wake for Count {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_waiter_that_gives_up_hands_its_wake_up_on() {
    let (outbox, inbox) = lane(1);
    outbox.try_send(0).unwrap();
    let outbox = Rc::new(outbox);
    let first = std::sync::Arc::new(Count(AtomicU32::new(0)));
    let first_waker = Waker::from(first.clone());
    let mut waiting = Box::pin(outbox.send(1));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&first_waker)).is_pending());
    {
        let mut second = pin!(outbox.send(2));
        assert!(poll_once(second.as_mut()).is_pending());
        // The second one is the registered one now, and is dropped here without being served.
    }
    assert_eq!(first.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(inbox.try_recv(), Some(0));
    assert!(poll_once(waiting.as_mut()).is_ready());
}

#[test]
fn two_threads_exchange_everything_in_order() {
    let (outbox, inbox) = lane(8);
    let sender = std::thread::spawn(move || {
        for number in 0..100_000u32 {
            let mut item = number;
            while let Err(back) = outbox.try_send(item) {
                item = back;
                std::hint::spin_loop();
            }
        }
    });
    let mut expected = 0;
    while expected < 100_000 {
        if let Some(number) = inbox.try_recv() {
            assert_eq!(number, expected);
            expected += 1;
        }
    }
    sender.join().unwrap();
}

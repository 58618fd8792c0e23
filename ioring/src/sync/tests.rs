//! Events, slots and queues of one core: order, fairness, giving up.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::*;

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn an_event_wakes_all_who_wait_and_is_kept_once_for_who_comes_late() {
    let event = Event::new();
    event.notify();
    event.notify();
    assert!(poll(pin!(event.wait())).is_ready());
    let (mut first, mut second) = (pin!(event.wait()), pin!(event.wait()));
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    event.notify();
    assert!(poll(first).is_ready());
    assert!(poll(second).is_ready());
    assert!(poll(pin!(event.wait())).is_pending());
}

#[test]
fn a_waiter_that_gave_up_takes_no_notification_with_it() {
    let event = Event::new();
    let mut gone = Box::pin(event.wait());
    assert!(poll(gone.as_mut()).is_pending());
    drop(gone);
    event.notify();
    assert!(poll(pin!(event.wait())).is_ready(), "nobody had waited, so it was kept");
    let mut gone = Box::pin(event.wait());
    assert!(poll(gone.as_mut()).is_pending());
    event.notify();
    drop(gone);
    assert!(poll(pin!(event.wait())).is_ready(), "it was notified, but never acted");
}

#[test]
fn slots_are_handed_over_in_order() {
    let slots = Slots::new(1);
    let held = slots.try_acquire().unwrap();
    let (mut first, mut second) = (Box::pin(slots.acquire()), pin!(slots.acquire()));
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    drop(held);
    assert!(slots.try_acquire().is_none(), "the slot belongs to the first in line");
    assert!(poll(second.as_mut()).is_pending());
    let Poll::Ready(slot) = poll(first.as_mut()) else { panic!("it was called up") };
    drop(slot);
    assert!(poll(second.as_mut()).is_ready());
}

#[test]
fn a_waiter_that_was_called_up_and_gives_up_hands_its_slot_on() {
    let slots = Slots::new(1);
    let held = slots.try_acquire().unwrap();
    let (mut first, mut second) = (Box::pin(slots.acquire()), pin!(slots.acquire()));
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    drop(held);
    drop(first);
    let Poll::Ready(slot) = poll(second.as_mut()) else { panic!("the slot was handed on") };
    drop(slot);
    assert_eq!(slots.free(), 1);
}

#[test]
fn a_oneshot_gives_its_value_or_says_that_there_is_none() {
    let (sender, mut receiver) = oneshot::channel();
    assert!(poll(Pin::new(&mut receiver)).is_pending());
    sender.send(5).unwrap();
    assert_eq!(poll(Pin::new(&mut receiver)), Poll::Ready(Some(5)));
    let (sender, receiver) = oneshot::channel::<u8>();
    drop(sender);
    assert_eq!(poll(pin!(receiver)), Poll::Ready(None));
    let (sender, receiver) = oneshot::channel();
    drop(receiver);
    assert_eq!(sender.send(7), Err(7));
}

#[test]
fn a_queue_is_bounded_and_drains_after_it_is_closed() {
    let queue = Queue::new(2);
    queue.try_push(1).unwrap();
    queue.try_push(2).unwrap();
    assert_eq!(queue.try_push(3), Err(3));
    let mut waiting = pin!(queue.push(3));
    assert!(poll(waiting.as_mut()).is_pending());
    assert_eq!(poll(pin!(queue.pop())), Poll::Ready(Some(1)));
    assert!(poll(waiting).is_ready());
    queue.close();
    assert_eq!(queue.try_push(4), Err(4));
    assert_eq!((queue.try_pop(), queue.try_pop()), (Some(2), Some(3)));
    assert_eq!(poll(pin!(queue.pop())), Poll::Ready(None));
}

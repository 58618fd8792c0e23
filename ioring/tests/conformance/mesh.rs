//! Lanes between cores.

use std::time::Duration;

use ioring::{BufferPool, Frozen, Inbox, Outbox, lane, sleep, yield_now};

use crate::host::Host;

/// Runs one main for the sender and one for the receiver, each on a core of its own.
fn two_cores<T, S, R>(
    host: &impl Host,
    capacity: usize,
    sender: impl Fn(Outbox<T>) -> S + Clone + Send + 'static,
    receiver: impl Fn(Inbox<T>) -> R + Clone + Send + 'static,
) where
    T: Send + 'static,
    S: Future<Output = ()> + 'static,
    R: Future<Output = ()> + 'static,
{
    let (outbox, inbox) = lane(capacity);
    host.run(vec![(Some(outbox), None), (None, Some(inbox))], move |(outbox, inbox)| {
        let sending = outbox.map(&sender);
        let receiving = inbox.map(&receiver);
        async move {
            if let Some(sending) = sending {
                sending.await;
            }
            if let Some(receiving) = receiving {
                receiving.await;
            }
        }
    });
}

pub(crate) fn a_lane_keeps_order_and_wakes_both_ends(host: &impl Host) {
    two_cores(
        host,
        3,
        |outbox| async move {
            for number in 0..500 {
                outbox.send(number).await.unwrap();
                if number % 50 == 0 {
                    sleep(Duration::from_micros(200)).await;
                }
            }
        },
        |inbox| async move {
            for number in 0..500 {
                assert_eq!(inbox.recv().await, Some(number));
                if number % 70 == 0 {
                    sleep(Duration::from_micros(200)).await;
                }
            }
            assert_eq!(inbox.recv().await, None);
        },
    );
}

pub(crate) fn a_full_lane_refuses_and_waits(host: &impl Host) {
    two_cores(
        host,
        2,
        |outbox| async move {
            outbox.try_send(1).unwrap();
            outbox.try_send(2).unwrap();
            assert_eq!((outbox.free(), outbox.try_send(3)), (0, Err(3)));
            outbox.send(3).await.unwrap();
        },
        |inbox| async move {
            while inbox.len() < 2 {
                yield_now().await;
            }
            sleep(Duration::from_millis(5)).await;
            assert_eq!(inbox.len(), 2, "a full lane takes no more");
            for number in 1..=3 {
                assert_eq!(inbox.recv().await, Some(number));
            }
            assert_eq!(inbox.recv().await, None);
        },
    );
}

pub(crate) fn a_closed_lane_is_emptied_first(host: &impl Host) {
    two_cores(
        host,
        8,
        |outbox| async move {
            for number in 0..5 {
                outbox.try_send(number).unwrap();
            }
        },
        |inbox| async move {
            sleep(Duration::from_millis(5)).await;
            for number in 0..5 {
                assert_eq!(inbox.recv().await, Some(number));
            }
            assert_eq!((inbox.recv().await, inbox.recv().await), (None, None));
        },
    );
}

pub(crate) fn sending_to_nobody_gives_the_item_back(host: &impl Host) {
    two_cores(
        host,
        1,
        |outbox| async move {
            outbox.send(1).await.unwrap();
            // Waits, full, until the receiver goes.
            assert_eq!(outbox.send(2).await, Err(2));
            assert_eq!(outbox.try_send(3), Err(3));
            assert!(outbox.is_closed());
        },
        |inbox| async move {
            while inbox.is_empty() {
                yield_now().await;
            }
            sleep(Duration::from_millis(5)).await;
            drop(inbox);
        },
    );
}

pub(crate) fn many_items_are_received_at_once(host: &impl Host) {
    two_cores(
        host,
        64,
        |outbox| async move {
            for number in 0..200 {
                outbox.send(number).await.unwrap();
            }
        },
        |inbox| async move {
            let mut all = Vec::new();
            loop {
                let before = all.len();
                let count = inbox.recv_many(&mut all, 16).await;
                assert_eq!(all.len(), before + count);
                assert!(count <= 16);
                if count == 0 {
                    break;
                }
            }
            assert!(all.into_iter().eq(0..200));
        },
    );
}

pub(crate) fn buffers_return_to_their_pool_from_another_core(host: &impl Host) {
    two_cores::<Frozen, _, _>(
        host,
        4,
        |outbox| async move {
            let pool = BufferPool::new("travelling", 4096, 2);
            for number in 0..50u8 {
                // Waits for the other core to drop what it got.
                let mut buffer = pool.take().await;
                buffer.fill(number);
                let frozen = buffer.freeze();
                assert!(outbox.send(frozen.slice(0..100)).await.is_ok());
            }
            drop(outbox);
            drop((pool.take().await, pool.take().await));
        },
        |inbox| async move {
            let mut number = 0u8;
            while let Some(bytes) = inbox.recv().await {
                assert!(bytes.len() == 100 && bytes.iter().all(|byte| *byte == number));
                number += 1;
            }
            assert_eq!(number, 50);
        },
    );
}

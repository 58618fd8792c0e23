//! Loom tries every interleaving of a sender and a receiver on a lane of one slot, so that both full
//! and empty happen, and reports a wake-up that got lost as a deadlock.

use loom::future::block_on;

use super::*;

#[test]
fn everything_arrives_in_order_and_nobody_sleeps_for_ever() {
    loom::model(|| {
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
    loom::model(|| {
        let (outbox, inbox) = lane::<Box<u32>>(1);
        let receiver = loom::thread::spawn(move || drop(inbox));
        block_on(async {
            let _ = outbox.send(Box::new(1)).await;
            while outbox.send(Box::new(2)).await.is_ok() {}
        });
        receiver.join().unwrap();
    });
}

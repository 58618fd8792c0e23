//! The journal on a real ring and on a simulated disk.

mod crash;
mod faults;
pub(crate) mod support;

use super::*;
use support::*;

#[test]
fn what_was_appended_is_there_after_a_clean_stop_and_a_kill() {
    for clean in [true, false] {
        on_ring(move |path| async move {
            make(&path).await;
            let mut log = TestLog::open(&path).await.unwrap();
            for size in [0, 100, 5000, 7_900] {
                log.append(size).await;
            }
            log.stop(clean).await;
            let mut log = TestLog::open(&path).await.unwrap();
            assert_eq!(log.recovered.head, Op(4));
            log.check().await;
            log.append(77).await;
            log.stop(clean).await;
            let log = TestLog::open(&path).await.unwrap();
            assert_eq!(log.recovered.head, Op(5));
            log.check().await;
            log.stop(clean).await;
        });
    }
}

#[test]
fn the_ring_wraps_and_writes_live_frames_again() {
    on_ring(move |path| async move {
        make(&path).await;
        let mut log = TestLog::open(&path).await.unwrap();
        for round in 0..200_u64 {
            log.append((round as usize * 977) % 7_900).await;
            // One old op stays live for long: its segment must be freed by writing it again.
            if round % 10 == 9 {
                log.checkpoint(Op(round - 8)).await;
            }
        }
        log.check().await;
        log.stop(true).await;
        let log = TestLog::open(&path).await.unwrap();
        assert_eq!(log.recovered.head, Op(200));
        assert_eq!(log.recovered.forgotten, 0);
        log.check().await;
    });
}

//! The journal on a real ring and on a simulated disk.

mod crash;
mod faults;
mod member;
mod model;
pub(crate) mod support;

use std::path::Path;

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

/// A journal of 64 MiB, full: recovery reads all of it in large pieces and ahead of itself. Prints
/// how long that took; asserts only that it found everything.
#[test]
fn a_full_journal_is_scanned_whole() {
    on_ring(|path| async move {
        let mut options = format_options();
        options.configuration.prepare_size_max = 256 << 10;
        options.configuration = options.configuration.with_journal_size(64 << 20);
        let grid = async |_, _: &Path, _: &_| Ok(());
        crate::format::format(&path, &options, grid, |_, _| ()).await.unwrap();
        let mut log = TestLog::open(&path).await.unwrap();
        while log.journal.budget().0 + (300 << 10) < log.journal.budget().1 {
            log.append(250_000).await;
        }
        let head = log.head;
        log.stop(false).await;
        let before = ioring::now();
        let log = TestLog::open(&path).await.unwrap();
        println!("recovered {head} ops of 64 MiB in {:?}", ioring::now() - before);
        assert_eq!(log.recovered.head, head);
        assert_eq!(log.recovered.bad.len(), 0);
    });
}

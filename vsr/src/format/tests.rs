//! Formatting and opening on a real file system; crashes are in `crate::journal::tests`.

use std::io;
use std::path::{Path, PathBuf};

use wire::{ClusterId, ReplicaId};

use super::*;
use crate::journal::tests::support::{format_options, make, on_ring, open_options};
use crate::superblock::{COPIES, COPY_SIZE, QuorumError};

async fn refusal(dir: &Path, options: &OpenOptions) -> OpenError {
    match DataDirectory::open(dir, options).await {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

/// Changes bytes of the journal file behind everybody's back.
fn tamper(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let path = dir.join(JOURNAL);
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
}

fn beside(dir: &Path) -> PathBuf {
    dir.with_file_name("replica.formatting")
}

#[test]
fn a_formatted_directory_opens_and_is_complete() {
    on_ring(|dir| async move {
        // Parents are made, an empty directory at the target is replaced.
        let dir = dir.join("a/b");
        std::fs::create_dir_all(&dir).unwrap();
        make(&dir).await;
        let mut names: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["LOCK", "journal", "shard-0000.grid"]);
        let opened = DataDirectory::open(&dir, &open_options()).await.unwrap();
        assert_eq!(opened.report.decision.damaged, 0);
        let state = opened.superblock.state();
        assert_eq!(state.configuration, format_options().configuration);
        assert_eq!(opened.journal.len().unwrap(), state.configuration.journal_file_size());
    });
}

#[test]
fn incarnations_differ() {
    on_ring(|dir| async move {
        make(&dir.join("a")).await;
        make(&dir.join("b")).await;
        let mut identities = Vec::new();
        for name in ["a", "b"] {
            let opened = DataDirectory::open(&dir.join(name), &open_options()).await.unwrap();
            identities.push(opened.superblock.state().identity.incarnation);
        }
        assert_ne!(identities[0], identities[1]);
    });
}

#[test]
fn an_occupied_target_is_refused_and_untouched() {
    on_ring(|dir| async move {
        let grid = async |_, _: &Path, _: &_| Ok(());
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("precious"), b"data").unwrap();
        let error = format(&dir, &format_options(), grid, |_, _| ()).await.unwrap_err();
        assert!(matches!(&error, FormatError::NotEmpty(path) if *path == dir), "{error}");
        assert_eq!(std::fs::read(dir.join("precious")).unwrap(), b"data");
        let file = dir.join("precious");
        let error = format(&file, &format_options(), grid, |_, _| ()).await.unwrap_err();
        assert!(matches!(error, FormatError::NotEmpty(_)), "{error}");
    });
}

#[test]
fn a_format_that_fails_leaves_nothing_and_can_be_repeated() {
    on_ring(|dir| async move {
        let fail = async |_, _: &Path, _: &_| Err(io::Error::other("no grid today"));
        let error = format(&dir, &format_options(), fail, |_, _| ()).await.unwrap_err();
        assert!(error.to_string().contains("shard-0000.grid"), "{error}");
        assert!(!dir.exists() && !beside(&dir).exists());
        make(&dir).await;
        assert!(!beside(&dir).exists());
    });
}

#[test]
fn two_formats_of_one_target_do_not_meet() {
    on_ring(|dir| async move {
        let second = async |_, _: &Path, _: &_| {
            let grid = async |_, _: &Path, _: &_| Ok(());
            let error = format(&dir, &format_options(), grid, |_, _| ()).await.unwrap_err();
            assert!(matches!(error, FormatError::Busy(_)), "{error}");
            Ok(())
        };
        format(&dir, &format_options(), second, |_, _| ()).await.unwrap();
    });
}

#[test]
fn bad_values_are_refused_before_anything_is_written() {
    on_ring(|dir| async move {
        let grid = async |_, _: &Path, _: &_| Ok(());
        let mut options = format_options();
        options.replica = ReplicaId(1);
        let error = format(&dir, &options, grid, |_, _| ()).await.unwrap_err();
        assert!(matches!(error, FormatError::Replica { replica: 1, replica_count: 1 }));
        options.configuration.shard_count = 0;
        let error = format(&dir, &options, grid, |_, _| ()).await.unwrap_err();
        assert!(error.to_string().contains("shard_count"), "{error}");
        assert!(!dir.exists() && !beside(&dir).exists());
    });
}

#[test]
fn progress_is_reported_to_the_end() {
    on_ring(|dir| async move {
        let grid = async |_, _: &Path, _: &_| Ok(());
        let mut seen = Vec::new();
        let progress = |done, all| seen.push((done, all));
        format(&dir, &format_options(), grid, progress).await.unwrap();
        let size = format_options().configuration.journal_file_size();
        assert_eq!(seen.last(), Some(&(size, size)));
        assert!(seen.is_sorted());
    });
}

#[test]
fn what_is_not_expected_is_refused_by_name_and_untouched() {
    on_ring(|dir| async move {
        let missing = refusal(&dir, &open_options()).await;
        assert!(matches!(missing, OpenError::NotFormatted(_)));
        make(&dir).await;
        // A damaged copy must not be repaired on behalf of somebody who is refused.
        tamper(&dir, |bytes| bytes[3 * COPY_SIZE + 700] ^= 1);
        let before = std::fs::read(dir.join(JOURNAL)).unwrap();
        let expect = |expected: Expected| OpenOptions { expected, ..open_options() };
        let cases = [
            (Expected { cluster: Some(ClusterId(8)), ..Expected::default() }, "cluster = 7, and 8"),
            (Expected { replica: Some(ReplicaId(2)), ..Expected::default() }, "replica = 0, and 2"),
            (
                Expected { values: vec![("shard_count", 3)], ..Expected::default() },
                "shard_count = 1, and 3",
            ),
        ];
        for (expected, text) in cases {
            let error = refusal(&dir, &expect(expected)).await;
            assert!(matches!(error, OpenError::Differs { .. }));
            assert!(error.to_string().contains(text), "{error}");
        }
        assert!(before == std::fs::read(dir.join(JOURNAL)).unwrap());
        let right = Expected {
            cluster: Some(ClusterId(7)),
            replica: Some(ReplicaId(0)),
            values: vec![("shard_count", 1)],
        };
        DataDirectory::open(&dir, &expect(right)).await.unwrap();
    });
}

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    on_ring(|dir| async move {
        make(&dir).await;
        let first = DataDirectory::open(&dir, &open_options()).await.unwrap();
        let impatient = std::time::Duration::from_millis(100);
        let options = open_options();
        let second = DataDirectory::open(&dir, &options);
        assert!(ioring::timeout(impatient, second).await.is_err(), "it waits for the lock");
        let second = ioring::spawn(ioring::Queue::Foreground, "second", {
            let (dir, options) = (dir.clone(), open_options());
            async move { DataDirectory::open(&dir, &options).await.is_ok() }
        });
        ioring::sleep(impatient).await;
        drop(first);
        assert!(second.await, "the lock became free within its patience");
    });
}

#[test]
fn a_journal_of_another_length_is_refused() {
    on_ring(|dir| async move {
        make(&dir).await;
        tamper(&dir, |bytes| bytes.truncate(bytes.len() - 4096));
        let error = refusal(&dir, &open_options()).await;
        assert!(matches!(error, OpenError::Length { .. }), "{error}");
    });
}

#[test]
fn another_format_is_refused_by_name() {
    on_ring(|dir| async move {
        make(&dir).await;
        tamper(&dir, |bytes| {
            for copy in bytes[..COPIES * COPY_SIZE].chunks_exact_mut(COPY_SIZE) {
                copy[32] = 9;
                let sum = wire::checksum(&copy[32..]);
                copy[..16].copy_from_slice(&sum.0.to_le_bytes());
            }
        });
        let error = refusal(&dir, &open_options()).await;
        let OpenError::SuperBlock { source, .. } = error else { panic!("{error}") };
        assert_eq!(source, QuorumError::OtherFormat { found: 9 });
    });
}

#[test]
fn any_three_damaged_copies_are_survived_and_repaired() {
    on_ring(|dir| async move {
        make(&dir).await;
        let whole = std::fs::read(dir.join(JOURNAL)).unwrap();
        for mask in 0..256_u32 {
            let count = mask.count_ones();
            if !(1..=4).contains(&count) {
                continue;
            }
            tamper(&dir, |bytes| {
                for slot in (0..COPIES).filter(|slot| mask >> slot & 1 == 1) {
                    bytes[slot * COPY_SIZE + (mask as usize * 61) % COPY_SIZE] ^= 0x10;
                }
            });
            let report = inspect::inspect(&dir, false).await.unwrap();
            let seen = report.readings.copies.iter().filter(|copy| copy.is_err()).count();
            assert_eq!(seen, count as usize);
            let opened = DataDirectory::open(&dir, &open_options()).await;
            if count <= 3 || mask == 0x0f || mask == 0xf0 {
                opened.unwrap();
                assert!(std::fs::read(dir.join(JOURNAL)).unwrap() == whole, "{mask:08b}");
            } else {
                assert!(matches!(opened, Err(OpenError::SuperBlock { .. })), "{mask:08b}");
            }
            std::fs::write(dir.join(JOURNAL), &whole).unwrap();
        }
    });
}

#[test]
fn inspect_reads_what_is_damaged_and_writes_nothing() {
    on_ring(|dir| async move {
        make(&dir).await;
        let report = inspect::inspect(&dir, true).await.unwrap();
        assert!(!report.is_damaged());
        assert_eq!(report.journal.unwrap().head, Some(wire::Op(0)));
        tamper(&dir, |bytes| bytes[..5 * COPY_SIZE].fill(0x55));
        let before = std::fs::read(dir.join(JOURNAL)).unwrap();
        let report = inspect::inspect(&dir, true).await.unwrap();
        assert!(report.is_damaged());
        assert_eq!(report.decision, Err(QuorumError::NoQuorum { damaged: 5 }));
        assert!(report.state.is_some() && report.journal.is_some());
        assert!(before == std::fs::read(dir.join(JOURNAL)).unwrap());
        assert!(inspect::constants().iter().any(|(name, value)| *name == "format" && *value == 1));
    });
}

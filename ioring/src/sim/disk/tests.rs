//! The disk model is trusted only as far as it was seen to catch mistakes: the sample log below is
//! correct, and each way of breaking it must be found.

use std::collections::BTreeSet;

use super::*;
use crate::sim::trace::crash_states;
use proptest::prelude::*;

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(DiskConfig::default(), seed)
}

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn write(disk: &mut SimDisk, file: Inode, offset: u64, data: &[u8], durable: bool) {
    let started = disk.write_start(file, offset, data).unwrap();
    disk.write_end(&started, durable).unwrap();
}

fn sync(disk: &mut SimDisk, file: Inode) {
    let sync = disk.sync_start(file);
    disk.sync_end(file, sync).unwrap();
}

fn lose_all(disk: &mut SimDisk) {
    disk.crash(&mut |_| false);
}

/// A log of 1 KiB records (two sectors), each filled with its number. The flags leave out what a
/// hasty author would forget.
#[derive(Clone, Copy)]
struct SampleLog {
    syncs_data: bool,
    syncs_directory: bool,
    checks_records: bool,
}

const RECORD: usize = 1024;

impl SampleLog {
    const RIGHT: SampleLog =
        SampleLog { syncs_data: true, syncs_directory: true, checks_records: true };

    /// Writes `count` records, noting each as acknowledged once the log says that it is durable.
    fn run(self, disk: &mut SimDisk, count: u64) {
        let file = disk.open(path("log.new"), true, true).unwrap();
        write(disk, file, 0, &[0; RECORD], false);
        if self.syncs_data {
            sync(disk, file);
        }
        disk.rename(path("log.new"), path("log")).unwrap();
        if self.syncs_directory {
            disk.sync_dir(path("/")).unwrap();
        }
        for number in 1..=count {
            write(disk, file, number * RECORD as u64, &[number as u8; RECORD], false);
            if self.syncs_data {
                sync(disk, file);
            }
            disk.note(number);
        }
    }

    /// The highest record found, or what is wrong.
    fn recover(self, disk: &SimDisk) -> Result<u64, String> {
        let bytes = match disk.contents(path("log")) {
            Ok(bytes) => bytes,
            Err(error) => return Err(format!("no log: {error}")),
        };
        let mut last = 0;
        for (number, record) in (0u64..).zip(bytes.chunks(RECORD)) {
            let whole = record.len() == RECORD && record.iter().all(|b| *b == number as u8);
            if !whole && self.checks_records {
                break;
            }
            if record[0] == number as u8 && number > 0 {
                last = number;
                if !whole {
                    return Err(format!("record {number} is torn"));
                }
            }
        }
        Ok(last)
    }

    /// Every violation over the crash states of a recorded run.
    fn violations(self, limit: usize) -> usize {
        let mut disk = disk(1);
        disk.record();
        self.run(&mut disk, 4);
        let trace = disk.take_trace().unwrap();
        let mut found = 0;
        for state in crash_states(&trace, limit, 3) {
            let promised = state.notes.last().copied().unwrap_or(0);
            found += match self.recover(&state.disk) {
                Ok(last) => usize::from(last < promised || last > promised + 1),
                Err(_) => usize::from(promised > 0 || state.disk.metadata(path("log")).is_ok()),
            };
        }
        found
    }
}

#[test]
fn a_right_log_survives_every_crash_state() {
    assert_eq!(SampleLog::RIGHT.violations(4000), 0);
}

#[test]
fn a_missing_sync_is_caught() {
    assert!(SampleLog { syncs_data: false, ..SampleLog::RIGHT }.violations(4000) > 0);
}

#[test]
fn a_missing_sync_of_the_directory_is_caught() {
    assert!(SampleLog { syncs_directory: false, ..SampleLog::RIGHT }.violations(4000) > 0);
}

#[test]
fn trusting_a_torn_record_is_caught() {
    assert!(SampleLog { checks_records: false, ..SampleLog::RIGHT }.violations(4000) > 0);
}

#[test]
fn seeded_power_losses_catch_a_missing_sync_too() {
    let caught = |log: SampleLog| {
        (0..200).any(|seed| {
            let mut disk = disk(seed);
            log.run(&mut disk, 3);
            disk.power_loss();
            log.recover(&disk) != Ok(3)
        })
    };
    assert!(!caught(SampleLog::RIGHT));
    assert!(caught(SampleLog { syncs_data: false, ..SampleLog::RIGHT }));
    assert!(caught(SampleLog { syncs_directory: false, ..SampleLog::RIGHT }));
}

#[test]
fn a_disk_that_lies_about_syncs_loses_what_was_acknowledged() {
    let mut disk = disk(1);
    disk.ignore_syncs(true);
    SampleLog::RIGHT.run(&mut disk, 3);
    lose_all(&mut disk);
    assert!(SampleLog::RIGHT.recover(&disk).is_err());
}

#[test]
fn a_crash_keeps_lost_kept_and_torn_writes() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let mut disk = disk(seed);
        let file = disk.open(path("f"), true, true).unwrap();
        write(&mut disk, file, 0, &[1; 2048], true);
        disk.sync_dir(path("/")).unwrap();
        write(&mut disk, file, 0, &[2; 2048], false);
        disk.power_loss();
        let bytes = disk.contents(path("f")).unwrap();
        let sectors: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
        assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        seen.insert(sectors);
    }
    assert!(seen.contains(&vec![1; 4]) && seen.contains(&vec![2; 4]));
    assert!(seen.len() >= 8, "too few torn states: {seen:?}");
}

#[test]
fn a_sync_does_not_cover_a_write_in_flight() {
    let mut disk = disk(1);
    let file = disk.open(path("f"), true, true).unwrap();
    disk.sync_dir(path("/")).unwrap();
    write(&mut disk, file, 0, &[1; 512], false);
    let in_flight = disk.write_start(file, 512, &[2; 512]).unwrap();
    sync(&mut disk, file);
    disk.write_end(&in_flight, false).unwrap();
    lose_all(&mut disk);
    assert_eq!(disk.contents(path("f")).unwrap(), [1; 512]);
}

#[test]
fn a_sync_issued_before_a_write_ended_does_not_cover_it_when_it_completes_later() {
    let mut disk = disk(1);
    let file = disk.open(path("f"), true, true).unwrap();
    disk.sync_dir(path("/")).unwrap();
    let in_flight = disk.write_start(file, 0, &[2; 512]).unwrap();
    let early = disk.sync_start(file);
    disk.write_end(&in_flight, false).unwrap();
    disk.sync_end(file, early).unwrap();
    lose_all(&mut disk);
    assert_eq!(disk.contents(path("f")).unwrap(), []);
}

#[test]
fn a_durable_write_covers_itself_alone_and_is_not_undone_by_older_ones() {
    for seed in 0..50 {
        let mut disk = disk(seed);
        let file = disk.open(path("f"), true, true).unwrap();
        disk.sync_dir(path("/")).unwrap();
        write(&mut disk, file, 0, &[1; 1024], false);
        write(&mut disk, file, 512, &[2; 512], true);
        disk.power_loss();
        let bytes = disk.contents(path("f")).unwrap();
        assert_eq!(bytes.len(), 1024);
        assert_eq!(bytes[512..], [2; 512]);
        assert!(bytes[..512] == [1; 512] || bytes[..512] == [0; 512]);
    }
}

#[test]
fn a_failed_sync_is_not_healed_by_a_later_one() {
    let mut disk = disk(1);
    let file = disk.open(path("f"), true, true).unwrap();
    disk.sync_dir(path("/")).unwrap();
    write(&mut disk, file, 0, &[1; 512], false);
    disk.inject_sync_error(path("f")).unwrap();
    let first = disk.sync_start(file);
    assert!(disk.sync_end(file, first).is_err());
    sync(&mut disk, file);
    lose_all(&mut disk);
    assert_eq!(disk.contents(path("f")).unwrap(), []);
}

#[test]
fn a_killed_process_loses_nothing_that_was_accepted() {
    let mut disk = disk(1);
    let file = disk.open(path("f"), true, true).unwrap();
    let _in_flight = disk.write_start(file, 0, &[1; 512]).unwrap();
    assert!(disk.try_lock(file, 7) && !disk.try_lock(file, 8));
    disk.process_end();
    assert!(disk.try_lock(file, 8), "a lock dies with its process");
    assert_eq!(disk.contents(path("f")).unwrap(), [1; 512]);
}

#[test]
fn names_are_durable_only_after_their_directory_was_synced() {
    let mut disk = disk(1);
    disk.create_dir(path("d")).unwrap();
    disk.sync_dir(path("/")).unwrap();
    disk.open(path("d/old"), true, true).unwrap();
    disk.sync_dir(path("d")).unwrap();
    disk.open(path("d/new"), true, true).unwrap();
    disk.remove_file(path("d/old")).unwrap();
    let mut lost = disk.clone();
    lose_all(&mut lost);
    assert_eq!(lost.read_dir(path("d")).unwrap(), [path("d/old")]);
    disk.sync_dir(path("d")).unwrap();
    lose_all(&mut disk);
    assert_eq!(disk.read_dir(path("d")).unwrap(), [path("d/new")]);
}

#[test]
fn a_rename_is_atomic_in_every_crash_state() {
    let mut disk = disk(1);
    for (name, fill) in [("a", 1), ("b", 2)] {
        let file = disk.open(path(name), true, true).unwrap();
        write(&mut disk, file, 0, &[fill; 512], true);
    }
    disk.settle();
    disk.record();
    disk.rename(path("a"), path("b")).unwrap();
    let trace = disk.take_trace().unwrap();
    for state in crash_states(&trace, 100, 1) {
        let b = state.disk.contents(path("b")).expect("the target always exists");
        assert_eq!(b[0], if state.disk.metadata(path("a")).is_ok() { 2 } else { 1 });
    }
}

#[test]
fn a_moved_file_does_not_come_back_under_its_old_name() {
    for seed in 0..50 {
        let mut disk = disk(seed);
        disk.create_dir(path("from")).unwrap();
        disk.create_dir(path("to")).unwrap();
        disk.sync_dir(path("/")).unwrap();
        disk.open(path("from/f"), true, true).unwrap();
        disk.rename(path("from/f"), path("to/f")).unwrap();
        disk.sync_dir(path("to")).unwrap();
        disk.power_loss();
        assert!(disk.metadata(path("to/f")).is_ok());
        assert!(disk.metadata(path("from/f")).is_err());
    }
}

#[test]
fn removing_a_tree_and_unknown_paths_answer_as_a_kernel_does() {
    let mut disk = disk(1);
    disk.create_dir(path("d")).unwrap();
    disk.create_dir(path("d/e")).unwrap();
    disk.open(path("d/e/f"), true, true).unwrap();
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(disk.create_dir(path("d"))), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.create_dir(path("x/y"))), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.remove_file(path("d"))), io::ErrorKind::IsADirectory);
    assert_eq!(kind(disk.create_dir(path("d/e/f/g"))), io::ErrorKind::NotADirectory);
    assert_eq!(kind(disk.rename(path("nothing"), path("x"))), io::ErrorKind::NotFound);
    disk.remove_dir_all(path("d")).unwrap();
    assert_eq!(disk.read_dir(path("/")).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn injected_faults_do_what_they_say() {
    let mut disk = disk(5);
    let file = disk.open(path("f"), true, true).unwrap();
    write(&mut disk, file, 0, &[1; 4096], false);
    let mut bytes = [0; 1024];

    disk.inject_write(path("f"), WriteFault::Lost).unwrap();
    write(&mut disk, file, 0, &[9; 1024], true);
    disk.read(file, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [1; 1024]);

    disk.inject_write(path("f"), WriteFault::Error).unwrap();
    let started = disk.write_start(file, 0, &[1; 1024]).unwrap();
    assert_eq!(disk.write_end(&started, true).unwrap_err().raw_os_error(), Some(libc::EIO));

    disk.inject_write(path("f"), WriteFault::Misdirected).unwrap();
    write(&mut disk, file, 0, &[7; 1024], true);
    let all = disk.contents(path("f")).unwrap();
    assert_eq!(all[..1024], [1; 1024]);
    assert_eq!(all.iter().filter(|byte| **byte == 7).count(), 1024);

    disk.inject_read(path("f"), ReadFault::Error).unwrap();
    for _ in 0..2 {
        assert_eq!(disk.read(file, 0, &mut bytes).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    write(&mut disk, file, 0, &[1; 1024], false);
    disk.read(file, 0, &mut bytes).expect("rewritten sectors are readable");

    disk.inject_read(path("f"), ReadFault::Rot).unwrap();
    for _ in 0..2 {
        disk.read(file, 0, &mut bytes).unwrap();
        assert_eq!(bytes.iter().map(|byte| (byte ^ 1).count_ones()).sum::<u32>(), 1);
    }
    let counts = disk.fault_counts();
    assert_eq!((counts.lost_writes, counts.write_errors, counts.misdirected_writes), (1, 1, 1));
    assert_eq!((counts.read_errors, counts.rotten_bits), (1, 1));
}

#[test]
fn a_plan_is_bounded_by_its_count_and_its_names() {
    let plan = FaultPlan {
        lost_write: 1_000_000,
        faults_max: 3,
        only: Some("grid".into()),
        ..FaultPlan::default()
    };
    let mut disk = SimDisk::new(DiskConfig { faults: plan, ..DiskConfig::default() }, 1);
    for name in ["journal", "shard.grid"] {
        let file = disk.open(path(name), true, true).unwrap();
        for _ in 0..5 {
            write(&mut disk, file, 0, &[1; 512], true);
        }
    }
    assert_eq!(disk.fault_counts().lost_writes, 3);
}

#[test]
fn a_full_disk_refuses_growth_and_nothing_else() {
    let mut disk = SimDisk::new(DiskConfig { capacity: 1024, ..DiskConfig::default() }, 1);
    let file = disk.open(path("f"), true, true).unwrap();
    write(&mut disk, file, 0, &[1; 1024], true);
    let error = disk.write_start(file, 1024, &[1; 512]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    write(&mut disk, file, 512, &[2; 512], true);
    disk.remove_file(path("f")).unwrap();
    assert_eq!(disk.used(), 0, "space of removed files comes back");
}

#[test]
fn a_disk_is_exported_to_a_real_directory() {
    let mut disk = disk(1);
    disk.create_dir(path("d")).unwrap();
    let file = disk.open(path("d/f"), true, true).unwrap();
    write(&mut disk, file, 5000, b"end", false);
    let folder = tempfile::tempdir().unwrap();
    disk.export(folder.path()).unwrap();
    let bytes = std::fs::read(folder.path().join("d/f")).unwrap();
    assert!(bytes == disk.contents(path("d/f")).unwrap() && bytes.ends_with(b"\0end"));
}

proptest! {
    /// Without a crash a file is a vector of bytes; after one, bytes that a sync covered are as
    /// they were, and every other sector is one of the versions that it had.
    #[test]
    fn a_crash_leaves_one_of_each_sectors_versions(
        steps in prop::collection::vec((0u64..12, 1u64..6, 0u8..4), 1..24), seed: u64,
    ) {
        const SECTORS: usize = 20;
        let mut disk = disk(seed);
        let file = disk.open(path("f"), true, true).unwrap();
        disk.sync_dir(path("/")).unwrap();
        let started = disk.change_start(file, Change::SetLength(SECTORS as u64 * 512)).unwrap();
        disk.write_end(&started, true).unwrap();
        let mut versions = vec![vec![0u8]; SECTORS];
        for (step, (first, count, kind)) in steps.into_iter().enumerate() {
            let fill = step as u8 + 1;
            let range = first as usize..(first + count) as usize;
            match kind {
                0 => {
                    sync(&mut disk, file);
                    versions.iter_mut().for_each(|v| *v = vec![*v.last().unwrap()]);
                }
                1 => {
                    write(&mut disk, file, first * 512, &vec![fill; count as usize * 512], true);
                    versions[range].iter_mut().for_each(|v| *v = vec![fill]);
                }
                _ => {
                    write(&mut disk, file, first * 512, &vec![fill; count as usize * 512], false);
                    versions[range].iter_mut().for_each(|v| v.push(fill));
                }
            }
        }
        let seen = disk.contents(path("f")).unwrap();
        for (sector, versions) in seen.chunks(512).zip(&versions) {
            prop_assert_eq!(sector[0], *versions.last().unwrap());
        }
        disk.power_loss();
        let seen = disk.contents(path("f")).unwrap();
        for (sector, versions) in seen.chunks(512).zip(&versions) {
            prop_assert!(versions.contains(&sector[0]));
        }
        prop_assert!(disk.is_settled());
    }
}

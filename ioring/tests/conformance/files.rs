//! Files: what is written is read, what is refused is named, buffers always come back.

use std::cell::Cell;
use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;

use ioring::{
    Buffer, BufferPool, Direct, Either, File, Frozen, OpenOptions, Queue, fs, join_all, select,
    spawn, yield_now,
};

use crate::host::{Host, skip};

fn options(direct: Direct) -> OpenOptions {
    OpenOptions { read: true, write: true, create: true, direct, ..OpenOptions::default() }
}

fn open(directory: &Path, direct: Direct) -> File {
    File::open(&directory.join("file"), &options(direct)).unwrap()
}

/// Bytes that differ from sector to sector.
fn pattern(length: usize, salt: usize) -> Frozen {
    let mut buffer = Buffer::zeroed(length);
    for (index, byte) in buffer.iter_mut().enumerate() {
        *byte = (index / 512 * 7 + index + salt) as u8;
    }
    buffer.freeze()
}

async fn read(file: &File, offset: u64, length: usize) -> Buffer {
    let (result, buffer) = file.read(Buffer::zeroed(length), offset).await;
    result.unwrap();
    buffer
}

pub(crate) fn what_was_written_is_read_back(host: &impl Host) {
    host.run_one(|directory| async move {
        for direct in [Direct::Preferred, Direct::Off] {
            let file = open(&directory, direct);
            for (number, length) in [4096, 64 << 10, 1 << 20].into_iter().enumerate() {
                let offset = (number << 20) as u64;
                let data = pattern(length, number);
                if number % 2 == 0 {
                    file.write(data.clone(), offset).await.unwrap();
                } else {
                    file.write_durable(data.clone(), offset).await.unwrap();
                }
                assert!(read(&file, offset, length).await[..] == data[..]);
            }
            let part = pattern(16384, 3).slice(4096..12288);
            file.write(part.clone(), 8192).await.unwrap();
            file.sync().await.unwrap();
            assert!(read(&file, 8192, 8192).await[..] == part[..]);
            assert_eq!(file.len().unwrap(), 3 << 20);
        }
    });
}

pub(crate) fn reading_beyond_the_end_is_an_error(host: &impl Host) {
    host.run_one(|directory| async move {
        let file = open(&directory, Direct::Preferred);
        file.write(pattern(8192, 0), 0).await.unwrap();
        for offset in [4096, 8192, 1 << 30] {
            let (result, buffer) = file.read(Buffer::zeroed(8192), offset).await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::UnexpectedEof);
            assert_eq!(buffer.len(), 8192);
        }
    });
}

pub(crate) fn buffered_files_take_any_offset_and_length(host: &impl Host) {
    host.run_one(|directory| async move {
        let file = open(&directory, Direct::Off);
        assert!(!file.is_direct() && file.is_empty().unwrap());
        file.write(pattern(1000, 1), 3).await.unwrap();
        file.write_durable(pattern(10, 2), 500).await.unwrap();
        assert_eq!(file.len().unwrap(), 1003);
        let bytes = read(&file, 0, 1003).await;
        assert_eq!(bytes[..3], [0; 3]);
        assert_eq!(bytes[3..500], pattern(1000, 1)[..497]);
        assert_eq!(bytes[500..510], pattern(10, 2)[..]);
        assert_eq!(bytes[510..], pattern(1000, 1)[507..]);
    });
}

pub(crate) fn direct_files_refuse_what_is_not_aligned(host: &impl Host) {
    host.run_one(|directory| async move {
        let file = open(&directory, Direct::Preferred);
        if !file.is_direct() {
            return skip("direct_files_refuse_what_is_not_aligned", "no direct I/O here");
        }
        file.write(pattern(8192, 0), 0).await.unwrap();
        for (length, offset) in [(4096, 7), (100, 0)] {
            let refused = file.write(pattern(length, 0), offset).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        }
        let (refused, buffer) = file.read(Buffer::zeroed(4096), 7).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
        let (result, _) = file.read(buffer, 4096).await;
        result.unwrap();
    });
}

pub(crate) fn wrong_modes_and_paths_are_named(host: &impl Host) {
    host.run_one(|directory| async move {
        let path = directory.join("file");
        let missing = File::open(&path, &OpenOptions { read: true, ..OpenOptions::default() });
        let missing = missing.unwrap_err();
        assert_eq!(missing.source.kind(), ErrorKind::NotFound);
        assert!(missing.to_string().contains("file"), "{missing}");
        let new = OpenOptions { create_new: true, ..options(Direct::Off) };
        let file = File::open(&path, &new).unwrap();
        file.write(pattern(512, 0), 0).await.unwrap();
        let again = File::open(&path, &new).unwrap_err();
        assert_eq!(again.source.kind(), ErrorKind::AlreadyExists);
        let reader = OpenOptions { read: true, ..OpenOptions::default() };
        let reader = File::open(&path, &reader).unwrap();
        let refused = reader.write(pattern(512, 0), 0).await.unwrap_err();
        assert!(refused.to_string().contains("file"), "{refused}");
        let writer = OpenOptions { write: true, ..OpenOptions::default() };
        let writer = File::open(&path, &writer).unwrap();
        assert!(writer.read(Buffer::zeroed(512), 0).await.0.is_err());
        let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
        assert_eq!(kind(fs::remove_file(&directory.join("none"))), ErrorKind::NotFound);
        assert_eq!(kind(fs::rename(&directory.join("none"), &path)), ErrorKind::NotFound);
        assert_eq!(kind(fs::create_dir(&directory.join("no/where"))), ErrorKind::NotFound);
        assert_eq!(kind(fs::create_dir(&path)), ErrorKind::AlreadyExists);
    });
}

pub(crate) fn space_is_allocated_discarded_and_cut(host: &impl Host) {
    host.run_one(|directory| async move {
        let file = open(&directory, Direct::Preferred);
        file.allocate(0, 1 << 20).await.unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        assert!(read(&file, 65536, 8192).await.iter().all(|byte| *byte == 0));
        file.write(pattern(65536, 1), 0).await.unwrap();
        match file.discard(16384, 16384).await {
            Ok(()) => {
                let bytes = read(&file, 0, 65536).await;
                assert!(bytes[16384..32768].iter().all(|byte| *byte == 0));
                assert!(bytes[..16384] == pattern(65536, 1)[..16384]);
                assert!(bytes[32768..] == pattern(65536, 1)[32768..]);
            }
            Err(error) => skip("discarding", &error.to_string()),
        }
        file.set_len(8192).unwrap();
        file.set_len(16384).unwrap();
        assert_eq!(file.len().unwrap(), 16384);
        assert!(read(&file, 8192, 8192).await.iter().all(|byte| *byte == 0));
    });
}

pub(crate) fn a_rename_replaces_and_open_files_stay(host: &impl Host) {
    host.run_one(|directory| async move {
        let (new, old) = (directory.join("new"), directory.join("file"));
        fs::write_small(&old, b"old").unwrap();
        fs::write_small(&new, b"newer").unwrap();
        let opened = open(&directory, Direct::Off);
        fs::rename(&new, &old).unwrap();
        fs::sync_dir(&directory).unwrap();
        assert!(!fs::exists(&new));
        assert_eq!(fs::read_small(&old).unwrap(), b"newer");
        assert_eq!(read(&opened, 0, 3).await[..], b"old"[..]);
        fs::write_small(&old, b"x").unwrap();
        assert_eq!(fs::read_small(&old).unwrap(), b"x");
        assert_eq!(fs::metadata(&old).unwrap().length, 1);
    });
}

pub(crate) fn directories_are_listed_in_order_and_removed_whole(host: &impl Host) {
    host.run_one(|directory| async move {
        let folder = directory.join("folder");
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&folder.join("c")).unwrap();
        for name in ["b", "a", "c/d"] {
            fs::write_small(&folder.join(name), b"").unwrap();
        }
        let names = ["a", "b", "c"].map(|name| folder.join(name));
        assert_eq!(fs::read_dir(&folder).unwrap(), names);
        assert!(fs::metadata(&folder.join("c")).unwrap().is_dir);
        fs::remove_dir_all(&folder).unwrap();
        assert!(!fs::exists(&folder));
        assert_eq!(fs::read_dir(&folder).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

pub(crate) fn a_lock_excludes_until_its_file_is_closed(host: &impl Host) {
    host.run_one(|directory| async move {
        let first = open(&directory, Direct::Off);
        let second = open(&directory, Direct::Off);
        assert!(first.try_lock().unwrap());
        assert!(!second.try_lock().unwrap());
        assert!(first.try_lock().unwrap(), "the holder may ask again");
        drop(first);
        assert!(second.try_lock().unwrap());
    });
}

pub(crate) fn a_buffer_of_a_dropped_read_comes_back(host: &impl Host) {
    host.run_one(|directory| async move {
        let file = open(&directory, Direct::Preferred);
        file.write(pattern(65536, 0), 0).await.unwrap();
        let pool = BufferPool::new("one", 65536, 1);
        for _ in 0..20 {
            let buffer = pool.take().await;
            let ready_first = select(file.read(buffer, 0), yield_now()).await;
            if matches!(ready_first, Either::Second(())) {
                // The read goes on without us; its buffer is the driver's until it is done.
                let buffer = pool.take().await;
                assert_eq!(buffer.len(), 65536);
            }
        }
        assert_eq!(pool.available(), 1);
    });
}

pub(crate) fn a_dropped_write_keeps_its_bytes_until_it_is_done(host: &impl Host) {
    host.run_one(|directory| async move {
        let file = open(&directory, Direct::Preferred);
        file.write(Buffer::zeroed(65536).freeze(), 0).await.unwrap();
        let pool = BufferPool::new("one", 65536, 1);
        for salt in 1..10u8 {
            let mut buffer = pool.take().await;
            buffer.fill(salt);
            let _ = select(file.write(buffer.freeze(), 0), yield_now()).await;
            // Once the buffer is back the write has ended: it wrote its bytes or nothing, and never
            // what the buffer's next owner puts there.
            pool.take().await.fill(255);
            let bytes = read(&file, 0, 65536).await;
            assert!(!bytes.contains(&255), "bytes of the buffer's next owner");
        }
    });
}

pub(crate) fn more_operations_than_a_ring_holds(host: &impl Host) {
    host.run_one(|directory| async move {
        let file = open(&directory, Direct::Preferred);
        let writes = (0..100u64).map(|n| file.write(pattern(4096, n as usize), n * 4096));
        join_all(writes).await.into_iter().for_each(|result| result.unwrap());
        let reads = (0..100u64).map(|n| file.read(Buffer::zeroed(4096), n * 4096));
        for (n, (result, buffer)) in join_all(reads).await.into_iter().enumerate() {
            result.unwrap();
            assert!(buffer[..] == pattern(4096, n)[..], "read {n}");
        }
    });
}

pub(crate) fn a_sync_follows_writes_of_other_tasks(host: &impl Host) {
    host.run_one(|directory| async move {
        let file = open(&directory, Direct::Preferred);
        let done = Rc::new(Cell::new(0));
        let tasks: Vec<_> = (0..8u64)
            .map(|n| {
                let (file, done) = (file.clone(), done.clone());
                spawn(Queue::Background, "writer", async move {
                    file.write(pattern(4096, 1), n * 4096).await.unwrap();
                    file.sync().await.unwrap();
                    done.set(done.get() + 1);
                })
            })
            .collect();
        join_all(tasks).await;
        assert_eq!(done.get(), 8);
        assert_eq!(file.len().unwrap(), 8 * 4096);
    });
}

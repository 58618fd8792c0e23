//! A small node around the journal: makes prepares, remembers what must be there, checks it.

use std::path::{Path, PathBuf};

use ioring::{Buffer, Direct, Frozen};
use wire::message::{Prepare, Purpose};
use wire::{
    CheckpointId, Checksum, ClusterId, Draft, HEADER_SIZE, Header, Op, ReplicaId, Timestamp, View,
};

use crate::format::{self, Configuration, DataDirectory, FormatOptions};
use crate::journal::{
    BODY_OFFSET, FRAME_HEADER_SIZE, Journal, Location, Options, RecoverError, Recovered,
};
use crate::superblock::Checkpoint;

/// Runs a test on one core of the real runtime.
pub(crate) fn on_ring<F>(test: impl Fn(PathBuf) -> F + Clone + Send + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let dir = tempfile::tempdir().unwrap();
    let runtime = ioring::uring::Runtime::new(ioring::uring::Config::test_min(1)).unwrap();
    runtime.run(vec![dir.path().join("replica")], test);
}

/// Five segments of 96 KiB, prepares of 8 KiB: everything wraps all the time.
pub(crate) fn configuration() -> Configuration {
    let small = Configuration {
        shard_count: 1,
        prepare_size_max: 8 << 10,
        value_size_max: 4 << 10,
        journal_segment_size: 96 << 10,
        journal_segment_count: 5,
        ..Configuration::test_min()
    };
    small.validate().unwrap();
    small
}

/// Bytes of the largest frame.
pub(crate) const FRAME_MAX: u64 = 12 << 10;

pub(crate) fn format_options() -> FormatOptions {
    let mut options = FormatOptions::new(ClusterId(7), ReplicaId(0), configuration());
    options.direct = Direct::Preferred;
    options.shift_sectors_max = 3;
    options
}

pub(crate) fn open_options() -> format::OpenOptions {
    format::OpenOptions { direct: Direct::Preferred, ..format::OpenOptions::default() }
}

pub(crate) async fn make(dir: &Path) {
    let grid = async |_, path: &Path, _: &_| ioring::fs::write_small(path, b"grid");
    format::format(dir, &format_options(), grid, |_, _| ()).await.unwrap();
}

/// A body that depends on the op, so that a mix-up shows.
pub(crate) fn body(op: Op, size: usize) -> Vec<u8> {
    (0..size).map(|index| (op.0 as usize * 31 + index * 7 + index / 251) as u8).collect()
}

pub(crate) struct TestLog {
    pub(crate) directory: DataDirectory,
    pub(crate) journal: Journal,
    pub(crate) recovered: Recovered,
    pub(crate) view: View,
    pub(crate) head: Op,
    pub(crate) parent: Checksum,
    pub(crate) commit: Op,
}

#[derive(Debug)]
pub(crate) enum TestError {
    Open(format::OpenError),
    Recover(RecoverError),
}

impl TestLog {
    /// Opens and recovers, and raises the view as a node does.
    pub(crate) async fn open(dir: &Path) -> Result<TestLog, TestError> {
        let directory = DataDirectory::open(dir, &open_options()).await.map_err(TestError::Open)?;
        let state = directory.superblock.state();
        let options = Options { recent_max: 2 };
        let opened = Journal::recover_solo(&directory.journal, &state, options).await;
        let (journal, recovered) = opened.map_err(TestError::Recover)?;
        let state = recovered.raise_view(&directory.superblock).await;
        let (head, parent) = (recovered.head, recovered.head_checksum);
        let view = state.view;
        Ok(TestLog { directory, journal, recovered, view, head, parent, commit: head })
    }

    /// The next prepare, in a buffer as the batcher fills it.
    pub(crate) fn next(&mut self, size: usize) -> (Header, Buffer) {
        self.head = self.head.next();
        let body = body(self.head, size);
        self.seal(&body)
    }

    fn seal(&mut self, body: &[u8]) -> (Header, Buffer) {
        let size = body.len();
        let tail = Prepare {
            parent: self.parent,
            checkpoint: CheckpointId(0),
            op: self.head,
            commit: self.commit,
            timestamp: Timestamp(self.head.0),
            version_count: 1,
            request_count: 0,
            purpose: Purpose::Requests,
        };
        let draft = Draft { cluster: ClusterId(7), view: self.view, ..Draft::default() };
        let header = draft.seal(&tail, body);
        self.parent = header.checksum();
        let mut buffer = Buffer::zeroed(super::frame_size(HEADER_SIZE + size));
        buffer.fill(0xee);
        buffer[FRAME_HEADER_SIZE..BODY_OFFSET].copy_from_slice(header.bytes());
        buffer[BODY_OFFSET..BODY_OFFSET + size].copy_from_slice(body);
        (header, buffer)
    }

    pub(crate) async fn append(&mut self, size: usize) {
        let body = body(self.head.next(), size);
        self.append_body(body).await;
    }

    pub(crate) async fn append_body(&mut self, body: Vec<u8>) {
        self.head = self.head.next();
        let (_, buffer) = self.seal(&body);
        let frame = self.journal.frame(buffer).await;
        let op = self.journal.append(frame).await;
        assert_eq!(op, self.head);
        self.commit = op;
        self.journal.note_commit(op);
    }

    /// Where the frames behind the checkpoint are, in op order.
    pub(crate) fn locations(&self) -> Vec<Location> {
        let state = self.journal.shared.state.borrow();
        let first = state.ring.checkpoint().0 + 1;
        let ops = (first..=self.head.0).map(Op);
        ops.map(|op| state.ring.locate(op).expect("it was appended").0).collect()
    }

    pub(crate) async fn read(&self, op: Op) -> Frozen {
        let (_, checksum) =
            self.journal.shared.state.borrow().ring.locate(op).expect("it was appended");
        self.journal.read(op, checksum).await.unwrap()
    }

    /// Advances the checkpoint to `op`, superblock first.
    pub(crate) async fn checkpoint(&self, op: Op) {
        let frame = self.read(op).await;
        let header = Header::verify(&frame[FRAME_HEADER_SIZE..]).unwrap();
        self.directory
            .superblock
            .update(|state| {
                let before = state.checkpoint.clone();
                state.checkpoint = Checkpoint { op, header: Some(header), ..before };
                state.commit_max = state.commit_max.max(op);
            })
            .await;
        self.journal.release(op);
    }

    /// Reads everything behind the checkpoint back, in both ways.
    pub(crate) async fn check(&self) {
        let first = self.directory.superblock.state().checkpoint.op.next();
        let mut replay = self.journal.replay(first, self.head).unwrap();
        for op in (first.0..=self.head.0).map(Op) {
            let frame = replay.next().await.unwrap().unwrap();
            check_frame(op, &frame);
            check_frame(op, &self.read(op).await);
        }
        assert!(replay.next().await.unwrap().is_none());
    }

    pub(crate) async fn stop(self, clean: bool) {
        if clean {
            self.journal.close().await;
        }
    }
}

pub(crate) fn check_frame(op: Op, frame: &Frozen) {
    let header = Header::verify(&frame[FRAME_HEADER_SIZE..]).unwrap();
    assert_eq!(header.tail::<Prepare>().unwrap().op, op);
    let size = header.body_size();
    assert_eq!(&frame[BODY_OFFSET..BODY_OFFSET + size], &body(op, size)[..], "body of op {op}");
}

//! A replica with a journal made of maps: tests decide when which frame becomes durable.

use std::collections::BTreeMap;

use ioring::{BufferPool, Frozen};
use vsr::journal::{BODY_OFFSET, FRAME_HEADER_SIZE};
use vsr::replica::{
    Commit, Config, LogHead, Moment, RecoveredLog, RecoveryError, Refused, Replica,
};
use wire::message::Prepare;
use wire::{
    CheckpointId, ClientTag, Header, Op, Opcode, OperationView, RequestBuilder, Requests, TableId,
    View,
};

/// The smallest request there is: its header and a put of a one-byte key.
pub(crate) const REQUEST_SIZE_MIN: usize = 24 + 40;

/// A request of `size` bytes (a multiple of 8, at least [`REQUEST_SIZE_MIN`]).
pub(crate) fn request(tag: u64, size: usize) -> Vec<u8> {
    assert!(size >= REQUEST_SIZE_MIN && size.is_multiple_of(8));
    let value = vec![tag as u8; size - REQUEST_SIZE_MIN + 7];
    let mut bytes = Vec::new();
    let mut builder = RequestBuilder::new(&mut bytes, ClientTag(tag)).expect("vectors grow");
    let put = OperationView::on_key(Opcode::Put, TableId(0), b"k").with_value(&value);
    builder.push(&put).expect("vectors grow");
    assert_eq!(builder.finish(), size);
    bytes
}

/// What remains of a node when its process dies.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) view: View,
    pub(crate) checkpoint: Option<LogHead>,
    /// Frames by op, as in a journal whose newer frames supersede older ones.
    pub(crate) frames: BTreeMap<Op, Vec<u8>>,
    /// The highest commit number in any durable frame.
    pub(crate) commit_max: Op,
}

impl Disk {
    pub(crate) fn write(&mut self, frame: &[u8]) -> Op {
        let header = Header::verify(&frame[FRAME_HEADER_SIZE..]).expect("the replica made it");
        header.verify_body(&frame[BODY_OFFSET..]).expect("the replica made it");
        let prepare = header.tail::<Prepare>().expect("a prepare");
        self.commit_max = self.commit_max.max(prepare.commit);
        self.frames.insert(prepare.op, frame.to_vec());
        prepare.op
    }

    pub(crate) fn header(&self, op: Op) -> Option<Header> {
        let frame = self.frames.get(&op)?;
        Some(Header::verify(&frame[FRAME_HEADER_SIZE..]).expect("it was verified when written"))
    }

    /// What a journal does at start, alone: keeps the chain-connected prefix, forgets the rest.
    pub(crate) fn recover(&mut self, config: &Config) -> RecoveredLog {
        let root = self.checkpoint.unwrap_or_else(|| LogHead::root(config.cluster));
        let mut log = RecoveredLog::at_checkpoint(root);
        while let Some(header) = self.header(log.head().op.next()) {
            if log.replay(&header).is_err() {
                break;
            }
        }
        self.frames.retain(|&op, _| op <= log.head().op);
        log
    }
}

/// A replica, its disk, and the writes in between.
pub(crate) struct Harness {
    pub(crate) config: Config,
    pub(crate) pool: BufferPool,
    pub(crate) replica: Replica,
    pub(crate) disk: Disk,
    pub(crate) writing: BTreeMap<Op, Frozen>,
}

impl Harness {
    pub(crate) fn start(
        config: Config,
        mut disk: Disk,
        moment: Moment,
    ) -> Result<Self, RecoveryError> {
        let pool = BufferPool::new("prepares", config.frame_size_max(), config.pipeline_max + 2);
        let log = disk.recover(&config);
        let replica = Replica::recovered(
            config,
            pool.clone(),
            &log,
            CheckpointId(0),
            disk.view,
            disk.commit_max,
            moment,
        )?;
        Ok(Harness { config, pool, replica, disk, writing: BTreeMap::new() })
    }

    pub(crate) fn persist_view(&mut self) {
        let record = self.replica.view_to_persist();
        let record = record.expect("a replica begins with a view to persist");
        self.disk.view = record.view;
        self.replica.on_view_durable(record.view, record.log_view);
    }

    pub(crate) fn request(&mut self, tag: u64, size: usize) -> Result<(), Refused> {
        let bytes = request(tag, size);
        let request = Requests::of_body(&bytes).next().expect("one request");
        self.replica.on_request(&request)
    }

    /// Takes what is to be journaled; the writes complete when the test says so.
    pub(crate) fn take_appends(&mut self) -> Vec<Header> {
        let mut headers = Vec::new();
        while let Some(append) = self.replica.next_append() {
            let op = append.header.tail::<Prepare>().expect("a prepare").op;
            assert_eq!(&append.buffer[FRAME_HEADER_SIZE..BODY_OFFSET], append.header.bytes());
            self.writing.insert(op, append.buffer.freeze());
            headers.push(append.header);
        }
        headers
    }

    /// The write of `op` completes.
    pub(crate) fn complete(&mut self, op: Op) {
        let frame = self.writing.remove(&op).expect("only writes in flight complete");
        assert_eq!(self.disk.write(&frame), op);
        self.replica.on_journal_written(op, frame);
    }

    pub(crate) fn take_commits(&mut self) -> Vec<Commit> {
        std::iter::from_fn(|| self.replica.next_commit()).collect()
    }

    pub(crate) fn checkpoint(&mut self, op: Op) {
        let header = self.disk.header(op).expect("checkpoints are taken of durable ops");
        self.disk.checkpoint = Some(LogHead::of(&header));
        self.disk.frames.retain(|&other, _| other > op);
        self.replica.on_checkpoint(op, CheckpointId(u128::from(op.0)));
    }
}

/// The tags of a committed prepare's requests.
pub(crate) fn tags(commit: &Commit) -> Vec<u64> {
    let requests = Requests::verify(commit.body()).expect("what was committed is well-formed");
    requests.map(|request| request.tag().0).collect()
}

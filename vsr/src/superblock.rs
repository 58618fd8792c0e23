//! The superblock: who this replica is, where its checkpoint lies, what it may vouch for.
//!
//! Eight copies of one 16 KiB structure at the start of the file `journal`; the only thing in that
//! file that is ever written in place. An *update*
//!
//! 1. makes the next version: sequence number plus one, parent = checksum of the version before;
//! 2. writes copies 0 to 3 and waits until they are durable;
//! 3. writes copies 4 to 7 and waits until they are durable. Now it is in effect.
//!
//! Updates go one after the other; [`SuperBlock::update`] returns when its own is in effect.
//!
//! # Why any crash is safe
//!
//! Between 2 and 3 the first half is complete and new, before that the second half is complete and
//! old; so one half can always be read. Opening takes the newest version it finds and completes it
//! ([`quorum`]). That may be an update whose caller never learnt that it was done, which is fine:
//! everything an update refers to is durable before the update begins. It is never a version
//! older than one that was in effect, unless five or more copies are lost.
//!
//! Opening makes durable what it read before it builds on it: after a kill, copies may be in the
//! device's cache only.
//!
//! A failed write ends the process: what the device then holds is unknown, so nothing that was
//! promised by the update could be relied on.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use ioring::sync::Slots;
use ioring::{Buffer, Fatal, File};
use wire::{CheckpointId, Checksum, Header, Op, Release, RootReference, View};
use zerocopy::FromBytes;

use crate::format::Configuration;
use crate::replica::LogHead;

pub(crate) mod layout;
pub mod quorum;

pub use layout::{COPIES, COPY_SIZE, CopyFault, FORMAT, SHARDS_MAX, VIEW_HEADERS_MAX, ZONE_SIZE};
pub use quorum::{CopyReading, Decision, Identity, QuorumError, Version};

use layout::Copy;

/// The last checkpoint: what the log may be cut up to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checkpoint {
    /// The last op it contains; 0 before the first.
    pub op: Op,
    /// The header of the prepare at that op; none at op 0.
    pub header: Option<Header>,
    /// The hash of its roots and its parent's identifier.
    pub id: CheckpointId,
    /// The root of each shard.
    pub shards: Vec<RootReference>,
    /// The root of the session table.
    pub sessions: RootReference,
}

/// What the superblock says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// Whose it is.
    pub identity: Identity,
    /// The release that wrote it.
    pub release: Release,
    /// The format-time values.
    pub configuration: Configuration,
    /// The newest view this replica has heard of, and acts in.
    pub view: View,
    /// The view in which its log was last the log of that view.
    pub log_view: View,
    /// The newest prepares of that log when the view began, in op order, without gaps.
    pub view_headers: Vec<Header>,
    /// Ops up to here are known to be committed.
    pub commit_max: Op,
    /// The last checkpoint.
    pub checkpoint: Checkpoint,
    /// The first and last op that a state sync in progress brings, if there is one.
    pub sync: Option<(Op, Op)>,
}

impl State {
    /// The state of a replica that was just formatted.
    #[must_use]
    pub fn formatted(identity: Identity, configuration: Configuration) -> State {
        let shards = vec![RootReference::NONE; usize::from(configuration.shard_count)];
        State {
            identity,
            release: Release::CURRENT,
            configuration,
            view: View(0),
            log_view: View(0),
            view_headers: Vec::new(),
            commit_max: Op(0),
            checkpoint: Checkpoint { shards, ..Checkpoint::default() },
            sync: None,
        }
    }

    /// The checksum that the first prepare behind the checkpoint names as its parent; before the
    /// first checkpoint that of the root of the cluster's log.
    #[must_use]
    pub fn checkpoint_checksum(&self) -> Checksum {
        let root = || LogHead::root(self.identity.cluster).checksum;
        self.checkpoint.header.as_ref().map_or_else(root, Header::checksum)
    }

    fn encode(&self, sequence: u64, parent: Checksum, copy: &mut Copy) {
        let shards = &self.checkpoint.shards;
        assert!(shards.len() == usize::from(self.configuration.shard_count));
        assert!(self.view_headers.len() <= VIEW_HEADERS_MAX && self.log_view <= self.view);
        assert!((self.checkpoint.op == Op(0)) == self.checkpoint.header.is_none());
        copy.magic = layout::MAGIC;
        copy.format = FORMAT.into();
        copy.release = self.release.0.into();
        copy.sequence = sequence.into();
        copy.parent = parent.0.into();
        copy.cluster = self.identity.cluster.0.into();
        copy.incarnation = self.identity.incarnation.0.into();
        copy.replica = self.identity.replica.0;
        copy.shard_count = u32::from(self.configuration.shard_count).into();
        copy.view_header_count = (self.view_headers.len() as u32).into();
        copy.fingerprint = self.configuration.fingerprint().0.into();
        copy.configuration = self.configuration.encode();
        copy.view = self.view.0.into();
        copy.log_view = self.log_view.0.into();
        copy.commit_max = self.commit_max.0.into();
        copy.checkpoint_op = self.checkpoint.op.0.into();
        let (sync_min, sync_max) = self.sync.unwrap_or_default();
        copy.sync_op_min = sync_min.0.into();
        copy.sync_op_max = sync_max.0.into();
        copy.checkpoint_id = self.checkpoint.id.0.into();
        if let Some(header) = &self.checkpoint.header {
            copy.checkpoint_header = *header.bytes();
        }
        copy.sessions = self.checkpoint.sessions;
        copy.shards[..shards.len()].copy_from_slice(shards);
        for (target, header) in copy.view_headers.iter_mut().zip(&self.view_headers) {
            *target = *header.bytes();
        }
        copy.checksum = copy.sum().0.into();
    }

    /// The state in a copy that was verified.
    fn decode(copy: &Copy) -> State {
        let verified = |bytes| Header::verify(bytes).expect("verified with its copy");
        let checkpoint_op = Op(copy.checkpoint_op.get());
        let sync = (Op(copy.sync_op_min.get()), Op(copy.sync_op_max.get()));
        State {
            identity: identity(copy),
            release: Release(copy.release.get()),
            configuration: Configuration::decode(&copy.configuration)
                .expect("verified with its copy"),
            view: View(copy.view.get()),
            log_view: View(copy.log_view.get()),
            view_headers: copy.view_headers[..copy.view_header_count.get() as usize]
                .iter()
                .map(|bytes| verified(bytes))
                .collect(),
            commit_max: Op(copy.commit_max.get()),
            checkpoint: Checkpoint {
                op: checkpoint_op,
                header: (checkpoint_op > Op(0)).then(|| verified(&copy.checkpoint_header)),
                id: CheckpointId(copy.checkpoint_id.get()),
                shards: copy.shards[..copy.shard_count.get() as usize].to_vec(),
                sessions: copy.sessions,
            },
            sync: (sync.1 > Op(0)).then_some(sync),
        }
    }

    /// What may not be taken back from one version to the next.
    fn assert_follows(&self, before: &State) {
        assert!(self.identity == before.identity, "a superblock stays its replica's");
        assert!(self.configuration == before.configuration, "format-time values do not change");
        assert!(self.view >= before.view && self.log_view >= before.log_view);
        assert!(self.commit_max >= before.commit_max, "commits are for good");
        assert!(self.checkpoint.op >= before.checkpoint.op, "checkpoints only advance");
    }
}

fn identity(copy: &Copy) -> Identity {
    Identity {
        cluster: wire::ClusterId(copy.cluster.get()),
        replica: wire::ReplicaId(copy.replica),
        incarnation: wire::Incarnation(copy.incarnation.get()),
    }
}

fn version(copy: &Copy) -> Version {
    Version {
        sequence: copy.sequence.get(),
        checksum: Checksum(copy.checksum.get()),
        parent: Checksum(copy.parent.get()),
        identity: identity(copy),
    }
}

/// All copies of a version, as they are written.
fn image(state: &State, sequence: u64, parent: Checksum, zone: &mut [u8]) -> Checksum {
    assert!(zone.len() == ZONE_SIZE);
    zone.fill(0);
    let (first, others) = zone.split_at_mut(COPY_SIZE);
    let copy = Copy::mut_from_bytes(first).expect("a copy has no alignment");
    state.encode(sequence, parent, copy);
    let sum = Checksum(copy.checksum.get());
    for (index, other) in others.chunks_exact_mut(COPY_SIZE).enumerate() {
        other.copy_from_slice(first);
        let copy = Copy::mut_from_bytes(other).expect("a copy has no alignment");
        copy.copy = u16::try_from(index + 1).expect("there are eight").into();
    }
    sum
}

/// Writes the superblock of a new replica; durable when this returns.
///
/// # Errors
/// Those of the file.
pub(crate) async fn format(file: &File, state: &State) -> io::Result<()> {
    let mut zone = Buffer::zeroed(ZONE_SIZE);
    image(state, 1, Checksum::default(), &mut zone);
    let zone = zone.freeze();
    for half in halves() {
        file.write_durable(zone.slice(half.clone()), half.start as u64).await?;
    }
    Ok(())
}

/// The two halves, in the order in which they are written.
fn halves() -> [std::ops::Range<usize>; 2] {
    [0..ZONE_SIZE / 2, ZONE_SIZE / 2..ZONE_SIZE]
}

/// What each copy holds; changes nothing. Works on damaged directories.
pub struct Readings {
    zone: Buffer,
    /// One per copy.
    pub copies: [CopyReading; COPIES],
}

impl Readings {
    /// Reads all copies, each twice if the device refuses it once.
    pub async fn read(file: &File) -> Readings {
        let mut zone = Buffer::zeroed(ZONE_SIZE);
        let mut copies = std::array::from_fn(|_| Err(CopyFault::Blank));
        let mut buffer = Buffer::zeroed(COPY_SIZE);
        for (slot, reading) in copies.iter_mut().enumerate() {
            let mut result = Ok(());
            for _ in 0..2 {
                (result, buffer) = file.read(buffer, (slot * COPY_SIZE) as u64).await;
                if result.is_ok() {
                    break;
                }
            }
            *reading = match result {
                Ok(()) => Copy::verify(&buffer, slot).map(version),
                Err(error) => Err(CopyFault::Unreadable(error.to_string())),
            };
            zone[slot * COPY_SIZE..][..COPY_SIZE].copy_from_slice(&buffer);
        }
        Readings { zone, copies }
    }

    /// The state in one copy, if that is good.
    #[must_use]
    pub fn state(&self, slot: usize) -> Option<State> {
        let bytes = &self.zone[slot * COPY_SIZE..][..COPY_SIZE];
        Copy::verify(bytes, slot).ok().map(State::decode)
    }
}

/// What opening found and did.
#[derive(Clone, Debug)]
pub struct OpenReport {
    /// What each copy was.
    pub copies: [CopyReading; COPIES],
    /// What was decided; the copies to rewrite were rewritten.
    pub decision: Decision,
}

/// An open superblock. One per replica; see the module's documentation.
pub struct SuperBlock {
    file: File,
    turn: Slots,
    state: RefCell<Rc<State>>,
    sequence: Cell<u64>,
    checksum: Cell<Checksum>,
    zone: Cell<Option<Buffer>>,
    #[cfg(test)]
    pub(crate) sabotage: Cell<Sabotage>,
}

/// Ways in which a test breaks the update, to see that it is noticed.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Sabotage {
    /// As it should be.
    #[default]
    None,
    /// Writes that are not durable.
    NotDurable,
    /// No barrier: both halves are in flight at once.
    NoBarrier,
    /// The second half is never written.
    HalfOnly,
}

impl SuperBlock {
    /// Opens by quorum, lets `check` refuse what was found, and rewrites copies that are not the
    /// version opened.
    ///
    /// # Errors
    /// [`QuorumError`] when no version can be opened, or what `check` says; then nothing is
    /// written.
    pub async fn open<E: From<QuorumError>>(
        file: &File,
        check: impl FnOnce(&State) -> Result<(), E>,
    ) -> Result<(SuperBlock, OpenReport), E> {
        let readings = Readings::read(file).await;
        let decision = quorum::decide(&readings.copies)?;
        let state = readings.state(decision.slot).expect("a good copy was chosen");
        check(&state)?;
        let Readings { zone, copies } = readings;
        let superblock = SuperBlock {
            file: file.clone(),
            turn: Slots::new(1),
            state: RefCell::new(Rc::new(state)),
            sequence: Cell::new(decision.version.sequence),
            checksum: Cell::new(decision.version.checksum),
            zone: Cell::new(None),
            #[cfg(test)]
            sabotage: Cell::default(),
        };
        superblock.settle().await;
        if decision.interrupted() {
            ioring::mark!("superblock_update_finished");
        }
        superblock.repair(zone, &decision).await;
        Ok((superblock, OpenReport { copies, decision }))
    }

    /// The state that is in effect.
    #[must_use]
    pub fn state(&self) -> Rc<State> {
        self.state.borrow().clone()
    }

    /// How many versions there were; 1 after format.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence.get()
    }

    /// Changes the state and returns it when the change is in effect. Updates wait for each other;
    /// `change` sees the state that the one before it left.
    ///
    /// A failed write ends the process.
    pub async fn update(&self, change: impl FnOnce(&mut State)) -> Rc<State> {
        let _turn = self.turn.acquire().await;
        let before = self.state();
        let mut next = State::clone(&before);
        change(&mut next);
        next.release = Release::CURRENT;
        next.assert_follows(&before);
        let sequence = self.sequence.get() + 1;
        let mut zone = self.zone.take().unwrap_or_else(|| Buffer::zeroed(ZONE_SIZE));
        let sum = image(&next, sequence, self.checksum.get(), &mut zone);
        let zone = zone.freeze();
        self.write_halves(&zone).await;
        self.zone.set(zone.try_thaw().ok());
        self.sequence.set(sequence);
        self.checksum.set(sum);
        let next = Rc::new(next);
        self.state.replace(next.clone());
        next
    }

    async fn write_halves(&self, zone: &ioring::Frozen) {
        let [first, second] = halves();
        let write =
            |range: std::ops::Range<usize>| self.write(zone.slice(range.clone()), range.start);
        #[cfg(test)]
        match self.sabotage.get() {
            Sabotage::HalfOnly => return write(first).await,
            Sabotage::NoBarrier => {
                ioring::join(write(first), write(second)).await;
                return;
            }
            Sabotage::None | Sabotage::NotDurable => {}
        }
        write(first).await;
        write(second).await;
    }

    async fn write(&self, data: ioring::Frozen, offset: usize) {
        #[cfg(test)]
        if self.sabotage.get() == Sabotage::NotDurable {
            self.file.write(data, offset as u64).await.expect("the test's disk works");
            return;
        }
        if let Err(error) = self.file.write_durable(data, offset as u64).await {
            let path = self.file.path().to_owned();
            ioring::fatal(Fatal::DurableWrite { path, offset: offset as u64, error });
        }
    }

    /// Makes durable what was read: after a kill it may be in the device's cache only.
    async fn settle(&self) {
        if let Err(error) = self.file.sync().await {
            let path = self.file.path().to_owned();
            ioring::fatal(Fatal::DurableWrite { path, offset: 0, error });
        }
    }

    /// Rewrites the copies that are not the chosen version, half by half. Good ones stay untouched.
    async fn repair(&self, mut zone: Buffer, decision: &Decision) {
        let (from, to) = zone.split_at_mut(decision.slot * COPY_SIZE);
        let (chosen, after) = to.split_at_mut(COPY_SIZE);
        let others = from.chunks_exact_mut(COPY_SIZE).enumerate();
        let behind = after.chunks_exact_mut(COPY_SIZE).enumerate();
        let behind = behind.map(|(index, copy)| (decision.slot + 1 + index, copy));
        for (slot, bytes) in others.chain(behind) {
            bytes.copy_from_slice(chosen);
            let copy = Copy::mut_from_bytes(bytes).expect("a copy has no alignment");
            copy.copy = u16::try_from(slot).expect("there are eight").into();
        }
        let zone = zone.freeze();
        for slot in (0..COPIES).filter(|&slot| decision.rewrite[slot]) {
            let start = slot * COPY_SIZE;
            self.write(zone.slice(start..start + COPY_SIZE), start).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::{ClusterId, Incarnation, ReplicaId};

    use super::*;

    fn formatted() -> State {
        let (cluster, replica) = (ClusterId(7), ReplicaId(2));
        let identity = Identity { cluster, replica, incarnation: Incarnation(77) };
        let configuration = Configuration { replica_count: 3, ..Configuration::default() };
        State { release: Release(5), ..State::formatted(identity, configuration) }
    }

    #[test]
    fn golden_bytes() {
        let mut zone = vec![0; ZONE_SIZE];
        image(&formatted(), 1, Checksum::default(), &mut zone);
        assert_eq!(zone[16..26], *b"QRTSUPER\0\0");
        assert_eq!(zone[COPY_SIZE + 24], 1, "the second copy says so");
        assert_eq!((zone[32], zone[36], zone[40]), (1, 5, 1));
        assert_eq!((zone[64], zone[80], zone[96], zone[100], zone[128]), (7, 77, 2, 8, 3));
        let sum = wire::checksum(&zone);
        assert_eq!(sum, GOLDEN, "{sum}");
    }

    const GOLDEN: Checksum = Checksum(0xe2c0_9df1_5198_0bd8_3a58_0368_ac18_6d8b);

    #[test]
    fn a_state_survives_a_round_trip_in_every_copy() {
        let mut state = formatted();
        state.view = View(9);
        state.log_view = View(8);
        state.commit_max = Op(12);
        state.sync = Some((Op(3), Op(4)));
        state.checkpoint.sessions = RootReference::new(4, 5, Checksum(6));
        state.checkpoint.shards[3] = RootReference::new(7, 8, Checksum(9));
        let mut zone = vec![0; ZONE_SIZE];
        let sum = image(&state, 4, Checksum(1), &mut zone);
        for (slot, bytes) in zone.chunks_exact(COPY_SIZE).enumerate() {
            let copy = Copy::verify(bytes, slot).unwrap();
            assert_eq!(State::decode(copy), state);
            let version = version(copy);
            assert_eq!((version.checksum, version.parent), (sum, Checksum(1)));
            assert!(Copy::verify(bytes, (slot + 1) % COPIES).is_err());
        }
    }

    #[test]
    fn every_byte_of_a_copy_matters() {
        let mut zone = vec![0; ZONE_SIZE];
        image(&formatted(), 1, Checksum::default(), &mut zone);
        let copy = &mut zone[..COPY_SIZE];
        for byte in 0..COPY_SIZE {
            copy[byte] ^= 1 << (byte % 8);
            assert!(Copy::verify(copy, 0).is_err(), "byte {byte}");
            copy[byte] ^= 1 << (byte % 8);
        }
    }
}

//! The member: does what a replica's driver does, in its order, at random.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ioring::sim::Probe;
use ioring::{Buffer, Direct, Random};
use wire::{ClusterId, HEADER_SIZE, Header, Op, ReplicaId, View};

use super::super::support::{self, FRAME_MAX};
use super::{Model, PIPELINE, Version, body, is_frame_of, version};
use crate::format::{self, Configuration, DataDirectory, FormatOptions};
use crate::journal::recovery::{RecoveredOp, Summary};
use crate::journal::{
    BODY_OFFSET, FRAME_HEADER_SIZE, Journal, Location, Options, RecoveredMember, Sabotage,
    frame_size,
};
use crate::superblock::{Checkpoint, VIEW_HEADERS_MAX};

const DIR: &str = "/replica";

pub(super) fn configuration() -> Configuration {
    let configuration = Configuration { replica_count: 3, ..support::configuration() };
    configuration.validate().unwrap();
    configuration
}

pub(super) async fn make() {
    let mut options = FormatOptions::new(ClusterId(7), ReplicaId(1), configuration());
    options.direct = Direct::Preferred;
    let grid = async |_, path: &Path, _: &_| ioring::fs::write_small(path, b"grid");
    format::format(Path::new(DIR), &options, grid, |_, _| ()).await.unwrap();
}

/// The model as it was at each point that a crash state may be of.
#[derive(Clone, Default)]
pub(super) struct History {
    pub(super) now: Rc<RefCell<Model>>,
    pub(super) states: Rc<RefCell<Vec<Model>>>,
    pub(super) probe: Option<Rc<Probe>>,
}

impl History {
    pub(super) fn new(model: Model) -> History {
        History { now: Rc::new(RefCell::new(model)), ..History::default() }
    }

    fn tell(&self, change: impl FnOnce(&mut Model)) {
        change(&mut self.now.borrow_mut());
        if let Some(probe) = &self.probe {
            self.states.borrow_mut().push(self.now.borrow().clone());
            probe.note(self.states.borrow().len() as u64 - 1);
        }
    }
}

pub(super) struct Member {
    pub(super) directory: DataDirectory,
    pub(super) journal: Journal,
    pub(super) recovered: RecoveredMember,
    pub(super) history: History,
    /// Versions that its replica would know to be durable.
    held: BTreeSet<Version>,
    random: Random,
    /// Writes what it has over and over, with few checkpoints: the ring goes round under live
    /// frames.
    churns: bool,
}

impl Member {
    pub(super) async fn open(history: History, seed: u64) -> Result<Member, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let options = support::open_options();
        let directory = DataDirectory::open(Path::new(DIR), &options).await;
        let directory = directory.map_err(|error| text(&error))?;
        let state = directory.superblock.state();
        let options = Options { recent_max: 2 };
        let opened = Journal::recover_member(&directory.journal, &state, options).await;
        let (journal, recovered) = opened.map_err(|error| text(&error))?;
        let mut held: BTreeSet<Version> = recovered.log.strays.iter().map(version).collect();
        held.extend(recovered.log.ops.iter().filter_map(|op| match op {
            RecoveredOp::Present(header) => Some(version(header)),
            RecoveredOp::Damaged(_) | RecoveredOp::Absent(_) => None,
        }));
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut random = Random::from_seed(bytes);
        let churns = random.chance(2);
        Ok(Member { directory, journal, recovered, history, held, random, churns })
    }

    fn view(&self) -> u32 {
        self.directory.superblock.state().log_view.0
    }

    pub(super) fn log(&self) -> Vec<Header> {
        self.history.now.borrow().logs[&self.view()].clone()
    }

    fn checkpoint(&self) -> u64 {
        self.directory.superblock.state().checkpoint.op.0
    }

    fn used(&self) -> u64 {
        let log = self.log();
        let held = log.iter().filter(|header| self.held.contains(&version(header)));
        let held = held.filter(|header| Summary::of(header).op.0 > self.checkpoint());
        held.map(|header| frame_size(header.size()) as u64).sum()
    }

    /// The last op up to which everything is held.
    fn whole(&self) -> u64 {
        let log = self.log();
        let checkpoint = self.checkpoint();
        let held = log.iter().skip(checkpoint as usize);
        checkpoint + held.take_while(|header| self.held.contains(&version(header))).count() as u64
    }

    /// Ops of the log that are not held, from the lowest on.
    fn missing(&self) -> Vec<Header> {
        let checkpoint = self.checkpoint() as usize;
        let log = self.log();
        let missing = log.into_iter().skip(checkpoint);
        missing.filter(|header| !self.held.contains(&version(header))).collect()
    }

    /// Checks what was found, reads all of it, and that nothing of it is another prepare.
    pub(super) async fn check(&self, damaged: bool) -> Result<(), String> {
        let model = self.history.now.borrow().clone();
        model.check(&self.recovered.log, self.view(), damaged)?;
        let strays = self.recovered.log.strays.iter();
        let present = self.recovered.log.ops.iter().filter_map(|op| match op {
            RecoveredOp::Present(header) => Some(header),
            RecoveredOp::Damaged(_) | RecoveredOp::Absent(_) => None,
        });
        for header in present.chain(strays) {
            self.check_read(header).await?;
        }
        Ok(())
    }

    async fn check_read(&self, header: &Header) -> Result<(), String> {
        let op = Summary::of(header).op;
        let read = self.journal.read(op, header.checksum()).await;
        let frame = read.map_err(|error| format!("op {op}: {error}"))?;
        if is_frame_of(&frame, header) { Ok(()) } else { Err(format!("op {op} is another")) }
    }

    /// Where the frames of the log are.
    pub(super) fn locations(&self) -> Vec<Location> {
        let state = self.journal.shared.state.borrow();
        let find = |header: &Header| state.ring.find(Summary::of(header).op, header.checksum());
        self.log().iter().filter_map(find).collect()
    }

    /// Reads everything that is held and counts.
    pub(super) async fn check_held(&self) -> Result<(), String> {
        for header in self.log().iter().skip(self.checkpoint() as usize) {
            if self.held.contains(&version(header)) {
                self.check_read(header).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step().await;
        }
    }

    async fn step(&mut self) {
        match self.random.below(20) {
            0..=13 if self.churns && !self.random.chance(3) => self.write_again().await,
            0..=4 => self.extend(),
            5..=11 => {
                let some = self.choose();
                self.write(some).await;
            }
            12 => self.change_view(Vec::new()).await,
            13 => {
                let some = self.choose();
                self.change_view(some).await;
            }
            14..=16 if self.churns && !self.random.chance(4) => {}
            14..=16 => self.take_checkpoint().await,
            17 => ioring::sleep(Duration::from_millis(12)).await,
            18 => self.write_again().await,
            _ => self.progress(),
        }
    }

    /// What was read and found damaged would be written again.
    pub(super) async fn write_again(&mut self) {
        let log = self.log().into_iter().skip(self.checkpoint() as usize);
        let mut held: Vec<Header> =
            log.filter(|header| self.held.contains(&version(header))).collect();
        let mut again = Vec::new();
        while !held.is_empty() && again.len() <= self.random.below(PIPELINE) as usize {
            again.push(held.swap_remove(self.random.below(held.len() as u64) as usize));
        }
        self.write(again).await;
    }

    /// The commit number moves, somewhere.
    fn progress(&mut self) {
        let head = self.log().len() as u64;
        let commit = self.history.now.borrow().commit;
        let commit = commit + self.random.below(head - commit + 1);
        self.history.tell(|model| model.commit = commit);
        self.journal.note_commit(Op(commit.min(self.whole())));
    }

    /// The primary has new prepares.
    fn extend(&mut self) {
        let view = self.view();
        for _ in 0..=self.random.below(2) {
            if self.log().len() as u64 >= self.history.now.borrow().commit + PIPELINE {
                self.progress();
            }
            let log = self.log();
            if log.len() as u64 >= self.history.now.borrow().commit + PIPELINE {
                return;
            }
            let size = self.random.below(7_900) as usize;
            let header = self.history.now.borrow().next(&log, view, size);
            self.history.tell(|model| model.logs.get_mut(&view).unwrap().push(header));
        }
    }

    /// Prepares that arrive now, as far as the log's budget has room.
    fn choose(&mut self) -> Vec<Header> {
        let mut missing = self.missing();
        let mut chosen = Vec::new();
        let mut used = self.used();
        for _ in 0..=self.random.below(PIPELINE - 1) {
            if missing.is_empty() {
                break;
            }
            let any = self.random.below(missing.len() as u64) as usize;
            let index = if self.random.chance(2) { any } else { 0 };
            let header = missing.remove(index);
            used += frame_size(header.size()) as u64;
            let kept = if index > 0 { 2 * FRAME_MAX } else { 0 };
            if used + kept > configuration().log_budget() {
                break;
            }
            chosen.push(header);
        }
        chosen
    }

    /// Gives frames their places; the futures write them.
    pub(super) async fn begin(&self, headers: &[Header]) -> Vec<impl Future<Output = ()> + use<>> {
        let mut writes = Vec::new();
        for header in headers {
            let mut buffer = Buffer::zeroed(frame_size(header.size()));
            let body = body(Summary::of(header).op, header.view(), header.body_size());
            buffer[FRAME_HEADER_SIZE..BODY_OFFSET].copy_from_slice(header.bytes());
            buffer[BODY_OFFSET..BODY_OFFSET + body.len()].copy_from_slice(&body);
            buffer.set_len(FRAME_HEADER_SIZE + HEADER_SIZE + body.len());
            self.history.tell(|model| model.attempted.extend([version(header)]));
            let frame = match self.journal.try_frame(buffer) {
                Ok(frame) => frame,
                Err(buffer) => {
                    assert!(self.journal.is_full());
                    self.give_up();
                    self.journal.frame(buffer).await
                }
            };
            let (append, history, header) =
                (self.journal.append(frame), self.history.clone(), *header);
            writes.push(async move {
                append.await;
                history.tell(|model| {
                    let view = model.view;
                    if model.logs[&view].contains(&header) {
                        model.counts.insert(version(&header));
                    }
                });
            });
        }
        writes
    }

    pub(super) async fn write(&mut self, headers: Vec<Header>) {
        let writes = self.begin(&headers).await;
        ioring::join_all(writes).await;
        self.held.extend(headers.iter().map(version));
        self.journal.note_commit(Op(self.history.now.borrow().commit.min(self.whole())));
        if self.journal.shared.sabotage.get() == Sabotage::GiveUpTooMuch {
            self.give_up();
        }
    }

    /// A newer view begins while these are written. Some of the views before it this member never
    /// heard of; some bring back what an earlier one had given up.
    async fn change_view(&mut self, across: Vec<Header>) {
        let (old, log) = (self.view(), self.log());
        let commit = self.history.now.borrow().commit as usize;
        let mut others: Vec<Vec<Header>> =
            self.history.now.borrow().logs.values().cloned().collect();
        others.retain(|other| other.len() >= commit && other[..commit] == log[..commit]);
        let back = self.random.chance(3) && !others.is_empty();
        let index = self.random.below(others.len() as u64) as usize;
        let mut new = if back { others.swap_remove(index) } else { log };
        let spread = new.len() - commit;
        new.truncate(commit + self.random.below(spread as u64 + 1) as usize);
        let between = old + 1;
        for _ in 0..self.random.below(PIPELINE) {
            if new.len() < commit + PIPELINE as usize {
                let size = self.random.below(7_900) as usize;
                let header = self.history.now.borrow().next(&new, between, size);
                new.push(header);
            }
        }
        let view = self.history.now.borrow().logs.keys().max().unwrap().max(&between) + 1;
        self.history.tell(|model| drop(model.logs.insert(view, new.clone())));
        let writes = self.begin(&across).await;
        let (_, ()) = ioring::join(ioring::join_all(writes), self.install(view, &new)).await;
        self.held.extend(across.iter().map(version));
        self.held.retain(|held| {
            let named = new.get(held.0.0 as usize - 1);
            named.is_some_and(|named| version(named) == *held)
        });
    }

    /// Makes the record of a view durable and gives up what its log lacks.
    pub(super) async fn install(&self, view: u32, log: &[Header]) {
        let named = log.len().min(PIPELINE as usize + 1).min(VIEW_HEADERS_MAX);
        let headers = log[log.len() - named..].to_vec();
        let raise = move |state: &mut crate::superblock::State| {
            (state.view, state.log_view) = (View(view), View(view));
            state.view_headers = headers;
        };
        self.directory.superblock.update(raise).await;
        self.history.tell(|model| {
            model.view = view;
            model.counts.retain(|(op, sum)| {
                let named = model.logs[&view].get(op.0 as usize - 1);
                named.is_some_and(|named| named.checksum().0 == *sum)
            });
        });
        self.give_up();
    }

    /// As a replica that knows the newest headers, and of the others every second one.
    fn give_up(&self) {
        let log = self.log();
        let sabotaged = self.journal.shared.sabotage.get() == Sabotage::GiveUpTooMuch;
        self.journal.give_up(|op, checksum| {
            let Some(named) = log.get(op.0 as usize - 1) else { return true };
            let known = op.0 + PIPELINE >= log.len() as u64 || op.0.is_multiple_of(2);
            sabotaged || (known && named.checksum() != checksum)
        });
    }

    async fn take_checkpoint(&mut self) {
        let commit = self.history.now.borrow().commit;
        let most = commit.min(self.whole());
        let op = most.saturating_sub(self.random.below(6));
        if op > self.checkpoint() {
            let header = self.log()[op as usize - 1];
            let update = |state: &mut crate::superblock::State| {
                let before = state.checkpoint.clone();
                state.checkpoint = Checkpoint { op: Op(op), header: Some(header), ..before };
                state.commit_max = state.commit_max.max(Op(op));
            };
            self.directory.superblock.update(update).await;
            self.history.tell(|model| model.checkpoint = op);
            self.journal.release(Op(op));
            self.give_up();
        }
    }

    pub(super) async fn stop(self, clean: bool) {
        if clean {
            self.journal.close().await;
        }
    }
}

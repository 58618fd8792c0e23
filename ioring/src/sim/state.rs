//! What the cores of a world share: time, disks, the network, operations in flight.
//!
//! A [`State`] is passive. Drivers put operations in, the world's loop takes completions out when
//! their time has come. Nothing in here calls a task or a core, so it can stay borrowed during any
//! of its own methods, and is never borrowed while a task is polled.
//!
//! # A disk operation
//!
//! 1. Submitted: the change enters the disk's list of pending ones ([`SimDisk::write_start`]); a
//!    sync fixes what it covers. The completion is put in the queue at a drawn time.
//! 2. Due: the world looks the operation up in its core's slab, [`State::finish`] fills the buffer
//!    of a read or ends the write, and the result is delivered.
//! 3. A crash between the two leaves the change pending, for the disk to decide on.
//!
//! When a process dies all that it had in flight is forgotten at once ([`State::node_gone`]); the
//! boot number in an operation's key asserts that nothing of an earlier run comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::dice::{Dice, TraceHash};
use super::disk::{Change, Inode, SimDisk, Started, SyncId};
use super::log::{Happened, Log};
use super::net::SimNet;
use super::{Clock, Config, Crash};
use crate::driver::{Operation, Token};

/// One operation of one core of one run of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OpKey {
    pub(crate) node: usize,
    pub(crate) boot: u32,
    pub(crate) core: usize,
    pub(crate) token: Token,
}

/// What is left to do when an operation completes.
#[derive(Debug)]
pub(crate) enum Rest {
    /// Fill the buffer with at most so many bytes.
    Read {
        file: Inode,
        most: usize,
    },
    /// End a change; the result is the number.
    End {
        started: Started,
        durable: bool,
        result: i32,
    },
    Sync {
        file: Inode,
        sync: SyncId,
    },
    /// Nothing; the result is known.
    Result(i32),
}

/// An open file.
#[derive(Clone, Copy)]
pub(crate) struct Handle {
    pub(crate) inode: Inode,
    pub(crate) node: usize,
    pub(crate) direct: bool,
    pub(crate) read: bool,
    pub(crate) write: bool,
}

pub(crate) struct Host {
    pub(crate) disk: SimDisk,
    pub(crate) clock: Clock,
    /// Factor on the time of every disk operation.
    pub(crate) disk_slower: u64,
    /// Number of times that a process was started.
    pub(crate) boot: u32,
    pub(crate) paused: bool,
    /// Polls, completions and blocking calls of the present run.
    pub(crate) steps: u64,
    /// The step before which it is to die.
    pub(crate) crash_at: Option<(u64, Crash)>,
}

impl Host {
    pub(crate) fn new(disk: SimDisk) -> Host {
        Host {
            disk,
            clock: Clock::default(),
            disk_slower: 1,
            boot: 0,
            paused: false,
            steps: 0,
            crash_at: None,
        }
    }

    pub(crate) fn crash_is_due(&self) -> bool {
        self.crash_at.is_some_and(|(step, _)| self.steps >= step)
    }
}

pub(crate) struct State {
    pub(crate) seed: u64,
    pub(crate) config: Config,
    pub(crate) now: u64,
    pub(crate) hosts: Vec<Host>,
    pub(crate) net: SimNet,
    pub(crate) handles: BTreeMap<i32, Handle>,
    pub(crate) handle_next: i32,
    pub(crate) fatal: Option<(String, u8)>,
    /// Whether a task is being polled, and not dropped: only then can a blocking call be where its
    /// node dies.
    pub(crate) polling: bool,
    due: BTreeMap<(u64, u64), (OpKey, Rest)>,
    sequence: u64,
    dice: Dice,
    pub(crate) hash: TraceHash,
    pub(crate) log: Log,
}

impl State {
    pub(crate) fn new(seed: u64, config: Config) -> State {
        State {
            seed,
            net: SimNet::new(config.net.clone(), seed),
            now: 0,
            hosts: Vec::new(),
            handles: BTreeMap::new(),
            handle_next: 1000,
            fatal: None,
            polling: false,
            due: BTreeMap::new(),
            sequence: 0,
            dice: Dice::new(seed, "operations"),
            hash: TraceHash::new(),
            log: Log::default(),
            config,
        }
    }

    pub(crate) fn disk(&mut self, node: usize) -> &mut SimDisk {
        &mut self.hosts[node].disk
    }

    /// Time of day on a node.
    pub(crate) fn wall_clock(&self, node: usize) -> u64 {
        self.hosts[node].clock.read(self.now)
    }

    // ---- operations ----

    /// Takes an operation; its completion is in the queue when this returns.
    pub(crate) fn submit(&mut self, key: OpKey, operation: &Operation) {
        match operation {
            Operation::Connect { socket, address } => match address.address() {
                Ok(address) => self.net.connect(self.now, socket.id.0, address, key),
                Err(_) => self.schedule(key, 0, Rest::Result(-libc::EAFNOSUPPORT)),
            },
            Operation::Send { socket, data, sent } => {
                self.net.send(self.now, socket.id.0, data[*sent..].to_vec(), key);
            }
            Operation::SendFrozen { socket, parts, first, sent } => {
                let mut bytes = parts[*first][*sent..].to_vec();
                parts[first + 1..].iter().for_each(|part| bytes.extend_from_slice(part));
                self.net.send(self.now, socket.id.0, bytes, key);
            }
            Operation::Read { file, .. }
            | Operation::Write { file, .. }
            | Operation::Sync { file }
            | Operation::Allocate { file, .. }
            | Operation::Discard { file, .. } => {
                let (rest, bytes) = match self.handles.get(&file.id.0).copied() {
                    Some(handle) => self.start(handle, operation),
                    None => (Rest::Result(-libc::EBADF), 0),
                };
                self.schedule(key, bytes, rest);
            }
        }
    }

    /// Does what an operation on a file does at once, and says what is left for its end.
    fn start(&mut self, handle: Handle, operation: &Operation) -> (Rest, usize) {
        let file = handle.inode;
        let error = |error: std::io::Error| {
            Rest::Result(-error.raw_os_error().expect("the disk answers with error numbers"))
        };
        match operation {
            Operation::Read { buffer, filled, offset, .. } => {
                let wanted = buffer.len() - filled;
                if let Some(refused) = refuse(handle, handle.read, offset + *filled as u64, wanted)
                {
                    return (refused, 0);
                }
                let most = self.shorten(wanted);
                (Rest::Read { file, most }, most)
            }
            Operation::Write { data, written, offset, durable, .. } => {
                let at = offset + *written as u64;
                let wanted = data.len() - written;
                if let Some(refused) = refuse(handle, handle.write, at, wanted) {
                    return (refused, 0);
                }
                let count = self.shorten(wanted);
                let piece = &data[*written..written + count];
                let started = self.disk(handle.node).write_start(file, at, piece);
                let rest = started.map_or_else(error, |started| {
                    let result = i32::try_from(count).expect("a write is below 2 GiB");
                    Rest::End { started, durable: *durable, result }
                });
                (rest, count)
            }
            Operation::Sync { .. } => {
                (Rest::Sync { file, sync: self.disk(handle.node).sync_start(file) }, 0)
            }
            Operation::Allocate { offset, length, .. } => {
                let end = offset + length;
                if self.disk(handle.node).length(file) >= end {
                    return (Rest::Result(0), 0);
                }
                let started = self.disk(handle.node).change_start(file, Change::SetLength(end));
                let end = |started| Rest::End { started, durable: false, result: 0 };
                (started.map_or_else(error, end), 0)
            }
            Operation::Discard { offset, length, .. } => {
                let change = Change::Discard { offset: *offset, length: *length };
                let started = self.disk(handle.node).change_start(file, change);
                let end = |started| Rest::End { started, durable: false, result: 0 };
                (started.map_or_else(error, end), 0)
            }
            Operation::Connect { .. } | Operation::Send { .. } | Operation::SendFrozen { .. } => {
                unreachable!("operations on sockets go to the network")
            }
        }
    }

    /// Sometimes fewer bytes than asked for, in whole sectors: what is above has to go on.
    fn shorten(&mut self, wanted: usize) -> usize {
        let sectors = (wanted / SECTOR) as u64;
        if sectors > 1 && self.dice.chance(self.config.short_io) {
            self.dice.between(1, sectors - 1) as usize * SECTOR
        } else {
            wanted
        }
    }

    fn schedule(&mut self, key: OpKey, bytes: usize, rest: Rest) {
        let timing = &self.config.disk_timing;
        let base = match &rest {
            Rest::Read { .. } => timing.read,
            Rest::End { durable: false, .. } => timing.write,
            Rest::End { durable: true, .. } => timing.write_durable,
            Rest::Sync { .. } => timing.sync,
            Rest::Result(_) => timing.read / 10,
        };
        let base = base.as_nanos() as u64 + bytes as u64 * timing.per_byte_ns;
        let mut time = self.dice.between(base / 2, base + base / 2);
        if self.dice.chance(timing.tail) {
            time <<= self.dice.between(1, 8);
        }
        if self.hosts[key.node].disk.is_slow() {
            time *= 100;
        }
        self.complete_at(self.now + time * self.hosts[key.node].disk_slower, key, rest);
    }

    fn complete_at(&mut self, time: u64, key: OpKey, rest: Rest) {
        self.sequence += 1;
        self.due.insert((time, self.sequence), (key, rest));
    }

    /// Asks for an early end: what waits on the network ends, a disk finishes what it has begun.
    pub(crate) fn cancel(&mut self, key: OpKey) {
        if self.net.cancel(key) {
            self.complete_at(self.now, key, Rest::Result(-libc::ECANCELED));
        }
    }

    /// When the next completion or packet is due.
    pub(crate) fn next_event(&self) -> Option<u64> {
        let disk = self.due.keys().next().map(|(time, _)| *time);
        disk.into_iter().chain(self.net.next_event()).min()
    }

    /// Takes one completion that is due. Those of paused nodes come later.
    pub(crate) fn take_due(&mut self) -> Option<(OpKey, Rest)> {
        self.net.advance(self.now);
        for (key, result) in self.net.take_done() {
            self.complete_at(self.now, key, Rest::Result(result));
        }
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (key, rest) = entry.remove();
            let host = &self.hosts[key.node];
            assert_eq!(host.boot, key.boot, "a dead process has nothing in flight");
            if host.paused {
                let later = self.now + PAUSE_STEP.as_nanos() as u64;
                self.complete_at(later, key, rest);
                continue;
            }
            return Some((key, rest));
        }
        None
    }

    /// Ends an operation: does what was left and gives its result.
    pub(crate) fn finish(&mut self, key: OpKey, rest: Rest, operation: &mut Operation) -> i32 {
        let errno = |error: std::io::Error| {
            -error.raw_os_error().expect("the disk answers with error numbers")
        };
        let name = rest.name();
        let disk = self.disk(key.node);
        let result = match (rest, operation) {
            (Rest::Read { file, most }, Operation::Read { buffer, filled, offset, .. }) => {
                let target = &mut buffer[*filled..*filled + most];
                let read = disk.read(file, *offset + *filled as u64, target);
                read.map_or_else(errno, |count| {
                    i32::try_from(count).expect("a read is below 2 GiB")
                })
            }
            (Rest::Read { .. }, _) => unreachable!("only reads fill buffers"),
            (Rest::End { started, durable, result }, _) => {
                disk.write_end(&started, durable).map_or_else(errno, |()| result)
            }
            (Rest::Sync { file, sync }, _) => disk.sync_end(file, sync).map_or_else(errno, |()| 0),
            (Rest::Result(result), _) => result,
        };
        self.happened(key.node, Happened::Completed { core: key.core, name, result });
        result
    }

    /// Forgets what was in flight on a node; its process is gone.
    pub(crate) fn node_gone(&mut self, node: usize) {
        self.due.retain(|_, (key, _)| key.node != node);
        self.handles.retain(|_, handle| handle.node != node);
    }

    /// Adds to the trace hash and to the log of what happened last.
    pub(crate) fn happened(&mut self, node: usize, what: Happened) {
        let (kind, first, second) = what.words();
        for word in [kind, node as u64, first, second, self.now] {
            self.hash.add(word);
        }
        self.log.push(self.now, node, what);
    }
}

impl Rest {
    fn name(&self) -> &'static str {
        match self {
            Rest::Read { .. } => "read",
            Rest::End { durable: true, .. } => "durable write",
            Rest::End { durable: false, .. } => "write",
            Rest::Sync { .. } => "sync",
            Rest::Result(_) => "operation",
        }
    }
}

/// The granularity of short transfers and of direct I/O.
pub(crate) const SECTOR: usize = 512;

/// How often a paused node is looked at again.
pub(crate) const PAUSE_STEP: Duration = Duration::from_millis(1);

/// What a kernel says at once: wrong mode, unaligned direct I/O.
fn refuse(handle: Handle, allowed: bool, offset: u64, length: usize) -> Option<Rest> {
    let aligned = offset.is_multiple_of(SECTOR as u64) && length.is_multiple_of(SECTOR);
    if !allowed {
        Some(Rest::Result(-libc::EBADF))
    } else if handle.direct && !aligned {
        Some(Rest::Result(-libc::EINVAL))
    } else {
        None
    }
}

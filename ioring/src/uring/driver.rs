//! The driver of one core: operations become requests on its ring, completions become results.
//!
//! What a completion belongs to stands in its user data:
//!
//! ```text
//! bit 63 … 60   59 … 32      31 … 0
//! kind          generation   slot (of the operation or the socket)
//! ```
//!
//! # Invariants
//!
//! * What a request points to lives in the core's slab of operations (or in this driver, or in the
//!   receive buffers) until its last completion: dropping a driver first drains its ring.
//! * Cells are borrowed only within a call, and no waker is called meanwhile.

#![expect(unsafe_code, reason = "requests carry pointers to memory that the slab keeps")]

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Poll, Waker};

use io_uring::{cqueue, opcode, squeue, types};

use super::durable::{DurableWrites, LOT};
use super::message::Messages;
use super::provided::Provided;
use super::registered::Registered;
use super::ring::{Ring, Woken};
use super::runtime::Config;
use super::sockets::{Ask, SocketKey, Sockets};
use super::{disk, socket_calls};
use crate::buffer::Region;
use crate::clock;
use crate::core::Core;
use crate::driver::{Driver, FileId, OpenedFile, Operation, Released, SocketId, Token};
use crate::fatal::{self, Fatal};
use crate::file::{FileHandle, OpenOptions};
use crate::fs::{Metadata, real};
use crate::net::{ListenOptions, RecvBuffer, Side};
use crate::time::{Instant, WallClock};
use crate::waker::SeatId;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Operation = 1,
    Socket = 2,
    Bell = 3,
    Cancel = 4,
    DurableWrite = 5,
}

fn kind_of(operation: &Operation) -> Kind {
    match operation {
        Operation::Write { durable: true, .. } => Kind::DurableWrite,
        _ => Kind::Operation,
    }
}

fn user_data(kind: Kind, slot: u32, generation: u32) -> u64 {
    assert!(generation < 1 << 28, "generation {generation} does not fit");
    (kind as u64) << 60 | u64::from(generation) << 32 | u64::from(slot)
}

/// See the module.
pub(super) struct UringDriver {
    ring: RefCell<Ring>,
    sockets: RefCell<Sockets>,
    provided: Rc<Provided>,
    messages: RefCell<Messages>,
    registered: RefCell<Registered>,
    durable: DurableWrites,
    /// Reads of files that were queued since requests were last handed over.
    reads_queued: Cell<u32>,
    bell: Cell<i32>,
    /// Where the kernel writes the event counter; boxed, so that it stays where it is.
    bell_count: Box<Cell<u64>>,
    reaped: RefCell<Vec<cqueue::Entry>>,
}

/// Reads of files that are handed to the kernel without waiting for the end of the turn.
/// Completions come together, and each is worked on for microseconds before the task that got it
/// reads on: were all new reads handed over at the end, the disk would have nothing to do
/// meanwhile, and the next completions would come together again. One that is alone is left to the
/// end, where a call into the kernel is made anyway.
const READS_LOT: u32 = 2;

/// Completions taken from the ring in one go.
const REAP_MAX: usize = 512;

impl UringDriver {
    /// Takes over a ring that the calling thread enabled.
    pub(super) fn new(ring: Ring, provided: Provided, config: &Config) -> UringDriver {
        let registered = Registered::new(ring.ring(), config.registered_memory);
        let multishot_receive = config.multishot_receive && ring.has_multishot_receive();
        UringDriver {
            registered: RefCell::new(registered),
            ring: RefCell::new(ring),
            sockets: RefCell::new(Sockets::new(multishot_receive)),
            provided: Rc::new(provided),
            messages: RefCell::default(),
            durable: DurableWrites::default(),
            reads_queued: Cell::new(0),
            bell: Cell::new(-1),
            bell_count: Box::new(Cell::new(0)),
            reaped: RefCell::new(Vec::with_capacity(REAP_MAX)),
        }
    }

    /// Listens for the bell of the core's seat from now on.
    pub(super) fn attach(&self, seat: SeatId) -> io::Result<()> {
        self.bell.set(seat.seat().bell()?);
        self.arm_bell();
        Ok(())
    }

    fn arm_bell(&self) {
        let place = self.bell_count.as_ptr().cast::<u8>();
        let entry = opcode::Read::new(types::Fd(self.bell.get()), place, 8).build();
        self.push(&entry.user_data(user_data(Kind::Bell, 0, 0)));
    }

    /// Hands all queued requests to the kernel in the middle of a turn.
    fn hand_over(&self) {
        self.reads_queued.set(0);
        let handed_over = self.ring.borrow_mut().flush(u32::MAX);
        handed_over.unwrap_or_else(|error| ring_failed(&error));
    }

    /// Queues a request. Everything it points to is kept as the module says.
    fn push(&self, entry: &squeue::Entry) {
        // SAFETY: operations, with their buffers, stay in the slab until they complete; message
        // headers, the bell's counter and receive buffers stay in the driver until it is drained.
        let pushed = unsafe { self.ring.borrow_mut().push(entry) };
        pushed.unwrap_or_else(|error| ring_failed(&error));
    }

    fn ask(&self, ask: Ask) {
        match ask {
            Ask::Nothing => {}
            Ask::Arm(entry, key) => {
                let name = user_data(Kind::Socket, key.slot, key.generation);
                self.push(&entry.user_data(name));
            }
            Ask::Cancel(key) => {
                self.cancel_named(user_data(Kind::Socket, key.slot, key.generation));
            }
        }
    }

    fn cancel_named(&self, name: u64) {
        let entry = opcode::AsyncCancel::new(name).build();
        self.push(&entry.user_data(user_data(Kind::Cancel, 0, 0)));
    }

    /// Gives buffers that came back to the receives that wait for them.
    pub(super) fn feed_starved(&self) {
        if self.sockets.borrow().is_starved() && !self.provided.is_lending() {
            self.sockets.borrow_mut().detach_unread();
        }
        while self.sockets.borrow().is_starved() && self.provided.is_lending() {
            let ask = self.sockets.borrow_mut().feed_starved();
            let Some(ask) = ask else { return };
            self.ask(ask);
        }
    }

    /// Hands queued requests to the kernel, if there are any, and has it process completions.
    pub(super) fn flush(&self) {
        self.reads_queued.set(0);
        let mut ring = self.ring.borrow_mut();
        if ring.needs_enter() {
            let lot = if self.durable.any() { LOT } else { u32::MAX };
            ring.flush(lot).unwrap_or_else(|error| ring_failed(&error));
        }
    }

    /// Hands queued requests to the kernel and sleeps until something completes.
    pub(super) fn wait(&self, limit: Option<std::time::Duration>) -> Woken {
        self.reads_queued.set(0);
        let mut ring = self.ring.borrow_mut();
        let woken = if self.durable.any() && ring.queued() > LOT {
            ring.flush(LOT).map(|()| Woken::Completions)
        } else {
            ring.wait(limit)
        };
        woken.unwrap_or_else(|error| ring_failed(&error))
    }

    /// Until when it pays to look for completions instead of sleeping.
    pub(super) fn look_until(&self) -> Option<Instant> {
        self.durable.look_until()
    }

    pub(super) fn has_completions(&self) -> bool {
        self.ring.borrow_mut().has_completions()
    }

    /// Delivers all completions that are there. The core has to be installed.
    pub(super) fn deliver(&self, core: &Core) {
        loop {
            let mut reaped = self.reaped.take();
            self.ring.borrow_mut().reap(&mut reaped);
            let count = reaped.len();
            for completion in reaped.drain(..) {
                self.deliver_one(core, &completion);
            }
            self.reaped.replace(reaped);
            let counters = &core.counters;
            counters.completions.set(counters.completions.get() + count as u64);
            if count < REAP_MAX {
                return;
            }
        }
    }

    fn deliver_one(&self, core: &Core, completion: &cqueue::Entry) {
        let data = completion.user_data();
        let (slot, generation) = (data as u32, (data >> 32) as u32 & ((1 << 28) - 1));
        match (data >> 60) as u8 {
            kind if kind == Kind::Operation as u8 => {
                self.messages.borrow_mut().give_back(slot);
                core.complete(Token { slot, generation }, completion.result());
            }
            kind if kind == Kind::DurableWrite as u8 => {
                self.durable.on_complete(clock::system_now());
                core.complete(Token { slot, generation }, completion.result());
            }
            kind if kind == Kind::Socket as u8 => {
                let key = SocketKey { slot, generation };
                let mut sockets = self.sockets.borrow_mut();
                let (waker, ask) = sockets.complete(key, completion, &self.provided);
                drop(sockets);
                self.ask(ask);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            kind if kind == Kind::Bell as u8 => {
                if completion.result() != -libc::ECANCELED {
                    self.arm_bell();
                } else {
                    self.bell.set(-1);
                }
            }
            kind => assert_eq!(kind, Kind::Cancel as u8, "completion of nothing: {data:#x}"),
        }
    }

    /// Copies what is counted here to the core's counters.
    pub(super) fn count(&self, core: &Core) {
        let ring = self.ring.borrow();
        core.counters.enters.set(ring.enters);
        core.counters.sleeps.set(ring.sleeps);
        core.counters.submissions.set(ring.submissions);
        let sockets = self.sockets.borrow();
        core.counters.receive_starved.set(sockets.starved_count);
        core.counters.receive_paused.set(sockets.paused_count);
    }

    /// Waits until the kernel is done with all memory it was given. All tasks are gone.
    pub(super) fn drain(&self, core: &Core) {
        core.cancel_operations();
        self.cancel_named(user_data(Kind::Bell, 0, 0));
        loop {
            self.deliver(core);
            let open = self.sockets.borrow().live();
            if core.operations_in_flight() == 0 && open == 0 && self.bell.get() < 0 {
                return;
            }
            self.wait(Some(std::time::Duration::from_millis(100)));
        }
    }

    fn entry(&self, token: Token, operation: &Operation) -> squeue::Entry {
        match operation {
            Operation::Read { file, .. }
            | Operation::Write { file, .. }
            | Operation::Sync { file }
            | Operation::Allocate { file, .. }
            | Operation::Discard { file, .. } => {
                let (target, flags) = self.target(file);
                self.file_entry(operation, file, target).flags(flags)
            }
            Operation::Connect { socket, address } => {
                opcode::Connect::new(self.descriptor(socket.id), address.as_ptr(), address.length())
                    .build()
            }
            Operation::Send { socket, data, sent } => {
                let rest = &data[*sent..];
                opcode::Send::new(self.descriptor(socket.id), rest.as_ptr(), length(rest))
                    .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
                    .build()
            }
            Operation::SendFrozen { socket, parts, first, sent } => {
                let descriptor = self.descriptor(socket.id);
                let mut messages = self.messages.borrow_mut();
                let (message, is_all) = messages.fill(token.slot, &parts[*first..], *sent);
                let more = if is_all { libc::MSG_WAITALL } else { libc::MSG_MORE };
                opcode::SendMsg::new(descriptor, message)
                    .flags((libc::MSG_NOSIGNAL | more) as u32)
                    .build()
            }
        }
    }

    fn file_entry(
        &self,
        operation: &Operation,
        file: &FileHandle,
        target: types::Fd,
    ) -> squeue::Entry {
        match operation {
            Operation::Read { buffer, filled, offset, .. } => {
                let rest = &buffer[*filled..];
                let (place, offset) = (rest.as_ptr().cast_mut(), offset + *filled as u64);
                match self.place(file, buffer.region()) {
                    Some(index) => opcode::ReadFixed::new(target, place, length(rest), index)
                        .offset(offset)
                        .build(),
                    None => opcode::Read::new(target, place, length(rest)).offset(offset).build(),
                }
            }
            Operation::Write { data, written, offset, durable, .. } => {
                let rest = &data[*written..];
                let offset = offset + *written as u64;
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                match self.place(file, data.region()) {
                    Some(index) => {
                        opcode::WriteFixed::new(target, rest.as_ptr(), length(rest), index)
                            .offset(offset)
                            .rw_flags(flags)
                            .build()
                    }
                    None => opcode::Write::new(target, rest.as_ptr(), length(rest))
                        .offset(offset)
                        .rw_flags(flags)
                        .build(),
                }
            }
            Operation::Sync { .. } => {
                opcode::Fsync::new(target).flags(types::FsyncFlags::DATASYNC).build()
            }
            Operation::Allocate { offset, length, .. } => {
                opcode::Fallocate::new(target, *length).offset(*offset).build()
            }
            Operation::Discard { offset, length, .. } => opcode::Fallocate::new(target, *length)
                .offset(*offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
            _ => unreachable!("only operations on files come here"),
        }
    }

    /// How requests name a file: by its number if it is registered, else by its descriptor.
    fn target(&self, file: &FileHandle) -> (types::Fd, squeue::Flags) {
        let registered = self.registered.borrow();
        let number = file.id.0 as u32;
        if registered.is_registered(number) {
            return (types::Fd(file.id.0), squeue::Flags::FIXED_FILE);
        }
        (types::Fd(registered.descriptor(number)), squeue::Flags::empty())
    }

    /// Where the memory of a transfer is registered. Buffered files copy: it would gain nothing.
    fn place(&self, file: &FileHandle, region: Option<Region>) -> Option<u16> {
        let region = region.filter(|_| file.direct)?;
        self.registered.borrow_mut().place(self.ring.borrow().ring(), region)
    }

    fn file_descriptor(&self, file: FileId) -> i32 {
        self.registered.borrow().descriptor(file.0 as u32)
    }

    fn descriptor(&self, socket: SocketId) -> types::Fd {
        types::Fd(self.sockets.borrow().descriptor(socket.0 as u32))
    }
}

/// Bytes that one request moves; the rest is asked for again.
fn length(bytes: &[u8]) -> u32 {
    const LENGTH_MAX: usize = 1 << 30;
    bytes.len().min(LENGTH_MAX) as u32
}

/// The ring is how this process does everything; if the kernel refuses it there is nothing left.
fn ring_failed(error: &io::Error) -> ! {
    fatal::exit(&Fatal::Environment(format!("io_uring stopped working: {error}")))
}

impl Driver for UringDriver {
    fn now(&self) -> Instant {
        clock::system_now()
    }

    fn wall_clock(&self) -> WallClock {
        clock::system_wall_clock()
    }

    fn random_seed(&self, _purpose: &str) -> [u8; 32] {
        crate::random::entropy()
    }

    fn fatal(&self, reason: &Fatal) -> ! {
        fatal::exit(reason)
    }

    fn submit(&self, token: Token, operation: &Operation) {
        let entry = self.entry(token, operation);
        let kind = kind_of(operation);
        self.push(&entry.user_data(user_data(kind, token.slot, token.generation)));
        let is_read = matches!(operation, Operation::Read { .. });
        self.reads_queued.set(self.reads_queued.get() + u32::from(is_read));
        if kind == Kind::DurableWrite {
            self.durable.on_submit(clock::system_now());
            self.hand_over();
        } else if self.reads_queued.get() >= READS_LOT {
            self.hand_over();
        }
    }

    fn cancel(&self, token: Token) {
        // A durable write has another name and is not found: it ends by itself.
        self.cancel_named(user_data(Kind::Operation, token.slot, token.generation));
    }

    fn open(&self, path: &Path, options: &OpenOptions) -> io::Result<OpenedFile> {
        let (descriptor, direct) = disk::open(path, options)?;
        let mut registered = self.registered.borrow_mut();
        let number = registered.insert_file(self.ring.borrow().ring(), descriptor);
        Ok(OpenedFile { id: FileId(number as i32), direct })
    }

    fn close(&self, file: FileId) {
        let mut registered = self.registered.borrow_mut();
        let descriptor = registered.remove_file(self.ring.borrow().ring(), file.0 as u32);
        socket_calls::close(descriptor);
    }

    fn length(&self, file: FileId) -> io::Result<u64> {
        disk::length(self.file_descriptor(file))
    }

    fn set_length(&self, file: FileId, length: u64) -> io::Result<()> {
        disk::set_length(self.file_descriptor(file), length)
    }

    fn try_lock(&self, file: FileId) -> io::Result<bool> {
        disk::try_lock(self.file_descriptor(file))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        real::create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        real::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        real::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        real::remove_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        real::read_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        real::sync_dir(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        real::metadata(path)
    }

    fn read_small(&self, path: &Path) -> io::Result<Vec<u8>> {
        real::read_small(path)
    }

    fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        real::write_small(path, bytes)
    }

    fn listen(
        &self,
        address: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<(SocketId, SocketAddr)> {
        let (descriptor, bound) = socket_calls::listen(address, options)?;
        let slot = self.sockets.borrow_mut().insert_listener(descriptor);
        Ok((SocketId(slot as i32), bound))
    }

    fn poll_accept(
        &self,
        listener: SocketId,
        waker: &Waker,
    ) -> Poll<io::Result<(SocketId, SocketAddr)>> {
        let (poll, ask) = self.sockets.borrow_mut().poll_accept(listener.0 as u32, waker);
        self.ask(ask);
        poll.map_ok(|descriptor| {
            let mut sockets = self.sockets.borrow_mut();
            let slot = sockets.insert_stream(descriptor);
            // A peer that is gone already has no address any more; reading will show its end.
            let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
            (SocketId(slot as i32), sockets.peer(slot).unwrap_or(nowhere))
        })
    }

    fn release_socket(&self, socket: SocketId) -> Released {
        Released::Descriptor(self.sockets.borrow_mut().release(socket.0 as u32))
    }

    fn adopt_socket(&self, released: Released) -> SocketId {
        match released {
            Released::Descriptor(descriptor) => {
                let descriptor = descriptor.into_raw_fd();
                SocketId(self.sockets.borrow_mut().insert_stream(descriptor) as i32)
            }
            Released::Simulated(_) => unreachable!("the kernel gave out a descriptor"),
        }
    }

    fn open_socket(&self, address: SocketAddr) -> io::Result<SocketId> {
        let descriptor = socket_calls::stream(address)?;
        Ok(SocketId(self.sockets.borrow_mut().insert_stream(descriptor) as i32))
    }

    fn poll_receive(&self, socket: SocketId, waker: &Waker) -> Poll<io::Result<RecvBuffer>> {
        let (poll, ask) = self.sockets.borrow_mut().poll_receive(socket.0 as u32, waker);
        self.ask(ask);
        poll
    }

    fn pause_receive(&self, socket: SocketId) {
        let ask = self.sockets.borrow_mut().pause(socket.0 as u32);
        self.ask(ask);
    }

    fn shutdown(&self, socket: SocketId, side: Side) -> io::Result<()> {
        socket_calls::shutdown(self.sockets.borrow().descriptor(socket.0 as u32), side)
    }

    fn set_silence_max(&self, socket: SocketId, limit: std::time::Duration) -> io::Result<()> {
        let descriptor = self.sockets.borrow().descriptor(socket.0 as u32);
        socket_calls::set_silence_max(descriptor, limit)
    }

    fn close_socket(&self, socket: SocketId) {
        let ask = self.sockets.borrow_mut().close(socket.0 as u32);
        self.ask(ask);
    }
}

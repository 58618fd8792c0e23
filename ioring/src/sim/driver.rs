//! The driver of one simulated core: every call goes to the state that all cores of the world
//! share.
//!
//! A driver belongs to one run (boot) of its node. What outlives that run, a file handle kept by a
//! test for one, finds its descriptors gone and is ignored, as a kernel ignores the dead.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::dice::Dice;
use super::disk::{Change, SimDisk};
use super::log::Happened;
use super::state::{Handle, OpKey, State};
use crate::driver::{Driver, FileId, OpenedFile, Operation, Released, SocketId, Token};
use crate::fatal::Fatal;
use crate::file::{Direct, OpenOptions};
use crate::fs::Metadata;
use crate::net::{ListenOptions, RecvBuffer, Side};
use crate::time::{Instant, WallClock};

pub(crate) struct SimDriver {
    pub(crate) state: Rc<RefCell<State>>,
    pub(crate) node: usize,
    pub(crate) boot: u32,
    pub(crate) core: usize,
    /// How often each purpose asked for a seed.
    pub(crate) seeds: RefCell<BTreeMap<String, u64>>,
}

/// What unwinds through a task whose node ended itself.
pub(crate) struct NodeEnded;

impl SimDriver {
    fn key(&self, token: Token) -> OpKey {
        OpKey { node: self.node, boot: self.boot, core: self.core, token }
    }

    fn is_alive(&self) -> bool {
        self.state.borrow().hosts[self.node].boot == self.boot
    }

    /// A blocking call: a step of its own, before which the node can die.
    fn call<R>(
        &self,
        name: &'static str,
        f: impl FnOnce(&mut State) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut state = self.state.borrow_mut();
        let can_unwind = cfg!(panic = "unwind") && state.polling && !std::thread::panicking();
        let host = &mut state.hosts[self.node];
        if host.boot != self.boot {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if host.crash_is_due() && can_unwind {
            // What is dropped on the way out finds a dead kernel.
            host.boot += 1;
            drop(state);
            std::panic::resume_unwind(Box::new(NodeEnded));
        }
        host.steps += 1;
        state.happened(self.node, Happened::Called { core: self.core, name });
        f(&mut state)
    }

    fn call_disk<R>(
        &self,
        name: &'static str,
        f: impl FnOnce(&mut SimDisk) -> io::Result<R>,
    ) -> io::Result<R> {
        self.call(name, |state| f(state.disk(self.node)))
    }

    fn handle(&self, file: FileId) -> io::Result<Handle> {
        let state = self.state.borrow();
        let handle = state.handles.get(&file.0).copied();
        handle.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

impl Driver for SimDriver {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.state.borrow().now)
    }

    fn wall_clock(&self) -> WallClock {
        WallClock(self.state.borrow().wall_clock(self.node))
    }

    fn random_seed(&self, purpose: &str) -> [u8; 32] {
        let mut seeds = self.seeds.borrow_mut();
        let count = seeds.entry(purpose.to_owned()).or_default();
        *count += 1;
        let name = format!("{purpose}/{}/{}/{}/{count}", self.node, self.boot, self.core);
        let mut dice = Dice::new(self.state.borrow().seed, &name);
        let mut seed = [0; 32];
        seed.chunks_mut(8).for_each(|word| word.copy_from_slice(&dice.bits().to_le_bytes()));
        seed
    }

    fn fatal(&self, reason: &Fatal) -> ! {
        let mut state = self.state.borrow_mut();
        state.fatal = Some((reason.to_string(), reason.exit_status()));
        // What is dropped on the way out finds a dead kernel.
        state.hosts[self.node].boot += 1;
        drop(state);
        std::panic::resume_unwind(Box::new(NodeEnded))
    }

    fn submit(&self, token: Token, operation: &Operation) {
        if self.is_alive() {
            self.state.borrow_mut().submit(self.key(token), operation);
        }
    }

    fn cancel(&self, token: Token) {
        self.state.borrow_mut().cancel(self.key(token));
    }

    fn open(&self, path: &Path, options: &OpenOptions) -> io::Result<OpenedFile> {
        self.call("open", |state| {
            let direct = match options.direct {
                Direct::Off => false,
                Direct::Preferred => state.config.direct_io,
                Direct::Required if state.config.direct_io => true,
                Direct::Required => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
            };
            let disk = state.disk(self.node);
            let inode = disk.open(path, options.create, options.create_new)?;
            state.handle_next += 1;
            let id = state.handle_next;
            let (read, write) = (options.read, options.write);
            state.handles.insert(id, Handle { inode, node: self.node, direct, read, write });
            Ok(OpenedFile { id: FileId(id), direct })
        })
    }

    fn close(&self, file: FileId) {
        let mut state = self.state.borrow_mut();
        if state.handles.remove(&file.0).is_some() {
            state.disk(self.node).unlock(file.0 as u64);
        }
    }

    fn length(&self, file: FileId) -> io::Result<u64> {
        let handle = self.handle(file)?;
        Ok(self.state.borrow_mut().disk(handle.node).length(handle.inode))
    }

    fn set_length(&self, file: FileId, length: u64) -> io::Result<()> {
        let handle = self.handle(file)?;
        self.call_disk("set_length", |disk| {
            let started = disk.change_start(handle.inode, Change::SetLength(length))?;
            disk.write_end(&started, false)
        })
    }

    fn try_lock(&self, file: FileId) -> io::Result<bool> {
        let handle = self.handle(file)?;
        self.call_disk("try_lock", |disk| Ok(disk.try_lock(handle.inode, file.0 as u64)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.call_disk("create_dir", |disk| disk.create_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call_disk("rename", |disk| disk.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call_disk("remove_file", |disk| disk.remove_file(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.call_disk("remove_dir_all", |disk| disk.remove_dir_all(path))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.call_disk("read_dir", |disk| disk.read_dir(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call_disk("sync_dir", |disk| disk.sync_dir(path))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let (is_dir, length) = self.call_disk("metadata", |disk| disk.metadata(path))?;
        Ok(Metadata { length, is_dir })
    }

    fn read_small(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.call_disk("read_small", |disk| {
            let inode = disk.open(path, false, false)?;
            let mut bytes = vec![0; disk.length(inode) as usize];
            let count = disk.read(inode, 0, &mut bytes)?;
            bytes.truncate(count);
            Ok(bytes)
        })
    }

    fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // Four calls, as on a kernel: the node can die between any two of them.
        let inode = self.call_disk("write_small: open", |disk| {
            let inode = disk.open(path, true, false)?;
            let started = disk.change_start(inode, Change::SetLength(0))?;
            disk.write_end(&started, false).map(|()| inode)
        })?;
        self.call_disk("write_small: write", |disk| {
            let started = disk.write_start(inode, 0, bytes)?;
            disk.write_end(&started, false)
        })?;
        let sync = self.call_disk("write_small: sync", |disk| Ok(disk.sync_start(inode)))?;
        self.call_disk("write_small: synced", |disk| disk.sync_end(inode, sync))
    }

    fn listen(
        &self,
        address: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<(SocketId, SocketAddr)> {
        let mut state = self.state.borrow_mut();
        let listening =
            state.net.listen(self.node, address, options.reuse_port, options.backlog)?;
        Ok((SocketId(listening.0), listening.1))
    }

    fn poll_accept(
        &self,
        listener: SocketId,
        waker: &Waker,
    ) -> Poll<io::Result<(SocketId, SocketAddr)>> {
        let accepted = self.state.borrow_mut().net.poll_accept(listener.0, waker);
        accepted.map_ok(|(socket, address)| (SocketId(socket), address))
    }

    fn release_socket(&self, socket: SocketId) -> Released {
        Released::Simulated(socket)
    }

    fn adopt_socket(&self, released: Released) -> SocketId {
        match released {
            Released::Simulated(socket) => socket,
            Released::Descriptor(_) => unreachable!("the simulated kernel gave out a socket"),
        }
    }

    fn open_socket(&self, _address: SocketAddr) -> io::Result<SocketId> {
        Ok(SocketId(self.state.borrow_mut().net.open_socket(self.node)))
    }

    fn poll_receive(&self, socket: SocketId, waker: &Waker) -> Poll<io::Result<RecvBuffer>> {
        let mut state = self.state.borrow_mut();
        let now = state.now;
        let received = state.net.poll_receive(now, socket.0, waker);
        if let Poll::Ready(Ok(bytes)) = &received {
            let what = Happened::Received { core: self.core, bytes: bytes.len() };
            state.happened(self.node, what);
        }
        received.map_ok(RecvBuffer::owned)
    }

    fn pause_receive(&self, _socket: SocketId) {
        // Nothing is received ahead beyond the window, and that is bounded already.
    }

    fn shutdown(&self, socket: SocketId, side: Side) -> io::Result<()> {
        if !self.is_alive() {
            return Err(io::Error::from_raw_os_error(libc::ENOTCONN));
        }
        let mut state = self.state.borrow_mut();
        let now = state.now;
        let (read, write) = (side != Side::Write, side != Side::Read);
        state.net.shutdown(now, socket.0, read, write)
    }

    fn set_silence_max(&self, socket: SocketId, limit: Duration) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        let now = state.now;
        state.net.set_silence_max(now, socket.0, limit.as_nanos() as u64)
    }

    fn close_socket(&self, socket: SocketId) {
        // A dead kernel has closed, or forgotten, its sockets by itself.
        if self.is_alive() {
            let mut state = self.state.borrow_mut();
            let now = state.now;
            state.net.close(now, socket.0);
        }
    }
}

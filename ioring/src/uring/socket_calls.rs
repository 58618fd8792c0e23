//! The calls that make sockets.

#![expect(unsafe_code, reason = "calls libc")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::net::{ListenOptions, RawAddress, Side};

/// How long an address may be held by a process that died, and how often to look.
const BIND_RETRY_LIMIT: Duration = Duration::from_secs(5);
const BIND_RETRY_PAUSE: Duration = Duration::from_millis(20);

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A descriptor that is closed unless it is taken out.
struct Descriptor(i32);

impl Descriptor {
    fn into_raw(self) -> i32 {
        std::mem::ManuallyDrop::new(self).0
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        close(self.0);
    }
}

fn open(family: i32) -> io::Result<Descriptor> {
    // SAFETY: makes a new descriptor, touches no memory.
    let result = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    Ok(Descriptor(check(result)?))
}

fn set_option(descriptor: i32, level: i32, option: i32) -> io::Result<()> {
    set_value(descriptor, level, option, 1)
}

fn set_value(descriptor: i32, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is a live int of the size given.
    let result =
        unsafe { libc::setsockopt(descriptor, level, option, (&raw const value).cast(), size) };
    check(result).map(drop)
}

/// A socket to connect with; small writes are sent at once.
pub(super) fn stream(address: SocketAddr) -> io::Result<i32> {
    let socket = open(RawAddress::new(address).family())?;
    set_option(socket.0, libc::IPPROTO_TCP, libc::TCP_NODELAY)?;
    Ok(socket.into_raw())
}

/// A listening socket and the address it got. Accepted sockets inherit its options.
pub(super) fn listen(
    address: SocketAddr,
    options: &ListenOptions,
) -> io::Result<(i32, SocketAddr)> {
    let raw = RawAddress::new(address);
    let socket = open(raw.family())?;
    set_option(socket.0, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    if options.reuse_port {
        set_option(socket.0, libc::SOL_SOCKET, libc::SO_REUSEPORT)?;
    }
    set_option(socket.0, libc::IPPROTO_TCP, libc::TCP_NODELAY)?;
    let started = Instant::now();
    loop {
        // SAFETY: the address is live and of the length given.
        let result = unsafe { libc::bind(socket.0, raw.as_ptr(), raw.length()) };
        match check(result) {
            Ok(_) => break,
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && started.elapsed() < BIND_RETRY_LIMIT =>
            {
                std::thread::sleep(BIND_RETRY_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    // SAFETY: touches no memory.
    check(unsafe { libc::listen(socket.0, backlog) })?;
    let mut bound = RawAddress::empty();
    let (place, length) = (bound.as_mut_ptr(), bound.length_mut());
    // SAFETY: the kernel writes at most `length` bytes, which is the room there is.
    check(unsafe { libc::getsockname(socket.0, place, length) })?;
    Ok((socket.into_raw(), bound.address()?))
}

pub(super) fn peer_address(descriptor: i32) -> io::Result<SocketAddr> {
    let mut peer = RawAddress::empty();
    let (place, length) = (peer.as_mut_ptr(), peer.length_mut());
    // SAFETY: the kernel writes at most `length` bytes, which is the room there is.
    check(unsafe { libc::getpeername(descriptor, place, length) })?;
    peer.address()
}

pub(super) fn shutdown(descriptor: i32, side: Side) -> io::Result<()> {
    let how = match side {
        Side::Read => libc::SHUT_RD,
        Side::Write => libc::SHUT_WR,
        Side::Both => libc::SHUT_RDWR,
    };
    // SAFETY: touches no memory.
    check(unsafe { libc::shutdown(descriptor, how) }).map(drop)
}

/// Bytes that were sent and are not answered fail the connection after `limit`; without such bytes
/// the kernel asks three times within it.
pub(super) fn set_silence_max(descriptor: i32, limit: Duration) -> io::Result<()> {
    const QUESTIONS: i32 = 3;
    let limit = limit.max(Duration::from_secs(1));
    let milliseconds = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    let seconds = (milliseconds / 1000 / (QUESTIONS + 1)).max(1);
    set_value(descriptor, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds)?;
    set_value(descriptor, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, seconds)?;
    set_value(descriptor, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, QUESTIONS)?;
    set_value(descriptor, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, milliseconds)?;
    set_option(descriptor, libc::SOL_SOCKET, libc::SO_KEEPALIVE)
}

/// The descriptor as a value that closes it.
pub(super) fn owned(descriptor: i32) -> OwnedFd {
    // SAFETY: the caller owns the descriptor and gives it up.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

pub(super) fn close(descriptor: i32) {
    // SAFETY: the caller owns the descriptor. Errors are of writes long past; nobody asks for them.
    unsafe { libc::close(descriptor) };
}

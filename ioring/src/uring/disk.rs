//! Opening files, and finding out what works on them.
//!
//! Whether direct I/O works is found by trying it: some file systems accept the flag and fail the
//! first transfer, others deny in `statx` what they can do. So the flag is set on the open file,
//! and one aligned block is read; no file is created on the way to an error.

#![expect(unsafe_code, reason = "calls libc")]

use std::fs::{File, OpenOptions as SystemOptions};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::buffer::{ALIGNMENT, Buffer};
use crate::file::{Direct, OpenOptions};

/// Opens a file; gives the descriptor and whether it is direct.
pub(super) fn open(path: &Path, options: &OpenOptions) -> io::Result<(i32, bool)> {
    let file = SystemOptions::new()
        .read(options.read)
        .write(options.write)
        .create(options.create)
        .create_new(options.create_new)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)?;
    if options.direct == Direct::Off {
        return Ok((file.into_raw_fd(), false));
    }
    match try_direct(&file, path, options) {
        Ok(()) => Ok((file.into_raw_fd(), true)),
        Err(_) if options.direct == Direct::Preferred => {
            set_direct(&file, false)?;
            Ok((file.into_raw_fd(), false))
        }
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!(
                "the file system has no direct I/O ({error}): put the directory on ext4, XFS or \
                 another file system that has it"
            ),
        )),
    }
}

fn try_direct(file: &File, path: &Path, options: &OpenOptions) -> io::Result<()> {
    set_direct(file, true)?;
    if options.read {
        return read_block(file);
    }
    let readable = File::open(path)?;
    set_direct(&readable, true)?;
    read_block(&readable)
}

fn set_direct(file: &File, on: bool) -> io::Result<()> {
    let descriptor = file.as_raw_fd();
    // SAFETY: reads and sets flags of an open descriptor, touches no memory.
    let result = unsafe {
        let flags = libc::fcntl(descriptor, libc::F_GETFL);
        let flags = if on { flags | libc::O_DIRECT } else { flags & !libc::O_DIRECT };
        libc::fcntl(descriptor, libc::F_SETFL, flags)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn read_block(file: &File) -> io::Result<()> {
    let mut block = Buffer::zeroed(ALIGNMENT);
    std::os::unix::fs::FileExt::read_at(file, &mut block, 0).map(drop)
}

/// Runs `f` on the file behind a descriptor without closing it.
fn with_file<R>(descriptor: i32, f: impl FnOnce(&File) -> R) -> R {
    // SAFETY: the descriptor is open for the length of this call, and is not closed by it.
    let file = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(descriptor) };
    f(&std::mem::ManuallyDrop::new(file))
}

pub(super) fn length(descriptor: i32) -> io::Result<u64> {
    with_file(descriptor, |file| file.metadata().map(|metadata| metadata.len()))
}

pub(super) fn set_length(descriptor: i32, length: u64) -> io::Result<()> {
    with_file(descriptor, |file| file.set_len(length))
}

/// Takes the exclusive lock of the open file, if nobody has it.
pub(super) fn try_lock(descriptor: i32) -> io::Result<bool> {
    // SAFETY: touches no memory.
    if unsafe { libc::flock(descriptor, libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}

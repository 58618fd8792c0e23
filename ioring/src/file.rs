//! Files: direct I/O with whole buffers, durable on request.
//!
//! Every transfer is one operation of the driver on a buffer that the operation owns, so dropping
//! the future while the kernel works is safe: the buffer stays until the kernel is done with it.
//! Short transfers are continued here, so a caller sees all of its bytes or an error.
//!
//! # Durability
//!
//! [`File::write`] is durable after a later [`File::sync`]; [`File::write_durable`] is durable when
//! it completes. On direct files it is one request with the data-sync flag, which on space that is
//! allocated and written already touches no metadata of the file system; on buffered files it is a
//! write followed by a sync.
//!
//! # Direct I/O
//!
//! A direct file takes only offsets, lengths and addresses that are multiples of the device's
//! block, at most 4 KiB; buffers of this crate are aligned. Whether direct I/O works is found by
//! trying it.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::buffer::{Buffer, Frozen};
use crate::core::Core;
use crate::driver::{Driver, FileId, Operation};
use crate::operation::InFlight;

/// Whether the page cache is bypassed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direct {
    /// Refuse to open the file if it cannot be.
    Required,
    /// Bypass it if that works; see [`File::is_direct`].
    Preferred,
    /// Use the page cache.
    #[default]
    Off,
}

/// How to open a file. The default opens nothing: set `read` or `write`.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Allow reading.
    pub read: bool,
    /// Allow writing.
    pub write: bool,
    /// Create the file if it is missing.
    pub create: bool,
    /// Create the file, and fail if it is there.
    pub create_new: bool,
    /// Bypass the page cache?
    pub direct: Direct,
}

/// What went wrong with which file.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {operation} {path}{place}: {source}",
    path = path.display(), place = Place(*offset)
)]
pub struct FileError {
    /// What was tried.
    pub operation: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// Where in it, in bytes, if that means anything.
    pub offset: Option<u64>,
    /// What the kernel said.
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn new(
        operation: &'static str,
        path: &Path,
        offset: Option<u64>,
        source: io::Error,
    ) -> FileError {
        FileError { operation, path: path.to_owned(), offset, source }
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> io::Error {
        io::Error::new(error.source.kind(), error)
    }
}

struct Place(Option<u64>);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |offset| write!(f, " at offset {offset}"))
    }
}

/// An open file as operations in flight hold it; closed when the last of them and the last [`File`]
/// are gone.
pub(crate) struct FileHandle {
    pub(crate) id: FileId,
    pub(crate) direct: bool,
    pub(crate) path: PathBuf,
    driver: Rc<dyn Driver>,
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        self.driver.close(self.id);
    }
}

/// An open file. Clones share it; it belongs to the core that opened it.
#[derive(Clone)]
pub struct File {
    handle: Rc<FileHandle>,
}

impl File {
    /// Opens a file. Blocks: for start-up.
    ///
    /// # Errors
    /// Those of the operating system; with [`Direct::Required`] also a file system that cannot
    /// bypass the page cache.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<File, FileError> {
        let driver = Core::with(|core| core.driver.clone());
        let opened = driver.open(path, options);
        let opened = opened.map_err(|error| FileError::new("open", path, None, error))?;
        let (id, direct) = (opened.id, opened.direct);
        Ok(File { handle: Rc::new(FileHandle { id, direct, path: path.to_owned(), driver }) })
    }

    /// Fills the buffer with the bytes from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before the buffer is full.
    pub async fn read(&self, buffer: Buffer, offset: u64) -> (io::Result<()>, Buffer) {
        let length = buffer.len();
        let (mut buffer, mut filled) = (buffer, 0);
        while filled < length {
            let file = self.handle.clone();
            let request = Operation::Read { file, buffer, filled, offset };
            let (result, operation) = InFlight::submit(request).await;
            let Operation::Read { buffer: returned, .. } = operation else {
                unreachable!("a read comes back as a read");
            };
            buffer = returned;
            match result {
                1.. => filled += result as usize,
                0 => {
                    let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return (Err(self.error("read", offset + filled as u64, error)), buffer);
                }
                _ if is_transient(result) => {}
                _ => {
                    let error = io::Error::from_raw_os_error(-result);
                    return (Err(self.error("read", offset + filled as u64, error)), buffer);
                }
            }
            assert!(filled <= length, "read {filled} of {length} bytes");
        }
        (Ok(()), buffer)
    }

    /// Writes all bytes at `offset`. Durable after a later [`File::sync`].
    pub async fn write(&self, data: Frozen, offset: u64) -> io::Result<()> {
        self.write_all(data, offset, false).await
    }

    /// Writes all bytes at `offset`, durable when this completes.
    pub async fn write_durable(&self, data: Frozen, offset: u64) -> io::Result<()> {
        if self.handle.direct {
            return self.write_all(data, offset, true).await;
        }
        self.write_all(data, offset, false).await?;
        self.sync().await
    }

    async fn write_all(&self, data: Frozen, offset: u64, durable: bool) -> io::Result<()> {
        let length = data.len();
        let (mut data, mut written) = (data, 0);
        while written < length {
            let file = self.handle.clone();
            let request = Operation::Write { file, data, written, offset, durable };
            let (result, operation) = InFlight::submit(request).await;
            let Operation::Write { data: returned, .. } = operation else {
                unreachable!("a write comes back as a write");
            };
            data = returned;
            match result {
                1.. => written += result as usize,
                _ if is_transient(result) => {}
                _ => {
                    let error = match result {
                        0 => io::ErrorKind::WriteZero.into(),
                        _ => io::Error::from_raw_os_error(-result),
                    };
                    return Err(self.error("write", offset + written as u64, error));
                }
            }
            assert!(written <= length, "wrote {written} of {length} bytes");
        }
        Ok(())
    }

    /// Makes all writes that completed before this call durable.
    pub async fn sync(&self) -> io::Result<()> {
        let (result, _) = InFlight::submit(Operation::Sync { file: self.handle.clone() }).await;
        self.check("sync", None, result)
    }

    /// Reserves space for a range; it reads as zeros until written. Extends the file if need be.
    pub async fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        let file = self.handle.clone();
        let (result, _) = InFlight::submit(Operation::Allocate { file, offset, length }).await;
        self.check("allocate space for", Some(offset), result)
    }

    /// Gives the space of a range back to the device; it reads as zeros. The length stays.
    pub async fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let file = self.handle.clone();
        let (result, _) = InFlight::submit(Operation::Discard { file, offset, length }).await;
        self.check("discard a range of", Some(offset), result)
    }

    /// Length in bytes.
    pub fn len(&self) -> io::Result<u64> {
        let length = self.handle.driver.length(self.handle.id);
        length.map_err(|error| FileError::new("measure", self.path(), None, error).into())
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|length| length == 0)
    }

    /// Cuts or extends (with zeros). Blocks: for start-up.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        let result = self.handle.driver.set_length(self.handle.id, length);
        result.map_err(|error| FileError::new("resize", self.path(), Some(length), error).into())
    }

    /// Takes the exclusive lock of the file, held until it is closed; `false` if another process
    /// (or another open of the file) holds it.
    pub fn try_lock(&self) -> io::Result<bool> {
        let locked = self.handle.driver.try_lock(self.handle.id);
        locked.map_err(|error| FileError::new("lock", self.path(), None, error).into())
    }

    /// Whether the page cache is bypassed.
    pub fn is_direct(&self) -> bool {
        self.handle.direct
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.handle.path
    }

    fn check(&self, operation: &'static str, offset: Option<u64>, result: i32) -> io::Result<()> {
        if result >= 0 {
            return Ok(());
        }
        let error = io::Error::from_raw_os_error(-result);
        Err(FileError::new(operation, self.path(), offset, error).into())
    }

    fn error(&self, operation: &'static str, offset: u64, error: io::Error) -> io::Error {
        FileError::new(operation, self.path(), Some(offset), error).into()
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let direct = if self.is_direct() { "direct" } else { "buffered" };
        write!(f, "File({}, {direct})", self.path().display())
    }
}

/// Interrupted before anything was done: the kernel asks to try again.
fn is_transient(result: i32) -> bool {
    result == -libc::EINTR || result == -libc::EAGAIN
}

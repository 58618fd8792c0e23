//! Files: direct I/O with whole buffers, durable on request.
//!
//! Every transfer is one operation of the driver on a buffer that the operation owns, so dropping the
//! future while the kernel works is safe: the buffer stays until the kernel is done with it. Short
//! transfers are continued here, so a caller sees all of its bytes or an error.
//!
//! # Durability
//!
//! [`File::write`] is durable after a later [`File::sync`]; [`File::write_durable`] is durable when it
//! completes. On direct files it is one request with the data-sync flag, which on space that is
//! allocated and written already touches no metadata of the file system; on buffered files it is a
//! write followed by a sync.
//!
//! # Direct I/O
//!
//! A direct file takes only offsets, lengths and addresses that are multiples of the device's block,
//! at most 4 KiB; buffers of this crate are aligned. Whether direct I/O works is found by trying it.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::driver::{Driver, FileId};

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

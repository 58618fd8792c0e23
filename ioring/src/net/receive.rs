//! Bytes on their way from a socket to its reader.

use std::ops::Deref;

use crate::uring::ProvidedBytes;

/// Bytes received, in a buffer of the core (or with memory of their own), which dropping gives
/// back. Hold one only as long as its bytes are being looked at: all connections of the core share
/// them.
pub struct RecvBuffer {
    bytes: Bytes,
}

enum Bytes {
    Owned(Vec<u8>),
    Provided(ProvidedBytes),
}

impl RecvBuffer {
    /// Bytes with memory of their own; empty for the end of the stream.
    pub(crate) fn owned(bytes: Vec<u8>) -> RecvBuffer {
        RecvBuffer { bytes: Bytes::Owned(bytes) }
    }

    pub(crate) fn provided(bytes: ProvidedBytes) -> RecvBuffer {
        RecvBuffer { bytes: Bytes::Provided(bytes) }
    }

    /// Moves the bytes out of the core's buffer, which goes back at once: for a reader that has to
    /// wait for something before it can look at the rest. Allocates.
    pub fn detach(&mut self) {
        if let Bytes::Provided(bytes) = &self.bytes {
            self.bytes = Bytes::Owned(bytes.to_vec());
        }
    }
}

impl Deref for RecvBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Owned(bytes) => bytes,
            Bytes::Provided(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for RecvBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecvBuffer({} bytes)", self.len())
    }
}

//! Fixed-size fields of a header's tail: how each newtype is written and read.
//!
//! A tail is read field by field into native integers: 128 bytes, a handful of fields, and the
//! reader checks enumerations on the way, which a cast over the bytes could not.

use crate::{
    CheckpointId, Checksum, ClientId, ClientTag, Epoch, ErrorCode, Incarnation, MapVersion, Op,
    Release, ReplicaId, RequestNumber, ShardId, Timestamp, View,
};

/// A value with a fixed little-endian encoding.
pub(crate) trait Field: Copy {
    /// Bytes it takes.
    const SIZE: usize;
    /// Writes exactly [`Self::SIZE`] bytes.
    fn write(self, bytes: &mut [u8]);
    /// Reads exactly [`Self::SIZE`] bytes; `None` when they are no such value.
    fn read(bytes: &[u8]) -> Option<Self>;
}

macro_rules! integer_fields {
    ($($int:ty),*) => {$(
        impl Field for $int {
            const SIZE: usize = size_of::<$int>();
            fn write(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            fn read(bytes: &[u8]) -> Option<Self> {
                Some(Self::from_le_bytes(bytes.try_into().ok()?))
            }
        }
    )*};
}

macro_rules! number_fields {
    ($($name:ident($int:ty)),* $(,)?) => {$(
        impl Field for $name {
            const SIZE: usize = size_of::<$int>();
            fn write(self, bytes: &mut [u8]) {
                self.0.write(bytes);
            }
            fn read(bytes: &[u8]) -> Option<Self> {
                <$int>::read(bytes).map($name)
            }
        }
    )*};
}

integer_fields!(u8, u16, u32, u64, i64, u128);
number_fields!(
    Op(u64),
    View(u32),
    ReplicaId(u8),
    Incarnation(u128),
    Timestamp(u64),
    ClientId(u128),
    RequestNumber(u64),
    ClientTag(u64),
    ShardId(u16),
    Release(u32),
    Epoch(u32),
    MapVersion(u64),
    CheckpointId(u128),
    Checksum(u128),
);

impl Field for ErrorCode {
    const SIZE: usize = 2;
    fn write(self, bytes: &mut [u8]) {
        (self as u16).write(bytes);
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        ErrorCode::from_u16(u16::read(bytes)?)
    }
}

impl Field for bool {
    const SIZE: usize = 1;
    fn write(self, bytes: &mut [u8]) {
        u8::from(self).write(bytes);
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        match u8::read(bytes)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

//! What a request asks for: operations or reads, encoded as they are sent.

use wire::operation::Opcode;
use wire::read::GetView;
use wire::request::REQUEST_HEADER_SIZE;
use wire::{ClientTag, OperationView, RequestBuilder, TableId};

/// The operations, or the reads, of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u32,
    pub(super) is_read: bool,
    pub(super) all_or_none: bool,
}

impl Body {
    /// These operations, which are done one after the other and take effect together.
    ///
    /// # Panics
    /// If there are none.
    #[must_use]
    pub fn of_operations(operations: &[OperationView<'_>]) -> Body {
        let mut bytes = Vec::new();
        let mut builder = RequestBuilder::new(&mut bytes, ClientTag(0)).expect("vectors grow");
        operations.iter().for_each(|operation| builder.push(operation).expect("vectors grow"));
        builder.finish();
        bytes.drain(..REQUEST_HEADER_SIZE);
        Body { bytes, count: operations.len() as u32, is_read: false, all_or_none: false }
    }

    /// The same, done only if the conditions of all of them hold.
    #[must_use]
    pub fn all_or_none(operations: &[OperationView<'_>]) -> Body {
        Body { all_or_none: true, ..Body::of_operations(operations) }
    }

    /// The values of these keys, all as of one moment.
    ///
    /// # Panics
    /// If there are none.
    #[must_use]
    pub fn get<K: AsRef<[u8]>>(keys: &[K]) -> Body {
        assert!(!keys.is_empty(), "a request has at least one read");
        let mut bytes = Vec::new();
        for key in keys {
            GetView::new(TableId(0), key.as_ref()).encode(&mut bytes).expect("vectors grow");
        }
        Body { bytes, count: keys.len() as u32, is_read: true, all_or_none: false }
    }

    /// Stores a value.
    #[must_use]
    pub fn put(key: &[u8], value: &[u8]) -> Body {
        Body::of_operations(&[on_key(Opcode::Put, key).with_value(value)])
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(key: &[u8]) -> Body {
        Body::of_operations(&[on_key(Opcode::Delete, key)])
    }

    /// Adds to the number under a key.
    #[must_use]
    pub fn increment(key: &[u8], by: i64) -> Body {
        let increment = on_key(Opcode::Increment, key).with_argument(by.cast_unsigned());
        Body::of_operations(&[increment])
    }

    /// Opens a session.
    pub(super) fn register(drawn: u128) -> Body {
        let value = drawn.to_le_bytes();
        let register = OperationView::on_table(Opcode::Register, TableId(0)).with_value(&value);
        Body::of_operations(&[register])
    }
}

fn on_key(opcode: Opcode, key: &[u8]) -> OperationView<'_> {
    OperationView::on_key(opcode, TableId(0), key)
}

//! Operations: what a client asks to be done to a key, as it stands in the log.
//!
//! An operation is a 32-byte header, the key, the value, and zeros up to a multiple of 8 bytes. The
//! header holds what every operation may have (key, value, an integer argument, a deadline); what
//! they mean depends on the [`Opcode`]. Conditions and modes are [`Flags`]; each opcode permits
//! some, and others are refused when the bytes are verified, so that an evaluator never meets a
//! combination without a meaning.
//!
//! Only what changes something is an operation: reads do not go through the log.
//!
//! Relative times ("in ten seconds") become absolute deadlines before they get here: everyone who
//! replays the log must see the same instant. Log time, not a clock, decides what has expired.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Full, Sink, Slot, TableId, slot_of_key};

/// Bytes of an operation before its key.
pub const OPERATION_HEADER_SIZE: usize = 32;
/// The longest key, in bytes.
pub const KEY_SIZE_MAX: usize = 1024;

/// Operations start at multiples of this many bytes from their request's start.
pub(crate) const ALIGNMENT: usize = 8;

macro_rules! opcodes {
    ($(
        $(#[$doc:meta])*
        $name:ident = $number:literal, key: $key:literal, flags: $flags:expr;
    )*) => {
        /// What an operation does.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Opcode { $($(#[$doc])* $name = $number,)* }

        impl Opcode {
            /// Every opcode.
            pub const ALL: &'static [Opcode] = &[$(Opcode::$name,)*];

            /// The opcode with this number, if there is one.
            #[must_use]
            pub fn from_u8(number: u8) -> Option<Opcode> {
                match number {
                    $($number => Some(Opcode::$name),)*
                    _ => None,
                }
            }

            /// Whether it is about one key; the others have none and concern every shard.
            #[must_use]
            pub fn has_key(self) -> bool {
                match self { $(Opcode::$name => $key,)* }
            }

            /// The flags that mean something with it.
            #[must_use]
            pub fn flags_allowed(self) -> Flags {
                match self { $(Opcode::$name => $flags,)* }
            }
        }
    };
}

opcodes! {
    /// Stores a value. `IF_NONE` and `IF_SOME` make it conditional, `RETURN_OLD` answers with the
    /// value before, `KEEP_DEADLINE` keeps the deadline there is; otherwise the operation's is set.
    Put = 1, key: true, flags: Flags::IF_NONE.or(Flags::IF_SOME).or(Flags::RETURN_OLD)
        .or(Flags::KEEP_DEADLINE);
    /// Deletes the key; answers whether it existed, with `RETURN_OLD` the value it had.
    Delete = 2, key: true, flags: Flags::RETURN_OLD;
    /// Adds the argument to the integer stored; answers the sum. Keeps the deadline.
    Increment = 3, key: true, flags: Flags::NONE;
    /// Adds the value, a number in decimal, to the number stored; answers the sum in decimal. Text
    /// on both sides, because no binary format of fewer than 80 bits holds what clients rely on.
    /// Keeps the deadline.
    IncrementFloat = 4, key: true, flags: Flags::NONE;
    /// Appends the value; answers the new length. Keeps the deadline.
    Append = 5, key: true, flags: Flags::NONE;
    /// Overwrites from the offset in the argument on, with zeros before it if the old value was
    /// shorter; answers the new length. Keeps the deadline.
    SetRange = 6, key: true, flags: Flags::NONE;
    /// Sets the deadline; answers whether it did. `IF_NONE`: only if there was none; `IF_SOME`:
    /// only if there was one; `IF_GREATER`, `IF_LESS`: only if it moves that way, no deadline
    /// counting as infinite. With `RETURN_OLD` answers the value. A deadline not after log time
    /// deletes the key.
    Expire = 7, key: true, flags: Flags::IF_NONE.or(Flags::IF_SOME).or(Flags::IF_GREATER)
        .or(Flags::IF_LESS).or(Flags::RETURN_OLD);
    /// Removes the deadline; answers whether there was one, with `RETURN_OLD` the value.
    Persist = 8, key: true, flags: Flags::RETURN_OLD;
    /// Empties the table.
    Flush = 9, key: false, flags: Flags::NONE;
    /// Opens a session; the value is 16 bytes that the client drew at random. The only operation of
    /// its request, whose session and number are 0.
    Register = 10, key: false, flags: Flags::NONE;
    /// Keeps what is visible at the version in the argument until the deadline: a lease in log
    /// time. A deadline of 0 gives it back.
    Hold = 11, key: false, flags: Flags::NONE;
    /// Stands for a request of a session that the node refused before the log: it takes the
    /// request's number and answers with the error whose number is the argument, so that the
    /// refusal holds for every copy of that request. Only nodes make it.
    Refuse = 12, key: false, flags: Flags::NONE;
}

/// Conditions and modes of an operation, a set of bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Flags(u16);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// Only if there is no value (of Expire: no deadline).
    pub const IF_NONE: Flags = Flags(1);
    /// Only if there is a value (of Expire: a deadline).
    pub const IF_SOME: Flags = Flags(1 << 1);
    /// Answer with the value before the operation.
    pub const RETURN_OLD: Flags = Flags(1 << 2);
    /// Keep the deadline that the value has.
    pub const KEEP_DEADLINE: Flags = Flags(1 << 3);
    /// Only if the new deadline is later.
    pub const IF_GREATER: Flags = Flags(1 << 4);
    /// Only if the new deadline is earlier.
    pub const IF_LESS: Flags = Flags(1 << 5);

    /// Both sets together.
    #[must_use]
    pub const fn or(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    fn are_meaningful_for(self, opcode: Opcode) -> bool {
        let exclusive = Flags::IF_NONE.or(Flags::IF_SOME);
        let both_ways = Flags::IF_GREATER.or(Flags::IF_LESS);
        let none_and_moved = self.contains(Flags::IF_NONE) && self.0 & both_ways.0 != 0;
        opcode.flags_allowed().contains(self)
            && !self.contains(exclusive)
            && !self.contains(both_ways)
            && !none_and_moved
    }
}

/// An operation; key and value are borrowed from wherever they lie (a client's request, a prepare).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OperationView<'a> {
    /// What to do.
    pub opcode: Opcode,
    /// How and under which conditions.
    pub flags: Flags,
    /// The slot of the key; 0 without a key.
    pub slot: Slot,
    /// The table.
    pub table: TableId,
    /// The key; empty for opcodes without one.
    pub key: &'a [u8],
    /// The value; empty when the opcode has no use for one.
    pub value: &'a [u8],
    /// Increment, offset or version; 0 when the opcode has no use for one.
    pub argument: u64,
    /// When it expires, in nanoseconds of log time; 0 is never.
    pub deadline: u64,
}

impl<'a> OperationView<'a> {
    /// An operation on a key, with nothing but the key set.
    #[must_use]
    pub fn on_key(opcode: Opcode, table: TableId, key: &'a [u8]) -> OperationView<'a> {
        assert!(opcode.has_key(), "{opcode:?} has no key");
        OperationView { slot: slot_of_key(key), key, ..OperationView::without_key(opcode, table) }
    }

    /// An operation that concerns the whole table or node.
    #[must_use]
    pub fn on_table(opcode: Opcode, table: TableId) -> OperationView<'a> {
        assert!(!opcode.has_key(), "{opcode:?} needs a key");
        OperationView::without_key(opcode, table)
    }

    fn without_key(opcode: Opcode, table: TableId) -> OperationView<'a> {
        OperationView {
            opcode,
            flags: Flags::NONE,
            slot: Slot(0),
            table,
            key: &[],
            value: &[],
            argument: 0,
            deadline: 0,
        }
    }

    /// The same with this value.
    #[must_use]
    pub fn with_value(self, value: &'a [u8]) -> Self {
        OperationView { value, ..self }
    }

    /// The same with this argument.
    #[must_use]
    pub fn with_argument(self, argument: u64) -> Self {
        OperationView { argument, ..self }
    }

    /// The same with this deadline in nanoseconds of log time; 0 is never.
    #[must_use]
    pub fn with_deadline(self, deadline: u64) -> Self {
        OperationView { deadline, ..self }
    }

    /// The same with these flags added.
    ///
    /// # Panics
    /// When the opcode has no meaning for them.
    #[must_use]
    pub fn with_flags(self, flags: Flags) -> Self {
        let flags = self.flags.or(flags);
        assert!(flags.are_meaningful_for(self.opcode), "{:?} with {flags:?}", self.opcode);
        OperationView { flags, ..self }
    }

    /// The argument as the signed number that increments are.
    #[must_use]
    pub fn increment(&self) -> i64 {
        self.argument.cast_signed()
    }

    /// Bytes it takes in a request.
    #[must_use]
    pub fn encoded_size(&self) -> usize {
        encoded_size(self.key.len(), self.value.len())
    }

    pub(crate) fn encode(&self, sink: &mut impl Sink) -> Result<(), Full> {
        let layout = Layout {
            opcode: self.opcode as u8,
            reserved: 0,
            flags: self.flags.0.into(),
            slot: self.slot.0.into(),
            key_size: u16::try_from(self.key.len()).map_err(|_| Full)?.into(),
            table: self.table.0.into(),
            value_size: u32::try_from(self.value.len()).map_err(|_| Full)?.into(),
            argument: self.argument.into(),
            deadline: self.deadline.into(),
        };
        sink.append(layout.as_bytes())?;
        sink.append(self.key)?;
        sink.append(self.value)?;
        let unpadded = OPERATION_HEADER_SIZE + self.key.len() + self.value.len();
        sink.append(&[0; ALIGNMENT][..self.encoded_size() - unpadded])
    }

    /// Reads one operation of bytes that nobody vouches for; also says how many bytes it takes.
    pub(crate) fn verify(bytes: &'a [u8]) -> Option<(OperationView<'a>, usize)> {
        let (operation, size) = OperationView::read(bytes)?;
        let key_valid = if operation.opcode.has_key() {
            !operation.key.is_empty()
                && operation.key.len() <= KEY_SIZE_MAX
                && operation.slot == slot_of_key(operation.key)
        } else {
            operation.key.is_empty() && operation.slot == Slot(0)
        };
        let unpadded = OPERATION_HEADER_SIZE + operation.key.len() + operation.value.len();
        let padding_zero = bytes[unpadded..size].iter().all(|&byte| byte == 0);
        let meaningful = operation.flags.are_meaningful_for(operation.opcode) && bytes[1] == 0;
        (key_valid && padding_zero && meaningful).then_some((operation, size))
    }

    /// Reads one operation. `None` only for bytes that [`OperationView::verify`] refuses too.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<(OperationView<'a>, usize)> {
        let (layout, rest) = Layout::ref_from_prefix(bytes).ok()?;
        let (key_size, value_size) =
            (usize::from(layout.key_size.get()), layout.value_size.get() as usize);
        let size = encoded_size(key_size, value_size);
        if size > bytes.len() {
            return None;
        }
        let (key, rest) = rest.split_at(key_size);
        let operation = OperationView {
            opcode: Opcode::from_u8(layout.opcode)?,
            flags: Flags(layout.flags.get()),
            slot: Slot(layout.slot.get()),
            table: TableId(layout.table.get()),
            key,
            value: &rest[..value_size],
            argument: layout.argument.get(),
            deadline: layout.deadline.get(),
        };
        Some((operation, size))
    }
}

fn encoded_size(key_size: usize, value_size: usize) -> usize {
    (OPERATION_HEADER_SIZE + key_size + value_size).next_multiple_of(ALIGNMENT)
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    opcode: u8,
    reserved: u8,
    flags: U16,
    slot: U16,
    key_size: U16,
    table: U32,
    value_size: U32,
    argument: U64,
    deadline: U64,
}

const _: () = {
    assert!(size_of::<Layout>() == OPERATION_HEADER_SIZE);
    assert!(OPERATION_HEADER_SIZE.is_multiple_of(ALIGNMENT));
    assert!(KEY_SIZE_MAX <= u16::MAX as usize);
};

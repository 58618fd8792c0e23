//! Requests: the operations that one client asked for at once, as they stand in a prepare.
//!
//! A request is a 24-byte header, a 32-byte session section if it belongs to a session, and its
//! operations. The body of a prepare is requests one after another. All operations of a request
//! are in one prepare, at consecutive versions, so they take effect together; with *all or none*
//! set they do so only if the conditions of every one of them hold.
//!
//! How bytes become requests:
//!
//! 1. A connection writes operations through a [`RequestBuilder`] into whatever buffer it has; a
//!    request that does not fit leaves the buffer as it was.
//! 2. What came from another machine is [`RequestView::verify`]-ed: sizes, counts, opcodes, flags,
//!    keys, slots and padding, so that nothing after it needs to doubt.
//! 3. A prepare's body, whose checksum vouches for a primary that did the above, is walked by
//!    [`Requests`] in place: by the batcher to count, by every shard to apply.
//!
//! The request header's tag is where the node that accepted it sends the answer. It is in the log
//! only because prepares are never copied; nobody else reads it, nor does a replay.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{ClientId, ClientTag, Full, OperationView, RequestNumber, Sink};

/// Bytes of a request before its session section or operations.
pub const REQUEST_HEADER_SIZE: usize = 24;
/// Bytes of a request's session section.
pub const SESSION_SIZE: usize = 32;

const FLAG_ALL_OR_NONE: u16 = 1;
const FLAG_SESSION: u16 = 1 << 1;

/// Why bytes are no request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// The bytes end before the request does, or its size is impossible.
    #[error("a request of {claimed} bytes in {actual}")]
    Size {
        /// What the header says; 0 when even that is missing.
        claimed: usize,
        /// The bytes there are.
        actual: usize,
    },
    /// A flag or reserved byte without a meaning.
    #[error("the request's header has a field without a meaning")]
    Header,
    /// An operation is malformed.
    #[error("operation {index} of the request is malformed")]
    Operation {
        /// Counted from 0.
        index: u32,
    },
    /// The operations are not as many, or not as long, as the header says.
    #[error("the request's operations do not end where it does")]
    Count,
}

/// Whose request it is, when it belongs to a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    /// The session; 0 in the request that opens one.
    pub client: ClientId,
    /// The request's number in the session, from 1 on; 0 in the request that opens it.
    pub number: RequestNumber,
    /// Every request of the session up to this one has been answered: its result need not be kept.
    pub acknowledged: RequestNumber,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    size: U32,
    operation_count: U32,
    tag: U64,
    flags: U16,
    reserved: [u8; 6],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SessionLayout {
    client: U128,
    number: U64,
    acknowledged: U64,
}

const _: () = {
    assert!(size_of::<Layout>() == REQUEST_HEADER_SIZE);
    assert!(size_of::<SessionLayout>() == SESSION_SIZE);
    assert!(REQUEST_HEADER_SIZE.is_multiple_of(crate::operation::ALIGNMENT));
    assert!(SESSION_SIZE.is_multiple_of(crate::operation::ALIGNMENT));
};

/// Writes one request into a sink, without allocating. Dropped unfinished, it leaves nothing.
#[derive(Debug)]
pub struct RequestBuilder<'a, S: Sink> {
    sink: &'a mut S,
    start: usize,
    tag: ClientTag,
    flags: u16,
    operation_count: u32,
    finished: bool,
}

impl<'a, S: Sink> RequestBuilder<'a, S> {
    /// Starts a request at the sink's position whose answer goes to `tag`.
    ///
    /// # Errors
    /// [`Full`] when not even the header fits.
    pub fn new(sink: &'a mut S, tag: ClientTag) -> Result<Self, Full> {
        let start = sink.position();
        sink.append(&[0; REQUEST_HEADER_SIZE])?;
        Ok(RequestBuilder { sink, start, tag, flags: 0, operation_count: 0, finished: false })
    }

    /// The same for a request of a session.
    ///
    /// # Errors
    /// [`Full`] when not even the header fits.
    pub fn with_session(sink: &'a mut S, tag: ClientTag, session: Session) -> Result<Self, Full> {
        let mut builder = RequestBuilder::new(sink, tag)?;
        let section = SessionLayout {
            client: session.client.0.into(),
            number: session.number.0.into(),
            acknowledged: session.acknowledged.0.into(),
        };
        builder.flags |= FLAG_SESSION;
        builder.sink.append(section.as_bytes())?;
        Ok(builder)
    }

    /// Makes the request conditional as a whole: unless the conditions of all its operations hold,
    /// none of them does anything.
    pub fn all_or_none(&mut self) {
        self.flags |= FLAG_ALL_OR_NONE;
    }

    /// Adds an operation.
    ///
    /// # Errors
    /// [`Full`] when it does not fit; the request is then as before and can be finished or dropped.
    pub fn push(&mut self, operation: &OperationView<'_>) -> Result<(), Full> {
        let before = self.sink.position();
        operation.encode(self.sink).inspect_err(|_| self.sink.truncate(before))?;
        self.operation_count += 1;
        Ok(())
    }

    /// Adds operations as they are.
    ///
    /// # Errors
    /// [`Full`] when they do not all fit; the request is then as before.
    pub fn push_all(&mut self, operations: &Operations<'_>) -> Result<(), Full> {
        self.sink.append(operations.rest)?;
        self.operation_count += operations.clone().count() as u32;
        Ok(())
    }

    /// How many operations were added.
    #[must_use]
    pub fn operation_count(&self) -> u32 {
        self.operation_count
    }

    /// Completes the request and says how many bytes it takes.
    ///
    /// # Panics
    /// When it holds no operation, or more than 4 GiB.
    pub fn finish(mut self) -> usize {
        assert!(self.operation_count > 0, "a request has at least one operation");
        let size = self.sink.position() - self.start;
        let layout = Layout {
            size: u32::try_from(size).expect("sinks are bounded far below 4 GiB").into(),
            operation_count: self.operation_count.into(),
            tag: self.tag.0.into(),
            flags: self.flags.into(),
            reserved: [0; 6],
        };
        self.sink.patch(self.start, layout.as_bytes());
        self.finished = true;
        size
    }
}

impl<S: Sink> Drop for RequestBuilder<'_, S> {
    fn drop(&mut self) {
        if !self.finished {
            self.sink.truncate(self.start);
        }
    }
}

/// A request whose every byte was checked, or is vouched for by a prepare's checksum.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    bytes: &'a [u8],
    operations: &'a [u8],
    operation_count: u32,
    tag: ClientTag,
    flags: u16,
}

impl<'a> RequestView<'a> {
    /// Checks the request that `bytes` start with, completely.
    ///
    /// # Errors
    /// [`RequestError`] naming what is wrong with it.
    pub fn verify(bytes: &'a [u8]) -> Result<RequestView<'a>, RequestError> {
        let request = RequestView::read(bytes)?;
        Operations::verify(request.operations, request.operation_count)?;
        Ok(request)
    }

    /// Reads the request's header and bounds; its operations are not looked at.
    fn read(bytes: &'a [u8]) -> Result<RequestView<'a>, RequestError> {
        let Ok((layout, _)) = Layout::ref_from_prefix(bytes) else {
            return Err(RequestError::Size { claimed: 0, actual: bytes.len() });
        };
        let (claimed, flags) = (layout.size.get() as usize, layout.flags.get());
        if flags & !(FLAG_ALL_OR_NONE | FLAG_SESSION) != 0 || layout.reserved != [0; 6] {
            return Err(RequestError::Header);
        }
        let session_size = if flags & FLAG_SESSION != 0 { SESSION_SIZE } else { 0 };
        let operations_start = REQUEST_HEADER_SIZE + session_size;
        let in_bounds = claimed <= bytes.len() && claimed >= operations_start;
        if !in_bounds || !claimed.is_multiple_of(crate::operation::ALIGNMENT) {
            return Err(RequestError::Size { claimed, actual: bytes.len() });
        }
        if layout.operation_count.get() == 0 {
            return Err(RequestError::Count);
        }
        Ok(RequestView {
            bytes: &bytes[..claimed],
            operations: &bytes[operations_start..claimed],
            operation_count: layout.operation_count.get(),
            tag: ClientTag(layout.tag.get()),
            flags,
        })
    }

    /// The whole request, header included.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where the answer goes.
    #[must_use]
    pub fn tag(&self) -> ClientTag {
        self.tag
    }

    /// How many operations it has; at least one.
    #[must_use]
    pub fn operation_count(&self) -> u32 {
        self.operation_count
    }

    /// Whether the operations happen only if all their conditions hold.
    #[must_use]
    pub fn is_all_or_none(&self) -> bool {
        self.flags & FLAG_ALL_OR_NONE != 0
    }

    /// Whose it is, when it belongs to a session.
    #[must_use]
    pub fn session(&self) -> Option<Session> {
        if self.flags & FLAG_SESSION == 0 {
            return None;
        }
        let (layout, _) = SessionLayout::ref_from_prefix(&self.bytes[REQUEST_HEADER_SIZE..])
            .expect("the session section was in bounds when the request was read");
        Some(Session {
            client: ClientId(layout.client.get()),
            number: RequestNumber(layout.number.get()),
            acknowledged: RequestNumber(layout.acknowledged.get()),
        })
    }

    /// The operations in their order.
    #[must_use]
    pub fn operations(&self) -> Operations<'a> {
        Operations { rest: self.operations }
    }
}

/// The operations of a request, in place.
#[derive(Clone, Debug)]
pub struct Operations<'a> {
    rest: &'a [u8],
}

impl<'a> Operations<'a> {
    /// Checks that `bytes` are exactly `count` operations, each of them well-formed: the body of a
    /// client's request.
    ///
    /// # Errors
    /// [`RequestError::Operation`] or [`RequestError::Count`].
    pub fn verify(bytes: &'a [u8], count: u32) -> Result<Operations<'a>, RequestError> {
        let mut rest = bytes;
        for index in 0..count {
            if rest.is_empty() {
                return Err(RequestError::Count);
            }
            let (_, size) = OperationView::verify(rest).ok_or(RequestError::Operation { index })?;
            rest = &rest[size..];
        }
        if rest.is_empty() { Ok(Operations { rest: bytes }) } else { Err(RequestError::Count) }
    }
}

impl<'a> Iterator for Operations<'a> {
    type Item = OperationView<'a>;

    fn next(&mut self) -> Option<OperationView<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (operation, size) =
            OperationView::read(self.rest).expect("a request's operations were verified");
        self.rest = &self.rest[size..];
        Some(operation)
    }
}

/// Gives each request of a verified body another tag.
pub fn retag(body: &mut [u8], mut tag_of: impl FnMut(&RequestView<'_>) -> ClientTag) {
    const TAG: std::ops::Range<usize> = 8..16;
    let mut rest = body;
    while !rest.is_empty() {
        let request = RequestView::read(rest).expect("the body was verified");
        let (tag, size) = (tag_of(&request), request.bytes.len());
        rest[TAG].copy_from_slice(&tag.0.to_le_bytes());
        rest = &mut rest[size..];
    }
}

/// The requests of a prepare's body, in place.
#[derive(Clone, Debug)]
pub struct Requests<'a> {
    rest: &'a [u8],
}

impl<'a> Requests<'a> {
    /// Walks a body that is vouched for: it was built here out of verified requests, or its
    /// checksum says that the primary did.
    #[must_use]
    pub fn of_body(body: &'a [u8]) -> Requests<'a> {
        Requests { rest: body }
    }

    /// Checks a whole body: that it is requests without a gap, and each of them well-formed.
    ///
    /// # Errors
    /// [`RequestError`] of the first request that is not.
    pub fn verify(body: &'a [u8]) -> Result<Requests<'a>, RequestError> {
        let mut rest = body;
        while !rest.is_empty() {
            let request = RequestView::verify(rest)?;
            rest = &rest[request.bytes.len()..];
        }
        Ok(Requests { rest: body })
    }
}

impl<'a> Iterator for Requests<'a> {
    type Item = RequestView<'a>;

    fn next(&mut self) -> Option<RequestView<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let request = RequestView::read(self.rest).expect("a prepare's requests were verified");
        self.rest = &self.rest[request.bytes.len()..];
        Some(request)
    }
}

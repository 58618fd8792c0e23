//! From a stream of bytes to whole messages: pure, and the first to look at what strangers send.
//!
//! 1. The first 256 bytes of a message are verified as a header: its checksum, then every field.
//! 2. What the header says is compared with what the connection is: cluster, sender, class, size.
//!    Only then is room for the body looked for, so that no byte of a stranger reserves memory, and
//!    nobody's reserves more than the largest message of the class.
//! 3. The body is gathered where it will be used. A prepare goes into a buffer of the pool as the
//!    journal wants it: header at [`FRAME_HEADER_SIZE`], body at [`BODY_OFFSET`], the buffer's
//!    length that of the frame, so that it can be written without a copy. What else belongs to the
//!    log or the grid goes to the start of such a buffer. Other bodies are small and go into a
//!    vector that the connection keeps.
//! 4. The body is verified against the header; then there is a message, and not before.
//!
//! When the pool has no buffer the assembler says so and takes nothing more until it is given one:
//! who receives stops reading, and the sender's window closes. It holds at most one buffer.
//!
//! The bytes are copied once here, out of the buffers that all connections of the core share. A
//! receive straight into the pool's buffer would save that, and cost a system call for each message
//! in place of one for all that have arrived; the checksum has to read the bytes anyway, and brings
//! them into the processor's cache for the copy.

use std::ops::Range;

use ioring::{Buffer, BufferPool};
use vsr::journal::{BODY_OFFSET, FRAME_HEADER_SIZE, frame_size};
use wire::{ClusterId, Command, HEADER_SIZE, Header, ReplicaId};

use super::class::Class;
use super::fault::Fault;
use super::greeting::{SENTENCE_MAX, is_greeting};

/// Bytes of a body on a control connection: sixteen times what the longest list of headers in a
/// view change takes, and a question about four thousand blocks.
pub const CONTROL_BODY_MAX: usize = 128 << 10;

/// What may come on a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected {
    /// A greeting, of anybody.
    Greeting,
    /// Messages of a peer that has greeted.
    Messages {
        /// Its cluster.
        cluster: ClusterId,
        /// Its number.
        from: ReplicaId,
        /// Members of the cluster.
        replica_count: u8,
        /// What the connection is for.
        class: Class,
        /// Bytes of the largest prepare, header included.
        prepare_size_max: usize,
    },
}

/// A message's body.
#[derive(Debug)]
pub enum Body<'a> {
    /// A small one; valid as long as the message is looked at.
    Bytes(&'a [u8]),
    /// A buffer of the pool: of a prepare the journal's frame without its frame header and with
    /// anything in its padding, of everything else the body.
    Frame(Buffer),
}

/// What came of some bytes.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a step is looked at and gone; a box would allocate")]
pub(super) enum Step {
    /// All are taken, and no message is whole.
    More,
    /// A body needs a buffer, and the pool had none: [`Assembler::give`] one and go on.
    NeedsFrame,
    /// A message is whole: take its body before the next step.
    Whole(Header),
}

/// Gathers the messages of one connection.
#[derive(Debug)]
pub(super) struct Assembler {
    expected: Expected,
    head: [u8; HEADER_SIZE],
    /// Bytes of `head` that are there.
    filled: usize,
    /// The header whose body is being gathered.
    current: Option<Header>,
    /// Bytes of the body that are there.
    received: usize,
    small: Vec<u8>,
    frame: Option<Buffer>,
}

impl Assembler {
    /// At the start of a stream.
    #[must_use]
    pub(super) fn new(expected: Expected) -> Assembler {
        let (filled, received, current) = (0, 0, None);
        let (head, small, frame) = ([0; HEADER_SIZE], Vec::new(), None);
        Assembler { expected, head, filled, current, received, small, frame }
    }

    /// What is expected from here on.
    ///
    /// # Panics
    /// Within a message.
    pub(super) fn expect(&mut self, expected: Expected) {
        assert!(self.missing() == 0, "expectations change between messages");
        self.expected = expected;
    }

    /// Takes bytes off the front of `bytes`, up to the end of one message.
    ///
    /// # Errors
    /// [`Fault`]; the stream is worth nothing from here on.
    pub(super) fn push(&mut self, bytes: &mut &[u8], pool: &BufferPool) -> Result<Step, Fault> {
        let header = match self.current {
            Some(header) => header,
            None => {
                let Some(header) = self.push_header(bytes)? else { return Ok(Step::More) };
                self.check(&header, pool.buffer_size())?;
                (self.received, self.current) = (0, Some(header));
                self.small.clear();
                header
            }
        };
        if has_frame(header.command()) {
            if self.frame.is_none() {
                let Some(buffer) = pool.try_take() else { return Ok(Step::NeedsFrame) };
                self.frame = Some(buffer);
            }
            self.push_frame(&header, bytes);
        } else {
            let piece = take(bytes, header.body_size() - self.received);
            self.small.extend_from_slice(piece);
            self.received += piece.len();
        }
        if self.received < header.body_size() {
            return Ok(Step::More);
        }
        header.verify_body(self.gathered(&header))?;
        self.current = None;
        Ok(Step::Whole(header))
    }

    /// Gives a buffer for the body that needs one.
    pub(super) fn give(&mut self, buffer: Buffer) {
        self.frame = Some(buffer);
    }

    /// The body of the message that [`Step::Whole`] gave.
    pub(super) fn take_body(&mut self, header: &Header) -> Body<'_> {
        if has_frame(header.command()) {
            return Body::Frame(self.frame.take().expect("the body was gathered in a buffer"));
        }
        Body::Bytes(&self.small)
    }

    /// Bytes that are missing to the end of a message's header or body; 0 between messages.
    #[must_use]
    pub(super) fn missing(&self) -> usize {
        match self.current {
            Some(header) => (header.body_size() - self.received).max(1),
            None if self.filled > 0 => HEADER_SIZE - self.filled,
            None => 0,
        }
    }

    fn push_header(&mut self, bytes: &mut &[u8]) -> Result<Option<Header>, Fault> {
        if self.filled == 0 && bytes.len() >= HEADER_SIZE {
            return Ok(Some(Header::verify(take(bytes, HEADER_SIZE))?));
        }
        let piece = take(bytes, HEADER_SIZE - self.filled);
        self.head[self.filled..][..piece.len()].copy_from_slice(piece);
        self.filled += piece.len();
        if self.filled < HEADER_SIZE {
            return Ok(None);
        }
        self.filled = 0;
        Ok(Some(Header::verify(&self.head)?))
    }

    /// Compares a header with what the connection is.
    fn check(&self, header: &Header, buffer_size: usize) -> Result<(), Fault> {
        let (command, size) = (header.command(), header.size());
        let Expected::Messages { cluster, from, replica_count, class, prepare_size_max } =
            self.expected
        else {
            let most = HEADER_SIZE + SENTENCE_MAX;
            return match is_greeting(command) {
                false => Err(Fault::Unexpected { command, place: "greetings" }),
                true if size > most => Err(Fault::TooLarge { command, size, most }),
                true => Ok(()),
            };
        };
        if header.cluster() != cluster {
            return Err(Fault::Cluster { ours: cluster, theirs: header.cluster() });
        }
        if !class.carries(command) {
            return Err(Fault::Unexpected { command, place: class.name() });
        }
        // A prepare bears the name of the primary that made it, whoever passes it on.
        let actual = header.replica();
        let named =
            if command == Command::Prepare { actual.0 < replica_count } else { actual == from };
        if !named {
            return Err(Fault::Sender { expected: from, actual });
        }
        let most = match command {
            Command::Prepare => prepare_size_max,
            Command::Forward | Command::Forwarded => HEADER_SIZE + prepare_size_max,
            // Blocks are as large as the grid has them.
            _ if has_frame(command) => HEADER_SIZE + buffer_size,
            _ => HEADER_SIZE + CONTROL_BODY_MAX,
        };
        if size > most {
            return Err(Fault::TooLarge { command, size, most });
        }
        Ok(())
    }

    fn push_frame(&mut self, header: &Header, bytes: &mut &[u8]) {
        let frame = self.frame.as_mut().expect("it was taken or given");
        let place = place(header);
        if self.received == 0 {
            match header.command() {
                Command::Prepare => {
                    frame.set_len(frame_size(header.size()));
                    frame[FRAME_HEADER_SIZE..BODY_OFFSET].copy_from_slice(header.bytes());
                }
                _ => frame.set_len(header.body_size()),
            }
        }
        let piece = take(bytes, header.body_size() - self.received);
        frame[place.start + self.received..][..piece.len()].copy_from_slice(piece);
        self.received += piece.len();
    }

    fn gathered(&self, header: &Header) -> &[u8] {
        match &self.frame {
            Some(frame) if has_frame(header.command()) => &frame[place(header)],
            _ => &self.small,
        }
    }
}

/// Whether a body belongs to the log or the grid, and so into a buffer that can be written.
fn has_frame(command: Command) -> bool {
    matches!(command, Command::Prepare | Command::Block | Command::Checkpoint)
}

/// Where a body lies in its buffer.
fn place(header: &Header) -> Range<usize> {
    let start = if header.command() == Command::Prepare { BODY_OFFSET } else { 0 };
    start..start + header.body_size()
}

fn take<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (piece, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    piece
}

#[cfg(test)]
mod tests;

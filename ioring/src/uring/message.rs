//! Headers of vectored sends: they have to stay where they are until the send completes, so they
//! are boxed, kept beside the operation's slot, and used again.

#![expect(unsafe_code, reason = "a zeroed C structure")]

use crate::buffer::Frozen;

/// Parts that one request sends at most; the rest follows in the next.
const PARTS_MAX: usize = 32;

struct Message {
    header: libc::msghdr,
    parts: [libc::iovec; PARTS_MAX],
}

/// The headers of one core.
#[derive(Default)]
pub(super) struct Messages {
    by_slot: Vec<Option<Box<Message>>>,
    #[expect(clippy::vec_box, reason = "a header that is in use must not move")]
    spare: Vec<Box<Message>>,
}

impl Messages {
    /// Describes `parts`, the first without its first `sent` bytes, and says whether all fitted.
    pub(super) fn fill(
        &mut self,
        slot: u32,
        parts: &[Frozen],
        sent: usize,
    ) -> (*const libc::msghdr, bool) {
        let slot = slot as usize;
        if self.by_slot.len() <= slot {
            self.by_slot.resize_with(slot + 1, || None);
        }
        let mut message = self.spare.pop().unwrap_or_else(|| {
            // SAFETY: all zeros is a valid value of these C structures: null pointers, no lengths.
            unsafe { Box::new(std::mem::zeroed()) }
        });
        let count = parts.len().min(PARTS_MAX);
        for (index, part) in parts[..count].iter().enumerate() {
            let rest = if index == 0 { &part[sent..] } else { &part[..] };
            message.parts[index] =
                libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() };
        }
        message.header.msg_iov = message.parts.as_mut_ptr();
        message.header.msg_iovlen = count;
        let place = self.by_slot[slot].insert(message);
        (&raw const place.header, count == parts.len())
    }

    /// The operation in the slot is complete.
    pub(super) fn give_back(&mut self, slot: u32) {
        if let Some(message) = self.by_slot.get_mut(slot as usize).and_then(Option::take) {
            self.spare.push(message);
        }
    }
}

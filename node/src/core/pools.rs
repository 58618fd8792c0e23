//! What a core lends to its connections for as long as they have something in it.
//!
//! Lent memory comes back empty and is lent again, so in steady state nothing is allocated, and
//! what is kept is bounded by number and by size: a vector that a large reply made large is freed.

use std::cell::RefCell;

use super::desk::Desk;

/// Vectors of bytes kept.
const VECTORS_MAX: usize = 256;
/// What a vector starts with: the replies of an ordinary turn.
const VECTOR_BYTES: usize = 4 << 10;
/// A vector larger than this is not kept.
const VECTOR_BYTES_KEPT: usize = 64 << 10;
/// Desks kept.
const DESKS_MAX: usize = 256;

/// Vectors for input and replies.
#[derive(Debug, Default)]
pub struct Vectors(RefCell<Vec<Vec<u8>>>);

impl Vectors {
    /// An empty vector with some room.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(VECTOR_BYTES))
    }

    /// Gives a vector back.
    pub fn give_back(&self, mut vector: Vec<u8>) {
        let vectors = &mut *self.0.borrow_mut();
        let useful = (1..=VECTOR_BYTES_KEPT).contains(&vector.capacity());
        if useful && vectors.len() < VECTORS_MAX {
            vector.clear();
            vectors.push(vector);
        }
    }
}

/// Desks for turns.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "a desk moves between turns by pointer")]
pub struct Desks(RefCell<Vec<Box<Desk>>>);

impl Desks {
    /// An empty desk.
    #[must_use]
    pub fn take(&self) -> Box<Desk> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives a desk back.
    pub fn give_back(&self, mut desk: Box<Desk>) {
        let desks = &mut *self.0.borrow_mut();
        if desk.is_small() && desks.len() < DESKS_MAX {
            desk.clear();
            desks.push(desk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_lent_again_unless_it_grew_large() {
        let vectors = Vectors::default();
        let mut vector = vectors.take();
        vector.extend_from_slice(b"something");
        let start = vector.as_ptr();
        vectors.give_back(vector);
        let again = vectors.take();
        assert!(again.is_empty() && again.as_ptr() == start);
        vectors.give_back(Vec::new());
        vectors.give_back(Vec::with_capacity(VECTOR_BYTES_KEPT + 1));
        assert!(vectors.0.borrow().is_empty(), "nothing worth keeping came back");
    }
}

//! Waiting for one another among the tasks of one core. Nothing here is shared between threads;
//! that is what lanes are for.
//!
//! All of these are fair: who waited first is served first. A waiter that is dropped gives its
//! place up, and hands on what it was given already.

mod event;
pub mod oneshot;
mod queue;
mod slots;
mod waiters;

pub use event::{Event, Wait};
pub use queue::Queue;
pub use slots::{Acquire, Slot, Slots};

#[cfg(test)]
mod tests;

//! Pools of equal buffers, sized at start.
//!
//! A pool is one region of memory cut into buffers, and a lock-free list of those at home. Buffers
//! may be taken and dropped on any core. When none is at home, `take` waits; a waiter is woken by
//! the next buffer that comes back. Waiters are the exception, so they are kept behind a mutex that
//! nobody touches as long as nobody waits.
//!
//! No wake-up is lost: a waiter enters the list, then looks once more; who gives back puts the
//! buffer on the list, then looks for waiters. Sequentially consistent fences between the two steps
//! on both sides make sure that at least one of them sees the other.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crossbeam_queue::ArrayQueue;

use super::{Buffer, Header, Home, Memory, Region};

/// Numbers of regions are never used twice, so a ring that registered one cannot mistake another
/// for it.
pub(super) fn region_number() -> u32 {
    static REGION_NEXT: AtomicU32 = AtomicU32::new(0);
    REGION_NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(super) struct Shared {
    name: &'static str,
    headers: Box<[Header]>,
    home: ArrayQueue<u32>,
    waiting: AtomicUsize,
    waiters: Mutex<Waiters>,
    region: u32,
    memory: Memory,
}

// SAFETY: a header's `home` is touched only by the one who holds all of its buffer: who takes it
// from the list, or who drops its last handle. Everything else in it is atomic or constant.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn give_back(&self, index: u32) {
        assert!(self.home.push(index).is_ok(), "pool {}: more came back than it has", self.name);
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.wake_one();
        }
    }

    pub(super) fn region(&self) -> Region {
        let (start, size) = (self.memory.start(), self.memory.size());
        Region { number: self.region, start, size }
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_one(&self) {
        let mut waiters = self.waiters();
        let waiter = waiters.queue.pop_front();
        self.waiting.store(waiters.queue.len(), Ordering::Relaxed);
        drop(waiters);
        if let Some((_, waker)) = waiter {
            waker.wake();
        }
    }

    /// Enters the list, or renews the waker of an entry; returns the entry's ticket.
    fn enlist(&self, ticket: Option<u64>, waker: &Waker) -> u64 {
        let mut waiters = self.waiters();
        let entry = waiters.queue.iter_mut().find(|entry| Some(entry.0) == ticket);
        let ticket = if let Some(entry) = entry {
            entry.1.clone_from(waker);
            entry.0
        } else {
            waiters.ticket_next += 1;
            let ticket = waiters.ticket_next;
            waiters.queue.push_back((ticket, waker.clone()));
            ticket
        };
        self.waiting.store(waiters.queue.len(), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        ticket
    }

    fn delist(&self, ticket: u64) {
        let mut waiters = self.waiters();
        let before = waiters.queue.len();
        waiters.queue.retain(|entry| entry.0 != ticket);
        let woken_already = waiters.queue.len() == before;
        self.waiting.store(waiters.queue.len(), Ordering::Relaxed);
        drop(waiters);
        if woken_already && !self.home.is_empty() {
            // The wake-up was spent on a waiter that no longer is one: hand it on.
            self.wake_one();
        }
    }
}

/// Those who wait for a buffer, in order of arrival.
#[derive(Default)]
struct Waiters {
    ticket_next: u64,
    queue: VecDeque<(u64, Waker)>,
}

/// A fixed number of buffers of one size. Clones are handles to the same pool.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

impl BufferPool {
    /// Makes a pool of `count` buffers of `buffer_size` bytes (rounded up to a multiple of
    /// [`super::ALIGNMENT`]). `name` appears in messages. Memory becomes resident when first used.
    pub fn new(name: &'static str, buffer_size: usize, count: usize) -> BufferPool {
        assert!(buffer_size > 0 && count > 0, "pool {name}: {count} buffers of {buffer_size}");
        let size = buffer_size.next_multiple_of(super::ALIGNMENT);
        let memory = Memory::for_transfers(size * count);
        let home = ArrayQueue::new(count);
        let headers = (0..count).map(|index| {
            // SAFETY: `index` < `count`, so within the region.
            let start = unsafe { memory.start().add(index * size) };
            let index = u32::try_from(index).expect("a pool has fewer than 2^32 buffers");
            Header::new(index, start, size, Home::Pooled)
        });
        let headers: Box<[Header]> = headers.collect();
        for header in &headers {
            assert!(home.push(header.index).is_ok(), "the list holds every buffer");
        }
        let region = region_number();
        let (waiting, waiters) = (AtomicUsize::new(0), Mutex::new(Waiters::default()));
        let shared = Shared { name, headers, home, waiting, waiters, region, memory };
        BufferPool { shared: Arc::new(shared) }
    }

    /// A buffer, if one is at home. Its length is its capacity.
    pub fn try_take(&self) -> Option<Buffer> {
        let index = self.shared.home.pop()?;
        let header = &self.shared.headers[index as usize];
        // SAFETY: taking the index off the list made this the only handle to the buffer.
        unsafe { *header.home.get() = Home::Out(self.shared.clone()) };
        Some(Buffer::adopt(std::ptr::NonNull::from(header)))
    }

    /// A buffer, waiting for one to come back if need be. Its length is its capacity.
    pub fn take(&self) -> Take<'_> {
        Take { pool: self, ticket: None }
    }

    /// Buffers at home now.
    pub fn available(&self) -> usize {
        self.shared.home.len()
    }

    /// All buffers, at home or out.
    pub fn count(&self) -> usize {
        self.shared.headers.len()
    }

    /// Bytes that fit into each buffer.
    pub fn buffer_size(&self) -> usize {
        self.shared.headers[0].capacity.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, available, count) = (self.shared.name, self.available(), self.count());
        write!(f, "BufferPool({name}: {available} of {count} × {})", self.buffer_size())
    }
}

/// Waits for a buffer; see [`BufferPool::take`].
#[must_use = "a future does nothing unless awaited"]
pub struct Take<'a> {
    pool: &'a BufferPool,
    ticket: Option<u64>,
}

impl Future for Take<'_> {
    type Output = Buffer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Buffer> {
        let mut buffer = self.pool.try_take();
        if buffer.is_none() {
            self.ticket = Some(self.pool.shared.enlist(self.ticket, context.waker()));
            buffer = self.pool.try_take();
        }
        let Some(buffer) = buffer else { return Poll::Pending };
        if let Some(ticket) = self.ticket.take() {
            self.pool.shared.delist(ticket);
        }
        Poll::Ready(buffer)
    }
}

impl Drop for Take<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.pool.shared.delist(ticket);
        }
    }
}

//! Buffers against a model: what is shared, what comes back to its pool, and when.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

#[test]
fn buffers_are_aligned_and_zeroed_at_first() {
    for size in [1, 512, 4096, 5000, 3 << 20] {
        let buffer = Buffer::zeroed(size);
        assert_eq!(buffer.as_ptr() as usize % ALIGNMENT, 0);
        assert_eq!((buffer.len(), buffer.capacity() % ALIGNMENT), (size, 0));
        assert!(buffer.iter().all(|byte| *byte == 0));
    }
    let pool = BufferPool::new("test", 1000, 3);
    let buffers: Vec<_> = std::iter::from_fn(|| pool.try_take()).collect();
    assert_eq!(buffers.len(), 3);
    assert!(buffers.iter().all(|buffer| (buffer.as_ptr() as usize).is_multiple_of(ALIGNMENT)));
    assert!(buffers.iter().all(|buffer| buffer.len() == ALIGNMENT));
}

#[test]
fn only_the_last_handle_can_be_thawed() {
    let mut buffer = Buffer::zeroed(4096);
    buffer.set_len(3000);
    buffer[17] = 5;
    let frozen = buffer.freeze();
    let part = frozen.slice(17..=17);
    assert_eq!(&part[..], [5]);
    let frozen = frozen.try_thaw().unwrap_err();
    drop(frozen);
    let buffer = part.try_thaw().unwrap();
    assert_eq!((buffer.len(), buffer[17]), (3000, 5), "the whole buffer comes back");
}

#[test]
#[should_panic(expected = "slice 0..11 of 10 bytes")]
fn a_slice_stays_within_what_is_in_view() {
    let frozen = Buffer::zeroed(4096).freeze().slice(..10);
    drop(frozen.slice(..11));
}

#[test]
fn the_last_handle_returns_the_buffer_from_any_thread() {
    let pool = BufferPool::new("test", 4096, 1);
    let frozen = pool.try_take().unwrap().freeze();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let frozen = frozen.clone();
            std::thread::spawn(move || assert_eq!(frozen.slice(1..3).len(), 2))
        })
        .collect();
    drop(frozen);
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(pool.available(), 1);
}

#[test]
fn a_buffer_outlives_the_handles_to_its_pool() {
    let pool = BufferPool::new("test", 4096, 2);
    let mut buffer = pool.try_take().unwrap();
    drop(pool);
    buffer.fill(9);
    let frozen = buffer.freeze();
    assert!(frozen.iter().all(|byte| *byte == 9));
}

#[test]
fn a_waiter_gets_the_next_buffer_and_one_that_gave_up_blocks_nobody() {
    let pool = BufferPool::new("test", 4096, 1);
    let out = pool.try_take().unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut first = Box::pin(pool.take());
    let mut second = pin!(pool.take());
    assert!(first.as_mut().poll(&mut context).is_pending());
    assert!(second.as_mut().poll(&mut context).is_pending());
    drop(out);
    // The wake-up went to the first one, which is dropped without taking the buffer.
    drop(first);
    assert!(second.as_mut().poll(&mut context).is_ready());
}

#[test]
fn every_waiter_is_served_when_threads_take_and_give() {
    let pool = BufferPool::new("test", 4096, 2);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let pool = pool.clone();
            std::thread::spawn(move || {
                for _ in 0..500 {
                    let buffer = block_on(pool.take());
                    std::hint::black_box(&buffer);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(pool.available(), 2);
}

/// Wakes a thread.
struct Unpark(std::thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

proptest! {
    #[test]
    fn a_slice_of_a_slice_shows_the_same_bytes(
        a in 0usize..100,
        b in 0usize..100,
        c in 0usize..100,
    ) {
        let mut buffer = Buffer::zeroed(100);
        for (index, byte) in buffer.iter_mut().enumerate() {
            *byte = index as u8;
        }
        let (model, frozen) = (buffer.to_vec(), buffer.freeze());
        let (from, to) = (a.min(b), a.max(b));
        let slice = frozen.slice(from..to);
        prop_assert_eq!(&slice[..], &model[from..to]);
        let inner = c.min(slice.len());
        prop_assert_eq!(&slice.slice(inner..)[..], &model[from + inner..to]);
    }
}

proptest! {
    /// Runs of units never overlap, are where a search from the start would find them, and join
    /// again when they come back, however they are taken and dropped; single ones can be had from
    /// the other end.
    #[test]
    fn extents_are_the_first_runs_that_fit(
        steps in proptest::collection::vec((0usize..60_000, any::<u16>(), 0..3u8), 1..300),
        large in any::<bool>(),
    ) {
        // More units than words of the summary have bits, and fewer.
        let units_all = if large { 64 * 64 + 150 } else { 150 };
        let pool = ExtentPool::new("test", ALIGNMENT, units_all);
        let all = pool.try_take(units_all * ALIGNMENT).unwrap();
        let base = all.as_ptr() as usize;
        prop_assert!(pool.try_take_last().is_none() && pool.try_take(1).is_none());
        drop(all);
        let mut free = vec![true; units_all];
        let mut out: Vec<(std::ops::Range<usize>, Frozen, u8)> = Vec::new();
        for (step, (len, pick, take)) in steps.into_iter().enumerate() {
            if take == 0 && !out.is_empty() {
                let (units, bytes, mark) = out.swap_remove(pick as usize % out.len());
                prop_assert!(bytes.iter().all(|byte| *byte == mark), "nobody else wrote there");
                drop(bytes.slice(..0));
                drop(bytes);
                free[units].fill(true);
            } else {
                let (units, single) = (len.div_ceil(ALIGNMENT).max(1), take == 1);
                let units = if single { 1 } else { units };
                let is_free = |at: &usize| free[*at..at + units].iter().all(|free| *free);
                let mut places = 0..=units_all - units;
                let first = if single { places.rfind(is_free) } else { places.find(is_free) };
                let taken = if single { pool.try_take_last() } else { pool.try_take(len) };
                prop_assert_eq!(taken.is_some(), first.is_some());
                let Some((mut buffer, at)) = taken.zip(first) else { continue };
                prop_assert_eq!(buffer.as_ptr() as usize, base + at * ALIGNMENT);
                prop_assert_eq!(buffer.capacity(), units * ALIGNMENT);
                free[at..at + units].fill(false);
                buffer.fill(step as u8);
                let bytes = buffer.freeze();
                prop_assert_eq!(pool.place_of(&bytes), Some(at));
                out.push((at..at + units, bytes, step as u8));
            }
            prop_assert_eq!(pool.available(), free.iter().filter(|free| **free).count());
        }
        drop(out);
        prop_assert!(pool.try_take(units_all * ALIGNMENT).is_some(), "all came back");
        prop_assert!(pool.place_of(&Buffer::zeroed(1).freeze()).is_none(), "not of this region");
    }
}

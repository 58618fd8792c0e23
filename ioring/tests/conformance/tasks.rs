//! Tasks, timers and what tasks of one core wait on.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use ioring::sync::{Event, Queue as Bounded, Slots, oneshot};
use ioring::{
    BufferPool, CoreId, Elapsed, Queue, core_id, join, join_all, now, random, sleep, sleep_until,
    spawn, timeout, wall_clock, yield_now,
};

use crate::host::Host;

/// Remembers what happened, in order.
#[derive(Clone, Default)]
struct Journal(Rc<RefCell<Vec<u64>>>);

impl Journal {
    fn add(&self, entry: u64) {
        self.0.borrow_mut().push(entry);
    }

    fn entries(&self) -> Vec<u64> {
        self.0.borrow().clone()
    }
}

/// Sets a flag when it is dropped.
struct OnDrop(Rc<Cell<bool>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

pub(crate) fn timers_fire_in_order_of_their_deadlines(host: &impl Host) {
    host.run_one(|_| async {
        let journal = Journal::default();
        let start = now();
        let tasks: Vec<_> = [30u64, 10, 20, 0, 10]
            .into_iter()
            .map(|wait| {
                let journal = journal.clone();
                spawn(Queue::Foreground, "sleeper", async move {
                    sleep_until(start + Duration::from_millis(wait)).await;
                    assert!(now().since(start) >= Duration::from_millis(wait), "too early");
                    journal.add(wait);
                })
            })
            .collect();
        join_all(tasks).await;
        assert_eq!(journal.entries(), [0, 10, 10, 20, 30]);
    });
}

pub(crate) fn a_timeout_drops_what_it_waited_for(host: &impl Host) {
    host.run_one(|_| async {
        let dropped = Rc::new(Cell::new(false));
        let guard = OnDrop(dropped.clone());
        let limit = Duration::from_millis(5);
        let endless = async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        };
        assert_eq!(timeout(limit, endless).await, Err(Elapsed(limit)));
        assert!(dropped.get());
        let quick = timeout(Duration::from_secs(60), async {
            yield_now().await;
            7
        });
        assert_eq!(quick.await, Ok(7));
        assert_eq!(timeout(Duration::ZERO, async { 8 }).await, Ok(8), "what is ready wins");
    });
}

pub(crate) fn a_dropped_timer_does_not_fire(host: &impl Host) {
    host.run_one(|_| async {
        let start = now();
        for _ in 0..1000 {
            let _ = timeout(Duration::from_secs(3600), yield_now()).await;
        }
        assert!(now().since(start) < Duration::from_secs(60));
    });
}

pub(crate) fn tasks_that_yield_take_turns(host: &impl Host) {
    host.run_one(|_| async {
        let counts: Rc<[Cell<u32>; 3]> = Rc::default();
        let queues = [Queue::Foreground, Queue::Replication, Queue::Background];
        let tasks: Vec<_> = queues
            .into_iter()
            .enumerate()
            .map(|(number, queue)| {
                let counts = counts.clone();
                spawn(queue, "spinner", async move {
                    loop {
                        counts[number].set(counts[number].get() + 1);
                        yield_now().await;
                    }
                })
            })
            .collect();
        while counts.iter().any(|count| count.get() < 20) {
            yield_now().await;
        }
        tasks.into_iter().for_each(|task| task.cancel());
    });
}

pub(crate) fn a_cancelled_task_is_dropped_and_a_detached_one_runs(host: &impl Host) {
    host.run_one(|_| async {
        let dropped = Rc::new(Cell::new(false));
        let guard = OnDrop(dropped.clone());
        let endless = spawn(Queue::Background, "endless", async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        yield_now().await;
        endless.cancel();
        while !dropped.get() {
            yield_now().await;
        }
        let ran = Rc::new(Cell::new(false));
        let inside = ran.clone();
        spawn(Queue::Background, "detached", async move { inside.set(true) }).detach();
        while !ran.get() {
            yield_now().await;
        }
        let value = spawn(Queue::Foreground, "value", async { 42 });
        assert_eq!(value.await, 42);
    });
}

pub(crate) fn events_keep_one_notification(host: &impl Host) {
    host.run_one(|_| async {
        let event = Rc::new(Event::new());
        event.notify();
        event.notify();
        event.wait().await;
        assert!(timeout(Duration::from_millis(2), event.wait()).await.is_err(), "kept once");
        let waiting = event.clone();
        let waiter = spawn(Queue::Foreground, "waiter", async move { waiting.wait().await });
        sleep(Duration::from_millis(1)).await;
        event.notify();
        timeout(Duration::from_secs(20), waiter).await.unwrap();
    });
}

pub(crate) fn slots_are_given_in_order(host: &impl Host) {
    host.run_one(|_| async {
        let slots = Slots::new(2);
        let (first, second) = (slots.acquire().await, slots.acquire().await);
        let journal = Journal::default();
        let mut tasks = Vec::new();
        for number in 0..5 {
            let (slots, journal) = (slots.clone(), journal.clone());
            let started = Rc::new(Cell::new(false));
            let flag = started.clone();
            tasks.push(spawn(Queue::Foreground, "taker", async move {
                flag.set(true);
                let _slot = slots.acquire().await;
                journal.add(number);
                sleep(Duration::from_micros(50)).await;
            }));
            while !started.get() {
                yield_now().await;
            }
        }
        assert!(slots.try_acquire().is_none());
        drop(first);
        assert!(slots.try_acquire().is_none(), "nobody overtakes the line");
        join_all(tasks).await;
        assert_eq!(journal.entries(), [0, 1, 2, 3, 4]);
        drop(second);
        assert_eq!((slots.free(), slots.total()), (2, 2));
    });
}

pub(crate) fn an_exhausted_pool_makes_takers_wait_in_order(host: &impl Host) {
    host.run_one(|_| async {
        let pool = BufferPool::new("small", 4096, 1);
        let held = pool.try_take().unwrap();
        assert!(pool.try_take().is_none());
        let journal = Journal::default();
        let mut tasks = Vec::new();
        for number in 0..4 {
            let (pool, journal) = (pool.clone(), journal.clone());
            let started = Rc::new(Cell::new(false));
            let flag = started.clone();
            tasks.push(spawn(Queue::Foreground, "taker", async move {
                flag.set(true);
                let _buffer = pool.take().await;
                journal.add(number);
                yield_now().await;
            }));
            while !started.get() {
                yield_now().await;
            }
        }
        assert!(timeout(Duration::from_millis(2), pool.take()).await.is_err());
        drop(held);
        join_all(tasks).await;
        assert_eq!(journal.entries(), [0, 1, 2, 3]);
        assert_eq!(pool.available(), 1);
    });
}

pub(crate) fn a_oneshot_tells_when_its_sender_is_gone(host: &impl Host) {
    host.run_one(|_| async {
        let (sender, receiver) = oneshot::channel();
        let (answer, ()) = join(receiver, async {
            yield_now().await;
            sender.send(5).unwrap();
        })
        .await;
        assert_eq!(answer, Some(5));
        let (sender, receiver) = oneshot::channel::<u32>();
        let (answer, ()) = join(receiver, async {
            yield_now().await;
            drop(sender);
        })
        .await;
        assert_eq!(answer, None);
        let (sender, receiver) = oneshot::channel();
        drop(receiver);
        assert!(sender.is_closed());
        assert_eq!(sender.send(6), Err(6));
    });
}

pub(crate) fn a_bounded_queue_passes_everything_on(host: &impl Host) {
    host.run_one(|_| async {
        let queue = Bounded::new(2);
        let producer = queue.clone();
        let producing = async move {
            for number in 0..50 {
                producer.push(number).await.unwrap();
            }
            producer.close();
        };
        let consumer = queue.clone();
        let consuming = async move {
            let mut all = Vec::new();
            while let Some(number) = consumer.pop().await {
                all.push(number);
                if number % 7 == 0 {
                    sleep(Duration::from_micros(30)).await;
                }
            }
            all
        };
        let ((), all) = join(producing, consuming).await;
        assert!(all.into_iter().eq(0..50));
        assert_eq!(queue.try_push(1), Err(1), "closed");
    });
}

pub(crate) fn every_core_knows_its_number_and_the_time(host: &impl Host) {
    let numbers = host.run(vec![0u16, 1, 2], |part| async move {
        assert_eq!(core_id(), CoreId(part));
        let (start, year_2020) = (now(), 1_577_836_800_000_000_000);
        sleep(Duration::from_millis(2)).await;
        assert!(now().since(start) >= Duration::from_millis(2));
        assert!(wall_clock().0 > year_2020);
        part
    });
    assert_eq!(numbers, [0, 1, 2]);
}

pub(crate) fn random_streams_are_apart_by_purpose(host: &impl Host) {
    host.run_one(|_| async {
        let mut first = random("first");
        let mut second = random("second");
        let draw = |stream: &mut ioring::Random| [stream.next_u64(), stream.next_u64()];
        assert_ne!(draw(&mut first), draw(&mut second));
        assert!((0..1000).all(|_| first.below(10) < 10));
    });
}

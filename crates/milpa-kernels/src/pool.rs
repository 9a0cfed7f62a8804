//! A small thread pool for data-parallel loops that last from microseconds to milliseconds.
//!
//! Workers spin briefly between loops and then sleep; the calling thread works too. The pool decides
//! only *who* runs a task: tasks must not depend on it, so results do not depend on the number of
//! threads. It knows nothing of numbers.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a worker without work spins before it sleeps: longer than the gap between two kernels
/// of a training step, far shorter than anything a person or another process would notice.
const SPIN: Duration = Duration::from_micros(60);

thread_local! {
    /// Set while this thread runs tasks of some pool: nested loops run inline.
    static INSIDE_LOOP: Cell<bool> = const { Cell::new(false) };
}

/// A fixed set of threads that share loops; dropped, it joins them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a loop; a second caller at the same time runs its loop inline.
    busy: AtomicBool,
}

struct Shared {
    /// Counts the loops started; workers watch it while they spin.
    epoch: AtomicU64,
    state: Mutex<State>,
    /// Wakes sleeping workers.
    work: Condvar,
    /// Workers inside the current loop. Changed only under `state`; read without it while waiting.
    active: AtomicUsize,
    stop: AtomicBool,
}

struct State {
    loop_now: Option<LoopPointer>,
    sleeping: usize,
}

/// A borrowed loop with its lifetime erased; see [`Pool::parallel_for`] for why that is sound.
#[derive(Clone, Copy)]
struct LoopPointer(*const Loop<'static>);

// SAFETY: the pointed-to `Loop` is `Sync` and outlives every use (the caller waits for all workers).
unsafe impl Send for LoopPointer {}

struct Loop<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    count: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Pool {
    /// Starts `threads - 1` workers; the thread that calls [`Pool::parallel_for`] is the last one.
    ///
    /// # Panics
    /// If `threads` is zero or the system refuses a thread.
    pub fn new(threads: usize) -> Self {
        assert!(threads > 0, "a pool needs at least one thread");
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            state: Mutex::new(State { loop_now: None, sleeping: 0 }),
            work: Condvar::new(),
            active: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let workers = (1..threads)
            .map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("kernel-{index}"))
                    .spawn(move || work(&shared))
                    .expect("the system can start a worker thread")
            })
            .collect();
        Self { shared, workers, busy: AtomicBool::new(false) }
    }

    /// Returns the number of threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)`, …, `task(count - 1)` on all threads and returns when every one is done.
    ///
    /// A call from inside a task, or while another thread uses the pool, runs on the calling thread
    /// alone. A panic of a task is passed on to the caller after the running tasks have ended;
    /// tasks that had not begun are dropped.
    pub fn parallel_for<F: Fn(usize) + Sync>(&self, count: usize, task: F) {
        let alone = count <= 1 || self.workers.is_empty() || INSIDE_LOOP.get();
        if alone || self.busy.swap(true, Ordering::Acquire) {
            (0..count).for_each(task);
            return;
        }
        let current =
            Loop { task: &task, count, next: AtomicUsize::new(0), panic: Mutex::new(None) };
        // `Loop::run` catches panics of tasks, so nothing unwinds between here and `close`.
        self.open(&current);
        current.run();
        self.close();
        self.busy.store(false, Ordering::Release);
        let panic = current.panic.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Runs `task` on consecutive ranges of at most `chunk` of `0..length`.
    ///
    /// The ranges depend on `length` and `chunk` alone.
    pub(crate) fn for_ranges<F: Fn(Range<usize>) + Sync>(
        &self,
        length: usize,
        chunk: usize,
        task: F,
    ) {
        self.parallel_for(length.div_ceil(chunk), |index| {
            task(index * chunk..length.min((index + 1) * chunk));
        });
    }

    /// Offers a loop to the workers.
    fn open(&self, current: &Loop<'_>) {
        let pointer: *const Loop<'_> = current;
        let mut state = lock(&self.shared.state);
        // The lifetime is erased: `close` withdraws the pointer and waits until no worker holds it,
        // and it always runs before `current` goes out of scope.
        state.loop_now = Some(LoopPointer(pointer.cast()));
        self.shared.epoch.fetch_add(1, Ordering::Release);
        if state.sleeping > 0 {
            self.shared.work.notify_all();
        }
    }

    /// Withdraws the loop and waits for the workers that are inside it.
    fn close(&self) {
        lock(&self.shared.state).loop_now = None;
        let mut spins = 0_u32;
        while self.shared.active.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < 20_000 {
                std::hint::spin_loop();
            } else {
                // A worker lost its core to another process: give ours away too.
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let _state = lock(&self.shared.state);
            self.shared.stop.store(true, Ordering::Release);
            self.shared.epoch.fetch_add(1, Ordering::Release);
            self.shared.work.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker never panics: panics of tasks are caught and handed to the caller.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl Loop<'_> {
    /// Takes tasks until none is left.
    fn run(&self) {
        let before = INSIDE_LOOP.replace(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= self.count {
                    break;
                }
                (self.task)(index);
            }
        }));
        INSIDE_LOOP.set(before);
        if let Err(payload) = outcome {
            self.next.store(self.count, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(payload);
        }
    }
}

/// The life of a worker.
fn work(shared: &Shared) {
    let mut seen = 0;
    loop {
        let idle = Instant::now();
        while shared.epoch.load(Ordering::Acquire) == seen {
            for _ in 0..64 {
                std::hint::spin_loop();
            }
            if idle.elapsed() > SPIN {
                let mut state = lock(&shared.state);
                state.sleeping += 1;
                while shared.epoch.load(Ordering::Acquire) == seen {
                    state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                state.sleeping -= 1;
            }
        }
        let joined = {
            let state = lock(&shared.state);
            seen = shared.epoch.load(Ordering::Acquire);
            // Asked for together with the epoch, which the drop raises under this lock: asked for
            // before, a drop in between would be counted as seen and never be obeyed.
            if shared.stop.load(Ordering::Acquire) {
                return;
            }
            if state.loop_now.is_some() {
                shared.active.fetch_add(1, Ordering::Relaxed);
            }
            state.loop_now
        };
        if let Some(LoopPointer(pointer)) = joined {
            // SAFETY: the loop was open under the lock when `active` was raised, and its owner does
            // not leave `close` before `active` is lowered again.
            unsafe { &*pointer }.run();
            shared.active.fetch_sub(1, Ordering::Release);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while holding these locks, and none leaves them half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mutable slice that several tasks write at once, each in its own part.
pub(crate) struct Shares<'a, T> {
    start: *mut T,
    length: usize,
    _slice: PhantomData<&'a mut [T]>,
}

// SAFETY: handing out parts is unsafe, and its contract demands that parts do not overlap.
unsafe impl<T: Send> Sync for Shares<'_, T> {}

impl<'a, T> Shares<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), _slice: PhantomData }
    }

    /// Returns a part of the slice.
    ///
    /// # Safety
    /// No other live part may overlap it.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's contract")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "part out of range");
        // SAFETY: in range (just checked), and not aliased by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Returns a pointer to the first element.
    pub(crate) fn pointer(&self) -> *mut T {
        self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_is_dropped_right_after_a_loop_ends() {
        // A worker that woke for the loop must not take the drop's signal for the loop's.
        for _ in 0..3000 {
            let pool = Pool::new(3);
            pool.parallel_for(2, |_| {});
            drop(pool);
        }
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for count in [0, 1, 2, 7, 1000] {
                let hits: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                pool.parallel_for(count, |index| {
                    hits[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_short_loops_with_pauses_between() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        for round in 0..3000 {
            pool.parallel_for(8, |index| {
                total.fetch_add(index, Ordering::Relaxed);
            });
            if round % 500 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        assert_eq!(total.into_inner(), 3000 * 28);
    }

    #[test]
    fn nested_and_simultaneous_loops_run_inline() {
        let pool = Pool::new(2);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.parallel_for(4, |_| {
                            pool.parallel_for(4, |_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 3 * 200 * 16);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.parallel_for(100, |index| assert!(index != 37, "task 37"));
        }));
        let payload = outcome.expect_err("the panic is passed on");
        assert!(payload.downcast_ref::<&str>().is_some_and(|text| text.contains("task 37")));
        let done = AtomicUsize::new(0);
        pool.parallel_for(10, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 10);
    }
}

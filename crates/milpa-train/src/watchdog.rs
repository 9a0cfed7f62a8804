//! Notices that training stands still, and says what it was doing.
//!
//! The loop leaves a beat after each piece of work; another thread compares the age of the last one
//! with what is usual. It ends nothing itself: what becomes of a process that hangs is its caller's.

use std::{
    fs,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde::Serialize;

/// How often the watchdog looks, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Without a limit of the user's: how many times the longest pause so far counts as standing still…
const PATIENCE: u32 = 30;
/// …but never less than this,
const LEAST_LIMIT: Duration = Duration::from_mins(2);
/// and than this as long as no step was finished: its micro-batches may take as long as whole steps do
/// elsewhere, and no pause before it tells.
const FIRST_LIMIT: Duration = Duration::from_mins(30);
/// Most threads that are described.
const MAX_THREADS: usize = 256;

/// What training does between two beats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Activity {
    /// Reading checkpoint, data and metrics.
    Starting,
    /// Reading the batch of a step.
    Data,
    /// Forward and backward pass.
    Gradients,
    /// The optimiser's step and its line of metrics.
    Update,
    /// Measuring on the validation split, or against the base.
    Validation,
    /// Waiting for the checkpoint before, or copying the state.
    Checkpoint,
    /// Writing the final checkpoint.
    Finishing,
}

const ACTIVITIES: [Activity; 7] = [
    Activity::Starting,
    Activity::Data,
    Activity::Gradients,
    Activity::Update,
    Activity::Validation,
    Activity::Checkpoint,
    Activity::Finishing,
];

/// The beat of a training run; one for each run.
#[derive(Debug)]
pub struct Pulse {
    began: Instant,
    /// Milliseconds from `began` to the last beat.
    beat: AtomicU64,
    /// The longest pause between two beats since the start, in milliseconds.
    longest: AtomicU64,
    /// Whether a step was finished.
    has_stepped: AtomicBool,
    step: AtomicU64,
    activity: AtomicU8,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            beat: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            has_stepped: AtomicBool::new(false),
            step: AtomicU64::new(0),
            activity: AtomicU8::new(Activity::Starting as u8),
        }
    }
}

impl Pulse {
    /// A piece of work was done; `activity` of the step after `step` comes next.
    pub(crate) fn beat(&self, step: u64, activity: Activity) {
        let now = self.milliseconds();
        let pause = now.saturating_sub(self.beat.swap(now, Ordering::Relaxed));
        let before = self.activity.swap(activity as u8, Ordering::Relaxed);
        if before != Activity::Starting as u8 {
            self.longest.fetch_max(pause, Ordering::Relaxed);
        }
        if before == Activity::Update as u8 {
            self.has_stepped.store(true, Ordering::Relaxed);
        }
        self.step.store(step, Ordering::Relaxed);
    }

    /// A part of long work was done.
    pub(crate) fn go_on(&self) {
        self.beat(self.step.load(Ordering::Relaxed), Activity::Validation);
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn silence(&self) -> Duration {
        let beat = self.beat.load(Ordering::Relaxed);
        Duration::from_millis(self.milliseconds().saturating_sub(beat))
    }

    fn limit(&self, given: Option<Duration>) -> Duration {
        given.unwrap_or_else(|| {
            let longest = Duration::from_millis(self.longest.load(Ordering::Relaxed));
            let has_stepped = self.has_stepped.load(Ordering::Relaxed);
            (longest * PATIENCE).max(if has_stepped { LEAST_LIMIT } else { FIRST_LIMIT })
        })
    }

    fn hang(&self, limit: Duration) -> Hang {
        Hang {
            steps_done: self.step.load(Ordering::Relaxed),
            activity: ACTIVITIES[usize::from(self.activity.load(Ordering::Relaxed))],
            silent_seconds: self.silence().as_secs_f64(),
            limit_seconds: limit.as_secs_f64(),
            threads: threads(),
        }
    }
}

/// What was seen of a run that stands still.
#[derive(Debug, Clone, Serialize)]
pub struct Hang {
    /// Steps done.
    pub steps_done: u64,
    /// What was begun and did not end.
    pub activity: Activity,
    /// Seconds since the last beat.
    pub silent_seconds: f64,
    /// Seconds after which that counts as standing still.
    pub limit_seconds: f64,
    /// The process' threads (Linux; elsewhere none).
    pub threads: Vec<ThreadState>,
}

/// A thread as the system sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThreadState {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// `R` runs, `S` waits, `D` waits for a disk, `T` was stopped (proc(5)).
    pub state: String,
    /// The function of the kernel in which it waits, where the system tells.
    pub waits_in: String,
    /// Seconds of a core it has used.
    pub cpu_seconds: f64,
}

/// Watches a [`Pulse`] until it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    ended: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Begins to watch. `on_hang` is called once, from the watchdog's thread, when no beat came for
    /// `limit`; without a limit, for thirty times the longest pause so far, two minutes at least
    /// and half an hour until the first step is finished.
    pub fn start(
        pulse: Arc<Pulse>,
        limit: Option<Duration>,
        on_hang: impl FnOnce(&Hang) + Send + 'static,
    ) -> Self {
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let flag = Arc::clone(&ended);
        let interval = limit.map_or(LOOK_INTERVAL, |limit| (limit / 4).min(LOOK_INTERVAL));
        let thread = std::thread::spawn(move || {
            let (ended, changed) = &*flag;
            let mut guard = ended.lock().unwrap_or_else(PoisonError::into_inner);
            while !*guard {
                guard = changed
                    .wait_timeout(guard, interval.max(Duration::from_millis(1)))
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                let limit = pulse.limit(limit);
                if !*guard && pulse.silence() > limit {
                    drop(guard);
                    on_hang(&pulse.hang(limit));
                    return;
                }
            }
        });
        Self { ended, thread: Some(thread) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.ended.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ended.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of `on_hang` is its own message.
            let _ = thread.join();
        }
    }
}

/// The threads of this process, from /proc; none where there is no such folder.
fn threads() -> Vec<ThreadState> {
    let Ok(entries) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let mut found: Vec<ThreadState> = entries
        .filter_map(|entry| {
            let dir = entry.ok()?.path();
            let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
            let stat = read("stat");
            // The name is in parentheses and may hold any character.
            let after = stat.rsplit_once(')')?.1;
            let cpu = read("schedstat");
            let nanoseconds: f64 = cpu.split(' ').next()?.parse().unwrap_or(0.0);
            Some(ThreadState {
                id: dir.file_name()?.to_str()?.parse().ok()?,
                name: read("comm").trim().to_owned(),
                state: after.split_whitespace().next()?.to_owned(),
                waits_in: read("wchan").trim().to_owned(),
                cpu_seconds: nanoseconds / 1e9,
            })
        })
        .take(MAX_THREADS)
        .collect();
    found.sort_by_key(|thread| thread.id);
    found
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn silence_is_noticed_once_and_work_is_left_alone() {
        let pulse = Arc::new(Pulse::default());
        let (sender, receiver) = mpsc::channel();
        let limit = Duration::from_millis(400);
        let watchdog = Watchdog::start(Arc::clone(&pulse), Some(limit), move |hang| {
            sender.send(hang.clone()).unwrap();
        });
        for step in 0..20 {
            pulse.beat(step, Activity::Gradients);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(receiver.try_recv().is_err());
        pulse.beat(20, Activity::Validation);
        let hang = receiver.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!((hang.steps_done, hang.activity), (20, Activity::Validation));
        assert!(hang.silent_seconds >= 0.4);
        assert!(cfg!(not(target_os = "linux")) || hang.threads.len() >= 2);
        drop(watchdog);
    }

    #[test]
    fn without_a_limit_what_is_usual_decides() {
        let pulse = Pulse::default();
        assert_eq!(pulse.limit(None), FIRST_LIMIT);
        let first_step =
            [Activity::Validation, Activity::Data, Activity::Gradients, Activity::Update];
        for activity in first_step {
            // A checkpoint of another process stands at this step.
            pulse.beat(40, activity);
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(pulse.limit(None), FIRST_LIMIT, "no step is finished at {activity:?}");
        }
        pulse.longest.store(120_000, Ordering::Relaxed);
        assert_eq!(pulse.limit(None), Duration::from_hours(1));
        pulse.longest.store(0, Ordering::Relaxed);
        pulse.beat(41, Activity::Data);
        assert_eq!(pulse.limit(None), LEAST_LIMIT);
        pulse.longest.store(60_000, Ordering::Relaxed);
        assert_eq!(pulse.limit(None), Duration::from_mins(30));
        assert_eq!(pulse.limit(Some(Duration::from_secs(3))), Duration::from_secs(3));
    }
}

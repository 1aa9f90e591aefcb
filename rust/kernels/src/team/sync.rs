//! The parts of the team's protocol: the standard library's atomics and threads, or loom's, which
//! runs one interleaving after the other (`make loom`).

use std::time::Duration;

#[cfg(loom)]
pub(super) use loom::{
    cell::UnsafeCell,
    sync::atomic::{fence, AtomicBool, AtomicU64, AtomicUsize, Ordering},
    sync::Arc,
};
#[cfg(not(loom))]
pub(super) use std::{
    sync::atomic::{fence, AtomicBool, AtomicU64, AtomicUsize, Ordering},
    sync::Arc,
    thread::{self, JoinHandle, Thread},
};
#[cfg(loom)]
pub(super) use thread::{JoinHandle, Thread};

/// The standard library's cell with loom's interface, which sees when an access begins and ends.
#[cfg(not(loom))]
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    pub(super) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    pub(super) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}

/// Time for which a member watches for the next job before it sleeps: longer than a caller's work
/// between two frames, in Python with cold caches.
#[cfg(not(loom))]
const WATCH_FOR_JOB: Duration = Duration::from_micros(250);

/// Time for which a thread inside a job watches for the others before it looks whether they run:
/// longer than most waits in a frame.
#[cfg(not(loom))]
const WATCH_OTHERS: Duration = Duration::from_micros(20);

/// Time for which it watches further, each time: a member that does not run meanwhile is preempted.
#[cfg(not(loom))]
const LOOK: Duration = Duration::from_micros(40);

/// Returns the number of looks, after which the thread sleeps.
fn looks() -> usize {
    #[cfg(loom)]
    return usize::from(super::cores::PREEMPTS.get());
    #[cfg(not(loom))]
    2
}

#[cfg(loom)]
const WATCH_FOR_JOB: Duration = Duration::ZERO;
#[cfg(loom)]
const WATCH_OTHERS: Duration = Duration::ZERO;
#[cfg(loom)]
const LOOK: Duration = Duration::ZERO;

/// Waits until `something`, a job, is there: watches, then sleeps until this thread is unparked.
pub(super) fn wait_for<T>(something: impl Fn() -> Option<T>) -> T {
    loop {
        if let Some(something) = watch(WATCH_FOR_JOB, &something) {
            return something;
        }
        thread::park();
    }
}

/// Waits for other threads at the end of a job until `something` is true: watches, and then sleeps
/// until this thread is unparked. Others that are preempted get this thread's core, and have to be
/// sent back afterwards.
pub(super) fn wait_at_end(something: impl Fn() -> bool, others: &impl Others) {
    if !watch_others(&something, others) {
        while !something() {
            thread::park();
        }
    }
}

/// Waits in the middle of a job: the same, but it sends others back itself, and who changes
/// `something` looks at `sleepers` afterwards, and unparks all threads if there are any.
pub(super) fn wait_between(
    something: impl Fn() -> bool,
    sleepers: &AtomicUsize,
    others: &impl Others,
) {
    if !watch_others(&something, others) {
        sleepers.fetch_add(1, Ordering::Relaxed);
        // The change may have come before the count.
        fence(Ordering::SeqCst);
        while !something() {
            thread::park();
        }
        sleepers.fetch_sub(1, Ordering::Relaxed);
        others.send_back();
    }
}

/// The threads that another one waits for.
pub(super) trait Others {
    /// Notes how far each of them has run.
    fn note_times(&self);

    /// Gives the core to those that have not run since, and returns true if there are any.
    fn fetch_preempted(&self) -> bool;

    /// Takes the core back.
    fn send_back(&self);
}

/// Watches and returns true once `something` is true, or false when it is time to sleep.
fn watch_others(something: impl Fn() -> bool, others: &impl Others) -> bool {
    let something = || something().then_some(());
    let mut found = watch(WATCH_OTHERS, something).is_some();
    for _ in 0..looks() {
        if found {
            break;
        }
        others.note_times();
        found = watch(LOOK, something).is_some();
        if !found && others.fetch_preempted() {
            break;
        }
    }
    found
}

/// Watches for some time and returns what `something` returns in that time.
#[cfg(not(loom))]
fn watch<T>(time: Duration, something: impl Fn() -> Option<T>) -> Option<T> {
    let mut start = None;
    loop {
        for _ in 0..32 {
            if let Some(something) = something() {
                return Some(something);
            }
            std::hint::spin_loop();
        }
        if start.get_or_insert_with(std::time::Instant::now).elapsed() > time {
            return None;
        }
    }
}

/// The same with one look: more looks end a wait in no other state.
#[cfg(loom)]
fn watch<T>(_time: Duration, something: impl Fn() -> Option<T>) -> Option<T> {
    something()
}

/// Threads that park and unpark as the standard library's do. Loom's own `unpark` shows a thread
/// what was written before at once, and not where it returns from `park`, and it ends a `join`. A
/// `park` may also end once by itself.
#[cfg(loom)]
pub(super) mod thread {
    use std::cell::RefCell;
    use std::io;
    use std::sync::Arc;

    use loom::sync::Notify;
    pub(in super::super) use loom::thread::yield_now;

    loom::thread_local! {
        static CURRENT: RefCell<Thread> = RefCell::new(Thread::default());
    }

    #[derive(Clone)]
    pub(in super::super) struct Thread(Arc<Notify>);

    impl Default for Thread {
        fn default() -> Self {
            Self(Arc::new(Notify::new()))
        }
    }

    impl Thread {
        pub(in super::super) fn unpark(&self) {
            self.0.notify();
        }
    }

    pub(in super::super) fn current() -> Thread {
        CURRENT.with(|current| current.borrow().clone())
    }

    pub(in super::super) fn park() {
        current().0.wait();
    }

    pub(in super::super) struct JoinHandle<T>(loom::thread::JoinHandle<T>, Thread);

    impl<T> JoinHandle<T> {
        pub(in super::super) fn thread(&self) -> &Thread {
            &self.1
        }

        pub(in super::super) fn join(self) -> std::thread::Result<T> {
            self.0.join()
        }
    }

    pub(in super::super) struct Builder(loom::thread::Builder);

    impl Builder {
        pub(in super::super) fn new() -> Self {
            Self(loom::thread::Builder::new())
        }

        pub(in super::super) fn name(self, name: String) -> Self {
            Self(self.0.name(name))
        }

        pub(in super::super) fn spawn<T: Send + 'static>(
            self,
            run: impl FnOnce() -> T + Send + 'static,
        ) -> io::Result<JoinHandle<T>> {
            let thread = Thread::default();
            let own = thread.clone();
            let handle = self.0.spawn(move || {
                CURRENT.with(|current| *current.borrow_mut() = own);
                run()
            })?;
            Ok(JoinHandle(handle, thread))
        }
    }
}

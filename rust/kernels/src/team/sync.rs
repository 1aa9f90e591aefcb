//! The parts of the team's protocol: the standard library's atomics and threads, or loom's, which
//! runs one interleaving after the other (`make loom`).

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

/// Time for which a waiting thread watches before it sleeps: longer than the parts of a frame
/// between two joins, and than a caller's work between two frames.
#[cfg(not(loom))]
const WATCH: std::time::Duration = std::time::Duration::from_micros(100);

/// Waits until `something` returns a value: watches for `WATCH`, then sleeps until this thread is
/// unparked.
pub(super) fn wait_for<T>(something: impl Fn() -> Option<T>) -> T {
    wait_for_late(something, || ())
}

/// Waits as [`wait_for`] does, and calls `late` before it sleeps.
pub(super) fn wait_for_late<T>(something: impl Fn() -> Option<T>, late: impl Fn()) -> T {
    loop {
        if let Some(something) = watch(&something) {
            return something;
        }
        late();
        thread::park();
    }
}

/// Waits in the middle of a job until `something` is true: watches, and then sleeps, so that the
/// core can take over a thread that is waited for. `late` is called before each sleep. Who changes
/// `something` looks at `sleepers` afterwards, and unparks all threads if there are any.
pub(super) fn wait_between(something: impl Fn() -> bool, sleepers: &AtomicUsize, late: impl Fn()) {
    while watch(|| something().then_some(())).is_none() {
        sleepers.fetch_add(1, Ordering::Relaxed);
        late();
        // Looks again: the change may have come before the count.
        fence(Ordering::SeqCst);
        if !something() {
            thread::park();
        }
        sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Watches for `WATCH` and returns what `something` returns in that time.
#[cfg(not(loom))]
fn watch<T>(something: impl Fn() -> Option<T>) -> Option<T> {
    let mut start = None;
    loop {
        for _ in 0..32 {
            if let Some(something) = something() {
                return Some(something);
            }
            std::hint::spin_loop();
        }
        if start.get_or_insert_with(std::time::Instant::now).elapsed() > WATCH {
            return None;
        }
    }
}

/// The same with one look: more looks end a wait in no other state.
#[cfg(loom)]
fn watch<T>(something: impl Fn() -> Option<T>) -> Option<T> {
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

    pub(super) fn park() {
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

//! Tasks of one worker thread: polling, waking, deadlines.
//!
//! A task's deadline is the earliest that its last poll set. The executor forgets it before
//! the next poll, so that a dropped wait leaves nothing behind and setting one is a single store.
//! A wake may be spurious. So `Shutdown` wakes all tasks, and none has to register for it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::reactor::{Reactor, TaskId};

/// Polls between two calls of `epoll_wait`: tasks that wake each other must not starve the sockets.
const POLLS_MAX: usize = 4096;

thread_local! {
    static EXECUTOR: OnceCell<Rc<Executor>> = const { OnceCell::new() };
}

/// The future of a task.
type BoxFuture = Pin<Box<dyn Future<Output = ()>>>;

/// The future that `run` was given. It is no entry of the task list.
const MAIN_TASK: TaskId = TaskId::MAX;

/// A worker before it runs. Several workers are made first and run then: once the first accepts
/// connections, there may be no descriptors left for the next.
pub struct Worker {
    reactor: Reactor,
    remote: Arc<Remote>,
    wake_pipe: PipeReader,
}

/// The tasks of one worker, on its thread.
struct Executor {
    reactor: Reactor,
    now: Cell<Instant>,
    tasks: RefCell<Vec<Task>>,
    free: RefCell<Vec<TaskId>>,
    /// Tasks to poll in this turn, and tasks that yielded until the next.
    ready: RefCell<VecDeque<TaskId>>,
    yielded: RefCell<Vec<TaskId>>,
    current: Cell<TaskId>,
    /// The earliest deadline that the current task has set in this poll.
    deadline: Cell<Option<Instant>>,
    /// No task's deadline is earlier.
    next_deadline: Cell<Option<Instant>>,
    remote: Arc<Remote>,
    wake_pipe: RefCell<PipeReader>,
    /// Its tasks have been dropped; it takes no more.
    is_closed: Cell<bool>,
}

/// An entry of the task list. Future and waker are taken out while the task is polled. The waker
/// stays for the next task, because making one allocates.
struct Task {
    future: Option<BoxFuture>,
    waker: Option<Waker>,
    deadline: Option<Instant>,
    is_queued: bool,
}

impl Worker {
    /// A worker that `shutdown` wakes.
    pub fn new(shutdown: &Shutdown) -> io::Result<Worker> {
        let (wake_pipe, writer) = io::pipe()?;
        let reactor = Reactor::new(&wake_pipe)?;
        let remote = Arc::new(Remote {
            woken: Mutex::default(),
            wake_all: AtomicBool::new(shutdown.is_begun()),
            is_notified: AtomicBool::new(false),
            wake_pipe: writer,
        });
        lock(&shutdown.0.workers).push(Arc::clone(&remote));
        Ok(Worker { reactor, remote, wake_pipe })
    }

    /// Runs on this thread and drives `main` to its end. Tasks that are left are dropped. At most
    /// once a thread.
    pub fn run<T>(self, main: impl Future<Output = T>) -> io::Result<T> {
        let executor = Rc::new(Executor {
            reactor: self.reactor,
            now: Cell::new(Instant::now()),
            tasks: RefCell::default(),
            free: RefCell::default(),
            ready: RefCell::default(),
            yielded: RefCell::default(),
            current: Cell::new(MAIN_TASK),
            deadline: Cell::new(None),
            next_deadline: Cell::new(None),
            remote: self.remote,
            wake_pipe: RefCell::new(self.wake_pipe),
            is_closed: Cell::new(false),
        });
        let is_first = EXECUTOR.with(|slot| slot.set(Rc::clone(&executor)).is_ok());
        assert!(is_first, "a thread runs one worker");
        let _close = CloseOnDrop(&executor);
        executor.drive(pin!(main))
    }
}

impl Executor {
    fn drive<T>(&self, mut main: Pin<&mut impl Future<Output = T>>) -> io::Result<T> {
        let waker = self.waker(MAIN_TASK);
        let mut context = Context::from_waker(&waker);
        let mut deadline = None;
        self.ready.borrow_mut().push_back(MAIN_TASK);
        loop {
            for _ in 0..POLLS_MAX {
                let Some(task) = self.ready.borrow_mut().pop_front() else { break };
                if task != MAIN_TASK {
                    self.poll(task);
                    continue;
                }
                self.deadline.set(None);
                self.current.set(MAIN_TASK);
                if let Poll::Ready(output) = main.as_mut().poll(&mut context) {
                    return Ok(output);
                }
                deadline = self.deadline.take();
            }
            for task in self.yielded.take() {
                self.wake(task);
            }
            self.wait(earlier(deadline, self.next_deadline.get()))?;
            if deadline.is_some_and(|at| at <= self.now.get()) {
                deadline = None;
                self.wake(MAIN_TASK);
            }
            self.wake_due();
        }
    }

    /// Polls one task. A panic ends it as its own end would.
    fn poll(&self, task: TaskId) {
        let Some((mut future, waker)) = self.take_future(task) else { return };
        self.deadline.set(None);
        self.current.set(task);
        let mut context = Context::from_waker(&waker);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
        let left = match polled {
            Ok(Poll::Pending) => Some(future),
            _ => {
                let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
                self.free.borrow_mut().push(task);
                None
            }
        };
        let deadline = self.deadline.take().filter(|_| left.is_some());
        self.next_deadline.set(earlier(deadline, self.next_deadline.get()));
        if let Some(entry) = self.tasks.borrow_mut().get_mut(task) {
            (entry.future, entry.waker, entry.deadline) = (left, Some(waker), deadline);
        }
    }

    fn take_future(&self, task: TaskId) -> Option<(BoxFuture, Waker)> {
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.get_mut(task)?;
        entry.is_queued = false;
        let future = entry.future.take()?;
        entry.waker.take().map(|waker| (future, waker))
    }

    fn spawn(&self, future: BoxFuture) {
        if self.is_closed.get() {
            // The spawner may hold what the drop needs. The process is about to end.
            return std::mem::forget(future);
        }
        let task = self.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut tasks = self.tasks.borrow_mut();
            let waker = Some(self.waker(tasks.len()));
            tasks.push(Task { future: None, waker, deadline: None, is_queued: false });
            tasks.len() - 1
        });
        self.tasks.borrow_mut()[task].future = Some(future);
        self.wake(task);
    }

    fn waker(&self, task: TaskId) -> Waker {
        Waker::from(Arc::new(TaskWaker { task, remote: Arc::clone(&self.remote) }))
    }

    fn wake(&self, task: TaskId) {
        if let Some(entry) = self.tasks.borrow_mut().get_mut(task)
            && std::mem::replace(&mut entry.is_queued, true)
        {
            return;
        }
        self.ready.borrow_mut().push_back(task);
    }

    /// Wakes the tasks whose deadline has come. It looks at all tasks, but only when the earliest
    /// known deadline has come: connections move theirs later with every request.
    fn wake_due(&self) {
        let now = self.now.get();
        if self.next_deadline.get().is_none_or(|at| at > now) {
            return;
        }
        let mut next = None;
        let count = self.tasks.borrow().len();
        for task in 0..count {
            let deadline = self.tasks.borrow()[task].deadline;
            match deadline {
                Some(at) if at <= now => self.wake(task),
                later => next = earlier(later, next),
            }
        }
        self.next_deadline.set(next);
    }

    /// Sleeps until an event or the deadline, and wakes tasks for events.
    fn wait(&self, deadline: Option<Instant>) -> io::Result<()> {
        let timeout_ms = match deadline {
            _ if !self.ready.borrow().is_empty() => 0,
            None => -1,
            Some(at) => milliseconds_until(at),
        };
        let mut is_notified = self.reactor.wait(timeout_ms, |task| self.wake(task))?;
        self.now.set(Instant::now());
        // Bytes that arrived before `now` count before a deadline that is over at `now`: the
        // process may have been stopped in between.
        if deadline.is_some_and(|at| at <= self.now.get()) {
            is_notified |= self.reactor.poll_all(|task| self.wake(task))?;
        }
        if is_notified {
            self.handle_notification();
        }
        Ok(())
    }

    fn handle_notification(&self) {
        // The pipe is drained first: a notification after that fills it again.
        let _ = self.wake_pipe.borrow_mut().read(&mut [0; 64]);
        self.remote.is_notified.store(false, Ordering::SeqCst);
        for task in std::mem::take(&mut *lock(&self.remote.woken)) {
            self.wake(task);
        }
        if self.remote.wake_all.swap(false, Ordering::AcqRel) {
            self.wake(MAIN_TASK);
            let count = self.tasks.borrow().len();
            (0..count).for_each(|task| self.wake(task));
        }
    }
}

/// Drops the tasks that are left when an executor ends, by a panic too.
struct CloseOnDrop<'a>(&'a Executor);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.is_closed.set(true);
        // Dropping a task may wake others, or spawn: not while the list is borrowed.
        let left = self.0.tasks.take();
        drop(left);
    }
}

/// Starts a task on this worker. A panic in it ends it alone.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    current(|executor| executor.spawn(Box::pin(future)));
}

/// The time at which this turn of the event loop began: its events had arrived by then.
pub fn now() -> Instant {
    current(|executor| executor.now.get())
}

/// Ready once it is `at`. Until then, the current task is polled again at that time.
pub fn poll_deadline(at: Instant) -> Poll<()> {
    current(|executor| {
        if executor.now.get() >= at {
            return Poll::Ready(());
        }
        executor.deadline.set(earlier(Some(at), executor.deadline.get()));
        Poll::Pending
    })
}

/// Polls the current task again in the next turn of the event loop, after all ready tasks.
pub fn wake_next_turn() {
    current(|executor| executor.yielded.borrow_mut().push(executor.current.get()));
}

/// The task that is being polled.
pub(super) fn current_task() -> TaskId {
    current(|executor| executor.current.get())
}

pub(super) fn reactor<T>(with: impl FnOnce(&Reactor) -> T) -> T {
    current(|executor| with(&executor.reactor))
}

/// `reactor`, unless this thread's executor is gone.
pub(super) fn try_reactor(with: impl FnOnce(&Reactor)) {
    let _ = EXECUTOR.try_with(|slot| slot.get().map(|executor| with(&executor.reactor)));
}

fn current<T>(with: impl FnOnce(&Executor) -> T) -> T {
    EXECUTOR.with(|slot| with(slot.get().expect("called on a worker's thread")))
}

#[cfg(test)]
pub(super) fn tasks_len() -> usize {
    current(|executor| executor.tasks.borrow().len())
}

#[cfg(test)]
pub(super) fn next_deadline() -> Option<Instant> {
    current(|executor| executor.next_deadline.get())
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Rounded up: a deadline must have come when the wait for it is over.
fn milliseconds_until(at: Instant) -> i32 {
    let left = at.saturating_duration_since(Instant::now());
    left.saturating_add(Duration::from_micros(999)).as_millis().try_into().unwrap_or(i32::MAX)
}

/// The part of an executor that other threads may touch.
struct Remote {
    woken: Mutex<Vec<TaskId>>,
    wake_all: AtomicBool,
    is_notified: AtomicBool,
    wake_pipe: PipeWriter,
}

impl Remote {
    /// Ends the executor's wait for events.
    fn notify(&self) {
        if !self.is_notified.swap(true, Ordering::SeqCst) {
            let _ = (&self.wake_pipe).write(&[1]);
        }
    }
}

struct TaskWaker {
    task: TaskId,
    remote: Arc<Remote>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let is_local = EXECUTOR.try_with(|slot| match slot.get() {
            Some(executor) if Arc::ptr_eq(&executor.remote, &self.remote) => {
                executor.wake(self.task);
                true
            }
            _ => false,
        });
        if is_local != Ok(true) {
            lock(&self.remote.woken).push(self.task);
            self.remote.notify();
        }
    }
}

/// The graceful stop of all workers: a flag that is set once and wakes every task.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<ShutdownState>);

#[derive(Default)]
struct ShutdownState {
    is_begun: AtomicBool,
    workers: Mutex<Vec<Arc<Remote>>>,
}

impl Shutdown {
    /// Sets the flag and wakes every task. Callable from any thread.
    pub fn begin(&self) {
        self.0.is_begun.store(true, Ordering::Release);
        for worker in lock(&self.0.workers).iter() {
            worker.wake_all.store(true, Ordering::Release);
            worker.notify();
        }
    }

    /// Returns true if it has begun.
    pub fn is_begun(&self) -> bool {
        self.0.is_begun.load(Ordering::Acquire)
    }

    /// Waits until it begins.
    pub async fn begun(&self) {
        let poll =
            |_: &mut Context<'_>| if self.is_begun() { Poll::Ready(()) } else { Poll::Pending };
        std::future::poll_fn(poll).await;
    }
}

/// Locks a mutex whose holders leave no half-done state if they panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

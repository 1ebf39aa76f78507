//! Tasks of one worker thread: polling, waking, deadlines.
//!
//! A task's deadline is the earliest that its last poll set. The executor forgets it before
//! the next poll, so that a dropped wait leaves nothing behind.
//! A wake may be spurious. So `Shutdown` wakes all tasks, and none has to register for it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::reactor::{NOTIFICATION, Reactor, TaskId};
use crate::sys;

/// Polls between two calls of `epoll_wait`: tasks that wake each other must not starve the sockets.
const POLLS_MAX: usize = 4096;

thread_local! {
    static EXECUTOR: OnceCell<Rc<Executor>> = const { OnceCell::new() };
}

/// The future of a task.
type BoxFuture = Pin<Box<dyn Future<Output = ()>>>;

/// The task of the future that `run` was given.
const MAIN_TASK: TaskId = 0;
/// Woken by the shutdown: every task.
const ALL_TASKS: TaskId = TaskId::MAX;

/// A worker before it runs. Several workers are made first and run then: once the first accepts
/// connections, there may be no descriptors left for the next.
pub struct Worker {
    reactor: Reactor,
    remote: Arc<Remote>,
    wake_pipe: PipeReader,
}

/// The tasks of one worker, on its thread.
pub(super) struct Executor {
    worker: Worker,
    now: Cell<Instant>,
    pub(super) tasks: RefCell<Vec<Task>>,
    free: RefCell<Vec<TaskId>>,
    /// Tasks to poll in this turn, and tasks that yielded until the next.
    ready: RefCell<VecDeque<TaskId>>,
    yielded: RefCell<Vec<TaskId>>,
    current: Cell<TaskId>,
    /// No task's deadline is earlier.
    pub(super) next_deadline: Cell<Option<Instant>>,
}

/// An entry of the task list.
pub(super) struct Task {
    /// Taken out while it is polled. That of `MAIN_TASK` is not here.
    future: Option<BoxFuture>,
    /// It stays for the next task, because making one allocates.
    waker: Waker,
    deadline: Option<Instant>,
    is_queued: bool,
}

impl Worker {
    /// A worker that `shutdown` wakes.
    pub fn new(shutdown: &Shutdown) -> io::Result<Worker> {
        let (wake_pipe, writer) = io::pipe()?;
        let reactor = Reactor::new(&wake_pipe)?;
        let remote = Arc::new(Remote { woken: Mutex::default(), wake_pipe: writer });
        lock(&shutdown.0.workers).push(Arc::clone(&remote));
        Ok(Worker { reactor, remote, wake_pipe })
    }

    /// Runs on this thread and drives `main` to its end. Tasks that are left are dropped. At most
    /// once a thread.
    pub fn run<T>(self, main: impl Future<Output = T>) -> io::Result<T> {
        let executor = Rc::new(Executor {
            worker: self,
            now: Cell::new(Instant::now()),
            tasks: RefCell::default(),
            free: RefCell::default(),
            ready: RefCell::default(),
            yielded: RefCell::default(),
            current: Cell::new(MAIN_TASK),
            next_deadline: Cell::new(None),
        });
        let is_first = EXECUTOR.with(|slot| slot.set(Rc::clone(&executor)).is_ok());
        assert!(is_first, "a thread runs one worker");
        let _drop_tasks = DropTasks(&executor);
        executor.drive(pin!(main))
    }
}

impl Executor {
    fn drive<T>(&self, mut main: Pin<&mut impl Future<Output = T>>) -> io::Result<T> {
        let main_task = self.add_task();
        self.wake(main_task);
        loop {
            for _ in 0..POLLS_MAX {
                let Some(task) = self.ready.borrow_mut().pop_front() else { break };
                if let Some(entry) = self.tasks.borrow_mut().get_mut(task) {
                    entry.is_queued = false;
                }
                match task {
                    NOTIFICATION => self.handle_notification(),
                    MAIN_TASK => {
                        if let Poll::Ready(output) = self.poll_as(task, main.as_mut()) {
                            return Ok(output);
                        }
                    }
                    _ => self.poll(task),
                }
            }
            for task in self.yielded.take() {
                self.wake(task);
            }
            self.wait()?;
            self.wake_due();
        }
    }

    /// Polls one task. A panic ends it as its own end would.
    fn poll(&self, task: TaskId) {
        let Some(mut future) = self.tasks.borrow_mut()[task].future.take() else { return };
        let polled = catch_unwind(AssertUnwindSafe(|| {
            self.poll_as(task, future.as_mut()).is_pending().then_some(future)
        }));
        let entry = &mut self.tasks.borrow_mut()[task];
        if let Ok(Some(future)) = polled {
            entry.future = Some(future);
        } else {
            entry.deadline = None;
            self.free.borrow_mut().push(task);
        }
    }

    /// Polls the future of a task, which sets the deadline of the task.
    fn poll_as<F: Future + ?Sized>(&self, task: TaskId, future: Pin<&mut F>) -> Poll<F::Output> {
        let waker = {
            let entry = &mut self.tasks.borrow_mut()[task];
            entry.deadline = None;
            entry.waker.clone()
        };
        self.current.set(task);
        future.poll(&mut Context::from_waker(&waker))
    }

    fn spawn(&self, future: BoxFuture) {
        let free = self.free.borrow_mut().pop();
        let task = free.unwrap_or_else(|| self.add_task());
        self.tasks.borrow_mut()[task].future = Some(future);
        self.wake(task);
    }

    /// Adds an entry without a future to the task list.
    fn add_task(&self) -> TaskId {
        let mut tasks = self.tasks.borrow_mut();
        let task = tasks.len();
        let remote = Arc::clone(&self.worker.remote);
        let waker = Waker::from(Arc::new(TaskWaker { task, remote }));
        tasks.push(Task { future: None, waker, deadline: None, is_queued: false });
        task
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

    /// Sleeps until an event or the next deadline, and wakes tasks for events.
    fn wait(&self) -> io::Result<()> {
        let deadline = self.next_deadline.get();
        let timeout_ms = match deadline {
            _ if !self.ready.borrow().is_empty() => 0,
            None => -1,
            Some(at) => milliseconds_until(at),
        };
        let wait = |timeout_ms| self.worker.reactor.wait(timeout_ms, |task| self.wake(task));
        wait(timeout_ms)?;
        self.now.set(Instant::now());
        // Bytes that arrived before `now` count before a deadline that is over at `now`: the
        // process may have been stopped in between.
        if deadline.is_some_and(|at| at <= self.now.get()) {
            while wait(0)? == sys::EVENTS_MAX {}
        }
        Ok(())
    }

    /// Wakes the tasks that other threads have woken.
    fn handle_notification(&self) {
        // Before they are taken: the first one after that fills the pipe again.
        let _ = (&self.worker.wake_pipe).read(&mut [0]);
        for task in std::mem::take(&mut *lock(&self.worker.remote.woken)) {
            let count = self.tasks.borrow().len();
            let tasks = if task == ALL_TASKS { 0..count } else { task..task + 1 };
            tasks.for_each(|task| self.wake(task));
        }
    }
}

/// Drops the tasks that are left when an executor ends, by a panic too.
struct DropTasks<'a>(&'a Executor);

impl Drop for DropTasks<'_> {
    fn drop(&mut self) {
        self.0.free.take();
        loop {
            // Dropping a task may wake others, or spawn: not while the list is borrowed.
            let Some(task) = self.0.tasks.borrow_mut().pop() else { break };
            drop(task);
        }
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
        let entry = &mut executor.tasks.borrow_mut()[executor.current.get()];
        entry.deadline = earlier(Some(at), entry.deadline);
        executor.next_deadline.set(earlier(Some(at), executor.next_deadline.get()));
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
    current(|executor| with(&executor.worker.reactor))
}

pub(super) fn current<T>(with: impl FnOnce(&Executor) -> T) -> T {
    EXECUTOR.with(|slot| with(slot.get().expect("called on a worker's thread")))
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
    wake_pipe: PipeWriter,
}

impl Remote {
    /// Wakes a task, and ends the executor's wait for events.
    fn wake(&self, task: TaskId) {
        let mut woken = lock(&self.woken);
        woken.push(task);
        // One byte until the executor takes them: the pipe is never full.
        if woken.len() == 1 {
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
            Some(executor) if Arc::ptr_eq(&executor.worker.remote, &self.remote) => {
                executor.wake(self.task);
                true
            }
            _ => false,
        });
        if is_local != Ok(true) {
            self.remote.wake(self.task);
        }
    }
}

/// The graceful stop of all workers: a time that is set once, upon which every task is woken.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<ShutdownState>);

#[derive(Default)]
struct ShutdownState {
    begun_at: OnceLock<Instant>,
    workers: Mutex<Vec<Arc<Remote>>>,
}

impl Shutdown {
    /// Begins it, and wakes every task. Callable from any thread.
    pub fn begin(&self) {
        let _ = self.0.begun_at.set(Instant::now());
        for worker in lock(&self.0.workers).iter() {
            worker.wake(ALL_TASKS);
        }
    }

    /// When it began.
    pub fn begun_at(&self) -> Option<Instant> {
        self.0.begun_at.get().copied()
    }

    /// Returns true if it has begun.
    pub fn is_begun(&self) -> bool {
        self.begun_at().is_some()
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

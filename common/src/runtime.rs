//! Futures, time and readiness on one thread, taught from top to bottom.
//!
//! A worker is a thread with its own epoll and its own tasks; nothing is handed over between
//! workers. Each turn of its loop polls what was woken, sleeps in the kernel until a socket is
//! ready or a deadline has come, and marks the tasks that this wakes. Three rules keep it small:
//!
//! - A task's deadline is whatever its last poll asked for. The loop forgets it before the next
//!   poll, so a wait that is dropped leaves nothing behind, and setting one is a single store.
//! - A source joins the epoll when it is first waited for, and each change is told once. From an
//!   event on it is taken to be ready: try, and see.
//! - A wake-up may come for nothing. So shutting down wakes everyone, and asks nobody to register.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::{Duration, Instant};

use crate::sys::{self, Epoll};

/// Polls between two looks at the kernel: no chain of tasks waking each other can keep the
/// sockets waiting.
const POLLS_A_TURN_MAX: usize = 4096;

/// The token of a worker's bell; sources count from 0.
const BELL: u64 = u64::MAX;

/// Reported without being asked for; a read or write then returns the error.
const FAILED: u32 = sys::EPOLLERR | sys::EPOLLHUP;
/// The peer has ended its half of the connection, or the connection has failed.
const ENDED: u32 = FAILED | sys::EPOLLRDHUP;

thread_local! {
    static WORKER: OnceCell<Rc<Worker>> = const { OnceCell::new() };
}

/// Makes this thread a worker and drives `first` to its end. Tasks that are still there then are
/// dropped. Once a thread.
pub fn run<T>(ending: &Ending, first: impl Future<Output = T>) -> io::Result<T> {
    Seat::take()?.run(ending, first)
}

/// The descriptors that a worker needs. Whoever starts several takes all seats first: once one
/// of them accepts connections, there may be no descriptor left for the next.
pub struct Seat {
    epoll: Epoll,
    bell: PipeReader,
    rope: PipeWriter,
}

impl Seat {
    /// One more seat.
    pub fn take() -> io::Result<Seat> {
        let (bell, rope) = io::pipe()?;
        let epoll = Epoll::new()?;
        epoll.watch(bell.as_fd(), false, sys::EPOLLIN, BELL)?;
        Ok(Seat { epoll, bell, rope })
    }

    /// `run` on this seat.
    pub fn run<T>(self, ending: &Ending, first: impl Future<Output = T>) -> io::Result<T> {
        let worker = Rc::new(Worker::new(self, ending));
        let ours = WORKER.with(|slot| slot.set(Rc::clone(&worker)).is_ok());
        assert!(ours, "one thread is one worker");
        let _closing = Closing(&worker);
        worker.drive(pin!(first))
    }
}

/// Drops the tasks that are left when a worker ends, however it does.
struct Closing<'a>(&'a Worker);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.over.set(true);
        // Dropping a task may wake others, or spawn: not while the list is held.
        let left = self.0.slots.take();
        drop(left);
    }
}

/// Starts a task on this worker. A panic in it ends it alone.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    worker(|worker| worker.add(Box::pin(task)));
}

/// When this turn of the loop began: the time at which what it handles became known.
pub fn now() -> Instant {
    worker(|worker| worker.now.get())
}

/// Lets every other task that is ready go first, and the kernel be asked for more.
pub async fn give_way() {
    let mut given = false;
    poll_fn(|_| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        poll_again();
        Poll::Pending
    })
    .await;
}

/// Has this task polled again in the loop's next turn, after everything else that is ready.
pub fn poll_again() {
    worker(|worker| worker.yielded.borrow_mut().push(worker.polled.get()));
}

/// The future's output, or `None` once it is `at` and there is none.
pub async fn within<F: Future>(at: Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => due(at).map(|()| None),
    })
    .await
}

/// Waits until it is `at`.
pub async fn sleep_until(at: Instant) {
    poll_fn(|_| due(at)).await;
}

/// Ready once it is `at`; before that, this task will be polled again then.
pub fn due(at: Instant) -> Poll<()> {
    worker(|worker| {
        if worker.now.get() >= at {
            return Poll::Ready(());
        }
        worker.wanted.set(earlier(Some(at), worker.wanted.get()));
        Poll::Pending
    })
}

/// What `either` saw first.
#[derive(Debug)]
pub enum Either<A, B> {
    /// The first future's output; the second was dropped.
    First(A),
    /// The second future's output; the first was dropped.
    Second(B),
}

/// Whichever future is ready first, the first one if both are.
pub async fn either<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| {
        if let Poll::Ready(output) = a.as_mut().poll(cx) {
            return Poll::Ready(Either::First(output));
        }
        b.as_mut().poll(cx).map(Either::Second)
    })
    .await
}

/// A flag that is raised once, seen by every task of every worker that runs under it.
#[derive(Clone, Default)]
pub struct Ending(Arc<EndingShared>);

#[derive(Default)]
struct EndingShared {
    raised: AtomicBool,
    workers: Mutex<Vec<Arc<Remote>>>,
}

impl Ending {
    /// Raises the flag and wakes every task. Any thread may.
    pub fn raise(&self) {
        self.0.raised.store(true, Ordering::Release);
        for worker in lock(&self.0.workers).iter() {
            worker.everyone.store(true, Ordering::Release);
            worker.ring();
        }
    }

    /// Whether it has been raised.
    pub fn is_raised(&self) -> bool {
        self.0.raised.load(Ordering::Acquire)
    }

    /// Waits until it is raised.
    pub async fn raised(&self) {
        poll_fn(|_| if self.is_raised() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards us: reading and accepting.
    In,
    /// Away from us: writing and connecting.
    Out,
}

/// A non-blocking source of readiness, watched by the worker that made it.
#[derive(Debug)]
pub struct Watched<S> {
    io: S,
    index: usize,
}

impl<S: AsFd> Watched<S> {
    /// A source for this worker alone.
    pub fn new(io: S) -> Watched<S> {
        Watched { io, index: worker(|worker| worker.add_source(Sharing::Own)) }
    }

    /// A source that other workers watch too: each event wakes one of them. It is told again as
    /// long as it lasts, so one operation for each event is enough.
    pub fn shared(io: S) -> Watched<S> {
        Watched { io, index: worker(|worker| worker.add_source(Sharing::Exclusive)) }
    }

    /// The source itself.
    pub fn get(&self) -> &S {
        &self.io
    }

    /// Tries the operation, again after each event, until it is not `WouldBlock`. `Pending` means
    /// that the task being polled will be polled again when the source is ready that way.
    pub fn poll_try<T>(
        &self,
        direction: Direction,
        mut operation: impl FnMut(&S) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            if let Err(error) = ready!(worker(|worker| worker.poll_ready(self, direction))) {
                return Poll::Ready(Err(error));
            }
            match operation(&self.io) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    worker(|worker| worker.source(self.index, |source| source.block(direction)));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Takes a shared source out of the epoll until it is waited for again: what is not taken
    /// must not be told again and again.
    pub fn look_away(&self) {
        worker(|worker| worker.unwatch(self));
    }

    /// `poll_try` as a future.
    pub async fn attempt<T>(
        &self,
        direction: Direction,
        mut operation: impl FnMut(&S) -> io::Result<T>,
    ) -> io::Result<T> {
        let result = poll_fn(|_| self.poll_try(direction, &mut operation)).await;
        worker(|worker| worker.source(self.index, |source| source.tried(direction)));
        result
    }

    /// Reads what is there; 0 is the end. A short read means that no more is there now, which
    /// saves the call that would say so.
    pub fn poll_read(&self, into: &mut [u8]) -> Poll<io::Result<usize>>
    where
        for<'a> &'a S: Read,
    {
        let room = into.len();
        let read = self.poll_try(Direction::In, |mut io| io.read(into));
        if let Poll::Ready(Ok(count)) = read
            && (1..room).contains(&count)
        {
            worker(|worker| worker.source(self.index, Source::drained));
        }
        read
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        // The worker may be gone already when a thread ends.
        let _ = WORKER.try_with(|slot| slot.get().map(|worker| worker.remove_source(self.index)));
    }
}

/// Signals that are read like any input, instead of interrupting.
#[derive(Debug)]
pub struct Signals(Watched<File>);

impl Signals {
    /// Reads those that `sys::signals` has taken, here alone.
    pub fn new(taken: OwnedFd) -> Signals {
        Signals(Watched::new(File::from(taken)))
    }

    /// The number of the next one.
    pub async fn next(&self) -> io::Result<i32> {
        // `struct signalfd_siginfo`: 128 bytes, the number first.
        let mut info = [0; 128];
        self.0.attempt(Direction::In, |mut file| file.read(&mut info)).await?;
        Ok(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
    }
}

/// A timer that is met to some microseconds, for those to whom a millisecond is long. Each
/// wait costs two system calls; a deadline costs none.
#[derive(Debug)]
pub struct Alarm(Watched<File>);

impl Alarm {
    /// One that is not set.
    pub fn new() -> io::Result<Alarm> {
        Ok(Alarm(Watched::new(File::from(sys::timer()?))))
    }

    /// Waits until it is `at`.
    pub async fn at(&self, at: Instant) -> io::Result<()> {
        sys::set_timer(self.0.get().as_fd(), at.saturating_duration_since(Instant::now()))?;
        // A short read: the next wait begins with the kernel, and gives way even if it is over.
        poll_fn(|_| self.0.poll_read(&mut [0; 16])).await.map(drop)
    }
}

// ---------- below: how it is done ----------

struct Worker {
    epoll: RefCell<Epoll>,
    now: Cell<Instant>,
    slots: RefCell<Vec<Slot>>,
    free_slots: RefCell<Vec<usize>>,
    /// Tasks to poll in this turn, and those that gave way until the next.
    ready: RefCell<VecDeque<usize>>,
    yielded: RefCell<Vec<usize>>,
    /// The task that is being polled. What it waits for of this worker's own is noted by its
    /// number; a waker is for whoever does not know it.
    polled: Cell<usize>,
    /// The deadline that the task being polled has asked for so far.
    wanted: Cell<Option<Instant>>,
    /// No task's deadline is earlier than this.
    next_due: Cell<Option<Instant>>,
    sources: RefCell<Vec<Source>>,
    free_sources: RefCell<Vec<usize>>,
    remote: Arc<Remote>,
    bell: RefCell<PipeReader>,
    /// Whether its tasks have been dropped: then it takes no more.
    over: Cell<bool>,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A place for a task. Task and waker are out while the task is polled; the waker then stays for
/// the next task, because making one allocates.
struct Slot {
    task: Option<Task>,
    waker: Option<Waker>,
    deadline: Option<Instant>,
    queued: bool,
}

/// The index of the future that `run` was given: it has no slot.
const FIRST: usize = usize::MAX;

impl Worker {
    fn new(Seat { epoll, bell, rope }: Seat, ending: &Ending) -> Worker {
        let remote = Arc::new(Remote {
            woken: Mutex::default(),
            everyone: AtomicBool::new(ending.is_raised()),
            rung: AtomicBool::new(false),
            rope,
        });
        lock(&ending.0.workers).push(Arc::clone(&remote));
        Worker {
            epoll: RefCell::new(epoll),
            now: Cell::new(Instant::now()),
            slots: RefCell::default(),
            free_slots: RefCell::default(),
            ready: RefCell::default(),
            yielded: RefCell::default(),
            polled: Cell::new(FIRST),
            wanted: Cell::new(None),
            next_due: Cell::new(None),
            sources: RefCell::default(),
            free_sources: RefCell::default(),
            remote,
            bell: RefCell::new(bell),
            over: Cell::new(false),
        }
    }

    fn drive<T>(&self, mut first: Pin<&mut impl Future<Output = T>>) -> io::Result<T> {
        let waker = self.waker(FIRST);
        let mut context = Context::from_waker(&waker);
        let mut deadline = None;
        self.ready.borrow_mut().push_back(FIRST);
        loop {
            for _ in 0..POLLS_A_TURN_MAX {
                let Some(index) = self.ready.borrow_mut().pop_front() else { break };
                if index != FIRST {
                    self.poll(index);
                    continue;
                }
                self.wanted.set(None);
                self.polled.set(FIRST);
                if let Poll::Ready(output) = first.as_mut().poll(&mut context) {
                    return Ok(output);
                }
                deadline = self.wanted.take();
            }
            for index in self.yielded.take() {
                self.wake(index);
            }
            self.await_events(earlier(deadline, self.next_due.get()))?;
            if deadline.is_some_and(|at| at <= self.now.get()) {
                deadline = None;
                self.wake(FIRST);
            }
            self.wake_due();
        }
    }

    /// Polls one task; a panic ends it as its own end would.
    fn poll(&self, index: usize) {
        let Some((mut task, waker)) = self.take_task(index) else { return };
        self.wanted.set(None);
        self.polled.set(index);
        let mut context = Context::from_waker(&waker);
        let polled = catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut context)));
        let left = match polled {
            Ok(Poll::Pending) => Some(task),
            _ => {
                let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
                self.free_slots.borrow_mut().push(index);
                None
            }
        };
        let deadline = self.wanted.take().filter(|_| left.is_some());
        self.next_due.set(earlier(deadline, self.next_due.get()));
        if let Some(slot) = self.slots.borrow_mut().get_mut(index) {
            (slot.task, slot.waker, slot.deadline) = (left, Some(waker), deadline);
        }
    }

    fn take_task(&self, index: usize) -> Option<(Task, Waker)> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(index)?;
        slot.queued = false;
        let task = slot.task.take()?;
        slot.waker.take().map(|waker| (task, waker))
    }

    fn add(&self, task: Task) {
        if self.over.get() {
            // Whoever spawns it may hold what its drop needs; the process is about to end.
            return std::mem::forget(task);
        }
        let index = self.free_slots.borrow_mut().pop().unwrap_or_else(|| {
            let mut slots = self.slots.borrow_mut();
            let waker = Some(self.waker(slots.len()));
            slots.push(Slot { task: None, waker, deadline: None, queued: false });
            slots.len() - 1
        });
        self.slots.borrow_mut()[index].task = Some(task);
        self.wake(index);
    }

    fn waker(&self, index: usize) -> Waker {
        Waker::from(Arc::new(TaskWaker { index, remote: Arc::clone(&self.remote) }))
    }

    fn wake(&self, index: usize) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(index)
            && std::mem::replace(&mut slot.queued, true)
        {
            return;
        }
        self.ready.borrow_mut().push_back(index);
    }

    /// Wakes whoever is due. All tasks are looked at, which happens only when the earliest
    /// deadline known has come: a connection moves its own later with every request.
    fn wake_due(&self) {
        let now = self.now.get();
        if self.next_due.get().is_none_or(|at| at > now) {
            return;
        }
        let mut next = None;
        let count = self.slots.borrow().len();
        for index in 0..count {
            let deadline = self.slots.borrow()[index].deadline;
            match deadline {
                Some(at) if at <= now => self.wake(index),
                later => next = earlier(later, next),
            }
        }
        self.next_due.set(next);
    }

    /// Sleeps until an event or `next`, and marks what it woke.
    fn await_events(&self, next: Option<Instant>) -> io::Result<()> {
        let timeout = match next {
            _ if !self.ready.borrow().is_empty() => 0,
            None => -1,
            Some(at) => milliseconds_until(at),
        };
        let mut epoll = self.epoll.borrow_mut();
        let count = match epoll.wait(timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            waited => waited?,
        };
        self.now.set(Instant::now());
        for (ready, token) in (0..count).map(|index| epoll.event(index)) {
            if token == BELL {
                self.answer_bell();
                continue;
            }
            // Another source may have its place since it was closed.
            if let Some(source) = self.sources.borrow_mut().get_mut(token as u32 as usize)
                && u64::from(source.generation) == token >> 32
            {
                for index in source.rouse(ready).into_iter().flatten() {
                    self.wake(index);
                }
            }
        }
        Ok(())
    }

    fn answer_bell(&self) {
        // The bell is rung again from here on; what was asked for before is done below.
        let _ = self.bell.borrow_mut().read(&mut [0; 64]);
        self.remote.rung.store(false, Ordering::SeqCst);
        for index in std::mem::take(&mut *lock(&self.remote.woken)) {
            self.wake(index);
        }
        if self.remote.everyone.swap(false, Ordering::AcqRel) {
            self.wake(FIRST);
            let count = self.slots.borrow().len();
            (0..count).for_each(|index| self.wake(index));
        }
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// How long the kernel may sleep. Rounded up: a timer must be due when its wait is over.
fn milliseconds_until(at: Instant) -> i32 {
    let left = at.saturating_duration_since(Instant::now());
    left.saturating_add(Duration::from_micros(999)).as_millis().try_into().unwrap_or(i32::MAX)
}

/// What other threads may touch of a worker.
struct Remote {
    woken: Mutex<Vec<usize>>,
    everyone: AtomicBool,
    rung: AtomicBool,
    rope: PipeWriter,
}

impl Remote {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            let _ = (&self.rope).write(&[1]);
        }
    }
}

struct TaskWaker {
    index: usize,
    remote: Arc<Remote>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let here = WORKER.try_with(|slot| match slot.get() {
            Some(worker) if Arc::ptr_eq(&worker.remote, &self.remote) => {
                worker.wake(self.index);
                true
            }
            _ => false,
        });
        if here != Ok(true) {
            lock(&self.remote.woken).push(self.index);
            self.remote.ring();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Own,
    Exclusive,
}

/// What is known of a source's readiness, and whom to wake when it changes.
struct Source {
    generation: u32,
    sharing: Sharing,
    /// What the epoll watches it for.
    watched: Option<Direction>,
    readable: bool,
    writable: bool,
    ended: bool,
    reader: Option<usize>,
    writer: Option<usize>,
}

impl Source {
    fn is_ready(&self, direction: Direction) -> bool {
        match direction {
            Direction::In => self.readable || self.ended,
            Direction::Out => self.writable,
        }
    }

    fn block(&mut self, direction: Direction) {
        match direction {
            Direction::In => (self.readable, self.ended) = (false, false),
            Direction::Out => self.writable = false,
        }
    }

    /// A shared source will be told again.
    fn tried(&mut self, direction: Direction) {
        if self.sharing == Sharing::Exclusive {
            self.block(direction);
        }
    }

    /// After the peer's end no event will come any more: `ended` stays, so that it is read.
    fn drained(&mut self) {
        self.readable = false;
    }

    /// Notes an event; whoever waits for it. They stay noted, for the next one.
    fn rouse(&mut self, ready: u32) -> [Option<usize>; 2] {
        self.ended |= ready & ENDED != 0;
        self.readable |= ready & sys::EPOLLIN != 0;
        self.writable |= ready & (sys::EPOLLOUT | FAILED) != 0;
        let reader = self.reader.filter(|_| self.is_ready(Direction::In));
        let writer = self.writer.filter(|_| self.is_ready(Direction::Out));
        [reader, writer]
    }
}

impl Worker {
    fn add_source(&self, sharing: Sharing) -> usize {
        let mut sources = self.sources.borrow_mut();
        let index = self.free_sources.borrow_mut().pop().unwrap_or(sources.len());
        let generation = sources.get(index).map_or(0, |old| old.generation.wrapping_add(1));
        let source = Source {
            generation,
            sharing,
            watched: None,
            readable: false,
            writable: true,
            ended: false,
            reader: None,
            writer: None,
        };
        match sources.get_mut(index) {
            Some(place) => *place = source,
            None => sources.push(source),
        }
        index
    }

    fn remove_source(&self, index: usize) {
        self.source(index, |source| {
            source.generation = source.generation.wrapping_add(1);
            (source.reader, source.writer) = (None, None);
        });
        self.free_sources.borrow_mut().push(index);
    }

    fn source<T>(&self, index: usize, with: impl FnOnce(&mut Source) -> T) -> T {
        with(&mut self.sources.borrow_mut()[index])
    }

    /// Whether to try. Before that, notes who waits, and has the kernel watch the source from its
    /// first wait on.
    fn poll_ready<S: AsFd>(
        &self,
        watched: &Watched<S>,
        direction: Direction,
    ) -> Poll<io::Result<()>> {
        self.source(watched.index, |source| {
            if source.is_ready(direction) {
                return Poll::Ready(Ok(()));
            }
            match direction {
                Direction::In => source.reader = Some(self.polled.get()),
                Direction::Out => source.writer = Some(self.polled.get()),
            }
            // Room to write is told of from the first time that there was none: before that, each
            // new connection would be said to have it.
            let interest = match (source.sharing, source.watched, direction) {
                (_, Some(Direction::Out), _) | (_, Some(Direction::In), Direction::In) => {
                    return Poll::Pending;
                }
                // With this flag the kernel takes no other interest.
                (Sharing::Exclusive, ..) => sys::EPOLLIN | sys::EPOLLEXCLUSIVE,
                (Sharing::Own, _, Direction::In) => sys::EPOLLIN | ENDED | sys::EPOLLET,
                (Sharing::Own, _, Direction::Out) => {
                    sys::EPOLLIN | sys::EPOLLOUT | ENDED | sys::EPOLLET
                }
            };
            let known = source.watched.replace(direction).is_some();
            let token = u64::from(source.generation) << 32 | watched.index as u64;
            match self.epoll.borrow().watch(watched.io.as_fd(), known, interest, token) {
                Ok(()) => Poll::Pending,
                failed => Poll::Ready(failed),
            }
        })
    }

    fn unwatch<S: AsFd>(&self, watched: &Watched<S>) {
        let known = self.source(watched.index, |source| source.watched.take());
        if known.is_some() {
            let _ = self.epoll.borrow().unwatch(watched.io.as_fd());
        }
    }
}

fn worker<T>(with: impl FnOnce(&Worker) -> T) -> T {
    WORKER.with(|slot| with(slot.get().expect("called on a worker's thread")))
}

/// A lock whose holder panicked holds nothing half-done here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// Runs on a thread of its own, as each thread is one worker.
    fn on_a_worker<T: Send + 'static>(test: impl AsyncFnOnce(Ending) -> T + Send + 'static) -> T {
        let ending = Ending::default();
        std::thread::spawn(move || run(&ending.clone(), test(ending)).expect("a worker"))
            .join()
            .expect("the test's thread")
    }

    fn pair() -> (Watched<UnixStream>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        ours.set_nonblocking(true).expect("a socket that can");
        (Watched::new(ours), theirs)
    }

    async fn read(from: &Watched<UnixStream>) -> Vec<u8> {
        let mut bytes = [0; 64];
        let count = poll_fn(|_| from.poll_read(&mut bytes)).await.expect("a read");
        bytes[..count].to_vec()
    }

    #[test]
    fn what_comes_is_read_in_order_and_then_the_end() {
        on_a_worker(async |_| {
            let (ours, mut theirs) = pair();
            let thread = std::thread::spawn(move || {
                for word in [&b"first"[..], b"second"] {
                    theirs.write_all(word).expect("a write");
                    theirs.read_exact(&mut [0]).expect("an acknowledgement");
                }
            });
            for word in [&b"first"[..], b"second"] {
                assert_eq!(read(&ours).await, word);
                ours.attempt(Direction::Out, |mut io| io.write(b"!")).await.expect("a write");
            }
            assert_eq!(read(&ours).await, b"");
            assert_eq!(read(&ours).await, b"", "the end stays the end");
            thread.join().expect("the other side");
        });
    }

    #[test]
    fn an_end_that_comes_with_the_last_bytes_is_seen_after_a_short_read() {
        on_a_worker(async |_| {
            let (ours, mut theirs) = pair();
            // Watched already, so that bytes and end come in one event.
            assert!(within(now(), read(&ours)).await.is_none());
            theirs.write_all(b"last").expect("a write");
            drop(theirs);
            assert_eq!(read(&ours).await, b"last");
            assert_eq!(read(&ours).await, b"");
        });
    }

    #[test]
    fn a_full_socket_is_written_on_when_there_is_room() {
        on_a_worker(async |_| {
            let (ours, mut theirs) = pair();
            let mut sent = 0;
            let block = vec![7; 64 << 10];
            let write = |mut io: &UnixStream| io.write(&block);
            while let Some(count) = within(now(), ours.attempt(Direction::Out, write)).await {
                sent += count.expect("a write");
            }
            let thread = std::thread::spawn(move || {
                let mut taken = 0;
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = theirs.read(&mut bytes) {
                    taken += count;
                }
                taken
            });
            sent += ours.attempt(Direction::Out, write).await.expect("room again");
            drop(ours);
            assert_eq!(thread.join().expect("the other side"), sent);
        });
    }

    #[test]
    fn a_deadline_ends_a_wait_and_never_too_early() {
        on_a_worker(async |_| {
            let (ours, _theirs) = pair();
            let at = now() + Duration::from_millis(3);
            assert!(within(at, read(&ours)).await.is_none());
            assert!(Instant::now() >= at);
            let at = now() + Duration::from_millis(1);
            sleep_until(at).await;
            assert!(now() >= at);
        });
    }

    #[test]
    fn an_alarm_comes_in_time_and_gives_way_even_if_that_is_over() {
        on_a_worker(async |_| {
            let alarm = Alarm::new().expect("a timer");
            let at = Instant::now() + Duration::from_micros(300);
            alarm.at(at).await.expect("an alarm");
            assert!(Instant::now() >= at);
            // Left before it rang: the next one is none the wiser.
            assert!(within(now(), alarm.at(at + Duration::from_secs(3600))).await.is_none());
            for _ in 0..3 {
                let seen = Rc::new(Cell::new(false));
                let other = Rc::clone(&seen);
                spawn(async move { other.set(true) });
                alarm.at(at).await.expect("an alarm");
                assert!(seen.get());
            }
        });
    }

    #[test]
    fn whoever_waited_last_for_a_source_is_woken_for_each_direction() {
        on_a_worker(async |_| {
            let (ours, mut theirs) = pair();
            // Waited for here, and from then on by two tasks, the first of which hands it on.
            assert!(within(now(), read(&ours)).await.is_none());
            let block = vec![7; 64 << 10];
            let write = move |mut io: &UnixStream| io.write(&block);
            let ours = Rc::new(ours);
            let mut sent = 0;
            while let Some(count) = within(now(), ours.attempt(Direction::Out, &write)).await {
                sent += count.expect("a write");
            }
            let (heard, went_out) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
            let (reader, noted) = (Rc::clone(&ours), Rc::clone(&heard));
            spawn(async move {
                assert!(within(now(), read(&reader)).await.is_none());
                spawn(async move {
                    assert_eq!(read(&reader).await, b"x");
                    noted.set(true);
                });
            });
            let (writer, noted) = (Rc::clone(&ours), Rc::clone(&went_out));
            spawn(async move {
                writer.attempt(Direction::Out, &write).await.expect("room again");
                noted.set(true);
            });
            for _ in 0..3 {
                give_way().await;
            }
            assert!(!heard.get() && !went_out.get());
            theirs.write_all(b"x").expect("a write");
            while !heard.get() {
                give_way().await;
            }
            assert!(!went_out.get());
            theirs.read_exact(&mut vec![0; sent]).expect("what was sent");
            while !went_out.get() {
                give_way().await;
            }
        });
    }

    #[test]
    fn of_many_deadlines_each_comes_and_none_too_early() {
        on_a_worker(async |_| {
            let left = Rc::new(Cell::new(4));
            for wait in [7, 1, 5, 3].map(Duration::from_millis) {
                let left = Rc::clone(&left);
                spawn(async move {
                    let at = now() + wait;
                    sleep_until(at).await;
                    assert!(Instant::now() >= at);
                    left.set(left.get() - 1);
                });
            }
            while left.get() > 0 {
                sleep_until(now() + Duration::from_millis(1)).await;
            }
        });
    }

    #[test]
    fn a_dropped_wait_leaves_no_deadline_behind() {
        on_a_worker(async |_| {
            for _ in 0..1000 {
                let at = now() + Duration::from_secs(3600);
                assert!(matches!(either(async {}, sleep_until(at)).await, Either::First(())));
            }
            give_way().await;
            worker(|worker| {
                assert_eq!(worker.next_due.get(), None);
                assert!(worker.slots.borrow().is_empty());
            });
        });
    }

    #[test]
    fn whoever_gives_way_lets_the_others_go_first() {
        let order = on_a_worker(async |_| {
            let order = Rc::new(RefCell::new(Vec::new()));
            for name in ["a", "b"] {
                let order = Rc::clone(&order);
                spawn(async move {
                    for _ in 0..2 {
                        order.borrow_mut().push(name);
                        give_way().await;
                    }
                });
            }
            for _ in 0..4 {
                give_way().await;
            }
            order.take()
        });
        assert_eq!(order, ["a", "b", "a", "b"]);
    }

    #[test]
    fn a_panic_ends_its_own_task_alone() {
        on_a_worker(async |_| {
            let done = Rc::new(Cell::new(false));
            spawn(async { panic!("as this test wants it") });
            let ours = Rc::clone(&done);
            spawn(async move { ours.set(true) });
            give_way().await;
            assert!(done.get());
        });
    }

    #[test]
    fn another_thread_wakes_a_task() {
        on_a_worker(async |_| {
            let shared = Arc::new(Mutex::new((false, None::<Waker>)));
            let theirs = Arc::clone(&shared);
            let (told, tell) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                tell.recv().expect("the worker waits");
                let mut state = lock(&theirs);
                state.0 = true;
                state.1.take().expect("somebody waits").wake();
            });
            poll_fn(|cx| {
                let mut state = lock(&shared);
                if state.0 {
                    return Poll::Ready(());
                }
                state.1 = Some(cx.waker().clone());
                let _ = told.send(());
                Poll::Pending
            })
            .await;
            thread.join().expect("the other thread");
        });
    }

    #[test]
    fn the_ending_wakes_every_task_of_every_worker() {
        let ending = Ending::default();
        let (waiting, all_wait) = std::sync::mpsc::channel();
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let (ending, waiting) = (ending.clone(), waiting.clone());
                std::thread::spawn(move || {
                    run(&ending.clone(), async {
                        let seen = Rc::new(Cell::new(0));
                        for _ in 0..3 {
                            let (ending, seen) = (ending.clone(), Rc::clone(&seen));
                            spawn(async move {
                                ending.raised().await;
                                seen.set(seen.get() + 1);
                            });
                        }
                        give_way().await;
                        waiting.send(()).expect("the test waits");
                        ending.raised().await;
                        while seen.get() < 3 {
                            give_way().await;
                        }
                    })
                })
            })
            .collect();
        for _ in &workers {
            all_wait.recv().expect("a worker that waits");
        }
        ending.raise();
        for worker in workers {
            worker.join().expect("a worker").expect("its end");
        }
    }

    #[test]
    fn a_place_is_used_again_and_a_late_wake_harms_nobody() {
        on_a_worker(async |_| {
            for round in 0..100 {
                let (ours, mut theirs) = pair();
                let done = Rc::new(Cell::new(false));
                let noted = Rc::clone(&done);
                spawn(async move {
                    assert_eq!(read(&ours).await, b"x");
                    noted.set(true);
                });
                give_way().await;
                theirs.write_all(b"x").expect("a write");
                while !done.get() {
                    give_way().await;
                }
                worker(|worker| {
                    assert_eq!(worker.slots.borrow().len(), 1, "round {round}");
                    assert_eq!(worker.sources.borrow().len(), 1, "round {round}");
                });
            }
        });
    }
}

//! Readiness of descriptors: one epoll a worker. A descriptor joins the epoll when it is first
//! waited for. Events are edge-triggered: after one, the descriptor is taken to be ready until an
//! operation returns `WouldBlock`.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::task::{Poll, ready};

use super::executor::{self, TaskId};
use crate::sys::{self, Epoll};

/// The token of the pipe that wakes a worker. Descriptors count from 0.
const WAKE_TOKEN: u64 = u64::MAX;

/// Always reported, without interest in it; a read or write then returns the error.
const FAILED: u32 = sys::EPOLLERR | sys::EPOLLHUP;
/// The peer has ended its half of the connection, or the connection has failed.
const READ_CLOSED: u32 = FAILED | sys::EPOLLRDHUP;

/// The way that bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Reading and accepting.
    In,
    /// Writing and connecting.
    Out,
}

/// A non-blocking descriptor, registered with the worker that made it.
#[derive(Debug)]
pub struct AsyncFd<S> {
    io: S,
    index: usize,
}

impl<S: AsFd> AsyncFd<S> {
    /// A descriptor of this worker alone.
    pub fn new(io: S) -> AsyncFd<S> {
        AsyncFd { io, index: executor::reactor(|reactor| reactor.register(Sharing::Own)) }
    }

    /// A descriptor that other workers wait for too: each event wakes one of them. Its events are
    /// level-triggered, so one operation for each event is enough.
    pub fn shared(io: S) -> AsyncFd<S> {
        AsyncFd { io, index: executor::reactor(|reactor| reactor.register(Sharing::Exclusive)) }
    }

    /// The descriptor.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// Tries the operation, again after each event, until it is not `WouldBlock`. On `Pending` the
    /// current task is polled again when the descriptor is ready.
    pub fn poll_io<T>(
        &self,
        direction: Direction,
        mut operation: impl FnMut(&S) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            let task = executor::current_task();
            let ready = executor::reactor(|reactor| reactor.poll_ready(self, direction, task));
            if let Err(error) = ready!(ready) {
                return Poll::Ready(Err(error));
            }
            match operation(&self.io) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.update(|source| source.clear_ready(direction));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    self.update(|source| source.operation_done(direction));
                    return Poll::Ready(result);
                }
            }
        }
    }

    /// `poll_io` as a future.
    pub async fn io<T>(
        &self,
        direction: Direction,
        mut operation: impl FnMut(&S) -> io::Result<T>,
    ) -> io::Result<T> {
        poll_fn(|_| self.poll_io(direction, &mut operation)).await
    }

    /// Reads available bytes; 0 is the end. A short read means that no more are there, which saves
    /// the call that would return `WouldBlock`.
    pub fn poll_read(&self, into: &mut [u8]) -> Poll<io::Result<usize>>
    where
        for<'a> &'a S: Read,
    {
        let room = into.len();
        let read = self.poll_io(Direction::In, |mut io| io.read(into));
        if let Poll::Ready(Ok(count)) = read
            && (1..room).contains(&count)
        {
            // The peer's end raises no further event: `is_read_closed` stays, so that it is read.
            self.update(|source| source.is_readable = false);
        }
        read
    }

    /// Removes the descriptor from the epoll until it is waited for again: a level-triggered event
    /// that is not handled would come again and again.
    pub fn suspend(&self) {
        executor::reactor(|reactor| reactor.suspend(self));
    }

    fn update(&self, change: impl FnOnce(&mut Source)) {
        executor::reactor(|reactor| change(&mut reactor.sources.borrow_mut()[self.index]));
    }
}

impl<S> Drop for AsyncFd<S> {
    fn drop(&mut self) {
        executor::try_reactor(|reactor| reactor.deregister(self.index));
    }
}

/// The epoll of one worker and the state of its descriptors.
pub(super) struct Reactor {
    epoll: RefCell<Epoll>,
    sources: RefCell<Vec<Source>>,
    free: RefCell<Vec<usize>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Own,
    /// Level-triggered, with `EPOLLEXCLUSIVE`.
    Exclusive,
}

/// The readiness of one descriptor, and the tasks to wake when it changes.
#[allow(clippy::struct_excessive_bools)] // independent of each other
struct Source {
    /// Differs from the one before at the same index, so that late events are recognized.
    generation: u32,
    sharing: Sharing,
    /// The direction that the epoll watches; `Out` includes `In`.
    interest: Option<Direction>,
    is_readable: bool,
    is_writable: bool,
    is_read_closed: bool,
    reader: Option<TaskId>,
    writer: Option<TaskId>,
}

impl Source {
    fn is_ready(&self, direction: Direction) -> bool {
        match direction {
            Direction::In => self.is_readable || self.is_read_closed,
            Direction::Out => self.is_writable,
        }
    }

    fn clear_ready(&mut self, direction: Direction) {
        match direction {
            Direction::In => (self.is_readable, self.is_read_closed) = (false, false),
            Direction::Out => self.is_writable = false,
        }
    }

    /// A level-triggered event comes again while the descriptor is ready.
    fn operation_done(&mut self, direction: Direction) {
        if self.sharing == Sharing::Exclusive {
            self.clear_ready(direction);
        }
    }

    /// Records an event; returns the tasks to wake.
    fn on_event(&mut self, events: u32) -> [Option<TaskId>; 2] {
        self.is_read_closed |= events & READ_CLOSED != 0;
        self.is_readable |= events & sys::EPOLLIN != 0;
        self.is_writable |= events & (sys::EPOLLOUT | FAILED) != 0;
        let reader = self.reader.filter(|_| self.is_ready(Direction::In));
        let writer = self.writer.filter(|_| self.is_ready(Direction::Out));
        [reader, writer]
    }
}

impl Reactor {
    /// An epoll that reports when `wake_pipe` has bytes.
    pub(super) fn new(wake_pipe: impl AsFd) -> io::Result<Reactor> {
        let epoll = Epoll::new()?;
        epoll.add(wake_pipe.as_fd(), sys::EPOLLIN, WAKE_TOKEN)?;
        Ok(Reactor {
            epoll: RefCell::new(epoll),
            sources: RefCell::default(),
            free: RefCell::default(),
        })
    }

    /// Waits for events, at most `timeout_ms` (-1: without limit). Calls `wake` for each task to
    /// poll; returns true if the wake pipe has bytes.
    pub(super) fn wait(&self, timeout_ms: i32, wake: impl FnMut(TaskId)) -> io::Result<bool> {
        let mut epoll = self.epoll.borrow_mut();
        let count = epoll.wait(timeout_ms)?;
        Ok(self.handle_events(&epoll, count, wake))
    }

    /// Handles all events that have arrived.
    pub(super) fn poll_all(&self, mut wake: impl FnMut(TaskId)) -> io::Result<bool> {
        let mut epoll = self.epoll.borrow_mut();
        let mut is_notified = false;
        let batches_max = self.sources.borrow().len() / sys::EVENTS_MAX + 1;
        for _ in 0..batches_max {
            let count = epoll.wait(0)?;
            is_notified |= self.handle_events(&epoll, count, &mut wake);
            if count < sys::EVENTS_MAX {
                break;
            }
        }
        Ok(is_notified)
    }

    fn handle_events(&self, epoll: &Epoll, count: usize, mut wake: impl FnMut(TaskId)) -> bool {
        let mut is_notified = false;
        let mut sources = self.sources.borrow_mut();
        for (events, token) in (0..count).map(|index| epoll.event(index)) {
            if token == WAKE_TOKEN {
                is_notified = true;
            } else if let Some(source) = sources.get_mut(token as u32 as usize)
                && u64::from(source.generation) == token >> 32
            {
                source.on_event(events).into_iter().flatten().for_each(&mut wake);
            }
        }
        is_notified
    }

    /// The number of descriptors that were ever registered at the same time.
    #[cfg(test)]
    pub(super) fn sources_len(&self) -> usize {
        self.sources.borrow().len()
    }

    fn register(&self, sharing: Sharing) -> usize {
        let mut sources = self.sources.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or(sources.len());
        let generation = sources.get(index).map_or(0, |old| old.generation.wrapping_add(1));
        let source = Source {
            generation,
            sharing,
            interest: None,
            is_readable: false,
            // A new socket is; a connecting one reports `WouldBlock`.
            is_writable: true,
            is_read_closed: false,
            reader: None,
            writer: None,
        };
        match sources.get_mut(index) {
            Some(slot) => *slot = source,
            None => sources.push(source),
        }
        index
    }

    fn deregister(&self, index: usize) {
        let source = &mut self.sources.borrow_mut()[index];
        source.generation = source.generation.wrapping_add(1);
        (source.reader, source.writer) = (None, None);
        self.free.borrow_mut().push(index);
    }

    /// `Ready` if an operation is worth trying. Otherwise records the task that waits, and has the
    /// epoll watch the descriptor from its first wait on.
    fn poll_ready<S: AsFd>(
        &self,
        fd: &AsyncFd<S>,
        direction: Direction,
        task: TaskId,
    ) -> Poll<io::Result<()>> {
        let source = &mut self.sources.borrow_mut()[fd.index];
        if source.is_ready(direction) {
            return Poll::Ready(Ok(()));
        }
        match direction {
            Direction::In => source.reader = Some(task),
            Direction::Out => source.writer = Some(task),
        }
        // Register EPOLLOUT only after the first WouldBlock; otherwise every new connection raises
        // an event.
        let interest = match (source.sharing, source.interest, direction) {
            (_, Some(Direction::Out), _) | (_, Some(Direction::In), Direction::In) => {
                return Poll::Pending;
            }
            // The kernel accepts no EPOLLRDHUP with EPOLLEXCLUSIVE.
            (Sharing::Exclusive, ..) => sys::EPOLLIN | sys::EPOLLEXCLUSIVE,
            (Sharing::Own, _, Direction::In) => sys::EPOLLIN | sys::EPOLLRDHUP | sys::EPOLLET,
            (Sharing::Own, _, Direction::Out) => {
                sys::EPOLLIN | sys::EPOLLOUT | sys::EPOLLRDHUP | sys::EPOLLET
            }
        };
        let token = u64::from(source.generation) << 32 | fd.index as u64;
        let epoll = self.epoll.borrow();
        let registered = match source.interest.replace(direction) {
            None => epoll.add(fd.io.as_fd(), interest, token),
            Some(_) => epoll.modify(fd.io.as_fd(), interest, token),
        };
        match registered {
            Ok(()) => Poll::Pending,
            failed => Poll::Ready(failed),
        }
    }

    fn suspend<S: AsFd>(&self, fd: &AsyncFd<S>) {
        let interest = self.sources.borrow_mut()[fd.index].interest.take();
        if interest.is_some() {
            let _ = self.epoll.borrow().delete(fd.io.as_fd());
        }
    }
}

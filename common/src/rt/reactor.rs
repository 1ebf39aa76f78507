//! Readiness of descriptors: one epoll a worker. A descriptor joins the epoll when it is first
//! waited for. Events are edge-triggered: after one, the descriptor is taken to be ready until an
//! operation returns `WouldBlock`.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::Poll;

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

/// The index of a task.
pub(super) type TaskId = usize;

/// The epoll of one worker and the state of its descriptors.
pub(super) struct Reactor {
    epoll: RefCell<Epoll>,
    sources: RefCell<Vec<Source>>,
    free: RefCell<Vec<usize>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    Own,
    /// Level-triggered, with `EPOLLEXCLUSIVE`.
    Exclusive,
}

/// The readiness of one descriptor, and the tasks to wake when it changes.
#[allow(clippy::struct_excessive_bools)] // independent of each other
pub(super) struct Source {
    /// Differs from the one before at the same index, so that late events are recognized.
    generation: u32,
    sharing: Sharing,
    /// The direction that the epoll watches; `Out` includes `In`.
    interest: Option<Direction>,
    pub(super) is_readable: bool,
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

    pub(super) fn clear_ready(&mut self, direction: Direction) {
        match direction {
            Direction::In => (self.is_readable, self.is_read_closed) = (false, false),
            Direction::Out => self.is_writable = false,
        }
    }

    /// A level-triggered event comes again while the descriptor is ready.
    pub(super) fn operation_done(&mut self, direction: Direction) {
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

    /// Adds a descriptor, which joins the epoll when it is first waited for.
    pub(super) fn register(&self, sharing: Sharing) -> usize {
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

    /// Forgets a descriptor that is being closed.
    pub(super) fn deregister(&self, index: usize) {
        let source = &mut self.sources.borrow_mut()[index];
        source.generation = source.generation.wrapping_add(1);
        (source.reader, source.writer) = (None, None);
        self.free.borrow_mut().push(index);
    }

    /// Changes the state of a descriptor.
    pub(super) fn update(&self, index: usize, change: impl FnOnce(&mut Source)) {
        change(&mut self.sources.borrow_mut()[index]);
    }

    /// `Ready` if an operation is worth trying. Otherwise records the task that waits, and has the
    /// epoll watch the descriptor from its first wait on.
    pub(super) fn poll_ready(
        &self,
        fd: BorrowedFd<'_>,
        index: usize,
        direction: Direction,
        task: TaskId,
    ) -> Poll<io::Result<()>> {
        let source = &mut self.sources.borrow_mut()[index];
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
        let token = u64::from(source.generation) << 32 | index as u64;
        let epoll = self.epoll.borrow();
        let registered = match source.interest.replace(direction) {
            None => epoll.add(fd, interest, token),
            Some(_) => epoll.modify(fd, interest, token),
        };
        match registered {
            Ok(()) => Poll::Pending,
            failed => Poll::Ready(failed),
        }
    }

    /// Removes a descriptor from the epoll until it is waited for again.
    pub(super) fn suspend(&self, fd: BorrowedFd<'_>, index: usize) {
        let interest = self.sources.borrow_mut()[index].interest.take();
        if interest.is_some() {
            let _ = self.epoll.borrow().delete(fd);
        }
    }
}

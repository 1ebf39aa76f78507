//! Readiness of descriptors: one epoll a worker. A descriptor joins the epoll when it is first
//! waited for. Events are edge-triggered: after one, the descriptor is taken to be ready until an
//! operation returns `WouldBlock`.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::Poll;

use crate::sys::{self, Epoll, EpollEvent};

/// Always reported, without interest in it; a read or write then returns the error.
const FAILED: u32 = sys::EPOLLERR | sys::EPOLLHUP;
/// The interest in a descriptor of one worker, and in one that workers share. That is
/// level-triggered; the kernel accepts no EPOLLRDHUP with EPOLLEXCLUSIVE.
pub(super) const OWN: u32 = sys::EPOLLIN | sys::EPOLLRDHUP | sys::EPOLLET;
pub(super) const SHARED: u32 = sys::EPOLLIN | sys::EPOLLEXCLUSIVE;

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
/// Takes the place of a task: the wake pipe has bytes. It is the pipe's token too; those of other
/// descriptors are their indexes.
pub(super) const NOTIFICATION: TaskId = TaskId::MAX - 1;

/// The epoll of one worker and the state of its descriptors.
pub(super) struct Reactor {
    epoll: RefCell<Epoll>,
    pub(super) sources: RefCell<Vec<Source>>,
    free: RefCell<Vec<usize>>,
}

impl Direction {
    /// The events after which an operation is worth trying.
    pub(super) fn events(self) -> u32 {
        match self {
            Direction::In => sys::EPOLLIN | sys::EPOLLRDHUP,
            Direction::Out => sys::EPOLLOUT,
        }
    }
}

/// The readiness of one descriptor, and the task to wake when it changes.
pub(super) struct Source {
    /// The interest of one that waits to read, and what the epoll watches for.
    interest: u32,
    watched: u32,
    /// Events since an operation returned `WouldBlock`.
    ready: u32,
    /// The last one that waited.
    task: Option<TaskId>,
}

impl Reactor {
    /// An epoll that reports when `wake_pipe` has bytes.
    pub(super) fn new(wake_pipe: impl AsFd) -> io::Result<Reactor> {
        let epoll = Epoll::new()?;
        epoll.control(sys::EPOLL_CTL_ADD, wake_pipe.as_fd(), OWN, NOTIFICATION as u64)?;
        Ok(Reactor {
            epoll: RefCell::new(epoll),
            sources: RefCell::default(),
            free: RefCell::default(),
        })
    }

    /// Waits for events, at most `timeout_ms` (-1: without limit), and calls `wake` for each task to
    /// poll. Returns the number of events: with `EVENTS_MAX`, there may be more.
    pub(super) fn wait(&self, timeout_ms: i32, mut wake: impl FnMut(TaskId)) -> io::Result<usize> {
        let mut epoll = self.epoll.borrow_mut();
        let mut sources = self.sources.borrow_mut();
        let events = epoll.wait(timeout_ms)?;
        for EpollEvent { events, data } in events.iter().copied() {
            let Some(source) = sources.get_mut(data as usize) else {
                wake(data as TaskId);
                continue;
            };
            source.ready |= events;
            if events & FAILED != 0 {
                source.ready |= sys::EPOLLRDHUP | sys::EPOLLOUT;
            }
            source.task.into_iter().for_each(&mut wake);
        }
        Ok(events.len())
    }

    /// Adds a descriptor, which joins the epoll when it is first waited for.
    pub(super) fn register(&self, interest: u32) -> usize {
        let mut sources = self.sources.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or(sources.len());
        // A new socket is writable; a connecting one reports `WouldBlock`.
        let source = Source { interest, watched: 0, ready: sys::EPOLLOUT, task: None };
        match sources.get_mut(index) {
            Some(slot) => *slot = source,
            None => sources.push(source),
        }
        index
    }

    /// Forgets a descriptor that is being closed.
    pub(super) fn deregister(&self, index: usize) {
        self.sources.borrow_mut()[index].task = None;
        self.free.borrow_mut().push(index);
    }

    /// Forgets events of a descriptor.
    pub(super) fn clear_ready(&self, index: usize, events: u32) {
        self.sources.borrow_mut()[index].ready &= !events;
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
        if source.ready & direction.events() != 0 {
            // A level-triggered event comes again while the descriptor is ready.
            if source.interest & sys::EPOLLET == 0 {
                source.ready = 0;
            }
            return Poll::Ready(Ok(()));
        }
        source.task = Some(task);
        // Register EPOLLOUT only after the first WouldBlock; otherwise every new connection raises
        // an event.
        let events = match direction {
            Direction::In => source.interest,
            Direction::Out => source.interest | sys::EPOLLOUT,
        };
        if source.watched & events != events {
            let operation = match std::mem::replace(&mut source.watched, events) {
                0 => sys::EPOLL_CTL_ADD,
                _ => sys::EPOLL_CTL_MOD,
            };
            self.epoll.borrow().control(operation, fd, events, index as u64)?;
        }
        Poll::Pending
    }

    /// Removes a descriptor from the epoll until it is waited for again.
    pub(super) fn suspend(&self, fd: BorrowedFd<'_>, index: usize) {
        if std::mem::take(&mut self.sources.borrow_mut()[index].watched) != 0 {
            let _ = self.epoll.borrow().control(sys::EPOLL_CTL_DEL, fd, 0, 0);
        }
    }
}

//! A non-blocking descriptor as a source of readiness for tasks.

use std::future::poll_fn;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::task::{Poll, ready};

use super::executor;
use super::reactor::{Direction, OWN, SHARED};
use crate::sys;

/// A non-blocking descriptor, registered with the worker that made it.
#[derive(Debug)]
pub struct AsyncFd<S> {
    io: S,
    index: usize,
}

impl<S: AsFd> AsyncFd<S> {
    /// A descriptor of this worker alone.
    pub fn new(io: S) -> AsyncFd<S> {
        AsyncFd { io, index: executor::reactor(|reactor| reactor.register(OWN)) }
    }

    /// A descriptor that other workers wait for too: each event wakes one of them. Its events are
    /// level-triggered, so one operation for each event is enough.
    pub fn shared(io: S) -> AsyncFd<S> {
        AsyncFd { io, index: executor::reactor(|reactor| reactor.register(SHARED)) }
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
            let fd = self.io.as_fd();
            let ready =
                executor::reactor(|reactor| reactor.poll_ready(fd, self.index, direction, task));
            if let Err(error) = ready!(ready) {
                return Poll::Ready(Err(error));
            }
            match operation(&self.io) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.clear_ready(direction.events());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
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
            // The peer's end raises no further event: EPOLLRDHUP stays, so that it is read.
            self.clear_ready(sys::EPOLLIN);
        }
        read
    }

    /// Removes the descriptor from the epoll until it is waited for again: a level-triggered event
    /// that is not handled would come again and again.
    pub fn suspend(&self) {
        executor::reactor(|reactor| reactor.suspend(self.io.as_fd(), self.index));
    }

    fn clear_ready(&self, events: u32) {
        executor::reactor(|reactor| reactor.clear_ready(self.index, events));
    }
}

impl<S> Drop for AsyncFd<S> {
    fn drop(&mut self) {
        executor::reactor(|reactor| reactor.deregister(self.index));
    }
}

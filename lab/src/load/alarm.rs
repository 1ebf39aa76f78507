//! A timer that is met to some microseconds; deadlines of the event loop are met to a millisecond.

use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use common::rt::AsyncFd;
use tools::sys;

/// A timer. Each wait costs two system calls.
#[derive(Debug)]
pub(super) struct Alarm(AsyncFd<File>);

impl Alarm {
    /// A timer that is not set.
    pub(super) fn new() -> io::Result<Alarm> {
        Ok(Alarm(AsyncFd::new(File::from(sys::timer()?))))
    }

    /// Waits until it is `at`.
    pub(super) async fn at(&self, at: Instant) -> io::Result<()> {
        let left = at.saturating_duration_since(Instant::now());
        sys::set_timer(self.0.get_ref().as_fd(), left)?;
        // A short read: the next wait begins with the kernel, and yields even if it is over.
        poll_fn(|_| self.0.poll_read(&mut [0; 16])).await.map(drop)
    }
}

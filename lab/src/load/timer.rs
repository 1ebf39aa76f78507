//! A timer that is accurate to some microseconds. Deadlines of the event loop are to a millisecond.

use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use common::rt::AsyncFd;
use tools::sys;

/// A timer. Each wait costs two system calls.
#[derive(Debug)]
pub(super) struct Timer(AsyncFd<File>);

impl Timer {
    pub(super) fn new() -> io::Result<Timer> {
        Ok(Timer(AsyncFd::new(File::from(sys::timer()?))))
    }

    /// Waits until it is `at`.
    pub(super) async fn sleep_until(&self, at: Instant) -> io::Result<()> {
        let left = at.saturating_duration_since(Instant::now());
        sys::set_timer(self.0.get_ref().as_fd(), left)?;
        // A short read, so that the next wait asks the kernel first, and yields even if it is over.
        poll_fn(|_| self.0.poll_read(&mut [0; 16])).await.map(drop)
    }
}

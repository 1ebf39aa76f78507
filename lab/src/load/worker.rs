//! The load of one thread: its connections, and the wake-ups of idle ones when requests are due.
//!
//! At full speed a request is due as soon as a connection is free for it. At a fixed rate it is due
//! at its own time, and the wait for a free connection is part of its latency. Otherwise a server
//! that stops for a while would delay few requests ("coordinated omission").

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use common::rt::{self, Either, Shutdown};

use super::schedule::{Schedule, share};
use super::statistics::{Failure, Statistics};
use super::timer::Timer;

/// The most bytes that one read takes.
const READ_BYTES_MAX: usize = 64 << 10;

/// The load of all threads together.
pub(super) struct Plan {
    /// The addresses of the server, used in turn.
    pub(super) addresses: Vec<SocketAddr>,
    /// The bytes of one request.
    pub(super) request: Vec<u8>,
    pub(super) connections: u64,
    pub(super) threads: u64,
    /// Requests a second; `None` is full speed.
    pub(super) rate: Option<u64>,
    /// Requests on one connection before the first response.
    pub(super) pipeline: usize,
    pub(super) connection_use: ConnectionUse,
    /// From the due time of a request until it is sent, and then until its response.
    pub(super) timeout: Duration,
    /// The body that each response must have, but for a final line feed.
    pub(super) expected_body: Option<Vec<u8>>,
    pub(super) begin: Instant,
    pub(super) end: Instant,
}

/// How many requests a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionUse {
    /// As many as the server allows.
    Persistent,
    OneRequest,
}

/// Sends this thread's share of the requests until the end of the load or the shutdown, and waits
/// for the last responses. `connection` is the task of each connection.
pub(super) async fn run(
    plan: Arc<Plan>,
    thread: u64,
    statistics: Arc<Mutex<Statistics>>,
    shutdown: Shutdown,
    connection: impl AsyncFn(&Worker) + Copy + 'static,
) -> io::Result<()> {
    let connections = share(plan.connections, thread, plan.threads);
    let new_schedule = |rate| Schedule::new((plan.begin, plan.end), rate, (thread, plan.threads));
    let worker = Rc::new(Worker {
        statistics,
        shutdown,
        schedule: plan.rate.map(new_schedule),
        idle: RefCell::default(),
        running: Cell::new(connections),
        finished_waker: Cell::new(None),
        turn: Cell::new(thread),
        scratch: RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice()),
        plan,
    });
    for _ in 0..connections {
        let guard = RunningGuard(Rc::clone(&worker));
        rt::spawn(async move { connection(&guard.0).await });
    }
    if let Some(schedule) = &worker.schedule {
        worker.wake_when_due(schedule).await?;
    }
    worker.finished().await;
    Ok(())
}

/// The state shared by the connections of one thread.
pub(super) struct Worker {
    pub(super) plan: Arc<Plan>,
    statistics: Arc<Mutex<Statistics>>,
    shutdown: Shutdown,
    /// At a fixed rate.
    schedule: Option<Schedule>,
    /// The wakers of connections that wait for a due request; the longest wait first.
    pub(super) idle: RefCell<VecDeque<Rc<IdleWaker>>>,
    /// Connection tasks that have not ended.
    running: Cell<u64>,
    finished_waker: Cell<Option<Waker>>,
    /// Counts connections, so that each address gets its share.
    turn: Cell<u64>,
    /// The read buffer.
    pub(super) scratch: RefCell<Box<[u8]>>,
}

/// The waker of a connection that waits for a due request; empty while it does not.
pub(super) type IdleWaker = Cell<Option<Waker>>;

impl Worker {
    /// Returns true if no more requests become due.
    pub(super) fn is_over(&self) -> bool {
        self.shutdown.is_begun() || Instant::now() >= self.plan.end
    }

    /// Takes a request that is due. Returns the time when it became due.
    pub(super) fn take_due(&self) -> Option<Instant> {
        let Some(schedule) = &self.schedule else {
            return (!self.is_over()).then(Instant::now);
        };
        self.update(schedule);
        // Requests that no connection was free for in time: sent now, they would keep connections
        // from requests that are not late yet.
        if let Some(at) = Instant::now().checked_sub(self.plan.timeout) {
            let unsent = schedule.give_up_before(at);
            if unsent > 0 {
                self.record(|it, at| it.record_failures(at, Failure::Unsent, unsent, None));
            }
        }
        schedule.take()
    }

    fn update(&self, schedule: &Schedule) {
        if !self.shutdown.is_begun() {
            schedule.update(Instant::now());
        }
    }

    /// The addresses of the server in the order in which the next connection tries them.
    pub(super) fn next_addresses(&self) -> Vec<SocketAddr> {
        let turn = self.turn.replace(self.turn.get() + 1) as usize;
        let mut addresses = self.plan.addresses.clone();
        addresses.rotate_left(turn % self.plan.addresses.len().max(1));
        addresses
    }

    /// Wakes idle connections when requests become due, and all of them when no more will.
    async fn wake_when_due(&self, schedule: &Schedule) -> io::Result<()> {
        let timer = Timer::new()?;
        while !self.is_over() {
            let sleep = timer.sleep_until(schedule.next_at());
            if let Either::First(result) = rt::select(sleep, self.shutdown.begun()).await {
                result?;
            }
            self.update(schedule);
            for _ in 0..schedule.waiting() {
                if !self.wake_one() {
                    break;
                }
            }
        }
        while self.wake_one() {}
        Ok(())
    }

    /// Wakes the connection that has been idle for longest. Returns false if none is idle.
    fn wake_one(&self) -> bool {
        loop {
            let Some(idle) = self.idle.borrow_mut().pop_front() else { return false };
            if let Some(waker) = idle.take() {
                waker.wake();
                return true;
            }
        }
    }

    /// Waits until all connection tasks have ended.
    async fn finished(&self) {
        poll_fn(|cx| {
            self.finished_waker.set(Some(cx.waker().clone()));
            if self.running.get() == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Passes the statistics and the time since the begin of the load to `record`.
    pub(super) fn record<T>(&self, record: impl FnOnce(&mut Statistics, Duration) -> T) -> T {
        // A panic while the lock is held is impossible, but for running out of memory.
        let mut statistics = self.statistics.lock().unwrap_or_else(PoisonError::into_inner);
        record(&mut statistics, self.plan.begin.elapsed())
    }
}

/// Counts a connection task as running until it is dropped, even by a panic.
struct RunningGuard(Rc<Worker>);

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.finished_waker.take().into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn a_request_goes_to_the_next_address_if_one_refuses() {
        const RESPONSE: &[u8] = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (server, refusing) = (listen(), listen().local_addr().unwrap());
        let address = server.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in server.incoming().map_while(Result::ok) {
                let _ = stream.read(&mut [0; 64]).and_then(|_| stream.write_all(RESPONSE));
            }
        });
        let begin = Instant::now();
        let plan = Plan {
            addresses: vec![refusing, address],
            request: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            connections: 1,
            threads: 1,
            rate: Some(100),
            pipeline: 1,
            connection_use: ConnectionUse::OneRequest,
            timeout: Duration::from_secs(5),
            expected_body: None,
            begin,
            end: begin + Duration::from_millis(100),
        };
        let (statistics, shutdown) = (Arc::<Mutex<Statistics>>::default(), Shutdown::default());
        let own = Arc::clone(&statistics);
        let connection = super::super::connection::run;
        let load = run(Arc::new(plan), 0, own, shutdown.clone(), connection);
        rt::run(&shutdown, load).unwrap().unwrap();
        let statistics = statistics.lock().unwrap();
        let counts = (statistics.responses(), statistics.failed());
        assert_eq!(counts, (10, 0), "{:?}", statistics.first_error);
    }
}

//! One connection of a load at a time: connects, sends requests as they become due, records the
//! responses, and connects again.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use common::client;
use common::http::client::{ClientConn, ResponseError};
use common::http::{KeepAlive, Limits};
use common::rt::{self, AsyncFd, Direction};

use super::statistics::Failure;
use super::worker::{ConnectionUse, IdleWaker, Worker};

/// Reads of one connection before the others have their turn.
const READS_PER_TURN_MAX: usize = 4;
/// Large enough for the pages that servers under load send.
const LIMITS: Limits = Limits { head_bytes_max: 64 << 10, body_bytes_max: 64 << 20 };
/// Between a failed connect and the next one: short enough to see the gap of a restart to a few
/// milliseconds, and long enough not to overload the server that restarts.
const RECONNECT_DELAY: Duration = Duration::from_millis(5);

/// Sends requests until no more become due.
pub(super) async fn run(worker: &Worker) {
    let mut connection = Connection {
        worker,
        idle_waker: Rc::default(),
        conn: ClientConn::new(LIMITS),
        pending: VecDeque::new(),
        is_read_closed: false,
    };
    while let Some(first) = connection.next_request().await {
        let deadline = first.taken_at + worker.plan.timeout;
        let result = match client::connect(&worker.next_addresses(), deadline, |_| {}).await {
            Ok((socket, _)) => {
                worker.record(|statistics, _| statistics.connections_opened += 1);
                connection.run_on(socket).await
            }
            Err(error) => Err(connect_error(&error)),
        };
        let Err((failure, text)) = result else { continue };
        let unanswered = connection.pending.drain(..).count() as u64;
        worker.record(|it, at| it.record_failures(at, failure, unanswered, text));
        if matches!(failure, Failure::Refused | Failure::Connect) {
            rt::sleep_until(Instant::now() + RECONNECT_DELAY).await;
        }
    }
}

struct Connection<'a> {
    worker: &'a Worker,
    idle_waker: Rc<IdleWaker>,
    conn: ClientConn,
    /// The requests without a response, in order.
    pending: VecDeque<PendingRequest>,
    is_read_closed: bool,
}

#[derive(Clone, Copy)]
struct PendingRequest {
    due_at: Instant,
    /// When a connection was free for it. The timeout counts from here: at a rate that is too high
    /// for the server, every request has waited, and those that are sent can still succeed.
    taken_at: Instant,
}

/// Why a connection failed, and the text of the error.
type Error = (Failure, Option<String>);

impl Connection<'_> {
    /// Waits for a due request, and takes those that are. Returns the first of them, or `None` if
    /// no more become due.
    async fn next_request(&mut self) -> Option<PendingRequest> {
        poll_fn(|cx| {
            // Checked first, because a request that became due before the end is still sent.
            let is_over = self.worker.is_over();
            self.take_requests(cx);
            match self.pending.front() {
                Some(first) => Poll::Ready(Some(*first)),
                None if is_over => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Takes as many due requests as may be pending. If it has none then, it will be woken for one.
    fn take_requests(&mut self, cx: &Context<'_>) {
        let plan = &self.worker.plan;
        let depth = match (plan.connection_use, plan.rate) {
            (ConnectionUse::OneRequest, _) => 1,
            // At full speed in batches, so that each is one write.
            (ConnectionUse::Persistent, None) if !self.pending.is_empty() => return,
            (ConnectionUse::Persistent, _) => plan.pipeline,
        };
        while self.pending.len() < depth {
            let Some(due_at) = self.worker.take_due() else { break };
            self.pending.push_back(PendingRequest { due_at, taken_at: rt::now() });
        }
        if !self.pending.is_empty() {
            self.idle_waker.take();
            return;
        }
        let was_idle = self.idle_waker.replace(Some(cx.waker().clone())).is_some();
        if !was_idle && plan.rate.is_some() {
            self.worker.idle.borrow_mut().push_back(Rc::clone(&self.idle_waker));
        }
    }

    /// Sends requests and reads responses until the connection ends. After `Ok`, the pending
    /// requests may be sent again on another one (RFC 9112 section 9.3.1).
    async fn run_on(&mut self, socket: AsyncFd<TcpStream>) -> Result<(), Error> {
        self.conn = ClientConn::new(LIMITS);
        self.is_read_closed = false;
        for _ in 0..self.pending.len() {
            self.conn.request(&self.worker.plan.request);
        }
        poll_fn(|cx| self.poll_connection(&socket, cx)).await
    }

    fn poll_connection(
        &mut self,
        socket: &AsyncFd<TcpStream>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        let worker = self.worker;
        for _ in 0..READS_PER_TURN_MAX {
            // After a failed write there may still be a response to read; the read finds the error.
            let _ = self.poll_send(socket);
            let scratch = &mut **worker.scratch.borrow_mut();
            match socket.poll_read(scratch) {
                Poll::Pending if !self.pending.is_empty() => return self.poll_timeout(),
                Poll::Pending => {
                    let is_over = worker.is_over();
                    self.enqueue_requests(cx);
                    match self.pending.is_empty() {
                        true if is_over => return Poll::Ready(Ok(())),
                        true => return Poll::Pending,
                        false => continue,
                    }
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err((Failure::Reset, Some(error.to_string()))));
                }
                Poll::Ready(Ok(0)) => {
                    self.is_read_closed = true;
                    self.conn.close();
                }
                Poll::Ready(Ok(count)) => {
                    self.conn.receive(scratch.get(..count).unwrap_or_default());
                    worker.record(|statistics, _| statistics.bytes_received += count as u64);
                }
            }
            match self.read_responses() {
                Err(error) => return Poll::Ready(Err(response_error(error))),
                Ok(KeepAlive::Close) => return Poll::Ready(Ok(())),
                Ok(KeepAlive::Keep) if self.is_read_closed => return Poll::Ready(Ok(())),
                Ok(KeepAlive::Keep) => self.enqueue_requests(cx),
            }
        }
        rt::wake_next_turn();
        self.poll_timeout()
    }

    fn poll_timeout(&self) -> Poll<Result<(), Error>> {
        let Some(first) = self.pending.front() else { return Poll::Pending };
        rt::poll_deadline(first.taken_at + self.worker.plan.timeout)
            .map(|()| Err((Failure::Timeout, None)))
    }

    fn enqueue_requests(&mut self, cx: &Context<'_>) {
        let before = self.pending.len();
        self.take_requests(cx);
        for _ in before..self.pending.len() {
            self.conn.request(&self.worker.plan.request);
        }
    }

    fn poll_send(&mut self, socket: &AsyncFd<TcpStream>) -> Poll<io::Result<()>> {
        while !self.conn.outgoing().is_empty() {
            let outgoing = self.conn.outgoing();
            let sent = socket.poll_io(Direction::Out, |mut io| io.write(outgoing));
            self.conn.sent(ready!(sent)?);
        }
        Poll::Ready(Ok(()))
    }

    /// Records the complete responses. Returns `Close` after the last one of the connection.
    fn read_responses(&mut self) -> Result<KeepAlive, ResponseError> {
        let Connection { worker, conn, pending, .. } = self;
        let plan = &worker.plan;
        let now = Instant::now();
        worker.record(|statistics, at| {
            while let Some(response) = conn.response()? {
                let due_at = pending.pop_front().map_or(now, |request| request.due_at);
                let latency = now.saturating_duration_since(due_at);
                statistics.record_response(at, response.status, latency);
                let body = response.body.strip_suffix(b"\n").unwrap_or(response.body);
                if response.status >= 400 {
                    statistics.record_failures(at, Failure::Status, 1, None);
                } else if plan.expected_body.as_ref().is_some_and(|expected| expected != body) {
                    let start = body.get(..80).unwrap_or(body).escape_ascii().to_string();
                    statistics.record_failures(at, Failure::Body, 1, Some(start));
                }
                let is_one_request = plan.connection_use == ConnectionUse::OneRequest;
                if response.keep_alive == KeepAlive::Close || is_one_request {
                    return Ok(KeepAlive::Close);
                }
            }
            Ok(KeepAlive::Keep)
        })
    }
}

fn connect_error(error: &io::Error) -> Error {
    let failure = match error.kind() {
        ErrorKind::ConnectionRefused => Failure::Refused,
        ErrorKind::ConnectionReset => Failure::Reset,
        ErrorKind::TimedOut => Failure::Timeout,
        _ => Failure::Connect,
    };
    (failure, Some(error.to_string()))
}

fn response_error(error: ResponseError) -> Error {
    let failure = match error {
        ResponseError::Incomplete => Failure::Closed,
        _ => Failure::Broken,
    };
    (failure, Some(error.to_string()))
}

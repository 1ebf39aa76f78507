//! One client's connection: reads requests, has them handled, writes the responses in order, and
//! closes the connection so that the client sees its last response.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, Write};
use std::net::{self, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::{ConnectionGuard, GRACE, MaybeReady, Peer, READ_BYTES_MAX, Reject, Server, Service};
use crate::http::server::{ResponseContext, ServerConn, Stage};
use crate::http::{KeepAlive, Response};
use crate::rt::{self, AsyncFd, Direction};
use crate::sys;

/// Requests of one connection without a response: the depth of a pipeline.
const PENDING_MAX: usize = 32;
/// Unsent bytes after which no more is read from a client that does not take its responses.
const OUTGOING_BYTES_MAX: usize = 16 << 10;
/// A connection with more to do yields to the others after this many reads, or once this turn of
/// the event loop has lasted this long.
const READS_PER_TURN_MAX: usize = 4;
const TURN_MAX: Duration = Duration::from_micros(500);
/// How long a client may take to see a response that closes the connection while it still sends;
/// after that it may see a reset instead (lingering close).
const LINGER: Duration = Duration::from_secs(1);
/// How long a connection beyond the limit may take to send a probe.
const OVER_LIMIT_TIMEOUT: Duration = Duration::from_millis(250);
/// Bytes buffered for a client without being charged: most of any usual request, or some requests
/// that wait for their responses.
const FREE_BYTES: usize = 4 << 10;
/// Memory of a request that waits for its response, about.
const PENDING_BYTES: usize = 256;

/// The task of one connection. A future by hand: half the size of one with `async`, and there are
/// thousands.
pub(super) struct Connection<S: Service> {
    socket: AsyncFd<TcpStream>,
    peer: Peer,
    conn: ServerConn,
    pending: VecDeque<PendingResponse<S::Future>>,
    /// The client has ended its half of the connection. It may still read.
    is_read_closed: bool,
    close: Close,
    /// Set once this half of the connection has ended: when to stop waiting for the client's end.
    linger_until: Option<Instant>,
    /// The part of a request that is waited for, and since when.
    stage: Stage,
    since: Instant,
    charged_bytes: usize,
    guard: ConnectionGuard<S>,
}

/// A request without a written response.
struct PendingResponse<F> {
    context: ResponseContext,
    reply: MaybeReady<F>,
}

/// How a connection closes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Close {
    /// At once: the client wants it, or is gone.
    Now,
    /// After the client has had time to see its response: it may still be sending, and closing
    /// then would reset the connection (RFC 9112 section 9.6).
    Lingering,
}

/// Why no more requests are taken from the received bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// All complete requests were taken.
    All,
    /// As many wait for their responses as may.
    Full,
}

/// The next step of a connection that can do nothing now.
enum Wait {
    ForEvent,
    Close,
    Reject(Reject),
}

impl<S: Service> Connection<S> {
    pub(super) fn new(stream: TcpStream, guard: ConnectionGuard<S>) -> Connection<S> {
        let settings = &guard.server.settings;
        let address = settings.peer_addresses.then(|| stream.peer_addr().ok()).flatten();
        // An IPv4 client of a dual-stack listener is shown with its IPv4 address.
        let address = address.map(|it| SocketAddr::new(it.ip().to_canonical(), it.port()));
        Connection {
            socket: AsyncFd::new(stream),
            peer: Peer {
                address: address.map(|it| it.to_string().into()),
                is_over_limit: guard.is_over_limit,
            },
            conn: ServerConn::new(settings.limits),
            pending: VecDeque::new(),
            is_read_closed: false,
            close: Close::Now,
            linger_until: None,
            stage: Stage::Idle,
            since: rt::now(),
            charged_bytes: 0,
            guard,
        }
    }

    /// Does all that can be done now, in the order that needs the fewest system calls. `Ready`
    /// when the connection is to be closed.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        for reads in 0.. {
            let taken = self.poll_requests(cx);
            match self.poll_send() {
                Poll::Ready(Ok(())) if self.is_done() => return Poll::Ready(self.close()),
                Poll::Ready(Err(_)) => return Poll::Ready(Close::Now),
                _ => {}
            }
            if is_turn_over(reads) {
                // Complete requests that are left are taken in the next turns. A partial one may
                // stay for long.
                let is_overloaded = self.release_memory();
                if is_overloaded && taken == Taken::All && !self.is_reading_done() {
                    self.reject(ResponseContext::NO_REQUEST, Reject::Overloaded);
                }
                break;
            }
            let received = match taken {
                _ if !self.can_take_request() || self.is_reading_done() => Poll::Pending,
                // Sending has made room for what was received before.
                Taken::Full => continue,
                Taken::All => self.poll_receive(),
            };
            match received {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Close::Now),
                Poll::Pending => match self.wait() {
                    Wait::ForEvent => return Poll::Pending,
                    Wait::Close => return Poll::Ready(Close::Now),
                    Wait::Reject(reject) => self.reject(ResponseContext::NO_REQUEST, reject),
                },
            }
        }
        rt::wake_next_turn();
        Poll::Pending
    }

    /// Takes requests and writes responses as far as both go.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Taken {
        let mut taken = self.take_requests();
        while self.poll_responses(cx) && taken == Taken::Full {
            taken = self.take_requests();
        }
        taken
    }

    /// Takes the requests that have been received, and has them handled.
    fn take_requests(&mut self) -> Taken {
        while self.can_take_request() {
            if self.conn.stage() == Stage::Done {
                return Taken::All;
            }
            let (request, context) = match self.conn.request() {
                Ok(Some(taken)) => taken,
                Ok(None) => {
                    if self.is_read_closed {
                        self.conn.close_read();
                    }
                    return Taken::All;
                }
                Err(error) => {
                    self.reject(ResponseContext::NO_REQUEST, Reject::Parse(error));
                    return Taken::All;
                }
            };
            let (service, peer) = (&self.guard.server.service, &self.peer);
            let context = if peer.is_over_limit { context.closing() } else { context };
            match catch_unwind(AssertUnwindSafe(|| service.call(&request, peer))) {
                Ok(reply) => self.enqueue(context, reply),
                Err(_) => self.reject(context.closing(), Reject::Internal),
            }
            if self.peer.is_over_limit {
                self.stop_reading();
            }
        }
        Taken::Full
    }

    /// Writes the responses that are ready, in order. Returns true if there were any.
    fn poll_responses(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.pending.len();
        while let Some(PendingResponse { context, reply }) = self.pending.pop_front() {
            let response = match reply {
                MaybeReady::Ready(response) => response,
                MaybeReady::Pending(mut future) => {
                    let poll = AssertUnwindSafe(|| Pin::new(&mut future).poll(cx));
                    match catch_unwind(poll) {
                        Ok(Poll::Ready(response)) => response,
                        Ok(Poll::Pending) => {
                            let reply = MaybeReady::Pending(future);
                            self.pending.push_front(PendingResponse { context, reply });
                            break;
                        }
                        Err(_) => {
                            self.pending.clear();
                            self.reject(context.closing(), Reject::Internal);
                            break;
                        }
                    }
                }
            };
            self.respond(context, &response);
        }
        self.pending.len() < before
    }

    /// Responds to a rejected request, after the responses that are still due, and closes.
    fn reject(&mut self, context: ResponseContext, reject: Reject) {
        self.stop_reading();
        let response = self.guard.server.service.reject(reject, &self.peer);
        self.enqueue(context, MaybeReady::Ready(response));
    }

    /// Takes no more requests from a client that may go on sending them.
    fn stop_reading(&mut self) {
        self.conn.close_read();
        self.close = Close::Lingering;
    }

    fn enqueue(&mut self, context: ResponseContext, reply: MaybeReady<S::Future>) {
        match reply {
            MaybeReady::Ready(response) if self.pending.is_empty() => {
                self.respond(context, &response);
            }
            reply => {
                // Most clients wait for one response; a queue begins with room for four.
                if self.pending.capacity() == 0 {
                    self.pending.reserve_exact(1);
                }
                self.pending.push_back(PendingResponse { context, reply });
            }
        }
    }

    fn respond(&mut self, context: ResponseContext, response: &Response) {
        let server = &self.guard.server;
        // At shutdown, requests that have been received get responses before one says `close`.
        let is_last = self.pending.is_empty() && self.conn.is_input_consumed();
        let mut keep_alive = KeepAlive::Keep;
        if is_last && server.shutdown.is_begun() {
            keep_alive = KeepAlive::Close;
            self.close = Close::Lingering;
        }
        if !self.conn.has_buffers() {
            self.conn.attach(server.acquire_buffers());
        }
        self.conn.respond(context, response, keep_alive, &server.common_fields());
        self.since = rt::now();
    }

    /// Sends the written responses. After the last one, ends this half of the connection.
    fn poll_send(&mut self) -> Poll<io::Result<()>> {
        let is_last = self.is_done();
        while !self.conn.outgoing().is_empty() {
            let outgoing = self.conn.outgoing();
            let sent = self.socket.poll_io(Direction::Out, |mut io| {
                if is_last {
                    // The last response and the FIN go in one segment: half the work for both
                    // sides.
                    sys::send_more(io, outgoing)
                } else {
                    io.write(outgoing)
                }
            });
            self.conn.sent(ready!(sent)?);
            self.since = rt::now();
            if is_last && self.conn.outgoing().is_empty() {
                // Not close: that drops the response if the client has sent more meanwhile.
                self.socket.get_ref().shutdown(net::Shutdown::Write)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Returns true if the last response has been written.
    fn is_done(&self) -> bool {
        self.conn.stage() == Stage::Done && self.pending.is_empty()
    }

    /// Bytes behind the last request may go on in the kernel's buffer.
    fn close(&self) -> Close {
        if self.conn.is_input_consumed() { self.close } else { Close::Lingering }
    }

    /// Returns true if no byte that the client may still send would be taken.
    fn is_reading_done(&self) -> bool {
        self.is_read_closed || self.conn.stage() == Stage::Done
    }

    fn can_take_request(&self) -> bool {
        self.pending.len() < PENDING_MAX && self.conn.outgoing().len() < OUTGOING_BYTES_MAX
    }

    fn poll_receive(&mut self) -> Poll<io::Result<()>> {
        let server = &self.guard.server;
        let scratch = &mut **server.scratch.borrow_mut();
        let bytes_max = if server.is_budget_low() { FREE_BYTES } else { READ_BYTES_MAX };
        let scratch = scratch.get_mut(..bytes_max).unwrap_or_default();
        let count = ready!(self.socket.poll_read(scratch))?;
        self.is_read_closed = count == 0;
        if !self.conn.has_buffers() {
            self.conn.attach(server.acquire_buffers());
        }
        self.conn.receive(scratch.get(..count).unwrap_or_default());
        Poll::Ready(Ok(()))
    }

    /// Releases buffers that hold no bytes and charges those that do. Returns true if the budget
    /// is exhausted.
    fn release_memory(&mut self) -> bool {
        if let Some(buffers) = self.conn.detach_or_shrink() {
            self.guard.server.release_buffers(buffers);
        }
        if self.pending.is_empty() {
            self.pending = VecDeque::new();
        }
        let pending_bytes: usize = self.pending.iter().map(PendingResponse::bytes).sum();
        self.charge(self.conn.capacity() + pending_bytes)
    }

    /// Charges the bytes buffered for this client. Returns true if the budget is exhausted; they
    /// are not charged then.
    fn charge(&mut self, bytes: usize) -> bool {
        let bytes = if bytes > FREE_BYTES { bytes } else { 0 };
        let total = &self.guard.server.load.charged_bytes;
        if bytes > self.charged_bytes {
            let more = bytes - self.charged_bytes;
            let max = self.guard.server.settings.buffer_bytes_max;
            if total.fetch_add(more, Ordering::Relaxed) + more > max {
                total.fetch_sub(more, Ordering::Relaxed);
                return true;
            }
        } else if bytes < self.charged_bytes {
            total.fetch_sub(self.charged_bytes - bytes, Ordering::Relaxed);
        }
        self.charged_bytes = bytes;
        false
    }

    /// Decides the next step when nothing can be done now.
    fn wait(&mut self) -> Wait {
        if self.release_memory() {
            if !self.conn.outgoing().is_empty() {
                return Wait::Close;
            }
            self.pending.clear();
            return Wait::Reject(Reject::Overloaded);
        }
        let server = &self.guard.server;
        let settings = &server.settings;
        let stage = self.conn.stage();
        if std::mem::replace(&mut self.stage, stage) != stage {
            self.since = rt::now();
        }
        let (deadline, step) = match stage {
            _ if !self.conn.outgoing().is_empty() => {
                (self.since + settings.write_timeout, Wait::Close)
            }
            // The service makes its responses ready in time.
            _ if !self.pending.is_empty() => return Wait::ForEvent,
            Stage::Idle | Stage::Head | Stage::Body if self.peer.is_over_limit => {
                (self.since + OVER_LIMIT_TIMEOUT, Wait::Reject(Reject::Crowded))
            }
            Stage::Idle => match server.shutdown_seen() {
                Some(seen) => (seen.max(self.since) + GRACE, Wait::Close),
                None => (self.since + settings.idle_timeout, Wait::Close),
            },
            Stage::Head => (self.since + settings.head_timeout, Wait::Reject(Reject::Slow)),
            Stage::Body => (self.since + settings.body_timeout, Wait::Reject(Reject::Slow)),
            Stage::Done => return Wait::Close,
        };
        match rt::poll_deadline(deadline) {
            Poll::Pending => Wait::ForEvent,
            Poll::Ready(()) => step,
        }
    }

    /// Releases all memory that is buffered for this client.
    fn release_all(&mut self) {
        if let Some(buffers) = self.conn.detach() {
            self.guard.server.release_buffers(buffers);
        }
        self.charge(0);
    }

    /// Waits for the client to end its half of the connection; reads and drops what it sends.
    fn poll_linger(&mut self, until: Instant) -> Poll<()> {
        let scratch = &mut **self.guard.server.scratch.borrow_mut();
        for _ in 0..READS_PER_TURN_MAX {
            match self.socket.poll_read(scratch) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return rt::poll_deadline(until),
            }
        }
        rt::wake_next_turn();
        rt::poll_deadline(until)
    }
}

/// The clock is not read for a connection with a single request.
fn is_turn_over(reads: usize) -> bool {
    reads == READS_PER_TURN_MAX || reads > 1 && rt::now().elapsed() > TURN_MAX
}

impl<S: Service> Server<S> {
    /// Returns true if less than one read is left of the budget for slow clients. Quick clients
    /// then use bytes that are not charged.
    fn is_budget_low(&self) -> bool {
        self.load.charged_bytes() + READ_BYTES_MAX > self.settings.buffer_bytes_max
    }
}

impl<F> PendingResponse<F> {
    /// Bytes of memory, about.
    fn bytes(&self) -> usize {
        match &self.reply {
            MaybeReady::Ready(response) => PENDING_BYTES + response.body.len(),
            MaybeReady::Pending(_) => PENDING_BYTES,
        }
    }
}

/// No field points into another.
impl<S: Service> Unpin for Connection<S> {}

impl<S: Service> Future for Connection<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let connection = self.get_mut();
        let until = match connection.linger_until {
            Some(until) => until,
            None => match ready!(connection.poll_connection(cx)) {
                Close::Now => return Poll::Ready(()),
                Close::Lingering => {
                    connection.release_all();
                    rt::now() + LINGER
                }
            },
        };
        connection.linger_until = Some(until);
        connection.poll_linger(until)
    }
}

impl<S: Service> Drop for Connection<S> {
    fn drop(&mut self) {
        self.release_all();
    }
}

//! One client's connection: reads requests, has them handled, writes the responses in order, and
//! closes the connection so that the client sees its last response.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, Write};
use std::net::{self, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::{Event, GRACE, MaybeReady, Peer, READ_BYTES_MAX, Reject, Server, Service};
use crate::http::server::{ResponseContext, ServerConn, Stage};
use crate::http::{KeepAlive, Response};
use crate::rt::{self, AsyncFd, Direction};
use crate::sys;

/// Requests of one connection without a response: the depth of a pipeline.
const PENDING_MAX: usize = 32;
/// Unsent bytes after which no more is read from a client that does not take its responses.
const OUTGOING_BYTES_MAX: usize = 16 << 10;
/// A connection with more to do yields to the others after this many reads.
const READS_PER_TURN_MAX: usize = 2;
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

/// The task of one connection, which counts as open until it is dropped. A future by hand: half the
/// size of one with `async`, and there are thousands.
pub(super) struct Connection<S: Service> {
    server: Rc<Server<S>>,
    socket: AsyncFd<TcpStream>,
    peer: Peer,
    conn: ServerConn,
    pending: VecDeque<PendingResponse<S::Future>>,
    /// The client has ended its half of the connection. It may still read.
    is_read_closed: bool,
    /// The client may be sending when the connection closes, which would reset it and drop the last
    /// response (RFC 9112 section 9.6). It gets time to see that first.
    must_linger: bool,
    /// Set once this half of the connection has ended: when to stop waiting for the client's end.
    linger_until: Option<Instant>,
    /// The part of a request that is waited for, and since when.
    stage: Stage,
    since: Instant,
    charged_bytes: usize,
}

/// A request without a written response.
struct PendingResponse<F> {
    context: ResponseContext,
    reply: MaybeReady<F>,
}

impl<S: Service> Connection<S> {
    pub(super) fn new(
        server: &Rc<Server<S>>,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Connection<S> {
        server.load.open.fetch_add(1, Ordering::Relaxed);
        server.load.within_limit.fetch_add(1, Ordering::Relaxed);
        server.service.on_event(Event::Opened);
        // An IPv4 client of a dual-stack listener is shown with its IPv4 address.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        Connection {
            socket: AsyncFd::new(stream),
            peer: Peer {
                address: server.settings.peer_addresses.then(|| address.to_string().into()),
                is_over_limit: false,
            },
            conn: ServerConn::new(server.settings.limits),
            pending: VecDeque::new(),
            is_read_closed: false,
            must_linger: false,
            linger_until: None,
            stage: Stage::Idle,
            since: rt::now(),
            charged_bytes: 0,
            server: Rc::clone(server),
        }
    }

    /// No longer counts toward the limit: a connection that is being rejected must not take the
    /// place of one that would be served.
    pub(super) fn mark_over_limit(&mut self) {
        self.peer.is_over_limit = true;
        self.since = rt::now();
        self.server.load.within_limit.fetch_sub(1, Ordering::Relaxed);
        self.server.over_limit.set(self.server.over_limit.get() + 1);
        self.server.service.on_event(Event::OverLimit);
    }

    /// Does all that can be done now, in the order that needs the fewest system calls. `Ready` after
    /// the last response, or with an error when the connection is to be closed without one.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for reads in 0.. {
            let is_full = self.poll_requests(cx);
            if self.poll_send()?.is_ready() && self.is_done() {
                return Poll::Ready(Ok(()));
            }
            if reads == READS_PER_TURN_MAX {
                // Complete requests that are left are taken in the next turns. A partial one may
                // stay for long.
                let is_overloaded = self.release_memory();
                if is_overloaded && !is_full && !self.is_reading_done() {
                    self.reject(ResponseContext::NO_REQUEST, Reject::Overloaded);
                }
                break;
            }
            let received = match self.can_take_request() && !self.is_reading_done() {
                false => Poll::Pending,
                // Sending has made room for what was received before.
                true if is_full => continue,
                true => self.poll_receive(),
            };
            if received?.is_pending() {
                match ready!(self.poll_timeout()) {
                    Some(reject) => self.reject(ResponseContext::NO_REQUEST, reject),
                    None => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                }
            }
        }
        rt::wake_next_turn();
        Poll::Pending
    }

    /// Takes requests and writes responses as far as both go. Returns true if complete requests may
    /// be left.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            self.take_requests();
            let is_full = !self.can_take_request();
            if !self.poll_responses(cx) || !is_full {
                return is_full;
            }
        }
    }

    /// Takes the requests that have been received, and has them handled.
    fn take_requests(&mut self) {
        while self.can_take_request() && self.conn.stage() != Stage::Done {
            let (request, context) = match self.conn.request() {
                Ok(Some(taken)) => taken,
                Ok(None) => {
                    if self.is_read_closed {
                        self.conn.close_read();
                    }
                    return;
                }
                Err(error) => {
                    return self.reject(ResponseContext::NO_REQUEST, Reject::Parse(error));
                }
            };
            let (service, peer) = (&self.server.service, &self.peer);
            let context = if peer.is_over_limit { context.closing() } else { context };
            match catch_unwind(AssertUnwindSafe(|| service.call(&request, peer))) {
                Ok(reply) => self.enqueue(context, reply),
                Err(_) => self.reject(context.closing(), Reject::Internal),
            }
            if self.peer.is_over_limit {
                self.stop_reading();
            }
        }
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
        let response = self.server.service.reject(reject, &self.peer);
        self.enqueue(context, MaybeReady::Ready(response));
    }

    /// Takes no more requests from a client that may go on sending them.
    fn stop_reading(&mut self) {
        self.conn.close_read();
        self.must_linger = true;
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
        let server = &self.server;
        // At shutdown, requests that have been received get responses before one says `close`.
        let is_last = self.pending.is_empty() && self.conn.is_input_consumed();
        let mut keep_alive = KeepAlive::Keep;
        if is_last && server.shutdown.is_begun() {
            keep_alive = KeepAlive::Close;
            self.must_linger = true;
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

    /// Returns true if no byte that the client may still send would be taken.
    fn is_reading_done(&self) -> bool {
        self.is_read_closed || self.conn.stage() == Stage::Done
    }

    fn can_take_request(&self) -> bool {
        self.pending.len() < PENDING_MAX && self.conn.outgoing().len() < OUTGOING_BYTES_MAX
    }

    fn poll_receive(&mut self) -> Poll<io::Result<()>> {
        let server = &self.server;
        let scratch = &mut **server.scratch.borrow_mut();
        // If less than one read is left of the budget for slow clients, quick ones use bytes that
        // are not charged.
        let is_budget_low =
            server.load.charged_bytes() + READ_BYTES_MAX > server.settings.buffer_bytes_max;
        let bytes_max = if is_budget_low { FREE_BYTES } else { READ_BYTES_MAX };
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
            self.server.release_buffers(buffers);
        }
        if self.pending.is_empty() {
            self.pending = VecDeque::new();
        }
        let bytes = |pending: &PendingResponse<_>| match &pending.reply {
            MaybeReady::Ready(response) => PENDING_BYTES + response.body.len(),
            MaybeReady::Pending(_) => PENDING_BYTES,
        };
        let pending_bytes: usize = self.pending.iter().map(bytes).sum();
        self.charge(self.conn.capacity() + pending_bytes)
    }

    /// Charges the bytes buffered for this client. Returns true if the budget is exhausted; they
    /// are not charged then.
    fn charge(&mut self, bytes: usize) -> bool {
        let bytes = if bytes > FREE_BYTES { bytes } else { 0 };
        let total = &self.server.load.charged_bytes;
        if bytes > self.charged_bytes {
            let more = bytes - self.charged_bytes;
            let max = self.server.settings.buffer_bytes_max;
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

    /// Waits for an event. `Ready` when there is no more time or memory for that: with a rejection,
    /// or with `None` to close the connection.
    fn poll_timeout(&mut self) -> Poll<Option<Reject>> {
        if self.release_memory() {
            if !self.conn.outgoing().is_empty() {
                return Poll::Ready(None);
            }
            self.pending.clear();
            return Poll::Ready(Some(Reject::Overloaded));
        }
        let server = &self.server;
        let settings = &server.settings;
        let stage = self.conn.stage();
        if std::mem::replace(&mut self.stage, stage) != stage {
            self.since = rt::now();
        }
        let (timeout, reject) = match stage {
            _ if !self.conn.outgoing().is_empty() => (settings.write_timeout, None),
            // The service makes its responses ready in time.
            _ if !self.pending.is_empty() => return Poll::Pending,
            Stage::Idle | Stage::Head | Stage::Body if self.peer.is_over_limit => {
                (OVER_LIMIT_TIMEOUT, Some(Reject::Crowded))
            }
            Stage::Idle => match server.shutdown.begun_at() {
                Some(at) => (GRACE + at.saturating_duration_since(self.since), None),
                None => (settings.idle_timeout, None),
            },
            Stage::Head => (settings.head_timeout, Some(Reject::Slow)),
            Stage::Body => (settings.body_timeout, Some(Reject::Slow)),
            Stage::Done => return Poll::Ready(None),
        };
        rt::poll_deadline(self.since + timeout).map(|()| reject)
    }

    /// Releases all memory that is buffered for this client.
    fn release_all(&mut self) {
        if let Some(buffers) = self.conn.detach() {
            self.server.release_buffers(buffers);
        }
        self.charge(0);
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
            None => {
                let is_complete = ready!(connection.poll_connection(cx)).is_ok();
                // Bytes behind the last request may go on in the kernel's buffer.
                let may_be_sending = connection.must_linger || !connection.conn.is_input_consumed();
                if !is_complete || !may_be_sending {
                    return Poll::Ready(());
                }
                connection.release_all();
                rt::now() + LINGER
            }
        };
        connection.linger_until = Some(until);
        // Reads and drops what the client sends, until it ends its half of the connection.
        let scratch = &mut **connection.server.scratch.borrow_mut();
        match connection.socket.poll_read(scratch) {
            Poll::Ready(Ok(1..)) => rt::wake_next_turn(),
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => {}
        }
        rt::poll_deadline(until)
    }
}

impl<S: Service> Drop for Connection<S> {
    fn drop(&mut self) {
        self.release_all();
        let server = &self.server;
        if self.peer.is_over_limit {
            server.over_limit.set(server.over_limit.get() - 1);
        } else {
            server.load.within_limit.fetch_sub(1, Ordering::Relaxed);
        }
        server.load.open.fetch_sub(1, Ordering::Relaxed);
    }
}

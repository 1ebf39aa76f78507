//! Serves HTTP connections on one worker: accepts (`listener`), reads requests and writes
//! responses (`connection`), drains at shutdown. The responses themselves, and the counting and
//! logging of them, are left to the `Service`.

mod connection;
mod listener;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::date::Clock;
use crate::http::server::{Buffers, CommonFields};
use crate::http::{Limits, ParseError, Request, Response, Status};
use crate::rt::{self, Shutdown};

pub use listener::listen;

/// One read takes at most this much: a pipeline of some hundred requests in one call. A client
/// that reads no responses holds it, and `OUTGOING_BYTES_MAX`: with more, a few hundred such
/// clients fill a small container.
const READ_BYTES_MAX: usize = 16 << 10;
/// Spare buffers of a worker for the next connections that need some, and the largest kept.
const SPARE_BUFFERS_MAX: usize = 64;
const SPARE_BUFFER_BYTES_MAX: usize = 16 << 10;

/// At shutdown, how long the listener stays for connections on their way, and a silent connection
/// for a request on its way.
const GRACE: Duration = Duration::from_millis(200);

/// Handles the requests of one worker's connections.
pub trait Service: 'static {
    /// A response that is not ready yet. It is under way when it is returned.
    type Future: Future<Output = Response> + Unpin;

    /// Handles a request.
    fn call(&self, request: &Request<'_>, peer: &Peer) -> MaybeReady<Self::Future>;

    /// Makes the response to a request that is rejected.
    fn reject(&self, reject: Reject, peer: &Peer) -> Response;

    /// Observes an event of a connection.
    fn on_event(&self, event: Event);
}

/// A response, or the future of one.
pub enum MaybeReady<F> {
    /// The response.
    Ready(Response),
    /// The future of the response.
    Pending(F),
}

/// Why a request is rejected before a `Service` handles it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// It is malformed or too large.
    Parse(ParseError),
    /// It took too long to arrive.
    Slow,
    /// There are too many connections.
    Crowded,
    /// Too many bytes are buffered for slow clients.
    Overloaded,
    /// The service panicked.
    Internal,
}

impl Reject {
    /// The rejections that are no parse errors, for metrics.
    pub const OTHERS: [Reject; 4] =
        [Reject::Slow, Reject::Crowded, Reject::Overloaded, Reject::Internal];

    /// The status of the response.
    pub fn status(self) -> Status {
        match self {
            Reject::Parse(error) => error.status(),
            Reject::Slow => Status::RequestTimeout,
            Reject::Crowded | Reject::Overloaded => Status::ServiceUnavailable,
            Reject::Internal => Status::InternalServerError,
        }
    }

    /// The value of the metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Reject::Parse(error) => error.label(),
            Reject::Slow => "slow",
            Reject::Crowded => "crowded",
            Reject::Overloaded => "overloaded",
            Reject::Internal => "internal",
        }
    }

    /// The message for people.
    pub fn phrase(self) -> &'static str {
        match self {
            Reject::Parse(error) => error.phrase(),
            Reject::Slow => "the request took too long to arrive",
            Reject::Crowded => "too many connections",
            Reject::Overloaded => "too many bytes buffered for slow clients",
            Reject::Internal => "internal error",
        }
    }
}

/// An event of a connection.
#[derive(Debug)]
pub enum Event {
    /// A connection was accepted.
    Opened,
    /// An accepted connection is gone.
    Closed,
    /// A connection was accepted beyond the limit.
    OverLimit,
    /// `accept` failed.
    AcceptFailed(io::Error),
}

/// The client of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Its address and port, if `Settings::peer_addresses` is set.
    pub address: Option<Rc<str>>,
    /// The connection is one beyond the limit: probes are served, other requests are rejected.
    pub is_over_limit: bool,
}

/// Settings of a server. `--help` gives the reasons for the defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Limits of a request.
    pub limits: Limits,
    /// Open connections of all workers together.
    pub connections_max: usize,
    /// Bytes buffered for slow clients of all workers together, beyond 4 KB for each.
    pub buffer_bytes_max: usize,
    /// Silence between two requests.
    pub idle_timeout: Duration,
    /// A head, from its first byte to the blank line.
    pub head_timeout: Duration,
    /// A body.
    pub body_timeout: Duration,
    /// A client that takes no byte of its responses.
    pub write_timeout: Duration,
    /// From the shutdown to the end.
    pub drain_timeout: Duration,
    /// Look up peer addresses; each costs a system call.
    pub peer_addresses: bool,
    /// Header lines of every response, each ended by CRLF.
    pub common_lines: String,
    /// The host name for `X-Served-By`; `None` leaves the field out.
    pub served_by: Option<String>,
}

/// Open connections and buffered bytes of all workers together.
#[derive(Debug, Default)]
pub struct Load {
    connections: AtomicUsize,
    charged_bytes: AtomicUsize,
}

impl Load {
    /// Bytes buffered for slow clients, as far as they are charged.
    pub fn charged_bytes(&self) -> usize {
        self.charged_bytes.load(Ordering::Relaxed)
    }
}

/// Serves on this worker until the shutdown has begun and every connection is gone, or the drain
/// timeout is over.
pub async fn serve<S: Service>(
    service: Rc<S>,
    listener: Arc<TcpListener>,
    settings: Settings,
    load: Arc<Load>,
    shutdown: Shutdown,
) {
    let clock = Clock::at(Instant::now());
    let common = CommonFields {
        date: clock.http_date,
        lines: settings.common_lines.clone(),
        served_by: settings.served_by.clone(),
    };
    let server = Rc::new(Server {
        service,
        settings,
        shutdown,
        shutdown_seen: Cell::new(None),
        load,
        open: Cell::new(0),
        over_limit: Cell::new(0),
        empty_waker: RefCell::new(None),
        scratch: RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice()),
        spare_buffers: RefCell::default(),
        clock: Cell::new(clock),
        common: RefCell::new(common),
    });
    let deadline = listener::accept_until_drained(&server, listener).await;
    rt::timeout_at(deadline, server.closed()).await;
}

/// The state of one worker's connections.
struct Server<S> {
    service: Rc<S>,
    settings: Settings,
    shutdown: Shutdown,
    shutdown_seen: Cell<Option<Instant>>,
    load: Arc<Load>,
    /// Connections of this worker, and those of them beyond the limit.
    open: Cell<usize>,
    over_limit: Cell<usize>,
    empty_waker: RefCell<Option<Waker>>,
    /// Bytes are read into this first, so that a silent connection needs no buffer.
    scratch: RefCell<Box<[u8]>>,
    #[allow(clippy::vec_box)] // they change hands in their boxes
    spare_buffers: RefCell<Vec<Box<Buffers>>>,
    clock: Cell<Clock>,
    common: RefCell<CommonFields>,
}

impl<S: Service> Server<S> {
    /// The header fields of every response at this time.
    fn common_fields(&self) -> std::cell::Ref<'_, CommonFields> {
        if self.clock.get().is_over(rt::now()) {
            self.clock.set(Clock::at(rt::now()));
            self.common.borrow_mut().date = self.clock.get().http_date;
        }
        self.common.borrow()
    }

    /// When the shutdown was first seen on this worker.
    fn shutdown_seen(&self) -> Option<Instant> {
        if self.shutdown.is_begun() && self.shutdown_seen.get().is_none() {
            self.shutdown_seen.set(Some(rt::now()));
        }
        self.shutdown_seen.get()
    }

    fn acquire_buffers(&self) -> Box<Buffers> {
        self.spare_buffers.borrow_mut().pop().unwrap_or_default()
    }

    fn release_buffers(&self, buffers: Box<Buffers>) {
        let mut spare = self.spare_buffers.borrow_mut();
        if spare.len() < SPARE_BUFFERS_MAX && buffers.capacity() <= SPARE_BUFFER_BYTES_MAX {
            spare.push(buffers);
        }
    }

    /// Waits until no connection is open.
    async fn closed(&self) {
        poll_fn(|cx| {
            if self.open.get() == 0 {
                return Poll::Ready(());
            }
            *self.empty_waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Counts a connection as open until it is dropped.
struct ConnectionGuard<S: Service> {
    server: Rc<Server<S>>,
    is_over_limit: bool,
}

impl<S: Service> ConnectionGuard<S> {
    fn acquire(server: &Rc<Server<S>>) -> ConnectionGuard<S> {
        server.load.connections.fetch_add(1, Ordering::Relaxed);
        server.open.set(server.open.get() + 1);
        server.service.on_event(Event::Opened);
        ConnectionGuard { server: Rc::clone(server), is_over_limit: false }
    }

    /// No longer counts toward the limit: a connection that is being rejected must not take the
    /// place of one that would be served.
    fn mark_over_limit(&mut self) {
        self.is_over_limit = true;
        let server = &self.server;
        server.load.connections.fetch_sub(1, Ordering::Relaxed);
        server.over_limit.set(server.over_limit.get() + 1);
        server.service.on_event(Event::OverLimit);
    }
}

impl<S: Service> Drop for ConnectionGuard<S> {
    fn drop(&mut self) {
        let server = &self.server;
        if self.is_over_limit {
            server.over_limit.set(server.over_limit.get() - 1);
        } else {
            server.load.connections.fetch_sub(1, Ordering::Relaxed);
        }
        server.open.set(server.open.get() - 1);
        server.service.on_event(Event::Closed);
        if server.open.get() == 0
            && let Some(waker) = server.empty_waker.take()
        {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rejection_has_its_status_and_a_label_of_its_own() {
        let codes = Reject::OTHERS.map(|reject| reject.status().code());
        assert_eq!(codes, [408, 503, 503, 500]);
        assert_eq!(Reject::Parse(ParseError::BodyTooLarge).status().code(), 413);
        let parse_errors = ParseError::ALL.iter().map(|error| Reject::Parse(*error));
        let mut labels: Vec<_> = Reject::OTHERS.into_iter().chain(parse_errors).collect();
        labels.sort_by_key(|reject| reject.label());
        labels.dedup_by_key(|reject| reject.label());
        assert_eq!(labels.len(), Reject::OTHERS.len() + ParseError::ALL.len());
    }
}

//! Serves HTTP connections on one worker: accepts (`listener`), reads requests and writes
//! responses (`connection`), drains at shutdown. The responses themselves, and the counting and
//! logging of them, are left to the `Service`.

mod connection;
mod listener;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
/// How often a worker that drains checks that all connections are gone.
const DRAIN_POLL: Duration = Duration::from_millis(5);

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
        self.row().0
    }

    /// The value of the metric's label.
    pub fn label(self) -> &'static str {
        self.row().1
    }

    /// The message for people.
    pub fn phrase(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (Status, &'static str, &'static str) {
        let unavailable = Status::ServiceUnavailable;
        match self {
            Reject::Parse(error) => (error.status(), error.label(), error.phrase()),
            Reject::Slow => (Status::RequestTimeout, "slow", "the request took too long to arrive"),
            Reject::Crowded => (unavailable, "crowded", "too many connections"),
            Reject::Overloaded => {
                (unavailable, "overloaded", "too many bytes buffered for slow clients")
            }
            Reject::Internal => (Status::InternalServerError, "internal", "internal error"),
        }
    }
}

/// An event of a connection.
#[derive(Debug)]
pub enum Event {
    /// A connection was accepted.
    Opened,
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
    /// Write peer addresses as text, which allocates.
    pub peer_addresses: bool,
    /// Header lines of every response, each ended by CRLF.
    pub common_lines: String,
    /// The host name for `X-Served-By`; `None` leaves the field out.
    pub served_by: Option<String>,
}

/// Open connections and buffered bytes of all workers together.
#[derive(Debug, Default)]
pub struct Load {
    open: AtomicUsize,
    /// Those that count toward the limit.
    within_limit: AtomicUsize,
    charged_bytes: AtomicUsize,
}

impl Load {
    /// Open connections.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Bytes buffered for slow clients, as far as they are charged.
    pub fn charged_bytes(&self) -> usize {
        self.charged_bytes.load(Ordering::Relaxed)
    }
}

/// Serves on this worker until the shutdown has begun and every connection is gone, those of other
/// workers too, or the drain timeout is over.
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
        load,
        over_limit: Cell::new(0),
        scratch: RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice()),
        spare_buffers: RefCell::default(),
        clock: Cell::new(clock),
        common: RefCell::new(common),
    });
    let deadline = listener::accept_until_drained(&server, listener).await;
    while server.load.open() > 0 && rt::now() < deadline {
        rt::sleep_until(rt::now() + DRAIN_POLL).await;
    }
}

/// The state of one worker's connections.
struct Server<S> {
    service: Rc<S>,
    settings: Settings,
    shutdown: Shutdown,
    load: Arc<Load>,
    /// Connections of this worker beyond the limit.
    over_limit: Cell<usize>,
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

    fn acquire_buffers(&self) -> Box<Buffers> {
        self.spare_buffers.borrow_mut().pop().unwrap_or_default()
    }

    fn release_buffers(&self, buffers: Box<Buffers>) {
        let mut spare = self.spare_buffers.borrow_mut();
        if spare.len() < SPARE_BUFFERS_MAX && buffers.capacity() <= SPARE_BUFFER_BYTES_MAX {
            spare.push(buffers);
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

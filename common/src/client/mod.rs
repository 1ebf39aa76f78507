//! Requests `GET /` of one backend over pooled connections: which connection takes which request
//! (`pool`), the work on a connection (`connection`), opening one (`connect`), the addresses of the
//! name (`resolver`).

mod connect;
mod connection;
mod pool;
mod resolver;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::Ipv6Addr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::http::client::{ReceivedResponse, ResponseError};
use crate::http::{Limits, ParseError, Response, Status};
use crate::rt;
use connect::AddressOrder;
use pool::{Pool, Priority, Request};

pub use connect::connect;
pub use pool::Stats;
pub use resolver::Resolver;

/// One read takes at most this much.
const READ_BYTES_MAX: usize = 32 << 10;
/// A longer `Via` is taken for a loop of services that rewrite it.
const VIA_BYTES_MAX: usize = 1024;
/// The time limit of a probe, under any load.
const PROBE_TIMEOUT: Duration = Duration::from_millis(900);

/// The backend, and the settings of requests to it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The time that a request may take, look-up and connection included.
    pub timeout: Duration,
    /// The reuse of connections between requests.
    pub reuse: Reuse,
    /// The connections that one worker may open.
    pub connections_max: usize,
    /// Limits of a response.
    pub limits: Limits,
    /// This service's entry in `Via` (RFC 9110 section 7.6.3), unique to the process.
    pub via: String,
}

/// The reuse of connections between requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// As long as the backend keeps them, and 10 s at most.
    On,
    /// Each request has its own, which shows how a load balancer or a name spreads them.
    Off,
}

/// Why a request has no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The backend responded with a status other than 200.
    Status(u16),
    /// No connection could be opened: the system's error number.
    Refused(i32),
    /// The host name has no address, or no name server responded.
    Dns,
    /// No complete response came in time.
    Timeout,
    /// The response was not HTTP.
    Protocol(ResponseError),
    /// The response's body was not JSON.
    Json(&'static str),
    /// The response was too large.
    TooLarge,
    /// The request has been here before: the backend is, or requests, this service.
    Loop,
}

impl Error {
    /// The word that names it in messages, the log and metrics.
    pub fn reason(self) -> &'static str {
        self.row().0
    }

    /// The status of the response to the client.
    pub fn status(self) -> Status {
        self.row().1
    }

    fn row(self) -> (&'static str, Status) {
        match self {
            Error::Status(_) => ("STATUS", Status::BadGateway),
            Error::Refused(_) => ("REFUSED", Status::BadGateway),
            Error::Dns => ("DNS", Status::BadGateway),
            Error::Timeout => ("TIMEOUT", Status::GatewayTimeout),
            Error::Protocol(_) => ("PROTOCOL", Status::BadGateway),
            Error::Json(_) => ("JSON", Status::BadGateway),
            Error::TooLarge => ("TOO_LARGE", Status::BadGateway),
            Error::Loop => ("LOOP", Status::LoopDetected),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phrase = match self {
            Error::Status(code) => return write!(f, "GET / on backend API {code}"),
            Error::Refused(number) => &io::Error::from_raw_os_error(*number).to_string(),
            Error::Dns => "name not resolved",
            Error::Timeout => "no response in time",
            Error::Protocol(error) => &error.to_string(),
            Error::Json(phrase) => phrase,
            Error::TooLarge => "response too large",
            Error::Loop => "the request came back to this service",
        };
        write!(f, "GET / on backend API: {} ({phrase})", self.reason())
    }
}

impl From<ResponseError> for Error {
    fn from(error: ResponseError) -> Error {
        match error {
            ResponseError::Parse(ParseError::BodyTooLarge | ParseError::HeadTooLarge) => {
                Error::TooLarge
            }
            other => Error::Protocol(other),
        }
    }
}

/// An event of a client, to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The backend responded; it had owed the response for this long.
    Responded(Duration),
    /// The counts changed.
    Changed(&'a Stats),
}

/// The response made of one with status 200, or an error.
pub type Outcome = Result<Response, Error>;

/// The client of one worker.
#[derive(Clone)]
pub struct Client(Rc<Shared>);

struct Shared {
    target: Target,
    resolver: Resolver,
    convert: fn(&ReceivedResponse<'_>) -> Outcome,
    observer: Box<dyn Fn(Event<'_>)>,
    /// The request without a `Via` of its client.
    request: Vec<u8>,
    pool: RefCell<Pool>,
    addresses: RefCell<AddressOrder>,
    /// Closed connections that wait for the backend's end.
    lingering: Cell<usize>,
    scratch: RefCell<Box<[u8]>>,
}

impl Client {
    /// A client for this worker. `convert` is called with each response of status 200.
    pub fn new(
        target: Target,
        resolver: Resolver,
        convert: fn(&ReceivedResponse<'_>) -> Outcome,
        observer: impl Fn(Event<'_>) + 'static,
    ) -> Client {
        Client(Rc::new(Shared {
            resolver,
            convert,
            observer: Box::new(observer),
            request: target.request(""),
            pool: RefCell::new(Pool::new(target.connections_max, target.timeout)),
            addresses: RefCell::default(),
            lingering: Cell::new(0),
            scratch: RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice()),
            target,
        }))
    }

    /// Sends a request for a client whose own request had this `Via`. It is under way from now on.
    pub fn get(&self, via: Option<&[u8]>) -> Result<ResponseFuture, Error> {
        let request = via.map(|via| self.0.target.forward(via)).transpose()?;
        Ok(self.start(Priority::Normal, request, self.0.target.timeout))
    }

    /// Requests any response of the backend, for `ResponseFuture::poll_probe`.
    pub fn probe(&self) -> ResponseFuture {
        self.start(Priority::Probe, None, PROBE_TIMEOUT.min(self.0.target.timeout))
    }

    fn start(
        &self,
        priority: Priority,
        bytes: Option<Vec<u8>>,
        timeout: Duration,
    ) -> ResponseFuture {
        let request = self.0.pool.borrow_mut().enqueue(priority, bytes, rt::now());
        self.0.dispatch();
        ResponseFuture { shared: Rc::clone(&self.0), request, timeout }
    }
}

impl Shared {
    /// Gives waiting requests to connections, and opens those that are needed.
    fn dispatch(self: &Rc<Self>) {
        let to_open = self.pool.borrow_mut().dispatch(rt::now());
        for id in to_open {
            rt::spawn(connection::run(Rc::clone(self), id));
        }
        self.observe_stats();
    }

    fn observe_stats(&self) {
        (self.observer)(Event::Changed(self.pool.borrow_mut().stats()));
    }
}

impl Target {
    /// The bytes of a request. `via` is empty or ends with a comma.
    fn request(&self, via: &str) -> Vec<u8> {
        let is_v6 = self.host.parse::<Ipv6Addr>().is_ok();
        let host = if is_v6 { format!("[{}]", self.host) } else { self.host.clone() };
        let connection = match self.reuse {
            Reuse::On => "",
            Reuse::Off => "Connection: close\r\n",
        };
        let (port, own) = (self.port, &self.via);
        format!(
            "GET / HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: application/json\r\n\
             Via: {via}1.1 {own}\r\n{connection}\r\n"
        )
        .into_bytes()
    }

    /// The bytes of a request that has passed through the services in `via`.
    fn forward(&self, via: &[u8]) -> Result<Vec<u8>, Error> {
        let via = std::str::from_utf8(via).map_err(|_| Error::Loop)?;
        if via.contains(&self.via) || via.len() > VIA_BYTES_MAX {
            return Err(Error::Loop);
        }
        Ok(self.request(&format!("{via}, ")))
    }
}

/// A request that is under way: a future of its outcome. Dropping it cancels the request.
pub struct ResponseFuture {
    shared: Rc<Shared>,
    request: Rc<Request>,
    timeout: Duration,
}

impl Future for ResponseFuture {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Some(outcome) = self.request.poll_outcome(cx.waker()) {
            return Poll::Ready(outcome);
        }
        rt::poll_deadline(self.request.made + self.timeout).map(|()| Err(Error::Timeout))
    }
}

impl ResponseFuture {
    /// Polls a probe: `Ok` if the backend responds. The result comes within a second.
    pub fn poll_probe(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let outcome = Pin::new(&mut *self).poll(cx);
        let (made, timeout) = (self.request.made, self.shared.target.timeout);
        let last_response = self.shared.pool.borrow().last_response;
        let responded_within = |span| last_response.is_some_and(|at| at + span >= made);
        let is_ready = Poll::Ready(Ok(()));
        match outcome {
            // A response to another request says the same.
            Poll::Pending if responded_within(Duration::ZERO) => is_ready,
            // A slow backend is no dead one: it has the time that requests have.
            Poll::Ready(Err(Error::Timeout)) if responded_within(timeout) => is_ready,
            Poll::Ready(Err(Error::Status(_) | Error::Json(_) | Error::TooLarge)) => is_ready,
            outcome => outcome.map_ok(drop),
        }
    }
}

impl Drop for ResponseFuture {
    fn drop(&mut self) {
        self.shared.pool.borrow_mut().release(&self.request);
    }
}

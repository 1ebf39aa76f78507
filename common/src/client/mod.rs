//! Requests `GET /` of one backend over pooled connections: which connection takes which request
//! (`pool`), the work on a connection (`connection`), the addresses of the name (`resolver`).

mod connection;
mod pool;
mod resolver;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::Ipv6Addr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::http::client::{ReceivedResponse, ResponseError};
use crate::http::{Limits, ParseError, Response, Status};
use crate::rt;
use connection::AddressOrder;
use pool::{Pool, Priority, RequestId};

pub use connection::connect;
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
        match self {
            Error::Status(_) => "STATUS",
            Error::Refused(_) => "REFUSED",
            Error::Dns => "DNS",
            Error::Timeout => "TIMEOUT",
            Error::Protocol(_) => "PROTOCOL",
            Error::Json(_) => "JSON",
            Error::TooLarge => "TOO_LARGE",
            Error::Loop => "LOOP",
        }
    }

    /// The status of the response to the client.
    pub fn status(self) -> Status {
        match self {
            Error::Timeout => Status::GatewayTimeout,
            Error::Loop => Status::LoopDetected,
            _ => Status::BadGateway,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GET / on backend API")?;
        let reason = self.reason();
        match self {
            Error::Status(code) => write!(f, " {code}"),
            Error::Refused(number) => {
                write!(f, ": {reason} ({})", io::Error::from_raw_os_error(*number))
            }
            Error::Dns => write!(f, ": {reason} (name not resolved)"),
            Error::Timeout => write!(f, ": {reason} (no response in time)"),
            Error::Protocol(error) => write!(f, ": {reason} ({error})"),
            Error::Json(phrase) => write!(f, ": {reason} ({phrase})"),
            Error::TooLarge => write!(f, ": {reason} (response too large)"),
            Error::Loop => write!(f, ": {reason} (the request came back to this service)"),
        }
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
pub enum Event {
    /// A connection was opened.
    Opened,
    /// The backend responded; it had owed the response for this long.
    Responded(Duration),
    /// A request was sent again.
    Retried,
    /// A look-up of the name was requested.
    LookedUp,
    /// The look-up failed or took too long; the last addresses are used if there are any.
    LookupFailed,
    /// The states of requests and connections changed.
    Changed(Stats),
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
    observer: Box<dyn Fn(Event)>,
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
        observer: impl Fn(Event) + 'static,
    ) -> Client {
        Client(Rc::new(Shared {
            resolver,
            convert,
            observer: Box::new(observer),
            request: target.request(""),
            pool: RefCell::new(Pool::new(target.connections_max)),
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

    /// Requests any response of the backend. The outcome comes within a second.
    pub fn probe(&self) -> ProbeFuture {
        let timeout = PROBE_TIMEOUT.min(self.0.target.timeout);
        ProbeFuture { response: self.start(Priority::Probe, None, timeout), made: rt::now() }
    }

    fn start(
        &self,
        priority: Priority,
        request: Option<Vec<u8>>,
        timeout: Duration,
    ) -> ResponseFuture {
        let made = rt::now();
        let id = self.0.pool.borrow_mut().enqueue(made, priority, request);
        self.0.dispatch();
        ResponseFuture { shared: Rc::clone(&self.0), id, deadline: made + timeout }
    }
}

impl Shared {
    /// Has connections take the requests that wait.
    fn dispatch(self: &Rc<Self>) {
        let count = self.pool.borrow_mut().dispatch(rt::now());
        for _ in 0..count {
            self.open(VecDeque::new());
        }
        (self.observer)(Event::Changed(self.pool.borrow().stats()));
    }

    /// Opens a connection, which sends these requests first.
    fn open(self: &Rc<Self>, retries: VecDeque<RequestId>) {
        let id = self.pool.borrow_mut().connect(rt::now());
        rt::spawn(connection::run(Rc::clone(self), id, retries));
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
    id: RequestId,
    deadline: Instant,
}

impl Future for ResponseFuture {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = self.shared.pool.borrow_mut().poll_outcome(self.id, cx.waker());
        if let Some(outcome) = outcome {
            return Poll::Ready(outcome);
        }
        rt::poll_deadline(self.deadline).map(|()| Err(Error::Timeout))
    }
}

impl Drop for ResponseFuture {
    fn drop(&mut self) {
        self.shared.pool.borrow_mut().cancel(self.id);
    }
}

/// A probe that is under way: a future of `Ok` if the backend responds.
pub struct ProbeFuture {
    response: ResponseFuture,
    made: Instant,
}

impl Future for ProbeFuture {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let polled = Pin::new(&mut self.response).poll(cx);
        let shared = &self.response.shared;
        let responded_at = shared.pool.borrow().last_response();
        let responded_within = |span| responded_at.is_some_and(|at| at + span >= self.made);
        match polled {
            // A response to another request says the same.
            Poll::Pending if responded_within(Duration::ZERO) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
            // A slow backend is no dead one: it has the time that requests have.
            Poll::Ready(Err(Error::Timeout)) if responded_within(shared.target.timeout) => {
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(_) | Err(Error::Status(_) | Error::Json(_) | Error::TooLarge)) => {
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }
}

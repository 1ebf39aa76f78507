//! One connection to the backend: opens it, sends requests, hands out the responses, closes it.

use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::linux::net::TcpStreamExt;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::pool::{ConnectionId, Pipelining, RequestId};
use super::{Error, Event, Reuse, Shared};
use crate::http::client::{ClientConn, ResponseError};
use crate::http::{Fields, KeepAlive, Response};
use crate::rt::{self, AsyncFd, Direction};
use crate::sys;

/// The `Server` field of a backend that takes pipelined requests begins with this.
const PIPELINING_SERVER: &[u8] = b"api-backend/";
/// A longer `X-Served-By` is not passed on.
const SERVED_BY_BYTES_MAX: usize = 64;
/// After the last response, how long to wait for the backend to close first. The side that closes
/// first loses its port for a minute (TIME-WAIT, RFC 9293): with a connection for each request, the
/// ports would run out. A backend that does not close gets a reset.
const LINGER: Duration = Duration::from_secs(1);
/// Connections of one worker that wait for the backend to close: at most a quarter as many as may
/// be open. Descriptors are reserved for them.
const LINGERING_SHARE: usize = 4;
/// The next address is tried if one is silent for this long (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// An address that was silent or refused is tried last for this long.
const PENALTY: Duration = Duration::from_secs(10);

/// Opens a connection and works on it until it closes. `retries` are sent first.
pub(super) async fn run(shared: Rc<Shared>, id: ConnectionId, mut retries: VecDeque<RequestId>) {
    let entry = PoolEntry { shared: Rc::clone(&shared), id };
    let tried_at = rt::now();
    let (socket, address) = match open(&shared, tried_at + shared.target.timeout).await {
        Ok(opened) => opened,
        Err(error) => {
            drop(entry);
            let paused_until = {
                let mut pool = shared.pool.borrow_mut();
                retries.drain(..).for_each(|request| pool.finish(request, Err(error)));
                pool.open_failed(tried_at, error, rt::now())
            };
            if let Some(until) = paused_until {
                rt::sleep_until(until).await;
            }
            return shared.dispatch();
        }
    };
    (shared.observer)(Event::Opened);
    shared.pool.borrow_mut().opened(id, rt::now());
    let mut connection = Connection {
        entry,
        socket,
        conn: ClientConn::new(shared.target.limits),
        in_flight: VecDeque::new(),
        retries,
        is_kept: false,
        is_closed: false,
        backend: Backend::default(),
    };
    let end = poll_fn(|cx| connection.poll(cx)).await;
    if end == Err(Error::Timeout) {
        shared.addresses.borrow_mut().penalize(address);
    }
    let retries = connection.settle(end);
    let Connection { entry, socket, is_closed, .. } = connection;
    drop(entry);
    if !retries.is_empty() {
        shared.open(retries);
    }
    shared.dispatch();
    if end == Ok(End::Announced) && !is_closed {
        linger(&shared, socket).await;
    }
}

/// Closes a connection after its last response without losing the port.
async fn linger(shared: &Shared, socket: AsyncFd<TcpStream>) {
    if shared.lingering.get() < shared.target.connections_max / LINGERING_SHARE {
        shared.lingering.set(shared.lingering.get() + 1);
        let read = poll_fn(|_| socket.poll_read(&mut [0]));
        let is_closed = rt::timeout_at(rt::now() + LINGER, read).await.is_some();
        shared.lingering.set(shared.lingering.get() - 1);
        if is_closed {
            return;
        }
    }
    // A reset skips TIME-WAIT. The response has arrived: nothing is lost by it.
    let _ = sys::set_reset_on_close(socket.get_ref());
}

/// Removes the connection from the pool when it is dropped.
struct PoolEntry {
    shared: Rc<Shared>,
    id: ConnectionId,
}

impl Drop for PoolEntry {
    fn drop(&mut self) {
        self.shared.pool.borrow_mut().remove(self.id);
    }
}

/// An open connection.
struct Connection {
    entry: PoolEntry,
    socket: AsyncFd<TcpStream>,
    conn: ClientConn,
    /// The requests sent, in order.
    in_flight: VecDeque<RequestId>,
    /// Requests to send before those of the queue.
    retries: VecDeque<RequestId>,
    /// It has been idle or has served: a silent close may be that of an idle connection.
    is_kept: bool,
    /// The backend has closed its half.
    is_closed: bool,
    backend: Backend,
}

/// The properties of the backend that the head of its last response shows.
#[derive(Default)]
struct Backend {
    pipelining: Pipelining,
    /// `X-Served-By`, if it is fit to be passed on.
    served_by: Option<Rc<str>>,
}

/// Why a connection ends without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The last response said `close`, or it was closed between two.
    Announced,
    /// It is aged, or not needed any more.
    Retired,
}

impl Connection {
    /// Works until the connection is to be closed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<End, Error>> {
        let shared = Rc::clone(&self.entry.shared);
        let (id, timeout) = (self.entry.id, shared.target.timeout);
        loop {
            // Bytes that have arrived are no response to a request that is sent now.
            if self.poll_receive(&shared)? == KeepAlive::Close {
                return Poll::Ready(Ok(End::Announced));
            }
            self.take_requests(&shared);
            self.is_kept |= self.in_flight.is_empty();
            if let Poll::Ready(Err(_)) = self.poll_send() {
                return Poll::Ready(Err(ResponseError::Incomplete.into()));
            }
            let next_look = shared.pool.borrow_mut().rest(id, cx.waker(), timeout, rt::now())?;
            let Some(next_look) = next_look else { return Poll::Ready(Ok(End::Retired)) };
            shared.dispatch();
            ready!(rt::poll_deadline(next_look));
        }
    }

    /// Reads what has arrived and hands out the responses.
    fn poll_receive(&mut self, shared: &Shared) -> Result<KeepAlive, Error> {
        while !self.is_closed {
            let scratch = &mut **shared.scratch.borrow_mut();
            let Poll::Ready(received) = self.socket.poll_read(scratch) else { break };
            // A reset is a close.
            let count = received.unwrap_or(0);
            self.is_closed = count == 0;
            if self.is_closed {
                self.conn.close();
            }
            self.conn.receive(scratch.get(..count).unwrap_or_default());
            if self.take_responses(shared)? == KeepAlive::Close {
                return Ok(KeepAlive::Close);
            }
            // A backend that writes head and body apart may send the body only when the head is
            // acknowledged (Nagle's algorithm), which the kernel delays by 40 ms.
            if self.conn.has_begun() {
                let _ = self.socket.get_ref().set_quickack(true);
            }
        }
        Ok(if self.is_closed { KeepAlive::Close } else { KeepAlive::Keep })
    }

    fn take_responses(&mut self, shared: &Shared) -> Result<KeepAlive, Error> {
        while let Some(response) = self.conn.response()? {
            let keep_alive = match shared.target.reuse {
                Reuse::On => response.keep_alive,
                Reuse::Off => KeepAlive::Close,
            };
            // Sent to a connection that was idle for too long, before the request arrived.
            if response.status == 408 && keep_alive == KeepAlive::Close && self.is_kept {
                return Err(ResponseError::Incomplete.into());
            }
            if !response.is_head_repeated {
                self.backend = Backend::new(response.fields);
            }
            let outcome = match response.status {
                200 => (shared.convert)(&response),
                508 => Err(Error::Loop),
                code => Err(Error::Status(code)),
            };
            let Backend { pipelining, served_by } = &self.backend;
            let outcome = outcome.map(|it| Response { served_by: served_by.clone(), ..it });
            self.is_kept = true;
            let mut pool = shared.pool.borrow_mut();
            let elapsed = pool.responded(self.entry.id, *pipelining, rt::now());
            if let Some(request) = self.in_flight.pop_front() {
                pool.finish(request, outcome);
            }
            drop(pool);
            (shared.observer)(Event::Responded(elapsed));
            if keep_alive == KeepAlive::Close {
                return Ok(KeepAlive::Close);
            }
        }
        Ok(KeepAlive::Keep)
    }

    fn take_requests(&mut self, shared: &Shared) {
        let mut pool = shared.pool.borrow_mut();
        while let Some(request) = pool.take(self.entry.id, &mut self.retries, rt::now()) {
            self.conn.request(pool.bytes(request).unwrap_or(&shared.request));
            self.in_flight.push_back(request);
        }
    }

    fn poll_send(&mut self) -> Poll<io::Result<()>> {
        while !self.conn.outgoing().is_empty() {
            let outgoing = self.conn.outgoing();
            let sent = self.socket.poll_io(Direction::Out, |mut io| io.write(outgoing));
            self.conn.sent(ready!(sent)?);
        }
        Poll::Ready(Ok(()))
    }

    /// Fails the requests that have no response. Returns those to be sent again.
    fn settle(&mut self, end: Result<End, Error>) -> VecDeque<RequestId> {
        let shared = &self.entry.shared;
        let incomplete = Error::Protocol(ResponseError::Incomplete);
        let error = end.err().unwrap_or(incomplete);
        let is_stale = self.is_kept && error == incomplete && !self.conn.has_begun();
        let mut retries = std::mem::take(&mut self.retries);
        let mut pool = shared.pool.borrow_mut();
        // The backend has not begun on a request behind one that failed.
        if let Some(first) = self.in_flight.front()
            && !is_stale
        {
            pool.finish(*first, Err(error));
            self.in_flight.pop_front();
        }
        // Requests behind an announced close were not handled (RFC 9112 section 9.6): sending them
        // again is no retry. Each such connection has responded, so that this ends.
        let is_announced = end == Ok(End::Announced);
        for request in self.in_flight.drain(..) {
            if is_announced || pool.retry(request, error) {
                (shared.observer)(Event::Retried);
                retries.push_back(request);
            }
        }
        retries
    }
}

impl Backend {
    fn new(fields: Fields<'_>) -> Backend {
        let is_ours = fields.get("server").is_some_and(|it| it.starts_with(PIPELINING_SERVER));
        let is_fit = |value: &&[u8]| {
            (1..=SERVED_BY_BYTES_MAX).contains(&value.len())
                && value.iter().all(u8::is_ascii_graphic)
        };
        let served_by = fields.get("x-served-by").filter(is_fit);
        Backend {
            pipelining: if is_ours { Pipelining::On } else { Pipelining::Off },
            served_by: served_by.and_then(|it| std::str::from_utf8(it).ok()).map(Rc::from),
        }
    }
}

/// Opens a connection to one of the backend's addresses.
async fn open(
    shared: &Shared,
    deadline: Instant,
) -> Result<(AsyncFd<TcpStream>, SocketAddr), Error> {
    let port = shared.target.port;
    let addresses = match shared.target.host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => {
            (shared.observer)(Event::LookedUp);
            let found = rt::timeout_at(deadline, shared.resolver.lookup()).await;
            let found = found.ok_or(Error::Timeout)?;
            if found.is_failing {
                (shared.observer)(Event::LookupFailed);
            }
            found.addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()
        }
    };
    let addresses = shared.addresses.borrow_mut().order(addresses);
    let penalize = |address| shared.addresses.borrow_mut().penalize(address);
    let connected = connect(&addresses, deadline, penalize).await;
    connected.map_err(|error| match (error.raw_os_error(), error.kind()) {
        (None, io::ErrorKind::TimedOut) => Error::Timeout,
        (None, io::ErrorKind::NotFound) => Error::Dns,
        (number, _) => Error::Refused(number.unwrap_or(0)),
    })
}

/// The order in which addresses are tried.
#[derive(Default)]
pub(super) struct AddressOrder {
    turn: usize,
    penalized: Vec<(SocketAddr, Instant)>,
}

impl AddressOrder {
    /// Begins with another address each time, so that all get their share. A name server may
    /// shuffle or sort them. Penalized ones come last.
    fn order(&mut self, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let now = rt::now();
        self.penalized.retain(|(_, until)| *until > now);
        let unique = addresses.into_iter().collect::<BTreeSet<_>>();
        let turn = self.turn % unique.len().max(1);
        self.turn = self.turn.wrapping_add(1);
        let in_turn = unique.iter().skip(turn).chain(unique.iter().take(turn)).copied();
        let is_penalized =
            |address: &SocketAddr| self.penalized.iter().any(|(it, _)| it == address);
        let (last, mut first): (Vec<_>, Vec<_>) = in_turn.partition(is_penalized);
        first.extend(last);
        first
    }

    fn penalize(&mut self, address: SocketAddr) {
        self.penalized.retain(|(it, _)| *it != address);
        self.penalized.push((address, rt::now() + PENALTY));
    }
}

/// Connects to the first address that accepts; each has a head start of `ATTEMPT_DELAY` before the
/// next is tried as well (RFC 8305). `on_failure` gets those that refused or stayed silent. The
/// error is the last one's, `NotFound` if there are no addresses.
pub async fn connect(
    addresses: &[SocketAddr],
    deadline: Instant,
    on_failure: impl Fn(SocketAddr),
) -> io::Result<(AsyncFd<TcpStream>, SocketAddr)> {
    let mut left = addresses.iter();
    let mut attempts: Vec<(AsyncFd<TcpStream>, SocketAddr)> = Vec::new();
    let mut last_error = io::Error::from(io::ErrorKind::NotFound);
    let mut next_at = rt::now();
    poll_fn(|_| {
        loop {
            while (attempts.is_empty() || rt::poll_deadline(next_at).is_ready())
                && let Some(address) = left.next()
            {
                next_at = rt::now() + ATTEMPT_DELAY;
                match sys::connect(address) {
                    Ok(stream) => attempts.push((AsyncFd::new(stream), *address)),
                    Err(error) => {
                        on_failure(*address);
                        last_error = error;
                    }
                }
            }
            let polled = attempts.iter().map(|(socket, _)| poll_connected(socket));
            let Some((index, result)) =
                polled.enumerate().find_map(|(index, polled)| match polled {
                    Poll::Ready(result) => Some((index, result)),
                    Poll::Pending => None,
                })
            else {
                break;
            };
            let (socket, address) = attempts.remove(index);
            match result {
                Ok(()) => {
                    for (_, address) in attempts.iter().take(index) {
                        on_failure(*address);
                    }
                    return Poll::Ready(Ok((socket, address)));
                }
                Err(error) => {
                    on_failure(address);
                    last_error = error;
                    next_at = rt::now();
                }
            }
        }
        if attempts.is_empty() {
            let error = std::mem::replace(&mut last_error, io::ErrorKind::NotFound.into());
            return Poll::Ready(Err(error));
        }
        rt::poll_deadline(deadline).map(|()| {
            for (_, address) in &attempts {
                on_failure(*address);
            }
            Err(io::ErrorKind::TimedOut.into())
        })
    })
    .await
}

fn poll_connected(socket: &AsyncFd<TcpStream>) -> Poll<io::Result<()>> {
    socket.poll_io(Direction::Out, |stream| {
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        let peer = match stream.peer_addr() {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            peer => peer?,
        };
        // A port without a listener, in the range of ephemeral ports, can be given to the
        // socket that connects to it (TCP simultaneous open). Close without TIME-WAIT: that would
        // keep the backend from listening there.
        if stream.local_addr()? == peer {
            sys::set_reset_on_close(stream)?;
            return Err(io::Error::from_raw_os_error(sys::ECONNREFUSED));
        }
        stream.set_nodelay(true)
    })
}

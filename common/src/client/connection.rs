//! One connection to the backend: opens it, sends requests, hands out the responses, closes it.

use std::future::poll_fn;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::linux::net::TcpStreamExt;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::pool::{ConnectionId, End, INCOMPLETE, Pipelining};
use super::{Error, Event, Reuse, Shared, connect};
use crate::http::client::ClientConn;
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

/// Opens a connection and works on it until it closes.
pub(super) async fn run(shared: Rc<Shared>, id: ConnectionId) {
    let end = End::Failed(INCOMPLETE);
    let mut entry = PoolEntry { shared: Rc::clone(&shared), id, end };
    let opened = connect::open(&shared, rt::now() + shared.target.timeout).await;
    let (socket, address) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            entry.end = End::Failed(error);
            drop(entry);
            let paused_until = shared.pool.borrow().paused_until;
            if let Some(until) = paused_until {
                rt::sleep_until(until).await;
                shared.dispatch();
            }
            return;
        }
    };
    shared.pool.borrow_mut().opened(id, rt::now());
    shared.dispatch();
    let mut connection = Connection {
        entry,
        socket,
        conn: ClientConn::new(shared.target.limits),
        is_closed: false,
        pipelining: Pipelining::Off,
        served_by: None,
    };
    let end = match poll_fn(|cx| connection.poll(cx)).await {
        Ok(end) => end,
        Err(INCOMPLETE) if !connection.conn.has_begun() => End::Broken,
        Err(error) => End::Failed(error),
    };
    if end == End::Failed(Error::Timeout) {
        shared.addresses.borrow_mut().penalize(address);
    }
    let Connection { mut entry, socket, is_closed, .. } = connection;
    entry.end = end;
    drop(entry);
    if end == End::Announced && !is_closed {
        linger(&shared, &socket).await;
    }
}

/// Closes a connection after its last response without losing the port.
async fn linger(shared: &Shared, socket: &AsyncFd<TcpStream>) {
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

/// Removes the connection from the pool when it is dropped, by a panic too.
struct PoolEntry {
    shared: Rc<Shared>,
    id: ConnectionId,
    end: End,
}

impl Drop for PoolEntry {
    fn drop(&mut self) {
        self.shared.pool.borrow_mut().ended(self.id, self.end, rt::now());
        self.shared.dispatch();
    }
}

/// An open connection.
struct Connection {
    entry: PoolEntry,
    socket: AsyncFd<TcpStream>,
    conn: ClientConn,
    /// The backend has closed its half.
    is_closed: bool,
    /// The head of the last response showed these: `Server`, and `X-Served-By` if it is fit to be
    /// passed on.
    pipelining: Pipelining,
    served_by: Option<Rc<str>>,
}

impl Connection {
    /// Works until the connection is to be closed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<End, Error>> {
        let (shared, id) = (Rc::clone(&self.entry.shared), self.entry.id);
        loop {
            // Bytes that have arrived are no response to a request that is sent now.
            if self.poll_receive(&shared)? == KeepAlive::Close {
                return Poll::Ready(Ok(End::Announced));
            }
            while let Some(request) = shared.pool.borrow_mut().take(id) {
                self.conn.request(request.bytes.as_ref().unwrap_or(&shared.request));
            }
            if let Poll::Ready(Err(_)) = self.poll_send() {
                return Poll::Ready(Err(INCOMPLETE));
            }
            let next_look = shared.pool.borrow_mut().rest(id, cx.waker(), rt::now())?;
            let Some(next_look) = next_look else { return Poll::Ready(Ok(End::Retired)) };
            shared.dispatch();
            ready!(rt::poll_deadline(next_look));
        }
    }

    /// Reads what has arrived and hands out the responses.
    fn poll_receive(&mut self, shared: &Shared) -> Result<KeepAlive, Error> {
        while !self.is_closed {
            let scratch = &mut **shared.scratch.borrow_mut();
            let Poll::Ready(received) = self.socket.poll_read(scratch) else {
                return Ok(KeepAlive::Keep);
            };
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
        Ok(KeepAlive::Close)
    }

    fn take_responses(&mut self, shared: &Shared) -> Result<KeepAlive, Error> {
        let id = self.entry.id;
        while let Some(response) = self.conn.response()? {
            let keep_alive = match shared.target.reuse {
                Reuse::On => response.keep_alive,
                Reuse::Off => KeepAlive::Close,
            };
            // Sent to a connection that was idle for too long, before the request arrived.
            let is_408 = response.status == 408 && keep_alive == KeepAlive::Close;
            if is_408 && shared.pool.borrow().is_kept(id) {
                return Err(INCOMPLETE);
            }
            if !response.is_head_repeated {
                self.pipelining = pipelining(response.fields);
                self.served_by = served_by(response.fields);
            }
            let outcome = match response.status {
                200 => (shared.convert)(&response),
                508 => Err(Error::Loop),
                code => Err(Error::Status(code)),
            };
            let outcome = outcome.map(|it| Response { served_by: self.served_by.clone(), ..it });
            let mut pool = shared.pool.borrow_mut();
            if let Some(owed) = pool.responded(id, self.pipelining, outcome, rt::now()) {
                (shared.observer)(Event::Responded(owed));
            }
            if keep_alive == KeepAlive::Close {
                return Ok(KeepAlive::Close);
            }
        }
        Ok(KeepAlive::Keep)
    }

    fn poll_send(&mut self) -> Poll<io::Result<()>> {
        while !self.conn.outgoing().is_empty() {
            let outgoing = self.conn.outgoing();
            let sent = self.socket.poll_io(Direction::Out, |mut io| io.write(outgoing));
            self.conn.sent(ready!(sent)?);
        }
        Poll::Ready(Ok(()))
    }
}

fn pipelining(fields: Fields<'_>) -> Pipelining {
    match fields.get("server") {
        Some(server) if server.starts_with(PIPELINING_SERVER) => Pipelining::On,
        _ => Pipelining::Off,
    }
}

fn served_by(fields: Fields<'_>) -> Option<Rc<str>> {
    let value = str::from_utf8(fields.get("x-served-by")?).ok()?;
    let is_fit = (1..=SERVED_BY_BYTES_MAX).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_graphic());
    is_fit.then(|| value.into())
}

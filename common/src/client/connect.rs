//! Opens connections: the addresses of the backend, the order in which they are tried, and when the
//! next is tried (happy eyeballs, RFC 8305).

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::{Error, Shared};
use crate::rt::{self, AsyncFd, Direction};
use crate::sys;

/// The next address is tried if one is silent for this long (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// An address that was silent or refused is tried last for this long.
const PENALTY: Duration = Duration::from_secs(10);

/// Opens a connection to one of the backend's addresses.
pub(super) async fn open(
    shared: &Shared,
    deadline: Instant,
) -> Result<(AsyncFd<TcpStream>, SocketAddr), Error> {
    let addresses = match shared.target.host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => {
            shared.pool.borrow_mut().counts.lookups += 1;
            shared.observe_stats();
            let found = rt::timeout_at(deadline, shared.resolver.lookup()).await;
            let found = found.ok_or(Error::Timeout)?;
            shared.pool.borrow_mut().counts.lookup_failures += usize::from(found.is_failing);
            shared.observe_stats();
            found.addresses
        }
    };
    let addresses = shared.addresses.borrow_mut().order(&addresses, shared.target.port);
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
    fn order(&mut self, addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
        let now = rt::now();
        self.penalized.retain(|(_, until)| *until > now);
        let unique: BTreeSet<_> = addresses.iter().map(|it| SocketAddr::new(*it, port)).collect();
        let turn = self.turn % unique.len().max(1);
        self.turn = self.turn.wrapping_add(1);
        let in_turn = unique.iter().skip(turn).chain(unique.iter().take(turn));
        let (last, first): (Vec<_>, Vec<_>) =
            in_turn.partition(|address| self.penalized.iter().any(|(it, _)| it == *address));
        [first, last].concat()
    }

    pub(super) fn penalize(&mut self, address: SocketAddr) {
        self.penalized.retain(|(it, _)| *it != address);
        self.penalized.push((address, rt::now() + PENALTY));
    }
}

/// Connects to the first address that accepts; each has a head start of `ATTEMPT_DELAY` before the
/// next is tried as well. `on_failure` gets those that refused or stayed silent. The error is the
/// last one's, `NotFound` if there are no addresses.
pub async fn connect(
    addresses: &[SocketAddr],
    deadline: Instant,
    on_failure: impl Fn(SocketAddr),
) -> io::Result<(AsyncFd<TcpStream>, SocketAddr)> {
    let mut left = addresses.iter();
    let mut attempts: Vec<(AsyncFd<TcpStream>, SocketAddr)> = Vec::new();
    let mut last_error = io::ErrorKind::NotFound.into();
    let mut next_at = rt::now();
    poll_fn(|_| {
        loop {
            let polled = attempts.iter().map(|(socket, _)| poll_connected(socket));
            let done = polled.enumerate().find(|(_, polled)| polled.is_ready());
            let (address, error) = if let Some((index, Poll::Ready(result))) = done {
                let (socket, address) = attempts.remove(index);
                next_at = rt::now();
                match result {
                    Ok(()) => {
                        for (_, silent) in attempts.iter().take(index) {
                            on_failure(*silent);
                        }
                        return Poll::Ready(Ok((socket, address)));
                    }
                    Err(error) => (address, error),
                }
            } else if (attempts.is_empty() || rt::poll_deadline(next_at).is_ready())
                && let Some(address) = left.next()
            {
                match sys::connect(address) {
                    Ok(stream) => {
                        attempts.push((AsyncFd::new(stream), *address));
                        next_at = rt::now() + ATTEMPT_DELAY;
                        continue;
                    }
                    Err(error) => (*address, error),
                }
            } else if attempts.is_empty() {
                let error = std::mem::replace(&mut last_error, io::ErrorKind::NotFound.into());
                return Poll::Ready(Err(error));
            } else {
                return rt::poll_deadline(deadline).map(|()| {
                    for (_, silent) in &attempts {
                        on_failure(*silent);
                    }
                    Err(io::ErrorKind::TimedOut.into())
                });
            };
            on_failure(address);
            last_error = error;
        }
    })
    .await
}

fn poll_connected(socket: &AsyncFd<TcpStream>) -> Poll<io::Result<()>> {
    socket.poll_io(Direction::Out, |stream| {
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        let peer = stream.peer_addr().map_err(|error| match error.kind() {
            io::ErrorKind::NotConnected => io::ErrorKind::WouldBlock.into(),
            _ => error,
        })?;
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

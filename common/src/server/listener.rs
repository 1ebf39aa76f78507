//! The listener: opens it, accepts connections up to the limit, closes it at shutdown.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::{Event, GRACE, Server, Service};
use crate::rt::{self, AsyncFd, Direction, Either};
use crate::sys;

/// Connections that the kernel may complete before they are accepted: a burst of a few thousand
/// clients. The kernel reduces it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Connections beyond the limit that one worker holds; more wait in the backlog.
const OVER_LIMIT_MAX: usize = 16;
/// The pause after an `accept` that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens a listener that all workers share. One listener for each worker (`SO_REUSEPORT`) was not
/// faster, and the connections in a busy worker's queue would wait for it alone.
pub fn listen(address: SocketAddr) -> io::Result<Arc<TcpListener>> {
    sys::listen(&address, BACKLOG).map(Arc::new)
}

/// Accepts until the shutdown, and a little longer; returns the end of the drain timeout.
pub(super) async fn accept_until_drained<S: Service>(
    server: &Rc<Server<S>>,
    listener: Arc<TcpListener>,
) -> Instant {
    let listener = AsyncFd::shared(listener);
    let accept = || {
        listener.io(Direction::In, |listener| {
            let (stream, address) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((stream, address))
        })
    };
    while let Either::First(accepted) = rt::select(accept(), server.shutdown.begun()).await {
        admit(server, accepted, &listener).await;
    }
    let now = Instant::now();
    let deadline = now + server.settings.drain_timeout;
    // New connections are refused from here on. Those that the kernel has completed, or is about
    // to, are served: closing the listener would reset them.
    let _ = sys::refuse_new_connections(listener.get_ref());
    let closing = deadline.min(now + GRACE);
    while let Some(accepted) = rt::timeout_at(closing, accept()).await {
        admit(server, accepted, &listener).await;
    }
    // Other workers may hold the listener open a moment longer.
    listener.suspend();
    deadline
}

/// Starts the task of an accepted connection. While too many are open beyond the limit, waits.
async fn admit<S: Service>(
    server: &Rc<Server<S>>,
    accepted: io::Result<(TcpStream, SocketAddr)>,
    listener: &AsyncFd<Arc<TcpListener>>,
) {
    let (stream, address) = match accepted {
        Ok(accepted) => accepted,
        // The client has gone already.
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => return,
        Err(error) => {
            server.service.on_event(Event::AcceptFailed(error));
            listener.suspend();
            return rt::sleep_until(Instant::now() + ACCEPT_PAUSE).await;
        }
    };
    let mut connection = Connection::new(server, stream, address);
    let max = server.settings.connections_max;
    // A low limit may mean few descriptors, and a connection beyond the limit needs one too.
    let over_limit_max = OVER_LIMIT_MAX.min(4 + max / 32);
    while server.load.within_limit.load(Ordering::Relaxed) > max {
        if server.over_limit.get() < over_limit_max || server.shutdown.is_begun() {
            connection.mark_over_limit();
            break;
        }
        listener.suspend();
        rt::sleep_until(Instant::now() + ACCEPT_PAUSE).await;
    }
    rt::spawn(connection);
}

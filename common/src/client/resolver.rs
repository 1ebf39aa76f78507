//! Looks up the backend's name on a thread, because libc can only block for that. A look-up never
//! stops the traffic: while it is late or fails, the last addresses go on being used.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::rt::{self, lock};
use crate::sys::{self, AddressFamily, LookupError};

/// A look-up that takes longer is late.
const LATE: Duration = Duration::from_millis(250);
/// How long addresses are used without a successful look-up.
const STALE_MAX: Duration = Duration::from_secs(300);

/// The addresses of one name. All workers share its thread.
#[derive(Clone)]
pub struct Resolver(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    is_wanted: Condvar,
    /// Logs a change: true when look-ups begin to be late or to fail, false when they succeed.
    on_change: Box<dyn Fn(bool) + Send + Sync>,
}

#[derive(Default)]
struct State {
    /// Since when a look-up is wanted or runs.
    wanted_at: Option<Instant>,
    waiting: Vec<Waker>,
    /// Look-ups that have ended.
    ended: u64,
    addresses: Vec<IpAddr>,
    found_at: Option<Instant>,
    is_failing: bool,
}

/// The result of a look-up.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    /// No address means that the name has none, or that no name server responds.
    pub(super) addresses: Vec<IpAddr>,
    /// It was late or failed: the addresses are of an earlier one, or not all of this one.
    pub(super) is_failing: bool,
}

impl Resolver {
    /// Starts the thread, which lives as long as the process.
    pub fn start(
        host: &str,
        on_change: impl Fn(bool) + Send + Sync + 'static,
    ) -> io::Result<Resolver> {
        let (state, on_change) = (Mutex::default(), Box::new(on_change));
        let shared = Arc::new(Shared { state, is_wanted: Condvar::new(), on_change });
        let (host, resolver) = (host.to_owned(), Resolver(Arc::clone(&shared)));
        std::thread::Builder::new().name("lookup".into()).spawn(move || shared.run(&host))?;
        Ok(resolver)
    }

    /// The addresses. If a look-up runs already, its result is taken.
    pub(super) async fn lookup(&self) -> Lookup {
        let mut ended_before = None;
        poll_fn(|cx| {
            let mut state = lock(&self.0.state);
            let ended_before = *ended_before.get_or_insert(state.ended);
            if state.ended > ended_before {
                return Poll::Ready(state.result());
            }
            let wanted_at = *state.wanted_at.get_or_insert_with(|| {
                self.0.is_wanted.notify_one();
                rt::now()
            });
            if state.is_usable() && rt::poll_deadline(wanted_at + LATE).is_ready() {
                self.0.set_failing(&mut state, true);
                return Poll::Ready(state.result());
            }
            state.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl State {
    /// Returns true if there are addresses that are not too old.
    fn is_usable(&self) -> bool {
        self.found_at.is_some_and(|at| at.elapsed() < STALE_MAX)
    }

    fn result(&self) -> Lookup {
        let addresses = if self.is_usable() { self.addresses.clone() } else { Vec::new() };
        Lookup { addresses, is_failing: self.is_failing }
    }
}

impl Shared {
    fn run(&self, host: &str) {
        loop {
            let state = self.is_wanted.wait_while(lock(&self.state), |it| it.wanted_at.is_none());
            drop(state.unwrap_or_else(PoisonError::into_inner));
            // IPv4 first: some name servers leave the AAAA query without a response, or fail it, upon
            // which musl drops the response to the A query.
            let v4 = lookup(host, AddressFamily::V4);
            if let Ok(v4) = &v4 {
                let mut state = lock(&self.state);
                state.addresses.retain(IpAddr::is_ipv6);
                state.addresses.extend(v4);
                state.found_at = Some(Instant::now());
                state.waiting.drain(..).for_each(Waker::wake);
            }
            let found = match (v4, lookup(host, AddressFamily::V6)) {
                (Ok(v4), v6) => Ok([v4, v6.unwrap_or_default()].concat()),
                (Err(_), Ok(v6)) => Ok(v6),
                (Err(LookupError::NoName), Err(error)) | (Err(error), Err(_)) => Err(error),
            };
            let mut state = lock(&self.state);
            let is_failing = found.is_err();
            match found {
                Ok(addresses) => {
                    (state.addresses, state.found_at) = (addresses, Some(Instant::now()));
                }
                // The name is gone: that is a result.
                Err(LookupError::NoName) => state.found_at = None,
                Err(LookupError::Temporary) => {}
            }
            self.set_failing(&mut state, is_failing);
            state.wanted_at = None;
            state.ended += 1;
            state.waiting.drain(..).for_each(Waker::wake);
        }
    }

    fn set_failing(&self, state: &mut State, is_failing: bool) {
        if std::mem::replace(&mut state.is_failing, is_failing) != is_failing {
            (self.on_change)(is_failing);
        }
    }
}

fn lookup(host: &str, family: AddressFamily) -> Result<Vec<IpAddr>, LookupError> {
    sys::lookup(host, family).or_else(|error| match family {
        _ if !is_localhost(host) => Err(error),
        AddressFamily::V4 => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
        AddressFamily::V6 => Ok(vec![Ipv6Addr::LOCALHOST.into()]),
    })
}

/// Returns true if the name is always that of this host (RFC 6761 section 6.3).
fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `/etc/hosts` and without.
    #[test]
    fn finds_this_host_by_its_name_in_each_family() {
        for (family, is_of_family) in [
            (AddressFamily::V4, IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
            (AddressFamily::V6, IpAddr::is_ipv6),
        ] {
            let found = lookup("localhost", family).expect("the name of this host");
            assert!(!found.is_empty(), "{family:?}");
            assert!(found.iter().all(|it| it.is_loopback() && is_of_family(it)), "{found:?}");
        }
    }
}

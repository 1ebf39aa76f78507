//! Helpers that the tests of several crates share: services as processes, clients and backends that speak
//! raw bytes, the Docker engine, and the tests that both services must pass.

// Names and signatures say enough of helpers that only tests call.
#![allow(missing_docs)]

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

pub mod backend;
pub mod client;
pub mod dns;
pub mod docker;
pub mod invariants;
pub mod lab;
pub mod namespaces;
pub mod pages;
pub mod ports;
pub mod process;
pub mod service_suite;
pub mod sys;

/// The bodies of `GET /`.
pub const BACKEND_BODY: &str = "{\"body\": \"Je suis une r\\u00e9ponse du backend\"}\n";
pub const FRONTEND_BODY: &str = "{\"return\": {\"body\": \"Je suis une r\\u00e9ponse du backend\"}, \"status\": \"[SUCESS]\"}\n";

/// The end of any wait. Only a test that fails waits this long.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// Between two looks at a state that sends no event.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// A port of 127.0.0.1.
pub fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Waits until `look` finds something.
pub fn wait_for<T>(what: &str, max: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < max, "{what}: not within {max:?}");
        thread::sleep(POLL_INTERVAL);
    }
}

/// Waits until `is_so` returns true.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, WAIT_MAX, || is_so().then_some(()));
}

//! Signals: the end of the process, and the end of its orphans.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Shared;
use crate::rt::{self, Signals};
use crate::sys::{self, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// How long the last log lines may take on a stuck pipe.
pub(super) const FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

/// Blocks the signals that would end the process, and reads them from a descriptor instead. A
/// blocked signal reaches a process 1 too, to which the kernel delivers none that has its default
/// action alone. Threads inherit this: before any is started.
///
/// - SIGTERM, SIGINT, SIGQUIT and SIGHUP drain.
/// - SIGCHLD reaps: orphans of the container become children of process 1.
/// - SIGXFSZ: the log has reached its size limit. Its lines are dropped and counted.
/// - SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGPWR and SIGSTKFLT have no meaning
///   here, nor have real-time signals. They are ignored.
/// - SIGPIPE is ignored by std. SIGXCPU and the signals of faults keep their default action.
pub(super) fn block() -> std::io::Result<OwnedFd> {
    let handled = [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGCHLD].into_iter();
    sys::signals(&handled.chain(sys::ignored_signals()).collect::<Vec<_>>())
}

/// Handles signals. The first that ends begins the shutdown, after the delay; the second ends the
/// process at once.
pub(super) async fn handle(signalfd: OwnedFd, delay: Duration, shared: Arc<Shared>) {
    let signals = Signals::new(signalfd);
    // A program that this one replaced may have left children that have ended already.
    sys::reap_children();
    while let Ok(signal) = signals.next().await {
        let name = match signal {
            SIGTERM => "SIGTERM",
            SIGINT => "SIGINT",
            SIGQUIT => "SIGQUIT",
            SIGHUP => "SIGHUP",
            SIGCHLD => {
                sys::reap_children();
                continue;
            }
            _ => continue,
        };
        if shared.is_draining.swap(true, Ordering::Relaxed) {
            shared.log.write_event("info", &format!("{name} again: ending now"));
            shared.log.flush(FLUSH_TIMEOUT);
            std::process::exit(128 + signal);
        }
        if delay.is_zero() {
            shared.log.write_event("info", &format!("{name}: draining"));
            shared.shutdown.begin();
            continue;
        }
        let delay_ms = delay.as_millis();
        let message = format!("{name}: not ready; draining begins in {delay_ms} ms");
        shared.log.write_event("info", &message);
        let (shared, drain_at) = (Arc::clone(&shared), Instant::now() + delay);
        rt::spawn(async move {
            rt::sleep_until(drain_at).await;
            shared.log.write_event("info", "draining");
            shared.shutdown.begin();
        });
    }
}

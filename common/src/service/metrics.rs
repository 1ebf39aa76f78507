//! The metrics of every service: what a worker counts, and the table of metric families.

use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use super::routes::Route;
use super::{PANICS, Shared};
use crate::http::{ParseError, Status};
use crate::metrics::Kind::{Counter as Total, Gauge, Histogram as Latency};
use crate::metrics::{Counter, Exposition, Family, Histogram};
use crate::server::Reject;
use crate::sys;

/// The counts of one worker. It alone adds; any worker reads.
#[derive(Default)]
#[repr(align(64))] // no cache line is written by two workers
pub(super) struct Metrics {
    responses: [[Counter; Status::ALL.len()]; Route::ALL.len()],
    /// Of `GET /`.
    latency: Histogram,
    rejections: [Counter; ParseError::ALL.len() + Reject::OTHERS.len()],
    pub(super) pending: Counter,
    pub(super) opened: Counter,
    pub(super) over_limit: Counter,
    pub(super) accept_failed: Counter,
}

impl Metrics {
    pub(super) fn count_response(&self, route: Route, status: Status, elapsed: Duration) {
        if route == Route::Root {
            self.latency.observe(elapsed);
        }
        if let Some(status) = Status::ALL.iter().position(|known| *known == status) {
            self.responses[route as usize][status].add(1);
        }
    }

    pub(super) fn count_rejection(&self, reject: Reject) {
        if let Some(index) = rejects().position(|known| known == reject) {
            self.rejections[index].add(1);
        }
    }
}

fn rejects() -> impl Iterator<Item = Reject> {
    ParseError::ALL.iter().copied().map(Reject::Parse).chain(Reject::OTHERS)
}

/// The metric families, in the order of the page.
pub(super) const FAMILIES: &[Family<Shared>] = &[
    Family {
        name: "http_requests_total",
        kind: Total,
        help: "Responses by route and status.",
        write: write_responses,
    },
    Family {
        name: "http_request_duration_seconds",
        kind: Latency,
        help: "Time from the arrival of a request for / to its response being made.",
        write: |shared, page| page.histogram(shared.metrics.iter().map(|it| &it.latency)),
    },
    Family {
        name: "http_requests_in_flight",
        kind: Gauge,
        help: "Requests that wait for their response.",
        write: |shared, page| page.value(shared.sum(|it| &it.pending)),
    },
    Family {
        name: "http_connections_open",
        kind: Gauge,
        help: "Open connections of clients.",
        write: |shared, page| page.value(shared.load.open() as u64),
    },
    Family {
        name: "http_connections_max",
        kind: Gauge,
        help: "The limit of open connections in force.",
        write: |shared, page| page.value(shared.connections_max as u64),
    },
    Family {
        name: "http_connections_accepted_total",
        kind: Total,
        help: "Connections accepted.",
        write: |shared, page| page.value(shared.sum(|it| &it.opened)),
    },
    Family {
        name: "http_connections_refused_total",
        kind: Total,
        help: "Connections beyond the limit: probes are served, other requests receive 503.",
        write: |shared, page| page.value(shared.sum(|it| &it.over_limit)),
    },
    Family {
        name: "http_accept_errors_total",
        kind: Total,
        help: "Failures to accept, for want of descriptors or memory.",
        write: |shared, page| page.value(shared.sum(|it| &it.accept_failed)),
    },
    Family {
        name: "http_buffered_bytes",
        kind: Gauge,
        help: "Bytes buffered for slow clients.",
        write: |shared, page| page.value(shared.load.charged_bytes() as u64),
    },
    Family {
        name: "http_refusals_total",
        kind: Total,
        help: "Requests rejected before they were handled, by reason.",
        write: |shared, page| {
            for (reject, index) in rejects().zip(0..) {
                let count = shared.sum(|it| &it.rejections[index]);
                page.sample(&[("reason", reject.label())], count);
            }
        },
    },
    Family {
        name: "log_lines_dropped_total",
        kind: Total,
        help: "Log lines that could not be written.",
        write: |shared, page| page.value(shared.log.dropped()),
    },
    Family {
        name: "panics_total",
        kind: Total,
        help: "Panics. Each ended one task.",
        write: |_, page| page.value(PANICS.load(Ordering::Relaxed)),
    },
    Family {
        name: "draining",
        kind: Gauge,
        help: "1 from the first signal to end on.",
        write: |shared, page| page.value(u64::from(shared.is_draining())),
    },
    Family {
        name: "process_start_time_seconds",
        kind: Gauge,
        help: "Start of the process in seconds since 1970.",
        write: |shared, page| {
            page.value(shared.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        },
    },
    Family {
        name: "process_cpu_seconds_total",
        kind: Total,
        help: "CPU time of the process, user and system.",
        write: |_, page| {
            if let Ok(time) = sys::cpu_time() {
                page.seconds(time);
            }
        },
    },
    Family {
        name: "process_resident_memory_bytes",
        kind: Gauge,
        help: "Resident memory.",
        write: |_, page| resident_bytes().into_iter().for_each(|bytes| page.value(bytes)),
    },
    Family {
        name: "process_open_fds",
        kind: Gauge,
        help: "Open descriptors.",
        write: |_, page| open_descriptors().into_iter().for_each(|count| page.value(count)),
    },
    Family {
        name: "process_max_fds",
        kind: Gauge,
        help: "The limit of open descriptors.",
        write: |shared, page| page.value(shared.descriptors_max),
    },
    Family {
        name: "build_info",
        kind: Gauge,
        help: "Name and version of the program; always 1.",
        write: |shared, page| {
            let about = shared.about;
            page.sample(&[("name", about.name), ("version", about.version)], 1);
        },
    },
];

fn write_responses(shared: &Shared, page: &mut Exposition) {
    // `increase()` sees a first failure only if its series was there before.
    let is_expected = |status| match status {
        Status::Ok => true,
        Status::BadGateway | Status::GatewayTimeout => shared.about.has_backend,
        _ => false,
    };
    for (route, label) in Route::ALL {
        for (status, status_index) in Status::ALL.iter().copied().zip(0..) {
            let count = shared.sum(|it| &it.responses[route as usize][status_index]);
            if count > 0 || route == Route::Root && is_expected(status) {
                let code = status.code().to_string();
                page.sample(&[("route", label), ("status", &code)], count);
            }
        }
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// The size of this folder is the number of its entries since Linux 6.2. Before, they are listed.
fn open_descriptors() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    match std::fs::metadata(FOLDER).ok()?.len() {
        0 => std::fs::read_dir(FOLDER).ok().map(|entries| entries.count() as u64),
        count => Some(count),
    }
}

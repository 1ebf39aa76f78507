//! The metrics of requests to the backend.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::client::{Error, Event, Stats};
use common::metrics::Kind::{Counter as Total, Gauge, Histogram as Latency};
use common::metrics::{Counter, Family, Histogram};

/// The outcomes of a request, as the values of a label. The place of each is that of its counter.
const OUTCOMES: [&str; 10] = [
    "OK",
    "STATUS",
    "REFUSED",
    "DNS",
    "TIMEOUT",
    "PROTOCOL",
    "JSON",
    "TOO_LARGE",
    "LOOP",
    "ABANDONED",
];

/// The counts of one worker.
#[derive(Default)]
#[repr(align(64))] // no cache line is written by two workers
pub(crate) struct BackendMetrics {
    outcomes: [Counter; OUTCOMES.len()],
    latency: Histogram,
    stats: Mutex<Stats>,
}

impl BackendMetrics {
    /// Counts the outcome of a request.
    pub(crate) fn count(&self, outcome: Result<(), Error>) {
        self.count_label(outcome.map_or_else(Error::reason, |()| "OK"));
    }

    /// Counts a request whose client left before its response.
    pub(crate) fn count_abandoned(&self) {
        self.count_label("ABANDONED");
    }

    fn count_label(&self, label: &str) {
        if let Some(index) = OUTCOMES.iter().position(|outcome| *outcome == label) {
            self.outcomes[index].add(1);
        }
    }

    /// Counts an event of the client.
    pub(crate) fn observe(&self, event: Event<'_>) {
        match event {
            Event::Responded(elapsed) => self.latency.observe(elapsed),
            Event::Changed(stats) => *self.stats() = *stats,
        }
    }

    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Workers = [Arc<BackendMetrics>];

/// The metric families, in the order of the page.
pub(crate) const FAMILIES: &[Family<Workers>] = &[
    Family {
        name: "backend_calls_total",
        kind: Total,
        help: "Requests to the backend, by outcome.",
        write: |workers, page| {
            for (outcome, index) in OUTCOMES.iter().zip(0..) {
                let count = workers.iter().map(|it| it.outcomes[index].get()).sum();
                page.sample(&[("outcome", outcome)], count);
            }
        },
    },
    Family {
        name: "backend_response_duration_seconds",
        kind: Latency,
        help: "Time that the backend owed each response.",
        write: |workers, page| page.histogram(workers.iter().map(|it| &it.latency)),
    },
    Family {
        name: "backend_requests_waiting",
        kind: Gauge,
        help: "Requests that wait for a connection.",
        write: |workers, page| page.value(sum(workers, |it| it.waiting)),
    },
    Family {
        name: "backend_requests_in_flight",
        kind: Gauge,
        help: "Requests sent to the backend that have no response.",
        write: |workers, page| page.value(sum(workers, |it| it.in_flight)),
    },
    Family {
        name: "backend_retries_total",
        kind: Total,
        help: "Requests sent again, as their connection closed before a byte of the response.",
        write: |workers, page| page.value(sum(workers, |it| it.retried)),
    },
    Family {
        name: "backend_connections",
        kind: Gauge,
        help: "Connections to the backend by state.",
        write: |workers, page| {
            page.sample(&[("state", "connecting")], sum(workers, |it| it.connecting));
            page.sample(&[("state", "idle")], sum(workers, |it| it.idle));
            page.sample(&[("state", "busy")], sum(workers, |it| it.busy));
        },
    },
    Family {
        name: "backend_connections_open",
        kind: Gauge,
        help: "Open connections to the backend.",
        write: |workers, page| {
            page.value(sum(workers, |it| it.idle + it.busy));
        },
    },
    Family {
        name: "backend_connections_opened_total",
        kind: Total,
        help: "Connections opened to the backend.",
        write: |workers, page| page.value(sum(workers, |it| it.opened)),
    },
    Family {
        name: "backend_lookups_total",
        kind: Total,
        help: "Look-ups of the backend's name.",
        write: |workers, page| page.value(sum(workers, |it| it.lookups)),
    },
    Family {
        name: "backend_lookup_failures_total",
        kind: Total,
        help: "Look-ups that failed or were late; the last addresses are used if there are any.",
        write: |workers, page| page.value(sum(workers, |it| it.lookup_failures)),
    },
];

fn sum(workers: &Workers, count: impl Fn(&Stats) -> usize) -> u64 {
    workers.iter().map(|worker| count(&worker.stats()) as u64).sum()
}

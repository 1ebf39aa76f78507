//! The statistics of a load: every request is a response or a failure of one kind, at a point in
//! time. Nothing is sampled, and the statistics of several threads add up exactly.

use std::collections::BTreeMap;
use std::time::Duration;

use super::histogram::Histogram;
use super::timeline::Timeline;

/// The statistics of the requests so far.
#[derive(Clone, Default)]
pub(super) struct Statistics {
    /// Responses by status, including those that count as failures.
    pub(super) statuses: BTreeMap<u16, u64>,
    /// Of responses, from the time when the request was due.
    pub(super) latencies: Histogram,
    failures: [u64; Failure::ALL.len()],
    /// The text of the first failure that has one.
    pub(super) first_error: Option<String>,
    pub(super) bytes_received: u64,
    pub(super) connections_opened: u64,
    pub(super) timeline: Timeline,
}

/// Why a request counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server did not listen.
    Refused,
    /// Another error of connecting.
    Connect,
    /// The server reset the connection before the response was complete.
    Reset,
    /// The server closed the connection before the response was complete.
    Closed,
    /// The response was not complete in time.
    Timeout,
    /// The response was not HTTP.
    Broken,
    /// The status was 400 or above.
    Status,
    /// The body was not the expected one.
    Body,
    /// No connection was free for the request in time.
    Unsent,
}

impl Failure {
    const ALL: [Failure; 9] = [
        Failure::Refused,
        Failure::Connect,
        Failure::Reset,
        Failure::Closed,
        Failure::Timeout,
        Failure::Broken,
        Failure::Status,
        Failure::Body,
        Failure::Unsent,
    ];

    /// The name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Failure::Refused => "REFUSED",
            Failure::Connect => "CONNECT",
            Failure::Reset => "RESET",
            Failure::Closed => "CLOSED",
            Failure::Timeout => "TIMEOUT",
            Failure::Broken => "BROKEN",
            Failure::Status => "STATUS",
            Failure::Body => "BODY",
            Failure::Unsent => "UNSENT",
        }
    }
}

impl Statistics {
    /// Records a response `at` this time after the begin of the load. If it counts as a failure,
    /// `record_failures` is called as well.
    pub(super) fn record_response(&mut self, at: Duration, status: u16, latency: Duration) {
        *self.statuses.entry(status).or_default() += 1;
        self.latencies.record(latency);
        self.timeline.slot(at).responses += 1;
    }

    /// Records that so many requests have failed.
    pub(super) fn record_failures(
        &mut self,
        at: Duration,
        failure: Failure,
        count: u64,
        error: Option<String>,
    ) {
        self.failures[failure as usize] += count;
        self.timeline.slot(at).failures += count;
        if self.first_error.is_none() {
            self.first_error = error;
        }
    }

    /// The number of responses with any status.
    pub(super) fn responses(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// The failures that have occurred, with their counts.
    pub(super) fn failures(&self) -> impl Iterator<Item = (Failure, u64)> {
        let all =
            Failure::ALL.into_iter().map(|failure| (failure, self.failures[failure as usize]));
        all.filter(|(_, count)| *count > 0)
    }

    /// The number of failed requests.
    pub(super) fn failed(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// Adds the statistics of another thread.
    pub(super) fn merge(&mut self, other: &Statistics) {
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.latencies.merge(&other.latencies);
        for (sum, count) in self.failures.iter_mut().zip(other.failures) {
            *sum += count;
        }
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
        self.bytes_received += other.bytes_received;
        self.connections_opened += other.connections_opened;
        self.timeline.merge(&other.timeline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_threads_add_up() {
        let mut all = Statistics::default();
        for status in [200, 502] {
            let mut one =
                Statistics { bytes_received: 5, connections_opened: 1, ..Statistics::default() };
            one.record_response(Duration::ZERO, status, Duration::from_micros(1));
            one.record_response(Duration::from_secs(1), 200, Duration::from_micros(1));
            one.record_failures(
                Duration::ZERO,
                Failure::Reset,
                1,
                Some(format!("first after {status}")),
            );
            all.merge(&one);
        }
        assert_eq!(all.statuses.into_iter().collect::<Vec<_>>(), [(200, 3), (502, 1)]);
        assert_eq!((all.bytes_received, all.connections_opened), (10, 2));
        assert_eq!(all.first_error.as_deref(), Some("first after 200"));
        assert_eq!(all.latencies.count(), 4);
        assert_eq!(all.failures[Failure::Reset as usize], 2);
    }
}

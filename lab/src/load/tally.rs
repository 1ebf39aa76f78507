//! What a load has come to: every request is an answer or a failure of one kind, and has its
//! place in time. Nothing is sampled, and tallies of several threads add up exactly.

use std::collections::BTreeMap;
use std::time::Duration;

/// What became of the requests so far.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    /// Answers by their status, those that count as failures too.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Of answers, from the time when the request was due.
    pub(crate) latencies: Latencies,
    failures: [u64; Failure::ALL.len()],
    /// What the first failure that has a text said.
    pub(crate) first_words: Option<String>,
    pub(crate) bytes_received: u64,
    pub(crate) connections_opened: u64,
    pub(crate) timeline: Timeline,
}

/// Why a request counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nobody listened.
    Refused,
    /// No connection could be made for another reason.
    Connect,
    /// The server reset the connection before it had answered.
    Reset,
    /// The server closed the connection before it had answered.
    Closed,
    /// There was no whole answer in time.
    Timeout,
    /// What came was not an HTTP answer.
    Broken,
    /// The answer's status was 400 or above.
    Status,
    /// The answer's body was not the expected one.
    Body,
    /// The load was over before a connection was free for it.
    Unsent,
}

impl Failure {
    pub(crate) const ALL: [Failure; 9] = [
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

    /// The word that names it in reports.
    pub(crate) fn word(self) -> &'static str {
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

impl Tally {
    /// Counts an answer that came `at` this time since the load began. A failure is counted
    /// beside it, with `fail`.
    pub(crate) fn answer(&mut self, at: Duration, status: u16, latency: Duration) {
        *self.statuses.entry(status).or_default() += 1;
        self.latencies.add(latency);
        self.timeline.slot(at).answers += 1;
    }

    pub(crate) fn fail(&mut self, at: Duration, failure: Failure, words: Option<String>) {
        self.failures[failure as usize] += 1;
        self.timeline.slot(at).failures += 1;
        if self.first_words.is_none() {
            self.first_words = words;
        }
    }

    /// Answers of any kind.
    pub(crate) fn answers(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// The kinds of failure that there were, and how often.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (Failure, u64)> {
        let all =
            Failure::ALL.into_iter().map(|failure| (failure, self.failures[failure as usize]));
        all.filter(|(_, count)| *count > 0)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failures.iter().sum()
    }

    pub(crate) fn merge(&mut self, other: &Tally) {
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.latencies.merge(&other.latencies);
        for (sum, count) in self.failures.iter_mut().zip(other.failures) {
            *sum += count;
        }
        if self.first_words.is_none() {
            self.first_words.clone_from(&other.first_words);
        }
        self.bytes_received += other.bytes_received;
        self.connections_opened += other.connections_opened;
        self.timeline.merge(&other.timeline);
    }
}

/// Each power of two is split into this many buckets: no latency is off by more than 0.8 %.
const STEPS: u64 = 128;
/// Buckets for every number of nanoseconds that a `u64` holds.
const BUCKETS: usize = 58 * STEPS as usize;

/// A histogram of latencies. Exact in number, sum and maximum.
#[derive(Clone)]
pub(crate) struct Latencies {
    buckets: Box<[u64]>,
    count: u64,
    sum_ns: u128,
    max_ns: u64,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies { buckets: vec![0; BUCKETS].into(), count: 0, sum_ns: 0, max_ns: 0 }
    }
}

impl Latencies {
    fn add(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(ns)] += 1;
        self.count += 1;
        self.sum_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    fn merge(&mut self, other: &Latencies) {
        for (sum, count) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *sum += count;
        }
        self.count += other.count;
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// What so many hundredths of a percent of the latencies do not exceed; `None` of none.
    pub(crate) fn percentile(&self, hundredths: u64) -> Option<Duration> {
        let wanted = (u128::from(self.count) * u128::from(hundredths)).div_ceil(10_000).max(1);
        let mut seen = 0;
        let mut buckets = self.buckets.iter().enumerate();
        let (index, _) = buckets.find(|(_, count)| {
            seen += u128::from(**count);
            seen >= wanted
        })?;
        Some(Duration::from_nanos(bucket_end(index).min(self.max_ns)))
    }

    pub(crate) fn mean(&self) -> Option<Duration> {
        let mean = self.sum_ns.checked_div(self.count.into())?;
        Some(Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)))
    }

    pub(crate) fn max(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.max_ns))
    }
}

/// Below `STEPS` each number has its own; above, the highest eight bits count.
fn bucket(ns: u64) -> usize {
    let shift = ns.checked_ilog2().unwrap_or(0).saturating_sub(STEPS.ilog2());
    (u64::from(shift) * STEPS + (ns >> shift)) as usize
}

/// The highest number of a bucket.
fn bucket_end(index: usize) -> u64 {
    let shift = (index as u64 / STEPS).saturating_sub(1);
    let first = u128::from(index as u64 - shift * STEPS) << shift;
    u64::try_from(first + (1 << shift) - 1).unwrap_or(u64::MAX)
}

/// Fine enough for the gap that a restart leaves, and an hour of it takes 6 MB.
pub(crate) const SLOT: Duration = Duration::from_millis(10);

/// When answers and failures came, counted in slots of time.
#[derive(Clone, Default)]
pub(crate) struct Timeline(Vec<Slot>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) answers: u64,
    pub(crate) failures: u64,
}

impl Timeline {
    fn slot(&mut self, at: Duration) -> &mut Slot {
        let index = (at.as_nanos() / SLOT.as_nanos()) as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, Slot::default());
        }
        &mut self.0[index]
    }

    fn merge(&mut self, other: &Timeline) {
        self.0.resize(self.0.len().max(other.0.len()), Slot::default());
        for (sum, slot) in self.0.iter_mut().zip(&other.0) {
            sum.answers += slot.answers;
            sum.failures += slot.failures;
        }
    }

    /// The same in columns of so many slots.
    pub(crate) fn columns(&self, slots: usize) -> Vec<Slot> {
        let sum = |slots: &[Slot]| Slot {
            answers: slots.iter().map(|slot| slot.answers).sum(),
            failures: slots.iter().map(|slot| slot.failures).sum(),
        };
        self.0.chunks(slots).map(sum).collect()
    }

    /// The longest time without an answer in a load that took so long, and when it began.
    pub(crate) fn longest_gap(&self, took: Duration) -> Option<(Duration, Duration)> {
        let end = (took.as_nanos() / SLOT.as_nanos()) as u32;
        let answered = (0..end).zip(&self.0).filter(|(_, slot)| slot.answers > 0);
        let mut next = 0;
        let gaps = answered.map(|(index, _)| index).chain([end]).map(|index| {
            let began = std::mem::replace(&mut next, index + 1);
            (index - began, began)
        });
        let (length, began) = gaps.max_by_key(|(length, _)| *length)?;
        (length > 0).then(|| (SLOT * length, SLOT * began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_has_a_bucket_that_is_near_it() {
        let around = |ns: u64| [ns.saturating_sub(1), ns, ns.saturating_add(1)];
        let mut numbers: Vec<u64> = (0..64).flat_map(|power| around(1 << power)).collect();
        numbers.push(u64::MAX);
        numbers.sort_unstable();
        let mut last = 0;
        for ns in numbers {
            let index = bucket(ns);
            assert!(index < BUCKETS && index >= last, "{ns}");
            let end = bucket_end(index);
            assert!(end >= ns && end - ns <= ns / STEPS, "{ns} in a bucket up to {end}");
            last = index;
        }
    }

    #[test]
    fn percentiles_are_those_of_the_numbers() {
        let mut latencies = Latencies::default();
        assert_eq!(
            (latencies.percentile(5000), latencies.mean(), latencies.max()),
            (None, None, None)
        );
        // Two halves added up are the whole.
        let mut other = Latencies::default();
        for micros in (1..=10_000).rev() {
            let half = if micros % 2 == 0 { &mut latencies } else { &mut other };
            half.add(Duration::from_micros(micros));
        }
        latencies.merge(&other);
        for (hundredths, micros) in
            [(0, 1), (1, 1), (5_000, 5_000), (9_900, 9_900), (9_999, 9_999), (10_000, 10_000)]
        {
            let found = latencies.percentile(hundredths).expect("latencies");
            let exact = Duration::from_micros(micros);
            assert!((exact..=exact + exact / 128).contains(&found), "{hundredths}: {found:?}");
        }
        assert_eq!(latencies.max(), Some(Duration::from_millis(10)));
        assert_eq!(latencies.mean(), Some(Duration::from_nanos(5_000_500)));
    }

    #[test]
    fn a_gap_is_what_lies_between_answers_whether_there_are_failures_or_not() {
        let gap_ms = |timeline: &Timeline, took_ms| {
            let gap = timeline.longest_gap(Duration::from_millis(took_ms));
            gap.map(|(length, began)| (length.as_millis(), began.as_millis()))
        };
        let mut tally = Tally::default();
        assert_eq!(gap_ms(&tally.timeline, 0), None);
        assert_eq!(gap_ms(&tally.timeline, 100), Some((100, 0)));
        for at_ms in [40, 49, 50, 85, 90, 160, 165] {
            tally.answer(Duration::from_millis(at_ms), 200, Duration::ZERO);
        }
        for at_ms in [110, 240] {
            tally.fail(Duration::from_millis(at_ms), Failure::Refused, None);
        }
        assert_eq!(gap_ms(&tally.timeline, 50), Some((40, 0)));
        assert_eq!(gap_ms(&tally.timeline, 170), Some((60, 100)));
        assert_eq!(gap_ms(&tally.timeline, 250), Some((80, 170)));
        let slot = |answers, failures| Slot { answers, failures };
        assert_eq!(tally.timeline.columns(10), [slot(5, 0), slot(2, 1), slot(0, 1)]);
    }

    #[test]
    fn tallies_add_up() {
        let mut all = Tally::default();
        for status in [200, 502] {
            let mut one = Tally { bytes_received: 5, connections_opened: 1, ..Tally::default() };
            one.answer(Duration::ZERO, status, Duration::from_micros(1));
            one.answer(Duration::from_secs(1), 200, Duration::from_micros(1));
            one.fail(Duration::ZERO, Failure::Reset, Some(format!("first after {status}")));
            all.merge(&one);
        }
        assert_eq!(all.statuses.into_iter().collect::<Vec<_>>(), [(200, 3), (502, 1)]);
        assert_eq!((all.bytes_received, all.connections_opened), (10, 2));
        assert_eq!(all.first_words.as_deref(), Some("first after 200"));
        assert_eq!(all.latencies.count, 4);
        assert_eq!(all.failures[Failure::Reset as usize], 2);
    }
}

//! A histogram of latencies: exact in number, sum and maximum, within 0.8 % in percentiles.

use std::time::Duration;

/// Each power of two is split into this many buckets, so that no latency is off by more than 0.8 %.
const STEPS: u64 = 128;
/// Buckets for every number of nanoseconds in a `u64`.
const BUCKETS: usize = 58 * STEPS as usize;

/// A histogram of latencies.
#[derive(Clone)]
pub(super) struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    sum_ns: u128,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: vec![0; BUCKETS].into(), count: 0, sum_ns: 0, max_ns: 0 }
    }
}

impl Histogram {
    pub(super) fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(ns)] += 1;
        self.count += 1;
        self.sum_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    pub(super) fn merge(&mut self, other: &Histogram) {
        for (sum, count) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *sum += count;
        }
        self.count += other.count;
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// The latency that so many hundredths of a percent do not exceed; `None` without any.
    pub(super) fn percentile(&self, hundredths: u64) -> Option<Duration> {
        let wanted = (u128::from(self.count) * u128::from(hundredths)).div_ceil(10_000).max(1);
        let mut seen = 0;
        let mut buckets = self.buckets.iter().enumerate();
        let (index, _) = buckets.find(|(_, count)| {
            seen += u128::from(**count);
            seen >= wanted
        })?;
        Some(Duration::from_nanos(bucket_end(index).min(self.max_ns)))
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn mean(&self) -> Option<Duration> {
        let mean = self.sum_ns.checked_div(self.count.into())?;
        Some(Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)))
    }

    pub(super) fn max(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.max_ns))
    }
}

/// Below `STEPS`, each number has its own bucket. Above, the highest eight bits decide.
fn bucket(ns: u64) -> usize {
    let shift = ns.checked_ilog2().unwrap_or(0).saturating_sub(STEPS.ilog2());
    (u64::from(shift) * STEPS + (ns >> shift)) as usize
}

/// The highest number in a bucket.
fn bucket_end(index: usize) -> u64 {
    let shift = (index as u64 / STEPS).saturating_sub(1);
    let first = u128::from(index as u64 - shift * STEPS) << shift;
    u64::try_from(first + (1 << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_bucket_is_near_every_number_in_it() {
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
    fn percentiles_are_near_the_exact_ones() {
        let mut latencies = Histogram::default();
        assert_eq!(
            (latencies.percentile(5000), latencies.mean(), latencies.max()),
            (None, None, None)
        );
        let mut other = Histogram::default();
        for micros in (1..=10_000).rev() {
            let half = if micros % 2 == 0 { &mut latencies } else { &mut other };
            half.record(Duration::from_micros(micros));
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
}

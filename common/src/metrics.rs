//! Counters and latency histograms, and the Prometheus text format 0.0.4. The metrics themselves
//! are declared where they are counted.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A count that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; called only by the thread that owns the count.
    pub fn add(&self, n: u64) {
        // Not `fetch_add`: a locked instruction costs seven times as much, and there is no second
        // writer whose count could be lost.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Latencies in buckets, written by one thread as a `Counter` is.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS.len()],
    sum_ns: Counter,
}

impl Histogram {
    /// Counts one latency.
    pub fn observe(&self, elapsed: Duration) {
        let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        // From the front: most requests end in the first buckets.
        for ((bound, _), bucket) in BOUNDS.iter().zip(&self.buckets) {
            if ns <= *bound {
                bucket.add(1);
                break;
            }
        }
        self.sum_ns.add(ns);
    }
}

/// Upper bounds of the buckets in nanoseconds, and in seconds as the exposition writes them.
/// From a request that never left the machine to one that waited out a timeout.
const BOUNDS: [(u64, &str); 17] = [
    (50_000, "0.00005"),
    (100_000, "0.0001"),
    (250_000, "0.00025"),
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5"),
    (u64::MAX, "+Inf"),
];

/// A metric family: one row of a table.
pub struct Family<S: ?Sized> {
    /// The name of its samples.
    pub name: &'static str,
    /// The value of `TYPE`.
    pub kind: Kind,
    /// The value of `HELP`.
    pub help: &'static str,
    /// Writes its samples; none leaves the family out.
    pub write: fn(&S, &mut Exposition),
}

/// The type of a metric family.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// A latency histogram.
    Histogram,
}

/// A page in the Prometheus text format 0.0.4.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    name: &'static str,
    /// The `HELP` and `TYPE` lines, until the first sample.
    head: String,
}

impl Exposition {
    /// Appends families with their samples.
    pub fn families<S: ?Sized>(&mut self, families: &[Family<S>], source: &S) {
        for family in families {
            self.name = family.name;
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            self.head.clear();
            self.head.extend(["# HELP ", family.name, " "]);
            escape_marks(family.help, &['\\'], &mut self.head);
            self.head.extend(["\n# TYPE ", family.name, " ", kind, "\n"]);
            (family.write)(source, self);
        }
    }

    /// Appends a sample without labels.
    pub fn value(&mut self, value: u64) {
        self.sample(&[], value);
    }

    /// Appends a sample.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        self.line("", labels, None, format_args!("{value}"));
    }

    /// Appends a sample of seconds without labels.
    pub fn seconds(&mut self, time: Duration) {
        self.line("", &[], None, format_args!("{}.{:09}", time.as_secs(), time.subsec_nanos()));
    }

    /// Appends the sum of `parts`, one for each worker, as one histogram.
    pub fn histogram<'a>(&mut self, parts: impl IntoIterator<Item = &'a Histogram>) {
        let mut buckets = [0; BOUNDS.len()];
        let mut sum_ns: u64 = 0;
        for part in parts {
            for (total, bucket) in buckets.iter_mut().zip(&part.buckets) {
                *total += bucket.get();
            }
            sum_ns = sum_ns.wrapping_add(part.sum_ns.get());
        }
        let mut count: u64 = 0;
        for ((_, bound), bucket) in BOUNDS.iter().zip(buckets) {
            count += bucket;
            self.line("_bucket", &[], Some(bound), format_args!("{count}"));
        }
        // Integers: a float would end in noise and, after some weeks, lose nanoseconds.
        let (seconds, rest) = (sum_ns / 1_000_000_000, sum_ns % 1_000_000_000);
        self.line("_sum", &[], None, format_args!("{seconds}.{rest:09}"));
        self.line("_count", &[], None, format_args!("{count}"));
    }

    /// The page.
    pub fn finish(self) -> String {
        self.text
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        bound: Option<&str>,
        value: fmt::Arguments<'_>,
    ) {
        self.text.push_str(&std::mem::take(&mut self.head));
        self.text.extend([self.name, suffix]);
        let pairs = labels.iter().copied().chain(bound.map(|le| ("le", le)));
        for (before, (name, label)) in pairs.enumerate() {
            self.text.extend([if before == 0 { "{" } else { "," }, name, "=\""]);
            escape_marks(label, &['\\', '"'], &mut self.text);
            self.text.push('"');
        }
        let closing = if labels.is_empty() && bound.is_none() { "" } else { "}" };
        // A `String` takes all that is written to it.
        let _ = writeln!(self.text, "{closing} {value}");
    }
}

/// Copies `text` with a backslash before each of `marks` and in place of line feeds.
fn escape_marks(text: &str, marks: &[char], out: &mut String) {
    for letter in text.chars() {
        match letter {
            '\n' => out.push_str("\\n"),
            _ if marks.contains(&letter) => out.extend(['\\', letter]),
            _ => out.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_a_latency_in_the_first_bucket_that_holds_it() {
        for (ns, bucket) in [
            (0, "0.00005"),
            (50_000, "0.00005"),
            (50_001, "0.0001"),
            (999_999, "0.001"),
            (1_000_001, "0.0025"),
            (5_000_000_000, "5"),
            (5_000_000_001, "+Inf"),
        ] {
            let histogram = Histogram::default();
            histogram.observe(Duration::from_nanos(ns));
            let counts = BOUNDS.iter().zip(&histogram.buckets);
            let found: Vec<_> = counts.filter(|(_, count)| count.get() == 1).collect();
            assert!(matches!(found[..], [((_, le), _)] if *le == bucket), "{ns}");
        }
    }

    #[test]
    fn the_text_of_each_bound_is_its_value() {
        let finite = &BOUNDS[..BOUNDS.len() - 1];
        assert!(BOUNDS.is_sorted_by(|(one, _), (next, _)| one < next));
        for (ns, text) in finite {
            let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
            let nanoseconds: u64 = format!("{whole}{rest:0<9}").parse().unwrap();
            assert_eq!(nanoseconds, *ns, "{text}");
        }
    }

    #[test]
    fn adds_up_the_parts_of_a_histogram_exactly() {
        let parts: [Histogram; 3] = Default::default();
        parts[0].observe(Duration::from_nanos(1));
        parts[0].observe(Duration::from_micros(80));
        parts[1].observe(Duration::from_millis(2));
        parts[1].observe(Duration::from_secs(7));
        let mut exposition = Exposition::default();
        let families: [Family<[Histogram]>; 2] = [
            Family {
                name: "wait_seconds",
                kind: Kind::Histogram,
                help: "Waits.",
                write: |parts, exposition| exposition.histogram(parts),
            },
            Family {
                name: "rest_seconds",
                kind: Kind::Histogram,
                help: "Rests.",
                write: |parts, exposition| exposition.histogram(&parts[2..]),
            },
        ];
        exposition.families(&families, &parts[..]);
        let page = exposition.finish();
        let head = "# HELP wait_seconds Waits.\n# TYPE wait_seconds histogram\n";
        assert!(page.starts_with(head), "{page}");
        for line in [
            "wait_seconds_bucket{le=\"0.00005\"} 1",
            "wait_seconds_bucket{le=\"0.0001\"} 2",
            "wait_seconds_bucket{le=\"0.001\"} 2",
            "wait_seconds_bucket{le=\"0.0025\"} 3",
            "wait_seconds_bucket{le=\"5\"} 3",
            "wait_seconds_bucket{le=\"+Inf\"} 4",
            "wait_seconds_sum 7.002080001",
            "wait_seconds_count 4",
            "rest_seconds_bucket{le=\"+Inf\"} 0",
            "rest_seconds_sum 0.000000000",
            "rest_seconds_count 0",
        ] {
            assert_eq!(page.lines().filter(|found| *found == line).count(), 1, "{line}\n{page}");
        }
        assert_eq!(page.lines().count(), 2 * (2 + BOUNDS.len() + 2));
    }

    #[test]
    fn escapes_labels_and_help() {
        let families: [Family<u64>; 4] = [
            Family {
                name: "a_total",
                kind: Kind::Counter,
                help: "Says \"\\\" and\nmore.",
                write: |value, exposition| {
                    exposition.sample(&[("x", "q\"b\\n\né"), ("y", "")], *value);
                },
            },
            Family { name: "none", kind: Kind::Gauge, help: "No sample.", write: |_, _| {} },
            Family {
                name: "b",
                kind: Kind::Gauge,
                help: "Now.",
                write: |_, exposition| exposition.value(0),
            },
            Family {
                name: "c_seconds",
                kind: Kind::Gauge,
                help: "Then.",
                write: |_, exposition| exposition.seconds(Duration::new(3, 4)),
            },
        ];
        let mut exposition = Exposition::default();
        exposition.families(&families, &u64::MAX);
        let page = r#"# HELP a_total Says "\\" and\nmore.
# TYPE a_total counter
a_total{x="q\"b\\n\né",y=""} 18446744073709551615
# HELP b Now.
# TYPE b gauge
b 0
# HELP c_seconds Then.
# TYPE c_seconds gauge
c_seconds 3.000000004
"#;
        assert_eq!(exposition.finish(), page);
    }
}

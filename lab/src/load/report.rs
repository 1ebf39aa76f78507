//! The report of a load, as text and as JSON.

use std::fmt::Write;
use std::time::Duration;

use tools::json::quoted;

use super::Options;
use super::statistics::Statistics;
use super::timeline::{SLOT, Slot};
use super::worker::ConnectionUse;

pub(super) struct Report<'a> {
    pub(super) options: &'a Options,
    pub(super) statistics: &'a Statistics,
    pub(super) duration: Duration,
}

/// The percentiles of the report, in hundredths of a percent.
const PERCENTILES: [(u64, &str); 6] = [
    (5_000, "p50"),
    (7_500, "p75"),
    (9_000, "p90"),
    (9_900, "p99"),
    (9_990, "p99.9"),
    (9_999, "p99.99"),
];
/// A column of the timeline in slots: 100 ms. The text has longer ones for long loads.
const COLUMN_SLOTS: usize = 10;
const COLUMNS_MAX: usize = 100;
/// From no responses to the most, in eighths.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

impl Report<'_> {
    pub(super) fn text(&self) -> String {
        let Report { options, statistics, duration } = self;
        let mut page = format!("GET http://{}{}, ", options.url.authority, options.url.target);
        let _ = match options.rate {
            Some(rate) => write!(page, "{} a second", grouped(rate)),
            None => write!(page, "full speed"),
        };
        let _ = write!(page, ", {}", counted(options.connections, "connection"));
        if options.pipeline > 1 {
            let _ = write!(page, ", {} requests at once on each", options.pipeline);
        }
        if options.connection_use == ConnectionUse::OneRequest {
            page.push_str(", each for one request");
        }
        let _ = writeln!(page, ", {:.1} s\n", duration.as_secs_f64());

        let responses = statistics.responses();
        let rate = grouped(per_second(responses, *duration));
        let _ = writeln!(page, "responses    {:>12}   {rate} a second", grouped(responses));
        for (status, count) in &statistics.statuses {
            let _ = writeln!(page, "  {status}        {:>12}", grouped(*count));
        }
        let _ = writeln!(page, "failures     {:>12}", grouped(statistics.failed()));
        for (failure, count) in statistics.failures() {
            let _ = writeln!(page, "  {:<10} {:>12}", failure.name(), grouped(count));
        }
        if let Some(error) = &statistics.first_error {
            let _ = writeln!(page, "  the first: {error}");
        }
        let bytes = grouped(statistics.bytes_received);
        let _ = writeln!(page, "bytes        {bytes:>12}   received");
        let opened = grouped(statistics.connections_opened);
        let _ = writeln!(page, "connections  {opened:>12}   opened");
        page.push_str(&self.latency_table());
        page.push_str(&self.timeline());
        page
    }

    fn latency_table(&self) -> String {
        let (mut names, mut values) = (String::new(), String::new());
        for (name, value) in self.latencies() {
            let _ = write!(names, "{name:>10}");
            let _ = write!(values, "{:>10}", formatted(value));
        }
        match names.as_str() {
            "" => String::new(),
            _ => format!("\nlatency {names}\n        {values}\n"),
        }
    }

    /// Mean, percentiles and maximum. Empty without responses.
    fn latencies(&self) -> Vec<(&'static str, Duration)> {
        let latencies = &self.statistics.latencies;
        let percentiles =
            PERCENTILES.map(|(hundredths, name)| (name, latencies.percentile(hundredths)));
        let mean = [("mean", latencies.mean())];
        let all = mean.into_iter().chain(percentiles).chain([("max", latencies.max())]);
        all.filter_map(|(name, latency)| Some((name, latency?))).collect()
    }

    fn timeline(&self) -> String {
        let all = self.statistics.timeline.columns(COLUMN_SLOTS).len();
        let columns_of = COLUMN_SLOTS * all.div_ceil(COLUMNS_MAX).max(1);
        let columns = self.statistics.timeline.columns(columns_of);
        let most = columns.iter().map(|column| column.responses).max().unwrap_or_default();
        let length = formatted(SLOT * columns_of as u32);
        let mut page = format!(
            "\ntimeline, {length} a column, █ is {} responses\n|{}|\n",
            grouped(most),
            columns.iter().map(|column| bar(column.responses, most)).collect::<String>()
        );
        if columns.iter().any(|column| column.failures > 0) {
            let mark = |column: &Slot| if column.failures > 0 { '×' } else { ' ' };
            let marks: String = columns.iter().map(mark).collect();
            let _ = writeln!(page, "|{marks}| × has failures");
        }
        if let Some((gap, began)) = self.statistics.timeline.longest_gap(self.duration) {
            let began = began.as_secs_f64();
            let _ = writeln!(
                page,
                "longest time without a response: {}, from {began:.2} s on",
                formatted(gap)
            );
        }
        page
    }

    pub(super) fn json(&self) -> String {
        let Report { options, statistics, duration } = self;
        let url = quoted(&format!("http://{}{}", options.url.authority, options.url.target));
        let statuses =
            statistics.statuses.iter().map(|(status, count)| format!("\"{status}\": {count}"));
        let failures = statistics
            .failures()
            .map(|(failure, count)| format!("\"{}\": {count}", failure.name()));
        let latencies = self.latencies().into_iter();
        let latencies = latencies.map(|(name, value)| format!("\"{name}\": {}", micros(value)));
        let columns = statistics.timeline.columns(COLUMN_SLOTS);
        let (gap, began) = statistics.timeline.longest_gap(*duration).unwrap_or_default();
        format!(
            "{{\"url\": {}, \"seconds\": {:.3}, \"responses\": {}, \"responses_per_second\": {}, \
             \"statuses\": {{{}}}, \"failed\": {}, \"failures\": {{{}}}, \"bytes_received\": {}, \
             \"connections_opened\": {}, \"latency_us\": {{{}}}, \"longest_gap_ms\": {}, \
             \"longest_gap_began_ms\": {}, \"timeline\": {{\"column_ms\": {}, \"responses\": [{}], \
             \"failures\": [{}]}}}}\n",
            url,
            duration.as_secs_f64(),
            statistics.responses(),
            per_second(statistics.responses(), *duration),
            joined(statuses),
            statistics.failed(),
            joined(failures),
            statistics.bytes_received,
            statistics.connections_opened,
            joined(latencies),
            gap.as_millis(),
            began.as_millis(),
            (SLOT * COLUMN_SLOTS as u32).as_millis(),
            joined(columns.iter().map(|column| column.responses.to_string())),
            joined(columns.iter().map(|column| column.failures.to_string())),
        )
    }
}

/// The line that is shown while the load runs.
pub(super) fn progress_line(elapsed: Duration, rate: u64, statistics: &Statistics) -> String {
    let mut line = format!("{:>6.1} s  {:>9} a second ", elapsed.as_secs_f64(), grouped(rate));
    for (status, count) in &statistics.statuses {
        let _ = write!(line, "  {status}: {}", grouped(*count));
    }
    let latencies = &statistics.latencies;
    if let (Some(p50), Some(p99)) = (latencies.percentile(5_000), latencies.percentile(9_900)) {
        let _ = write!(line, "   p50 {}, p99 {}", formatted(p50), formatted(p99));
    }
    for (failure, count) in statistics.failures() {
        let _ = write!(line, "  {}: {}", failure.name(), grouped(count));
    }
    line
}

/// A count in a duration, as a rate.
pub(super) fn per_second(count: u64, duration: Duration) -> u64 {
    let rate = u128::from(count) * 1_000_000 / duration.as_micros().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// Blank only without any response.
fn bar(responses: u64, most: u64) -> char {
    BARS[(responses * 8).div_ceil(most.max(1)) as usize]
}

fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(count))
}

/// A number with separators between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (left, digit) in (0..digits.len()).rev().zip(digits.chars()) {
        text.push(digit);
        if left > 0 && left % 3 == 0 {
            text.push(',');
        }
    }
    text
}

/// A duration with three digits or more, in a fitting unit.
fn formatted(time: Duration) -> String {
    let micros = time.as_nanos() as f64 / 1e3;
    match micros {
        ..1e3 => format!("{micros:.0} µs"),
        1e3..1e4 => format!("{:.2} ms", micros / 1e3),
        1e4..1e6 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

/// Microseconds with three decimals: every nanosecond.
fn micros(time: Duration) -> String {
    let ns = time.as_nanos();
    format!("{}.{:03}", ns / 1_000, ns % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_separators_and_durations_a_unit() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")]
        {
            assert_eq!(grouped(number), text);
        }
        for (ns, text) in [
            (0, "0 µs"),
            (999_400, "999 µs"),
            (1_234_567, "1.23 ms"),
            (123_456_789, "123 ms"),
            (1_234_567_890, "1.23 s"),
        ] {
            assert_eq!(formatted(Duration::from_nanos(ns)), text);
        }
        assert_eq!(micros(Duration::from_nanos(1_234_005)), "1234.005");
    }

    #[test]
    fn a_bar_has_the_height_of_its_share() {
        let bars: String =
            [0, 1, 400, 500, 799, 800].map(|responses| bar(responses, 800)).iter().collect();
        assert_eq!(bars, " ▁▄▅██");
        assert_eq!(bar(0, 0), ' ');
    }
}

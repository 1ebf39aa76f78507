//! What a load has come to, for people and for programs.

use std::fmt::Write;
use std::time::Duration;

use common::json;

use super::Order;
use super::drive::Keeping;
use super::tally::{SLOT, Slot, Tally};

/// A result, with what was ordered.
pub(super) struct Report<'a> {
    pub(super) order: &'a Order,
    pub(super) tally: &'a Tally,
    pub(super) took: Duration,
}

/// What is shown of the latencies, in hundredths of a percent.
const PERCENTILES: [(u64, &str); 6] = [
    (5_000, "p50"),
    (7_500, "p75"),
    (9_000, "p90"),
    (9_900, "p99"),
    (9_990, "p99.9"),
    (9_999, "p99.99"),
];
/// A column of the timeline, in slots: 100 ms, or a multiple of it where that makes too many.
const COLUMN_SLOTS: usize = 10;
const COLUMNS_MAX: usize = 100;
/// From nothing to most, by eighths.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

impl Report<'_> {
    pub(super) fn text(&self) -> String {
        let Report { order, tally, took } = self;
        let mut page = format!("GET http://{}{}, ", order.url.authority, order.url.target);
        let _ = match order.rate {
            Some(rate) => write!(page, "{} a second", grouped(rate)),
            None => write!(page, "as fast as it goes"),
        };
        let _ = write!(page, ", {}", counted(order.connections, "connection"));
        if order.depth > 1 {
            let _ = write!(page, ", {} requests at once on each", order.depth);
        }
        if order.keeping == Keeping::OneRequest {
            page.push_str(", each for one request");
        }
        let _ = writeln!(page, ", {:.1} s\n", took.as_secs_f64());

        let answers = tally.answers();
        let rate = grouped(a_second(answers, *took));
        let _ = writeln!(page, "answers      {:>12}   {rate} a second", grouped(answers));
        for (status, count) in &tally.statuses {
            let _ = writeln!(page, "  {status}        {:>12}", grouped(*count));
        }
        let _ = writeln!(page, "failures     {:>12}", grouped(tally.failed()));
        for (failure, count) in tally.failures() {
            let _ = writeln!(page, "  {:<10} {:>12}", failure.word(), grouped(count));
        }
        if let Some(words) = &tally.first_words {
            let _ = writeln!(page, "  the first: {words}");
        }
        let bytes = grouped(tally.bytes_received);
        let _ = writeln!(page, "bytes        {bytes:>12}   received");
        let opened = grouped(tally.connections_opened);
        let _ = writeln!(page, "connections  {opened:>12}   opened");
        page.push_str(&self.latencies());
        page.push_str(&self.timeline());
        page
    }

    fn latencies(&self) -> String {
        let latencies = &self.tally.latencies;
        let (Some(mean), Some(max)) = (latencies.mean(), latencies.max()) else {
            return String::new();
        };
        let percentiles = PERCENTILES
            .into_iter()
            .filter_map(|(hundredths, name)| Some((name, latencies.percentile(hundredths)?)));
        let all = [("mean", mean)].into_iter().chain(percentiles).chain([("max", max)]);
        let (mut names, mut values) = (String::new(), String::new());
        for (name, value) in all {
            let _ = write!(names, "{name:>10}");
            let _ = write!(values, "{:>10}", shown(value));
        }
        format!("\nlatency {names}\n        {values}\n")
    }

    fn timeline(&self) -> String {
        let all = self.tally.timeline.columns(COLUMN_SLOTS).len();
        let columns_of = COLUMN_SLOTS * all.div_ceil(COLUMNS_MAX).max(1);
        let columns = self.tally.timeline.columns(columns_of);
        let most = columns.iter().map(|column| column.answers).max().unwrap_or_default();
        let length = shown(SLOT * columns_of as u32);
        let mut page = format!(
            "\ntimeline, {length} a column, █ is {} answers\n|{}|\n",
            grouped(most),
            columns.iter().map(|column| bar(column.answers, most)).collect::<String>()
        );
        if columns.iter().any(|column| column.failures > 0) {
            let mark = |column: &Slot| if column.failures > 0 { '×' } else { ' ' };
            let marks: String = columns.iter().map(mark).collect();
            let _ = writeln!(page, "|{marks}| × has failures");
        }
        if let Some((gap, began)) = self.tally.timeline.longest_gap(self.took) {
            let began = began.as_secs_f64();
            let _ = writeln!(
                page,
                "longest time without an answer: {}, from {began:.2} s on",
                shown(gap)
            );
        }
        page
    }

    pub(super) fn json(&self) -> String {
        let Report { order, tally, took } = self;
        let mut url = Vec::new();
        json::write_text(&format!("http://{}{}", order.url.authority, order.url.target), &mut url);
        let statuses =
            tally.statuses.iter().map(|(status, count)| format!("\"{status}\": {count}"));
        let failures =
            tally.failures().map(|(failure, count)| format!("\"{}\": {count}", failure.word()));
        let latencies = &tally.latencies;
        let percentiles = PERCENTILES
            .into_iter()
            .map(|(hundredths, name)| (name, latencies.percentile(hundredths)));
        let all = [("mean", latencies.mean())]
            .into_iter()
            .chain(percentiles)
            .chain([("max", latencies.max())]);
        let latencies =
            all.filter_map(|(name, value)| Some(format!("\"{name}\": {}", micros(value?))));
        let columns = tally.timeline.columns(COLUMN_SLOTS);
        let (gap, began) = tally.timeline.longest_gap(*took).unwrap_or_default();
        format!(
            "{{\"url\": {}, \"seconds\": {:.3}, \"answers\": {}, \"answers_per_second\": {}, \
             \"statuses\": {{{}}}, \"failed\": {}, \"failures\": {{{}}}, \"bytes_received\": {}, \
             \"connections_opened\": {}, \"latency_us\": {{{}}}, \"longest_gap_ms\": {}, \
             \"longest_gap_began_ms\": {}, \"timeline\": {{\"column_ms\": {}, \"answers\": [{}], \
             \"failures\": [{}]}}}}\n",
            String::from_utf8_lossy(&url),
            took.as_secs_f64(),
            tally.answers(),
            a_second(tally.answers(), *took),
            joined(statuses),
            tally.failed(),
            joined(failures),
            tally.bytes_received,
            tally.connections_opened,
            joined(latencies),
            gap.as_millis(),
            began.as_millis(),
            (SLOT * COLUMN_SLOTS as u32).as_millis(),
            joined(columns.iter().map(|column| column.answers.to_string())),
            joined(columns.iter().map(|column| column.failures.to_string())),
        )
    }
}

/// How it stands, in one line.
pub(super) fn live_line(since: Duration, rate: u64, tally: &Tally) -> String {
    let mut line = format!("{:>6.1} s  {:>9} a second ", since.as_secs_f64(), grouped(rate));
    for (status, count) in &tally.statuses {
        let _ = write!(line, "  {status}: {}", grouped(*count));
    }
    let latencies = &tally.latencies;
    if let (Some(p50), Some(p99)) = (latencies.percentile(5_000), latencies.percentile(9_900)) {
        let _ = write!(line, "   p50 {}, p99 {}", shown(p50), shown(p99));
    }
    for (failure, count) in tally.failures() {
        let _ = write!(line, "  {}: {}", failure.word(), grouped(count));
    }
    line
}

/// So many in this time, by the second.
pub(super) fn a_second(count: u64, time: Duration) -> u64 {
    let rate = u128::from(count) * 1_000_000 / time.as_micros().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// Nothing is blank, and a single answer is not nothing.
fn bar(answers: u64, most: u64) -> char {
    BARS[(answers * 8).div_ceil(most.max(1)) as usize]
}

fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(count))
}

/// A number with its thousands set apart.
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

/// A time with three digits or more, in the unit that suits it.
fn shown(time: Duration) -> String {
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
    fn numbers_and_times_are_easy_to_read() {
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
            assert_eq!(shown(Duration::from_nanos(ns)), text);
        }
        assert_eq!(micros(Duration::from_nanos(1_234_005)), "1234.005");
    }

    #[test]
    fn a_bar_is_as_high_as_its_share() {
        let bars: String =
            [0, 1, 400, 500, 799, 800].map(|answers| bar(answers, 800)).iter().collect();
        assert_eq!(bars, " ▁▄▅██");
        assert_eq!(bar(0, 0), ' ');
    }
}

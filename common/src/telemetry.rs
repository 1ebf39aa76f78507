//! What a service tells of itself: counters and a latency histogram, their Prometheus text,
//! the access-log line and the date, and the thread that writes log lines out.
//! Clocks are not read here, save for one short wait: every time is passed in. Which metrics
//! there are, and what is worth a line, the callers know.

use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, LockResult, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// A count that one thread alone writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Starts at zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`; only ever called by the one thread that owns the count.
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

/// A level that one thread alone moves and any thread reads.
#[derive(Debug, Default)]
pub struct Gauge(Counter);

impl Gauge {
    /// Starts at zero.
    pub const fn new() -> Self {
        Self(Counter::new())
    }

    /// Raises the level by one.
    pub fn up(&self) {
        self.0.add(1);
    }

    /// Lowers the level by one.
    pub fn down(&self) {
        // One less, since addition wraps.
        self.0.add(u64::MAX);
    }

    /// The level now.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Latencies sorted into buckets, written by one thread alone as a `Counter` is.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS.len()],
    sum_ns: Counter,
}

impl Histogram {
    /// Starts empty.
    pub const fn new() -> Self {
        Self { buckets: [const { Counter::new() }; BOUNDS.len()], sum_ns: Counter::new() }
    }

    /// Counts one latency.
    pub fn observe(&self, elapsed: Duration) {
        let ns = elapsed
            .as_secs()
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::from(elapsed.subsec_nanos()));
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

/// What the samples of a family are.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Only ever rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Written with `Exposition::histogram`.
    Histogram,
}

/// A page in the Prometheus text format 0.0.4: a family, its samples, the next family.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    /// Starts an empty page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the family that the samples after it belong to; once for each name.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.family = name;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.text.extend(["# HELP ", name, " "]);
        escape_marks(help, &['\\'], &mut self.text);
        self.text.extend(["\n# TYPE ", name, " ", kind, "\n"]);
    }

    /// Writes one sample of the current family.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        self.line("", labels, None, format_args!("{value}"));
    }

    /// Writes the sum of `parts`, one per thread, as one histogram of the current family.
    pub fn histogram<'a>(
        &mut self,
        labels: &[(&str, &str)],
        parts: impl IntoIterator<Item = &'a Histogram>,
    ) {
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
            self.line("_bucket", labels, Some(bound), format_args!("{count}"));
        }
        // Integers, since a float would end in noise and, after some weeks, lose nanoseconds.
        let (seconds, rest) = (sum_ns / 1_000_000_000, sum_ns % 1_000_000_000);
        self.line("_sum", labels, None, format_args!("{seconds}.{rest:09}"));
        self.line("_count", labels, None, format_args!("{count}"));
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
        self.text.extend([self.family, suffix]);
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

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Fields with spaces between them.
    Text,
    /// An object a line.
    Json,
    /// Not at all.
    Off,
}

impl LogFormat {
    /// Reads the name of a format; `None` for any other word.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            "off" => Some(Self::Off),
            _ => None,
        }
    }
}

/// One request in the access log.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// When it was answered.
    pub unix_millis: u64,
    /// The address it came from, or `-`.
    pub peer: &'a str,
    /// As received; empty if it could not be read.
    pub method: &'a [u8],
    /// As received; empty if it could not be read.
    pub path: &'a [u8],
    /// What was answered.
    pub status: u16,
    /// Of the body, as sent.
    pub bytes: u64,
    /// From the request's last byte to the response's.
    pub elapsed: Duration,
    /// As received; `None` if there was no such field.
    pub user_agent: Option<&'a [u8]>,
}

impl Line<'_> {
    /// Appends the line; it never holds a line feed but its last byte, whatever the peer sent.
    pub fn write(&self, format: LogFormat, out: &mut Vec<u8>) {
        match format {
            LogFormat::Text => self.write_text(out),
            LogFormat::Json => self.write_json(out),
            LogFormat::Off => {}
        }
    }

    fn write_text(&self, out: &mut Vec<u8>) {
        rfc3339(self.unix_millis, out);
        for word in [self.peer.as_bytes(), self.method, self.path] {
            out.push(b' ');
            // An empty word would shift the fields after it.
            escape_start(if word.is_empty() { b"-" } else { word }, WORD, out);
        }
        out.push(b' ');
        decimal(u64::from(self.status), out);
        out.push(b' ');
        decimal(self.bytes, out);
        out.push(b' ');
        milliseconds(self.elapsed, out);
        if let Some(user_agent) = self.user_agent {
            out.extend_from_slice(b" \"");
            escape_start(user_agent, QUOTED, out);
            out.extend_from_slice(b"\"\n");
        } else {
            out.extend_from_slice(b" -\n");
        }
    }

    fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\": \"");
        rfc3339(self.unix_millis, out);
        out.extend_from_slice(b"\", \"peer\": \"");
        escape_start(self.peer.as_bytes(), JSON, out);
        out.extend_from_slice(b"\", \"method\": \"");
        escape_start(self.method, JSON, out);
        out.extend_from_slice(b"\", \"path\": \"");
        escape_start(self.path, JSON, out);
        out.extend_from_slice(b"\", \"status\": ");
        decimal(u64::from(self.status), out);
        out.extend_from_slice(b", \"bytes\": ");
        decimal(self.bytes, out);
        out.extend_from_slice(b", \"milliseconds\": ");
        milliseconds(self.elapsed, out);
        if let Some(user_agent) = self.user_agent {
            out.extend_from_slice(b", \"user_agent\": \"");
            escape_start(user_agent, JSON, out);
            out.extend_from_slice(b"\"}\n");
        } else {
            out.extend_from_slice(b", \"user_agent\": null}\n");
        }
    }
}

/// Appends a line that tells of the service rather than of a request; `Off` silences requests
/// alone, so it is text then.
pub fn event(format: LogFormat, unix_millis: u64, level: &str, message: &str, out: &mut Vec<u8>) {
    match format {
        LogFormat::Text | LogFormat::Off => {
            rfc3339(unix_millis, out);
            out.push(b' ');
            escape(level.as_bytes(), WORD, out);
            out.push(b' ');
            escape(message.as_bytes(), QUOTED, out);
            out.push(b'\n');
        }
        LogFormat::Json => {
            out.extend_from_slice(b"{\"time\": \"");
            rfc3339(unix_millis, out);
            out.extend_from_slice(b"\", \"level\": \"");
            escape(level.as_bytes(), JSON, out);
            out.extend_from_slice(b"\", \"message\": \"");
            escape(message.as_bytes(), JSON, out);
            out.extend_from_slice(b"\"}\n");
        }
    }
}

/// Hands finished lines to a thread of their own, so that no request waits for stdout.
#[derive(Clone, Debug)]
pub struct Log(Arc<Desk>);

impl Log {
    /// Starts the writing thread, which lives as long as the process. The sink must not hold
    /// back what it is given: a file, not a `BufWriter`. `Err` if there can be no thread.
    pub fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let log = Self(Arc::default());
        let desk = Arc::clone(&log.0);
        thread::Builder::new()
            .name("log".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || desk.serve(sink))?;
        Ok(log)
    }

    /// Takes a batch of whole lines, and leaves the caller its buffer, empty. A batch that
    /// there is no room for is dropped and its lines are counted.
    pub fn hand_over(&self, lines: &mut Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        let mut backlog = self.0.lock();
        if backlog.lines.len() + lines.len() > BACKLOG_BYTES_MAX {
            backlog.dropped_lines += count_lines(lines);
            lines.clear();
            return;
        }
        backlog.accepted_bytes += lines.len() as u64;
        backlog.lines.append(lines);
        let asleep = mem::take(&mut backlog.writer_asleep);
        drop(backlog);
        if asleep {
            self.0.work.notify_one();
        }
    }

    /// Waits until all that was handed over before the call is written or dropped; `false`
    /// if time was up first.
    pub fn flush(&self, within: Duration) -> bool {
        let mut backlog = self.0.lock();
        let wanted = backlog.accepted_bytes;
        backlog.flushes += 1;
        self.0.work.notify_one();
        let outcome =
            self.0.settled.wait_timeout_while(backlog, within, |now| now.settled_bytes < wanted);
        let (mut backlog, _) = unpoisoned(outcome);
        backlog.flushes -= 1;
        backlog.settled_bytes >= wanted
    }

    /// How many lines were never written, or not to their end.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped_lines
    }
}

/// Formats a time as HTTP does (RFC 9110 5.6.7, IMF-fixdate).
pub fn http_date(unix_seconds: u64) -> [u8; 29] {
    const WEEKDAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
    // Month 12 stands at 0.
    const MONTHS: [&[u8; 3]; 12] = [
        b"Dec", b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct",
        b"Nov",
    ];
    let unix_seconds = unix_seconds.min(UNIX_SECONDS_MAX);
    let days = unix_seconds / 86_400;
    let (year, month, day) = civil_from_days(days);
    let mut text = *b"___, DD ___ YYYY hh:mm:ss GMT";
    text[..3].copy_from_slice(WEEKDAYS[(days % 7) as usize]);
    digits(day, &mut text[5..7]);
    text[8..11].copy_from_slice(MONTHS[(month % 12) as usize]);
    digits(year, &mut text[12..16]);
    clock(unix_seconds % 86_400, &mut text[17..25]);
    text
}

/// Appends a time as RFC 3339 has it, in UTC, to the millisecond.
pub fn rfc3339(unix_millis: u64, out: &mut Vec<u8>) {
    let unix_seconds = (unix_millis / 1_000).min(UNIX_SECONDS_MAX);
    let (year, month, day) = civil_from_days(unix_seconds / 86_400);
    let mut text = *b"YYYY-MM-DDThh:mm:ss.sssZ";
    digits(year, &mut text[..4]);
    digits(month, &mut text[5..7]);
    digits(day, &mut text[8..10]);
    clock(unix_seconds % 86_400, &mut text[11..19]);
    digits(unix_millis % 1_000, &mut text[20..23]);
    out.extend_from_slice(&text);
}

/// Ten thousand lines. To fill it while lines gather takes 200 MB a second, more than anybody
/// reads from a pipe: a full one means that stdout is stuck. As much again is being written.
const BACKLOG_BYTES_MAX: usize = 1 << 20;

/// What an idle process may keep of each buffer, lest a quiet service allocate for each line.
const IDLE_BYTES_MAX: usize = 8 << 10;

/// Lines gather this long before they are written: two hundred writes and wake-ups a second
/// instead of one per request, and nobody who reads along sees the delay.
const GATHERING: Duration = Duration::from_millis(5);

/// The thread calls `write` and little else.
const STACK_BYTES: usize = 64 << 10;

/// Where handed-over lines lie until the writer takes them, all at once. The lock is never
/// held during a write.
#[derive(Debug, Default)]
struct Desk {
    backlog: Mutex<Backlog>,
    /// Wakes the writer: there are lines, or somebody cannot wait for more to gather.
    work: Condvar,
    /// Wakes those who flush.
    settled: Condvar,
}

#[derive(Debug, Default)]
struct Backlog {
    lines: Vec<u8>,
    accepted_bytes: u64,
    /// Written or given up, always a whole batch.
    settled_bytes: u64,
    dropped_lines: u64,
    flushes: usize,
    writer_asleep: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Backlog> {
        unpoisoned(self.backlog.lock())
    }

    fn serve(&self, mut sink: impl Write) {
        let mut batch = Vec::new();
        let mut backlog = self.lock();
        loop {
            if backlog.lines.is_empty() {
                give_back(&mut batch);
                give_back(&mut backlog.lines);
                backlog.writer_asleep = true;
                let woken = self.work.wait_while(backlog, |now| now.lines.is_empty());
                backlog = unpoisoned(woken);
            }
            let gathered = self.work.wait_timeout_while(backlog, GATHERING, |now| now.flushes == 0);
            (backlog, _) = unpoisoned(gathered);
            mem::swap(&mut batch, &mut backlog.lines);
            drop(backlog);

            let unwritten = write_lines(&mut sink, &batch);

            backlog = self.lock();
            backlog.settled_bytes += batch.len() as u64;
            backlog.dropped_lines += count_lines(unwritten);
            batch.clear();
            if backlog.flushes > 0 {
                self.settled.notify_all();
            }
        }
    }
}

/// Writes until an error; returns what is left then, from the middle of a line perhaps.
fn write_lines<'a>(sink: &mut impl Write, mut lines: &'a [u8]) -> &'a [u8] {
    while !lines.is_empty() {
        match sink.write(lines) {
            Ok(0) => break,
            Ok(written) => lines = &lines[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Stdout is shared: another process may have made it non-blocking for all.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(GATHERING),
            Err(_) => break,
        }
    }
    lines
}

fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

fn give_back(buffer: &mut Vec<u8>) {
    if buffer.capacity() > IDLE_BYTES_MAX {
        *buffer = Vec::new();
    }
}

/// Nothing panics while it holds the lock, so that poison never tells of a broken backlog.
fn unpoisoned<T>(locked: LockResult<T>) -> T {
    locked.unwrap_or_else(PoisonError::into_inner)
}

/// The bytes that stand as they are, from `first` to `~` without quote and backslash, and the
/// mark that two hexadecimal digits follow for any other.
#[derive(Clone, Copy)]
struct Alphabet {
    first: u8,
    mark: &'static [u8],
}

const WORD: Alphabet = Alphabet { first: b'!', mark: b"\\x" };

const QUOTED: Alphabet = Alphabet { first: b' ', mark: b"\\x" };

const JSON: Alphabet = Alphabet { first: b' ', mark: b"\\u00" };

/// More than an honest path or browser name, and a line stays below 5 KB with all escaped.
const FIELD_BYTES_MAX: usize = 256;

/// As much of it as is needed to log it later.
pub fn start(bytes: &[u8]) -> &[u8] {
    bytes.get(..=FIELD_BYTES_MAX).unwrap_or(bytes)
}

fn escape_start(bytes: &[u8], alphabet: Alphabet, out: &mut Vec<u8>) {
    match bytes.get(..FIELD_BYTES_MAX) {
        Some(start) if start.len() < bytes.len() => {
            escape(start, alphabet, out);
            out.extend_from_slice(b"...");
        }
        _ => escape(bytes, alphabet, out),
    }
}

fn escape(bytes: &[u8], alphabet: Alphabet, out: &mut Vec<u8>) {
    let plain = |byte: u8| byte >= alphabet.first && byte <= b'~' && byte != b'"' && byte != b'\\';
    // Without an early end, so that the compiler compares many at once; `all` takes five times
    // as long for a browser's name.
    if bytes.iter().fold(true, |all, byte| all & plain(*byte)) {
        return out.extend_from_slice(bytes);
    }
    let hex = |four: u8| b"0123456789abcdef"[usize::from(four)];
    for byte in bytes {
        if plain(*byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(alphabet.mark);
            out.extend_from_slice(&[hex(byte >> 4), hex(byte & 15)]);
        }
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

fn milliseconds(elapsed: Duration, out: &mut Vec<u8>) {
    let whole = elapsed.as_secs().saturating_mul(1_000);
    let millis = u64::from(elapsed.subsec_millis());
    decimal(whole.saturating_add(millis), out);
    let mut fraction = *b".000";
    digits(u64::from(elapsed.subsec_micros()), &mut fraction[1..]);
    out.extend_from_slice(&fraction);
}

fn decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut text = [0; 20];
    let mut start = text.len();
    loop {
        start -= 1;
        text[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[start..]);
}

/// Fills `text` with the last digits of `number`.
fn digits(mut number: u64, text: &mut [u8]) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The last second with a year of four digits; later times are written as this one.
const UNIX_SECONDS_MAX: u64 = 253_402_300_799;

fn clock(second: u64, text: &mut [u8]) {
    digits(second / 3_600, &mut text[..2]);
    digits(second / 60 % 60, &mut text[3..5]);
    digits(second % 60, &mut text[6..8]);
}

/// Year, month and day of a day since 1970. Counted from 0000-03-01, so that a leap day is
/// the last of its year, and in eras of 400 years, after which the calendar repeats itself.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on have 153 days in every five.
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let (years, month) = match from_march {
        0..10 => (0, from_march + 3),
        _ => (1, from_march - 9),
    };
    (400 * era + year_of_era + years, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::sync::mpsc::{self, Receiver, Sender};

    #[test]
    fn a_gauge_falls_back_to_zero() {
        let gauge = Gauge::new();
        gauge.up();
        gauge.up();
        gauge.down();
        assert_eq!(gauge.get(), 1);
        gauge.down();
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn a_latency_is_counted_in_the_first_bucket_that_holds_it() {
        for (ns, bucket) in [
            (0, "0.00005"),
            (50_000, "0.00005"),
            (50_001, "0.0001"),
            (999_999, "0.001"),
            (1_000_001, "0.0025"),
            (5_000_000_000, "5"),
            (5_000_000_001, "+Inf"),
        ] {
            let histogram = Histogram::new();
            histogram.observe(Duration::from_nanos(ns));
            let counts = BOUNDS.iter().zip(&histogram.buckets);
            let found: Vec<_> = counts.filter(|(_, count)| count.get() == 1).collect();
            assert!(matches!(found[..], [((_, le), _)] if *le == bucket), "{ns}");
        }
    }

    #[test]
    fn the_bounds_rise_and_their_text_is_their_value() {
        let finite = &BOUNDS[..BOUNDS.len() - 1];
        assert!(BOUNDS.is_sorted_by(|(one, _), (next, _)| one < next));
        for (ns, text) in finite {
            let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
            let nanoseconds: u64 = format!("{whole}{rest:0<9}").parse().unwrap();
            assert_eq!(nanoseconds, *ns, "{text}");
        }
    }

    #[test]
    fn the_parts_of_a_histogram_are_added_up_exactly() {
        let parts = [const { Histogram::new() }; 3];
        parts[0].observe(Duration::from_nanos(1));
        parts[0].observe(Duration::from_micros(80));
        parts[1].observe(Duration::from_millis(2));
        parts[1].observe(Duration::from_secs(7));
        let mut exposition = Exposition::new();
        exposition.family("wait_seconds", Kind::Histogram, "Waits.");
        exposition.histogram(&[("to", "a")], &parts);
        exposition.histogram(&[], &parts[2..]);
        let page = exposition.finish();
        let head = "# HELP wait_seconds Waits.\n# TYPE wait_seconds histogram\n";
        assert!(page.starts_with(head), "{page}");
        for line in [
            "wait_seconds_bucket{to=\"a\",le=\"0.00005\"} 1",
            "wait_seconds_bucket{to=\"a\",le=\"0.0001\"} 2",
            "wait_seconds_bucket{to=\"a\",le=\"0.001\"} 2",
            "wait_seconds_bucket{to=\"a\",le=\"0.0025\"} 3",
            "wait_seconds_bucket{to=\"a\",le=\"5\"} 3",
            "wait_seconds_bucket{to=\"a\",le=\"+Inf\"} 4",
            "wait_seconds_sum{to=\"a\"} 7.002080001",
            "wait_seconds_count{to=\"a\"} 4",
            "wait_seconds_bucket{le=\"+Inf\"} 0",
            "wait_seconds_sum 0.000000000",
            "wait_seconds_count 0",
        ] {
            assert_eq!(page.lines().filter(|found| *found == line).count(), 1, "{line}\n{page}");
        }
        assert_eq!(page.lines().count(), 2 + 2 * (BOUNDS.len() + 2));
    }

    #[test]
    fn labels_and_help_are_escaped() {
        let mut exposition = Exposition::new();
        exposition.family("a_total", Kind::Counter, "Says \"\\\" and\nmore.");
        exposition.sample(&[("x", "q\"b\\n\né"), ("y", "")], u64::MAX);
        exposition.family("b", Kind::Gauge, "Now.");
        exposition.sample(&[], 0);
        let page = r#"# HELP a_total Says "\\" and\nmore.
# TYPE a_total counter
a_total{x="q\"b\\n\né",y=""} 18446744073709551615
# HELP b Now.
# TYPE b gauge
b 0
"#;
        assert_eq!(exposition.finish(), page);
    }

    #[test]
    fn known_times_have_their_known_dates() {
        for (unix_seconds, http, rfc) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00"),
            (86_399, "Thu, 01 Jan 1970 23:59:59 GMT", "1970-01-01T23:59:59"),
            (68_169_600, "Tue, 29 Feb 1972 00:00:00 GMT", "1972-02-29T00:00:00"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT", "2000-02-29T00:00:00"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT", "2000-03-01T00:00:00"),
            (978_307_199, "Sun, 31 Dec 2000 23:59:59 GMT", "2000-12-31T23:59:59"),
            (1_709_210_096, "Thu, 29 Feb 2024 12:34:56 GMT", "2024-02-29T12:34:56"),
            (2_147_483_648, "Tue, 19 Jan 2038 03:14:08 GMT", "2038-01-19T03:14:08"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT", "2100-02-28T23:59:59"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT", "2100-03-01T00:00:00"),
            (13_574_563_200, "Tue, 29 Feb 2400 00:00:00 GMT", "2400-02-29T00:00:00"),
            (UNIX_SECONDS_MAX, "Fri, 31 Dec 9999 23:59:59 GMT", "9999-12-31T23:59:59"),
            (UNIX_SECONDS_MAX + 1, "Fri, 31 Dec 9999 23:59:59 GMT", "9999-12-31T23:59:59"),
        ] {
            assert_eq!(http_date(unix_seconds), http.as_bytes(), "{unix_seconds}");
            for millis in [0, 7, 999] {
                let mut out = Vec::new();
                rfc3339(unix_seconds * 1_000 + millis, &mut out);
                assert_eq!(out, format!("{rfc}.{millis:03}Z").as_bytes(), "{unix_seconds}");
            }
        }
        assert_eq!(http_date(u64::MAX), http_date(UNIX_SECONDS_MAX));
    }

    #[test]
    fn every_day_follows_the_day_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..=UNIX_SECONDS_MAX / 86_400 {
            assert_eq!(civil_from_days(days), (year, month, day), "{days}");
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let month_days = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            (year, month, day) = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                _ if day == month_days => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
        assert_eq!((year, month, day), (10_000, 1, 1));
    }

    const LINE: Line<'_> = Line {
        unix_millis: 1_709_210_096_789,
        peer: "[::1]:40000",
        method: b"GET",
        path: b"/",
        status: 200,
        bytes: 51,
        elapsed: Duration::from_nanos(1_234_999),
        user_agent: None,
    };

    fn written(line: &Line<'_>, format: LogFormat) -> String {
        let mut out = Vec::new();
        line.write(format, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_has_its_fields_in_order() {
        let long = "a".repeat(FIELD_BYTES_MAX + 1);
        let (fits, cut) = (&long[1..], format!("{}...", &long[1..]));
        let unread = Line { peer: "-", method: b"", path: b"", status: 400, bytes: 0, ..LINE };
        let odd = Line {
            path: b"/a b?\"\\\r\n\xc3\xa9\x7f",
            bytes: u64::MAX,
            elapsed: Duration::from_secs(3),
            user_agent: Some(b"a \"b\"\t\0~"),
            ..LINE
        };
        let large = Line { path: long.as_bytes(), user_agent: Some(fits.as_bytes()), ..LINE };
        for (line, text, json) in [
            (
                LINE,
                r"[::1]:40000 GET / 200 51 1.234 -",
                r#""peer": "[::1]:40000", "method": "GET", "path": "/", "status": 200, "bytes": 51, "milliseconds": 1.234, "user_agent": null"#,
            ),
            (
                Line { elapsed: Duration::from_micros(5), user_agent: Some(b""), ..unread },
                r#"- - - 400 0 0.005 """#,
                r#""peer": "-", "method": "", "path": "", "status": 400, "bytes": 0, "milliseconds": 0.005, "user_agent": """#,
            ),
            (
                odd,
                r#"[::1]:40000 GET /a\x20b?\x22\x5c\x0d\x0a\xc3\xa9\x7f 200 18446744073709551615 3000.000 "a \x22b\x22\x09\x00~""#,
                r#""peer": "[::1]:40000", "method": "GET", "path": "/a b?\u0022\u005c\u000d\u000a\u00c3\u00a9\u007f", "status": 200, "bytes": 18446744073709551615, "milliseconds": 3000.000, "user_agent": "a \u0022b\u0022\u0009\u0000~""#,
            ),
            (
                large,
                &format!("[::1]:40000 GET {cut} 200 51 1.234 \"{fits}\""),
                &format!(
                    r#""peer": "[::1]:40000", "method": "GET", "path": "{cut}", "status": 200, "bytes": 51, "milliseconds": 1.234, "user_agent": "{fits}""#
                ),
            ),
        ] {
            let time = "2024-02-29T12:34:56.789Z";
            assert_eq!(written(&line, LogFormat::Text), format!("{time} {text}\n"));
            let json = format!("{{\"time\": \"{time}\", {json}}}\n");
            assert_eq!(written(&line, LogFormat::Json), json);
            assert_eq!(written(&line, LogFormat::Off), "");
        }
    }

    #[test]
    fn no_byte_from_a_peer_forges_a_line_or_a_field() {
        for byte in 0..=u8::MAX {
            let sent = [b'x', byte, b'y'];
            let line = Line { method: &sent, path: &sent, user_agent: Some(&sent), ..LINE };
            for (format, quotes) in [(LogFormat::Text, 2), (LogFormat::Json, 26)] {
                let text = written(&line, format);
                let body = text.strip_suffix('\n').unwrap();
                assert!(body.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{byte}: {body}");
                assert_eq!(body.matches('"').count(), quotes, "{byte}: {body}");
            }
            let text = written(&line, LogFormat::Text);
            let (words, _) = text.split_once('"').unwrap();
            assert_eq!(words.matches(' ').count(), 7, "{byte}: {text}");
        }
    }

    #[test]
    fn an_event_is_one_line() {
        for (format, expected) in [
            (LogFormat::Text, "1970-01-01T00:00:00.000Z error it\\x0afell: \\x22x\\x22\n"),
            (
                LogFormat::Json,
                "{\"time\": \"1970-01-01T00:00:00.000Z\", \"level\": \"error\", \
                 \"message\": \"it\\u000afell: \\u0022x\\u0022\"}\n",
            ),
            (LogFormat::Off, "1970-01-01T00:00:00.000Z error it\\x0afell: \\x22x\\x22\n"),
        ] {
            let mut out = Vec::new();
            event(format, 0, "error", "it\nfell: \"x\"", &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn a_format_is_known_by_its_name_alone() {
        for (name, format) in [
            ("text", Some(LogFormat::Text)),
            ("json", Some(LogFormat::Json)),
            ("off", Some(LogFormat::Off)),
            ("JSON", None),
            ("", None),
        ] {
            assert_eq!(LogFormat::parse(name), format, "{name}");
        }
    }

    /// A sink that tells of every write and waits to hear what shall become of it; once nobody
    /// can tell it any more, it takes all.
    struct Scripted {
        writes: Sender<Vec<u8>>,
        answers: Receiver<io::Result<usize>>,
    }

    impl Write for Scripted {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            self.writes.send(lines.to_vec()).unwrap();
            self.answers.recv().unwrap_or(Ok(lines.len()))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn scripted() -> (Log, Receiver<Vec<u8>>, Sender<io::Result<usize>>) {
        let (writes, told) = mpsc::channel();
        let (tell, answers) = mpsc::channel();
        (Log::start(Scripted { writes, answers }).unwrap(), told, tell)
    }

    /// Only a test that fails waits as long.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_stuck_sink_stalls_nobody_and_costs_the_lines_beyond_the_bound() {
        let (log, told, tell) = scripted();
        let mut lines = b"first\n".to_vec();
        log.hand_over(&mut lines);
        assert_eq!(told.recv().unwrap(), b"first\n");

        // The writer is in `write` now, and stays there.
        let batch = [&[b'x'; 1023][..], b"\n"].concat().repeat(64);
        for handed in 0..BACKLOG_BYTES_MAX / batch.len() + 2 {
            lines.extend_from_slice(&batch);
            let capacity = lines.capacity();
            log.hand_over(&mut lines);
            assert_eq!((lines.len(), lines.capacity()), (0, capacity), "{handed}");
        }
        assert_eq!(log.dropped(), 2 * 64);
        assert!(!log.flush(Duration::from_millis(1)));
        assert!(!log.flush(Duration::ZERO));

        let flushing = thread::spawn({
            let log = log.clone();
            move || log.flush(LONG)
        });
        tell.send(Ok(6)).unwrap();
        drop(tell);
        assert!(flushing.join().unwrap());
        assert_eq!(told.recv().unwrap().len(), BACKLOG_BYTES_MAX);
        assert_eq!(log.dropped(), 2 * 64);
    }

    #[test]
    fn a_flush_of_nothing_returns_at_once() {
        let (log, _told, _tell) = scripted();
        log.hand_over(&mut Vec::new());
        assert!(log.flush(Duration::ZERO));
    }

    #[test]
    fn what_a_sink_does_not_take_is_dropped_and_counted() {
        let batch = "one\ntwo\nthree\n";
        let err = |kind: ErrorKind| Err(kind.into());
        for (answers, writes, dropped) in [
            (vec![Ok(14)], vec![batch], 0),
            (vec![Ok(1), Ok(3), Ok(10)], vec![batch, "ne\ntwo\nthree\n", "two\nthree\n"], 0),
            (vec![err(ErrorKind::BrokenPipe)], vec![batch], 3),
            (vec![Ok(0)], vec![batch], 3),
            (vec![Ok(4), err(ErrorKind::StorageFull)], vec![batch, "two\nthree\n"], 2),
            (vec![Ok(5), err(ErrorKind::StorageFull)], vec![batch, "wo\nthree\n"], 2),
            (vec![Ok(13), err(ErrorKind::BrokenPipe)], vec![batch, "\n"], 1),
            (vec![err(ErrorKind::Interrupted), Ok(14)], vec![batch, batch], 0),
            (vec![err(ErrorKind::WouldBlock), Ok(14)], vec![batch, batch], 0),
        ] {
            let case = format!("{answers:?}");
            let (log, told, tell) = scripted();
            for answer in answers {
                tell.send(answer).unwrap();
            }
            drop(tell);
            log.hand_over(&mut batch.as_bytes().to_vec());
            assert!(log.flush(LONG), "{case}");
            assert!(told.try_iter().eq(writes.iter().map(|write| write.as_bytes())), "{case}");
            assert_eq!(log.dropped(), dropped, "{case}");

            log.hand_over(&mut b"next\n".to_vec());
            assert!(log.flush(LONG), "{case}");
            assert_eq!(told.try_iter().collect::<Vec<_>>(), [b"next\n"], "{case}");
            assert_eq!(log.dropped(), dropped, "{case}");
        }
    }

    #[test]
    fn a_pipe_that_nobody_reads_any_more_kills_nobody() {
        let (mut reader, writer) = io::pipe().unwrap();
        let log = Log::start(writer).unwrap();
        log.hand_over(&mut b"read\n".to_vec());
        let mut read = [0; 5];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"read\n");

        // More than the pipe holds: the writer is stuck until the reader goes.
        let lines = vec![b'\n'; 512 << 10];
        log.hand_over(&mut lines.clone());
        assert!(!log.flush(Duration::from_millis(1)));
        drop(reader);
        assert!(log.flush(LONG));
        let dropped = log.dropped();
        assert!(dropped > 0 && dropped <= lines.len() as u64, "{dropped}");
        log.hand_over(&mut b"lost\n".to_vec());
        assert!(log.flush(LONG));
        assert_eq!(log.dropped(), dropped + 1);
    }

    #[test]
    fn lines_of_many_threads_arrive_whole_and_each_threads_in_order() {
        let (log, told, tell) = scripted();
        drop(tell);
        thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let log = &log;
                scope.spawn(move || {
                    let mut lines = Vec::new();
                    for number in 0..2_000 {
                        writeln!(lines, "{name} {number}").unwrap();
                        log.hand_over(&mut lines);
                        if number % 100 == 0 {
                            assert!(log.flush(LONG));
                        }
                    }
                });
            }
        });
        assert!(log.flush(LONG));
        let written = String::from_utf8(told.try_iter().flatten().collect()).unwrap();
        for name in ["a", "b", "c", "d"] {
            let of_one = written.lines().filter_map(|line| line.strip_prefix(name));
            let expected = (0..2_000).map(|number| format!(" {number}"));
            assert!(of_one.eq(expected), "{name}");
        }
        assert_eq!((written.lines().count(), log.dropped()), (8_000, 0));
    }

    #[test]
    fn an_idle_log_keeps_no_large_buffer() {
        let (log, told, tell) = scripted();
        let large = vec![b'\n'; 100_000];
        log.hand_over(&mut large.clone());
        told.recv().unwrap();
        // One buffer is being written and the other fills: now there are two large ones.
        log.hand_over(&mut large.clone());
        drop(tell);
        assert!(log.flush(LONG));
        // The writer settles and falls asleep without letting go of the lock in between.
        let backlog = log.0.lock();
        assert!(backlog.writer_asleep && backlog.lines.capacity() <= IDLE_BYTES_MAX);
    }
}

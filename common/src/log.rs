//! The log: access-log lines and event lines, and the thread that writes them, so that no request
//! waits for stdout. Clocks are left to the callers.

use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::{Arc, Barrier, Condvar, LockResult, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::date::rfc3339;
use crate::decimal;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Fields with spaces between them.
    Text,
    /// An object a line.
    Json,
    /// No request is logged.
    Off,
}

impl LogFormat {
    /// Parses the value of `LOG_FORMAT`.
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
pub struct AccessLogLine<'a> {
    /// When the response was made, in milliseconds since 1970.
    pub unix_millis: u64,
    /// The client's address, or `-`.
    pub peer: &'a str,
    /// As received; empty if it could not be read.
    pub method: &'a [u8],
    /// As received; empty if it could not be read.
    pub path: &'a [u8],
    /// The status of the response.
    pub status: u16,
    /// The length of the body as sent.
    pub bytes: u64,
    /// From the arrival of the request to the response being made; sending it is not included.
    pub elapsed: Duration,
    /// As received; `None` if there was no such field.
    pub user_agent: Option<&'a [u8]>,
    /// The reason word of an error response.
    pub reason: Option<&'a str>,
}

impl AccessLogLine<'_> {
    /// Appends the line. Its only line feed is its last byte.
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
        decimal::write(u64::from(self.status), out);
        out.push(b' ');
        decimal::write(self.bytes, out);
        out.push(b' ');
        milliseconds(self.elapsed, out);
        if let Some(user_agent) = self.user_agent {
            out.extend_from_slice(b" \"");
            escape_start(user_agent, QUOTED, out);
            out.push(b'"');
        } else {
            out.extend_from_slice(b" -");
        }
        if let Some(reason) = self.reason {
            out.push(b' ');
            out.extend_from_slice(reason.as_bytes());
        }
        out.push(b'\n');
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
        decimal::write(u64::from(self.status), out);
        out.extend_from_slice(b", \"bytes\": ");
        decimal::write(self.bytes, out);
        out.extend_from_slice(b", \"milliseconds\": ");
        milliseconds(self.elapsed, out);
        if let Some(user_agent) = self.user_agent {
            out.extend_from_slice(b", \"user_agent\": \"");
            escape_start(user_agent, JSON, out);
            out.push(b'"');
        } else {
            out.extend_from_slice(b", \"user_agent\": null");
        }
        if let Some(reason) = self.reason {
            out.extend_from_slice(b", \"reason\": \"");
            out.extend_from_slice(reason.as_bytes());
            out.push(b'"');
        }
        out.extend_from_slice(b"}\n");
    }
}

/// Appends a line about the service. `LogFormat::Off` is for requests; such a line is text then.
pub fn write_event(
    format: LogFormat,
    unix_millis: u64,
    level: &str,
    message: &str,
    out: &mut Vec<u8>,
) {
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

/// A handle of the thread that writes log lines.
#[derive(Clone, Debug)]
pub struct LogWriter(Arc<LogQueue>);

impl LogWriter {
    /// Starts the thread, which lives as long as the process. The sink must not buffer: a file,
    /// not a `BufWriter`.
    pub fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let log = Self(Arc::default());
        let queue = Arc::clone(&log.0);
        let running = Arc::new(Barrier::new(2));
        let is_running = Arc::clone(&running);
        thread::Builder::new().name("log".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            is_running.wait();
            queue.serve(sink);
        })?;
        // So that a measurement of the memory that is left includes what the thread took.
        running.wait();
        Ok(log)
    }

    /// Moves whole lines to the queue and leaves `lines` empty. If the queue is full, they are
    /// dropped and counted.
    pub fn append(&self, lines: &mut Vec<u8>) {
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
        let asleep = mem::take(&mut backlog.is_writer_asleep);
        drop(backlog);
        if asleep {
            self.0.work.notify_one();
        }
    }

    /// Waits until all queued lines are written or dropped; returns false if that takes longer than
    /// `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        let mut backlog = self.0.lock();
        let wanted = backlog.accepted_bytes;
        backlog.flushes += 1;
        self.0.work.notify_one();
        let outcome =
            self.0.settled.wait_timeout_while(backlog, timeout, |now| now.settled_bytes < wanted);
        let (mut backlog, _) = unpoisoned(outcome);
        backlog.flushes -= 1;
        backlog.settled_bytes >= wanted
    }

    /// Lines that were not written, or not to their end.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped_lines
    }
}

/// Ten thousand lines. To fill it within `GATHER` takes 200 MB a second, more than a pipe carries:
/// a full queue means that stdout is stuck. As much again is being written.
const BACKLOG_BYTES_MAX: usize = 1 << 20;

/// Memory of each buffer that an idle process keeps, so that it need not allocate for each line.
const IDLE_BYTES_MAX: usize = 8 << 10;

/// Lines gather this long before they are written: at most two hundred writes a second. Without
/// this, a logged request costs 6 % more CPU, a pipelined one 13 %.
const GATHER: Duration = Duration::from_millis(5);

/// The thread calls `write` and little else.
const STACK_BYTES: usize = 64 << 10;

/// Lines on their way to the thread. The lock is never held during a write.
#[derive(Debug, Default)]
struct LogQueue {
    backlog: Mutex<Backlog>,
    /// Wakes the thread: there are lines, or a flush waits.
    work: Condvar,
    /// Wakes flushes.
    settled: Condvar,
}

#[derive(Debug, Default)]
struct Backlog {
    lines: Vec<u8>,
    accepted_bytes: u64,
    /// Written or dropped, always a whole batch.
    settled_bytes: u64,
    dropped_lines: u64,
    flushes: usize,
    is_writer_asleep: bool,
}

impl LogQueue {
    fn lock(&self) -> MutexGuard<'_, Backlog> {
        unpoisoned(self.backlog.lock())
    }

    fn serve(&self, mut sink: impl Write) {
        let mut batch = Vec::new();
        let mut backlog = self.lock();
        loop {
            if backlog.lines.is_empty() {
                free_if_large(&mut batch);
                free_if_large(&mut backlog.lines);
                backlog.is_writer_asleep = true;
                let woken = self.work.wait_while(backlog, |now| now.lines.is_empty());
                backlog = unpoisoned(woken);
            }
            let gathered = self.work.wait_timeout_while(backlog, GATHER, |now| now.flushes == 0);
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

/// Writes until an error; returns the bytes that are left, perhaps from the middle of a line.
fn write_lines<'a>(sink: &mut impl Write, mut lines: &'a [u8]) -> &'a [u8] {
    while !lines.is_empty() {
        match sink.write(lines) {
            Ok(0) => break,
            Ok(written) => lines = &lines[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Stdout is shared: another process may have made it non-blocking for all.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(GATHER),
            Err(_) => break,
        }
    }
    lines
}

fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

fn free_if_large(buffer: &mut Vec<u8>) {
    if buffer.capacity() > IDLE_BYTES_MAX {
        *buffer = Vec::new();
    }
}

/// No holder of the lock panics, so that poison never means a broken backlog.
fn unpoisoned<T>(locked: LockResult<T>) -> T {
    locked.unwrap_or_else(PoisonError::into_inner)
}

/// The bytes that need no escape are those from `first` to `~` without quote and backslash. An
/// escape is `mark` and two hexadecimal digits.
#[derive(Clone, Copy)]
struct Alphabet {
    first: u8,
    mark: &'static [u8],
}

const WORD: Alphabet = Alphabet { first: b'!', mark: b"\\x" };

const QUOTED: Alphabet = Alphabet { first: b' ', mark: b"\\x" };

const JSON: Alphabet = Alphabet { first: b' ', mark: b"\\u00" };

/// More than a usual path or browser name, and a line stays below 5 KB with all escaped.
const FIELD_BYTES_MAX: usize = 256;

/// The part of a field that a log line needs.
pub fn loggable(bytes: &[u8]) -> &[u8] {
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

fn milliseconds(elapsed: Duration, out: &mut Vec<u8>) {
    let whole = elapsed.as_secs().saturating_mul(1_000);
    let millis = u64::from(elapsed.subsec_millis());
    decimal::write(whole.saturating_add(millis), out);
    let mut fraction = *b".000";
    decimal::fill(u64::from(elapsed.subsec_micros()), &mut fraction[1..]);
    out.extend_from_slice(&fraction);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::sync::mpsc::{self, Receiver, Sender};

    const LINE: AccessLogLine<'_> = AccessLogLine {
        unix_millis: 1_709_210_096_789,
        peer: "[::1]:40000",
        method: b"GET",
        path: b"/",
        status: 200,
        bytes: 51,
        elapsed: Duration::from_nanos(1_234_999),
        user_agent: None,
        reason: None,
    };

    fn written(line: &AccessLogLine<'_>, format: LogFormat) -> String {
        let mut out = Vec::new();
        line.write(format, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn writes_the_fields_of_a_line_in_order() {
        let long = "a".repeat(FIELD_BYTES_MAX + 1);
        let (fits, cut) = (&long[1..], format!("{}...", &long[1..]));
        let unread =
            AccessLogLine { peer: "-", method: b"", path: b"", status: 400, bytes: 0, ..LINE };
        let odd = AccessLogLine {
            path: b"/a b?\"\\\r\n\xc3\xa9\x7f",
            bytes: u64::MAX,
            elapsed: Duration::from_secs(3),
            user_agent: Some(b"a \"b\"\t\0~"),
            ..LINE
        };
        let large =
            AccessLogLine { path: long.as_bytes(), user_agent: Some(fits.as_bytes()), ..LINE };
        for (line, text, json) in [
            (
                LINE,
                r"[::1]:40000 GET / 200 51 1.234 -",
                r#""peer": "[::1]:40000", "method": "GET", "path": "/", "status": 200, "bytes": 51, "milliseconds": 1.234, "user_agent": null"#,
            ),
            (
                AccessLogLine { status: 502, reason: Some("REFUSED"), ..LINE },
                r"[::1]:40000 GET / 502 51 1.234 - REFUSED",
                r#""peer": "[::1]:40000", "method": "GET", "path": "/", "status": 502, "bytes": 51, "milliseconds": 1.234, "user_agent": null, "reason": "REFUSED""#,
            ),
            (
                AccessLogLine {
                    elapsed: Duration::from_micros(5),
                    user_agent: Some(b""),
                    ..unread
                },
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
    fn escapes_bytes_that_would_forge_a_line_or_a_field() {
        for byte in 0..=u8::MAX {
            let sent = [b'x', byte, b'y'];
            let line =
                AccessLogLine { method: &sent, path: &sent, user_agent: Some(&sent), ..LINE };
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
    fn writes_an_event_as_one_line() {
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
            write_event(format, 0, "error", "it\nfell: \"x\"", &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn parses_formats() {
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

    /// A sink that reports each write and waits for its result. Once the sender of results is
    /// dropped, it takes all.
    struct ScriptedSink {
        writes: Sender<Vec<u8>>,
        results: Receiver<io::Result<usize>>,
    }

    impl Write for ScriptedSink {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            self.writes.send(lines.to_vec()).unwrap();
            self.results.recv().unwrap_or(Ok(lines.len()))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn scripted() -> (LogWriter, Receiver<Vec<u8>>, Sender<io::Result<usize>>) {
        let (writes, seen) = mpsc::channel();
        let (results_in, results) = mpsc::channel();
        (LogWriter::start(ScriptedSink { writes, results }).unwrap(), seen, results_in)
    }

    /// Only a failing test waits as long.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_stuck_sink_stalls_no_caller_and_drops_the_lines_beyond_the_limit() {
        let (log, writes, results) = scripted();
        let mut lines = b"first\n".to_vec();
        log.append(&mut lines);
        assert_eq!(writes.recv().unwrap(), b"first\n");

        // The writer is in `write` now, and stays there.
        let batch = [&[b'x'; 1023][..], b"\n"].concat().repeat(64);
        for round in 0..BACKLOG_BYTES_MAX / batch.len() + 2 {
            lines.extend_from_slice(&batch);
            let capacity = lines.capacity();
            log.append(&mut lines);
            assert_eq!((lines.len(), lines.capacity()), (0, capacity), "{round}");
        }
        assert_eq!(log.dropped(), 2 * 64);
        assert!(!log.flush(Duration::from_millis(1)));
        assert!(!log.flush(Duration::ZERO));

        let flushing = thread::spawn({
            let log = log.clone();
            move || log.flush(LONG)
        });
        results.send(Ok(6)).unwrap();
        drop(results);
        assert!(flushing.join().unwrap());
        assert_eq!(writes.recv().unwrap().len(), BACKLOG_BYTES_MAX);
        assert_eq!(log.dropped(), 2 * 64);
    }

    #[test]
    fn a_flush_of_nothing_returns_at_once() {
        let (log, _writes, _results) = scripted();
        log.append(&mut Vec::new());
        assert!(log.flush(Duration::ZERO));
    }

    #[test]
    fn counts_the_lines_that_a_sink_does_not_take() {
        let batch = "one\ntwo\nthree\n";
        let err = |kind: ErrorKind| Err(kind.into());
        for (script, expected, dropped) in [
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
            let case = format!("{script:?}");
            let (log, writes, results) = scripted();
            for result in script {
                results.send(result).unwrap();
            }
            drop(results);
            log.append(&mut batch.as_bytes().to_vec());
            assert!(log.flush(LONG), "{case}");
            assert!(writes.try_iter().eq(expected.iter().map(|write| write.as_bytes())), "{case}");
            assert_eq!(log.dropped(), dropped, "{case}");

            log.append(&mut b"next\n".to_vec());
            assert!(log.flush(LONG), "{case}");
            assert_eq!(writes.try_iter().collect::<Vec<_>>(), [b"next\n"], "{case}");
            assert_eq!(log.dropped(), dropped, "{case}");
        }
    }

    #[test]
    fn survives_a_pipe_without_a_reader() {
        let (mut reader, writer) = io::pipe().unwrap();
        let log = LogWriter::start(writer).unwrap();
        log.append(&mut b"read\n".to_vec());
        let mut read = [0; 5];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"read\n");

        // More than the pipe holds: the writer is stuck until the reader goes.
        let lines = vec![b'\n'; 512 << 10];
        log.append(&mut lines.clone());
        assert!(!log.flush(Duration::from_millis(1)));
        drop(reader);
        assert!(log.flush(LONG));
        let dropped = log.dropped();
        assert!(dropped > 0 && dropped <= lines.len() as u64, "{dropped}");
        log.append(&mut b"lost\n".to_vec());
        assert!(log.flush(LONG));
        assert_eq!(log.dropped(), dropped + 1);
    }

    #[test]
    fn writes_lines_of_many_threads_whole_and_in_order() {
        let (log, writes, results) = scripted();
        drop(results);
        thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let log = &log;
                scope.spawn(move || {
                    let mut lines = Vec::new();
                    for number in 0..2_000 {
                        writeln!(lines, "{name} {number}").unwrap();
                        log.append(&mut lines);
                        if number % 100 == 0 {
                            assert!(log.flush(LONG));
                        }
                    }
                });
            }
        });
        assert!(log.flush(LONG));
        let written = String::from_utf8(writes.try_iter().flatten().collect()).unwrap();
        for name in ["a", "b", "c", "d"] {
            let of_one = written.lines().filter_map(|line| line.strip_prefix(name));
            let expected = (0..2_000).map(|number| format!(" {number}"));
            assert!(of_one.eq(expected), "{name}");
        }
        assert_eq!((written.lines().count(), log.dropped()), (8_000, 0));
    }

    #[test]
    fn an_idle_log_keeps_no_large_buffer() {
        let (log, writes, results) = scripted();
        let large = vec![b'\n'; 100_000];
        log.append(&mut large.clone());
        writes.recv().unwrap();
        // One buffer is being written and the other fills: now there are two large ones.
        log.append(&mut large.clone());
        drop(results);
        assert!(log.flush(LONG));
        // The writer settles and sleeps without releasing the lock in between.
        let backlog = log.0.lock();
        assert!(backlog.is_writer_asleep && backlog.lines.capacity() <= IDLE_BYTES_MAX);
    }
}

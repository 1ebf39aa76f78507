//! The log: access-log lines and event lines, and the thread that writes them, so that no request
//! waits for stdout.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::rc::Rc;
use std::sync::{Arc, Barrier, Condvar, LockResult, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// The parts of a request that are logged.
#[derive(Clone, Debug)]
pub struct LoggedRequest<'a> {
    /// The client's address, if it is known.
    pub peer: Option<Rc<str>>,
    /// As received; empty if it could not be read.
    pub method: Cow<'a, [u8]>,
    /// As received; empty if it could not be read.
    pub path: Cow<'a, [u8]>,
    /// As received; `None` if there was no such field.
    pub user_agent: Option<Cow<'a, [u8]>>,
}

impl LoggedRequest<'_> {
    /// Copies as much as a line shows.
    pub fn into_owned(self) -> LoggedRequest<'static> {
        let owned = |bytes: Cow<'_, [u8]>| {
            Cow::Owned(bytes.get(..=FIELD_BYTES_MAX).unwrap_or(&bytes).to_vec())
        };
        LoggedRequest {
            peer: self.peer,
            method: owned(self.method),
            path: owned(self.path),
            user_agent: self.user_agent.map(owned),
        }
    }
}

/// One request in the access log.
#[derive(Clone, Copy, Debug)]
pub struct AccessLogLine<'a> {
    /// The request.
    pub request: &'a LoggedRequest<'a>,
    /// The status of the response.
    pub status: u16,
    /// The length of the body as sent.
    pub bytes: u64,
    /// From the arrival of the request to the response being made; sending it is not included.
    pub elapsed: Duration,
    /// The reason word of an error response.
    pub reason: Option<&'a str>,
}

impl AccessLogLine<'_> {
    /// Appends the line. Its only line feed is its last byte.
    pub fn write(&self, format: LogFormat, out: &mut Vec<u8>) {
        let mut line = Line::begin(format, out);
        line.plain(", \"peer\": ", self.request.peer.as_deref().unwrap_or("-"));
        line.word(", \"method\": ", &self.request.method);
        line.word(", \"path\": ", &self.request.path);
        decimal::write(u64::from(self.status), line.value(", \"status\": "));
        decimal::write(self.bytes, line.value(", \"bytes\": "));
        milliseconds(self.elapsed, line.value(", \"milliseconds\": "));
        line.value(", \"user_agent\": ");
        match &self.request.user_agent {
            Some(user_agent) => line.quoted(user_agent),
            None => line.out.extend_from_slice(if line.is_json { b"null" } else { b"-" }),
        }
        if let Some(reason) = self.reason {
            line.plain(", \"reason\": ", reason);
        }
        line.end();
    }
}

/// Appends a line about the service. `LogFormat::Off` is for requests; such a line is text then.
pub fn write_event(format: LogFormat, level: &str, message: &str, out: &mut Vec<u8>) {
    let mut line = Line::begin(format, out);
    line.plain(", \"level\": ", level);
    line.value(", \"message\": ");
    line.json_quote();
    line.escape(message.as_bytes(), b' ');
    line.json_quote();
    line.end();
}

/// A line that is being written: an object in JSON, or values with spaces between them.
struct Line<'a> {
    is_json: bool,
    out: &'a mut Vec<u8>,
}

impl Line<'_> {
    fn begin(format: LogFormat, out: &mut Vec<u8>) -> Line<'_> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_json = format == LogFormat::Json;
        if is_json {
            out.extend_from_slice(b"{\"time\": \"");
        }
        rfc3339(now.as_millis() as u64, out);
        let mut line = Line { is_json, out };
        line.json_quote();
        line
    }

    fn json_quote(&mut self) {
        if self.is_json {
            self.out.push(b'"');
        }
    }

    /// Begins a value, which in JSON has this key.
    fn value(&mut self, key: &str) -> &mut Vec<u8> {
        if self.is_json {
            self.out.extend_from_slice(key.as_bytes());
        } else {
            self.out.push(b' ');
        }
        self.out
    }

    /// Appends a value that needs no escape.
    fn plain(&mut self, key: &str, value: &str) {
        self.value(key);
        self.json_quote();
        self.out.extend_from_slice(value.as_bytes());
        self.json_quote();
    }

    /// Appends a value that has no spaces in text.
    fn word(&mut self, key: &str, word: &[u8]) {
        self.value(key);
        match word {
            _ if self.is_json => self.quoted(word),
            // An empty word would shift the values after it.
            b"" => self.out.push(b'-'),
            _ => self.escape_start(word, b'!'),
        }
    }

    fn quoted(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        self.escape_start(bytes, b' ');
        self.out.push(b'"');
    }

    fn escape_start(&mut self, bytes: &[u8], first: u8) {
        match bytes.get(..FIELD_BYTES_MAX) {
            Some(start) if start.len() < bytes.len() => {
                self.escape(start, first);
                self.out.extend_from_slice(b"...");
            }
            _ => self.escape(bytes, first),
        }
    }

    /// Appends bytes. Those that need no escape are from `first` to `~`, without quote and
    /// backslash.
    fn escape(&mut self, bytes: &[u8], first: u8) {
        let plain = |byte: u8| byte >= first && byte <= b'~' && byte != b'"' && byte != b'\\';
        if bytes.iter().all(|byte| plain(*byte)) {
            return self.out.extend_from_slice(bytes);
        }
        let mark: &[u8] = if self.is_json { b"\\u00" } else { b"\\x" };
        let hex = |four: u8| b"0123456789abcdef"[usize::from(four)];
        for byte in bytes {
            if plain(*byte) {
                self.out.push(*byte);
            } else {
                self.out.extend_from_slice(mark);
                self.out.extend_from_slice(&[hex(byte >> 4), hex(byte & 15)]);
            }
        }
    }

    fn end(self) {
        if self.is_json {
            self.out.push(b'}');
        }
        self.out.push(b'\n');
    }
}

/// A handle of the thread that writes log lines.
#[derive(Clone, Debug)]
pub struct LogWriter {
    queue: Arc<LogQueue>,
    /// The format of its lines.
    pub format: LogFormat,
}

impl LogWriter {
    /// Starts the thread, which lives as long as the process. The sink must not buffer: a file,
    /// not a `BufWriter`.
    pub fn start(sink: impl Write + Send + 'static, format: LogFormat) -> io::Result<Self> {
        let log = Self { queue: Arc::default(), format };
        let queue = Arc::clone(&log.queue);
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

    /// Queues a line about the service.
    pub fn write_event(&self, level: &str, message: &str) {
        let mut lines = Vec::new();
        write_event(self.format, level, message, &mut lines);
        self.append(&mut lines);
    }

    /// Moves whole lines to the queue and leaves `lines` empty. If the queue is full, they are
    /// dropped and counted.
    pub fn append(&self, lines: &mut Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        let mut backlog = self.queue.lock();
        if backlog.lines.len() + lines.len() > BACKLOG_BYTES_MAX {
            backlog.dropped_lines += count_lines(lines);
            lines.clear();
            return;
        }
        // If there were lines, the thread is awake.
        let is_asleep = backlog.lines.is_empty();
        backlog.accepted_bytes += lines.len() as u64;
        backlog.lines.append(lines);
        drop(backlog);
        if is_asleep {
            self.queue.changed.notify_all();
        }
    }

    /// Waits until all queued lines are written or dropped; returns false if that takes longer than
    /// `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        let mut backlog = self.queue.lock();
        let wanted = backlog.accepted_bytes;
        backlog.flushes += 1;
        self.queue.changed.notify_all();
        let outcome = self
            .queue
            .changed
            .wait_timeout_while(backlog, timeout, |now| now.settled_bytes < wanted);
        let (mut backlog, _) = unpoisoned(outcome);
        backlog.flushes -= 1;
        backlog.settled_bytes >= wanted
    }

    /// Lines that were not written, or not to their end.
    pub fn dropped(&self) -> u64 {
        self.queue.lock().dropped_lines
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
    /// Wakes the thread if there are lines or a flush waits, and flushes after each write.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Backlog {
    lines: Vec<u8>,
    accepted_bytes: u64,
    /// Written or dropped, always a whole batch.
    settled_bytes: u64,
    dropped_lines: u64,
    flushes: usize,
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
                batch.shrink_to(IDLE_BYTES_MAX);
                backlog.lines.shrink_to(IDLE_BYTES_MAX);
                let woken = self.changed.wait_while(backlog, |now| now.lines.is_empty());
                backlog = unpoisoned(woken);
            }
            let gathered = self.changed.wait_timeout_while(backlog, GATHER, |now| now.flushes == 0);
            (backlog, _) = unpoisoned(gathered);
            mem::swap(&mut batch, &mut backlog.lines);
            drop(backlog);

            let unwritten = write_lines(&mut sink, &batch);

            backlog = self.lock();
            backlog.settled_bytes += batch.len() as u64;
            backlog.dropped_lines += count_lines(unwritten);
            batch.clear();
            self.changed.notify_all();
        }
    }
}

/// Writes until an error; returns the bytes that are left, perhaps from the middle of a line.
fn write_lines<'a>(sink: &mut impl Write, mut lines: &'a [u8]) -> &'a [u8] {
    while !lines.is_empty() {
        match sink.write(lines) {
            Ok(written @ 1..) => lines = &lines[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Stdout is shared: another process may have made it non-blocking for all.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(GATHER),
            _ => break,
        }
    }
    lines
}

fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

/// No holder of the lock panics, so that poison never means a broken backlog.
fn unpoisoned<T>(locked: LockResult<T>) -> T {
    locked.unwrap_or_else(PoisonError::into_inner)
}

/// More than a usual path or browser name, and a line stays below 5 KB with all escaped.
const FIELD_BYTES_MAX: usize = 256;

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

    /// The fields of a `LoggedRequest`, borrowed.
    #[derive(Clone, Copy)]
    struct Sent<'a>(Option<&'a str>, &'a [u8], &'a [u8], Option<&'a [u8]>);

    const PEER: Option<&str> = Some("[::1]:40000");
    const SENT: Sent<'_> = Sent(PEER, b"GET", b"/", None);

    /// The time of each line.
    const TIME: &str = "2024-02-29T12:34:56.789Z";

    /// The line of a response with this status and length.
    fn written(
        Sent(peer, method, path, user_agent): Sent<'_>,
        (status, bytes): (u16, u64),
        elapsed: Duration,
        reason: Option<&str>,
        format: LogFormat,
    ) -> String {
        let request = LoggedRequest {
            peer: peer.map(Rc::from),
            method: method.into(),
            path: path.into(),
            user_agent: user_agent.map(Cow::from),
        };
        let write = |request: &LoggedRequest<'_>| {
            let mut out = Vec::new();
            AccessLogLine { request, status, bytes, elapsed, reason }.write(format, &mut out);
            let start = if format == LogFormat::Json { "{\"time\": \"".len() } else { 0 };
            out[start..start + TIME.len()].copy_from_slice(TIME.as_bytes());
            String::from_utf8(out).unwrap()
        };
        let line = write(&request);
        assert_eq!(write(&request.into_owned()), line);
        line
    }

    #[test]
    fn writes_the_fields_of_a_line_in_order() {
        let long = "a".repeat(FIELD_BYTES_MAX + 1);
        let (fits, cut) = (&long[1..], format!("{}...", &long[1..]));
        let odd = Sent(PEER, b"GET", b"/a b?\"\\\r\n\xc3\xa9\x7f", Some(b"a \"b\"\t\0~"));
        let large = Sent(PEER, b"GET", long.as_bytes(), Some(fits.as_bytes()));
        let short = Duration::from_nanos(1_234_999);
        for (sent, response, elapsed, reason, text, json) in [
            (
                SENT,
                (200, 51),
                short,
                None,
                r"[::1]:40000 GET / 200 51 1.234 -",
                r#""peer": "[::1]:40000", "method": "GET", "path": "/", "status": 200, "bytes": 51, "milliseconds": 1.234, "user_agent": null"#,
            ),
            (
                SENT,
                (502, 51),
                short,
                Some("REFUSED"),
                r"[::1]:40000 GET / 502 51 1.234 - REFUSED",
                r#""peer": "[::1]:40000", "method": "GET", "path": "/", "status": 502, "bytes": 51, "milliseconds": 1.234, "user_agent": null, "reason": "REFUSED""#,
            ),
            (
                Sent(None, b"", b"", Some(b"")),
                (400, 0),
                Duration::from_micros(5),
                None,
                r#"- - - 400 0 0.005 """#,
                r#""peer": "-", "method": "", "path": "", "status": 400, "bytes": 0, "milliseconds": 0.005, "user_agent": """#,
            ),
            (
                odd,
                (200, u64::MAX),
                Duration::from_secs(3),
                None,
                r#"[::1]:40000 GET /a\x20b?\x22\x5c\x0d\x0a\xc3\xa9\x7f 200 18446744073709551615 3000.000 "a \x22b\x22\x09\x00~""#,
                r#""peer": "[::1]:40000", "method": "GET", "path": "/a b?\u0022\u005c\u000d\u000a\u00c3\u00a9\u007f", "status": 200, "bytes": 18446744073709551615, "milliseconds": 3000.000, "user_agent": "a \u0022b\u0022\u0009\u0000~""#,
            ),
            (
                large,
                (200, 51),
                short,
                None,
                &format!("[::1]:40000 GET {cut} 200 51 1.234 \"{fits}\""),
                &format!(
                    r#""peer": "[::1]:40000", "method": "GET", "path": "{cut}", "status": 200, "bytes": 51, "milliseconds": 1.234, "user_agent": "{fits}""#
                ),
            ),
        ] {
            let line = |format| written(sent, response, elapsed, reason, format);
            assert_eq!(line(LogFormat::Text), format!("{TIME} {text}\n"));
            assert_eq!(line(LogFormat::Json), format!("{{\"time\": \"{TIME}\", {json}}}\n"));
        }
    }

    #[test]
    fn escapes_bytes_that_would_forge_a_line_or_a_field() {
        for byte in 0..=u8::MAX {
            let sent = [b'x', byte, b'y'];
            let sent = Sent(PEER, &sent, &sent, Some(&sent));
            let line = |format| written(sent, (200, 51), Duration::ZERO, None, format);
            for (format, quotes) in [(LogFormat::Text, 2), (LogFormat::Json, 26)] {
                let text = line(format);
                let body = text.strip_suffix('\n').unwrap();
                assert!(body.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{byte}: {body}");
                assert_eq!(body.matches('"').count(), quotes, "{byte}: {body}");
            }
            let text = line(LogFormat::Text);
            let (words, _) = text.split_once('"').unwrap();
            assert_eq!(words.matches(' ').count(), 7, "{byte}: {text}");
        }
    }

    #[test]
    fn writes_an_event_as_one_line() {
        for (format, start, expected) in [
            (LogFormat::Text, "", " error it\\x0afell: \\x22x\\x22\n"),
            (
                LogFormat::Json,
                "{\"time\": \"",
                "\", \"level\": \"error\", \"message\": \"it\\u000afell: \\u0022x\\u0022\"}\n",
            ),
            (LogFormat::Off, "", " error it\\x0afell: \\x22x\\x22\n"),
        ] {
            let (log, writes, results) = scripted(format);
            drop(results);
            log.write_event("error", "it\nfell: \"x\"");
            let line = String::from_utf8(writes.recv().unwrap()).unwrap();
            let time = line.strip_prefix(start).and_then(|rest| rest.strip_suffix(expected));
            assert_eq!(time.unwrap_or_else(|| panic!("{line}")).len(), 24, "{line}");
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

    fn scripted(format: LogFormat) -> (LogWriter, Receiver<Vec<u8>>, Sender<io::Result<usize>>) {
        let (writes, seen) = mpsc::channel();
        let (results_in, results) = mpsc::channel();
        (LogWriter::start(ScriptedSink { writes, results }, format).unwrap(), seen, results_in)
    }

    /// Only a failing test waits as long.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_stuck_sink_stalls_no_caller_and_drops_the_lines_beyond_the_limit() {
        let (log, writes, results) = scripted(LogFormat::Text);
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
        let (log, _writes, _results) = scripted(LogFormat::Text);
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
            let (log, writes, results) = scripted(LogFormat::Text);
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
        let log = LogWriter::start(writer, LogFormat::Text).unwrap();
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
        let (log, writes, results) = scripted(LogFormat::Text);
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
        let (log, writes, results) = scripted(LogFormat::Text);
        let large = vec![b'\n'; 100_000];
        log.append(&mut large.clone());
        writes.recv().unwrap();
        // One buffer is being written and the other fills: now there are two large ones.
        log.append(&mut large.clone());
        drop(results);
        assert!(log.flush(LONG));
        // The writer settles and sleeps without releasing the lock in between.
        let backlog = log.queue.lock();
        assert!(backlog.lines.capacity() <= IDLE_BYTES_MAX);
    }
}

//! The output of a service on its way to the log: whole lines, each with the name of the service.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io::Read;
use std::os::unix::net::UnixStream;

use common::log::LogWriter;
use common::rt::{self, AsyncFd};
use tools::colour::Colours;
use tools::lines::Lines;

/// A longer line is split, so that a line without an end cannot fill the memory.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Bytes of one read. That many empty lines with their prefixes fit into the log's queue.
const READ_BYTES_MAX: usize = 16 << 10;

/// Copies the output of a process to the log.
pub(super) struct Output<'a> {
    log: &'a LogWriter,
    socket: AsyncFd<UnixStream>,
    prefixer: LinePrefixer,
    bytes: Vec<u8>,
}

impl Output<'_> {
    pub(super) fn new(
        log: &LogWriter,
        socket: AsyncFd<UnixStream>,
        prefixer: LinePrefixer,
    ) -> Output<'_> {
        Output { log, socket, prefixer, bytes: vec![0; READ_BYTES_MAX] }
    }

    /// Copies until it is dropped.
    pub(super) async fn copy(&mut self) -> Infallible {
        while let Ok(count @ 1..) = poll_fn(|_| self.socket.poll_read(&mut self.bytes)).await {
            self.append(count);
            // A process that always writes must not keep the signals from being read.
            rt::yield_now().await;
        }
        pending().await
    }

    /// Copies the rest after the process has ended.
    pub(super) fn finish(mut self) {
        // Without waiting for readiness: the event loop may not have seen the last bytes yet.
        while let Ok(count @ 1..) = self.socket.get_ref().read(&mut self.bytes) {
            self.append(count);
        }
        self.prefixer.finish();
        self.log.append(&mut self.prefixer.lines);
    }

    fn append(&mut self, count: usize) {
        self.prefixer.receive(&self.bytes[..count]);
        self.log.append(&mut self.prefixer.lines);
    }
}

/// Splits bytes into lines and puts a name before each.
pub(super) struct LinePrefixer {
    pub(super) prefix: String,
    splitter: Lines,
    /// Complete lines with their prefixes.
    lines: Vec<u8>,
}

impl LinePrefixer {
    pub(super) fn new(name: &str, colour: u8, colours: Colours) -> LinePrefixer {
        let prefix = colours.paint(colour, &format!("{name:<12} |")) + " ";
        LinePrefixer { prefix, splitter: Lines::new(LINE_BYTES_MAX), lines: Vec::new() }
    }

    fn receive(&mut self, bytes: &[u8]) {
        let LinePrefixer { prefix, splitter, lines } = self;
        splitter.receive(bytes, |line| append(lines, prefix, line));
    }

    /// Completes the last line if it has no line feed.
    fn finish(&mut self) {
        let LinePrefixer { prefix, splitter, lines } = self;
        splitter.finish(|line| append(lines, prefix, line));
    }
}

fn append(lines: &mut Vec<u8>, prefix: &str, line: &[u8]) {
    lines.extend_from_slice(prefix.as_bytes());
    lines.extend_from_slice(line);
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use tools::colour::{CYAN, GREEN};

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_arrive() {
        let long = "x".repeat(LINE_BYTES_MAX);
        let (whole, split) = (format!("{long}\n"), format!("{long}y\n"));
        let (whole_lines, split_lines) = (
            format!("lab          | {long}\n"),
            format!("lab          | {long}\nlab          | y\n"),
        );
        for (bytes, expected) in [
            (&b""[..], &b""[..]),
            (b"\n", b"lab          | \n"),
            (b"a\n\nb\n", b"lab          | a\nlab          | \nlab          | b\n"),
            (b"no end", b"lab          | no end\n"),
            (b"\xff\0\x1b\r\n", b"lab          | \xff\0\x1b\r\n"),
            (whole.as_bytes(), whole_lines.as_bytes()),
            (split.as_bytes(), split_lines.as_bytes()),
        ] {
            for cut in (0..=bytes.len()).filter(|cut| *cut < 100 || bytes.len() - cut < 100) {
                let mut prefixer = LinePrefixer::new("lab", GREEN, Colours::Off);
                prefixer.receive(&bytes[..cut]);
                prefixer.receive(&bytes[cut..]);
                prefixer.finish();
                assert!(prefixer.lines == expected, "{} bytes, cut at {cut}", bytes.len());
            }
        }
    }

    #[test]
    fn only_the_name_is_coloured() {
        let mut prefixer = LinePrefixer::new("api-backend", CYAN, Colours::On);
        prefixer.receive(b"a\n");
        assert_eq!(prefixer.lines, b"\x1b[36mapi-backend  |\x1b[0m a\n");
    }
}

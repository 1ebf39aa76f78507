//! A client that speaks bytes, for the tests over real sockets.
#![allow(dead_code)] // each of them takes what it needs

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Only a test that fails waits as long.
pub(crate) const LONG: Duration = Duration::from_secs(10);

/// A request as plain as it can be.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// The same without its end: the head goes on with a field that is so long as yet.
pub(crate) fn unended(path: &str, filler_bytes: usize) -> String {
    get(path).replace("\r\n\r\n", "\r\nFiller: ") + &"x".repeat(filler_bytes)
}

pub(crate) struct Client {
    pub(crate) reader: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Heard {
    /// Whether it announces the end of the connection.
    pub(crate) fn closes(&self) -> bool {
        self.head.contains("\r\nConnection: close\r\n")
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { reader: BufReader::new(stream) }
    }

    pub(crate) fn stream(&self) -> TcpStream {
        self.reader.get_ref().try_clone().unwrap()
    }

    pub(crate) fn say(&self, bytes: impl AsRef<[u8]>) {
        self.reader.get_ref().write_all(bytes.as_ref()).unwrap();
    }

    /// Sends from a thread of its own: more than a client that does not read meanwhile can.
    pub(crate) fn say_aside(&self, bytes: String) -> JoinHandle<io::Result<()>> {
        let mut stream = self.stream();
        thread::spawn(move || stream.write_all(bytes.as_bytes()))
    }

    pub(crate) fn ask(&mut self, path: &str) -> Heard {
        self.say(get(path));
        self.answer()
    }

    /// A head alone, blank line included.
    pub(crate) fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.reader.read_line(&mut head).unwrap(), 0, "the end came after {head:?}");
        }
        head
    }

    pub(crate) fn answer(&mut self) -> Heard {
        let head = self.head();
        let field = |name| head.lines().find_map(|line| line.strip_prefix(name));
        let status = field("HTTP/1.1 ").and_then(|line| line[..3].parse().ok()).unwrap();
        let mut body = vec![0; field("Content-Length: ").map_or(0, |size| size.parse().unwrap())];
        self.reader.read_exact(&mut body).unwrap();
        Heard { status, body: String::from_utf8(body).unwrap(), head }
    }

    /// Everything up to the end of the connection, which is no reset.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.reader.read_to_string(&mut rest).unwrap();
        rest
    }

    /// Whether nothing has come that was not read.
    pub(crate) fn is_silent(&self) -> bool {
        let stream = self.reader.get_ref();
        stream.set_nonblocking(true).unwrap();
        let peeked = stream.peek(&mut [0]).map_err(|error| error.kind());
        stream.set_nonblocking(false).unwrap();
        self.reader.buffer().is_empty() && peeked == Err(ErrorKind::WouldBlock)
    }
}

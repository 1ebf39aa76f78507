//! A client that sends raw bytes over a real socket.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};

use crate::WAIT_MAX;

/// The plainest request for a path.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// A request whose head does not end: its last field is this long so far.
pub fn unfinished(path: &str, field_bytes: usize) -> String {
    get(path).replace("\r\n\r\n", "\r\nFiller: ") + &"x".repeat(field_bytes)
}

/// The response to a GET on a connection of its own. An error if not a byte of it came.
pub fn get_once(address: SocketAddr, path: &str) -> io::Result<Response> {
    let stream = TcpStream::connect_timeout(&address, WAIT_MAX)?;
    let mut client = Client::new(stream);
    let request = get(path).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    client.reader.get_ref().write_all(request.as_bytes())?;
    if client.reader.fill_buf()?.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let response = client.response();
    assert_eq!(client.read_to_end(), "", "after {response:?}");
    Ok(response)
}

pub struct Client {
    pub reader: BufReader<TcpStream>,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// With the blank line.
    pub head: String,
    pub body: String,
}

impl Response {
    /// Returns true if it announces that the server closes the connection.
    pub fn is_last(&self) -> bool {
        self.head.contains("\r\nConnection: close\r\n")
    }

    /// The body of a 200.
    pub fn ok_body(self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.body
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::new(TcpStream::connect(address).unwrap())
    }

    fn new(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
        stream.set_write_timeout(Some(WAIT_MAX)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { reader: BufReader::new(stream) }
    }

    pub fn stream(&self) -> TcpStream {
        self.reader.get_ref().try_clone().unwrap()
    }

    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        self.reader.get_ref().write_all(bytes.as_ref()).unwrap();
    }

    /// Sends from a thread of its own: more than a client can that does not read meanwhile.
    pub fn send_in_background(&self, bytes: String) -> JoinHandle<io::Result<()>> {
        let mut stream = self.stream();
        thread::spawn(move || stream.write_all(bytes.as_bytes()))
    }

    /// The response to a GET.
    pub fn request(&mut self, path: &str) -> Response {
        self.send(get(path));
        self.response()
    }

    /// A head alone, with its blank line.
    pub fn response_head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.reader.read_line(&mut head).unwrap(), 0, "closed after {head:?}");
        }
        head
    }

    pub fn response(&mut self) -> Response {
        let head = self.response_head();
        let field = |name| head.lines().find_map(|line| line.strip_prefix(name));
        let status = field("HTTP/1.1 ").and_then(|line| line[..3].parse().ok()).unwrap();
        let mut body = vec![0; field("Content-Length: ").map_or(0, |size| size.parse().unwrap())];
        self.reader.read_exact(&mut body).unwrap();
        Response { status, body: String::from_utf8(body).unwrap(), head }
    }

    /// Everything until the server closes the connection. A reset is no such end.
    pub fn read_to_end(&mut self) -> String {
        let mut rest = String::new();
        self.reader.read_to_string(&mut rest).unwrap();
        rest
    }

    /// Returns true if nothing has arrived that was not read.
    pub fn is_silent(&self) -> bool {
        let stream = self.reader.get_ref();
        stream.set_nonblocking(true).unwrap();
        let peeked = stream.peek(&mut [0]).map_err(|error| error.kind());
        stream.set_nonblocking(false).unwrap();
        self.reader.buffer().is_empty() && peeked == Err(ErrorKind::WouldBlock)
    }
}

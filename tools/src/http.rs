//! GET requests over one connection, for tools that run on the event loop of `common::rt`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use common::client;
use common::http::client::{ClientConn, ResponseError};
use common::http::{KeepAlive, Limits};
use common::rt::{AsyncFd, Direction};

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    socket: AsyncFd<TcpStream>,
    conn: ClientConn,
}

/// A complete response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status, 200 to 599.
    pub status: u16,
    /// The value of `Content-Type`; empty if there is none.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GetError {
    /// The server closed or reset the connection before it sent a byte.
    Closed,
    /// The bytes are not a complete HTTP response.
    Malformed(ResponseError),
}

impl From<GetError> for io::Error {
    fn from(error: GetError) -> io::Error {
        match error {
            GetError::Closed => io::ErrorKind::UnexpectedEof.into(),
            GetError::Malformed(error) => io::Error::other(error.to_string()),
        }
    }
}

impl Connection {
    /// Connects to a server.
    pub async fn open(
        address: SocketAddr,
        deadline: Instant,
        limits: Limits,
    ) -> io::Result<Connection> {
        let (socket, address) = client::connect(&[address], deadline, |_| {}).await?;
        Ok(Connection { address, socket, conn: ClientConn::new(limits) })
    }

    /// Sends a GET and waits for its response, without a limit of time.
    pub async fn get(&mut self, path: &str, keep_alive: KeepAlive) -> Result<Response, GetError> {
        let connection = match keep_alive {
            KeepAlive::Keep => "",
            KeepAlive::Close => "Connection: close\r\n",
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: lab\r\n{connection}\r\n",
            self.address
        );
        self.conn.request(request.as_bytes());
        let mut has_received = false;
        loop {
            match self.conn.response() {
                Ok(Some(response)) => {
                    let content_type = response.fields.get("Content-Type").unwrap_or_default();
                    return Ok(Response {
                        status: response.status,
                        content_type: String::from_utf8_lossy(content_type).into_owned(),
                        body: response.body.to_vec(),
                    });
                }
                Ok(None) => {}
                Err(_) if !has_received => return Err(GetError::Closed),
                Err(error) => return Err(GetError::Malformed(error)),
            }
            match self.exchange().await {
                Ok(1..) => has_received = true,
                // A reset and an orderly close end a response alike.
                Ok(0) | Err(_) => self.conn.close(),
            }
        }
    }

    /// Sends the outgoing bytes, then receives once. Returns how many bytes were received.
    async fn exchange(&mut self) -> io::Result<usize> {
        while !self.conn.outgoing().is_empty() {
            let outgoing = self.conn.outgoing();
            let sent = self.socket.io(Direction::Out, |mut socket| socket.write(outgoing)).await?;
            self.conn.sent(sent);
        }
        let mut bytes = vec![0; 4096];
        let count = self.socket.io(Direction::In, |mut socket| socket.read(&mut bytes)).await?;
        self.conn.receive(&bytes[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use common::rt::{self, Shutdown};

    const LIMITS: Limits = Limits { head_bytes_max: 1 << 10, body_bytes_max: 1 << 10 };

    #[test]
    fn a_get_returns_a_response_or_the_reason_for_none() {
        let response = |status, content_type: &str, body: &[u8]| {
            Ok(Response { status, content_type: content_type.to_owned(), body: body.to_vec() })
        };
        let cases: [(&[u8], _); 5] = [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", response(200, "", b"hi")),
            (b"HTTP/1.0 404 No\r\ncontent-TYPE:\ta/b; c \r\n\r\nx", response(404, "a/b; c", b"x")),
            (b"", Err(GetError::Closed)),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi",
                Err(GetError::Malformed(ResponseError::Incomplete)),
            ),
            (
                b"HTTP/1.0 200 OK\r\n\r\nContent-Type: a\r\n",
                response(200, "", b"Content-Type: a\r\n"),
            ),
        ];
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = thread::spawn({
            let responses = cases.clone().map(|(bytes, _)| bytes);
            move || {
                for bytes in responses {
                    let (mut stream, _) = listener.accept().expect("a connection");
                    let mut request = [0; 1024];
                    let count = stream.read(&mut request).expect("a request");
                    assert!(request[..count].starts_with(b"GET /a HTTP/1.1\r\nHost: 127.0.0.1:"));
                    stream.write_all(bytes).expect("sent");
                }
            }
        });
        let get = async {
            for (bytes, expected) in cases {
                let deadline = rt::now() + Duration::from_secs(10);
                let mut connection =
                    Connection::open(address, deadline, LIMITS).await.expect("it listens");
                let found = connection.get("/a", KeepAlive::Keep).await;
                assert_eq!(found, expected, "{}", bytes.escape_ascii());
            }
        };
        rt::run(&Shutdown::default(), get).expect("an event loop");
        server.join().expect("no panic");
    }
}

//! A fake backend that sends the raw bytes that its test says.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::ports::stop_listening;

/// Serves each connection on a thread of its own. Dropping it closes them all.
pub struct Backend {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<TcpListener>>,
}

#[derive(Default)]
struct Shared {
    is_ended: AtomicBool,
    accepted: AtomicUsize,
    /// Open connections, by their number.
    streams: Mutex<HashMap<usize, TcpStream>>,
}

impl Backend {
    /// `serve` gets each connection.
    pub fn start(serve: impl Fn(&mut Connection) + Send + Sync + 'static) -> Backend {
        Backend::listen((Ipv4Addr::LOCALHOST, 0).into(), serve)
    }

    pub fn listen(
        address: SocketAddr,
        serve: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> Backend {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (shared, serve) = (Arc::<Shared>::default(), Arc::new(serve));
        let known = Arc::clone(&shared);
        let acceptor = thread::spawn(move || {
            for stream in listener.incoming().map(Result::unwrap) {
                if known.is_ended.load(Ordering::Relaxed) {
                    break;
                }
                stream.set_nodelay(true).unwrap();
                let number = known.accepted.fetch_add(1, Ordering::Relaxed);
                let clone = stream.try_clone().unwrap();
                known.streams.lock().unwrap().insert(number, clone);
                let (serve, known) = (Arc::clone(&serve), Arc::clone(&known));
                thread::spawn(move || {
                    let reader = BufReader::new(stream);
                    let mut connection = Connection { reader, head: String::new() };
                    serve(&mut connection);
                    connection.close();
                    known.streams.lock().unwrap().remove(&number);
                });
            }
            listener
        });
        Backend { address, shared, acceptor: Some(acceptor) }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.is_ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(Ok(listener)) = self.acceptor.take().map(JoinHandle::join) {
            stop_listening(listener);
        }
        for stream in self.shared.streams.lock().unwrap().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// How a connection goes on after its test sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Close,
    /// Reads the next request.
    Next,
    /// Stays open and sends nothing more.
    Silence,
    /// Sends these bytes again and again.
    Endless(&'static str),
    /// Sends these bytes again and again, with a pause between.
    Trickle(&'static str),
}

/// A connection from a client.
pub struct Connection {
    pub reader: BufReader<TcpStream>,
    /// The head of the last request.
    pub head: String,
}

impl Connection {
    /// Reads the head of a request. Returns true if there was one.
    pub fn request(&mut self) -> bool {
        self.head.clear();
        while !self.head.ends_with("\r\n\r\n") {
            if !matches!(self.reader.read_line(&mut self.head), Ok(1..)) {
                return false;
            }
        }
        true
    }

    /// Returns true if the bytes could be sent.
    pub fn send(&self, bytes: &str) -> bool {
        self.reader.get_ref().write_all(bytes.as_bytes()).is_ok()
    }

    /// Reads a request and sends these bytes. Returns true if both succeeded.
    pub fn respond(&mut self, bytes: &str) -> bool {
        self.request() && self.send(bytes)
    }

    /// Responds to one request and ends its half of the connection, then reads until the client closes.
    pub fn respond_last(&mut self, bytes: &str) {
        if self.respond(bytes) {
            let _ = self.reader.get_ref().shutdown(Shutdown::Write);
            self.go_on(After::Silence);
        }
    }

    /// Goes on like this until the client closes.
    pub fn go_on(&mut self, after: After) {
        match after {
            After::Next | After::Close => {}
            After::Silence => while matches!(self.reader.read(&mut [0; 1024]), Ok(1..)) {},
            After::Endless(bytes) => {
                let bytes = bytes.repeat(1_000);
                while self.send(&bytes) {}
            }
            After::Trickle(bytes) => {
                while self.send(bytes) {
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
        self.close();
    }

    pub fn close(&self) {
        let _ = self.reader.get_ref().shutdown(Shutdown::Both);
    }
}

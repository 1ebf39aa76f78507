//! A DNS server that answers, refuses or stays silent as its test says, over UDP.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueryType {
    A = 1,
    Aaaa = 28,
}

/// The answer to a query.
#[derive(Clone, Debug)]
pub enum Answer {
    Addresses(Vec<IpAddr>),
    /// An empty answer with this `RCODE`.
    Code(ResponseCode),
    Silence,
    /// The same addresses, after a while.
    Late(Duration, Vec<IpAddr>),
}

/// RFC 1035 4.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseCode {
    /// The name exists, but has no address of this type.
    NoError = 0,
    ServerFailure = 2,
    NameError = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// Ends with the test's process: a thread serves it.
pub struct DnsServer {
    pub address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    answers: HashMap<(String, QueryType), Answer>,
    queries: Vec<(String, u16)>,
}

impl DnsServer {
    /// Listens on this address; resolvers ask port 53.
    pub fn start(address: impl Into<SocketAddr>) -> DnsServer {
        let socket = UdpSocket::bind(address.into()).unwrap();
        let address = socket.local_addr().unwrap();
        let shared = Arc::<Mutex<Shared>>::default();
        let answering = Arc::clone(&shared);
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((count, client)) = socket.recv_from(&mut query) {
                answer(&socket, &query[..count], client, &answering);
            }
        });
        DnsServer { address, shared }
    }

    /// From now on, queries for this name and type get this answer. A name without any answer does
    /// not exist (`NameError`); one with an answer of the other type alone has no address (`NoError`).
    pub fn set(&self, name: &str, query_type: QueryType, answer: Answer) {
        let key = (name.to_ascii_lowercase(), query_type);
        self.shared.lock().unwrap().answers.insert(key, answer);
    }

    /// Every query so far: its name and type.
    pub fn queries(&self) -> Vec<(String, u16)> {
        self.shared.lock().unwrap().queries.clone()
    }
}

fn answer(socket: &UdpSocket, query: &[u8], client: SocketAddr, shared: &Mutex<Shared>) {
    let Some((name, query_type, question_end)) = question(query) else { return };
    let found = {
        let mut shared = shared.lock().unwrap();
        shared.queries.push((name.clone(), query_type));
        let known = |kind| shared.answers.get(&(name.clone(), kind)).cloned();
        match (known(QueryType::A), known(QueryType::Aaaa)) {
            (Some(answer), _) if query_type == QueryType::A as u16 => answer,
            (_, Some(answer)) if query_type == QueryType::Aaaa as u16 => answer,
            (None, None) => Answer::Code(ResponseCode::NameError),
            _ => Answer::Code(ResponseCode::NoError),
        }
    };
    let respond =
        |code, addresses: &[IpAddr]| response(&query[..question_end], query_type, code, addresses);
    match found {
        Answer::Silence => {}
        Answer::Code(code) => drop(socket.send_to(&respond(code, &[]), client)),
        Answer::Addresses(addresses) => {
            let _ = socket.send_to(&respond(ResponseCode::NoError, &addresses), client);
        }
        Answer::Late(delay, addresses) => {
            let bytes = respond(ResponseCode::NoError, &addresses);
            let socket = socket.try_clone().unwrap();
            thread::spawn(move || {
                thread::sleep(delay);
                let _ = socket.send_to(&bytes, client);
            });
        }
    }
}

/// The name and type of the only question, and where it ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let query_type = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    query.get(at + 3)?;
    Some((labels.join("."), query_type, at + 4))
}

/// RFC 1035 4.1: the header, the question as it came, and a record for each address.
fn response(query: &[u8], query_type: u16, code: ResponseCode, addresses: &[IpAddr]) -> Vec<u8> {
    /// A response, with recursion desired and available.
    const FLAGS: u16 = 0x8180;
    /// A pointer to the name of the question.
    const NAME: u16 = 0xc00c;
    const CLASS_IN: u16 = 1;
    let mut bytes = query[..2].to_vec();
    let count = u16::try_from(addresses.len()).unwrap();
    for number in [FLAGS | code as u16, 1, count, 0, 0] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(&query[12..]);
    for address in addresses {
        let data = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        // The name, the type, the class, a time to live of 0 s (two halves) and the length.
        for number in [NAME, query_type, CLASS_IN, 0, 0, u16::try_from(data.len()).unwrap()] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(data);
    }
    bytes
}

//! Both halves of a connection exchange messages over any cuts and in any order: the client parses
//! what the server wrote, and nothing else. Each byte of the script is one step.
#![no_main]

use std::borrow::Cow;
use std::collections::VecDeque;

use common::http::client::ClientConn;
use common::http::server::{Buffers, ResponseContext, ServerConn, Stage};
use common::http::{KeepAlive, Response, Status};
use libfuzzer_sys::fuzz_target;
use testing::invariants::{LIMITS, common_fields};

/// Requests, the path of each, and whether it keeps the connection.
const REQUESTS: [(&[u8], &[u8], KeepAlive); 8] = [
    (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"/", KeepAlive::Keep),
    (b"GET /a%62?c HTTP/1.1\r\nHost: h\r\n\r\n", b"/ab", KeepAlive::Keep),
    (b"\r\nGET http://h/1 HTTP/1.1\r\nHost: h\r\n\r\n", b"/1", KeepAlive::Keep),
    (b"GET /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nGET / HTT", b"/2", KeepAlive::Keep),
    (
        b"GET /3 HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n\
            4\r\n\r\n\r\n\r\n0\r\n\r\n",
        b"/3",
        KeepAlive::Keep,
    ),
    (b"GET /4 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b"/4", KeepAlive::Keep),
    (b"GET /5 HTTP/1.0\r\n\r\n", b"/5", KeepAlive::Close),
    (b"GET /6 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"/6", KeepAlive::Close),
];

/// Bodies that look like other parts of a message.
const BODIES: [&[u8]; 4] =
    [b"", b"x", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"];

const STATUSES: [Status; 4] =
    [Status::Ok, Status::NoContent, Status::NotFound, Status::ServiceUnavailable];

fuzz_target!(|script: &[u8]| {
    let mut exchange = Exchange::new();
    for step in script {
        let count = usize::from(step & 31);
        match step >> 5 {
            0 => exchange.request(count),
            1 => exchange.transfer_requests(1 + count),
            2 => exchange.transfer_requests(usize::MAX),
            3 => exchange.transfer_responses(1 + count),
            4 => exchange.transfer_responses(usize::MAX),
            5 => exchange.respond(count, KeepAlive::Keep),
            6 => exchange.respond(count, KeepAlive::Close),
            _ => exchange.detach(),
        }
    }
    exchange.finish();
});

struct Exchange {
    client: ClientConn,
    server: ServerConn,
    /// Buffers while the server's connection has none.
    buffers: Box<Buffers>,
    /// Requests not parsed yet, those without a response, and responses not parsed yet.
    sent: VecDeque<(&'static [u8], KeepAlive)>,
    unanswered: VecDeque<(ResponseContext, KeepAlive)>,
    responses: VecDeque<(u16, &'static [u8], KeepAlive)>,
}

impl Exchange {
    fn new() -> Exchange {
        Exchange {
            client: ClientConn::new(LIMITS),
            server: ServerConn::new(LIMITS),
            buffers: Box::default(),
            sent: VecDeque::new(),
            unanswered: VecDeque::new(),
            responses: VecDeque::new(),
        }
    }

    fn request(&mut self, number: usize) {
        let (request, path, keep_alive) = REQUESTS[number % REQUESTS.len()];
        self.client.request(request);
        self.sent.push_back((path, keep_alive));
    }

    fn transfer_requests(&mut self, count: usize) {
        if !self.server.has_buffers() {
            self.server.attach(std::mem::take(&mut self.buffers));
        }
        let outgoing = self.client.outgoing();
        let count = count.min(outgoing.len());
        self.server.receive(&outgoing[..count]);
        self.client.sent(count);
        while let Some((request, context)) = self.server.request().unwrap() {
            let (path, keep_alive) = self.sent.pop_front().unwrap();
            assert_eq!(request.path, path);
            self.unanswered.push_back((context, keep_alive));
        }
    }

    fn respond(&mut self, number: usize, keep_alive: KeepAlive) {
        let Some((context, wanted)) = self.unanswered.pop_front() else { return };
        let status = STATUSES[number / BODIES.len() % STATUSES.len()];
        let body = if status == Status::NoContent { b"" } else { BODIES[number % BODIES.len()] };
        let mut response = Response::json(status, Cow::Borrowed(body));
        if number >= 16 {
            response.fields = "Allow: GET, HEAD, OPTIONS\r\n";
        }
        self.server.respond(context, &response, keep_alive, &common_fields());
        let keeps = (wanted, keep_alive) == (KeepAlive::Keep, KeepAlive::Keep);
        let keep_alive = if keeps { KeepAlive::Keep } else { KeepAlive::Close };
        self.responses.push_back((status.code(), body, keep_alive));
        if keep_alive == KeepAlive::Close {
            // Requests behind it get no response.
            self.unanswered.clear();
        }
    }

    fn transfer_responses(&mut self, count: usize) {
        let outgoing = self.server.outgoing();
        let count = count.min(outgoing.len());
        self.client.receive(&outgoing[..count]);
        self.server.sent(count);
        while let Some(response) = self.client.response().unwrap() {
            let received = (response.status, response.body, response.keep_alive);
            assert_eq!(received, self.responses.pop_front().unwrap());
        }
    }

    fn detach(&mut self) {
        if let Some(buffers) = self.server.detach_or_shrink() {
            self.buffers = buffers;
        }
    }

    fn finish(mut self) {
        self.transfer_requests(usize::MAX);
        while !self.unanswered.is_empty() {
            self.respond(0, KeepAlive::Keep);
        }
        self.transfer_responses(usize::MAX);
        assert!(self.responses.is_empty());
        assert!(self.sent.is_empty() || self.server.stage() == Stage::Done);
        self.client.close();
        assert!(matches!(self.client.response(), Ok(None)));
    }
}

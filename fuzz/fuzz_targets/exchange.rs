//! Both halves of a connection converse over any cuts and in any order: the client reads what the
//! server wrote, and nothing else. Each byte of the script is one move.
#![no_main]

use std::borrow::Cow;
use std::collections::VecDeque;

use common::http::call::{Answer, Call};
use common::http::conversation::{Asked, Conversation, Room, Stage};
use common::http::{Content, Response, Status, Then};
use libfuzzer_sys::fuzz_target;
use testing::invariants::{DATE, LIMITS};

/// What a client may ask for, by which path, and whether it is its last word.
const REQUESTS: [(&[u8], &[u8], Then); 8] = [
    (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"/", Then::Keep),
    (b"GET /a%62?c HTTP/1.1\r\nHost: h\r\n\r\n", b"/ab", Then::Keep),
    (b"\r\nGET http://h/1 HTTP/1.1\r\nHost: h\r\n\r\n", b"/1", Then::Keep),
    (b"GET /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nGET / HTT", b"/2", Then::Keep),
    (
        b"GET /3 HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n\
            4\r\n\r\n\r\n\r\n0\r\n\r\n",
        b"/3",
        Then::Keep,
    ),
    (b"GET /4 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b"/4", Then::Keep),
    (b"GET /5 HTTP/1.0\r\n\r\n", b"/5", Then::Close),
    (b"GET /6 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"/6", Then::Close),
];

/// Bodies that could be taken for something else.
const BODIES: [&[u8]; 4] =
    [b"", b"x", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"];

const STATUSES: [Status; 4] =
    [Status::Ok, Status::NoContent, Status::NotFound, Status::ServiceUnavailable];

fuzz_target!(|script: &[u8]| {
    let mut exchange = Exchange::new();
    for step in script {
        let count = usize::from(step & 31);
        match step >> 5 {
            0 => exchange.ask(count),
            1 => exchange.carry_requests(1 + count),
            2 => exchange.carry_requests(usize::MAX),
            3 => exchange.carry_answers(1 + count),
            4 => exchange.carry_answers(usize::MAX),
            5 => exchange.answer(count, Then::Keep),
            6 => exchange.answer(count, Then::Close),
            _ => exchange.rest(),
        }
    }
    exchange.finish();
});

struct Exchange {
    call: Call,
    conversation: Conversation,
    /// Buffers while the conversation has none.
    room: Room,
    /// What was asked for and not taken yet; taken and not answered; answered and not read.
    asked: VecDeque<(&'static [u8], Then)>,
    taken: VecDeque<(Asked, Then)>,
    answered: VecDeque<(u16, &'static [u8], Then)>,
}

impl Exchange {
    fn new() -> Exchange {
        Exchange {
            call: Call::new(LIMITS),
            conversation: Conversation::new(LIMITS),
            room: Room::default(),
            asked: VecDeque::new(),
            taken: VecDeque::new(),
            answered: VecDeque::new(),
        }
    }

    fn ask(&mut self, number: usize) {
        let (request, path, then) = REQUESTS[number % REQUESTS.len()];
        self.call.ask(request);
        self.asked.push_back((path, then));
    }

    fn carry_requests(&mut self, count: usize) {
        if self.conversation.is_resting() {
            self.conversation.lend(std::mem::take(&mut self.room));
        }
        let outgoing = self.call.outgoing();
        let count = count.min(outgoing.len());
        self.conversation.receive(&outgoing[..count]);
        self.call.sent(count);
        while let Some((request, by)) = self.conversation.request().unwrap() {
            let (path, then) = self.asked.pop_front().unwrap();
            assert_eq!(request.path, path);
            self.taken.push_back((by, then));
        }
    }

    fn answer(&mut self, number: usize, then: Then) {
        let Some((by, wanted)) = self.taken.pop_front() else { return };
        let body = BODIES[number % BODIES.len()];
        let status = STATUSES[number / BODIES.len() % STATUSES.len()];
        let content = if number < 16 { Content::Json } else { Content::Metrics };
        let allow = (number >= 16).then_some("GET, HEAD, OPTIONS");
        let response = Response { status, content, body: Cow::Borrowed(body), allow };
        self.conversation.reply(by, &response, then, DATE);
        let body = if status == Status::NoContent { b"" } else { body };
        let then = if (wanted, then) == (Then::Keep, Then::Keep) { then } else { Then::Close };
        self.answered.push_back((status.code(), body, then));
        if then == Then::Close {
            // What was asked for beyond is not answered any more.
            self.taken.clear();
        }
    }

    fn carry_answers(&mut self, count: usize) {
        let outgoing = self.conversation.outgoing();
        let count = count.min(outgoing.len());
        self.call.receive(&outgoing[..count]);
        self.conversation.sent(count);
        while let Some(answer) = self.call.answer().unwrap() {
            let (status, body, then) = self.answered.pop_front().unwrap();
            assert_eq!(answer, Answer { status, body, then });
        }
    }

    fn rest(&mut self) {
        if let Some(room) = self.conversation.rest() {
            self.room = room;
        }
    }

    fn finish(mut self) {
        self.carry_requests(usize::MAX);
        while !self.taken.is_empty() {
            self.answer(0, Then::Keep);
        }
        self.carry_answers(usize::MAX);
        assert!(self.answered.is_empty());
        assert!(self.asked.is_empty() || self.conversation.stage() == Stage::Over);
        self.call.close();
        assert_eq!(self.call.answer(), Ok(None));
    }
}

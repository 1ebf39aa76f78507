//! Mutated requests and answers: whatever the bytes are, nothing panics, a refusal is final, and
//! what is understood, and when, does not depend on where the network cuts them. A failure prints
//! its case and the seed that makes it the first one: `MUTATION_SEED=… MUTATION_CASES=1`.

use std::fmt::Write;

use common::http::call::{Answer, Call};
use common::http::conversation::{Asked, Conversation, Room, Stage};
use common::http::{Date, Limits, Method, Refusal, Request, Response, Status, Then, Version};
use common::json;

/// Cases of each kind, a few seconds without optimization; `MUTATION_CASES` asks for more.
const CASES: u64 = 60_000;
const SEED: u64 = 1;
/// Below this many cases, chance may leave a refusal out.
const CASES_THAT_SEE_ALL: u64 = 50_000;

/// So narrow that mutations reach every bound.
const LIMITS: Limits = Limits { head_bytes_max: 256, body_bytes_max: 64 };
const INPUT_BYTES_MAX: usize = 1024;
/// Two heads, for one may be remembered, and an answer; a `Vec` doubles.
const ROOM_BYTES_MAX: usize = 2 * (2 * LIMITS.head_bytes_max + 200);
const DATE: &Date = b"Sun, 06 Nov 1994 08:49:37 GMT";
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

const REQUESTS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"HEAD /healthz?a=b&c=%20 HTTP/1.1\r\nHost: localhost:8000\r\n\
        User-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n",
    b"GET /%74raceback HTTP/1.1\r\nhost:[::1]:8000\r\nConnection: keep-alive\r\n\r\n",
    b"GET http://h:80/a/b?c HTTP/1.1\r\nHost: h\r\nX: \tcaf\xc3\xa9 \r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\nOPTIONS http://h HTTP/1.1\r\nHost: h\r\n\r\n",
    b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
    b"BREW /pot HTTP/1.2\r\nHost: h\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET /b HTTP/1.0\r\nHost: h\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 64\r\n\r\n\
        0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n\r\n\r\n\
        GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
        5\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n",
    b"PATCH / HTTP/1.1\r\nHost: h\r\ntransfer-encoding: Chunked\r\nTrailer: A\r\n\r\n\
        1 ; a=\"b;c\" ;d\r\nx\r\n00;e\r\nA: b\r\nC:\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
        0;a=0123456789abcdefghijklmnopqrstuvwxyz\r\n\
        A: 0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz\r\n\
        B: 0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello\
        GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"DELETE / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n\
        2\r\n\r\n\r\n0\r\n\r\n",
    b"\r\n\r\nTRACE / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 5\r\n\r\n",
];

const REQUEST_TOKENS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"Host: h\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: x, chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"HTTP/1.0",
    b"HTTP/0.9",
    b"/%2e%41?%zz#",
];

const ANSWERS: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n\
        {\"body\": \"x\"}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{\"a\":[1,-2.5e3,\"\\u00e9\"]}",
    b"HTTP/1.1 200\r\ncontent-length: 4\r\nConnection: x, close\r\n\r\nnull",
    b"HTTP/1.0 200 OK\r\nServer: Werkzeug/3.0\r\nContent-Length: 4\r\n\r\ntrue",
    b"HTTP/1.0 404 NOT FOUND\r\n\r\n{\"until\": \"the close\"}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n3\r\n 1}\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n\
        02 ;a=\"b\"\r\n[]\r\n0;c\r\nA: b\r\nD:\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        0;a=0123456789abcdefghijklmnopqrstuvwxyz\r\n\
        A: 0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz\r\n\
        B: 0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
        HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 500 caf\xc3\xa9\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.2 599 \r\nContent-Length: 1\r\n\r\n0",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
];

const ANSWER_TOKENS: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 100 \r\n\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: x, chunked\r\n",
    b"Connection: close\r\n",
    b"HTTP/1.0",
    b"HTTP/3.0",
];

/// Where a parser may trip.
const BYTES: &[u8] = b"\r\n\0\t :;,/%?#*\"\\+-0179afAFx\x0b\x7f\x80\xa0\xff";
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\r\n ",
    b" :",
    b"0\r\n\r\n",
    b"ffffffffffffffff",
    b"18446744073709551616",
    b"; a=b",
    b"A: b\r\n",
];

#[test]
fn mutated_requests_are_taken_in_one_way() {
    let refused = run(REQUESTS, REQUEST_TOKENS, |input, dice| {
        let bytes: Vec<_> = input.chunks(1).collect();
        // Buffers go from one conversation to the next, and what they remember must not show.
        let mut room = Room::default();
        let steps = converse(&bytes, Answers::AtOnce, &mut room);
        assert!(room.capacity() <= ROOM_BYTES_MAX, "{}", room.capacity());
        assert_unambiguous(input, &steps);
        let answers = dice.one_of(&[Answers::AtOnce, Answers::AtTheEnd]);
        assert_eq!(converse(&[input], answers, &mut room), met(&steps, &[input.len()]));
        let at = dice.below(input.len() + 1);
        let halves = [&input[..at], &input[at..]];
        assert_eq!(converse(&halves, answers, &mut room), met(&steps, &[at, input.len()]));
        steps
    });
    // The others are for clocks, crowds and clients.
    let others = [Refusal::Slow, Refusal::Crowded, Refusal::Unasked, Refusal::Short];
    assert_all_seen(&refused, &others);
}

#[test]
fn mutated_answers_are_taken_in_one_way() {
    let refused = run(ANSWERS, ANSWER_TOKENS, |input, dice| {
        let asked = dice.one_of(&[0, 1, 1, 1, 2, 2, 3, 4]);
        let steps = call(asked, &input.chunks(1).collect::<Vec<_>>());
        assert_eq!(call(asked, &[input]), met(&steps, &[input.len()]));
        let at = dice.below(input.len() + 1);
        let halves = [&input[..at], &input[at..]];
        assert_eq!(call(asked, &halves), met(&steps, &[at, input.len()]));
        steps
    });
    let others = [
        Refusal::Target,
        Refusal::TargetTooLong,
        Refusal::Host,
        Refusal::Expectation,
        Refusal::Slow,
        Refusal::Crowded,
    ];
    assert_all_seen(&refused, &others);
}

/// Something understood, after so many bytes had come.
#[derive(Clone, Debug, PartialEq)]
struct Step {
    received: usize,
    what: What,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    /// A request or an answer, in words.
    Message(String),
    Refused(Refusal),
    /// What is left when the input is over: all taken or not, and all that was sent.
    Left(Stage, bool, Vec<u8>),
}

/// What must be seen of the same input if it comes in pieces that end there.
fn met(steps: &[Step], ends: &[usize]) -> Vec<Step> {
    let at = |received| ends.iter().copied().find(|end| *end >= received).unwrap_or(received);
    steps.iter().map(|step| Step { received: at(step.received), ..step.clone() }).collect()
}

/// When requests are answered: later than they are taken only changes the order of the calls.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answers {
    AtOnce,
    AtTheEnd,
}

/// A conversation about these pieces, and about some more when it is over.
fn converse(pieces: &[&[u8]], answers: Answers, room: &mut Room) -> Vec<Step> {
    let mut conversation = Conversation::new(LIMITS);
    let (mut steps, mut received, mut sent) = (Vec::new(), 0, Vec::new());
    let mut unanswered = Vec::new();
    let mut refused = None;
    let good = Response::json(Status::Ok, &b"x"[..]);
    let bad = Response::json(Status::BadRequest, &b"x"[..]);
    for piece in pieces {
        if conversation.is_resting() {
            conversation.lend(std::mem::take(room));
        }
        conversation.receive(piece);
        received += piece.len();
        while refused.is_none() {
            let what = match conversation.request() {
                Ok(None) => break,
                Ok(Some((request, asked))) => {
                    unanswered.push(asked);
                    What::Message(in_words(&request, asked))
                }
                Err(refusal) => {
                    refused = Some(refusal);
                    What::Refused(refusal)
                }
            };
            steps.push(Step { received, what });
        }
        if answers == Answers::AtOnce {
            for asked in unanswered.drain(..) {
                reply(&mut conversation, asked, &good, &mut sent);
            }
        }
        send_all(&mut conversation, &mut sent);
        if refused.is_some() {
            break;
        }
        let under_way = !conversation.is_caught_up();
        match conversation.rest() {
            None => assert!(under_way),
            Some(rest) => {
                assert!(!under_way);
                *room = rest;
            }
        }
    }
    for asked in unanswered.drain(..) {
        reply(&mut conversation, asked, &good, &mut sent);
    }
    let (stage, caught_up) = (conversation.stage(), conversation.is_caught_up());
    if let Some(refusal) = refused {
        assert_eq!((stage, caught_up), (Stage::Over, false));
        conversation.receive(REQUESTS[0]);
        assert_eq!(conversation.request().map(drop), Err(refusal), "a refusal is final");
        // Its answer is the last word.
        conversation.reply(Asked::NOTHING, &bad, Then::Close, DATE);
        let last = conversation.outgoing();
        assert!(last.starts_with(b"HTTP/1.1 400 ") && last.ends_with(b"\r\n\r\nx"));
    }
    steps.push(Step { received, what: What::Left(stage, caught_up, sent) });
    steps
}

fn reply(conversation: &mut Conversation, asked: Asked, response: &Response, sent: &mut Vec<u8>) {
    conversation.reply(asked, response, Then::Keep, DATE);
    send_all(conversation, sent);
}

/// Sends what there is, save for `100 Continue`, which nobody needs whose body came along.
fn send_all(conversation: &mut Conversation, sent: &mut Vec<u8>) {
    let outgoing = conversation.outgoing();
    sent.extend_from_slice(outgoing.strip_suffix(CONTINUE).unwrap_or(outgoing));
    let count = outgoing.len();
    conversation.sent(count);
    assert_eq!(conversation.outgoing(), b"");
}

fn in_words(request: &Request<'_>, asked: Asked) -> String {
    let Request { method, path, version, fields } = request;
    let path_is_fit = match method {
        Method::Connect => path.contains(&b':'),
        Method::Options if **path == *b"*" => true,
        _ => path.starts_with(b"/"),
    };
    assert!(path_is_fit, "{method:?} {}", path.escape_ascii());
    let (method, path) = (method.token().escape_ascii(), path.escape_ascii());
    let mut words = format!("{method} {path} {version:?}");
    for name in ["host", "X", "user-agent"] {
        let value = fields.get(name).unwrap_or(b"none");
        // Nothing that would break a line of a log.
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        let _ = write!(words, " {}", value.escape_ascii());
    }
    let _ = write!(words, " {asked:?}");
    words
}

/// Looks at each request that was taken byte by byte as a careless reader would, who must find
/// the same end.
fn assert_unambiguous(input: &[u8], steps: &[Step]) {
    let mut start = 0;
    for Step { received, what } in steps {
        let What::Message(words) = what else { return };
        let mut raw = &input[start..*received];
        start = *received;
        while let [b'\r', b'\n', rest @ ..] = raw {
            raw = rest;
        }
        let head_bytes = raw.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        let (head, body) = raw.split_at(head_bytes);
        assert!(head.len() <= LIMITS.head_bytes_max);
        let lines = || head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r"));
        let plain = |line: &[u8]| !line.iter().any(|byte| matches!(byte, b'\r' | 0 | 0x7f));
        assert!(lines().all(|line| line.is_none_or(plain)), "{words}");
        let with = |name: &str| {
            let named = |line: &&[u8]| {
                line.split_at_checked(name.len())
                    .is_some_and(|(start, _)| start.eq_ignore_ascii_case(name.as_bytes()))
            };
            lines().flatten().filter(named).collect::<Vec<_>>()
        };
        let (lengths, codings) = (with("content-length:"), with("transfer-encoding:"));
        assert!(lengths.len() + codings.len() <= 1, "{words}");
        let digits = lengths.first().map(|line| line[15..].trim_ascii());
        let length = digits.map(|digits| str::from_utf8(digits).unwrap().parse::<usize>().unwrap());
        match codings.first() {
            None => assert_eq!(body.len(), length.unwrap_or(0), "{words}"),
            Some(_) => assert!(body.ends_with(b"\r\n\r\n"), "{words}"),
        }
        assert!(with("host:").len() == 1 || words.contains(&format!("{:?}", Version::Http10)));
    }
}

/// As many calls as were asked, answered by these pieces and then a close.
fn call(asked: usize, pieces: &[&[u8]]) -> Vec<Step> {
    let mut call = Call::new(LIMITS);
    (0..asked).for_each(|_| call.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
    let (mut steps, mut received) = (Vec::new(), 0);
    let (mut refused, mut answered) = (None, 0);
    for piece in pieces.iter().copied().map(Some).chain([None]) {
        match piece {
            Some(piece) => {
                call.receive(piece);
                received += piece.len();
            }
            None => {
                call.close();
                received += 1;
            }
        }
        while refused.is_none() {
            let what = match call.answer() {
                Ok(None) => break,
                Ok(Some(answer)) => {
                    answered += 1;
                    assert!(answered <= asked);
                    assert!((200..600).contains(&answer.status));
                    assert!(answer.body.len() as u64 <= LIMITS.body_bytes_max);
                    assert_rewritten_once(&answer);
                    What::Message(format!("{answer:?}"))
                }
                Err(refusal) => {
                    refused = Some(refusal);
                    What::Refused(refusal)
                }
            };
            steps.push(Step { received, what });
        }
        if refused.is_some() {
            break;
        }
    }
    if refused.is_some() {
        call.receive(ANSWERS[0]);
        assert_eq!(call.answer().err(), refused, "a refusal is final");
    }
    steps
}

/// What JSON makes of an answer's body, it makes of its own words.
fn assert_rewritten_once(answer: &Answer<'_>) {
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    if json::rewrite(answer.body, &mut once).is_ok() {
        assert!(json::rewrite(&once, &mut twice).is_ok() && once == twice);
    }
}

/// How often each refusal came; the last counts messages that were taken.
type Counts = [u64; Refusal::ALL.len() + 1];

fn run(
    corpus: &[&[u8]],
    tokens: &[&[u8]],
    mut check: impl FnMut(&[u8], &mut Dice) -> Vec<Step>,
) -> Counts {
    let mut counts = Counts::default();
    let first = setting("MUTATION_SEED", SEED);
    for case in 0..cases() {
        let seed = first.wrapping_add(case);
        let mut dice = Dice::new(seed);
        let input = mutated(corpus, tokens, &mut dice);
        let _case = Case { seed, input: &input };
        for Step { what, .. } in check(&input, &mut dice) {
            match what {
                What::Message(_) => counts[Refusal::ALL.len()] += 1,
                What::Refused(refusal) => counts[refusal as usize] += 1,
                What::Left(..) => {}
            }
        }
    }
    counts
}

/// Mutations that never reach a refusal say nothing of it.
fn assert_all_seen(counts: &Counts, except: &[Refusal]) {
    let words = Refusal::ALL.iter().map(|refusal| refusal.word()).chain(["taken"]);
    println!("{} cases: {:?}", cases(), words.zip(counts).collect::<Vec<_>>());
    for refusal in Refusal::ALL {
        let seen = counts[*refusal as usize] > 0 || except.contains(refusal);
        assert!(seen || cases() < CASES_THAT_SEE_ALL, "{refusal}");
    }
}

fn cases() -> u64 {
    setting("MUTATION_CASES", CASES)
}

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name);
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// Shows itself if it is dropped by a panic.
struct Case<'a> {
    seed: u64,
    input: &'a [u8],
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Case { seed, input } = self;
            eprintln!("MUTATION_SEED={seed} MUTATION_CASES=1: b\"{}\"", input.escape_ascii());
        }
    }
}

fn mutated(corpus: &[&[u8]], tokens: &[&[u8]], dice: &mut Dice) -> Vec<u8> {
    let mut input = dice.one_of(corpus).to_vec();
    for _ in 0..dice.below(5) {
        let at = dice.below(input.len() + 1);
        let end = at + dice.below(input.len() - at + 1).min(1 + dice.below(12));
        match dice.below(13) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 if at < input.len() => input[at] = dice.one_of(BYTES),
            2 => input.insert(at, dice.one_of(BYTES)),
            3 => drop(input.drain(at..end)),
            4 if at < input.len() => {
                let other = dice.below(input.len());
                input.swap(at, other);
            }
            5 => put(&mut input, at, dice.one_of(WORDS)),
            6 => {
                let start = line_start(&input, at);
                put(&mut input, start, dice.one_of(tokens));
            }
            7 => put(&mut input, at, dice.one_of(tokens)),
            // The start of one, the end of another.
            8 => {
                let other = dice.one_of(corpus);
                input.truncate(at);
                input.extend_from_slice(&other[dice.below(other.len())..]);
            }
            9 => input.extend_from_slice(dice.one_of(corpus)),
            10 => input.extend_from_within(..),
            // A word said again and again.
            11 => {
                let word = input[at..end].repeat(1 + dice.below(4) * dice.below(12));
                put(&mut input, at, &word);
            }
            _ => inflate(&mut input, at, dice),
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn put(input: &mut Vec<u8>, at: usize, word: &[u8]) {
    input.splice(at..at, word.iter().copied());
}

/// The start of the line at or before `at`: a field put there is a field.
fn line_start(input: &[u8], at: usize) -> usize {
    input[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |lf| lf + 1)
}

/// Makes the next number after `at` longer.
fn inflate(input: &mut Vec<u8>, at: usize, dice: &mut Dice) {
    if let Some(digit) = input[at..].iter().position(u8::is_ascii_digit) {
        let digits = vec![dice.one_of(b"0019f"); 1 + dice.below(20)];
        put(input, at + digit, &digits);
    }
}

/// Marsaglia's xorshift, scrambled by a multiplication.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        // Neighbouring seeds must not begin alike, and zero would stay zero.
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            dice.below(2);
        }
        dice
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        usize::try_from(high).unwrap() % bound
    }

    fn one_of<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.below(these.len())]
    }
}

//! Mutated requests and responses, held against the invariants. A failure prints its case and the
//! seed that makes it the first one: `MUTATION_SEED=… MUTATION_CASES=1`.

use std::collections::BTreeMap;

use common::http::ParseError;
use common::http::client::ResponseError;
use testing::invariants::{Parsed, Responses, Step, assert_requests, assert_responses};

/// Cases of each kind, a few seconds without optimization; `MUTATION_CASES` asks for more.
const CASES: u64 = 60_000;
const SEED: u64 = 1;
/// Below this many cases, chance may leave an error out.
const CASES_THAT_SEE_ALL: u64 = 50_000;

const INPUT_BYTES_MAX: usize = 1024;

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

const RESPONSES: &[&[u8]] = &[
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

const RESPONSE_TOKENS: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 100 \r\n\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: x, chunked\r\n",
    b"Connection: close\r\n",
    b"HTTP/1.0",
    b"HTTP/3.0",
];

/// Bytes that are special to a parser.
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
fn mutated_requests_are_parsed_in_one_way() {
    let counts = run(REQUESTS, REQUEST_TOKENS, |input, dice| {
        let responses = dice.one_of(&[Responses::AtOnce, Responses::AtTheEnd]);
        assert_requests(input, &[dice.below(input.len() + 1)], responses)
    });
    assert_all_seen(&counts, ParseError::ALL.iter().copied().map(ResponseError::from));
}

/// Errors of requests alone.
const NOT_OF_RESPONSES: [ParseError; 4] =
    [ParseError::Target, ParseError::TargetTooLong, ParseError::Host, ParseError::Expectation];

#[test]
fn mutated_responses_are_parsed_in_one_way() {
    let counts = run(RESPONSES, RESPONSE_TOKENS, |input, dice| {
        let requests = dice.one_of(&[0, 1, 1, 1, 2, 2, 3, 4]);
        assert_responses(input, &[dice.below(input.len() + 1)], requests)
    });
    let errors = ParseError::ALL.iter().copied().filter(|it| !NOT_OF_RESPONSES.contains(it));
    let others = [ResponseError::Unexpected, ResponseError::Incomplete];
    assert_all_seen(&counts, errors.map(ResponseError::from).chain(others));
}

/// The number of messages, and of each error by its phrase.
type Counts = BTreeMap<String, u64>;

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
        for Step { parsed, .. } in check(&input, &mut dice) {
            let name = match parsed {
                Parsed::Message(_) => "messages".to_owned(),
                Parsed::Error(error) => error.to_string(),
                Parsed::End(..) => continue,
            };
            *counts.entry(name).or_default() += 1;
        }
    }
    counts
}

/// Mutations that never cause an error say nothing of it.
fn assert_all_seen(counts: &Counts, errors: impl Iterator<Item = ResponseError>) {
    println!("{} cases: {counts:?}", cases());
    for name in errors.map(|error| error.to_string()).chain(["messages".to_owned()]) {
        assert!(counts.contains_key(&name) || cases() < CASES_THAT_SEE_ALL, "{name}");
    }
}

fn cases() -> u64 {
    setting("MUTATION_CASES", CASES)
}

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name);
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// Prints itself if a panic drops it.
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
            // The start of one input, the end of another.
            8 => {
                let other = dice.one_of(corpus);
                input.truncate(at);
                input.extend_from_slice(&other[dice.below(other.len())..]);
            }
            9 => input.extend_from_slice(dice.one_of(corpus)),
            10 => input.extend_from_within(..),
            // A word, repeated.
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

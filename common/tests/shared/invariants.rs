//! What holds of HTTP whatever the bytes are: nothing panics, a refusal is final, and what is
//! understood, and when, does not depend on where the network cuts them. The bytes are made up by
//! those who include this file, by mutation or with an eye on coverage.
#![allow(dead_code)] // each of them takes what it needs

use std::fmt::Write;

use common::http::call::{Answer, Call};
use common::http::conversation::{Asked, Conversation, Room, Stage};
use common::http::{Date, Limits, Method, Refusal, Request, Response, Status, Then, Version};
use common::json;
use tools::json::Value;

/// So narrow that every bound is reached.
pub(crate) const LIMITS: Limits = Limits { head_bytes_max: 256, body_bytes_max: 64 };
/// Two heads, for one may be remembered, and an answer; a `Vec` doubles.
const ROOM_BYTES_MAX: usize = 2 * (2 * LIMITS.head_bytes_max + 200);
pub(crate) const DATE: &Date = b"Sun, 06 Nov 1994 08:49:37 GMT";
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// Something understood, after so many bytes had come.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    received: usize,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    /// A request or an answer, in words.
    Message(String),
    Refused(Refusal),
    /// What is left in the end: whether all was taken that will be, and all that was sent.
    Left(Stage, bool, Vec<u8>),
}

/// When requests are answered: later than they are taken only changes the order of the calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answers {
    AtOnce,
    AtTheEnd,
}

/// Requests are taken out of the input in one way: byte by byte, whole, and cut at these places.
pub(crate) fn assert_requests(input: &[u8], cuts: &[usize], answers: Answers) -> Vec<Step> {
    // Buffers go from one conversation to the next, and what they remember must not show.
    let mut room = Room::default();
    let bytes: Vec<_> = input.chunks(1).collect();
    let steps = converse(&bytes, Answers::AtOnce, &mut room);
    assert!(room.capacity() <= ROOM_BYTES_MAX, "{}", room.capacity());
    assert_unambiguous(input, &steps);
    assert_answered(&steps);
    for cuts in [&[], cuts] {
        let (pieces, ends) = cut(input, cuts);
        assert_eq!(converse(&pieces, answers, &mut room), met(&steps, &ends));
    }
    steps
}

/// The same of answers, when so many were asked for.
pub(crate) fn assert_answers(input: &[u8], cuts: &[usize], asked: usize) -> Vec<Step> {
    let steps = call(asked, &input.chunks(1).collect::<Vec<_>>());
    for cuts in [&[], cuts] {
        let (pieces, ends) = cut(input, cuts);
        assert_eq!(call(asked, &pieces), met(&steps, &ends));
    }
    steps
}

/// What JSON makes of a text is the same by tree, and ASCII; of that it makes the same again.
pub(crate) fn assert_rewritten(text: &[u8]) {
    let (mut once, mut twice, mut by_tree) = (Vec::new(), Vec::new(), Vec::new());
    let rewritten = json::rewrite(text, &mut once);
    let read = Value::read(text).map(|value| value.write(&mut by_tree));
    assert_eq!((rewritten, &once), (read, &by_tree));
    if rewritten.is_ok() {
        assert!(once.len() <= 6 * text.len());
        assert!(once.iter().all(|byte| matches!(byte, b' '..=b'~')));
        assert_eq!(json::rewrite(&once, &mut twice), Ok(()));
        assert_eq!(once, twice);
    }
}

/// The pieces between these places, and where each ends.
fn cut<'a>(input: &'a [u8], cuts: &[usize]) -> (Vec<&'a [u8]>, Vec<usize>) {
    let mut ends: Vec<_> = cuts.iter().map(|&cut| cut.min(input.len())).collect();
    ends.sort_unstable();
    ends.push(input.len());
    let starts = [0].into_iter().chain(ends.iter().copied());
    let pieces = starts.zip(&ends).map(|(start, &end)| &input[start..end]).collect();
    (pieces, ends)
}

/// What must be seen of the same input if it comes in pieces that end there.
fn met(steps: &[Step], ends: &[usize]) -> Vec<Step> {
    let at = |received| ends.iter().copied().find(|end| *end >= received).unwrap_or(received);
    steps.iter().map(|step| Step { received: at(step.received), ..step.clone() }).collect()
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
        if conversation.stage() == Stage::Over {
            // Nobody reads on.
            break;
        }
        if conversation.is_resting() {
            conversation.lend(std::mem::take(room));
        }
        conversation.receive(piece);
        received += piece.len();
        while refused.is_none() {
            let what = match conversation.request() {
                Ok(None) => break,
                Ok(Some((request, asked))) => {
                    // With this, an answer to HEAD is read like any other.
                    let missing: &[u8] = if request.method == Method::Head { b"x" } else { b"" };
                    unanswered.push((asked, missing));
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
    let stage = conversation.stage();
    // What follows the last request may have come along with it.
    let caught_up = stage == Stage::Over || conversation.is_caught_up();
    if let Some(refusal) = refused {
        assert!(stage == Stage::Over && !conversation.is_caught_up());
        conversation.receive(GET);
        assert_eq!(conversation.request().map(drop), Err(refusal), "a refusal is final");
        // Its answer is the last word.
        conversation.reply(Asked::NOTHING, &bad, Then::Close, DATE);
        let last = conversation.outgoing();
        assert!(last.starts_with(b"HTTP/1.1 400 ") && last.ends_with(b"\r\n\r\nx"));
    } else if stage == Stage::Over {
        conversation.receive(GET);
        assert!(matches!(conversation.request(), Ok(None)), "nothing is taken after the end");
    }
    *room = conversation.leave();
    steps.push(Step { received, what: What::Left(stage, caught_up, sent) });
    steps
}

fn reply(
    conversation: &mut Conversation,
    (asked, missing): (Asked, &[u8]),
    response: &Response,
    sent: &mut Vec<u8>,
) {
    conversation.reply(asked, response, Then::Keep, DATE);
    send_all(conversation, sent);
    sent.extend_from_slice(missing);
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

/// Reads what was sent as a client does, who must find an answer to each request and no more.
fn assert_answered(steps: &[Step]) {
    let [.., Step { what: What::Left(stage, _, sent), .. }] = steps else { unreachable!() };
    let taken = steps.iter().filter(|step| matches!(step.what, What::Message(_))).count();
    let refused = steps.iter().any(|step| matches!(step.what, What::Refused(_)));
    let heard = call(taken, &[sent]);
    assert_eq!(heard.len(), taken);
    for (number, Step { what, .. }) in (1..).zip(heard) {
        let last = number == taken && *stage == Stage::Over && !refused;
        let then = if last { Then::Close } else { Then::Keep };
        assert_eq!(what, What::Message(format!("{:?}", Answer { status: 200, body: b"x", then })));
    }
}

/// As many calls as were asked, answered by these pieces and then a close.
fn call(asked: usize, pieces: &[&[u8]]) -> Vec<Step> {
    let mut call = Call::new(LIMITS);
    (0..asked).for_each(|_| call.ask(GET));
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
                    assert_rewritten(answer.body);
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
        call.receive(b"HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(call.answer().err(), refused, "a refusal is final");
    }
    steps
}

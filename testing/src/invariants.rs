//! Invariants of HTTP for any bytes: nothing panics, an error is final, and the messages that are
//! parsed, and when, do not depend on where the network cuts the bytes. The callers make the bytes,
//! by mutation or guided by coverage.

use std::fmt::Write;

use common::http::client::{ClientConn, ReceivedResponse, ResponseError};
use common::http::server::{Buffers, CommonFields, ResponseContext, ServerConn, Stage};
use common::http::{Date, KeepAlive, Limits, Method, Request, Response, Status, Version};
use common::json;
use tools::json::Value;

/// So low that inputs reach every bound.
pub const LIMITS: Limits = Limits { head_bytes_max: 256, body_bytes_max: 64 };
/// Two heads, for one may be cached, and a response; a `Vec` doubles.
const BUFFERS_BYTES_MAX: usize = 2 * (2 * LIMITS.head_bytes_max + 200);
const DATE: &Date = b"Sun, 06 Nov 1994 08:49:37 GMT";
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// The header fields of all responses in these tests.
pub fn common_fields() -> CommonFields {
    CommonFields { date: *DATE, lines: String::new(), served_by: None }
}

/// Something parsed, after this many bytes were received.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    received: usize,
    pub parsed: Parsed,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// A request or a response, as text.
    Message(String),
    Error(ResponseError),
    /// The state at the end: the stage, true if every request was parsed, and all bytes sent.
    End(Stage, bool, Vec<u8>),
}

/// When requests get their responses: it changes the order of the calls alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Responses {
    AtOnce,
    AtTheEnd,
}

/// The input is parsed into the same requests byte by byte, whole, and cut at these places.
pub fn assert_requests(input: &[u8], cuts: &[usize], responses: Responses) -> Vec<Step> {
    // Buffers go from one connection to the next, and what they remember must not show.
    let mut buffers = Box::<Buffers>::default();
    let bytes: Vec<_> = input.chunks(1).collect();
    let steps = serve(&bytes, Responses::AtOnce, &mut buffers);
    assert!(buffers.capacity() <= BUFFERS_BYTES_MAX, "{}", buffers.capacity());
    assert_unambiguous(input, &steps);
    assert_responses_complete(&steps);
    for cuts in [&[], cuts] {
        let (pieces, ends) = cut(input, cuts);
        assert_eq!(serve(&pieces, responses, &mut buffers), expected_at(&steps, &ends));
    }
    steps
}

/// The input is parsed into the same responses to this many requests, however it is cut.
pub fn assert_responses(input: &[u8], cuts: &[usize], requests: usize) -> Vec<Step> {
    let steps = receive(requests, &input.chunks(1).collect::<Vec<_>>());
    for cuts in [&[], cuts] {
        let (pieces, ends) = cut(input, cuts);
        assert_eq!(receive(requests, &pieces), expected_at(&steps, &ends));
    }
    steps
}

/// Rewritten JSON equals the JSON written from its tree, is ASCII, and stays as it is when rewritten.
pub fn assert_rewritten(text: &[u8]) {
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

/// The pieces between these places, and the end of each.
fn cut<'a>(input: &'a [u8], cuts: &[usize]) -> (Vec<&'a [u8]>, Vec<usize>) {
    let mut ends: Vec<_> = cuts.iter().map(|&cut| cut.min(input.len())).collect();
    ends.sort_unstable();
    ends.push(input.len());
    let starts = [0].into_iter().chain(ends.iter().copied());
    let pieces = starts.zip(&ends).map(|(start, &end)| &input[start..end]).collect();
    (pieces, ends)
}

/// The steps to expect if the same input comes in pieces that end there.
fn expected_at(steps: &[Step], ends: &[usize]) -> Vec<Step> {
    let at = |received| ends.iter().copied().find(|end| *end >= received).unwrap_or(received);
    steps.iter().map(|step| Step { received: at(step.received), ..step.clone() }).collect()
}

/// Feeds these pieces to a server's connection, and some more bytes after its end.
fn serve(pieces: &[&[u8]], responses: Responses, buffers: &mut Box<Buffers>) -> Vec<Step> {
    let mut conn = ServerConn::new(LIMITS);
    let (mut steps, mut received, mut sent) = (Vec::new(), 0, Vec::new());
    let mut unanswered = Vec::new();
    let mut failed = None;
    let good = Response::json(Status::Ok, &b"x"[..]);
    let bad = Response::json(Status::BadRequest, &b"x"[..]);
    for piece in pieces {
        if conn.stage() == Stage::Done {
            // The server reads no more.
            break;
        }
        if !conn.has_buffers() {
            conn.attach(std::mem::take(buffers));
        }
        conn.receive(piece);
        received += piece.len();
        while failed.is_none() {
            let parsed = match conn.request() {
                Ok(None) => break,
                Ok(Some((request, context))) => {
                    // With this, a response to HEAD is read like any other.
                    let missing: &[u8] = if request.method == Method::Head { b"x" } else { b"" };
                    unanswered.push((context, missing));
                    Parsed::Message(as_text(&request, context))
                }
                Err(error) => {
                    failed = Some(error);
                    Parsed::Error(error.into())
                }
            };
            steps.push(Step { received, parsed });
        }
        if responses == Responses::AtOnce {
            for context in unanswered.drain(..) {
                respond(&mut conn, context, &good, &mut sent);
            }
        }
        send_all(&mut conn, &mut sent);
        if failed.is_some() {
            break;
        }
        let has_input = !conn.is_input_consumed();
        match conn.detach_or_shrink() {
            None => assert!(has_input),
            Some(detached) => {
                assert!(!has_input);
                *buffers = detached;
            }
        }
    }
    for context in unanswered.drain(..) {
        respond(&mut conn, context, &good, &mut sent);
    }
    let stage = conn.stage();
    // Bytes after the last request may have arrived with it.
    let is_complete = stage == Stage::Done || conn.is_input_consumed();
    if let Some(error) = failed {
        assert!(stage == Stage::Done && !conn.is_input_consumed());
        conn.receive(GET);
        assert_eq!(conn.request().map(drop), Err(error), "an error is final");
        // Its response is the last one.
        conn.respond(ResponseContext::NO_REQUEST, &bad, KeepAlive::Close, &common_fields());
        let last = conn.outgoing();
        assert!(last.starts_with(b"HTTP/1.1 400 ") && last.ends_with(b"\r\n\r\nx"));
    } else if stage == Stage::Done {
        conn.receive(GET);
        assert!(matches!(conn.request(), Ok(None)), "nothing is parsed after the end");
    }
    if let Some(detached) = conn.detach() {
        *buffers = detached;
    }
    steps.push(Step { received, parsed: Parsed::End(stage, is_complete, sent) });
    steps
}

fn respond(
    conn: &mut ServerConn,
    (context, missing): (ResponseContext, &[u8]),
    response: &Response,
    sent: &mut Vec<u8>,
) {
    conn.respond(context, response, KeepAlive::Keep, &common_fields());
    send_all(conn, sent);
    sent.extend_from_slice(missing);
}

/// Sends all there is but `100 Continue`, which a client does not need whose body came along.
fn send_all(conn: &mut ServerConn, sent: &mut Vec<u8>) {
    let outgoing = conn.outgoing();
    sent.extend_from_slice(outgoing.strip_suffix(CONTINUE).unwrap_or(outgoing));
    let count = outgoing.len();
    conn.sent(count);
    assert_eq!(conn.outgoing(), b"");
}

fn as_text(request: &Request<'_>, context: ResponseContext) -> String {
    let Request { method, path, version, fields } = request;
    let is_path_valid = match method {
        Method::Connect => path.contains(&b':'),
        Method::Options if **path == *b"*" => true,
        _ => path.starts_with(b"/"),
    };
    assert!(is_path_valid, "{method:?} {}", path.escape_ascii());
    let (method, path) = (method.as_bytes().escape_ascii(), path.escape_ascii());
    let mut text = format!("{method} {path} {version:?}");
    for name in ["host", "X", "user-agent"] {
        let value = fields.get(name).unwrap_or(b"none");
        // Nothing that would break a line of a log.
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        let _ = write!(text, " {}", value.escape_ascii());
    }
    let _ = write!(text, " {context:?}");
    text
}

/// A careless parser must find the same end of each request that was parsed byte by byte.
fn assert_unambiguous(input: &[u8], steps: &[Step]) {
    let mut start = 0;
    for Step { received, parsed } in steps {
        let Parsed::Message(text) = parsed else { return };
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
        assert!(lines().all(|line| line.is_none_or(plain)), "{text}");
        let with = |name: &str| {
            let named = |line: &&[u8]| {
                line.split_at_checked(name.len())
                    .is_some_and(|(start, _)| start.eq_ignore_ascii_case(name.as_bytes()))
            };
            lines().flatten().filter(named).collect::<Vec<_>>()
        };
        let (lengths, codings) = (with("content-length:"), with("transfer-encoding:"));
        assert!(lengths.len() + codings.len() <= 1, "{text}");
        let digits = lengths.first().map(|line| line[15..].trim_ascii());
        let length = digits.map(|digits| str::from_utf8(digits).unwrap().parse::<usize>().unwrap());
        match codings.first() {
            None => assert_eq!(body.len(), length.unwrap_or(0), "{text}"),
            Some(_) => assert!(body.ends_with(b"\r\n\r\n"), "{text}"),
        }
        assert!(with("host:").len() == 1 || text.contains(&format!("{:?}", Version::Http10)));
    }
}

/// Reads the sent bytes as a client does: there is one response to each request, and no more.
fn assert_responses_complete(steps: &[Step]) {
    let [.., Step { parsed: Parsed::End(stage, _, sent), .. }] = steps else { unreachable!() };
    let requests = steps.iter().filter(|step| matches!(step.parsed, Parsed::Message(_))).count();
    let is_failed = steps.iter().any(|step| matches!(step.parsed, Parsed::Error(_)));
    let responses = receive(requests, &[sent]);
    assert_eq!(responses.len(), requests);
    for (number, Step { parsed, .. }) in (1..).zip(responses) {
        let is_last = number == requests && *stage == Stage::Done && !is_failed;
        let keep_alive = if is_last { KeepAlive::Close } else { KeepAlive::Keep };
        assert_eq!(parsed, Parsed::Message(format!("200 {keep_alive:?} x")));
    }
}

/// Feeds these pieces and then a close to a client's connection that has sent this many requests.
fn receive(requests: usize, pieces: &[&[u8]]) -> Vec<Step> {
    let mut conn = ClientConn::new(LIMITS);
    (0..requests).for_each(|_| conn.request(GET));
    let (mut steps, mut received) = (Vec::new(), 0);
    let (mut failed, mut responses) = (None, 0);
    for piece in pieces.iter().copied().map(Some).chain([None]) {
        match piece {
            Some(piece) => {
                conn.receive(piece);
                received += piece.len();
            }
            None => {
                conn.close();
                received += 1;
            }
        }
        while failed.is_none() {
            let parsed = match conn.response() {
                Ok(None) => break,
                Ok(Some(ReceivedResponse { status, body, keep_alive, .. })) => {
                    responses += 1;
                    assert!(responses <= requests);
                    assert!((200..600).contains(&status));
                    assert!(body.len() as u64 <= LIMITS.body_bytes_max);
                    assert_rewritten(body);
                    Parsed::Message(format!("{status} {keep_alive:?} {}", body.escape_ascii()))
                }
                Err(error) => {
                    failed = Some(error);
                    Parsed::Error(error)
                }
            };
            steps.push(Step { received, parsed });
        }
        if failed.is_some() {
            break;
        }
    }
    if failed.is_some() {
        conn.receive(b"HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(conn.response().err(), failed, "an error is final");
    }
    steps
}

//! The server half of an HTTP/1.1 connection, without the connection: bytes in, requests out;
//! responses in, bytes out. Requests may be taken ahead (pipelining, RFC 9112 section 9.3.2);
//! their responses are written in the same order.

use super::body::{Body, MessageKind};
use super::buffer::{HeadCache, Inbound, Outbound};
use super::grammar::{is_tchar, split_line};
use super::parse::{self, HeadOffsets, RequestHead};
use super::{Date, KeepAlive, Limits, Method, ParseError, Request, Response, Version};
use crate::decimal;

/// Empty lines skipped before a request line (RFC 9112 section 2.2): some old clients send one
/// after a body.
const EMPTY_LINES_MAX: u8 = 4;

/// Memory that a buffer may hold beyond its bytes while the peer is waited for. With room for one
/// large read each, a thousand slow clients would fill a container.
const SPARE_BYTES_MAX: usize = 256;

/// The part of a request that a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The first byte of a request.
    Idle,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// Nothing: no more requests are taken.
    Done,
}

/// The server half of one connection.
#[derive(Debug)]
pub struct ServerConn {
    limits: Limits,
    state: State,
    buffers: Option<Box<Buffers>>,
    empty_lines: u8,
    /// Requests taken and not responded to.
    pending: usize,
    /// The client waits for `100 Continue`.
    expects_continue: bool,
}

#[derive(Debug)]
enum State {
    Head,
    /// Behind a head, which stays in the buffer until its request is complete.
    Body(Body, ParsedHead),
    Failed(ParseError),
    Done,
}

/// The buffers of a connection. Only a connection with bytes under way needs them, so that
/// thousands of idle ones share a few. Boxed, because they change hands with every request.
#[derive(Debug, Default)]
pub struct Buffers {
    inbound: Inbound,
    outbound: Outbound,
    head_cache: HeadCache<ParsedHead>,
}

impl Buffers {
    /// Bytes of memory.
    pub fn capacity(&self) -> usize {
        self.inbound.capacity() + self.outbound.capacity() + self.head_cache.capacity()
    }

    fn shrink(&mut self) {
        self.inbound.shrink(SPARE_BYTES_MAX);
        self.outbound.shrink(SPARE_BYTES_MAX);
        // Another client's head may be larger than all bytes under way.
        if self.head_cache.capacity() > SPARE_BYTES_MAX {
            self.head_cache = HeadCache::default();
        }
    }
}

/// An accepted request head.
#[derive(Clone, Copy, Debug)]
struct ParsedHead {
    length: usize,
    offsets: HeadOffsets,
    context: ResponseContext,
}

/// The properties of a request that its response depends on.
#[derive(Clone, Copy, Debug)]
pub struct ResponseContext {
    is_head: bool,
    version: Version,
    keep_alive: KeepAlive,
}

impl ResponseContext {
    /// For a response without a request: to a parse error, or before closing.
    pub const NO_REQUEST: ResponseContext =
        ResponseContext { is_head: false, version: Version::Http11, keep_alive: KeepAlive::Close };

    fn new(head: &RequestHead<'_>) -> ResponseContext {
        let keeps = match head.version {
            Version::Http11 => !head.headers.close,
            Version::Http10 => head.headers.keep_alive && !head.headers.close,
        };
        let keep_alive = if keeps { KeepAlive::Keep } else { KeepAlive::Close };
        ResponseContext { is_head: head.method == Method::Head, version: head.version, keep_alive }
    }

    /// The context with the connection closed after the response.
    pub fn closing(self) -> ResponseContext {
        ResponseContext { keep_alive: KeepAlive::Close, ..self }
    }
}

/// Header fields that are the same in all responses.
#[derive(Clone, Debug)]
pub struct CommonFields {
    /// `Date`.
    pub date: Date,
    /// More header lines, each ended by CRLF.
    pub lines: String,
    /// This host's name, for `X-Served-By`; `None` leaves the field out.
    pub served_by: Option<String>,
}

impl ServerConn {
    /// A connection that has just been opened.
    pub fn new(limits: Limits) -> ServerConn {
        ServerConn {
            limits,
            state: State::Head,
            buffers: None,
            empty_lines: 0,
            pending: 0,
            expects_continue: false,
        }
    }

    /// Appends bytes that the client sent.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.buffers().inbound.push(bytes);
    }

    /// The next complete request; `None` until more is received. An error is final: it is
    /// returned again, and nothing more is parsed.
    pub fn request(&mut self) -> Result<Option<(Request<'_>, ResponseContext)>, ParseError> {
        match self.parse() {
            Ok(None) => Ok(None),
            Ok(Some(head)) => Ok(self.take(head)),
            Err(error) => {
                self.state = State::Failed(error);
                Err(error)
            }
        }
    }

    /// Writes the response to the earliest request that has none.
    pub fn respond(
        &mut self,
        context: ResponseContext,
        response: &Response,
        keep_alive: KeepAlive,
        common: &CommonFields,
    ) {
        self.pending = self.pending.saturating_sub(1);
        let connection = match (context.keep_alive, keep_alive, context.version) {
            (KeepAlive::Keep, KeepAlive::Keep, Version::Http11) => "",
            (KeepAlive::Keep, KeepAlive::Keep, Version::Http10) => "Connection: keep-alive\r\n",
            _ => {
                self.state = State::Done;
                "Connection: close\r\n"
            }
        };
        let has_body = !context.is_head && !response.status.is_bodiless();
        let body = if has_body { &*response.body } else { b"" };
        let outbound = self.buffers().outbound.writer();
        write_head(response, common, connection, outbound);
        outbound.extend_from_slice(body);
        self.send_continue();
    }

    /// Stops taking requests and drops the bytes received for the next ones.
    pub fn close_read(&mut self) {
        self.state = State::Done;
        if let Some(buffers) = &mut self.buffers {
            buffers.inbound.clear();
        }
    }

    /// The bytes to send.
    pub fn outgoing(&self) -> &[u8] {
        self.buffers.as_ref().map_or(&[], |buffers| buffers.outbound.unsent())
    }

    /// Records that this many outgoing bytes were sent.
    pub fn sent(&mut self, count: usize) {
        if let Some(buffers) = &mut self.buffers {
            buffers.outbound.advance(count);
        }
    }

    /// The part of a request that is waited for.
    pub fn stage(&self) -> Stage {
        match self.state {
            State::Head if self.is_input_consumed() => Stage::Idle,
            State::Head => Stage::Head,
            State::Body(..) => Stage::Body,
            State::Failed(_) | State::Done => Stage::Done,
        }
    }

    /// Returns true if all received bytes have been parsed.
    pub fn is_input_consumed(&self) -> bool {
        self.buffers.as_ref().is_none_or(|buffers| buffers.inbound.is_consumed())
    }

    /// Returns true if it has buffers.
    pub fn has_buffers(&self) -> bool {
        self.buffers.is_some()
    }

    /// Bytes of memory in its buffers.
    pub fn capacity(&self) -> usize {
        self.buffers.as_ref().map_or(0, |buffers| buffers.capacity())
    }

    /// Attaches empty buffers.
    pub fn attach(&mut self, buffers: Box<Buffers>) {
        debug_assert!(self.buffers.is_none());
        self.buffers = Some(buffers);
    }

    /// Detaches the buffers if no bytes are in them; shrinks them to their bytes otherwise.
    pub fn detach_or_shrink(&mut self) -> Option<Box<Buffers>> {
        let buffers = self.buffers.as_mut()?;
        if buffers.inbound.is_consumed() && buffers.outbound.unsent().is_empty() {
            return self.detach();
        }
        buffers.shrink();
        None
    }

    /// Detaches the buffers and drops the bytes in them.
    pub fn detach(&mut self) -> Option<Box<Buffers>> {
        let mut buffers = self.buffers.take()?;
        buffers.inbound.clear();
        buffers.outbound.clear();
        Some(buffers)
    }

    fn buffers(&mut self) -> &mut Buffers {
        self.buffers.get_or_insert_default()
    }

    /// Advances to the end of the next request; returns its head.
    fn parse(&mut self) -> Result<Option<ParsedHead>, ParseError> {
        match self.state {
            State::Head => self.parse_head(),
            State::Body(..) => self.skip_body(),
            State::Failed(error) => Err(error),
            State::Done => Ok(None),
        }
    }

    fn parse_head(&mut self) -> Result<Option<ParsedHead>, ParseError> {
        let Some(buffers) = &mut self.buffers else { return Ok(None) };
        let Buffers { inbound, head_cache, .. } = &mut **buffers;
        if inbound.is_consumed() {
            return Ok(None);
        }
        if let Some((_, head)) = head_cache.get(inbound.unread()) {
            return Ok(Some(head));
        }
        skip_empty_lines(inbound, &mut self.empty_lines)?;
        // A client that speaks another protocol gets its error at the first byte.
        if inbound.unread().first().is_some_and(|&byte| byte != b'\r' && !is_tchar(byte)) {
            return Err(ParseError::StartLine);
        }
        let bytes_max = self.limits.head_bytes_max;
        let length = match inbound.head_length(bytes_max) {
            Ok(Some(length)) => length,
            incomplete => {
                // And at its first line: it may wait for a response before it sends more.
                let unread = inbound.unread();
                match split_line(unread.get(..bytes_max).unwrap_or(unread)) {
                    Some((line, _)) => drop(parse::request_line(line)?),
                    None if incomplete == Err(ParseError::HeadTooLarge) => {
                        return Err(ParseError::TargetTooLong);
                    }
                    None => {}
                }
                return incomplete.map(|_| None);
            }
        };
        let bytes = inbound.unread().get(..length).unwrap_or_default();
        let head = parse::request(bytes)?;
        let body = Body::new(MessageKind::Request, head.version, &head.headers, &self.limits)?;
        let context = ResponseContext::new(&head);
        let parsed = ParsedHead { length, offsets: head.offsets, context };
        if body.is_empty() {
            head_cache.put(bytes, parsed);
            return Ok(Some(parsed));
        }
        self.expects_continue = head.headers.expects_continue && head.version == Version::Http11;
        self.state = State::Body(body, parsed);
        self.skip_body()
    }

    /// Drops the body behind a head that stays where it is.
    fn skip_body(&mut self) -> Result<Option<ParsedHead>, ParseError> {
        let State::Body(body, head) = &mut self.state else { return Ok(None) };
        let Some(Buffers { inbound, .. }) = self.buffers.as_deref_mut() else { return Ok(None) };
        let mut input = inbound.unread().get(head.length..).unwrap_or_default();
        let before = input.len();
        let complete = body.decode(&mut input, |_| {})?.then_some(*head);
        let dropped = before - input.len();
        inbound.remove_behind(head.length, dropped);
        self.expects_continue &= dropped == 0 && complete.is_none();
        self.send_continue();
        Ok(complete)
    }

    /// Consumes the request whose head is at the front.
    fn take(&mut self, head: ParsedHead) -> Option<(Request<'_>, ResponseContext)> {
        self.empty_lines = 0;
        self.pending += 1;
        self.state = match head.context.keep_alive {
            KeepAlive::Keep => State::Head,
            KeepAlive::Close => State::Done,
        };
        let bytes = self.buffers.as_mut()?.inbound.take_head(head.length);
        let request = parse::rebuild(bytes, head.offsets, head.context.version)?;
        Some((request, head.context))
    }

    /// Sends `100 Continue` once no earlier response is due before it (RFC 9110 section 10.1.1).
    fn send_continue(&mut self) {
        let waits = self.expects_continue && matches!(self.state, State::Body(..));
        if waits && self.pending == 0 {
            self.expects_continue = false;
            let outbound = self.buffers().outbound.writer();
            outbound.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }
}

fn skip_empty_lines(inbound: &mut Inbound, skipped: &mut u8) -> Result<(), ParseError> {
    while let [b'\r', b'\n', ..] = inbound.unread() {
        *skipped += 1;
        if *skipped > EMPTY_LINES_MAX {
            return Err(ParseError::StartLine);
        }
        inbound.consume(2);
    }
    match inbound.unread() {
        [b'\r', other, ..] if *other != b'\n' => Err(ParseError::StartLine),
        _ => Ok(()),
    }
}

/// Writes a response head. `connection` is the `Connection` line or empty.
fn write_head(response: &Response, common: &CommonFields, connection: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(response.status.status_line());
    out.extend_from_slice(b"Date: ");
    out.extend_from_slice(&common.date);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(common.lines.as_bytes());
    if let Some(host) = &common.served_by {
        out.extend_from_slice(b"X-Served-By: ");
        if let Some(upstream) = &response.served_by {
            out.extend_from_slice(upstream.as_bytes());
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(host.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(connection.as_bytes());
    out.extend_from_slice(response.fields.as_bytes());
    // RFC 9110 8.6: no Content-Length in a 204. A 304 may leave it out.
    if !response.status.is_bodiless() {
        out.extend_from_slice(b"Content-Type: ");
        out.extend_from_slice(response.content_type.as_bytes());
        out.extend_from_slice(b"\r\nContent-Length: ");
        decimal::write(response.body.len() as u64, out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::Status;
    use super::super::every_split;
    use super::*;

    const LIMITS: Limits = Limits { head_bytes_max: 128, body_bytes_max: 32 };
    const DATE: &Date = b"Sun, 06 Nov 1994 08:49:37 GMT";
    const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

    fn ok(body: &'static str) -> Response {
        Response::json(Status::Ok, body.as_bytes())
    }

    fn common() -> CommonFields {
        CommonFields { date: *DATE, lines: String::new(), served_by: None }
    }

    /// A response as it is written to a GET.
    fn written(response: &Response, connection: Option<KeepAlive>) -> String {
        let mut out = Vec::new();
        let connection = match connection {
            None => "",
            Some(KeepAlive::Keep) => "Connection: keep-alive\r\n",
            Some(KeepAlive::Close) => "Connection: close\r\n",
        };
        write_head(response, &common(), connection, &mut out);
        out.extend_from_slice(&response.body);
        String::from_utf8(out).unwrap()
    }

    fn send_all(conn: &mut ServerConn) -> String {
        let outgoing = String::from_utf8(conn.outgoing().to_vec()).unwrap();
        conn.sent(outgoing.len());
        outgoing
    }

    /// Method and path of each request that some bytes complete, and the error after them.
    type Parsed = (Vec<String>, Vec<ResponseContext>, Option<ParseError>);

    fn parse(conn: &mut ServerConn, bytes: &[u8]) -> Parsed {
        let (mut requests, mut contexts) = (Vec::new(), Vec::new());
        conn.receive(bytes);
        loop {
            match conn.request() {
                Ok(None) => return (requests, contexts, None),
                Err(error) => return (requests, contexts, Some(error)),
                Ok(Some((request, context))) => {
                    let method = request.method.as_bytes().escape_ascii();
                    requests.push(format!("{method} {}", request.path.escape_ascii()));
                    contexts.push(context);
                }
            }
        }
    }

    /// Requests, error and final stage of input that arrives in pieces. Each request receives its
    /// response at once.
    fn serve(pieces: &[&[u8]]) -> (String, Option<ParseError>, Stage) {
        let mut conn = ServerConn::new(LIMITS);
        let (mut all, mut last) = (Vec::new(), None);
        for piece in pieces {
            let (requests, contexts, error) = parse(&mut conn, piece);
            all.extend(requests);
            for context in contexts {
                conn.respond(context, &ok("x"), KeepAlive::Keep, &common());
            }
            assert!(last.is_none() || error == last, "an error is final");
            last = error;
        }
        (all.join(", "), last, conn.stage())
    }

    fn assert_parses(input: &[u8], requests: &str, error: Option<ParseError>, stage: Stage) {
        for pieces in every_split(input) {
            let expected = (requests.to_owned(), error, stage);
            assert_eq!(serve(&pieces), expected, "{}", input.escape_ascii());
        }
    }

    fn assert_fails(input: &[u8], error: ParseError) {
        assert_parses(input, "", Some(error), Stage::Done);
        // A good request before it is served, one behind it is not parsed.
        let before = b"GET /before HTTP/1.1\r\nHost: h\r\n\r\n";
        let behind = b"\r\n\r\nGET /behind HTTP/1.1\r\nHost: h\r\n\r\n";
        let input = [before, input, behind].concat();
        for at in before.len()..input.len() {
            let found = serve(&[&input[..at], &input[at..]]);
            let expected = ("GET /before".to_owned(), Some(error), Stage::Done);
            assert_eq!(found, expected, "{} cut at {at}", input.escape_ascii());
        }
    }

    #[test]
    fn parses_requests_one_after_another() {
        const CASES: &[(&[u8], &str, Stage)] = &[
            (b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n", "GET /a", Stage::Idle),
            (
                b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nHEAD /b HTTP/1.1\r\nHost: h\r\n\r\n",
                "GET /a, HEAD /b",
                Stage::Idle,
            ),
            (
                b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\nBREW /%63 HTTP/1.2\r\nHost: h\r\n\r\nGET",
                "OPTIONS *, BREW /c",
                Stage::Head,
            ),
            // Bodies of any method, read and dropped.
            (
                b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello\
                GET /b HTTP/1.1\r\nHost: h\r\n\r\n",
                "POST /a, GET /b",
                Stage::Idle,
            ),
            (
                b"GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n\r\n\r\n\
                GET /b HTTP/1.1\r\nHost: h\r\n\r\n",
                "GET /a, GET /b",
                Stage::Idle,
            ),
            (
                b"PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                5;x=\"y\"\r\nhello\r\n0\r\nA: b\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n",
                "PUT /a, GET /b",
                Stage::Idle,
            ),
            (
                b"PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: , chunked\r\n\
                Expect: \r\n\r\n1\r\na\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n",
                "PUT /a, GET /b",
                Stage::Idle,
            ),
            (
                b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n\
                GET /b HTTP/1.1\r\nHost: h\r\n\r\n",
                "POST /a, GET /b",
                Stage::Idle,
            ),
            // A body that looks like a request.
            (
                b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 32\r\n\r\n\
                GET /b HTTP/1.1\r\nHost: h\r\nX: 1\r\n\
                GET /c HTTP/1.1\r\nHost: h\r\n\r\n",
                "POST /a, GET /c",
                Stage::Idle,
            ),
            (b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhell", "", Stage::Body),
            (
                b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r",
                "",
                Stage::Body,
            ),
            // Up to four empty lines before each request line.
            (
                b"\r\n\r\n\r\n\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n\
                \r\n\r\n\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n\r\n",
                "GET /a, GET /b",
                Stage::Idle,
            ),
            (b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n\r", "GET /a", Stage::Head),
            (b"GET /a HTTP/1.1\r\nHost: h\r\n", "", Stage::Head),
            (b"", "", Stage::Idle),
            // Bytes behind the last request are ignored.
            (
                b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: x, CLOSE\r\n\r\n\
                GET /b HTTP/1.1\r\nHost: h\r\n\r\n\0",
                "GET /a",
                Stage::Done,
            ),
            (
                b"POST /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\n\
                \0\0\0",
                "POST /a",
                Stage::Done,
            ),
            (b"GET /a HTTP/1.0\r\n\r\nGET /b HTTP/1.0\r\n\r\n", "GET /a", Stage::Done),
            (
                b"GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET /b HTTP/1.0\r\n\r\n",
                "GET /a, GET /b",
                Stage::Done,
            ),
            (
                b"GET /a HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\nGET /b HTTP/1.0\r\n\r\n",
                "GET /a",
                Stage::Done,
            ),
            (
                b"POST /a HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n\0\
                GET /b HTTP/1.1\r\nHost: h\r\n\r\n",
                "POST /a, GET /b",
                Stage::Idle,
            ),
        ];
        for (input, requests, stage) in CASES {
            assert_parses(input, requests, None, *stage);
        }
    }

    #[test]
    fn parses_a_repeated_head_as_before() {
        let head = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
        for (again, request, stage) in [
            (head, ", GET /a", Stage::Idle),
            ("\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", ", GET /a", Stage::Idle),
            ("GET /a HTTP/1.1\r\nHost: i\r\n\r\n", ", GET /a", Stage::Idle),
            ("GET /b HTTP/1.1\r\nHost: h\r\n\r\n", ", GET /b", Stage::Idle),
            ("GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", ", GET /a", Stage::Done),
            ("GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na", ", GET /a", Stage::Idle),
            ("GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n", "", Stage::Body),
            ("GET /a HTTP/1.1\r\nHost: h\r\n\r", "", Stage::Head),
            ("G", "", Stage::Head),
        ] {
            let input = [head, head, again].concat();
            let requests = ["GET /a, GET /a", request].concat();
            assert_parses(input.as_bytes(), &requests, None, stage);
        }
        for head in [
            &b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..],
            b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        ] {
            let mut conn = ServerConn::new(LIMITS);
            let mut response_to = |head| {
                let (_, contexts, _) = parse(&mut conn, head);
                conn.respond(contexts[0], &ok("x"), KeepAlive::Keep, &common());
                send_all(&mut conn)
            };
            let first = response_to(head);
            assert_eq!(response_to(head), first, "{}", head.escape_ascii());
            response_to(b"GET / HTTP/1.1\r\nHost: another\r\n\r\n");
            assert_eq!(response_to(head), first, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn rejects_malformed_requests_for_good() {
        use ParseError::{Expectation, Field, Host, StartLine, Target, Version};
        const CASES: &[(&[u8], ParseError)] = &[
            // Other protocols: TLS, SOCKS, HTTP/2, and noise.
            (b"\x16\x03\x01\x02\x00\x01", StartLine),
            (b"\x05\x01\x00", StartLine),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Version),
            (b"\0", StartLine),
            (b" GET / HTTP/1.1\r\nHost: h\r\n\r\n", StartLine),
            (b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", StartLine),
            (b"\rGET / HTTP/1.1\r\nHost: h\r\n\r\n", StartLine),
            (b"\r\rGET / HTTP/1.1\r\nHost: h\r\n\r\n", StartLine),
            (b"\r\n GET / HTTP/1.1\r\nHost: h\r\n\r\n", StartLine),
            (b"\r\n\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", StartLine),
            (b"\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", StartLine),
            // Lines that end in other ways.
            (b"GET / HTTP/1.1\nHost: h\n\n", StartLine),
            (b"GET / HTTP/1.1\rHost: h\r\r\n\r\n", StartLine),
            (b"GET / HTTP/1.1\r\nHost: h\n\r\n", Field),
            (b"GET / HTTP/1.1\r\nHost: h\r\n\n", Field),
            (b"GET / HTTP/1.1\r\nHost: h\r\n\n\r\n", Field),
            (b"GET / HTTP/1.1\r\nHost: h\r\nX: y\rZ: z\r\n\r\n", Field),
            // Lines that make no request head, of other protocols too.
            (b"GET /\r\n", StartLine),
            (b"PING\r\n", StartLine),
            (b"PROXY UNKNOWN\r\n", StartLine),
            (b"SSH-2.0-OpenSSH_9.6\r\n", StartLine),
            (b"HTTP/1.1 200 OK\r\n", StartLine),
            (b"GET / HTTP/2.0\r\n", Version),
            (b"GET /# HTTP/1.1\r\n", Target),
            // The first line counts, not those behind it.
            (b"GET /\r\nX: y\n", StartLine),
            (b"GET /\r\nX : y\r\n\r\n", StartLine),
            (b"GET /\r\n\r\n", StartLine),
            (b"GET / HTTP/0.9\r\n\r\n", Version),
            (b"GET /# HTTP/1.1\r\nHost: h\r\n\r\n", Target),
            (b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n", Target),
            (b"GET / HTTP/1.1\r\n\r\n", Host),
            (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", Field),
            (b"GET / HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n", Expectation),
        ];
        for (input, error) in CASES {
            assert_fails(input, *error);
        }
    }

    #[test]
    fn rejects_a_bad_request_line_before_a_long_head() {
        let input = [&b"GET /\r\nX: "[..], &[b'a'; 200]].concat();
        assert_parses(&input, "", Some(ParseError::StartLine), Stage::Done);
    }

    #[test]
    fn rejects_an_ambiguous_length() {
        use ParseError::{Chunk, Coding, Field, Framing, Length};
        const CASES: &[(&[u8], ParseError)] = &[
            // These follow a good request line and Host.
            (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Framing),
            (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", Framing),
            (b"Transfer-Encoding: x\r\nContent-Length: 5\r\n\r\nhello", Framing),
            (b"Transfer-Encoding:\r\nContent-Length: 0\r\n\r\n", Framing),
            (b"Transfer-Encoding: , \r\n\r\n", Framing),
            (b"Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", Framing),
            (b"Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Framing),
            (b"Transfer-Encoding: identity\r\n\r\n", Framing),
            (b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", Framing),
            (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n", Framing),
            (b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", Coding),
            (b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Coding),
            (b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Field),
            (b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", Field),
            (b"Transfer-Encoding\0: chunked\r\n\r\n0\r\n\r\n", Field),
            (b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", Field),
            (b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Field),
            (b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Field),
            (b"Content-Length: +5\r\n\r\nhello", Length),
            (b"Content-Length: 5, 5\r\n\r\nhello", Length),
            (b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Length),
            (b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", Length),
            (b"Content-Length: 18446744073709551617\r\n\r\n", Length),
            (b"Transfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n", Chunk),
            (b"Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n", Chunk),
            (b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", Chunk),
            (b"Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n", Chunk),
            (b"Transfer-Encoding: chunked\r\n\r\n1;\r\na\r\n0\r\n\r\n", Chunk),
            (b"Transfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n", Chunk),
            (b"Transfer-Encoding: chunked\r\n\r\n10000000000000001\r\n", Chunk),
            (b"Transfer-Encoding: chunked\r\n\r\n0\r\nGET / HTTP/1.1\r\n", Chunk),
        ];
        for (rest, error) in CASES {
            assert_fails(&[b"POST / HTTP/1.1\r\nHost: h\r\n", *rest].concat(), *error);
        }
        let in_10 = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        assert_fails(in_10, Framing);
    }

    #[test]
    fn accepts_a_head_up_to_the_limit() {
        const MAX: usize = LIMITS.head_bytes_max;
        let fitting = |line: &str, end: &str, length: usize| {
            let filling = "a".repeat(length - line.len() - end.len());
            [line, &filling, end].concat().into_bytes()
        };
        for (line, end) in [
            ("GET /", " HTTP/1.1\r\nHost: h\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: h\r\nX: ", "\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: h\r\n", ": y\r\n\r\n"),
        ] {
            let path = match line {
                "GET /" => "a".repeat(MAX - line.len() - end.len()),
                _ => String::new(),
            };
            for before in ["", "\r\n\r\n"] {
                let input = [before.as_bytes(), &fitting(line, end, MAX)].concat();
                assert_parses(&input, &format!("GET /{path}"), None, Stage::Idle);
                for over in [1, 2, 3, 4, 5, 10] {
                    let input = [before.as_bytes(), &fitting(line, end, MAX + over)].concat();
                    assert_parses(&input, "", Some(ParseError::HeadTooLarge), Stage::Done);
                }
            }
        }
        // A request line that alone is too long: its LF is the first byte over, or never comes.
        let line = fitting("GET /", " HTTP/1.1\r\n", MAX);
        assert_parses(&line, "", None, Stage::Head);
        let over = [&line, &b"\r\n"[..]].concat();
        assert_parses(&over, "", Some(ParseError::HeadTooLarge), Stage::Done);
        for over in [1, 2, 100] {
            let line = fitting("GET /", " HTTP/1.1\r\n", MAX + over);
            assert_parses(&line, "", Some(ParseError::TargetTooLong), Stage::Done);
        }
        assert_parses(&[b'a'; MAX + 1], "", Some(ParseError::TargetTooLong), Stage::Done);
    }

    #[test]
    fn ignores_bytes_behind_the_limit_of_a_head() {
        let field = [&b"GET / HTTP/1.1\r\nX: "[..], &[b'a'; 200]].concat();
        for (start, error) in
            [(&[b'a'; 200][..], ParseError::TargetTooLong), (&field, ParseError::HeadTooLarge)]
        {
            for end in [&b"\n"[..], b"\r\n", b"\r\n\r\n", b"\n\n", b"\0"] {
                assert_parses(&[start, end].concat(), "", Some(error), Stage::Done);
            }
        }
    }

    #[test]
    fn limits_the_number_of_fields() {
        let limits = Limits { head_bytes_max: 16 << 10, ..LIMITS };
        for (more, expected) in [(127, None), (128, Some(ParseError::HeadTooLarge))] {
            let mut conn = ServerConn::new(limits);
            let input = [b"GET / HTTP/1.1\r\nHost: h\r\n", &b"X:\r\n".repeat(more)[..], b"\r\n"];
            assert_eq!(parse(&mut conn, &input.concat()).2, expected, "{more}");
        }
    }

    #[test]
    fn accepts_a_body_up_to_the_limit() {
        const TOO_LARGE: Option<ParseError> = Some(ParseError::BodyTooLarge);
        const TRAILERS_TOO_LARGE: Option<ParseError> = Some(ParseError::TrailersTooLarge);
        let (body, much) = ("a".repeat(32), "a".repeat(160));
        let sized = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: ";
        let chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (input, error) in [
            (format!("{sized}32\r\n\r\n{body}"), None),
            (format!("{sized}33\r\n\r\n"), TOO_LARGE),
            (format!("{sized}18446744073709551615\r\n\r\n"), TOO_LARGE),
            (format!("{chunked}20\r\n{body}\r\n0\r\n\r\n"), None),
            (format!("{chunked}21\r\n"), TOO_LARGE),
            (format!("{chunked}ffffffffffffffff\r\n"), TOO_LARGE),
            (format!("{chunked}1f\r\n{}\r\n1\r\na\r\n0\r\n\r\n", &body[1..]), None),
            (format!("{chunked}1f\r\n{}\r\n2\r\n", &body[1..]), TOO_LARGE),
            (format!("{chunked}0;{much}\r\n\r\n"), TRAILERS_TOO_LARGE),
            (format!("{chunked}0\r\nX: {much}\r\n\r\n"), TRAILERS_TOO_LARGE),
        ] {
            let (requests, stage) = match error {
                None => ("POST /", Stage::Idle),
                Some(_) => ("", Stage::Done),
            };
            assert_parses(input.as_bytes(), requests, error, stage);
        }
    }

    #[test]
    fn the_stage_follows_the_bytes() {
        use Stage::{Body, Done, Head, Idle};
        let steps: &[(&[u8], Stage)] = &[
            (b"", Idle),
            (b"\r", Head),
            (b"\n", Idle),
            (b"G", Head),
            (b"ET / HTTP/1.1\r\nHost: h\r\n\r", Head),
            (b"\n", Idle),
            (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r", Head),
            (b"\n", Body),
            (b"a", Body),
            (b"b", Idle),
            (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", Body),
            (b"1\r\na\r\n0\r\n\r", Body),
            (b"\nG", Head),
            (b"ET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", Done),
            (b"GET", Done),
        ];
        let mut conn = ServerConn::new(LIMITS);
        for (bytes, stage) in steps {
            parse(&mut conn, bytes);
            assert_eq!(conn.stage(), *stage, "{}", bytes.escape_ascii());
            let is_consumed = bytes.ends_with(b"\n") && matches!(stage, Idle | Done);
            let is_consumed = is_consumed || matches!(*bytes, b"" | b"b");
            assert_eq!(conn.is_input_consumed(), is_consumed, "{}", bytes.escape_ascii());
        }
        let mut conn = ServerConn::new(LIMITS);
        conn.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        conn.close_read();
        assert_eq!(conn.stage(), Done);
        assert!(matches!(conn.request(), Ok(None)));
    }

    #[test]
    fn writes_responses_in_order() {
        let mut conn = ServerConn::new(LIMITS);
        let input = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nHEAD /b HTTP/1.1\r\nHost: h\r\n\r\n\
            GET /c HTTP/1.0\r\nConnection: keep-alive\r\n\r\n\
            GET /d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n\
            GET /e HTTP/1.1\r\nHost: h\r\n\r\n";
        let (requests, contexts, error) = parse(&mut conn, input);
        assert_eq!(requests, ["GET /a", "HEAD /b", "GET /c", "GET /d"]);
        assert_eq!(error, None);
        let mut expected = String::new();
        for (context, (body, connection)) in contexts.into_iter().zip([
            ("one", None),
            ("two", None),
            ("three", Some(KeepAlive::Keep)),
            ("four", Some(KeepAlive::Close)),
        ]) {
            conn.respond(context, &ok(body), KeepAlive::Keep, &common());
            let written = written(&ok(body), connection);
            // HEAD: the head of the response to GET.
            expected.push_str(written.strip_suffix("two").unwrap_or(&written));
        }
        // The socket takes a few bytes at a time.
        let mut sent = Vec::new();
        while let Some(portion) = conn.outgoing().chunks(7).next() {
            sent.extend_from_slice(portion);
            let count = portion.len();
            conn.sent(count);
        }
        assert_eq!(String::from_utf8(sent).unwrap(), expected);
    }

    #[test]
    fn takes_no_request_after_a_closing_response() {
        for (request, keep_alive, connection) in [
            (&b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..], KeepAlive::Keep, None),
            (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", KeepAlive::Close, Some(KeepAlive::Close)),
            (b"GET / HTTP/1.0\r\n\r\n", KeepAlive::Keep, Some(KeepAlive::Close)),
            (b"GET / HTTP/1.0\r\n\r\n", KeepAlive::Close, Some(KeepAlive::Close)),
            (
                b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
                KeepAlive::Keep,
                Some(KeepAlive::Keep),
            ),
            (
                b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
                KeepAlive::Close,
                Some(KeepAlive::Close),
            ),
        ] {
            let case = request.escape_ascii();
            let mut conn = ServerConn::new(LIMITS);
            let (_, contexts, _) = parse(&mut conn, request);
            conn.respond(contexts[0], &ok("x"), keep_alive, &common());
            assert_eq!(send_all(&mut conn), written(&ok("x"), connection), "{case}");
            let closes = connection == Some(KeepAlive::Close);
            assert_eq!(conn.stage() == Stage::Done, closes, "{case}");
            let (requests, ..) = parse(&mut conn, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!(requests.is_empty(), closes, "{case}");
        }
        let mut conn = ServerConn::new(LIMITS);
        let (_, contexts, _) = parse(&mut conn, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        conn.respond(contexts[0].closing(), &ok("x"), KeepAlive::Keep, &common());
        assert_eq!(send_all(&mut conn), written(&ok("x"), Some(KeepAlive::Close)));
        assert_eq!(conn.stage(), Stage::Done);
    }

    #[test]
    fn writes_the_response_to_an_error_after_earlier_responses() {
        let mut conn = ServerConn::new(LIMITS);
        let (_, contexts, error) =
            parse(&mut conn, b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        assert_eq!(error, Some(ParseError::Host));
        conn.respond(contexts[0], &ok("x"), KeepAlive::Keep, &common());
        assert_eq!(conn.request().map(drop), Err(ParseError::Host));
        let bad = Response::json(Status::BadRequest, &b"bad"[..]);
        conn.respond(ResponseContext::NO_REQUEST, &bad, KeepAlive::Keep, &common());
        assert_eq!(
            send_all(&mut conn),
            written(&ok("x"), None) + &written(&bad, Some(KeepAlive::Close))
        );
        assert_eq!(conn.stage(), Stage::Done);
    }

    #[test]
    fn sends_100_continue_to_a_client_that_waits() {
        const EXPECTS: &str = "POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n";
        for (framing, body) in [
            ("Content-Length: 5\r\n\r\n", "hello"),
            ("Transfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n0\r\n\r\n"),
        ] {
            let mut conn = ServerConn::new(LIMITS);
            let head = [EXPECTS, framing].concat();
            assert_eq!(parse(&mut conn, head.as_bytes()).0, [""; 0]);
            assert_eq!(send_all(&mut conn), CONTINUE);
            // Only once.
            parse(&mut conn, b"");
            assert_eq!(send_all(&mut conn), "");
            let (requests, contexts, _) = parse(&mut conn, body.as_bytes());
            assert_eq!(requests, ["POST /a"]);
            assert_eq!(send_all(&mut conn), "");
            conn.respond(contexts[0], &ok("x"), KeepAlive::Keep, &common());
            assert_eq!(send_all(&mut conn), written(&ok("x"), None));
            // A client whose body has begun does not wait.
            for start in 1..=body.len() {
                let mut conn = ServerConn::new(LIMITS);
                parse(&mut conn, [&head, &body[..start]].concat().as_bytes());
                assert_eq!(send_all(&mut conn), "", "{framing}{}", &body[..start]);
            }
        }
    }

    #[test]
    fn sends_no_100_continue_to_a_client_that_does_not_wait() {
        for head in [
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 33\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\nContent-Length: 5\r\n\r\n",
            // RFC 9110 10.1.1: an HTTP/1.0 client cannot wait for it.
            "POST / HTTP/1.0\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        ] {
            let mut conn = ServerConn::new(LIMITS);
            parse(&mut conn, head.as_bytes());
            assert_eq!(send_all(&mut conn), "", "{head}");
        }
    }

    #[test]
    fn sends_100_continue_after_earlier_responses() {
        let mut conn = ServerConn::new(LIMITS);
        let input = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n\
            PUT /c HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        let (requests, contexts, _) = parse(&mut conn, input);
        assert_eq!(requests, ["GET /a", "GET /b"]);
        assert_eq!(conn.stage(), Stage::Body);
        let [first, second] = contexts.try_into().unwrap();
        assert_eq!(send_all(&mut conn), "");
        conn.respond(first, &ok("x"), KeepAlive::Keep, &common());
        assert_eq!(send_all(&mut conn), written(&ok("x"), None));
        conn.respond(second, &ok("y"), KeepAlive::Keep, &common());
        assert_eq!(send_all(&mut conn), written(&ok("y"), None) + CONTINUE);
        assert_eq!(parse(&mut conn, b"hello").0, ["PUT /c"]);
    }

    #[test]
    fn sends_no_100_continue_for_a_request_it_will_not_take() {
        const EXPECTS: &str = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\
            Transfer-Encoding: chunked\r\n\r\n";
        let bad = Response::json(Status::BadRequest, &b"bad"[..]);
        let rejected = written(&bad, Some(KeepAlive::Close));
        // Its body is malformed.
        let mut conn = ServerConn::new(LIMITS);
        let (.., error) = parse(&mut conn, [EXPECTS, "x"].concat().as_bytes());
        assert_eq!(error, Some(ParseError::Chunk));
        conn.respond(ResponseContext::NO_REQUEST, &bad, KeepAlive::Close, &common());
        assert_eq!(send_all(&mut conn), rejected);
        // The connection stops taking requests while an earlier response is due.
        for keep_alive in [KeepAlive::Keep, KeepAlive::Close] {
            let mut conn = ServerConn::new(LIMITS);
            let input = ["GET / HTTP/1.1\r\nHost: h\r\n\r\n", EXPECTS].concat();
            let (_, contexts, _) = parse(&mut conn, input.as_bytes());
            if keep_alive == KeepAlive::Keep {
                conn.close_read();
            }
            conn.respond(contexts[0], &ok("x"), keep_alive, &common());
            let connection = Some(keep_alive).filter(|keep_alive| *keep_alive == KeepAlive::Close);
            assert_eq!(send_all(&mut conn), written(&ok("x"), connection), "{keep_alive:?}");
        }
    }

    #[test]
    fn shrinks_buffers_to_the_bytes_under_way() {
        let limits = Limits { head_bytes_max: 128, body_bytes_max: 60_000 };
        let body = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n";
        let body = [&body[..], &b"x".repeat(60_000)].concat();
        let heads = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(2000);
        for (input, requests) in [(body, 1), (heads, 2000)] {
            let mut conn = ServerConn::new(limits);
            let (most, last) = input.split_at(input.len() - 1);
            let (before, contexts, _) = parse(&mut conn, most);
            for context in contexts {
                conn.respond(context, &ok("x"), KeepAlive::Keep, &common());
            }
            send_all(&mut conn);
            assert!(conn.detach_or_shrink().is_none());
            assert!(conn.capacity() < 2 * SPARE_BYTES_MAX);
            let (after, ..) = parse(&mut conn, last);
            assert_eq!(before.len() + after.len(), requests);
        }
    }

    #[test]
    fn detaches_buffers_when_no_bytes_are_under_way() {
        let mut conn = ServerConn::new(LIMITS);
        assert!(!conn.has_buffers());
        let mut buffers = Box::<Buffers>::default();
        for (before, behind) in [
            ("GET /", "a HTTP/1.1\r\nHost: hosts\r\n\r\n"),
            ("GET /a HTTP/1.1\r\nHost: host\r\n\r", "\n"),
            ("\r", "\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n"),
            ("GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n", "a"),
            (
                "\r\nGET /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
                "0\r\n\r\n\r\n",
            ),
        ] {
            conn.attach(buffers);
            assert_eq!(parse(&mut conn, before.as_bytes()).0, [""; 0], "{before}");
            assert!(conn.detach_or_shrink().is_none(), "within a request: {before}");
            let (requests, contexts, _) = parse(&mut conn, behind.as_bytes());
            assert_eq!(requests, ["GET /a"], "{before}");
            // A request that waits for its response needs no bytes.
            buffers = conn.detach_or_shrink().unwrap();
            assert!(buffers.capacity() > 0 && !conn.has_buffers());
            conn.attach(buffers);
            conn.respond(contexts[0], &ok("x"), KeepAlive::Keep, &common());
            conn.sent(1);
            assert!(conn.detach_or_shrink().is_none(), "within a response: {before}");
            let left = send_all(&mut conn);
            assert_eq!(left, written(&ok("x"), None)[1..], "{before}");
            buffers = conn.detach_or_shrink().unwrap();
            assert_eq!(conn.stage(), Stage::Idle);
        }
        // No bytes are left over, neither here nor in another connection.
        conn.attach(buffers);
        assert_eq!(parse(&mut conn, b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n").0, ["GET /b"]);
        buffers = conn.detach_or_shrink().unwrap();
        let mut another = ServerConn::new(LIMITS);
        another.attach(buffers);
        assert_eq!((another.stage(), another.outgoing()), (Stage::Idle, &b""[..]));
        assert_eq!(parse(&mut another, b"").0, [""; 0]);
    }

    #[test]
    fn keeps_the_fields_of_a_request_with_a_body() {
        let input = b"POST /%61 HTTP/1.0\r\nX: y\r\nUser-Agent:  caf\xc3\xa9 \r\n\
            Content-Length: 5\r\n\r\nhelloX";
        for pieces in every_split(input) {
            let mut conn = ServerConn::new(LIMITS);
            let mut seen = 0;
            for piece in pieces {
                conn.receive(piece);
                let Ok(Some((request, _))) = conn.request() else { continue };
                seen += 1;
                assert_eq!((request.method, &*request.path), (Method::Post, &b"/a"[..]));
                assert_eq!(request.version, Version::Http10);
                assert_eq!(request.fields.get("user-agent"), Some(&b"caf\xc3\xa9"[..]));
            }
            assert_eq!(seen, 1);
        }
    }

    #[test]
    fn buffers_at_most_one_head() {
        let chunks = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let endless: &[(&str, &str)] = &[
            ("", "\r\n"),
            ("", "a"),
            ("GET / HTTP/1.1\r\n", "X: y\r\n"),
            ("GET / HTTP/1.1\r\nX: ", "y"),
            ("", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
            ("", "GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n"),
            ("", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\naaaaaaaaaaaaaaaaaaaa"),
            (chunks, "1\r\na\r\n"),
            (chunks, "0"),
            (&[chunks, "1;"].concat(), "a"),
            (&[chunks, "0\r\n"].concat(), "X: y\r\n"),
        ];
        for (start, more) in endless {
            for piece_bytes in [1, 3, 64] {
                let input = [start, &*more.repeat(1000)].concat();
                let mut conn = ServerConn::new(LIMITS);
                for piece in input.as_bytes().chunks(piece_bytes) {
                    let (_, contexts, error) = parse(&mut conn, piece);
                    for context in contexts {
                        conn.respond(context, &ok("x"), KeepAlive::Keep, &common());
                    }
                    send_all(&mut conn);
                    let kept = conn.buffers().inbound.unread().len();
                    assert!(kept <= LIMITS.head_bytes_max + piece_bytes, "{kept} of {start}{more}");
                    if error.is_some() {
                        break;
                    }
                }
                let capacity = conn.capacity();
                assert!(capacity <= 2048, "{capacity} for {start}{more}");
            }
        }
    }

    #[test]
    fn buffers_do_not_grow_for_a_client_that_never_reads_all() {
        let mut conn = ServerConn::new(LIMITS);
        let mut received = Vec::new();
        for round in 0..2000 {
            let (_, contexts, _) = parse(&mut conn, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            let body = ["even", "odd"][round % 2];
            conn.respond(contexts[0], &ok(body), KeepAlive::Keep, &common());
            let count = conn.outgoing().len() - 7;
            received.extend_from_slice(&conn.outgoing()[..count]);
            conn.sent(count);
            assert!(conn.capacity() <= 1024, "in round {round}");
        }
        received.extend_from_slice(send_all(&mut conn).as_bytes());
        let received = String::from_utf8(received).unwrap();
        let bodies: Vec<_> = received.split("\r\n\r\n").skip(1).collect();
        assert_eq!(bodies.len(), 2000);
        for pair in bodies.chunks(2) {
            assert!(pair[0].starts_with("even") && pair[1].starts_with("odd"), "{pair:?}");
        }
    }

    #[test]
    fn writes_a_response_to_the_byte() {
        let written = |response: &Response, common: &CommonFields, connection: &str| {
            let mut out = b"before".to_vec();
            write_head(response, common, connection, &mut out);
            String::from_utf8(out).unwrap()
        };
        let json = Response::json(Status::Ok, &b"{\"a\": 1}\n"[..]);
        let head = "beforeHTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Content-Type: application/json\r\nContent-Length: 9\r\n\r\n";
        assert_eq!(written(&json, &common(), ""), head);
        for connection in ["Connection: keep-alive\r\n", "Connection: close\r\n"] {
            let expected = head.replace("Content-Type", &[connection, "Content-Type"].concat());
            assert_eq!(written(&json, &common(), connection), expected);
        }
        let fields = "Allow: GET, HEAD, OPTIONS\r\n";
        let not_allowed = Response { status: Status::MethodNotAllowed, fields, ..json.clone() };
        assert_eq!(
            written(&not_allowed, &common(), ""),
            "beforeHTTP/1.1 405 Method Not Allowed\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Allow: GET, HEAD, OPTIONS\r\n\
            Content-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        );
        // RFC 9110 8.6: no length in a 204.
        let no_content = Response { status: Status::NoContent, fields, body: b"".into(), ..json };
        assert_eq!(
            written(&no_content, &common(), ""),
            "beforeHTTP/1.1 204 No Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Allow: GET, HEAD, OPTIONS\r\n\r\n"
        );
        let not_modified = Response { status: Status::NotModified, ..no_content };
        assert_eq!(
            written(&not_modified, &common(), ""),
            "beforeHTTP/1.1 304 Not Modified\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Allow: GET, HEAD, OPTIONS\r\n\r\n"
        );
        let page = Response {
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            ..Response::json(Status::Ok, vec![b'a'; 1050])
        };
        assert_eq!(
            written(&page, &common(), ""),
            "beforeHTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Content-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: 1050\r\n\r\n"
        );
    }

    #[test]
    fn writes_the_common_fields_into_each_response() {
        let common = CommonFields {
            date: *DATE,
            lines: "Server: it/1\r\nX-A: b\r\n".to_owned(),
            served_by: Some("here".to_owned()),
        };
        for (served_by, hosts) in [(None, "here"), (Some("one, two"), "one, two, here")] {
            let response = Response { served_by: served_by.map(Into::into), ..ok("x") };
            let mut conn = ServerConn::new(LIMITS);
            conn.respond(ResponseContext::NO_REQUEST, &response, KeepAlive::Close, &common);
            let expected = format!(
                "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
                Server: it/1\r\nX-A: b\r\nX-Served-By: {hosts}\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 1\r\n\r\nx"
            );
            assert_eq!(send_all(&mut conn), expected);
        }
    }
}

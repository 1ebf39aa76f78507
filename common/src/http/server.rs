//! The server half of an HTTP/1.1 connection, without the connection: bytes in, requests out;
//! responses in, bytes out. Requests may be taken ahead (pipelining, RFC 9112 section 9.3.2);
//! their responses are written in the same order.

use super::body::{Body, Chunk, Leniency, MessageKind};
use super::buffer::{HeadCache, HeadLength, Inbound, Outbound};
use super::grammar::{is_tchar, split_line};
use super::parse::{self, HeadOffsets, RequestHead};
use super::{Date, KeepAlive, Limits, Method, ParseError, Request, Response, Status, Version};

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
    unanswered: usize,
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
            unanswered: 0,
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
        self.unanswered = self.unanswered.saturating_sub(1);
        let connection = match (context.keep_alive, keep_alive, context.version) {
            (KeepAlive::Keep, KeepAlive::Keep, Version::Http11) => "",
            (KeepAlive::Keep, KeepAlive::Keep, Version::Http10) => "Connection: keep-alive\r\n",
            _ => {
                self.state = State::Done;
                "Connection: close\r\n"
            }
        };
        let body = if context.is_head { b"" } else { &*response.body };
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

    /// Records that so many outgoing bytes were sent.
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
        let length = match inbound.head_length(self.limits.head_bytes_max)? {
            HeadLength::Complete(length) => length,
            HeadLength::Partial => {
                // And at its first line: it may wait for an answer before it sends more.
                if let Some((line, _)) = split_line(inbound.unread()) {
                    parse::request_line(line)?;
                }
                return Ok(None);
            }
            HeadLength::TooLong { in_first_line: true } => return Err(ParseError::TargetTooLong),
            HeadLength::TooLong { in_first_line: false } => return Err(ParseError::HeadTooLarge),
        };
        let bytes = inbound.unread().get(..length).unwrap_or_default();
        let head = parse::request(bytes)?;
        let body = Body::new(
            MessageKind::Request,
            head.version,
            &head.headers,
            &self.limits,
            Leniency::Strict,
        )?;
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
        let complete = loop {
            match body.decode(&mut input)? {
                Chunk::Data(_) => {}
                Chunk::Partial => break None,
                Chunk::Complete => break Some(*head),
            }
        };
        let dropped = before - input.len();
        inbound.remove_behind(head.length, dropped);
        self.expects_continue &= dropped == 0 && complete.is_none();
        self.send_continue();
        Ok(complete)
    }

    /// Consumes the request whose head is at the front.
    fn take(&mut self, head: ParsedHead) -> Option<(Request<'_>, ResponseContext)> {
        self.empty_lines = 0;
        self.unanswered += 1;
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
        if waits && self.unanswered == 0 {
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
    if !matches!(response.status, Status::NoContent | Status::NotModified) {
        out.extend_from_slice(b"Content-Type: ");
        out.extend_from_slice(response.content_type.as_bytes());
        out.extend_from_slice(b"\r\nContent-Length: ");
        write_decimal(response.body.len(), out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn write_decimal(mut number: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut length = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        length += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(20 - length..).unwrap_or_default());
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::{Status, every_way};
    use super::*;

    const LIMITS: Limits = Limits { head_bytes_max: 128, body_bytes_max: 32 };
    const DATE: &Date = b"Sun, 06 Nov 1994 08:49:37 GMT";
    const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

    fn answer(body: &'static str) -> Response {
        Response::json(Status::Ok, body.as_bytes())
    }

    fn written(response: &Response, connection: Option<Then>) -> String {
        let mut out = Vec::new();
        head::write_response(response, DATE, connection, true, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn send_all(conversation: &mut Conversation) -> String {
        let outgoing = String::from_utf8(conversation.outgoing().to_vec()).unwrap();
        conversation.sent(outgoing.len());
        outgoing
    }

    /// The requests that some bytes complete, in words, and the refusal after them.
    type Heard = (Vec<String>, Vec<Asked>, Option<Refusal>);

    fn hear(conversation: &mut Conversation, bytes: &[u8]) -> Heard {
        let (mut requests, mut asked) = (Vec::new(), Vec::new());
        conversation.receive(bytes);
        loop {
            match conversation.request() {
                Ok(None) => return (requests, asked, None),
                Err(refusal) => return (requests, asked, Some(refusal)),
                Ok(Some((request, by))) => {
                    let method = request.method.token().escape_ascii();
                    requests.push(format!("{method} {}", request.path.escape_ascii()));
                    asked.push(by);
                }
            }
        }
    }

    /// The same of input that comes in pieces, each request being answered at once.
    fn converse(pieces: &[&[u8]]) -> (String, Option<Refusal>, Stage) {
        let mut conversation = Conversation::new(LIMITS);
        let (mut all, mut last) = (Vec::new(), None);
        for piece in pieces {
            let (requests, asked, refusal) = hear(&mut conversation, piece);
            all.extend(requests);
            for by in asked {
                conversation.reply(by, &answer("x"), Then::Keep, DATE);
            }
            assert!(last.is_none() || refusal == last, "a refusal is final");
            last = refusal;
        }
        (all.join(", "), last, conversation.stage())
    }

    fn assert_conversed(input: &[u8], requests: &str, refusal: Option<Refusal>, stage: Stage) {
        for pieces in every_way(input) {
            let expected = (requests.to_owned(), refusal, stage);
            assert_eq!(converse(&pieces), expected, "{}", input.escape_ascii());
        }
    }

    fn assert_refused(input: &[u8], refusal: Refusal) {
        assert_conversed(input, "", Some(refusal), Stage::Over);
        // A good request before it is answered, one behind it is not taken.
        let before = b"GET /before HTTP/1.1\r\nHost: h\r\n\r\n";
        let behind = b"\r\n\r\nGET /behind HTTP/1.1\r\nHost: h\r\n\r\n";
        let input = [before, input, behind].concat();
        for at in before.len()..input.len() {
            let found = converse(&[&input[..at], &input[at..]]);
            let expected = ("GET /before".to_owned(), Some(refusal), Stage::Over);
            assert_eq!(found, expected, "{} cut at {at}", input.escape_ascii());
        }
    }

    #[test]
    fn requests_are_taken_one_after_the_other() {
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
                b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n\
                GET /b HTTP/1.1\r\nHost: h\r\n\r\n",
                "POST /a, GET /b",
                Stage::Idle,
            ),
            // A body that looks like a request is none.
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
            // Empty lines before a request line, each time a few.
            (
                b"\r\n\r\n\r\n\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n\
                \r\n\r\n\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n\r\n",
                "GET /a, GET /b",
                Stage::Idle,
            ),
            (b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n\r", "GET /a", Stage::Head),
            (b"GET /a HTTP/1.1\r\nHost: h\r\n", "", Stage::Head),
            (b"", "", Stage::Idle),
            // After the last request nothing is taken, whatever it is.
            (
                b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: x, CLOSE\r\n\r\n\
                GET /b HTTP/1.1\r\nHost: h\r\n\r\n\0",
                "GET /a",
                Stage::Over,
            ),
            (
                b"POST /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\n\
                \0\0\0",
                "POST /a",
                Stage::Over,
            ),
            (b"GET /a HTTP/1.0\r\n\r\nGET /b HTTP/1.0\r\n\r\n", "GET /a", Stage::Over),
            (
                b"GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET /b HTTP/1.0\r\n\r\n",
                "GET /a, GET /b",
                Stage::Over,
            ),
            (
                b"GET /a HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\nGET /b HTTP/1.0\r\n\r\n",
                "GET /a",
                Stage::Over,
            ),
            (
                b"POST /a HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n\0\
                GET /b HTTP/1.1\r\nHost: h\r\n\r\n",
                "POST /a, GET /b",
                Stage::Idle,
            ),
        ];
        for (input, requests, stage) in CASES {
            assert_conversed(input, requests, None, *stage);
        }
    }

    #[test]
    fn a_head_that_comes_again_is_taken_as_before() {
        let head = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
        for (again, request, stage) in [
            (head, ", GET /a", Stage::Idle),
            ("\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", ", GET /a", Stage::Idle),
            ("GET /a HTTP/1.1\r\nHost: i\r\n\r\n", ", GET /a", Stage::Idle),
            ("GET /b HTTP/1.1\r\nHost: h\r\n\r\n", ", GET /b", Stage::Idle),
            ("GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", ", GET /a", Stage::Over),
            ("GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na", ", GET /a", Stage::Idle),
            ("GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n", "", Stage::Body),
            ("GET /a HTTP/1.1\r\nHost: h\r\n\r", "", Stage::Head),
            ("G", "", Stage::Head),
        ] {
            let input = [head, head, again].concat();
            let requests = ["GET /a, GET /a", request].concat();
            assert_conversed(input.as_bytes(), &requests, None, stage);
        }
        for head in [
            &b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..],
            b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        ] {
            let mut conversation = Conversation::new(LIMITS);
            let mut answer_to = |head| {
                let (_, asked, _) = hear(&mut conversation, head);
                conversation.reply(asked[0], &answer("x"), Then::Keep, DATE);
                send_all(&mut conversation)
            };
            let first = answer_to(head);
            assert_eq!(answer_to(head), first, "{}", head.escape_ascii());
            answer_to(b"GET / HTTP/1.1\r\nHost: another\r\n\r\n");
            assert_eq!(answer_to(head), first, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn what_cannot_be_trusted_is_refused_for_good() {
        use Refusal::{Expectation, Field, Host, StartLine, Target, Version};
        const CASES: &[(&[u8], Refusal)] = &[
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
            // The rest of a head.
            (b"GET /\r\n\r\n", StartLine),
            (b"GET / HTTP/0.9\r\n\r\n", Version),
            (b"GET /# HTTP/1.1\r\nHost: h\r\n\r\n", Target),
            (b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n", Target),
            (b"GET / HTTP/1.1\r\n\r\n", Host),
            (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", Field),
            (b"GET / HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n", Expectation),
        ];
        for (input, refusal) in CASES {
            assert_refused(input, *refusal);
        }
    }

    #[test]
    fn a_length_that_another_reader_could_see_differently_is_refused() {
        use Refusal::{Chunk, Coding, Field, Framing, Length};
        const CASES: &[(&[u8], Refusal)] = &[
            // What follows a good request line and Host.
            (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Framing),
            (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", Framing),
            (b"Transfer-Encoding: x\r\nContent-Length: 5\r\n\r\nhello", Framing),
            (b"Transfer-Encoding:\r\nContent-Length: 0\r\n\r\n", Framing),
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
            (b"Transfer-Encoding: chunked\r\n\r\n10000000000000001\r\n", Chunk),
            (b"Transfer-Encoding: chunked\r\n\r\n0\r\nGET / HTTP/1.1\r\n", Chunk),
        ];
        for (rest, refusal) in CASES {
            assert_refused(&[b"POST / HTTP/1.1\r\nHost: h\r\n", *rest].concat(), *refusal);
        }
        let in_10 = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        assert_refused(in_10, Framing);
    }

    #[test]
    fn a_refusal_shows_its_peer_the_status() {
        for (refusal, code) in [
            (Refusal::StartLine, 400),
            (Refusal::Version, 505),
            (Refusal::Target, 400),
            (Refusal::TargetTooLong, 414),
            (Refusal::Field, 400),
            (Refusal::HeadTooLarge, 431),
            (Refusal::Host, 400),
            (Refusal::Length, 400),
            (Refusal::Framing, 400),
            (Refusal::Coding, 501),
            (Refusal::Chunk, 400),
            (Refusal::TrailersTooLarge, 431),
            (Refusal::BodyTooLarge, 413),
            (Refusal::Expectation, 417),
            (Refusal::Slow, 408),
            (Refusal::Crowded, 503),
            (Refusal::Overloaded, 503),
        ] {
            assert_eq!(refusal.status().code(), code, "{refusal}");
        }
    }

    #[test]
    fn a_head_may_be_as_long_as_the_limit_and_no_longer() {
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
                assert_conversed(&input, &format!("GET /{path}"), None, Stage::Idle);
                for over in [1, 2, 3, 4, 5, 10] {
                    let input = [before.as_bytes(), &fitting(line, end, MAX + over)].concat();
                    assert_conversed(&input, "", Some(Refusal::HeadTooLarge), Stage::Over);
                }
            }
        }
        // A request line that alone is too long: its LF is the first byte over, or never comes.
        let line = fitting("GET /", " HTTP/1.1\r\n", MAX);
        assert_conversed(&line, "", None, Stage::Head);
        let over = [&line, &b"\r\n"[..]].concat();
        assert_conversed(&over, "", Some(Refusal::HeadTooLarge), Stage::Over);
        for over in [1, 2, 100] {
            let line = fitting("GET /", " HTTP/1.1\r\n", MAX + over);
            assert_conversed(&line, "", Some(Refusal::TargetTooLong), Stage::Over);
        }
        assert_conversed(&[b'a'; MAX + 1], "", Some(Refusal::TargetTooLong), Stage::Over);
    }

    #[test]
    fn what_stands_behind_the_limit_of_a_head_does_not_matter() {
        let field = [&b"GET / HTTP/1.1\r\nX: "[..], &[b'a'; 200]].concat();
        for (start, refusal) in
            [(&[b'a'; 200][..], Refusal::TargetTooLong), (&field, Refusal::HeadTooLarge)]
        {
            for end in [&b"\n"[..], b"\r\n", b"\r\n\r\n", b"\n\n", b"\0"] {
                assert_conversed(&[start, end].concat(), "", Some(refusal), Stage::Over);
            }
        }
    }

    #[test]
    fn fields_are_bounded_in_number_too() {
        let limits = Limits { head_bytes_max: 16 << 10, ..LIMITS };
        for (more, expected) in [(127, None), (128, Some(Refusal::HeadTooLarge))] {
            let mut conversation = Conversation::new(limits);
            let input = [b"GET / HTTP/1.1\r\nHost: h\r\n", &b"X:\r\n".repeat(more)[..], b"\r\n"];
            assert_eq!(hear(&mut conversation, &input.concat()).2, expected, "{more}");
        }
    }

    #[test]
    fn a_body_may_be_as_long_as_the_limit_and_no_longer() {
        const TOO_LARGE: Option<Refusal> = Some(Refusal::BodyTooLarge);
        const TRAILERS_TOO_LARGE: Option<Refusal> = Some(Refusal::TrailersTooLarge);
        let (body, much) = ("a".repeat(32), "a".repeat(160));
        let sized = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: ";
        let chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (input, refusal) in [
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
            let (requests, stage) = match refusal {
                None => ("POST /", Stage::Idle),
                Some(_) => ("", Stage::Over),
            };
            assert_conversed(input.as_bytes(), requests, refusal, stage);
        }
    }

    #[test]
    fn a_stage_says_what_is_waited_for() {
        use Stage::{Body, Head, Idle, Over};
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
            (b"ET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", Over),
            (b"GET", Over),
        ];
        let mut conversation = Conversation::new(LIMITS);
        for (bytes, stage) in steps {
            hear(&mut conversation, bytes);
            assert_eq!(conversation.stage(), *stage, "{}", bytes.escape_ascii());
            let caught_up = bytes.ends_with(b"\n") && matches!(stage, Idle | Over);
            let caught_up = caught_up || matches!(*bytes, b"" | b"b");
            assert_eq!(conversation.is_caught_up(), caught_up, "{}", bytes.escape_ascii());
        }
        let mut conversation = Conversation::new(LIMITS);
        conversation.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        conversation.end();
        assert_eq!(conversation.stage(), Over);
        assert!(matches!(conversation.request(), Ok(None)));
    }

    #[test]
    fn answers_are_written_in_the_order_given() {
        let mut conversation = Conversation::new(LIMITS);
        let input = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nHEAD /b HTTP/1.1\r\nHost: h\r\n\r\n\
            GET /c HTTP/1.0\r\nConnection: keep-alive\r\n\r\n\
            GET /d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n\
            GET /e HTTP/1.1\r\nHost: h\r\n\r\n";
        let (requests, asked, refusal) = hear(&mut conversation, input);
        assert_eq!(requests, ["GET /a", "HEAD /b", "GET /c", "GET /d"]);
        assert_eq!(refusal, None);
        let mut expected = String::new();
        for (by, (body, connection)) in asked.into_iter().zip([
            ("one", None),
            ("two", None),
            ("three", Some(Then::Keep)),
            ("four", Some(Then::Close)),
        ]) {
            conversation.reply(by, &answer(body), Then::Keep, DATE);
            let written = written(&answer(body), connection);
            // To HEAD, the very head of the answer to GET.
            expected.push_str(written.strip_suffix("two").unwrap_or(&written));
        }
        // It is sent in whatever portions the socket takes.
        let mut sent = Vec::new();
        while let Some(portion) = conversation.outgoing().chunks(7).next() {
            sent.extend_from_slice(portion);
            let count = portion.len();
            conversation.sent(count);
        }
        assert_eq!(String::from_utf8(sent).unwrap(), expected);
    }

    #[test]
    fn an_answer_that_closes_ends_the_taking() {
        for (request, then, connection) in [
            (&b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..], Then::Keep, None),
            (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", Then::Close, Some(Then::Close)),
            (b"GET / HTTP/1.0\r\n\r\n", Then::Keep, Some(Then::Close)),
            (b"GET / HTTP/1.0\r\n\r\n", Then::Close, Some(Then::Close)),
            (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Then::Keep, Some(Then::Keep)),
            (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Then::Close, Some(Then::Close)),
        ] {
            let case = request.escape_ascii();
            let mut conversation = Conversation::new(LIMITS);
            let (_, asked, _) = hear(&mut conversation, request);
            conversation.reply(asked[0], &answer("x"), then, DATE);
            assert_eq!(send_all(&mut conversation), written(&answer("x"), connection), "{case}");
            let closes = connection == Some(Then::Close);
            assert_eq!(conversation.stage() == Stage::Over, closes, "{case}");
            let (requests, ..) = hear(&mut conversation, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!(requests.is_empty(), closes, "{case}");
        }
        let mut conversation = Conversation::new(LIMITS);
        let (_, asked, _) = hear(&mut conversation, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        conversation.reply(asked[0].last(), &answer("x"), Then::Keep, DATE);
        assert_eq!(send_all(&mut conversation), written(&answer("x"), Some(Then::Close)));
        assert_eq!(conversation.stage(), Stage::Over);
    }

    #[test]
    fn a_refusal_is_answered_after_the_answers_before_it() {
        let mut conversation = Conversation::new(LIMITS);
        let (_, asked, refusal) =
            hear(&mut conversation, b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        assert_eq!(refusal, Some(Refusal::Host));
        conversation.reply(asked[0], &answer("x"), Then::Keep, DATE);
        assert_eq!(conversation.request().map(drop), Err(Refusal::Host));
        let sorry = Response::json(Status::BadRequest, &b"sorry"[..]);
        conversation.reply(Asked::NOTHING, &sorry, Then::Keep, DATE);
        assert_eq!(
            send_all(&mut conversation),
            written(&answer("x"), None) + &written(&sorry, Some(Then::Close))
        );
        assert_eq!(conversation.stage(), Stage::Over);
    }

    #[test]
    fn who_waits_to_continue_is_told_to() {
        const EXPECTS: &str = "POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n";
        for (framing, body) in [
            ("Content-Length: 5\r\n\r\n", "hello"),
            ("Transfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n0\r\n\r\n"),
        ] {
            let mut conversation = Conversation::new(LIMITS);
            let head = [EXPECTS, framing].concat();
            assert_eq!(hear(&mut conversation, head.as_bytes()).0, [""; 0]);
            assert_eq!(send_all(&mut conversation), CONTINUE);
            // Once is enough.
            hear(&mut conversation, b"");
            assert_eq!(send_all(&mut conversation), "");
            let (requests, asked, _) = hear(&mut conversation, body.as_bytes());
            assert_eq!(requests, ["POST /a"]);
            assert_eq!(send_all(&mut conversation), "");
            conversation.reply(asked[0], &answer("x"), Then::Keep, DATE);
            assert_eq!(send_all(&mut conversation), written(&answer("x"), None));
            // Nobody waits whose body has begun to come.
            for start in 1..=body.len() {
                let mut conversation = Conversation::new(LIMITS);
                hear(&mut conversation, [&head, &body[..start]].concat().as_bytes());
                assert_eq!(send_all(&mut conversation), "", "{framing}{}", &body[..start]);
            }
        }
    }

    #[test]
    fn who_does_not_wait_to_continue_is_not_told_to() {
        for head in [
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 33\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\nContent-Length: 5\r\n\r\n",
            // RFC 9110 10.1.1: an HTTP/1.0 client cannot wait for it.
            "POST / HTTP/1.0\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        ] {
            let mut conversation = Conversation::new(LIMITS);
            hear(&mut conversation, head.as_bytes());
            assert_eq!(send_all(&mut conversation), "", "{head}");
        }
    }

    #[test]
    fn the_word_to_continue_waits_for_the_answers_before_it() {
        let mut conversation = Conversation::new(LIMITS);
        let input = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n\
            PUT /c HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        let (requests, asked, _) = hear(&mut conversation, input);
        assert_eq!(requests, ["GET /a", "GET /b"]);
        assert_eq!(conversation.stage(), Stage::Body);
        let [first, second] = asked.try_into().unwrap();
        assert_eq!(send_all(&mut conversation), "");
        conversation.reply(first, &answer("x"), Then::Keep, DATE);
        assert_eq!(send_all(&mut conversation), written(&answer("x"), None));
        conversation.reply(second, &answer("y"), Then::Keep, DATE);
        assert_eq!(send_all(&mut conversation), written(&answer("y"), None) + CONTINUE);
        assert_eq!(hear(&mut conversation, b"hello").0, ["PUT /c"]);
    }

    #[test]
    fn nobody_is_told_to_continue_what_is_not_taken_any_more() {
        const EXPECTS: &str = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\
            Transfer-Encoding: chunked\r\n\r\n";
        let sorry = Response::json(Status::BadRequest, &b"sorry"[..]);
        let refused = written(&sorry, Some(Then::Close));
        // Its body is malformed.
        let mut conversation = Conversation::new(LIMITS);
        let (.., refusal) = hear(&mut conversation, [EXPECTS, "x"].concat().as_bytes());
        assert_eq!(refusal, Some(Refusal::Chunk));
        conversation.reply(Asked::NOTHING, &sorry, Then::Close, DATE);
        assert_eq!(send_all(&mut conversation), refused);
        // It took too long, or was closed upon, while an earlier answer was awaited.
        for then in [Then::Keep, Then::Close] {
            let mut conversation = Conversation::new(LIMITS);
            let input = ["GET / HTTP/1.1\r\nHost: h\r\n\r\n", EXPECTS].concat();
            let (_, asked, _) = hear(&mut conversation, input.as_bytes());
            if then == Then::Keep {
                conversation.end();
            }
            conversation.reply(asked[0], &answer("x"), then, DATE);
            let connection = Some(then).filter(|then| *then == Then::Close);
            assert_eq!(send_all(&mut conversation), written(&answer("x"), connection), "{then:?}");
        }
    }

    #[test]
    fn whoever_is_waited_for_holds_no_room_but_for_what_is_under_way() {
        let limits = Limits { head_bytes_max: 128, body_bytes_max: 60_000 };
        let body = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n";
        let body = [&body[..], &b"x".repeat(60_000)].concat();
        let heads = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(2000);
        for (input, requests) in [(body, 1), (heads, 2000)] {
            let mut conversation = Conversation::new(limits);
            let (most, last) = input.split_at(input.len() - 1);
            let (before, asked, _) = hear(&mut conversation, most);
            for by in asked {
                conversation.reply(by, &answer("x"), Then::Keep, DATE);
            }
            send_all(&mut conversation);
            assert!(conversation.rest().is_none());
            assert!(conversation.room.capacity() < 2 * SPARE_BYTES_MAX);
            let (after, ..) = hear(&mut conversation, last);
            assert_eq!(before.len() + after.len(), requests);
        }
    }

    #[test]
    fn buffers_are_given_back_when_no_bytes_are_under_way() {
        let mut conversation = Conversation::new(LIMITS);
        assert!(conversation.is_resting());
        let mut room = Room::default();
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
            conversation.lend(room);
            assert_eq!(hear(&mut conversation, before.as_bytes()).0, [""; 0], "{before}");
            assert!(conversation.rest().is_none(), "within a request: {before}");
            let (requests, asked, _) = hear(&mut conversation, behind.as_bytes());
            assert_eq!(requests, ["GET /a"], "{before}");
            // A request whose answer is awaited needs no bytes.
            room = conversation.rest().unwrap();
            assert!(room.capacity() > 0 && conversation.is_resting());
            conversation.lend(room);
            conversation.reply(asked[0], &answer("x"), Then::Keep, DATE);
            conversation.sent(1);
            assert!(conversation.rest().is_none(), "within an answer: {before}");
            let left = send_all(&mut conversation);
            assert_eq!(left, written(&answer("x"), None)[1..], "{before}");
            room = conversation.rest().unwrap();
            assert_eq!(conversation.stage(), Stage::Idle);
        }
        // Nothing is left over from what was there, neither here nor in another conversation.
        conversation.lend(room);
        assert_eq!(hear(&mut conversation, b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n").0, ["GET /b"]);
        room = conversation.rest().unwrap();
        let mut another = Conversation::new(LIMITS);
        another.lend(room);
        assert_eq!((another.stage(), another.outgoing()), (Stage::Idle, &b""[..]));
        assert_eq!(hear(&mut another, b"").0, [""; 0]);
    }

    #[test]
    fn a_request_shows_its_fields_after_its_body_was_dropped() {
        let input = b"POST /%61 HTTP/1.0\r\nX: y\r\nUser-Agent:  caf\xc3\xa9 \r\n\
            Content-Length: 5\r\n\r\nhelloX";
        for pieces in every_way(input) {
            let mut conversation = Conversation::new(LIMITS);
            let mut seen = 0;
            for piece in pieces {
                conversation.receive(piece);
                let Ok(Some((request, _))) = conversation.request() else { continue };
                seen += 1;
                assert_eq!((request.method, &*request.path), (Method::Post, &b"/a"[..]));
                assert_eq!(request.version, Version::Http10);
                assert_eq!(request.fields.get("user-agent"), Some(&b"caf\xc3\xa9"[..]));
            }
            assert_eq!(seen, 1);
        }
    }

    #[test]
    fn no_input_makes_it_keep_more_than_a_head() {
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
                let mut conversation = Conversation::new(LIMITS);
                for piece in input.as_bytes().chunks(piece_bytes) {
                    let (_, asked, refusal) = hear(&mut conversation, piece);
                    for by in asked {
                        conversation.reply(by, &answer("x"), Then::Keep, DATE);
                    }
                    send_all(&mut conversation);
                    let kept = conversation.room.inbound().len();
                    assert!(kept <= LIMITS.head_bytes_max + piece_bytes, "{kept} of {start}{more}");
                    if refusal.is_some() {
                        break;
                    }
                }
                let capacity = conversation.room.capacity();
                assert!(capacity <= 2048, "{capacity} for {start}{more}");
            }
        }
    }

    #[test]
    fn a_client_that_always_leaves_a_rest_makes_no_buffer_grow() {
        let mut conversation = Conversation::new(LIMITS);
        let mut received = Vec::new();
        for round in 0..2000 {
            let (_, asked, _) = hear(&mut conversation, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            let body = ["even", "odd"][round % 2];
            conversation.reply(asked[0], &answer(body), Then::Keep, DATE);
            let count = conversation.outgoing().len() - 7;
            received.extend_from_slice(&conversation.outgoing()[..count]);
            conversation.sent(count);
            assert!(conversation.room.capacity() <= 1024, "in round {round}");
        }
        received.extend_from_slice(send_all(&mut conversation).as_bytes());
        let received = String::from_utf8(received).unwrap();
        let bodies: Vec<_> = received.split("\r\n\r\n").skip(1).collect();
        assert_eq!(bodies.len(), 2000);
        for pair in bodies.chunks(2) {
            assert!(pair[0].starts_with("even") && pair[1].starts_with("odd"), "{pair:?}");
        }
    }
}

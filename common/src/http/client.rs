//! The client half of an HTTP/1.1 connection, without the connection: requests in, bytes out;
//! bytes in, responses out. The mirror of `server`. Several GETs may be sent before the first
//! response (pipelining, RFC 9112 section 9.3.2); responses arrive in the same order.

use std::fmt;

use super::body::{Body, MessageKind};
use super::buffer::{HeadCache, Inbound, Outbound};
use super::parse;
use super::{Fields, KeepAlive, Limits, ParseError, Version};

/// Interim responses before the final one (RFC 9110 section 15.2). More is a broken server.
const INTERIM_MAX: u8 = 8;

/// Empty lines skipped before a response: some servers end a body with one too many.
const EMPTY_LINES_MAX: u8 = 4;

/// The client half of one connection.
#[derive(Debug)]
pub struct ClientConn {
    limits: Limits,
    state: State,
    inbound: Inbound,
    outbound: Outbound,
    /// The head of the response that is being received, or was the last one.
    head_cache: HeadCache<StatusLine>,
    /// Its field lines and its body.
    fields: Vec<u8>,
    body: Vec<u8>,
    /// Requests without a complete response.
    pending: usize,
    interim: u8,
    empty_lines: u8,
    /// The server has ended its half of the connection.
    is_closed: bool,
}

#[derive(Debug)]
enum State {
    Head,
    Body(StatusLine),
    Failed { error: ResponseError, has_begun: bool },
    Done,
}

/// The meaning of a head.
#[derive(Clone, Copy, Debug)]
struct StatusLine {
    status: u16,
    keep_alive: KeepAlive,
    body: Body,
    is_repeated: bool,
}

/// A complete response.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedResponse<'a> {
    /// The status, 200 to 599.
    pub status: u16,
    /// The header fields.
    pub fields: Fields<'a>,
    /// The body, without the bytes that chunking added.
    pub body: &'a [u8],
    /// `Keep` if the server keeps the connection open.
    pub keep_alive: KeepAlive,
    /// Its head has the bytes of the previous head.
    pub is_head_repeated: bool,
}

/// Why no more responses can be read from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// Malformed or too large.
    Parse(ParseError),
    /// A response without a request, or to an upgrade that was not requested.
    Unexpected,
    /// The server closed the connection before the response was complete.
    Incomplete,
}

impl From<ParseError> for ResponseError {
    fn from(error: ParseError) -> ResponseError {
        ResponseError::Parse(error)
    }
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResponseError::Parse(error) => error.fmt(f),
            ResponseError::Unexpected => f.write_str("response without a request"),
            ResponseError::Incomplete => f.write_str("connection closed within a response"),
        }
    }
}

impl ClientConn {
    /// A connection that has just been opened.
    pub fn new(limits: Limits) -> ClientConn {
        ClientConn {
            limits,
            state: State::Head,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            head_cache: HeadCache::default(),
            fields: Vec::new(),
            body: Vec::new(),
            pending: 0,
            interim: 0,
            empty_lines: 0,
            is_closed: false,
        }
    }

    /// Appends the bytes of a complete GET request.
    pub fn request(&mut self, request: &[u8]) {
        self.pending += 1;
        self.outbound.writer().extend_from_slice(request);
    }

    /// The bytes to send.
    pub fn outgoing(&self) -> &[u8] {
        self.outbound.unsent()
    }

    /// Records that this many outgoing bytes were sent.
    pub fn sent(&mut self, count: usize) {
        self.outbound.advance(count);
    }

    /// Appends bytes that the server sent.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.inbound.push(bytes);
    }

    /// Records that the server will send no more.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// Returns true if a part of the next response has arrived.
    pub fn has_begun(&self) -> bool {
        match self.state {
            State::Failed { has_begun, .. } => has_begun,
            State::Body(..) => true,
            State::Head | State::Done => !self.inbound.is_consumed() || self.interim > 0,
        }
    }

    /// The next complete response; `None` until more is received, and after the last. An error is
    /// final: it is returned again.
    pub fn response(&mut self) -> Result<Option<ReceivedResponse<'_>>, ResponseError> {
        match self.parse() {
            Ok(None) => Ok(None),
            Ok(Some(StatusLine { status, keep_alive, is_repeated, .. })) => {
                let (fields, body) = (Fields::of_checked(&self.fields), &*self.body);
                let is_head_repeated = is_repeated;
                Ok(Some(ReceivedResponse { status, fields, body, keep_alive, is_head_repeated }))
            }
            Err(error) => {
                self.state = State::Failed { error, has_begun: self.has_begun() };
                Err(error)
            }
        }
    }

    fn parse(&mut self) -> Result<Option<StatusLine>, ResponseError> {
        loop {
            match self.state {
                State::Failed { error, .. } => return Err(error),
                State::Done => return Ok(None),
                State::Head => {
                    if !self.parse_head()? {
                        return Ok(None);
                    }
                }
                State::Body(..) => return self.read_body(),
            }
        }
    }

    /// Parses one head; returns false if more must be received.
    fn parse_head(&mut self) -> Result<bool, ResponseError> {
        while self.inbound.unread().starts_with(b"\r\n") {
            self.empty_lines += 1;
            if self.empty_lines > EMPTY_LINES_MAX {
                return Err(ParseError::StartLine.into());
            }
            self.inbound.consume(2);
        }
        if matches!(self.inbound.unread(), b"" | b"\r") {
            if self.is_closed && self.pending > 0 {
                return Err(ResponseError::Incomplete);
            }
            return Ok(false);
        }
        if self.pending == 0 {
            return Err(ResponseError::Unexpected);
        }
        if let Some((length, line)) = self.head_cache.get(self.inbound.unread()) {
            self.inbound.take_head(length);
            self.body.clear();
            self.state = State::Body(StatusLine { is_repeated: true, ..line });
            return Ok(true);
        }
        let length = match self.inbound.head_length(self.limits.head_bytes_max)? {
            Some(length) => length,
            None if self.is_closed => return Err(ResponseError::Incomplete),
            None => return Ok(false),
        };
        let bytes = self.inbound.take_head(length);
        let head = parse::response(bytes)?;
        // An upgrade was not requested. All else below 200 precedes the final response.
        if head.status < 200 {
            self.interim += 1;
            return match head.status {
                101 => Err(ResponseError::Unexpected),
                _ if self.interim > INTERIM_MAX => Err(ParseError::StartLine.into()),
                _ => Ok(true),
            };
        }
        let kind = MessageKind::Response(head.status);
        let body = Body::new(kind, head.version, &head.headers, &self.limits)?;
        let keeps = match head.version {
            Version::Http11 => !head.headers.close,
            Version::Http10 => head.headers.keep_alive && !head.headers.close,
        };
        let keeps = keeps && !body.ends_by_close();
        let keep_alive = if keeps { KeepAlive::Keep } else { KeepAlive::Close };
        let line = StatusLine { status: head.status, keep_alive, body, is_repeated: false };
        self.fields.clear();
        self.fields.extend_from_slice(head.fields.as_bytes());
        self.head_cache.put(bytes, line);
        self.body.clear();
        self.state = State::Body(line);
        Ok(true)
    }

    fn read_body(&mut self) -> Result<Option<StatusLine>, ResponseError> {
        let State::Body(line) = &mut self.state else { return Ok(None) };
        let mut input = self.inbound.unread();
        let before = input.len();
        let is_complete = line.body.decode(&mut input, |data| self.body.extend_from_slice(data))?;
        let (consumed, line) = (before - input.len(), *line);
        self.inbound.consume(consumed);
        match (is_complete, self.is_closed) {
            (false, false) => return Ok(None),
            (false, true) if !line.body.ends_by_close() => return Err(ResponseError::Incomplete),
            _ => {}
        }
        self.pending -= 1;
        (self.interim, self.empty_lines) = (0, 0);
        self.state = match line.keep_alive {
            KeepAlive::Keep => State::Head,
            KeepAlive::Close => State::Done,
        };
        Ok(Some(line))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::every_split;
    use super::*;

    const LIMITS: Limits = Limits { head_bytes_max: 128, body_bytes_max: 32 };
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

    /// The server, after it has sent its bytes.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum After {
        Waits,
        Closes,
    }
    use After::{Closes, Waits};
    use ResponseError::{Incomplete, Unexpected};

    /// Status, body and persistence of each response, and the error after them.
    type Outcome = (String, Option<ResponseError>);

    fn requested(requests: usize) -> ClientConn {
        let mut conn = ClientConn::new(LIMITS);
        (0..requests).for_each(|_| conn.request(REQUEST));
        conn
    }

    fn parse(conn: &mut ClientConn, bytes: &[u8]) -> (Vec<String>, Option<ResponseError>) {
        conn.receive(bytes);
        read_all(conn)
    }

    fn read_all(conn: &mut ClientConn) -> (Vec<String>, Option<ResponseError>) {
        let mut responses = Vec::new();
        loop {
            match conn.response() {
                Ok(None) => return (responses, None),
                Err(error) => return (responses, Some(error)),
                Ok(Some(ReceivedResponse { status, body, keep_alive, .. })) => {
                    responses.push(format!("{status} {} {keep_alive:?}", body.escape_ascii()));
                }
            }
        }
    }

    fn outcome(requests: usize, pieces: &[&[u8]], after: After) -> Outcome {
        let mut conn = requested(requests);
        let (mut all, mut last) = (Vec::new(), None);
        for piece in pieces {
            let (responses, error) = parse(&mut conn, piece);
            all.extend(responses);
            assert!(last.is_none() || error == last, "an error is final");
            last = error;
        }
        if after == Closes {
            conn.close();
            let (responses, error) = read_all(&mut conn);
            all.extend(responses);
            assert!(last.is_none() || error == last, "an error is final");
            last = error;
        }
        if last.is_some() {
            let behind = parse(&mut conn, b"HTTP/1.1 200 OK\r\n\r\n");
            assert_eq!(behind, (Vec::new(), last), "an error is final");
        }
        (all.join(", "), last)
    }

    fn assert_parses(
        requests: usize,
        input: &[u8],
        after: After,
        expected: (&str, Option<ResponseError>),
    ) {
        for pieces in every_split(input) {
            let (responses, error) = outcome(requests, &pieces, after);
            let case = format!("{} for {requests}, then {after:?}", input.escape_ascii());
            assert_eq!((&*responses, error), expected, "{case}");
        }
    }

    #[test]
    fn reads_responses_of_every_framing() {
        const CASES: &[(&[u8], After, &str)] = &[
            // A length.
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Waits, "200 hello Keep"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Closes, "200 hello Keep"),
            (b"HTTP/1.1 200\r\ncontent-length:0005\r\n\r\nhello", Waits, "200 hello Keep"),
            (b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n", Waits, "500  Keep"),
            (b"HTTP/1.2 404 N\xc3\xa9ant\r\nContent-Length: 0\r\n\r\n", Waits, "404  Keep"),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: x, Close\r\n\r\na",
                Waits,
                "200 a Close",
            ),
            (
                b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
                Waits,
                "200 a Keep",
            ),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", Waits, "200 a Close"),
            (
                b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
                Waits,
                "200 a Keep",
            ),
            (
                b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\nContent-Length: 1\r\n\r\na",
                Waits,
                "200 a Close",
            ),
            (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\na", Closes, "200 a Close"),
            // Chunks, with extensions and trailers.
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
                Waits,
                "200 hello! Keep",
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n\
                005;a=\"b;c\"\r\nhello\r\n0;d\r\nE: f\r\nG:\r\n\r\n",
                Waits,
                "200 hello Keep",
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                0\r\n\r\n",
                Waits,
                "200  Close",
            ),
            // Blanks after a chunk size.
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: , chunked\r\n\r\n\
                5  \t\r\nhello\r\n1 ;a\r\n!\r\n0 \r\n\r\n",
                Waits,
                "200 hello! Keep",
            ),
            // Empty lines before a status line.
            (b"\r\n\r\n\r\n\r\nHTTP/1.1 204 \r\n\r\n", Waits, "204  Keep"),
            (b"HTTP/1.1 204 \r\n\r\n\r\n", Waits, "204  Keep"),
            (b"\r\n", Waits, ""),
            // Until the close.
            (b"HTTP/1.1 200 OK\r\n\r\nhello", Closes, "200 hello Close"),
            (b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nhello", Closes, "200 hello Close"),
            (b"HTTP/1.1 502 \r\n\r\n", Closes, "502  Close"),
            (b"HTTP/1.1 200 OK\r\n\r\nhello", Waits, ""),
            // No body, with fields that describe one.
            (b"HTTP/1.1 204 No Content\r\n\r\n", Waits, "204  Keep"),
            (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Waits, "304  Keep"),
            (b"HTTP/1.1 304 \r\nTransfer-Encoding: chunked\r\n\r\n", Waits, "304  Keep"),
            (b"HTTP/1.1 204 \r\nConnection: close\r\n\r\n", Waits, "204  Close"),
            (b"HTTP/1.0 204 \r\n\r\n", Waits, "204  Close"),
            // Interim responses first.
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
                Waits,
                "200 a Keep",
            ),
            (
                b"HTTP/1.1 103 Early Hints\r\nLink: x\r\nContent-Length: 9\r\n\r\n\
                HTTP/1.1 102 \r\n\r\nHTTP/1.1 204 \r\n\r\n",
                Waits,
                "204  Keep",
            ),
            // Not complete yet.
            (b"", Waits, ""),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Waits, ""),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", Waits, ""),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r", Waits, ""),
            (b"HTTP/1.1 100 Continue\r\n\r\n", Waits, ""),
            // Bytes behind a closing response are ignored.
            (b"HTTP/1.1 204 \r\nConnection: close\r\n\r\n\0\n", Closes, "204  Close"),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.0", Waits, "200 a Close"),
        ];
        for (input, after, responses) in CASES {
            assert_parses(1, input, *after, (responses, None));
        }
    }

    #[test]
    fn rejects_malformed_responses_for_good() {
        use ParseError::{
            BodyTooLarge, Chunk, Coding, Field, Framing, Length, StartLine, TrailersTooLarge,
            Version,
        };
        const CASES: &[(&[u8], ParseError)] = &[
            // No response at all.
            (b"\r\n\r\n\r\n\r\n\r\n", StartLine),
            (b"garbage\r\n\r\n", StartLine),
            (b"\x15\x03\x01\x00\x02\x02\n", StartLine),
            (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", StartLine),
            (b"<html>\n", StartLine),
            (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", StartLine),
            (b"\rHTTP/1.1 200 OK\r\n\r\n", StartLine),
            (b"\r\n HTTP/1.1 200 OK\r\n\r\n", StartLine),
            (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", StartLine),
            (b"HTTP/1.1 600 \r\n\r\n", StartLine),
            (b"HTTP/1.1 099 \r\n\r\n", StartLine),
            (b"HTTP/1.1 2OO OK\r\n\r\n", StartLine),
            (b"HTTP/2.0 200 OK\r\n\r\n", Version),
            (b"HTTP/2 200\r\n\r\n", StartLine),
            // Fields.
            (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", Field),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Field),
            (b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n", Field),
            (b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n", Field),
            (b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n", Field),
            (b"HTTP/1.1 200 OK\r\nA\r\n\r\n", Field),
            // Lengths.
            (b"HTTP/1.1 200 \r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Framing),
            (b"HTTP/1.1 304 \r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Framing),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", Framing),
            (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Framing),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Coding),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\n", Coding),
            (b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", Length),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Length),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", Length),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Length),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", Length),
            // Bodies.
            (b"HTTP/1.1 200 OK\r\nContent-Length: 33\r\n\r\n", BodyTooLarge),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n21\r\n", BodyTooLarge),
            (b"HTTP/1.1 200 OK\r\n\r\n0123456789012345678901234567890123456789", BodyTooLarge),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", Chunk),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff0\r\n", Chunk),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n", Chunk),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello", Chunk),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n 1\r\n", Chunk),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;\r\n", Chunk),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a \r\n", Chunk),
        ];
        const UPGRADES: [&[u8]; 2] = [
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 101 \r\n\r\n",
        ];
        let malformed = CASES.iter().map(|(input, error)| (*input, ResponseError::from(*error)));
        for (input, error) in malformed.chain(UPGRADES.map(|input| (input, Unexpected))) {
            for after in [Waits, Closes] {
                assert_parses(1, input, after, ("", Some(error)));
            }
            let input = [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", input].concat();
            assert_parses(2, &input, Waits, ("200 a Keep", Some(error)));
        }
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let endless = [&head[..], b"0\r\nA: ", &[b'a'; 200]].concat();
        assert_parses(1, &endless, Waits, ("", Some(TrailersTooLarge.into())));
    }

    #[test]
    fn rejects_a_response_cut_short() {
        let whole: &[&[u8]] = &[
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        ];
        for input in whole {
            for end in 0..input.len() {
                assert_parses(1, &input[..end], Closes, ("", Some(Incomplete)));
            }
        }
        // A server may close when no response is due.
        for (requests, input, responses, error) in [
            (0, &b""[..], "", None),
            (1, b"HTTP/1.1 204 \r\n\r\n", "204  Keep", None),
            (2, b"HTTP/1.1 204 \r\n\r\n", "204  Keep", Some(Incomplete)),
            (2, b"HTTP/1.1 204 \r\nConnection: close\r\n\r\n", "204  Close", None),
        ] {
            assert_parses(requests, input, Closes, (responses, error));
        }
    }

    #[test]
    fn reads_pipelined_responses_in_order() {
        let input = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na\
            HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n\
            HTTP/1.1 100 \r\n\r\nHTTP/1.1 204 \r\n\r\nHTTP/1.1 200 OK\r\n\r\nd";
        let all = "200 a Keep, 200 b Keep, 204  Keep, 200 d Close";
        assert_parses(4, input, Closes, (all, None));
        assert_parses(5, input, Closes, (all, None));
        let but_one = "200 a Keep, 200 b Keep, 204  Keep";
        assert_parses(3, input, Waits, (but_one, Some(Unexpected)));
    }

    #[test]
    fn recognizes_a_repeated_head() {
        let a = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX: a\r\n\r\n";
        let b = "HTTP/1.1 200 OK\r\nX: b\r\nTransfer-Encoding: chunked\r\n\r\n";
        let input = [a, "1", a, "2HTTP/1.1 103 \r\nX: c\r\n\r\n", a, "3"].concat()
            + &[b, "1\r\n4\r\n0\r\n\r\n", b, "1\r\n5\r\n0\r\n\r\n", a, "6"].concat();
        let expected =
            [("a1", false), ("a2", true), ("a3", true), ("b4", false), ("b5", true), ("a6", false)];
        for pieces in every_split(input.as_bytes()) {
            let mut conn = requested(expected.len());
            let mut found = Vec::new();
            for piece in pieces {
                conn.receive(piece);
                while let Some(response) = conn.response().unwrap() {
                    let text = [response.fields.get("x").unwrap(), response.body].concat();
                    found.push((String::from_utf8(text).unwrap(), response.is_head_repeated));
                }
            }
            assert!(found.iter().map(|(text, repeated)| (&**text, *repeated)).eq(expected));
        }
    }

    #[test]
    fn rejects_a_response_without_a_request() {
        for input in [&b"H"[..], b"\r\nH", b"\0", b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
            assert_parses(0, input, Waits, ("", Some(Unexpected)));
            let behind = [b"HTTP/1.1 304 \r\nContent-Length: 1\r\n\r\n", input].concat();
            assert_parses(1, &behind, Waits, ("304  Keep", Some(Unexpected)));
        }
    }

    #[test]
    fn accepts_a_head_up_to_the_limit() {
        let (start, end) = ("HTTP/1.1 204 \r\nA: ", "\r\n\r\n");
        for over in [0, 1, 2, 3, 4, 5, 100] {
            let filling = "a".repeat(LIMITS.head_bytes_max + over - start.len() - end.len());
            let input = [start, &filling, end].concat();
            let expected = match over {
                0 => ("204  Keep", None),
                _ => ("", Some(ParseError::HeadTooLarge.into())),
            };
            assert_parses(1, input.as_bytes(), Waits, expected);
            // Bytes behind the limit do not matter.
            let input = input.replace("\r\n\r\n", "\n\0\n\n");
            if over >= end.len() {
                assert_parses(1, input.as_bytes(), Waits, expected);
            }
        }
    }

    #[test]
    fn limits_interim_responses_for_each_request() {
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
        let input = [&interim.repeat(8)[..], b"HTTP/1.1 204 \r\n\r\n"].concat().repeat(2);
        assert_parses(2, &input, Waits, ("204  Keep, 204  Keep", None));
        assert_parses(1, &interim.repeat(9), Waits, ("", Some(ParseError::StartLine.into())));
    }

    #[test]
    fn a_response_has_begun_with_its_first_byte() {
        let mut conn = requested(2);
        for (bytes, begun) in [
            (&b""[..], false),
            (b"H", true),
            (b"TTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", true),
            (b"a", true),
            (b"b", false),
            (b"\r\n", false),
            (b"HTTP/1.1 103 \r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\n\r\n", true),
        ] {
            parse(&mut conn, bytes);
            assert_eq!(conn.has_begun(), begun, "{}", bytes.escape_ascii());
        }
        conn.close();
        assert_eq!(read_all(&mut conn), (vec!["200  Close".to_owned()], None));
        assert!(!conn.has_begun());
    }

    #[test]
    fn a_response_that_is_cut_has_begun() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
        for length in 0..=head.len() + 1 {
            let mut conn = requested(1);
            parse(&mut conn, &[&head[..], b"{"].concat()[..length]);
            conn.close();
            assert_eq!(read_all(&mut conn), (Vec::new(), Some(Incomplete)));
            assert_eq!(conn.has_begun(), length > 0, "{length}");
        }
    }

    #[test]
    fn sends_requests_in_portions() {
        let mut conn = ClientConn::new(LIMITS);
        assert_eq!(conn.outgoing(), b"");
        conn.request(b"GET /a");
        conn.sent(4);
        conn.request(b"GET /b");
        assert_eq!(conn.outgoing(), b"/aGET /b");
        conn.sent(8);
        assert_eq!(conn.outgoing(), b"");
        conn.request(b"GET /c");
        assert_eq!(conn.outgoing(), b"GET /c");
    }

    #[test]
    fn buffers_at_most_a_head_and_a_body() {
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let endless: &[(&str, &str)] = &[
            ("", "a"),
            ("HTTP/1.1 200 OK\r\n", "A: b\r\n"),
            ("", "HTTP/1.1 100 \r\n\r\n"),
            ("", "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\naaaaaaaaaaaaaaaaaaaa"),
            ("HTTP/1.1 200 OK\r\n\r\n", "a"),
            (chunks, "1\r\na\r\n"),
            (chunks, "0"),
            (&[chunks, "1;"].concat(), "a"),
            (&[chunks, "0\r\n"].concat(), "A: b\r\n"),
        ];
        for (start, more) in endless {
            for piece_bytes in [1, 3, 64] {
                let mut conn = requested(1000);
                for piece in [start, &*more.repeat(1000)].concat().as_bytes().chunks(piece_bytes) {
                    let (_, error) = parse(&mut conn, piece);
                    let (kept, body) = (conn.inbound.unread().len(), conn.body.len());
                    assert!(kept <= LIMITS.head_bytes_max + piece_bytes, "{kept} of {start}{more}");
                    assert!(body as u64 <= LIMITS.body_bytes_max, "{body} of {start}{more}");
                    if error.is_some() {
                        break;
                    }
                }
            }
        }
    }
}

//! The client's half of a connection without the connection, the mirror of `conversation`:
//! requests in, bytes out; bytes in, answers out. Several GETs may be asked before the first is
//! answered; answers come in the same order.

use super::body::{Body, Of, Piece};
use super::head;
use super::{Limits, Refusal, Then, Version};

/// Interim answers before the final one (RFC 9110 section 15.2); more is a server gone wrong.
const INTERIM_MAX: u8 = 8;

/// One connection's requests and answers.
#[derive(Debug)]
pub struct Call {
    limits: Limits,
    state: State,
    inbound: Vec<u8>,
    taken: usize,
    searched: usize,
    outbound: Vec<u8>,
    sent: usize,
    /// The body of the answer that is being received, or was given last.
    body: Vec<u8>,
    unanswered: usize,
    interim: u8,
    /// The peer has ended its sending.
    closed: bool,
}

#[derive(Debug)]
enum State {
    Head,
    Body(Body, Meta),
    Refused(Refusal),
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Meta {
    status: u16,
    then: Then,
}

/// A whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Its status, 200 to 599.
    pub status: u16,
    /// Its body, without what chunking added.
    pub body: &'a [u8],
    /// Whether the server keeps the connection; always `Close` for HTTP/1.0.
    pub then: Then,
}

impl Call {
    /// A connection that has just been opened.
    pub fn new(limits: Limits) -> Call {
        Call {
            limits,
            state: State::Head,
            inbound: Vec::new(),
            taken: 0,
            searched: 0,
            outbound: Vec::new(),
            sent: 0,
            body: Vec::new(),
            unanswered: 0,
            interim: 0,
            closed: false,
        }
    }

    /// Asks one more thing: the bytes of a whole GET request.
    pub fn ask(&mut self, request: &[u8]) {
        self.unanswered += 1;
        self.outbound.extend_from_slice(request);
    }

    /// What is to be sent.
    pub fn outgoing(&self) -> &[u8] {
        self.outbound.get(self.sent..).unwrap_or_default()
    }

    /// Notes that so many outgoing bytes were sent.
    pub fn sent(&mut self, count: usize) {
        self.sent += count;
        // Half of it at least: each byte is moved once on the average, and what was sent to a
        // peer that always leaves a rest does not pile up.
        if self.sent >= self.outbound.len() / 2 {
            self.outbound.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Takes in what the server sent.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.inbound.drain(..self.taken);
            self.searched = self.searched.saturating_sub(self.taken);
            self.taken = 0;
        }
        self.inbound.extend_from_slice(bytes);
    }

    /// Notes that the server will send no more.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether the server has sent a part of an answer: then it cannot be asked anew in silence.
    pub fn has_begun(&self) -> bool {
        self.taken < self.inbound.len() || matches!(self.state, State::Body(..))
    }

    /// The next whole answer; `None` until more was received, and after the last. A refusal is
    /// final: the same comes again.
    pub fn answer(&mut self) -> Result<Option<Answer<'_>>, Refusal> {
        match self.advance() {
            Ok(None) => Ok(None),
            Ok(Some(Meta { status, then })) => Ok(Some(Answer { status, body: &self.body, then })),
            Err(refusal) => {
                self.state = State::Refused(refusal);
                Err(refusal)
            }
        }
    }

    fn advance(&mut self) -> Result<Option<Meta>, Refusal> {
        loop {
            let fresh = self.inbound.get(self.taken..).unwrap_or_default();
            match &mut self.state {
                State::Refused(refusal) => return Err(*refusal),
                State::Over => return Ok(None),
                State::Head => {
                    if fresh.is_empty() && !(self.closed && self.unanswered > 0) {
                        return Ok(None);
                    }
                    if self.unanswered == 0 {
                        return Err(Refusal::Unasked);
                    }
                    let reach = fresh.get(..self.limits.head_bytes_max).unwrap_or(fresh);
                    let mut searched = self.searched.saturating_sub(self.taken);
                    let end = head::end(reach, &mut searched)?;
                    self.searched = self.taken + searched;
                    let Some(length) = end else {
                        return match (fresh.len() > reach.len(), self.closed) {
                            (true, _) => Err(Refusal::HeadTooLarge),
                            (false, true) => Err(Refusal::Short),
                            (false, false) => Ok(None),
                        };
                    };
                    let head = head::response(fresh.get(..length).unwrap_or_default())?;
                    self.taken += length;
                    self.searched = self.taken;
                    // An upgrade was not asked for; anything else below 200 is not yet the answer.
                    if head.status < 200 {
                        self.interim += 1;
                        match head.status {
                            101 => return Err(Refusal::Unasked),
                            _ if self.interim > INTERIM_MAX => return Err(Refusal::StartLine),
                            _ => continue,
                        }
                    }
                    let of = Of::Response(head.status);
                    let body = Body::of(of, head.version, &head.digest, &self.limits)?;
                    let keeps = head.version == Version::Http11
                        && !head.digest.close
                        && !body.ends_by_close();
                    let then = if keeps { Then::Keep } else { Then::Close };
                    self.body.clear();
                    self.state = State::Body(body, Meta { status: head.status, then });
                }
                State::Body(body, meta) => {
                    let mut input = fresh;
                    let piece = body.piece(&mut input)?;
                    self.taken = self.inbound.len() - input.len();
                    match piece {
                        Piece::Data(data) => self.body.extend_from_slice(data),
                        Piece::More if !self.closed => return Ok(None),
                        Piece::More if !body.ends_by_close() => return Err(Refusal::Short),
                        Piece::More | Piece::End => {
                            let meta = *meta;
                            self.unanswered -= 1;
                            self.interim = 0;
                            self.searched = self.taken;
                            self.state = match meta.then {
                                Then::Keep => State::Head,
                                Then::Close => State::Over,
                            };
                            return Ok(Some(meta));
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::every_way;
    use super::*;

    const LIMITS: Limits = Limits { head_bytes_max: 128, body_bytes_max: 32 };
    const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

    /// What the server does after it has sent what there is.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum After {
        Waits,
        Closes,
    }
    use After::{Closes, Waits};

    /// The answers, a few words each, and the refusal after them.
    type Outcome = (String, Option<Refusal>);

    fn call(asked: usize) -> Call {
        let mut call = Call::new(LIMITS);
        (0..asked).for_each(|_| call.ask(ASK));
        call
    }

    fn hear(call: &mut Call, bytes: &[u8]) -> (Vec<String>, Option<Refusal>) {
        call.receive(bytes);
        hear_on(call)
    }

    fn hear_on(call: &mut Call) -> (Vec<String>, Option<Refusal>) {
        let mut answers = Vec::new();
        loop {
            match call.answer() {
                Ok(None) => return (answers, None),
                Err(refusal) => return (answers, Some(refusal)),
                Ok(Some(Answer { status, body, then })) => {
                    answers.push(format!("{status} {} {then:?}", body.escape_ascii()));
                }
            }
        }
    }

    fn outcome(asked: usize, pieces: &[&[u8]], after: After) -> Outcome {
        let mut call = call(asked);
        let (mut all, mut last) = (Vec::new(), None);
        for piece in pieces {
            let (answers, refusal) = hear(&mut call, piece);
            all.extend(answers);
            assert!(last.is_none() || refusal == last, "a refusal is final");
            last = refusal;
        }
        if after == Closes {
            call.close();
            let (answers, refusal) = hear_on(&mut call);
            all.extend(answers);
            assert!(last.is_none() || refusal == last, "a refusal is final");
            last = refusal;
        }
        if last.is_some() {
            let behind = hear(&mut call, b"HTTP/1.1 200 OK\r\n\r\n");
            assert_eq!(behind, (Vec::new(), last), "a refusal is final");
        }
        (all.join(", "), last)
    }

    fn assert_heard(asked: usize, input: &[u8], after: After, expected: (&str, Option<Refusal>)) {
        for pieces in every_way(input) {
            let (answers, refusal) = outcome(asked, &pieces, after);
            let case = format!("{} for {asked}, then {after:?}", input.escape_ascii());
            assert_eq!((&*answers, refusal), expected, "{case}");
        }
    }

    #[test]
    fn an_honest_answer_is_read_whatever_its_framing() {
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
                "200 a Close",
            ),
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
            // Until the close.
            (b"HTTP/1.1 200 OK\r\n\r\nhello", Closes, "200 hello Close"),
            (b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nhello", Closes, "200 hello Close"),
            (b"HTTP/1.1 502 \r\n\r\n", Closes, "502  Close"),
            (b"HTTP/1.1 200 OK\r\n\r\nhello", Waits, ""),
            // No body at all, whatever the fields say of one.
            (b"HTTP/1.1 204 No Content\r\n\r\n", Waits, "204  Keep"),
            (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Waits, "304  Keep"),
            (b"HTTP/1.1 304 \r\nTransfer-Encoding: chunked\r\n\r\n", Waits, "304  Keep"),
            (b"HTTP/1.1 204 \r\nConnection: close\r\n\r\n", Waits, "204  Close"),
            (b"HTTP/1.0 204 \r\n\r\n", Waits, "204  Close"),
            // Interim answers first.
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
            // Not whole yet.
            (b"", Waits, ""),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Waits, ""),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", Waits, ""),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r", Waits, ""),
            (b"HTTP/1.1 100 Continue\r\n\r\n", Waits, ""),
            // After an answer that closes nothing matters.
            (b"HTTP/1.1 204 \r\nConnection: close\r\n\r\n\0\n", Closes, "204  Close"),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.0", Waits, "200 a Close"),
        ];
        for (input, after, answers) in CASES {
            assert_heard(1, input, *after, (answers, None));
        }
    }

    #[test]
    fn what_lies_is_refused_for_good() {
        use Refusal::{
            BodyTooLarge, Chunk, Coding, Field, Framing, Length, StartLine, TrailersTooLarge,
            Unasked, Version,
        };
        const CASES: &[(&[u8], Refusal)] = &[
            // No answer at all.
            (b"\r\n\r\n", StartLine),
            (b"garbage\r\n\r\n", StartLine),
            (b"\x15\x03\x01\x00\x02\x02\n", StartLine),
            (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", StartLine),
            (b"<html>\n", StartLine),
            (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", StartLine),
            (b"\r\nHTTP/1.1 200 OK\r\n\r\n", StartLine),
            (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", StartLine),
            (b"HTTP/1.1 600 \r\n\r\n", StartLine),
            (b"HTTP/1.1 099 \r\n\r\n", StartLine),
            (b"HTTP/1.1 2OO OK\r\n\r\n", StartLine),
            (b"HTTP/2.0 200 OK\r\n\r\n", Version),
            (b"HTTP/2 200\r\n\r\n", StartLine),
            // An upgrade that was not asked for.
            (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", Unasked),
            (b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 101 \r\n\r\n", Unasked),
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
        ];
        for (input, refusal) in CASES {
            for after in [Waits, Closes] {
                assert_heard(1, input, after, ("", Some(*refusal)));
            }
            let input = [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", *input].concat();
            assert_heard(2, &input, Waits, ("200 a Keep", Some(*refusal)));
        }
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let endless = [&head[..], b"0\r\nA: ", &[b'a'; 200]].concat();
        assert_heard(1, &endless, Waits, ("", Some(TrailersTooLarge)));
    }

    #[test]
    fn an_answer_cut_short_is_refused_and_a_silent_close_too() {
        let whole: &[&[u8]] = &[
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        ];
        for input in whole {
            for end in 0..input.len() {
                assert_heard(1, &input[..end], Closes, ("", Some(Refusal::Short)));
            }
        }
        // Nobody is owed anything: a server may close then.
        for (asked, input, answers, refusal) in [
            (0, &b""[..], "", None),
            (1, b"HTTP/1.1 204 \r\n\r\n", "204  Keep", None),
            (2, b"HTTP/1.1 204 \r\n\r\n", "204  Keep", Some(Refusal::Short)),
            (2, b"HTTP/1.1 204 \r\nConnection: close\r\n\r\n", "204  Close", None),
        ] {
            assert_heard(asked, input, Closes, (answers, refusal));
        }
    }

    #[test]
    fn answers_come_in_the_order_of_the_requests() {
        let input = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na\
            HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n\
            HTTP/1.1 100 \r\n\r\nHTTP/1.1 204 \r\n\r\nHTTP/1.1 200 OK\r\n\r\nd";
        let all = "200 a Keep, 200 b Keep, 204  Keep, 200 d Close";
        assert_heard(4, input, Closes, (all, None));
        assert_heard(5, input, Closes, (all, None));
        let but_one = "200 a Keep, 200 b Keep, 204  Keep";
        assert_heard(3, input, Waits, (but_one, Some(Refusal::Unasked)));
    }

    #[test]
    fn an_answer_without_a_request_is_refused() {
        for input in [&b"H"[..], b"\r\n", b"\0", b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
            assert_heard(0, input, Waits, ("", Some(Refusal::Unasked)));
            let behind = [b"HTTP/1.1 304 \r\nContent-Length: 1\r\n\r\n", input].concat();
            assert_heard(1, &behind, Waits, ("304  Keep", Some(Refusal::Unasked)));
        }
    }

    #[test]
    fn a_head_may_be_as_long_as_the_limit_and_no_longer() {
        let (start, end) = ("HTTP/1.1 204 \r\nA: ", "\r\n\r\n");
        for over in [0, 1, 2, 3, 4, 5, 100] {
            let filling = "a".repeat(LIMITS.head_bytes_max + over - start.len() - end.len());
            let input = [start, &filling, end].concat();
            let expected = match over {
                0 => ("204  Keep", None),
                _ => ("", Some(Refusal::HeadTooLarge)),
            };
            assert_heard(1, input.as_bytes(), Waits, expected);
            // What stands behind the limit does not matter.
            let input = input.replace("\r\n\r\n", "\n\0\n\n");
            if over >= end.len() {
                assert_heard(1, input.as_bytes(), Waits, expected);
            }
        }
    }

    #[test]
    fn interim_answers_are_bounded_for_each_request() {
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
        let input = [&interim.repeat(8)[..], b"HTTP/1.1 204 \r\n\r\n"].concat().repeat(2);
        assert_heard(2, &input, Waits, ("204  Keep, 204  Keep", None));
        assert_heard(1, &interim.repeat(9), Waits, ("", Some(Refusal::StartLine)));
    }

    #[test]
    fn an_answer_has_begun_with_its_first_byte() {
        let mut call = call(2);
        for (bytes, begun) in [
            (&b""[..], false),
            (b"H", true),
            (b"TTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", true),
            (b"a", true),
            (b"b", false),
            (b"HTTP/1.1 200 OK\r\n\r\n", true),
        ] {
            hear(&mut call, bytes);
            assert_eq!(call.has_begun(), begun, "{}", bytes.escape_ascii());
        }
        call.close();
        assert_eq!(hear_on(&mut call), (vec!["200  Close".to_owned()], None));
        assert!(!call.has_begun());
    }

    #[test]
    fn requests_are_sent_in_whatever_portions_the_socket_takes() {
        let mut call = Call::new(LIMITS);
        assert_eq!(call.outgoing(), b"");
        call.ask(b"GET /a");
        call.sent(4);
        call.ask(b"GET /b");
        assert_eq!(call.outgoing(), b"/aGET /b");
        call.sent(8);
        assert_eq!(call.outgoing(), b"");
        call.ask(b"GET /c");
        assert_eq!(call.outgoing(), b"GET /c");
    }

    #[test]
    fn no_input_makes_it_keep_more_than_a_head_and_a_body() {
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
                let mut call = call(1000);
                for piece in [start, &*more.repeat(1000)].concat().as_bytes().chunks(piece_bytes) {
                    let (_, refusal) = hear(&mut call, piece);
                    let (kept, body) = (call.inbound.len(), call.body.len());
                    assert!(kept <= LIMITS.head_bytes_max + piece_bytes, "{kept} of {start}{more}");
                    assert!(body as u64 <= LIMITS.body_bytes_max, "{body} of {start}{more}");
                    if refusal.is_some() {
                        break;
                    }
                }
            }
        }
    }
}

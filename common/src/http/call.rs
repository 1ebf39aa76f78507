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
        if self.sent >= self.outbound.len() {
            self.outbound.clear();
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
                            101 => return Err(Refusal::StartLine),
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

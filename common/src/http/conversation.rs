//! The server's half of a connection without the connection: bytes in, requests out; responses
//! in, bytes out. Requests may be taken ahead; their responses are given in the same order.

use super::body::{Body, Of, Piece};
use super::head::{self, RequestHead};
use super::{Date, Limits, Method, Refusal, Request, Response, Then, Version};

/// Empty lines before a request line that are forgiven (RFC 9112 section 2.2): some old clients
/// send one after a body.
const EMPTY_LINES_MAX: u8 = 4;

/// What a conversation is waiting for from its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The first byte of a request.
    Idle,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// Nothing: no request will be taken any more.
    Over,
}

/// One connection's requests and responses.
#[derive(Debug)]
pub struct Conversation {
    limits: Limits,
    state: State,
    room: Room,
    /// How much of the inbound bytes has been taken, how far the head after it was searched.
    taken: usize,
    searched: usize,
    empty_lines: u8,
    /// How much of the outbound bytes has been sent.
    sent: usize,
    /// Requests that were taken and not answered yet.
    unanswered: usize,
    owes_continue: bool,
}

/// The buffers of a conversation: only one that has bytes under way needs them.
#[derive(Debug, Default)]
pub struct Room {
    inbound: Vec<u8>,
    outbound: Vec<u8>,
    /// The last head that was found good, and what it asked for. A client sends the same one again
    /// and again, and what comes of a head depends on its bytes alone.
    known: Vec<u8>,
    asked: Option<Asked>,
}

impl Room {
    /// Bytes of memory.
    pub fn capacity(&self) -> usize {
        self.inbound.capacity() + self.outbound.capacity() + self.known.capacity()
    }

    /// The head at the start of `bytes`, if it is the one that is known.
    fn recall(&self, bytes: &[u8]) -> Option<Front> {
        let asked = self.asked?;
        head::begins(bytes, &self.known).then_some(Front { length: self.known.len(), asked })
    }

    fn learn(&mut self, at: usize, front: Front) {
        let head = self.inbound.get(at..at + front.length).unwrap_or_default();
        self.known.clear();
        self.known.extend_from_slice(head);
        self.asked = Some(front.asked);
    }
}

/// The head at the front of what was received.
#[derive(Clone, Copy, Debug)]
struct Front {
    length: usize,
    asked: Asked,
}

#[derive(Debug)]
enum State {
    Head,
    /// Behind a head, which is kept until its request is whole.
    Body(Body, Front),
    Refused(Refusal),
    Over,
}

/// What must be known of a request when its answer is written.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    head_only: bool,
    version: Version,
    then: Then,
}

impl Asked {
    fn by(head: &RequestHead<'_>) -> Asked {
        let keeps = match head.version {
            Version::Http11 => !head.digest.close,
            Version::Http10 => head.digest.keep_alive && !head.digest.close,
        };
        let then = if keeps { Then::Keep } else { Then::Close };
        Asked { head_only: head.method == Method::Head, version: head.version, then }
    }

    /// For an answer that no request asked for: to a refusal, or a greeting before closing.
    pub const NOTHING: Asked =
        Asked { head_only: false, version: Version::Http11, then: Then::Close };

    /// The same, with the connection closed after the answer.
    pub fn last(self) -> Asked {
        Asked { then: Then::Close, ..self }
    }
}

impl Conversation {
    /// A conversation that has just been opened.
    pub fn new(limits: Limits) -> Conversation {
        Conversation {
            limits,
            state: State::Head,
            room: Room::default(),
            taken: 0,
            searched: 0,
            empty_lines: 0,
            sent: 0,
            unanswered: 0,
            owes_continue: false,
        }
    }

    /// Takes in what the peer sent.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.room.inbound.drain(..self.taken);
            self.searched = self.searched.saturating_sub(self.taken);
            self.taken = 0;
        }
        self.room.inbound.extend_from_slice(bytes);
    }

    /// The next whole request and what its answer will need; `None` until more was received.
    /// A refusal is final: the same comes again, and nothing more is taken.
    pub fn request(&mut self) -> Result<Option<(Request<'_>, Asked)>, Refusal> {
        match self.advance() {
            Ok(None) => Ok(None),
            Ok(Some(front)) => Ok(self.take(front)),
            Err(refusal) => {
                self.state = State::Refused(refusal);
                Err(refusal)
            }
        }
    }

    /// Writes the answer to the earliest request that has none yet.
    pub fn reply(&mut self, asked: Asked, response: &Response, then: Then, date: &Date) {
        self.unanswered = self.unanswered.saturating_sub(1);
        let connection = match (asked.then, then, asked.version) {
            (Then::Keep, Then::Keep, Version::Http11) => None,
            (Then::Keep, Then::Keep, Version::Http10) => Some(Then::Keep),
            _ => Some(Then::Close),
        };
        head::write_response(response, date, connection, !asked.head_only, &mut self.room.outbound);
        if connection == Some(Then::Close) {
            self.state = State::Over;
        }
        self.offer_to_continue();
    }

    /// Ends the taking of requests without a word.
    pub fn end(&mut self) {
        self.state = State::Over;
    }

    /// What is to be sent.
    pub fn outgoing(&self) -> &[u8] {
        self.room.outbound.get(self.sent..).unwrap_or_default()
    }

    /// Notes that so many outgoing bytes were sent.
    pub fn sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.room.outbound.len() {
            self.room.outbound.clear();
            self.sent = 0;
        }
    }

    /// What the peer is waited for.
    pub fn stage(&self) -> Stage {
        match self.state {
            State::Head if self.is_caught_up() => Stage::Idle,
            State::Head => Stage::Head,
            State::Body(..) => Stage::Body,
            State::Refused(_) | State::Over => Stage::Over,
        }
    }

    /// Whether all that was received has been taken.
    pub fn is_caught_up(&self) -> bool {
        self.taken == self.room.inbound.len()
    }

    /// Whether it has no buffers.
    pub fn is_resting(&self) -> bool {
        self.room.capacity() == 0
    }

    /// Gives it buffers to use, in place of the empty ones of a conversation at rest.
    pub fn lend(&mut self, room: Room) {
        debug_assert!(self.room.inbound.is_empty() && self.room.outbound.is_empty());
        self.room = room;
    }

    /// Takes its buffers back if no bytes are under way.
    pub fn rest(&mut self) -> Option<Room> {
        if self.taken < self.room.inbound.len() || !self.room.outbound.is_empty() {
            return None;
        }
        (self.taken, self.searched) = (0, 0);
        self.room.inbound.clear();
        Some(std::mem::take(&mut self.room))
    }

    /// Takes its buffers back for good, whatever they hold.
    pub fn leave(&mut self) -> Room {
        self.state = State::Over;
        (self.taken, self.searched, self.sent) = (0, 0, 0);
        self.room.inbound.clear();
        self.room.outbound.clear();
        std::mem::take(&mut self.room)
    }

    /// Moves on to the next whole request.
    fn advance(&mut self) -> Result<Option<Front>, Refusal> {
        if let State::Head = self.state {
            if self.is_caught_up() {
                return Ok(None);
            }
            if let Some(fresh) = self.room.inbound.get(self.taken..)
                && let Some(front) = self.room.recall(fresh)
            {
                return Ok(Some(front));
            }
            self.skip_empty_lines()?;
            let fresh = self.room.inbound.get(self.taken..).unwrap_or_default();
            if fresh.first().is_some_and(|&byte| byte != b'\r' && !head::may_begin(byte)) {
                return Err(Refusal::StartLine);
            }
            // What stands beyond a head's reach must not matter: it may have come along or not.
            let reach = fresh.get(..self.limits.head_bytes_max).unwrap_or(fresh);
            let mut searched = self.searched.saturating_sub(self.taken);
            let end = head::end(reach, &mut searched)?;
            self.searched = self.taken + searched;
            let Some(length) = end else {
                return match fresh.len() > reach.len() {
                    true if reach.contains(&b'\n') => Err(Refusal::HeadTooLarge),
                    true => Err(Refusal::TargetTooLong),
                    false => Ok(None),
                };
            };
            let head = head::request(fresh.get(..length).unwrap_or_default())?;
            let body = Body::of(Of::Request, head.version, &head.digest, &self.limits)?;
            let front = Front { length, asked: Asked::by(&head) };
            if body.is_empty() {
                self.room.learn(self.taken, front);
                return Ok(Some(front));
            }
            self.owes_continue = head.digest.expects_continue && head.version == Version::Http11;
            self.state = State::Body(body, front);
        }
        let State::Body(body, front) = &mut self.state else {
            return match self.state {
                State::Refused(refusal) => Err(refusal),
                _ => Ok(None),
            };
        };
        // The head stays where it is, and what follows it moves up as the body is dropped.
        let start = self.taken + front.length;
        let mut input = self.room.inbound.get(start..).unwrap_or_default();
        let before = input.len();
        let end = loop {
            match body.piece(&mut input)? {
                Piece::Data(_) => {}
                Piece::More => break None,
                Piece::End => break Some(*front),
            }
        };
        let dropped = before - input.len();
        self.room.inbound.drain(start..start + dropped);
        self.owes_continue &= dropped == 0 && end.is_none();
        self.offer_to_continue();
        Ok(end)
    }

    /// Takes the request whose head is at the front.
    fn take(&mut self, front: Front) -> Option<(Request<'_>, Asked)> {
        let start = self.taken;
        self.taken += front.length;
        self.searched = self.taken;
        self.empty_lines = 0;
        self.unanswered += 1;
        self.state = match front.asked.then {
            Then::Keep => State::Head,
            Then::Close => State::Over,
        };
        let head = self.room.inbound.get(start..self.taken)?;
        head::reread(head).map(|request| (request, front.asked))
    }

    fn skip_empty_lines(&mut self) -> Result<(), Refusal> {
        while let Some([b'\r', b'\n', ..]) = self.room.inbound.get(self.taken..) {
            self.empty_lines += 1;
            if self.empty_lines > EMPTY_LINES_MAX {
                return Err(Refusal::StartLine);
            }
            self.taken += 2;
        }
        match self.room.inbound.get(self.taken..) {
            Some([b'\r', other, ..]) if *other != b'\n' => Err(Refusal::StartLine),
            _ => Ok(()),
        }
    }

    /// Sends `100 Continue` once no earlier answer is due before it (RFC 9110 section 10.1.1).
    fn offer_to_continue(&mut self) {
        let waits = self.owes_continue && matches!(self.state, State::Body(..));
        if waits && self.unanswered == 0 {
            self.owes_continue = false;
            self.room.outbound.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }
}

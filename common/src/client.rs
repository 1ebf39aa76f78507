//! Calls to the backend: one GET for each, over few connections that are kept.
//!
//! Calls queue up in the order in which they were made, and the worker's connections take from
//! the queue: several at once, in one write, if the backend has shown that it keeps connections
//! and answers quickly. A connection is added only when none can take the next call.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use crate::http::call::Call;
use crate::http::{Limits, Refusal, Status, Then};
use crate::runtime::{self, Direction, Watched, lock};
use crate::sys;

/// A connection older than this takes no more calls: a backend that was moved, scaled or added
/// behind the same name gets its share.
const AGE_MAX: Duration = Duration::from_secs(10);
/// Connections of one worker. Reached only by a backend so slow that each needs its own.
const LINES_MAX: usize = 64;
/// The same while it is not known yet whether the backend keeps connections.
const UNKNOWN_LINES_MAX: usize = 4;
/// Requests on one connection before the first is answered: 128 small answers fit one read.
const DEPTH_MAX: usize = 128;
/// A backend that needs this long for one answer is asked one thing at a time on a connection,
/// and a connection that has been silent so long is not given more.
const SLOW: Duration = Duration::from_millis(20);
/// After a pipeline broke, how long the backend is asked one thing at a time.
const CAUTION: Duration = Duration::from_secs(10);
/// How long a backend may take to close after its last answer. Whoever closes first cannot use
/// the port again for a minute (RFC 9293, TIME-WAIT): were that we, we would run out of them where
/// each call has its own connection.
const PARTING: Duration = Duration::from_secs(1);
/// One read takes at most this much.
const READ_BYTES_MAX: usize = 32 << 10;

/// What is called, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// The backend's host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// From the making of a call to its failure.
    pub timeout: Duration,
    /// Whether connections are kept between calls.
    pub reuse: Reuse,
    /// Bounds of an answer.
    pub limits: Limits,
}

/// Whether connections are kept between calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// As long as the backend does, and 10 s at most.
    On,
    /// Each call has its own, which shows how a load balancer or a name spreads them.
    Off,
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The backend answered with a status other than 200.
    Status(u16),
    /// No connection could be made: the system's error number.
    Refused(i32),
    /// The host name has no address, or nobody could be asked for it.
    Dns,
    /// No whole answer came in time.
    Timeout,
    /// What came was not an HTTP answer.
    Protocol(Refusal),
    /// The answer's body was not JSON.
    Json(&'static str),
    /// The answer was larger than it may be.
    TooLarge,
}

impl Failure {
    /// The word that names it in messages and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Failure::Status(_) => "STATUS",
            Failure::Refused(_) => "REFUSED",
            Failure::Dns => "DNS",
            Failure::Timeout => "TIMEOUT",
            Failure::Protocol(_) => "PROTOCOL",
            Failure::Json(_) => "JSON",
            Failure::TooLarge => "TOO_LARGE",
        }
    }

    /// The status that the client must see.
    pub fn status(self) -> Status {
        match self {
            Failure::Timeout => Status::GatewayTimeout,
            _ => Status::BadGateway,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        match self {
            Failure::Status(code) => write!(f, "GET / on backend API {code}"),
            Failure::Refused(number) => {
                let error = io::Error::from_raw_os_error(*number);
                write!(f, "GET / on backend API: {word} ({error})")
            }
            Failure::Dns => write!(f, "GET / on backend API: {word} (name not resolved)"),
            Failure::Timeout => write!(f, "GET / on backend API: {word} (no answer in time)"),
            Failure::Protocol(refusal) => write!(f, "GET / on backend API: {word} ({refusal})"),
            Failure::Json(fault) => write!(f, "GET / on backend API: {word} ({fault})"),
            Failure::TooLarge => write!(f, "GET / on backend API: {word} (answer too large)"),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        match refusal {
            Refusal::BodyTooLarge | Refusal::HeadTooLarge => Failure::TooLarge,
            other => Failure::Protocol(other),
        }
    }
}

/// What happens to the connections of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// One was made.
    Opened,
    /// One that had been made is gone.
    Closed,
    /// The host name was looked up for one.
    LookedUp,
}

/// What a call comes to: what `digest` made of the body of a 200, or why there is none.
pub type Outcome = Result<Vec<u8>, Failure>;

/// One worker's connections to the backend, and the calls that are under way.
#[derive(Clone)]
pub struct Client(Rc<Shared>);

struct Shared {
    target: Target,
    request: Vec<u8>,
    lookup: Lookup,
    digest: fn(&[u8]) -> Outcome,
    notice: Box<dyn Fn(Event)>,
    /// Turns with every connection, so that each address of a name gets its share.
    turn: Cell<usize>,
    state: RefCell<State>,
    scratch: RefCell<Box<[u8]>>,
}

impl Client {
    /// A client for this worker. `digest` is given the body of each 200 while it is at hand.
    pub fn new(
        target: Target,
        lookup: Lookup,
        digest: fn(&[u8]) -> Outcome,
        notice: impl Fn(Event) + 'static,
    ) -> Client {
        let is_v6 = target.host.parse::<Ipv6Addr>().is_ok();
        let host = if is_v6 { format!("[{}]", target.host) } else { target.host.clone() };
        let closing = match target.reuse {
            Reuse::On => "",
            Reuse::Off => "Connection: close\r\n",
        };
        let port = target.port;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: application/json\r\n{closing}\r\n"
        );
        Client(Rc::new(Shared {
            target,
            request: request.into_bytes(),
            lookup,
            digest,
            notice: Box::new(notice),
            turn: Cell::new(0),
            state: RefCell::default(),
            scratch: RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice()),
        }))
    }

    /// Makes one call, which is under way from now on.
    pub fn get(&self) -> Ticket {
        let made = runtime::now();
        let index = self.0.state.borrow_mut().add(made);
        self.0.find_lines();
        let deadline = made + self.0.target.timeout;
        Ticket { shared: Rc::clone(&self.0), index: Some(index), deadline }
    }
}

/// A call that is under way: a future of its outcome. Dropping it gives the call up.
pub struct Ticket {
    shared: Rc<Shared>,
    index: Option<usize>,
    deadline: Instant,
}

impl Future for Ticket {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(index) = self.index else { return Poll::Pending };
        let taken = self.shared.state.borrow_mut().take_outcome(index, cx.waker());
        if let Some(outcome) = taken {
            self.index = None;
            return Poll::Ready(outcome);
        }
        runtime::due(self.deadline).map(|()| Err(Failure::Timeout))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(index) = self.index {
            self.shared.state.borrow_mut().give_up(index);
        }
    }
}

/// The calls and the connections of one worker.
#[derive(Default)]
struct State {
    calls: Vec<Slot>,
    free: Vec<usize>,
    /// Calls that no connection has taken yet.
    queue: VecDeque<usize>,
    lines: Vec<Option<Line>>,
    manners: Manners,
    /// Until then, no pipelining: one broke.
    cautious: Option<Instant>,
    /// Until then, connections are not added to those that are there: the last could not be made.
    no_dial_until: Option<Instant>,
    /// Calls given up since the queue was last rid of them.
    given_up: usize,
}

/// A place for a call.
enum Slot {
    Free,
    Asked {
        made: Instant,
        again: bool,
        waker: Option<Waker>,
    },
    Done(Outcome),
    /// Nobody waits any more, but a queue or a connection still has its number.
    GivenUp,
}

/// What the backend has shown of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Manners {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It closes after each answer.
    Closes,
    /// It keeps connections and takes its time.
    Slow,
    /// It keeps connections and is quick; so many requests at once have gone well.
    Quick(usize),
}

/// What others need to know of a connection.
struct Line {
    phase: Phase,
    /// Calls on it that are not answered, and since when the backend has owed the first answer.
    unanswered: usize,
    owed_since: Instant,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Dialing,
    Open,
    /// Too old for more calls.
    Retiring,
}

impl State {
    fn add(&mut self, made: Instant) -> usize {
        let slot = Slot::Asked { made, again: false, waker: None };
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.calls.push(Slot::Free);
                self.calls.len() - 1
            }
        };
        self.calls[index] = slot;
        self.queue.push_back(index);
        index
    }

    fn take_outcome(&mut self, index: usize, waiter: &Waker) -> Option<Outcome> {
        match &mut self.calls[index] {
            Slot::Asked { waker, .. } => {
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(waiter)) {
                    *waker = Some(waiter.clone());
                }
                None
            }
            _ => match self.release(index) {
                Slot::Done(outcome) => Some(outcome),
                _ => None,
            },
        }
    }

    fn release(&mut self, index: usize) -> Slot {
        self.free.push(index);
        std::mem::replace(&mut self.calls[index], Slot::Free)
    }

    fn give_up(&mut self, index: usize) {
        match self.calls[index] {
            Slot::Asked { .. } => self.calls[index] = Slot::GivenUp,
            _ => return drop(self.release(index)),
        }
        self.given_up += 1;
        if self.given_up > self.queue.len() / 2 {
            self.given_up = 0;
            for index in std::mem::take(&mut self.queue) {
                match self.calls[index] {
                    Slot::Asked { .. } => self.queue.push_back(index),
                    _ => drop(self.release(index)),
                }
            }
        }
    }

    fn finish(&mut self, index: usize, outcome: Outcome) {
        match std::mem::replace(&mut self.calls[index], Slot::Done(outcome)) {
            Slot::Asked { waker, .. } => waker.into_iter().for_each(Waker::wake),
            _ => drop(self.release(index)),
        }
    }

    /// The next call that somebody still waits for.
    fn next_call(&mut self) -> Option<usize> {
        while let Some(index) = self.queue.pop_front() {
            match self.calls[index] {
                Slot::Asked { .. } => return Some(index),
                _ => drop(self.release(index)),
            }
        }
        None
    }

    /// Puts a call that was not answered, which is nobody's fault, back to the front.
    fn put_back(&mut self, index: usize) {
        self.queue.push_front(index);
    }

    /// The same, once; then the call fails.
    fn ask_again(&mut self, index: usize, failure: Failure) {
        match &mut self.calls[index] {
            Slot::Asked { again: again @ false, .. } => {
                *again = true;
                self.put_back(index);
            }
            _ => self.finish(index, Err(failure)),
        }
    }

    /// A connection could not be made: fails the calls that have waited for it since `started`,
    /// unless another will take them.
    fn note_no_line(&mut self, started: Instant, failure: Failure) {
        if self.lines.iter().flatten().any(|line| line.phase == Phase::Open) {
            self.no_dial_until = Some(runtime::now() + SLOW);
            return;
        }
        for index in std::mem::take(&mut self.queue) {
            match self.calls[index] {
                Slot::Asked { made, .. } if made > started => self.queue.push_back(index),
                _ => self.finish(index, Err(failure)),
            }
        }
    }

    /// How many more calls a connection can be given.
    fn room(&self, line: &Line, now: Instant) -> usize {
        let depth = match self.manners {
            Manners::Quick(depth) => depth,
            Manners::Unknown | Manners::Closes | Manners::Slow => 1,
        };
        match line.phase {
            Phase::Open if !line.is_silent(now) => depth.saturating_sub(line.unanswered),
            _ => 0,
        }
    }

    /// Whether one more connection may be made.
    fn may_dial(&self, now: Instant) -> bool {
        let count = self.lines.iter().flatten().count();
        if count > 0 && self.no_dial_until.is_some_and(|until| now < until) {
            return false;
        }
        match self.manners {
            // Those that stall tell nothing, and must not keep the others from being tried.
            Manners::Unknown => {
                let lines = self.lines.iter().flatten();
                let telling = lines.filter(|line| !line.is_silent(now)).count();
                count < LINES_MAX && telling < UNKNOWN_LINES_MAX
            }
            Manners::Closes | Manners::Slow => count < LINES_MAX,
            // A line that is full and not silent will be back for more at once.
            Manners::Quick(_) => {
                let mut lines = self.lines.iter().flatten();
                count < LINES_MAX && lines.all(|line| line.is_silent(now))
            }
        }
    }

    /// Learns from an answer that took the backend this long.
    fn learn(&mut self, then: Then, took: Duration, now: Instant) {
        let cautious = self.cautious.is_some_and(|until| now < until);
        self.manners = match (then, self.manners) {
            (Then::Close, _) => Manners::Closes,
            (Then::Keep, _) if took >= SLOW || cautious => Manners::Slow,
            (Then::Keep, Manners::Quick(depth)) => Manners::Quick((depth * 2).min(DEPTH_MAX)),
            (Then::Keep, _) => Manners::Quick(1),
        };
    }

    /// Learns from a connection that broke while the backend owed so many answers.
    fn distrust(&mut self, owed: usize, now: Instant) {
        if owed > 0 {
            self.manners = Manners::Unknown;
        }
        if owed > 1 {
            self.cautious = Some(now + CAUTION);
        }
    }
}

impl Line {
    /// Whether it should not be relied on: the backend is silent, or it takes no more calls.
    fn is_silent(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Dialing => false,
            Phase::Open => self.unanswered > 0 && now >= self.owed_since + SLOW,
            Phase::Retiring => true,
        }
    }
}

impl Shared {
    /// Sees to it that the queued calls will be taken: wakes connections with room for them, and
    /// has new ones made where that is not enough.
    fn find_lines(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let now = runtime::now();
        let mut left = state.queue.len();
        for line in state.lines.iter().flatten() {
            if left == 0 {
                return;
            }
            let room = match line.phase {
                Phase::Dialing => 1,
                _ => state.room(line, now),
            };
            if room > 0 {
                line.waker.iter().for_each(Waker::wake_by_ref);
            }
            left = left.saturating_sub(room);
        }
        while left > 0 && state.may_dial(now) {
            left -= 1;
            let number = state.lines.iter().position(Option::is_none).unwrap_or_else(|| {
                state.lines.push(None);
                state.lines.len() - 1
            });
            let phase = Phase::Dialing;
            state.lines[number] = Some(Line { phase, unanswered: 0, owed_since: now, waker: None });
            runtime::spawn(work(LineEntry { shared: Rc::clone(self), number }));
        }
        if left > 0 {
            // Whatever is full now must look again once it has been silent for too long.
            let full = state.lines.iter().flatten().filter(|line| !line.is_silent(now));
            full.filter_map(|line| line.waker.as_ref()).for_each(Waker::wake_by_ref);
        }
    }
}

/// A connection's entry in the list of lines, struck out when it is dropped.
struct LineEntry {
    shared: Rc<Shared>,
    number: usize,
}

impl LineEntry {
    fn update(&self, change: impl FnOnce(&mut Line)) {
        if let Some(line) = &mut self.shared.state.borrow_mut().lines[self.number] {
            change(line);
        }
    }
}

impl Drop for LineEntry {
    fn drop(&mut self) {
        let line = self.shared.state.borrow_mut().lines[self.number].take();
        if line.is_some_and(|line| line.phase != Phase::Dialing) {
            (self.shared.notice)(Event::Closed);
        }
        self.shared.find_lines();
    }
}

/// Makes a connection and works on it until it ends.
async fn work(entry: LineEntry) {
    let shared = Rc::clone(&entry.shared);
    let started = runtime::now();
    let socket = match dial(&shared, started + shared.target.timeout).await {
        Ok(socket) => socket,
        Err(failure) => return shared.state.borrow_mut().note_no_line(started, failure),
    };
    (shared.notice)(Event::Opened);
    entry.update(|line| line.phase = Phase::Open);
    let mut connection = Connection {
        entry,
        socket,
        call: Call::new(shared.target.limits),
        unanswered: VecDeque::new(),
        owed_since: runtime::now(),
        opened: runtime::now(),
        served: false,
        input_ended: false,
    };
    let end = poll_fn(|cx| connection.poll(cx)).await;
    connection.give_back(end);
    if end.is_ok() && !connection.input_ended {
        connection.entry.update(|line| line.phase = Phase::Retiring);
        shared.find_lines();
        let parting = runtime::now() + PARTING;
        runtime::within(parting, poll_fn(|_| connection.poll_end())).await;
    }
}

/// One connection to the backend.
struct Connection {
    entry: LineEntry,
    socket: Watched<TcpStream>,
    call: Call,
    /// The calls that it was given, in order.
    unanswered: VecDeque<usize>,
    owed_since: Instant,
    opened: Instant,
    /// Whether the backend has answered on it: then its silent end means no more than old age.
    served: bool,
    input_ended: bool,
}

impl Connection {
    /// Works until the connection has come to its end, and tells which: `Ok` is an announced one.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let shared = Rc::clone(&self.entry.shared);
        // What has come is read first: it is no answer to what is asked after it (RFC 9112 9.2).
        loop {
            let scratch = &mut **shared.scratch.borrow_mut();
            let received = match self.socket.poll_read(scratch) {
                Poll::Ready(received) => received.unwrap_or(0),
                Poll::Pending => break,
            };
            self.input_ended = received == 0;
            if self.input_ended {
                self.call.close();
            }
            self.call.receive(scratch.get(..received).unwrap_or_default());
            match self.take_answers(&shared) {
                Ok(Then::Close) => return Poll::Ready(Ok(())),
                Ok(Then::Keep) => {}
                Err(failure) => return Poll::Ready(Err(failure)),
            }
        }
        self.take_calls(&shared);
        match self.send() {
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Refusal::Short.into())),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        self.entry.update(|line| {
            line.unanswered = self.unanswered.len();
            line.owed_since = self.owed_since;
            if !line.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                line.waker = Some(cx.waker().clone());
            }
        });
        self.look_at_the_time(&shared)
    }

    fn look_at_the_time(&self, shared: &Rc<Shared>) -> Poll<Result<(), Failure>> {
        if self.unanswered.is_empty() {
            return runtime::due(self.opened + AGE_MAX).map(Ok);
        }
        // Whoever is queued behind a silent connection needs another one.
        let queued = !shared.state.borrow().queue.is_empty();
        if queued && runtime::due(self.owed_since + SLOW).is_ready() {
            shared.find_lines();
        }
        runtime::due(self.owed_since + shared.target.timeout).map(|()| Err(Failure::Timeout))
    }

    fn take_calls(&mut self, shared: &Shared) {
        let now = runtime::now();
        if now >= self.opened + AGE_MAX {
            self.entry.update(|line| line.phase = Phase::Retiring);
        }
        let (unanswered, owed_since) = (self.unanswered.len(), self.owed_since);
        self.entry.update(|line| {
            (line.unanswered, line.owed_since) = (unanswered, owed_since);
        });
        let mut state = shared.state.borrow_mut();
        let room = match &state.lines[self.entry.number] {
            Some(line) => state.room(line, now),
            None => 0,
        };
        for _ in 0..room {
            let Some(index) = state.next_call() else { return };
            if self.unanswered.is_empty() {
                self.owed_since = now;
            }
            self.unanswered.push_back(index);
            self.call.ask(&shared.request);
        }
    }

    fn send(&mut self) -> Poll<io::Result<()>> {
        while !self.call.outgoing().is_empty() {
            let outgoing = self.call.outgoing();
            let written = self.socket.poll_try(Direction::Out, |mut io| io.write(outgoing));
            self.call.sent(ready!(written)?);
        }
        Poll::Ready(Ok(()))
    }

    /// Hands out the answers that have come; `Close` after the last.
    fn take_answers(&mut self, shared: &Shared) -> Result<Then, Failure> {
        while let Some(answer) = self.call.answer()? {
            let outcome = match answer.status {
                200 => (shared.digest)(answer.body),
                code => Err(Failure::Status(code)),
            };
            let then = match shared.target.reuse {
                Reuse::On => answer.then,
                Reuse::Off => Then::Close,
            };
            let now = runtime::now();
            let mut state = shared.state.borrow_mut();
            state.learn(then, now.saturating_duration_since(self.owed_since), now);
            if let Some(index) = self.unanswered.pop_front() {
                state.finish(index, outcome);
            }
            (self.served, self.owed_since) = (true, now);
            if then == Then::Close {
                return Ok(Then::Close);
            }
        }
        Ok(if self.input_ended { Then::Close } else { Then::Keep })
    }

    /// Gives back the calls that were not answered, to be asked again on another connection,
    /// except the one that may itself have been the reason.
    fn give_back(&mut self, end: Result<(), Failure>) {
        let mut state = self.entry.shared.state.borrow_mut();
        let failure = end.err().unwrap_or(Failure::Protocol(Refusal::Short));
        let owed = self.unanswered.len();
        if end.is_err() {
            state.distrust(owed, runtime::now());
        }
        let closed = failure == Failure::Protocol(Refusal::Short) && !self.call.has_begun();
        // An announced end, or old age. It has answered somebody before, so that calls which
        // are put back each time come to their turn.
        let harmless = end.is_ok() || closed && self.served;
        // So may one that lay idle before its first call, or was given several; but only once.
        let forgiven = closed && (owed > 1 || self.owed_since > self.opened);
        let suspect = !(harmless || forgiven);
        if suspect && let Some(index) = self.unanswered.pop_front() {
            state.finish(index, Err(failure));
        }
        for index in self.unanswered.drain(..).rev() {
            if harmless {
                state.put_back(index);
            } else {
                state.ask_again(index, failure);
            }
        }
    }

    /// Waits for the backend to close; what else comes was not asked for.
    fn poll_end(&self) -> Poll<()> {
        let scratch = &mut **self.entry.shared.scratch.borrow_mut();
        self.socket.poll_read(scratch).map(drop)
    }
}

/// The backend's addresses, and a connection to one of them.
async fn dial(shared: &Rc<Shared>, deadline: Instant) -> Result<Watched<TcpStream>, Failure> {
    let Target { host, port, .. } = &shared.target;
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, *port)],
        Err(_) => {
            (shared.notice)(Event::LookedUp);
            let found = runtime::within(deadline, shared.lookup.ask()).await;
            found.ok_or(Failure::Timeout)?.ok_or(Failure::Dns)?
        }
    };
    // A resolver may sort by nearness (RFC 6724), and would then never change its first.
    let turn = shared.turn.replace(shared.turn.get() + 1);
    let connected = connect_to_one(&addresses, turn, deadline).await;
    connected.map_err(|error| match (error.raw_os_error(), error.kind()) {
        (None, io::ErrorKind::TimedOut) => Failure::Timeout,
        (None, io::ErrorKind::NotFound) => Failure::Dns,
        (number, _) => Failure::Refused(number.unwrap_or(0)),
    })
}

/// A connection to the first of the addresses that takes one, beginning with another each turn.
/// Each has its share of the time that is left: a silent one must not take it all. `Err` is the
/// last one's, `NotFound` where there is none.
pub async fn connect_to_one(
    addresses: &[SocketAddr],
    turn: usize,
    deadline: Instant,
) -> io::Result<Watched<TcpStream>> {
    let count = addresses.len();
    let in_turn = addresses.iter().cycle().skip(turn % count.max(1));
    let mut failure = io::ErrorKind::NotFound.into();
    for (address, left) in in_turn.zip((1..=count as u32).rev()) {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / left;
        failure = match runtime::within(now + share, connect(address)).await {
            Some(Ok(socket)) => return Ok(socket),
            Some(Err(error)) => error,
            None => io::ErrorKind::TimedOut.into(),
        };
    }
    Err(failure)
}

/// A connection of this worker, once it is made.
pub async fn connect(address: &SocketAddr) -> io::Result<Watched<TcpStream>> {
    let stream = sys::dial(address)?;
    stream.set_nodelay(true)?;
    let socket = Watched::new(stream);
    let made = |stream: &TcpStream| match (stream.take_error()?, stream.peer_addr()) {
        (Some(error), _) => Err(error),
        (None, Err(error)) if error.kind() == io::ErrorKind::NotConnected => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        (None, peer) => peer.map(drop),
    };
    socket.attempt(Direction::Out, made).await?;
    Ok(socket)
}

/// The one thread that looks the backend's name up, because std can only block for that.
#[derive(Clone)]
pub struct Lookup(Arc<Inbox>);

#[derive(Default)]
struct Inbox {
    questions: Mutex<Vec<Arc<Question>>>,
    filled: Condvar,
}

/// A look-up's addresses, if there are any; and who is woken when they are known.
#[derive(Default)]
struct Question(Mutex<(Option<Addresses>, Option<Waker>)>);

type Addresses = Option<Vec<SocketAddr>>;

impl Lookup {
    /// Starts the thread, which lives as long as the process.
    pub fn start(host: &str, port: u16) -> io::Result<Lookup> {
        let inbox = Arc::new(Inbox::default());
        let (host, theirs) = (host.to_owned(), Arc::clone(&inbox));
        std::thread::Builder::new().name("lookup".into()).spawn(move || {
            loop {
                // Whoever asked before the look-up began shares its answer.
                let questions = theirs.take();
                let found = (host.as_str(), port).to_socket_addrs().ok();
                let found: Addresses =
                    found.map(Iterator::collect).filter(|all: &Vec<_>| !all.is_empty());
                for question in questions {
                    question.answer(found.clone());
                }
            }
        })?;
        Ok(Lookup(inbox))
    }

    async fn ask(&self) -> Addresses {
        let question = Arc::new(Question::default());
        lock(&self.0.questions).push(Arc::clone(&question));
        self.0.filled.notify_one();
        poll_fn(|cx| {
            let mut state = lock(&question.0);
            state.1 = Some(cx.waker().clone());
            state.0.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

impl Inbox {
    /// Waits for questions.
    fn take(&self) -> Vec<Arc<Question>> {
        let empty = |questions: &mut Vec<_>| questions.is_empty();
        let waited = self.filled.wait_while(lock(&self.questions), empty);
        std::mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner))
    }
}

impl Question {
    fn answer(&self, found: Addresses) {
        let mut state = lock(&self.0);
        state.0 = Some(found);
        state.1.take().into_iter().for_each(Waker::wake);
    }
}

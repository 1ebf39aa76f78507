//! The pool: which connection sends which request, and when connections are opened and retired.
//! No sockets, no clock: times are passed in, and connections are opened by the caller.
//!
//! # Policy
//!
//! - A request is given to a connection, which then sends it, or waits in the queue: probes first,
//!   then in the order of arrival.
//! - A connection carries one request at a time. A request takes the idle connection that was used
//!   last; if there is none, a new one is opened, up to `connections_max`.
//! - A backend whose `Server` field says that it is api-backend gets its requests pipelined, over
//!   up to `PIPELINED_CONNECTIONS` connections. All requests of one turn of the event loop go to
//!   one connection, which saves system calls on both sides, and those of the next turn to the next
//!   connection, so that replicas behind one address share the work. A connection is pipelined once
//!   it has itself received such a response.
//! - A pipelined connection that has owed a response for `LATE` gets requests only if all are late.
//!   After `STALL` it gets none, and does not count: one lost packet or one stopped replica must
//!   not stop the rest.
//! - A connection that has reached its age serves on until its replacement is open. So a backend
//!   that was moved, scaled or added gets its share, and a name server or a backend that accepts
//!   no new connections takes nothing from the old ones. An idle one closes.
//! - A request is retried once, on a new connection, if its connection had been idle or had
//!   served before, and broke before a byte of the response arrived (RFC 9112 section 9.3.1): the
//!   backend may have closed it as idle at that moment. Requests that break together share the new
//!   connection.
//! - If no connection is open, a failure to open one fails one waiting request while others are
//!   being opened, and all otherwise. If some are open, the requests wait for them, and connections
//!   are opened one at a time, with pauses, until one succeeds.
//! - A probe may open a connection beyond the limit.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::{Error, Outcome};
use crate::http::client::ResponseError;

/// A connection is replaced at this age and up to 3 s more: not all are replaced at once.
const AGE_MIN: Duration = Duration::from_secs(7);
const AGE_SPREAD_S: usize = 4;
/// An aged connection that has not been used for this long closes without a replacement.
const IDLE_MAX: Duration = Duration::from_secs(1);
/// Connections of one worker to a backend that takes pipelined requests.
const PIPELINED_CONNECTIONS: usize = 4;
/// Requests on one such connection: as many responses fit one read.
const PIPELINE_DEPTH: usize = 128;
/// A backend that takes pipelined requests responds within microseconds. A connection that is late
/// gets requests only if all are.
const LATE: Duration = Duration::from_millis(20);
/// The smallest time after which TCP sends a lost packet again. An overloaded backend is late too:
/// more connections would not help it.
const STALL: Duration = Duration::from_millis(200);
/// After a connection could not be opened, the pause before the next one, if others are open.
const OPEN_PAUSE: Duration = Duration::from_millis(20);

/// Ended requests that are kept.
const SPARE_MAX: usize = 256;

/// The end of a connection that closed before a response was complete.
pub(super) const INCOMPLETE: Error = Error::Protocol(ResponseError::Incomplete);

/// The index of a connection.
pub(super) type ConnectionId = usize;

/// Requests in the order in which they are sent.
pub(super) type Requests = VecDeque<Rc<Request>>;

/// A request that is under way. Its future shares it with the queue or a connection; they drop it
/// if the future is gone.
pub(super) struct Request {
    priority: Priority,
    pub(super) made: Instant,
    /// The bytes of the request if they are its own.
    pub(super) bytes: Option<Vec<u8>>,
    is_retry: Cell<bool>,
    outcome: Cell<Option<Outcome>>,
    waker: Cell<Option<Waker>>,
}

/// The order of requests in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    Probe,
    Normal,
}

impl Request {
    /// The outcome; it can be taken once. Until it is there, `waker` will be woken.
    pub(super) fn poll_outcome(&self, waker: &Waker) -> Option<Outcome> {
        let outcome = self.outcome.take();
        if outcome.is_none() {
            self.waker.set(Some(waker.clone()));
        }
        outcome
    }

    /// Returns true if one alone has it: a connection whose request was cancelled, or its future.
    fn is_unshared(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) == 1
    }

    fn finish(&self, outcome: Outcome) {
        self.outcome.set(Some(outcome));
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

/// The pipelining that a backend takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pipelining {
    /// None, or it has not responded yet.
    #[default]
    Off,
    On,
}

/// Why an open connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It is aged, or not needed any more.
    Retired,
    /// The last response said `close`, or it was closed between two.
    Announced,
    /// It broke before a byte of the next response.
    Broken,
    Failed(Error),
}

/// Requests and connections by state, and totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that wait for a connection.
    pub waiting: usize,
    /// Requests that were sent and have no response.
    pub in_flight: usize,
    /// Connections that are being opened.
    pub connecting: usize,
    /// Open connections without a request.
    pub idle: usize,
    /// Open connections with a request.
    pub busy: usize,
    /// Connections that were opened, ever.
    pub opened: usize,
    /// Requests that were sent again, ever.
    pub retried: usize,
    /// Look-ups of the name that were requested, ever.
    pub lookups: usize,
    /// Look-ups that failed or took too long; the last addresses are used if there are any.
    pub lookup_failures: usize,
}

impl Stats {
    fn of(&mut self, phase: Phase) -> &mut usize {
        match phase {
            Phase::Connecting => &mut self.connecting,
            Phase::Idle => &mut self.idle,
            Phase::Busy | Phase::Retiring => &mut self.busy,
        }
    }
}

/// The requests and connections of one worker.
#[derive(Default)]
pub(super) struct Pool {
    connections_max: usize,
    timeout: Duration,
    /// Requests that wait: by priority, then by age.
    queue: Requests,
    /// Some requests that have ended, to be used again: to allocate each costs 3 % of its
    /// instructions.
    spare: Vec<Rc<Request>>,
    connections: Vec<Option<PooledConnection>>,
    to_open: Vec<ConnectionId>,
    /// Idle connections that take one request at a time, last used last.
    idle: Vec<ConnectionId>,
    /// Open connections that take pipelined requests, and the place of the one in turn.
    pipelined: Vec<ConnectionId>,
    turn: usize,
    /// Of the last response.
    pipelining: Pipelining,
    pub(super) last_response: Option<Instant>,
    /// The last connection could not be opened, though others are open: one is tried at a time,
    /// and none before this time.
    pub(super) paused_until: Option<Instant>,
    /// `waiting` is the length of the queue.
    pub(super) counts: Stats,
}

struct PooledConnection {
    phase: Phase,
    pipelining: Pipelining,
    /// The requests that it was given, in order: those to be sent, and those that were.
    unsent: Requests,
    in_flight: Requests,
    /// Since when it is being opened, the backend has owed the next response, or it has been idle.
    since: Instant,
    aged_at: Instant,
    /// It has been idle or has served: a silent close may be that of an idle connection.
    is_kept: bool,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Idle,
    /// It has requests, or looks for some.
    Busy,
    /// It gets no more requests.
    Retiring,
}

impl PooledConnection {
    fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Busy)
    }

    /// Returns true if the backend has owed a response for this long.
    fn owes_for(&self, time: Duration, now: Instant) -> bool {
        !self.in_flight.is_empty() && now >= self.since + time
    }

    fn enter(&mut self, phase: Phase, counts: &mut Stats) {
        *counts.of(std::mem::replace(&mut self.phase, phase)) -= 1;
        *counts.of(phase) += 1;
    }
}

/// Requests.
impl Pool {
    pub(super) fn new(connections_max: usize, timeout: Duration) -> Pool {
        Pool { connections_max, timeout, ..Pool::default() }
    }

    /// Queues a request. `dispatch` then finds a connection for it.
    pub(super) fn enqueue(
        &mut self,
        priority: Priority,
        bytes: Option<Vec<u8>>,
        made: Instant,
    ) -> Rc<Request> {
        let is_retry = Cell::new(false);
        let (outcome, waker) = (Cell::default(), Cell::default());
        let request = Request { priority, made, bytes, is_retry, outcome, waker };
        let request = match self.spare.pop() {
            Some(mut spare) => {
                *Rc::get_mut(&mut spare).expect("a spare one is not shared") = request;
                spare
            }
            None => Rc::new(request),
        };
        self.queue_request(Rc::clone(&request));
        request
    }

    fn queue_request(&mut self, request: Rc<Request>) {
        let place = |it: &Request| (it.priority, it.made);
        let index = self.queue.partition_point(|it| place(it) <= place(&request));
        self.queue.insert(index, request);
    }

    /// Releases a request when its future is dropped. If it was sent, its response will be dropped.
    pub(super) fn release(&mut self, request: &Rc<Request>) {
        if request.is_unshared() {
            if self.spare.len() < SPARE_MAX {
                request.outcome.take();
                self.spare.push(Rc::clone(request));
            }
        } else if let Some(index) = self.queue.iter().position(|it| Rc::ptr_eq(it, request)) {
            // Thousands that time out do so in the order of the queue.
            self.queue.remove(index);
        }
    }

    /// Gives waiting requests to connections. Returns the connections to open.
    pub(super) fn dispatch(&mut self, now: Instant) -> Vec<ConnectionId> {
        let (mut is_woken, mut is_aged) = (false, false);
        while !self.queue.is_empty()
            && let Some(id) = self.next_available(now)
            && let Some(connection) = &mut self.connections[id]
            && let Some(request) = self.queue.pop_front()
        {
            if connection.phase == Phase::Idle {
                connection.enter(Phase::Busy, &mut self.counts);
                connection.since = now;
            }
            // One that was just opened has no waker yet: it runs next, and was opened for this one.
            if connection.unsent.is_empty()
                && let Some(waker) = &connection.waker
            {
                waker.wake_by_ref();
                is_woken = true;
            }
            connection.unsent.push_back(request);
            is_aged |= connection.aged_at <= now;
        }
        if is_woken || !self.queue.is_empty() {
            for _ in 0..self.count_missing(is_aged, now) {
                self.connect(Requests::new(), now);
            }
        }
        std::mem::take(&mut self.to_open)
    }

    /// How many connections to open: more for the requests that wait, or one for an aged one.
    fn count_missing(&self, is_aged: bool, now: Instant) -> usize {
        let Stats { connecting, idle, busy, .. } = self.counts;
        let open = connecting + idle + busy;
        let mut wanted = self.queue.len().saturating_sub(connecting);
        let mut left = self.connections_max.saturating_sub(open);
        if let Some(until) = self.paused_until {
            if now < until || connecting > 0 {
                return 0;
            }
            left = left.min(1);
        }
        if self.pipelining == Pipelining::On {
            let live = self.count_live(now);
            left = left.min(PIPELINED_CONNECTIONS.saturating_sub(live + connecting));
            let are_busy = self.count_owing(Duration::ZERO, now) == self.pipelined.len();
            wanted = wanted.max(usize::from(are_busy && connecting == 0));
        }
        let is_probe = self.queue.front().is_some_and(|it| it.priority == Priority::Probe);
        let may_exceed = connecting == 0 && open <= self.connections_max;
        let exceeds = may_exceed && (is_aged || is_probe && wanted > 0);
        wanted.min(left).max(usize::from(exceeds))
    }

    fn next_available(&mut self, now: Instant) -> Option<ConnectionId> {
        // Idle ones first: one that has not responded yet may take pipelined requests then.
        if let Some(id) = self.idle.pop() {
            return Some(id);
        }
        let connection = |turn: usize| self.connections[*self.pipelined.get(turn)?].as_ref();
        // The one in turn gets all requests until it sends them.
        let is_over = connection(self.turn).is_none_or(|it| it.unsent.is_empty());
        let first = self.turn + usize::from(is_over);
        let count = self.pipelined.len();
        let find = |owed_max: Duration| {
            (first..first + count).map(|turn| turn % count).find(|turn| {
                connection(*turn).is_some_and(|it| {
                    let has_room = it.unsent.len() + it.in_flight.len() < PIPELINE_DEPTH;
                    has_room && !it.owes_for(owed_max, now)
                })
            })
        };
        self.turn = find(LATE).or_else(|| find(STALL))?;
        self.pipelined.get(self.turn).copied()
    }

    /// The next request to send on a connection.
    pub(super) fn take(&mut self, id: ConnectionId) -> Option<Rc<Request>> {
        let connection = self.connections[id].as_mut()?;
        while connection.pipelining == Pipelining::On || connection.in_flight.is_empty() {
            let request = connection.unsent.pop_front()?;
            if !request.is_unshared() {
                connection.in_flight.push_back(Rc::clone(&request));
                self.counts.in_flight += 1;
                return Some(request);
            }
        }
        None
    }

    /// Returns true if the connection has been idle or has served.
    pub(super) fn is_kept(&self, id: ConnectionId) -> bool {
        self.connections[id].as_ref().is_some_and(|it| it.is_kept)
    }

    /// A response arrived. Returns how long the backend has owed it.
    pub(super) fn responded(
        &mut self,
        id: ConnectionId,
        pipelining: Pipelining,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Duration> {
        self.pipelining = pipelining;
        self.last_response = Some(now);
        let connection = self.connections[id].as_mut()?;
        connection.in_flight.pop_front()?.finish(outcome);
        self.counts.in_flight -= 1;
        connection.is_kept = true;
        if std::mem::replace(&mut connection.pipelining, pipelining) != pipelining {
            match pipelining {
                Pipelining::On => self.pipelined.push(id),
                Pipelining::Off => self.pipelined.retain(|it| *it != id),
            }
        }
        Some(now.saturating_duration_since(std::mem::replace(&mut connection.since, now)))
    }
}

/// Connections.
impl Pool {
    /// Adds a connection that is to be opened and sends these requests first.
    fn connect(&mut self, unsent: Requests, now: Instant) {
        let connection = PooledConnection {
            phase: Phase::Connecting,
            pipelining: Pipelining::Off,
            unsent,
            in_flight: Requests::new(),
            since: now,
            aged_at: now,
            is_kept: false,
            waker: None,
        };
        self.counts.connecting += 1;
        let id = self.connections.iter().position(Option::is_none).unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.connections[id] = Some(connection);
        self.to_open.push(id);
    }

    /// A connection is open. If another is aged, this one replaces it.
    pub(super) fn opened(&mut self, id: ConnectionId, now: Instant) {
        let connections = self.connections.iter_mut().enumerate();
        let connections = connections.filter_map(|(id, it)| Some((id, it.as_mut()?)));
        let aged = connections.filter(|(_, it)| it.is_open() && it.aged_at <= now);
        if let Some((oldest, connection)) = aged.min_by_key(|(_, it)| it.aged_at) {
            connection.enter(Phase::Retiring, &mut self.counts);
            connection.waker.iter().for_each(Waker::wake_by_ref);
            self.idle.retain(|it| *it != oldest);
            self.pipelined.retain(|it| *it != oldest);
        }
        let Some(connection) = &mut self.connections[id] else { return };
        self.counts.opened += 1;
        self.paused_until = None;
        connection.since = now;
        let spread = Duration::from_secs((self.counts.opened % AGE_SPREAD_S) as u64);
        connection.aged_at = now + AGE_MIN + spread;
        if connection.unsent.is_empty() {
            connection.enter(Phase::Idle, &mut self.counts);
            self.idle.push(id);
        } else {
            connection.enter(Phase::Busy, &mut self.counts);
        }
    }

    /// A connection has nothing to do now; `waker` wakes it. Returns when it must look again, `None`
    /// if it should close, or `Timeout` if the backend has owed a response for too long.
    pub(super) fn rest(
        &mut self,
        id: ConnectionId,
        waker: &Waker,
        now: Instant,
    ) -> Result<Option<Instant>, Error> {
        let is_crowded = self.count_live(now) > PIPELINED_CONNECTIONS;
        let Some(connection) = &mut self.connections[id] else { return Ok(None) };
        connection.waker.get_or_insert_with(|| waker.clone());
        let is_pipelined = connection.pipelining == Pipelining::On;
        if !connection.in_flight.is_empty() {
            let will_stall = is_pipelined && !connection.owes_for(STALL, now);
            let limit = if will_stall { STALL.min(self.timeout) } else { self.timeout };
            let next_look = connection.since + limit;
            return if next_look > now { Ok(Some(next_look)) } else { Err(Error::Timeout) };
        }
        let is_surplus = is_pipelined && is_crowded;
        let unused_at = connection.aged_at.max(connection.since + IDLE_MAX);
        if connection.phase == Phase::Retiring || now >= unused_at || is_surplus {
            return Ok(None);
        }
        connection.is_kept = true;
        if connection.phase == Phase::Busy {
            connection.enter(Phase::Idle, &mut self.counts);
            if !is_pipelined {
                self.idle.push(id);
            }
        }
        Ok(Some(unused_at))
    }

    /// A connection has ended, or could not be opened. From here on it counts to no limit.
    pub(super) fn ended(&mut self, id: ConnectionId, end: End, now: Instant) {
        let Some(mut connection) = self.connections[id].take() else { return };
        *self.counts.of(connection.phase) -= 1;
        self.counts.in_flight -= connection.in_flight.len();
        self.idle.retain(|it| *it != id);
        self.pipelined.retain(|it| *it != id);
        let error = if let End::Failed(error) = end { error } else { INCOMPLETE };
        if connection.phase == Phase::Connecting {
            return self.open_failed(&connection, error, now);
        }
        let mut retries = Requests::new();
        // The backend has not begun on a request behind one that failed.
        if matches!(end, End::Failed(_)) || end == End::Broken && !connection.is_kept {
            connection.in_flight.pop_front().iter().for_each(|it| it.finish(Err(error)));
        }
        for request in connection.in_flight.into_iter().filter(|it| !it.is_unshared()) {
            // Requests behind an announced close were not handled (RFC 9112 section 9.6): sending
            // them again is no retry. Each such connection has responded, so that this ends.
            if end == End::Announced || !request.is_retry.replace(true) {
                self.counts.retried += 1;
                retries.push_back(request);
            } else {
                request.finish(Err(error));
            }
        }
        for request in connection.unsent.into_iter().filter(|it| !it.is_unshared()) {
            if request.is_retry.get() {
                retries.push_back(request);
            } else {
                self.queue_request(request);
            }
        }
        if !retries.is_empty() {
            self.connect(retries, now);
        }
    }

    /// If connections are open, requests wait for these, and the next one may be opened after a
    /// pause. If others are being opened, one request fails, otherwise all that wait since before
    /// this one was tried.
    fn open_failed(&mut self, connection: &PooledConnection, error: Error, now: Instant) {
        connection.unsent.iter().for_each(|it| it.finish(Err(error)));
        self.paused_until = None;
        if self.connections.iter().flatten().any(PooledConnection::is_open) {
            self.paused_until = Some(now + OPEN_PAUSE);
            return;
        }
        let is_last = self.counts.connecting == 0;
        while let Some(request) = self.queue.front()
            && request.made <= connection.since
        {
            request.finish(Err(error));
            self.queue.pop_front();
            if !is_last {
                return;
            }
        }
    }

    /// Requests and connections by state, and totals.
    pub(super) fn stats(&mut self) -> &Stats {
        self.counts.waiting = self.queue.len();
        &self.counts
    }

    /// The pipelined connections that count: those that have not stalled.
    fn count_live(&self, now: Instant) -> usize {
        self.pipelined.len() - self.count_owing(STALL, now)
    }

    /// The pipelined connections that have owed a response for this long.
    fn count_owing(&self, time: Duration, now: Instant) -> usize {
        let pipelined = self.pipelined.iter().filter_map(|id| self.connections[*id].as_ref());
        pipelined.filter(|it| it.owes_for(time, now)).count()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
#[path = "simulation.rs"]
mod simulation;

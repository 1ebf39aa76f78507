//! The pool: which connection takes which request, and when connections are opened and retired.
//! No sockets, no clock: times are passed in, and connections are opened by the caller.
//!
//! # Policy
//!
//! - A connection carries one request at a time. A request takes the idle connection that was used
//!   last; if there is none, a new one is opened, up to `connections_max`. Beyond that, requests
//!   wait in a queue, in the order of arrival.
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
//! - A probe goes to the front of the queue and may open a connection beyond the limit.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::{Error, Outcome};

/// A connection is replaced at this age and up to 3 s more: not all are replaced at once.
const AGE_MIN: Duration = Duration::from_secs(7);
const AGE_SPREAD_S: u32 = 4;
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

/// A request of the pool. The generation differs from that of an earlier one at the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestId {
    index: usize,
    generation: u64,
}

/// The index of a connection.
pub(super) type ConnectionId = usize;

/// The pipelining that a backend takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pipelining {
    /// It has not responded yet.
    #[default]
    Unknown,
    Off,
    On,
}

/// The place of a request in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priority {
    Normal,
    Probe,
}

/// Requests and connections by state.
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
}

/// The requests and connections of one worker.
#[derive(Default)]
pub(super) struct Pool {
    connections_max: usize,
    slots: Vec<Slot>,
    free: Vec<usize>,
    queue: VecDeque<RequestId>,
    /// Entries of the queue that were cancelled.
    cancelled: usize,
    connections: Vec<Option<PooledConnection>>,
    /// Open connections without a request that take one at a time, last used last.
    idle: Vec<ConnectionId>,
    /// Open connections that take pipelined requests, and the next one to take some.
    pipelined: Vec<ConnectionId>,
    next_pipelined: usize,
    /// Requests that connections have been woken for and have not taken yet.
    expected: usize,
    stats: Stats,
    /// Of the last response.
    pipelining: Pipelining,
    opened: u32,
    wants_replacement: bool,
    /// The last connection could not be opened, though others are open: one is tried at a time,
    /// and none before this time.
    paused_until: Option<Instant>,
    last_response: Option<Instant>,
}

/// A place for a request.
#[derive(Default)]
struct Slot {
    generation: u64,
    /// The bytes of the request if they are its own.
    bytes: Option<Vec<u8>>,
    waker: Option<Waker>,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Free,
    Queued {
        made: Instant,
        priority: Priority,
    },
    Sent {
        is_retry: bool,
    },
    Done(Outcome),
}

struct PooledConnection {
    phase: Phase,
    pipelining: Pipelining,
    in_flight: usize,
    /// Since when the backend has owed the next response, or the connection has been idle.
    since: Instant,
    aged_at: Instant,
    /// Requests that it was woken for.
    expected: usize,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Open,
    /// In the list of idle connections.
    Idle,
    /// Takes no more requests.
    Retiring,
}

impl PooledConnection {
    /// Returns true if the backend has owed a response for this long.
    fn owes_for(&self, time: Duration, now: Instant) -> bool {
        self.in_flight > 0 && now >= self.since + time
    }

    fn is_stalled(&self, now: Instant) -> bool {
        self.owes_for(STALL, now)
    }

    /// How many more requests it takes.
    fn room(&self, now: Instant) -> usize {
        match (self.phase, self.pipelining) {
            (Phase::Connecting | Phase::Retiring, _) => 0,
            (_, Pipelining::On) if self.is_stalled(now) => 0,
            (_, Pipelining::On) => PIPELINE_DEPTH.saturating_sub(self.in_flight),
            _ => usize::from(self.in_flight == 0),
        }
    }

    fn wake(&self) {
        self.waker.iter().for_each(Waker::wake_by_ref);
    }
}

/// Requests.
impl Pool {
    pub(super) fn new(connections_max: usize) -> Pool {
        Pool { connections_max, ..Pool::default() }
    }

    /// Queues a request. `dispatch` then finds a connection for it.
    pub(super) fn enqueue(
        &mut self,
        made: Instant,
        priority: Priority,
        bytes: Option<Vec<u8>>,
    ) -> RequestId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        (slot.state, slot.bytes) = (State::Queued { made, priority }, bytes);
        let id = RequestId { index, generation: slot.generation };
        match priority {
            Priority::Normal => self.queue.push_back(id),
            Priority::Probe => self.queue.push_front(id),
        }
        self.stats.waiting += 1;
        id
    }

    /// The request's outcome; it can be taken once. Until it is there, `waker` will be woken.
    pub(super) fn poll_outcome(&mut self, id: RequestId, waker: &Waker) -> Option<Outcome> {
        let slot = self.slot(id)?;
        if let State::Done(_) = slot.state {
            let State::Done(outcome) = self.release(id) else { return None };
            return Some(outcome);
        }
        if !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            slot.waker = Some(waker.clone());
        }
        None
    }

    /// The bytes of a request if they are its own.
    pub(super) fn bytes(&self, id: RequestId) -> Option<&[u8]> {
        let slot = self.slots.get(id.index).filter(|slot| slot.generation == id.generation)?;
        slot.bytes.as_deref()
    }

    /// Cancels a request. If it was sent, its response will be dropped.
    pub(super) fn cancel(&mut self, id: RequestId) {
        if let State::Queued { .. } = self.release(id) {
            self.stats.waiting -= 1;
            self.cancelled += 1;
            // Not each time, so that thousands of timeouts take linear time.
            if self.cancelled > self.queue.len() / 2 {
                let Pool { queue, slots, .. } = self;
                queue.retain(|id| slots[id.index].generation == id.generation);
                self.cancelled = 0;
            }
        }
    }

    /// Ends a request.
    pub(super) fn finish(&mut self, id: RequestId, outcome: Outcome) {
        let Some(slot) = self.slot(id) else { return };
        let before = std::mem::replace(&mut slot.state, State::Done(outcome));
        slot.waker.iter().for_each(Waker::wake_by_ref);
        if let State::Queued { .. } = before {
            self.stats.waiting -= 1;
        }
    }

    /// Returns true if a request that was sent may be sent again, which is allowed once.
    /// Otherwise it ends with `error`.
    pub(super) fn retry(&mut self, id: RequestId, error: Error) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        match &mut slot.state {
            State::Sent { is_retry: is_retry @ false } => {
                *is_retry = true;
                true
            }
            _ => {
                self.finish(id, Err(error));
                false
            }
        }
    }

    fn slot(&mut self, id: RequestId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index).filter(|slot| slot.generation == id.generation)
    }

    fn release(&mut self, id: RequestId) -> State {
        let Some(slot) = self.slot(id) else { return State::Free };
        slot.generation += 1;
        (slot.waker, slot.bytes) = (None, None);
        let state = std::mem::take(&mut slot.state);
        self.free.push(id.index);
        state
    }

    /// The first request of the queue, when it was made, and its priority.
    fn front(&mut self) -> Option<(RequestId, Instant, Priority)> {
        loop {
            let id = *self.queue.front()?;
            match self.slot(id).map(|slot| &slot.state) {
                Some(State::Queued { made, priority }) => return Some((id, *made, *priority)),
                _ => self.cancelled = self.cancelled.saturating_sub(1),
            }
            self.queue.pop_front();
        }
    }

    fn next_request(&mut self) -> Option<RequestId> {
        let (id, ..) = self.front()?;
        self.queue.pop_front();
        self.stats.waiting -= 1;
        self.slot(id)?.state = State::Sent { is_retry: false };
        Some(id)
    }
}

/// Connections.
impl Pool {
    /// Wakes connections for the requests that wait. Returns how many connections to open: one
    /// `connect` each.
    pub(super) fn dispatch(&mut self, now: Instant) -> usize {
        if self.stats.waiting <= self.expected && !self.wants_replacement {
            return 0;
        }
        while self.stats.waiting > self.expected
            && let Some(id) = self.next_available(now)
            && let Some(connection) = &mut self.connections[id]
        {
            let room = connection.room(now);
            connection.expected += room;
            connection.wake();
            self.expected += room;
        }
        let Stats { waiting, connecting, .. } = self.stats;
        let has_failed = match self.paused_until {
            Some(until) if now < until => return 0,
            until => until.is_some(),
        };
        let mut wanted = waiting.saturating_sub(self.expected + connecting);
        let mut left = self.connections_max.saturating_sub(self.open());
        if has_failed {
            left = left.min(1_usize.saturating_sub(connecting));
        }
        if self.pipelining == Pipelining::On {
            let (live, busy) = self.count_pipelined(now);
            left = left.min(PIPELINED_CONNECTIONS.saturating_sub(live + connecting));
            wanted = wanted.max(usize::from(busy == live && connecting == 0));
        }
        let is_replaced = std::mem::take(&mut self.wants_replacement);
        let may_exceed = connecting == 0 && self.open() <= self.connections_max;
        let is_probe = wanted > 0 && matches!(self.front(), Some((.., Priority::Probe)));
        let exceeds = may_exceed && (is_replaced || is_probe);
        wanted.min(left).max(usize::from(exceeds))
    }

    /// Adds a connection that is being opened.
    pub(super) fn connect(&mut self, now: Instant) -> ConnectionId {
        self.stats.connecting += 1;
        let connection = PooledConnection {
            phase: Phase::Connecting,
            pipelining: Pipelining::Unknown,
            in_flight: 0,
            since: now,
            aged_at: now,
            expected: 0,
            waker: None,
        };
        let id = self.connections.iter().position(Option::is_none).unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.connections[id] = Some(connection);
        id
    }

    /// A connection is open. If another is aged, this one replaces it.
    pub(super) fn opened(&mut self, id: ConnectionId, now: Instant) {
        let aged = |it: &PooledConnection| {
            matches!(it.phase, Phase::Open | Phase::Idle) && it.aged_at <= now
        };
        let connections = self.connections.iter_mut().enumerate();
        let connections = connections.filter_map(|(id, it)| Some((id, it.as_mut()?)));
        let oldest = connections.filter(|(_, it)| aged(it)).min_by_key(|(_, it)| it.aged_at);
        if let Some((oldest_id, oldest)) = oldest {
            oldest.phase = Phase::Retiring;
            oldest.wake();
            self.idle.retain(|idle| *idle != oldest_id);
        }
        let Some(connection) = &mut self.connections[id] else { return };
        self.stats.connecting -= 1;
        self.stats.idle += 1;
        self.opened = self.opened.wrapping_add(1);
        self.paused_until = None;
        connection.phase = Phase::Open;
        connection.aged_at =
            now + AGE_MIN + Duration::from_secs(u64::from(self.opened % AGE_SPREAD_S));
        connection.since = now;
    }

    /// A connection could not be opened. If others are open, requests wait for these, and the next
    /// one may be opened after a pause, whose end is returned. If others are being opened, one
    /// request fails, otherwise all that wait since before this one was tried.
    pub(super) fn open_failed(
        &mut self,
        tried_at: Instant,
        error: Error,
        now: Instant,
    ) -> Option<Instant> {
        let mut phases = self.connections.iter().flatten().map(|it| it.phase);
        if phases.any(|phase| matches!(phase, Phase::Open | Phase::Idle)) {
            self.paused_until = Some(now + OPEN_PAUSE);
            return self.paused_until;
        }
        self.paused_until = None;
        let is_last = self.stats.connecting == 0;
        while let Some((id, made, _)) = self.front()
            && made <= tried_at
        {
            self.queue.pop_front();
            self.finish(id, Err(error));
            if !is_last {
                break;
            }
        }
        None
    }

    /// Takes a request for a connection: the first of `retries`, or of the queue.
    pub(super) fn take(
        &mut self,
        id: ConnectionId,
        retries: &mut VecDeque<RequestId>,
        now: Instant,
    ) -> Option<RequestId> {
        let connection = self.connections.get_mut(id)?.as_mut()?;
        self.expected -= std::mem::take(&mut connection.expected);
        if connection.room(now) == 0 {
            return None;
        }
        let request = retries.pop_front().or_else(|| self.next_request())?;
        let connection = self.connections.get_mut(id)?.as_mut()?;
        if connection.in_flight == 0 {
            connection.since = now;
            self.stats.idle -= 1;
            self.stats.busy += 1;
        }
        connection.in_flight += 1;
        self.stats.in_flight += 1;
        self.wants_replacement |= connection.aged_at <= now;
        Some(request)
    }

    /// A response arrived. Returns how long the backend has owed it.
    pub(super) fn responded(
        &mut self,
        id: ConnectionId,
        pipelining: Pipelining,
        now: Instant,
    ) -> Duration {
        self.pipelining = pipelining;
        self.last_response = Some(now);
        let Some(connection) = &mut self.connections[id] else { return Duration::ZERO };
        connection.in_flight -= 1;
        self.stats.in_flight -= 1;
        if connection.in_flight == 0 {
            self.stats.busy -= 1;
            self.stats.idle += 1;
        }
        if std::mem::replace(&mut connection.pipelining, pipelining) != pipelining {
            match pipelining {
                Pipelining::On => self.pipelined.push(id),
                _ => self.pipelined.retain(|pipelined| *pipelined != id),
            }
        }
        now.saturating_duration_since(std::mem::replace(&mut connection.since, now))
    }

    /// A connection has nothing to do now; `waker` wakes it. Returns when it must look again, `None`
    /// if it should close, or `Timeout` if the backend has owed a response for `timeout`.
    pub(super) fn rest(
        &mut self,
        id: ConnectionId,
        waker: &Waker,
        timeout: Duration,
        now: Instant,
    ) -> Result<Option<Instant>, Error> {
        let is_surplus = self.pipelined.len() > PIPELINED_CONNECTIONS
            && self.count_pipelined(now).0 > PIPELINED_CONNECTIONS;
        let Some(connection) = &mut self.connections[id] else { return Ok(None) };
        if !connection.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            connection.waker = Some(waker.clone());
        }
        let is_pipelined = connection.pipelining == Pipelining::On;
        if connection.in_flight > 0 {
            let limit = if is_pipelined && !connection.is_stalled(now) { STALL } else { timeout };
            let next_look = connection.since + limit.min(timeout);
            return if next_look > now { Ok(Some(next_look)) } else { Err(Error::Timeout) };
        }
        let unused_at = connection.aged_at.max(connection.since + IDLE_MAX);
        if connection.phase == Phase::Retiring || now >= unused_at || is_pipelined && is_surplus {
            return Ok(None);
        }
        if connection.phase == Phase::Open && !is_pipelined && connection.expected == 0 {
            connection.phase = Phase::Idle;
            self.idle.push(id);
        }
        Ok(Some(unused_at))
    }

    /// Removes a connection. One that is closing counts to no limit.
    pub(super) fn remove(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections[id].take() else { return };
        self.expected -= connection.expected;
        self.stats.in_flight -= connection.in_flight;
        match (connection.phase, connection.in_flight) {
            (Phase::Connecting, _) => self.stats.connecting -= 1,
            (_, 0) => self.stats.idle -= 1,
            _ => self.stats.busy -= 1,
        }
        self.idle.retain(|idle| *idle != id);
        self.pipelined.retain(|pipelined| *pipelined != id);
    }

    /// When the last response arrived.
    pub(super) fn last_response(&self) -> Option<Instant> {
        self.last_response
    }

    /// Requests and connections by state.
    pub(super) fn stats(&self) -> Stats {
        self.stats
    }

    /// The connections that count to the limit.
    fn open(&self) -> usize {
        self.stats.connecting + self.stats.idle + self.stats.busy
    }

    /// The connections that take pipelined requests and are not stalled, and the busy ones of them.
    fn count_pipelined(&self, now: Instant) -> (usize, usize) {
        let pipelined = self.pipelined.iter().filter_map(|id| self.connections[*id].as_ref());
        let live = pipelined.filter(|it| it.phase != Phase::Retiring && !it.is_stalled(now));
        live.fold((0, 0), |(live, busy), it| (live + 1, busy + usize::from(it.in_flight > 0)))
    }

    /// A connection with room that has not been woken.
    fn next_available(&mut self, now: Instant) -> Option<ConnectionId> {
        // Idle ones first: one that has not responded yet may take pipelined requests then.
        while let Some(id) = self.idle.pop() {
            let connection = self.connections[id].as_mut()?;
            connection.phase = Phase::Open;
            if connection.room(now) > 0 {
                return Some(id);
            }
        }
        let count = self.pipelined.len();
        let in_turn = (0..count).map(|step| (self.next_pipelined + step) % count);
        let find = |owed_max: Duration| {
            in_turn.clone().find(|turn| {
                let connection = self.connections[self.pipelined[*turn]].as_ref();
                connection.is_some_and(|it| {
                    it.expected == 0 && it.room(now) > 0 && !it.owes_for(owed_max, now)
                })
            })
        };
        let turn = find(LATE).or_else(|| find(STALL))?;
        self.next_pipelined = turn + 1;
        Some(self.pipelined[turn])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
#[path = "simulation.rs"]
mod simulation;

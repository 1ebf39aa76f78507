//! The pool against a model of a backend: no sockets, a clock that jumps from event to event, and a
//! generator seeded by the run's number. `Simulation::poll_connection` drives the pool as
//! `connection.rs` does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use super::*;
use crate::http::{Response, Status};

/// Runs of a test.
const SEEDS: u64 = 15;
const TIMEOUT: Duration = Duration::from_millis(500);
const PROBE_TIMEOUT: Duration = Duration::from_millis(90);
/// The backend closes connections that are idle for longer.
const IDLE: Duration = Duration::from_millis(1);

/// Splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }

    fn is_chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// How the backend behaves. Chances are percentages.
#[derive(Clone, Copy, Debug, Default)]
struct Backend {
    pipelines: bool,
    /// It works on one request at a time, over all connections.
    is_serial: bool,
    delay_us: u64,
    /// It closes a connection after this many responses, if not 0.
    responses_max: u64,
    /// It refuses a connection, ignores it, or never responds to a request.
    refuses: u64,
    ignores: u64,
    hangs: u64,
    /// It closes before a response, or within one.
    breaks: u64,
    truncates: u64,
    /// In a turn of the loop, it closes a connection without a request, or stops for a while.
    closes_idle: u64,
    stalls: u64,
}

impl Backend {
    fn random(random: &mut Random) -> Backend {
        let mut chance = |bound| if random.is_chance(40) { random.below(bound) } else { 0 };
        Backend {
            pipelines: chance(2) == 1,
            is_serial: chance(4) == 1,
            delay_us: 20 + chance(20_000),
            responses_max: chance(20),
            refuses: chance(100),
            ignores: chance(30),
            hangs: chance(5),
            breaks: chance(10),
            truncates: chance(10),
            closes_idle: chance(30),
            stalls: chance(3),
        }
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Woken {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// A caller that waits for a response.
struct Caller {
    request: Rc<Request>,
    number: usize,
    deadline: Instant,
    woken: Arc<Woken>,
}

/// The events of a request.
#[derive(Default)]
struct History {
    sends: u32,
    /// How often its connection announced its end and left it without a response.
    left_behind: u32,
    /// Its connection broke as a kept one, or behind a request that failed.
    may_retry: bool,
    has_ended: bool,
}

enum Arrival {
    Opened,
    Refused,
    Response(usize, KeepAlive),
    /// The first bytes of a response.
    Part,
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum KeepAlive {
    Keep,
    Close,
}

/// Both ends of a connection.
struct Connection {
    id: ConnectionId,
    tried_at: Instant,
    woken: Arc<Woken>,
    /// None while it is being opened.
    next_look: Option<Instant>,
    in_flight: VecDeque<usize>,
    pipelining: Pipelining,
    /// Requests that it had been given and had not sent when it was retired.
    unsent_max: Option<usize>,
    is_kept: bool,
    has_begun: bool,
    taken: u64,
    served: u64,
    /// Its future events. The backend reads nothing from a deaf one.
    due: VecDeque<(Instant, Arrival)>,
    is_deaf: bool,
    idle_since: Instant,
}

struct Simulation {
    random: Random,
    backend: Backend,
    now: Instant,
    pool: Pool,
    connections: Vec<Connection>,
    callers: Vec<Caller>,
    histories: Vec<History>,
    /// Until when a serial backend is busy, and a stopped one stands still.
    busy_until: Instant,
    stalled_until: Instant,
    pauses: VecDeque<Instant>,
    attempts: usize,
    opened: usize,
    retired: usize,
    ok: usize,
    failed: usize,
    cancelled: usize,
}

impl Simulation {
    fn new(seed: u64, backend: Backend, connections_max: usize) -> Simulation {
        let now = Instant::now();
        Simulation {
            random: Random(seed),
            backend,
            now,
            pool: Pool::new(connections_max, TIMEOUT),
            connections: Vec::new(),
            callers: Vec::new(),
            histories: Vec::new(),
            busy_until: now,
            stalled_until: now,
            pauses: VecDeque::new(),
            attempts: 0,
            opened: 0,
            retired: 0,
            ok: 0,
            failed: 0,
            cancelled: 0,
        }
    }

    fn request(&mut self, priority: Priority) {
        let number = self.histories.len();
        let timeout = if priority == Priority::Probe { PROBE_TIMEOUT } else { TIMEOUT };
        let bytes = Some(number.to_string().into_bytes());
        let request = self.pool.enqueue(priority, bytes, self.now);
        self.histories.push(History::default());
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        self.callers.push(Caller { request, number, deadline: self.now + timeout, woken });
        self.dispatch();
    }

    fn cancel(&mut self, index: usize) {
        let caller = self.callers.swap_remove(index);
        self.end(caller.number);
        self.pool.release(&caller.request);
        self.cancelled += 1;
    }

    fn end(&mut self, number: usize) {
        let has_ended = std::mem::replace(&mut self.histories[number].has_ended, true);
        assert!(!has_ended, "request {number} ended twice");
    }

    fn dispatch(&mut self) {
        for id in self.pool.dispatch(self.now) {
            self.open(id);
        }
    }

    fn open(&mut self, id: ConnectionId) {
        self.attempts += 1;
        let after = |us| Duration::from_micros(us);
        let (at, arrival) = match () {
            () if self.random.is_chance(self.backend.ignores) => (TIMEOUT, Arrival::Refused),
            () if self.random.is_chance(self.backend.refuses) => {
                (after(self.random.below(100)), Arrival::Refused)
            }
            () => (after(self.random.below(500)), Arrival::Opened),
        };
        self.connections.push(Connection {
            id,
            tried_at: self.now,
            woken: Arc::default(),
            next_look: None,
            in_flight: VecDeque::new(),
            pipelining: Pipelining::Off,
            unsent_max: None,
            is_kept: false,
            has_begun: false,
            taken: 0,
            served: 0,
            due: VecDeque::from([(self.now + at, arrival)]),
            is_deaf: false,
            idle_since: self.now,
        });
    }

    /// One turn of the event loop, at the time of the next event or `until`.
    fn turn(&mut self, until: Instant) {
        let due = self.connections.iter().filter_map(|it| Some(it.due.front()?.0));
        let looks = self.connections.iter().filter_map(|it| it.next_look);
        let deadlines = self.callers.iter().map(|it| it.deadline);
        let pauses = self.pauses.iter().copied();
        let events = due.chain(looks).chain(deadlines).chain(pauses);
        self.now = events.min().map_or(until, |at| at.min(until)).max(self.now);
        if !self.connections.is_empty() && self.random.is_chance(self.backend.closes_idle) {
            let index = self.random.below(self.connections.len() as u64) as usize;
            let connection = &mut self.connections[index];
            let is_idle = connection.due.is_empty() && self.now >= connection.idle_since + IDLE;
            if connection.next_look.is_some() && is_idle && !connection.is_deaf {
                let at = self.now + Duration::from_micros(self.random.below(200));
                connection.due.push_back((at, Arrival::Closed));
                connection.is_deaf = true;
            }
        }
        if self.random.is_chance(self.backend.stalls) {
            self.stalled_until = self.now + Duration::from_millis(self.random.below(100));
        }
        if self.pauses.front().is_some_and(|at| *at <= self.now) {
            self.pauses.pop_front();
            self.dispatch();
        }
        self.settle();
        self.check();
    }

    /// Polls connections and callers, in any order, until none has something to do.
    fn settle(&mut self) {
        for polls in 0.. {
            assert!(polls < 10_000, "busy loop");
            let now = self.now;
            let ready = self.connections.iter().enumerate().filter(|(_, it)| {
                it.due.front().is_some_and(|(at, _)| *at <= now)
                    || it.next_look.is_some_and(|at| at <= now)
                    || it.woken.0.load(Ordering::Relaxed)
            });
            let mut ready: Vec<usize> = ready.map(|(index, _)| index).collect();
            let count = ready.len();
            if count > 0 {
                let index = ready.swap_remove(self.random.below(count as u64) as usize);
                self.connections[index].woken.take();
                self.run_connection(index);
                continue;
            }
            let due = |it: &Caller| it.woken.take() || it.deadline <= now;
            let Some(index) = self.callers.iter().position(due) else { return };
            self.poll_caller(index);
        }
    }

    fn poll_caller(&mut self, index: usize) {
        let Caller { ref request, number, deadline, ref woken } = self.callers[index];
        let waker = Waker::from(Arc::clone(woken));
        let Some(outcome) = request.poll_outcome(&waker) else {
            if self.now >= deadline {
                self.cancel(index);
            }
            return;
        };
        assert!(self.now <= deadline, "request {number} ended late");
        assert!(request.poll_outcome(&waker).is_none(), "request {number} has two outcomes");
        self.end(number);
        match outcome {
            Ok(response) => {
                assert_eq!(*response.body, *number.to_string().as_bytes(), "another's response");
                self.ok += 1;
            }
            Err(_) => self.failed += 1,
        }
        let caller = self.callers.swap_remove(index);
        self.pool.release(&caller.request);
    }

    /// `connection::run`.
    fn run_connection(&mut self, index: usize) {
        if self.connections[index].next_look.is_none() {
            let connection = &mut self.connections[index];
            let (id, tried_at) = (connection.id, connection.tried_at);
            let Some((_, arrival)) = connection.due.pop_front() else { return };
            if matches!(arrival, Arrival::Refused) {
                let is_late = self.now >= tried_at + TIMEOUT;
                let error = if is_late { Error::Timeout } else { Error::Refused(111) };
                self.connections.swap_remove(index);
                self.pool.ended(id, End::Failed(error), self.now);
                self.pauses.extend(self.pool.paused_until);
                return self.dispatch();
            }
            connection.next_look = Some(self.now);
            self.opened += 1;
            let retiring = self.count_retiring();
            self.pool.opened(id, self.now);
            assert!(self.count_retiring() <= retiring + 1, "one opened, several retired");
            for connection in &mut self.connections {
                let pooled = self.pool.connections[connection.id].as_ref().expect("a connection");
                if pooled.phase == Phase::Retiring {
                    connection.unsent_max.get_or_insert(pooled.unsent.len());
                }
            }
            self.dispatch();
        }
        let Some(end) = self.poll_connection(index) else { return };
        let Connection { id, has_begun, is_kept, in_flight, .. } =
            self.connections.swap_remove(index);
        let end = match end {
            Ok(end) => end,
            Err(INCOMPLETE) if !has_begun => End::Broken,
            Err(error) => End::Failed(error),
        };
        for (place, number) in in_flight.into_iter().enumerate() {
            assert_eq!(self.pool.is_kept(id), is_kept);
            assert!(place == 0 || is_kept, "a request behind another on a new connection");
            let history = &mut self.histories[number];
            history.left_behind += u32::from(end == End::Announced);
            history.may_retry |= place > 0 || is_kept && end == End::Broken;
        }
        self.pool.ended(id, end, self.now);
        self.dispatch();
    }

    /// `Connection::poll`; `None` if it is pending.
    fn poll_connection(&mut self, index: usize) -> Option<Result<End, Error>> {
        let id = self.connections[index].id;
        for _ in 0..10 {
            match self.receive(index) {
                Ok(KeepAlive::Keep) => {}
                Ok(KeepAlive::Close) => return Some(Ok(End::Announced)),
                Err(error) => return Some(Err(error)),
            }
            self.take_requests(index);
            self.connections[index].is_kept |= self.connections[index].in_flight.is_empty();
            let waker = Waker::from(Arc::clone(&self.connections[index].woken));
            let live = self.pool.pipelined.len() - self.pool.count_owing(STALL, self.now);
            let next_look = match self.pool.rest(id, &waker, self.now) {
                Ok(Some(next_look)) => next_look,
                Ok(None) => {
                    self.check_retired(id, live);
                    return Some(Ok(End::Retired));
                }
                Err(error) => return Some(Err(error)),
            };
            self.dispatch();
            if next_look > self.now {
                self.connections[index].next_look = Some(next_look);
                return None;
            }
        }
        panic!("busy loop");
    }

    fn receive(&mut self, index: usize) -> Result<KeepAlive, Error> {
        let connection = &mut self.connections[index];
        while connection.due.front().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, arrival)) = connection.due.pop_front() else { break };
            match arrival {
                Arrival::Opened | Arrival::Refused => unreachable!("it is open"),
                Arrival::Part => connection.has_begun = true,
                Arrival::Closed if connection.in_flight.is_empty() => return Ok(KeepAlive::Close),
                Arrival::Closed => return Err(INCOMPLETE),
                Arrival::Response(number, keep_alive) => {
                    connection.has_begun = false;
                    connection.is_kept = true;
                    connection.idle_since = self.now;
                    let keeps = keep_alive == KeepAlive::Keep;
                    connection.pipelining = if self.backend.pipelines && keeps {
                        Pipelining::On
                    } else {
                        Pipelining::Off
                    };
                    connection.in_flight.pop_front();
                    let outcome = Ok(Response::json(Status::Ok, number.to_string().into_bytes()));
                    let owed = self.pool.responded(
                        connection.id,
                        connection.pipelining,
                        outcome,
                        self.now,
                    );
                    assert!(owed.is_some(), "a response without a request");
                    if !keeps {
                        return Ok(KeepAlive::Close);
                    }
                }
            }
        }
        Ok(KeepAlive::Keep)
    }

    fn take_requests(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        while let Some(request) = self.pool.take(connection.id) {
            let bytes = request.bytes.as_deref().and_then(|it| str::from_utf8(it).ok());
            let number: usize = bytes.and_then(|it| it.parse().ok()).expect("a number");
            assert!(
                connection.in_flight.is_empty() || connection.pipelining == Pipelining::On,
                "pipelined to a backend that did not say that it can"
            );
            if let Some(unsent_max) = &mut connection.unsent_max {
                assert!(*unsent_max > 0, "given to a connection that is retiring");
                *unsent_max -= 1;
            }
            connection.in_flight.push_back(number);
            connection.taken += 1;
            let history = &mut self.histories[number];
            assert!(!history.has_ended, "request {number} was sent after its end");
            history.sends += 1;
            let sends_max = 1 + history.left_behind + u32::from(history.may_retry);
            assert!(history.sends <= sends_max, "request {number}: {} sends", history.sends);
            Self::serve(
                connection,
                number,
                &self.backend,
                &mut self.random,
                (self.now, self.stalled_until, &mut self.busy_until),
            );
        }
    }

    /// The backend's side of a request.
    fn serve(
        connection: &mut Connection,
        number: usize,
        backend: &Backend,
        random: &mut Random,
        (now, stalled_until, busy_until): (Instant, Instant, &mut Instant),
    ) {
        if connection.is_deaf || random.is_chance(backend.hangs) {
            connection.is_deaf = true;
            return;
        }
        let mut at = connection.due.back().map_or(now, |(at, _)| *at).max(stalled_until).max(now);
        if backend.is_serial {
            at = at.max(*busy_until);
        }
        at += Duration::from_micros(1 + random.below(backend.delay_us));
        if backend.is_serial {
            *busy_until = at;
        }
        connection.served += 1;
        let due = &mut connection.due;
        connection.is_deaf = true;
        if random.is_chance(backend.breaks) {
            due.push_back((at, Arrival::Closed));
        } else if random.is_chance(backend.truncates) {
            due.push_back((at, Arrival::Part));
            due.push_back((at + Duration::from_micros(random.below(50)), Arrival::Closed));
        } else if connection.served == backend.responses_max {
            due.push_back((at, Arrival::Response(number, KeepAlive::Close)));
        } else {
            due.push_back((at, Arrival::Response(number, KeepAlive::Keep)));
            connection.is_deaf = false;
        }
    }

    fn check_retired(&mut self, id: ConnectionId, live: usize) {
        let connection = self.pool.connections[id].as_ref().expect("a connection");
        let has_request = !connection.unsent.is_empty() || !connection.in_flight.is_empty();
        assert!(!has_request, "retired with requests");
        let is_unused = self.now >= connection.aged_at.max(connection.since + IDLE_MAX);
        if connection.phase == Phase::Retiring {
            self.retired += 1;
            assert!(self.retired <= self.opened, "retired before its replacement was open");
        } else {
            let is_surplus = live > PIPELINED_CONNECTIONS;
            assert!(is_unused || is_surplus, "closed without a reason");
        }
    }

    fn count_retiring(&self) -> usize {
        let connections = self.pool.connections.iter().flatten();
        connections.filter(|it| it.phase == Phase::Retiring).count()
    }

    /// Checks the invariants that hold after each turn.
    fn check(&mut self) {
        let (now, stats) = (self.now, *self.pool.stats());
        let pool = &self.pool;
        let connections = || pool.connections.iter().flatten();
        let count = |is: fn(&PooledConnection) -> bool| connections().filter(|it| is(it)).count();
        let given = |it: &PooledConnection| {
            let requests = it.unsent.iter().chain(&it.in_flight);
            requests.filter(|request| !request.is_unshared()).count()
        };
        let recount = Stats {
            waiting: self.callers.len() - connections().map(given).sum::<usize>(),
            in_flight: connections().map(|it| it.in_flight.len()).sum(),
            connecting: count(|it| it.phase == Phase::Connecting),
            idle: count(|it| it.phase == Phase::Idle),
            busy: count(|it| it.phase != Phase::Connecting && !it.in_flight.is_empty()),
            opened: self.opened,
            ..stats
        };
        assert_eq!(stats, recount);
        assert_eq!(connections().count(), self.connections.len());
        assert!(self.open_count() <= pool.connections_max + 1, "too many connections: {stats:?}");
        let is_sending = |it: &PooledConnection| match it.phase {
            Phase::Connecting => true,
            _ if it.pipelining == Pipelining::On => it.unsent.is_empty(),
            _ => it.unsent.is_empty() || it.in_flight.len() == 1,
        };
        assert!(connections().all(is_sending), "a connection has not sent its requests");
        let is_listed = |(id, it): (ConnectionId, &Option<PooledConnection>)| {
            let Some(it) = it else {
                return !pool.idle.contains(&id) && !pool.pipelined.contains(&id);
            };
            let is_idle = it.phase == Phase::Idle && it.pipelining == Pipelining::Off;
            let is_pipelined = it.is_open() && it.pipelining == Pipelining::On;
            pool.idle.contains(&id) == is_idle && pool.pipelined.contains(&id) == is_pipelined
        };
        assert!(pool.connections.iter().enumerate().all(is_listed), "a list is wrong");
        assert!(self.callers.iter().all(|it| it.deadline > now), "a request outlived its deadline");
        let ended = self.ok + self.failed + self.cancelled;
        assert_eq!(self.histories.len(), ended + self.callers.len(), "a request was lost");
        if stats.waiting == 0 {
            return;
        }
        assert_eq!(stats.idle, 0, "{stats:?}: a lost wake-up");
        let is_paused = pool.paused_until.is_some_and(|until| now < until);
        assert!(stats.connecting + stats.busy > 0 || is_paused, "{stats:?}: no progress");
        // After a failure, connections are opened one at a time.
        let expected = match pool.paused_until {
            _ if self.open_count() >= pool.connections_max || pool.pipelining == Pipelining::On => {
                0
            }
            Some(_) => usize::from(!is_paused),
            None => stats.waiting,
        };
        assert!(stats.connecting >= expected, "{stats:?}: waiting below the limit");
    }

    /// Lets pending requests end, then all connections.
    fn finish(&mut self) {
        let end = self.now + 2 * TIMEOUT;
        while !self.callers.is_empty() {
            self.turn(end);
        }
        let end = self.now + 2 * AGE_MIN;
        while self.now < end {
            self.turn(end);
        }
        let stats = *self.pool.stats();
        let expected = Stats { opened: stats.opened, retried: stats.retried, ..Stats::default() };
        assert_eq!(stats, expected, "connections outlived their use");
    }

    /// The connections that count to the limit.
    fn open_count(&self) -> usize {
        self.pool.connections.iter().flatten().count()
    }

    fn wait(&mut self, us: u64) {
        let end = self.now + Duration::from_micros(us);
        self.turn(self.now);
        while self.now < end {
            self.turn(end);
        }
    }

    /// `count` requests, one each `pause_us` on average.
    fn load(&mut self, count: usize, pause_us: u64) {
        for _ in 0..count {
            self.request(Priority::Normal);
            let pause = self.random.below(2 * pause_us);
            self.wait(pause);
        }
    }
}

#[test]
fn keeps_its_promises_with_any_backend() {
    let mut sums = [0; 5];
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut random = Random(seed);
        let backend = Backend::random(&mut random);
        let connections_max = 1 + random.below(12) as usize;
        let pause_us = if random.is_chance(30) { 200_000 } else { 1 + random.below(3_000) };
        let (cancels, probes) = (random.below(8), random.below(8));
        let mut it = Simulation::new(seed, backend, connections_max);
        for step in 0..120 {
            // Requests come in bursts; now and then there is a long pause.
            for _ in 0..random.below(8) {
                let is_probe = random.is_chance(probes);
                it.request(if is_probe { Priority::Probe } else { Priority::Normal });
            }
            if !it.callers.is_empty() && random.is_chance(cancels) {
                it.cancel(random.below(it.callers.len() as u64) as usize);
            }
            if random.is_chance(2) {
                it.backend = Backend::random(&mut random);
            }
            let is_long = step % 40 == 39;
            let pause = if is_long { 3_000_000 } else { random.below(2 * pause_us) };
            it.wait(pause);
        }
        it.finish();
        let counts = [it.ok, it.failed, it.cancelled, it.retired, it.pool.stats().retried];
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    assert!(sums.iter().all(|sum| *sum > 0), "not all happened: {sums:?}");
}

/// Without a fault, all requests are served in time, although the backend closes connections.
#[test]
fn serves_every_request_of_a_sound_backend() {
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut random = Random(seed);
        let pipelines = random.is_chance(50);
        let is_limited = !pipelines && random.is_chance(30);
        let backend = Backend {
            pipelines,
            is_serial: random.is_chance(30),
            delay_us: 1 + random.below(400),
            responses_max: if is_limited { 1 + random.below(20) } else { 0 },
            closes_idle: if random.is_chance(30) { 10 } else { 0 },
            ..Backend::default()
        };
        let mut it = Simulation::new(seed, backend, 1 + random.below(12) as usize);
        it.load(200, 300);
        it.finish();
        assert_eq!(it.ok, 200, "{backend:?}");
    }
}

/// A few connections share the requests of a backend that takes them pipelined.
#[test]
fn spreads_requests_over_pipelined_connections() {
    let backend = Backend { pipelines: true, delay_us: 500, ..Backend::default() };
    let mut it = Simulation::new(1, backend, 100);
    // One connection becomes several, and many become fewer.
    it.load(1, 10_000);
    assert_eq!(it.connections.len(), 1);
    it.load(200, 100);
    assert_eq!(it.connections.len(), PIPELINED_CONNECTIONS);
    it.backend.pipelines = false;
    it.load(200, 50);
    it.backend.pipelines = true;
    it.load(500, 100);
    assert_eq!(it.connections.len(), PIPELINED_CONNECTIONS);
    it.connections.iter_mut().for_each(|connection| connection.taken = 0);
    it.load(1000, 100);
    let taken: Vec<u64> = it.connections.iter().map(|connection| connection.taken).collect();
    assert!(taken.iter().all(|it| *it > 150), "{taken:?}");
    it.finish();
    // After a pause, one request again needs one.
    it.load(1, 10_000);
    assert_eq!(it.connections.len(), 1);
    it.finish();
}

/// Connections are replaced one by one, and those that are not used close.
#[test]
fn replaces_aged_connections_under_load() {
    for pipelines in [false, true] {
        let backend = Backend { pipelines, delay_us: 50_000, ..Backend::default() };
        let mut it = Simulation::new(1, backend, 2);
        it.load(1200, 20_000);
        assert!((3..=30).contains(&it.retired), "pipelines {pipelines}: {} retired", it.retired);
        // No connection can be opened any more: the old ones serve on.
        it.backend.refuses = 100;
        it.load(1200, 20_000);
        it.backend.refuses = 0;
        it.finish();
        assert_eq!(it.ok, 2400, "pipelines {pipelines}");
    }
}

/// A probe of a backend whose connections are all taken opens one more, and no second one.
#[test]
fn opens_one_connection_beyond_the_limit_for_probes() {
    let mut it = Simulation::new(1, Backend { hangs: 100, ..Backend::default() }, 3);
    for _ in 0..20 {
        it.request(Priority::Normal);
    }
    it.wait(1000);
    assert_eq!(it.open_count(), 3);
    for _ in 0..5 {
        it.request(Priority::Probe);
        it.wait(1000);
        assert_eq!(it.open_count(), 4);
    }
    it.finish();
}

/// If no connection is open and none can be opened, all waiting requests fail at once.
#[test]
fn fails_waiting_requests_if_the_backend_refuses() {
    let mut it = Simulation::new(1, Backend { refuses: 100, ..Backend::default() }, 3);
    for _ in 0..20 {
        it.request(Priority::Normal);
    }
    it.wait(2000);
    assert_eq!((it.failed, it.callers.len()), (20, 0));
    assert!(it.attempts <= 20, "{} attempts", it.attempts);
    // A request that was made after the attempt waits for the next one.
    for _ in 0..3 {
        it.request(Priority::Normal);
    }
    it.backend = Backend { delay_us: 10, ..Backend::default() };
    it.now += Duration::from_micros(1);
    it.request(Priority::Normal);
    it.finish();
    assert_eq!(it.failed + it.ok, 24);
    assert!(it.ok > 0, "it failed with an attempt from before");
}

/// Where one attempt of several fails, one request fails.
#[test]
fn fails_one_request_for_one_attempt() {
    let mut it = Simulation::new(1, Backend { refuses: 100, ..Backend::default() }, 100);
    it.request(Priority::Normal);
    it.backend.refuses = 0;
    it.backend.delay_us = 10;
    for _ in 0..20 {
        it.request(Priority::Normal);
    }
    it.finish();
    assert!(it.failed <= 1, "{} failed", it.failed);
}

/// While some connections are open and no more can be opened, requests wait for the open ones, and
/// attempts are few.
#[test]
fn pauses_after_a_failure_if_others_are_open() {
    let mut it = Simulation::new(1, Backend { delay_us: 20_000, ..Backend::default() }, 100);
    for _ in 0..3 {
        it.request(Priority::Normal);
    }
    it.wait(1000);
    it.backend.refuses = 100;
    it.attempts = 0;
    for _ in 0..30 {
        it.request(Priority::Normal);
    }
    it.wait(1000);
    assert_eq!(it.attempts, 30);
    it.load(200, 2_000);
    assert!(it.attempts < 30 + 40, "{} attempts", it.attempts);
    it.finish();
    assert_eq!(it.failed, 0);
}

/// A connection that does not respond gets no more requests, and others take its place.
#[test]
fn goes_around_stalled_connections() {
    let backend = Backend { pipelines: true, delay_us: 200, ..Backend::default() };
    let mut it = Simulation::new(1, backend, 100);
    it.load(200, 100);
    let connection = it.connections.first_mut().expect("a connection");
    connection.is_deaf = true;
    it.load(2000, 100);
    // Those of a few milliseconds, on one connection of four.
    assert!(it.pool.stats().in_flight < 100, "{:?}", it.pool.stats());
    it.finish();
    // All are full, and all stop.
    it.load(200, 100);
    it.backend.hangs = 100;
    for _ in 0..2 * PIPELINED_CONNECTIONS * PIPELINE_DEPTH {
        it.request(Priority::Normal);
    }
    it.wait(1000);
    it.backend.hangs = 0;
    it.attempts = 0;
    it.wait(STALL.as_micros() as u64 + 30_000);
    assert!(it.attempts > 0 && it.pool.stats().waiting == 0, "{:?}", it.pool.stats());
    it.finish();
}

//! Asks and listens: the connections of one thread, and when each request is due.
//!
//! At full speed a request is due as soon as a connection is free for it. At a fixed rate it is due
//! at its own time, whether one is free or not, and what it waits for one is part of its latency
//! (else a server that stands still would not be seen to: "coordinated omission").

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use common::client;
use common::http::client::ClientConn;
use common::http::client::ResponseError;
use common::http::{KeepAlive, Limits};
use common::rt::{self, AsyncFd, Direction, Either, Shutdown};

use super::alarm::Alarm;

use super::tally::{Failure, Tally};

/// One read takes at most this much.
const READ_BYTES_MAX: usize = 64 << 10;
/// Reads of one connection before the others have their turn.
const READS_A_TURN_MAX: usize = 4;
/// Room for whatever a server under load may answer, however odd.
const LIMITS: Limits = Limits { head_bytes_max: 64 << 10, body_bytes_max: 64 << 20 };
/// After a connection that could not be made, before the next try: a server that restarts is not
/// drowned, and its gap is still seen to a few milliseconds.
const PAUSE: Duration = Duration::from_millis(5);

/// What is asked, and how.
pub(crate) struct Plan {
    /// The server's addresses, taken in turn.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The bytes of one request.
    pub(crate) request: Vec<u8>,
    /// On all threads together.
    pub(crate) connections: u64,
    pub(crate) threads: u64,
    /// Requests a second on all threads together; `None` is as fast as it goes.
    pub(crate) rate: Option<u64>,
    /// Requests on one connection before the first is answered.
    pub(crate) depth: usize,
    pub(crate) keeping: Keeping,
    /// From the time when a request is due until it is asked, and then until it is answered.
    pub(crate) timeout: Duration,
    /// The body that each answer must have, but for a line feed at its end.
    pub(crate) expected: Option<Vec<u8>>,
    pub(crate) began: Instant,
    pub(crate) over: Instant,
}

/// Whether a connection is kept for more than one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    AsLongAsTheServer,
    OneRequest,
}

/// Asks this thread's share of the requests until the load is over or the shutdown is raised, and
/// waits for the last answers.
pub(crate) async fn drive(
    plan: Arc<Plan>,
    thread: u64,
    tally: Arc<Mutex<Tally>>,
    shutdown: Shutdown,
) -> io::Result<()> {
    let connections = share(plan.connections, thread, plan.threads);
    let crew = Rc::new(Crew {
        thread,
        tally,
        shutdown,
        due: Cell::new(0),
        taken: Cell::new(0),
        idle: RefCell::default(),
        left: Cell::new(connections),
        conductor: Cell::new(None),
        turn: Cell::new(thread),
        scratch: RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice()),
        plan,
    });
    for _ in 0..connections {
        let leaving = Leaving(Rc::clone(&crew));
        rt::spawn(async move { leaving.0.keep_asking().await });
    }
    if crew.plan.rate.is_some() {
        crew.call_when_due().await?;
    }
    crew.all_have_left().await;
    Ok(())
}

/// How many of `all` fall to one of several, which differ by one at most.
fn share(all: u64, which: u64, of: u64) -> u64 {
    (all + of - 1 - which) / of
}

/// The connections of one thread, and what they have in common.
struct Crew {
    plan: Arc<Plan>,
    thread: u64,
    tally: Arc<Mutex<Tally>>,
    shutdown: Shutdown,
    /// At a fixed rate: how many requests were found to be due, and how many of them were taken or
    /// given up.
    due: Cell<u64>,
    taken: Cell<u64>,
    /// Whoever has nothing to ask until more is due, in the order of their coming.
    idle: RefCell<VecDeque<Rc<Seat>>>,
    /// Connections that have not come to their end.
    left: Cell<u64>,
    conductor: Cell<Option<Waker>>,
    /// Turns with every connection, so that each address of a name gets its share.
    turn: Cell<u64>,
    scratch: RefCell<Box<[u8]>>,
}

/// Where somebody waits to be called; empty while nobody does.
type Seat = Cell<Option<Waker>>;

impl Crew {
    /// One connection, made again whenever it ends.
    async fn keep_asking(&self) {
        let mut connection = Connection::new(self);
        while let Some(first) = connection.first_asked().await {
            let turn = self.turn.replace(self.turn.get() + 1) as usize;
            let mut addresses = self.plan.addresses.clone();
            addresses.rotate_left(turn % self.plan.addresses.len().max(1));
            let deadline = first.taken + self.plan.timeout;
            let end = match client::connect(&addresses, deadline, |_| {}).await {
                Ok((socket, _)) => {
                    self.with_tally(|tally, _| tally.connections_opened += 1);
                    connection.converse(socket).await
                }
                Err(error) => Err(refusal_to_connect(&error)),
            };
            let Err((failure, words)) = end else { continue };
            let unanswered = connection.asked.drain(..).count() as u64;
            self.with_tally(|tally, at| tally.fail(at, failure, unanswered, words));
            if matches!(failure, Failure::Refused | Failure::Connect) {
                rt::sleep_until(Instant::now() + PAUSE).await;
            }
        }
    }

    /// The time when the next request is due, if it is by now; it is taken then.
    fn take_due(&self) -> Option<Instant> {
        let Some(rate) = self.plan.rate else {
            return (!self.is_over()).then(Instant::now);
        };
        self.count_due(rate);
        self.give_up_the_late(rate);
        let number = self.taken.get();
        (number < self.due.get()).then(|| {
            self.taken.set(number + 1);
            self.due_at(number, rate)
        })
    }

    fn count_due(&self, rate: u64) {
        if !self.shutdown.is_begun() {
            self.due.set(self.due_before(Instant::now().min(self.plan.over), rate));
        }
    }

    /// Requests for which no connection was free in time: their answers would come too late, and
    /// waiting for them would keep the connections from those that are not late yet.
    fn give_up_the_late(&self, rate: u64) {
        let Some(at) = Instant::now().checked_sub(self.plan.timeout) else { return };
        let late = self.due_before(at, rate).min(self.due.get());
        let unsent = late.saturating_sub(self.taken.get());
        if unsent > 0 {
            self.taken.set(late);
            self.with_tally(|tally, at| tally.fail(at, Failure::Unsent, unsent, None));
        }
    }

    /// Whether no more requests become due.
    fn is_over(&self) -> bool {
        self.shutdown.is_begun() || Instant::now() >= self.plan.over
    }

    /// When this thread's request of this number is due: threads take the load's in turn.
    fn due_at(&self, number: u64, rate: u64) -> Instant {
        let number = u128::from(number) * u128::from(self.plan.threads) + u128::from(self.thread);
        let after_ns = number * 1_000_000_000 / u128::from(rate);
        self.plan.began + Duration::from_nanos(u64::try_from(after_ns).unwrap_or(u64::MAX))
    }

    /// How many of this thread's requests are due before then: the inverse of `due_at`.
    fn due_before(&self, at: Instant, rate: u64) -> u64 {
        let since_ns = at.saturating_duration_since(self.plan.began).as_nanos();
        let all = (since_ns * u128::from(rate)).div_ceil(1_000_000_000);
        share(all as u64, self.thread, self.plan.threads)
    }

    /// Calls whoever is idle when requests become due, and all when no more will.
    async fn call_when_due(&self) -> io::Result<()> {
        let Some(rate) = self.plan.rate else { return Ok(()) };
        let alarm = Alarm::new()?;
        while !self.is_over() {
            let next = self.due_at(self.due.get(), rate).min(self.plan.over);
            if let Either::First(rung) = rt::select(alarm.at(next), self.shutdown.begun()).await {
                rung?;
            }
            self.count_due(rate);
            for _ in self.taken.get()..self.due.get() {
                if !self.call_one() {
                    break;
                }
            }
        }
        while self.call_one() {}
        Ok(())
    }

    /// Wakes the one that has been idle for longest; `false` if nobody is.
    fn call_one(&self) -> bool {
        loop {
            let Some(seat) = self.idle.borrow_mut().pop_front() else { return false };
            if let Some(waker) = seat.take() {
                waker.wake();
                return true;
            }
        }
    }

    /// Waits until no connection will ask any more.
    async fn all_have_left(&self) {
        poll_fn(|cx| {
            self.conductor.set(Some(cx.waker().clone()));
            if self.left.get() == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn with_tally(&self, note: impl FnOnce(&mut Tally, Duration)) {
        // Nothing panics while it holds the lock.
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        note(&mut tally, self.plan.began.elapsed());
    }
}

/// Has the crew know when a connection will ask no more, however that comes.
struct Leaving(Rc<Crew>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.left.set(self.0.left.get() - 1);
        self.0.conductor.take().into_iter().for_each(Waker::wake);
    }
}

/// What ends a connection before its time, and its words.
type Break = (Failure, Option<String>);

fn refusal_to_connect(error: &io::Error) -> Break {
    let failure = match error.kind() {
        ErrorKind::ConnectionRefused => Failure::Refused,
        ErrorKind::ConnectionReset => Failure::Reset,
        ErrorKind::TimedOut => Failure::Timeout,
        _ => Failure::Connect,
    };
    (failure, Some(error.to_string()))
}

/// One connection after the other, and what was asked on them.
struct Connection<'a> {
    crew: &'a Crew,
    seat: Rc<Seat>,
    call: ClientConn,
    /// The requests without an answer, in order.
    asked: VecDeque<Asked>,
    input_ended: bool,
}

/// A request that is under way.
#[derive(Clone, Copy)]
struct Asked {
    due: Instant,
    /// When a connection was free for it. Its time-out counts from then: at a rate that is too high
    /// for a server each request has waited, and the server is measured by those it could answer.
    taken: Instant,
}

impl Connection<'_> {
    fn new(crew: &Crew) -> Connection<'_> {
        Connection {
            crew,
            seat: Rc::default(),
            call: ClientConn::new(LIMITS),
            asked: VecDeque::new(),
            input_ended: false,
        }
    }

    /// Waits for something to ask; the first of it, or `None` if nothing will come any more.
    async fn first_asked(&mut self) -> Option<Asked> {
        poll_fn(|cx| {
            // Seen first: what becomes due until it is over is still taken.
            let over = self.crew.is_over();
            self.take_requests(cx);
            match self.asked.front() {
                Some(first) => Poll::Ready(Some(*first)),
                None if over => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Takes as many requests as are due and may be asked; if that is none, it will be called.
    fn take_requests(&mut self, cx: &Context<'_>) {
        let plan = &self.crew.plan;
        let depth = match (plan.keeping, plan.rate) {
            (Keeping::OneRequest, _) => 1,
            // At full speed a batch follows the other, so that each is one write.
            (Keeping::AsLongAsTheServer, None) if !self.asked.is_empty() => return,
            (Keeping::AsLongAsTheServer, _) => plan.depth,
        };
        while self.asked.len() < depth {
            let Some(due) = self.crew.take_due() else { break };
            self.asked.push_back(Asked { due, taken: rt::now() });
        }
        if !self.asked.is_empty() {
            self.seat.take();
        } else if self.seat.replace(Some(cx.waker().clone())).is_none() && plan.rate.is_some() {
            self.crew.idle.borrow_mut().push_back(Rc::clone(&self.seat));
        }
    }

    /// Asks and listens until the connection ends. After `Ok`, what is left unanswered may be
    /// asked again on another (RFC 9112 section 9.3.1).
    async fn converse(&mut self, socket: AsyncFd<TcpStream>) -> Result<(), Break> {
        self.call = ClientConn::new(LIMITS);
        self.input_ended = false;
        for _ in 0..self.asked.len() {
            self.call.request(&self.crew.plan.request);
        }
        poll_fn(|cx| self.poll(&socket, cx)).await
    }

    fn poll(
        &mut self,
        socket: &AsyncFd<TcpStream>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Break>> {
        let crew = self.crew;
        for _ in 0..READS_A_TURN_MAX {
            // A failed write may leave an answer to be read: reading tells what became of it.
            let _ = self.send(socket);
            let scratch = &mut **crew.scratch.borrow_mut();
            match socket.poll_read(scratch) {
                Poll::Pending if !self.asked.is_empty() => return self.look_at_the_time(),
                Poll::Pending => {
                    let over = crew.is_over();
                    self.ask_more(cx);
                    match self.asked.is_empty() {
                        true if over => return Poll::Ready(Ok(())),
                        true => return Poll::Pending,
                        false => continue,
                    }
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err((Failure::Reset, Some(error.to_string()))));
                }
                Poll::Ready(Ok(0)) => {
                    self.input_ended = true;
                    self.call.close();
                }
                Poll::Ready(Ok(count)) => {
                    self.call.receive(scratch.get(..count).unwrap_or_default());
                    crew.with_tally(|tally, _| tally.bytes_received += count as u64);
                }
            }
            match self.take_answers() {
                Err(refusal) => return Poll::Ready(Err(what_broke(refusal))),
                Ok(KeepAlive::Close) => return Poll::Ready(Ok(())),
                Ok(KeepAlive::Keep) if self.input_ended => return Poll::Ready(Ok(())),
                Ok(KeepAlive::Keep) => self.ask_more(cx),
            }
        }
        rt::wake_next_turn();
        self.look_at_the_time()
    }

    fn look_at_the_time(&self) -> Poll<Result<(), Break>> {
        let Some(first) = self.asked.front() else { return Poll::Pending };
        rt::poll_deadline(first.taken + self.crew.plan.timeout)
            .map(|()| Err((Failure::Timeout, None)))
    }

    fn ask_more(&mut self, cx: &Context<'_>) {
        let before = self.asked.len();
        self.take_requests(cx);
        for _ in before..self.asked.len() {
            self.call.request(&self.crew.plan.request);
        }
    }

    fn send(&mut self, socket: &AsyncFd<TcpStream>) -> Poll<io::Result<()>> {
        while !self.call.outgoing().is_empty() {
            let outgoing = self.call.outgoing();
            let written = socket.poll_io(Direction::Out, |mut io| io.write(outgoing));
            self.call.sent(ready!(written)?);
        }
        Poll::Ready(Ok(()))
    }

    /// Counts the answers that have come; `Close` after the last.
    fn take_answers(&mut self) -> Result<KeepAlive, ResponseError> {
        let plan = &self.crew.plan;
        let now = Instant::now();
        let at = now.saturating_duration_since(plan.began);
        let mut tally = self.crew.tally.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(answer) = self.call.response()? {
            let due = self.asked.pop_front().map_or(now, |asked| asked.due);
            tally.answer(at, answer.status, now.saturating_duration_since(due));
            let body = answer.body.strip_suffix(b"\n").unwrap_or(answer.body);
            if answer.status >= 400 {
                tally.fail(at, Failure::Status, 1, None);
            } else if plan.expected.as_ref().is_some_and(|expected| expected != body) {
                let start = body.get(..80).unwrap_or(body);
                tally.fail(at, Failure::Body, 1, Some(start.escape_ascii().to_string()));
            }
            if answer.keep_alive == KeepAlive::Close || plan.keeping == Keeping::OneRequest {
                return Ok(KeepAlive::Close);
            }
        }
        Ok(KeepAlive::Keep)
    }
}

fn what_broke(error: ResponseError) -> Break {
    let failure = match error {
        ResponseError::Incomplete => Failure::Closed,
        _ => Failure::Broken,
    };
    (failure, Some(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn an_address_that_refuses_leaves_the_request_to_the_next() {
        const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (server, nobody) = (listen(), listen().local_addr().unwrap());
        let address = server.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in server.incoming().map_while(Result::ok) {
                let _ = stream.read(&mut [0; 64]).and_then(|_| stream.write_all(ANSWER));
            }
        });
        let began = Instant::now();
        let plan = Plan {
            addresses: vec![nobody, address],
            request: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            connections: 1,
            threads: 1,
            rate: Some(100),
            depth: 1,
            keeping: Keeping::OneRequest,
            timeout: Duration::from_secs(5),
            expected: None,
            began,
            over: began + Duration::from_millis(100),
        };
        let (tally, shutdown) = (Arc::<Mutex<Tally>>::default(), Shutdown::default());
        let load = drive(Arc::new(plan), 0, Arc::clone(&tally), shutdown.clone());
        rt::run(&shutdown, load).unwrap().unwrap();
        let tally = tally.lock().unwrap();
        assert_eq!((tally.answers(), tally.failed()), (10, 0), "{:?}", tally.first_words);
    }

    #[test]
    fn shares_differ_by_one_at_most_and_are_the_whole() {
        for (all, of) in [(0, 1), (1, 2), (64, 3), (5, 8)] {
            let shares: Vec<u64> = (0..of).map(|which| share(all, which, of)).collect();
            assert_eq!(shares.iter().sum::<u64>(), all, "{shares:?}");
            let (most, least) = (shares.iter().max(), shares.iter().min());
            assert!(most.unwrap() - least.unwrap() <= 1, "{shares:?}");
        }
    }
}

//! Accepting connections, and conversing on each until it ends, is too slow, or the service ends.
//! What is answered, counted and logged is the service's business, behind the trait `Service`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use crate::http::conversation::{Asked, Conversation, Room, Stage};
use crate::http::{Date, Limits, Refusal, Request, Response, Then};
use crate::runtime::{self, Direction, Either, Ending, Watched};
use crate::sys;

/// Connections that the kernel may complete before they are accepted: a burst of a few thousand
/// clients. The kernel cuts it down to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// One read takes at most this much: a pipeline of some hundred requests in one call. A client that
/// reads no answers holds it, and the answers below: with more, a few hundred of them fill a
/// container.
const READ_BYTES_MAX: usize = 16 << 10;
/// Reads of one connection before the others have their turn.
const READS_A_TURN_MAX: usize = 4;
/// Requests of one connection that may wait for their answers: a pipeline's depth.
const UNANSWERED_MAX: usize = 32;
/// Unsent answers after which nothing more is read from a client that does not read them.
const OUTGOING_BYTES_MAX: usize = 16 << 10;
/// Buffers and queues kept for the next connections that need them, and the largest buffer.
const SPARES_MAX: usize = 64;
const ROOM_BYTES_MAX: usize = 16 << 10;
/// How long a client may take to see an answer that closes while it still sends; afterwards it
/// may see a reset instead.
const LINGER: Duration = Duration::from_secs(1);
/// When ending, how long a silent connection is kept for a request that is on its way already,
/// and the listener for a connection that is.
const GRACE: Duration = Duration::from_millis(200);
/// Connections beyond the limit that are being told so by one worker; the others wait in the
/// backlog.
const TURNED_AWAY_MAX: usize = 16;
/// What is kept for a slow client without being counted: most of any usual request, or some that
/// wait for their answers.
const KEPT_FREELY: usize = 4 << 10;
/// What a request that waits for its answer takes, with what the service keeps for it.
const QUEUED_BYTES: usize = 256;
/// The pause after an `accept` that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a server asks of the service behind it.
pub trait Service: 'static {
    /// An answer that takes time. Whatever it waits for has been started when it is made.
    type Later: Future<Output = Response> + Unpin;
    /// What is kept of a request for `settle`.
    type Note;

    /// Answers a request.
    fn answer(&self, request: &Request<'_>, peer: &Peer) -> Answer<Self::Later, Self::Note>;
    /// Hears that an answer that took time is on its way.
    fn settle(&self, note: Self::Note, peer: &Peer, response: &Response);
    /// Answers what could not be taken as a request.
    fn refuse(&self, refusal: Refusal, peer: &Peer) -> Response;
    /// Answers a request whose handling panicked.
    fn apologize(&self) -> Response;
    /// The present date.
    fn date(&self) -> Date;
    /// Whether it wants to know peers' addresses, each of which costs a system call.
    fn wants_addresses(&self) -> bool;
    /// Hears what happens to connections.
    fn notice(&self, event: Event);
}

/// What a service makes of a request.
pub enum Answer<L, N> {
    /// The answer; the service has noted all it needs.
    Now(Response),
    /// The answer will come; the note is handed back with it.
    Later(L, N),
}

/// What happens to connections.
#[derive(Debug)]
pub enum Event {
    /// One was accepted.
    Opened,
    /// One that had been accepted is gone.
    Closed,
    /// One came while there were too many.
    TurnedAway,
    /// One could not be accepted.
    NotAccepted(io::Error),
}

/// Who is at the other end.
#[derive(Debug)]
pub struct Peer {
    /// Its address and port, if the service wants to know them.
    pub address: Option<Box<str>>,
}

/// Bounds of a server; the reasons for the defaults stand in `--help`.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bounds of a request.
    pub limits: Limits,
    /// Connections at once, all workers together.
    pub connections_max: usize,
    /// Bytes kept for slow clients, all workers together, beside 4 KB for each.
    pub buffer_bytes_max: usize,
    /// Silence between two requests.
    pub idle: Duration,
    /// A request's head, from its first byte to the blank line.
    pub head: Duration,
    /// A request's body.
    pub body: Duration,
    /// A client that takes nothing of its answers.
    pub write: Duration,
    /// From the signal to the end.
    pub drain: Duration,
}

/// What the connections of all workers take together.
#[derive(Debug, Default)]
pub struct Occupancy {
    connections: AtomicUsize,
    /// Kept for slow clients.
    bytes: AtomicUsize,
}

impl Occupancy {
    /// Bytes kept for slow clients now, as far as they are counted.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Opens a listener for all workers to share. With one for each (`SO_REUSEPORT`) a request took the
/// same time, and those in the queue of a worker that is busy would wait for it alone.
pub fn listen(address: SocketAddr) -> io::Result<Arc<TcpListener>> {
    let listener = sys::without_delay(TcpListener::bind(address)?)?;
    listener.set_nonblocking(true)?;
    sys::lengthen_backlog(&listener, BACKLOG)?;
    Ok(Arc::new(listener))
}

/// Serves on this worker until the ending is raised and every connection is gone, or the drain
/// time is over. The workers have their `occupancy` in common.
pub async fn serve<S: Service>(
    service: Rc<S>,
    listener: Arc<TcpListener>,
    settings: Settings,
    occupancy: Arc<Occupancy>,
    ending: Ending,
) {
    let house = Rc::new(House {
        service,
        settings,
        ending,
        ended: Cell::new(None),
        occupancy,
        inside: Cell::new(0),
        turned_away: Cell::new(0),
        emptied: RefCell::new(None),
        scratch: RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice()),
        rooms: RefCell::default(),
        queues: RefCell::default(),
    });
    let door = Watched::shared(listener);
    while let Either::First(accepted) = runtime::either(
        door.attempt(Direction::In, |door| sys::accept(door)),
        house.ending.raised(),
    )
    .await
    {
        house.admit(accepted, &door).await;
    }
    let now = Instant::now();
    let deadline = now + house.settings.drain;
    // From here on newcomers are refused, where the kernel can do that before the door is closed.
    // Whoever it has connected already, or is about to, is served: closing would reset them.
    let _ = sys::refuse_newcomers(door.get());
    let closing = deadline.min(now + GRACE);
    while let Some(accepted) =
        runtime::within(closing, door.attempt(Direction::In, |door| sys::accept(door))).await
    {
        house.admit(accepted, &door).await;
    }
    // Other workers may hold the listener open a moment longer.
    door.look_away();
    drop(door);
    runtime::within(deadline, house.empty()).await;
}

/// What the connections of one worker share.
struct House<S: Service> {
    service: Rc<S>,
    settings: Settings,
    ending: Ending,
    ended: Cell<Option<Instant>>,
    occupancy: Arc<Occupancy>,
    inside: Cell<usize>,
    turned_away: Cell<usize>,
    emptied: RefCell<Option<Waker>>,
    /// What is read goes here first, so that a silent connection needs no buffer.
    scratch: RefCell<Box<[u8]>>,
    rooms: RefCell<Vec<Room>>,
    queues: RefCell<Vec<VecDeque<Exchange<S>>>>,
}

impl<S: Service> House<S> {
    async fn admit(
        self: &Rc<Self>,
        accepted: io::Result<TcpStream>,
        door: &Watched<Arc<TcpListener>>,
    ) {
        let stream = match accepted {
            Ok(stream) => stream,
            // It was gone before we came to it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => return,
            Err(error) => {
                self.service.notice(Event::NotAccepted(error));
                door.look_away();
                return runtime::sleep_until(Instant::now() + ACCEPT_PAUSE).await;
            }
        };
        let place = Place::take(self);
        let max = self.settings.connections_max;
        // A low limit may mean few descriptors, and whoever is turned away has one too.
        let turned_away_max = TURNED_AWAY_MAX.min(4 + max / 32);
        loop {
            if self.occupancy.connections.load(Ordering::Relaxed) <= max {
                return runtime::spawn(Connection::new(stream, place));
            }
            if self.turned_away.get() < turned_away_max || self.ending.is_raised() {
                break;
            }
            door.look_away();
            runtime::sleep_until(Instant::now() + ACCEPT_PAUSE).await;
        }
        self.service.notice(Event::TurnedAway);
        let mut connection = Connection::new(stream, place.turned_away());
        connection.refuse(Refusal::Crowded);
        runtime::spawn(connection);
    }

    /// Whether no more than one read's bytes are left to be kept for slow clients: then those who
    /// are quick must do with what is not counted.
    fn is_full(&self) -> bool {
        self.occupancy.bytes() + READ_BYTES_MAX > self.settings.buffer_bytes_max
    }

    /// When the ending was first seen here.
    fn ended(&self) -> Option<Instant> {
        if self.ending.is_raised() && self.ended.get().is_none() {
            self.ended.set(Some(runtime::now()));
        }
        self.ended.get()
    }

    fn keep_room(&self, room: Room) {
        let mut rooms = self.rooms.borrow_mut();
        if rooms.len() < SPARES_MAX && room.capacity() > 0 && room.capacity() <= ROOM_BYTES_MAX {
            rooms.push(room);
        }
    }

    fn keep_queue(&self, queue: VecDeque<Exchange<S>>) {
        let mut queues = self.queues.borrow_mut();
        if queues.len() < SPARES_MAX {
            queues.push(queue);
        }
    }

    /// Waits until no connection is left.
    async fn empty(&self) {
        poll_fn(|cx| {
            if self.inside.get() == 0 {
                return Poll::Ready(());
            }
            *self.emptied.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A connection's place in the house, given back when it is dropped, however that comes.
struct Place<S: Service> {
    house: Rc<House<S>>,
    turned_away: bool,
}

impl<S: Service> Place<S> {
    fn take(house: &Rc<House<S>>) -> Place<S> {
        house.occupancy.connections.fetch_add(1, Ordering::Relaxed);
        house.inside.set(house.inside.get() + 1);
        house.service.notice(Event::Opened);
        Place { house: Rc::clone(house), turned_away: false }
    }

    /// Gives the place to whoever comes next: those who are being told must not keep them out.
    fn turned_away(mut self) -> Place<S> {
        self.turned_away = true;
        self.house.occupancy.connections.fetch_sub(1, Ordering::Relaxed);
        self.house.turned_away.set(self.house.turned_away.get() + 1);
        self
    }
}

impl<S: Service> Drop for Place<S> {
    fn drop(&mut self) {
        let house = &self.house;
        if self.turned_away {
            house.turned_away.set(house.turned_away.get() - 1);
        } else {
            house.occupancy.connections.fetch_sub(1, Ordering::Relaxed);
        }
        house.inside.set(house.inside.get() - 1);
        house.service.notice(Event::Closed);
        if house.inside.get() == 0
            && let Some(waker) = house.emptied.take()
        {
            waker.wake();
        }
    }
}

/// One client's connection.
struct Connection<S: Service> {
    socket: Watched<TcpStream>,
    peer: Peer,
    conversation: Conversation,
    /// Requests taken and not answered, in order.
    unanswered: VecDeque<Exchange<S>>,
    /// Whether the client has ended its half of the connection; it may still read.
    input_ended: bool,
    parting: Parting,
    /// Until when it waits for the client to hang up; our half has ended.
    lingers: Option<Instant>,
    /// What the client is waited for, and since when.
    stage: Stage,
    since: Instant,
    /// Bytes kept for it meanwhile, as far as they are counted.
    kept: usize,
    place: Place<S>,
}

/// A request whose answer is awaited.
struct Exchange<S: Service> {
    asked: Asked,
    answer: Answer<S::Later, S::Note>,
}

impl<S: Service> Exchange<S> {
    /// Bytes of memory, about.
    fn bytes(&self) -> usize {
        match &self.answer {
            Answer::Now(response) => QUEUED_BYTES + response.body.len(),
            Answer::Later(..) => QUEUED_BYTES,
        }
    }
}

/// How far what was received has been taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    All,
    AsManyAsMayWait,
}

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parting {
    /// It was the client's wish, or there is nobody to be told.
    Plain,
    /// The client may still be sending: it must see its answer before a reset.
    Lingering,
}

impl<S: Service> Connection<S> {
    fn new(stream: TcpStream, place: Place<S>) -> Connection<S> {
        let house = &place.house;
        let wanted = house.service.wants_addresses();
        let address = wanted.then(|| stream.peer_addr().ok()).flatten().map(|address| {
            // An IPv4 client of a dual-stack listener is shown as what it is.
            SocketAddr::new(address.ip().to_canonical(), address.port()).to_string().into()
        });
        Connection {
            socket: Watched::new(stream),
            peer: Peer { address },
            conversation: Conversation::new(house.settings.limits),
            unanswered: VecDeque::new(),
            input_ended: false,
            parting: Parting::Plain,
            lingers: None,
            stage: Stage::Idle,
            since: runtime::now(),
            kept: 0,
            place,
        }
    }

    /// Everything that can be done now, in the order that needs the fewest calls.
    fn converse(&mut self, cx: &mut Context<'_>) -> Poll<Parting> {
        for turn in 0.. {
            let mut taken = self.take_requests();
            while self.settle(cx) && taken == Taken::AsManyAsMayWait {
                taken = self.take_requests();
            }
            match self.send() {
                Poll::Ready(Ok(())) if self.is_over() => return Poll::Ready(self.parting()),
                Poll::Ready(Err(_)) => return Poll::Ready(Parting::Plain),
                _ => {}
            }
            if turn == READS_A_TURN_MAX {
                // Whole requests that are left are taken in the next turns; a part may stay for long.
                let is_too_much = self.put_away();
                if is_too_much && taken == Taken::All && !self.is_deaf() {
                    self.refuse(Refusal::Overloaded);
                }
                break;
            }
            let received = match taken {
                _ if !self.has_room() || self.is_deaf() => Poll::Pending,
                // What was sent has made room for what was received before.
                Taken::AsManyAsMayWait => continue,
                Taken::All => self.receive(),
            };
            match received {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Parting::Plain),
                Poll::Pending => match self.wait() {
                    Wait::On => return Poll::Pending,
                    Wait::Over => return Poll::Ready(Parting::Plain),
                    Wait::Refuse(refusal) => self.refuse(refusal),
                },
            }
        }
        runtime::poll_again();
        Poll::Pending
    }

    /// Writes the answers whose turn has come; whether there were any.
    fn settle(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.unanswered.len();
        while let Some(Exchange { mut asked, answer }) = self.unanswered.pop_front() {
            let service = &self.place.house.service;
            let response = match answer {
                Answer::Now(response) => response,
                Answer::Later(mut later, note) => {
                    let later_poll = AssertUnwindSafe(|| Pin::new(&mut later).poll(cx));
                    let response = match catch_unwind(later_poll) {
                        Ok(Poll::Pending) => {
                            let answer = Answer::Later(later, note);
                            self.unanswered.push_front(Exchange { asked, answer });
                            break;
                        }
                        Ok(Poll::Ready(response)) => response,
                        Err(_) => {
                            self.unanswered.clear();
                            (self.parting, asked) = (Parting::Lingering, asked.last());
                            service.apologize()
                        }
                    };
                    service.settle(note, &self.peer, &response);
                    response
                }
            };
            self.reply(asked, &response);
        }
        self.unanswered.len() < before
    }

    /// Takes and answers what has been received, as far as it goes.
    fn take_requests(&mut self) -> Taken {
        while self.has_room() {
            if self.conversation.stage() == Stage::Over {
                return Taken::All;
            }
            let (request, asked) = match self.conversation.request() {
                Ok(Some(taken)) => taken,
                Ok(None) if self.input_ended => {
                    self.conversation.end();
                    return Taken::All;
                }
                Ok(None) => return Taken::All,
                Err(refusal) => {
                    self.refuse(refusal);
                    return Taken::All;
                }
            };
            let (service, peer) = (&self.place.house.service, &self.peer);
            match catch_unwind(AssertUnwindSafe(|| service.answer(&request, peer))) {
                Ok(answer) => self.give(asked, answer),
                Err(_) => {
                    let apology = Answer::Now(service.apologize());
                    self.end();
                    self.give(asked.last(), apology);
                }
            }
        }
        Taken::AsManyAsMayWait
    }

    /// Answers a refusal, after the answers that are still owed.
    fn refuse(&mut self, refusal: Refusal) {
        self.end();
        let response = self.place.house.service.refuse(refusal, &self.peer);
        self.give(Asked::NOTHING, Answer::Now(response));
    }

    /// Takes no more requests from a client that may well go on sending them.
    fn end(&mut self) {
        self.conversation.end();
        self.parting = Parting::Lingering;
    }

    fn give(&mut self, asked: Asked, answer: Answer<S::Later, S::Note>) {
        match answer {
            Answer::Now(response) if self.unanswered.is_empty() => self.reply(asked, &response),
            answer => {
                if self.unanswered.capacity() == 0
                    && let Some(queue) = self.place.house.queues.borrow_mut().pop()
                {
                    self.unanswered = queue;
                }
                self.unanswered.push_back(Exchange { asked, answer });
            }
        }
    }

    fn reply(&mut self, asked: Asked, response: &Response) {
        let house = &self.place.house;
        // Whatever has been received is answered before the last answer says `close`.
        let last = self.unanswered.is_empty() && self.conversation.is_caught_up();
        let mut then = Then::Keep;
        if last && house.ending.is_raised() {
            then = Then::Close;
            self.parting = Parting::Lingering;
        }
        self.conversation.reply(asked, response, then, &house.service.date());
        self.since = runtime::now();
    }

    /// Sends what has been answered; after the last answer, the end of our half.
    fn send(&mut self) -> Poll<io::Result<()>> {
        let last = self.is_over();
        while !self.conversation.outgoing().is_empty() {
            let outgoing = self.conversation.outgoing();
            let written = self.socket.poll_try(Direction::Out, |mut io| {
                if last { sys::write_before_end(io, outgoing) } else { io.write(outgoing) }
            });
            self.conversation.sent(ready!(written)?);
            self.since = runtime::now();
            if last && self.conversation.outgoing().is_empty() {
                // Closing at once would drop it if the client has said more meanwhile.
                self.socket.get().shutdown(Shutdown::Write)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_over(&self) -> bool {
        self.conversation.stage() == Stage::Over && self.unanswered.is_empty()
    }

    /// How it is to end. What came after a request to close may go on in the kernel's buffer.
    fn parting(&self) -> Parting {
        if self.conversation.is_caught_up() { self.parting } else { Parting::Lingering }
    }

    /// Whether nothing that the client might still send would be taken.
    fn is_deaf(&self) -> bool {
        self.input_ended || self.conversation.stage() == Stage::Over
    }

    /// Whether one more request may wait for its answer, or an answer for the client.
    fn has_room(&self) -> bool {
        self.unanswered.len() < UNANSWERED_MAX
            && self.conversation.outgoing().len() < OUTGOING_BYTES_MAX
    }

    fn receive(&mut self) -> Poll<io::Result<()>> {
        let house = &self.place.house;
        let scratch = &mut **house.scratch.borrow_mut();
        let bytes_max = if house.is_full() { KEPT_FREELY } else { READ_BYTES_MAX };
        let scratch = scratch.get_mut(..bytes_max).unwrap_or_default();
        let count = ready!(self.socket.poll_read(scratch))?;
        self.input_ended = count == 0;
        if self.conversation.is_resting() {
            self.conversation.lend(house.rooms.borrow_mut().pop().unwrap_or_default());
        }
        self.conversation.receive(scratch.get(..count).unwrap_or_default());
        Poll::Ready(Ok(()))
    }

    /// Gives back what is not needed until it is this client's turn again; whether the rest is
    /// more than there is for all.
    fn put_away(&mut self) -> bool {
        let house = &self.place.house;
        if let Some(room) = self.conversation.rest() {
            house.keep_room(room);
        }
        if self.unanswered.is_empty() && self.unanswered.capacity() > 0 {
            house.keep_queue(std::mem::take(&mut self.unanswered));
        }
        let queued = self.unanswered.iter().map(Exchange::bytes).sum::<usize>();
        self.keep(self.conversation.capacity() + queued)
    }

    /// Nothing can be done now: puts things away, and looks at the time.
    fn wait(&mut self) -> Wait {
        if self.put_away() {
            if !self.conversation.outgoing().is_empty() {
                return Wait::Over;
            }
            self.unanswered.clear();
            return Wait::Refuse(Refusal::Overloaded);
        }
        let house = &self.place.house;
        let stage = self.conversation.stage();
        if std::mem::replace(&mut self.stage, stage) != stage {
            self.since = runtime::now();
        }
        let settings = &house.settings;
        let (deadline, late) = match stage {
            _ if !self.conversation.outgoing().is_empty() => {
                (self.since + settings.write, Wait::Over)
            }
            // The service sees to it that its answers come in time.
            _ if !self.unanswered.is_empty() => return Wait::On,
            Stage::Idle => match house.ended() {
                Some(ended) => (ended.max(self.since) + GRACE, Wait::Over),
                None => (self.since + settings.idle, Wait::Over),
            },
            Stage::Head => (self.since + settings.head, Wait::Refuse(Refusal::Slow)),
            Stage::Body => (self.since + settings.body, Wait::Refuse(Refusal::Slow)),
            Stage::Over => return Wait::Over,
        };
        match runtime::due(deadline) {
            Poll::Pending => Wait::On,
            Poll::Ready(()) => late,
        }
    }

    /// Counts the bytes that are kept for this client; whether there are not that many left. Then
    /// they are not counted, and will be too many the next time as well.
    fn keep(&mut self, bytes: usize) -> bool {
        let kept = if bytes > KEPT_FREELY { bytes } else { 0 };
        let all = &self.place.house.occupancy.bytes;
        if kept > self.kept {
            let more = kept - self.kept;
            let max = self.place.house.settings.buffer_bytes_max;
            if all.fetch_add(more, Ordering::Relaxed) + more > max {
                all.fetch_sub(more, Ordering::Relaxed);
                return true;
            }
        } else if kept < self.kept {
            all.fetch_sub(self.kept - kept, Ordering::Relaxed);
        }
        self.kept = kept;
        false
    }

    /// Gives back all that is kept for this client.
    fn leave(&mut self) {
        self.place.house.keep_room(self.conversation.leave());
        self.keep(0);
    }

    /// Waits a moment for the client to end its half, now that ours has ended.
    fn linger(&mut self, until: Instant) -> Poll<()> {
        let scratch = &mut **self.place.house.scratch.borrow_mut();
        for _ in 0..READS_A_TURN_MAX {
            match self.socket.poll_read(scratch) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return runtime::due(until),
            }
        }
        runtime::poll_again();
        runtime::due(until)
    }
}

/// Nothing in it points into it.
impl<S: Service> Unpin for Connection<S> {}

/// A task's future by hand: half the size of the same with `async`, and there are thousands.
impl<S: Service> Future for Connection<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let connection = self.get_mut();
        let until = match connection.lingers {
            Some(until) => until,
            None => match ready!(connection.converse(cx)) {
                Parting::Plain => return Poll::Ready(()),
                Parting::Lingering => {
                    connection.leave();
                    runtime::now() + LINGER
                }
            },
        };
        connection.lingers = Some(until);
        connection.linger(until)
    }
}

impl<S: Service> Drop for Connection<S> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What a connection does that can do nothing now.
enum Wait {
    /// It waits for an event, or for its deadline.
    On,
    /// It ends.
    Over,
    /// It tells the client why it goes on no longer.
    Refuse(Refusal),
}

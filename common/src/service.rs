//! What every service has beside its `GET /`: health, readiness, version and metrics, the
//! verbs of its command line, its log, and how it starts and ends as process 1.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::cli::{self, Command, Config, Kind, Setting};
use crate::http::call::Call;
use crate::http::{Content, Date, Limits, Method, Refusal, Request, Response, Status};
use crate::json;
use crate::runtime::{self, Ending, Seat, Signals};
use crate::server::{self, Answer, Event, Occupancy, Peer, Settings};
use crate::sys;
use crate::telemetry::Kind::{Counter as Total, Gauge, Histogram as Distribution};
use crate::telemetry::{self, Counter, Exposition, Histogram, Line, Log, LogFormat};

pub use crate::cli::About;

/// A service's own part.
pub trait Root: 'static {
    /// An answer that takes time.
    type Later: Future<Output = Response> + Unpin;

    /// Answers `GET /`.
    fn get(&self) -> Reply<Self::Later>;

    /// Answers `GET /readyz` of a service that is not ending.
    fn ready(&self) -> Reply<Self::Later>;
}

/// An answer now, or the promise of one.
pub enum Reply<L> {
    /// The answer.
    Now(Response),
    /// It will come.
    Later(L),
}

/// The answer of a service that is ready.
pub const READY: &[u8] = b"{\"status\": \"ready\"}\n";

/// An answer that says what went wrong, in the one shape that both services use for that.
pub fn error(status: Status, message: &str) -> Response {
    let mut body = b"{\"error_message\": ".to_vec();
    json::write_text(message, &mut body);
    body.extend_from_slice(b", \"status\": \"[ERROR]\"}\n");
    Response::json(status, body)
}

/// Settings of every service. `port` is the service's own default.
pub const fn settings(port: &'static str) -> [Setting; 13] {
    [
        Setting {
            variable: "HOST",
            kind: Kind::Address,
            default: Some("::"),
            meaning: "Where to listen: :: takes IPv4 as well, and 0.0.0.0 is used where IPv6 is off.",
        },
        Setting {
            variable: "PORT",
            kind: Kind::Port,
            default: Some(port),
            meaning: "Where to listen.",
        },
        Setting {
            variable: "WORKERS",
            kind: Kind::Number(0, 256),
            default: Some("0"),
            meaning: "Threads that serve. 0: one for each core that the control group grants.",
        },
        Setting {
            variable: "LOG_FORMAT",
            kind: Kind::Word(&["text", "json", "off"]),
            default: Some("text"),
            meaning: "How each request is logged; /healthz, /readyz and /metrics never are.\noff: only what no request asked for, such as start and end.",
        },
        Setting {
            variable: "HEAD_BYTES_MAX",
            kind: Kind::Number(256, 1 << 20),
            default: Some("16384"),
            meaning: "A request's line and fields. Room for any browser's cookies.",
        },
        Setting {
            variable: "BODY_BYTES_MAX",
            kind: Kind::Number(0, 1 << 30),
            default: Some("1048576"),
            meaning: "A request's body, which is read and dropped; and a backend's answer, which is kept.",
        },
        Setting {
            variable: "CONNECTIONS_MAX",
            kind: Kind::Number(1, 1_000_000),
            default: Some("10000"),
            meaning: "Clients at once; the next ones are told 503. Fewer where RLIMIT_NOFILE says so, and at\nmost one for each 16 KB of the container's memory.",
        },
        Setting {
            variable: "BUFFER_BYTES_MAX",
            kind: Kind::Number(0, 1 << 40),
            default: Some("16777216"),
            meaning: "Kept for all slow clients together: parts of requests, and answers that are not taken.\nWho needs more of it is told 503. At most a quarter of the container's memory.",
        },
        Setting {
            variable: "IDLE_TIMEOUT_MS",
            kind: Kind::Number(1, 86_400_000),
            default: Some("75000"),
            meaning: "Silence between two requests. Longer than the 60 s of common load balancers, so that\nthe side that closes is the one that would else meet a closed connection.",
        },
        Setting {
            variable: "HEAD_TIMEOUT_MS",
            kind: Kind::Number(1, 86_400_000),
            default: Some("10000"),
            meaning: "A head, from its first byte to its last: enough for any honest client.",
        },
        Setting {
            variable: "BODY_TIMEOUT_MS",
            kind: Kind::Number(1, 86_400_000),
            default: Some("30000"),
            meaning: "A request's body: the largest at 35 KB/s.",
        },
        Setting {
            variable: "WRITE_TIMEOUT_MS",
            kind: Kind::Number(1, 86_400_000),
            default: Some("30000"),
            meaning: "A client that takes nothing of its answers.",
        },
        Setting {
            variable: "DRAIN_TIMEOUT_MS",
            kind: Kind::Number(1, 86_400_000),
            default: Some("3000"),
            meaning: "From SIGTERM to the end, for requests under way: well below the 10 s after which\nan engine kills.",
        },
    ]
}

/// Descriptors kept for what is not served: the log, epolls, clients that are turned away, and
/// connections to a backend. Where there are few at all, this is three quarters of them.
const DESCRIPTORS_KEPT: u64 = 32;
const DESCRIPTORS_KEPT_PER_WORKER: u64 = 88;
/// Memory for each client: some kilobytes here, a few in the kernel, and as much again for all else.
const MEMORY_PER_CONNECTION: u64 = 16 << 10;
/// How long the process's last words may take on a stuck pipe.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Log lines that gather before the end of a turn, which may be that of thousands of requests.
const LINES_BYTES_MAX: usize = 64 << 10;
/// How often a worker that has drained looks whether the others have.
const DRAIN_STEP: Duration = Duration::from_millis(5);
/// What a health check may take, all in all.
const HEALTHCHECK: Duration = Duration::from_secs(1);

/// What one worker has counted. Only that worker adds; whoever is asked for metrics reads.
#[derive(Default)]
#[repr(align(64))] // no cache line is written by two workers
pub struct Meter {
    requests: [[Counter; Status::ALL.len()]; Route::ALL.len()],
    latency: Histogram,
    accepted: Counter,
    closed: Counter,
    turned_away: Counter,
    not_accepted: Counter,
    refusals: [Counter; Refusal::ALL.len()],
    calls: [Counter; OUTCOMES.len()],
    /// Connections to the backend.
    pub backend_opened: Counter,
    /// Connections to the backend that are gone.
    pub backend_closed: Counter,
    /// Look-ups of the backend's name.
    pub lookups: Counter,
}

/// What a call to the backend can come to.
const OUTCOMES: [&str; 9] =
    ["OK", "STATUS", "REFUSED", "DNS", "TIMEOUT", "PROTOCOL", "JSON", "TOO_LARGE", "ABANDONED"];

impl Meter {
    /// Counts a call to the backend by the word for its outcome.
    pub fn call(&self, word: &str) {
        if let Some(counter) = OUTCOMES.iter().position(|known| *known == word) {
            self.calls[counter].add(1);
        }
    }
}

/// Panics of the whole process, wherever they were.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// The paths that mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Root,
    Traceback,
    Healthz,
    Readyz,
    Version,
    Metrics,
    Other,
}

impl Route {
    const ALL: [Route; 7] = [
        Route::Root,
        Route::Traceback,
        Route::Healthz,
        Route::Readyz,
        Route::Version,
        Route::Metrics,
        Route::Other,
    ];

    fn of(path: &[u8]) -> Route {
        match path {
            b"/" => Route::Root,
            b"/traceback" => Route::Traceback,
            b"/healthz" => Route::Healthz,
            b"/readyz" => Route::Readyz,
            b"/version" => Route::Version,
            b"/metrics" => Route::Metrics,
            _ => Route::Other,
        }
    }

    /// Its label in metrics; whatever a client makes up is one.
    fn label(self) -> &'static str {
        match self {
            Route::Root => "/",
            Route::Traceback => "/traceback",
            Route::Healthz => "/healthz",
            Route::Readyz => "/readyz",
            Route::Version => "/version",
            Route::Metrics => "/metrics",
            Route::Other => "other",
        }
    }

    fn is_probe(self) -> bool {
        matches!(self, Route::Healthz | Route::Readyz | Route::Metrics)
    }

    fn allow(self) -> &'static str {
        match self {
            // To end the process is nothing that a HEAD should do by the way.
            Route::Traceback => "GET, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        }
    }
}

/// What all workers share.
struct Office {
    about: &'static About,
    meters: Vec<Arc<Meter>>,
    log: Log,
    log_format: LogFormat,
    occupancy: Arc<Occupancy>,
    ending: Ending,
    hostname: String,
    started: SystemTime,
}

/// One worker's side of the service: it answers, counts and logs.
struct Desk<R> {
    root: R,
    office: Arc<Office>,
    meter: Arc<Meter>,
    clock: Cell<Clock>,
    /// Finished log lines of this turn, and the task that hands them over at its end.
    lines: RefCell<Vec<u8>>,
    clerk: RefCell<Option<Waker>>,
}

/// The time of day, looked up once a second and counted on from there.
#[derive(Clone, Copy)]
struct Clock {
    read: Instant,
    /// When the next second begins.
    over: Instant,
    unix_millis: u64,
    date: Date,
}

impl Clock {
    fn read(at: Instant) -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_millis = unix.as_millis() as u64;
        let left =
            Duration::from_secs(1).saturating_sub(Duration::from_nanos(unix.subsec_nanos().into()));
        Clock {
            read: at,
            over: at + left,
            unix_millis,
            date: telemetry::http_date(unix_millis / 1000),
        }
    }

    fn unix_millis(&self, at: Instant) -> u64 {
        self.unix_millis + at.saturating_duration_since(self.read).as_millis() as u64
    }
}

/// What is kept of a request until its answer is there.
struct Note {
    route: Route,
    began: Instant,
    said: Option<Box<Said>>,
}

/// A request's words in the log.
struct Said {
    method: Vec<u8>,
    path: Vec<u8>,
    user_agent: Option<Vec<u8>>,
}

impl<R: Root> server::Service for Desk<R> {
    type Later = R::Later;
    type Note = Note;

    fn answer(&self, request: &Request<'_>, peer: &Peer) -> Answer<R::Later, Note> {
        let route = Route::of(&request.path);
        match self.decide(route, request, peer) {
            Reply::Now(response) => {
                let said = self.logs(route).then(|| Words {
                    method: request.method.token(),
                    path: &request.path,
                    user_agent: request.fields.get("user-agent"),
                });
                self.record(route, runtime::now(), peer, &response, said);
                Answer::Now(response)
            }
            Reply::Later(later) => {
                let said = self.logs(route).then(|| {
                    let user_agent = request.fields.get("user-agent");
                    Box::new(Said {
                        method: telemetry::start(request.method.token()).into(),
                        path: telemetry::start(&request.path).into(),
                        user_agent: user_agent.map(telemetry::start).map(<[u8]>::to_vec),
                    })
                });
                Answer::Later(later, Note { route, began: runtime::now(), said })
            }
        }
    }

    fn settle(&self, note: Note, peer: &Peer, response: &Response) {
        let said = note.said.as_ref().map(|said| Words {
            method: &said.method,
            path: &said.path,
            user_agent: said.user_agent.as_deref(),
        });
        self.record(note.route, note.began, peer, response, said);
    }

    fn refuse(&self, refusal: Refusal, peer: &Peer) -> Response {
        if let Some(counter) = Refusal::ALL.iter().position(|known| *known == refusal) {
            self.meter.refusals[counter].add(1);
        }
        let response = error(refusal.status(), refusal.phrase());
        let words = Words { method: b"-", path: b"-", user_agent: None };
        let said = self.logs(Route::Other).then_some(words);
        self.record(Route::Other, runtime::now(), peer, &response, said);
        response
    }

    fn apologize(&self) -> Response {
        error(Status::InternalServerError, "internal error")
    }

    fn date(&self) -> Date {
        self.clock().date
    }

    fn wants_addresses(&self) -> bool {
        self.office.log_format != LogFormat::Off
    }

    fn notice(&self, event: Event) {
        match event {
            Event::Opened => self.meter.accepted.add(1),
            Event::Closed => self.meter.closed.add(1),
            Event::TurnedAway => self.meter.turned_away.add(1),
            Event::NotAccepted(error) => {
                self.meter.not_accepted.add(1);
                self.office.say("error", &format!("cannot accept a connection: {error}"));
            }
        }
    }
}

/// A request's words, borrowed from wherever they are.
struct Words<'a> {
    method: &'a [u8],
    path: &'a [u8],
    user_agent: Option<&'a [u8]>,
}

impl<R: Root> Desk<R> {
    fn decide(&self, route: Route, request: &Request<'_>, peer: &Peer) -> Reply<R::Later> {
        let response = match (route, request.method) {
            (_, Method::Other(_) | Method::Connect) => {
                error(Status::NotImplemented, "this method is not implemented")
            }
            (Route::Root, Method::Get | Method::Head) => return self.root.get(),
            (Route::Other, Method::Options) if *request.path == *b"*" => options(route),
            (Route::Other, _) => error(Status::NotFound, "no such path"),
            (_, Method::Options) => options(route),
            (Route::Traceback, Method::Get) => self.office.crash(peer),
            (Route::Healthz, Method::Get | Method::Head) => {
                Response::json(Status::Ok, &b"{\"status\": \"ok\"}\n"[..])
            }
            (Route::Readyz, Method::Get | Method::Head) if self.office.ending.is_raised() => {
                error(Status::ServiceUnavailable, "draining")
            }
            (Route::Readyz, Method::Get | Method::Head) => return self.root.ready(),
            (Route::Version, Method::Get | Method::Head) => {
                Response::json(Status::Ok, self.office.version())
            }
            (Route::Metrics, Method::Get | Method::Head) => {
                let page = self.office.metrics().into_bytes();
                Response { content: Content::Metrics, ..Response::json(Status::Ok, page) }
            }
            _ => Response {
                allow: Some(route.allow()),
                ..error(Status::MethodNotAllowed, "this path does not take this method")
            },
        };
        Reply::Now(response)
    }

    /// Counts an answer, and logs it with what was said.
    fn record(
        &self,
        route: Route,
        began: Instant,
        peer: &Peer,
        response: &Response,
        said: Option<Words<'_>>,
    ) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(began);
        self.meter.latency.observe(elapsed);
        if let Some(status) = Status::ALL.iter().position(|known| *known == response.status) {
            self.meter.requests[route as usize][status].add(1);
        }
        let Some(said) = said else { return };
        let head_only = said.method == b"HEAD";
        let line = Line {
            unix_millis: self.clock().unix_millis(now),
            peer: peer.address.as_deref().unwrap_or("-"),
            method: said.method,
            path: said.path,
            status: response.status.code(),
            bytes: if head_only { 0 } else { response.body.len() as u64 },
            elapsed,
            user_agent: said.user_agent,
        };
        let mut lines = self.lines.borrow_mut();
        if lines.is_empty()
            && let Some(clerk) = &*self.clerk.borrow()
        {
            clerk.wake_by_ref();
        }
        line.write(self.office.log_format, &mut lines);
        if lines.len() > LINES_BYTES_MAX {
            self.office.log.hand_over(&mut lines);
        }
    }

    fn logs(&self, route: Route) -> bool {
        self.office.log_format != LogFormat::Off && !route.is_probe()
    }

    /// Hands the lines of each turn over at its end: one lock for all of them.
    async fn hand_over_lines(self: Rc<Self>) {
        poll_fn(|cx| -> Poll<()> {
            let mut clerk = self.clerk.borrow_mut();
            if clerk.is_none() {
                *clerk = Some(cx.waker().clone());
            }
            self.office.log.hand_over(&mut self.lines.borrow_mut());
            Poll::Pending
        })
        .await;
    }

    fn clock(&self) -> Clock {
        let (now, clock) = (runtime::now(), self.clock.get());
        if now < clock.over {
            return clock;
        }
        self.clock.set(Clock::read(now));
        self.clock.get()
    }
}

fn options(route: Route) -> Response {
    Response { allow: Some(route.allow()), ..Response::json(Status::NoContent, &b""[..]) }
}

impl Office {
    /// A line of the log that no request caused. Waits for no one.
    fn say(&self, level: &str, message: &str) {
        let mut line = Vec::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        telemetry::event(self.log_format, now.as_millis() as u64, level, message, &mut line);
        self.log.hand_over(&mut line);
    }

    /// `GET /traceback`: the end of the process, so that whoever watches over it starts it again.
    fn crash(&self, peer: &Peer) -> ! {
        let peer = peer.address.as_deref().unwrap_or("a client");
        self.say("error", &format!("GET /traceback from {peer}: ending with exit code 1"));
        self.log.flush(LAST_WORDS);
        std::process::exit(1);
    }

    fn version(&self) -> Vec<u8> {
        let mut body = b"{\"name\": ".to_vec();
        json::write_text(self.about.name, &mut body);
        body.extend_from_slice(b", \"version\": ");
        json::write_text(self.about.version, &mut body);
        body.extend_from_slice(b", \"hostname\": ");
        json::write_text(&self.hostname, &mut body);
        body.extend_from_slice(format!(", \"pid\": {}}}\n", std::process::id()).as_bytes());
        body
    }

    /// The page for Prometheus: every worker's counts added up.
    fn metrics(&self) -> String {
        let total = |count: &dyn Fn(&Meter) -> &Counter| -> u64 {
            self.meters.iter().map(|meter| count(meter).get()).sum()
        };
        let mut page = Exposition::new();

        page.family("http_requests_total", Total, "Answers by route and status.");
        for (route, route_index) in Route::ALL.iter().zip(0..) {
            for (status, status_index) in Status::ALL.iter().zip(0..) {
                let count = total(&|meter| &meter.requests[route_index][status_index]);
                if count > 0 || (*route, *status) == (Route::Root, Status::Ok) {
                    let code = status.code().to_string();
                    page.sample(&[("route", route.label()), ("status", &code)], count);
                }
            }
        }
        page.family(
            "http_request_duration_seconds",
            Distribution,
            "From the arrival of a request to its answer.",
        );
        page.histogram(&[], self.meters.iter().map(|meter| &meter.latency));

        let opened = total(&|meter| &meter.accepted);
        let gone = total(&|meter| &meter.closed);
        let single = |page: &mut Exposition, name, kind, help: &str, value| {
            page.family(name, kind, help);
            page.sample(&[], value);
        };
        let open = opened.saturating_sub(gone);
        single(&mut page, "http_connections_open", Gauge, "Clients connected now.", open);
        single(
            &mut page,
            "http_connections_accepted_total",
            Total,
            "Connections accepted.",
            opened,
        );
        let kept = self.occupancy.bytes() as u64;
        single(&mut page, "http_buffered_bytes", Gauge, "Kept for slow clients now.", kept);
        let turned_away = total(&|meter| &meter.turned_away);
        let help = "Connections beyond the limit, which were told 503.";
        single(&mut page, "http_connections_refused_total", Total, help, turned_away);
        let not_accepted = total(&|meter| &meter.not_accepted);
        let help = "Failures to accept, for want of descriptors or memory.";
        single(&mut page, "http_accept_errors_total", Total, help, not_accepted);
        page.family("http_refusals_total", Total, "Requests that could not be taken, by reason.");
        for (refusal, index) in Refusal::ALL.iter().zip(0..) {
            let count = total(&|meter| &meter.refusals[index]);
            page.sample(&[("reason", refusal.word())], count);
        }
        if self.about.calls_backend {
            page.family("backend_calls_total", Total, "Calls to the backend, by outcome.");
            for (outcome, index) in OUTCOMES.iter().zip(0..) {
                page.sample(&[("outcome", outcome)], total(&|meter| &meter.calls[index]));
            }
            let opened = total(&|meter| &meter.backend_opened);
            let open = opened.saturating_sub(total(&|meter| &meter.backend_closed));
            let help = "Connections to the backend now.";
            single(&mut page, "backend_connections_open", Gauge, help, open);
            let help = "Connections made to the backend.";
            single(&mut page, "backend_connections_opened_total", Total, help, opened);
            let lookups = total(&|meter| &meter.lookups);
            let help = "Look-ups of the backend's name.";
            single(&mut page, "backend_lookups_total", Total, help, lookups);
        }
        let dropped = self.log.dropped();
        let help = "Log lines that could not be written.";
        single(&mut page, "log_lines_dropped_total", Total, help, dropped);
        let panics = PANICS.load(Ordering::Relaxed);
        single(&mut page, "panics_total", Total, "Panics, each of which ended one task.", panics);
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let help = "When the process started, in seconds since 1970.";
        single(&mut page, "process_start_time_seconds", Gauge, help, started);
        if let Some(bytes) = resident_bytes() {
            let help = "Memory that the process holds.";
            single(&mut page, "process_resident_memory_bytes", Gauge, help, bytes);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            let count = entries.count() as u64;
            single(&mut page, "process_open_fds", Gauge, "Open descriptors.", count);
        }
        page.family("build_info", Gauge, "Which program this is; always 1.");
        page.sample(&[("name", self.about.name), ("version", self.about.version)], 1);
        page.finish()
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// The whole of a service's `main`: reads the command line and does what it says. `prepare` is
/// called once, and what it gives once on each worker.
pub fn run<R: Root, P>(
    about: &'static About,
    prepare: impl FnOnce(&Config) -> io::Result<P>,
) -> ExitCode
where
    P: Fn(Arc<Meter>) -> R + Sync,
{
    let command = cli::read(about, std::env::args_os().skip(1), |name| std::env::var_os(name));
    let result = match command {
        Err(mistake) => {
            eprintln!("{}: {mistake}", about.name);
            // An engine knows no third outcome of a health check.
            let asks = std::env::args_os().any(|argument| argument == "healthcheck");
            return ExitCode::from(if asks { 1 } else { 2 });
        }
        Ok(Command::Print(page)) => io::stdout().write_all(page.as_bytes()),
        Ok(Command::Healthcheck(config)) => healthcheck(&config),
        Ok(Command::Serve(config)) => {
            // Before any thread is started: threads inherit what is blocked.
            sys::signals(&[sys::SIGTERM, sys::SIGINT])
                .and_then(|signals| serve(about, &config, signals, &prepare(&config)?))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", about.name);
            ExitCode::FAILURE
        }
    }
}

fn serve<R: Root>(
    about: &'static About,
    config: &Config,
    signals: OwnedFd,
    root: &(impl Fn(Arc<Meter>) -> R + Sync),
) -> io::Result<()> {
    let workers = match config.number("WORKERS") as usize {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let listener = listen(config)?;
    let address = listener.local_addr()?;
    let office = Arc::new(Office {
        about,
        meters: (0..workers).map(|_| Arc::default()).collect(),
        log: Log::start(File::from(io::stdout().as_fd().try_clone_to_owned()?))?,
        log_format: LogFormat::parse(config.text("LOG_FORMAT")).unwrap_or(LogFormat::Text),
        occupancy: Arc::default(),
        ending: Ending::default(),
        hostname: std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_or_else(|_| "unknown".to_owned(), |name| name.trim_end().to_owned()),
        started: SystemTime::now(),
    });
    report_panics(&office);
    let settings = bounds(config, workers);
    let pid = std::process::id();
    let first = if pid == 1 { " (process 1)" } else { "" };
    let (name, version) = (about.name, about.version);
    office.say(
        "info",
        &format!(
            "{name} {version} listening on {address}, pid {pid}{first}, {workers} workers, \
             at most {} connections",
            settings.connections_max
        ),
    );
    let serving = AtomicUsize::new(workers);
    let work = |number: usize, seat: Seat, listener, signals: Option<OwnedFd>| {
        let meter = Arc::clone(&office.meters[number]);
        let desk = Rc::new(Desk {
            root: root(Arc::clone(&meter)),
            office: Arc::clone(&office),
            meter,
            clock: Cell::new(Clock::read(Instant::now())),
            lines: RefCell::default(),
            clerk: RefCell::default(),
        });
        let (occupancy, ending) = (Arc::clone(&office.occupancy), office.ending.clone());
        seat.run(&office.ending, async {
            runtime::spawn(Rc::clone(&desk).hand_over_lines());
            if let Some(signals) = signals {
                runtime::spawn(obey(signals, Arc::clone(&office)));
            }
            server::serve(Rc::clone(&desk), listener, settings, occupancy, ending).await;
            // Signals are heeded here as long as any worker drains. How many connections are
            // open does not tell: another worker may be about to accept its first.
            let deadline = Instant::now() + settings.drain;
            while number == 0 && serving.load(Ordering::Relaxed) > 1 && runtime::now() < deadline {
                runtime::sleep_until(runtime::now() + DRAIN_STEP).await;
            }
        })?;
        office.log.hand_over(&mut desk.lines.borrow_mut());
        Ok(())
    };
    // Whoever ends ends all: a service with a worker less would only seem to live.
    let work = |number, seat, listener, signals| {
        let worked = catch_unwind(AssertUnwindSafe(|| work(number, seat, listener, signals)));
        serving.fetch_sub(1, Ordering::Relaxed);
        office.ending.raise();
        worked.unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
    };
    let work = &work;
    let seat = Seat::take()?;
    let seats = (1..workers).map(|_| Seat::take()).collect::<io::Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        let mut others = Vec::new();
        for (number, seat) in (1..).zip(seats) {
            let listener = Arc::clone(&listener);
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            let other = thread.spawn_scoped(scope, move || work(number, seat, listener, None));
            others.push(other.inspect_err(|_| office.ending.raise())?);
        }
        let ours = work(0, seat, listener, Some(signals));
        others.into_iter().flat_map(ScopedJoinHandle::join).fold(ours, Result::and)
    })?;
    office.say("info", &format!("{name} {version} ended, pid {pid}"));
    office.log.flush(LAST_WORDS);
    Ok(())
}

/// Opens the listener; where IPv6 is off, `::` means `0.0.0.0`.
fn listen(config: &Config) -> io::Result<Arc<TcpListener>> {
    let port = config.port("PORT");
    let wanted: IpAddr = config.text("HOST").parse().unwrap_or(Ipv6Addr::UNSPECIFIED.into());
    let opened = server::listen((wanted, port).into());
    let opened = match opened {
        Err(error)
            if wanted == IpAddr::from(Ipv6Addr::UNSPECIFIED)
                && error.kind() != io::ErrorKind::AddrInUse
                && error.kind() != io::ErrorKind::PermissionDenied =>
        {
            server::listen((Ipv4Addr::UNSPECIFIED, port).into())
        }
        opened => opened,
    };
    opened.map_err(|error| {
        let address = SocketAddr::new(wanted, port);
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

fn bounds(config: &Config, workers: usize) -> Settings {
    let time = |variable| Duration::from_millis(config.number(variable));
    let descriptors = sys::raise_open_files().unwrap_or(u64::MAX);
    let kept = DESCRIPTORS_KEPT + DESCRIPTORS_KEPT_PER_WORKER * workers as u64;
    let kept = kept.min(descriptors / 4 * 3);
    let descriptors = descriptors.saturating_sub(kept);
    let memory = granted_memory();
    let connections_max = config
        .number("CONNECTIONS_MAX")
        .min(descriptors)
        .min(memory / MEMORY_PER_CONNECTION)
        .max(1);
    Settings {
        limits: limits(config),
        connections_max: connections_max as usize,
        buffer_bytes_max: config.number("BUFFER_BYTES_MAX").min(memory / 4) as usize,
        idle: time("IDLE_TIMEOUT_MS"),
        head: time("HEAD_TIMEOUT_MS"),
        body: time("BODY_TIMEOUT_MS"),
        write: time("WRITE_TIMEOUT_MS"),
        drain: time("DRAIN_TIMEOUT_MS"),
    }
}

/// Bytes of memory that the container may take, by control groups of version 2 or 1.
fn granted_memory() -> u64 {
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = |path| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    limits.into_iter().find_map(limit).unwrap_or(u64::MAX)
}

/// The bounds of a message, for requests as for a backend's answers.
pub fn limits(config: &Config) -> Limits {
    Limits {
        head_bytes_max: config.number("HEAD_BYTES_MAX") as usize,
        body_bytes_max: config.number("BODY_BYTES_MAX"),
    }
}

/// A panic is one line of the log, and counted.
fn report_panics(office: &Arc<Office>) {
    let office = Arc::clone(office);
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        office.say("error", &format!("thread {name}: {panic}"));
    }));
}

/// Drains at the first signal, ends at once at the second.
async fn obey(signals: OwnedFd, office: Arc<Office>) {
    let signals = Signals::new(signals);
    let mut heeded = false;
    while let Ok(signal) = signals.next().await {
        let name = if signal == sys::SIGTERM { "SIGTERM" } else { "SIGINT" };
        if heeded {
            office.say("info", &format!("{name} again: ending now"));
            office.log.flush(LAST_WORDS);
            std::process::exit(128 + signal);
        }
        heeded = true;
        office.say("info", &format!("{name}: draining"));
        office.ending.raise();
    }
}

/// Asks the service at our own port how it is. `Err` says in one line why that is not well.
fn healthcheck(config: &Config) -> io::Result<()> {
    let host: IpAddr = config.text("HOST").parse().unwrap_or(Ipv6Addr::UNSPECIFIED.into());
    let host = if host.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { host };
    let address = SocketAddr::new(host, config.port("PORT"));
    let ill = |error: io::Error| {
        io::Error::new(error.kind(), format!("http://{address}/healthz: {error}"))
    };
    match ask(address, limits(config)).map_err(ill)? {
        200 => Ok(()),
        status => Err(ill(io::Error::other(format!("status {status}")))),
    }
}

/// The status of `GET /healthz`.
fn ask(address: SocketAddr, limits: Limits) -> io::Result<u16> {
    let deadline = Instant::now() + HEALTHCHECK;
    let mut stream = TcpStream::connect_timeout(&address, HEALTHCHECK)?;
    let mut call = Call::new(limits);
    call.ask(
        format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    );
    stream.write_all(call.outgoing())?;
    let mut bytes = [0; 1024];
    loop {
        let answer = call.answer().map_err(|refusal| io::Error::other(refusal.phrase()))?;
        if let Some(answer) = answer {
            return Ok(answer.status);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes) {
            Ok(0) => call.close(),
            Ok(count) => call.receive(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
}

//! The parts that all services share: routes, metrics, settings, signals, the log, and the start
//! and the end of the process.

mod handler;
mod healthcheck;
mod limits;
mod metrics;
mod routes;
mod settings;
mod signals;

use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, SystemTime};

use crate::cli::{self, Command, Config};
use crate::http::{Request, Response, Status};
use crate::json;
use crate::log::{LogFormat, LogWriter};
use crate::metrics::{Counter, Exposition};
use crate::rt::{self, Shutdown, Worker};
use crate::server::{self, Load, Peer};
use crate::sys;
use handler::{Recorder, Router};
use metrics::Metrics;

pub use crate::cli::About;
pub use crate::server::MaybeReady;
pub use limits::ProcessLimits;
pub use settings::{limits, settings};

/// The stack of a worker. Nothing recurses.
const STACK_BYTES: usize = 256 << 10;
/// Memory that must be left when a worker has started: the next one and the first requests need
/// some.
const SPARE_BYTES: usize = 4 << 20;

/// Panics of the process.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// A service: what it has of its own.
pub trait App: Send + Sync + 'static {
    /// Its handler of one worker.
    type Handler: Handler;

    /// Makes the handler of a worker, on its thread.
    fn handler(&self, worker: usize) -> Self::Handler;

    /// Appends the metrics of its own.
    fn write_metrics(&self, _page: &mut Exposition) {}
}

/// A service's handler of one worker.
pub trait Handler: 'static {
    /// A response that is not ready yet.
    type Future: Future<Output = Response> + Unpin;

    /// Handles `GET /`.
    fn get(&self, request: &Request<'_>) -> MaybeReady<Self::Future>;

    /// Handles `GET /readyz` while the service is not draining.
    fn ready(&self) -> MaybeReady<Self::Future>;

    /// Handles `GET /ui`, if there is one.
    fn ui(&self, _request: &Request<'_>) -> Option<Response> {
        None
    }
}

/// The values that an `App` is made from.
pub struct Setup<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The limits of the process.
    pub limits: ProcessLimits,
    /// The log.
    pub log: LogWriter,
}

/// The response of a service that is ready.
pub fn ready() -> Response {
    Response::json(Status::Ok, &b"{\"status\": \"ready\"}\n"[..])
}

/// An error response.
pub fn error(status: Status, message: &str) -> Response {
    let mut body = b"{\"error_message\": ".to_vec();
    json::write_text(message, &mut body);
    body.extend_from_slice(b", \"status\": \"[ERROR]\"}\n");
    Response::json(status, body)
}

/// The state of all workers.
struct Shared {
    about: &'static About,
    metrics: Vec<Arc<Metrics>>,
    app_metrics: Box<dyn Fn(&mut Exposition) + Send + Sync>,
    log: LogWriter,
    load: Arc<Load>,
    shutdown: Shutdown,
    is_draining: AtomicBool,
    hostname: String,
    started: SystemTime,
    connections_max: usize,
    descriptors_max: u64,
}

impl Shared {
    fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// A count of all workers.
    fn sum(&self, count: impl Fn(&Metrics) -> &Counter) -> u64 {
        self.metrics.iter().map(|metrics| count(metrics).get()).sum()
    }

    /// `GET /traceback`: ends the process, so that its container is restarted.
    fn crash(&self, peer: &Peer) -> ! {
        let peer = peer.address.as_deref().unwrap_or("a client");
        self.log
            .write_event("error", &format!("GET /traceback from {peer}: ending with exit code 1"));
        self.log.flush(signals::FLUSH_TIMEOUT);
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

    fn metrics_page(&self) -> String {
        let mut page = Exposition::default();
        page.families(metrics::FAMILIES, self);
        (self.app_metrics)(&mut page);
        page.finish()
    }
}

/// The `main` of a service: runs the command of the command line. `new` makes the app once
/// the settings are known.
pub fn run<A: App>(
    about: &'static About,
    new: impl FnOnce(&Setup<'_>) -> io::Result<A>,
) -> ExitCode {
    let arguments = std::env::args_os().skip(1);
    let process_1 = || healthcheck::process_1_arguments(about.name);
    let command = cli::read(about, arguments, |name| std::env::var_os(name), process_1);
    let result = match command {
        Err(mistake) => {
            eprintln!("{}: {mistake}", about.name);
            // An engine knows no third outcome of a health check.
            let is_check = std::env::args_os().any(|argument| argument == "healthcheck");
            return ExitCode::from(if is_check { 1 } else { 2 });
        }
        Ok(Command::Print(page)) => io::stdout().write_all(page.as_bytes()),
        Ok(Command::Healthcheck(config)) => healthcheck::run(&config),
        Ok(Command::Serve(config)) => serve(about, &config, new),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", about.name);
            ExitCode::FAILURE
        }
    }
}

fn serve<A: App>(
    about: &'static About,
    config: &Config,
    new: impl FnOnce(&Setup<'_>) -> io::Result<A>,
) -> io::Result<()> {
    sys::set_malloc_options();
    check_memory().map_err(step("cannot start"))?;
    let signalfd = signals::block().map_err(step("cannot read signals"))?;
    let workers = match config.number("WORKERS") as usize {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let listener = listen(config)?;
    let address = listener.local_addr().map_err(step("cannot read the address"))?;
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(step("cannot use stdout"))?;
    let format = match config.text("LOG_FORMAT") {
        "json" => LogFormat::Json,
        "off" => LogFormat::Off,
        _ => LogFormat::Text,
    };
    let log = LogWriter::start(File::from(stdout), format);
    let log = log.map_err(step("cannot start the log thread"))?;
    let limits = ProcessLimits::read(workers);
    let app = Arc::new(new(&Setup { config, limits, log: log.clone() })?);
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim_end().to_owned());
    let settings = server_settings(about, config, limits, &hostname);
    let page_app = Arc::clone(&app);
    let shared = Arc::new(Shared {
        about,
        metrics: (0..workers).map(|_| Arc::default()).collect(),
        app_metrics: Box::new(move |page| page_app.write_metrics(page)),
        log,
        load: Arc::default(),
        shutdown: Shutdown::default(),
        is_draining: AtomicBool::new(false),
        hostname,
        started: SystemTime::now(),
        connections_max: settings.connections_max,
        descriptors_max: limits.descriptors,
    });
    log_panics(&shared);
    let delay = Duration::from_millis(config.number("SHUTDOWN_DELAY_MS"));
    let pid = std::process::id();
    let first = Arc::clone(&shared);
    let started = move || {
        let role = if pid == 1 { " (process 1)" } else { "" };
        let message = format!(
            "{} {} listening on {address}, pid {pid}{role}, {workers} workers, at most {} \
             connections",
            about.name, about.version, first.connections_max
        );
        rt::spawn(signals::handle(signalfd, delay, Arc::clone(&first)));
        first.log.write_event("info", &message);
    };
    run_workers(&*app, &shared, &settings, &listener, started)?;
    shared.log.write_event("info", &format!("{} {} ended, pid {pid}", about.name, about.version));
    shared.log.flush(signals::FLUSH_TIMEOUT);
    Ok(())
}

/// Starts the workers; this thread is the first. Returns when all have ended. `started` is called
/// on the first when all serve.
fn run_workers<A: App>(
    app: &A,
    shared: &Arc<Shared>,
    settings: &server::Settings,
    listener: &Arc<TcpListener>,
    started: impl FnOnce() + 'static,
) -> io::Result<()> {
    let workers = shared.metrics.len();
    let made = (0..workers).map(|_| Worker::new(&shared.shutdown));
    let made = made.collect::<io::Result<Vec<_>>>();
    let mut made = made.map_err(step("cannot open an epoll for each worker"))?.into_iter();
    // Boxed: the first worker's differs from those of the others.
    let work = |number: usize, worker: Worker, start: Box<dyn FnOnce()>| {
        let serving = async {
            let recorder = Rc::new(Recorder::new(Arc::clone(shared), number));
            let router = Rc::new(Router { handler: app.handler(number), recorder });
            // A task of its own comes after what this one does until it waits: it then serves, and
            // allocates no more.
            rt::spawn(async { start() });
            let (load, shutdown) = (Arc::clone(&shared.load), shared.shutdown.clone());
            server::serve(router, Arc::clone(listener), settings.clone(), load, shutdown).await;
        };
        let served = catch_unwind(AssertUnwindSafe(|| worker.run(serving)));
        // If one worker stops, all stop: a half-dead service must not look healthy.
        shared.shutdown.begin();
        served.unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
    };
    let work = &work;
    std::thread::scope(|scope| {
        let first = made.next();
        let mut others = Vec::new();
        for (number, worker) in (1..).zip(made) {
            let spawned = check_memory().and_then(|()| {
                let (mut has_started, start) = io::pipe()?;
                let start = Box::new(move || drop(start));
                let thread = std::thread::Builder::new()
                    .name(format!("worker-{number}"))
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, move || work(number, worker, start))?;
                // One at a time: the check before the next one must see the memory that this one
                // took. The pipe closes when it serves, or when its start has failed.
                let _ = has_started.read(&mut [0]);
                Ok(thread)
            });
            let failed = format!(
                "cannot start worker {number} of {workers} (lower WORKERS, or raise the limits of \
                 memory and threads, as with --pids-limit)"
            );
            others.push(spawned.map_err(step(&failed)).inspect_err(|_| shared.shutdown.begin())?);
        }
        check_memory().map_err(step("cannot start")).inspect_err(|_| shared.shutdown.begin())?;
        let ours = first.map_or(Ok(()), |worker| work(0, worker, Box::new(started)));
        others.into_iter().flat_map(ScopedJoinHandle::join).fold(ours, Result::and)
    })
}

/// Fails if there is not a little memory left. Later, a failed allocation would abort the process,
/// as a thread does that finds no memory for its signal stack.
fn check_memory() -> io::Result<()> {
    Vec::<u8>::new().try_reserve_exact(SPARE_BYTES).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// Adds to an error the step that failed.
fn step(name: &str) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{name}: {error}"))
}

/// Opens the listener. Where IPv6 is off, `::` means `0.0.0.0`.
fn listen(config: &Config) -> io::Result<Arc<TcpListener>> {
    let port = config.port("PORT");
    let host: IpAddr = config.text("HOST").parse().unwrap_or(Ipv6Addr::UNSPECIFIED.into());
    let address = SocketAddr::new(host, port);
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    // Not after AddrInUse: another process must not get half of the clients. A seccomp profile may
    // forbid AF_INET6 with EPERM or EACCES; if that is about the port, IPv4 fails with it too.
    let opened = server::listen(address).or_else(|error| {
        let is_v6_off =
            host == IpAddr::from(Ipv6Addr::UNSPECIFIED) && error.kind() != io::ErrorKind::AddrInUse;
        if is_v6_off { server::listen(v4) } else { Err(error) }
    });
    opened.map_err(step(&format!("cannot listen on {address}")))
}

fn server_settings(
    about: &About,
    config: &Config,
    process: ProcessLimits,
    hostname: &str,
) -> server::Settings {
    let duration = |variable| Duration::from_millis(config.number(variable));
    let backend = if about.has_backend {
        process.workers
            * process.backend_connections(config.number("BACKEND_CONNECTIONS_MAX")) as u64
    } else {
        0
    };
    let connections_max = process.client_connections(config.number("CONNECTIONS_MAX"), backend);
    let buffer_bytes_max = config.number("BUFFER_BYTES_MAX").min(process.memory / 4);
    server::Settings {
        limits: limits(config),
        connections_max: connections_max as usize,
        buffer_bytes_max: buffer_bytes_max as usize,
        idle_timeout: duration("IDLE_TIMEOUT_MS"),
        head_timeout: duration("HEAD_TIMEOUT_MS"),
        body_timeout: duration("BODY_TIMEOUT_MS"),
        write_timeout: duration("WRITE_TIMEOUT_MS"),
        drain_timeout: duration("DRAIN_TIMEOUT_MS"),
        peer_addresses: config.text("LOG_FORMAT") != "off",
        common_lines: format!("Server: {}/{}\r\n", about.name, about.version),
        served_by: (config.text("SERVED_BY") == "on").then(|| hostname.to_owned()),
    }
}

/// Has each panic logged in one line, and counted.
fn log_panics(shared: &Arc<Shared>) {
    let log = shared.log.clone();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        log.write_event("error", &format!("thread {name}: {panic}"));
    }));
}

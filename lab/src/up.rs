//! `lab up`: runs both services without containers, as `docker-compose up` runs them in containers.
//! Starts them in order, starts them again when they end, and stops both on a signal.

mod listener;
mod output;
mod service;

use std::cell::Cell;
use std::convert::Infallible;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::process::{ExitCode, ExitStatus};
use std::task::Poll;
use std::time::{Duration, Instant};

use common::cli::Kind;
use common::log::{LogFormat, LogWriter};
use common::rt::{self, Either, Shutdown, Signals};
use common::sys::{self, SIGCHLD, SIGINT, SIGTERM};
use tools::arguments::Arguments;
use tools::colour::{CYAN, Colours, GREEN, YELLOW};
use tools::signals::{both, despite_signals};
use tools::sys::SIGKILL;
use tools::verb::Failure;

use crate::programs;
use output::{LinePrefixer, Output};
use service::{Service, describe, exit_code};

pub(crate) const USAGE: &str = "\
usage: cargo lab up [--frontend-port N] [--backend-port N]
       Builds api-backend and api-frontend, then runs the backend (port 8001) and, once that is
       healthy, the frontend (port 8000). A service that ends is started again; one that ends
       before it was healthy stops both. Ctrl-C or SIGTERM stops both with exit code 0.
       Both inherit all variables (LOG_FORMAT, WORKERS, ...) except HOST and PORT.
       Names are coloured on a terminal, unless NO_COLOR is set.
";

const FRONTEND_PORT: &str = "--frontend-port";
const BACKEND_PORT: &str = "--backend-port";

/// The delay before a restart doubles from the first to the second. A service that has run for
/// `STABLE_AFTER` starts with the first again. These are Docker's numbers.
const RESTART_DELAY_MIN: Duration = Duration::from_millis(100);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(60);
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// From SIGTERM to SIGKILL. The services drain for 3 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last lines may take if stdout is not read.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs the verb.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode, Failure> {
    let options = Options::read(arguments)?;
    Ok(up(&options)?.into())
}

struct Options {
    frontend_port: u16,
    backend_port: u16,
}

impl Options {
    fn read(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options { frontend_port: 8000, backend_port: 8001 };
        let mut arguments = Arguments::new(arguments);
        while let Some(word) = arguments.next_word()? {
            let port = match word {
                FRONTEND_PORT => &mut options.frontend_port,
                BACKEND_PORT => &mut options.backend_port,
                _ => return Err(arguments.unknown("up")),
            };
            *port = arguments.parsed(Kind::PeerPort)?;
        }
        Ok(options)
    }
}

/// Runs both services until they end. Returns the exit code.
fn up(options: &Options) -> io::Result<u8> {
    programs::build()?;
    let (url, port) = ("127.0.0.1".to_owned(), options.backend_port.to_string());
    let variables = vec![("API_BACKEND_URL", url), ("API_BACKEND_PORT", port)];
    let backend_port = (BACKEND_PORT, options.backend_port);
    let backend = Service::new("api-backend", CYAN, backend_port, Vec::new())?;
    let frontend_port = (FRONTEND_PORT, options.frontend_port);
    let frontend = Service::new("api-frontend", YELLOW, frontend_port, variables)?;
    // Before the log starts its thread, which inherits the blocked signals.
    let signals = sys::signals(&[SIGTERM, SIGINT, SIGCHLD])?;
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let supervisor = Supervisor {
        backend,
        frontend,
        colours: Colours::of(&stdout),
        log: LogWriter::start(stdout, LogFormat::Text)?,
        shutdown: Shutdown::default(),
        kill_at: Cell::new(None),
        exit_code: Cell::new(0),
    };
    let result = rt::run(&supervisor.shutdown, supervisor.run(signals))?;
    let dropped = supervisor.log.dropped();
    if dropped > 0 {
        supervisor.say(&format!("{dropped} lines were dropped: stdout was not read in time"));
    }
    supervisor.log.flush(FLUSH_TIMEOUT);
    result.map(|()| supervisor.exit_code.get())
}

/// Both services, supervised by one task: each event polls the futures of both, so that a SIGCHLD
/// need not name the child.
struct Supervisor {
    backend: Service,
    frontend: Service,
    colours: Colours,
    log: LogWriter,
    /// Begins when both services are to stop.
    shutdown: Shutdown,
    /// When the services that still run are killed.
    kill_at: Cell<Option<Instant>>,
    exit_code: Cell<u8>,
}

impl Supervisor {
    /// Runs both services until both have ended.
    async fn run(&self, signals: OwnedFd) -> io::Result<()> {
        let both = pin!(self.run_both());
        let services = async {
            match rt::select(both, self.kill_when_overdue()).await {
                Either::First(()) => {}
                Either::Second(never) => match never {},
            }
        };
        let on_signal = |signal| self.on_signal(signal);
        despite_signals(&Signals::new(signals), pin!(services), on_signal).await.map(drop)
    }

    async fn run_both(&self) {
        let frontend = pin!(async {
            if self.becomes_healthy(&self.backend).await {
                both(self.keep_running(&self.frontend), self.announce()).await;
            }
            // After the frontend, whose last requests may need the backend.
            self.terminate(&self.backend);
        });
        both(pin!(self.keep_running(&self.backend)), frontend).await;
    }

    async fn announce(&self) {
        if self.becomes_healthy(&self.frontend).await {
            let (frontend, backend) = (self.frontend.port, self.backend.port);
            self.say(&format!(
                "open http://127.0.0.1:{frontend}/ (frontend) and http://127.0.0.1:{backend}/ \
                 (backend); Ctrl-C stops both"
            ));
        }
    }

    /// Waits until a service is healthy. Returns false if the shutdown begins before.
    async fn becomes_healthy(&self, service: &Service) -> bool {
        matches!(rt::select(self.shutdown.begun(), service.healthy()).await, Either::Second(()))
    }

    /// Runs a service again and again, until the shutdown begins or the service ends before it was
    /// healthy.
    async fn keep_running(&self, service: &Service) {
        let mut delay = RESTART_DELAY_MIN;
        while !self.shutdown.is_begun() {
            let began = rt::now();
            let end = self.run_once(service).await;
            if self.shutdown.is_begun() {
                return;
            }
            let (name, ended) = (service.name, describe(&end));
            if !service.has_been_healthy.get() {
                self.say(&format!("{name} failed to start: it {ended}"));
                self.say_if_in_use(service);
                self.exit_code.set(exit_code(&end));
                return self.begin_shutdown();
            }
            if rt::now().duration_since(began) >= STABLE_AFTER {
                delay = RESTART_DELAY_MIN;
            }
            let delay_ms = delay.as_millis();
            self.say(&format!("{name} {ended}; starting again in {delay_ms} ms"));
            rt::select(self.shutdown.begun(), rt::sleep_until(rt::now() + delay)).await;
            delay = RESTART_DELAY_MAX.min(delay * 2);
        }
    }

    /// Runs a service until its process ends, and copies its output to the log.
    async fn run_once(&self, service: &Service) -> io::Result<ExitStatus> {
        let (mut child, socket) = service.start()?;
        let prefixer = LinePrefixer::new(service.name, service.colour, self.colours);
        let mut output = Output::new(&self.log, socket, prefixer);
        let ended = poll_fn(|_| child.try_wait().transpose().map_or(Poll::Pending, Poll::Ready));
        let end = match rt::select(ended, output.copy()).await {
            Either::First(end) => end,
            Either::Second(never) => match never {},
        };
        service.pid.set(None);
        output.finish();
        end
    }

    fn on_signal(&self, signal: i32) {
        let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
        if self.shutdown.is_begun() {
            return self.kill(&format!("{name} again"));
        }
        self.say(&format!("{name}: stopping both; a second signal kills them"));
        self.begin_shutdown();
    }

    fn begin_shutdown(&self) {
        self.shutdown.begin();
        self.terminate(&self.frontend);
    }

    fn terminate(&self, service: &Service) {
        self.kill_at.set(Some(rt::now() + STOP_TIMEOUT));
        if let Some(pid) = service.pid.get() {
            // An error means that it has ended and is about to be waited for.
            let _ = tools::sys::send_signal(pid, SIGTERM);
        }
    }

    fn kill(&self, reason: &str) {
        self.kill_at.set(None);
        for service in [&self.backend, &self.frontend] {
            if let Some(pid) = service.pid.get() {
                self.say(&format!("{} is killed: {reason}", service.name));
                let _ = tools::sys::send_signal(pid, SIGKILL);
            }
        }
    }

    async fn kill_when_overdue(&self) -> Infallible {
        loop {
            poll_fn(|_| self.kill_at.get().map_or(Poll::Pending, rt::poll_deadline)).await;
            self.kill(&format!("it still runs after {} s", STOP_TIMEOUT.as_secs()));
        }
    }

    /// Names the next step if another process listens on the service's port.
    fn say_if_in_use(&self, service: &Service) {
        if let Some(process) = listener::describe(service.port) {
            let (port, option) = (service.port, service.port_option);
            self.say(&format!(
                "port {port} is in use by {process}: end it, or choose another port with \
                 cargo lab up {option} N"
            ));
        }
    }

    /// Prints a line of our own.
    fn say(&self, line: &str) {
        let LinePrefixer { prefix, .. } = LinePrefixer::new("lab", GREEN, self.colours);
        self.log.append(&mut format!("{prefix}{line}\n").into_bytes());
    }
}

//! `lab up`: runs both services natively, as `docker-compose up` runs them in containers.
//!
//! The lives of both are futures of one task: whatever wakes it has both looked at anew, so that
//! a SIGCHLD need not be handed on to whose child it was.

use std::cell::Cell;
use std::convert::Infallible;
use std::fs::File;
use std::future::{pending, poll_fn};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::pin::pin;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::task::Poll;
use std::time::{Duration, Instant};

use common::cli::Kind;
use common::client;
use common::http::Limits;
use common::http::client::ClientConn;
use common::log::LogWriter;
use common::rt::{self, AsyncFd, Direction, Either, Shutdown, Signals};
use common::sys::{self, SIGCHLD, SIGINT, SIGTERM};
use tools::arguments::Arguments;
use tools::colour::{CYAN, Colours, GREEN, YELLOW};
use tools::json::Value;
use tools::lines::Lines;
use tools::signals::both;
use tools::sys::SIGKILL;
use tools::verb::Failure;

pub(crate) const USAGE: &str = "\
usage: lab up [--frontend-port N] [--backend-port N]
       Runs api-backend (port 8001) and, once that is healthy, api-frontend (port 8000); under
       cargo it builds them first. A service that dies is started again; one that dies before
       it was ever healthy ends both. Ctrl-C or SIGTERM ends both, and that is exit code 0.
       Both inherit all variables (LOG_FORMAT, WORKERS, ...) except HOST and PORT.
       Names are coloured on a terminal, unless NO_COLOR is set.
";

/// Before a service is started again, doubling; and the least life after which it is short again.
/// These are Docker's own.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(60);
const LIFE_MIN: Duration = Duration::from_secs(10);
/// From SIGTERM to SIGKILL: the services drain for 3 s.
const DRAIN: Duration = Duration::from_secs(5);
/// Between two looks whether a service is healthy, and for one.
const LOOK_STEP: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_secs(1);
/// How long the last lines may take on a stuck pipe.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// A longer line is split: what a service says must not fill the memory.
const LINE_BYTES_MAX: usize = 64 << 10;
/// One read takes so much; as many empty lines with names before them still fit in the log.
const READ_BYTES_MAX: usize = 16 << 10;
/// The probes' answers are far smaller.
const LIMITS: Limits = Limits { head_bytes_max: 4 << 10, body_bytes_max: 4 << 10 };

/// The profile in which cargo built this program, and builds the services beside it.
const PROFILE: &str = if cfg!(debug_assertions) { "dev" } else { "release" };

/// The verb.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode, Failure> {
    let ports = Ports::read(arguments)?;
    Ok(up(&ports)?.into())
}

#[derive(Debug, PartialEq)]
struct Ports {
    frontend: u16,
    backend: u16,
}

impl Ports {
    fn read(arguments: &[String]) -> Result<Ports, String> {
        let mut ports = Ports { frontend: 8000, backend: 8001 };
        let mut arguments = Arguments::new(arguments);
        while let Some(word) = arguments.next_word()? {
            let port = match word {
                "--frontend-port" => &mut ports.frontend,
                "--backend-port" => &mut ports.backend,
                _ => return Err(arguments.unknown("up")),
            };
            *port = arguments.parsed(Kind::PeerPort)?;
        }
        Ok(ports)
    }
}

/// Runs both until they shall end; the exit code.
fn up(ports: &Ports) -> io::Result<u8> {
    build()?;
    let (url, port) = ("127.0.0.1".to_owned(), ports.backend.to_string());
    let variables = vec![("API_BACKEND_URL", url), ("API_BACKEND_PORT", port)];
    let backend = Service::find("api-backend", CYAN, ports.backend, Vec::new())?;
    let frontend = Service::find("api-frontend", YELLOW, ports.frontend, variables)?;
    // Before the log starts its thread: threads inherit what is blocked.
    let signals = sys::signals(&[SIGTERM, SIGINT, SIGCHLD])?;
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let lab = Lab {
        backend,
        frontend,
        colours: Colours::of(&stdout),
        log: LogWriter::start(stdout)?,
        shutdown: Shutdown::default(),
        kill_at: Cell::new(None),
        code: Cell::new(0),
    };
    let conducted = rt::run(&lab.shutdown, lab.conduct(signals))?;
    let dropped = lab.log.dropped();
    if dropped > 0 {
        lab.say(&format!("{dropped} lines were dropped: nobody read them in time"));
    }
    lab.log.flush(LAST_WORDS);
    conducted.map(|()| lab.code.get())
}

/// Builds both services, if it was cargo that started this program.
pub(crate) fn build() -> io::Result<()> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--profile", PROFILE]);
    command.args(["--package", "api-backend", "--package", "api-frontend"]);
    match tools::sys::die_with_parent(&mut command).status()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("cargo build {}", outcome(&Ok(status))))),
    }
}

/// Both services, and what they have in common.
struct Lab {
    backend: Service,
    frontend: Service,
    colours: Colours,
    log: LogWriter,
    /// Raised once both shall end; who is there still at this time then is killed.
    shutdown: Shutdown,
    kill_at: Cell<Option<Instant>>,
    code: Cell<u8>,
}

impl Lab {
    /// Runs both until both have ended.
    async fn conduct(&self, signals: OwnedFd) -> io::Result<()> {
        let signals = Signals::new(signals);
        let mut lives = pin!(self.live());
        loop {
            let rest = rt::select(lives.as_mut(), self.overdue());
            // Signals first: a child that ends after it was asked after raises another one.
            match rt::select(signals.next(), rest).await {
                Either::First(signal) => self.obey(signal?),
                Either::Second(Either::First(())) => return Ok(()),
                Either::Second(Either::Second(())) => {
                    self.kill(&format!("still there after {} s", DRAIN.as_secs()));
                }
            }
        }
    }

    async fn live(&self) {
        let frontend = async {
            if self.is_up(&self.backend).await {
                both(self.keep_up(&self.frontend), self.announce()).await;
            }
            // Last come, first to go: what the frontend still answers may need the backend.
            self.dismiss(&self.backend);
        };
        both(self.keep_up(&self.backend), frontend).await;
    }

    async fn announce(&self) {
        if self.is_up(&self.frontend).await {
            let (frontend, backend) = (self.frontend.port, self.backend.port);
            self.say(&format!(
                "open http://127.0.0.1:{frontend}/ (frontend) and http://127.0.0.1:{backend}/ \
                 (backend); Ctrl-C ends both"
            ));
        }
    }

    /// Waits for a service to come up; `false` if all shall end first.
    async fn is_up(&self, service: &Service) -> bool {
        matches!(rt::select(self.shutdown.begun(), service.healthy()).await, Either::Second(()))
    }

    /// Runs a service, again and again, until all shall end, or it ends before it came up.
    async fn keep_up(&self, service: &Service) {
        let mut wait = WAIT_MIN;
        while !self.shutdown.is_begun() {
            let began = rt::now();
            let end = self.run(service).await;
            let (name, told) = (service.name, outcome(&end));
            if self.shutdown.is_begun() {
                return;
            }
            if !service.came_up.get() {
                self.say(&format!("{name} failed to start: it {told}"));
                self.code.set(exit_code(&end));
                return self.end();
            }
            if rt::now().duration_since(began) >= LIFE_MIN {
                wait = WAIT_MIN;
            }
            let wait_ms = wait.as_millis();
            self.say(&format!("{name} {told}; starting again in {wait_ms} ms"));
            rt::select(self.shutdown.begun(), rt::sleep_until(rt::now() + wait)).await;
            wait = WAIT_MAX.min(wait * 2);
        }
    }

    /// Runs a service once, and passes on what it writes.
    async fn run(&self, service: &Service) -> io::Result<ExitStatus> {
        let (mut child, socket) = service.start()?;
        let voice = Voice::new(service.name, service.colour, self.colours);
        let mut output = Output { log: &self.log, socket, voice, bytes: vec![0; READ_BYTES_MAX] };
        let ended = poll_fn(|_| child.try_wait().transpose().map_or(Poll::Pending, Poll::Ready));
        let end = match rt::select(ended, output.follow()).await {
            Either::First(end) => end,
            Either::Second(never) => match never {},
        };
        service.pid.set(None);
        output.finish();
        end
    }

    fn obey(&self, signal: i32) {
        let name = match signal {
            SIGTERM => "SIGTERM",
            SIGINT => "SIGINT",
            // A child has ended: it is asked after as soon as this was read.
            _ => return,
        };
        if self.shutdown.is_begun() {
            return self.kill(&format!("{name} again"));
        }
        self.say(&format!("{name}: shutdown both; once more, to kill them"));
        self.end();
    }

    fn end(&self) {
        self.shutdown.begin();
        self.dismiss(&self.frontend);
    }

    fn dismiss(&self, service: &Service) {
        self.kill_at.set(Some(rt::now() + DRAIN));
        if let Some(pid) = service.pid.get() {
            // It may have ended just now; then it only waits to be waited for.
            let _ = tools::sys::send_signal(pid, SIGTERM);
        }
    }

    fn kill(&self, reason: &str) {
        self.kill_at.set(None);
        for (name, pid) in self.running() {
            self.say(&format!("{name} is killed: {reason}"));
            let _ = tools::sys::send_signal(pid, SIGKILL);
        }
    }

    /// Waits until it is time to kill, if ever.
    async fn overdue(&self) {
        poll_fn(|_| self.kill_at.get().map_or(Poll::Pending, rt::poll_deadline)).await;
    }

    /// Whoever has a process now.
    fn running(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let services = [&self.backend, &self.frontend].into_iter();
        services.filter_map(|service| Some((service.name, service.pid.get()?)))
    }

    /// Our own voice: one line.
    fn say(&self, line: &str) {
        let Voice { prefix, .. } = Voice::new("lab", GREEN, self.colours);
        self.log.append(&mut format!("{prefix}{line}\n").into_bytes());
    }
}

/// One of the services, whether it runs or not.
struct Service {
    name: &'static str,
    colour: u8,
    port: u16,
    program: PathBuf,
    variables: Vec<(&'static str, String)>,
    /// Its process, while there is one that was not waited for.
    pid: Cell<Option<u32>>,
    /// Whether it has ever been healthy.
    came_up: Cell<bool>,
}

impl Service {
    /// The service whose program lies beside this one.
    fn find(
        name: &'static str,
        colour: u8,
        port: u16,
        mut variables: Vec<(&'static str, String)>,
    ) -> io::Result<Service> {
        let program = std::env::current_exe()?.with_file_name(name);
        if !program.is_file() {
            let program = program.display();
            let line = format!("{program} is missing; cargo build --release makes it");
            return Err(io::Error::new(io::ErrorKind::NotFound, line));
        }
        variables.push(("PORT", port.to_string()));
        let (pid, came_up) = (Cell::new(None), Cell::new(false));
        Ok(Service { name, colour, port, program, variables, pid, came_up })
    }

    /// Starts its process; what that writes is read from the socket.
    fn start(&self) -> io::Result<(Child, AsyncFd<UnixStream>)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(&self.program);
        // Some shells say with HOST where they run, not where to listen.
        command.envs(self.variables.iter().cloned()).env_remove("HOST");
        command.stdin(Stdio::null());
        command.stdout(OwnedFd::from(theirs.try_clone()?)).stderr(OwnedFd::from(theirs));
        // A group of its own: the terminal's Ctrl-C is for us to pass on.
        let child = tools::sys::die_with_parent(command.process_group(0)).spawn()?;
        self.pid.set(Some(child.id()));
        Ok((child, AsyncFd::new(ours)))
    }

    /// Waits until its process answers, and is healthy.
    async fn healthy(&self) {
        loop {
            let looked = rt::timeout_at(rt::now() + LOOK, self.is_healthy()).await;
            if let Some(Ok(true)) = looked {
                return self.came_up.set(true);
            }
            rt::sleep_until(rt::now() + LOOK_STEP).await;
        }
    }

    async fn is_healthy(&self) -> io::Result<bool> {
        let Some(pid) = self.pid.get() else { return Ok(false) };
        let address = (Ipv4Addr::LOCALHOST, self.port).into();
        let (socket, _) = client::connect(&[address], rt::now() + LOOK, |_| {}).await?;
        let mut call = ClientConn::new(LIMITS);
        get(&socket, &mut call, "/healthz").await?;
        // Somebody else may be healthy there, while ours is about to find the port in use.
        let version = get(&socket, &mut call, "/version").await?;
        let version = Value::read(&version).map_err(|fault| io::Error::other(fault.to_string()))?;
        Ok(version.get("pid").and_then(Value::number) == Some(f64::from(pid)))
    }
}

/// The body that this path answers with; any status but 200 is an error.
async fn get(
    socket: &AsyncFd<TcpStream>,
    call: &mut ClientConn,
    path: &str,
) -> io::Result<Vec<u8>> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: lab\r\n\r\n");
    call.request(request.as_bytes());
    while !call.outgoing().is_empty() {
        let outgoing = call.outgoing();
        let sent = socket.io(Direction::Out, |mut socket| socket.write(outgoing)).await?;
        call.sent(sent);
    }
    let mut bytes = vec![0; 1024];
    loop {
        match call.response().map_err(|error| io::Error::other(error.to_string()))? {
            Some(answer) if answer.status == 200 => return Ok(answer.body.to_vec()),
            Some(answer) => return Err(io::Error::other(format!("status {}", answer.status))),
            None => {}
        }
        match socket.io(Direction::In, |mut socket| socket.read(&mut bytes)).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => call.receive(&bytes[..count]),
        }
    }
}

/// How a process ended, or why there is none.
fn outcome(end: &io::Result<ExitStatus>) -> String {
    match end.as_ref().map(|status| (status.code(), status.signal())) {
        Ok((Some(code), _)) => format!("ended with exit code {code}"),
        Ok((None, Some(signal))) => format!("ended with signal {signal}"),
        Ok((None, None)) => "ended".to_owned(),
        Err(error) => format!("cannot be started: {error}"),
    }
}

/// The exit code that tells of a service's failure as a shell would.
fn exit_code(end: &io::Result<ExitStatus>) -> u8 {
    let status = end.as_ref().ok();
    let code = status.and_then(|it| it.code().or(it.signal().map(|signal| 128 + signal)));
    code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code > 0).unwrap_or(1)
}

/// What one process writes, on its way to the log.
struct Output<'a> {
    log: &'a LogWriter,
    socket: AsyncFd<UnixStream>,
    voice: Voice,
    bytes: Vec<u8>,
}

impl Output<'_> {
    /// Passes on what is written, for as long as it is asked to.
    async fn follow(&mut self) -> Infallible {
        while let Ok(count @ 1..) = poll_fn(|_| self.socket.poll_read(&mut self.bytes)).await {
            self.pass_on(count);
            // Whoever never falls silent must not keep the signals from being read.
            rt::yield_now().await;
        }
        pending().await
    }

    /// Passes on the last words, which the kernel may not have announced yet.
    fn finish(mut self) {
        while let Ok(count @ 1..) = self.socket.get_ref().read(&mut self.bytes) {
            self.pass_on(count);
        }
        self.voice.finish();
        self.log.append(&mut self.voice.lines);
    }

    fn pass_on(&mut self, count: usize) {
        self.voice.take(&self.bytes[..count]);
        self.log.append(&mut self.voice.lines);
    }
}

/// Turns bytes into lines, each behind the name of whoever wrote them.
struct Voice {
    prefix: String,
    splitter: Lines,
    /// Whole lines with the name before each.
    lines: Vec<u8>,
}

impl Voice {
    fn new(name: &str, colour: u8, colours: Colours) -> Voice {
        let prefix = colours.paint(colour, &format!("{name:<12} |")) + " ";
        Voice { prefix, splitter: Lines::new(LINE_BYTES_MAX), lines: Vec::new() }
    }

    fn take(&mut self, bytes: &[u8]) {
        let Voice { prefix, splitter, lines } = self;
        splitter.receive(bytes, |line| append(lines, prefix, line));
    }

    /// Ends the last line, if it was begun.
    fn finish(&mut self) {
        let Voice { prefix, splitter, lines } = self;
        splitter.finish(|line| append(lines, prefix, line));
    }
}

fn append(lines: &mut Vec<u8>, prefix: &str, line: &[u8]) {
    lines.extend_from_slice(prefix.as_bytes());
    lines.extend_from_slice(line);
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_the_same_lines_wherever_they_are_cut() {
        let long = "x".repeat(LINE_BYTES_MAX);
        let (whole, split) = (format!("{long}\n"), format!("{long}y\n"));
        let (whole_lines, split_lines) = (
            format!("lab          | {long}\n"),
            format!("lab          | {long}\nlab          | y\n"),
        );
        for (bytes, expected) in [
            (&b""[..], &b""[..]),
            (b"\n", b"lab          | \n"),
            (b"a\n\nb\n", b"lab          | a\nlab          | \nlab          | b\n"),
            (b"no end", b"lab          | no end\n"),
            (b"\xff\0\x1b\r\n", b"lab          | \xff\0\x1b\r\n"),
            (whole.as_bytes(), whole_lines.as_bytes()),
            (split.as_bytes(), split_lines.as_bytes()),
        ] {
            for cut in (0..=bytes.len()).filter(|cut| *cut < 100 || bytes.len() - cut < 100) {
                let mut voice = Voice::new("lab", GREEN, Colours::Off);
                voice.take(&bytes[..cut]);
                voice.take(&bytes[cut..]);
                voice.finish();
                assert!(voice.lines == expected, "{} bytes, cut at {cut}", bytes.len());
            }
        }
    }

    #[test]
    fn a_name_alone_is_coloured() {
        let mut voice = Voice::new("api-backend", CYAN, Colours::On);
        voice.take(b"a\n");
        assert_eq!(voice.lines, b"\x1b[36mapi-backend  |\x1b[0m a\n");
    }
}

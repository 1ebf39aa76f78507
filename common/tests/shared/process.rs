//! The services as processes: started on a free port, spoken to, and ended by their own pid.
#![allow(dead_code)] // each test takes what it needs

use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, LONG};

/// How often to look at what tells nobody.
const LOOK: Duration = Duration::from_millis(2);

/// What stops a process, and lets it go on, on every architecture that is built for.
const SIGSTOP: i32 = 19;
const SIGCONT: i32 = 18;

/// A service that runs. Dropping it ends it.
pub(crate) struct Process {
    child: Child,
    /// Its pid; under `unshare`, that is not the child's.
    pub(crate) pid: u32,
    pub(crate) address: SocketAddr,
    /// The line that said so.
    pub(crate) greeting: String,
    /// What it writes to stdout, which is read no further than somebody asks for the next line.
    lines: Option<Receiver<String>>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Process {
        tools::sys::die_with_parent(command);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (line, lines) = mpsc::sync_channel(0);
        thread::spawn(move || {
            let mut read = BufReader::new(stdout).lines();
            while let Some(Ok(text)) = read.next()
                && line.send(text).is_ok()
            {}
        });
        let pid = child.id();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let lines = Some(lines);
        let mut process = Process { child, pid, address, greeting: String::new(), lines };
        process.greeting = process.line_with("listening on");
        let (_, rest) = process.greeting.split_once("listening on ").unwrap();
        let (address, _) = rest.split_once(", ").unwrap();
        process.address.set_port(address.parse::<SocketAddr>().unwrap().port());
        process
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// The next line of its log.
    pub(crate) fn line(&self) -> String {
        self.lines.as_ref().unwrap().recv_timeout(LONG).expect("one more line")
    }

    /// The next line that holds this.
    pub(crate) fn line_with(&self, part: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Closes the other end of its stdout.
    pub(crate) fn stop_reading(&mut self) {
        self.lines = None;
    }

    pub(crate) fn signal(&self, signal: i32) {
        tools::sys::send_signal(self.pid, signal).unwrap();
    }

    /// Stops all of its threads: what comes until it goes on, it meets at once.
    pub(crate) fn stop(&self) {
        self.signal(SIGSTOP);
        let threads = format!("/proc/{}/task", self.pid);
        let stat = |thread: io::Result<DirEntry>| {
            fs::read_to_string(thread.unwrap().path().join("stat")).unwrap()
        };
        let began = Instant::now();
        while !fs::read_dir(&threads).unwrap().map(stat).all(|stat| stat.contains(") T ")) {
            assert!(began.elapsed() < LONG, "it was not stopped");
            thread::sleep(LOOK);
        }
    }

    pub(crate) fn go_on(&self) {
        self.signal(SIGCONT);
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end: the exit code, `None` if it was killed.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        ended(&mut self.child).expect("an end").code()
    }

    /// Waits for its end: the exit code, and the lines that were not read yet.
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<String>) {
        let lines = self.lines.take().unwrap();
        let mut rest = Vec::new();
        let deadline = Instant::now() + LONG;
        while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            rest.push(line);
        }
        (self.exit_code(), rest)
    }

    /// The processor time that it has used.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        // The second field is a name in parentheses; user and system time are the 14th and 15th,
        // in hundredths of a second.
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        let ticks = rest.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    /// Every sample of its metrics.
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::read(&self.connect().ask("/metrics").body)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // `unshare` was told to take its own child along.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A page of metrics: the value of each sample by its name and labels.
pub(crate) struct Metrics(pub(crate) BTreeMap<String, String>);

impl Metrics {
    pub(crate) fn read(page: &str) -> Metrics {
        let samples = page.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.to_owned())
        });
        Metrics(samples.collect())
    }

    /// A count; 0 if it is not there.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.0.get(name).map_or(0, |count| count.parse().unwrap())
    }
}

/// Runs what is to end by itself.
pub(crate) fn run(command: &mut Command) -> Output {
    tools::sys::die_with_parent(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    if ended(&mut child).is_none() {
        child.kill().unwrap();
    }
    child.wait_with_output().unwrap()
}

/// How it ended; `None` if it does not.
fn ended(child: &mut Child) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < LONG {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(LOOK);
    }
    None
}

/// The same command, run by another.
pub(crate) fn by(runner: &[&str], command: &Command) -> Command {
    let mut whole = Command::new(runner[0]);
    whole.args(&runner[1..]).arg(command.get_program()).args(command.get_args());
    whole.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    whole.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    whole
}

/// `unshare` with these options, if it works here, and a printed reason if it does not.
pub(crate) fn unshare(options: &[&'static str]) -> Option<Vec<&'static str>> {
    let mut runner = vec!["unshare"];
    let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !root {
        runner.extend(["--user", "--map-root-user"]);
    }
    runner.extend(options);
    let tried = Command::new("unshare").args(&runner[1..]).arg("true").output();
    match tried {
        Ok(output) if output.status.success() => return Some(runner),
        Ok(output) => eprintln!("skipped: {}", String::from_utf8_lossy(&output.stderr).trim_end()),
        Err(error) => eprintln!("skipped: unshare: {error}"),
    }
    None
}

/// What runs a command in the network of a process that was started by this `unshare`.
pub(crate) fn inside<'a>(unshare: &[&str], pid: &'a str) -> Vec<&'a str> {
    let mut runner = vec!["nsenter", "--target", pid, "--net"];
    if unshare.contains(&"--user") {
        runner.extend(["--user", "--preserve-credentials"]);
    }
    runner
}

/// Ends a listener. One that is only dropped would live on for a moment in every process that
/// another test is just starting.
pub(crate) fn stop_listening(listener: TcpListener) {
    // std offers the call on streams alone; to the kernel both are sockets.
    TcpStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both).unwrap();
}

/// A port of 127.0.0.1 on which nobody listens.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    stop_listening(listener);
    port
}

/// The only child of a process.
pub(crate) fn child_of(pid: u32) -> u32 {
    let children = format!("/proc/{pid}/task/{pid}/children");
    fs::read_to_string(children).unwrap().trim().parse().unwrap()
}

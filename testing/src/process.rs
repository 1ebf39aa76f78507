//! The services as processes, started on a free port and ended by their pid.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::sys::run_as_process_1;
use crate::{POLL_INTERVAL, WAIT_MAX, wait_until};

pub const SIGSTOP: i32 = 19;
pub const SIGCONT: i32 = 18;

/// A running service. Dropping it kills it.
pub struct Process {
    child: Child,
    /// Its pid in this pid namespace.
    pub pid: u32,
    pub address: SocketAddr,
    /// The line that names the address.
    pub greeting: String,
    /// Its stdout, read no further than the test takes lines.
    lines: Option<Receiver<String>>,
}

impl Process {
    pub fn start(command: &mut Command) -> Process {
        Process::spawn(tools::sys::die_with_parent(command))
    }

    /// Starts it as process 1 of a pid namespace, in a test that runs in `namespaces`.
    pub fn start_as_process_1(command: &mut Command) -> Process {
        let mut process = Process::spawn(run_as_process_1(tools::sys::die_with_parent(command)));
        // The child waits for an only child, which is process 1.
        let parent = process.child.id();
        let children = format!("/proc/{parent}/task/{parent}/children");
        process.pid = fs::read_to_string(children).unwrap().trim().parse().unwrap();
        process
    }

    fn spawn(command: &mut Command) -> Process {
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

    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// The next line of stdout.
    pub fn line(&self) -> String {
        self.lines.as_ref().unwrap().recv_timeout(WAIT_MAX).expect("one more line")
    }

    /// The next line that contains `part`.
    pub fn line_with(&self, part: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Reads its stdout to the end; returns the number of lines that contain `part`.
    pub fn count_lines(&mut self, part: &'static str) -> JoinHandle<usize> {
        let lines = self.lines.take().unwrap();
        thread::spawn(move || lines.iter().filter(|line| line.contains(part)).count())
    }

    /// Closes the reading end of its stdout.
    pub fn close_stdout(&mut self) {
        self.lines = None;
    }

    pub fn signal(&self, signal: i32) {
        tools::sys::send_signal(self.pid, signal).unwrap();
    }

    /// Stops all its threads: all that arrives until `resume` it then finds at once.
    pub fn pause(&self) {
        self.signal(SIGSTOP);
        let threads = format!("/proc/{}/task", self.pid);
        let stat = |thread: io::Result<DirEntry>| {
            fs::read_to_string(thread.unwrap().path().join("stat")).unwrap()
        };
        wait_until("all threads are stopped", || {
            fs::read_dir(&threads).unwrap().map(stat).all(|stat| stat.contains(") T "))
        });
    }

    pub fn resume(&self) {
        self.signal(SIGCONT);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the exit code: `None` if a signal killed it.
    pub fn exit_code(&mut self) -> Option<i32> {
        exit_code(&mut self.child)
    }

    /// Waits for the exit code, and returns with it all lines that were not read.
    pub fn exit(mut self) -> (Option<i32>, Vec<String>) {
        let lines = self.lines.take().unwrap();
        let mut rest = Vec::new();
        let deadline = Instant::now() + WAIT_MAX;
        while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            rest.push(line);
        }
        (self.exit_code(), rest)
    }

    /// User and system time so far.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        // The second field is a name in parentheses; user and system time are the 14th and 15th,
        // in hundredths of a second.
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        let ticks = rest.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    /// All samples of its metrics.
    pub fn metrics(&self) -> Metrics {
        Metrics::read(&self.connect().request("/metrics").body)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of each sample by its name and labels.
pub struct Metrics(pub BTreeMap<String, String>);

impl Metrics {
    pub fn read(page: &str) -> Metrics {
        let samples = page.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.to_owned())
        });
        Metrics(samples.collect())
    }

    /// The value of a counter; 0 if it is absent.
    pub fn count(&self, name: &str) -> usize {
        self.0.get(name).map_or(0, |count| count.parse().unwrap())
    }
}

/// Runs a command that ends by itself.
pub fn run(command: &mut Command) -> Output {
    tools::sys::die_with_parent(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    if wait(&mut child).is_none() {
        child.kill().unwrap();
    }
    child.wait_with_output().unwrap()
}

/// Waits for the exit code: `None` if a signal killed it.
pub fn exit_code(child: &mut Child) -> Option<i32> {
    wait(child).expect("it ends").code()
}

/// `None` if it does not end.
fn wait(child: &mut Child) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < WAIT_MAX {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(POLL_INTERVAL);
    }
    None
}

/// A service on any free port, with two workers.
pub fn service_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs([("PORT", "0"), ("WORKERS", "2")]);
    command
}

/// A frontend with this backend.
pub fn frontend_command(program: impl AsRef<OsStr>, backend: SocketAddr) -> Command {
    let mut command = service_command(program);
    command.env("API_BACKEND_URL", backend.ip().to_string());
    command.env("API_BACKEND_PORT", backend.port().to_string());
    command
}

/// The command run by a shell script, in which `$@` stands for the program and its arguments.
pub fn run_by_shell(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &script.replace("$@", "\"$@\""), "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

/// The path of a program of this build.
pub fn program(name: &str) -> PathBuf {
    build_folder().join(name)
}

/// A folder for files of tests, below cargo's.
pub fn scratch_folder() -> PathBuf {
    let folder = build_folder().with_file_name("tmp");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Cargo puts test programs into `deps` in the folder of all other programs.
fn build_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

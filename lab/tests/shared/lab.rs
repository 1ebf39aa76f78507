//! `lab up` and `lab load` as processes, and what they are tried on.
#![allow(dead_code)] // each test takes what it needs

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use common::sys::SIGINT;
use tools::json::Value;

pub(crate) const LAB: &str = env!("CARGO_BIN_EXE_lab");
/// The end of any wait, so that a fault fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) frontend: u16,
    pub(crate) backend: u16,
}

impl Ports {
    /// Two that are free now, as the kernel says.
    pub(crate) fn free() -> Ports {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let (frontend, backend) = (listen(), listen());
        let port = |listener: &TcpListener| listener.local_addr().expect("its address").port();
        Ports { frontend: port(&frontend), backend: port(&backend) }
    }
}

/// A `lab up` that runs, and what it has printed.
pub(crate) struct Lab {
    pub(crate) child: Child,
    pub(crate) ports: Ports,
    /// Bounded: what is not taken stays in the pipe.
    pub(crate) lines: Receiver<String>,
    pub(crate) seen: Vec<String>,
}

impl Lab {
    pub(crate) fn start(ports: Ports, variables: &[(&str, &str)]) -> Lab {
        let flags = [
            format!("--frontend-port={}", ports.frontend),
            format!("--backend-port={}", ports.backend),
        ];
        let mut command = lab(LAB, variables);
        command.arg("up").args(flags).stdout(Stdio::piped());
        let mut child = command.spawn().expect("lab starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (told, lines) = mpsc::sync_channel(8);
        thread::spawn(move || {
            for line in stdout.lines() {
                if line.is_ok_and(|line| told.send(line).is_ok()) {
                    continue;
                }
                break;
            }
        });
        Lab { child, ports, lines, seen: Vec::new() }
    }

    /// Both answer.
    pub(crate) fn up(variables: &[(&str, &str)]) -> Lab {
        let mut lab = Lab::start(Ports::free(), variables);
        lab.line("lab          | open ");
        lab
    }

    /// The next line that holds this.
    pub(crate) fn line(&mut self, part: &str) -> String {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.seen.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
        panic!("no {part:?} in {:#?}", self.seen);
    }

    /// The exit code, once all that it said was taken.
    pub(crate) fn end(&mut self) -> i32 {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.seen.push(line);
        }
        code(&mut self.child)
    }

    pub(crate) fn send(&self, signal: i32) {
        tools::sys::send_signal(self.child.id(), signal).expect("lab runs");
    }

    /// The processes of the frontend and the backend, as they say themselves.
    pub(crate) fn pids(&self) -> [u32; 2] {
        [self.ports.frontend, self.ports.backend].map(|port| {
            let version = body(port, "/version");
            let (_, pid) = version.split_once("\"pid\": ").expect("a pid");
            pid.trim_end_matches("}\n").parse().expect("a number")
        })
    }

    /// The processes that have said that they listen.
    pub(crate) fn started(&self) -> Vec<u32> {
        let pid = |line: &String| line.split_once(", pid ")?.1.split(',').next()?.parse().ok();
        self.seen.iter().filter_map(pid).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `lab load` that runs.
pub(crate) struct Load(Child);

impl Load {
    pub(crate) fn start(address: SocketAddr, flags: &[&str]) -> Load {
        Load::by(&mut Command::new(LAB), address, flags)
    }

    /// The same, by a command that runs the program.
    pub(crate) fn by(command: &mut Command, address: SocketAddr, flags: &[&str]) -> Load {
        let url = format!("http://{address}/");
        command.args(["load", &url, "--json"]).args(flags).stdout(Stdio::piped());
        Load(tools::sys::die_with_parent(command).spawn().expect("lab starts"))
    }

    /// Has it end sooner.
    pub(crate) fn interrupt(&self) {
        tools::sys::send_signal(self.0.id(), SIGINT).expect("it runs");
    }

    /// Waits for its end.
    pub(crate) fn end(self) -> Loaded {
        let Output { status, stdout, .. } = self.0.wait_with_output().expect("its end");
        let code = status.code().expect("an exit code");
        Loaded { code, text: String::from_utf8(stdout).expect("UTF-8") }
    }
}

pub(crate) fn load(address: SocketAddr, flags: &[&str]) -> Loaded {
    Load::start(address, flags).end()
}

/// What a load has found.
pub(crate) struct Loaded {
    pub(crate) code: i32,
    pub(crate) text: String,
}

impl Loaded {
    /// The number at the end of this path, as it stands there.
    fn digits(&self, path: &str) -> Option<&str> {
        let mut value = Value::read(self.text.as_bytes()).expect("JSON");
        for name in path.split(' ') {
            value = value.get(name)?.clone();
        }
        match value {
            Value::Number(digits) => Some(digits),
            other => panic!("{path} is {other:?}"),
        }
    }

    /// A count; 0 if it is not there.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.digits(path).map_or(0, |digits| digits.parse().expect("a whole number"))
    }

    pub(crate) fn micros(&self, path: &str) -> f64 {
        let digits = self.digits(path).unwrap_or_else(|| panic!("{path} in {}", self.text));
        digits.parse().expect("a number")
    }
}

/// The exit code of a process that ends in time.
pub(crate) fn code(child: &mut Child) -> i32 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code().expect("an exit code");
        }
        assert!(Instant::now() < deadline, "lab does not end");
        thread::yield_now();
    }
}

/// The program as it is run without cargo, beside freshly built services.
pub(crate) fn lab(program: impl AsRef<OsStr>, variables: &[(&str, &str)]) -> Command {
    build_once();
    let mut command = Command::new(program);
    command.env_remove("CARGO").envs(variables.iter().copied()).stdin(Stdio::null());
    command
}

/// Has the services be there, as this profile makes them.
pub(crate) fn build_once() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(build);
}

/// Has cargo put the services where it has put `lab`: it builds no other package's programs for
/// a test.
fn build() {
    let directory = Path::new(LAB).parent().expect("a directory");
    let (target, profile) = (directory.parent(), directory.file_name());
    let profile = match profile.and_then(OsStr::to_str).expect("a profile") {
        "debug" => "dev",
        profile => profile,
    };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "api-backend", "--package", "api-frontend"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target.expect("a target directory"))
        .status();
    assert!(built.expect("cargo starts").success());
}

pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream
}

/// All that a GET is answered with.
pub(crate) fn get(port: u16, path: &str) -> String {
    let mut stream = connect(port);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n").expect("sent");
    read(&mut stream)
}

pub(crate) fn read(stream: &mut TcpStream) -> String {
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("an end in time");
    answers
}

/// The body of a 200.
pub(crate) fn body(port: u16, path: &str) -> String {
    let answer = get(port, path);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    body.to_owned()
}

/// Has each connection be served like this, on a thread of its own, for as long as this test runs.
pub(crate) fn serve(conduct: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let conduct = conduct.clone();
            thread::spawn(move || conduct(stream.unwrap()));
        }
    });
    address
}

/// The heads that come on a connection, until its end.
pub(crate) fn requests(stream: TcpStream) -> impl Iterator<Item = ()> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    std::iter::from_fn(move || lines.find(String::is_empty).map(drop))
}

/// Answers the first request with this, and hears out the rest.
pub(crate) fn say(mut stream: TcpStream, answer: &str) {
    let mut requests = requests(stream.try_clone().unwrap());
    if requests.next().is_some() {
        let _ = stream.write_all(answer.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        requests.for_each(drop);
    }
}

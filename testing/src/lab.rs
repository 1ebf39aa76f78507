//! `lab up` and `lab load` as processes.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use common::sys::SIGINT;
use tools::json::Value;

use crate::client::get_once;
use crate::ports::free_ports;
use crate::process::{exit_code, program};
use crate::{WAIT_MAX, at};

#[derive(Clone, Copy)]
pub struct Ports {
    pub frontend: u16,
    pub backend: u16,
}

impl Ports {
    pub fn free() -> Ports {
        let ports = free_ports(2);
        Ports { frontend: *ports.start(), backend: *ports.end() }
    }
}

/// A running `lab up`. Dropping it kills it.
pub struct Lab {
    pub child: Child,
    pub ports: Ports,
    /// Its stdout. Bounded: what the test does not take stays in the pipe.
    pub lines: Receiver<String>,
    /// The lines taken so far.
    pub seen: Vec<String>,
}

impl Lab {
    pub fn start(ports: Ports, variables: &[(&str, &str)]) -> Lab {
        let flags = [
            format!("--frontend-port={}", ports.frontend),
            format!("--backend-port={}", ports.backend),
        ];
        let mut command = lab(variables);
        command.arg("up").args(flags).stdout(Stdio::piped());
        let mut child = command.spawn().expect("lab starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::sync_channel(8);
        thread::spawn(move || {
            for line in stdout.lines() {
                if line.is_ok_and(|line| sender.send(line).is_ok()) {
                    continue;
                }
                break;
            }
        });
        Lab { child, ports, lines, seen: Vec::new() }
    }

    /// Starts it on free ports and waits until both services serve.
    pub fn up(variables: &[(&str, &str)]) -> Lab {
        let mut lab = Lab::start(Ports::free(), variables);
        lab.line("lab          | open ");
        lab
    }

    /// The next line that contains `part`.
    pub fn line(&mut self, part: &str) -> String {
        while let Ok(line) = self.lines.recv_timeout(WAIT_MAX) {
            self.seen.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
        panic!("no {part:?} in {:#?}", self.seen);
    }

    /// Takes all lines, then waits for the exit code.
    pub fn exit_code(&mut self) -> i32 {
        while let Ok(line) = self.lines.recv_timeout(WAIT_MAX) {
            self.seen.push(line);
        }
        exit_code(&mut self.child).expect("an exit code")
    }

    pub fn signal(&self, signal: i32) {
        tools::sys::send_signal(self.child.id(), signal).expect("lab runs");
    }

    /// The pids of the frontend and the backend, by their `/version`.
    pub fn pids(&self) -> [u32; 2] {
        [self.ports.frontend, self.ports.backend].map(|port| {
            let version = get_once(at(port), "/version").unwrap().ok_body();
            let (_, pid) = version.split_once("\"pid\": ").expect("a pid");
            pid.trim_end_matches("}\n").parse().expect("a number")
        })
    }

    /// The pids in the lines taken so far.
    pub fn pids_seen(&self) -> Vec<u32> {
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

/// A running `lab load`.
pub struct Load(Child);

impl Load {
    pub fn start(address: SocketAddr, flags: &[&str]) -> Load {
        let mut command = Command::new(program("lab"));
        let url = format!("http://{address}/");
        command.args(["load", &url, "--json"]).args(flags).stdout(Stdio::piped());
        Load(tools::sys::die_with_parent(&mut command).spawn().expect("lab starts"))
    }

    pub fn interrupt(&self) {
        tools::sys::send_signal(self.0.id(), SIGINT).expect("it runs");
    }

    /// Waits until it ends.
    pub fn report(self) -> LoadReport {
        let Output { status, stdout, .. } = self.0.wait_with_output().expect("its end");
        let code = status.code().expect("an exit code");
        LoadReport { code, text: String::from_utf8(stdout).expect("UTF-8") }
    }
}

pub fn load(address: SocketAddr, flags: &[&str]) -> LoadReport {
    Load::start(address, flags).report()
}

/// The JSON that `lab load` prints.
pub struct LoadReport {
    pub code: i32,
    pub text: String,
}

impl LoadReport {
    /// The digits of the number at this path of names.
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

    /// A count; 0 if it is absent.
    pub fn count(&self, path: &str) -> usize {
        self.digits(path).map_or(0, |digits| digits.parse().expect("a whole number"))
    }

    /// Failures of any other kind than this.
    pub fn failures_except(&self, word: &str) -> usize {
        self.count("failed") - self.count(&format!("failures {word}"))
    }

    pub fn micros(&self, path: &str) -> f64 {
        let digits = self.digits(path).unwrap_or_else(|| panic!("{path} in {}", self.text));
        digits.parse().expect("a number")
    }
}

/// `lab` as it runs without cargo, with services of this build in its folder.
pub fn lab(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(service_program("lab"));
    command.env_remove("CARGO").envs(variables.iter().copied()).stdin(Stdio::null());
    command
}

/// The path of a program in the folder of `lab`, once all of them are built.
pub fn service_program(name: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    BUILD.call_once(build_services);
    program(name)
}

/// Builds the services where `lab` is: for its tests, cargo builds no program of another package.
fn build_services() {
    let lab = program("lab");
    let folder = lab.parent().expect("a folder");
    let (target, profile) = (folder.parent(), folder.file_name());
    let profile = match profile.and_then(OsStr::to_str).expect("a profile") {
        "debug" => "dev",
        profile => profile,
    };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "api-backend", "--package", "api-frontend"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target.expect("a target folder"))
        .status();
    assert!(status.expect("cargo starts").success());
}

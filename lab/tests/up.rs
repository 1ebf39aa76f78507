//! `lab up` with the real programs: what it prints, what it keeps running, and what it leaves
//! behind. Everything is awaited by what `lab` and the services say.

#[path = "shared/lab.rs"]
mod lab;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::path::Path;
use std::process::{self, Output};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use common::sys::{SIGINT, SIGKILL, SIGTERM};

use lab::{LAB, Lab, PATIENCE, Ports, body, code, connect, get, lab, read};

const SIGSTOP: i32 = 19;

const BACKEND: &str = "{\"body\": \"Je suis une r\\u00e9ponse du backend\"}\n";
const FRONTEND: &str = "{\"return\": {\"body\": \"Je suis une r\\u00e9ponse du backend\"}, \"status\": \"[SUCESS]\"}\n";

#[test]
fn both_come_up_answer_through_the_chain_and_end_together() {
    let mut lab = Lab::start(Ports::free(), &[("PORT", "1"), ("HOST", "somewhere")]);
    let open = lab.line("lab          | open http://127.0.0.1:");
    let Ports { frontend, backend } = lab.ports;
    assert!(open.contains(&format!(":{frontend}/ (frontend)")), "{open}");
    assert!(open.contains(&format!(":{backend}/ (backend)")), "{open}");
    assert_eq!(body(backend, "/"), BACKEND);
    assert_eq!(body(frontend, "/"), FRONTEND);
    lab.line("api-frontend | ");

    let pids = lab.pids();
    lab.send(SIGTERM);
    lab.line("lab          | SIGTERM");
    assert_eq!(lab.end(), 0);
    assert!(!pids.into_iter().any(lives), "lab has waited for both");
    for line in &lab.seen {
        let (name, _) = line.split_once(" | ").expect("a name before each line");
        assert!(["api-backend ", "api-frontend", "lab         "].contains(&name), "{line:?}");
        assert!(!line.contains('\x1b'), "{line:?}");
    }
}

#[test]
fn a_service_that_dies_is_started_again() {
    let mut lab = Lab::up(&[]);
    let Ports { frontend, backend } = lab.ports;
    for (name, port, expected) in
        [("api-backend", backend, BACKEND), ("api-frontend", frontend, FRONTEND)]
    {
        for wait in ["100 ms", "200 ms"] {
            assert_eq!(get(port, "/traceback"), "");
            lab.line(&format!(
                "lab          | {name} ended with exit code 1; starting again in {wait}"
            ));
            lab.line(&format!("info {name} 1.0.0 listening on "));
            assert_eq!(body(port, "/"), expected);
        }
    }
    assert_eq!(body(frontend, "/"), FRONTEND);
    lab.send(SIGINT);
    assert_eq!(lab.end(), 0);
}

#[test]
fn nobody_outlives_a_killed_lab() {
    let mut lab = Lab::up(&[]);
    let pids = lab.pids();
    lab.send(SIGKILL);
    lab.child.wait().expect("its end");
    let deadline = Instant::now() + PATIENCE;
    while pids.into_iter().any(lives) {
        assert!(Instant::now() < deadline, "{pids:?} live on");
        thread::yield_now();
    }
}

#[test]
fn a_second_signal_kills_who_does_not_end() {
    let mut lab = Lab::up(&[]);
    let pids = lab.pids();
    tools::sys::send_signal(pids[1], SIGSTOP).expect("the backend runs");
    lab.send(SIGINT);
    lab.line("lab          | SIGINT");
    lab.send(SIGTERM);
    lab.line("lab          | api-backend is killed: SIGTERM again");
    assert_eq!(lab.end(), 0);
    assert!(!pids.into_iter().any(lives));
}

#[test]
fn a_port_in_use_ends_both() {
    let first = Lab::up(&[]);
    let free = Ports::free();
    for (ports, name) in [
        (Ports { backend: first.ports.backend, ..free }, "api-backend"),
        (Ports { frontend: first.ports.frontend, ..free }, "api-frontend"),
    ] {
        let mut second = Lab::start(ports, &[]);
        let reason = second.line("cannot listen on");
        assert!(reason.starts_with(&format!("{name:<12} | {name}: ")), "{reason}");
        second.line(&format!("lab          | {name} failed to start: it ended with exit code 1"));
        assert_eq!(second.end(), 1);
        assert!(!second.seen.iter().any(|line| line.contains("| open")));
        assert!(!second.started().into_iter().any(lives));
    }
    assert_eq!(body(first.ports.frontend, "/"), FRONTEND);
}

#[test]
fn a_wrong_variable_is_said_by_the_service_and_ends_all() {
    let mut lab = Lab::start(Ports::free(), &[("LOG_FORMAT", "xml")]);
    lab.line("api-backend  | api-backend: LOG_FORMAT holds \"xml\"; it takes ");
    lab.line("lab          | api-backend failed to start: it ended with exit code 2");
    assert_eq!(lab.end(), 2);
    assert_eq!(lab.seen.len(), 2, "{:?}", lab.seen);
}

#[test]
fn an_output_that_nobody_takes_holds_nothing_up() {
    for stays_open in [true, false] {
        let mut lab = Lab::up(&[]);
        let pids = lab.pids();
        if !stays_open {
            // Its reader gives up at the next line.
            lab.lines = mpsc::channel().1;
        }
        // Their log is more than the pipe and all buffers before it hold.
        let mut stream = connect(lab.ports.backend);
        let requests = "GET / HTTP/1.1\r\nHost: lab\r\n\r\n".repeat(2000);
        stream.write_all(requests.as_bytes()).expect("sent");
        stream.shutdown(Shutdown::Write).expect("ended");
        assert_eq!(read(&mut stream).matches(BACKEND).count(), 2000);
        lab.send(SIGTERM);
        assert_eq!(code(&mut lab.child), 0);
        assert!(!pids.into_iter().any(lives));
    }
}

#[test]
fn a_missing_program_is_named_and_nothing_is_started() {
    let alone = format!("{}/alone-{}", env!("CARGO_TARGET_TMPDIR"), process::id());
    let alone = Path::new(&alone);
    fs::create_dir_all(alone).expect("a directory");
    let lab = alone.join("lab");
    // A copy could not be started while another test's fork still holds it open for writing.
    fs::hard_link(LAB, &lab).expect("a link");
    let output = finished(&lab, &["up"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let program = alone.join("api-backend");
    let line = format!("lab: {} is missing; cargo build --release makes it\n", program.display());
    assert_eq!(text(&output.stderr), line);
    fs::remove_dir_all(alone).expect("removed");
}

#[test]
fn a_failed_build_starts_nothing() {
    let output = finished(LAB, &["up"], &[("CARGO", "/bin/false")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    assert_eq!(text(&output.stderr), "lab: cargo build ended with exit code 1\n");
}

#[test]
fn a_wrong_argument_is_one_line() {
    for (arguments, line) in [
        (&["down"][..], "unknown verb \"down\"; see lab --help"),
        (&["up", "--port", "1"], "unknown argument \"--port\"; see lab up --help"),
        (&["up", "now"], "unknown argument \"now\"; see lab up --help"),
        (&["up", "--backend-port"], "--backend-port needs a value: a port, 1 to 65535"),
        (&["up", "--backend-port=0"], "--backend-port holds \"0\"; it takes a port, 1 to 65535"),
        (
            &["up", "--frontend-port", "+80"],
            "--frontend-port holds \"+80\"; it takes a port, 1 to 65535",
        ),
    ] {
        let output = finished(LAB, arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        assert_eq!(text(&output.stderr), format!("lab: {line}\n"), "{arguments:?}");
    }
}

#[test]
fn whoever_asks_is_told_how_it_is_used() {
    for arguments in [&[][..], &["--help"], &["-h"], &["up", "--help"], &["up", "--x", "-h"]] {
        let output = finished(LAB, arguments, &[]);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(text(&output.stdout).starts_with("usage: lab up "), "{arguments:?}");
        assert_eq!(text(&output.stderr), "", "{arguments:?}");
    }
}

fn finished(program: impl AsRef<OsStr>, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    lab(program, variables).args(arguments).output().expect("lab starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Whether it is a process that has not ended.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Its state stands behind its name, which is in brackets.
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

//! `lab up` with the real programs: its lines, the services that it keeps running, and its end.

use std::fs;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::process::{self, Command, Output};
use std::sync::mpsc;

use common::sys::{SIGINT, SIGTERM};
use testing::client::{Client, get, get_once};
use testing::lab::{Lab, Ports, lab};
use testing::process::{SIGSTOP, exit_code, program, scratch_folder};
use testing::{BACKEND_BODY, FRONTEND_BODY, at, wait_until};
use tools::sys::SIGKILL;

#[test]
fn both_services_start_serve_and_end_together() {
    let mut lab = Lab::start(Ports::free(), &[("PORT", "1"), ("HOST", "somewhere")]);
    let open = lab.line("lab          | open http://127.0.0.1:");
    let Ports { frontend, backend } = lab.ports;
    assert!(open.contains(&format!(":{frontend}/ (frontend)")), "{open}");
    assert!(open.contains(&format!(":{backend}/ (backend)")), "{open}");
    assert_eq!(body_of(backend, "/"), BACKEND_BODY);
    assert_eq!(body_of(frontend, "/"), FRONTEND_BODY);
    lab.line("api-frontend | ");

    let pids = lab.pids();
    lab.signal(SIGTERM);
    lab.line("lab          | SIGTERM");
    assert_eq!(lab.exit_code(), 0);
    assert!(!pids.into_iter().any(lives), "lab has waited for both");
    for line in &lab.seen {
        let (name, _) = line.split_once(" | ").expect("a name before each line");
        assert!(["api-backend ", "api-frontend", "lab         "].contains(&name), "{line:?}");
        assert!(!line.contains('\x1b'), "{line:?}");
    }
}

#[test]
fn a_service_that_exits_is_started_again() {
    let mut lab = Lab::up(&[]);
    let Ports { frontend, backend } = lab.ports;
    for (name, port, expected) in
        [("api-backend", backend, BACKEND_BODY), ("api-frontend", frontend, FRONTEND_BODY)]
    {
        for wait in ["100 ms", "200 ms"] {
            let error = get_once(at(port), "/traceback").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
            lab.line(&format!(
                "lab          | {name} ended with exit code 1; starting again in {wait}"
            ));
            lab.line(&format!("info {name} 1.0.0 listening on "));
            assert_eq!(body_of(port, "/"), expected);
        }
    }
    assert_eq!(body_of(frontend, "/"), FRONTEND_BODY);
    lab.signal(SIGINT);
    assert_eq!(lab.exit_code(), 0);
}

#[test]
fn services_end_with_a_killed_lab() {
    let mut lab = Lab::up(&[]);
    let pids = lab.pids();
    lab.signal(SIGKILL);
    lab.child.wait().expect("its end");
    wait_until("both are gone", || !pids.into_iter().any(lives));
}

#[test]
fn a_second_signal_kills_services_that_do_not_end() {
    let mut lab = Lab::up(&[]);
    let pids = lab.pids();
    tools::sys::send_signal(pids[1], SIGSTOP).expect("the backend runs");
    lab.signal(SIGINT);
    lab.line("lab          | SIGINT");
    lab.signal(SIGTERM);
    lab.line("lab          | api-backend is killed: SIGTERM again");
    assert_eq!(lab.exit_code(), 0);
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
        // The process that has the port is named, and the option for another port.
        second.line(&format!("is in use by {name}, pid "));
        assert_eq!(second.exit_code(), 1);
        assert!(!second.seen.iter().any(|line| line.contains("| open")));
        assert!(!second.pids_seen().into_iter().any(lives));
    }
    assert_eq!(body_of(first.ports.frontend, "/"), FRONTEND_BODY);
}

#[test]
fn a_wrong_variable_is_reported_by_the_service_and_ends_all() {
    let mut lab = Lab::start(Ports::free(), &[("LOG_FORMAT", "xml")]);
    lab.line("api-backend  | api-backend: LOG_FORMAT holds \"xml\"; it takes ");
    lab.line("lab          | api-backend failed to start: it ended with exit code 2");
    assert_eq!(lab.exit_code(), 2);
    assert_eq!(lab.seen.len(), 2, "{:?}", lab.seen);
}

#[test]
fn an_output_without_a_reader_stalls_nothing() {
    for stays_open in [true, false] {
        let mut lab = Lab::up(&[]);
        let pids = lab.pids();
        if !stays_open {
            // Its reader gives up at the next line.
            lab.lines = mpsc::channel().1;
        }
        // Their log is more than the pipe and all buffers before it hold.
        let mut client = Client::connect(at(lab.ports.backend));
        client.send(get("/").repeat(2000));
        client.stream().shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read_to_end().matches(BACKEND_BODY).count(), 2000);
        lab.signal(SIGTERM);
        assert_eq!(exit_code(&mut lab.child), Some(0));
        assert!(!pids.into_iter().any(lives));
    }
}

#[test]
fn a_missing_program_is_named_and_nothing_is_started() {
    let alone = scratch_folder().join(format!("alone-{}", process::id()));
    fs::create_dir_all(&alone).expect("a directory");
    let lab = alone.join("lab");
    // A copy could not be started while another test's fork still holds it open for writing.
    fs::hard_link(program("lab"), &lab).expect("a link");
    let output = Command::new(&lab).arg("up").env_remove("CARGO").output().expect("lab starts");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let program = alone.join("api-backend");
    let line = format!("lab: {} is missing; cargo build --release makes it\n", program.display());
    assert_eq!(text(&output.stderr), line);
    fs::remove_dir_all(&alone).expect("removed");
}

#[test]
fn a_failed_build_starts_nothing() {
    let output = output_of(&["up"], &[("CARGO", "/bin/false")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    assert_eq!(text(&output.stderr), "lab: cargo build ended with exit code 1\n");
}

#[test]
fn a_wrong_argument_is_one_line() {
    for (arguments, line) in [
        (&["down"][..], "unknown verb \"down\"; see cargo lab help"),
        (&["up", "--port", "1"], "unknown argument \"--port\"; see cargo lab up --help"),
        (&["up", "now"], "unknown argument \"now\"; see cargo lab up --help"),
        (&["up", "--backend-port"], "--backend-port needs a value: a port, 1 to 65535"),
        (&["up", "--backend-port=0"], "--backend-port holds \"0\"; it takes a port, 1 to 65535"),
        (
            &["up", "--frontend-port", "+80"],
            "--frontend-port holds \"+80\"; it takes a port, 1 to 65535",
        ),
    ] {
        let output = output_of(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        assert_eq!(text(&output.stderr), format!("lab: {line}\n"), "{arguments:?}");
    }
}

#[test]
fn help_is_printed_on_stdout() {
    for (arguments, usage) in [
        (&[][..], "usage: cargo lab VERB "),
        (&["help"], "usage: cargo lab VERB "),
        (&["--help"], "usage: cargo lab VERB "),
        (&["-h"], "usage: cargo lab VERB "),
        (&["help", "up"], "usage: cargo lab up "),
        (&["up", "--help"], "usage: cargo lab up "),
        (&["up", "--x", "-h"], "usage: cargo lab up "),
        (&["load", "-h"], "usage: cargo lab load "),
    ] {
        let output = output_of(arguments, &[]);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(text(&output.stdout).starts_with(usage), "{arguments:?}");
        assert_eq!(text(&output.stderr), "", "{arguments:?}");
    }
}

fn output_of(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    lab(variables).args(arguments).output().expect("lab starts")
}

fn body_of(port: u16, path: &str) -> String {
    get_once(at(port), path).unwrap().ok_body()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Returns true if the process has not ended.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Its state stands behind its name, which is in brackets.
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

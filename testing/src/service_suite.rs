//! The tests that both services must pass as processes: log, signals, shortages, settings, metrics.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::cli::Kind;
use common::{service, sys};
use tools::json::Value;

use crate::client::{Client, Response, get};
use crate::namespaces;
use crate::ports::free_port;
use crate::process::{
    Metrics, Process, SIGCONT, SIGSTOP, exit_code, run, run_by_shell, scratch_folder,
};
use crate::{WAIT_MAX, at, wait_until};

/// Declares all tests of this suite for a `Service`.
#[macro_export]
macro_rules! service_suite {
    ($service:expr) => {
        $crate::service_suite! { $service =>
            first_and_last_log_lines_name_service_address_and_pid;
            sigterm_under_load_loses_no_request;
            is_not_ready_while_draining;
            drains_no_longer_than_the_drain_timeout;
            second_signal_exits_at_once;
            each_signal_drains_or_changes_nothing;
            log_file_at_its_size_limit_ends_nothing;
            requests_that_arrive_while_it_is_stopped_are_served;
            healthcheck_that_was_stopped_succeeds;
            healthcheck_succeeds_beyond_the_connection_limit;
            orphans_are_reaped;
            #[ignore = "needs namespaces"]
            listens_on_ipv4_too_if_bindv6only_is_set;
            #[ignore = "needs namespaces"]
            sigterm_reaches_process_1;
            closed_stdout_fails_no_request;
            broken_stdout_fails_no_request;
            full_stdout_pipe_stalls_no_request;
            thousands_of_idle_connections_cost_no_time;
            too_few_descriptors_break_no_connection_and_cost_no_time;
            #[ignore = "needs namespaces"]
            serves_without_ipv6;
            port_in_use_is_one_line_with_the_address;
            failed_start_is_one_line_and_exit_code_1;
            start_short_of_memory_is_one_line_and_exit_code_1;
            wrong_setting_is_one_line_and_exit_code_2;
            help_and_version_are_printed_on_stdout;
            healthcheck_reports_by_its_exit_code;
            traceback_closes_without_a_response_and_exits_with_1;
            log_line_cannot_be_forged_by_a_client;
            json_log_line_has_all_fields;
            metrics_have_their_families_and_add_up;
            settings_take_effect;
        }
    };
    ($service:expr => $($(#[$attribute:meta])* $name:ident;)*) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $name() {
                $crate::service_suite::$name(&$service);
            }
        )*
    };
}

/// The service under test.
pub struct Service {
    pub name: &'static str,
    /// Ready to be started, on any free port and with two workers.
    pub command: fn() -> Command,
}

impl Service {
    fn command(&self) -> Command {
        (self.command)()
    }

    /// A service that, if it waits for the end of its drain, outlasts its test.
    fn patient(&self) -> Command {
        let mut command = self.command();
        command.env("DRAIN_TIMEOUT_MS", "60000");
        command
    }

    /// The command exits with code 2 and one line, which contains these parts.
    pub fn rejects(&self, command: &mut Command, parts: &[&str]) {
        let output = run(command);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{parts:?}: {line}");
        assert!(line.starts_with(&format!("{}: ", self.name)), "{line}");
        assert_eq!((line.matches('\n').count(), &*output.stdout), (1, &b""[..]), "{line}");
        for part in parts {
            let is_escaped = line.contains(&part.escape_debug().to_string());
            assert!(is_escaped || line.contains(part), "{line}");
        }
    }
}

/// A request whose body lacks its last byte.
const UNFINISHED: &str = "POST /half HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx";

pub fn first_and_last_log_lines_name_service_address_and_pid(service: &Service) {
    let name = service.name;
    let process = Process::start(&mut service.command());
    let version = env!("CARGO_PKG_VERSION");
    let (pid, port) = (process.pid, process.address.port());
    assert!(process.greeting.contains(&format!("{name} {version} listening on ")));
    assert!(process.greeting.contains(&format!(":{port}, pid {pid}, 2 workers, at most ")));
    process.signal(sys::SIGINT);
    let (code, lines) = process.exit();
    assert_eq!(code, Some(0));
    let [draining, ended] = &lines[..] else { panic!("{lines:?}") };
    assert!(draining.ends_with(" info SIGINT: draining"), "{draining}");
    assert!(ended.ends_with(&format!(" info {name} {version} ended, pid {pid}")), "{ended}");
}

pub fn sigterm_under_load_loses_no_request(service: &Service) {
    const BATCH: usize = 10;
    let mut process = Process::start(&mut service.patient());
    let mut uploader = process.connect();
    let clients: Vec<_> = (0..12).map(|_| process.connect()).collect();
    let responses = AtomicUsize::new(0);
    let code = thread::scope(|scope| {
        for (number, mut client) in clients.into_iter().enumerate() {
            let responses = &responses;
            // Half of them pipeline their requests.
            let batch = if number % 2 == 0 { 1 } else { BATCH };
            scope.spawn(move || {
                loop {
                    client.send(get("/").repeat(batch));
                    let received: Vec<_> = (0..batch).map(|_| client.response()).collect();
                    assert!(received.iter().all(|response| response.status == 200), "{received:?}");
                    responses.fetch_add(batch, Ordering::Relaxed);
                    if received.iter().any(Response::is_last) {
                        return assert_eq!(client.read_to_end(), "");
                    }
                }
            });
        }
        uploader.send(UNFINISHED);
        wait_until("load", || responses.load(Ordering::Relaxed) >= 500);
        process.signal(sys::SIGTERM);
        process.line_with("draining");
        uploader.send("y");
        assert!(uploader.response().is_last());
        process.exit_code()
    });
    assert_eq!(code, Some(0));
}

pub fn is_not_ready_while_draining(service: &Service) {
    let mut process = Process::start(&mut service.command());
    let mut client = process.connect();
    client.send(UNFINISHED);
    process.signal(sys::SIGTERM);
    process.line_with("draining");
    client.send("y".to_owned() + &get("/healthz") + &get("/readyz"));
    let responses = [client.response(), client.response(), client.response()];
    assert_eq!(responses.each_ref().map(|response| response.status), [404, 200, 503]);
    assert_eq!(responses.each_ref().map(Response::is_last), [false, false, true]);
    assert!(responses[2].body.contains("draining"), "{}", responses[2].body);
    assert_eq!(process.exit_code(), Some(0));
}

pub fn drains_no_longer_than_the_drain_timeout(service: &Service) {
    let mut process = Process::start(service.command().env("DRAIN_TIMEOUT_MS", "300"));
    let mut client = process.connect();
    client.send(UNFINISHED);
    let began = Instant::now();
    process.signal(sys::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(290), "{:?}", began.elapsed());
    assert_eq!(client.read_to_end(), "");
}

pub fn second_signal_exits_at_once(service: &Service) {
    // Several times: the worker that reads signals may have no connection to drain, or begin to
    // drain before the other one has accepted any.
    for _ in 0..10 {
        let mut process = Process::start(service.command().env("DRAIN_TIMEOUT_MS", "60000"));
        let client = process.connect();
        client.send(UNFINISHED);
        process.signal(sys::SIGTERM);
        process.line_with("draining");
        process.signal(sys::SIGTERM);
        process.line_with("SIGTERM again: ending now");
        assert_eq!(process.exit_code(), Some(128 + sys::SIGTERM));
    }
}

/// Signals that a fault raises, and those that no process can block, have their default action.
pub fn each_signal_drains_or_changes_nothing(service: &Service) {
    for signal in [sys::SIGHUP, sys::SIGINT, sys::SIGQUIT, sys::SIGTERM] {
        let mut process = Process::start(&mut service.command());
        process.signal(signal);
        process.line_with(": draining");
        assert_eq!(process.exit_code(), Some(0), "signal {signal}");
    }
    let mut process = Process::start(&mut service.command());
    // SIGUSR1, SIGUSR2, SIGPIPE, SIGALRM, SIGSTKFLT, SIGCHLD, SIGCONT, SIGURG, SIGXFSZ, SIGVTALRM,
    // SIGPROF, SIGWINCH, SIGIO, SIGPWR, and the real-time signals that no C library uses.
    let meaningless = [10, 12, 13, 14, 16, 17, 18, 23, 25, 26, 27, 28, 29, 30];
    for signal in meaningless.into_iter().chain(35..=64) {
        process.signal(signal);
        assert_eq!(process.connect().request("/").status, 200, "signal {signal}");
    }
    process.signal(sys::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
}

pub fn log_file_at_its_size_limit_ends_nothing(service: &Service) {
    let address = at(free_port());
    let log = scratch_folder().join(format!("limited-{}.log", address.port()));
    // Some shells count in 512 bytes, some in 1,024.
    let script = format!("ulimit -f 1; exec $@ > {}", log.display());
    let mut command = run_by_shell(&script, &service.command());
    command.env("PORT", address.port().to_string());
    let mut child = tools::sys::die_with_parent(&mut command).spawn().unwrap();
    wait_until("a listener", || TcpStream::connect(address).is_ok());
    let mut client = Client::connect(address);
    wait_until("dropped lines", || {
        assert_eq!(client.request("/").status, 200);
        let metrics = Metrics::read(&client.request("/metrics").body);
        metrics.count("log_lines_dropped_total") > 10
    });
    assert!(fs::metadata(&log).unwrap().len() <= 1024);
    fs::remove_file(&log).unwrap();
    tools::sys::send_signal(child.id(), sys::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Bytes that arrived before the process went on count before a deadline that passed meanwhile.
pub fn requests_that_arrive_while_it_is_stopped_are_served(service: &Service) {
    const TIMEOUT: &str = "500";
    const STOPPED: Duration = Duration::from_millis(700);
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";
    let chunked =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    let twice = get("/") + &get("/version");
    let cases = [
        (get("/"), 0, vec![200]),
        (get("/"), 1, vec![200]),
        (get("/"), 10, vec![200]),
        (get("/"), get("/").len() - 1, vec![200]),
        (twice.clone(), get("/").len() + 1, vec![200, 200]),
        (post.to_owned(), post.len() - 1, vec![405]),
        (chunked.to_owned(), chunked.len() - 3, vec![405]),
    ];
    for end in [None, Some(sys::SIGTERM)] {
        let mut command = service.command();
        command.env("WORKERS", "1");
        command.env("CONNECTIONS_MAX", (cases.len() + 1).to_string());
        for timeout in ["IDLE_TIMEOUT_MS", "HEAD_TIMEOUT_MS", "BODY_TIMEOUT_MS"] {
            command.env(timeout, TIMEOUT);
        }
        let mut process = Process::start(&mut command);
        let mut used = process.connect();
        let mut clients: Vec<_> = cases.iter().map(|_| process.connect()).collect();
        for (client, (bytes, cut, _)) in clients.iter().zip(&cases) {
            client.send(&bytes[..*cut]);
        }
        // After this response, the one worker has read all of them.
        assert_eq!(used.request("/").status, 200);
        let mut over_limit = process.connect();
        if let Some(signal) = end {
            process.signal(signal);
            process.line_with("draining");
        }
        process.pause();
        for (client, (bytes, cut, _)) in clients.iter().zip(&cases) {
            client.send(&bytes[*cut..]);
        }
        used.send(get("/"));
        over_limit.send(get("/healthz"));
        thread::sleep(STOPPED);
        process.resume();
        for (client, (bytes, cut, statuses)) in clients.iter_mut().zip(&cases) {
            for status in statuses {
                assert_eq!(client.response().status, *status, "{end:?} {bytes:?} cut at {cut}");
            }
        }
        assert_eq!(used.response().status, 200, "{end:?} idle");
        if end.is_some() {
            assert_eq!(process.exit_code(), Some(0));
        } else {
            assert_eq!(over_limit.response().status, 200);
        }
    }
}

pub fn healthcheck_that_was_stopped_succeeds(service: &Service) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let mut command = service.command();
    command.arg("healthcheck").env("PORT", port.to_string());
    let mut check = tools::sys::die_with_parent(&mut command).spawn().unwrap();
    let (mut stream, _) = server.accept().unwrap();
    tools::sys::send_signal(check.id(), SIGSTOP).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    // Longer than a health check may take.
    thread::sleep(Duration::from_millis(1_200));
    tools::sys::send_signal(check.id(), SIGCONT).unwrap();
    assert_eq!(exit_code(&mut check), Some(0));
}

pub fn healthcheck_succeeds_beyond_the_connection_limit(service: &Service) {
    const MAX: usize = 8;
    let process = Process::start(service.command().env("CONNECTIONS_MAX", MAX.to_string()));
    let mut clients: Vec<_> = (0..MAX).map(|_| process.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.request("/version").status, 200);
    }
    let port = process.address.port().to_string();
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/", 503)] {
        let mut client = process.connect();
        let response = client.request(path);
        assert_eq!((response.status, response.is_last()), (status, true), "{path}");
        assert_eq!(client.read_to_end(), "");
        // A variable that a platform sets must not matter to it.
        let mut check = service.command();
        check.env("PORT", &port).env("API_BACKEND_PORT", "tcp://172.17.0.2:8001");
        let output = run(check.arg("healthcheck").env("IDLE_TIMEOUT_MS", "none"));
        assert!(output.status.success(), "{output:?}");
    }
}

pub fn orphans_are_reaped(service: &Service) {
    // The shell's children become those of the service that replaces it: one has ended by then.
    let script = "true & sleep 100 & exec $@";
    let process = Process::start(&mut run_by_shell(script, &service.command()));
    let path = format!("/proc/{0}/task/{0}/children", process.pid);
    let children = || fs::read_to_string(&path).unwrap();
    wait_until("the first is reaped", || children().split_whitespace().count() <= 1);
    let second = children().trim().parse().unwrap();
    tools::sys::send_signal(second, sys::SIGTERM).unwrap();
    wait_until("the second is reaped", || children().trim().is_empty());
    assert_eq!(process.connect().request("/").status, 200);
}

pub fn listens_on_ipv4_too_if_bindv6only_is_set(service: &Service) {
    namespaces::run(|| {
        namespaces::set_sysctl("net/ipv6/bindv6only", "1");
        let process = Process::start(&mut service.command());
        assert_eq!(process.connect().request("/").status, 200);
        let v6 = (Ipv6Addr::LOCALHOST, process.address.port()).into();
        assert_eq!(Client::connect(v6).request("/").status, 200);
    });
}

pub fn sigterm_reaches_process_1(service: &Service) {
    namespaces::run(|| {
        let process = Process::start_as_process_1(&mut service.command());
        assert!(process.greeting.contains(", pid 1 (process 1), "), "{}", process.greeting);
        let mut client = process.connect();
        let busy = process.connect();
        assert_eq!(client.request("/").status, 200);
        busy.send(UNFINISHED);
        process.signal(sys::SIGTERM);
        process.line_with("draining");
        busy.send("y");
        let (code, lines) = process.exit();
        assert_eq!(code, Some(0), "{lines:?}");
        assert!(lines.last().unwrap().ends_with(" ended, pid 1"), "{lines:?}");
    });
}

pub fn closed_stdout_fails_no_request(service: &Service) {
    let mut process = Process::start(&mut service.command());
    process.close_stdout();
    let mut client = process.connect();
    let began = Instant::now();
    while process.metrics().count("log_lines_dropped_total") == 0 {
        assert_eq!(client.request("/").status, 200);
        assert!(began.elapsed() < WAIT_MAX);
    }
    process.signal(sys::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
}

pub fn broken_stdout_fails_no_request(service: &Service) {
    // std opens a closed stdout again, as /dev/null, which takes all.
    for (to, drops) in [(">&-", false), (">/dev/full", true)] {
        let address = at(free_port());
        let mut command = run_by_shell(&format!("exec $@ {to}"), &service.command());
        command.env("PORT", address.port().to_string());
        let mut child = tools::sys::die_with_parent(&mut command).spawn().unwrap();
        wait_until("a listener", || TcpStream::connect(address).is_ok());
        let mut client = Client::connect(address);
        let status = client.request("/").status;
        let mut dropped =
            || Metrics::read(&client.request("/metrics").body).count("log_lines_dropped_total");
        // The first line and that of the request.
        let expected = if drops { 2 } else { 0 };
        wait_until("dropped lines", || dropped() == expected);
        tools::sys::send_signal(child.id(), sys::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{to}");
        assert_eq!(status, 200, "{to}");
    }
}

pub fn full_stdout_pipe_stalls_no_request(service: &Service) {
    const BATCH: usize = 500;
    let mut process = Process::start(&mut service.patient());
    let mut client = process.connect();
    let mut other = process.connect();
    let agent = "x".repeat(256);
    let request = format!("GET /version HTTP/1.1\r\nHost: a\r\nUser-Agent: {agent}\r\n\r\n");
    let mut sent = 0;
    while process.metrics().count("log_lines_dropped_total") == 0 {
        let sending = client.send_in_background(request.repeat(BATCH));
        for _ in 0..BATCH {
            assert_eq!(client.response().status, 200);
        }
        sending.join().unwrap().unwrap();
        assert_eq!(other.request("/").status, 200);
        sent += BATCH;
        assert!(sent < 100_000, "no line is dropped");
    }
    process.signal(sys::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
}

pub fn thousands_of_idle_connections_cost_no_time(service: &Service) {
    const IDLE: usize = 3_000;
    sys::raise_descriptor_limit().unwrap();
    let mut process = Process::start(&mut service.patient());
    let idle: Vec<_> = (0..IDLE).map(|_| process.connect()).collect();
    let mut working = process.connect();
    for _ in 0..200 {
        assert_eq!(working.request("/").status, 200);
    }
    let metrics = process.metrics();
    assert_eq!(metrics.count("http_connections_open"), IDLE + 2);
    let before = process.cpu_time();
    thread::sleep(Duration::from_millis(200));
    let spent = process.cpu_time().saturating_sub(before);
    assert!(spent <= Duration::from_millis(20), "{spent:?} for waiting");
    process.signal(sys::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
    for mut client in idle {
        assert_eq!(client.read_to_end(), "");
    }
}

pub fn too_few_descriptors_break_no_connection_and_cost_no_time(service: &Service) {
    let mut process =
        Process::start(&mut run_by_shell("ulimit -n 64; exec $@", &service.command()));
    let mut first = process.connect();
    assert_eq!(first.request("/").status, 200);
    // Three quarters of the descriptors are not for clients; one client is connected.
    let mut clients: Vec<_> = (0..200).map(|_| process.connect()).collect();
    for client in &clients {
        client.send(get("/version"));
    }
    let before = process.cpu_time();
    thread::sleep(Duration::from_millis(400));
    let spent = process.cpu_time().saturating_sub(before);
    assert!(spent <= Duration::from_millis(100), "{spent:?} for clients that cannot be served");
    assert_eq!(first.request("/").status, 200);
    let mut statuses = Vec::new();
    for client in &mut clients {
        if !client.is_silent() {
            statuses.push(client.response().status);
        }
    }
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!((1..64).contains(&served) && statuses.len() > served, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    drop(clients);
    wait_until("it serves again", || status_of_new_client(&process) == Some(200));
    assert_eq!(first.request("/").status, 200);
    assert!(process.is_running());
    process.signal(sys::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
}

/// The status that a new client receives, if any.
fn status_of_new_client(process: &Process) -> Option<u16> {
    let client = process.connect();
    client.send(get("/version"));
    let mut line = [0; 12];
    let mut stream = client.stream();
    match stream.read_exact(&mut line) {
        Ok(()) => std::str::from_utf8(&line).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok(),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("{error}"),
    }
}

pub fn serves_without_ipv6(service: &Service) {
    namespaces::run(|| {
        fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let process = Process::start(&mut service.command());
        let port = process.address.port().to_string();
        let output = run(service.command().arg("healthcheck").env("PORT", port));
        assert!(output.status.success(), "{output:?}");
        process.signal(sys::SIGTERM);
        assert_eq!(process.exit().0, Some(0));
    });
}

pub fn port_in_use_is_one_line_with_the_address(service: &Service) {
    let name = service.name;
    let process = Process::start(&mut service.command());
    let port = process.address.port();
    for host in ["::", "0.0.0.0", "127.0.0.1"] {
        let output = run(service.command().env("HOST", host).env("PORT", port.to_string()));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let line = String::from_utf8(output.stderr).unwrap();
        let address = if host == "::" { "[::]" } else { host };
        assert!(
            line.starts_with(&format!("{name}: cannot listen on {address}:{port}: ")),
            "{line}"
        );
        assert_eq!((line.matches('\n').count(), &*output.stdout), (1, &b""[..]), "{line}");
    }
}

pub fn failed_start_is_one_line_and_exit_code_1(service: &Service) {
    let name = service.name;
    let mut command = run_by_shell("ulimit -n 100; exec $@", &service.command());
    let output = run(command.args(["--workers", "256"]));
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{line}");
    assert!(line.starts_with(&format!("{name}: ")) && line.contains("os error 24"), "{line}");
    assert_eq!(line.matches('\n').count(), 1, "{line}");
}

/// At any limit, it starts and serves, or says in one line that memory or threads are short.
pub fn start_short_of_memory_is_one_line_and_exit_code_1(service: &Service) {
    for limit_kib in (10_000..100_000).step_by(7_500) {
        let script = format!("ulimit -v {limit_kib}; exec timeout -s TERM 1 $@");
        let output = run(run_by_shell(&script, &service.command()).args(["--workers", "64"]));
        let [stdout, line] =
            [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
        if stdout.contains("listening on") {
            // `timeout` ends it.
            assert_eq!((output.status.code(), &*line), (Some(124), ""), "{limit_kib} KiB");
            continue;
        }
        assert_eq!((output.status.code(), &*stdout), (Some(1), ""), "{limit_kib} KiB: {line}");
        assert!(line.starts_with(&format!("{}: ", service.name)), "{limit_kib} KiB: {line}");
        assert_eq!(line.matches('\n').count(), 1, "{limit_kib} KiB: {line}");
    }
}

pub fn wrong_setting_is_one_line_and_exit_code_2(service: &Service) {
    for setting in service::settings("1") {
        let wrong: &[&str] = match setting.kind {
            Kind::Address => &["localhost", "127.0.0.1:80"],
            Kind::Port | Kind::PeerPort => &["65536", "+80", "http"],
            Kind::Number(0, _) => &["-1", "1e3", "18446744073709551616"],
            Kind::Number(..) => &["0", "1.5", "99999999999"],
            Kind::Word(_) | Kind::Host => &["TEXT", "a\nb"],
        };
        let flag = format!("--{}", setting.variable.to_lowercase().replace('_', "-"));
        for value in wrong {
            service.rejects(
                service.command().env(setting.variable, value),
                &[setting.variable, value],
            );
            service.rejects(service.command().args([&flag, *value]), &[&flag, value]);
        }
        service.rejects(service.command().arg(&flag), &[&flag, "needs a value"]);
    }
    service.rejects(service.command().arg("--colour"), &["unknown argument \"--colour\""]);
    service.rejects(service.command().arg("start"), &["unknown argument \"start\""]);
}

pub fn help_and_version_are_printed_on_stdout(service: &Service) {
    let name = service.name;
    let help = run(service.command().arg("--help"));
    assert_eq!((help.status.code(), &*help.stderr), (Some(0), &b""[..]));
    let page = String::from_utf8(help.stdout).unwrap();
    for setting in service::settings("1") {
        let flag = format!("--{}", setting.variable.to_lowercase().replace('_', "-"));
        assert!(page.contains(&format!("{}, {flag}\n", setting.variable)), "{page}");
    }
    let version = run(service.command().arg("--version"));
    assert_eq!(version.status.code(), Some(0));
    let line = format!("{name} {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(version.stdout).unwrap(), line);
}

pub fn healthcheck_reports_by_its_exit_code(service: &Service) {
    let name = service.name;
    let check = |port: u16| {
        let began = Instant::now();
        let output = run(service.command().arg("healthcheck").env("PORT", port.to_string()));
        assert!(began.elapsed() < WAIT_MAX, "{:?}", began.elapsed());
        assert_eq!(&*output.stdout, b"");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let mut process = Process::start(&mut service.command());
    let port = process.address.port();
    assert_eq!(check(port), (Some(0), String::new()));
    process.signal(sys::SIGTERM);
    process.exit_code();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for port in [port, silent.local_addr().unwrap().port()] {
        let (code, line) = check(port);
        assert_eq!(code, Some(1), "{line}");
        assert!(line.starts_with(&format!("{name}: http://127.0.0.1:{port}/healthz: ")), "{line}");
        assert_eq!(line.matches('\n').count(), 1, "{line}");
    }
}

pub fn traceback_closes_without_a_response_and_exits_with_1(service: &Service) {
    // With one worker, the lines are in order.
    let process = Process::start(service.command().env("WORKERS", "1"));
    let mut client = process.connect();
    for method in ["HEAD", "POST", "DELETE"] {
        client.send(format!("{method} /traceback HTTP/1.1\r\nHost: a\r\n\r\n"));
        let head = client.response_head();
        assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
        assert!(head.contains("\r\nAllow: GET, OPTIONS\r\n"), "{head}");
        client = process.connect();
    }
    // The percent-encoded path is the same one.
    client.send(get("/%74raceback"));
    let mut stream = client.stream();
    let mut response = Vec::new();
    let end = stream.read_to_end(&mut response).map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    assert_eq!(response, b"");
    let (code, lines) = process.exit();
    assert_eq!(code, Some(1));
    let [.., head, post, delete, last] = &lines[..] else { panic!("{lines:?}") };
    for line in [head, post, delete] {
        assert!(line.contains(" /traceback 405 "), "{line}");
    }
    assert!(last.contains(" error GET /traceback from 127.0.0.1:"), "{last}");
    assert!(last.ends_with(": ending with exit code 1"), "{last}");
    assert_eq!(lines.len(), 4, "{lines:?}");
}

/// Method, path and status of a log line.
type Logged = (&'static str, &'static str, u16);

/// Requests, and the log line of each that is no probe.
const LOGGED_REQUESTS: [(&str, Option<Logged>); 10] = [
    ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(("GET", "/", 200))),
    ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", None),
    ("GET /readyz?x HTTP/1.1\r\nHost: a\r\n\r\n", None),
    ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", None),
    ("POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", None),
    ("GET /version?a=b HTTP/1.1\r\nHost: a\r\nUser-Agent:\r\n\r\n", Some(("GET", "/version", 200))),
    (
        "GET /%0d%0a1970-01-01T00:00:00.000Z%20%22\\u0022 HTTP/1.1\r\nHost: a\r\n\r\n",
        // A backslash cannot stand in a path.
        Some(("-", "-", 400)),
    ),
    (
        "GET /%0d%0a1970-01-01T00:00:00.000Z%20%22%5cx22 HTTP/1.1\r\nHost: a\r\nUser-Agent: \"\t\\ \
         \u{e9}\u{202e} 200 \"\r\n\r\n",
        Some(("GET", "/\r\n1970-01-01T00:00:00.000Z \"\\x22", 404)),
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", Some(("POST", "/", 405))),
    ("FROB / HTTP/1.1\r\nHost: a\r\n\r\n", Some(("FROB", "/", 501))),
];

fn log_lines(service: &Service, format: &str) -> Vec<String> {
    let process = Process::start(service.command().env("LOG_FORMAT", format));
    for (request, _) in LOGGED_REQUESTS {
        let mut client = process.connect();
        client.send(request);
        client.response();
    }
    process.signal(sys::SIGTERM);
    let (code, mut lines) = process.exit();
    assert_eq!(code, Some(0));
    let last = lines.pop().unwrap();
    assert!(last.contains("ended"), "{last}");
    // Lines of another worker may come after it.
    let draining = lines.iter().position(|line| line.contains("SIGTERM: draining")).unwrap();
    lines.remove(draining);
    lines
}

pub fn log_line_cannot_be_forged_by_a_client(service: &Service) {
    let lines = log_lines(service, "text");
    let logged: Vec<_> = LOGGED_REQUESTS.iter().filter_map(|(_, logged)| *logged).collect();
    assert_eq!(lines.len(), logged.len(), "{lines:#?}");
    // Lines of different workers come in any order.
    for (method, path, status) in logged {
        let path: String = path
            .chars()
            .map(|char| match char {
                '\r' | '\n' | ' ' | '"' | '\\' => format!("\\x{:02x}", u32::from(char)),
                _ => char.to_string(),
            })
            .collect();
        let part = format!(" {method} {path} {status} ");
        let found: Vec<_> = lines.iter().filter(|line| line.contains(&part)).collect();
        assert_eq!(found.len(), 1, "{part:?} in {lines:#?}");
    }
    for line in &lines {
        assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line}");
        let fields: Vec<_> = line.splitn(8, ' ').collect();
        let [time, peer, _, _, _, bytes, milliseconds, agent] = fields[..] else {
            panic!("{line}")
        };
        assert!(time.starts_with("20") && time.ends_with('Z') && time.len() == 24, "{line}");
        assert!(peer.starts_with("127.0.0.1:"), "{line}");
        assert!(bytes.parse::<u64>().is_ok(), "{line}");
        assert!(milliseconds.parse::<f64>().is_ok(), "{line}");
        let forged = "\"\\x22\\x09\\x5c \\xc3\\xa9\\xe2\\x80\\xae 200 \\x22\"";
        assert!(["-", "\"\"", forged].contains(&agent), "{line}");
    }
}

pub fn json_log_line_has_all_fields(service: &Service) {
    let lines = log_lines(service, "json");
    let mut found: Vec<_> = lines
        .iter()
        .map(|line| {
            let value = Value::read(line.as_bytes()).unwrap();
            for name in ["time", "peer"] {
                assert!(value.get(name).unwrap().text().is_some(), "{line}");
            }
            for name in ["bytes", "milliseconds"] {
                assert!(value.get(name).unwrap().number().is_some(), "{line}");
            }
            assert!(value.get("user_agent").is_some(), "{line}");
            let word = |name| value.get(name).unwrap().text().unwrap().into_owned();
            (word("method"), word("path"), value.get("status").unwrap().number().unwrap())
        })
        .collect();
    let mut logged: Vec<_> = LOGGED_REQUESTS
        .iter()
        .filter_map(|(_, logged)| *logged)
        .map(|(method, path, status)| (method.to_owned(), path.to_owned(), f64::from(status)))
        .collect();
    found.sort_by(|a, b| a.partial_cmp(b).unwrap());
    logged.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert_eq!(found, logged);
}

pub fn metrics_have_their_families_and_add_up(service: &Service) {
    let name = service.name;
    let process = Process::start(&mut service.command());
    for (request, _) in LOGGED_REQUESTS {
        let mut client = process.connect();
        client.send(request);
        client.response();
    }
    let mut client = process.connect();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.response_head();
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.response().status, 400);
    let page = process.connect().request("/metrics");
    assert!(page.head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));

    let mut families = Vec::new();
    for line in page.body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            families.push(rest.split_once(' ').unwrap());
        } else if !line.starts_with('#') {
            let (family, kind) = families.last().unwrap();
            let suffix = line.strip_prefix(family).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(kind == &"counter", family.ends_with("_total"), "{line}");
            assert!(suffix.starts_with(['{', ' ', '_']), "{line}");
        }
    }
    for (family, _) in &families {
        assert_eq!(families.iter().filter(|(other, _)| other == family).count(), 1, "{family}");
        assert_eq!(page.body.matches(&format!("# HELP {family} ")).count(), 1, "{family}");
    }
    for family in [
        "http_requests_total",
        "http_request_duration_seconds",
        "http_connections_open",
        "http_connections_accepted_total",
        "http_connections_refused_total",
        "http_accept_errors_total",
        "http_refusals_total",
        "log_lines_dropped_total",
        "panics_total",
        "process_start_time_seconds",
        "process_resident_memory_bytes",
        "process_open_fds",
        "build_info",
    ] {
        assert!(families.iter().any(|(found, _)| *found == family), "{family}");
    }

    let metrics = Metrics::read(&page.body);
    let requests = |route, status| {
        metrics.count(&format!("http_requests_total{{route=\"{route}\",status=\"{status}\"}}"))
    };
    for (route, status, count) in [
        ("/", 200, 2),
        ("/", 405, 1),
        ("/", 501, 1),
        ("/healthz", 200, 1),
        ("/healthz", 405, 1),
        ("/readyz", 200, 1),
        ("/metrics", 200, 1),
        ("/version", 200, 1),
        ("other", 404, 1),
        ("other", 400, 2),
    ] {
        assert_eq!(requests(route, status), count, "{route} {status}\n{}", page.body);
    }
    let names = metrics.0.keys().filter(|name| name.starts_with("http_requests_total{"));
    let all: usize = names.map(|name| metrics.count(name)).sum();
    assert_eq!(all, LOGGED_REQUESTS.len() + 2);
    // Requests for `/` alone.
    for name in ["count", "bucket{le=\"+Inf\"}"] {
        assert_eq!(metrics.count(&format!("http_request_duration_seconds_{name}")), 4, "{name}");
    }
    assert_eq!(metrics.count("http_refusals_total{reason=\"target\"}"), 1);
    assert_eq!(metrics.count("http_refusals_total{reason=\"host\"}"), 1);
    assert_eq!(metrics.count("http_connections_accepted_total"), LOGGED_REQUESTS.len() + 2);
    assert!(metrics.count("process_resident_memory_bytes") > 100_000);
    let build = format!("build_info{{name=\"{name}\",version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(metrics.count(&build), 1);
}

pub fn settings_take_effect(service: &Service) {
    let process = Process::start(service.command().args(["--head-bytes-max", "300"]).envs([
        ("BODY_BYTES_MAX", "10"),
        ("IDLE_TIMEOUT_MS", "100"),
        ("HEAD_TIMEOUT_MS", "100"),
        ("BODY_TIMEOUT_MS", "100"),
        ("CONNECTIONS_MAX", "3"),
        ("HOST", "127.0.0.1"),
    ]));
    assert!(process.greeting.contains(" listening on 127.0.0.1:"), "{}", process.greeting);
    assert!(process.greeting.ends_with(", at most 3 connections"), "{}", process.greeting);
    for (request, status) in [
        (get(&format!("/{}", "a".repeat(300))), 414),
        (get("/").replace("\r\n\r\n", &format!("\r\nA: {}\r\n\r\n", "a".repeat(300))), 431),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n".to_owned(), 413),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n".to_owned(), 408),
        ("GET /".to_owned(), 408),
    ] {
        let mut client = process.connect();
        client.send(&request);
        let response = client.response();
        assert_eq!(response.status, status, "{request}");
        let value = Value::read(response.body.as_bytes()).unwrap();
        assert_eq!(value.get("status").unwrap().text().unwrap(), "[ERROR]");
    }
    assert_eq!(process.connect().read_to_end(), "");
}

//! What an operator may expect of either service. The test that includes this file says which, by
//! `crate::command()`: ready to be started, on any free port.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::cli::Kind;
use common::{service, sys};
use tools::json::Value;

use crate::client::{Client, Heard, LONG, get};
use crate::process::{Metrics, Process, by, child_of, free_port, inside, run, unshare};
use crate::{NAME, command};

/// A request that is under way until its body's last byte is sent.
const HALF: &str = "POST /half HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx";

#[test]
fn its_first_and_last_lines_say_who_listened_where() {
    let process = Process::start(&mut command());
    let version = env!("CARGO_PKG_VERSION");
    let (pid, port) = (process.pid, process.address.port());
    assert!(process.greeting.contains(&format!("{NAME} {version} listening on ")));
    assert!(process.greeting.contains(&format!(":{port}, pid {pid}, 2 workers, at most ")));
    process.signal(sys::SIGINT);
    let (code, lines) = process.end();
    assert_eq!(code, Some(0));
    let [draining, ended] = &lines[..] else { panic!("{lines:?}") };
    assert!(draining.ends_with(" info SIGINT: draining"), "{draining}");
    assert!(ended.ends_with(&format!(" info {NAME} {version} ended, pid {pid}")), "{ended}");
}

#[test]
fn sigterm_under_load_loses_no_request() {
    const BATCH: usize = 10;
    let mut process = Process::start(&mut command());
    let mut uploader = process.connect();
    let clients: Vec<_> = (0..12).map(|_| process.connect()).collect();
    let answered = AtomicUsize::new(0);
    let (took, code) = thread::scope(|scope| {
        for (number, mut client) in clients.into_iter().enumerate() {
            let answered = &answered;
            // Some ask one thing at a time, some several.
            let asked = if number % 2 == 0 { 1 } else { BATCH };
            scope.spawn(move || {
                loop {
                    client.say(get("/").repeat(asked));
                    let answers: Vec<_> = (0..asked).map(|_| client.answer()).collect();
                    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
                    answered.fetch_add(asked, Ordering::Relaxed);
                    if answers.iter().any(Heard::closes) {
                        return assert_eq!(client.rest(), "");
                    }
                }
            });
        }
        uploader.say(HALF);
        let began = Instant::now();
        while answered.load(Ordering::Relaxed) < 500 && began.elapsed() < LONG {
            thread::yield_now();
        }
        process.signal(sys::SIGTERM);
        let began = Instant::now();
        process.line_with("draining");
        uploader.say("y");
        assert!(uploader.answer().closes());
        let code = process.exit_code();
        (began.elapsed(), code)
    });
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn while_it_drains_it_is_not_ready() {
    let mut process = Process::start(&mut command());
    let mut client = process.connect();
    client.say(HALF);
    process.signal(sys::SIGTERM);
    process.line_with("draining");
    client.say("y".to_owned() + &get("/healthz") + &get("/readyz"));
    let answers = [client.answer(), client.answer(), client.answer()];
    assert_eq!(answers.each_ref().map(|answer| answer.status), [404, 200, 503]);
    assert_eq!(answers.each_ref().map(Heard::closes), [false, false, true]);
    assert!(answers[2].body.contains("draining"), "{}", answers[2].body);
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn the_drain_time_is_the_longest_that_an_end_takes() {
    let mut process = Process::start(command().env("DRAIN_TIMEOUT_MS", "300"));
    let mut client = process.connect();
    client.say(HALF);
    let began = Instant::now();
    process.signal(sys::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
    let took = began.elapsed();
    assert!((Duration::from_millis(290)..Duration::from_secs(2)).contains(&took), "{took:?}");
    assert_eq!(client.rest(), "");
}

#[test]
fn a_second_signal_ends_it_now() {
    // Several times: the worker that heeds signals may have nothing to wait for itself, or see
    // the end before the other one has accepted anything.
    for _ in 0..10 {
        let mut process = Process::start(command().env("DRAIN_TIMEOUT_MS", "60000"));
        let client = process.connect();
        client.say(HALF);
        process.signal(sys::SIGTERM);
        process.line_with("draining");
        process.signal(sys::SIGTERM);
        process.line_with("SIGTERM again: ending now");
        assert_eq!(process.exit_code(), Some(128 + sys::SIGTERM));
    }
}

#[test]
fn sigterm_reaches_process_1() {
    let Some(unshare) = unshare(&["--pid", "--fork", "--kill-child", "--mount-proc"]) else {
        return;
    };
    let mut process = Process::start(&mut by(&unshare, &command()));
    process.pid = child_of(process.pid);
    assert!(process.greeting.contains(", pid 1 (process 1), "), "{}", process.greeting);
    let mut client = process.connect();
    let busy = process.connect();
    assert_eq!(client.ask("/").status, 200);
    busy.say(HALF);
    process.signal(sys::SIGTERM);
    process.line_with("draining");
    busy.say("y");
    let (code, lines) = process.end();
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(lines.last().unwrap().ends_with(" ended, pid 1"), "{lines:?}");
}

#[test]
fn a_closed_stdout_harms_nobody() {
    let mut process = Process::start(&mut command());
    process.stop_reading();
    let mut client = process.connect();
    let began = Instant::now();
    while process.metrics().count("log_lines_dropped_total") == 0 {
        assert_eq!(client.ask("/").status, 200);
        assert!(began.elapsed() < LONG);
    }
    process.signal(sys::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn a_stdout_that_takes_nothing_harms_nobody() {
    // std opens what is closed anew, as /dev/null, which takes all.
    for (to, drops) in [(">&-", false), (">/dev/full", true)] {
        let free = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let redirected = format!("exec \"$0\" \"$@\" {to}");
        let mut command = by(&["sh", "-c", &redirected], &command());
        command.env("PORT", free.port().to_string());
        let mut child = tools::sys::die_with_parent(&mut command).spawn().unwrap();
        let began = Instant::now();
        while TcpStream::connect(free).is_err() && began.elapsed() < LONG {
            thread::sleep(Duration::from_millis(2));
        }
        let mut client = Client::connect(free);
        let status = client.ask("/").status;
        let mut dropped =
            || Metrics::read(&client.ask("/metrics").body).count("log_lines_dropped_total");
        while drops && dropped() < 2 && began.elapsed() < LONG {
            thread::sleep(Duration::from_millis(2));
        }
        let dropped = dropped();
        tools::sys::send_signal(child.id(), sys::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{to}");
        // The first line and the request's.
        assert_eq!((status, dropped), (200, if drops { 2 } else { 0 }), "{to}");
    }
}

#[test]
fn a_full_pipe_as_stdout_stalls_nobody() {
    const BATCH: usize = 500;
    let mut process = Process::start(&mut command());
    let mut client = process.connect();
    let mut other = process.connect();
    let agent = "x".repeat(256);
    let request = format!("GET /version HTTP/1.1\r\nHost: a\r\nUser-Agent: {agent}\r\n\r\n");
    let mut asked = 0;
    while process.metrics().count("log_lines_dropped_total") == 0 {
        let asking = client.say_aside(request.repeat(BATCH));
        for _ in 0..BATCH {
            assert_eq!(client.answer().status, 200);
        }
        asking.join().unwrap().unwrap();
        assert_eq!(other.ask("/").status, 200);
        asked += BATCH;
        assert!(asked < 100_000, "the log takes all");
    }
    let began = Instant::now();
    process.signal(sys::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn thousands_of_idle_connections_leave_a_working_one_alone() {
    const IDLE: usize = 3_000;
    sys::raise_open_files().unwrap();
    let mut process = Process::start(&mut command());
    let idle: Vec<_> = (0..IDLE).map(|_| process.connect()).collect();
    let mut working = process.connect();
    for _ in 0..200 {
        assert_eq!(working.ask("/").status, 200);
    }
    let metrics = process.metrics();
    assert_eq!(metrics.count("http_connections_open"), IDLE + 2);
    let before = process.processor_time();
    thread::sleep(Duration::from_millis(200));
    let spent = process.processor_time().saturating_sub(before);
    assert!(spent <= Duration::from_millis(20), "{spent:?} for waiting");
    let began = Instant::now();
    process.signal(sys::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    for mut client in idle {
        assert_eq!(client.rest(), "");
    }
}

#[test]
fn too_few_descriptors_kill_nobody_and_cost_no_time() {
    let mut process =
        Process::start(&mut by(&["sh", "-c", "ulimit -n 64; exec \"$0\" \"$@\""], &command()));
    let mut first = process.connect();
    assert_eq!(first.ask("/").status, 200);
    // Three quarters of them are not for clients; one client has been let in.
    let mut clients: Vec<_> = (0..200).map(|_| process.connect()).collect();
    for client in &clients {
        client.say(get("/healthz"));
    }
    let before = process.processor_time();
    thread::sleep(Duration::from_millis(400));
    let spent = process.processor_time().saturating_sub(before);
    assert!(spent <= Duration::from_millis(100), "{spent:?} for clients that cannot be served");
    assert_eq!(first.ask("/").status, 200);
    let mut told = Vec::new();
    for client in &mut clients {
        if !client.is_silent() {
            told.push(client.answer().status);
        }
    }
    let served = told.iter().filter(|status| **status == 200).count();
    assert!((1..=15).contains(&served) && told.len() > served, "{told:?}");
    assert!(told.iter().all(|status| matches!(status, 200 | 503)), "{told:?}");
    drop(clients);
    let began = Instant::now();
    while served_anew(&process) != Some(200) {
        assert!(began.elapsed() < LONG, "it does not recover");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(first.ask("/").status, 200);
    assert!(process.is_running());
    process.signal(sys::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
}

/// The status that a new client is told, if any.
fn served_anew(process: &Process) -> Option<u16> {
    let client = process.connect();
    client.say(get("/healthz"));
    let mut line = [0; 12];
    let mut stream = client.stream();
    match stream.read_exact(&mut line) {
        Ok(()) => std::str::from_utf8(&line).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok(),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn it_serves_where_ipv6_is_off() {
    let Some(unshare) = unshare(&["--net"]) else { return };
    let off = "ip link set lo up && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
    let prepare = format!("{off} && exec \"$0\" \"$@\"");
    let mut runner = unshare.clone();
    runner.extend(["sh", "-c"]);
    let possible = Command::new("unshare").args(&runner[1..]).args([&prepare, "true"]).output();
    if !possible.as_ref().is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: IPv6 cannot be switched off here: {possible:?}");
    }
    runner.push(&prepare);
    let process = Process::start(&mut by(&runner, &command()));
    let (pid, port) = (process.pid.to_string(), process.address.port().to_string());
    let asked = run(by(&inside(&unshare, &pid), &command()).arg("healthcheck").env("PORT", port));
    assert!(asked.status.success(), "{asked:?}");
    process.signal(sys::SIGTERM);
    assert_eq!(process.end().0, Some(0));
}

#[test]
fn a_port_in_use_is_one_line_that_names_the_address() {
    let process = Process::start(&mut command());
    let port = process.address.port();
    for host in ["::", "0.0.0.0", "127.0.0.1"] {
        let ended = run(command().env("HOST", host).env("PORT", port.to_string()));
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        let line = String::from_utf8(ended.stderr).unwrap();
        let address = if host == "::" { "[::]" } else { host };
        assert!(
            line.starts_with(&format!("{NAME}: cannot listen on {address}:{port}: ")),
            "{line}"
        );
        assert_eq!((line.matches('\n').count(), &*ended.stdout), (1, &b""[..]), "{line}");
    }
}

#[test]
fn a_start_that_fails_half_way_is_one_line_and_leaves_nothing_running() {
    for (limit, reason) in [("-n 100", "os error 24"), ("-v 150000", "os error 11")] {
        let limited = format!("ulimit {limit}; exec \"$0\" \"$@\"");
        let ended = run(by(&["sh", "-c", &limited], &command()).args(["--workers", "256"]));
        let line = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{limit}: {line}");
        assert!(line.starts_with(&format!("{NAME}: ")) && line.contains(reason), "{line}");
        assert_eq!(line.matches('\n').count(), 1, "{line}");
    }
}

#[test]
fn a_wrong_setting_is_one_line_and_exit_code_2() {
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
            wrongly(command().env(setting.variable, value), &[setting.variable, value]);
            wrongly(command().args([&flag, *value]), &[&flag, value]);
        }
        wrongly(command().arg(&flag), &[&flag, "needs a value"]);
    }
    wrongly(command().arg("--colour"), &["\"--colour\" is not known here"]);
    wrongly(command().arg("start"), &["\"start\" is not known here"]);
}

/// The command ends with a line that has these parts.
pub(crate) fn wrongly(command: &mut Command, parts: &[&str]) {
    let ended = run(command);
    let line = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "{parts:?}: {line}");
    assert!(line.starts_with(&format!("{NAME}: ")), "{line}");
    assert_eq!((line.matches('\n').count(), &*ended.stdout), (1, &b""[..]), "{line}");
    for part in parts {
        assert!(line.contains(&part.escape_debug().to_string()) || line.contains(part), "{line}");
    }
}

#[test]
fn help_and_version_are_printed_on_stdout() {
    let help = run(command().arg("--help"));
    assert_eq!((help.status.code(), &*help.stderr), (Some(0), &b""[..]));
    let page = String::from_utf8(help.stdout).unwrap();
    for setting in service::settings("1") {
        let flag = format!("--{}", setting.variable.to_lowercase().replace('_', "-"));
        assert!(page.contains(&format!("{}, {flag}\n", setting.variable)), "{page}");
    }
    let version = run(command().arg("--version"));
    assert_eq!(version.status.code(), Some(0));
    let line = format!("{NAME} {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(version.stdout).unwrap(), line);
}

#[test]
fn a_healthcheck_tells_by_its_exit_code() {
    let check = |port: u16| {
        let began = Instant::now();
        let ended = run(command().arg("healthcheck").env("PORT", port.to_string()));
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert_eq!(&*ended.stdout, b"");
        (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
    };
    let mut process = Process::start(&mut command());
    let port = process.address.port();
    assert_eq!(check(port), (Some(0), String::new()));
    process.signal(sys::SIGTERM);
    process.exit_code();
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    for port in [port, deaf.local_addr().unwrap().port()] {
        let (code, line) = check(port);
        assert_eq!(code, Some(1), "{line}");
        assert!(line.starts_with(&format!("{NAME}: http://127.0.0.1:{port}/healthz: ")), "{line}");
        assert_eq!(line.matches('\n').count(), 1, "{line}");
    }
}

#[test]
fn a_traceback_is_an_empty_reply_one_line_and_exit_code_1() {
    // With one worker, the lines are in order.
    let process = Process::start(command().env("WORKERS", "1"));
    let mut client = process.connect();
    for method in ["HEAD", "POST", "DELETE"] {
        client.say(format!("{method} /traceback HTTP/1.1\r\nHost: a\r\n\r\n"));
        let head = client.head();
        assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
        assert!(head.contains("\r\nAllow: GET, OPTIONS\r\n"), "{head}");
        client = process.connect();
    }
    // A percent-encoded path is the same path.
    client.say(get("/%74raceback"));
    let mut stream = client.stream();
    let mut reply = Vec::new();
    let end = stream.read_to_end(&mut reply).map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    assert_eq!(reply, b"");
    let (code, lines) = process.end();
    assert_eq!(code, Some(1));
    let [.., head, post, delete, last] = &lines[..] else { panic!("{lines:?}") };
    for line in [head, post, delete] {
        assert!(line.contains(" /traceback 405 "), "{line}");
    }
    assert!(last.contains(" error GET /traceback from 127.0.0.1:"), "{last}");
    assert!(last.ends_with(": ending with exit code 1"), "{last}");
    assert_eq!(lines.len(), 4, "{lines:?}");
}

/// Method, path and status.
type Logged = (&'static str, &'static str, u16);

/// Requests, and what should stand in the log of each that is no probe.
const SPOKEN: [(&str, Option<Logged>); 10] = [
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

fn lines_after_speaking(format: &str) -> Vec<String> {
    let process = Process::start(command().env("LOG_FORMAT", format));
    for (speech, _) in SPOKEN {
        let mut client = process.connect();
        client.say(speech);
        client.answer();
    }
    process.signal(sys::SIGTERM);
    let (code, mut lines) = process.end();
    assert_eq!(code, Some(0));
    let last = lines.pop().unwrap();
    assert!(last.contains("ended"), "{last}");
    // Another worker's lines may come after it.
    let draining = lines.iter().position(|line| line.contains("SIGTERM: draining")).unwrap();
    lines.remove(draining);
    lines
}

#[test]
fn a_request_is_one_line_that_no_client_can_forge() {
    let lines = lines_after_speaking("text");
    let logged: Vec<_> = SPOKEN.iter().filter_map(|(_, logged)| *logged).collect();
    assert_eq!(lines.len(), logged.len(), "{lines:#?}");
    // Workers hand their lines over one after the other.
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

#[test]
fn a_json_line_has_the_same_fields() {
    let lines = lines_after_speaking("json");
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
    let mut logged: Vec<_> = SPOKEN
        .iter()
        .filter_map(|(_, logged)| *logged)
        .map(|(method, path, status)| (method.to_owned(), path.to_owned(), f64::from(status)))
        .collect();
    found.sort_by(|a, b| a.partial_cmp(b).unwrap());
    logged.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert_eq!(found, logged);
}

#[test]
fn metrics_have_their_families_and_add_up() {
    let process = Process::start(&mut command());
    for (speech, _) in SPOKEN {
        let mut client = process.connect();
        client.say(speech);
        client.answer();
    }
    let mut client = process.connect();
    client.say("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head();
    client.say("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.answer().status, 400);
    let page = process.connect().ask("/metrics");
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
    assert_eq!(all, SPOKEN.len() + 2);
    assert_eq!(metrics.count("http_request_duration_seconds_count"), all);
    assert_eq!(metrics.count("http_request_duration_seconds_bucket{le=\"+Inf\"}"), all);
    assert_eq!(metrics.count("http_refusals_total{reason=\"target\"}"), 1);
    assert_eq!(metrics.count("http_refusals_total{reason=\"host\"}"), 1);
    assert_eq!(metrics.count("http_connections_accepted_total"), SPOKEN.len() + 2);
    assert!(metrics.count("process_resident_memory_bytes") > 100_000);
    let build = format!("build_info{{name=\"{NAME}\",version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(metrics.count(&build), 1);
}

#[test]
fn settings_are_heeded() {
    let process = Process::start(command().args(["--head-bytes-max", "300"]).envs([
        ("BODY_BYTES_MAX", "10"),
        ("IDLE_TIMEOUT_MS", "100"),
        ("HEAD_TIMEOUT_MS", "100"),
        ("BODY_TIMEOUT_MS", "100"),
        ("CONNECTIONS_MAX", "3"),
        ("HOST", "127.0.0.1"),
    ]));
    assert!(process.greeting.contains(" listening on 127.0.0.1:"), "{}", process.greeting);
    assert!(process.greeting.ends_with(", at most 3 connections"), "{}", process.greeting);
    for (speech, status) in [
        (get(&format!("/{}", "a".repeat(300))), 414),
        (get("/").replace("\r\n\r\n", &format!("\r\nA: {}\r\n\r\n", "a".repeat(300))), 431),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n".to_owned(), 413),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n".to_owned(), 408),
        ("GET /".to_owned(), 408),
    ] {
        let mut client = process.connect();
        client.say(&speech);
        let answer = client.answer();
        assert_eq!(answer.status, status, "{speech}");
        let value = Value::read(answer.body.as_bytes()).unwrap();
        assert_eq!(value.get("status").unwrap().text().unwrap(), "[ERROR]");
    }
    assert_eq!(process.connect().rest(), "");
}

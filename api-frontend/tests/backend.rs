//! The frontend as a process, with fake backends that fail in every way or are slow.

use std::io::{ErrorKind, Read};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::sys;
use testing::backend::{After, Backend, Connection};
use testing::client::{Client, Response, get};
use testing::ports::free_port;
use testing::process::{Process, frontend_command, run_by_shell};
use testing::{WAIT_MAX, at};
use tools::json::Value;

/// A good response of some backend, and of api-backend, whose requests are pipelined.
const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"a\":[1,2]}";
const GOOD_PIPELINED: &str =
    "HTTP/1.1 200 OK\r\nServer: api-backend/1.0.0\r\nContent-Length: 11\r\n\r\n{\"a\":[1,2]}";
/// The body that the frontend makes of either.
const WRAPPED: &str = "{\"return\": {\"a\": [1, 2]}, \"status\": \"[SUCESS]\"}\n";
/// `BACKEND_TIMEOUT_MS` of a frontend that is to time out.
const TIMEOUT: Duration = Duration::from_secs(1);

fn command_for(backend: u16) -> Command {
    frontend_command(env!("CARGO_BIN_EXE_api-frontend"), at(backend))
}

fn with_timeout(command: &mut Command) -> &mut Command {
    command.env("BACKEND_TIMEOUT_MS", TIMEOUT.as_millis().to_string())
}

/// All faults of a backend: its bytes, the status of the frontend and a word of its message.
const FAULTS: &[(&str, After, u16, &str)] = &[
    ("", After::Close, 502, "PROTOCOL"),
    ("\0\x01\x02garbage\n", After::Silence, 502, "PROTOCOL"),
    ("SSH-2.0-OpenSSH_9.6\r\n\r\n", After::Silence, 502, "PROTOCOL"),
    ("HTTP/2.0 200 OK\r\n\r\n", After::Silence, 502, "PROTOCOL"),
    ("HTTP/1.1 099 No\r\n\r\n", After::Silence, 502, "PROTOCOL"),
    ("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", After::Silence, 502, "PROTOCOL"),
    ("HTTP/1.1 200 OK\r\nContent-Le", After::Close, 502, "PROTOCOL"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\"", After::Close, 502, "PROTOCOL"),
    ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}", After::Silence, 502, "PROTOCOL"),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        After::Silence,
        502,
        "PROTOCOL",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        After::Close,
        502,
        "PROTOCOL",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        After::Silence,
        502,
        "PROTOCOL",
    ),
    ("HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 2\r\n\r\n{}", After::Silence, 502, "PROTOCOL"),
    ("HTTP/1.1 100 Continue\r\n\r\n", After::Endless("HTTP/1.1 100 C\r\n\r\n"), 502, "PROTOCOL"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n{", After::Silence, 502, "TOO_LARGE"),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        After::Endless(
            "40\r\n0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n",
        ),
        502,
        "TOO_LARGE",
    ),
    ("HTTP/1.0 200 OK\r\n\r\n[", After::Endless("[],"), 502, "TOO_LARGE"),
    ("HTTP/1.1 200 OK\r\n", After::Endless("A: b\r\n"), 502, "TOO_LARGE"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", After::Next, 502, "JSON"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{\"a\":", After::Next, 502, "JSON"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", After::Next, 502, "JSON"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{}{}", After::Next, 502, "JSON"),
    ("", After::Silence, 504, "TIMEOUT"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", After::Silence, 504, "TIMEOUT"),
    ("HTTP/1.1 200 OK\r\nA: ", After::Trickle("b"), 504, "TIMEOUT"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n[", After::Trickle(" "), 504, "TIMEOUT"),
    ("HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno", After::Next, 502, "API 500"),
    ("HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n", After::Next, 502, "API 404"),
    ("HTTP/1.1 204 No Content\r\n\r\n", After::Next, 502, "API 204"),
    ("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", After::Close, 502, "API 302"),
    ("HTTP/1.0 503\r\n\r\nbusy", After::Close, 502, "API 503"),
];

#[test]
fn every_fault_of_the_backend_has_its_status_and_word() {
    let fault = Arc::new(Mutex::new(None));
    let script = Arc::clone(&fault);
    let backend = Backend::start(move |connection| {
        while connection.request() {
            assert!(connection.head.starts_with("GET / HTTP/1.1\r\nHost: "), "{}", connection.head);
            let Some((bytes, after)) = *script.lock().unwrap() else {
                connection.send(GOOD);
                continue;
            };
            if connection.send(bytes) && after != After::Next {
                return connection.go_on(after);
            }
        }
    });
    let mut process = Process::start(with_timeout(&mut command_for(backend.port())));
    let (mut client, mut prober) = (process.connect(), process.connect());
    for &(bytes, after, status, word) in FAULTS {
        *fault.lock().unwrap() = Some((bytes, after));
        let began = Instant::now();
        let response = client.request("/");
        let took = began.elapsed();
        let case = format!("{bytes:?}, {after:?}: {response:?}, {took:?}");
        assert_eq!(response.status, status, "{case}");
        assert!(message(&response).starts_with("GET / on backend API"), "{case}");
        assert!(message(&response).contains(word), "{case}");
        assert!(took >= TIMEOUT || status != 504, "{case}");
        assert_eq!(prober.request("/healthz").status, 200, "{case}");

        *fault.lock().unwrap() = None;
        assert_eq!(client.request("/").body, WRAPPED, "after {case}");
    }
    assert!(process.is_running());
    let metrics = process.metrics();
    let requests = |word| metrics.count(&format!("backend_calls_total{{outcome=\"{word}\"}}"));
    assert_eq!(requests("OK"), FAULTS.len());
    for known in ["PROTOCOL", "TOO_LARGE", "JSON", "TIMEOUT"] {
        let expected = FAULTS.iter().filter(|(_, _, _, word)| *word == known).count();
        assert_eq!(requests(known), expected, "{known}");
    }
    assert_eq!(requests("STATUS"), 5);
}

#[test]
fn deep_json_is_rejected_and_odd_json_is_written_as_python_does() {
    let (deep, fits) = ("[".repeat(100_000), "[".repeat(64) + &"]".repeat(64));
    for (json, wrapped) in [
        (&*deep, None),
        (&*fits, Some(&*fits)),
        ("\"\u{e9}\u{1f980}\\/\\ud800\"", Some("\"\\u00e9\\ud83e\\udd80/\\ud800\"")),
        ("[1.0E5,-0,12345678901234567890]", Some("[1.0E5, -0, 12345678901234567890]")),
        ("{\"a\":1,\"a\":{}}\r\n", Some("{\"a\": 1, \"a\": {}}")),
        ("null", Some("null")),
        ("{\"a\":1}, \"status\": \"[SUCESS]\"", None),
    ] {
        let length = json.len();
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{json}");
        let backend = Backend::start(move |connection| while connection.respond(&response) {});
        let process = Process::start(&mut command_for(backend.port()));
        let response = process.connect().request("/");
        match wrapped {
            Some(wrapped) => {
                let whole = format!("{{\"return\": {wrapped}, \"status\": \"[SUCESS]\"}}\n");
                assert_eq!((response.status, response.body), (200, whole));
            }
            None => {
                assert_eq!(response.status, 502, "{json:.40}");
                assert!(message(&response).contains("JSON"), "{json:.40}: {response:?}");
            }
        }
    }
}

#[test]
fn a_backend_may_close_after_each_response_or_frame_it_in_any_way() {
    for (bytes, then) in [
        ("HTTP/1.0 200 OK\r\n\r\n{\"a\":[1,2]}", After::Close),
        ("HTTP/1.0 200 OK\r\nContent-Length: 11\r\n\r\n{\"a\":[1,2]}", After::Close),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"a\":[1,2]}", After::Close),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 11\r\n\r\n{\"a\":[1,2]}",
            After::Close,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"a\":[1,2]}", After::Next),
        (
            "HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n4;x=\"y\"\r\n{\"a\"\r\n\
             007\r\n:[1,2]}\r\n0\r\nT: u\r\n\r\n",
            After::Next,
        ),
        (
            "HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n\
             {\"a\":[1,2]}",
            After::Next,
        ),
    ] {
        let backend = Backend::start(
            move |connection| while connection.respond(bytes) && then != After::Close {},
        );
        let process = Process::start(&mut command_for(backend.port()));
        let results = statuses(&process, 8, 5);
        assert!(results.iter().all(|status| *status == 200), "{bytes:?}: {results:?}");
        if then == After::Close {
            assert_eq!(backend.connections(), 40, "{bytes:?}");
        }
    }
}

/// The side that closes first cannot use the port again for a minute: the frontend would run out of
/// ports.
#[test]
fn a_backend_that_will_close_may_close_first_and_no_client_waits_for_it() {
    let last = GOOD.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    for (response, reuse) in [(&*last, "on"), (GOOD, "off")] {
        let (sender, received) = mpsc::channel();
        let (sender, response) = (Mutex::new(sender), response.to_owned());
        let backend = Backend::start(move |connection| {
            connection.respond(&response);
            let mut stream = connection.reader.get_ref();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let read = stream.read(&mut [0]).map_err(|error| error.kind());
            sender.lock().unwrap().send(read).unwrap();
        });
        let process = Process::start(command_for(backend.port()).env("BACKEND_REUSE", reuse));
        let began = Instant::now();
        assert_eq!(statuses(&process, 4, 20), [200; 80]);
        // It waits for 1 s.
        assert!(began.elapsed() < WAIT_MAX / 2, "{:?}", began.elapsed());
        for _ in 0..80 {
            assert_eq!(
                received.recv_timeout(WAIT_MAX).unwrap(),
                Err(ErrorKind::WouldBlock),
                "{reuse}"
            );
        }
    }
}

#[test]
fn a_backend_that_is_down_or_unknown_is_a_502_with_the_reason() {
    let long = "a".repeat(64);
    for (host, word) in [("127.0.0.1", "REFUSED"), ("::1", "REFUSED"), (&*long, "DNS")] {
        let process = Process::start(command_for(free_port()).env("API_BACKEND_URL", host));
        let mut client = process.connect();
        let response = client.request("/");
        assert_eq!(response.status, 502, "{host}");
        assert!(message(&response).contains(word), "{host}: {response:?}");
        let response = client.request("/readyz");
        assert_eq!(response.status, 503, "{host}");
        assert!(message(&response).contains(word), "{host}: {response:?}");
        assert_eq!(client.request("/healthz").status, 200, "{host}");
    }
}

#[test]
fn a_backend_that_comes_back_is_found_within_a_second() {
    let serve = |connection: &mut Connection| while connection.respond(GOOD) {};
    let mut backend = Backend::start(serve);
    let address = backend.address;
    let process = Process::start(&mut command_for(address.port()));
    let mut client = process.connect();
    let version = client.request("/version").body;
    assert_eq!((client.request("/").status, client.request("/readyz").status), (200, 200));
    for _ in 0..3 {
        drop(backend);
        let response = client.request("/");
        assert_eq!(response.status, 502);
        assert!(message(&response).contains("REFUSED"), "{response:?}");
        assert_eq!(
            (client.request("/readyz").status, client.request("/healthz").status),
            (503, 200)
        );
        backend = Backend::listen(address, serve);
        assert_eq!(client.request("/").body, WRAPPED);
        assert_eq!(client.request("/readyz").status, 200);
    }
    assert_eq!(client.request("/version").body, version);
}

#[test]
fn requests_to_api_backend_share_few_connections() {
    // On a busy machine even this backend may seem to stall, and then gets more.
    let mut fewest = usize::MAX;
    for _ in 0..10 {
        let backend = Backend::start(|connection| while connection.respond(GOOD_PIPELINED) {});
        let process = Process::start(command_for(backend.port()).env("WORKERS", "1"));
        // The first response tells that the backend takes pipelined requests.
        assert_eq!(process.connect().request("/").status, 200);
        assert_eq!(statuses(&process, 32, 20), [200; 32 * 20]);
        let (connections, metrics) = (backend.connections(), process.metrics());
        assert_eq!(metrics.count("backend_connections_opened_total"), connections);
        assert_eq!(metrics.count("backend_calls_total{outcome=\"OK\"}"), 1 + 32 * 20);
        fewest = fewest.min(connections);
        if fewest <= 8 {
            return;
        }
    }
    panic!("at least {fewest} connections for 32 clients");
}

#[test]
fn requests_to_any_other_backend_are_never_pipelined() {
    let pipelined = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&pipelined);
    let backend = Backend::start(move |connection| {
        while connection.request() {
            // The next request must not arrive before this response.
            thread::sleep(Duration::from_millis(1));
            let stream = connection.reader.get_ref();
            stream.set_nonblocking(true).unwrap();
            let has_more = stream.peek(&mut [0]).is_ok_and(|count| count > 0);
            stream.set_nonblocking(false).unwrap();
            if has_more || !connection.reader.buffer().is_empty() {
                seen.store(true, Ordering::Relaxed);
            }
            connection.send(GOOD);
        }
    });
    let process = Process::start(command_for(backend.port()).env("WORKERS", "1"));
    assert_eq!(statuses(&process, 32, 10), [200; 32 * 10]);
    assert!(!pipelined.load(Ordering::Relaxed));
    assert!(backend.connections() <= 32, "{}", backend.connections());
}

#[test]
fn reuse_can_be_switched_off() {
    let closing = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&closing);
    let backend = Backend::start(move |connection| {
        while connection.request() {
            counted.fetch_add(
                usize::from(connection.head.contains("\r\nConnection: close\r\n")),
                Ordering::Relaxed,
            );
            connection.send(GOOD);
        }
    });
    let process = Process::start(command_for(backend.port()).args(["--backend-reuse", "off"]));
    let results = statuses(&process, 4, 5);
    assert!(results.iter().all(|status| *status == 200));
    assert_eq!((backend.connections(), closing.load(Ordering::Relaxed)), (20, 20));
}

#[test]
fn a_kept_connection_that_the_backend_closes_fails_no_request() {
    // Silently while idle; or just when the next request is on its way.
    for responses in [1, 2] {
        let (close, closed) = mpsc::channel();
        let close = Mutex::new(close);
        let backend = Backend::start(move |connection| {
            if connection.respond(GOOD) && (responses == 1 || connection.request()) {
                connection.close();
                let _ = close.lock().unwrap().send(());
            }
        });
        let process = Process::start(command_for(backend.port()).env("WORKERS", "1"));
        let mut client = process.connect();
        for _ in 0..10 {
            let response = client.request("/");
            assert_eq!(response.body, WRAPPED);
            if responses == 1 {
                closed.recv_timeout(WAIT_MAX).unwrap();
            }
        }
        assert_eq!(backend.connections(), 10);
    }
}

#[test]
fn an_unexpected_response_is_not_taken_for_the_next_one() {
    // One response too many, or the 408 of a server that closes an idle connection.
    let surplus = GOOD.replace("[1,2]", "[3,4]");
    let timeout = "HTTP/1.1 408 \r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned();
    for unexpected in [surplus, timeout] {
        let turn = Arc::new(Barrier::new(2));
        let (taken, connections) = (Arc::clone(&turn), AtomicUsize::new(0));
        let backend = Backend::start(move |connection| {
            let first = connections.fetch_add(1, Ordering::Relaxed) == 0;
            while connection.respond(GOOD) {
                if first {
                    taken.wait();
                    connection.send(&unexpected);
                    taken.wait();
                }
            }
        });
        let process = Process::start(command_for(backend.port()).env("WORKERS", "1"));
        let mut client = process.connect();
        assert_eq!(client.request("/").body, WRAPPED);
        process.pause();
        client.send(get("/"));
        turn.wait();
        turn.wait();
        process.resume();
        assert_eq!(client.response().body, WRAPPED);
        assert_eq!(backend.connections(), 2);
    }
}

#[test]
fn a_response_that_arrives_while_it_is_stopped_comes_before_the_timeout() {
    let turn = Arc::new(Barrier::new(2));
    let taken = Arc::clone(&turn);
    let backend = Backend::start(move |connection| {
        while connection.request() {
            taken.wait();
            taken.wait();
            connection.send(GOOD);
            taken.wait();
        }
    });
    let process = Process::start(command_for(backend.port()).env("BACKEND_TIMEOUT_MS", "1000"));
    let mut client = process.connect();
    client.send(get("/"));
    turn.wait();
    process.pause();
    turn.wait();
    turn.wait();
    // Longer than the timeout.
    thread::sleep(Duration::from_millis(1_200));
    process.resume();
    assert_eq!(client.response().body, WRAPPED);
}

#[test]
fn a_pipeline_that_breaks_is_sent_again_and_fails_no_request() {
    let broken = Arc::new(AtomicBool::new(false));
    let breaking = Arc::clone(&broken);
    let backend = Backend::start(move |connection| {
        while connection.request() {
            // Once, with several requests that get no response.
            let waiting =
                connection.reader.buffer().windows(4).filter(|end| end == b"\r\n\r\n").count();
            if waiting >= 3 && !breaking.swap(true, Ordering::Relaxed) {
                return connection.close();
            }
            connection.send(GOOD_PIPELINED);
        }
    });
    let process = Process::start(command_for(backend.port()).env("WORKERS", "1"));
    let results = statuses(&process, 32, 20);
    assert!(broken.load(Ordering::Relaxed), "nothing was pipelined");
    assert_eq!(results.iter().filter(|status| **status != 200).count(), 0);
}

#[test]
fn a_backend_that_closes_after_some_responses_fails_no_request() {
    // With `Connection: close`, as nginx does after so many requests, and without.
    for line in ["Connection: close\r\n", ""] {
        let last = GOOD.replacen("\r\n", &format!("\r\n{line}"), 1);
        let backend = Backend::start(move |connection| {
            if (0..9).all(|_| connection.respond(GOOD)) {
                connection.respond(&last);
            }
        });
        let process = Process::start(command_for(backend.port()).env("WORKERS", "1"));
        let results = statuses(&process, 32, 20);
        let failed = results.iter().filter(|status| **status != 200).count();
        assert_eq!(failed, 0, "{line:?}");
    }
}

#[test]
fn if_all_kept_connections_are_stale_a_new_one_is_tried() {
    let stale = Arc::new(AtomicBool::new(false));
    let (old, all) = (Arc::clone(&stale), Barrier::new(4));
    let backend = Backend::start(move |connection| {
        let is_old = !old.load(Ordering::Relaxed);
        while connection.request() {
            if is_old && old.load(Ordering::Relaxed) {
                return connection.close();
            }
            if is_old {
                all.wait();
            }
            connection.send(GOOD);
        }
    });
    let process = Process::start(command_for(backend.port()).env("WORKERS", "1"));
    assert_eq!(statuses(&process, 4, 1), [200; 4]);
    stale.store(true, Ordering::Relaxed);
    assert_eq!(process.connect().request("/").status, 200);
}

/// A frontend, its quick backend that will not respond to the next request, and an event when that
/// request has arrived.
fn about_to_be_stuck() -> (Process, Backend, mpsc::Receiver<()>) {
    let stuck = Arc::new(AtomicBool::new(false));
    let sticking = Arc::clone(&stuck);
    let (sender, received) = mpsc::channel();
    let sender = Mutex::new(sender);
    let backend = Backend::start(move |connection| {
        while connection.request() {
            if sticking.swap(false, Ordering::Relaxed) {
                sender.lock().unwrap().send(()).unwrap();
                connection.go_on(After::Silence);
            }
            connection.send(GOOD_PIPELINED);
        }
    });
    let mut command = command_for(backend.port());
    let process = Process::start(with_timeout(command.env("WORKERS", "1")));
    let results = statuses(&process, 8, 20);
    assert!(results.iter().all(|status| *status == 200), "{results:?}");
    stuck.store(true, Ordering::Relaxed);
    (process, backend, received)
}

#[test]
fn requests_behind_a_slow_response_wait_no_longer_than_for_their_own() {
    let (process, _backend, stuck) = about_to_be_stuck();
    let mut first = process.connect();
    let mut others: Vec<_> = (0..30).map(|_| process.connect()).collect();
    first.send(get("/"));
    stuck.recv_timeout(WAIT_MAX).unwrap();
    let began = Instant::now();
    for other in &others {
        other.send(get("/"));
    }
    for other in &mut others {
        let response = other.response();
        assert!(matches!(response.status, 200 | 504), "{response:?}");
    }
    assert!(began.elapsed() < TIMEOUT * 15, "{:?}", began.elapsed());
    assert_eq!(first.response().status, 504);
}

#[test]
fn later_requests_do_not_wait_behind_a_slow_response() {
    let (process, _backend, stuck) = about_to_be_stuck();
    let (mut first, mut other) = (process.connect(), process.connect());
    first.send(get("/"));
    stuck.recv_timeout(WAIT_MAX).unwrap();
    // Now the connection counts as stalled.
    thread::sleep(Duration::from_millis(30));
    for _ in 0..20 {
        assert_eq!(other.request("/").status, 200);
    }
    assert!(first.is_silent());
    assert_eq!(first.response().status, 504);
}

#[test]
fn requests_under_way_are_awaited_at_the_end() {
    let (sender, received) = mpsc::channel();
    let go_on = Arc::new(Barrier::new(4));
    let (sender, going) = (Mutex::new(sender), Arc::clone(&go_on));
    let backend = Backend::start(move |connection| {
        while connection.request() {
            sender.lock().unwrap().send(()).unwrap();
            going.wait();
            connection.send(GOOD);
        }
    });
    let mut process = Process::start(&mut command_for(backend.port()));
    let mut clients: Vec<_> = (0..3).map(|_| process.connect()).collect();
    for client in &clients {
        client.send(get("/"));
        received.recv_timeout(WAIT_MAX).unwrap();
    }
    process.signal(sys::SIGTERM);
    process.line_with("draining");
    go_on.wait();
    for client in &mut clients {
        let response = client.response();
        assert_eq!(response.body, WRAPPED);
        assert!(response.is_last(), "{response:?}");
    }
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn a_backend_that_never_responds_delays_no_end() {
    let backend = Backend::start(|connection| {
        connection.request();
        connection.go_on(After::Silence);
    });
    let mut process = Process::start(with_timeout(&mut command_for(backend.port())));
    let mut client = process.connect();
    client.send(get("/"));
    process.signal(sys::SIGTERM);
    let response = client.response();
    assert_eq!(response.status, 504);
    assert!(response.is_last(), "{response:?}");
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn requests_queued_when_the_drain_timeout_is_over_do_not_fail_the_end() {
    for clients in [5, 30] {
        let backend = Backend::start(|connection| connection.go_on(After::Silence));
        let mut command = command_for(backend.port());
        let process = Process::start(command.env("DRAIN_TIMEOUT_MS", "200"));
        let clients: Vec<_> = (0..clients).map(|_| process.connect()).collect();
        for client in &clients {
            client.send(get("/"));
        }
        while backend.connections() < 4 {
            thread::yield_now();
        }
        process.signal(sys::SIGTERM);
        let (code, lines) = process.exit();
        assert_eq!(code, Some(0), "{lines:?}");
    }
}

#[test]
fn a_stalled_response_delays_no_other_request() {
    let (sender, received) = mpsc::channel();
    let sender = Mutex::new(sender);
    let number = AtomicUsize::new(0);
    let backend = Backend::start(move |connection| {
        let first = number.fetch_add(1, Ordering::Relaxed) == 0;
        connection.respond(GOOD);
        while connection.request() {
            if first {
                sender.lock().unwrap().send(()).unwrap();
                return connection.go_on(After::Silence);
            }
            connection.send(GOOD);
        }
    });
    let mut command = command_for(backend.port());
    let process = Process::start(command.env("WORKERS", "1").env("BACKEND_TIMEOUT_MS", "60000"));
    let (mut other, stuck) = (process.connect(), process.connect());
    assert_eq!(other.request("/").status, 200);
    stuck.send(get("/"));
    received.recv_timeout(WAIT_MAX).unwrap();
    assert_eq!(other.request("/").status, 200);
}

#[test]
fn first_connections_that_stall_do_not_keep_others_from_being_tried() {
    let count = Arc::new(AtomicUsize::new(0));
    let number = Arc::clone(&count);
    let backend = Backend::start(move |connection| {
        if number.fetch_add(1, Ordering::Relaxed) < 4 {
            return connection.go_on(After::Silence);
        }
        while connection.respond(GOOD) {}
    });
    let mut command = command_for(backend.port());
    let process = Process::start(command.env("WORKERS", "1").env("BACKEND_TIMEOUT_MS", "60000"));
    let stuck: Vec<_> = (0..4).map(|_| process.connect()).collect();
    for client in &stuck {
        client.send(get("/"));
    }
    while count.load(Ordering::Relaxed) < 4 {
        thread::yield_now();
    }
    assert_eq!(process.connect().request("/").status, 200);
}

#[test]
fn a_request_whose_client_left_is_counted() {
    let (sender, received) = mpsc::channel();
    let sender = Mutex::new(sender);
    let backend = Backend::start(move |connection| {
        connection.request();
        sender.lock().unwrap().send(()).unwrap();
        connection.go_on(After::Silence);
    });
    let process = Process::start(&mut command_for(backend.port()));
    let client = process.connect();
    client.send(get("/healthz") + &get("/"));
    received.recv_timeout(WAIT_MAX).unwrap();
    // Its unread response makes the close a reset.
    drop(client);
    let abandoned = "backend_calls_total{outcome=\"ABANDONED\"}";
    let deadline = Instant::now() + WAIT_MAX;
    while process.metrics().count(abandoned) != 1 {
        assert!(Instant::now() < deadline, "it was not counted");
        thread::yield_now();
    }
}

#[test]
fn clients_beyond_the_limit_take_nothing_from_those_that_are_served() {
    sys::raise_descriptor_limit().unwrap();
    let backend = Backend::start(|connection| _ = connection.respond(GOOD));
    let mut command = run_by_shell("ulimit -n 256; exec $@", &command_for(backend.port()));
    let process = Process::start(command.args(["--backend-reuse", "off"]));
    let mut first = process.connect();
    assert_eq!(first.request("/").status, 200);
    // They stay: the next one is accepted only after their timeout.
    let _clients: Vec<_> = (0..600).map(|_| process.connect()).collect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(300) {
        let response = first.request("/");
        assert_eq!(response.status, 200, "{response:?}");
    }
}

// ---------- below: helpers ----------

/// The message of an error response.
fn message(response: &Response) -> String {
    let value = Value::read(response.body.as_bytes()).unwrap();
    assert_eq!(value.get("status").unwrap().text().unwrap(), "[ERROR]", "{response:?}");
    value.get("error_message").unwrap().text().unwrap().into_owned()
}

/// The statuses that this many clients at once receive, with as many requests each.
fn statuses(process: &Process, clients: usize, requests: usize) -> Vec<u16> {
    let address = process.address;
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                (0..requests).map(|_| client.request("/").status).collect::<Vec<_>>()
            })
        })
        .collect();
    clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
}

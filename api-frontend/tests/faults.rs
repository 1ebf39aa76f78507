//! The frontend as a process, before backends that fail in every way: threads of this one that
//! speak raw bytes. And what an operator expects of it.

#[path = "../../common/tests/shared/client.rs"]
mod client;
#[path = "../../common/tests/shared/operation.rs"]
mod operation;
#[path = "../../common/tests/shared/process.rs"]
mod process;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::sys;
use tools::json::Value;

use client::{Client, Heard, LONG};
use operation::wrongly;
use process::{Process, by, free_port, stop_listening};

const NAME: &str = "api-frontend";

/// What a backend that is well answers.
const WELL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"a\":[1,2]}";
/// What the frontend makes of it.
const WRAPPED: &str = "{\"return\": {\"a\": [1, 2]}, \"status\": \"[SUCESS]\"}\n";
/// How long an impatient frontend waits for its backend.
const TIMEOUT: Duration = Duration::from_millis(400);

/// A frontend whose backend is well.
fn command() -> Command {
    static BACKEND: OnceLock<Backend> = OnceLock::new();
    command_for(BACKEND.get_or_init(|| Backend::start(|line| while line.answer(WELL) {})).port)
}

fn command_for(backend: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_api-frontend"));
    command.env_clear().envs([("PORT", "0"), ("WORKERS", "2"), ("API_BACKEND_URL", "127.0.0.1")]);
    command.env("API_BACKEND_PORT", backend.to_string());
    command
}

fn impatient(command: &mut Command) -> &mut Command {
    command.env("BACKEND_TIMEOUT_MS", TIMEOUT.as_millis().to_string())
}

#[test]
fn its_answer_wraps_the_backends() {
    let body = "{\"body\": \"Je suis une r\\u00e9ponse du backend\"}\n";
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let backend = Backend::start(move |line| while line.answer(&answer) {});
    let process = Process::start(&mut command_for(backend.port));
    let mut client = process.connect();
    for _ in 0..3 {
        let answer = client.ask("/");
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.body,
            "{\"return\": {\"body\": \"Je suis une r\\u00e9ponse du backend\"}, \"status\": \"[SUCESS]\"}\n"
        );
    }
}

/// What becomes of a connection after a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Close,
    /// The next request is awaited.
    Next,
    /// The connection stays, and nothing more is said.
    Silence,
    /// The script goes on from here without end.
    Endless(&'static str),
    /// The same, a little at a time.
    Trickle(&'static str),
}

/// Everything that a backend may do wrong, and the word for it.
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
    let backend = Backend::start(move |line| {
        while line.request() {
            let Some((speech, after)) = *script.lock().unwrap() else {
                line.say(WELL);
                continue;
            };
            if line.say(speech) && after != After::Next {
                return line.go_on(after);
            }
        }
    });
    let mut process = Process::start(impatient(&mut command_for(backend.port)));
    let (mut client, mut prober) = (process.connect(), process.connect());
    for &(speech, after, status, word) in FAULTS {
        *fault.lock().unwrap() = Some((speech, after));
        let began = Instant::now();
        let answer = client.ask("/");
        let took = began.elapsed();
        let case = format!("{speech:?}, {after:?}: {answer:?}, {took:?}");
        assert_eq!(answer.status, status, "{case}");
        assert!(message(&answer).starts_with("GET / on backend API"), "{case}");
        assert!(message(&answer).contains(word), "{case}");
        assert_eq!(took >= TIMEOUT, status == 504, "{case}");
        assert_eq!(prober.ask("/healthz").status, 200, "{case}");

        *fault.lock().unwrap() = None;
        let began = Instant::now();
        assert_eq!(client.ask("/").body, WRAPPED, "after {case}");
        assert!(began.elapsed() < Duration::from_secs(1), "after {case}");
    }
    assert!(process.is_running());
    let metrics = process.metrics();
    let calls = |word| metrics.count(&format!("backend_calls_total{{outcome=\"{word}\"}}"));
    assert_eq!(calls("OK"), FAULTS.len());
    for known in ["PROTOCOL", "TOO_LARGE", "JSON", "TIMEOUT"] {
        let expected = FAULTS.iter().filter(|(_, _, _, word)| *word == known).count();
        assert_eq!(calls(known), expected, "{known}");
    }
    assert_eq!(calls("STATUS"), 5);
}

#[test]
fn deep_json_is_refused_and_odd_json_is_written_as_python_would() {
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
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{json}");
        let backend = Backend::start(move |line| while line.answer(&answer) {});
        let process = Process::start(&mut command_for(backend.port));
        let answer = process.connect().ask("/");
        match wrapped {
            Some(wrapped) => {
                let whole = format!("{{\"return\": {wrapped}, \"status\": \"[SUCESS]\"}}\n");
                assert_eq!((answer.status, answer.body), (200, whole));
            }
            None => {
                assert_eq!(answer.status, 502, "{json:.40}");
                assert!(message(&answer).contains("JSON"), "{json:.40}: {answer:?}");
            }
        }
    }
}

#[test]
fn a_backend_may_close_after_each_answer_or_speak_in_any_honest_way() {
    for (answer, then) in [
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
        let backend =
            Backend::start(move |line| while line.answer(answer) && then != After::Close {});
        let process = Process::start(&mut command_for(backend.port));
        let results = crowd(&process, 8, 5);
        assert!(results.iter().all(|status| *status == 200), "{answer:?}: {results:?}");
        if then == After::Close {
            assert_eq!(backend.connections(), 40, "{answer:?}");
        }
    }
}

/// Whoever closes first cannot use the port again for a minute, and a frontend that did would run
/// out of them.
#[test]
fn a_backend_that_will_close_is_let_close_first_and_nobody_waits_for_it() {
    let last = WELL.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    for (answer, reuse) in [(&*last, "on"), (WELL, "off")] {
        let (tell, told) = mpsc::channel();
        let (tell, answer) = (Mutex::new(tell), answer.to_owned());
        let backend = Backend::start(move |line| {
            line.answer(&answer);
            let mut stream = line.reader.get_ref();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let heard = stream.read(&mut [0]).map_err(|error| error.kind());
            tell.lock().unwrap().send(heard).unwrap();
        });
        let process = Process::start(command_for(backend.port).env("BACKEND_REUSE", reuse));
        let began = Instant::now();
        assert_eq!(crowd(&process, 4, 5), [200; 20]);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        for _ in 0..20 {
            assert_eq!(told.recv_timeout(LONG).unwrap(), Err(ErrorKind::WouldBlock), "{reuse}");
        }
    }
}

#[test]
fn a_backend_that_is_dead_or_unknown_is_a_502_with_the_reason() {
    let long = "a".repeat(64);
    for (host, word) in [("127.0.0.1", "REFUSED"), ("::1", "REFUSED"), (&*long, "DNS")] {
        let process = Process::start(command_for(free_port()).env("API_BACKEND_URL", host));
        let mut client = process.connect();
        let answer = client.ask("/");
        assert_eq!(answer.status, 502, "{host}");
        assert!(message(&answer).contains(word), "{host}: {answer:?}");
        let answer = client.ask("/readyz");
        assert_eq!(answer.status, 503, "{host}");
        assert!(message(&answer).contains(word), "{host}: {answer:?}");
        assert_eq!(client.ask("/healthz").status, 200, "{host}");
    }
}

#[test]
fn a_backend_that_comes_back_is_found_within_a_second() {
    let serve = |line: &mut Line| while line.answer(WELL) {};
    let mut backend = Backend::start(serve);
    let port = backend.port;
    let process = Process::start(&mut command_for(port));
    let mut client = process.connect();
    let version = client.ask("/version").body;
    assert_eq!((client.ask("/").status, client.ask("/readyz").status), (200, 200));
    for _ in 0..3 {
        drop(backend);
        let answer = client.ask("/");
        assert_eq!(answer.status, 502);
        assert!(message(&answer).contains("REFUSED"), "{answer:?}");
        assert_eq!((client.ask("/readyz").status, client.ask("/healthz").status), (503, 200));
        backend = Backend::listen(port, serve);
        let began = Instant::now();
        assert_eq!(client.ask("/").body, WRAPPED);
        assert_eq!(client.ask("/readyz").status, 200);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    assert_eq!(client.ask("/version").body, version);
}

#[test]
fn many_clients_share_few_connections_to_a_backend_that_keeps_them() {
    // On a busy machine even this backend may seem to be slow, and slow ones get more.
    let mut fewest = usize::MAX;
    for _ in 0..10 {
        let backend = Backend::start(|line| while line.answer(WELL) {});
        let process = Process::start(command_for(backend.port).env("WORKERS", "1"));
        let results = crowd(&process, 32, 20);
        assert!(results.iter().all(|status| *status == 200));
        let (connections, metrics) = (backend.connections(), process.metrics());
        assert_eq!(metrics.count("backend_connections_opened_total"), connections);
        assert_eq!(metrics.count("backend_calls_total{outcome=\"OK\"}"), 32 * 20);
        fewest = fewest.min(connections);
        if fewest <= 8 {
            return;
        }
    }
    panic!("at least {fewest} connections for 32 clients");
}

#[test]
fn reuse_can_be_switched_off() {
    let closing = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&closing);
    let backend = Backend::start(move |line| {
        while line.request() {
            told.fetch_add(line.asked_to_close.into(), Ordering::Relaxed);
            line.say(WELL);
        }
    });
    let process = Process::start(command_for(backend.port).args(["--backend-reuse", "off"]));
    let results = crowd(&process, 4, 5);
    assert!(results.iter().all(|status| *status == 200));
    assert_eq!((backend.connections(), closing.load(Ordering::Relaxed)), (20, 20));
}

#[test]
fn a_kept_connection_that_the_backend_closes_is_no_clients_business() {
    // Silently while idle; or just when the next request is on its way.
    for answers in [1, 2] {
        let (close, closed) = mpsc::channel();
        let close = Mutex::new(close);
        let backend = Backend::start(move |line| {
            if line.answer(WELL) && (answers == 1 || line.request()) {
                line.close();
                let _ = close.lock().unwrap().send(());
            }
        });
        let process = Process::start(command_for(backend.port).env("WORKERS", "1"));
        let mut client = process.connect();
        for _ in 0..10 {
            let answer = client.ask("/");
            assert_eq!(answer.body, WRAPPED);
            if answers == 1 {
                closed.recv_timeout(LONG).unwrap();
            }
        }
        assert_eq!(backend.connections(), 10);
    }
}

#[test]
fn what_a_backend_says_unasked_is_no_answer_to_the_next_call() {
    // An answer too many, or the farewell of a server that is tired of waiting.
    let surplus = WELL.replace("[1,2]", "[3,4]");
    let farewell = "HTTP/1.1 408 \r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned();
    for unasked in [surplus, farewell] {
        let turn = Arc::new(Barrier::new(2));
        let (taken, connections) = (Arc::clone(&turn), AtomicUsize::new(0));
        let backend = Backend::start(move |line| {
            let first = connections.fetch_add(1, Ordering::Relaxed) == 0;
            while line.answer(WELL) {
                if first {
                    taken.wait();
                    line.say(&unasked);
                    taken.wait();
                }
            }
        });
        let process = Process::start(command_for(backend.port).env("WORKERS", "1"));
        let mut client = process.connect();
        assert_eq!(client.ask("/").body, WRAPPED);
        process.stop();
        client.say(client::get("/"));
        turn.wait();
        turn.wait();
        process.go_on();
        assert_eq!(client.answer().body, WRAPPED);
        assert_eq!(backend.connections(), 2);
    }
}

#[test]
fn a_pipeline_that_breaks_is_asked_again_and_no_client_sees_it() {
    let broken = Arc::new(AtomicBool::new(false));
    let breaking = Arc::clone(&broken);
    let backend = Backend::start(move |line| {
        while line.request() {
            // Once, when several requests wait that nobody will answer.
            let waiting = line.reader.buffer().windows(4).filter(|end| end == b"\r\n\r\n").count();
            if waiting >= 3 && !breaking.swap(true, Ordering::Relaxed) {
                return line.close();
            }
            line.say(WELL);
        }
    });
    let process = Process::start(command_for(backend.port).env("WORKERS", "1"));
    let results = crowd(&process, 32, 20);
    assert!(broken.load(Ordering::Relaxed), "nothing was pipelined");
    assert_eq!(results.iter().filter(|status| **status != 200).count(), 0);
}

#[test]
fn a_pipeline_that_a_new_connection_does_not_take_is_asked_again_whole() {
    let (stuck, connections) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
    let sticking = Arc::clone(&stuck);
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let backend = Backend::start(move |line| {
        let number = connections.fetch_add(1, Ordering::Relaxed);
        while line.request() {
            match number {
                0 if sticking.load(Ordering::Relaxed) => {
                    tell.lock().unwrap().send(()).unwrap();
                    return line.go_on(After::Silence);
                }
                1 if !line.reader.buffer().is_empty() => return line.close(),
                _ => drop(line.say(WELL)),
            }
        }
    });
    let process = Process::start(command_for(backend.port).env("WORKERS", "1"));
    let mut client = process.connect();
    for _ in 0..10 {
        assert_eq!(client.ask("/").status, 200);
    }
    stuck.store(true, Ordering::Relaxed);
    let first = process.connect();
    first.say(client::get("/"));
    told.recv_timeout(LONG).unwrap();
    // The second connection is made when the first is known to be slow, and given all of these.
    thread::sleep(Duration::from_millis(30));
    client.say(client::get("/").repeat(5));
    let answers: Vec<_> = (0..5).map(|_| client.answer().status).collect();
    assert_eq!(answers, [200; 5]);
    assert!(backend.connections() > 2);
}

#[test]
fn a_backend_that_closes_after_some_answers_costs_no_client_his_own() {
    // It says so, as nginx does after so many requests; or it does not.
    for said in ["Connection: close\r\n", ""] {
        let last = WELL.replacen("\r\n", &format!("\r\n{said}"), 1);
        let backend = Backend::start(move |line| {
            if (0..9).all(|_| line.answer(WELL)) {
                line.answer(&last);
            }
        });
        let process = Process::start(command_for(backend.port).env("WORKERS", "1"));
        let results = crowd(&process, 32, 20);
        let failed = results.iter().filter(|status| **status != 200).count();
        assert_eq!(failed, 0, "{said:?}");
    }
}

#[test]
fn when_all_kept_connections_are_stale_a_new_one_is_tried() {
    let stale = Arc::new(AtomicBool::new(false));
    let (old, all) = (Arc::clone(&stale), Barrier::new(4));
    let backend = Backend::start(move |line| {
        let is_old = !old.load(Ordering::Relaxed);
        while line.request() {
            if is_old && old.load(Ordering::Relaxed) {
                return line.close();
            }
            if is_old {
                all.wait();
            }
            line.say(WELL);
        }
    });
    let process = Process::start(command_for(backend.port).env("WORKERS", "1"));
    assert_eq!(crowd(&process, 4, 1), [200; 4]);
    stale.store(true, Ordering::Relaxed);
    assert_eq!(process.connect().ask("/").status, 200);
}

/// A frontend with a quick backend that will not answer the next request, and whoever wants to
/// know when that has come.
fn about_to_be_stuck() -> (Process, Backend, mpsc::Receiver<()>) {
    let stuck = Arc::new(AtomicBool::new(false));
    let sticking = Arc::clone(&stuck);
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let backend = Backend::start(move |line| {
        while line.request() {
            if sticking.swap(false, Ordering::Relaxed) {
                tell.lock().unwrap().send(()).unwrap();
                line.go_on(After::Silence);
            }
            line.say(WELL);
        }
    });
    let mut command = command_for(backend.port);
    let process = Process::start(impatient(command.env("WORKERS", "1")));
    let results = crowd(&process, 8, 20);
    assert!(results.iter().all(|status| *status == 200), "{results:?}");
    stuck.store(true, Ordering::Relaxed);
    (process, backend, told)
}

#[test]
fn whoever_stands_behind_a_slow_answer_waits_no_longer_than_for_his_own() {
    let (process, _backend, stuck) = about_to_be_stuck();
    let mut first = process.connect();
    let mut others: Vec<_> = (0..10).map(|_| process.connect()).collect();
    first.say(client::get("/"));
    stuck.recv_timeout(LONG).unwrap();
    let began = Instant::now();
    for other in &others {
        other.say(client::get("/"));
    }
    for other in &mut others {
        let answer = other.answer();
        assert!(matches!(answer.status, 200 | 504), "{answer:?}");
    }
    assert!(began.elapsed() < TIMEOUT * 2, "{:?}", began.elapsed());
    assert_eq!(first.answer().status, 504);
}

#[test]
fn whoever_comes_later_does_not_stand_behind_a_slow_answer() {
    let (process, _backend, stuck) = about_to_be_stuck();
    let (mut first, mut other) = (process.connect(), process.connect());
    first.say(client::get("/"));
    stuck.recv_timeout(LONG).unwrap();
    // By now it is known to be slow.
    thread::sleep(Duration::from_millis(30));
    for _ in 0..20 {
        assert_eq!(other.ask("/").status, 200);
    }
    assert!(first.is_silent());
    assert_eq!(first.answer().status, 504);
}

#[test]
fn calls_under_way_are_waited_for_at_the_end() {
    let (tell, told) = mpsc::channel();
    let go_on = Arc::new(Barrier::new(4));
    let (tell, going) = (Mutex::new(tell), Arc::clone(&go_on));
    let backend = Backend::start(move |line| {
        while line.request() {
            tell.lock().unwrap().send(()).unwrap();
            going.wait();
            line.say(WELL);
        }
    });
    let mut process = Process::start(&mut command_for(backend.port));
    let mut clients: Vec<_> = (0..3).map(|_| process.connect()).collect();
    for client in &clients {
        client.say(client::get("/"));
        told.recv_timeout(LONG).unwrap();
    }
    process.signal(sys::SIGTERM);
    process.line_with("draining");
    go_on.wait();
    for client in &mut clients {
        let answer = client.answer();
        assert_eq!(answer.body, WRAPPED);
        assert!(answer.closes(), "{answer:?}");
    }
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn a_backend_that_never_answers_holds_no_end_up() {
    let backend = Backend::start(|line| {
        line.request();
        line.go_on(After::Silence);
    });
    let mut process = Process::start(impatient(&mut command_for(backend.port)));
    let mut client = process.connect();
    client.say(client::get("/"));
    process.signal(sys::SIGTERM);
    let answer = client.answer();
    assert_eq!(answer.status, 504);
    assert!(answer.closes(), "{answer:?}");
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn calls_that_are_still_queued_when_the_drain_time_is_over_do_not_spoil_the_end() {
    for clients in [5, 30] {
        let backend = Backend::start(|line| line.go_on(After::Silence));
        let mut command = command_for(backend.port);
        let process = Process::start(command.env("DRAIN_TIMEOUT_MS", "200"));
        let clients: Vec<_> = (0..clients).map(|_| process.connect()).collect();
        for client in &clients {
            client.say(client::get("/"));
        }
        while backend.connections() < 4 {
            thread::yield_now();
        }
        process.signal(sys::SIGTERM);
        let (code, lines) = process.end();
        assert_eq!(code, Some(0), "{lines:?}");
    }
}

#[test]
fn whoever_comes_just_behind_an_answer_that_stalls_gets_his_own_from_another_connection() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let number = AtomicUsize::new(0);
    let backend = Backend::start(move |line| {
        let first = number.fetch_add(1, Ordering::Relaxed) == 0;
        line.answer(WELL);
        while line.request() {
            if first {
                tell.lock().unwrap().send(()).unwrap();
                return line.go_on(After::Silence);
            }
            line.say(WELL);
        }
    });
    let process = Process::start(command_for(backend.port).env("WORKERS", "1"));
    let (mut other, stuck) = (process.connect(), process.connect());
    assert_eq!(other.ask("/").status, 200);
    stuck.say(client::get("/"));
    told.recv_timeout(LONG).unwrap();
    let began = Instant::now();
    assert_eq!(other.ask("/").status, 200);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn first_connections_that_stall_do_not_keep_others_from_being_tried() {
    let number = AtomicUsize::new(0);
    let backend = Backend::start(move |line| {
        if number.fetch_add(1, Ordering::Relaxed) < 4 {
            return line.go_on(After::Silence);
        }
        while line.answer(WELL) {}
    });
    let process = Process::start(command_for(backend.port).env("WORKERS", "1"));
    let stuck: Vec<_> = (0..4).map(|_| process.connect()).collect();
    for client in &stuck {
        client.say(client::get("/"));
    }
    while backend.connections() < 4 {
        thread::yield_now();
    }
    let began = Instant::now();
    assert_eq!(process.connect().ask("/").status, 200);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn a_call_whose_client_left_is_counted() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let backend = Backend::start(move |line| {
        line.request();
        tell.lock().unwrap().send(()).unwrap();
        line.go_on(After::Silence);
    });
    let process = Process::start(&mut command_for(backend.port));
    let client = process.connect();
    client.say(client::get("/healthz") + &client::get("/"));
    told.recv_timeout(LONG).unwrap();
    // What it has not read makes its end a reset.
    drop(client);
    let abandoned = "backend_calls_total{outcome=\"ABANDONED\"}";
    let deadline = Instant::now() + LONG;
    while process.metrics().count(abandoned) != 1 {
        assert!(Instant::now() < deadline, "it was not counted");
        thread::yield_now();
    }
}

#[test]
fn clients_that_are_turned_away_take_nothing_from_those_that_are_served() {
    sys::raise_open_files().unwrap();
    let backend = Backend::start(|line| while line.answer(WELL) {});
    let limited = ["sh", "-c", "ulimit -n 256; exec \"$0\" \"$@\""];
    let mut command = by(&limited, &command_for(backend.port));
    let process = Process::start(command.args(["--backend-reuse", "off"]));
    let mut first = process.connect();
    assert_eq!(first.ask("/").status, 200);
    // They stay, so that room is made for the next only when they have had their time.
    let _crowd: Vec<_> = (0..600).map(|_| process.connect()).collect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(300) {
        let answer = first.ask("/");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[test]
fn metrics_tell_of_the_backend() {
    let process = Process::start(&mut command());
    assert_eq!(process.connect().ask("/").status, 200);
    let metrics = process.metrics();
    for (name, value) in [
        ("backend_calls_total{outcome=\"OK\"}", "1"),
        ("backend_calls_total{outcome=\"REFUSED\"}", "0"),
        ("backend_connections_open", "1"),
        ("backend_connections_opened_total", "1"),
        ("backend_lookups_total", "0"),
    ] {
        assert_eq!(metrics.0.get(name).map(String::as_str), Some(value), "{name}");
    }
}

#[test]
fn a_wrong_setting_of_its_own_is_one_line_and_exit_code_2() {
    for (variable, wrong) in [
        ("API_BACKEND_URL", &["https://a", "a:80", "a/b", "a b", "h\u{e9}", "http://"][..]),
        ("API_BACKEND_PORT", &["0", "65536", "-1", "http"]),
        ("BACKEND_TIMEOUT_MS", &["0", "3600001", "1s"]),
        ("BACKEND_REUSE", &["yes", "ON"]),
    ] {
        let flag = format!("--{}", variable.to_lowercase().replace('_', "-"));
        for value in wrong {
            wrongly(command().env(variable, value), &[variable, value]);
            wrongly(command().args([&*flag, value]), &[&flag, value]);
        }
    }
    for missing in ["API_BACKEND_URL", "API_BACKEND_PORT"] {
        for empty in [true, false] {
            let mut command = command();
            if empty {
                command.env(missing, "");
            } else {
                command.env_remove(missing);
            }
            wrongly(&mut command, &[&format!("{missing} is not set; it takes ")]);
        }
    }
    for forgiven in ["http://127.0.0.1", "127.0.0.1/", "http://127.0.0.1/"] {
        let process = Process::start(command().env("API_BACKEND_URL", forgiven));
        assert_eq!(process.connect().ask("/").status, 200, "{forgiven}");
    }
}

// ---------- below: backends, and crowds of clients ----------

/// The message of an answer in the shape that all errors have.
fn message(answer: &Heard) -> String {
    let value = Value::read(answer.body.as_bytes()).unwrap();
    assert_eq!(value.get("status").unwrap().text().unwrap(), "[ERROR]", "{answer:?}");
    value.get("error_message").unwrap().text().unwrap().into_owned()
}

/// So many clients at once, each of which asks so many times: every status.
fn crowd(process: &Process, clients: usize, times: usize) -> Vec<u16> {
    let address = process.address;
    let asking: Vec<_> = (0..clients)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                (0..times).map(|_| client.ask("/").status).collect::<Vec<_>>()
            })
        })
        .collect();
    asking.into_iter().flat_map(|client| client.join().unwrap()).collect()
}

/// A backend that does what its test says, a thread for each connection. Dropping it closes them.
struct Backend {
    port: u16,
    shared: Arc<BackendShared>,
    door: Option<JoinHandle<TcpListener>>,
}

#[derive(Default)]
struct BackendShared {
    ended: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Backend {
    fn start(serve: impl Fn(&mut Line) + Send + Sync + 'static) -> Backend {
        Backend::listen(0, serve)
    }

    /// `serve` is given each connection.
    fn listen(port: u16, serve: impl Fn(&mut Line) + Send + Sync + 'static) -> Backend {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (shared, serve) = (Arc::<BackendShared>::default(), Arc::new(serve));
        let known = Arc::clone(&shared);
        let door = thread::spawn(move || {
            for stream in listener.incoming().map(Result::unwrap) {
                if known.ended.load(Ordering::Relaxed) {
                    break;
                }
                stream.set_nodelay(true).unwrap();
                known.streams.lock().unwrap().push(stream.try_clone().unwrap());
                let serve = Arc::clone(&serve);
                thread::spawn(move || {
                    let mut line = Line { reader: BufReader::new(stream), asked_to_close: false };
                    serve(&mut line);
                    line.close();
                });
            }
            listener
        });
        Backend { port, shared, door: Some(door) }
    }

    fn connections(&self) -> usize {
        self.shared.streams.lock().unwrap().len()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port)));
        if let Some(Ok(listener)) = self.door.take().map(JoinHandle::join) {
            stop_listening(listener);
        }
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A connection from the frontend.
struct Line {
    reader: BufReader<TcpStream>,
    asked_to_close: bool,
}

impl Line {
    /// Reads a request; whether there was one.
    fn request(&mut self) -> bool {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(self.reader.read_line(&mut head), Ok(1..)) {
                return false;
            }
        }
        assert!(head.starts_with("GET / HTTP/1.1\r\nHost: "), "{head}");
        self.asked_to_close = head.contains("\r\nConnection: close\r\n");
        true
    }

    fn say(&self, bytes: &str) -> bool {
        self.reader.get_ref().write_all(bytes.as_bytes()).is_ok()
    }

    /// Answers a request; whether there was one.
    fn answer(&mut self, bytes: &str) -> bool {
        self.request() && self.say(bytes)
    }

    /// Does what comes after a speech, until the frontend closes.
    fn go_on(&mut self, after: After) {
        match after {
            After::Next | After::Close => {}
            After::Silence => while matches!(self.reader.read(&mut [0; 1024]), Ok(1..)) {},
            After::Endless(speech) => {
                let speech = speech.repeat(1_000);
                while self.say(&speech) {}
            }
            After::Trickle(speech) => {
                while self.say(speech) {
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
        self.close();
    }

    fn close(&self) {
        let _ = self.reader.get_ref().shutdown(Shutdown::Both);
    }
}

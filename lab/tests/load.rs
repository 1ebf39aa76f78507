//! `lab load` with fake servers: it accounts for every request by the right word. No report is
//! compared with the time that a good machine would take.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::sys::SIGINT;
use testing::backend::{After, Backend, Connection};
use testing::lab::load;
use testing::ports::free_port;
use testing::process::program;
use testing::{WAIT_MAX, at};

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngood\n";
const LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\ngood\n";

#[test]
fn every_failure_has_its_word() {
    type Serve = fn(&mut Connection);
    const CASES: &[(&str, Serve, &[&str])] = &[
        ("CLOSED", |it| it.respond_last(""), &[]),
        ("CLOSED", |it| it.respond_last("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ngood\n"), &[]),
        ("BROKEN", |it| it.respond_last("220 mail.example ESMTP\r\n\r\n"), &[]),
        (
            "BROKEN",
            |it| it.respond_last("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\ngood\n"),
            &[],
        ),
        ("TIMEOUT", |it| it.go_on(After::Silence), &["--timeout-ms", "100"]),
        (
            "TIMEOUT",
            |it| {
                it.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                it.go_on(After::Endless("1\r\n.\r\n"));
            },
            &["--timeout-ms", "100"],
        ),
        (
            "STATUS",
            |it| it.respond_last("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
            &["--close"],
        ),
        ("BODY", |it| it.respond_last(LAST), &["--expect", "better"]),
    ];
    let resetting = TcpListener::bind(at(0)).unwrap();
    let reset_address = resetting.local_addr().unwrap();
    // Bytes that are unread when a socket is closed make that a reset.
    thread::spawn(move || {
        resetting.incoming().for_each(|stream| stream.unwrap().read_exact(&mut [0; 4]).unwrap());
    });
    thread::scope(|scope| {
        let check = |word: &str, address, flags: &[&str]| {
            let flags = [flags, &["--connections", "2", "--seconds", "1"]].concat();
            let report = load(address, &flags);
            let failed = report.count("failed");
            assert!(failed > 0, "{word}: {}", report.text);
            assert_eq!(report.count(&format!("failures {word}")), failed, "{}", report.text);
            assert_eq!(report.code, 1, "{word}");
        };
        for (word, serve, flags) in CASES {
            scope.spawn(move || check(word, Backend::start(serve).address, flags));
        }
        scope.spawn(move || check("RESET", reset_address, &[]));
    });

    let report = load(at(free_port()), &["--connections", "2", "--seconds", "1"]);
    assert!(report.text.contains("\"failures\": {\"REFUSED\": "), "{}", report.text);
    assert_eq!((report.code, report.count("responses")), (1, 0));
}

#[test]
fn every_request_to_a_good_server_gets_its_response() {
    let server = Backend::start(|connection| {
        while connection.request() {
            connection.send(GOOD);
        }
    });
    for (flags, responses, connections) in [
        (&["--rate", "200"][..], Some(200), 3..=3),
        (&["--rate", "200", "--threads", "2", "--pipeline", "4"], Some(200), 2..=3),
        (&["--rate", "50", "--close"], Some(50), 50..=50),
        (&["--pipeline", "8"], None, 3..=3),
        (&[], None, 3..=3),
    ] {
        let common = ["--connections", "3", "--seconds", "1", "--expect", "good"];
        let report = load(server.address, &[flags, &common].concat());
        let (all, failed) = (report.count("responses"), report.count("failed"));
        assert_eq!((report.code, failed), (0, 0), "{flags:?}: {}", report.text);
        assert!(all > 0 && responses.is_none_or(|wanted| wanted == all), "{flags:?}: {all}");
        let opened = report.count("connections_opened");
        assert!(connections.contains(&opened), "{flags:?}: {opened}");
        assert_eq!(report.count("statuses 200"), all);
        assert_eq!(report.count("bytes_received"), all * GOOD.len(), "{flags:?}");
        let (_, columns) = report.text.split_once("\"column_ms\": 100, \"responses\": [").unwrap();
        let columns = columns.split(']').next().unwrap().split(", ");
        assert_eq!(columns.map(|count| count.parse::<usize>().unwrap()).sum::<usize>(), all);
    }
}

#[test]
fn an_announced_close_loses_nothing() {
    // It reads the requests that follow, which are then sent again on another connection.
    let server = Backend::start(|connection| connection.respond_last(LAST));
    for flags in [&["--rate", "100"][..], &["--rate", "100", "--pipeline", "4"]] {
        let common = ["--connections", "4", "--seconds", "1"];
        let report = load(server.address, &[flags, &common].concat());
        assert_eq!((report.code, report.count("failed")), (0, 0), "{}", report.text);
        assert_eq!(report.count("responses"), 100);
    }
}

/// Coordinated omission: a client that waits for each response before its next request measures one
/// slow request where many clients would have waited.
#[test]
fn a_stalled_server_is_seen_in_every_request_that_was_due() {
    let server = Backend::start(|connection| {
        static FIRST: AtomicBool = AtomicBool::new(true);
        while connection.request() {
            if FIRST.swap(false, Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(700));
            }
            connection.send(GOOD);
        }
    });
    let report = load(server.address, &["--connections", "1", "--seconds", "1", "--rate", "100"]);
    assert_eq!((report.code, report.count("responses")), (0, 100), "{}", report.text);
    assert!(report.micros("latency_us max") >= 700_000.0, "{}", report.text);
    // Those due in the first 600 ms waited for 100 ms or more.
    assert!(report.micros("latency_us p50") >= 100_000.0, "{}", report.text);
    assert!(report.count("longest_gap_ms") >= 690, "{}", report.text);
}

/// However far a server falls behind, as many requests are due as the rate says.
#[test]
fn at_a_rate_beyond_reach_every_request_is_accounted_for() {
    const CASES: &[(&[&str], usize)] = &[
        (&["--rate", "2000"], 2_000),
        (&["--rate", "1000001", "--threads", "3"], 1_000_001),
        (&["--rate", "10000000", "--close"], 10_000_000),
    ];
    let server = Backend::start(|connection| {
        while connection.request() {
            thread::sleep(Duration::from_millis(20));
            connection.send(GOOD);
        }
    });
    thread::scope(|scope| {
        for (flags, due) in CASES {
            scope.spawn(move || {
                let common = ["--connections", "4", "--seconds", "1", "--timeout-ms", "2000"];
                let report = load(server.address, &[*flags, &common].concat());
                let (responses, failed) = (report.count("responses"), report.count("failed"));
                assert_eq!(responses + failed, *due, "{flags:?}: {}", report.text);
                // The server responds in time to each request that is sent.
                assert_eq!(report.count("failures UNSENT"), failed, "{}", report.text);
                assert!(responses > 0 && report.code == 1, "{flags:?}: {}", report.text);
            });
        }
    });
}

#[test]
fn an_interrupt_ends_it_with_a_report() {
    let (sender, first) = mpsc::channel();
    let sender = Mutex::new(sender);
    let server = Backend::start(move |connection| {
        while connection.request() {
            connection.send(GOOD);
            let _ = sender.lock().unwrap().send(());
        }
    });
    let url = format!("http://{}/", server.address);
    let mut command = Command::new(program("lab"));
    command.args(["load", &url, "--seconds", "600"]).stdout(Stdio::piped());
    let child = tools::sys::die_with_parent(&mut command).spawn().unwrap();
    first.recv_timeout(WAIT_MAX).expect("a request");
    tools::sys::send_signal(child.id(), SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{page}");
    for part in
        ["GET http://127.0.0.1:", "responses ", "  200 ", "latency ", "timeline, 100 ms a column"]
    {
        assert!(page.contains(part), "{part:?} in {page}");
    }
}

#[test]
fn mistakes_are_one_line() {
    for (words, line) in [
        (
            &["https://a/"][..],
            "lab: \"https://a/\" is not an http:// URL; other schemes are not supported\n",
        ),
        (&["http://name.invalid/"], "lab: name.invalid: "),
        (&["http://a/", "--seconds"], "lab: --seconds needs a value: a whole number, 1 to 3600\n"),
    ] {
        let output = Command::new(program("lab")).arg("load").args(words).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with(line) && stderr.lines().count() == 1, "{stderr}");
        assert!(!output.status.success() && output.stdout.is_empty());
    }
}

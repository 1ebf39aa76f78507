//! `lab load` against servers that do what they are told: every request is accounted for, by the
//! right word. What is measured is never compared with the time that a good machine would take.

#[path = "shared/lab.rs"]
mod lab;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::sys::SIGINT;

use lab::{LAB, load, requests, say, serve};

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngood\n";
const LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\ngood\n";

#[test]
fn whatever_goes_wrong_has_its_word() {
    // What the server does on each connection.
    type Conduct = fn(TcpStream);
    const ONCE: &[&str] = &["--close"];
    const CASES: &[(&str, Conduct, &[&str])] = &[
        ("CLOSED", |stream| say(stream, ""), &[]),
        ("CLOSED", |stream| say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ngood\n"), &[]),
        // What is left unread when a connection is closed makes it a reset.
        ("RESET", |mut stream| stream.read_exact(&mut [0; 4]).unwrap(), &[]),
        ("BROKEN", |stream| say(stream, "220 mail.example ESMTP\r\n\r\n"), &[]),
        (
            "BROKEN",
            |stream| say(stream, "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\ngood\n"),
            &[],
        ),
        ("TIMEOUT", |stream| requests(stream).for_each(drop), &["--timeout-ms", "100"]),
        (
            "TIMEOUT",
            |mut stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                let chunks = b"1\r\n.\r\n".repeat(1000);
                while stream.write_all(&chunks).is_ok() {}
            },
            &["--timeout-ms", "100"],
        ),
        ("STATUS", |stream| say(stream, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), ONCE),
        ("BODY", |stream| say(stream, LAST), &["--expect", "better"]),
    ];
    thread::scope(|scope| {
        for (word, conduct, flags) in CASES {
            scope.spawn(move || {
                let flags = [*flags, &["--connections", "2", "--seconds", "1"]].concat();
                let result = load(serve(conduct), &flags);
                let failed = result.count("failed");
                assert!(failed > 0, "{word}: {}", result.text);
                assert_eq!(result.count(&format!("failures {word}")), failed, "{}", result.text);
                assert_eq!(result.code, 1, "{word}");
            });
        }
    });

    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let result = load(nobody, &["--connections", "2", "--seconds", "1"]);
    assert!(result.text.contains("\"failures\": {\"REFUSED\": "), "{}", result.text);
    assert_eq!((result.code, result.count("answers")), (1, 0));
}

#[test]
fn every_request_to_a_good_server_is_answered() {
    let address = serve(|mut stream| {
        for () in requests(stream.try_clone().unwrap()) {
            let _ = stream.write_all(GOOD.as_bytes());
        }
    });
    for (flags, answers, connections) in [
        (&["--rate", "200"][..], Some(200), 3..=3),
        (&["--rate", "200", "--threads", "2", "--pipeline", "4"], Some(200), 2..=3),
        (&["--rate", "50", "--close"], Some(50), 50..=50),
        (&["--pipeline", "8"], None, 3..=3),
        (&[], None, 3..=3),
    ] {
        let common = ["--connections", "3", "--seconds", "1", "--expect", "good"];
        let result = load(address, &[flags, &common].concat());
        let (all, failed) = (result.count("answers"), result.count("failed"));
        assert_eq!((result.code, failed), (0, 0), "{flags:?}: {}", result.text);
        assert!(all > 0 && answers.is_none_or(|wanted| wanted == all), "{flags:?}: {all}");
        let opened = result.count("connections_opened");
        assert!(connections.contains(&opened), "{flags:?}: {opened}");
        assert_eq!(result.count("statuses 200"), all);
        assert_eq!(result.count("bytes_received"), all * GOOD.len(), "{flags:?}");
        let (_, columns) = result.text.split_once("\"column_ms\": 100, \"answers\": [").unwrap();
        let columns = columns.split(']').next().unwrap().split(", ");
        assert_eq!(columns.map(|count| count.parse::<usize>().unwrap()).sum::<usize>(), all);
    }
}

#[test]
fn an_announced_close_loses_nothing() {
    let address = serve(|stream| {
        // It hears out what else is asked, which is then asked again on another connection.
        say(stream, LAST);
    });
    for flags in [&["--rate", "100"][..], &["--rate", "100", "--pipeline", "4"]] {
        let common = ["--connections", "4", "--seconds", "1"];
        let result = load(address, &[flags, &common].concat());
        assert_eq!((result.code, result.count("failed")), (0, 0), "{}", result.text);
        assert_eq!(result.count("answers"), 100);
    }
}

/// Coordinated omission: who waits for its answer before it asks again measures one slow request
/// where a crowd would have waited.
#[test]
fn a_server_that_stands_still_is_seen_in_every_request_that_was_due() {
    let address = serve(|mut stream| {
        static FIRST: AtomicBool = AtomicBool::new(true);
        for () in requests(stream.try_clone().unwrap()) {
            if FIRST.swap(false, Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(700));
            }
            let _ = stream.write_all(GOOD.as_bytes());
        }
    });
    let result = load(address, &["--connections", "1", "--seconds", "1", "--rate", "100"]);
    assert_eq!((result.code, result.count("answers")), (0, 100), "{}", result.text);
    assert!(result.micros("latency_us max") >= 700_000.0, "{}", result.text);
    // Those due in the first 600 ms waited for 100 ms or more.
    assert!(result.micros("latency_us p50") >= 100_000.0, "{}", result.text);
    assert!(result.count("longest_gap_ms") >= 690, "{}", result.text);
}

/// However far a server stays behind: what is due is neither more nor less than what was ordered.
#[test]
fn at_a_rate_that_nobody_keeps_up_with_every_request_is_accounted_for() {
    const CASES: &[(&[&str], usize)] = &[
        (&["--rate", "2000"], 2_000),
        (&["--rate", "1000001", "--threads", "3"], 1_000_001),
        (&["--rate", "10000000", "--close"], 10_000_000),
    ];
    let address = serve(|mut stream| {
        for () in requests(stream.try_clone().unwrap()) {
            thread::sleep(Duration::from_millis(20));
            let _ = stream.write_all(GOOD.as_bytes());
        }
    });
    thread::scope(|scope| {
        for (flags, due) in CASES {
            scope.spawn(move || {
                let common = ["--connections", "4", "--seconds", "1", "--timeout-ms", "2000"];
                let result = load(address, &[*flags, &common].concat());
                let (answers, failed) = (result.count("answers"), result.count("failed"));
                assert_eq!(answers + failed, *due, "{flags:?}: {}", result.text);
                // It answers in time whatever it is asked, and goes on to be asked.
                assert_eq!(result.count("failures UNSENT"), failed, "{}", result.text);
                assert!(answers > 0 && result.code == 1, "{flags:?}: {}", result.text);
            });
        }
    });
}

#[test]
fn an_interrupt_ends_it_with_what_it_has() {
    let (asked, first) = mpsc::channel();
    let address = serve(move |mut stream| {
        for () in requests(stream.try_clone().unwrap()) {
            let _ = stream.write_all(GOOD.as_bytes());
            let _ = asked.send(());
        }
    });
    let url = format!("http://{address}/");
    let mut command = Command::new(LAB);
    command.args(["load", &url, "--seconds", "600"]).stdout(Stdio::piped());
    let child = tools::sys::die_with_parent(&mut command).spawn().unwrap();
    first.recv_timeout(Duration::from_secs(10)).expect("a request");
    tools::sys::send_signal(child.id(), SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{page}");
    for part in
        ["GET http://127.0.0.1:", "answers ", "  200 ", "latency ", "timeline, 100 ms a column"]
    {
        assert!(page.contains(part), "{part:?} in {page}");
    }
}

#[test]
fn mistakes_are_told_in_one_line() {
    for (words, line) in [
        (
            &["https://a/"][..],
            "lab: \"https://a/\" is no http:// URL, and nothing else is spoken here\n",
        ),
        (&["http://name.invalid/"], "lab: name.invalid: "),
        (&["http://a/", "--seconds"], "lab: --seconds needs a value: a whole number, 1 to 3600\n"),
    ] {
        let output = Command::new(LAB).arg("load").args(words).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with(line) && said.lines().count() == 1, "{said}");
        assert!(!output.status.success() && output.stdout.is_empty());
    }
}

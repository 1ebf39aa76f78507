//! The server over real sockets: a service of the tests' own, spoken to in raw bytes. What the
//! bytes mean is tested beside the protocol; here it is what arrives, when, and what ends how.

#[path = "shared/client.rs"]
mod client;

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::http::{Date, Limits, Refusal, Request, Response, Status};
use common::runtime::{self, Ending};
use common::server::{self, Answer, Event, Occupancy, Peer, Service, Settings};
use common::{sys, telemetry};

use client::{Client, LONG, get, unended};

/// Long enough for the server to be on time, short enough for a test to wait for.
const SHORT: Duration = Duration::from_millis(60);

const SETTINGS: Settings = Settings {
    limits: Limits { head_bytes_max: 16 << 10, body_bytes_max: 1 << 20 },
    connections_max: 10_000,
    buffer_bytes_max: 16 << 20,
    idle: LONG,
    head: LONG,
    body: LONG,
    write: LONG,
    drain: LONG,
};

#[test]
fn a_deep_pipeline_is_answered_whole_and_in_order() {
    for kind in ["now", "later"] {
        let house = House::open(SETTINGS);
        let mut client = house.connect();
        let paths: Vec<_> = (0..5_000).map(|number| format!("/{kind}/{number}")).collect();
        let asking = client.say_aside(paths.iter().map(|path| get(path)).collect::<String>());
        // Bites that end within heads and bodies, and are smaller than one answer.
        let mut heard = Vec::new();
        for path in &paths {
            while !heard.contains(&b'}') {
                let mut bite = [0; 61];
                let count = client.reader.read(&mut bite).unwrap();
                assert_ne!(count, 0, "{path}");
                heard.extend_from_slice(&bite[..count]);
            }
            let end = heard.iter().position(|&byte| byte == b'}').unwrap() + 1;
            let answer = String::from_utf8(heard.drain(..end).collect()).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{{{path}}}")), "{path}: {answer}");
        }
        asking.join().unwrap().unwrap();
        assert_eq!(heard, b"");
    }
}

#[test]
fn quick_answers_wait_for_the_slow_one_before_them() {
    let house = House::open(SETTINGS);
    let mut client = house.connect();
    client.say(get("/slow") + &get("/a") + &get("/later/b") + &get("/c"));
    house.seen.wait("all requests", |seen| seen.answered == 4);
    assert!(client.is_silent());
    house.release();
    for path in ["/slow", "/a", "/later/b", "/c"] {
        assert_eq!(client.answer().body, format!("{{{path}}}"));
    }
}

#[test]
fn requests_may_arrive_byte_by_byte() {
    let house = House::open(SETTINGS);
    let mut client = house.connect();
    for byte in SPEECH.concat().bytes() {
        client.say([byte]);
    }
    for path in ["/a", "/later/b", "/c", "/d"] {
        assert_eq!(client.answer().body, format!("{{{path}}}"));
    }
}

#[test]
fn requests_may_be_cut_at_every_place() {
    let house = House::open(SETTINGS);
    let speech = SPEECH.concat();
    for cut in 0..=speech.len() {
        let mut client = house.connect();
        let (first, second) = speech.split_at(cut);
        client.say(first);
        // Whoever has been answered was read: only the cut one may still meet its other half.
        let mut paths = VecDeque::from(["/a", "/later/b", "/c", "/d"]);
        let mut end = 0;
        for request in SPEECH {
            end += request.len();
            if end <= cut {
                assert_eq!(client.answer().body, format!("{{{}}}", paths.pop_front().unwrap()));
            }
        }
        client.say(second);
        for path in paths {
            assert_eq!(client.answer().body, format!("{{{path}}}"), "cut at {cut}");
        }
    }
}

#[test]
fn a_client_that_has_ended_its_half_still_gets_every_answer() {
    let house = House::open(SETTINGS);
    let mut client = house.connect();
    client.say(get("/slow") + &get("/later/a").repeat(100) + &get("/b") + "GET /unfinished");
    client.reader.get_ref().shutdown(Shutdown::Write).unwrap();
    house.seen.wait("the slow one", |seen| seen.answered > 0);
    house.release();
    assert_eq!(client.answer().body, "{/slow}");
    for _ in 0..100 {
        assert_eq!(client.answer().body, "{/later/a}");
    }
    assert_eq!(client.answer().body, "{/b}");
    assert_eq!(client.rest(), "");
}

#[test]
fn a_large_answer_arrives_whole() {
    let house = House::open(SETTINGS);
    let mut client = house.connect();
    client.say(get("/big/3000000") + &get("/a"));
    assert_eq!(client.answer().body.len(), 3_000_000);
    assert_eq!(client.answer().body, "{/a}");
}

#[test]
fn a_refusal_is_seen_by_a_client_that_goes_on_sending() {
    let house = House::open(SETTINGS);
    // More than the kernel holds: who is not read to the end cannot send all of it.
    let much = "x".repeat(8 << 20);
    let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    for (sent, status) in [
        (head("Content-Length: 1048577") + &much, 413),
        (head("Transfer-Encoding: chunked") + "fffffff\r\n" + &much, 413),
        (head("Content-Length: +5") + &much, 400),
        (head("Content-Length: 5\r\nTransfer-Encoding: chunked") + &much, 400),
        (head("Transfer-Encoding: br") + &much, 501),
        (head("Expect: more") + &much, 417),
        (format!("GET /{much}"), 414),
        (format!("GET / HTTP/1.1\r\nA: {much}"), 431),
        (format!("\x16\x03\x01{much}"), 400),
        (format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{much}"), 505),
    ] {
        let mut client = house.connect();
        let case = format!("{sent:.60}");
        let sending = client.say_aside(sent);
        let answer = client.answer();
        assert_eq!(answer.status, status, "{case}");
        assert!(answer.closes(), "{answer:?}");
        sending.join().unwrap().expect(&case);
        assert_eq!(client.rest(), "", "{case}");
    }
}

#[test]
fn a_refusal_comes_after_the_answers_that_are_owed() {
    let house = House::open(SETTINGS);
    let mut client = house.connect();
    client.say(get("/slow") + &get("/a") + "GET / HTTP/1.1\r\nHost : a\r\n\r\n" + &get("/b"));
    house.seen.wait("both requests", |seen| seen.answered == 2);
    house.release();
    assert_eq!(client.answer().body, "{/slow}");
    assert_eq!(client.answer().body, "{/a}");
    assert_eq!(client.answer().status, 400);
    assert_eq!(client.rest(), "");
}

#[test]
fn other_protocols_are_refused_at_once_or_answered_in_this_one() {
    let house = House::open(SETTINGS);
    for (sent, status) in [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", 505),
        // No line end will ever come of these.
        ("\x16\x03\x01\x02\0\x01\0", 400),
        ("\0", 400),
        ("SSH-2.0-OpenSSH_9.6\r\n\r\n", 400),
        ("{\"jsonrpc\": \"2.0\"}\n", 400),
    ] {
        let mut client = house.connect();
        client.say(sent);
        assert_eq!(client.answer().status, status, "{sent:?}");
        assert_eq!(client.rest(), "", "{sent:?}");
    }
    // RFC 9110 7.8: an upgrade may be ignored.
    for upgrade in ["websocket", "h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"] {
        let mut client = house.connect();
        client.say(format!(
            "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\n\r\n"
        ));
        assert_eq!(client.answer().body, "{/a}");
        assert_eq!(client.ask("/b").body, "{/b}");
    }
}

#[test]
fn a_slow_head_and_a_slow_body_are_told_408() {
    let house = House::open(Settings { head: SHORT, body: SHORT, ..SETTINGS });
    for start in [
        "G",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "\r\n\r\nGET ",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
    ] {
        let began = Instant::now();
        let mut client = house.connect();
        client.say(start);
        let answer = client.answer();
        assert_eq!(answer.status, 408, "{start:?}");
        assert!(answer.closes(), "{start:?}");
        assert!(began.elapsed() >= SHORT, "{start:?}: {:?}", began.elapsed());
        assert_eq!(client.rest(), "", "{start:?}");
    }
}

#[test]
fn a_trickle_buys_no_time() {
    let house = House::open(Settings { head: SHORT, body: SHORT, ..SETTINGS });
    for start in ["GET /", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"] {
        let mut client = house.connect();
        client.say(start);
        let began = Instant::now();
        while client.is_silent() && began.elapsed() < LONG {
            // A reset is all that may come of this once the answer is there.
            let _ = client.reader.get_ref().write_all(b"a");
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(client.answer().status, 408, "{start:?}");
    }
}

#[test]
fn an_idle_connection_is_closed_in_silence_when_its_time_is_over() {
    let house = House::open(Settings { idle: SHORT, ..SETTINGS });
    let mut fresh = house.connect();
    let mut used = house.connect();
    assert_eq!(used.ask("/a").status, 200);
    let began = Instant::now();
    assert_eq!(used.rest(), "");
    assert!(began.elapsed() >= SHORT.mul_f32(0.9), "{:?}", began.elapsed());
    assert_eq!(fresh.rest(), "");
    house.seen.wait("both closed", |seen| seen.closed == 2);
}

#[test]
fn a_client_that_never_reads_is_held_in_bounds_and_dropped() {
    let house = House::open(Settings { write: 4 * SHORT, ..SETTINGS });
    let deaf = house.connect();
    let asking = deaf.say_aside(get("/big/4096").repeat(300_000));
    let mut other = house.connect();
    let began = Instant::now();
    while house.seen.counts().closed == 0 {
        assert_eq!(other.ask("/a").body, "{/a}");
        assert!(began.elapsed() < LONG, "it is not dropped");
    }
    // The kernel holds some megabytes of answers; of those waiting here there are a few.
    let answered = house.seen.counts().big;
    assert!(answered < 20_000, "{answered} answers of 4 KB");
    let end = asking.join().unwrap().map_err(|error| error.kind());
    assert!(matches!(end, Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)), "{end:?}");
    assert_eq!(other.ask("/b").body, "{/b}");
}

#[test]
fn what_is_kept_for_slow_clients_is_bounded_for_all_of_them_together() {
    /// Of each head that does not end.
    const LONG_HEAD: usize = 15_000;
    let max = 4 * LONG_HEAD;
    let house = House::with_workers(1, Settings { buffer_bytes_max: max, ..SETTINGS });
    let start = unended("/a", 0);
    let long_start = unended("/a", LONG_HEAD - start.len());
    let begin = |start: &str| {
        let client = house.connect();
        client.say(start);
        client
    };
    let mut short: Vec<_> = (0..200).map(|_| begin(&start)).collect();
    let mut long: Vec<_> = (0..3).map(|_| begin(&long_start)).collect();
    // Whether they have arrived is told by one worker's answer to the next.
    assert_eq!(house.connect().ask("/a").status, 200);
    let told = (0..3).find_map(|_| {
        let mut more = begin(&long_start);
        if house.connect().ask("/a").status == 200 && more.is_silent() {
            long.push(more);
            return None;
        }
        Some(more.answer())
    });
    let told = told.expect("there is no room for so many");
    assert_eq!(told.status, 503);
    assert!(told.closes(), "{told:?}");
    // What is kept for an honest client is not counted, and those who were there first go on.
    for client in short.iter_mut().chain(&mut long) {
        client.say("\r\n\r\n");
        assert_eq!(client.answer().body, "{/a}");
    }
    // Whoever has been answered keeps nothing.
    let mut next = begin(&long_start);
    assert!(next.is_silent());
    next.say("\r\n\r\n");
    assert_eq!(next.answer().status, 200);
}

#[test]
fn a_client_that_takes_no_answers_is_dropped_when_they_would_fill_the_memory() {
    let house = House::open(Settings { buffer_bytes_max: 0, ..SETTINGS });
    let deaf = house.connect();
    let asking = deaf.say_aside(get("/big/4096").repeat(300_000));
    house.seen.wait("its end", |seen| seen.closed == 1);
    assert!(asking.join().unwrap().is_err());
    assert_eq!(house.connect().ask("/a").status, 200);
}

#[test]
fn answers_that_wait_for_a_slow_one_are_bounded_too() {
    let house = House::open(Settings { buffer_bytes_max: 0, ..SETTINGS });
    let mut modest = house.connect();
    modest.say(get("/slow") + &get("/a").repeat(5));
    let mut greedy = house.connect();
    greedy.say(get("/slow") + &get("/big/9000"));
    let told = greedy.answer();
    assert_eq!(told.status, 503);
    assert!(told.closes(), "{told:?}");
    assert_eq!(greedy.rest(), "");
    house.release();
    assert_eq!(modest.answer().body, "{/slow}");
    for _ in 0..5 {
        assert_eq!(modest.answer().body, "{/a}");
    }
}

#[test]
fn what_others_said_is_not_counted_as_kept_for_a_client() {
    let house = House::with_workers(1, Settings { buffer_bytes_max: 0, ..SETTINGS });
    let mut other = house.connect();
    other.say(unended("/a", 5_000) + "\r\n\r\n");
    assert_eq!(other.answer().status, 200);
    let mut client = house.connect();
    client.say("GET /b HTTP/1.1\r\n");
    assert_eq!(house.connect().ask("/c").status, 200);
    assert!(client.is_silent());
    client.say("Host: a\r\n\r\n");
    assert_eq!(client.answer().body, "{/b}");
}

#[test]
fn a_client_that_asks_without_end_leaves_others_their_turn() {
    let house = House::with_workers(1, SETTINGS);
    let greedy = house.connect();
    let (mut asker, mut reader) = (greedy.stream(), greedy.stream());
    let asking = thread::spawn(move || {
        let batch = get("/a").repeat(2_000);
        while asker.write_all(batch.as_bytes()).is_ok() {}
    });
    let reading = thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
    house.seen.wait("its first requests", |seen| seen.answered > 0);
    let mut other = house.connect();
    for _ in 0..20 {
        assert_eq!(other.ask("/b").body, "{/b}");
    }
    assert!(!asking.is_finished() && !reading.is_finished());
    greedy.stream().shutdown(Shutdown::Both).unwrap();
    asking.join().unwrap();
    let _ = reading.join().unwrap();
}

#[test]
fn a_panic_is_a_500_and_the_end_of_its_connection_alone() {
    let house = House::open(SETTINGS);
    let mut other = house.connect();
    assert_eq!(other.ask("/a").status, 200);
    for path in ["/panic", "/panic-later"] {
        let mut client = house.connect();
        client.say(get("/a") + &get(path) + &get("/b"));
        assert_eq!(client.answer().body, "{/a}");
        let answer = client.answer();
        assert_eq!((answer.status, &*answer.body), (500, "{sorry}"), "{path}");
        assert!(answer.closes(), "{path}: {answer:?}");
        assert_eq!(client.rest(), "", "{path}");
        assert_eq!(other.ask("/c").status, 200, "{path}");
    }
}

#[test]
fn connections_beyond_the_limit_are_told_503_and_have_their_turn_later() {
    let house = House::open(Settings { connections_max: 2, ..SETTINGS });
    let (mut first, mut second) = (house.connect(), house.connect());
    assert_eq!((first.ask("/a").status, second.ask("/a").status), (200, 200));
    for speech in [String::new(), get("/b"), get("/b").repeat(10_000)] {
        let mut third = house.connect();
        third.say(&speech);
        let answer = third.answer();
        assert_eq!(answer.status, 503);
        assert!(answer.closes(), "{answer:?}");
        assert_eq!(third.rest(), "");
        assert_eq!((first.ask("/c").status, second.ask("/c").status), (200, 200));
    }
    drop(first);
    house.seen.wait("room", |seen| seen.closed == 4);
    assert_eq!(house.connect().ask("/d").status, 200);
    assert_eq!(house.seen.counts().turned_away, 3);
}

#[test]
fn idle_connections_end_with_the_service() {
    let mut house = House::open(SETTINGS);
    let mut clients: Vec<_> = (0..10).map(|_| house.connect()).collect();
    for client in clients.iter_mut().skip(5) {
        assert_eq!(client.ask("/a").status, 200);
    }
    let took = house.end();
    for client in &mut clients {
        assert_eq!(client.rest(), "");
    }
    assert!(took < LONG / 2, "{took:?}");
    let error = TcpStream::connect(house.address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn requests_under_way_are_answered_and_the_last_answer_says_close() {
    let mut house = House::open(SETTINGS);
    let mut client = house.connect();
    client.say(get("/slow") + &get("/a") + &get("/later/b"));
    let mut uploader = house.connect();
    uploader.say("POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx");
    house.seen.wait("the requests", |seen| seen.answered == 3);
    house.ending.raise();
    uploader.say("y");
    house.release();
    for (path, last) in [("/slow", false), ("/a", false), ("/later/b", true)] {
        let answer = client.answer();
        assert_eq!(answer.body, format!("{{{path}}}"));
        assert_eq!(answer.closes(), last, "{answer:?}");
    }
    assert_eq!(client.rest(), "");
    let answer = uploader.answer();
    assert_eq!(answer.body, "{/c}");
    assert!(answer.closes(), "{answer:?}");
    assert_eq!(uploader.rest(), "");
    assert!(house.end() < LONG / 2);
}

#[test]
fn connections_made_just_before_the_end_are_served() {
    let mut house = House::open(SETTINGS);
    // Some of them are still in the kernel's queue when the ending is raised.
    let mut clients: Vec<_> = (0..100).map(|_| house.connect()).collect();
    house.ending.raise();
    for client in &mut clients {
        client.say(get("/a"));
    }
    for client in &mut clients {
        let answer = client.answer();
        assert_eq!(answer.body, "{/a}");
        assert!(answer.closes(), "{answer:?}");
        assert_eq!(client.rest(), "");
    }
    assert!(house.end() < LONG / 2);
}

#[test]
fn a_request_that_never_ends_holds_the_end_up_for_the_drain_time_alone() {
    let mut house = House::open(Settings { drain: 4 * SHORT, ..SETTINGS });
    let mut client = house.connect();
    client.say(get("/slow"));
    house.seen.wait("the request", |seen| seen.answered == 1);
    let took = house.end();
    assert!((4 * SHORT..LONG / 2).contains(&took), "{took:?}");
    assert_eq!(client.rest(), "");
    assert_eq!(house.seen.counts().closed, 1);
}

#[test]
fn a_client_may_wait_to_be_told_to_send_its_body() {
    let house = House::open(SETTINGS);
    let mut client = house.connect();
    let head = |length: usize| {
        format!(
            "POST /c HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    client.say(get("/slow") + &head(5));
    house.seen.wait("the request before", |seen| seen.answered == 1);
    assert!(client.is_silent());
    house.release();
    assert_eq!(client.answer().body, "{/slow}");
    let go_on = client.head();
    assert_eq!(go_on, "HTTP/1.1 100 Continue\r\n\r\n");
    client.say("12345");
    assert_eq!(client.answer().body, "{/c}");
    // Who has begun to send is not told to.
    client.say(head(5) + "12345" + &get("/d"));
    assert_eq!(client.answer().body, "{/c}");
    assert_eq!(client.answer().body, "{/d}");
    client.say(head(2 << 20));
    assert_eq!(client.answer().status, 413);
    assert_eq!(client.rest(), "");
}

#[test]
fn an_old_client_is_closed_on_unless_it_asks_to_be_kept() {
    let house = House::open(SETTINGS);
    let mut client = house.connect();
    client.say("GET /a HTTP/1.0\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.body, "{/a}");
    assert!(answer.closes(), "{answer:?}");
    assert_eq!(client.rest(), "");

    let mut client = house.connect();
    for path in ["/a", "/later/b"] {
        client.say(format!("GET {path} HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
        let answer = client.answer();
        assert_eq!(answer.body, format!("{{{path}}}"));
        assert!(answer.head.contains("\r\nConnection: keep-alive\r\n"), "{answer:?}");
    }
}

#[test]
fn a_client_that_wants_to_end_is_closed_on_after_its_answer() {
    let house = House::open(SETTINGS);
    let last = "GET /b HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n";
    for after in ["", "GET /never HTTP/1.1\r\nHost: a\r\n\r\n", &"x".repeat(1 << 20)] {
        let mut client = house.connect();
        client.say(get("/a") + last + after);
        assert_eq!(client.answer().body, "{/a}");
        let answer = client.answer();
        assert_eq!(answer.body, "{/b}");
        assert!(answer.closes(), "{answer:?}");
        assert_eq!(client.rest(), "", "{} bytes after", after.len());
    }
}

#[test]
fn a_client_that_wants_to_end_and_then_says_more_gets_its_answer() {
    let house = House::open(SETTINGS);
    let mut client = house.connect();
    client.say("GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    house.seen.wait("its request", |seen| seen.answered == 1);
    client.say("more");
    house.release();
    assert_eq!(client.answer().body, "{/slow}");
    assert_eq!(client.rest(), "");
}

#[test]
fn a_head_is_answered_as_the_get_is_without_its_body() {
    let house = House::open(SETTINGS);
    let mut client = house.connect();
    for path in ["/a", "/later/b"] {
        let get_head = client.ask(path).head;
        client.say(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let (head, get_head) = (client.head(), without_date(&get_head));
        assert_eq!(without_date(&head), get_head);
    }
    assert_eq!(client.ask("/c").body, "{/c}");
}

#[test]
fn a_reset_ends_its_connection_and_harms_nobody() {
    let house = House::open(SETTINGS);
    let mut other = house.connect();
    for (closed, speech) in [get("/a"), get("/a") + &get("/slow"), get("/a") + "GET / HT"]
        .into_iter()
        .chain([get("/big/9000000")])
        .enumerate()
    {
        let client = house.connect();
        client.say(speech);
        // An answer that lies unread when the socket is closed makes that a reset.
        assert_eq!(client.reader.get_ref().peek(&mut [0]).unwrap(), 1);
        drop(client);
        house.seen.wait("its end", |seen| seen.closed == closed + 1);
        assert_eq!(other.ask("/b").status, 200);
    }
}

#[test]
fn thousands_of_idle_connections_leave_a_working_one_alone() {
    const IDLE: usize = 2_000;
    sys::raise_open_files().unwrap();
    let mut house = House::open(SETTINGS);
    let mut idle: Vec<_> = (0..IDLE).map(|_| house.connect()).collect();
    house.seen.wait("all of them", |seen| seen.opened == IDLE);
    let mut working = house.connect();
    for _ in 0..500 {
        assert_eq!(working.ask("/a").status, 200);
    }
    assert_eq!(house.seen.counts().closed, 0);
    for client in &mut idle {
        client.say(get("/b"));
    }
    for client in &mut idle {
        assert_eq!(client.answer().body, "{/b}");
    }
    let took = house.end();
    assert!(took < LONG / 2, "{took:?}");
    assert_eq!(house.seen.counts().closed, IDLE + 1);
}

// ---------- below: the service, the house it serves in, and its clients ----------

/// A pipeline with every kind of body in it.
const SPEECH: [&str; 4] = [
    "GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\nPOST /later/b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    "PUT /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\nT: u\r\n\r\n",
    "GET http://a/d?e HTTP/1.1\r\nHost: a\r\n\r\n",
];

fn without_date(head: &str) -> Vec<&str> {
    head.lines().filter(|line| !line.starts_with("Date: ")).collect()
}

/// What has happened so far.
#[derive(Default)]
struct Counts {
    answered: usize,
    big: usize,
    opened: usize,
    closed: usize,
    turned_away: usize,
    /// Whether `/slow` may be answered, and who waits for that.
    released: bool,
    sleepers: Vec<Waker>,
}

#[derive(Default)]
struct Seen {
    counts: Mutex<Counts>,
    changed: Condvar,
}

impl Seen {
    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap()
    }

    fn note(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts());
        self.changed.notify_all();
    }

    fn wait(&self, what: &str, come: impl Fn(&Counts) -> bool) {
        let waited = self.changed.wait_timeout_while(self.counts(), LONG, |seen| !come(seen));
        assert!(!waited.unwrap().1.timed_out(), "{what} did not come");
    }
}

/// Answers with the path, now or later, or as the path says.
struct Echo(Arc<Seen>);

/// An answer that takes time.
struct Later {
    response: Response,
    until: Until,
}

enum Until {
    Polls(u8),
    Release(Arc<Seen>),
    Panic,
}

impl Service for Echo {
    type Later = Later;
    type Note = ();

    fn answer(&self, request: &Request<'_>, _: &Peer) -> Answer<Later, ()> {
        let path = std::str::from_utf8(&request.path).unwrap();
        let big = path.strip_prefix("/big/").map(|size| size.parse().unwrap());
        self.0.note(|seen| {
            seen.answered += 1;
            seen.big += usize::from(big.is_some());
        });
        let body = match big {
            Some(size) => vec![b'x'; size],
            None => format!("{{{path}}}").into_bytes(),
        };
        let response = Response::json(Status::Ok, body);
        let until = match path {
            "/panic" => panic!("as asked"),
            "/panic-later" => Until::Panic,
            "/slow" => Until::Release(Arc::clone(&self.0)),
            _ if path.starts_with("/later/") => Until::Polls(3),
            _ => return Answer::Now(response),
        };
        Answer::Later(Later { response, until }, ())
    }

    fn settle(&self, (): (), _: &Peer, _: &Response) {}

    fn refuse(&self, refusal: Refusal, _: &Peer) -> Response {
        Response::json(refusal.status(), refusal.phrase().as_bytes())
    }

    fn apologize(&self) -> Response {
        Response::json(Status::InternalServerError, &b"{sorry}"[..])
    }

    fn date(&self) -> Date {
        telemetry::http_date(0)
    }

    fn wants_addresses(&self) -> bool {
        true
    }

    fn notice(&self, event: Event) {
        self.0.note(|seen| match event {
            Event::Opened => seen.opened += 1,
            Event::Closed => seen.closed += 1,
            Event::TurnedAway => seen.turned_away += 1,
            Event::NotAccepted(error) => panic!("{error}"),
        });
    }
}

impl Future for Later {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        match &mut self.until {
            Until::Polls(0) => return Poll::Ready(self.response.clone()),
            Until::Polls(left) => {
                *left -= 1;
                cx.waker().wake_by_ref();
            }
            Until::Release(seen) => {
                let mut seen = seen.counts();
                if seen.released {
                    drop(seen);
                    return Poll::Ready(self.response.clone());
                }
                seen.sleepers.push(cx.waker().clone());
            }
            Until::Panic => panic!("as asked, later"),
        }
        Poll::Pending
    }
}

/// A server at work, which ends when it is dropped.
struct House {
    address: SocketAddr,
    seen: Arc<Seen>,
    ending: Ending,
    workers: Vec<JoinHandle<io::Result<()>>>,
}

impl House {
    fn open(settings: Settings) -> House {
        House::with_workers(2, settings)
    }

    fn with_workers(count: usize, settings: Settings) -> House {
        let listener = server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, ending) = (Arc::<Seen>::default(), Ending::default());
        let occupancy = Arc::<Occupancy>::default();
        let work = |_| {
            let (listener, occupancy) = (Arc::clone(&listener), Arc::clone(&occupancy));
            let (seen, ending) = (Arc::clone(&seen), ending.clone());
            thread::spawn(move || {
                let echo = Rc::new(Echo(seen));
                let serving = server::serve(echo, listener, settings, occupancy, ending.clone());
                runtime::run(&ending, serving)
            })
        };
        let workers = (0..count).map(work).collect();
        House { address, seen, ending, workers }
    }

    fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Lets `/slow` be answered.
    fn release(&self) {
        self.seen.note(|seen| {
            seen.released = true;
            seen.sleepers.drain(..).for_each(Waker::wake);
        });
    }

    /// Ends the service; how long that took.
    fn end(&mut self) -> Duration {
        let began = Instant::now();
        self.ending.raise();
        for worker in self.workers.drain(..) {
            while !worker.is_finished() {
                assert!(began.elapsed() < 2 * LONG, "it does not end");
                thread::sleep(Duration::from_millis(1));
            }
            worker.join().unwrap().unwrap();
        }
        began.elapsed()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // A test that fails has said why; its clients may keep the workers for long.
        if !thread::panicking() {
            self.end();
        }
    }
}

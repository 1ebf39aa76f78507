//! The server over real sockets, with a service that these tests bring: when bytes arrive, and how
//! connections close. The parser has its own tests.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::http::{Limits, Request, Response, Status};
use common::server::{self, Event, Load, MaybeReady, Peer, Reject, Service, Settings};
use common::{rt, sys};
use testing::client::{Client, get, unfinished};
use testing::{WAIT_MAX, wait_for, wait_until};

/// Long enough for the server to be on time, short enough for a test to wait for.
const SHORT: Duration = Duration::from_millis(60);

const SETTINGS: Settings = Settings {
    limits: Limits { head_bytes_max: 16 << 10, body_bytes_max: 1 << 20 },
    connections_max: 10_000,
    buffer_bytes_max: 16 << 20,
    idle_timeout: WAIT_MAX,
    head_timeout: WAIT_MAX,
    body_timeout: WAIT_MAX,
    write_timeout: WAIT_MAX,
    drain_timeout: WAIT_MAX,
    peer_addresses: true,
    common_lines: String::new(),
    served_by: None,
};

#[test]
fn a_deep_pipeline_gets_all_responses_in_order() {
    for kind in ["now", "later"] {
        let server = TestServer::start(&SETTINGS);
        let mut client = server.connect();
        let paths: Vec<_> = (0..5_000).map(|number| format!("/{kind}/{number}")).collect();
        let sending =
            client.send_in_background(paths.iter().map(|path| get(path)).collect::<String>());
        let mut received = Vec::new();
        for path in &paths {
            while !received.contains(&b'}') {
                let mut part = [0; 61];
                let count = client.reader.read(&mut part).unwrap();
                assert_ne!(count, 0, "{path}");
                received.extend_from_slice(&part[..count]);
            }
            let end = received.iter().position(|&byte| byte == b'}').unwrap() + 1;
            let response = String::from_utf8(received.drain(..end).collect()).unwrap();
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
            assert!(response.ends_with(&format!("\r\n\r\n{{{path}}}")), "{path}: {response}");
        }
        sending.join().unwrap().unwrap();
        assert_eq!(received, b"");
    }
}

#[test]
fn quick_responses_wait_for_the_slow_one_before_them() {
    let server = TestServer::start(&SETTINGS);
    let mut client = server.connect();
    client.send(get("/slow") + &get("/a") + &get("/later/b") + &get("/c"));
    server.wait("all requests", |seen| seen.requests == 4);
    assert!(client.is_silent());
    server.release();
    for path in ["/slow", "/a", "/later/b", "/c"] {
        assert_eq!(client.response().body, format!("{{{path}}}"));
    }
}

#[test]
fn requests_may_arrive_byte_by_byte() {
    let server = TestServer::start(&SETTINGS);
    let mut client = server.connect();
    for byte in REQUESTS.concat().bytes() {
        client.send([byte]);
    }
    for path in ["/a", "/later/b", "/c", "/d"] {
        assert_eq!(client.response().body, format!("{{{path}}}"));
    }
}

#[test]
fn requests_may_be_cut_at_every_place() {
    let server = TestServer::start(&SETTINGS);
    let requests = REQUESTS.concat();
    for cut in 0..=requests.len() {
        let mut client = server.connect();
        let (first, second) = requests.split_at(cut);
        client.send(first);
        // After its response, a request has been read: only the one that is cut is parsed in two parts.
        let mut paths = VecDeque::from(["/a", "/later/b", "/c", "/d"]);
        let mut end = 0;
        for request in REQUESTS {
            end += request.len();
            if end <= cut {
                assert_eq!(client.response().body, format!("{{{}}}", paths.pop_front().unwrap()));
            }
        }
        client.send(second);
        for path in paths {
            assert_eq!(client.response().body, format!("{{{path}}}"), "cut at {cut}");
        }
    }
}

#[test]
fn a_client_that_has_closed_its_half_still_gets_all_responses() {
    let server = TestServer::start(&SETTINGS);
    let mut client = server.connect();
    client.send(get("/slow") + &get("/later/a").repeat(100) + &get("/b") + "GET /unfinished");
    client.reader.get_ref().shutdown(Shutdown::Write).unwrap();
    server.wait("the slow one", |seen| seen.requests > 0);
    server.release();
    assert_eq!(client.response().body, "{/slow}");
    for _ in 0..100 {
        assert_eq!(client.response().body, "{/later/a}");
    }
    assert_eq!(client.response().body, "{/b}");
    assert_eq!(client.read_to_end(), "");
}

#[test]
fn a_large_response_arrives_whole() {
    let server = TestServer::start(&SETTINGS);
    let mut client = server.connect();
    client.send(get("/big/3000000") + &get("/a"));
    assert_eq!(client.response().body.len(), 3_000_000);
    assert_eq!(client.response().body, "{/a}");
}

#[test]
fn a_client_that_goes_on_sending_sees_its_rejection() {
    let server = TestServer::start(&SETTINGS);
    // More than the buffers of the kernel: it can be sent only if the server reads on.
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
        let mut client = server.connect();
        let case = format!("{sent:.60}");
        let sending = client.send_in_background(sent);
        let response = client.response();
        assert_eq!(response.status, status, "{case}");
        assert!(response.is_last(), "{response:?}");
        sending.join().unwrap().expect(&case);
        assert_eq!(client.read_to_end(), "", "{case}");
    }
}

#[test]
fn a_rejection_comes_after_the_responses_before_it() {
    let server = TestServer::start(&SETTINGS);
    let mut client = server.connect();
    client.send(get("/slow") + &get("/a") + "GET / HTTP/1.1\r\nHost : a\r\n\r\n" + &get("/b"));
    server.wait("both requests", |seen| seen.requests == 2);
    server.release();
    assert_eq!(client.response().body, "{/slow}");
    assert_eq!(client.response().body, "{/a}");
    assert_eq!(client.response().status, 400);
    assert_eq!(client.read_to_end(), "");
}

#[test]
fn other_protocols_are_rejected_at_once_or_answered_in_http_1() {
    let server = TestServer::start(&SETTINGS);
    for (sent, status) in [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", 505),
        // No line end will ever come of these.
        ("\x16\x03\x01\x02\0\x01\0", 400),
        ("\0", 400),
        ("SSH-2.0-OpenSSH_9.6\r\n\r\n", 400),
        ("{\"jsonrpc\": \"2.0\"}\n", 400),
    ] {
        let mut client = server.connect();
        client.send(sent);
        assert_eq!(client.response().status, status, "{sent:?}");
        assert_eq!(client.read_to_end(), "", "{sent:?}");
    }
    // RFC 9110 7.8: an upgrade may be ignored.
    for upgrade in ["websocket", "h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"] {
        let mut client = server.connect();
        client.send(format!(
            "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\n\r\n"
        ));
        assert_eq!(client.response().body, "{/a}");
        assert_eq!(client.request("/b").body, "{/b}");
    }
}

#[test]
fn a_slow_head_and_a_slow_body_get_408() {
    let server =
        TestServer::start(&Settings { head_timeout: SHORT, body_timeout: SHORT, ..SETTINGS });
    for start in [
        "G",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "\r\n\r\nGET ",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
    ] {
        let began = Instant::now();
        let mut client = server.connect();
        client.send(start);
        let response = client.response();
        assert_eq!(response.status, 408, "{start:?}");
        assert!(response.is_last(), "{start:?}");
        assert!(began.elapsed() >= SHORT, "{start:?}: {:?}", began.elapsed());
        assert_eq!(client.read_to_end(), "", "{start:?}");
    }
}

#[test]
fn a_trickle_does_not_extend_a_timeout() {
    let server =
        TestServer::start(&Settings { head_timeout: SHORT, body_timeout: SHORT, ..SETTINGS });
    for start in ["GET /", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"] {
        let mut client = server.connect();
        client.send(start);
        let began = Instant::now();
        while client.is_silent() && began.elapsed() < WAIT_MAX {
            // An error may come of this once the response is there.
            let _ = client.reader.get_ref().write_all(b"a");
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(client.response().status, 408, "{start:?}");
    }
}

#[test]
fn an_idle_connection_is_closed_without_a_response() {
    let server = TestServer::start(&Settings { idle_timeout: SHORT, ..SETTINGS });
    let mut fresh = server.connect();
    let mut used = server.connect();
    assert_eq!(used.request("/a").status, 200);
    let began = Instant::now();
    assert_eq!(used.read_to_end(), "");
    assert!(began.elapsed() >= SHORT.mul_f32(0.9), "{:?}", began.elapsed());
    assert_eq!(fresh.read_to_end(), "");
    wait_until("both closed", || server.closed() == 2);
}

#[test]
fn a_client_that_never_reads_is_bounded_and_dropped() {
    let server = TestServer::start(&Settings { write_timeout: 4 * SHORT, ..SETTINGS });
    let client = server.connect();
    let sending = client.send_in_background(get("/big/4096").repeat(300_000));
    let mut other = server.connect();
    let began = Instant::now();
    while server.closed() == 0 {
        assert_eq!(other.request("/a").body, "{/a}");
        assert!(began.elapsed() < WAIT_MAX, "it is not dropped");
    }
    // The kernel buffers some megabytes of responses, the server a few of them.
    let requests = server.counts().big_requests;
    assert!(requests < 20_000, "{requests} responses of 4 KB");
    let end = sending.join().unwrap().map_err(|error| error.kind());
    assert!(matches!(end, Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)), "{end:?}");
    assert_eq!(other.request("/b").body, "{/b}");
}

#[test]
fn bytes_buffered_for_all_slow_clients_are_bounded() {
    /// The length of each head that does not end.
    const LONG_HEAD: usize = 15_000;
    let max = 4 * LONG_HEAD;
    let server = TestServer::with_workers(1, &Settings { buffer_bytes_max: max, ..SETTINGS });
    let start = unfinished("/a", 0);
    let long_start = unfinished("/a", LONG_HEAD - start.len());
    let begin = |start: &str| {
        let client = server.connect();
        client.send(start);
        client
    };
    let mut short: Vec<_> = (0..200).map(|_| begin(&start)).collect();
    let mut long: Vec<_> = (0..3).map(|_| begin(&long_start)).collect();
    // The one worker responds to this after it has read all of them.
    let mut other = server.connect();
    assert_eq!(other.request("/a").status, 200);
    let mut more: Vec<_> = (0..3).map(|_| begin(&long_start)).collect();
    let one_too_many =
        wait_for("one too many", WAIT_MAX, || more.iter().position(|it| !it.is_silent()));
    let response = more[one_too_many].response();
    assert_eq!(response.status, 503);
    assert!(response.is_last(), "{response:?}");
    drop(more);
    wait_until("the end of these", || server.closed() == 3);
    // Bytes of a short head are not charged, and earlier clients go on.
    for client in short.iter_mut().chain(&mut long) {
        client.send("\r\n\r\n");
        assert_eq!(client.response().body, "{/a}");
    }
    // After its response, a client holds no buffer.
    let mut next = begin(&long_start);
    assert!(next.is_silent());
    next.send("\r\n\r\n");
    assert_eq!(next.response().status, 200);
}

#[test]
fn a_client_that_reads_no_response_is_dropped_when_the_buffers_are_full() {
    let server = TestServer::start(&Settings { buffer_bytes_max: 0, ..SETTINGS });
    let client = server.connect();
    let sending = client.send_in_background(get("/big/4096").repeat(300_000));
    wait_until("its end", || server.closed() == 1);
    assert!(sending.join().unwrap().is_err());
    assert_eq!(server.connect().request("/a").status, 200);
}

#[test]
fn responses_that_wait_for_a_slow_one_are_bounded() {
    let server = TestServer::start(&Settings { buffer_bytes_max: 0, ..SETTINGS });
    let mut modest = server.connect();
    modest.send(get("/slow") + &get("/a").repeat(5));
    let mut greedy = server.connect();
    greedy.send(get("/slow") + &get("/big/9000"));
    let response = greedy.response();
    assert_eq!(response.status, 503);
    assert!(response.is_last(), "{response:?}");
    assert_eq!(greedy.read_to_end(), "");
    server.release();
    assert_eq!(modest.response().body, "{/slow}");
    for _ in 0..5 {
        assert_eq!(modest.response().body, "{/a}");
    }
}

#[test]
fn bytes_of_other_clients_are_not_charged_to_a_client() {
    let server = TestServer::with_workers(1, &Settings { buffer_bytes_max: 0, ..SETTINGS });
    let mut other = server.connect();
    other.send(unfinished("/a", 5_000) + "\r\n\r\n");
    assert_eq!(other.response().status, 200);
    let mut client = server.connect();
    client.send("GET /b HTTP/1.1\r\n");
    assert_eq!(server.connect().request("/c").status, 200);
    assert!(client.is_silent());
    client.send("Host: a\r\n\r\n");
    assert_eq!(client.response().body, "{/b}");
}

#[test]
fn a_client_that_never_stops_sending_leaves_others_their_turn() {
    let server = TestServer::with_workers(1, &SETTINGS);
    let greedy = server.connect();
    let (mut asker, mut reader) = (greedy.stream(), greedy.stream());
    let sending = thread::spawn(move || {
        let batch = get("/a").repeat(2_000);
        while asker.write_all(batch.as_bytes()).is_ok() {}
    });
    let reading = thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
    server.wait("its first requests", |seen| seen.requests > 0);
    let mut other = server.connect();
    for _ in 0..20 {
        assert_eq!(other.request("/b").body, "{/b}");
    }
    assert!(!sending.is_finished() && !reading.is_finished());
    greedy.stream().shutdown(Shutdown::Both).unwrap();
    sending.join().unwrap();
    let _ = reading.join().unwrap();
}

#[test]
fn a_panic_is_a_500_and_the_end_of_its_connection_alone() {
    let server = TestServer::start(&SETTINGS);
    let mut other = server.connect();
    assert_eq!(other.request("/a").status, 200);
    for path in ["/panic", "/panic-later"] {
        let mut client = server.connect();
        client.send(get("/a") + &get(path) + &get("/b"));
        assert_eq!(client.response().body, "{/a}");
        let response = client.response();
        assert_eq!((response.status, &*response.body), (500, "{internal error}"), "{path}");
        assert!(response.is_last(), "{path}: {response:?}");
        assert_eq!(client.read_to_end(), "", "{path}");
        assert_eq!(other.request("/c").status, 200, "{path}");
    }
}

#[test]
fn connections_beyond_the_limit_get_503_and_can_try_again() {
    let server = TestServer::start(&Settings { connections_max: 2, ..SETTINGS });
    let (mut first, mut second) = (server.connect(), server.connect());
    assert_eq!((first.request("/a").status, second.request("/a").status), (200, 200));
    for request in [String::new(), get("/b"), get("/b").repeat(10_000)] {
        let mut third = server.connect();
        third.send(&request);
        let response = third.response();
        assert_eq!(response.status, 503);
        assert!(response.is_last(), "{response:?}");
        assert_eq!(third.read_to_end(), "");
        assert_eq!((first.request("/c").status, second.request("/c").status), (200, 200));
    }
    drop(first);
    wait_until("room", || server.closed() == 4);
    assert_eq!(server.connect().request("/d").status, 200);
    assert_eq!(server.counts().over_limit, 3);
}

#[test]
fn idle_connections_end_with_the_server() {
    let mut server = TestServer::start(&SETTINGS);
    let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for client in clients.iter_mut().skip(5) {
        assert_eq!(client.request("/a").status, 200);
    }
    let took = server.stop();
    for client in &mut clients {
        assert_eq!(client.read_to_end(), "");
    }
    assert!(took < WAIT_MAX / 2, "{took:?}");
    let error = TcpStream::connect(server.address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn requests_under_way_get_responses_and_the_last_says_close() {
    let mut server = TestServer::start(&SETTINGS);
    let mut client = server.connect();
    client.send(get("/slow") + &get("/a") + &get("/later/b"));
    let mut uploader = server.connect();
    uploader.send("POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx");
    server.wait("the requests", |seen| seen.requests == 3);
    server.shutdown.begin();
    uploader.send("y");
    server.release();
    for (path, last) in [("/slow", false), ("/a", false), ("/later/b", true)] {
        let response = client.response();
        assert_eq!(response.body, format!("{{{path}}}"));
        assert_eq!(response.is_last(), last, "{response:?}");
    }
    assert_eq!(client.read_to_end(), "");
    let response = uploader.response();
    assert_eq!(response.body, "{/c}");
    assert!(response.is_last(), "{response:?}");
    assert_eq!(uploader.read_to_end(), "");
    assert!(server.stop() < WAIT_MAX / 2);
}

#[test]
fn connections_opened_just_before_the_shutdown_are_served() {
    let mut server = TestServer::start(&SETTINGS);
    // Some of them are still in the kernel's backlog when the shutdown begins.
    let mut clients: Vec<_> = (0..100).map(|_| server.connect()).collect();
    server.shutdown.begin();
    for client in &mut clients {
        client.send(get("/a"));
    }
    for client in &mut clients {
        let response = client.response();
        assert_eq!(response.body, "{/a}");
        assert!(response.is_last(), "{response:?}");
        assert_eq!(client.read_to_end(), "");
    }
    assert!(server.stop() < WAIT_MAX / 2);
}

#[test]
fn a_request_that_never_ends_delays_the_end_by_the_drain_timeout() {
    let mut server = TestServer::start(&Settings { drain_timeout: 4 * SHORT, ..SETTINGS });
    let mut client = server.connect();
    client.send(get("/slow"));
    server.wait("the request", |seen| seen.requests == 1);
    let took = server.stop();
    assert!((4 * SHORT..WAIT_MAX / 2).contains(&took), "{took:?}");
    assert_eq!(client.read_to_end(), "");
    assert_eq!(server.closed(), 1);
}

#[test]
fn a_client_may_wait_for_100_continue() {
    let server = TestServer::start(&SETTINGS);
    let mut client = server.connect();
    let head = |length: usize| {
        format!(
            "POST /c HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    client.send(get("/slow") + &head(5));
    server.wait("the request before", |seen| seen.requests == 1);
    assert!(client.is_silent());
    server.release();
    assert_eq!(client.response().body, "{/slow}");
    let interim = client.response_head();
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("12345");
    assert_eq!(client.response().body, "{/c}");
    // A client that has begun to send its body gets no 100.
    client.send(head(5) + "12345" + &get("/d"));
    assert_eq!(client.response().body, "{/c}");
    assert_eq!(client.response().body, "{/d}");
    client.send(head(2 << 20));
    assert_eq!(client.response().status, 413);
    assert_eq!(client.read_to_end(), "");
}

#[test]
fn an_http_1_0_connection_closes_unless_the_client_keeps_it() {
    let server = TestServer::start(&SETTINGS);
    let mut client = server.connect();
    client.send("GET /a HTTP/1.0\r\n\r\n");
    let response = client.response();
    assert_eq!(response.body, "{/a}");
    assert!(response.is_last(), "{response:?}");
    assert_eq!(client.read_to_end(), "");

    let mut client = server.connect();
    for path in ["/a", "/later/b"] {
        client.send(format!("GET {path} HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
        let response = client.response();
        assert_eq!(response.body, format!("{{{path}}}"));
        assert!(response.head.contains("\r\nConnection: keep-alive\r\n"), "{response:?}");
    }
}

#[test]
fn a_connection_closes_after_a_request_that_says_close() {
    let server = TestServer::start(&SETTINGS);
    let last = "GET /b HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n";
    for after in ["", "GET /never HTTP/1.1\r\nHost: a\r\n\r\n", &"x".repeat(1 << 20)] {
        let mut client = server.connect();
        client.send(get("/a") + last + after);
        assert_eq!(client.response().body, "{/a}");
        let response = client.response();
        assert_eq!(response.body, "{/b}");
        assert!(response.is_last(), "{response:?}");
        assert_eq!(client.read_to_end(), "", "{} bytes after", after.len());
    }
}

#[test]
fn a_client_that_sends_more_after_close_gets_its_response() {
    let server = TestServer::start(&SETTINGS);
    let mut client = server.connect();
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    server.wait("its request", |seen| seen.requests == 1);
    client.send("more");
    server.release();
    assert_eq!(client.response().body, "{/slow}");
    assert_eq!(client.read_to_end(), "");
}

#[test]
fn the_response_to_head_is_that_to_get_without_its_body() {
    let server = TestServer::start(&SETTINGS);
    let mut client = server.connect();
    for path in ["/a", "/later/b"] {
        let get_head = client.request(path).head;
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let (head, get_head) = (client.response_head(), without_date(&get_head));
        assert_eq!(without_date(&head), get_head);
    }
    assert_eq!(client.request("/c").body, "{/c}");
}

#[test]
fn a_reset_ends_its_connection_alone() {
    let server = TestServer::start(&SETTINGS);
    let mut other = server.connect();
    for (closed, requests) in [get("/a"), get("/a") + &get("/slow"), get("/a") + "GET / HT"]
        .into_iter()
        .chain([get("/big/9000000")])
        .enumerate()
    {
        let client = server.connect();
        client.send(requests);
        // An unread response makes the close of a socket a reset.
        assert_eq!(client.reader.get_ref().peek(&mut [0]).unwrap(), 1);
        drop(client);
        wait_until("its end", || server.closed() == closed + 1);
        assert_eq!(other.request("/b").status, 200);
    }
}

#[test]
fn thousands_of_idle_connections_leave_another_one_alone() {
    const IDLE: usize = 2_000;
    sys::raise_descriptor_limit().unwrap();
    let mut server = TestServer::start(&SETTINGS);
    let mut idle: Vec<_> = (0..IDLE).map(|_| server.connect()).collect();
    server.wait("all of them", |seen| seen.opened == IDLE);
    let mut working = server.connect();
    for _ in 0..500 {
        assert_eq!(working.request("/a").status, 200);
    }
    assert_eq!(server.closed(), 0);
    for client in &mut idle {
        client.send(get("/b"));
    }
    for client in &mut idle {
        assert_eq!(client.response().body, "{/b}");
    }
    let took = server.stop();
    assert!(took < WAIT_MAX / 2, "{took:?}");
    assert_eq!(server.closed(), IDLE + 1);
}

// ---------- below: the service, and a server for it ----------

/// A pipeline with every kind of body.
const REQUESTS: [&str; 4] = [
    "GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\nPOST /later/b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    "PUT /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\nT: u\r\n\r\n",
    "GET http://a/d?e HTTP/1.1\r\nHost: a\r\n\r\n",
];

fn without_date(head: &str) -> Vec<&str> {
    head.lines().filter(|line| !line.starts_with("Date: ")).collect()
}

/// The events so far.
#[derive(Default)]
struct Counts {
    requests: usize,
    big_requests: usize,
    opened: usize,
    over_limit: usize,
    /// The responses to `/slow` are ready.
    is_released: bool,
    slow: Vec<Waker>,
}

#[derive(Default)]
struct Observed {
    counts: Mutex<Counts>,
    changed: Condvar,
}

impl Observed {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts());
        self.changed.notify_all();
    }
}

/// Responds with the path, at once or later, or as the path says.
struct Echo(Arc<Observed>);

/// A response that takes time.
struct Later {
    response: Response,
    until: Until,
}

enum Until {
    Polls(u8),
    Release(Arc<Observed>),
    Panic,
}

impl Service for Echo {
    type Future = Later;

    fn call(&self, request: &Request<'_>, peer: &Peer) -> MaybeReady<Later> {
        assert!(peer.address.as_deref().is_some_and(|it| it.starts_with("127.0.0.1:")));
        if peer.is_over_limit {
            return MaybeReady::Ready(self.reject(Reject::Crowded, peer));
        }
        let path = std::str::from_utf8(&request.path).unwrap();
        let big = path.strip_prefix("/big/").map(|size| size.parse().unwrap());
        self.0.change(|counts| {
            counts.requests += 1;
            counts.big_requests += usize::from(big.is_some());
        });
        let body = match big {
            Some(size) => vec![b'x'; size],
            None => format!("{{{path}}}").into_bytes(),
        };
        let response = Response::json(Status::Ok, body);
        let until = match path {
            "/panic" => panic!("as requested"),
            "/panic-later" => Until::Panic,
            "/slow" => Until::Release(Arc::clone(&self.0)),
            _ if path.starts_with("/later/") => Until::Polls(3),
            _ => return MaybeReady::Ready(response),
        };
        MaybeReady::Pending(Later { response, until })
    }

    fn reject(&self, reject: Reject, _: &Peer) -> Response {
        Response::json(reject.status(), format!("{{{}}}", reject.phrase()).into_bytes())
    }

    fn on_event(&self, event: Event) {
        self.0.change(|counts| match event {
            Event::Opened => counts.opened += 1,
            Event::OverLimit => counts.over_limit += 1,
            Event::AcceptFailed(error) => panic!("{error}"),
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
            Until::Release(observed) => {
                let mut counts = observed.counts();
                if counts.is_released {
                    drop(counts);
                    return Poll::Ready(self.response.clone());
                }
                counts.slow.push(cx.waker().clone());
            }
            Until::Panic => panic!("as requested, later"),
        }
        Poll::Pending
    }
}

/// A running server, which stops when it is dropped.
struct TestServer {
    address: SocketAddr,
    observed: Arc<Observed>,
    load: Arc<Load>,
    shutdown: rt::Shutdown,
    workers: Vec<JoinHandle<io::Result<()>>>,
}

impl TestServer {
    fn start(settings: &Settings) -> TestServer {
        TestServer::with_workers(2, settings)
    }

    fn with_workers(count: usize, settings: &Settings) -> TestServer {
        let listener = server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (observed, shutdown) = (Arc::<Observed>::default(), rt::Shutdown::default());
        let load = Arc::<Load>::default();
        let work = |_| {
            let (listener, load) = (Arc::clone(&listener), Arc::clone(&load));
            let (observed, shutdown) = (Arc::clone(&observed), shutdown.clone());
            let settings = settings.clone();
            thread::spawn(move || {
                let echo = Rc::new(Echo(observed));
                let serving = server::serve(echo, listener, settings, load, shutdown.clone());
                rt::run(&shutdown, serving)
            })
        };
        let workers = (0..count).map(work).collect();
        TestServer { address, observed, load, shutdown, workers }
    }

    fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.observed.counts()
    }

    /// Connections that are gone.
    fn closed(&self) -> usize {
        self.counts().opened.saturating_sub(self.load.open())
    }

    /// Waits until the counts are as expected.
    fn wait(&self, what: &str, is_expected: impl Fn(&Counts) -> bool) {
        let changed = &self.observed.changed;
        let waited = changed.wait_timeout_while(self.counts(), WAIT_MAX, |it| !is_expected(it));
        assert!(!waited.unwrap().1.timed_out(), "{what} did not come");
    }

    /// Makes the responses to `/slow` ready.
    fn release(&self) {
        self.observed.change(|counts| {
            counts.is_released = true;
            counts.slow.drain(..).for_each(Waker::wake);
        });
    }

    /// Stops the server; returns how long that took.
    fn stop(&mut self) -> Duration {
        let began = Instant::now();
        self.shutdown.begin();
        wait_until("all workers end", || self.workers.iter().all(JoinHandle::is_finished));
        for worker in self.workers.drain(..) {
            worker.join().unwrap().unwrap();
        }
        began.elapsed()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        // The clients of a test that fails may keep the workers for long.
        if !thread::panicking() {
            self.stop();
        }
    }
}

//! The frontend's client as a process, before backends of many kinds: slow ones, old ones, several
//! behind one name, and name servers that fail.

use std::fs;
use std::io::{BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use testing::backend::{After, Backend, Connection};
use testing::client::{Client, Response, get};
use testing::dns::{Answer, DnsServer, QueryType, ResponseCode};
use testing::ports::free_ports;
use testing::process::{Metrics, Process, frontend_command};
use testing::{WAIT_MAX, at, namespaces, wait_until};

const WELL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
const WRAPPED: &str = "{\"return\": {}, \"status\": \"[SUCESS]\"}\n";
/// The name of backends that only the test's DNS server knows.
const NAME: &str = "backend.test";
/// The age at which a connection is replaced, and some time to do so.
const AGE_MAX: Duration = Duration::from_millis(11_500);

// ---------- one request on a connection ----------

#[test]
fn slow_requests_use_as_many_connections_as_there_are_requests() {
    const COUNT: usize = 300;
    let all = Barrier::new(COUNT);
    // No response before all requests have arrived, each on a connection of its own.
    let backend = Backend::start(move |connection| {
        if connection.request() {
            all.wait();
            connection.send(WELL);
            connection.go_on(After::Silence);
        }
    });
    let process = Process::start(&mut command(backend.address));
    assert_eq!(statuses(&process, COUNT), vec![200; COUNT]);
    assert_eq!(backend.connections(), COUNT);
}

#[test]
#[ignore = "needs namespaces"]
fn a_backend_that_writes_head_and_body_apart_waits_for_no_delayed_acknowledgement() {
    const COUNT: usize = 100;
    namespaces::run(|| {
        // The end of a response is held back until its beginning is acknowledged.
        let backend = Backend::start(|connection| {
            connection.reader.get_ref().set_nodelay(false).unwrap();
            let (head, body) = WELL.split_at(WELL.len() - 2);
            while connection.respond(head) && connection.send(body) {}
        });
        let process = Process::start(&mut command(backend.address));
        let mut client = process.connect();
        for _ in 0..COUNT {
            assert_eq!(client.request("/").body, WRAPPED);
        }
        let delayed = delayed_acknowledgements();
        assert!(delayed < COUNT / 2, "{delayed} of {COUNT}");
    });
}

/// The acknowledgements that the kernel has sent late, in this network namespace.
fn delayed_acknowledgements() -> usize {
    let counters = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut rows = counters.lines().filter(|row| row.starts_with("TcpExt:"));
    let [names, values] = [(); 2].map(|()| rows.next().unwrap().split(' '));
    let mut counters = names.zip(values);
    counters.find(|(name, _)| *name == "DelayedACKs").unwrap().1.parse().unwrap()
}

#[test]
fn requests_beyond_the_limit_wait_for_a_connection_and_are_seen_in_a_metric() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let backend = Backend::start(move |connection| {
        while connection.request() {
            held.arrive();
            held.wait_until_open();
            connection.send(WELL);
        }
    });
    let process = Process::start(command(backend.address).env("BACKEND_CONNECTIONS_MAX", "2"));
    let mut clients: Vec<_> = (0..5).map(|_| send_request(&process)).collect();
    wait_until("two requests are in flight and three wait", || {
        let metrics = process.metrics();
        metrics.count("backend_requests_in_flight") == 2
            && metrics.count("backend_requests_waiting") == 3
            && metrics.count("backend_connections{state=\"busy\"}") == 2
    });
    // The frontend counts them a moment before the backend does.
    wait_until("two requests arrive", || gate.arrived() == 2);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(backend.connections(), 2);
    let metrics = process.metrics();
    assert_eq!(metrics.count("backend_requests_waiting"), 0);
    assert_eq!(metrics.count("backend_requests_in_flight"), 0);
    assert_eq!(metrics.count("backend_connections{state=\"idle\"}"), 2);
    assert_eq!(metrics.count("backend_connections{state=\"busy\"}"), 0);
    assert_eq!(metrics.count("backend_response_duration_seconds_count"), 5);
}

#[test]
fn a_request_that_waits_too_long_for_a_connection_times_out() {
    let backend = Backend::start(|connection| {
        connection.request();
        connection.go_on(After::Silence);
    });
    let mut command = command(backend.address);
    command.env("BACKEND_CONNECTIONS_MAX", "1").env("BACKEND_TIMEOUT_MS", "400");
    let process = Process::start(&mut command);
    let mut clients: Vec<_> = (0..3).map(|_| send_request(&process)).collect();
    for client in &mut clients {
        let response = client.response();
        assert_eq!(response.status, 504);
        assert!(response.body.contains("TIMEOUT"), "{response:?}");
    }
    assert_eq!(outcomes(&process.metrics(), "TIMEOUT"), 3);
}

#[test]
fn the_connection_that_was_used_last_is_used_next() {
    let (all, counts) = (Barrier::new(4), Arc::new(Mutex::new(Vec::new())));
    let counting = Arc::clone(&counts);
    let backend = Backend::start(move |connection| {
        let number = {
            let mut counts = counting.lock().unwrap();
            counts.push(0);
            counts.len() - 1
        };
        while connection.request() {
            let first = counting.lock().unwrap()[number] == 0;
            if first {
                all.wait();
            }
            counting.lock().unwrap()[number] += 1;
            connection.send(WELL);
        }
    });
    let process = Process::start(&mut command(backend.address));
    assert_eq!(statuses(&process, 4), [200; 4]);
    let mut client = process.connect();
    for _ in 0..20 {
        assert_eq!(client.request("/").status, 200);
    }
    let mut counts = counts.lock().unwrap().clone();
    counts.sort_unstable();
    assert_eq!(counts, [1, 1, 1, 21]);
}

// ---------- pipelining ----------

#[test]
fn a_backend_of_another_name_gets_one_request_at_a_time_on_a_connection() {
    const COUNT: usize = 32;
    for field in [
        "",
        "Server: nginx/1.22.1\r\n",
        "Server: my-api-backend/1.0.0\r\n",
        "Server: nginx (api-backend/1.0.0)\r\n",
        "X-Server: api-backend/1.0.0\r\n",
    ] {
        let response = WELL.replacen("\r\n", &format!("\r\n{field}"), 1);
        let gate = Arc::new(Gate::default());
        let held = Arc::clone(&gate);
        // After the first, no response before all requests have arrived.
        let backend = Backend::start(move |connection| {
            while connection.request() {
                if held.arrive() > 1 {
                    held.wait_for(1 + COUNT);
                }
                connection.send(&response);
            }
        });
        let process = Process::start(&mut command(backend.address));
        assert_eq!(process.connect().request("/").status, 200, "{field:?}");
        assert_eq!(statuses(&process, COUNT), [200; COUNT], "{field:?}");
        assert_eq!(backend.connections(), COUNT, "{field:?}");
    }
}

#[test]
fn requests_to_api_backend_are_pipelined_over_several_connections() {
    for field in ["Server: api-backend/1.0.0\r\n", "server:api-backend/2.10.0\r\n"] {
        let response = WELL.replacen("\r\n", &format!("\r\n{field}"), 1);
        let pipelined = Arc::new(Mutex::new(Vec::new()));
        let counts = Arc::clone(&pipelined);
        let backend = Backend::start(move |connection| {
            let number = {
                let mut counts = counts.lock().unwrap();
                counts.push(0);
                counts.len() - 1
            };
            while connection.request() {
                thread::sleep(Duration::from_millis(1));
                counts.lock().unwrap()[number] +=
                    usize::from(!connection.reader.buffer().is_empty());
                connection.send(&response);
            }
        });
        let process = Process::start(&mut command(backend.address));
        wait_until("requests are pipelined on three connections", || {
            assert_eq!(statuses(&process, 32), [200; 32], "{field:?}");
            pipelined.lock().unwrap().iter().filter(|count| **count > 0).count() >= 3
        });
    }
}

#[test]
fn a_backend_of_another_kind_on_the_same_address_is_not_pipelined_to() {
    let ours = WELL.replacen("\r\n", "\r\nServer: api-backend/1.0.0\r\n", 1);
    let first = Backend::start(move |connection| while connection.respond(&ours) {});
    let address = first.address;
    let process = Process::start(&mut command(address));
    for _ in 0..3 {
        assert_eq!(statuses(&process, 32), [200; 32]);
    }
    drop(first);
    let deepest = Arc::new(AtomicUsize::new(0));
    let deepening = Arc::clone(&deepest);
    let _second = Backend::listen(address, move |connection| {
        // The first response tells the client which kind of backend this is.
        let mut is_known = false;
        while connection.request() {
            thread::sleep(Duration::from_millis(1));
            if is_known {
                let waiting = connection.reader.buffer().len();
                deepening.fetch_max(waiting, Ordering::Relaxed);
            }
            connection.send(WELL);
            is_known = true;
        }
    });
    let mut failed = 0;
    for _ in 0..10 {
        failed += statuses(&process, 32).iter().filter(|status| **status != 200).count();
    }
    assert_eq!(failed, 0);
    assert_eq!(deepest.load(Ordering::Relaxed), 0, "bytes of further requests");
}

#[test]
fn it_names_itself_in_the_server_field() {
    let backend = Backend::start(|connection| while connection.respond(WELL) {});
    let process = Process::start(&mut command(backend.address));
    for path in ["/", "/healthz", "/nothing"] {
        let response = process.connect().request(path);
        assert!(response.head.contains("\r\nServer: api-frontend/"), "{path}: {response:?}");
    }
}

// ---------- age and end of connections ----------

#[test]
fn an_old_connection_serves_until_its_replacement_is_open() {
    let listener = TcpListener::bind(at(0)).unwrap();
    let address = listener.local_addr().unwrap();
    let process = Process::start(&mut command(address));
    let mut client = process.connect();
    client.send(get("/"));
    let first = accept(&listener);
    let first = thread::spawn(move || serve(first));
    assert_eq!(client.response().status, 200);

    let queued = fill_accept_queue(address);
    let began = Instant::now();
    while began.elapsed() < AGE_MAX {
        assert_eq!(client.request("/").body, WRAPPED, "after {:?}", began.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
    assert!(!first.is_finished());

    drop(queued);
    thread::spawn(move || {
        loop {
            let stream = accept(&listener);
            thread::spawn(move || serve(stream));
        }
    });
    wait_until("the old connection is closed", || {
        assert_eq!(client.request("/").body, WRAPPED);
        first.is_finished()
    });
    assert_eq!(client.request("/").body, WRAPPED);
}

#[test]
fn a_connection_that_the_backend_will_close_holds_no_place() {
    // Such a backend closes late, or never.
    let last = WELL.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let http_1_0 = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_owned();
    for response in [last, http_1_0] {
        let said = response.clone();
        let backend = Backend::start(move |connection| {
            connection.respond(&response);
            connection.go_on(After::Silence);
        });
        let mut command = command(backend.address);
        command.env("BACKEND_CONNECTIONS_MAX", "2").env("BACKEND_TIMEOUT_MS", "2000");
        let process = Process::start(&mut command);
        for _ in 0..10 {
            assert_eq!(statuses(&process, 8), [200; 8], "{said:?}");
        }
        assert_eq!(backend.connections(), 80, "{said:?}");
    }
}

#[test]
fn an_http_1_0_connection_with_keep_alive_and_a_length_is_kept() {
    for (response, expected) in [
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}", 1),
        ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\n{}", 1),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", 10),
    ] {
        let backend = Backend::start(move |connection| while connection.respond(response) {});
        let process = Process::start(&mut command(backend.address));
        let mut client = process.connect();
        for _ in 0..10 {
            assert_eq!(client.request("/").body, WRAPPED, "{response:?}");
        }
        assert_eq!(backend.connections(), expected, "{response:?}");
    }
}

// ---------- retries ----------

/// How a connection of the backend ends, and how many requests it reads.
#[derive(Clone, Copy, Debug)]
struct End {
    /// Requests that are responded to.
    served: usize,
    /// The part of the response to the next one that is sent.
    sent: &'static str,
}

#[test]
fn a_request_is_retried_once_and_only_if_a_kept_connection_gave_nothing() {
    let kept = End { served: 1, sent: "" };
    let new = End { served: 0, sent: "" };
    let partial = |sent| End { served: 1, sent };
    let fine = End { served: usize::MAX, sent: "" };
    // The ends of the connections, the status of the second request, how often it is sent, retries.
    for (ends, status, sent, retries) in [
        (vec![kept, fine], 200, 2, 1),
        (vec![kept, new, fine], 502, 2, 1),
        (vec![partial("H"), fine], 502, 1, 0),
        (vec![partial("HTTP/1.1 200 OK\r\nContent-Le"), fine], 502, 1, 0),
        (vec![partial("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"), fine], 502, 1, 0),
    ] {
        let (case, script) = (format!("{ends:?}"), ends);
        let (connections, requests) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let counting = Arc::clone(&requests);
        let backend = Backend::start(move |connection| {
            let end = script[connections.fetch_add(1, Ordering::Relaxed)];
            let mut served = 0;
            while connection.request() {
                counting.fetch_add(1, Ordering::Relaxed);
                if served == end.served {
                    connection.send(end.sent);
                    return;
                }
                connection.send(WELL);
                served += 1;
            }
        });
        let process = Process::start(&mut command(backend.address));
        let mut client = process.connect();
        assert_eq!(client.request("/").status, 200, "{case}");
        assert_eq!(client.request("/").status, status, "{case}");
        assert_eq!(requests.load(Ordering::Relaxed), 1 + sent, "{case}");
        assert_eq!(process.metrics().count("backend_retries_total"), retries, "{case}");
    }
}

#[test]
fn the_first_request_on_a_new_connection_is_not_retried() {
    let backend = Backend::start(|connection| {
        connection.request();
    });
    let process = Process::start(&mut command(backend.address));
    for count in 1..=3 {
        let response = process.connect().request("/");
        assert_eq!(response.status, 502);
        assert!(response.body.contains("PROTOCOL"), "{response:?}");
        assert_eq!(backend.connections(), count);
    }
    assert_eq!(process.metrics().count("backend_retries_total"), 0);
}

// ---------- what is taken from a backend ----------

#[test]
fn blanks_after_a_chunk_size_and_stray_line_ends_between_responses_are_taken() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for response in [
        format!("{CHUNKED}2  \r\n{{}}\r\n0\r\n\r\n"),
        format!("{CHUNKED}2\t\r\n{{}}\r\n0 \r\n\r\n"),
        format!("{CHUNKED}2 ;a=b\r\n{{}}\r\n0\r\n\r\n"),
        format!("{WELL}\r\n"),
        format!("\r\n{WELL}"),
    ] {
        let (case, said) = (format!("{response:?}"), response);
        let backend = Backend::start(move |connection| while connection.respond(&said) {});
        let process = Process::start(&mut command(backend.address));
        let mut client = process.connect();
        for _ in 0..5 {
            assert_eq!(client.request("/").body, WRAPPED, "{case}");
        }
        assert_eq!(backend.connections(), 1, "{case}");
    }
}

// ---------- readiness, loops ----------

#[test]
fn readyz_does_not_wait_behind_requests_that_wait() {
    let connections = AtomicUsize::new(0);
    let backend = Backend::start(move |connection| {
        if connections.fetch_add(1, Ordering::Relaxed) < 2 {
            connection.request();
            return connection.go_on(After::Silence);
        }
        while connection.respond(WELL) {}
    });
    let mut command = command(backend.address);
    command.env("BACKEND_CONNECTIONS_MAX", "2").env("BACKEND_TIMEOUT_MS", "25000");
    let process = Process::start(&mut command);
    let _waiting: Vec<_> = (0..50).map(|_| send_request(&process)).collect();
    wait_until("requests wait", || process.metrics().count("backend_requests_waiting") >= 40);
    for _ in 0..3 {
        let began = Instant::now();
        let response = process.connect().request("/readyz");
        let took = began.elapsed();
        assert!(matches!(response.status, 200 | 503), "{response:?}");
        // 1 s is promised, on a machine that does nothing else.
        assert!(took < WAIT_MAX / 2, "{took:?}");
    }
}

#[test]
fn a_request_that_comes_back_is_refused() {
    // The first frontend is its own backend; the other two are each other's.
    let ports = free_ports(3);
    let (first, second) = (*ports.start() + 1, *ports.end());
    for frontends in
        [vec![(*ports.start(), *ports.start())], vec![(first, second), (second, first)]]
    {
        let processes: Vec<_> = frontends
            .iter()
            .map(|(port, backend)| {
                Process::start(command(at(*backend)).env("PORT", port.to_string()))
            })
            .collect();
        let response = processes[0].connect().request("/");
        assert!(matches!(response.status, 502 | 508), "{response:?}");
        assert!(response.body.contains("LOOP"), "{response:?}");
        for process in &processes {
            let metrics = process.metrics();
            assert_eq!(metrics.count("backend_requests_in_flight"), 0);
            assert_eq!(metrics.count("backend_connections_opened_total"), 1);
        }
    }
}

#[test]
fn a_request_comes_back_in_any_via_field() {
    let requests = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&requests);
    let backend = Backend::start(move |connection| {
        while connection.request() {
            seen.lock().unwrap().clone_from(&connection.head);
            connection.send(WELL);
        }
    });
    let process = Process::start(&mut command(backend.address));
    let mut client = process.connect();
    client.send(get("/"));
    assert_eq!(client.response().status, 200);
    let request = requests.lock().unwrap().clone();
    let own = request.lines().find_map(|line| line.strip_prefix("Via: ")).unwrap();
    for (fields, status) in [
        ("Via: 1.1 other\r\n".to_owned(), 200),
        ("Via:\r\n".to_owned(), 200),
        (format!("Via: {own}\r\n"), 508),
        (format!("Via: {own}, 1.1 other\r\n"), 508),
        (format!("Via: {own}\r\nVia: 1.1 other\r\n"), 508),
        // Some proxies put their field before the others.
        (format!("Via: 1.1 other\r\nVia: {own}\r\n"), 508),
        (format!("Via:\r\nVia: 1.1 other\r\nVia: {own}\r\n"), 508),
    ] {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        assert_eq!(client.response().status, status, "{fields}");
    }
}

#[test]
#[ignore = "needs namespaces"]
fn a_connection_to_itself_is_a_refused_one_and_leaves_the_port_free() {
    namespaces::run(|| {
        // In so small a range of ports, some connections get the backend's port as their own.
        const PORT: u16 = 40_000;
        let mut command = command(at(PORT));
        let process = Process::start(command.env("PORT", "8000"));
        let mut client = process.connect();
        // From here on: the client itself must not get it.
        namespaces::set_sysctl("net/ipv4/ip_local_port_range", "40000 40099");
        for number in 0..1_000 {
            let response = client.request("/");
            assert!(response.body.contains("REFUSED"), "request {number}: {response:?}");
        }
        let _backend = Backend::listen(at(PORT), |connection| while connection.respond(WELL) {});
        assert_eq!(client.request("/").status, 200);
    });
}

#[test]
#[ignore = "needs namespaces"]
fn backends_that_never_close_use_up_no_port() {
    namespaces::run(|| {
        // On the loopback device, a port may be taken again before its minute is over.
        namespaces::set_sysctl("net/ipv4/tcp_tw_reuse", "0");
        namespaces::set_sysctl("net/ipv4/ip_local_port_range", "30001 30100");
        let backend = Backend::start(|connection| while connection.respond(WELL) {});
        let mut command = command(backend.address);
        command.env("BACKEND_REUSE", "off").env("BACKEND_CONNECTIONS_MAX", "64");
        let process = Process::start(&mut command);
        let mut client = process.connect();
        for number in 0..500 {
            assert_eq!(client.request("/").body, WRAPPED, "request {number}");
        }
    });
}

// ---------- names and addresses ----------

#[test]
#[ignore = "needs namespaces"]
fn a_silent_address_among_two_delays_no_request_by_a_second() {
    namespaces::run(|| {
        let (silent, well) = (address_of(2), address_of(3));
        let _listener = TcpListener::bind(silent).unwrap();
        let _queued = fill_accept_queue(silent);
        let _well = Backend::listen(well, |connection| while connection.respond(WELL) {});
        let _dns = dns(&[silent, well]);
        let process = Process::start(by_name().env("BACKEND_REUSE", "off"));
        let mut client = process.connect();
        let mut slow = 0;
        for number in 0..30 {
            let began = Instant::now();
            assert_eq!(client.request("/").body, WRAPPED, "request {number}");
            slow += usize::from(began.elapsed() > Duration::from_millis(200));
        }
        // Once it was silent, it is tried last for 10 s. Every other request would wait for it.
        assert!(slow <= 10, "{slow} requests waited for the silent address");
    });
}

#[test]
#[ignore = "needs namespaces"]
fn an_address_that_refuses_among_two_costs_no_request() {
    namespaces::run(|| {
        let _well = Backend::listen(address_of(3), |connection| while connection.respond(WELL) {});
        let _dns = dns(&[address_of(2), address_of(3)]);
        let process = Process::start(by_name().env("BACKEND_REUSE", "off"));
        assert_eq!(statuses(&process, 20), [200; 20]);
    });
}

#[test]
#[ignore = "needs namespaces"]
fn every_address_of_a_name_gets_its_share() {
    namespaces::run(|| {
        let addresses = [2, 3, 4].map(address_of);
        let backends = addresses.map(|address| {
            Backend::listen(address, |connection| while connection.respond(WELL) {})
        });
        let _dns = dns(&addresses);
        let process = Process::start(by_name().env("BACKEND_REUSE", "off"));
        let mut client = process.connect();
        for _ in 0..30 {
            assert_eq!(client.request("/").status, 200);
        }
        let shares = backends.each_ref().map(Backend::connections);
        assert!(shares.iter().all(|share| *share >= 5), "{shares:?}");
    });
}

#[test]
#[ignore = "needs namespaces"]
fn the_last_addresses_are_used_while_the_name_server_is_silent() {
    namespaces::run(|| {
        let _well = Backend::listen(address_of(2), |connection| while connection.respond(WELL) {});
        let dns = dns(&[address_of(2)]);
        let process = Process::start(by_name().env("BACKEND_REUSE", "off"));
        let mut client = process.connect();
        assert_eq!(client.request("/").status, 200);
        let set = |answer: Answer| {
            dns.set(NAME, QueryType::A, answer.clone());
            dns.set(NAME, QueryType::Aaaa, answer);
        };

        set(Answer::Silence);
        let failures = |process: &Process| process.metrics().count("backend_lookup_failures_total");
        wait_until("look-ups fail", || {
            assert_eq!(client.request("/").body, WRAPPED);
            failures(&process) > 0
        });
        for _ in 0..10 {
            assert_eq!(client.request("/").body, WRAPPED);
        }

        set(Answer::Code(ResponseCode::NameError));
        wait_until("the name is gone", || {
            let response = client.request("/");
            response.status == 502 && response.body.contains("DNS")
        });

        dns.set(NAME, QueryType::A, Answer::Addresses(vec![address_of(2).ip()]));
        dns.set(NAME, QueryType::Aaaa, Answer::Code(ResponseCode::NoError));
        wait_until("the name is back", || client.request("/").status == 200);
    });
}

#[test]
#[ignore = "needs namespaces"]
fn one_slow_look_up_serves_every_request_that_waits_for_it() {
    namespaces::run(|| {
        const DELAY: Duration = Duration::from_secs(2);
        let _well = Backend::listen(address_of(2), |connection| while connection.respond(WELL) {});
        let dns = dns(&[]);
        dns.set(NAME, QueryType::A, Answer::Late(DELAY, vec![address_of(2).ip()]));
        dns.set(NAME, QueryType::Aaaa, Answer::Late(DELAY, Vec::new()));
        // A second look-up would take too long.
        let mut command = by_name();
        command.env("BACKEND_REUSE", "off").env("BACKEND_TIMEOUT_MS", "3500");
        let process = Process::start(&mut command);
        let mut clients = vec![send_request(&process)];
        wait_until("the look-up is under way", || !dns.queries().is_empty());
        clients.extend((0..10).map(|_| send_request(&process)));
        for client in &mut clients {
            assert_eq!(client.response().body, WRAPPED);
        }
    });
}

#[test]
#[ignore = "needs namespaces"]
fn a_backend_is_found_whose_name_has_an_ipv4_address_and_no_good_response_for_ipv6() {
    namespaces::run(|| {
        let _well = Backend::listen(address_of(2), |connection| while connection.respond(WELL) {});
        let dns = dns(&[address_of(2)]);
        let codes = [
            ResponseCode::NoError,
            ResponseCode::ServerFailure,
            ResponseCode::NameError,
            ResponseCode::NotImplemented,
            ResponseCode::Refused,
        ];
        for answer in codes.map(Answer::Code).into_iter().chain([Answer::Silence]) {
            dns.set(NAME, QueryType::Aaaa, answer.clone());
            let process = Process::start(&mut by_name());
            assert_eq!(process.connect().request("/").body, WRAPPED, "{answer:?}");
        }
    });
}

#[test]
#[ignore = "needs namespaces"]
fn a_backend_that_moves_and_scales_is_followed_without_a_lost_request() {
    namespaces::run(|| {
        let listen = |last| {
            let address = address_of(last);
            Backend::listen(address, |connection| while connection.respond(WELL) {})
        };
        let dns = dns(&[address_of(2)]);
        let process = Process::start(&mut by_name());
        let load = Load::start(&process, 4);
        let first = listen(2);
        wait_until("the first has connections", || first.connections() > 0);
        load.forget_failures();

        let others = [3, 4].map(listen);
        set_addresses(&dns, &[2, 3, 4].map(address_of));
        wait_until("all three have connections", || {
            others.iter().all(|backend| backend.connections() > 0)
        });
        assert_eq!(load.failures(), Vec::<u16>::new());

        set_addresses(&dns, &[address_of(4)]);
        let [second, third] = others;
        let before = third.connections();
        wait_until("the last has new connections", || third.connections() > before + 1);
        drop((first, second));
        let before = load.count();
        wait_until("requests go on", || load.count() > before + 1_000);
        assert_eq!(load.failures(), Vec::<u16>::new());
    });
}

#[test]
#[ignore = "needs namespaces"]
fn a_backend_that_freezes_among_three_costs_at_most_one_request_in_a_hundred() {
    namespaces::run(|| {
        let ours = WELL.replacen("\r\n", "\r\nServer: api-backend/1.0.0\r\n", 1);
        let addresses = [2, 3, 4].map(address_of);
        let _dns = dns(&addresses);
        for response in [WELL.to_owned(), ours] {
            let is_frozen = Arc::new(AtomicBool::new(false));
            let backends = addresses.map(|address| {
                let (response, is_frozen) = (response.clone(), Arc::clone(&is_frozen));
                Backend::listen(address, move |connection| {
                    while connection.request() {
                        if address == addresses[0] {
                            while is_frozen.load(Ordering::Relaxed) {
                                thread::sleep(Duration::from_millis(1));
                            }
                        }
                        connection.send(&response);
                    }
                })
            });
            let process = Process::start(&mut by_name());
            let load = Load::start(&process, 8);
            wait_until("all three have connections", || {
                backends.iter().all(|backend| backend.connections() > 0)
            });
            load.forget_failures();
            is_frozen.store(true, Ordering::Relaxed);
            thread::sleep(Duration::from_secs(10));
            is_frozen.store(false, Ordering::Relaxed);
            let (count, failures) = (load.count(), load.failures().len());
            assert!(failures * 100 <= count, "{failures} of {count}: {response:?}");
            drop((load, process, backends));
        }
    });
}

// ---------- below: commands, requests, backends ----------

/// A frontend with one worker, so that the test knows whose connections it sees.
fn command(backend: SocketAddr) -> Command {
    let mut command = frontend_command(env!("CARGO_BIN_EXE_api-frontend"), backend);
    command.env("WORKERS", "1");
    command
}

/// A frontend whose backend is found by name.
fn by_name() -> Command {
    let mut command = command(address_of(2));
    command.env("API_BACKEND_URL", NAME);
    command
}

/// An address of the loopback device, with the port of all backends that have a name.
fn address_of(last: u8) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, last), 8001).into()
}

/// The only name server: it knows `NAME` by these addresses.
fn dns(addresses: &[SocketAddr]) -> DnsServer {
    namespaces::replace_file(
        "/etc/resolv.conf",
        "nameserver 127.0.0.1\noptions timeout:3 attempts:1\n",
    );
    let dns = DnsServer::start((Ipv4Addr::LOCALHOST, 53));
    set_addresses(&dns, addresses);
    dns
}

fn set_addresses(dns: &DnsServer, addresses: &[SocketAddr]) {
    let addresses: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
    dns.set(NAME, QueryType::A, Answer::Addresses(addresses));
}

/// A new client that has sent a request.
fn send_request(process: &Process) -> Client {
    let client = process.connect();
    client.send(get("/"));
    client
}

/// Sends this many requests at once, each on a connection of its own: their statuses.
fn statuses(process: &Process, count: usize) -> Vec<u16> {
    let mut clients: Vec<_> = (0..count).map(|_| send_request(process)).collect();
    clients.iter_mut().map(|client| client.response().status).collect()
}

fn outcomes(metrics: &Metrics, outcome: &str) -> usize {
    metrics.count(&format!("backend_calls_total{{outcome=\"{outcome}\"}}"))
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Responds until the client closes.
fn serve(stream: TcpStream) {
    let mut connection = Connection { reader: BufReader::new(stream), head: String::new() };
    while connection.respond(WELL) {}
}

/// Fills the accept queue of a listener that does not accept: from now on the kernel drops each SYN.
fn fill_accept_queue(address: SocketAddr) -> Vec<TcpStream> {
    let mut queued = Vec::new();
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            Ok(stream) => queued.push(stream),
            Err(error) if error.kind() == ErrorKind::TimedOut => return queued,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Counts arrivals, and lets threads wait for them.
#[derive(Default)]
struct Gate {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    /// The number of arrivals, with this one.
    fn arrive(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        state.0
    }

    fn arrived(&self) -> usize {
        self.state.lock().unwrap().0
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    fn wait_until_open(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |(_, is_open)| !*is_open).unwrap());
    }

    fn wait_for(&self, count: usize) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |(arrived, _)| *arrived < count).unwrap());
    }
}

/// Clients that send requests one after another, until it is dropped.
struct Load {
    shared: Arc<LoadShared>,
    clients: Vec<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct LoadShared {
    is_ended: AtomicBool,
    count: AtomicUsize,
    failures: Mutex<Vec<u16>>,
}

impl Load {
    fn start(process: &Process, clients: usize) -> Load {
        let shared = Arc::<LoadShared>::default();
        let clients = (0..clients).map(|_| {
            let (mut client, shared) = (process.connect(), Arc::clone(&shared));
            thread::spawn(move || {
                while !shared.is_ended.load(Ordering::Relaxed) {
                    let Response { status, .. } = client.request("/");
                    shared.count.fetch_add(1, Ordering::Relaxed);
                    if status != 200 {
                        shared.failures.lock().unwrap().push(status);
                    }
                    // A pause leaves the cores to other tests.
                    thread::sleep(Duration::from_millis(1));
                }
            })
        });
        Load { clients: clients.collect(), shared }
    }

    fn count(&self) -> usize {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// The statuses of requests that failed.
    fn failures(&self) -> Vec<u16> {
        self.shared.failures.lock().unwrap().clone()
    }

    fn forget_failures(&self) {
        self.shared.failures.lock().unwrap().clear();
        self.shared.count.store(0, Ordering::Relaxed);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.is_ended.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

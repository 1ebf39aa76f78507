//! Both services as processes under load, with clients that misbehave, restarts, crashes and
//! shortages: no response is lost, and no memory, descriptor or thread is leaked.
//!
//! `ENDURANCE=long cargo test --release --package lab --test endurance -- --nocapture` is the long
//! form of these tests, with figures. It takes about half an hour.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::sys::{self, SIGTERM};
use testing::backend::Backend;
use testing::client::{Client, get, unfinished};
use testing::lab::{Lab, Load, service_program};
use testing::namespaces;
use testing::ports::free_port;
use testing::process::{
    Metrics, Process, SIGCONT, SIGSTOP, frontend_command, scratch_folder, service_command,
};
use testing::sys::limit_open_files;
use testing::{WAIT_MAX, at, wait_until};
use tools::sys::SIGKILL;

const WORKERS: usize = 2;
/// Connections to the backend that a frontend may keep: two for each worker, one of which is old and
/// about to be replaced by the other.
const KEPT_CONNECTIONS_MAX: usize = 2 * WORKERS;
/// Between two connections of a client that misbehaves, so that it is not the load itself.
const PAUSE: Duration = Duration::from_millis(20);
/// Spare buffers that a service may keep: 64 of 16 KiB on each worker, of which this load fills half.
const SPARE_KIB: usize = 1024;

/// The number of the short or of the long form.
fn form<T>(short: T, long: T) -> T {
    if std::env::var("ENDURANCE").is_ok_and(|form| form == "long") { long } else { short }
}

#[test]
fn a_mixed_load_gets_the_expected_statuses_and_leaks_nothing() {
    const RESTART: Duration = Duration::from_millis(300);
    let seconds = form(9, 1800);
    let backend_address = at(free_port());
    let port = backend_address.port().to_string();
    // Shorter than usual, because some clients are slow on purpose.
    let timeouts = [("HEAD_TIMEOUT_MS", "400"), ("WRITE_TIMEOUT_MS", "400")];
    let start_backend = || Process::start(service("api-backend").env("PORT", &port).envs(timeouts));
    let mut backend = start_backend();
    let mut command = frontend(backend_address);
    let frontend = Process::start(command.envs(timeouts).env("BACKEND_TIMEOUT_MS", "500"));
    let start = Resources::of(&frontend);
    let began = Instant::now();
    let (report, warm) = thread::scope(|scope| {
        let mut misbehaving = Vec::new();
        for address in [frontend.address, backend_address] {
            for (misbehave, expected) in MISBEHAVIOURS {
                misbehaving.push(scope.spawn(move || {
                    let mut random = Random(1);
                    let mut received = BTreeSet::new();
                    while began.elapsed().as_secs() < seconds {
                        received.extend(misbehave(address, &mut random).unwrap_or_default());
                        thread::sleep(PAUSE);
                    }
                    let is_expected = received.iter().all(|status| expected.contains(status));
                    assert!(is_expected, "{received:?} instead of {expected:?}");
                    received
                }));
            }
        }
        let seconds_flag = seconds.to_string();
        let flags = ["--connections", "32", "--rate", "500", "--seconds", &seconds_flag];
        let flags = [&flags[..], &["--timeout-ms", "30000"]].concat();
        let load = Load::start(frontend.address, &flags);
        let mut warm = None;
        for turn in 0.. {
            thread::sleep(form(1, 3) * Duration::from_secs(1));
            if began.elapsed().as_secs() >= seconds {
                break;
            }
            if began.elapsed().as_secs() >= seconds / 3 {
                warm.get_or_insert_with(|| Resources::of(&frontend));
            }
            // Down for a moment, stopped until requests time out, or back at once.
            if turn % 3 == 1 {
                backend.signal(SIGSTOP);
                thread::sleep(Duration::from_millis(700));
            }
            backend.signal(SIGKILL);
            assert_eq!(backend.exit_code(), None);
            if turn % 3 == 0 {
                thread::sleep(RESTART);
            }
            backend = start_backend();
        }
        for client in misbehaving {
            eprintln!("mixed load: misbehaving clients received {:?}", client.join().unwrap());
        }
        (load.report(), warm.unwrap())
    });
    let [good, bad, crowded, late] =
        [200, 502, 503, 504].map(|status| report.count(&format!("statuses {status}")));
    let metrics = frontend.metrics();
    eprintln!(
        "mixed load of {seconds} s: {good} times 200, {bad} times 502, {late} times 504; \
         {} connections, {} of them to the backend; first {start:?}, then {warm:?}, at last {:?}",
        metrics.count("http_connections_accepted_total"),
        metrics.count("backend_connections_opened_total"),
        Resources::of(&frontend),
    );
    assert!(good > 0 && bad > 0 && late > 0, "{}", report.text);
    assert_eq!(report.count("responses"), good + bad + crowded + late, "{}", report.text);
    assert_eq!(report.failures_except("STATUS"), 0, "{}", report.text);
    assert_eq!(metrics.count("panics_total"), 0);
    // The connections to the backend end with it.
    drop(backend);
    wait_until("descriptors are closed", || {
        Resources::of(&frontend).descriptors <= start.descriptors
    });
    let end = Resources::of(&frontend);
    assert_eq!(end.threads, start.threads);
    assert!(end.kib <= warm.kib + SPARE_KIB, "{warm:?}, then {end:?}");
}

/// Uses one connection, and returns the statuses that it received.
type Misbehaviour = fn(SocketAddr, &mut Random) -> std::io::Result<Vec<u16>>;

/// Each with all statuses that it may receive.
const MISBEHAVIOURS: [(Misbehaviour, &[u16]); 4] = [
    (disappear, &[]),
    (trickle, &[408]),
    (send_garbage, &[400, 414, 431, 501, 505]),
    (never_read, &[]),
];

/// Closes within a request, with some responses unread.
fn disappear(address: SocketAddr, random: &mut Random) -> std::io::Result<Vec<u16>> {
    let mut stream = TcpStream::connect(address)?;
    let requests = get("/").repeat(4);
    stream
        .write_all(requests.get(..random.below(requests.len())).unwrap_or_default().as_bytes())?;
    Ok(Vec::new())
}

/// Sends a head too slowly.
fn trickle(address: SocketAddr, _: &mut Random) -> std::io::Result<Vec<u16>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PAUSE))?;
    for byte in get("/").bytes() {
        stream.write_all(&[byte])?;
        let mut start = [0; 12];
        match stream.read(&mut start) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            read => return read.map(|count| statuses(&start[..count])),
        }
    }
    Ok(Vec::new())
}

fn send_garbage(address: SocketAddr, random: &mut Random) -> std::io::Result<Vec<u16>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(WAIT_MAX))?;
    let garbage: Vec<u8> = (0..random.below(2000)).map(|_| random.byte()).collect();
    stream.write_all(&garbage)?;
    stream.shutdown(Shutdown::Write)?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    Ok(statuses(&response))
}

/// Sends more and more requests, until the service closes the connection.
fn never_read(address: SocketAddr, _: &mut Random) -> std::io::Result<Vec<u16>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_write_timeout(Some(WAIT_MAX))?;
    let requests = get("/version").repeat(1000);
    while stream.write_all(requests.as_bytes()).is_ok() {}
    Ok(Vec::new())
}

/// The status of a response, if there is one.
fn statuses(response: &[u8]) -> Vec<u16> {
    let status = response.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
    status.and_then(|digits| digits.parse().ok()).into_iter().collect()
}

/// The same numbers in each run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }
}

#[test]
fn thousands_of_connections_at_once_are_served_and_cost_little_memory() {
    /// Futures are larger without optimization.
    const BYTES_MAX: usize = if cfg!(debug_assertions) { 2048 } else { 1024 };
    const BASE_BYTES_MAX: usize = if cfg!(debug_assertions) { 4 << 20 } else { 2 << 20 };
    let limit = usize::try_from(sys::raise_descriptor_limit().unwrap()).unwrap();
    let count = form(3_000, 10_000).min(limit / 2);
    let some = count / 2;
    let chain = Chain::start();
    for process in [&chain.backend, &chain.frontend] {
        assert_eq!(process.connect().request("/").status, 200);
        wait_until("all others are closed", || {
            process.metrics().count("http_connections_open") == 1
        });
        let start = Resources::of(process);
        let connect_and_close = || {
            let mut clients = Vec::new();
            let mut half = start;
            for number in 1..=count {
                let mut client = process.connect();
                assert_eq!(client.request("/").status, 200);
                clients.push(client);
                if number == some {
                    half = Resources::of(process);
                }
            }
            for client in &mut clients {
                assert_eq!(client.request("/").status, 200);
            }
            let all = Resources::of(process);
            drop(clients);
            wait_until("all are closed", || process.metrics().count("http_connections_open") == 1);
            [half, all, Resources::of(process)]
        };
        let [half, all, after] = connect_and_close();
        let [.., end] = connect_and_close();
        let bytes = (half.kib - start.kib) * 1024 / some;
        eprintln!(
            "{count} connections at once: {bytes} bytes each; first {start:?}, with {some} {half:?}, \
             with all {all:?}, after them {after:?}, after as many again {end:?}"
        );
        assert!(bytes <= BYTES_MAX, "{bytes} bytes each");
        assert!(half.kib * 1024 <= BASE_BYTES_MAX + some * BYTES_MAX, "{half:?}");
        // The allocator of the C library may keep free memory, and the workers' shares of the
        // connections differ from one time to the next.
        assert!(end.kib <= after.kib + 1024, "{after:?}, then {end:?}");
        assert!(
            end.descriptors <= start.descriptors + KEPT_CONNECTIONS_MAX,
            "{start:?}, then {end:?}"
        );
        assert_eq!(end.threads, start.threads);
    }
}

#[test]
fn clients_that_would_fill_the_memory_are_dropped_before() {
    const BUFFERED_KIB_MAX: usize = 4 << 10;
    /// Of each client: bytes that do not count, its connection, and waste of the allocator.
    const CLIENT_KIB_MAX: usize = 8;
    /// Queued lines of the log, and everything else.
    const LOG_KIB_MAX: usize = 6 << 10;
    let count = form(2_000, 4_000);
    let rounds = form(4, 20);
    let buffered = (BUFFERED_KIB_MAX << 10).to_string();
    let chain = Chain::with(&[("BUFFER_BYTES_MAX", &buffered), ("LOG_FORMAT", "text")]);
    let head = unfinished("/", 14_000);
    let body = "\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()
        + &"1\r\nx\r\n".repeat(form(1_000, 9_000));
    let pipeline = get("/version").repeat(form(500, 2_000));
    for process in [&chain.backend, &chain.frontend] {
        let start = Resources::of(process);
        for (clients, case, bytes, reads) in [
            (count, "heads", &head, false),
            (count, "bodies", &(head.replace("GET", "POST") + &body), false),
            (count / 4, "requests whose responses are not read", &pipeline, false),
            (count / 4, "requests whose responses are read", &pipeline, true),
        ] {
            let mut greedy: Vec<_> = (0..clients)
                .map(|_| {
                    let stream = TcpStream::connect(process.address).unwrap();
                    stream.set_nonblocking(true).unwrap();
                    (stream, bytes.as_bytes())
                })
                .collect();
            for _ in 0..rounds {
                for (stream, left) in &mut greedy {
                    if let Ok(written) = stream.write(left) {
                        *left = &left[written..];
                    }
                    while reads && stream.read(&mut [0; 16 << 10]).is_ok_and(|count| count > 0) {}
                }
            }
            // Accepted last, served last.
            assert_eq!(process.connect().request("/").status, 200);
            let peak = memory_kib(process, "VmHWM:");
            drop(greedy);
            wait_until("all are closed", || process.metrics().count("http_connections_open") == 1);
            assert_eq!(process.metrics().count("http_buffered_bytes"), 0);
            eprintln!("{clients} {case}: {start:?}, then at most {peak} KiB");
            let max = start.kib + BUFFERED_KIB_MAX + CLIENT_KIB_MAX * count + LOG_KIB_MAX;
            assert!(peak <= max, "{case}: {peak} KiB, and not {max}");
        }
    }
}

#[test]
fn connections_one_after_another_leak_nothing() {
    let count = form(3_000, 100_000);
    let chain = Chain::start();
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for process in [&chain.backend, &chain.frontend] {
        let connect_and_close = |count| {
            for _ in 0..count {
                let mut client = process.connect();
                client.send(request);
                assert_eq!(client.response().status, 200);
                assert_eq!(client.read_to_end(), "");
            }
            Resources::of(process)
        };
        let start = connect_and_close(count / 10);
        let began = Instant::now();
        let end = connect_and_close(count);
        let took = began.elapsed();
        eprintln!("{count} connections one after another, {took:?}: {start:?}, then {end:?}");
        assert!(
            end.descriptors <= start.descriptors + KEPT_CONNECTIONS_MAX,
            "{start:?}, then {end:?}"
        );
        assert!(end.kib <= start.kib + 256, "{start:?}, then {end:?}");
        assert_eq!(end.threads, start.threads);
    }
}

#[test]
fn connections_to_the_backend_are_few_at_any_load() {
    /// Of each worker.
    const CONNECTIONS_MAX: usize = 64;
    let seconds = form(2, 30);
    // Each is replaced after 7 to 10 s.
    let generations = 1 + seconds / 7;
    for (name, response_delay, keeps) in [
        ("quick", Duration::ZERO, true),
        ("slow", Duration::from_millis(40), true),
        ("closing", Duration::ZERO, false),
    ] {
        let backend = Backend::start(move |connection| {
            while connection.request() {
                thread::sleep(response_delay);
                let is_sent = connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
                if !is_sent || !keeps {
                    break;
                }
            }
        });
        let mut command = frontend(backend.address);
        let max = CONNECTIONS_MAX.to_string();
        let frontend = Process::start(command.env("BACKEND_CONNECTIONS_MAX", max));
        let flags = ["--connections", "400", "--seconds", &seconds.to_string()];
        let load = Load::start(frontend.address, &flags);
        let began = Instant::now();
        let mut most = 0;
        while began.elapsed().as_secs() < seconds as u64 {
            most = most.max(frontend.metrics().count("backend_connections_open"));
            thread::sleep(PAUSE);
        }
        let report = load.report();
        let opened = frontend.metrics().count("backend_connections_opened_total");
        let responses = report.count("responses");
        eprintln!(
            "{name} backend: {responses} responses, {opened} connections to it, {most} at once"
        );
        assert_eq!(report.count("failed"), 0, "{name}: {}", report.text);
        assert!(most <= CONNECTIONS_MAX * WORKERS, "{name}: {most}");
        assert!(!keeps || opened <= CONNECTIONS_MAX * WORKERS * generations, "{name}: {opened}");
    }
}

/// The port of the side that closes first is taken for a minute: a frontend with a connection for each
/// request must let the backend close first, or it runs out of ports.
#[test]
#[ignore = "needs namespaces"]
fn a_connection_for_each_request_uses_up_no_port() {
    const PORTS: usize = 100;
    namespaces::run(|| {
        // On the loopback device, a port may be taken again before its minute is over.
        namespaces::set_sysctl("net/ipv4/tcp_tw_reuse", "0");
        let ports = format!("30001 {}", 30_000 + PORTS);
        namespaces::set_sysctl("net/ipv4/ip_local_port_range", &ports);
        let backend = Process::start(service("api-backend").env("PORT", "8001"));
        let mut command = frontend(backend.address);
        let frontend = Process::start(command.env("PORT", "8000").env("BACKEND_REUSE", "off"));
        let flags = ["--connections", "8", "--seconds", "2"];
        let report = Load::start(frontend.address, &flags).report();
        eprintln!("{PORTS} ports, a connection each: {} responses", report.count("responses"));
        assert_eq!(report.count("failed"), 0, "{}", report.text);
        assert!(report.count("responses") > PORTS * 10, "{}", report.text);
    });
}

#[test]
fn clients_beyond_the_limit_take_nothing_from_those_that_are_served() {
    const LIMIT: usize = 64;
    let seconds = form(2, 60);
    let chain = Chain::with(&[("CONNECTIONS_MAX", "64")]);
    for process in [&chain.backend, &chain.frontend] {
        let limit = LIMIT.to_string();
        let old = ["--connections", &limit, "--seconds", "3600", "--timeout-ms", "30000"];
        let old = Load::start(process.address, &old);
        wait_until("all old clients are connected", || connected(process.address) == LIMIT);
        let seconds = seconds.to_string();
        let storm = ["--connections", "500", "--close", "--seconds", &seconds];
        let storm = [&storm[..], &["--timeout-ms", "30000"]].concat();
        let storm = Load::start(process.address, &storm).report();
        old.interrupt();
        let old = old.report();
        let rejected = storm.count("statuses 503");
        eprintln!(
            "beyond the limit: {rejected} received 503; the others had {} responses, p99.9 {} µs",
            old.count("responses"),
            old.micros("latency_us p99.9")
        );
        assert_eq!(old.count("failed"), 0, "{}", old.text);
        assert_eq!(old.count("connections_opened"), LIMIT, "{}", old.text);
        assert!(rejected > 0 && rejected == storm.count("responses"), "{}", storm.text);
        assert_eq!(storm.failures_except("STATUS"), 0, "{}", storm.text);
        assert_eq!(process.connect().request("/").status, 200);
    }
}

#[test]
fn a_backend_restarted_under_load_loses_no_response() {
    let address = at(free_port());
    restart_under_load(address, service("api-backend").env("PORT", address.port().to_string()));
}

#[test]
fn a_frontend_restarted_under_load_loses_no_response() {
    let backend = Process::start(&mut service("api-backend"));
    let address = at(free_port());
    restart_under_load(address, frontend(backend.address).env("PORT", address.port().to_string()));
}

/// Every request that the service has logged before its end was answered in whole. Clients may find
/// a connection closed only before a request of theirs was read: a silent one is closed a moment
/// after the signal, and on a busy machine a client may send its next request later than that.
fn restart_under_load(address: SocketAddr, command: &mut Command) {
    let times = form(5, 50);
    command.env("LOG_FORMAT", "text");
    let mut process = Process::start(command);
    let mut logged = process.count_lines(" GET / 200 ");
    let loads = [&["--close"][..], &["--pipeline", "4"], &[]].map(|flags| {
        let common = ["--connections", "32", "--rate", "500", "--seconds", "3600"];
        Load::start(address, &[flags, &common].concat())
    });
    let mut handled = 0;
    for _ in 0..times {
        wait_until("the load has begun", || {
            process.metrics().count("http_requests_total{route=\"/\",status=\"200\"}") > 500
        });
        process.signal(SIGTERM);
        assert_eq!(process.exit_code(), Some(0));
        handled += logged.join().unwrap();
        process = Process::start(command);
        logged = process.count_lines(" GET / 200 ");
    }
    loads.iter().for_each(Load::interrupt);
    let mut responses = 0;
    for report in loads.map(Load::report) {
        let [refused, reset, closed, unsent] = ["REFUSED", "RESET", "CLOSED", "UNSENT"]
            .map(|word| report.count(&format!("failures {word}")));
        eprintln!(
            "ended and started {times} times: {} responses, {refused} refused, {reset} reset, \
             {closed} closed, longest gap {} ms",
            report.count("responses"),
            report.count("longest_gap_ms")
        );
        assert_eq!(report.count("failed"), refused + reset + closed + unsent, "{}", report.text);
        responses += report.count("statuses 200");
    }
    assert!(handled > 500 && responses >= handled, "{responses} of {handled} responses");
}

#[test]
fn a_crash_under_load_costs_requests_under_way_and_a_short_gap() {
    const CONNECTIONS: usize = 32;
    let times: usize = form(5, 50);
    let mut lab = Lab::up(&[("LOG_FORMAT", "off")]);
    let (frontend, backend) = (at(lab.ports.frontend), at(lab.ports.backend));
    let connections = CONNECTIONS.to_string();
    let load = Load::start(frontend, &["--connections", &connections, "--seconds", "3600"]);
    let mut longest_wait = 0;
    for number in 0..times {
        let (name, address) =
            if number % 2 == 0 { ("api-frontend", frontend) } else { ("api-backend", backend) };
        // After 10 s without a crash, the wait is the shortest again.
        thread::sleep(form(Duration::from_millis(200), Duration::from_secs(11)));
        let mut client = Client::connect(address);
        client.send(get("/traceback"));
        assert_eq!(client.stream().read(&mut [0; 64]).unwrap_or(0), 0);
        let line = lab.line(&format!("{name} ended with exit code 1; starting again in "));
        let (_, wait) = line.rsplit_once(" in ").unwrap();
        longest_wait = longest_wait.max(wait.trim_end_matches(" ms").parse().unwrap());
        lab.line(&format!("info {name} "));
        client = Client::connect(address);
        assert_eq!(client.request("/").status, 200);
    }
    load.interrupt();
    let report = load.report();
    let [refused, reset, closed, status, timeout] =
        ["REFUSED", "RESET", "CLOSED", "STATUS", "TIMEOUT"]
            .map(|word| report.count(&format!("failures {word}")));
    let gap = report.count("longest_gap_ms");
    eprintln!(
        "{times} crashes: {} responses, {status} of them 502, {refused} refused, {reset} reset, \
         {closed} closed, {timeout} late; longest wait {longest_wait} ms, longest gap {gap} ms",
        report.count("responses")
    );
    // At each crash of the frontend, a connection loses the request that was under way on it, and
    // perhaps the next: while a process ends, the kernel closes its listener last.
    let lost_max = 2 * CONNECTIONS * times.div_ceil(2);
    assert!(reset + closed <= lost_max, "{}", report.text);
    assert_eq!(report.count("failed"), refused + reset + closed + status, "{}", report.text);
    assert_eq!(status, report.count("statuses 502"), "{}", report.text);
    assert!(gap < longest_wait + 1_000, "{gap} ms without an answer");
}

#[test]
fn a_process_stopped_for_a_while_continues() {
    let stop = form(Duration::from_secs(2), Duration::from_secs(10));
    let timeout = (stop.as_millis() / 2).to_string();
    let chain = Chain::with(&[("BACKEND_TIMEOUT_MS", &timeout)]);
    for process in [&chain.frontend, &chain.backend] {
        let is_backend = process.pid == chain.backend.pid;
        let seconds = (2 + stop.as_secs()).to_string();
        let load = Load::start(
            process.address,
            &["--connections", "64", "--seconds", &seconds, "--timeout-ms", "20000"],
        );
        wait_until("the load has begun", || process.metrics().count("http_connections_open") > 1);
        process.signal(SIGSTOP);
        thread::sleep(stop);
        process.signal(SIGCONT);
        let report = load.report();
        eprintln!(
            "stopped for {stop:?} (backend: {is_backend}): {} responses, {} failed, longest gap {} ms",
            report.count("responses"),
            report.count("failed"),
            report.count("longest_gap_ms")
        );
        assert!(report.count("longest_gap_ms") as u128 > stop.as_millis() - 100);
        // Requests to the backend that were under way may have timed out meanwhile.
        let late = report.count("statuses 504");
        assert!(late <= 64, "{}", report.text);
        assert_eq!(report.count("failed"), late, "{}", report.text);
    }
}

#[test]
fn clients_that_connect_while_a_process_is_stopped_are_served_when_it_continues() {
    let chain = Chain::start();
    for process in [&chain.backend, &chain.frontend] {
        process.signal(SIGSTOP);
        // More than the backlog of 4096.
        let flags = ["--connections", "4500", "--close", "--timeout-ms", "30000"];
        let before = listen_overflows();
        let load = Load::start(process.address, &[&flags[..], &["--seconds", "3600"]].concat());
        wait_until("the backlog is full", || listen_overflows() > before);
        thread::sleep(form(Duration::ZERO, Duration::from_secs(3)));
        process.signal(SIGCONT);
        wait_until("all of the backlog is served", || {
            process.metrics().count("http_connections_accepted_total") > 4_300
        });
        load.interrupt();
        let report = load.report();
        eprintln!(
            "backlog overrun: {} responses, {} failed, the latest after {} µs",
            report.count("responses"),
            report.count("failed"),
            report.micros("latency_us max")
        );
        assert_eq!(report.count("failed"), 0, "{}", report.text);
    }
}

#[test]
fn descriptors_that_run_out_cost_no_client_its_connection() {
    let exhausted = form(Duration::from_millis(500), Duration::from_secs(60));
    let chain = Chain::start();
    for process in [&chain.backend, &chain.frontend] {
        let mut old = process.connect();
        assert_eq!(old.request("/").status, 200);
        let open =
            |number: &usize| Path::new(&format!("/proc/{}/fd/{number}", process.pid)).exists();
        let first_free =
            (0..=Resources::of(process).descriptors).find(|number| !open(number)).unwrap();
        let before = limit_open_files(process.pid, first_free as u64).unwrap();
        let waiting: Vec<_> = (0..100).map(|_| process.connect()).collect();
        for client in &waiting {
            client.send(get("/version"));
        }
        let spent = process.cpu_time();
        let began = Instant::now();
        while began.elapsed() < exhausted {
            assert_eq!(old.request("/version").status, 200);
            thread::sleep(PAUSE);
        }
        let spent = process.cpu_time().saturating_sub(spent);
        // When the frontend's connection to the backend is 10 s old, a client may get its descriptor.
        let served = waiting.iter().filter(|client| !client.is_silent()).count();
        assert!(served <= 1, "{served}");
        let errors = Metrics::read(&old.request("/metrics").body).count("http_accept_errors_total");
        limit_open_files(process.pid, before).unwrap();
        for mut client in waiting {
            assert_eq!(client.response().status, 200);
        }
        eprintln!("no descriptors for {exhausted:?}: {errors} failures to accept, {spent:?} spent");
        assert!(errors > 0);
        assert!(spent < exhausted / 5, "{spent:?}");
    }
}

/// Debian's package is libfaketime; it needs programs that are linked dynamically.
#[test]
#[ignore = "needs libfaketime"]
fn a_changed_clock_changes_the_date_and_no_timeout() {
    let name = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    assert!(Path::new(&name).exists(), "{name} is missing");
    let offset = scratch_folder().join(format!("offset-{}", std::process::id()));
    let set = |to: &str| fs::write(&offset, to).unwrap();
    set("+0");
    let process = Process::start(service("api-backend").envs([
        ("LD_PRELOAD", &*name),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ]));
    let year = |client: &mut Client| -> i32 {
        let head = client.request("/").head;
        // As in: Date: Wed, 25 Nov 2026 16:00:00 GMT
        let (_, date) = head.split_once("\r\nDate: ").unwrap();
        date[12..16].parse().unwrap()
    };
    let load = Load::start(process.address, &["--connections", "8", "--seconds", "3600"]);
    let idle = process.connect();
    let mut client = process.connect();
    let present = year(&mut client);
    for (to, moved) in [("+800d", 1), ("-800d", -1), ("+0", 0)] {
        set(to);
        wait_until("the date changes", || (year(&mut client) - present).signum() == moved);
        assert!(idle.is_silent());
    }
    set("-800d");
    process.signal(SIGTERM);
    let began = Instant::now();
    assert_eq!(process.exit().0, Some(0));
    eprintln!("the clock set back by 800 days while it drained: ended after {:?}", began.elapsed());
    load.interrupt();
    let report = load.report();
    assert_eq!(report.failures_except("REFUSED"), 0, "{}", report.text);
    assert_eq!(report.count("connections_opened"), 8, "{}", report.text);
    fs::remove_file(&offset).unwrap();
}

// ---------- below: processes, and the resources that they use ----------

/// A frontend and its backend.
struct Chain {
    frontend: Process,
    backend: Process,
}

impl Chain {
    fn start() -> Chain {
        Chain::with(&[])
    }

    fn with(settings: &[(&str, &str)]) -> Chain {
        let settings = settings.iter().copied();
        let backend = Process::start(service("api-backend").envs(settings.clone()));
        let frontend = Process::start(frontend(backend.address).envs(settings));
        Chain { frontend, backend }
    }
}

fn service(name: &str) -> Command {
    let mut command = service_command(service_program(name));
    command.env("WORKERS", WORKERS.to_string()).env("LOG_FORMAT", "off");
    command
}

fn frontend(backend: SocketAddr) -> Command {
    let mut command = frontend_command(service_program("api-frontend"), backend);
    command.env("WORKERS", WORKERS.to_string()).env("LOG_FORMAT", "off");
    command
}

/// The resources of a process.
#[derive(Clone, Copy, Debug)]
struct Resources {
    kib: usize,
    descriptors: usize,
    threads: usize,
}

impl Resources {
    fn of(process: &Process) -> Resources {
        let count = |of| fs::read_dir(format!("/proc/{}/{of}", process.pid)).unwrap().count();
        Resources {
            kib: memory_kib(process, "VmRSS:"),
            descriptors: count("fd"),
            threads: count("task"),
        }
    }
}

/// The memory in use (`VmRSS:`), or the most that was (`VmHWM:`).
fn memory_kib(process: &Process, name: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Connections that the kernel dropped because a backlog was full.
fn listen_overflows() -> u64 {
    let page = fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = page.lines().filter(|line| line.starts_with("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let index = names.split(' ').position(|name| name == "ListenOverflows").unwrap();
    values.split(' ').nth(index).unwrap().parse().unwrap()
}

/// The number of established connections to an address of this machine.
fn connected(to: SocketAddr) -> usize {
    // As in:    1: 0100007F:9C40 0100007F:1F41 01 …; the second address is the peer's, 01 is established.
    let peer_and_state = format!("0100007F:{:04X} 01 ", to.port());
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    sockets.lines().filter(|line| line.contains(&peer_and_state)).count()
}

//! Both services as processes, worn out: by loads, by clients that misbehave, by ends and crashes
//! in the midst of it, and by a system that runs short of everything. What one of these does to a
//! single connection is tested in the services' own packages; here nothing may be lost or grow.
//!
//! `ENDURANCE=long cargo test --release --package lab --test endurance -- --nocapture` does each
//! for as long, as often and with as many as machines bear, which takes about half an hour.

#[path = "../../common/tests/shared/client.rs"]
mod client;
#[path = "shared/lab.rs"]
mod lab;
#[path = "../../common/tests/shared/process.rs"]
mod process;

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::sys::{self, SIGKILL, SIGTERM};

use client::{Client, LONG, get, unended};
use lab::{LAB, Lab, Load, Loaded, requests, serve};
use process::{Metrics, Process, by, free_port, inside, unshare};

const SIGSTOP: i32 = 19;
const SIGCONT: i32 = 18;
const WORKERS: usize = 2;
/// Connections to the backend that a frontend may happen to keep: two for each worker, one of which
/// is old and about to be replaced by the other.
const KEPT_LINES_MAX: usize = 2 * WORKERS;
/// How often to look at what tells nobody.
const LOOK: Duration = Duration::from_millis(2);
/// Between two connections of a client that misbehaves: it shall not be the load itself.
const PACE: Duration = Duration::from_millis(20);
/// What a service may keep for the next client: 64 spare buffers of 16 KiB on each worker, of which
/// this load fills half.
const SPARES_KIB: u64 = 1024;

/// One of the two forms' numbers.
fn form<T>(short: T, long: T) -> T {
    if std::env::var("ENDURANCE").is_ok_and(|form| form == "long") { long } else { short }
}

#[test]
fn a_mixed_load_meets_honest_statuses_and_leaves_nothing_behind() {
    const RESTART: Duration = Duration::from_millis(300);
    let seconds = form(9, 1800);
    let backend_address = at(free_port());
    let port = backend_address.port().to_string();
    // Those who are slow on purpose are not waited for as long as others.
    let hasty = [("HEAD_TIMEOUT_MS", "400"), ("WRITE_TIMEOUT_MS", "400")];
    let start_backend = || Process::start(service("api-backend").env("PORT", &port).envs(hasty));
    let mut backend = start_backend();
    let mut command = frontend(backend_address);
    let frontend = Process::start(command.envs(hasty).env("BACKEND_TIMEOUT_MS", "500"));
    let start = Held::of(&frontend);
    let began = Instant::now();
    let (loaded, warm) = thread::scope(|scope| {
        let mut misbehaving = Vec::new();
        for address in [frontend.address, backend_address] {
            for (misbehave, honest) in MISBEHAVIOURS {
                misbehaving.push(scope.spawn(move || {
                    let mut random = Random(1);
                    let mut told = BTreeSet::new();
                    while began.elapsed().as_secs() < seconds {
                        told.extend(misbehave(address, &mut random).unwrap_or_default());
                        thread::sleep(PACE);
                    }
                    let good = told.iter().all(|status| honest.contains(status));
                    assert!(good, "{told:?} instead of {honest:?}");
                    told
                }));
            }
        }
        let flags = ["--connections", "32", "--rate", "1000", "--seconds", &seconds.to_string()];
        let load = Load::start(frontend.address, &flags);
        let mut warm = None;
        for turn in 0.. {
            thread::sleep(form(1, 3) * Duration::from_secs(1));
            if began.elapsed().as_secs() >= seconds {
                break;
            }
            if began.elapsed().as_secs() >= seconds / 3 {
                warm.get_or_insert_with(|| Held::of(&frontend));
            }
            // Gone for a moment, deaf until calls are late, or back at once.
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
            eprintln!("mixed load: whoever misbehaved was told {:?}", client.join().unwrap());
        }
        (load.end(), warm.unwrap())
    });
    let [good, bad, crowded, late] =
        [200, 502, 503, 504].map(|status| loaded.count(&format!("statuses {status}")));
    let metrics = frontend.metrics();
    eprintln!(
        "mixed load of {seconds} s: {good} times 200, {bad} times 502, {late} times 504; \
         {} connections, {} of them to the backend; first {start:?}, then {warm:?}, at last {:?}",
        metrics.count("http_connections_accepted_total"),
        metrics.count("backend_connections_opened_total"),
        Held::of(&frontend),
    );
    assert!(good > 0 && bad > 0 && late > 0, "{}", loaded.text);
    assert_eq!(loaded.count("answers"), good + bad + crowded + late, "{}", loaded.text);
    assert_eq!(loaded.failures_but("STATUS"), 0, "{}", loaded.text);
    assert_eq!(metrics.count("panics_total"), 0);
    // What the backend kept open goes with it.
    drop(backend);
    until("descriptors are given back", || Held::of(&frontend).descriptors <= start.descriptors);
    let end = Held::of(&frontend);
    assert_eq!(end.threads, start.threads);
    assert!(end.kib <= warm.kib + SPARES_KIB, "{warm:?}, then {end:?}");
}

/// What a client does on one connection, and the statuses that it was told.
type Misbehaviour = fn(SocketAddr, &mut Random) -> std::io::Result<Vec<u16>>;

/// Each with all that it may be told.
const MISBEHAVIOURS: [(Misbehaviour, &[u16]); 4] =
    [(die, &[]), (trickle, &[408]), (talk_nonsense, &[400, 414, 431, 501, 505]), (never_read, &[])];

/// Goes away in the midst of a request, with some answers unread.
fn die(address: SocketAddr, random: &mut Random) -> std::io::Result<Vec<u16>> {
    let mut stream = TcpStream::connect(address)?;
    let requests = get("/").repeat(4);
    stream
        .write_all(requests.get(..random.below(requests.len())).unwrap_or_default().as_bytes())?;
    Ok(Vec::new())
}

/// Says a head so slowly that it is told so.
fn trickle(address: SocketAddr, _: &mut Random) -> std::io::Result<Vec<u16>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PACE))?;
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

fn talk_nonsense(address: SocketAddr, random: &mut Random) -> std::io::Result<Vec<u16>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONG))?;
    let nonsense: Vec<u8> = (0..random.below(2000)).map(|_| random.byte()).collect();
    stream.write_all(&nonsense)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(statuses(&answer))
}

/// Asks for more and more, until the service is tired of waiting for it.
fn never_read(address: SocketAddr, _: &mut Random) -> std::io::Result<Vec<u16>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_write_timeout(Some(LONG))?;
    let requests = get("/version").repeat(1000);
    while stream.write_all(requests.as_bytes()).is_ok() {}
    Ok(Vec::new())
}

/// The status at the beginning of what was answered, if anything was.
fn statuses(answer: &[u8]) -> Vec<u16> {
    let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
    status.and_then(|digits| digits.parse().ok()).into_iter().collect()
}

/// Numbers that are the same in each run (xorshift).
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
fn ten_thousand_connections_at_once_are_served_and_cost_little() {
    /// At which the memory is looked at.
    const SOME: usize = 5_000;
    /// Futures that the compiler was not asked to make small are larger.
    const BYTES_MAX: u64 = if cfg!(debug_assertions) { 2048 } else { 1024 };
    const WHOLE_KIB_MAX: u64 = if cfg!(debug_assertions) { 12 << 10 } else { 6 << 10 };
    // Some are needed for all else.
    let limit = usize::try_from(sys::raise_open_files().unwrap()).unwrap() - 1_000;
    let chain = Chain::start();
    for process in [&chain.backend, &chain.frontend] {
        let (_, served) = process.greeting.rsplit_once(", at most ").unwrap();
        let served: usize = served.trim_end_matches(" connections").parse().unwrap();
        let count = limit.min(served);
        assert!(count > SOME, "the limit of open files is too low: {limit}");
        assert_eq!(process.connect().ask("/").status, 200);
        until("nobody is left", || process.metrics().count("http_connections_open") == 1);
        let start = Held::of(process);
        let come_and_go = || {
            let mut crowd = Vec::new();
            let mut some = start;
            for number in 1..=count {
                let mut stream = TcpStream::connect(process.address).unwrap();
                ask(&mut stream);
                crowd.push(stream);
                if number == SOME {
                    some = Held::of(process);
                }
            }
            crowd.iter_mut().for_each(ask);
            let all = Held::of(process);
            drop(crowd);
            until("all have gone", || process.metrics().count("http_connections_open") == 1);
            [some, all, Held::of(process)]
        };
        let [some, all, after] = come_and_go();
        let [.., end] = come_and_go();
        let bytes = (some.kib - start.kib) * 1024 / SOME as u64;
        eprintln!(
            "{count} connections at once: {bytes} bytes each; first {start:?}, with {SOME} {some:?}, \
             with all {all:?}, after them {after:?}, after as many again {end:?}"
        );
        assert!(bytes <= BYTES_MAX, "{bytes} bytes each");
        assert!(some.kib <= WHOLE_KIB_MAX, "{some:?}");
        // Whether what is free goes back to the system is up to the C library's allocator; and not
        // every crowd is spread over the workers alike.
        assert!(end.kib <= after.kib + 1024, "{after:?}, then {end:?}");
        assert!(end.descriptors <= start.descriptors + KEPT_LINES_MAX, "{start:?}, then {end:?}");
        assert_eq!(end.threads, start.threads);
    }
}

#[test]
fn clients_that_would_fill_the_memory_are_dropped_before() {
    const KEPT_KIB: u64 = 4 << 10;
    /// What each may keep uncounted, its connection, and what an allocator wastes of that.
    const FREE_KIB: u64 = 8;
    /// Lines for the log and others on the way out of it; all else is allowed for as well.
    const LOG_KIB: u64 = 6 << 10;
    let count = form(2_000, 4_000);
    let turns = form(4, 20);
    let kept = (KEPT_KIB << 10).to_string();
    let chain = Chain::with(&[("BUFFER_BYTES_MAX", &kept), ("LOG_FORMAT", "text")]);
    let long = unended("/", 14_000);
    let pieces = "\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned() + &"1\r\nx\r\n".repeat(9_000);
    for process in [&chain.backend, &chain.frontend] {
        let start = Held::of(process);
        for (clients, what, speech, reads) in [
            (count, "heads", long.clone(), false),
            (count, "bodies", long.replace("GET", "POST") + &pieces, false),
            (
                count / 4,
                "requests whose answers nobody takes",
                get("/version").repeat(2_000),
                false,
            ),
            (count / 4, "requests whose answers are taken", get("/version").repeat(2_000), true),
        ] {
            let mut greedy: Vec<_> = (0..clients)
                .map(|_| {
                    let stream = TcpStream::connect(process.address).unwrap();
                    stream.set_nonblocking(true).unwrap();
                    (stream, speech.as_bytes())
                })
                .collect();
            for _ in 0..turns {
                for (stream, left) in &mut greedy {
                    if let Ok(written) = stream.write(left) {
                        *left = &left[written..];
                    }
                    while reads && stream.read(&mut [0; 16 << 10]).is_ok_and(|count| count > 0) {}
                }
            }
            // Accepted last, answered last.
            assert_eq!(process.connect().ask("/").status, 200);
            let peak = memory_kib(process, "VmHWM:");
            drop(greedy);
            until("all have gone", || process.metrics().count("http_connections_open") == 1);
            assert_eq!(process.metrics().count("http_buffered_bytes"), 0);
            eprintln!("{clients} {what}: {start:?}, then at most {peak} KiB");
            let may = start.kib + KEPT_KIB + FREE_KIB * count + LOG_KIB;
            assert!(peak <= may, "{what}: {peak} KiB, and not {may}");
        }
    }
}

/// Asks on a connection that is kept, and hears a 200.
fn ask(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(get("/").as_bytes()).unwrap();
    let mut answer = [0; 1024];
    let count = stream.read(&mut answer).unwrap();
    assert_eq!(statuses(&answer[..count]), [200]);
}

#[test]
fn connections_one_after_another_leave_nothing_behind() {
    let count = form(3_000, 100_000);
    let chain = Chain::start();
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for process in [&chain.backend, &chain.frontend] {
        let come_and_go = |count| {
            for _ in 0..count {
                let mut client = process.connect();
                client.say(request);
                assert_eq!(client.answer().status, 200);
                assert_eq!(client.rest(), "");
            }
            Held::of(process)
        };
        let start = come_and_go(count / 10);
        let began = Instant::now();
        let end = come_and_go(count);
        let took = began.elapsed();
        eprintln!("{count} connections one after another, {took:?}: {start:?}, then {end:?}");
        assert!(end.descriptors <= start.descriptors + KEPT_LINES_MAX, "{start:?}, then {end:?}");
        assert!(end.kib <= start.kib + 256, "{start:?}, then {end:?}");
        assert_eq!(end.threads, start.threads);
    }
}

#[test]
fn connections_to_the_backend_are_few_whatever_the_load() {
    /// Of each worker.
    const LINES_MAX: usize = 64;
    let seconds = form(2, 30);
    // Each is renewed every 10 s.
    let lives = 1 + seconds / 10;
    for (name, answers_after, keeps) in [
        ("quick", Duration::ZERO, true),
        ("slow", Duration::from_millis(40), true),
        ("closing", Duration::ZERO, false),
    ] {
        let backend = serve(move |mut stream| {
            stream.set_nodelay(true).unwrap();
            for () in requests(stream.try_clone().unwrap()) {
                thread::sleep(answers_after);
                let said = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
                if said.is_err() || !keeps {
                    break;
                }
            }
            let _ = stream.shutdown(Shutdown::Both);
        });
        let frontend = Process::start(&mut frontend(backend));
        let flags = ["--connections", "400", "--seconds", &seconds.to_string()];
        let load = Load::start(frontend.address, &flags);
        let began = Instant::now();
        let mut most = 0;
        while began.elapsed().as_secs() < seconds as u64 {
            most = most.max(frontend.metrics().count("backend_connections_open"));
            thread::sleep(PACE);
        }
        let loaded = load.end();
        let opened = frontend.metrics().count("backend_connections_opened_total");
        let answers = loaded.count("answers");
        eprintln!("{name} backend: {answers} answers, {opened} connections to it, {most} at once");
        assert_eq!(loaded.count("failed"), 0, "{name}: {}", loaded.text);
        assert!(most <= LINES_MAX * WORKERS, "{name}: {most}");
        assert!(!keeps || opened <= LINES_MAX * WORKERS * lives, "{name}: {opened}");
    }
}

/// A port of whoever closes first is not to be had for a minute: if that were the frontend, it
/// would run out of them where each call has its own connection.
#[test]
fn a_connection_for_each_call_uses_no_port_up() {
    const PORTS: usize = 100;
    let Some(runner) = unshare(&["--net"]) else { return };
    // A port whose minute is not over may else be taken again on the loopback device.
    let few_ports = format!(
        "cd /proc/sys/net/ipv4 && ip link set lo up && echo 0 > tcp_tw_reuse && \
         echo 30001 {} > ip_local_port_range && exec \"$0\" \"$@\"",
        30_000 + PORTS
    );
    let backend = Process::start(&mut by(
        &[&*runner, &["sh", "-c", &few_ports]].concat(),
        service("api-backend").env("PORT", "8001"),
    ));
    let pid = backend.pid.to_string();
    let inside = inside(&runner, &pid);
    let frontend = Process::start(&mut by(&inside, frontend(at(8001)).env("BACKEND_REUSE", "off")));
    let mut load = by(&inside, &Command::new(LAB));
    let loaded =
        Load::by(&mut load, frontend.address, &["--connections", "8", "--seconds", "2"]).end();
    eprintln!("{PORTS} ports, a connection each: {} answers", loaded.count("answers"));
    assert_eq!(loaded.count("failed"), 0, "{}", loaded.text);
    assert!(loaded.count("answers") > PORTS * 10, "{}", loaded.text);
}

#[test]
fn a_storm_of_newcomers_beyond_the_limit_takes_nothing_from_those_who_are_served() {
    const LIMIT: usize = 64;
    let seconds = form(2, 60);
    let chain = Chain::with(&[("CONNECTIONS_MAX", "64")]);
    for process in [&chain.backend, &chain.frontend] {
        let limit = LIMIT.to_string();
        let old = Load::start(process.address, &["--connections", &limit, "--seconds", "3600"]);
        until("all old ones are there", || connected(process.address) == LIMIT);
        let storm = ["--connections", "500", "--close", "--seconds", &seconds.to_string()];
        let storm = Load::start(process.address, &storm).end();
        old.interrupt();
        let old = old.end();
        let told = storm.count("statuses 503");
        eprintln!(
            "beyond the limit: {told} were told 503; the others had {} answers, p99.9 {} µs",
            old.count("answers"),
            old.micros("latency_us p99.9")
        );
        assert_eq!(old.count("failed"), 0, "{}", old.text);
        assert_eq!(old.count("connections_opened"), LIMIT, "{}", old.text);
        assert!(told > 0 && told == storm.count("answers"), "{}", storm.text);
        assert_eq!(storm.failures_but("STATUS"), 0, "{}", storm.text);
        assert_eq!(process.connect().ask("/").status, 200);
    }
}

#[test]
fn a_backend_that_ends_and_starts_under_full_load_loses_no_answer() {
    let address = at(free_port());
    end_and_start(address, service("api-backend").env("PORT", address.port().to_string()));
}

#[test]
fn a_frontend_that_ends_and_starts_under_full_load_loses_no_answer() {
    let backend = Process::start(&mut service("api-backend"));
    let address = at(free_port());
    end_and_start(address, frontend(backend.address).env("PORT", address.port().to_string()));
}

/// Whoever has a connection is answered; whoever has none is refused.
fn end_and_start(address: SocketAddr, command: &mut Command) {
    let times = form(5, 50);
    let mut process = Process::start(command);
    let loads = [&["--close"][..], &["--pipeline", "4"], &[]].map(|flags| {
        let common = ["--connections", "32", "--seconds", "3600"];
        Load::start(address, &[flags, &common].concat())
    });
    for _ in 0..times {
        until("the load is full", || {
            process.metrics().count("http_requests_total{route=\"/\",status=\"200\"}") > 2_000
        });
        process.signal(SIGTERM);
        assert_eq!(process.exit_code(), Some(0));
        process = Process::start(command);
    }
    loads.iter().for_each(Load::interrupt);
    for loaded in loads.map(Load::end) {
        eprintln!(
            "ended and started {times} times: {} answers, {} refused, longest gap {} ms",
            loaded.count("answers"),
            loaded.count("failures REFUSED"),
            loaded.count("longest_gap_ms")
        );
        assert!(loaded.count("answers") > 0);
        assert_eq!(loaded.failures_but("REFUSED"), 0, "{}", loaded.text);
    }
}

#[test]
fn a_crash_under_load_costs_what_was_under_way_and_a_short_gap() {
    const CONNECTIONS: usize = 32;
    let times: usize = form(5, 50);
    let mut lab = Lab::up(&[("LOG_FORMAT", "off")]);
    let (frontend, backend) = (at(lab.ports.frontend), at(lab.ports.backend));
    let connections = CONNECTIONS.to_string();
    let load = Load::start(frontend, &["--connections", &connections, "--seconds", "3600"]);
    let mut longest_wait = 0;
    for turn in 0..times {
        let (name, address) =
            if turn % 2 == 0 { ("api-frontend", frontend) } else { ("api-backend", backend) };
        // After a life of 10 s the wait is the shortest again.
        thread::sleep(form(Duration::from_millis(200), Duration::from_secs(11)));
        let mut client = Client::connect(address);
        client.say(get("/traceback"));
        assert_eq!(client.stream().read(&mut [0; 64]).unwrap_or(0), 0);
        let line = lab.line(&format!("{name} ended with exit code 1; starting again in "));
        let (_, wait) = line.rsplit_once(" in ").unwrap();
        longest_wait = longest_wait.max(wait.trim_end_matches(" ms").parse().unwrap());
        lab.line(&format!("info {name} "));
        client = Client::connect(address);
        assert_eq!(client.ask("/").status, 200);
    }
    load.interrupt();
    let loaded = load.end();
    let [refused, reset, closed, status, timeout] =
        ["REFUSED", "RESET", "CLOSED", "STATUS", "TIMEOUT"]
            .map(|word| loaded.count(&format!("failures {word}")));
    let gap = loaded.count("longest_gap_ms");
    eprintln!(
        "{times} crashes: {} answers, {status} of them 502, {refused} refused, {reset} reset, \
         {closed} closed, {timeout} late; longest wait {longest_wait} ms, longest gap {gap} ms",
        loaded.count("answers")
    );
    // At each of the frontend's a connection loses the request that was under way on it, and perhaps
    // the next: while a process ends, the kernel closes its listener last.
    let lost_max = 2 * CONNECTIONS * times.div_ceil(2);
    assert!(reset + closed <= lost_max, "{}", loaded.text);
    assert_eq!(loaded.count("failed"), refused + reset + closed + status, "{}", loaded.text);
    assert_eq!(status, loaded.count("statuses 502"), "{}", loaded.text);
    assert!(gap < longest_wait + 1_000, "{gap} ms without an answer");
}

#[test]
fn a_process_that_was_stopped_for_a_while_goes_on_where_it_was() {
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
        until("the load has begun", || process.metrics().count("http_connections_open") > 1);
        process.signal(SIGSTOP);
        thread::sleep(stop);
        process.signal(SIGCONT);
        let loaded = load.end();
        eprintln!(
            "stopped for {stop:?} (backend: {is_backend}): {} answers, {} failed, longest gap {} ms",
            loaded.count("answers"),
            loaded.count("failed"),
            loaded.count("longest_gap_ms")
        );
        assert!(loaded.count("longest_gap_ms") as u128 > stop.as_millis() - 100);
        // Calls that were under way may have become late meanwhile, and are told so.
        let late = loaded.count("statuses 504");
        assert!(late <= 64, "{}", loaded.text);
        assert_eq!(loaded.count("failed"), late, "{}", loaded.text);
    }
}

#[test]
fn whoever_came_while_a_process_was_stopped_is_served_when_it_goes_on() {
    /// More than the backlog.
    const COMERS: &str = "6000";
    let chain = Chain::start();
    for process in [&chain.backend, &chain.frontend] {
        process.signal(SIGSTOP);
        let flags = ["--connections", COMERS, "--close", "--seconds", "3", "--timeout-ms", "30000"];
        let load = Load::start(process.address, &flags);
        thread::sleep(form(Duration::from_secs(2), Duration::from_millis(2_900)));
        process.signal(SIGCONT);
        let loaded = load.end();
        eprintln!(
            "backlog overrun: {} answers, {} failed, the latest after {} µs",
            loaded.count("answers"),
            loaded.count("failed"),
            loaded.micros("latency_us max")
        );
        assert!(loaded.count("connections_opened") >= 6_000);
        assert_eq!(loaded.count("failed"), 0, "{}", loaded.text);
    }
}

#[test]
fn descriptors_that_run_out_and_come_back_cost_nobody_his_connection() {
    let exhausted = form(Duration::from_millis(500), Duration::from_secs(60));
    let chain = Chain::start();
    for process in [&chain.backend, &chain.frontend] {
        let mut old = process.connect();
        assert_eq!(old.ask("/").status, 200);
        let open =
            |number: &usize| Path::new(&format!("/proc/{}/fd/{number}", process.pid)).exists();
        let first_free = (0..=Held::of(process).descriptors).find(|number| !open(number)).unwrap();
        let Some(before) = limit_open_files(process.pid, first_free) else { return };
        let newcomers: Vec<_> = (0..100).map(|_| process.connect()).collect();
        for client in &newcomers {
            client.say(get("/version"));
        }
        let spent = process.processor_time();
        let began = Instant::now();
        while began.elapsed() < exhausted {
            assert_eq!(old.ask("/version").status, 200);
            thread::sleep(PACE);
        }
        let spent = process.processor_time().saturating_sub(spent);
        // When the frontend's connection to the backend is 10 s old, somebody gets its place.
        let served = newcomers.iter().filter(|client| !client.is_silent()).count();
        assert!(served <= 1, "{served}");
        let errors = Metrics::read(&old.ask("/metrics").body).count("http_accept_errors_total");
        limit_open_files(process.pid, before);
        for mut client in newcomers {
            assert_eq!(client.answer().status, 200);
        }
        eprintln!("no descriptors for {exhausted:?}: {errors} failures to accept, {spent:?} spent");
        assert!(errors > 0);
        assert!(spent < exhausted / 5, "{spent:?}");
    }
}

/// Sets the limit of a process that runs; what it was before, `None` if that cannot be done here.
fn limit_open_files(pid: u32, limit: usize) -> Option<usize> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let before = line.split_whitespace().next().unwrap().parse().unwrap();
    let (pid, limit) = (pid.to_string(), format!("--nofile={limit}:"));
    match Command::new("prlimit").args(["--pid", &pid, &limit]).status() {
        Ok(status) if status.success() => Some(before),
        other => {
            eprintln!("skipped: prlimit: {other:?}");
            None
        }
    }
}

/// Debian's package is libfaketime; it needs programs that are linked dynamically.
#[test]
fn a_clock_that_is_set_changes_the_date_and_ends_no_wait() {
    let name = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    if !Path::new(&name).exists() {
        return eprintln!("skipped: there is no {name}");
    }
    let offset = format!("{}/offset-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    let set = |to: &str| fs::write(&offset, to).unwrap();
    set("+0");
    let process = Process::start(service("api-backend").envs([
        ("LD_PRELOAD", &*name),
        ("FAKETIME_TIMESTAMP_FILE", &*offset),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ]));
    let year = |client: &mut Client| -> i32 {
        let head = client.ask("/").head;
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
        until("the date follows", || (year(&mut client) - present).signum() == moved);
        assert!(idle.is_silent());
    }
    set("-800d");
    process.signal(SIGTERM);
    let began = Instant::now();
    assert_eq!(process.end().0, Some(0));
    eprintln!("the clock set back by 800 days while it drained: ended after {:?}", began.elapsed());
    load.interrupt();
    let loaded = load.end();
    assert_eq!(loaded.failures_but("REFUSED"), 0, "{}", loaded.text);
    assert_eq!(loaded.count("connections_opened"), 8, "{}", loaded.text);
    fs::remove_file(&offset).unwrap();
}

// ---------- below: processes, and what they hold ----------

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

/// A service that lies beside `lab`.
fn service(name: &str) -> Command {
    lab::build_once();
    let mut command = Command::new(Path::new(LAB).with_file_name(name));
    let workers = WORKERS.to_string();
    command.env_clear().envs([("PORT", "0"), ("WORKERS", &workers), ("LOG_FORMAT", "off")]);
    command
}

fn frontend(backend: SocketAddr) -> Command {
    let mut command = service("api-frontend");
    command.env("API_BACKEND_URL", backend.ip().to_string());
    command.env("API_BACKEND_PORT", backend.port().to_string());
    command
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// What a process takes of the system.
#[derive(Clone, Copy, Debug)]
struct Held {
    kib: u64,
    descriptors: usize,
    threads: usize,
}

impl Held {
    fn of(process: &Process) -> Held {
        let count = |of| fs::read_dir(format!("/proc/{}/{of}", process.pid)).unwrap().count();
        Held {
            kib: memory_kib(process, "VmRSS:"),
            descriptors: count("fd"),
            threads: count("task"),
        }
    }
}

/// What it takes now (`VmRSS:`), or took at most (`VmHWM:`).
fn memory_kib(process: &Process, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

impl Loaded {
    /// Failures of any other kind than this.
    fn failures_but(&self, word: &str) -> usize {
        self.count("failed") - self.count(&format!("failures {word}"))
    }
}

/// How many connections to an address of this machine are made.
fn connected(to: SocketAddr) -> usize {
    // As in:    1: 0100007F:9C40 0100007F:1F41 01 …; the second address is the peer's, 01 is made.
    let peer_and_state = format!("0100007F:{:04X} 01 ", to.port());
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    sockets.lines().filter(|line| line.contains(&peer_and_state)).count()
}

/// Waits for what tells nobody.
fn until(what: &str, mut look: impl FnMut() -> bool) {
    let began = Instant::now();
    while !look() {
        assert!(began.elapsed() < LONG, "{what}: not within {LONG:?}");
        thread::sleep(LOOK);
    }
}

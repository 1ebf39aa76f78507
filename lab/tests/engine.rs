//! The images and both services on a Docker engine: `docker-compose up`, then crashes, stops, pauses,
//! moves, cut networks and scaling. The services themselves are tested in their own packages.
//! `RUST_IMAGE`, or `.env`, names the image to build with.
//!
//! `cargo test --test engine -- --ignored`

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs};

use common::sys;
use testing::client::{Client, Response, get, get_once, unfinished};
use testing::docker::{
    Container, Folder, Run, SERVICES, docker, exclusive, files, inspect, namespace, serves,
    since_1970, stdout_of, text, timed,
};
use testing::ports::free_ports;
use testing::{BACKEND_BODY, FRONTEND_BODY, WAIT_MAX, at, wait_for, wait_until};
use tools::json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The largest size of an image.
const IMAGE_BYTES_MAX: usize = 500_000;

#[test]
#[ignore = "needs a Docker engine"]
fn an_image_is_one_file_below_500_kb_that_says_what_it_is() {
    let _exclusive = exclusive();
    build_images();
    for service in SERVICES {
        check_image(&image(service), service);
    }
}

#[test]
#[ignore = "needs a Docker engine"]
fn both_come_up_in_order_and_are_confined() {
    let _exclusive = exclusive();
    build_images();
    let (began, at) = (Instant::now(), SystemTime::now());
    let project = Project::up("order", &[]);
    wait_until("the chain", || serves(project.published("api-frontend")));
    eprintln!("the chain serves after {:?}", began.elapsed());
    let [backend, frontend] = SERVICES.map(|service| project.container(service));
    wait_for("both healthy", WAIT_MAX, || {
        (backend.inspect("State/Health/Status") == "healthy"
            && frontend.inspect("State/Health/Status") == "healthy")
            .then_some(())
    });

    let healthy = backend.event("health_status: healthy", at).expect("it was healthy");
    // Compose v2 creates both at once, but starts one after the other.
    let started = frontend.event("start", at).expect("it was started");
    assert!(started.at > healthy.at, "started {} s before", healthy.at - started.at);

    for (container, service) in [(&backend, "api-backend"), (&frontend, "api-frontend")] {
        check_confinement(container, service);
    }
}

#[test]
#[ignore = "needs a Docker engine"]
fn every_route_has_its_bytes_and_every_request_its_line() {
    let _exclusive = exclusive();
    let project = Project::up("routes", &[]);
    for (service, root) in [("api-backend", BACKEND_BODY), ("api-frontend", FRONTEND_BODY)] {
        let container = project.container(service);
        let mut client = Client::connect(project.published(service));
        let version = format!(
            "{{\"name\": \"{service}\", \"version\": \"{}\", \"hostname\": \"{}\", \"pid\": 1}}\n",
            env!("CARGO_PKG_VERSION"),
            &container.id[..12],
        );
        let error = |what| format!("{{\"error_message\": \"{what}\", \"status\": \"[ERROR]\"}}\n");
        let lines = container.logs().len();
        let mut logged = 0;
        for (request, status, allow, body) in [
            ("GET /", "200 OK", None, root),
            ("GET /?a=b", "200 OK", None, root),
            ("HEAD /", "200 OK", None, root),
            ("GET /healthz", "200 OK", None, "{\"status\": \"ok\"}\n"),
            ("GET /readyz", "200 OK", None, "{\"status\": \"ready\"}\n"),
            ("GET /version", "200 OK", None, &version),
            ("OPTIONS /", "204 No Content", Some("GET, HEAD, OPTIONS"), ""),
            ("OPTIONS /traceback", "204 No Content", Some("GET, OPTIONS"), ""),
            ("GET /nothing", "404 Not Found", None, &error("no such path")),
            (
                "POST /",
                "405 Method Not Allowed",
                Some("GET, HEAD, OPTIONS"),
                &error("method not allowed on this path"),
            ),
            (
                "HEAD /traceback",
                "405 Method Not Allowed",
                Some("GET, OPTIONS"),
                &error("method not allowed on this path"),
            ),
            ("FROB /", "501 Not Implemented", None, &error("method not implemented")),
        ] {
            let request_line = format!("{request} HTTP/1.1");
            client.send(format!("{request_line}\r\nHost: a\r\n\r\n"));
            let allow = allow.map(|methods| format!("Allow: {methods}\r\n")).unwrap_or_default();
            let (kind, length) = match body.len() {
                0 => (String::new(), String::new()),
                length => (
                    "Content-Type: application/json\r\n".to_owned(),
                    format!("Content-Length: {length}\r\n"),
                ),
            };
            let server = format!("Server: {service}/1.0.0\r\n");
            let expected = format!("HTTP/1.1 {status}\r\n{server}{allow}{kind}{length}\r\n");
            let (head, received) = if request.starts_with("HEAD ") {
                (client.response_head(), body.to_owned())
            } else {
                let response = client.response();
                (response.head, response.body)
            };
            let host = &container.inspect("Config/Hostname");
            let served_by =
                |line: &&str| line.starts_with("X-Served-By: ") && line.trim_end().ends_with(host);
            let undated = undated(&head);
            let (named, rest): (Vec<_>, Vec<_>) =
                undated.split_inclusive("\r\n").partition(served_by);
            assert_eq!(named.len(), 1, "{service}: {request}: {head}");
            assert_eq!(rest.concat(), expected, "{service}: {request}");
            assert_eq!(received, body, "{service}: {request}");
            logged += usize::from(!request.ends_with('z'));
        }
        let metrics = client.request("/metrics");
        let build = format!("build_info{{name=\"{service}\",version=\"1.0.0\"}} 1\n");
        assert!(metrics.body.contains(&build), "{}", metrics.body);
        assert!(metrics.head.contains("\r\nContent-Type: text/plain; version=0.0.4"));

        let log = wait_for("a line for each request", WAIT_MAX, || {
            let log = container.logs();
            (log.len() >= lines + logged).then_some(log)
        });
        assert_eq!(log.len(), lines + logged, "{service}: {log:#?}");
        for probe in ["/healthz", "/readyz", "/metrics"] {
            assert!(!log.iter().any(|line| line.contains(probe)), "{service}: {log:#?}");
        }
    }
}

#[test]
#[ignore = "needs a Docker engine"]
fn a_crashed_service_is_back_ten_times_in_a_row() {
    let _exclusive = exclusive();
    let project = Project::up("crash", &[]);
    thread::scope(|scope| {
        for service in SERVICES {
            let project = &project;
            scope.spawn(move || crash_ten_times(project, service));
        }
    });
    wait_until("the chain", || serves(project.published("api-frontend")));
}

#[test]
#[ignore = "needs a Docker engine"]
fn stopped_they_end_with_0_and_lose_nothing() {
    let _exclusive = exclusive();
    // One that waits for the end of the drain is killed before.
    let project =
        Project::up("stop", &[("DRAIN_TIMEOUT_MS", "60000"), ("STOP_GRACE_PERIOD", "20s")]);
    let [backend, frontend] = SERVICES.map(|service| project.container(service));
    for container in [&frontend, &backend] {
        container.stop();
        docker(&["start", &container.id]);
    }
    wait_until("the chain", || serves(project.published("api-frontend")));

    // Under way in the frontend, and as long as the backend stands still.
    let address = frontend.address(&project.network(), 8000);
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(address)).collect();
    docker(&["pause", &backend.id]);
    for client in &clients {
        client.send(get("/"));
    }
    thread::scope(|scope| {
        let stopped = scope.spawn(|| frontend.stop());
        wait_until("draining", || frontend.has_logged("SIGTERM: draining"));
        docker(&["unpause", &backend.id]);
        for client in &mut clients {
            let response = client.response();
            assert_eq!((response.status, &*response.body), (200, FRONTEND_BODY));
            assert!(response.is_last(), "{}", response.head);
            assert_eq!(client.read_to_end(), "");
        }
        stopped.join().expect("stopped");
    });

    docker(&["start", &frontend.id]);
    wait_until("the chain", || serves(project.published("api-frontend")));
    for (container, port, body) in
        [(&frontend, 8000, FRONTEND_BODY), (&backend, 8001, BACKEND_BODY)]
    {
        stop_under_load(container, container.address(&project.network(), port), body);
    }
}

#[test]
#[ignore = "needs a Docker engine"]
fn a_backend_may_stop_and_return_with_another_address() {
    let _exclusive = exclusive();
    let project = Project::up("moved", &[]);
    let [backend, frontend] = SERVICES.map(|service| project.container(service));
    let address = project.published("api-frontend");
    wait_until("the chain", || serves(address));
    wait_for("healthy", WAIT_MAX, || {
        (frontend.inspect("State/Health/Status") == "healthy").then_some(())
    });
    let pid = frontend.inspect("State/Pid");
    let old = backend.address(&project.network(), 8001);
    backend.stop();
    check_failure(&get_once(address, "/").unwrap(), 502, &["DNS", "REFUSED"]);
    // Two checks, so that one began after the stop.
    for _ in 0..2 {
        let checks = frontend.inspect("State/Health/Log");
        wait_for("a check", WAIT_MAX, || {
            (frontend.inspect("State/Health/Log") != checks).then_some(())
        });
    }
    assert_eq!(frontend.inspect("State/Health/Status"), "healthy");
    assert_eq!(
        (frontend.inspect("State/Pid"), frontend.inspect("RestartCount")),
        (pid, "0".to_owned())
    );
    check_failure(&get_once(address, "/").unwrap(), 502, &["DNS", "REFUSED"]);

    // Another container now has the old address, and serves on another port.
    let network = project.network();
    let mut occupiers = Vec::new();
    while occupiers.last().is_none_or(|last: &Run| last.address(&network, 8001) != old) {
        assert!(occupiers.len() < 8, "no container gets {old}");
        occupiers.push(Run::start(&image("api-backend"), &["--network", &network, "-ePORT=9"]));
    }
    docker(&["start", &backend.id]);
    let began = Instant::now();
    wait_until("the chain", || serves(address));
    eprintln!("moved, it was found within {:?}", began.elapsed());
    assert_ne!(backend.address(&network, 8001), old);
}

#[test]
#[ignore = "needs a Docker engine"]
fn a_backend_may_hang_lose_its_network_and_lose_its_name() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let _exclusive = exclusive();
    let project = Project::up("cut", &[("BACKEND_TIMEOUT_MS", "2000")]);
    let [backend, frontend] = SERVICES.map(|service| project.container(service));
    let (address, network) = (project.published("api-frontend"), project.network());
    wait_until("the chain", || serves(address));

    docker(&["pause", &backend.id]);
    for _ in 0..2 {
        let (mut client, began) = (Client::connect(address), Instant::now());
        client.send(get("/"));
        assert_eq!(Client::connect(address).request("/healthz").status, 200);
        assert!(client.is_silent());
        check_failure(&client.response(), 504, &["TIMEOUT"]);
        assert!(began.elapsed() >= TIMEOUT, "{:?}", began.elapsed());
    }
    docker(&["unpause", &backend.id]);
    wait_until("the chain after a pause", || serves(address));

    let leave = || docker(&["network", "disconnect", &network, &backend.id]);
    leave();
    let response = get_once(address, "/").unwrap();
    assert!(matches!(response.status, 502 | 504), "{response:?}");
    assert_eq!(get_once(address, "/healthz").unwrap().status, 200);
    docker(&["network", "connect", &network, &backend.id]);
    let response = wait_for("an unknown name", WAIT_MAX, || {
        get_once(address, "/").ok().filter(|response| response.body.contains("DNS"))
    });
    check_failure(&response, 502, &["DNS"]);
    leave();
    docker(&["network", "connect", "--alias", "api-backend", &network, &backend.id]);
    let began = Instant::now();
    wait_until("the chain after a cut", || serves(address));
    eprintln!("connected again, it was found within {:?}", began.elapsed());
    assert_eq!(frontend.inspect("RestartCount"), "0");
}

#[test]
#[ignore = "needs a Docker engine"]
fn the_frontend_spreads_over_a_backend_scaled_to_three() {
    const REQUESTS: usize = 90;
    let _exclusive = exclusive();
    let project = Project::scaled("scaled", &[("BACKEND_REUSE", "off")], 3);
    let backends = project.containers("api-backend");
    assert_eq!(backends.len(), 3);
    let address = project.published("api-frontend");
    for _ in 0..REQUESTS {
        assert!(serves(address), "a good response");
    }
    let counts = wait_for("a line for each request", WAIT_MAX, || {
        let lines = |backend: &Container| {
            backend.logs().iter().filter(|line| line.contains(" GET / 200 ")).count()
        };
        let counts: Vec<_> = backends.iter().map(lines).collect();
        (counts.iter().sum::<usize>() >= REQUESTS).then_some(counts)
    });
    eprintln!("spread: {counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), REQUESTS, "{counts:?}");
    assert!(!counts.contains(&0), "{counts:?}");

    docker(&["stop", &backends[0].id]);
    for _ in 0..REQUESTS {
        assert!(serves(address), "two are enough");
    }
}

#[test]
#[ignore = "needs a Docker engine"]
fn a_thousand_connections_fit_in_16_mb_at_any_load() {
    const CONNECTIONS: usize = 1_000;
    let _exclusive = exclusive();
    build_images();
    sys::raise_descriptor_limit().expect("as many as the hard limit says");
    let network = Network::create();
    let limits = [
        "--network",
        &network.0,
        "--memory=16m",
        "--memory-swap=16m",
        // Clients that are slow within their share of the memory keep their places until a timeout.
        "-eHEAD_TIMEOUT_MS=1000",
        "-eWRITE_TIMEOUT_MS=1000",
        // The engine would be busy with millions of lines.
        "-eLOG_FORMAT=off",
    ];
    let alias = ["--network-alias=api-backend"];
    let backend = Run::start(&image("api-backend"), &[&limits[..], &alias].concat());
    let asks = ["-eAPI_BACKEND_URL=api-backend", "-eAPI_BACKEND_PORT=8001"];
    let frontend = Run::start(&image("api-frontend"), &[&limits[..], &asks].concat());
    for (container, port, body) in
        [(&backend, 8001, BACKEND_BODY), (&frontend, 8000, FRONTEND_BODY)]
    {
        let address = container.address(&network.0, port);
        wait_until("the first response", || serves(address));
        let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| Client::connect(address)).collect();
        for _ in 0..3 {
            for client in &clients {
                client.send(get("/"));
            }
            for client in &mut clients {
                let response = client.response();
                assert_eq!((response.status, &*response.body), (200, body));
            }
        }
        let metrics = clients[0].request("/metrics").body;
        let open = format!("http_connections_open {CONNECTIONS}\n");
        assert!(metrics.contains(&open), "{metrics}");
        let resident = metrics.lines().find(|line| line.starts_with("process_resident_memory"));
        eprintln!("{}: {}", container.inspect("Config/Image"), resident.expect("a gauge"));
        drop(clients);
        // Twice as many as it may serve, and more bytes to buffer than there is memory.
        let endless = unfinished("/", 15_000);
        for bytes in [endless, get("/version").repeat(10_000)] {
            let greedy: Vec<_> = (0..2 * CONNECTIONS)
                .map(|_| {
                    let stream = Client::connect(address).stream();
                    stream.set_nonblocking(true).expect("a socket that can");
                    let _ = (&stream).write(bytes.as_bytes());
                    stream
                })
                .collect();
            // Accepted last: the server has read from all others by then.
            wait_until("the next one is served", || serves(address));
            drop(greedy);
        }
        wait_until("all are closed", || serves(address));
        let metrics = Client::connect(address).request("/metrics").body;
        assert!(!metrics.contains("{reason=\"overloaded\"} 0\n"), "{metrics}");
        assert_eq!(container.inspect("State/OOMKilled"), "false");
        assert_eq!(container.inspect("State/Running"), "true");
    }
}

#[test]
#[ignore = "needs a Docker engine"]
fn a_backend_runs_with_almost_no_rights() {
    let _exclusive = exclusive();
    build_images();
    for (options, address) in [
        (&["--read-only", "--cap-drop", "ALL", "--network", "none"][..], "[::]:8001"),
        (&["--security-opt", "no-new-privileges", "--user", "1:1"], "[::]:8001"),
        (&["-ePORT="], "[::]:8001"),
        (&["-ePORT=80"], "[::]:80"),
        (&["--sysctl", "net.ipv6.conf.all.disable_ipv6=1"], ":8001"),
        (&["-eHOST=0.0.0.0"], "0.0.0.0:8001"),
        (&["--cpus=0.5", "--pids-limit=8"], "[::]:8001"),
    ] {
        // If it waited for the end of the drain, `docker stop` would kill it.
        let options = [options, &["-eDRAIN_TIMEOUT_MS=60000"]].concat();
        let backend = Run::start(&image("api-backend"), &options);
        let greeting = format!("{address}, pid 1 (process 1), ");
        wait_until("a greeting", || backend.has_logged(&greeting));
        docker(&["exec", &backend.id, "/api-backend", "healthcheck"]);
        if !options.contains(&"none") {
            let port = if options.contains(&"-ePORT=80") { 80 } else { 8001 };
            assert!(serves(backend.address("bridge", port)), "a good response");
        }
        backend.stop();
    }
}

#[test]
#[ignore = "needs a Docker engine"]
fn an_image_copes_with_the_defaults_of_a_host() {
    let _exclusive = exclusive();
    build_images();
    let denied = Folder::create("seccomp");
    let profile = |name: &str, rule: &str| {
        let path = denied.0.join(name);
        let rules = format!("{{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{rule}]}}");
        fs::write(&path, rules).unwrap();
        format!("--security-opt=seccomp={}", path.display())
    };
    let refuse = |call: &str, errno: u32, arguments: &str| {
        let rule = format!(
            "{{\"names\": [\"{call}\"], \"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": {errno}, \
             \"args\": [{arguments}]}}"
        );
        profile(&format!("{call}-{errno}"), &rule)
    };
    let v6 = "{\"index\": 0, \"value\": 10, \"op\": \"SCMP_CMP_EQ\"}";
    // Options, arguments, and a part of the first line.
    let serving = [
        (vec!["--sysctl=net.ipv6.bindv6only=1".to_owned()], vec![], "[::]:8001"),
        (vec![], vec!["--port", "9000"], "[::]:9000"),
        (vec![], vec!["--host=0.0.0.0", "--port=9000"], "0.0.0.0:9000"),
        (vec![], vec!["--host", "127.0.0.1"], "127.0.0.1:8001"),
        (vec![refuse("socket", 1, v6)], vec![], "0.0.0.0:8001"),
        (vec![refuse("socket", 13, v6)], vec![], "0.0.0.0:8001"),
        (vec![refuse("socket", 97, v6)], vec![], "0.0.0.0:8001"),
        (vec![refuse("prlimit64", 1, "")], vec![], "[::]:8001"),
        // musl's threads need no clone3.
        (vec![refuse("clone3", 1, "")], vec![], "[::]:8001"),
    ];
    for (options, arguments, address) in &serving {
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let backend = Run::start_with(&image("api-backend"), &options, arguments);
        let greeting = format!("{address}, pid 1 (process 1), ");
        let case = format!("{options:?} {arguments:?}: a greeting");
        wait_until(&case, || backend.has_logged(&greeting));
        docker(&["exec", &backend.id, "/api-backend", "healthcheck"]);
        if !address.starts_with("127.") {
            let port = if address.ends_with("9000") { 9000 } else { 8001 };
            assert!(serves(backend.address("bridge", port)), "{options:?} {arguments:?}");
        }
    }
    for (option, step) in [
        ("--pids-limit=2".to_owned(), "cannot start worker "),
        ("--pids-limit=1".to_owned(), "cannot start the log thread"),
        (refuse("signalfd4", 1, ""), "cannot read signals"),
        (refuse("socket", 1, ""), "cannot listen on [::]:8001"),
        (refuse("listen", 13, ""), "cannot listen on [::]:8001"),
        (refuse("getsockname", 1, ""), "cannot read the address"),
        (refuse("epoll_create1", 1, ""), "cannot open an epoll for each worker"),
        (refuse("pipe2", 1, ""), "cannot open an epoll for each worker"),
    ] {
        let backend = Run::start_with(&image("api-backend"), &[&option], &["--workers=4"]);
        wait_until(&format!("{option}: its end"), || backend.inspect("State/Running") == "false");
        let lines = backend.logs();
        assert_eq!((lines.len(), &*backend.inspect("State/ExitCode")), (1, "1"), "{lines:?}");
        assert!(lines[0].starts_with(&format!("api-backend: {step}")), "{option}: {lines:?}");
    }
}

/// Only where the engine uses control groups of version 1: there, a container does not see the
/// groups above its own.
#[test]
#[ignore = "needs a Docker engine and control groups of version 1"]
fn the_memory_limit_of_a_parent_group_counts() {
    let _exclusive = exclusive();
    build_images();
    let parent = Path::new("/sys/fs/cgroup/memory").join(namespace());
    fs::create_dir(&parent).expect("control groups of version 1");
    fs::write(parent.join("memory.limit_in_bytes"), "16777216").unwrap();
    let option = format!("--cgroup-parent=/{}", namespace());
    {
        let backend = Run::start(&image("api-backend"), &[&option]);
        wait_until("a greeting", || backend.has_logged("at most 1024 connections"));
    }
    wait_until("the group can be removed", || fs::remove_dir(&parent).is_ok());
}

#[test]
#[ignore = "needs a Docker engine"]
fn an_orphan_of_docker_exec_is_reaped() {
    let _exclusive = exclusive();
    build_images();
    let backend = Run::start(&image("api-backend"), &[]);
    wait_until("a greeting", || backend.has_logged("listening on"));
    let pid = backend.inspect("State/Pid");
    // A shell in the pid namespace of the container leaves a child behind.
    let orphan = "nsenter --target $0 --pid sh -c 'sleep 0.2 &'";
    stdout_of(timed("sh").args(["-c", orphan, &pid]));
    let children = format!("/proc/{pid}/task/{pid}/children");
    wait_until("it is reaped", || fs::read_to_string(&children).unwrap().trim().is_empty());
}

#[test]
#[ignore = "needs a Docker engine"]
fn a_wrong_setting_is_one_line_and_exit_code_2() {
    let _exclusive = exclusive();
    build_images();
    for (service, options, line) in [
        ("api-backend", &["-ePORT=http"][..], "api-backend: PORT holds \"http\"; it takes "),
        ("api-backend", &["-eLOG_FORMAT=xml"], "api-backend: LOG_FORMAT holds \"xml\"; it takes "),
        ("api-frontend", &[], "api-frontend: API_BACKEND_URL is "),
        (
            "api-frontend",
            &["-eAPI_BACKEND_URL=https://a", "-eAPI_BACKEND_PORT=8001"],
            "api-frontend: API_BACKEND_URL holds \"https://a\"; it takes ",
        ),
    ] {
        let container = Run::start(&image(service), options);
        assert_eq!(docker(&["wait", &container.id]), "2\n", "{service} {options:?}");
        let log = container.logs();
        assert_eq!(log.len(), 1, "{log:#?}");
        assert!(log[0].starts_with(line), "{log:#?}");
    }
}

#[test]
#[ignore = "needs a Docker engine"]
fn editing_prose_or_tests_rebuilds_nothing() {
    let _exclusive = exclusive();
    build_images();
    let folder = Folder::copy_of(Path::new(ROOT), "edited");
    let build = || {
        SERVICES.map(|service| {
            let tag = format!("{}/edited", namespace());
            let output = classic_build(&folder.0, service, &tag, &[]);
            (inspect(&tag, "Id"), text(&output.stdout))
        })
    };
    let first = build().map(|(id, _)| id);
    for file in ["README.md", "common/tests/server.rs", "lab/tests/up.rs", "api-backend/new.md"] {
        let mut file = fs::File::options().append(true).create(true).open(folder.0.join(file));
        writeln!(file.as_mut().expect("a file"), "// edited").expect("written");
    }
    let second = build();
    for (_, output) in &second {
        assert!(!output.contains("Running in"), "{output}");
    }
    assert_eq!(second.map(|(id, _)| id), first);
}

#[test]
#[ignore = "needs a Docker engine"]
fn the_same_sources_give_the_same_bits() {
    let _exclusive = exclusive();
    build_images();
    let first = Folder::copy_of(Path::new(ROOT), "bits");
    let second = Folder::copy_of(&first.0, "bits-elsewhere/and/deeper");
    let known = docker(&["image", "ls", "--all", "--quiet"]);
    let build = |folder: &Path, tag: &str| {
        let tag = format!("{}/{tag}", namespace());
        let output = classic_build(folder, "api-backend", &tag, &["--no-cache", "--force-rm"]);
        // The name of a layer is the digest of all in it: bytes, mode, owner and time.
        let layers = inspect(&tag, "RootFS/Layers");
        // The compiled stage is of no use as a cache: the next build takes an older one.
        docker(&["rmi", &tag]);
        let stages = text(&output.stdout);
        let stages = stages.lines().filter_map(|line| line.strip_prefix(" ---> "));
        let made: Vec<_> = stages.filter(|id| id.len() == 12 && !known.contains(id)).collect();
        for id in made.into_iter().rev() {
            let _ = timed("docker").args(["rmi", id]).output();
        }
        layers
    };
    let [one, other] = thread::scope(|scope| {
        let one = scope.spawn(|| build(&first.0, "bits"));
        let other = build(&second.0, "bits-elsewhere");
        [one.join().expect("a build"), other]
    });
    assert_eq!(one, other, "two builds differ");
}

#[test]
#[ignore = "needs a Docker engine"]
fn buildkit_makes_the_same_images() {
    let _exclusive = exclusive();
    let paths = env::var_os("PATH").expect("a PATH");
    let clients = env::split_paths(&paths).map(|path| path.join("docker"));
    for client in clients.filter(|client| client.is_file()) {
        let build = |service: &str| {
            let tag = format!("{}/buildkit-{service}", namespace());
            let mut command = timed(client.to_str().expect("UTF-8"));
            command.env("DOCKER_BUILDKIT", "1");
            (builds(command, Path::new(ROOT), service, &tag, &[]), tag)
        };
        let (output, _) = build(SERVICES[0]);
        let said = text(&output.stderr);
        if said.contains("buildx component is missing") {
            eprintln!("skipped: {}: {}", client.display(), said.trim_end());
            continue;
        }
        for service in SERVICES {
            let (output, tag) = build(service);
            assert!(output.status.success(), "{}", text(&output.stderr));
            check_image(&tag, service);
        }
        return;
    }
}

/// Properties of an image, with any builder.
fn check_image(image: &str, service: &str) {
    let files = files(image);
    assert_eq!(files.keys().collect::<Vec<_>>(), [service]);
    assert!(files[service].starts_with(b"\x7fELF"));
    let size: usize = inspect(image, "Size").parse().expect("a number");
    eprintln!("{image}: {size} bytes");
    assert!(size <= IMAGE_BYTES_MAX, "{image}: {size}");
    let page = format!("https://hub.docker.com/r/{}/{service}", namespace());
    let port = if service == "api-backend" { 8001 } else { 8000 };
    for (path, expected) in [
        ("Labels/hub_url", page),
        ("Labels/org.opencontainers.image.title", service.to_owned()),
        ("Labels/org.opencontainers.image.licenses", "MIT".to_owned()),
        ("Labels/org.opencontainers.image.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Labels/org.opencontainers.image.revision", "engine-test".to_owned()),
        ("User", "65532:65532".to_owned()),
        ("Entrypoint", format!("[\"/{service}\"]")),
        ("Cmd", "null".to_owned()),
        ("Healthcheck/Test", format!("[\"CMD\", \"/{service}\", \"healthcheck\"]")),
        ("ExposedPorts", format!("{{\"{port}/tcp\": {{}}}}")),
    ] {
        assert_eq!(inspect(image, &format!("Config/{path}")), expected, "{image}: {path}");
    }
    let description = inspect(image, "Config/Labels/org.opencontainers.image.description");
    assert!(description.contains("GET / "), "{description}");
}

/// The service is process 1 with an unprivileged user, may write nothing and has no capability.
fn check_confinement(container: &Container, service: &str) {
    let pid = container.inspect("State/Pid");
    let top = docker(&["top", &container.id, "-o", "pid,args"]);
    let processes: Vec<_> = top.lines().skip(1).collect();
    assert_eq!(processes.len(), 1, "{top}");
    assert!(processes[0].ends_with(&format!(" /{service}")), "{top}");
    let program = fs::read_link(format!("/proc/{pid}/exe")).expect("root may look");
    assert_eq!(program, Path::new("/").join(service));
    let state = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let none = "0000000000000000";
    for (field, expected) in [
        ("Uid", "65532\t65532\t65532\t65532"),
        ("Gid", "65532\t65532\t65532\t65532"),
        ("NSpid", &format!("{pid}\t1")),
        ("CapInh", none),
        ("CapPrm", none),
        ("CapEff", none),
        ("CapBnd", none),
        ("CapAmb", none),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        let start = format!("{field}:\t");
        let found = state.lines().find_map(|line| line.strip_prefix(&start));
        assert_eq!(found, Some(expected), "{service}: {field}");
    }
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("it lives");
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"));
    let options = root.and_then(|line| line.split(' ').nth(5)).expect("a root");
    assert!(options.split(',').any(|option| option == "ro"), "{service}: {options}");
    for (path, expected) in [
        ("HostConfig/ReadonlyRootfs", "true"),
        ("HostConfig/CapDrop", "[\"ALL\"]"),
        ("HostConfig/Privileged", "false"),
        ("HostConfig/PidsLimit", "64"),
        ("HostConfig/Memory", "67108864"),
        ("HostConfig/RestartPolicy/Name", "always"),
        ("HostConfig/LogConfig/Config/max-size", "1m"),
        ("Config/User", "65532:65532"),
        ("RestartCount", "0"),
    ] {
        assert_eq!(container.inspect(path), expected, "{service}: {path}");
    }
}

fn crash_ten_times(project: &Project, service: &str) {
    let container = project.container(service);
    let address = project.published(service);
    for count in 1..=10 {
        // Docker waits 100 ms, and twice as long each time, until one has run for 10 s.
        let wait = Duration::from_millis(100 << ((count - 1) % 5));
        if count == 6 {
            thread::sleep(Duration::from_secs(10));
        }
        let at = SystemTime::now();
        let error = get_once(address, "/traceback").expect_err("no byte");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        let started = wait_for("a start", WAIT_MAX, || container.event("start", at));
        let responded = wait_for("a response", WAIT_MAX, || {
            let response = get_once(address, "/version").ok()?;
            (response.status == 200).then(|| since_1970(SystemTime::now()))
        });
        let died = container.event("die", at).expect("it died");
        eprintln!(
            "{service} {count}: down for {:.2} s with a wait of {wait:?}, then a response after {:.2} s",
            started.at - died.at,
            responded - started.at,
        );
        assert_eq!(died.exit_code.as_deref(), Some("1"));
        assert!(started.at - died.at > wait.as_secs_f64(), "not this wait");
        assert_eq!(container.inspect("RestartCount"), count.to_string());
        assert_eq!(project.container(service).id, container.id);
    }
}

/// Clients that keep a connection lose no request, and those that open new ones get a whole response
/// or are not accepted.
fn stop_under_load(container: &Container, address: SocketAddr, body: &str) {
    let responses = AtomicUsize::new(0);
    let keep = || {
        let mut client = Client::connect(address);
        loop {
            let response = client.request("/");
            assert_eq!((response.status, &*response.body), (200, body));
            responses.fetch_add(1, Ordering::Relaxed);
            if response.is_last() {
                assert_eq!(client.read_to_end(), "");
                return;
            }
        }
    };
    let renew = || {
        loop {
            match get_once(address, "/") {
                Ok(response) => {
                    assert_eq!((response.status, &*response.body), (200, body));
                    responses.fetch_add(1, Ordering::Relaxed);
                }
                // An accepted connection is never closed without a response.
                Err(error) => return assert_ne!(error.kind(), ErrorKind::UnexpectedEof),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(keep);
        }
        for _ in 0..2 {
            scope.spawn(renew);
        }
        wait_until("load", || responses.load(Ordering::Relaxed) > 1_000);
        container.stop();
    });
    eprintln!("{} responses, none lost", responses.into_inner());
}

/// The response says in the shape of all errors how the backend failed.
fn check_failure(response: &Response, expected: u16, words: &[&str]) {
    assert_eq!(response.status, expected, "{response:?}");
    let value = Value::read(response.body.as_bytes()).expect("JSON");
    let field = |name| value.get(name).and_then(Value::text).expect("a text");
    assert_eq!(field("status"), "[ERROR]");
    let message = field("error_message");
    let reason = message.strip_prefix("GET / on backend API: ").expect("its start");
    assert!(words.iter().any(|word| reason.starts_with(word)), "{response:?}");
}

fn image(service: &str) -> String {
    format!("{}/{service}", namespace())
}

/// As a user builds them, once.
fn build_images() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let project = Project::named("build");
        stdout_of(project.compose().arg("build"));
    });
}

/// A Compose project, taken down when dropped.
struct Project {
    name: String,
    /// The host's, in the order of `SERVICES`.
    ports: [RangeInclusive<u16>; 2],
}

impl Project {
    /// Starts it, with these environment variables.
    fn up(name: &str, variables: &[(&str, &str)]) -> Project {
        Project::scaled(name, variables, 1)
    }

    fn scaled(name: &str, variables: &[(&str, &str)], backends: u16) -> Project {
        build_images();
        let mut project = Project::named(name);
        project.ports[0] = free_ports(backends);
        let scale = format!("--scale=api-backend={backends}");
        let mut compose = project.compose();
        compose.args(["up", "--detach", "--no-build", &scale]).envs(variables.iter().copied());
        stdout_of(&mut compose);
        project
    }

    fn named(name: &str) -> Project {
        let name = format!("{}-{name}", namespace());
        Project { name, ports: [free_ports(1), free_ports(1)] }
    }

    fn compose(&self) -> Command {
        /// Set if `docker-compose` is installed; else `docker compose` is used.
        static ALONE: OnceLock<bool> = OnceLock::new();
        let [backend, frontend] = self.ports.each_ref().map(|range| {
            let (first, last) = (range.start(), range.end());
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        });
        let alone = *ALONE.get_or_init(|| {
            let tried = timed("docker-compose").arg("version").output();
            tried.is_ok_and(|output| output.status.success())
        });
        let mut command = timed(if alone { "docker-compose" } else { "docker" });
        if !alone {
            command.arg("compose");
        }
        command.args(["--project-name", &self.name, "--project-directory", ROOT]);
        command.arg("--file").arg(Path::new(ROOT).join("docker-compose.yaml"));
        command.envs([("NAMESPACE", namespace()), ("TAG", "latest"), ("REVISION", "engine-test")]);
        command.envs([("BACKEND_PORT", backend), ("FRONTEND_PORT", frontend)]);
        command
    }

    /// The published address of a service.
    fn published(&self, service: &str) -> SocketAddr {
        let [backend, frontend] = &self.ports;
        let range = if service == "api-backend" { backend } else { frontend };
        at(*range.start())
    }

    fn network(&self) -> String {
        format!("{}_chain", self.name)
    }

    fn containers(&self, service: &str) -> Vec<Container> {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let service = format!("label=com.docker.compose.service={service}");
        let filters = ["--filter", &project, "--filter", &service];
        let ids = docker(&[&["ps", "--all", "--quiet", "--no-trunc"][..], &filters].concat());
        ids.lines().map(|id| Container { id: id.to_owned() }).collect()
    }

    fn container(&self, service: &str) -> Container {
        let mut containers = self.containers(service);
        assert_eq!(containers.len(), 1, "{service}");
        containers.remove(0)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let down = ["down", "--volumes", "--remove-orphans", "--timeout", "1"];
        let _ = self.compose().args(down).output();
    }
}

/// A network, removed when dropped.
struct Network(String);

impl Network {
    fn create() -> Network {
        let name = format!("{}-network", namespace());
        docker(&["network", "create", &name]);
        Network(name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = timed("docker").args(["network", "rm", &self.0]).output();
    }
}

/// Builds one image with the classic builder, which needs no plugin.
fn classic_build(folder: &Path, service: &str, tag: &str, options: &[&str]) -> Output {
    let mut command = timed("docker");
    command.env("DOCKER_BUILDKIT", "0");
    let output = builds(command, folder, service, tag, options);
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    output
}

fn builds(
    mut docker: Command,
    folder: &Path,
    service: &str,
    tag: &str,
    options: &[&str],
) -> Output {
    docker.args(["build", "--tag", tag, "--build-arg=REVISION=engine-test"]).args(options);
    docker.arg(format!("--build-arg=NAMESPACE={}", namespace()));
    // As Compose finds it.
    let file = fs::read_to_string(Path::new(ROOT).join(".env")).unwrap_or_default();
    let from_file = file.lines().find_map(|line| line.strip_prefix("RUST_IMAGE="));
    if let Some(base) = env::var("RUST_IMAGE").ok().or(from_file.map(str::to_owned)) {
        docker.arg(format!("--build-arg=RUST_IMAGE={base}"));
    }
    docker.arg("--file").arg(folder.join(service).join("Dockerfile")).arg(folder);
    docker.output().expect("docker starts")
}

/// A head without its `Date`.
fn undated(head: &str) -> String {
    head.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: ")).collect()
}

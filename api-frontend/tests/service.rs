//! The frontend as a process: its bytes, its own settings and metrics, and the suite of both services.

use std::process::Command;
use std::sync::OnceLock;

use testing::backend::Backend;
use testing::process::{Process, frontend_command};
use testing::service_suite::Service;
use testing::{BACKEND_BODY, FRONTEND_BODY};

const SERVICE: Service = Service { name: "api-frontend", command };

testing::service_suite!(SERVICE);

/// A frontend whose backend serves.
fn command() -> Command {
    static BACKEND: OnceLock<Backend> = OnceLock::new();
    let backend = BACKEND.get_or_init(|| {
        let length = BACKEND_BODY.len();
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{BACKEND_BODY}");
        Backend::start(move |connection| while connection.respond(&response) {})
    });
    frontend_command(env!("CARGO_BIN_EXE_api-frontend"), backend.address)
}

#[test]
fn wraps_the_response_of_the_backend() {
    let process = Process::start(&mut command());
    let mut client = process.connect();
    for _ in 0..3 {
        let response = client.request("/");
        assert_eq!((response.status, &*response.body), (200, FRONTEND_BODY));
    }
}

#[test]
fn metrics_count_backend_requests() {
    let process = Process::start(&mut command());
    assert_eq!(process.connect().request("/").status, 200);
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
fn wrong_setting_of_the_frontend_is_one_line_and_exit_code_2() {
    for (variable, wrong) in [
        ("API_BACKEND_URL", &["https://a", "a:80", "a/b", "a b", "h\u{e9}", "http://"][..]),
        ("API_BACKEND_PORT", &["0", "65536", "-1", "http"]),
        ("BACKEND_TIMEOUT_MS", &["0", "3600001", "1s"]),
        ("BACKEND_REUSE", &["yes", "ON"]),
    ] {
        let flag = format!("--{}", variable.to_lowercase().replace('_', "-"));
        for value in wrong {
            SERVICE.rejects(command().env(variable, value), &[variable, value]);
            SERVICE.rejects(command().args([&*flag, value]), &[&flag, value]);
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
            SERVICE.rejects(&mut command, &[&format!("{missing} is not set; it takes ")]);
        }
    }
    for forgiven in ["http://127.0.0.1", "127.0.0.1/", "http://127.0.0.1/"] {
        let process = Process::start(command().env("API_BACKEND_URL", forgiven));
        assert_eq!(process.connect().request("/").status, 200, "{forgiven}");
    }
}

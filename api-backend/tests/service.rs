//! The backend as a process: its bytes, its routes, and the suite of both services.

use std::process::Command;

use testing::BACKEND_BODY;
use testing::client::Response;
use testing::process::{Process, service_command};
use testing::service_suite::Service;
use tools::json::Value;

const SERVICE: Service = Service { name: "api-backend", command };

testing::service_suite!(SERVICE);

fn command() -> Command {
    service_command(env!("CARGO_BIN_EXE_api-backend"))
}

#[test]
fn responds_with_these_very_bytes() {
    let process = Process::start(&mut command());
    let mut client = process.connect();
    let response = client.request("/?a=b");
    assert_eq!(response.status, 200);
    assert_eq!(response.body, BACKEND_BODY);
    let line = |name| response.head.lines().find(|line| line.starts_with(name)).unwrap();
    let (date, host) = (line("Date: "), line("X-Served-By: "));
    assert_eq!(
        response.head,
        format!(
            "HTTP/1.1 200 OK\r\n{date}\r\nServer: api-backend/{}\r\n{host}\r\n\
             Content-Type: application/json\r\nContent-Length: 48\r\n\r\n",
            env!("CARGO_PKG_VERSION"),
        )
    );
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_head().replace(date, ""), response.head.replace(date, ""));
    assert_eq!(client.request("/readyz").body, "{\"status\": \"ready\"}\n");
}

#[test]
fn every_path_and_method_has_its_status() {
    let process = Process::start(&mut command());
    let most = "GET, HEAD, OPTIONS";
    for (line, status, allow) in [
        ("GET / HTTP/1.1", 200, None),
        ("GET http://a HTTP/1.1", 200, None),
        ("GET /healthz HTTP/1.1", 200, None),
        ("GET /version HTTP/1.1", 200, None),
        ("GET /metrics HTTP/1.1", 200, None),
        ("POST / HTTP/1.1", 405, Some(most)),
        ("DELETE /healthz HTTP/1.1", 405, Some(most)),
        ("TRACE / HTTP/1.1", 405, Some(most)),
        ("POST /traceback HTTP/1.1", 405, Some("GET, OPTIONS")),
        ("OPTIONS / HTTP/1.1", 204, Some(most)),
        ("OPTIONS * HTTP/1.1", 204, Some(most)),
        ("OPTIONS /traceback HTTP/1.1", 204, Some("GET, OPTIONS")),
        ("GET /nothing HTTP/1.1", 404, None),
        ("POST /nothing HTTP/1.1", 404, None),
        ("GET //  HTTP/1.1", 400, None),
        ("GET // HTTP/1.1", 404, None),
        ("GET * HTTP/1.1", 400, None),
        ("GET /%zz HTTP/1.1", 400, None),
        ("FROB / HTTP/1.1", 501, None),
        ("get / HTTP/1.1", 501, None),
        ("CONNECT a:80 HTTP/1.1", 501, None),
        ("GET / HTTP/2.0", 505, None),
    ] {
        let mut client = process.connect();
        client.send(format!("{line}\r\nHost: a\r\n\r\n"));
        let response = client.response();
        assert_eq!(response.status, status, "{line}");
        let found = response.head.lines().find_map(|line| line.strip_prefix("Allow: "));
        assert_eq!(found, allow, "{line}");
        if status >= 400 {
            let value = Value::read(response.body.as_bytes()).unwrap();
            assert_eq!(value.get("status").unwrap().text().unwrap(), "[ERROR]", "{line}");
            assert!(value.get("error_message").unwrap().text().is_some(), "{line}");
        }
    }
}

#[test]
fn version_names_the_process() {
    let process = Process::start(&mut command());
    let Response { head, body, .. } = process.connect().request("/version");
    let value = Value::read(body.as_bytes()).unwrap();
    assert_eq!(value.get("name").unwrap().text().unwrap(), SERVICE.name);
    assert_eq!(value.get("version").unwrap().text().unwrap(), env!("CARGO_PKG_VERSION"));
    assert!(body.contains(&format!("\"pid\": {}}}", process.pid)), "{body}");
    let host = value.get("hostname").unwrap().text().unwrap();
    assert!(!host.is_empty() && head.contains(&format!("\r\nX-Served-By: {host}\r\n")), "{head}");
}

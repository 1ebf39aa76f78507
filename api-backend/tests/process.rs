//! The backend as a process: its answers to the byte, and what an operator expects of it.

#[path = "../../common/tests/shared/client.rs"]
mod client;
#[path = "../../common/tests/shared/operation.rs"]
mod operation;
#[path = "../../common/tests/shared/process.rs"]
mod process;

use std::process::Command;

use tools::json::Value;

use process::Process;

const NAME: &str = "api-backend";

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_api-backend"));
    command.env_clear().envs([("PORT", "0"), ("WORKERS", "2")]);
    command
}

#[test]
fn its_answer_is_these_very_bytes() {
    let process = Process::start(&mut command());
    let mut client = process.connect();
    let answer = client.ask("/?a=b");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, "{\"body\": \"Je suis une r\\u00e9ponse du backend\"}\n");
    let date = answer.head.lines().find(|line| line.starts_with("Date: ")).unwrap();
    assert_eq!(
        answer.head,
        format!(
            "HTTP/1.1 200 OK\r\n{date}\r\nContent-Type: application/json\r\nContent-Length: 48\r\n\r\n"
        )
    );
    client.say("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().replace(date, ""), answer.head.replace(date, ""));
    assert_eq!(client.ask("/readyz").body, "{\"status\": \"ready\"}\n");
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
        client.say(format!("{line}\r\nHost: a\r\n\r\n"));
        let answer = client.answer();
        assert_eq!(answer.status, status, "{line}");
        let found = answer.head.lines().find_map(|line| line.strip_prefix("Allow: "));
        assert_eq!(found, allow, "{line}");
        if status >= 400 {
            let value = Value::read(answer.body.as_bytes()).unwrap();
            assert_eq!(value.get("status").unwrap().text().unwrap(), "[ERROR]", "{line}");
            assert!(value.get("error_message").unwrap().text().is_some(), "{line}");
        }
    }
}

#[test]
fn its_version_says_which_process_answers() {
    let process = Process::start(&mut command());
    let body = process.connect().ask("/version").body;
    let value = Value::read(body.as_bytes()).unwrap();
    assert_eq!(value.get("name").unwrap().text().unwrap(), NAME);
    assert_eq!(value.get("version").unwrap().text().unwrap(), env!("CARGO_PKG_VERSION"));
    assert!(body.contains(&format!("\"pid\": {}}}", process.pid)), "{body}");
    assert!(!value.get("hostname").unwrap().text().unwrap().is_empty());
}

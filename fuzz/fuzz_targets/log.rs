//! Any method, path and user agent: the log line is one line with as many words as any other, or a
//! JSON object with as many members. The first two bytes divide the rest.
#![no_main]

use std::time::Duration;

use common::log::{AccessLogLine, LogFormat, LoggedRequest, write_event};
use libfuzzer_sys::fuzz_target;
use tools::json::Value;

fuzz_target!(|bytes: &[u8]| {
    let Some(([method, path], rest)) = bytes.split_first_chunk() else { return };
    let (method, rest) = rest.split_at(usize::from(*method).min(rest.len()));
    let (path, rest) = rest.split_at(usize::from(*path).min(rest.len()));
    let request = LoggedRequest {
        peer: Some("127.0.0.1:5555".into()),
        method: method.into(),
        path: path.into(),
        user_agent: (!rest.is_empty()).then_some(rest.into()),
    };
    let line = AccessLogLine {
        request: &request,
        status: 200,
        bytes: 40,
        elapsed: Duration::from_micros(70),
        reason: None,
    };
    let text = written(|out| line.write(LogFormat::Text, out));
    let (words, user_agent) = text.split_at(text.match_indices(' ').nth(6).unwrap().0);
    assert!(words.split(' ').all(|word| !word.is_empty()), "{text}");
    let quoted = |text: &str| text.strip_prefix(" \"")?.strip_suffix('"').map(str::to_owned);
    match quoted(user_agent) {
        None => assert_eq!(user_agent, " -"),
        Some(inner) => assert!(!inner.contains('"'), "{text}"),
    }

    let object = written(|out| line.write(LogFormat::Json, out));
    let Ok(Value::Object(members)) = Value::read(object.as_bytes()) else { panic!("{object}") };
    assert_eq!(members.len(), 8, "{object}");

    if let Ok(message) = str::from_utf8(rest) {
        written(|out| write_event(LogFormat::Text, "info", message, out));
        let object = written(|out| write_event(LogFormat::Json, "info", message, out));
        let Ok(Value::Object(members)) = Value::read(object.as_bytes()) else { panic!("{object}") };
        assert_eq!(members.len(), 3, "{object}");
    }
});

/// The written line, without the line feed at its end, which is the only one.
fn written(write: impl Fn(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    assert_eq!(out.pop(), Some(b'\n'));
    assert!(out.iter().all(|byte| matches!(byte, b' '..=b'~')), "{}", out.escape_ascii());
    String::from_utf8(out).unwrap()
}

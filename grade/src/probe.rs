//! Requests to a deployment over HTTP as `curl` sends them, and comparing its responses.

use std::net::SocketAddr;
use std::time::Duration;

use common::http::client::ResponseError;
use common::http::{KeepAlive, Limits};
use common::rt;
use tools::http::{Connection, GetError};
use tools::json::Value;

pub(crate) use tools::http::Response;

use crate::deployment::Role;
use crate::words::{Words, words};
use tools::contract::{BACKEND, FRONTEND};

/// For one response: as long as our own frontend lets a backend take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A development server's error page with its stack fits.
const LIMITS: Limits = Limits { head_bytes_max: 16 << 10, body_bytes_max: 256 << 10 };
/// How much of a body a report shows.
const SHOWN_BYTES_MAX: usize = 200;

/// The outcome of one GET.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Probed {
    /// The connection was not accepted.
    Refused,
    /// It was closed again without a byte.
    Closed,
    /// Neither a response nor an end in time.
    TimedOut,
    /// The bytes were no HTTP.
    Malformed(ResponseError),
    Response(Response),
}

/// The JSON that the exercise wants of a service.
pub(crate) fn wanted(role: Role) -> &'static str {
    match role {
        Role::Backend => BACKEND,
        Role::Frontend => FRONTEND,
    }
}

/// Requests a path; without an address, nothing accepts the connection.
pub(crate) async fn get(address: Option<SocketAddr>, path: &str) -> Probed {
    let Some(address) = address else { return Probed::Refused };
    let deadline = rt::now() + TIMEOUT;
    let probed = async {
        let Ok(mut connection) = Connection::open(address, deadline, LIMITS).await else {
            return Probed::Refused;
        };
        match connection.get(path, KeepAlive::Close).await {
            Ok(response) => Probed::Response(response),
            Err(GetError::Closed) => Probed::Closed,
            Err(GetError::Malformed(error)) => Probed::Malformed(error),
        }
    };
    rt::timeout_at(deadline, probed).await.unwrap_or(Probed::TimedOut)
}

impl Probed {
    pub(crate) fn response(&self) -> Option<&Response> {
        match self {
            Probed::Response(response) => Some(response),
            _ => None,
        }
    }

    /// Returns true if its JSON holds that of another service's response.
    pub(crate) fn holds(&self, response: &Response) -> bool {
        self.response().is_some_and(|own| holds(&own.body, &response.body))
    }

    /// Returns true if it is a success, and the same as another one: as values, if both are JSON.
    pub(crate) fn is_same(&self, other: &Probed) -> bool {
        let (Some(own), Some(other)) = (self.response(), other.response()) else { return false };
        let is_success = (200..400).contains(&own.status);
        let same = match (Value::read(&own.body), Value::read(&other.body)) {
            (Ok(own), Ok(other)) => equal(&own, &other),
            _ => own.body == other.body,
        };
        is_success && own.status == other.status && same
    }

    /// It in words.
    pub(crate) fn shown(&self) -> Words {
        match self {
            Probed::Refused => {
                words("the connection is not accepted", "la connexion n'est pas acceptée")
            }
            Probed::Closed => words(
                "the connection is closed without a response",
                "la connexion est fermée sans réponse",
            ),
            Probed::TimedOut => words(
                format!("no response within {} s", TIMEOUT.as_secs()),
                format!("pas de réponse en {} s", TIMEOUT.as_secs()),
            ),
            Probed::Malformed(refusal) => words(
                format!("the response is not valid HTTP: {refusal}"),
                "la réponse n'est pas du HTTP valide",
            ),
            Probed::Response(response) => {
                let (status, body) = (response.status, beginning(&response.body));
                words(
                    format!("the response is {status}: {body}"),
                    format!("la réponse est {status} : {body}"),
                )
            }
        }
    }

    /// The defect, if it is not the JSON that is wanted.
    pub(crate) fn defect(&self, wanted: &str) -> Option<Words> {
        let Probed::Response(Response { status: 200, content_type, body }) = self else {
            return Some(self.shown());
        };
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            return Some(match media_type {
                "" => words("it has no Content-Type", "elle n'a pas de Content-Type"),
                _ => words(
                    format!("its Content-Type is {content_type}"),
                    format!("son Content-Type est {content_type}"),
                ),
            });
        }
        let shown = beginning(body);
        match Value::read(body) {
            Err(fault) => Some(words(
                format!("its body is not JSON ({fault}): {shown}"),
                format!("son corps n'est pas du JSON : {shown}"),
            )),
            Ok(value) if !is(&value, wanted) => Some(words(
                format!("its JSON is {shown}, not {wanted}"),
                format!("son JSON est {shown}, et non {wanted}"),
            )),
            Ok(_) => None,
        }
    }
}

fn is(value: &Value, wanted: &str) -> bool {
    Value::read(wanted.as_bytes()).is_ok_and(|wanted| equal(value, &wanted))
}

/// The beginning of a body.
fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]);
    let more = if body.len() > SHOWN_BYTES_MAX { " …" } else { "" };
    format!("{}{more}", text.trim())
}

/// Returns true if two values are the same: members have no order, and numbers many spellings.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Number(_), Value::Number(_)) => a.number() == b.number(),
        (Value::Text(a), Value::Text(b)) => a.decode() == b.decode(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(members), Value::Object(others)) => {
            // Through `get` on both sides: of a doubled key the last one counts.
            members.iter().chain(others).all(|(key, _)| {
                let key = key.decode();
                a.get(&key).zip(b.get(&key)).is_some_and(|(a, b)| equal(a, b))
            })
        }
        _ => false,
    }
}

/// Returns true if one JSON text holds another as one of its values, at any depth.
fn holds(whole: &[u8], part: &[u8]) -> bool {
    fn contains(value: &Value, part: &Value) -> bool {
        equal(value, part)
            || match value {
                Value::Array(items) => items.iter().any(|item| contains(item, part)),
                Value::Object(members) => members.iter().any(|(_, value)| contains(value, part)),
                _ => false,
            }
    }
    match (Value::read(whole), Value::read(part)) {
        (Ok(whole), Ok(part)) => contains(&whole, &part),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probed(status: u16, content_type: &str, body: &str) -> Probed {
        let content_type = content_type.to_owned();
        Probed::Response(Response { status, content_type, body: body.as_bytes().to_vec() })
    }

    #[test]
    fn json_is_compared_as_values() {
        for (a, b, same) in [
            (r#"{"a": 1, "b": [true, null]}"#, r#"{"b":[true,null],"a":1.0}"#, true),
            (r#"{"a": "\u00e9"}"#, r#"{"a": "é"}"#, true),
            (r#"{"a": 1, "a": 2}"#, r#"{"a": 2}"#, true),
            (r#"{"a": 1}"#, r#"{"a": 1, "b": 1}"#, false),
            (r#"{"a": 1, "b": 1}"#, r#"{"a": 1}"#, false),
            ("[1, 2]", "[2, 1]", false),
            ("[1]", "[1, 1]", false),
            ("1", "\"1\"", false),
            ("null", "false", false),
        ] {
            let (x, y) = (Value::read(a.as_bytes()).unwrap(), Value::read(b.as_bytes()).unwrap());
            assert_eq!(equal(&x, &y), same, "{a} and {b}");
        }
    }

    #[test]
    fn the_exercises_json_passes_in_any_spelling_and_nothing_else() {
        let utf8 = r#"{"body":"Je suis une réponse du backend"}"#;
        for (probed, defect) in [
            (probed(200, "application/json", BACKEND), None),
            (probed(200, "Application/JSON; charset=utf-8", utf8), None),
            (probed(201, "application/json", BACKEND), Some("the response is 201")),
            (probed(200, "text/html; charset=utf-8", BACKEND), Some("Content-Type is text/html")),
            (probed(200, "", BACKEND), Some("no Content-Type")),
            (
                probed(200, "application/json", "Je suis"),
                Some("not JSON (an unexpected byte at byte 0)"),
            ),
            (
                probed(200, "application/json", "{\"body\": 1}"),
                Some("its JSON is {\"body\": 1}, not "),
            ),
            (Probed::Refused, Some("the connection is not accepted")),
            (Probed::Closed, Some("closed without a response")),
            (Probed::TimedOut, Some("no response within 5 s")),
            (
                Probed::Malformed(ResponseError::Parse(common::http::ParseError::StartLine)),
                Some("not valid HTTP: malformed start line"),
            ),
        ] {
            let seen = probed.defect(BACKEND);
            let seen = seen.as_ref().map(|words| words.text(crate::words::Lang::English));
            match defect {
                None => assert_eq!(seen, None, "{probed:?}"),
                Some(part) => assert!(seen.is_some_and(|seen| seen.contains(part)), "{seen:?}"),
            }
        }
    }

    #[test]
    fn a_frontends_json_holds_the_backends() {
        assert!(holds(FRONTEND.as_bytes(), BACKEND.as_bytes()));
        assert!(holds(BACKEND.as_bytes(), BACKEND.as_bytes()));
        assert!(!holds(BACKEND.as_bytes(), FRONTEND.as_bytes()));
        assert!(!holds(b"<html>", BACKEND.as_bytes()));
    }

    #[test]
    fn a_response_is_as_before_if_it_is_a_success_of_the_same_value() {
        let first = probed(200, "application/json", r#"{"a": 1, "b": 2}"#);
        for (other, is_same) in [
            (probed(200, "text/html", r#"{"b":2,"a":1.0}"#), true),
            (probed(201, "application/json", r#"{"a": 1, "b": 2}"#), false),
            (probed(200, "application/json", r#"{"a": 1}"#), false),
            (probed(200, "text/html", "<p>"), false),
            (Probed::Refused, false),
        ] {
            assert_eq!(other.is_same(&first), is_same, "{other:?}");
        }
        let error = probed(500, "text/html", "<p>");
        assert!(!error.is_same(&error));
    }
}

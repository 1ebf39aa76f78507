//! `api-frontend`: `GET /` asks the backend and wraps its answer, or says why there is none.

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use common::cli::{Config, Kind, Setting};
use common::client::{Client, Event, Failure, Lookup, Outcome, Reuse, Target, Ticket};
use common::http::{Response, Status};
use common::json;
use common::service::{self, About, Meter, READY, Reply, Root};

const ABOUT: About = About {
    name: env!("CARGO_PKG_NAME"),
    version: env!("CARGO_PKG_VERSION"),
    summary: "GET / asks api-backend and wraps its answer.",
    calls_backend: true,
    settings: &[&SETTINGS, &service::settings("8000")],
};

const SETTINGS: [Setting; 4] = [
    Setting {
        variable: "API_BACKEND_URL",
        kind: Kind::Host,
        default: None,
        meaning: "The backend's host. A stray http:// and a trailing / are forgiven.",
    },
    Setting {
        variable: "API_BACKEND_PORT",
        kind: Kind::PeerPort,
        default: None,
        meaning: "The backend's port.",
    },
    Setting {
        variable: "BACKEND_TIMEOUT_MS",
        kind: Kind::Number(1, 3_600_000),
        default: Some("5000"),
        meaning: "A call to the backend, look-up and connection included; then the client is told 504.\n\
                  Well below the 30 s or more after which most clients give up themselves.",
    },
    Setting {
        variable: "BACKEND_REUSE",
        kind: Kind::Word(&["on", "off"]),
        default: Some("on"),
        meaning: "off: a new connection for each call, which shows how a load balancer spreads them.\n\
                  on: connections are kept for 10 s at most.",
    },
];

fn main() -> ExitCode {
    service::run(&ABOUT, |config| {
        let target = target(config);
        let lookup = Lookup::start(&target.host, target.port)?;
        Ok(move |meter| Frontend::new(target.clone(), lookup.clone(), meter))
    })
}

fn target(config: &Config) -> Target {
    Target {
        host: config.text("API_BACKEND_URL").to_owned(),
        port: config.port("API_BACKEND_PORT"),
        timeout: Duration::from_millis(config.number("BACKEND_TIMEOUT_MS")),
        reuse: if config.text("BACKEND_REUSE") == "on" { Reuse::On } else { Reuse::Off },
        limits: service::limits(config),
    }
}

struct Frontend {
    backend: Client,
    meter: Arc<Meter>,
}

impl Frontend {
    fn new(target: Target, lookup: Lookup, meter: Arc<Meter>) -> Frontend {
        let noted = Arc::clone(&meter);
        let notice = move |event| match event {
            Event::Opened => noted.backend_opened.add(1),
            Event::Closed => noted.backend_closed.add(1),
            Event::LookedUp => noted.lookups.add(1),
        };
        Frontend { backend: Client::new(target, lookup, wrapped, notice), meter }
    }

    fn call(&self, answer: fn(Outcome) -> Response) -> Reply<Call> {
        let meter = Arc::clone(&self.meter);
        Reply::Later(Call { ticket: self.backend.get(), meter, answer, counted: false })
    }
}

impl Root for Frontend {
    type Later = Call;

    fn get(&self) -> Reply<Call> {
        self.call(|outcome| match outcome {
            Ok(body) => Response::json(Status::Ok, body),
            Err(failure) => service::error(failure.status(), &failure.to_string()),
        })
    }

    /// A backend that answers anything at all can be reached.
    fn ready(&self) -> Reply<Call> {
        self.call(|outcome| match outcome {
            Ok(_) | Err(Failure::Status(_) | Failure::Json(_) | Failure::TooLarge) => {
                Response::json(Status::Ok, READY)
            }
            Err(failure) => service::error(Status::ServiceUnavailable, &failure.to_string()),
        })
    }
}

/// A call to the backend that becomes an answer to the client.
struct Call {
    ticket: Ticket,
    meter: Arc<Meter>,
    answer: fn(Outcome) -> Response,
    counted: bool,
}

impl Future for Call {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        Pin::new(&mut self.ticket).poll(cx).map(|outcome| {
            self.counted = true;
            self.meter.call(outcome.as_ref().map_or_else(|failure| failure.word(), |_| "OK"));
            (self.answer)(outcome)
        })
    }
}

/// Its client left before there was an answer.
impl Drop for Call {
    fn drop(&mut self) {
        if !self.counted {
            self.meter.call("ABANDONED");
        }
    }
}

/// The backend's JSON in ours; it is read and written anew, never pasted in.
fn wrapped(body: &[u8]) -> Outcome {
    let mut wrapped = Vec::with_capacity(body.len() + 48);
    wrapped.extend_from_slice(b"{\"return\": ");
    json::rewrite(body, &mut wrapped).map_err(|fault| Failure::Json(fault.what.phrase()))?;
    wrapped.extend_from_slice(b", \"status\": \"[SUCESS]\"}\n");
    Ok(wrapped)
}

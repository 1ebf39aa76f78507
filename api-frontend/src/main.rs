//! `api-frontend`: `GET /` requests the backend and wraps its response, or says why there is none.

mod backend_metrics;
mod page;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use backend_metrics::{BackendMetrics, FAMILIES};
use common::cli::{Config, Kind, Setting};
use common::client::{Client, Error, Event, Outcome, Resolver, ResponseFuture, Reuse, Target};
use common::http::client::ReceivedResponse;
use common::http::{Request, Response, Status};
use common::json;
use common::metrics::Exposition;
use common::service::{self, About, App, Handler, MaybeReady, Setup};

const ABOUT: About = About {
    name: env!("CARGO_PKG_NAME"),
    version: env!("CARGO_PKG_VERSION"),
    summary: "GET / requests api-backend and wraps its response.",
    has_backend: true,
    settings: &[&SETTINGS, &service::settings("8000")],
};

const SETTINGS: [Setting; 6] = [
    Setting {
        variable: "API_BACKEND_URL",
        kind: Kind::Host,
        default: None,
        help: "The backend's host. A stray http:// and a trailing / are ignored.",
    },
    Setting {
        variable: "API_BACKEND_PORT",
        kind: Kind::PeerPort,
        default: None,
        help: "The backend's port.",
    },
    Setting {
        variable: "BACKEND_TIMEOUT_MS",
        kind: Kind::Number(1, 3_600_000),
        default: Some("5000"),
        help: "A request to the backend, look-up and connection included; then the client gets 504.\n\
               Well below the 30 s or more after which most clients give up.",
    },
    Setting {
        variable: "BACKEND_REUSE",
        kind: Kind::Word(&["on", "off"]),
        default: Some("on"),
        help: "off: a new connection for each request, which shows how a load balancer spreads them.\n\
               on: connections are kept for 10 s at most.",
    },
    Setting {
        variable: "BACKEND_CONNECTIONS_MAX",
        kind: Kind::Number(1, 1_000_000),
        default: Some("4096"),
        help: "Connections to the backend, for each worker; more requests wait. A backend that takes\n\
               200 ms then gets 20,000 requests a second. At most a quarter of all connections that\n\
               descriptors and memory allow.",
    },
    Setting {
        variable: "UI",
        kind: Kind::Word(&["on", "off"]),
        default: Some("on"),
        help: "on: GET /ui is a page that shows the chain at work. It is open to all who reach the port,\n\
               as /traceback is.",
    },
];

fn main() -> ExitCode {
    service::run(&ABOUT, Frontend::new)
}

struct Frontend {
    target: Target,
    resolver: Resolver,
    metrics: Vec<Arc<BackendMetrics>>,
    has_ui: bool,
}

impl Frontend {
    fn new(setup: &Setup<'_>) -> std::io::Result<Frontend> {
        let Setup { config, limits, .. } = *setup;
        let target = Target {
            host: config.text("API_BACKEND_URL").to_owned(),
            port: config.port("API_BACKEND_PORT"),
            timeout: Duration::from_millis(config.number("BACKEND_TIMEOUT_MS")),
            reuse: reuse(config),
            connections_max: limits.backend_connections(config.number("BACKEND_CONNECTIONS_MAX")),
            limits: service::limits(config),
            via: format!("{}-{:016x}", ABOUT.name, random()),
        };
        let (log, host) = (setup.log.clone(), target.host.clone());
        let resolver = Resolver::start(&target.host, move |is_failing| {
            if is_failing {
                log.write_event("warn", &format!("look-ups of {host} fail or are late"));
            } else {
                log.write_event("info", &format!("look-ups of {host} succeed again"));
            }
        });
        let resolver = resolver.map_err(|error| {
            std::io::Error::new(error.kind(), format!("cannot start the look-up thread: {error}"))
        })?;
        let metrics = (0..limits.workers).map(|_| Arc::default()).collect();
        let has_ui = config.text("UI") == "on";
        Ok(Frontend { target, resolver, metrics, has_ui })
    }
}

fn reuse(config: &Config) -> Reuse {
    if config.text("BACKEND_REUSE") == "on" { Reuse::On } else { Reuse::Off }
}

/// std's hash maps are seeded by the kernel.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

impl App for Frontend {
    type Handler = FrontendHandler;

    fn handler(&self, worker: usize) -> FrontendHandler {
        let metrics = Arc::clone(&self.metrics[worker]);
        let observer = Arc::clone(&metrics);
        let observe = move |event: Event<'_>| observer.observe(event);
        let client = Client::new(self.target.clone(), self.resolver.clone(), wrap, observe);
        FrontendHandler { client, metrics, has_ui: self.has_ui }
    }

    fn write_metrics(&self, page: &mut Exposition) {
        page.families(FAMILIES, &*self.metrics);
    }
}

struct FrontendHandler {
    client: Client,
    metrics: Arc<BackendMetrics>,
    has_ui: bool,
}

impl Handler for FrontendHandler {
    type Future = BackendRequest;

    fn get(&self, request: &Request<'_>) -> MaybeReady<BackendRequest> {
        let via = request.fields.get_all("via").collect::<Vec<_>>().join(&b", "[..]);
        match self.client.get(Some(&via[..]).filter(|via| !via.is_empty())) {
            Ok(future) => {
                let metrics = Some(Arc::clone(&self.metrics));
                MaybeReady::Pending(BackendRequest { future, metrics })
            }
            Err(error) => {
                self.metrics.count(Err(error));
                MaybeReady::Ready(failed(error, error.status()))
            }
        }
    }

    fn ready(&self) -> MaybeReady<BackendRequest> {
        MaybeReady::Pending(BackendRequest { future: self.client.probe(), metrics: None })
    }

    fn ui(&self, request: &Request<'_>) -> Option<Response> {
        self.has_ui.then(|| page::response(request))
    }
}

/// A request to the backend that becomes a response to the client.
struct BackendRequest {
    future: ResponseFuture,
    /// Counts the outcome, once. A probe has none.
    metrics: Option<Arc<BackendMetrics>>,
}

impl Future for BackendRequest {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        if self.metrics.is_none() {
            return self.future.poll_probe(cx).map(|result| match result {
                Ok(()) => service::ready(),
                Err(error) => failed(error, Status::ServiceUnavailable),
            });
        }
        let outcome = ready!(Pin::new(&mut self.future).poll(cx));
        if let Some(metrics) = self.metrics.take() {
            metrics.count(outcome.as_ref().map(drop).map_err(|error| *error));
        }
        Poll::Ready(outcome.unwrap_or_else(|error| failed(error, error.status())))
    }
}

impl Drop for BackendRequest {
    fn drop(&mut self) {
        if let Some(metrics) = &self.metrics {
            metrics.count_abandoned();
        }
    }
}

fn failed(error: Error, status: Status) -> Response {
    Response { reason: Some(error.reason()), ..service::error(status, &error.to_string()) }
}

/// Wraps the backend's JSON, which is parsed and written again, never pasted in.
fn wrap(response: &ReceivedResponse<'_>) -> Outcome {
    let mut body = Vec::with_capacity(response.body.len() + 48);
    body.extend_from_slice(b"{\"return\": ");
    json::rewrite(response.body, &mut body).map_err(|error| Error::Json(error.kind.phrase()))?;
    body.extend_from_slice(b", \"status\": \"[SUCESS]\"}\n");
    Ok(Response::json(Status::Ok, body))
}

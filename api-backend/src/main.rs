//! `api-backend`: `GET /` responds with one fixed JSON. All else is what both services have.

use std::future::Pending;
use std::process::ExitCode;

use common::http::{Request, Response, Status};
use common::service::{self, About, App, Handler, MaybeReady};

const ABOUT: About = About {
    name: env!("CARGO_PKG_NAME"),
    version: env!("CARGO_PKG_VERSION"),
    summary: "GET / responds with one fixed JSON.",
    has_backend: false,
    settings: &[&service::settings("8001")],
};

/// These very bytes are the contract.
const BODY: &[u8] = b"{\"body\": \"Je suis une r\\u00e9ponse du backend\"}\n";

fn main() -> ExitCode {
    service::run(&ABOUT, |_| Ok(Backend))
}

struct Backend;

impl App for Backend {
    type Handler = Backend;

    fn handler(&self, _worker: usize) -> Backend {
        Backend
    }
}

impl Handler for Backend {
    /// All responses are ready at once.
    type Future = Pending<Response>;

    fn get(&self, _request: &Request<'_>) -> MaybeReady<Self::Future> {
        MaybeReady::Ready(Response::json(Status::Ok, BODY))
    }

    fn ready(&self) -> MaybeReady<Self::Future> {
        MaybeReady::Ready(service::ready())
    }
}

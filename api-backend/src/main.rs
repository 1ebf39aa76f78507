//! `api-backend`: `GET /` answers one fixed JSON. All else is what every service has.

use std::future::Pending;
use std::process::ExitCode;

use common::http::{Response, Status};
use common::service::{self, About, READY, Reply, Root};

const ABOUT: About = About {
    name: env!("CARGO_PKG_NAME"),
    version: env!("CARGO_PKG_VERSION"),
    summary: "GET / answers one fixed JSON.",
    calls_backend: false,
    settings: &[&service::settings("8001")],
};

/// These very bytes are the contract.
const BODY: &[u8] = b"{\"body\": \"Je suis une r\\u00e9ponse du backend\"}\n";

fn main() -> ExitCode {
    service::run(&ABOUT, |_| Ok(|_| Backend))
}

struct Backend;

impl Root for Backend {
    /// Nothing takes time here.
    type Later = Pending<Response>;

    fn get(&self) -> Reply<Self::Later> {
        Reply::Now(Response::json(Status::Ok, BODY))
    }

    fn ready(&self) -> Reply<Self::Later> {
        Reply::Now(Response::json(Status::Ok, READY))
    }
}

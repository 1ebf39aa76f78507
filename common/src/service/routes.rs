//! The paths that both services serve.

use crate::http::{Method, Response, Status};

/// A path, or all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Root,
    Traceback,
    Healthz,
    Readyz,
    Version,
    Metrics,
    Ui,
    Other,
}

impl Route {
    pub(super) const ALL: [Route; 8] = [
        Route::Root,
        Route::Traceback,
        Route::Healthz,
        Route::Readyz,
        Route::Version,
        Route::Metrics,
        Route::Ui,
        Route::Other,
    ];

    pub(super) fn of(path: &[u8]) -> Route {
        let is_path = |route: &&Route| route.label().as_bytes() == path;
        match path {
            b"/" => Route::Root,
            _ => Route::ALL.iter().find(is_path).copied().unwrap_or(Route::Other),
        }
    }

    /// The value of the metrics' label. Paths that clients make up share one.
    pub(super) fn label(self) -> &'static str {
        match self {
            Route::Root => "/",
            Route::Traceback => "/traceback",
            Route::Healthz => "/healthz",
            Route::Readyz => "/readyz",
            Route::Version => "/version",
            Route::Metrics => "/metrics",
            Route::Ui => "/ui",
            Route::Other => "other",
        }
    }

    /// Returns true if monitoring requests it: such requests are not logged, and are served
    /// beyond the connection limit.
    pub(super) fn is_probe(self) -> bool {
        matches!(self, Route::Healthz | Route::Readyz | Route::Metrics)
    }

    /// The `Allow` line (RFC 9110 section 10.2.1).
    fn allow(self) -> &'static str {
        match self {
            // A HEAD must not end the process.
            Route::Traceback => "Allow: GET, OPTIONS\r\n",
            _ => "Allow: GET, HEAD, OPTIONS\r\n",
        }
    }

    /// The response to `OPTIONS`.
    pub(super) fn options(self) -> Response {
        Response { fields: self.allow(), ..Response::json(Status::NoContent, &b""[..]) }
    }

    /// The response to a method that the path does not have.
    pub(super) fn method_not_allowed(self, method: Method<'_>) -> Response {
        match method {
            Method::Options => self.options(),
            _ => Response {
                fields: self.allow(),
                ..super::error(Status::MethodNotAllowed, "method not allowed on this path")
            },
        }
    }
}

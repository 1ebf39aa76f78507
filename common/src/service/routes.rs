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
    /// All routes and the values of the metrics' label. Paths that clients make up share one.
    pub(super) const ALL: [(Route, &str); 8] = [
        (Route::Root, "/"),
        (Route::Traceback, "/traceback"),
        (Route::Healthz, "/healthz"),
        (Route::Readyz, "/readyz"),
        (Route::Version, "/version"),
        (Route::Metrics, "/metrics"),
        (Route::Ui, "/ui"),
        (Route::Other, "other"),
    ];

    pub(super) fn of(path: &[u8]) -> Route {
        let found = Route::ALL.iter().find(|(_, label)| label.as_bytes() == path);
        found.map_or(Route::Other, |(route, _)| *route)
    }

    /// Returns true if monitoring requests it: such requests are not logged, and are served
    /// beyond the connection limit.
    pub(super) fn is_probe(self) -> bool {
        matches!(self, Route::Healthz | Route::Readyz | Route::Metrics)
    }

    /// The response to `OPTIONS`, and to a method that the path does not have.
    pub(super) fn method_not_allowed(self, method: Method<'_>) -> Response {
        // RFC 9110 section 10.2.1.
        let fields = match self {
            // A HEAD must not end the process.
            Route::Traceback => "Allow: GET, OPTIONS\r\n",
            _ => "Allow: GET, HEAD, OPTIONS\r\n",
        };
        let response = match method {
            Method::Options => Response::json(Status::NoContent, &b""[..]),
            _ => super::error(Status::MethodNotAllowed, "method not allowed on this path"),
        };
        Response { fields, ..response }
    }
}

//! Handles the requests of one worker: routes them, counts them and logs them.

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::metrics::Metrics;
use super::routes::Route;
use super::{Handler, Shared, error};
use crate::http::{Method, Request, Response, Status};
use crate::log::{AccessLogLine, LogFormat, LoggedRequest};
use crate::rt;
use crate::server::{Event, MaybeReady, Peer, Reject, Service};

/// Routes the requests of one worker to its `Handler` and to the routes that all services have.
pub(super) struct Router<H> {
    pub(super) handler: H,
    pub(super) recorder: Rc<Recorder>,
}

impl<H: Handler> Router<H> {
    fn route(&self, route: Route, request: &Request<'_>, peer: &Peer) -> MaybeReady<H::Future> {
        let shared = &self.recorder.shared;
        let response = match (route, request.method) {
            (_, Method::Other(_) | Method::Connect) => {
                error(Status::NotImplemented, "method not implemented")
            }
            (Route::Other, Method::Options) if *request.path == *b"*" => {
                route.method_not_allowed(request.method)
            }
            (Route::Root, Method::Get | Method::Head) => return self.handler.get(request),
            (Route::Traceback, Method::Get) => shared.crash(peer),
            (Route::Healthz, Method::Get | Method::Head) => {
                Response::json(Status::Ok, &b"{\"status\": \"ok\"}\n"[..])
            }
            (Route::Readyz, Method::Get | Method::Head) if shared.is_draining() => {
                error(Status::ServiceUnavailable, "draining")
            }
            (Route::Readyz, Method::Get | Method::Head) => return self.handler.ready(),
            (Route::Version, Method::Get | Method::Head) => {
                Response::json(Status::Ok, shared.version())
            }
            (Route::Metrics, Method::Get | Method::Head) => self.recorder.metrics_page(),
            (Route::Other, _) => error(Status::NotFound, "no such path"),
            (Route::Ui, method) => match (self.handler.ui(request), method) {
                (None, _) => error(Status::NotFound, "no such path"),
                (Some(page), Method::Get | Method::Head) => page,
                (Some(_), method) => route.method_not_allowed(method),
            },
            (route, method) => route.method_not_allowed(method),
        };
        MaybeReady::Ready(response)
    }
}

impl<H: Handler> Service for Router<H> {
    type Future = Recorded<H::Future>;

    fn call(&self, request: &Request<'_>, peer: &Peer) -> MaybeReady<Self::Future> {
        let route = Route::of(&request.path);
        if peer.is_over_limit && !route.is_probe() {
            return MaybeReady::Ready(self.reject(Reject::Crowded, peer));
        }
        let recorder = &self.recorder;
        let logged = recorder.is_logged(route).then(|| LoggedRequest {
            peer: peer.address.clone(),
            method: request.method.as_bytes().into(),
            path: Cow::Borrowed(&request.path),
            user_agent: request.fields.get("user-agent").map(Cow::Borrowed),
        });
        match self.route(route, request, peer) {
            MaybeReady::Ready(response) => {
                recorder.record(route, rt::now(), logged.as_ref(), &response);
                MaybeReady::Ready(response)
            }
            MaybeReady::Pending(future) => {
                recorder.metrics.pending.add(1);
                let logged = logged.map(|request| Box::new(request.into_owned()));
                let recorder = Rc::clone(recorder);
                MaybeReady::Pending(Recorded { future, recorder, route, began: rt::now(), logged })
            }
        }
    }

    fn reject(&self, reject: Reject, peer: &Peer) -> Response {
        let recorder = &self.recorder;
        recorder.metrics.count_rejection(reject);
        let response = error(reject.status(), reject.phrase());
        let logged = recorder.is_logged(Route::Other).then(|| LoggedRequest {
            peer: peer.address.clone(),
            method: b"-".into(),
            path: b"-".into(),
            user_agent: None,
        });
        recorder.record(Route::Other, rt::now(), logged.as_ref(), &response);
        response
    }

    fn on_event(&self, event: Event) {
        let metrics = &self.recorder.metrics;
        match event {
            Event::Opened => metrics.opened.add(1),
            Event::OverLimit => metrics.over_limit.add(1),
            Event::AcceptFailed(error) => {
                metrics.accept_failed.add(1);
                let message = format!("cannot accept a connection: {error}");
                self.recorder.shared.log.write_event("error", &message);
            }
        }
    }
}

/// A response that is counted and logged once it is ready.
pub(super) struct Recorded<F> {
    future: F,
    recorder: Rc<Recorder>,
    route: Route,
    began: Instant,
    logged: Option<Box<LoggedRequest<'static>>>,
}

impl<F: Future<Output = Response> + Unpin> Future for Recorded<F> {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        let polled = Pin::new(&mut self.future).poll(cx);
        if let Poll::Ready(response) = &polled {
            self.recorder.record(self.route, self.began, self.logged.as_deref(), response);
        }
        polled
    }
}

impl<F> Drop for Recorded<F> {
    fn drop(&mut self) {
        // One less: a counter wraps.
        self.recorder.metrics.pending.add(u64::MAX);
    }
}

/// Counts and logs the responses of one worker.
pub(super) struct Recorder {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    /// Memory for a log line.
    line: RefCell<Vec<u8>>,
    /// The metrics page of this turn.
    page: RefCell<Option<(Instant, String)>>,
}

impl Recorder {
    pub(super) fn new(shared: Arc<Shared>, worker: usize) -> Recorder {
        Recorder {
            metrics: Arc::clone(&shared.metrics[worker]),
            shared,
            line: RefCell::default(),
            page: RefCell::default(),
        }
    }

    fn is_logged(&self, route: Route) -> bool {
        self.shared.log.format != LogFormat::Off && !route.is_probe()
    }

    fn record(
        &self,
        route: Route,
        began: Instant,
        logged: Option<&LoggedRequest<'_>>,
        response: &Response,
    ) {
        let elapsed = began.elapsed();
        self.metrics.count_response(route, response.status, elapsed);
        let Some(request) = logged else { return };
        let line = AccessLogLine {
            request,
            status: response.status.code(),
            bytes: if *request.method == *b"HEAD" { 0 } else { response.body.len() as u64 },
            elapsed,
            reason: response.reason,
        };
        let mut out = self.line.borrow_mut();
        line.write(self.shared.log.format, &mut out);
        self.shared.log.append(&mut out);
    }

    /// The metrics. All requests of one turn get the same page.
    fn metrics_page(&self) -> Response {
        let mut page = self.page.borrow_mut();
        let page = match &mut *page {
            Some((at, page)) if *at == rt::now() => page,
            page => &mut page.insert((rt::now(), self.shared.metrics_page())).1,
        };
        Response {
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            ..Response::json(Status::Ok, page.clone().into_bytes())
        }
    }
}

//! Handles the requests of one worker: routes them, counts them and logs them.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::metrics::Metrics;
use super::routes::Route;
use super::{Handler, Shared, error};
use crate::date::Clock;
use crate::http::{Method, Request, Response, Status};
use crate::log::{self, AccessLogLine, LogFormat};
use crate::rt;
use crate::server::{Event, MaybeReady, Peer, Reject, Service};

/// Log lines of one turn of the event loop that gather before they are queued.
const LINES_BYTES_MAX: usize = 64 << 10;

/// Routes the requests of one worker to its `Handler` and to the routes that all services have.
pub(super) struct Router<H> {
    handler: H,
    recorder: Rc<Recorder>,
}

impl<H: Handler> Router<H> {
    pub(super) fn new(handler: H, recorder: Rc<Recorder>) -> Router<H> {
        Router { handler, recorder }
    }

    fn route(&self, route: Route, request: &Request<'_>, peer: &Peer) -> MaybeReady<H::Future> {
        let shared = &self.recorder.shared;
        let response = match (route, request.method) {
            (_, Method::Other(_) | Method::Connect) => {
                error(Status::NotImplemented, "method not implemented")
            }
            (Route::Other, Method::Options) if *request.path == *b"*" => route.options(),
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
        match self.route(route, request, peer) {
            MaybeReady::Ready(response) => {
                let fields = RequestFields {
                    method: request.method.as_bytes(),
                    path: &request.path,
                    user_agent: if self.recorder.is_logged(route) {
                        request.fields.get("user-agent")
                    } else {
                        None
                    },
                };
                let address = peer.address.as_deref();
                self.recorder.record(route, rt::now(), address, &fields, &response);
                MaybeReady::Ready(response)
            }
            MaybeReady::Pending(future) => {
                let recorder = Rc::clone(&self.recorder);
                recorder.metrics.pending_started.add(1);
                let info = RequestInfo::new(route, request, peer, recorder.is_logged(route));
                MaybeReady::Pending(Recorded { future, recorder, info })
            }
        }
    }

    fn reject(&self, reject: Reject, peer: &Peer) -> Response {
        let recorder = &self.recorder;
        recorder.metrics.count_rejection(reject);
        let response = error(reject.status(), reject.phrase());
        let fields = RequestFields { method: b"-", path: b"-", user_agent: None };
        let address = peer.address.as_deref();
        recorder.record(Route::Other, rt::now(), address, &fields, &response);
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
                self.recorder.shared.log.write("error", &message);
            }
        }
    }
}

/// A response that is counted and logged once it is ready.
pub(super) struct Recorded<F> {
    future: F,
    recorder: Rc<Recorder>,
    info: RequestInfo,
}

impl<F: Future<Output = Response> + Unpin> Future for Recorded<F> {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        let polled = Pin::new(&mut self.future).poll(cx);
        if let Poll::Ready(response) = &polled {
            let RequestInfo { route, began, logged } = &self.info;
            let logged = logged.as_deref();
            let fields = RequestFields {
                method: logged.map_or(b"", |logged| &logged.method),
                path: logged.map_or(b"", |logged| &logged.path),
                user_agent: logged.and_then(|logged| logged.user_agent.as_deref()),
            };
            let address = logged.and_then(|logged| logged.address.as_deref());
            self.recorder.record(*route, *began, address, &fields, response);
        }
        polled
    }
}

impl<F> Drop for Recorded<F> {
    fn drop(&mut self) {
        self.recorder.metrics.pending_ended.add(1);
    }
}

/// The parts of a request that are kept until its response is ready.
struct RequestInfo {
    route: Route,
    began: Instant,
    /// Kept if the request is to be logged.
    logged: Option<Box<LoggedRequest>>,
}

struct LoggedRequest {
    method: Vec<u8>,
    path: Vec<u8>,
    user_agent: Option<Vec<u8>>,
    address: Option<Rc<str>>,
}

impl RequestInfo {
    fn new(route: Route, request: &Request<'_>, peer: &Peer, is_logged: bool) -> RequestInfo {
        let logged = is_logged.then(|| {
            let user_agent = request.fields.get("user-agent");
            Box::new(LoggedRequest {
                method: log::loggable(request.method.as_bytes()).into(),
                path: log::loggable(&request.path).into(),
                user_agent: user_agent.map(log::loggable).map(<[u8]>::to_vec),
                address: peer.address.clone(),
            })
        });
        RequestInfo { route, began: rt::now(), logged }
    }
}

/// The fields of a request that a log line has.
struct RequestFields<'a> {
    method: &'a [u8],
    path: &'a [u8],
    user_agent: Option<&'a [u8]>,
}

/// Counts and logs the responses of one worker.
pub(super) struct Recorder {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    clock: Cell<Clock>,
    /// The log lines of this turn of the event loop, and the task that queues them at its end: one
    /// lock for all.
    lines: RefCell<Vec<u8>>,
    flush_waker: RefCell<Option<Waker>>,
    /// The metrics page of this turn.
    page: RefCell<Option<(Instant, String)>>,
}

impl Recorder {
    pub(super) fn new(shared: Arc<Shared>, worker: usize) -> Recorder {
        Recorder {
            metrics: Arc::clone(&shared.metrics[worker]),
            shared,
            clock: Cell::new(Clock::at(Instant::now())),
            lines: RefCell::default(),
            flush_waker: RefCell::default(),
            page: RefCell::default(),
        }
    }

    /// Queues the log lines at the end of each turn in which there were any.
    pub(super) async fn flush_each_turn(self: Rc<Self>) {
        poll_fn(|cx| -> Poll<()> {
            self.flush_waker.borrow_mut().get_or_insert_with(|| cx.waker().clone());
            self.flush();
            Poll::Pending
        })
        .await;
    }

    /// Queues the log lines.
    pub(super) fn flush(&self) {
        self.shared.log.append(&mut self.lines.borrow_mut());
    }

    fn is_logged(&self, route: Route) -> bool {
        self.shared.log.format != LogFormat::Off && !route.is_probe()
    }

    fn record(
        &self,
        route: Route,
        began: Instant,
        address: Option<&str>,
        fields: &RequestFields<'_>,
        response: &Response,
    ) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(began);
        self.metrics.count_response(route, response.status, elapsed);
        if !self.is_logged(route) {
            return;
        }
        if self.clock.get().is_over(now) {
            self.clock.set(Clock::at(now));
        }
        let is_head = fields.method == b"HEAD";
        let line = AccessLogLine {
            unix_millis: self.clock.get().unix_millis(now),
            peer: address.unwrap_or("-"),
            method: fields.method,
            path: fields.path,
            status: response.status.code(),
            bytes: if is_head { 0 } else { response.body.len() as u64 },
            elapsed,
            user_agent: fields.user_agent,
            reason: response.reason,
        };
        let mut lines = self.lines.borrow_mut();
        if lines.is_empty() {
            self.flush_waker.borrow().iter().for_each(Waker::wake_by_ref);
        }
        line.write(self.shared.log.format, &mut lines);
        if lines.len() > LINES_BYTES_MAX {
            self.shared.log.append(&mut lines);
        }
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

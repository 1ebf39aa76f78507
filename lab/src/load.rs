//! `lab load`: asks a server again and again, for a bounded time, and accounts for every request.

mod alarm;
mod drive;
mod report;
mod tally;

use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::rt::{self, Shutdown, Signals};
use common::sys::{self, SIGINT, SIGTERM};
use tools::arguments::Arguments;
use tools::verb::Failure;

use drive::{Keeping, Plan};
use report::Report;
use tally::Tally;

pub(crate) const USAGE: &str = "\
usage: lab load URL [--connections N] [--seconds N] [--rate N] [--pipeline N] [--close]
                [--threads N] [--timeout-ms N] [--expect BODY] [--json]
       Sends GET requests to an http:// URL and accounts for each of them: how many were answered,
       with which status, how soon, and what became of the others. Exit code 0 if every request
       was answered as it should be, 1 if any was not.
         --connections N  at once (64)
         --seconds N      for so long (10); Ctrl-C ends it sooner
         --rate N         requests a second, each due at its own time: what one waits for a free
                          connection is part of its latency (else: as fast as it goes)
         --pipeline N     requests on a connection before the first is answered (1)
         --close          a new connection for each request
         --threads N      threads that ask (1)
         --timeout-ms N   a request has failed that finds no free connection, or then no answer,
                          within this (5000)
         --expect BODY    what each answer must hold; a line feed at its end is forgiven
         --json           the result as one JSON object, times in microseconds
       Failures: REFUSED nobody listened; CONNECT no connection for another reason; RESET, CLOSED
       the connection ended before the answer; TIMEOUT no answer in time; BROKEN no HTTP; STATUS
       400 or above; BODY not the expected one; UNSENT no connection was free for it in time.
";

/// An hour: whoever wants more can ask again.
const SECONDS_MAX: u64 = 3600;
/// More than a server's address has ports for.
const CONNECTIONS_MAX: u64 = 50_000;
const RATE_MAX: u64 = 10_000_000;
const DEPTH_MAX: u64 = 1024;
const THREADS_MAX: u64 = 64;
/// Descriptors that are not connections: standard streams, epolls, timers, signals.
const DESCRIPTORS_KEPT: u64 = 16;
const DESCRIPTORS_KEPT_PER_THREAD: u64 = 8;
/// Between two states of the live line.
const LOOK: Duration = Duration::from_millis(200);

/// The verb.
pub(crate) fn run(words: &[String]) -> Result<ExitCode, Failure> {
    let (order, form) = Order::read(words)?;
    let (tally, took) = load(&Arc::new(order.plan()?))?;
    let report = Report { order: &order, tally: &tally, took };
    let page = match form {
        Form::Text => report.text(),
        Form::Json => report.json(),
    };
    let written = io::stdout().write_all(page.as_bytes());
    let good = written.is_ok() && tally.failed() == 0 && tally.answers() > 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

enum Form {
    Text,
    Json,
}

/// What the user wants.
struct Order {
    url: Url,
    connections: u64,
    seconds: u64,
    rate: Option<u64>,
    depth: u64,
    keeping: Keeping,
    threads: u64,
    timeout_ms: u64,
    expected: Option<String>,
}

impl Order {
    fn read(words: &[String]) -> Result<(Order, Form), String> {
        let mut url = None;
        let mut order = Order {
            url: Url::default(),
            connections: 64,
            seconds: 10,
            rate: None,
            depth: 1,
            keeping: Keeping::AsLongAsTheServer,
            threads: 1,
            timeout_ms: 5000,
            expected: None,
        };
        let mut form = Form::Text;
        let mut arguments = Arguments::new(words);
        while let Some(word) = arguments.next_word()? {
            match word {
                "--connections" => order.connections = arguments.number(1, CONNECTIONS_MAX)?,
                "--seconds" => order.seconds = arguments.number(1, SECONDS_MAX)?,
                "--rate" => order.rate = Some(arguments.number(1, RATE_MAX)?),
                "--pipeline" => order.depth = arguments.number(1, DEPTH_MAX)?,
                "--close" => order.keeping = Keeping::OneRequest,
                "--threads" => order.threads = arguments.number(1, THREADS_MAX)?,
                "--timeout-ms" => order.timeout_ms = arguments.number(1, SECONDS_MAX * 1000)?,
                "--expect" => order.expected = Some(arguments.value("a body")?.to_owned()),
                "--json" => form = Form::Json,
                word if !word.starts_with('-') && url.is_none() => url = Some(Url::read(word)?),
                _ => return Err(arguments.unknown("load")),
            }
        }
        order.url = url.ok_or("the URL is missing; see lab load --help")?;
        order.threads = order.threads.min(order.connections);
        match (order.keeping, order.depth) {
            (Keeping::OneRequest, 2..) => {
                Err("--close and --pipeline exclude each other".to_owned())
            }
            _ => Ok((order, form)),
        }
    }

    /// The plan, which begins now.
    fn plan(&self) -> io::Result<Plan> {
        let descriptors =
            self.connections + DESCRIPTORS_KEPT + DESCRIPTORS_KEPT_PER_THREAD * self.threads;
        let limit = sys::raise_descriptor_limit()?;
        if limit < descriptors {
            return Err(io::Error::other(format!(
                "{} connections need {descriptors} open files, and the limit is {limit}; \
                 see ulimit -n",
                self.connections
            )));
        }
        let addresses = self.url.look_up()?;
        let connection = match self.keeping {
            Keeping::AsLongAsTheServer => "",
            Keeping::OneRequest => "Connection: close\r\n",
        };
        let Url { authority, target, .. } = &self.url;
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: lab\r\n{connection}\r\n"
        );
        let began = Instant::now();
        Ok(Plan {
            addresses,
            request: request.into_bytes(),
            connections: self.connections,
            threads: self.threads,
            rate: self.rate,
            depth: self.depth as usize,
            keeping: self.keeping,
            timeout: Duration::from_millis(self.timeout_ms),
            expected: self
                .expected
                .as_ref()
                .map(|body| body.strip_suffix('\n').unwrap_or(body).into()),
            began,
            over: began + Duration::from_secs(self.seconds),
        })
    }
}

/// Where a URL points (RFC 9110 section 4.2.1), in the parts that a request needs.
#[derive(Debug, Default, PartialEq)]
struct Url {
    /// Host and port, as they stand in the URL.
    authority: String,
    host: String,
    port: u16,
    /// Path and query.
    target: String,
}

impl Url {
    fn read(text: &str) -> Result<Url, String> {
        let wrong = |what: &str| format!("{text:?} {what}");
        let rest = text
            .strip_prefix("http://")
            .ok_or_else(|| wrong("is no http:// URL, and nothing else is spoken here"))?;
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(wrong("holds a user name, which is not sent"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (authority, "80"),
        };
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port > 0);
        let port = port.ok_or_else(|| wrong("has no port from 1 to 65535"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(wrong("has no host"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("holds characters that must be percent-encoded"));
        }
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Url { authority: authority.to_owned(), host: host.to_owned(), port, target })
    }

    fn look_up(&self) -> io::Result<Vec<SocketAddr>> {
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        let found = found.map_err(|error| io::Error::other(format!("{}: {error}", self.host)))?;
        let addresses: Vec<_> = found.collect();
        if addresses.is_empty() {
            return Err(io::Error::other(format!("{} has no address", self.host)));
        }
        Ok(addresses)
    }
}

/// Carries the plan out; what came of it, and how long it took.
fn load(plan: &Arc<Plan>) -> io::Result<(Tally, Duration)> {
    // Before the threads start: they inherit what is blocked.
    let signals = sys::signals(&[SIGINT, SIGTERM])?;
    let shutdown = Shutdown::default();
    let tallies: Vec<_> = (0..plan.threads).map(|_| Arc::<Mutex<Tally>>::default()).collect();
    thread::scope(|scope| {
        let mut others = Vec::new();
        for (number, tally) in (0..).zip(&tallies).skip(1) {
            let (plan, tally, shutdown) = (Arc::clone(plan), Arc::clone(tally), shutdown.clone());
            others.push(scope.spawn(move || {
                rt::run(&shutdown, drive::drive(plan, number, tally, shutdown.clone()))?
            }));
        }
        let ours = rt::run(&shutdown, async {
            let obeyed = shutdown.clone();
            let signals = Signals::new(signals);
            rt::spawn(async move {
                while signals.next().await.is_ok() {
                    if obeyed.is_begun() {
                        std::process::exit(130);
                    }
                    obeyed.begin();
                }
            });
            if io::stderr().is_terminal() {
                rt::spawn(show(Arc::clone(plan), tallies.clone()));
            }
            drive::drive(Arc::clone(plan), 0, Arc::clone(&tallies[0]), shutdown.clone()).await
        });
        let theirs = others.into_iter().map(|thread| thread.join().expect("no thread panics"));
        theirs.chain([ours?]).collect::<io::Result<()>>()
    })?;
    let took = plan.began.elapsed();
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    Ok((sum(&tallies), took))
}

fn sum(tallies: &[Arc<Mutex<Tally>>]) -> Tally {
    let mut sum = Tally::default();
    for tally in tallies {
        sum.merge(&tally.lock().unwrap_or_else(PoisonError::into_inner));
    }
    sum
}

/// Writes a line that tells how it stands, over the one before, for as long as it is let.
async fn show(plan: Arc<Plan>, tallies: Vec<Arc<Mutex<Tally>>>) {
    let (mut answers_before, mut at_before) = (0, plan.began);
    loop {
        rt::sleep_until(Instant::now() + LOOK).await;
        let (tally, now) = (sum(&tallies), Instant::now());
        let answers = tally.answers();
        let rate = report::a_second(answers - answers_before, now - at_before);
        // Cut off at the terminal's edge: a line that went on below it could not be written over.
        let line = report::live_line(now - plan.began, rate, &tally);
        eprint!("\r\x1b[?7l{line}\x1b[K\x1b[?7h");
        (answers_before, at_before) = (answers, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_or_told_what_is_wrong_with_it() {
        for (text, authority, host, port, target) in [
            ("http://a", "a", "a", 80, "/"),
            ("http://127.0.0.1:8000/", "127.0.0.1:8000", "127.0.0.1", 8000, "/"),
            ("http://a:8001/b/c?d=e#f", "a:8001", "a", 8001, "/b/c?d=e"),
            ("http://a?b", "a", "a", 80, "/?b"),
            ("http://[::1]:81/x", "[::1]:81", "::1", 81, "/x"),
            ("http://[::1]", "[::1]", "::1", 80, "/"),
        ] {
            let url = Url {
                authority: authority.to_owned(),
                host: host.to_owned(),
                port,
                target: target.to_owned(),
            };
            assert_eq!(Url::read(text), Ok(url), "{text}");
        }
        for (text, line) in [
            ("https://a/", "\"https://a/\" is no http:// URL, and nothing else is spoken here"),
            ("a:80", "\"a:80\" is no http:// URL, and nothing else is spoken here"),
            ("http://", "\"http://\" has no host"),
            ("http://:80/", "\"http://:80/\" has no host"),
            ("http://a:0/", "\"http://a:0/\" has no port from 1 to 65535"),
            ("http://a:+1/", "\"http://a:+1/\" has no port from 1 to 65535"),
            ("http://a:65536/", "\"http://a:65536/\" has no port from 1 to 65535"),
            ("http://a@b/", "\"http://a@b/\" holds a user name, which is not sent"),
            ("http://a/\u{e9}", "\"http://a/é\" holds characters that must be percent-encoded"),
            ("http://a/ b", "\"http://a/ b\" holds characters that must be percent-encoded"),
        ] {
            assert_eq!(Url::read(text), Err(line.to_owned()), "{text}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (words, line) in [
            (&[][..], "the URL is missing; see lab load --help"),
            (&["http://a", "http://b"], "unknown argument \"http://b\"; see lab load --help"),
            (&["http://a", "--fast"], "unknown argument \"--fast\"; see lab load --help"),
            (
                &["http://a", "--close", "--pipeline", "2"],
                "--close and --pipeline exclude each other",
            ),
            (
                &["http://a", "--seconds", "0"],
                "--seconds holds \"0\"; it takes a whole number, 1 to 3600",
            ),
        ] {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(Order::read(&words).err().as_deref(), Some(line));
        }
    }
}

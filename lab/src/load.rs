//! `lab load`: sends requests to a server for a bounded time, and accounts for each of them.

mod connection;
mod histogram;
mod report;
mod schedule;
mod statistics;
mod timeline;
mod timer;
mod url;
mod worker;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::rt::{self, Shutdown, Signals};
use common::sys::{self, SIGINT, SIGTERM};
use tools::arguments::Arguments;
use tools::signals::despite_signals;
use tools::verb::{Failure, interrupted};

use report::Report;
use statistics::Statistics;
use url::Url;
use worker::{ConnectionUse, Plan};

pub(crate) const USAGE: &str = "\
usage: cargo lab load URL [--connections N] [--seconds N] [--rate N] [--pipeline N] [--close]
                      [--threads N] [--timeout-ms N] [--expect BODY] [--json]
       Sends GET requests to an http:// URL and accounts for each of them: how many received a
       response, with which status, after what time, and why the others failed. Exit code 0 if
       every request received the response that it should, 1 if one did not.
         --connections N  connections at the same time (64)
         --seconds N      duration (10); Ctrl-C ends it sooner
         --rate N         requests a second, each due at its own time; its latency counts from
                          then, and includes the wait for a free connection (without --rate: as
                          many requests as the server can take)
         --pipeline N     requests on a connection before the first response (1)
         --close          a new connection for each request
         --threads N      threads that send requests (1)
         --timeout-ms N   the time that a request may wait for a free connection, and then for its
                          response (5000)
         --expect BODY    the body that each response must have, but for a final line feed
         --json           the result as one JSON object, latencies in microseconds
       Failures: REFUSED the server did not listen; CONNECT another error of connecting; RESET,
       CLOSED the connection ended before the response; TIMEOUT no response in time; BROKEN the
       response was not HTTP; STATUS 400 or above; BODY not the expected one; UNSENT no connection
       was free in time.
";

const SECONDS_MAX: u64 = 3600;
/// The kernel has fewer local ports than this for one address of a server.
const CONNECTIONS_MAX: u64 = 50_000;
const RATE_MAX: u64 = 10_000_000;
const PIPELINE_MAX: u64 = 1024;
const THREADS_MAX: u64 = 64;
/// Descriptors that are not connections: standard streams, epolls, timers, signals.
const OTHER_DESCRIPTORS: u64 = 16;
const OTHER_DESCRIPTORS_PER_THREAD: u64 = 8;
/// Between two updates of the progress line.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Runs the verb.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode, Failure> {
    let options = Options::read(arguments)?;
    let (statistics, duration) = load(&Arc::new(options.plan()?))?;
    let report = Report { options: &options, statistics: &statistics, duration };
    let page = match options.format {
        Format::Text => report.text(),
        Format::Json => report.json(),
    };
    io::stdout().write_all(page.as_bytes())?;
    let is_good = statistics.failed() == 0 && statistics.responses() > 0;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

enum Format {
    Text,
    Json,
}

struct Options {
    url: Url,
    connections: u64,
    seconds: u64,
    rate: Option<u64>,
    pipeline: u64,
    connection_use: ConnectionUse,
    threads: u64,
    timeout_ms: u64,
    expected_body: Option<String>,
    format: Format,
}

impl Options {
    fn read(arguments: &[String]) -> Result<Options, String> {
        let mut url = None;
        let mut options = Options {
            url: Url::default(),
            connections: 64,
            seconds: 10,
            rate: None,
            pipeline: 1,
            connection_use: ConnectionUse::Persistent,
            threads: 1,
            timeout_ms: 5000,
            expected_body: None,
            format: Format::Text,
        };
        let mut arguments = Arguments::new(arguments);
        while let Some(word) = arguments.next_word()? {
            match word {
                "--connections" => options.connections = arguments.number(1, CONNECTIONS_MAX)?,
                "--seconds" => options.seconds = arguments.number(1, SECONDS_MAX)?,
                "--rate" => options.rate = Some(arguments.number(1, RATE_MAX)?),
                "--pipeline" => options.pipeline = arguments.number(1, PIPELINE_MAX)?,
                "--close" => options.connection_use = ConnectionUse::OneRequest,
                "--threads" => options.threads = arguments.number(1, THREADS_MAX)?,
                "--timeout-ms" => options.timeout_ms = arguments.number(1, SECONDS_MAX * 1000)?,
                "--expect" => options.expected_body = Some(arguments.value("a body")?.to_owned()),
                "--json" => options.format = Format::Json,
                word if !word.starts_with('-') && url.is_none() => url = Some(Url::parse(word)?),
                _ => return Err(arguments.unknown("load")),
            }
        }
        options.url = url.ok_or("the URL is missing; see cargo lab load --help")?;
        options.threads = options.threads.min(options.connections);
        match (options.connection_use, options.pipeline) {
            (ConnectionUse::OneRequest, 2..) => {
                Err("--close and --pipeline exclude each other".to_owned())
            }
            _ => Ok(options),
        }
    }

    /// The plan of a load that begins now.
    fn plan(&self) -> io::Result<Plan> {
        let descriptors =
            self.connections + OTHER_DESCRIPTORS + OTHER_DESCRIPTORS_PER_THREAD * self.threads;
        let limit = sys::raise_descriptor_limit()?;
        if limit < descriptors {
            return Err(io::Error::other(format!(
                "{} connections need {descriptors} open files, and the limit is {limit}: raise \
                 ulimit -n, or lower --connections",
                self.connections
            )));
        }
        let addresses = self.url.resolve()?;
        let connection = match self.connection_use {
            ConnectionUse::Persistent => "",
            ConnectionUse::OneRequest => "Connection: close\r\n",
        };
        let Url { authority, target, .. } = &self.url;
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: lab\r\n{connection}\r\n"
        );
        let expected = self.expected_body.as_ref();
        let begin = Instant::now();
        Ok(Plan {
            addresses,
            request: request.into_bytes(),
            connections: self.connections,
            threads: self.threads,
            rate: self.rate,
            pipeline: self.pipeline as usize,
            connection_use: self.connection_use,
            timeout: Duration::from_millis(self.timeout_ms),
            expected_body: expected.map(|body| body.strip_suffix('\n').unwrap_or(body).into()),
            begin,
            end: begin + Duration::from_secs(self.seconds),
        })
    }
}

/// Runs the load. Returns its statistics and its duration.
fn load(plan: &Arc<Plan>) -> io::Result<(Statistics, Duration)> {
    // Before the threads start, which inherit the blocked signals.
    let signals = sys::signals(&[SIGINT, SIGTERM])?;
    let shutdown = Shutdown::default();
    let statistics: Vec<_> =
        (0..plan.threads).map(|_| Arc::<Mutex<Statistics>>::default()).collect();
    thread::scope(|scope| {
        let mut others = Vec::new();
        for (number, statistics) in (0..).zip(&statistics).skip(1) {
            let (plan, statistics) = (Arc::clone(plan), Arc::clone(statistics));
            let worker_shutdown = shutdown.clone();
            let thread = thread::Builder::new().spawn_scoped(scope, move || {
                let worker =
                    worker::run(plan, number, statistics, worker_shutdown.clone(), connection::run);
                rt::run(&worker_shutdown, worker)?
            });
            // The scope waits for the threads that have started.
            others.push(thread.inspect_err(|_| shutdown.begin())?);
        }
        let first = rt::run(&shutdown, async {
            if io::stderr().is_terminal() {
                rt::spawn(show_progress(Arc::clone(plan), statistics.clone()));
            }
            let own = Arc::clone(&statistics[0]);
            let worker = worker::run(Arc::clone(plan), 0, own, shutdown.clone(), connection::run);
            let on_signal = |signal| {
                if shutdown.is_begun() {
                    std::process::exit(interrupted(signal).into());
                }
                shutdown.begin();
            };
            despite_signals(&Signals::new(signals), worker, on_signal).await?.0
        });
        let others = others.into_iter().map(|thread| thread.join().expect("no thread panics"));
        others.chain([first?]).collect::<io::Result<()>>()
    })?;
    let duration = plan.begin.elapsed();
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    Ok((sum(&statistics), duration))
}

fn sum(statistics: &[Arc<Mutex<Statistics>>]) -> Statistics {
    let mut sum = Statistics::default();
    for statistics in statistics {
        sum.merge(&statistics.lock().unwrap_or_else(PoisonError::into_inner));
    }
    sum
}

/// Writes the progress line over the previous one until the task is dropped.
async fn show_progress(plan: Arc<Plan>, statistics: Vec<Arc<Mutex<Statistics>>>) {
    let (mut last_responses, mut last_at) = (0, plan.begin);
    loop {
        rt::sleep_until(Instant::now() + PROGRESS_INTERVAL).await;
        let (sum, now) = (sum(&statistics), Instant::now());
        let responses = sum.responses();
        let rate = report::per_second(responses - last_responses, now - last_at);
        // Without wrapping: a line that continued below the first could not be overwritten.
        let line = report::progress_line(now - plan.begin, rate, &sum);
        eprint!("\r\x1b[?7l{line}\x1b[K\x1b[?7h");
        (last_responses, last_at) = (responses, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_arguments_are_errors() {
        for (arguments, line) in [
            (&[][..], "the URL is missing; see cargo lab load --help"),
            (&["http://a", "http://b"], "unknown argument \"http://b\"; see cargo lab load --help"),
            (&["http://a", "--fast"], "unknown argument \"--fast\"; see cargo lab load --help"),
            (
                &["http://a", "--close", "--pipeline", "2"],
                "--close and --pipeline exclude each other",
            ),
            (
                &["http://a", "--seconds", "0"],
                "--seconds holds \"0\"; it takes a whole number, 1 to 3600",
            ),
        ] {
            let arguments: Vec<_> = arguments.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(Options::read(&arguments).err().as_deref(), Some(line));
        }
    }
}

//! Running another program: with a deadline, in a process group of its own, with its own
//! variables, and with bounded output. A future that is dropped kills the whole group.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::task::Poll;
use std::time::Duration;

use common::rt::{self, AsyncFd, Either};
use tools::lines::Lines;

/// Standard output: `docker inspect` of a hundred containers is 1 MB.
const STDOUT_BYTES_MAX: usize = 8 << 20;
/// Lines kept of a log: more than people read of a failed build.
const LOG_LINES_MAX: usize = 200;
/// A longer line is split: what a build prints must not fill the memory.
const LINE_BYTES_MAX: usize = 4 << 10;
/// Linux lets 208 KiB wait in a socket, unless it was told otherwise.
const SOCKET_BYTES_MAX: usize = 1 << 20;
/// One read takes so much.
const READ_BYTES_MAX: usize = 16 << 10;

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    /// By itself; `None` if it was a signal.
    Exit(Option<i32>),
    /// It was killed, because it was not done after this.
    Late(Duration),
    /// It was killed, because its output had no end.
    Endless,
    /// It could not be started.
    Missing,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) end: End,
    pub(crate) stdout: Vec<u8>,
    /// The last lines of all else that it wrote.
    pub(crate) log: Vec<String>,
}

impl Finished {
    pub(crate) fn succeeded(&self) -> bool {
        self.end == End::Exit(Some(0))
    }

    /// Standard output as text, without the last line's end.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

/// How a program is run.
#[derive(Clone, Copy)]
pub(crate) struct Invocation<'a> {
    pub(crate) words: &'a [&'a str],
    /// All of its environment.
    pub(crate) variables: &'a [(String, String)],
    pub(crate) timeout: Duration,
}

/// Runs a program for what it writes to standard output.
pub(crate) async fn output(call: Invocation<'_>) -> Finished {
    run(call, Streams::Apart, &mut |_| {}).await
}

/// Runs a program for what it does; every line that it writes is given to `line`.
pub(crate) async fn stream(call: Invocation<'_>, line: &mut dyn FnMut(&str)) -> Finished {
    run(call, Streams::Merged, line).await
}

/// Standard output by itself, or in one log with standard error.
#[derive(Clone, Copy)]
enum Streams {
    Apart,
    Merged,
}

async fn run(call: Invocation<'_>, streams: Streams, line: &mut dyn FnMut(&str)) -> Finished {
    let mut stdout = Vec::new();
    let splitter = Lines::new(LINE_BYTES_MAX);
    let mut lines = LastLines { splitter, last: VecDeque::new(), line };
    let end = match Running::start(call, streams) {
        Err(error) => {
            lines.receive(error.to_string().as_bytes());
            End::Missing
        }
        Ok(mut running) => {
            let Running { child, output, log } = &mut running;
            let mut keep = |bytes: &[u8]| {
                stdout.extend_from_slice(bytes);
                match stdout.len() {
                    ..=STDOUT_BYTES_MAX => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                }
            };
            let mut note = |bytes: &[u8]| {
                lines.receive(bytes);
                ControlFlow::Continue(())
            };
            let ended =
                poll_fn(|_| child.try_wait().transpose().map_or(Poll::Pending, Poll::Ready));
            let read = rt::select(follow(output, &mut keep), follow(log, &mut note));
            let course = rt::select(ended, read);
            let end = match rt::timeout_at(rt::now() + call.timeout, course).await {
                Some(Either::First(status)) => End::Exit(status.ok().and_then(|it| it.code())),
                Some(Either::Second(_)) => End::Endless,
                None => End::Late(call.timeout),
            };
            // The last words, which the kernel may not have announced yet.
            drain(output, &mut keep);
            drain(log, &mut note);
            end
        }
    };
    Finished { end, stdout, log: lines.finish() }
}

type Take<'a> = &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>;

/// Hands on what is written, for as long as that is taken.
async fn follow(socket: &AsyncFd<UnixStream>, take: Take<'_>) {
    let mut bytes = vec![0; READ_BYTES_MAX];
    while let Ok(count @ 1..) = poll_fn(|_| socket.poll_read(&mut bytes)).await {
        if take(&bytes[..count]).is_break() {
            return;
        }
        // A program that never falls silent must not keep the deadline from being seen.
        rt::yield_now().await;
    }
    pending::<()>().await;
}

/// Hands on what is there already, up to what fits in a socket: a child that lives on may write on.
fn drain(socket: &AsyncFd<UnixStream>, take: Take<'_>) {
    let mut bytes = vec![0; READ_BYTES_MAX];
    for _ in 0..SOCKET_BYTES_MAX / READ_BYTES_MAX {
        match socket.get_ref().read(&mut bytes) {
            Ok(count @ 1..) if take(&bytes[..count]).is_continue() => {}
            _ => return,
        }
    }
}

/// A process and all that it starts. Dropping it kills them.
struct Running {
    child: Child,
    output: AsyncFd<UnixStream>,
    log: AsyncFd<UnixStream>,
}

impl Running {
    fn start(call: Invocation<'_>, streams: Streams) -> io::Result<Running> {
        let ((output, their_output), (log, their_log)) = (UnixStream::pair()?, UnixStream::pair()?);
        output.set_nonblocking(true)?;
        log.set_nonblocking(true)?;
        let mut command = Command::new(call.words[0]);
        // Nothing of a student's is searched for in the folder that the marker was started in.
        command.args(&call.words[1..]).current_dir("/").stdin(Stdio::null());
        command.env_clear().envs(call.variables.iter().map(|(name, value)| (name, value)));
        command.stdout(match streams {
            Streams::Apart => OwnedFd::from(their_output),
            Streams::Merged => OwnedFd::from(their_log.try_clone()?),
        });
        command.stderr(OwnedFd::from(their_log));
        let child = tools::sys::die_with_parent(command.process_group(0)).spawn()?;
        Ok(Running { child, output: AsyncFd::new(output), log: AsyncFd::new(log) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Its children live in its group: `docker build` below `docker-compose build`.
            let _ = tools::sys::kill_group(self.child.id());
            let _ = self.child.wait();
        }
    }
}

/// Gives on each line, and keeps the last ones.
struct LastLines<'a> {
    splitter: Lines,
    last: VecDeque<String>,
    line: &'a mut dyn FnMut(&str),
}

impl LastLines<'_> {
    fn receive(&mut self, bytes: &[u8]) {
        let LastLines { splitter, last, line } = self;
        splitter.receive(bytes, |bytes| keep(last, line, bytes));
    }

    fn finish(self) -> Vec<String> {
        let LastLines { mut splitter, mut last, line } = self;
        splitter.finish(|bytes| keep(&mut last, line, bytes));
        last.into()
    }
}

fn keep(last: &mut VecDeque<String>, line: &mut dyn FnMut(&str), bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
    line(&text);
    if last.len() == LOG_LINES_MAX {
        last.pop_front();
    }
    last.push_back(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::pin::pin;
    use std::thread;
    use std::time::Instant;

    use common::rt::Shutdown;

    const LONG: Duration = Duration::from_secs(20);
    /// How often to look: only a program's main thread can rely on SIGCHLD.
    const LOOK: Duration = Duration::from_millis(5);

    /// Runs a shell script as the marker runs programs.
    fn shell(script: &str, streams: Streams, timeout: Duration) -> (Finished, Vec<String>) {
        let worker = || {
            let mut shown = Vec::new();
            let mut note = |line: &str| shown.push(line.to_owned());
            let path = std::env::var("PATH").unwrap_or_default();
            let variables = [("PATH".to_owned(), path)];
            let words = ["sh", "-c", script];
            let call = Invocation { words: &words, variables: &variables, timeout };
            let course = async {
                let mut course = pin!(run(call, streams, &mut note));
                loop {
                    let look = rt::now() + LOOK;
                    if let Some(outcome) = rt::timeout_at(look, course.as_mut()).await {
                        return outcome;
                    }
                }
            };
            let outcome = rt::run(&Shutdown::default(), course).expect("a worker");
            (outcome, shown)
        };
        // A thread is a worker once.
        thread::scope(|scope| scope.spawn(worker).join().expect("an outcome"))
    }

    #[test]
    fn an_answer_a_log_and_an_exit_code_are_told_apart() {
        let (outcome, shown) = shell("echo a; echo b >&2; exit 3", Streams::Apart, LONG);
        assert_eq!((outcome.end, outcome.text()), (End::Exit(Some(3)), "a".to_owned()));
        assert_eq!(outcome.log, ["b"]);
        assert_eq!(shown, ["b"]);
        let (outcome, shown) = shell("echo a; echo b >&2", Streams::Merged, LONG);
        assert!(outcome.succeeded() && outcome.stdout.is_empty());
        assert_eq!(shown, ["a", "b"]);
    }

    #[test]
    fn what_never_ends_is_killed_with_all_that_it_started() {
        let patience = Duration::from_millis(200);
        let (outcome, _) = shell("sleep 1000 & echo $!; wait", Streams::Apart, patience);
        assert_eq!(outcome.end, End::Late(patience));
        let stat = format!("/proc/{}/stat", outcome.text());
        let began = Instant::now();
        // The process that adopts it may not have waited for it yet.
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z")) {
            assert!(began.elapsed() < LONG, "it lives on");
            thread::yield_now();
        }
    }

    #[test]
    fn output_without_end_is_bounded() {
        let (outcome, _) = shell("exec yes", Streams::Apart, LONG);
        assert_eq!(outcome.end, End::Endless);
        let (outcome, _) = shell("exec yes", Streams::Merged, Duration::from_millis(200));
        assert_eq!(outcome.log.len(), LOG_LINES_MAX);
    }

    #[test]
    fn no_variables_are_passed_on_but_those_that_are_given() {
        let (outcome, _) = shell("env | cut -d= -f1", Streams::Apart, LONG);
        for name in outcome.text().lines() {
            assert!(["PATH", "PWD", "_", "SHLVL", "OLDPWD"].contains(&name), "{name}");
        }
    }
}

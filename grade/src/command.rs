//! Running another program: with a deadline, in a process group of its own, with few of our
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

use common::runtime::{self, Either, Watched};

/// What a program may answer: `docker inspect` of a hundred containers is 1 MB.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// What is kept of a log: more than anybody reads of a failed build.
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
    /// It was killed, because its answer had no end.
    Endless,
    /// It could not be started.
    Missing,
}

/// What became of a program.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    /// What it wrote to standard output.
    pub(crate) answer: Vec<u8>,
    /// The last lines of all else that it wrote.
    pub(crate) log: Vec<String>,
}

impl Outcome {
    pub(crate) fn succeeded(&self) -> bool {
        self.end == End::Exit(Some(0))
    }

    /// Its answer as text, without the last line's end.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.answer).trim_end().to_owned()
    }
}

/// Runs a program for what it writes to standard output.
pub(crate) async fn ask(words: &[&str], patience: Duration) -> Outcome {
    run(words, Streams::Apart, patience, &mut |_| {}).await
}

/// Runs a program for what it does; every line that it writes is shown to `line`.
pub(crate) async fn watch(
    words: &[&str],
    patience: Duration,
    line: &mut dyn FnMut(&str),
) -> Outcome {
    run(words, Streams::Merged, patience, line).await
}

/// Whether standard output is the answer, or one log with standard error.
#[derive(Clone, Copy)]
enum Streams {
    Apart,
    Merged,
}

async fn run(
    words: &[&str],
    streams: Streams,
    patience: Duration,
    line: &mut dyn FnMut(&str),
) -> Outcome {
    let mut answer = Vec::new();
    let mut lines = Lines { begun: Vec::new(), last: VecDeque::new(), line };
    let end = match Running::start(words, streams) {
        Err(error) => {
            lines.take(error.to_string().as_bytes());
            End::Missing
        }
        Ok(mut running) => {
            let Running { child, output, log } = &mut running;
            let mut keep = |bytes: &[u8]| {
                answer.extend_from_slice(bytes);
                match answer.len() {
                    ..=ANSWER_BYTES_MAX => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                }
            };
            let mut note = |bytes: &[u8]| {
                lines.take(bytes);
                ControlFlow::Continue(())
            };
            let ended =
                poll_fn(|_| child.try_wait().transpose().map_or(Poll::Pending, Poll::Ready));
            let read = runtime::either(follow(output, &mut keep), follow(log, &mut note));
            let course = runtime::either(ended, read);
            let end = match runtime::within(runtime::now() + patience, course).await {
                Some(Either::First(status)) => End::Exit(status.ok().and_then(|it| it.code())),
                Some(Either::Second(_)) => End::Endless,
                None => End::Late(patience),
            };
            // The last words, which the kernel may not have announced yet.
            drain(output, &mut keep);
            drain(log, &mut note);
            end
        }
    };
    Outcome { end, answer, log: lines.finish() }
}

type Take<'a> = &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>;

/// Hands on what is written, for as long as that is taken.
async fn follow(socket: &Watched<UnixStream>, take: Take<'_>) {
    let mut bytes = vec![0; READ_BYTES_MAX];
    while let Ok(count @ 1..) = poll_fn(|_| socket.poll_read(&mut bytes)).await {
        if take(&bytes[..count]).is_break() {
            return;
        }
        // Whoever never falls silent must not keep the deadline from being seen.
        runtime::give_way().await;
    }
    pending::<()>().await;
}

/// Hands on what is there already, up to what fits in a socket: whoever lives on may write on.
fn drain(socket: &Watched<UnixStream>, take: Take<'_>) {
    let mut bytes = vec![0; READ_BYTES_MAX];
    for _ in 0..SOCKET_BYTES_MAX / READ_BYTES_MAX {
        match socket.get().read(&mut bytes) {
            Ok(count @ 1..) if take(&bytes[..count]).is_continue() => {}
            _ => return,
        }
    }
}

/// A process and all that it starts. Dropping it kills them.
struct Running {
    child: Child,
    output: Watched<UnixStream>,
    log: Watched<UnixStream>,
}

impl Running {
    fn start(words: &[&str], streams: Streams) -> io::Result<Running> {
        let ((output, their_output), (log, their_log)) = (UnixStream::pair()?, UnixStream::pair()?);
        output.set_nonblocking(true)?;
        log.set_nonblocking(true)?;
        let mut command = Command::new(words[0]);
        // Nothing of a student's is searched for in the folder that we happen to be in.
        command.args(&words[1..]).current_dir("/").env_clear().envs(std::env::vars_os().filter(
            // What a compose file asks for by name would be told: no more than the engine needs.
            |(name, _)| {
                let name = name.to_string_lossy();
                name.starts_with("DOCKER_") || ["PATH", "HOME", "XDG_RUNTIME_DIR"].contains(&&*name)
            },
        ));
        // What docker-compose 1 has not yet written is lost when it is killed.
        command.env("LC_ALL", "C.UTF-8").env("PYTHONUNBUFFERED", "1").stdin(Stdio::null());
        command.stdout(match streams {
            Streams::Apart => OwnedFd::from(their_output),
            Streams::Merged => OwnedFd::from(their_log.try_clone()?),
        });
        command.stderr(OwnedFd::from(their_log));
        let child = tools::sys::die_with_parent(command.process_group(0)).spawn()?;
        Ok(Running { child, output: Watched::new(output), log: Watched::new(log) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // What it started lives in its group: `docker build` below `docker-compose build`.
            let _ = tools::sys::kill_group(self.child.id());
            let _ = self.child.wait();
        }
    }
}

/// Turns bytes into lines, and keeps the last ones.
struct Lines<'a> {
    begun: Vec<u8>,
    last: VecDeque<String>,
    line: &'a mut dyn FnMut(&str),
}

impl Lines<'_> {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                _ if self.begun.len() == LINE_BYTES_MAX => {
                    self.end_line();
                    self.begun.push(*byte);
                }
                _ => self.begun.push(*byte),
            }
        }
    }

    fn end_line(&mut self) {
        let text = String::from_utf8_lossy(&self.begun).trim_end().to_owned();
        self.begun.clear();
        (self.line)(&text);
        if self.last.len() == LOG_LINES_MAX {
            self.last.pop_front();
        }
        self.last.push_back(text);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.begun.is_empty() {
            self.end_line();
        }
        self.last.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::pin::pin;
    use std::thread;
    use std::time::Instant;

    use common::runtime::Ending;

    const LONG: Duration = Duration::from_secs(20);
    /// How often to look: only a program's main thread can rely on SIGCHLD.
    const LOOK: Duration = Duration::from_millis(5);

    /// Runs a shell script as the marker runs programs.
    fn shell(script: &str, streams: Streams, patience: Duration) -> (Outcome, Vec<String>) {
        let worker = || {
            let mut shown = Vec::new();
            let mut note = |line: &str| shown.push(line.to_owned());
            let words = ["sh", "-c", script];
            let course = async {
                let mut course = pin!(run(&words, streams, patience, &mut note));
                loop {
                    let look = runtime::now() + LOOK;
                    if let Some(outcome) = runtime::within(look, course.as_mut()).await {
                        return outcome;
                    }
                }
            };
            let outcome = runtime::run(&Ending::default(), course).expect("a worker");
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
        assert!(outcome.succeeded() && outcome.answer.is_empty());
        assert_eq!(shown, ["a", "b"]);
    }

    #[test]
    fn what_never_ends_is_killed_with_all_that_it_started() {
        let patience = Duration::from_millis(200);
        let (outcome, _) = shell("sleep 1000 & echo $!; wait", Streams::Apart, patience);
        assert_eq!(outcome.end, End::Late(patience));
        let stat = format!("/proc/{}/stat", outcome.text());
        let began = Instant::now();
        // Whoever adopts it may not have waited for it yet.
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
    fn few_variables_are_passed_on() {
        let (outcome, _) = shell("env | cut -d= -f1", Streams::Apart, LONG);
        let answer = outcome.text();
        for name in answer.lines() {
            let own = [
                "PATH",
                "HOME",
                "XDG_RUNTIME_DIR",
                "LC_ALL",
                "PYTHONUNBUFFERED",
                "PWD",
                "_",
                "SHLVL",
                "OLDPWD",
            ];
            assert!(own.contains(&name) || name.starts_with("DOCKER_"), "{name}");
        }
        assert!(answer.contains("PATH"), "{answer}");
    }
}

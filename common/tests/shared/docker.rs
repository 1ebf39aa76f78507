//! The engine, for the tests that need one: what they make there has this run's name and is removed
//! at its end, and what the services in it answer.
#![allow(dead_code)] // each test takes what it needs

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tools::json::Value;

const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");
pub(crate) const SERVICES: [&str; 2] = ["api-backend", "api-frontend"];

pub(crate) const BACKEND: &str = "{\"body\": \"Je suis une r\\u00e9ponse du backend\"}\n";
pub(crate) const FRONTEND: &str = "{\"return\": {\"body\": \"Je suis une r\\u00e9ponse du backend\"}, \"status\": \"[SUCESS]\"}\n";

/// Within this, whatever can answer again does.
pub(crate) const SOON: Duration = Duration::from_secs(1);
/// The end of any wait, so that a fault fails instead of hanging. Engines can be slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How often to look at what tells nobody.
const LOOK: Duration = Duration::from_millis(20);

/// One test at a time: two would take each other's processor, and times are what many look at.
/// Whatever this process makes on the engine has its name, and is removed after its end.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    static JANITOR: OnceLock<Child> = OnceLock::new();
    // The end of its input is ours, however that comes; a signal from the terminal is not its.
    const SWEEP: &str = r#"
        cat > /dev/null
        {
            docker ps --all --quiet --filter "name=^/?$1-" | xargs -r docker rm --force --volumes
            docker network ls --quiet --filter "name=^$1-" | xargs -r docker network rm
            docker image ls --format "{{.Repository}}:{{.Tag}}" | grep -E "(^|/)$1/" | xargs -r docker rmi
        } > /dev/null
        rm -rf "$2""#;
    JANITOR.get_or_init(|| {
        let mut janitor = Command::new("sh");
        janitor.args(["-c", SWEEP, "janitor", namespace()]).arg(scratch(""));
        janitor.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        janitor.spawn().expect("sh")
    });
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This run's name, which every image, container and network that it makes bears.
pub(crate) fn namespace() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| format!("enginetest{}", process::id()))
}

/// A place for files of this run.
fn scratch(name: &str) -> PathBuf {
    Path::new(SCRATCH).join(namespace()).join(name)
}

/// A folder of this run, removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn create(name: &str) -> Folder {
        let folder = Folder(scratch(name));
        fs::create_dir_all(&folder.0).expect("a folder");
        folder
    }

    pub(crate) fn copy_of(sources: &Path, name: &str) -> Folder {
        let folder = Folder::create(name);
        let copy = "tar -C \"$0\" --exclude=./target --exclude=./.git -c . | tar -C \"$1\" -x";
        done(timed("sh").args(["-c", copy]).args([sources, &folder.0]));
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A container that was run by itself, removed when dropped.
pub(crate) struct Run(Container);

impl Run {
    pub(crate) fn start(image: &str, options: &[&str]) -> Run {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("--name={}-run-{number}", namespace());
        let id = docker(&[&["run", "--detach", &name], options, &[image]].concat());
        Run(Container { id: id.trim_end().to_owned() })
    }
}

impl Deref for Run {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.0
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = timed("docker").args(["rm", "--force", "--volumes", &self.id]).output();
    }
}

pub(crate) struct Container {
    pub(crate) id: String,
}

/// Something that happened to a container.
pub(crate) struct Event {
    /// Seconds since 1970, by the engine's clock, which is ours.
    pub(crate) at: f64,
    pub(crate) exit_code: Option<String>,
}

impl Container {
    pub(crate) fn ask(&self, path: &str) -> String {
        ask(&self.id, path)
    }

    pub(crate) fn address(&self, network: &str, port: u16) -> SocketAddr {
        let address = self.ask(&format!("NetworkSettings/Networks/{network}/IPAddress"));
        (address.parse::<IpAddr>().expect("an address"), port).into()
    }

    /// The lines of both its outputs.
    pub(crate) fn logs(&self) -> Vec<String> {
        let output = timed("docker").args(["logs", &self.id]).output().expect("docker starts");
        let both = text(&output.stdout) + &text(&output.stderr);
        both.lines().map(str::to_owned).collect()
    }

    pub(crate) fn has_said(&self, part: &str) -> bool {
        self.logs().iter().any(|line| line.contains(part))
    }

    /// The last time that this happened since then.
    pub(crate) fn event(&self, action: &str, since: SystemTime) -> Option<Event> {
        let filters = [format!("container={}", self.id), format!("event={action}")];
        let span = [since, SystemTime::now()].map(|at| format!("{:.6}", since_1970(at)));
        let mut command = timed("docker");
        command.args(["events", "--format={{json .}}", "--since", &span[0], "--until", &span[1]]);
        command.args(filters.iter().flat_map(|filter| ["--filter", filter]));
        let events = done(&mut command);
        let event = Value::read(events.lines().last()?.as_bytes()).expect("JSON");
        let nanoseconds = event.get("timeNano").and_then(Value::number).expect("a time");
        let attributes = event.get("Actor").and_then(|actor| actor.get("Attributes"));
        let exit_code = attributes.and_then(|attributes| attributes.get("exitCode"));
        let exit_code = exit_code.and_then(Value::text).map(Cow::into_owned);
        Some(Event { at: nanoseconds / 1e9, exit_code })
    }

    /// Stops it as a user does, and says how long it took to end. What the engine does before
    /// and after that, a second and more, is not the service's.
    pub(crate) fn stop(&self) -> Duration {
        let at = SystemTime::now();
        docker(&["stop", &self.id]);
        assert_eq!(self.ask("State/ExitCode"), "0");
        assert_eq!(self.ask("State/OOMKilled"), "false");
        let asked = self.event("kill", at).expect("it was told to");
        let ended = self.event("die", at).expect("it ended");
        Duration::from_secs_f64(ended.at - asked.at)
    }
}

/// What `docker inspect` says of a container or an image: a text as it is, all else as JSON.
pub(crate) fn ask(object: &str, path: &str) -> String {
    let page = docker(&["inspect", object]);
    let page = Value::read(page.as_bytes()).expect("JSON");
    let mut value = &page.items()[0];
    for name in path.split('/') {
        value = value.get(name).unwrap_or(&Value::Null);
    }
    value.text().map_or_else(
        || {
            let mut json = Vec::new();
            value.write(&mut json);
            text(&json)
        },
        Cow::into_owned,
    )
}

/// Every file in the layers of an image.
pub(crate) fn files(image: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Folder::create(&format!("saved-{}", image.replace('/', "-")));
    let save = "docker save \"$0\" | tar -x -C \"$1\"";
    done(timed("sh").args(["-c", save, image]).arg(&folder.0));
    let manifest = fs::read(folder.0.join("manifest.json")).expect("a manifest");
    let manifest = Value::read(&manifest).expect("JSON");
    let layers = manifest.items()[0].get("Layers").expect("layers");
    let mut files = BTreeMap::new();
    for layer in layers.items() {
        let layer = folder.0.join(&*layer.text().expect("a path"));
        for name in done(timed("tar").arg("-tf").arg(&layer)).lines() {
            let output = timed("tar").arg("-xOf").arg(&layer).arg(name).output();
            files.insert(name.to_owned(), output.expect("tar starts").stdout);
        }
    }
    files
}

pub(crate) fn docker(arguments: &[&str]) -> String {
    done(timed("docker").args(arguments))
}

/// A command that is killed when it takes far too long.
pub(crate) fn timed(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--kill-after=5", "900", program]).stdin(Stdio::null());
    command
}

/// What a command that succeeds has written.
pub(crate) fn done(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn since_1970(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).expect("a clock that is set").as_secs_f64()
}

/// What it is waited for: the first thing that `look` finds.
pub(crate) fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < patience, "{what}: not within {patience:?}");
        thread::sleep(LOOK);
    }
}

/// All that a GET on a connection of its own is answered with. `Err` if nothing was.
pub(crate) fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, SOON)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    assert!(read.is_ok() || answer.is_empty(), "{address} {path}: {read:?} after {answer}");
    read.map(|_| answer)
}

pub(crate) fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Whether `/` is answered as it should be, by either service.
pub(crate) fn is_well(address: SocketAddr) -> Option<()> {
    let answer = get(address, "/").ok()?;
    let whole = answer.ends_with(BACKEND) || answer.ends_with(FRONTEND);
    (status(&answer) == 200 && whole).then_some(())
}

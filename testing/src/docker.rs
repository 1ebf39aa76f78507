//! The Docker engine. All that tests make there has a name of this run, and is removed at its end.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tools::json::Value;

use crate::client::get_once;
use crate::process::scratch_folder;
use crate::{BACKEND_BODY, FRONTEND_BODY, WAIT_MAX, wait_for};

pub const SERVICES: [&str; 2] = ["api-backend", "api-frontend"];

/// Runs one test at a time, because many look at times; and has all that this process makes on the
/// engine removed after its end, even if it is killed.
pub fn exclusive() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    static SWEEPER: OnceLock<Child> = OnceLock::new();
    // Its stdin ends when this process does. In a group of its own it gets no signal from the terminal.
    const SWEEP: &str = r#"
        cat > /dev/null
        {
            docker ps --all --quiet --filter "name=^/?$1-" | xargs -r docker rm --force --volumes
            docker network ls --quiet --filter "name=^$1-" | xargs -r docker network rm
            docker image ls --format "{{.Repository}}:{{.Tag}}" | grep -E "(^|/)$1/" | xargs -r docker rmi
        } > /dev/null
        rm -rf "$2""#;
    SWEEPER.get_or_init(|| {
        let mut sweeper = Command::new("sh");
        sweeper.args(["-c", SWEEP, "sweeper", namespace()]).arg(scratch(""));
        sweeper.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        sweeper.spawn().expect("sh")
    });
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first part of the name of each image, container and network that this run makes.
pub fn namespace() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| format!("enginetest{}", process::id()))
}

/// A path for files of this run.
fn scratch(name: &str) -> PathBuf {
    scratch_folder().join(namespace()).join(name)
}

/// A folder that is removed when dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn create(name: &str) -> Folder {
        let folder = Folder(scratch(name));
        fs::create_dir_all(&folder.0).unwrap();
        folder
    }

    pub fn copy_of(sources: &Path, name: &str) -> Folder {
        let folder = Folder::create(name);
        let copy = "tar -C \"$0\" --exclude=./target --exclude=./.git -c . | tar -C \"$1\" -x";
        stdout_of(timed("sh").args(["-c", copy]).args([sources, &folder.0]));
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A container of `docker run`, removed when dropped.
pub struct Run(Container);

impl Run {
    pub fn start(image: &str, options: &[&str]) -> Run {
        Run::start_with(image, options, &[])
    }

    /// With arguments of the program.
    pub fn start_with(image: &str, options: &[&str], arguments: &[&str]) -> Run {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        wait_for("a container", WAIT_MAX, || {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("--name={}-run-{number}", namespace());
            let words = [&["run", "--detach", &name], options, &[image], arguments].concat();
            let output = timed("docker").args(&words).output().expect("docker starts");
            let run = Run(Container { id: text(&output.stdout).trim_end().to_owned() });
            // At times runc itself needs more threads than `--pids-limit` allows.
            if text(&output.stderr).contains("cannot start a stopped process") {
                return None;
            }
            assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
            Some(run)
        })
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

pub struct Container {
    pub id: String,
}

/// An event of a container.
pub struct Event {
    /// Seconds since 1970, by the engine's clock, which is that of this machine.
    pub at: f64,
    pub exit_code: Option<String>,
}

impl Container {
    pub fn inspect(&self, path: &str) -> String {
        inspect(&self.id, path)
    }

    pub fn address(&self, network: &str, port: u16) -> SocketAddr {
        let address = self.inspect(&format!("NetworkSettings/Networks/{network}/IPAddress"));
        (address.parse::<IpAddr>().expect("an address"), port).into()
    }

    /// The lines of stdout and stderr.
    pub fn logs(&self) -> Vec<String> {
        let output = timed("docker").args(["logs", &self.id]).output().expect("docker starts");
        let both = text(&output.stdout) + &text(&output.stderr);
        both.lines().map(str::to_owned).collect()
    }

    pub fn has_logged(&self, part: &str) -> bool {
        self.logs().iter().any(|line| line.contains(part))
    }

    /// The last event of this kind since then.
    pub fn event(&self, action: &str, since: SystemTime) -> Option<Event> {
        let filters = [format!("container={}", self.id), format!("event={action}")];
        let span = [since, SystemTime::now()].map(|at| format!("{:.6}", since_1970(at)));
        let mut command = timed("docker");
        command.args(["events", "--format={{json .}}", "--since", &span[0], "--until", &span[1]]);
        command.args(filters.iter().flat_map(|filter| ["--filter", filter]));
        let events = stdout_of(&mut command);
        let event = Value::read(events.lines().last()?.as_bytes()).expect("JSON");
        let nanoseconds = event.get("timeNano").and_then(Value::number).expect("a time");
        let attributes = event.get("Actor").and_then(|actor| actor.get("Attributes"));
        let exit_code = attributes.and_then(|attributes| attributes.get("exitCode"));
        let exit_code = exit_code.and_then(Value::text).map(Cow::into_owned);
        Some(Event { at: nanoseconds / 1e9, exit_code })
    }

    /// Runs `docker stop`. The service must end by itself.
    pub fn stop(&self) {
        docker(&["stop", &self.id]);
        assert_eq!(self.inspect("State/ExitCode"), "0");
        assert_eq!(self.inspect("State/OOMKilled"), "false");
    }
}

/// A value of `docker inspect`: a string as it is, all else as JSON.
pub fn inspect(object: &str, path: &str) -> String {
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

/// All files in the layers of an image.
pub fn files(image: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Folder::create(&format!("saved-{}", image.replace('/', "-")));
    let save = "docker save \"$0\" | tar -x -C \"$1\"";
    stdout_of(timed("sh").args(["-c", save, image]).arg(&folder.0));
    let manifest = fs::read(folder.0.join("manifest.json")).expect("a manifest");
    let manifest = Value::read(&manifest).expect("JSON");
    let layers = manifest.items()[0].get("Layers").expect("layers");
    let mut files = BTreeMap::new();
    for layer in layers.items() {
        let layer = folder.0.join(&*layer.text().expect("a path"));
        for name in stdout_of(timed("tar").arg("-tf").arg(&layer)).lines() {
            let output = timed("tar").arg("-xOf").arg(&layer).arg(name).output();
            files.insert(name.to_owned(), output.expect("tar starts").stdout);
        }
    }
    files
}

pub fn docker(arguments: &[&str]) -> String {
    stdout_of(timed("docker").args(arguments))
}

/// A command that is killed after 15 minutes.
pub fn timed(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--kill-after=5", "900", program]).stdin(Stdio::null());
    command
}

/// The stdout of a command that must succeed.
pub fn stdout_of(command: &mut Command) -> String {
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

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn since_1970(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).expect("a clock that is set").as_secs_f64()
}

/// Returns true if either service answers `GET /` as it should.
pub fn serves(address: SocketAddr) -> bool {
    let response = get_once(address, "/");
    response.is_ok_and(|response| {
        response.status == 200 && [BACKEND_BODY, FRONTEND_BODY].contains(&&*response.body)
    })
}

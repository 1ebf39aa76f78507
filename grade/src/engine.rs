//! The engine and Compose, driven by their command lines as a person would. Compose runs with
//! variables of the marker's own: none of the caller's reaches a stranger's compose file.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use common::rt;
use tools::json::Value;

use crate::command::{self, End, Finished, Invocation};
use crate::deployment::Container;
use crate::node::{Dollars, Node};
use crate::plan::LABEL;
use crate::words::{Words, words};

/// For what an engine does at once, when it is busy with other things.
const SOON: Duration = Duration::from_secs(60);
/// For `up`: it may have to pull, and waits for dependencies to be healthy.
const UP: Duration = Duration::from_secs(300);
/// For the memory of each step of a build.
const BUILD_MEMORY: &str = "4g";

/// How long a build's last step may use its image after the build was killed.
const BUILD_END: Duration = Duration::from_secs(10);

/// The label that Compose gives to all that it makes.
pub(crate) const PROJECT: &str = "com.docker.compose.project";

/// The two ways to call Compose.
const PLUGIN: &[&str] = &["docker", "compose"];
const ALONE: &[&str] = &["docker-compose"];

/// The caller's variables that docker and Compose get: the address of the engine, and the keys to
/// it.
const PASSED: &[&str] = &[
    "PATH",
    "HOME",
    "XDG_RUNTIME_DIR",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "DOCKER_TLS_VERIFY",
    "DOCKER_BUILDKIT",
    "SSH_AUTH_SOCK",
];

/// Reads a compose file with the reader of YAML that Compose itself has, and prints it as JSON.
/// Exit code 3: it is no YAML; any other failure: it is none that the marker can judge.
const TO_JSON: &str = "\
import json, sys
try:
    from compose.config.config import load_yaml
except ImportError:
    import yaml
    def load_yaml(path):
        with open(path, 'rb') as file:
            return yaml.safe_load(file)
def text(value):
    if isinstance(value, bytes):
        raise ValueError('binary')
    return str(value)
try:
    document = load_yaml(sys.argv[1])
except Exception as error:
    print(error, file=sys.stderr)
    sys.exit(3)
json.dump(document, sys.stdout, default=text, allow_nan=False)
";

/// Prints the YAML of standard input as JSON.
const CONFIG_TO_JSON: &str = "\
import json, subprocess, sys, yaml
config = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
if config.returncode:
    sys.exit(config.returncode)
json.dump(yaml.safe_load(config.stdout), sys.stdout, default=str, allow_nan=False)
";

/// `docker`, and how Compose is called here.
pub(crate) struct Engine {
    compose: Compose,
    /// A Python that reads YAML.
    python: String,
    /// The environment of docker and Compose.
    variables: Vec<(String, String)>,
}

#[derive(Clone, Copy)]
enum Compose {
    /// `docker compose`, or a `docker-compose` that is the same program.
    Two(&'static [&'static str]),
    /// `docker-compose` 1, which writes YAML.
    One,
}

/// The files that Compose works on.
#[derive(Clone, Copy)]
pub(crate) struct Project<'a> {
    pub(crate) name: &'a str,
    /// The folder that paths are relative to.
    pub(crate) folder: &'a Path,
    pub(crate) files: &'a [PathBuf],
    /// The marker's own file of variables, which takes the place of `.env`.
    pub(crate) env_file: &'a Path,
    /// `COMPOSE_PROFILES`.
    pub(crate) profiles: &'a str,
}

/// Why a compose file is not read.
pub(crate) enum Unread {
    /// It is no YAML.
    Broken(String),
    /// It is some that cannot be judged.
    Odd(String),
}

impl Engine {
    /// Finds docker and Compose; `Err` says what is missing.
    pub(crate) async fn find() -> Result<Engine, Words> {
        let passed =
            PASSED.iter().filter_map(|name| Some(((*name).to_owned(), env::var(name).ok()?)));
        let mut variables: Vec<(String, String)> = passed.collect();
        // Python buffers what it has not yet written, and loses it when it is killed.
        variables.push(("LC_ALL".to_owned(), "C.UTF-8".to_owned()));
        variables.push(("PYTHONUNBUFFERED".to_owned(), "1".to_owned()));
        let mut engine = Engine { compose: Compose::One, python: String::new(), variables };
        // Always set: a `.env` cannot name another one then.
        let host = engine.host().await?;
        engine.variables.push(("DOCKER_HOST".to_owned(), host));
        if let Some(fault) = engine.fault().await {
            return Err(fault);
        }
        engine.compose = engine.find_compose().await?;
        engine.python = engine.find_python().await?;
        Ok(engine)
    }

    /// The address of the caller's engine.
    async fn host(&self) -> Result<String, Words> {
        if let Some(host) = env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()) {
            return Ok(host);
        }
        let mut words =
            vec!["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"];
        let context = env::var("DOCKER_CONTEXT").unwrap_or_default();
        words.extend(Some(&*context).filter(|context| !context.is_empty()));
        let found = self.output(&words, SOON).await;
        if found.end == End::Missing {
            return Err(words_missing());
        }
        let host = found.text();
        let usual = || "unix:///var/run/docker.sock".to_owned();
        Ok(Some(host).filter(|host| host.contains("://")).unwrap_or_else(usual))
    }

    async fn find_compose(&self) -> Result<Compose, Words> {
        for words in [PLUGIN, ALONE] {
            let version = self.output(&[words, &["version", "--short"]].concat(), SOON).await;
            match version.text().trim_start_matches('v') {
                _ if !version.succeeded() => {}
                text if text.starts_with("1.") => return Ok(Compose::One),
                _ => return Ok(Compose::Two(words)),
            }
        }
        Err(words(
            "neither docker compose nor docker-compose is installed here",
            "ni docker compose ni docker-compose ne sont installés ici",
        ))
    }

    /// The Python that runs `docker-compose` 1, which has what reads YAML, or else any that has.
    async fn find_python(&self) -> Result<String, Words> {
        let script = script_python();
        for python in script.iter().map(String::as_str).chain(["python3", "/usr/bin/python3"]) {
            if self.output(&[python, "-c", "import yaml"], SOON).await.succeeded() {
                return Ok(python.to_owned());
            }
        }
        Err(words(
            "a Python with PyYAML is needed to read compose files",
            "il faut un Python avec PyYAML pour lire les fichiers compose",
        ))
    }

    /// The engine's fault, if it does not respond now.
    pub(crate) async fn fault(&self) -> Option<Words> {
        let version = self.run(&["version", "--format", "{{.Server.Version}}"]).await;
        (!version.succeeded()).then(|| silent(&version))
    }

    /// How a person would call Compose here.
    pub(crate) fn compose(&self) -> String {
        match self.compose {
            Compose::Two(words) => words.join(" "),
            Compose::One => "docker-compose".to_owned(),
        }
    }

    fn compose_words<'a>(&self, project: &'a Project, rest: &[&'a str]) -> Vec<&'a str> {
        let mut words = match self.compose {
            Compose::Two(words) => words.to_vec(),
            Compose::One => vec!["docker-compose"],
        };
        let path = |path: &'a Path| path.to_str().unwrap_or_default();
        words.extend(["--project-name", project.name]);
        words.extend(["--project-directory", path(project.folder)]);
        words.extend(["--env-file", path(project.env_file)]);
        for file in project.files {
            words.extend(["--file", path(file)]);
        }
        words.extend(rest);
        words
    }

    /// A compose file as it stands, without variables put in.
    pub(crate) async fn document(&self, file: &Path) -> Result<Node, Unread> {
        let words = [&self.python, "-c", TO_JSON, file.to_str().unwrap_or_default()];
        let variables = self.few_variables();
        let call = Invocation { words: &words, variables: &variables, timeout: SOON };
        let read = command::output(call).await;
        match read.end {
            End::Exit(Some(0)) => {}
            End::Exit(Some(3)) => return Err(Unread::Broken(said(&read))),
            _ => return Err(Unread::Odd(said(&read))),
        }
        match Value::read(&read.stdout) {
            Ok(value) => Ok(Node::from(&value, Dollars::Single)),
            Err(fault) => Err(Unread::Odd(fault.to_string())),
        }
    }

    /// The configuration that Compose has resolved; `Err` is what it said.
    pub(crate) async fn config(&self, project: &Project<'_>) -> Result<Node, String> {
        let words = match self.compose {
            Compose::Two(_) => self.compose_words(project, &["config", "--format", "json"]),
            Compose::One => [
                &[&*self.python, "-c", CONFIG_TO_JSON][..],
                &self.compose_words(project, &["config"]),
            ]
            .concat(),
        };
        let mut variables = self.few_variables();
        let folder = project.folder.to_str().unwrap_or_default();
        variables.push(("PWD".to_owned(), folder.to_owned()));
        variables.push(("COMPOSE_PROFILES".to_owned(), project.profiles.to_owned()));
        let call = Invocation { words: &words, variables: &variables, timeout: SOON };
        let finished = command::output(call).await;
        if !finished.succeeded() {
            return Err(said(&finished));
        }
        let value = Value::read(&finished.stdout).map_err(|fault| fault.to_string())?;
        Ok(Node::from(&value, Dollars::Doubled))
    }

    /// The few variables without which a program cannot run.
    fn few_variables(&self) -> Vec<(String, String)> {
        // The plugins of docker are found below HOME.
        let few = ["PATH", "LC_ALL", "PYTHONUNBUFFERED", "HOME"];
        let home = !matches!(self.compose, Compose::One);
        let own = |name: &str| few.contains(&name) && (home || name != "HOME");
        self.variables.iter().filter(|(name, _)| own(name)).cloned().collect()
    }

    /// Builds all that is to be built; each line of the log is given to `line`.
    pub(crate) async fn build(
        &self,
        project: &Project<'_>,
        timeout: Duration,
        line: &mut dyn FnMut(&str),
    ) -> Finished {
        let rest: &[&str] = match self.compose {
            Compose::Two(_) => &["build"],
            // A step that fails would leave its container behind.
            Compose::One => &["build", "--force-rm", "--memory", BUILD_MEMORY],
        };
        self.stream(project, rest, timeout, line).await
    }

    /// Starts all that the compose file says.
    pub(crate) async fn up(&self, project: &Project<'_>, line: &mut dyn FnMut(&str)) -> Finished {
        self.stream(project, &["up", "--detach", "--no-build"], UP, line).await
    }

    async fn stream(
        &self,
        project: &Project<'_>,
        rest: &[&str],
        timeout: Duration,
        line: &mut dyn FnMut(&str),
    ) -> Finished {
        let mut variables = self.variables.clone();
        // Files that a killed build leaves go with the folder.
        let folder = project.folder.to_str().unwrap_or_default();
        variables.push(("TMPDIR".to_owned(), folder.to_owned()));
        variables.push(("COMPOSE_PROFILES".to_owned(), project.profiles.to_owned()));
        let words = self.compose_words(project, rest);
        command::stream(Invocation { words: &words, variables: &variables, timeout }, line).await
    }

    async fn output(&self, words: &[&str], timeout: Duration) -> Finished {
        command::output(Invocation { words, variables: &self.variables, timeout }).await
    }

    /// Runs any program with the environment of docker.
    pub(crate) async fn program(&self, words: &[&str], timeout: Duration) -> Finished {
        self.output(words, timeout).await
    }

    /// `docker` with these words.
    pub(crate) async fn run(&self, words: &[&str]) -> Finished {
        self.output(&[&["docker"], words].concat(), SOON).await
    }

    /// The output of `docker` with these words, if it succeeds.
    pub(crate) async fn query(&self, words: &[&str]) -> Option<String> {
        let finished = self.run(words).await;
        finished.succeeded().then(|| finished.text())
    }

    /// The lines of that output; none if it fails.
    async fn list(&self, words: &[&str]) -> Vec<String> {
        let output = self.query(words).await.unwrap_or_default();
        output.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// A project's containers, ended ones included.
    pub(crate) async fn containers(&self, project: &str) -> Vec<Container> {
        let label = format!("label={PROJECT}={project}");
        let ids = self.list(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &label]).await;
        if ids.is_empty() {
            return Vec::new();
        }
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let inspected = self.run(&[&["inspect", "--type", "container"], &ids[..]].concat()).await;
        Container::read_all(&inspected.stdout).unwrap_or_default()
    }

    /// A container as it is now; `None` if it is no more.
    pub(crate) async fn container(&self, id: &str) -> Option<Container> {
        let inspected = self.run(&["inspect", "--type", "container", id]).await;
        Container::read_all(&inspected.stdout)?.into_iter().next()
    }

    /// The labels of an image, and its size in bytes.
    pub(crate) async fn image(&self, id: &str) -> Option<(Vec<(String, String)>, f64)> {
        let output = self.query(&["image", "inspect", id]).await?;
        let images = Value::read(output.as_bytes()).ok()?;
        let image = Node::from(images.items().first()?, Dollars::Single);
        let labels = image.at("Config/Labels").map(Node::pairs).unwrap_or_default();
        Some((labels, image.scalar_at("Size").parse().unwrap_or_default()))
    }

    /// Returns true if an image of this name is here that no registry knows: it was built here.
    pub(crate) async fn is_local_image(&self, name: &str) -> bool {
        let digests = ["image", "inspect", "--format", "{{len .RepoDigests}}", name];
        self.query(&digests).await.as_deref() == Some("0")
    }

    /// The last lines that a container wrote.
    pub(crate) async fn last_lines(&self, id: &str) -> String {
        let logs = self.run(&["logs", "--tail", "3", id]).await;
        [logs.text(), logs.log.join("\n")].join("\n").trim().to_owned()
    }

    /// The engine's events of one kind between two times of the epoch, in order.
    async fn events(&self, filters: [&str; 2], since: Duration, until: Duration) -> Vec<Node> {
        let time = |it: Duration| format!("{}.{:09}", it.as_secs(), it.subsec_nanos());
        let (since, until) = (time(since), time(until));
        let mut words = vec!["events", "--since", &since, "--until", &until];
        for filter in filters {
            words.extend(["--filter", filter]);
        }
        words.extend(["--format", "{{json .}}"]);
        let lines = self.list(&words).await;
        let events = lines.iter().filter_map(|line| Value::read(line.as_bytes()).ok());
        events.map(|event| Node::from(&event, Dollars::Single)).collect()
    }

    /// The exit codes with which a container has ended between two times.
    pub(crate) async fn exit_codes(&self, id: &str, since: Duration, until: Duration) -> Vec<i32> {
        let container = format!("container={id}");
        let events = self.events(["event=die", &container], since, until).await;
        let code = |event: &Node| event.scalar_at("Actor/Attributes/exitCode").parse().ok();
        events.iter().filter_map(code).collect()
    }

    /// When each container of a project was started first between two times: its id, and
    /// nanoseconds of the epoch.
    pub(crate) async fn first_starts(
        &self,
        project: &str,
        since: Duration,
        until: Duration,
    ) -> Vec<(String, u64)> {
        let label = format!("label={PROJECT}={project}");
        let mut found: Vec<(String, u64)> = Vec::new();
        for event in self.events(["event=start", &label], since, until).await {
            let (id, nanos) = (event.scalar_at("id"), event.scalar_at("timeNano").parse());
            if let (false, Ok(nanos)) = (found.iter().any(|(known, _)| *known == id), nanos) {
                found.push((id, nanos));
            }
        }
        found
    }

    /// Ids of all images, those without a name included.
    pub(crate) async fn images(&self) -> Vec<String> {
        self.list(&["images", "--all", "--quiet", "--no-trunc"]).await
    }

    /// The container that has published a port.
    pub(crate) async fn publisher(&self, port: u16) -> Option<String> {
        let filter = format!("publish={port}");
        self.list(&["ps", "--filter", &filter, "--format", "{{.Names}}"]).await.into_iter().next()
    }

    /// Removes all that has a project's label: containers, networks and volumes.
    pub(crate) async fn remove_project(&self, project: &str) {
        /// A container that was just being created when its maker was killed comes late.
        const ROUNDS_MAX: usize = 3;
        let label = format!("label={PROJECT}={project}");
        for _ in 0..ROUNDS_MAX {
            let mut none = true;
            for (list, remove) in [
                (&["ps", "--all", "--quiet"][..], &["rm", "--force", "--volumes"][..]),
                (&["network", "ls", "--quiet"], &["network", "rm"]),
                (&["volume", "ls", "--quiet"], &["volume", "rm", "--force"]),
            ] {
                let ids = self.list(&[list, &["--filter", &label]].concat()).await;
                if !ids.is_empty() {
                    none = false;
                    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                    self.run(&[remove, &ids].concat()).await;
                }
            }
            if none {
                break;
            }
        }
    }

    /// Removes the images that a marking built, with their names.
    pub(crate) async fn remove_images(&self, marking: &str) {
        let label = format!("label={LABEL}={marking}");
        let ids = self.list(&["images", "--quiet", "--no-trunc", "--filter", &label]).await;
        if !ids.is_empty() {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            self.run(&[&["rmi", "--force"], &ids[..]].concat()).await;
        }
    }

    /// Removes the images without a name that a build has made, apart from what was here before
    /// it. `built` holds the beginnings of ids of its images, and of its steps' containers: the
    /// image of a step that was running when the build was killed is in no log.
    pub(crate) async fn remove_unnamed(&self, built: &[String], before: &[String]) {
        let deadline = rt::now() + BUILD_END;
        while rt::now() < deadline {
            let mut new = self.images().await;
            new.retain(|id| !before.contains(id));
            let words = ["image", "inspect"].into_iter().chain(new.iter().map(String::as_str));
            let inspected = self.run(&words.collect::<Vec<_>>()).await;
            let images = Value::read(&inspected.stdout).unwrap_or(Value::Null);
            let mut unnamed: Vec<String> = Vec::new();
            // As listed the last ones come first, and are made of the others.
            for image in images.items().iter().rev() {
                let image = Node::from(image, Dollars::Single);
                let [id, parent, step] =
                    ["Id", "Parent", "Container"].map(|key| image.scalar_at(key));
                let is_known = |id: &str| {
                    built.iter().any(|it| id.trim_start_matches("sha256:").starts_with(&**it))
                };
                let is_built = is_known(&id) || is_known(&step) || unnamed.contains(&parent);
                if is_built && image.at("RepoTags").is_none_or(Node::is_empty) {
                    unnamed.push(id);
                }
            }
            if unnamed.is_empty() {
                return;
            }
            let ids = unnamed.iter().rev().map(String::as_str);
            self.run(&["rmi"].into_iter().chain(ids).collect::<Vec<_>>()).await;
        }
    }

    /// The projects and markings that anything here has a label of.
    pub(crate) async fn projects(&self) -> Vec<String> {
        let filter = format!("label={PROJECT}");
        let shown = format!("{{{{.Label \"{PROJECT}\"}}}}");
        let mut found = Vec::new();
        for list in [&["ps", "--all"][..], &["network", "ls"], &["volume", "ls"]] {
            let words = [list, &["--filter", &filter, "--format", &shown]].concat();
            found.extend(self.list(&words).await);
        }
        let filter = format!("label={LABEL}");
        let shown = format!("{{{{index .Config.Labels \"{LABEL}\"}}}}");
        for id in self.list(&["images", "--quiet", "--filter", &filter]).await {
            found.extend(self.query(&["image", "inspect", "--format", &shown, &id]).await);
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

fn words_missing() -> Words {
    words("docker is not installed here", "docker n'est pas installé ici")
}

fn silent(version: &Finished) -> Words {
    if version.end == End::Missing {
        return words_missing();
    }
    let said = said(version);
    words(
        format!("the Docker engine does not respond: {said}"),
        format!("le moteur Docker ne répond pas : {said}"),
    )
}

/// The Python in the first line of the script `docker-compose`.
fn script_python() -> Option<String> {
    let path = env::var_os("PATH")?;
    let script = env::split_paths(&path).map(|folder| folder.join("docker-compose"));
    let line = script.into_iter().find(|path| path.is_file()).and_then(|path| first_line(&path))?;
    // `#!/usr/bin/env python3` names it in its last word, `#!/usr/bin/python3 -I` in its first.
    let mut words = line.strip_prefix("#!")?.split_whitespace();
    let first = words.next()?;
    let python = if first.ends_with("/env") { words.next()? } else { first };
    Some(python.to_owned())
}

fn first_line(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    String::from_utf8(line.to_vec()).ok()
}

/// How a step failed, with its last lines.
pub(crate) fn failed(english: &str, french: &str, finished: &Finished) -> Words {
    let said = said(finished);
    match finished.end {
        End::Late(timeout) => {
            let seconds = timeout.as_secs();
            words(
                format!("{english} is not done after {seconds} s:\n{said}"),
                format!("après {seconds} s, {french} dure encore :\n{said}"),
            )
        }
        _ => words(format!("{english} fails:\n{said}"), format!("{french} échoue :\n{said}")),
    }
}

/// The last lines of a program that failed, and how it ended if it had none.
pub(crate) fn said(finished: &Finished) -> String {
    /// Enough for an error of several lines.
    const LINES_MAX: usize = 6;
    let lines: Vec<&str> =
        finished.log.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LINES_MAX)..];
    match finished.end {
        _ if !last.is_empty() => last.join("\n"),
        End::Exit(Some(code)) => format!("exit code {code}"),
        End::Exit(None) => "killed".to_owned(),
        End::Late(timeout) => format!("nothing within {} s", timeout.as_secs()),
        End::Endless => "output without end".to_owned(),
        End::Missing => "it cannot be started".to_owned(),
    }
}

/// Phrases of engines, builders and registries for faults that are not the deployment's.
const NOT_THEIRS: &[&str] = &[
    "no space left on device",
    "cannot connect to the docker daemon",
    "error during connect",
    "client.timeout exceeded",
    "context deadline exceeded",
    "tls handshake timeout",
    "i/o timeout",
    "dial tcp",
    "no such host",
    "server misbehaving",
    "network is unreachable",
    "temporary failure in name resolution",
    "temporary failure resolving",
    "toomanyrequests",
    "502 bad gateway",
    "503 service unavailable",
    "port is already allocated",
    "address already in use",
    "read timed out",
    "pool overlaps with other one",
    "could not find an available, non-overlapping ipv4 address pool",
];

/// Returns true if the last lines say that the machine, the network or the engine has failed, and
/// not the deployment.
pub(crate) fn is_not_theirs(finished: &Finished) -> bool {
    let said = said(finished).to_ascii_lowercase();
    matches!(finished.end, End::Exit(Some(1..)))
        && NOT_THEIRS.iter().any(|phrase| said.contains(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_the_machine_are_told_from_those_of_a_deployment() {
        let finished = |line: &str| Finished {
            end: End::Exit(Some(1)),
            stdout: Vec::new(),
            log: vec!["Step 1/2".to_owned(), line.to_owned()],
        };
        for (line, is_not_theirs) in [
            ("write /x: no space left on device", true),
            (
                "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host",
                true,
            ),
            ("Bind for 0.0.0.0:8001 failed: port is already allocated", true),
            ("toomanyrequests: You have reached your pull rate limit", true),
            ("COPY failed: file not found in build context", false),
            ("pull access denied for nothing, repository does not exist", false),
            ("The command '/bin/sh -c exit 3' returned a non-zero code: 3", false),
        ] {
            assert_eq!(super::is_not_theirs(&finished(line)), is_not_theirs, "{line}");
        }
    }
}

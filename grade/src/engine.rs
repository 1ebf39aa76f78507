//! The engine and Compose, driven by their command lines as a person would.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use common::runtime;
use tools::json::Value;

use crate::command::{self, End, Outcome};
use crate::deployment::{self, Container};
use crate::words::{Words, words};

/// For what an engine answers at once, when it is busy with other things.
const SOON: Duration = Duration::from_secs(60);
/// For `up`: it may have to pull, and waits for dependencies to be healthy.
const UP: Duration = Duration::from_secs(300);

/// How long a build's last step may use its image after the build was killed.
const BUILD_END: Duration = Duration::from_secs(10);

/// The label that Compose gives to all that it makes.
pub(crate) const PROJECT: &str = "com.docker.compose.project";

/// The two ways to call Compose.
const PLUGIN: &[&str] = &["docker", "compose"];
const ALONE: &[&str] = &["docker-compose"];

/// `docker`, and how Compose is called here.
pub(crate) struct Engine {
    compose: Compose,
}

enum Compose {
    /// `docker compose`, or a `docker-compose` that is the same program.
    Two(&'static [&'static str]),
    /// `docker-compose` 1, which writes YAML, and the Python that can turn it into JSON.
    One { python: String },
}

/// What of a checkout Compose works on.
pub(crate) struct Project<'a> {
    pub(crate) name: &'a str,
    pub(crate) root: &'a Path,
    pub(crate) files: &'a [PathBuf],
}

impl Engine {
    /// What is here; `Err` says what is missing.
    pub(crate) async fn find() -> Result<Engine, Words> {
        let version =
            command::ask(&["docker", "version", "--format", "{{.Server.Version}}"], SOON).await;
        match version.end {
            End::Missing => {
                return Err(words("docker is not installed here", "docker n'est pas installé ici"));
            }
            _ if !version.succeeded() => {
                let said = said(&version);
                return Err(words(
                    format!("the Docker engine does not answer: {said}"),
                    format!("le moteur Docker ne répond pas : {said}"),
                ));
            }
            _ => {}
        }
        for words in [PLUGIN, ALONE] {
            let asked = [words, &["version", "--short"]].concat();
            let version = command::ask(&asked, SOON).await;
            match version.text().trim_start_matches('v') {
                _ if !version.succeeded() => {}
                text if text.starts_with("1.") => {
                    let compose = Compose::One { python: python().await? };
                    return Ok(Engine { compose });
                }
                _ => return Ok(Engine { compose: Compose::Two(words) }),
            }
        }
        Err(words(
            "neither docker compose nor docker-compose is installed here",
            "ni docker compose ni docker-compose n'est installé ici",
        ))
    }

    /// How a person would call Compose here.
    pub(crate) fn compose(&self) -> String {
        match self.compose {
            Compose::Two(words) => words.join(" "),
            Compose::One { .. } => "docker-compose".to_owned(),
        }
    }

    fn compose_words<'a>(&self, project: &'a Project, rest: &[&'a str]) -> Vec<&'a str> {
        let mut words = match self.compose {
            Compose::Two(words) => words.to_vec(),
            Compose::One { .. } => vec!["docker-compose"],
        };
        let root = project.root.to_str().unwrap_or_default();
        words.extend(["--project-name", project.name, "--project-directory", root]);
        for file in project.files {
            words.extend(["--file", file.to_str().unwrap_or_default()]);
        }
        words.extend(rest);
        words
    }

    /// The compose file as Compose understands it, as JSON; `Err` is what it said.
    pub(crate) async fn config(&self, project: &Project<'_>) -> Result<Vec<u8>, String> {
        const TO_JSON: &str = "\
import json, subprocess, sys, yaml
config = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
if config.returncode:
    sys.exit(config.returncode)
json.dump(yaml.safe_load(config.stdout), sys.stdout, default=str)
";
        let asked = match &self.compose {
            Compose::Two(_) => self.compose_words(project, &["config", "--format", "json"]),
            Compose::One { python } => {
                [&[&**python, "-c", TO_JSON][..], &self.compose_words(project, &["config"])]
                    .concat()
            }
        };
        let outcome = command::ask(&asked, SOON).await;
        if !outcome.succeeded() {
            return Err(said(&outcome));
        }
        Value::read(&outcome.answer).map_err(|fault| fault.to_string())?;
        Ok(outcome.answer)
    }

    /// Builds what is to be built; every line of the log is shown to `line`.
    pub(crate) async fn build(
        &self,
        project: &Project<'_>,
        patience: Duration,
        line: &mut dyn FnMut(&str),
    ) -> Outcome {
        let rest: &[&str] = match self.compose {
            Compose::Two(_) => &["build"],
            // A step that fails would leave its container behind.
            Compose::One { .. } => &["build", "--force-rm"],
        };
        command::watch(&self.compose_words(project, rest), patience, line).await
    }

    /// Starts all that the compose file says.
    pub(crate) async fn up(&self, project: &Project<'_>, line: &mut dyn FnMut(&str)) -> Outcome {
        command::watch(&self.compose_words(project, &["up", "--detach"]), UP, line).await
    }

    /// What the engine answers to these words, if it does.
    pub(crate) async fn ask(&self, words: &[&str]) -> Option<String> {
        let outcome = self.run(words).await;
        outcome.succeeded().then(|| outcome.text())
    }

    /// `docker` with these words.
    pub(crate) async fn run(&self, words: &[&str]) -> Outcome {
        command::ask(&[&["docker"], words].concat(), SOON).await
    }

    /// The lines that it answers to these words; none if it does not.
    async fn list(&self, words: &[&str]) -> Vec<String> {
        let answer = self.ask(words).await.unwrap_or_default();
        answer.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// A project's containers, ended ones included.
    pub(crate) async fn containers(&self, project: &str) -> Vec<Container> {
        let label = format!("label={PROJECT}={project}");
        let ids = self.list(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &label]).await;
        if ids.is_empty() {
            return Vec::new();
        }
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let outcome = self.run(&[&["inspect", "--type", "container"], &ids[..]].concat()).await;
        Container::read_all(&outcome.answer).unwrap_or_default()
    }

    /// A container as it is now; `None` if it is no more.
    pub(crate) async fn container(&self, id: &str) -> Option<Container> {
        let outcome = self.run(&["inspect", "--type", "container", id]).await;
        Container::read_all(&outcome.answer)?.into_iter().next()
    }

    /// A label of an image, and the image's size in bytes.
    pub(crate) async fn image(&self, id: &str) -> Option<(Vec<(String, String)>, f64)> {
        let answer = self.ask(&["image", "inspect", id]).await?;
        let images = Value::read(answer.as_bytes()).ok()?;
        let image = images.items().first()?;
        let labels = deployment::members(image, "Config/Labels").into_iter();
        let labels = labels.filter_map(|(name, value)| Some((name, value.text()?.into_owned())));
        Some((labels.collect(), image.get("Size").and_then(Value::number).unwrap_or_default()))
    }

    /// The last lines that a container wrote.
    pub(crate) async fn last_words(&self, id: &str) -> String {
        let outcome = self.run(&["logs", "--tail", "3", id]).await;
        [outcome.text(), outcome.log.join("\n")].join("\n").trim().to_owned()
    }

    /// The exit codes with which a container has ended between two times of the epoch, in order.
    pub(crate) async fn ends(&self, id: &str, since: Duration, until: Duration) -> Vec<i32> {
        let container = format!("container={id}");
        let time = |it: Duration| format!("{}.{:09}", it.as_secs(), it.subsec_nanos());
        let (since, until) = (time(since), time(until));
        let lines = self
            .list(&[
                "events",
                "--since",
                &since,
                "--until",
                &until,
                "--filter",
                "event=die",
                "--filter",
                &container,
                "--format",
                "{{json .}}",
            ])
            .await;
        let code = |line: &String| {
            let event = Value::read(line.as_bytes()).ok()?;
            deployment::text(&event, "Actor/Attributes/exitCode").parse().ok()
        };
        lines.iter().filter_map(code).collect()
    }

    /// Ids of all images, those without a name included.
    pub(crate) async fn images(&self) -> Vec<String> {
        self.list(&["images", "--all", "--quiet", "--no-trunc"]).await
    }

    /// The id of the image that a name means.
    pub(crate) async fn image_id(&self, name: &str) -> Option<String> {
        self.ask(&["image", "inspect", "--format", "{{.Id}}", name]).await
    }

    /// Removes those images that have no name: with one, they are a build's bases.
    pub(crate) async fn remove_unnamed(&self, ids: &[String]) {
        let deadline = runtime::now() + BUILD_END;
        loop {
            let ids = ids.iter().map(String::as_str);
            let shown = ["image", "inspect", "--format", "{{len .RepoTags}} {{.Id}}"];
            let inspected = self.run(&shown.into_iter().chain(ids).collect::<Vec<_>>()).await;
            let text = inspected.text();
            let unnamed: Vec<&str> =
                text.lines().filter_map(|line| line.strip_prefix("0 ")).collect();
            if unnamed.is_empty() || runtime::now() >= deadline {
                return;
            }
            self.run(&[&["rmi"], &unnamed[..]].concat()).await;
        }
    }

    /// Who has published this port, by the engine's account.
    pub(crate) async fn publisher(&self, port: u16) -> Option<String> {
        let filter = format!("publish={port}");
        self.list(&["ps", "--filter", &filter, "--format", "{{.Names}}"]).await.into_iter().next()
    }

    /// Removes all that has a project's label: containers, networks and volumes.
    pub(crate) async fn remove(&self, project: &str) {
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

    /// The projects that anything here has the label of.
    pub(crate) async fn projects(&self) -> Vec<String> {
        let filter = format!("label={PROJECT}");
        let shown = format!("{{{{.Label \"{PROJECT}\"}}}}");
        let mut found = Vec::new();
        for list in [&["ps", "--all"][..], &["network", "ls"], &["volume", "ls"]] {
            found.extend(
                self.list(&[list, &["--filter", &filter, "--format", &shown]].concat()).await,
            );
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// The Python that runs `docker-compose`: it has what reads YAML.
async fn python() -> Result<String, Words> {
    let script = env::var_os("PATH").into_iter().flat_map(|path| {
        env::split_paths(&path).map(|folder| folder.join("docker-compose")).collect::<Vec<_>>()
    });
    let first = script.into_iter().find(|path| path.is_file()).and_then(|path| first_line(&path));
    let named = first.as_deref().and_then(|line| line.strip_prefix("#!"));
    // `#!/usr/bin/env python3` names it in its last word, `#!/usr/bin/python3 -I` in its first.
    let mut named = named.unwrap_or("python3").split_whitespace();
    let python = match named.next() {
        Some(word) if !word.ends_with("/env") => word,
        _ => named.next().unwrap_or("python3"),
    };
    if command::ask(&[python, "-c", "import yaml"], SOON).await.succeeded() {
        return Ok(python.to_owned());
    }
    Err(words(
        format!(
            "docker-compose 1 writes no JSON: {python} needs PyYAML, or install docker compose 2"
        ),
        format!(
            "docker-compose 1 n'écrit pas de JSON : il faut PyYAML à {python}, ou installez docker compose 2"
        ),
    ))
}

fn first_line(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    String::from_utf8(line.to_vec()).ok().filter(|line| line.starts_with("#!"))
}

/// How a step failed, with its last words.
pub(crate) fn failed(english: &str, french: &str, outcome: &Outcome) -> Words {
    let said = said(outcome);
    match outcome.end {
        End::Late(patience) => {
            let seconds = patience.as_secs();
            words(
                format!("{english} is not done after {seconds} s:\n{said}"),
                format!("après {seconds} s, {french} dure encore :\n{said}"),
            )
        }
        _ => words(format!("{english} fails:\n{said}"), format!("{french} échoue :\n{said}")),
    }
}

/// What a program said when it failed: its last words, and how it ended if it had none.
pub(crate) fn said(outcome: &Outcome) -> String {
    /// Enough for an error of several lines.
    const LINES_MAX: usize = 6;
    let lines: Vec<&str> =
        outcome.log.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LINES_MAX)..];
    match outcome.end {
        _ if !last.is_empty() => last.join("\n"),
        End::Exit(Some(code)) => format!("exit code {code}"),
        End::Exit(None) => "killed".to_owned(),
        End::Late(patience) => format!("nothing within {} s", patience.as_secs()),
        End::Endless => "an answer without end".to_owned(),
        End::Missing => "it cannot be started".to_owned(),
    }
}

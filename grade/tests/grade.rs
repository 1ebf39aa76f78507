//! `lab grade` on deployments that each have one thing wrong: the mark, the rules that are lost and
//! the reason; and what it leaves behind, which is nothing. The folder's README says how
//! deployments are laid.
//!
//! `cargo test --test grade -- --ignored`

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStderr, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::sys::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use tools::json::Value;
use tools::sys::SIGKILL;

const GRADE: &str = env!("CARGO_BIN_EXE_grade");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");

/// The end of any wait, so that a fault fails instead of hanging. Engines can be slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a state that is not announced.
const LOOK: Duration = Duration::from_millis(100);

#[test]
#[ignore = "needs a Docker engine"]
fn every_deployment_gets_its_mark_and_its_reason() {
    let _turn = turn();
    let mut mistakes = Vec::new();
    let groups = match std::env::var("ONLY") {
        Ok(only) => only.split(' ').map(str::to_owned).collect(),
        Err(_) => groups(),
    };
    for name in groups {
        let before = left_overs();
        let deployment = Deployment::lay(&name);
        let expected = Expected::read(&name);
        let output = grade(&deployment.0, &expected.arguments);
        let mut found = expected.compare(&output);
        found.extend(left_overs().difference(&before).map(|left| format!("{left} is left")));
        eprintln!(
            "{name}: {}",
            if found.is_empty() { "as expected".to_owned() } else { found.join("; ") }
        );
        mistakes.extend(found.into_iter().map(|mistake| format!("{name}: {mistake}")));
    }
    assert!(mistakes.is_empty(), "{mistakes:#?}");
}

#[test]
#[ignore = "needs a Docker engine"]
fn our_own_repository_gets_20() {
    let _turn = turn();
    let before = left_overs();
    let mut arguments = vec!["--pass".to_owned(), "20".to_owned()];
    if std::env::var_os("RUST_IMAGE").is_some() {
        arguments.extend(["--env".to_owned(), "RUST_IMAGE".to_owned()]);
    }
    let output = grade(Path::new(ROOT), &arguments);
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{report}{}", text(&output.stderr));
    assert!(report.contains("\"mark\": 20, \"out_of\": 20"), "{report}");
    assert_eq!(left_overs(), before);
}

#[test]
#[ignore = "needs a Docker engine"]
fn a_signal_ends_it_and_leaves_nothing_and_two_more_change_nothing() {
    let _turn = turn();
    for (name, step, signal) in [
        ("good", "reading the compose file", SIGINT),
        ("good", "building", SIGHUP),
        ("build-never-ends", "building", SIGINT),
        ("good", "starting both", SIGTERM),
        ("good", "waiting for responses", SIGHUP),
        ("good", "crashing the backend", SIGQUIT),
        ("good", "following the variables", SIGINT),
        ("good", "removing what was made", SIGTERM),
    ] {
        let (before, all) = (left_overs(), everything());
        let deployment = Deployment::lay(name);
        let mut run = Run::start(&deployment);
        run.until(step);
        match (name, step) {
            ("build-never-ends", _) => until("the build", || is_sleeping().then_some(())),
            // The engine ends the step, and keeps its image.
            (_, "building") => until("a step", || (everything() != all).then_some(())),
            _ => {}
        }
        run.send(signal);
        if !matches!(step, "reading the compose file" | "removing what was made") {
            run.until("removing what was made");
        }
        // It may have ended already.
        for signal in [SIGINT, SIGTERM] {
            let _ = tools::sys::send_signal(run.child.id(), signal);
        }
        let code = run.child.wait().expect("its end").code();
        assert!(
            [signal, SIGINT, SIGTERM].map(|it| Some(128 + it)).contains(&code),
            "{name}: {step}: {code:?}"
        );
        assert_eq!(left_overs(), before, "{name}: {step}");
        assert!(!is_sleeping(), "{name}: {step}");
    }
}

#[test]
#[ignore = "needs a Docker engine"]
fn five_markings_at_once_are_right_one_after_the_other() {
    let _turn = turn();
    let before = left_overs();
    let names = ["good", "broken-build", "needs-typing", "privileged", "broken-compose"];
    let deployments: Vec<Deployment> = (0..)
        .zip(names)
        .map(|(number, name)| Deployment::lay_as(name, &format!("{name}-at-once-{number}")))
        .collect();
    let outputs: Vec<Output> = thread::scope(|scope| {
        let threads: Vec<_> =
            deployments.iter().map(|it| scope.spawn(|| grade(&it.0, &[]))).collect();
        threads.into_iter().map(|thread| thread.join().expect("an output")).collect()
    });
    for (name, output) in names.iter().zip(outputs) {
        let mistakes = Expected::read(name).compare(&output);
        assert!(mistakes.is_empty(), "{name}: {mistakes:?}");
    }
    assert_eq!(left_overs(), before);
}

#[test]
#[ignore = "needs a Docker engine"]
fn the_next_marking_removes_what_a_killed_one_left() {
    let _turn = turn();
    let before = left_overs();
    let deployment = Deployment::lay("good");
    let mut run = Run::start(&deployment);
    run.until("crashing the backend");
    run.send(SIGKILL);
    run.child.wait().expect("its end");
    assert_ne!(left_overs(), before);
    let next = Deployment::lay("broken-compose");
    grade(&next.0, &[]);
    assert_eq!(left_overs(), before);
}

#[test]
#[ignore = "needs a Docker engine"]
fn an_image_name_of_another_project_stays_with_its_image() {
    let _turn = turn();
    docker(&["tag", "grade-flask", "student/api-backend:latest"]);
    let named = || docker(&["images", "--quiet", "--no-trunc", "student/api-backend:latest"]);
    let (before, id) = (left_overs(), named());
    let deployment = Deployment::lay("good");
    let output = grade(&deployment.0, &[]);
    assert!(text(&output.stdout).contains("\"mark\": 20"), "{}", text(&output.stdout));
    assert_eq!(named(), id);
    assert_eq!(left_overs(), before);
    docker(&["rmi", "student/api-backend:latest"]);
}

#[test]
#[ignore = "needs a Docker engine"]
fn a_port_in_use_is_told_with_its_user() {
    let _turn = turn();
    let _listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8000)).expect("port 8000");
    let deployment = Deployment::lay("good");
    let output = grade(&deployment.0, &[]);
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{report}");
    let (own, user) = ("port 8000 is in use, by ", format!("(pid {})", process::id()));
    assert!(report.contains(own) && report.contains(&user), "{report}");
}

#[test]
#[ignore = "needs a Docker engine"]
fn a_project_that_runs_is_marked_and_left_running() {
    let _turn = turn();
    let deployment = Deployment::lay("good");
    let file = deployment.0.join("docker-compose.yaml");
    let project = format!("lab-running-{}", process::id());
    let compose = |words: &[&str]| {
        let mut command = Command::new("docker-compose");
        command.args(["--project-name", &project, "--file"]).arg(&file).args(words);
        let output = tools::sys::die_with_parent(&mut command).output().expect("docker-compose");
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    compose(&["up", "--detach", "--build"]);
    let marked = |arguments: &[&str]| {
        let mut command = marker();
        command.args(["--format", "json", "--running", &project]).args(arguments);
        let output = command.output().expect("grade");
        (output.status.code(), text(&output.stdout))
    };
    let (alone, with_path) = (marked(&[]), marked(&[deployment.0.to_str().expect("UTF-8")]));
    let running = compose(&["ps", "--quiet"]);
    compose(&["down", "--rmi", "all"]);
    assert_eq!(alone.0, Some(0), "{}", alone.1);
    assert!(alone.1.contains("\"mark\": 16, \"out_of\": 16"), "{}", alone.1);
    // The first marking has crashed it, so that the order of the first starts is lost.
    assert!(with_path.1.contains("\"mark\": 19.5, \"out_of\": 19.5"), "{}", with_path.1);
    assert_eq!(running.lines().count(), 2);
}

#[test]
#[ignore = "needs a Docker engine"]
fn a_batch_gets_a_table_and_a_report_each() {
    let _turn = turn();
    let deployments = ["good", "privileged", "escapes-in-output"].map(Deployment::lay);
    let folder = Path::new(SCRATCH).join(format!("class-{}", process::id()));
    let table = folder.join("class.csv");
    fs::create_dir_all(&folder).expect("a folder");
    let mut command = marker();
    command.args(deployments.iter().map(|it| &it.0)).arg("--csv").arg(&table);
    let output = command.args(["--format", "junit", "--pass", "10"]).output().expect("grade");
    let (printed, rows) = (text(&output.stdout), fs::read_to_string(&table).expect("a table"));
    let names = ["good", "privileged", "escapes-in-output"];
    let reports = names.map(|name| {
        let file = deployments.iter().find(|it| it.0.to_string_lossy().contains(name));
        let name = file.and_then(|it| it.0.file_name()).expect("a name");
        fs::read_to_string(folder.join(name).with_extension("xml")).expect("a report")
    });
    fs::remove_dir_all(&folder).expect("the folder removed");
    // The refused one has no mark to pass with.
    assert_eq!(output.status.code(), Some(1), "{printed}{}", text(&output.stderr));
    assert!(printed.contains("2 of 3 marked"), "{printed}");
    let rows: Vec<&str> = rows.lines().collect();
    assert_eq!(rows.len(), 4, "{rows:#?}");
    assert!(rows[1].contains(",\"20\",\"20\",\"marked\",\"\",\"\",\"\""), "{rows:#?}");
    assert!(
        rows[2].contains(",\"\",\"\",\"refused\",\"\",\"\",\"api-backend: privileged"),
        "{rows:#?}"
    );
    assert!(rows[3].contains(",\"marked\",\"label.backend answer.frontend\","), "{rows:#?}");
    for report in reports {
        let cases = report.matches("<testcase ").count();
        assert_eq!(report.matches("</testcase>").count(), cases, "{report}");
        assert!(!report.contains('\x1b'), "{report}");
    }
}

#[test]
fn without_an_engine_it_says_what_is_missing() {
    let output = marker().arg(ROOT).env("PATH", "/nowhere").output().expect("grade");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr), "grade: docker is not installed here\n");
    let french =
        marker().args([ROOT, "--lang", "fr"]).env("PATH", "/nowhere").output().expect("grade");
    assert_eq!(text(&french.stderr), "grade: docker n'est pas installé ici\n");
}

/// The names of all deployments, with a blank between those that are laid together.
fn groups() -> Vec<String> {
    let file = fs::read_to_string(Path::new(FIXTURES).join("together")).expect("the file");
    let mut groups: Vec<String> = file.lines().map(str::to_owned).collect();
    let entries = fs::read_dir(FIXTURES).expect("the folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let names = paths.filter(|path| path.join("expected").is_file());
    let names = names.map(|path| path.file_name().expect("a name").to_string_lossy().into_owned());
    let alone: Vec<String> =
        names.filter(|name| !file.split_whitespace().any(|it| it == name)).collect();
    groups.extend(alone);
    groups.sort_unstable();
    groups
}

/// A deployment as a student would have it. Dropping it removes it.
struct Deployment(PathBuf);

impl Deployment {
    fn lay(name: &str) -> Deployment {
        Deployment::lay_as(name, name)
    }

    /// Lays one in a folder of another name. Several names are one deployment with all their faults.
    fn lay_as(names: &str, folder: &str) -> Deployment {
        let folder = folder.replace(' ', "+");
        let to = Path::new(SCRATCH).join(format!("{folder}-{}", process::id()));
        let good = Path::new(FIXTURES).join("good");
        let deployment = Deployment(to);
        let to = &deployment.0;
        let mut copy = Command::new("cp");
        run(copy.args(["--recursive", "--no-target-directory"]).args([&good, to]));
        fs::remove_file(to.join("expected")).expect("what is about the test");
        for name in names.split(' ') {
            let [change, script] =
                ["change.patch", "change"].map(|it| Path::new(FIXTURES).join(name).join(it));
            if change.is_file() {
                let mut patch = Command::new("patch");
                patch.args(["--strip=1", "--quiet", "--force", "--no-backup-if-mismatch"]);
                run(patch.arg("--directory").arg(to).arg("--input").arg(change));
            }
            if script.is_file() {
                run(Command::new(script).current_dir(to));
            }
        }
        deployment
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The outcome that the marker must find.
#[derive(Default)]
struct Expected {
    mark: Option<f64>,
    lost: BTreeSet<String>,
    seen: Vec<String>,
    refused: Option<String>,
    failed: Option<String>,
    /// Arguments of the marker with the path.
    arguments: Vec<String>,
}

impl Expected {
    /// Faults that do not touch each other are paid one by one.
    fn read(names: &str) -> Expected {
        let mut expected = Expected::default();
        for name in names.split(' ') {
            expected.add(name);
        }
        expected
    }

    fn add(&mut self, name: &str) {
        let lines = fs::read_to_string(Path::new(FIXTURES).join(name).join("expected"));
        for line in lines.expect("what is expected").lines() {
            let (word, rest) = line.split_once(' ').expect("a word and more");
            match word {
                "mark" => {
                    let mark: f64 = rest.parse().expect("a mark");
                    self.mark = Some(self.mark.unwrap_or(20.0) - (20.0 - mark));
                }
                "lost" => drop(self.lost.insert(rest.to_owned())),
                "seen" => self.seen.push(rest.to_owned()),
                "refused" => self.refused = Some(rest.to_owned()),
                "failed" => self.failed = Some(rest.to_owned()),
                "arguments" => self.arguments.extend(rest.split(' ').map(str::to_owned)),
                _ => panic!("{name}: {line}"),
            }
        }
        let outcomes = [self.mark.is_some(), self.refused.is_some(), self.failed.is_some()];
        assert_eq!(outcomes.into_iter().filter(|it| *it).count(), 1, "{name}");
    }

    /// The differences from what is expected.
    fn compare(&self, output: &Output) -> Vec<String> {
        let Ok(report) = Value::read(&output.stdout) else {
            return vec![format!("no report: {}{}", text(&output.stdout), text(&output.stderr))];
        };
        let mut mistakes = Vec::new();
        let mut differs = |what: &str, got: String| mistakes.push(format!("{what}: {got}"));
        let texts = |key: &str, items: &[Value]| -> Vec<String> {
            items.iter().filter_map(|item| Some(item.get(key)?.text()?.into_owned())).collect()
        };
        let outcome = report.get("outcome").and_then(Value::text).unwrap_or_default();
        for (wanted, part) in [("refused", &self.refused), ("failed", &self.failed)] {
            let Some(part) = part else { continue };
            if outcome != wanted {
                differs("outcome", outcome.clone().into_owned());
            }
            let reasons = report.get("reasons").map(Value::items).unwrap_or_default();
            let reasons: Vec<_> = reasons.iter().filter_map(Value::text).collect();
            if !reasons.iter().any(|reason| reason.contains(part)) {
                differs("refused", format!("{reasons:?}"));
            }
            if output.status.code() != Some(2) {
                differs("exit code", format!("{:?}", output.status));
            }
            return mistakes;
        }
        let mark = report.get("mark").and_then(Value::number);
        if mark != self.mark {
            differs("mark", format!("{mark:?}"));
        }
        let rules = report.get("rules").map(Value::items).unwrap_or_default();
        let is_lost = |rule: &&Value| {
            rule.get("verdict").and_then(Value::text).is_some_and(|it| it == "lost")
        };
        let lost: Vec<Value> = rules.iter().filter(is_lost).cloned().collect();
        let ids: BTreeSet<String> = texts("id", &lost).into_iter().collect();
        if ids != self.lost {
            differs("lost", format!("{ids:?}: {:?}", texts("seen", &lost)));
        }
        let seen = texts("seen", &lost);
        for part in &self.seen {
            if !seen.iter().any(|seen| seen.contains(part)) {
                differs("seen", format!("{seen:?}"));
            }
        }
        mistakes
    }
}

fn marker() -> Command {
    let mut command = Command::new(GRADE);
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    tools::sys::die_with_parent(&mut command);
    command
}

/// Marks a deployment to its end.
fn grade(path: &Path, arguments: &[String]) -> Output {
    marker().arg(path).args(["--format", "json"]).args(arguments).output().expect("grade")
}

/// A marking that runs. Dropping it ends it.
struct Run {
    child: Child,
    progress: BufReader<ChildStderr>,
}

impl Run {
    fn start(deployment: &Deployment) -> Run {
        let mut command = marker();
        command.arg(&deployment.0).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("grade");
        let progress = BufReader::new(child.stderr.take().expect("a pipe"));
        Run { child, progress }
    }

    /// Reads its progress up to this step.
    fn until(&mut self, step: &str) {
        let mut line = String::new();
        while !line.contains(step) {
            line.clear();
            assert_ne!(
                self.progress.read_line(&mut line).expect("a line"),
                0,
                "it never came to {step}"
            );
        }
    }

    fn send(&self, signal: i32) {
        tools::sys::send_signal(self.child.id(), signal).expect("it runs");
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("a program");
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// Everything on the engine that a marking could have made.
fn left_overs() -> BTreeSet<String> {
    let label = "label=com.docker.compose.project";
    let format = "{{.ID}} {{.Label \"com.docker.compose.project\"}}";
    let mut found = BTreeSet::new();
    for list in [&["ps", "--all"][..], &["network", "ls"]] {
        let lines = docker(&[list, &["--filter", label, "--format", format]].concat());
        found.extend(lines.lines().filter(|line| line.contains(" grade-")).map(str::to_owned));
    }
    let format = "{{.Repository}}:{{.Tag}} {{.ID}}";
    for service in ["api-backend", "api-frontend"] {
        // Every image of these deployments has the label, and so have most of the layers below.
        let label = format!("label=hub_url=https://hub.docker.com/r/student/{service}");
        let lines = docker(&["images", "--all", "--filter", &label, "--format", format]);
        found.extend(lines.lines().map(str::to_owned));
    }
    found
}

/// Every container and image on the engine, those of a build's steps included.
fn everything() -> String {
    docker(&["ps", "--all", "--quiet"]) + &docker(&["images", "--all", "--quiet"])
}

/// Returns true if a build is within the step that never ends.
fn is_sleeping() -> bool {
    // `docker ps` does not list what BuildKit runs.
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .map(|it| fs::read(it.path().join("cmdline")).unwrap_or_default())
        .any(|command| command.ends_with(b"sleep\0infinity\0"))
}

fn docker(words: &[&str]) -> String {
    let output = Command::new("docker").args(words).output().expect("docker");
    assert!(output.status.success(), "docker {words:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} does not come");
        thread::sleep(LOOK);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The engine, the ports, and the image that the deployments are built from: for one test at a time,
/// of all processes that run tests of this checkout.
fn turn() -> File {
    let turn = File::create(Path::new(SCRATCH).join("turn")).expect("a file");
    turn.lock().expect("a lock");
    let made = Command::new(Path::new(FIXTURES).join("bases")).status().expect("a script");
    assert!(made.success(), "{FIXTURES}/bases failed");
    turn
}

//! `lab grade`: marks a deployment of the two services out of 20, as the exercise demands it.
//! Here are the arguments, and the frame around each marking; `course` is the marking itself.

mod rubric;

mod course;
mod inspection;

mod report;

mod deployment;
mod dockerfile;
mod safety;

mod engine;
mod probe;

mod command;
mod host;
mod progress;

use std::env;
use std::fs::{self, File};
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{self, ExitCode};
use std::time::Duration;

use common::cli::Kind;
use common::runtime::{self, Either, Ending, Signals};
use common::sys::{self, SIGCHLD, SIGINT, SIGTERM};

use crate::arguments::Arguments;
use crate::{Failure, interrupted};
use course::{Marker, Outcome, Site};
use engine::Engine;
use progress::Progress;
use report::{Format, Paint, Report};
use rubric::{Lang, words};

pub(crate) const USAGE: &str = "\
usage: lab grade PATH [--format text|json|junit|markdown] [--output FILE]
       lab grade --running PROJECT [PATH]
       lab grade PATH PATH ... --csv FILE [--reports FOLDER]
       Marks a deployment of api-backend and api-frontend out of 20: builds and starts the
       checkout PATH with Compose, looks, crashes both, removes all again. --running marks what is
       up already, and neither builds nor stops it. Several make a table, and a report each.
       --lang en|fr          the report's language; by default that of LC_ALL or LANG
       --pass N              a mark below N is exit code 1
       --hub                 asks Docker Hub whether the images can be pulled
       --build-timeout N     seconds that a build may take; 600
       --keep-log FILE       keeps the whole log of the build
       --allow WORD          lets through what is otherwise refused: privileges, devices,
                             namespaces, mounts, paths, remote, build, external, engine, unknown
       Needs a Docker engine, and ports 8000 and 8001. Exit code 2: refused, or not markable.
";

/// How long a build may take: one that compiles takes minutes.
const BUILD_SECONDS: u64 = 600;
/// The verb.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode, Failure> {
    let options = Options::read(arguments)?;
    Ok(grade(&options)?.into())
}

#[derive(Debug, PartialEq)]
struct Options {
    paths: Vec<PathBuf>,
    running: Option<String>,
    csv: Option<PathBuf>,
    reports: Option<PathBuf>,
    output: Option<PathBuf>,
    keep_log: Option<PathBuf>,
    format: Format,
    lang: Lang,
    /// In quarters of a point.
    pass: Option<u32>,
    allowed: Vec<String>,
    hub: bool,
    build_patience: Duration,
}

impl Options {
    fn read(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            paths: Vec::new(),
            running: None,
            csv: None,
            reports: None,
            output: None,
            keep_log: None,
            format: Format::Text,
            lang: spoken(|name| env::var(name).ok()),
            pass: None,
            allowed: Vec::new(),
            hub: false,
            build_patience: Duration::from_secs(BUILD_SECONDS),
        };
        let mut arguments = Arguments::new(arguments);
        while let Some(word) = arguments.next()? {
            match word {
                "--hub" => options.hub = true,
                "--running" => options.running = Some(arguments.value("a project's name")?.into()),
                "--csv" => options.csv = Some(arguments.value("a file")?.into()),
                "--reports" => options.reports = Some(arguments.value("a folder")?.into()),
                "--output" => options.output = Some(arguments.value("a file")?.into()),
                "--keep-log" => options.keep_log = Some(arguments.value("a file")?.into()),
                "--format" => {
                    let name: String = arguments.parsed(Kind::Word(Format::NAMES))?;
                    let index = Format::NAMES.iter().position(|known| *known == name);
                    options.format = Format::ALL[index.expect("one of the words")];
                }
                "--lang" => {
                    let name: String = arguments.parsed(Kind::Word(&["en", "fr"]))?;
                    options.lang = if name == "fr" { Lang::French } else { Lang::English };
                }
                "--pass" => {
                    let takes = "a mark, 0 to 20";
                    let value = arguments.value(takes)?;
                    let mark = value.parse().ok().filter(|mark: &f64| (0.0..=20.0).contains(mark));
                    let mark =
                        mark.ok_or_else(|| format!("--pass holds {value:?}; it takes {takes}"))?;
                    // Marks are whole quarters: what is above one is the next one.
                    #[allow(clippy::cast_sign_loss)]
                    let quarters = (mark * 4.0).ceil() as u32;
                    options.pass = Some(quarters);
                }
                "--build-timeout" => {
                    options.build_patience = Duration::from_secs(arguments.number(1, 86_400)?);
                }
                "--allow" => options.allowed.push(arguments.parsed(Kind::Word(safety::WORDS))?),
                _ if word.starts_with('-') => return Err(arguments.unknown("grade")),
                path => options.paths.push(path.into()),
            }
        }
        options.checked()
    }

    fn checked(self) -> Result<Options, String> {
        match (&self.running, &self.csv, &self.paths[..]) {
            (None, _, []) => Err("grade needs a PATH, or --running PROJECT".to_owned()),
            (Some(_), Some(_), _) => Err("--running marks one project: no --csv".to_owned()),
            (Some(_), None, [_, _, ..]) => Err("--running takes one PATH at most".to_owned()),
            (None, None, [_, _, ..]) => Err("several PATHs need --csv FILE".to_owned()),
            (_, Some(_), _) if self.output.is_some() => {
                Err("--csv takes the place of --output".to_owned())
            }
            (_, None, _) if self.reports.is_some() => Err("--reports needs --csv FILE".to_owned()),
            _ => Ok(self),
        }
    }
}

/// The language of the messages, as POSIX has it.
fn spoken(variable: impl Fn(&str) -> Option<String>) -> Lang {
    let mut set = ["LC_ALL", "LC_MESSAGES", "LANG"].iter().filter_map(|name| variable(name));
    match set.find(|value| !value.is_empty()) {
        Some(value) if value.starts_with("fr") => Lang::French,
        _ => Lang::English,
    }
}

/// Marks what is to be marked; the exit code.
fn grade(options: &Options) -> io::Result<u8> {
    let signals = sys::signals(&[SIGTERM, SIGINT, SIGCHLD])?;
    let ending = Ending::default();
    runtime::run(&ending, async {
        let signals = Signals::new(signals);
        let engine = match conduct(&signals, Engine::find()).await? {
            Ok(Ok(engine)) => engine,
            Ok(Err(words)) => {
                eprintln!("lab: {}", words.text(options.lang));
                return Ok(2);
            }
            Err(signal) => return Ok(interrupted(signal)),
        };
        let marker = Marker {
            engine: &engine,
            progress: Progress::new(options.lang),
            allowed: options.allowed.clone(),
            hub: options.hub,
            build_patience: options.build_patience,
            kept_log: options.keep_log.as_ref().map(|file| create(file)).transpose()?,
        };
        Class { options, marker, signals }.run().await
    })?
}

/// What is to be marked: a checkout, or a project that runs, with its checkout if that is known.
enum Target<'a> {
    Checkout(&'a PathBuf),
    Running(&'a str, Option<&'a PathBuf>),
}

/// All that is to be marked in one go.
struct Class<'a> {
    options: &'a Options,
    marker: Marker<'a>,
    signals: Signals,
}

impl Class<'_> {
    async fn run(&self) -> io::Result<u8> {
        if let Err(signal) = conduct(&self.signals, self.clear_leftovers()).await? {
            return Ok(interrupted(signal));
        }
        let options = self.options;
        let targets = match &options.running {
            Some(project) => vec![Target::Running(project, options.paths.first())],
            None => options.paths.iter().map(Target::Checkout).collect(),
        };
        let mut reports = Vec::new();
        for (number, target) in targets.iter().enumerate() {
            match self.mark(number, target).await? {
                Ok(report) => reports.push(report),
                Err(signal) => return Ok(interrupted(signal)),
            }
            // After each: the next one may be the one that is interrupted.
            self.write(&reports)?;
        }
        if options.csv.is_some() {
            print(&report::summary(&reports, options.lang))?;
        }
        Ok(self.exit_code(&reports))
    }

    /// Marks one deployment, and removes what that made; `Err` is the signal that ended it.
    async fn mark(&self, number: usize, target: &Target<'_>) -> io::Result<Result<Report, i32>> {
        let (lang, Marker { engine, progress, .. }) = (self.options.lang, &self.marker);
        let site = Site::new(format!("{}{}-{number}", prefix(), process::id()));
        let marking = async {
            match target {
                Target::Checkout(path) => self.marker.checkout(path, &site).await,
                Target::Running(project, path) => self.marker.running(project, *path, &site).await,
            }
        };
        let marked = conduct(&self.signals, marking).await?;
        progress.step(&words("removing all again", "suppression de tout"));
        let cleared = conduct(&self.signals, site.clear(engine)).await?;
        progress.clear();
        let deployment = match target {
            Target::Checkout(path) => path.display().to_string(),
            Target::Running(project, _) => (*project).to_owned(),
        };
        Ok(marked.and_then(|outcome| cleared.map(|()| Report { deployment, outcome, lang })))
    }

    /// Removes what markings left here that were killed.
    async fn clear_leftovers(&self) {
        let prefix = prefix();
        for project in self.marker.engine.projects().await {
            let Some(pid) = maker(&project, &prefix) else { continue };
            if !Path::new(&format!("/proc/{pid}")).exists() {
                Site::new(project).clear(self.marker.engine).await;
            }
        }
    }

    /// Writes what came last, and the table of all so far.
    fn write(&self, reports: &[Report]) -> io::Result<()> {
        let Options { format, lang, csv, output, .. } = self.options;
        let Some(last) = reports.last() else { return Ok(()) };
        let Some(csv) = csv else {
            return match output {
                Some(file) => save(file, &last.write(*format, Paint::Nothing)),
                None => print(&last.write(*format, paint())),
            };
        };
        let rows = reports.iter().map(report::row);
        let table: String = std::iter::once(report::head(*lang)).chain(rows).collect();
        save(csv, &table)?;
        let folder = match &self.options.reports {
            Some(folder) => folder,
            None => csv.parent().unwrap_or(Path::new("")),
        };
        save(
            &folder.join(report_name(reports, format.ending())),
            &last.write(*format, Paint::Nothing),
        )?;
        let score = last.score().unwrap_or_else(|| "-".to_owned());
        print(&format!("{score:<10} {}\n", report::printable(&last.deployment)))
    }

    fn exit_code(&self, reports: &[Report]) -> u8 {
        let is_class = self.options.csv.is_some();
        if reports.iter().any(|it| match it.outcome {
            Outcome::Marked(_) => false,
            // In a class, that one was refused is its own affair.
            Outcome::Refused(_) => !is_class,
            Outcome::Failed(_) => true,
        }) {
            return 2;
        }
        let pass = self.options.pass.unwrap_or(0);
        // Without a mark, one has none to pass with.
        let fails = |it: &Report| it.mark().map_or(0, |(quarters, _)| quarters) < pass;
        u8::from(reports.iter().any(fails))
    }
}

/// Drives a future to its end, or until a signal says that all shall end.
async fn conduct<T>(
    signals: &Signals,
    course: impl Future<Output = T>,
) -> io::Result<Result<T, i32>> {
    let mut course = pin!(course);
    loop {
        match runtime::either(signals.next(), course.as_mut()).await {
            // Whoever waits for a child is polled anew, now that one has ended.
            Either::First(Ok(SIGCHLD)) => {}
            Either::First(Ok(signal)) => return Ok(Err(signal)),
            Either::First(Err(error)) => return Err(error),
            Either::Second(output) => return Ok(Ok(output)),
        }
    }
}

/// How projects of ours begin; a pid and a number follow. What is in it of the namespace of pids
/// tells those of markers that we can see from those that may well live elsewhere.
fn prefix() -> String {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let digits: String = link.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    format!("grade-{digits}-")
}

/// The pid of the marker that made a project, if one did that we can see.
fn maker(project: &str, prefix: &str) -> Option<u32> {
    let (pid, number) = project.strip_prefix(prefix)?.split_once('-')?;
    number.parse::<usize>().ok()?;
    pid.parse().ok()
}

/// How the last report's file is called: as the folder that was marked, with a number where others
/// before are called the same.
fn report_name(reports: &[Report], ending: &str) -> String {
    let stem = |it: &Report| {
        let name = Path::new(&it.deployment)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.is_empty() { "report".to_owned() } else { name }
    };
    let Some((last, before)) = reports.split_last() else { return format!("report.{ending}") };
    let name = stem(last);
    match before.iter().filter(|it| stem(it) == name).count() {
        0 => format!("{name}.{ending}"),
        same => format!("{name}-{}.{ending}", same + 1),
    }
}

fn paint() -> Paint {
    let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stdout().is_terminal() && !plain { Paint::Colours } else { Paint::Nothing }
}

fn print(text: &str) -> io::Result<()> {
    io::stdout().write_all(text.as_bytes())
}

fn create(file: &Path) -> io::Result<File> {
    File::create(file).map_err(|error| about(file, &error))
}

fn save(file: &Path, text: &str) -> io::Result<()> {
    fs::write(file, text).map_err(|error| about(file, &error))
}

/// An error that names the file.
fn about(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        Options::read(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_are_taken_in_any_order_and_form() {
        let options =
            read("a --format=junit --lang fr --pass 12.6 --allow mounts --hub --build-timeout=5")
                .expect("good arguments");
        assert_eq!(options.paths, [PathBuf::from("a")]);
        assert_eq!((options.format, options.lang), (Format::Junit, Lang::French));
        assert_eq!((options.pass, options.hub), (Some(51), true));
        assert_eq!(options.build_patience, Duration::from_secs(5));
        assert_eq!(options.allowed, ["mounts"]);
        assert_eq!(read("a b --csv c").expect("a class").paths.len(), 2);
        assert_eq!(read("--running p a").expect("one that runs").running.as_deref(), Some("p"));
    }

    #[test]
    fn a_wrong_argument_is_named() {
        for (line, said) in [
            ("", "grade needs a PATH, or --running PROJECT"),
            ("a b", "several PATHs need --csv FILE"),
            ("a --output b --csv c", "--csv takes the place of --output"),
            ("a --reports b", "--reports needs --csv FILE"),
            ("--running p --csv c", "--running marks one project: no --csv"),
            ("a --lang de", "--lang holds \"de\"; it takes en or fr"),
            ("a --pass 21", "--pass holds \"21\"; it takes a mark, 0 to 20"),
            ("a --pass", "--pass needs a value: a mark, 0 to 20"),
            (
                "a --build-timeout 0",
                "--build-timeout holds \"0\"; it takes a whole number, 1 to 86400",
            ),
            (
                "a --format xml",
                "--format holds \"xml\"; it takes text or json or junit or markdown",
            ),
            ("a --frob", "\"--frob\" is not known here; see lab grade --help"),
        ] {
            assert_eq!(read(line).expect_err(line), said);
        }
        assert!(
            read("a --allow all").expect_err("no such word").starts_with("--allow holds \"all\"")
        );
    }

    #[test]
    fn the_usage_names_every_word_of_allow() {
        for word in safety::WORDS {
            assert!(USAGE.contains(word), "{word}");
        }
    }

    #[test]
    fn the_language_is_the_first_that_is_set() {
        for (set, lang) in [
            (&[("LANG", "fr_FR.UTF-8")][..], Lang::French),
            (&[("LC_ALL", "C"), ("LANG", "fr_FR.UTF-8")], Lang::English),
            (&[("LC_ALL", ""), ("LC_MESSAGES", "fr_CH")], Lang::French),
            (&[], Lang::English),
        ] {
            let variable = |name: &str| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(spoken(variable), lang, "{set:?}");
        }
    }

    #[test]
    fn projects_of_ours_are_known_by_their_name() {
        for (project, pid) in [
            ("grade-7-12-0", Some(12)),
            ("grade-8-12-0", None),
            ("grade-flask", None),
            ("grade-7-12", None),
            ("grade-7-12-x", None),
            ("other-7-12-0", None),
        ] {
            assert_eq!(maker(project, "grade-7-"), pid, "{project}");
        }
    }
}

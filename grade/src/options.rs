//! The command line: `--help` and the options.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use common::cli::Kind;
use tools::arguments::Arguments;

use crate::environment::{Variables, is_name, is_plain};
use crate::policy;
use crate::report::Format;
use crate::words::Lang;

/// The verb's part of `--help`.
pub const USAGE: &str = "\
usage: cargo lab grade PATH [--format text|json|junit|markdown] [--output FILE]
       cargo lab grade --running PROJECT [PATH]
       cargo lab grade PATH PATH ... --csv FILE [--reports FOLDER]
       Marks a deployment of api-backend and api-frontend out of 20: builds and starts the
       checkout PATH with Compose, looks, crashes both, and removes what it made. --running marks
       what is up already, and neither builds nor stops it. Several make a table, and a report
       each. A PATH that begins with a dash goes behind --.
       --lang en|fr          the report's language; by default that of LC_ALL or LANG
       --pass N              a mark below N is exit code 1
       --env NAME[=VALUE]    passes a variable to the compose file; none of the caller's is
                             passed otherwise
       --hub                 asks Docker Hub whether the images can be pulled
       --build-timeout N     seconds that a build may take; 600
       --build-network none  builds without a network
       --keep-log FILE       keeps the whole log of the build
       --allow WORD          lets through what is otherwise refused: privileges, devices,
                             namespaces, mounts, paths, remote, build, external, engine,
                             resources, unknown
       Needs a Docker engine, Compose, a Python with PyYAML, and ports 8000 and 8001. One marking
       runs on a machine at a time; others wait. Exit code 2: refused, or not marked.
";

/// How long a build may take: one that compiles takes minutes.
const BUILD_SECONDS: u64 = 600;

#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) running: Option<String>,
    pub(crate) csv: Option<PathBuf>,
    pub(crate) reports: Option<PathBuf>,
    pub(crate) output: Option<PathBuf>,
    pub(crate) keep_log: Option<PathBuf>,
    pub(crate) format: Format,
    pub(crate) lang: Lang,
    /// In quarters of a point.
    pub(crate) pass: Option<u32>,
    pub(crate) allowed: Vec<String>,
    pub(crate) hub: bool,
    pub(crate) is_offline: bool,
    pub(crate) variables: Variables,
    pub(crate) build_timeout: Duration,
}

impl Options {
    pub(crate) fn read(arguments: &[String]) -> Result<Options, String> {
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
            is_offline: false,
            variables: Variables::default(),
            build_timeout: Duration::from_secs(BUILD_SECONDS),
        };
        let mut arguments = Arguments::new(arguments);
        while let Some(word) = arguments.next_word()? {
            match word {
                "--hub" => options.hub = true,
                "--env" => {
                    let takes = "NAME, or NAME=VALUE without quotes, backslashes and dollars";
                    let (name, value) = variable(arguments.value(takes)?)?;
                    options.variables.push(&name, &value);
                }
                "--build-network" => {
                    let _: String = arguments.parsed(Kind::Word(&["none"]))?;
                    options.is_offline = true;
                }
                "--" => options.paths.extend(arguments.rest().map(PathBuf::from)),
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
                    options.build_timeout = Duration::from_secs(arguments.number(1, 86_400)?);
                }
                "--allow" => options.allowed.push(arguments.parsed(Kind::Word(policy::WORDS))?),
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

/// A variable and its value: as it is given, or that of the caller.
fn variable(word: &str) -> Result<(String, String), String> {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word, env::var(word).ok()),
    };
    match value {
        _ if !is_name(name) => Err(format!("--env holds {word:?}; it takes NAME or NAME=VALUE")),
        None => Err(format!("--env holds {word:?}, and there is no such variable")),
        Some(value) if !is_plain(&value) => {
            Err(format!("--env {name}: its value holds a quote, a backslash, a dollar or a line"))
        }
        Some(value) => Ok((name.to_owned(), value)),
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
        assert_eq!(options.build_timeout, Duration::from_secs(5));
        assert_eq!(options.allowed, ["mounts"]);
        let options =
            read("--env A=1 --env B=c=d --build-network none --csv c -- --x -y").expect("paths");
        assert_eq!(options.paths, ["--x", "-y"].map(PathBuf::from));
        assert_eq!((options.variables.get("A"), options.variables.get("B")), ("1", "c=d"));
        assert!(options.is_offline);
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
            ("a --env 1=2", "--env holds \"1=2\"; it takes NAME or NAME=VALUE"),
            ("a --env NO_SUCH_ONE", "--env holds \"NO_SUCH_ONE\", and there is no such variable"),
            ("a --build-network host", "--build-network holds \"host\"; it takes none"),
            ("a --frob", "unknown argument \"--frob\"; see cargo lab grade --help"),
        ] {
            assert_eq!(read(line).expect_err(line), said);
        }
        assert!(
            read("a --allow all").expect_err("no such word").starts_with("--allow holds \"all\"")
        );
    }

    #[test]
    fn the_usage_names_every_word_of_allow() {
        for word in policy::WORDS {
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
}

//! A batch: what is marked in one go, with a report each and a table of all.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;

use common::runtime::Signals;
use tools::colour::Colours;
use tools::signals::until_signal;
use tools::verb::interrupted;

use crate::marker::{Cleanup, Marker};
use crate::options::Options;
use crate::outcome::Outcome;
use crate::report::{self, Report};
use crate::words::{printable, words};

/// What is to be marked: a checkout, or a project that runs, with its checkout if that is known.
enum Target<'a> {
    Checkout(&'a PathBuf),
    Running(&'a str, Option<&'a PathBuf>),
}

/// All that is to be marked in one go.
pub(crate) struct Batch<'a> {
    pub(crate) options: &'a Options,
    pub(crate) marker: Marker<'a>,
    pub(crate) signals: Signals,
}

impl Batch<'_> {
    pub(crate) async fn run(&self) -> io::Result<u8> {
        if let Err(signal) = until_signal(&self.signals, self.clear_leftovers()).await? {
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
        let cleanup = Cleanup::new(format!("{}{}-{number}", prefix(), process::id()));
        let marking = async {
            match target {
                Target::Checkout(path) => self.marker.checkout(path, &cleanup).await,
                Target::Running(project, path) => {
                    self.marker.running(project, *path, &cleanup).await
                }
            }
        };
        let marked = until_signal(&self.signals, marking).await?;
        progress.step(&words("removing all again", "suppression de tout"));
        let cleared = until_signal(&self.signals, cleanup.run(engine)).await?;
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
                Cleanup::new(project).run(self.marker.engine).await;
            }
        }
    }

    /// Writes what came last, and the table of all so far.
    fn write(&self, reports: &[Report]) -> io::Result<()> {
        let Options { format, lang, csv, output, .. } = self.options;
        let Some(last) = reports.last() else { return Ok(()) };
        let Some(csv) = csv else {
            return match output {
                Some(file) => save(file, &last.write(*format, Colours::Off)),
                None => print(&last.write(*format, Colours::of(&io::stdout()))),
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
            &last.write(*format, Colours::Off),
        )?;
        let score = last.score().unwrap_or_else(|| "-".to_owned());
        print(&format!("{score:<10} {}\n", printable(&last.deployment)))
    }

    fn exit_code(&self, reports: &[Report]) -> u8 {
        let is_batch = self.options.csv.is_some();
        if reports.iter().any(|it| match it.outcome {
            Outcome::Marked(_) => false,
            // In a batch, that one was refused is its own affair.
            Outcome::Refused(_) => !is_batch,
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

fn print(text: &str) -> io::Result<()> {
    io::stdout().write_all(text.as_bytes())
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

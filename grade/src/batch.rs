//! A batch: deployments that are marked in one go, with a report each and a table of all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::rt::{self, Signals};
use tools::colour::Colours;
use tools::signals::{despite_signals, until_signal};
use tools::verb::interrupted;

use crate::host::Lock;
use crate::marker::{self, Cleanup, Marker};
use crate::options::Options;
use crate::outcome::Outcome;
use crate::report::{self, Report};
use crate::words::{printable, words};

/// Between two tries to take the lock.
const LOOK: Duration = Duration::from_millis(200);

/// A deployment to mark: a checkout, or a project that runs, with its checkout if that is known.
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
        // Before the first build, which takes minutes.
        for file in [&self.options.output, &self.options.csv].into_iter().flatten() {
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(file)
                .map_err(|it| about(file, &it))?;
        }
        if let Some(folder) = &self.options.reports {
            fs::read_dir(folder).map_err(|error| about(folder, &error))?;
        }
        // Held to the end: two markings at once would be in each other's way on the ports.
        let _lock = match until_signal(&self.signals, self.lock()).await? {
            Ok(lock) => lock?,
            Err(signal) => return Ok(interrupted(signal)),
        };
        let cleared = marker::remove_leftovers(self.marker.engine);
        if let Err(signal) = until_signal(&self.signals, cleared).await? {
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

    /// Waits for other markers of this machine.
    async fn lock(&self) -> io::Result<Lock> {
        let mut is_told = false;
        loop {
            if let Some(lock) = Lock::acquire()? {
                return Ok(lock);
            }
            if !is_told {
                is_told = true;
                self.marker.progress.step(&words(
                    "waiting for another marking on this machine",
                    "attente d'une autre notation sur cette machine",
                ));
            }
            rt::sleep_until(rt::now() + LOOK).await;
        }
    }

    /// Marks one deployment, and removes what that made; `Err` is the signal that ended it.
    async fn mark(&self, number: usize, target: &Target<'_>) -> io::Result<Result<Report, i32>> {
        let (lang, Marker { engine, progress, .. }) = (self.options.lang, &self.marker);
        let cleanup = Cleanup::begin(marker::name(number))?;
        let marking = async {
            match target {
                Target::Checkout(path) => self.marker.checkout(path, &cleanup).await,
                Target::Running(project, path) => {
                    self.marker.running(project, *path, &cleanup).await
                }
            }
        };
        let marked = until_signal(&self.signals, marking).await;
        let removing = words("removing what was made", "suppression de ce qui a été créé");
        if cleanup.has_made.get() {
            progress.step(&removing);
        }
        // In any case to its end: a second signal must leave nothing either.
        let ((), signal) =
            despite_signals(&self.signals, cleanup.run(engine), |_| progress.step(&removing))
                .await?;
        progress.clear();
        let deployment = match target {
            Target::Checkout(path) => path.display().to_string(),
            Target::Running(project, _) => (*project).to_owned(),
        };
        let marked = match signal {
            Some(signal) => marked?.and(Err(signal)),
            None => marked?,
        };
        Ok(marked.map(|outcome| Report { deployment, outcome, lang }))
    }

    /// Writes the last report, and the table of all so far.
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
        let score = last.score().unwrap_or_else(|| last.kind().to_owned());
        print(&format!("{score:<10} {}\n", printable(&last.deployment)))
    }

    fn exit_code(&self, reports: &[Report]) -> u8 {
        let is_batch = self.options.csv.is_some();
        if reports.iter().any(|it| match it.outcome {
            Outcome::Marked(_) => false,
            // A refused one has its row in the table.
            Outcome::Refused(_) => !is_batch,
            Outcome::Failed(_) => true,
        }) {
            return 2;
        }
        let pass = self.options.pass.unwrap_or(0);
        // Without a mark, there is none to pass with.
        let fails = |it: &Report| it.mark().map_or(0, |(quarters, _)| quarters) < pass;
        u8::from(reports.iter().any(fails))
    }
}

/// The name of the last report's file: that of the folder that was marked, with a number where
/// others before have the same name.
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

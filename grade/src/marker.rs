//! The means of every marking, and the cleanup after one.

use std::cell::{Cell, RefCell};
use std::env;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use common::rt;

use crate::engine::Engine;
use crate::environment::Variables;
use crate::host;
use crate::progress::Progress;

/// The engine ends the step of a build that was killed, and keeps its image. Until then the image
/// that it is made of must stay: it tells whose it is.
const STEP_END: Duration = Duration::from_secs(3);

/// The means of every marking.
pub(crate) struct Marker<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) progress: Progress,
    /// Words of `--allow`.
    pub(crate) allowed: Vec<String>,
    /// Variables of `--env`.
    pub(crate) variables: Variables,
    /// Docker Hub is asked for the images.
    pub(crate) hub: bool,
    /// Builds have no network.
    pub(crate) is_offline: bool,
    pub(crate) build_timeout: Duration,
    /// Takes the builds' whole logs.
    pub(crate) kept_log: Option<File>,
}

/// All that one marking makes, to be removed however the marking ends. Its folder tells the next
/// marking of it, should this one be killed.
pub(crate) struct Cleanup {
    /// The marking's name, which is that of its first project and the value of its label.
    pub(crate) marking: String,
    /// Its folder, for the marker's own files.
    pub(crate) folder: PathBuf,
    /// Takes the ids of images and of steps' containers that the build's log names.
    built: RefCell<Option<File>>,
    /// Something is on the engine.
    pub(crate) has_made: Cell<bool>,
    /// A build has begun and not ended by itself.
    is_building: Cell<bool>,
}

impl Cleanup {
    /// Of a marking that begins.
    pub(crate) fn begin(marking: String) -> io::Result<Cleanup> {
        let folder = env::temp_dir().join(&marking);
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Cleanup {
            marking,
            folder,
            built: RefCell::default(),
            has_made: Cell::new(false),
            is_building: Cell::new(false),
        })
    }

    /// Of a marking that was killed.
    fn left(marking: String) -> Cleanup {
        let folder = env::temp_dir().join(&marking);
        Cleanup {
            marking,
            folder,
            built: RefCell::default(),
            has_made: Cell::new(true),
            is_building: Cell::new(true),
        }
    }

    /// The name of the second project.
    pub(crate) fn second(&self) -> String {
        format!("{}-second", self.marking)
    }

    /// Writes one of the marker's own files.
    pub(crate) fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Notes the images that are here before a build.
    pub(crate) fn before_build(&self, ids: &[String]) -> io::Result<()> {
        self.has_made.set(true);
        self.is_building.set(true);
        self.write("before", &ids.join("\n"))?;
        self.built.replace(Some(File::create(self.folder.join("built"))?));
        Ok(())
    }

    /// A build has ended by itself.
    pub(crate) fn after_build(&self) {
        self.is_building.set(false);
    }

    /// Notes an image that a build has made or found, or the container of a step.
    pub(crate) fn note(&self, id: &str) {
        if let Some(file) = &mut *self.built.borrow_mut() {
            // A full disk fails the build too.
            let _ = writeln!(file, "{id}");
        }
    }

    /// Removes all of it.
    pub(crate) async fn run(&self, engine: &Engine) {
        if self.has_made.get() {
            self.remove(engine).await;
        }
        let _ = fs::remove_dir_all(&self.folder);
    }

    async fn remove(&self, engine: &Engine) {
        for project in [&self.second(), &self.marking] {
            engine.remove_project(project).await;
        }
        engine.remove_images(&self.marking).await;
        let lines = |name: &str| {
            let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let (built, before) = (lines("built"), lines("before"));
        if !built.is_empty() {
            if self.is_building.get() {
                rt::sleep_until(rt::now() + STEP_END).await;
            }
            engine.remove_unnamed(&built, &before).await;
        }
    }
}

/// Removes what markings of this machine left that were killed. The caller holds the machine's
/// lock: none of them goes on.
pub(crate) async fn remove_leftovers(engine: &Engine) {
    let prefix = prefix();
    let mut found = engine.projects().await;
    let folders = fs::read_dir(env::temp_dir()).into_iter().flatten().flatten();
    found.extend(folders.filter_map(|entry| entry.file_name().into_string().ok()));
    let mut markings: Vec<&str> =
        found.iter().filter_map(|name| marking_of(name, &prefix)).collect();
    markings.sort_unstable();
    markings.dedup();
    for marking in markings {
        let left = Cleanup::left(marking.to_owned());
        host::end_processes_of(&left.folder);
        left.run(engine).await;
    }
}

/// The name of a marking: of this machine, as the lock has it; of this process; and its number.
pub(crate) fn name(number: usize) -> String {
    format!("{}{}-{number}", prefix(), std::process::id())
}

fn prefix() -> String {
    format!("grade-{}-", host::machine())
}

/// The marking that made something of this name, if one of this machine did.
fn marking_of<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let marking = name.strip_suffix("-second").unwrap_or(name);
    let (pid, number) = marking.strip_prefix(prefix)?.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    (is_number(pid) && is_number(number)).then_some(marking)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_marking_made_is_known_by_its_name() {
        for (name, marking) in [
            ("grade-7-12-0", Some("grade-7-12-0")),
            ("grade-7-12-0-second", Some("grade-7-12-0")),
            ("grade-8-12-0", None),
            ("grade-flask", None),
            ("grade-7-12", None),
            ("grade-7-12-x", None),
            ("grade-7-12-", None),
            ("other-7-12-0", None),
        ] {
            assert_eq!(marking_of(name, "grade-7-"), marking, "{name}");
        }
    }
}

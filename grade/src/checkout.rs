//! A checkout: its folder, its compose files, and the rules that need no engine.

use std::path::{Path, PathBuf};

use crate::rubric::{Rule, Sheet};
use crate::words::{Words, words};

/// A checkout that was looked at.
pub(crate) struct Checkout {
    /// Its folder, without symbolic links.
    pub(crate) root: PathBuf,
    /// The compose file, and its override if there is one.
    pub(crate) files: Vec<PathBuf>,
}

impl Checkout {
    pub(crate) fn find(path: &Path) -> Result<Checkout, Words> {
        let root = path.canonicalize().ok().filter(|root| root.is_dir() && root.to_str().is_some());
        let Some(root) = root else {
            let path = path.display();
            return Err(words(
                format!("{path} is no folder"),
                format!("{path} n'est pas un dossier"),
            ));
        };
        let files = compose_files(&root);
        Ok(Checkout { root, files })
    }

    /// The rules that need no engine.
    pub(crate) fn judge(&self, sheet: &mut Sheet) {
        let missing = |name: &str| {
            let gone = || words(format!("{name} is missing"), format!("{name} manque"));
            (!self.root.join(name).is_file()).then(gone)
        };
        sheet.judge(Rule::TreeLicense, missing("LICENSE"), "ls LICENSE");
        sheet.judge(Rule::TreeReadme, missing("README.md"), "ls README.md");
        let dockerfiles = missing("api-backend/Dockerfile").or(missing("api-frontend/Dockerfile"));
        sheet.judge(Rule::TreeDockerfiles, dockerfiles, "ls */Dockerfile");
        let name = self.files.first().and_then(|file| file.file_name()?.to_str());
        let compose = match name {
            Some("docker-compose.yaml") => None,
            Some(name) => {
                Some(words(format!("it is called {name}"), format!("il s'appelle {name}")))
            }
            None => Some(words("there is none", "il n'y en a pas")),
        };
        sheet.judge(Rule::TreeCompose, compose, "ls docker-compose.yaml");
    }
}

/// The compose file and its override, as Compose would find them, but here alone and the
/// exercise's own name first.
fn compose_files(root: &Path) -> Vec<PathBuf> {
    for stem in ["docker-compose", "compose"] {
        for ending in ["yaml", "yml"] {
            let file = root.join(format!("{stem}.{ending}"));
            if file.is_file() {
                let overrides =
                    ["yaml", "yml"].map(|it| root.join(format!("{stem}.override.{it}")));
                let found = overrides.into_iter().find(|file| file.is_file());
                return [file].into_iter().chain(found).collect();
            }
        }
    }
    Vec::new()
}

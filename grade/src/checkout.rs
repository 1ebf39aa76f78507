//! A checkout: its folder, its compose files, its variables, and the rules that need no engine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::environment::Variables;
use crate::outcome::Refusal;
use crate::paths;
use crate::rubric::{Rule, Sheet};
use crate::words::{Words, words};

/// A checkout that was found.
pub(crate) struct Checkout {
    /// Its folder, without symbolic links.
    pub(crate) root: PathBuf,
    /// The compose file and its overrides, as Compose would find them.
    pub(crate) files: Vec<PathBuf>,
    /// Those of its `.env`.
    pub(crate) variables: Variables,
    /// The refusals of its `.env`.
    pub(crate) refusals: Vec<Refusal>,
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
        let (variables, refusals) = Variables::read(&root);
        let files = match variables.get("COMPOSE_FILE") {
            "" => compose_files(&root),
            listed => {
                let separator = match variables.get("COMPOSE_PATH_SEPARATOR") {
                    "" => ":",
                    separator => separator,
                };
                listed.split(separator).map(|file| root.join(file)).collect()
            }
        };
        if files.is_empty()
            && let Some(folder) = deeper(&root)
        {
            let (path, folder) = (path.display(), folder.display());
            return Err(words(
                format!("there is no compose file in {path}; there is one in {folder}"),
                format!("il n'y a pas de fichier compose dans {path} ; il y en a un dans {folder}"),
            ));
        }
        Ok(Checkout { root, files, variables, refusals })
    }

    /// Judges the rules that need no engine.
    pub(crate) fn judge(&self, sheet: &mut Sheet) {
        let missing = |name: &str| {
            let gone = || words(format!("{name} is missing"), format!("il manque {name}"));
            (!self.root.join(name).is_file()).then(gone)
        };
        sheet.judge(Rule::TreeLicense, missing("LICENSE"), "ls LICENSE");
        sheet.judge(Rule::TreeReadme, missing("README.md"), "ls README.md");
        let dockerfiles = missing("api-backend/Dockerfile").or(missing("api-frontend/Dockerfile"));
        sheet.judge(Rule::TreeDockerfiles, dockerfiles, "ls */Dockerfile");
        let name = self.files.first().and_then(|file| file.file_name()?.to_str());
        let compose = match name {
            _ if self.root.join("docker-compose.yaml").is_file() => None,
            Some(name) => Some(words(format!("it is named {name}"), format!("il se nomme {name}"))),
            None => Some(words("there is none", "il n'y en a pas")),
        };
        sheet.judge(Rule::TreeCompose, compose, "ls docker-compose.yaml");
    }
}

/// The compose file and its override, as Compose would find them, but in this folder alone and the
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

/// A folder with a compose file, one or two levels below.
fn deeper(root: &Path) -> Option<PathBuf> {
    let folders = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut folders: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir() && !paths::escapes(root, path))
            .collect();
        folders.sort();
        folders
    };
    let first = folders(root);
    let second = first.iter().flat_map(|folder| folders(folder));
    first.iter().cloned().chain(second).find(|folder| !compose_files(folder).is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Lang;

    #[test]
    fn compose_files_are_those_of_the_folder_or_of_its_variables() {
        let root = std::env::temp_dir().join(format!("checkout-{}", std::process::id()));
        fs::create_dir_all(root.join("repo/deploy")).expect("a folder");
        fs::write(root.join("repo/compose.yml"), "").expect("a file");
        let root = root.canonicalize().expect("a path");
        let found = Checkout::find(&root).map(drop).expect_err("nothing at the top");
        let found = found.text(Lang::English).to_owned();
        fs::write(root.join("docker-compose.yaml"), "").expect("a file");
        fs::write(root.join("docker-compose.override.yml"), "").expect("a file");
        let names = |checkout: Checkout| -> Vec<String> {
            checkout.files.iter().map(|file| paths::shown(&root, file)).collect()
        };
        let with_override = Checkout::find(&root).map(names).expect("files");
        fs::write(root.join(".env"), "COMPOSE_FILE=repo/compose.yml:b.yaml\n").expect("a file");
        let listed = Checkout::find(&root).map(names).expect("files");
        fs::remove_dir_all(&root).expect("the folder removed");
        assert!(found.ends_with("/repo"), "{found}");
        assert_eq!(with_override, ["docker-compose.yaml", "docker-compose.override.yml"]);
        assert_eq!(listed, ["repo/compose.yml", "b.yaml"]);
    }
}

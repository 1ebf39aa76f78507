//! The files of a checkout that Compose would read by itself, before it is asked to: they must be
//! inside of the checkout. Where a compose file names others is decided on the document that a
//! reader of YAML has made of it, before any variable is put in.

use std::path::{Path, PathBuf};

use crate::node::Node;
use crate::outcome::Refusal;
use crate::paths;
use crate::policy::{PATHS, REMOTE, UNKNOWN};
use crate::words::{Words, words};

/// Files that a compose file may be made of.
pub(crate) const FILES_MAX: usize = 32;

/// Paths that the builder reads by their names.
pub(crate) fn check_tree(root: &Path) -> Vec<Refusal> {
    let mut found = Vec::new();
    for folder in ["", "api-backend", "api-frontend"] {
        let folder = root.join(folder);
        if paths::escapes(root, &folder) {
            refuse_path(root, &folder, &paths::shown(root, &folder), &mut found);
            continue;
        }
        for file in ["Dockerfile", "dockerfile", ".dockerignore", ".env"] {
            let path = folder.join(file);
            if path.symlink_metadata().is_ok() && !paths::is_own_file(root, &path) {
                refuse_path(root, &path, &paths::shown(root, &path), &mut found);
            }
        }
    }
    found
}

/// What a compose file names: what is refused of that, and the compose files among it.
pub(crate) fn check_document(
    root: &Path,
    file: &Path,
    document: &Node,
) -> (Vec<Refusal>, Vec<PathBuf>) {
    let (mut found, mut files) = (Vec::new(), Vec::new());
    let shown = paths::shown(root, file);
    let folder = file.parent().unwrap_or(root);
    let Some(services) = document.at("services") else {
        const TOP: &[&str] =
            &["configs", "include", "name", "networks", "secrets", "version", "volumes"];
        let own = |key: &str| TOP.contains(&key) || key.starts_with("x-");
        if !document.members().iter().all(|(key, _)| own(key)) {
            // Its volumes are those of every project on the machine.
            let what = words(
                format!("{shown}: compose file format 1, without services"),
                format!("{shown} : format de fichier compose 1, sans services"),
            );
            found.push(Refusal { word: UNKNOWN, what });
        }
        return (found, files);
    };
    let mut look = |key: &str, path: Option<&Node>, is_compose_file: bool| {
        let said = |path: &str| format!("{shown}: {key}: {path}");
        let Some(Node::Text(path)) = path else {
            let value = path.map(Node::shown).unwrap_or_default();
            found.push(Refusal { word: PATHS, what: Words::keyed(said(&value)) });
            return;
        };
        if path.contains('$') {
            let what = words(
                format!("{}: the name of the file holds a variable", said(path)),
                format!("{} : le nom du fichier contient une variable", said(path)),
            );
            found.push(Refusal { word: PATHS, what });
        } else if paths::is_remote(path) {
            found.push(Refusal { word: REMOTE, what: Words::keyed(said(path)) });
        } else {
            // Relative to the file, or to the project, by the version of Compose.
            for path in [folder.join(path), root.join(path)] {
                if !paths::is_own_file(root, &path) {
                    refuse_path(root, &path, &said(&paths::shown(root, &path)), &mut found);
                } else if is_compose_file && path.is_file() {
                    files.push(path);
                }
            }
        }
    };
    for (_, service) in services.members() {
        for key in ["env_file", "label_file"] {
            for entry in entries(service.at(key)) {
                let path =
                    if matches!(entry, Node::Map(_)) { entry.at("path") } else { Some(entry) };
                look(key, path, false);
            }
        }
        // A service of the same file has no `file`.
        if let Some(path) = service.at("extends/file") {
            look("extends", Some(path), true);
        }
    }
    for entry in entries(document.at("include")) {
        let map = matches!(entry, Node::Map(_));
        for path in entries(if map { entry.at("path") } else { Some(entry) }) {
            look("include", Some(path), true);
        }
        for key in ["env_file", "project_directory"] {
            for path in entries(entry.at(key)) {
                look(key, Some(path), false);
            }
        }
    }
    files.sort();
    files.dedup();
    (found, files)
}

/// A value, or those of a list.
fn entries(node: Option<&Node>) -> &[Node] {
    match node {
        None | Some(Node::Null) => &[],
        Some(Node::List(items)) => items,
        Some(other) => std::slice::from_ref(other),
    }
}

fn refuse_path(root: &Path, path: &Path, said: &str, found: &mut Vec<Refusal>) {
    let what = paths::outside(said, &root.join(path));
    if !found.iter().any(|it| it.what == what) {
        found.push(Refusal { word: PATHS, what });
    }
}

/// The names of variables that a document would have Compose put in, such as `${NAME:-1}`.
pub(crate) fn variables(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    collect_variables(node, &mut found);
    found.sort_unstable();
    found.dedup();
    found
}

fn collect_variables(node: &Node, found: &mut Vec<String>) {
    match node {
        Node::Text(text) => {
            for part in text.replace("$$", "").split('$').skip(1) {
                let part = part.strip_prefix('{').unwrap_or(part);
                let end = part.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
                let name = &part[..end.unwrap_or(part.len())];
                if !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) {
                    found.push(name.to_owned());
                }
            }
        }
        Node::List(items) => items.iter().for_each(|item| collect_variables(item, found)),
        Node::Map(members) => {
            for (_, value) in members {
                collect_variables(value, found);
            }
        }
        Node::Null | Node::Bool(_) | Node::Number(_) => {}
    }
}

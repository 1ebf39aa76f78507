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

/// Checks the files that a compose file names: the refusals, and the compose files among them.
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process;

    use tools::json::Value;

    use super::*;
    use crate::node::Dollars;
    use crate::words::Lang;

    /// A checkout. Dropping it removes it.
    struct Checkout(PathBuf);

    impl Checkout {
        fn new(name: &str) -> Checkout {
            let folder = std::env::temp_dir().join(format!("sources-{name}-{}", process::id()));
            fs::create_dir_all(folder.join("api-backend")).expect("a folder");
            let checkout = Checkout(folder.canonicalize().expect("a path"));
            for name in ["front.env", "a, b.env", "api-backend/x.yaml"] {
                fs::write(checkout.0.join(name), "").expect("a file");
            }
            symlink("/etc/hostname", checkout.0.join("linked.env")).expect("a link");
            checkout
        }
    }

    impl Drop for Checkout {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn files_that_a_document_names_must_be_inside() {
        let checkout = Checkout::new("documents");
        let service = |keys: &str| format!("{{\"services\": {{\"s\": {{{keys}}}}}}}");
        let cases: &[(String, &[(&str, &str)])] = &[
            (service(r#""env_file": "front.env""#), &[]),
            (service(r#""env_file": ["a, b.env"], "command": ["/s"]"#), &[]),
            (service(r#""env_file": [{"path": "front.env", "required": false}]"#), &[]),
            (service(r#""extends": {"file": "api-backend/x.yaml", "service": "s"}"#), &[]),
            (service(r#""extends": {"service": "s"}"#), &[]),
            (service(r#""extends": "s""#), &[]),
            (service(r#""env_file": "missing.env""#), &[]),
            (service(r#""env_file": "/etc/passwd""#), &[(PATHS, "/etc/passwd")]),
            (service(r#""env_file": ["../s"]"#), &[(PATHS, "../s")]),
            (service(r#""env_file": ["linked.env"]"#), &[(PATHS, "/etc/hostname")]),
            (service(r#""env_file": ["~/b"]"#), &[(PATHS, "~/b")]),
            (service(r#""env_file": "${HOME}/x""#), &[(PATHS, "variable")]),
            (service(r#""env_file": ["api-backend"]"#), &[(PATHS, "api-backend")]),
            (service(r#""env_file": [["front.env"]]"#), &[(PATHS, "front.env")]),
            (service(r#""label_file": "/etc/passwd""#), &[(PATHS, "/etc/passwd")]),
            (service(r#""extends": {"file": "../x.yaml", "service": "s"}"#), &[(PATHS, "../x.yaml")]),
            (
                service(r#""extends": {"file": "oci://example.org/x", "service": "s"}"#),
                &[(REMOTE, "oci://")],
            ),
            (
                r#"{"services": {}, "include": ["https://example.org/x.git"]}"#.to_owned(),
                &[(REMOTE, "example.org")],
            ),
            (
                r#"{"services": {}, "include": [{"path": ["/etc/passwd"], "env_file": "front.env"}]}"#
                    .to_owned(),
                &[(PATHS, "/etc/passwd")],
            ),
            (
                r#"{"api-backend": {"volumes": ["others_data:/x"]}}"#.to_owned(),
                &[(UNKNOWN, "format 1")],
            ),
            (r#"{"volumes": {"v": null}, "x-more": 1}"#.to_owned(), &[]),
        ];
        let file = checkout.0.join("docker-compose.yaml");
        for (json, expected) in cases {
            let document = Value::read(json.as_bytes()).expect(json);
            let document = Node::from(&document, Dollars::Single);
            let (found, _) = check_document(&checkout.0, &file, &document);
            let found: Vec<_> =
                found.iter().map(|it| (it.word, it.what.text(Lang::English))).collect();
            assert_eq!(found.len(), expected.len(), "{json}: {found:?}");
            for ((word, what), (expected, part)) in found.iter().zip(*expected) {
                assert!(word == expected && what.contains(part), "{json}: {found:?}");
            }
        }
    }

    #[test]
    fn compose_files_that_a_document_names_are_looked_at_too() {
        let checkout = Checkout::new("more");
        let json = r#"{"services": {"s": {"extends": {"file": "api-backend/x.yaml"},
            "env_file": "front.env"}}, "include": ["api-backend/x.yaml"]}"#;
        let document = Node::from(&Value::read(json.as_bytes()).expect(json), Dollars::Single);
        let file = checkout.0.join("docker-compose.yaml");
        let (_, files) = check_document(&checkout.0, &file, &document);
        assert_eq!(files, [checkout.0.join("api-backend/x.yaml")]);
    }

    #[test]
    fn files_that_builders_read_by_name_must_be_inside_and_regular() {
        let checkout = Checkout::new("tree");
        let at = |name: &str| checkout.0.join(name);
        symlink("nowhere", at("LICENSE")).expect("a link");
        symlink("/etc/hostname", at("api-backend/Dockerfile")).expect("a link");
        symlink("/", at("api-frontend")).expect("a link");
        fs::create_dir(at(".dockerignore")).expect("a folder");
        let found = check_tree(&checkout.0);
        let said: Vec<_> = found.iter().map(|it| it.what.text(Lang::English)).collect();
        assert_eq!(said.len(), 3, "{said:?}");
        for part in [
            "api-backend/Dockerfile: /etc/hostname is outside",
            "api-frontend: / is",
            ".dockerignore",
        ] {
            assert!(said.iter().any(|it| it.contains(part)), "{part}: {said:?}");
        }
    }

    #[test]
    fn variables_of_a_document_are_found() {
        let json = r#"{"a": ["${A:-1}/$B", "$$C", "${D?x}"], "b": {"c": "$1 $"}}"#;
        let document = Node::from(&Value::read(json.as_bytes()).expect(json), Dollars::Single);
        assert_eq!(variables(&document), ["A", "B", "D"]);
    }
}

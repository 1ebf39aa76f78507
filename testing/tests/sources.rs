//! The invariants of the workspace's structure, held against its sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module, and all that it may import. A row names only rows above it: no circle is possible.
/// A module that has no row of its own belongs to the longest one that is a prefix of it.
const IMPORTS: &[(&str, &[&str])] = &[
    ("common", &[]),
    ("common::sys", &[]),
    ("common::json", &[]),
    ("common::cli", &[]),
    ("common::metrics", &[]),
    ("common::decimal", &[]),
    ("common::http", &["common::decimal"]),
    ("common::date", &["common::decimal", "common::http"]),
    ("common::log", &["common::decimal", "common::date"]),
    ("common::rt", &["common::sys"]),
    ("common::server", &["common::sys", "common::http", "common::date", "common::rt"]),
    ("common::client", &["common::sys", "common::http", "common::rt"]),
    (
        "common::service",
        &[
            "common::sys",
            "common::json",
            "common::cli",
            "common::metrics",
            "common::http",
            "common::date",
            "common::log",
            "common::rt",
            "common::server",
        ],
    ),
    ("api_backend", &["common::http", "common::service"]),
    (
        "api_frontend",
        &[
            "common::json",
            "common::cli",
            "common::metrics",
            "common::http",
            "common::client",
            "common::service",
        ],
    ),
    ("tools", &["common"]),
    ("grade", &["common", "tools"]),
    ("lab", &["common", "tools", "grade"]),
    ("testing", &["common", "tools"]),
];

/// The crates of the workspace, by their folders.
const CRATES: &[&str] =
    &["api-backend", "api-frontend", "common", "grade", "lab", "testing", "tools"];

#[test]
fn imports_are_those_of_the_table() {
    for file in Source::all() {
        let (row, allowed) = row_of(&file.module);
        for (line, import) in file.imports() {
            let is_allowed = |prefix: &&str| is_prefix(prefix, &import);
            assert!(
                allowed.iter().any(is_allowed) || row_of(&import).0 == row,
                "{}:{line}: {row} must not import {import}",
                file.path.display()
            );
        }
    }
}

#[test]
fn a_row_of_the_table_names_only_rows_above_it() {
    let modules: BTreeSet<_> = Source::all().into_iter().map(|file| file.module).collect();
    for (number, (module, allowed)) in IMPORTS.iter().enumerate() {
        assert!(modules.contains(*module), "there is no {module}");
        for name in *allowed {
            let above = IMPORTS[..number].iter().any(|(above, _)| above == name);
            assert!(above, "{name} is not above {module}");
        }
    }
}

/// A module may name its parent, and a parent its children; all else goes one way.
#[test]
fn files_import_each_other_in_no_circle() {
    let files = Source::all();
    let modules: BTreeSet<_> = files.iter().map(|file| file.module.clone()).collect();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in &files {
        for (_, import) in file.imports() {
            let target = modules
                .iter()
                .filter(|module| is_prefix(module, &import))
                .max_by_key(|it| it.len());
            if let Some(target) = target.filter(|target| !is_prefix(&file.module, target)) {
                edges.entry(&file.module).or_default().insert(target);
            }
        }
    }
    assert!(edges.len() > 20, "this test must see imports: {edges:?}");
    // Removes modules that cannot be on a circle, until none or only circles are left.
    loop {
        let before = edges.len();
        let known: BTreeSet<&str> = edges.keys().copied().collect();
        for targets in edges.values_mut() {
            targets.retain(|target| known.contains(target));
        }
        edges.retain(|_, targets| !targets.is_empty());
        if edges.len() == before {
            break;
        }
    }
    assert!(edges.is_empty(), "circles: {edges:#?}");
}

#[test]
fn the_protocol_names_no_socket_no_clock_and_no_thread() {
    for file in Source::below("common::http") {
        for word in ["TcpStream", "TcpListener", "Instant", "SystemTime", "Duration", "thread"] {
            file.must_not_name(word);
        }
        for path in ["std::io", "std::os"] {
            file.must_not_name(path);
        }
    }
}

#[test]
fn server_and_rt_name_no_route_no_json_and_no_metric() {
    for module in ["common::rt", "common::server"] {
        for file in Source::below(module) {
            for word in ["json", "Json", "metric", "metrics", "Metrics", "healthz", "traceback"] {
                file.must_not_name(word);
            }
        }
    }
    for file in Source::below("common::rt") {
        for word in ["http", "Http", "HTTP"] {
            file.must_not_name(word);
        }
    }
}

#[test]
fn unsafe_and_extern_stand_in_files_named_sys_alone() {
    let mut found = 0;
    for file in Source::all_with_tests() {
        for word in ["unsafe", "extern"] {
            if file.path.ends_with("src/sys.rs") {
                found += file.lines.iter().filter(|(_, line)| has_word(line, word)).count();
            } else if !file.path.ends_with(file!()) {
                file.must_not_name(word);
            }
        }
    }
    assert!(found > 10, "this test must see the files named sys");
}

#[test]
fn every_unsafe_block_states_its_reason() {
    for file in Source::all().into_iter().filter(|file| file.path.ends_with("src/sys.rs")) {
        let text = read(&file.path);
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            if line.contains("unsafe {") {
                let before = &lines[number.saturating_sub(3)..=number];
                let is_stated = before.iter().any(|line| line.contains("// SAFETY: "));
                assert!(is_stated, "{}:{}: {line}", file.path.display(), number + 1);
            }
        }
    }
}

#[test]
fn bytes_of_a_peer_are_never_unwrapped_or_indexed() {
    // Clippy refuses these below `http`, because its first line says so.
    let http = read(&root().join("common/src/http/mod.rs"));
    let lints = "#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]";
    assert!(http.contains(lints), "{lints}");
    for module in ["common::http", "common::json", "common::server"] {
        for file in Source::below(module) {
            for (number, line) in &file.lines {
                for call in [".unwrap()", ".expect(", "unreachable!", "panic!", "todo!"] {
                    assert!(!line.contains(call), "{}:{number}: {line}", file.path.display());
                }
            }
        }
    }
}

#[test]
fn cargo_lock_lists_the_members_of_the_workspace_alone() {
    let lock = read(&root().join("Cargo.lock"));
    let names: Vec<&str> = lock.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
    assert_eq!(names, CRATES.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>());
    assert!(!lock.contains("source = "), "a registry is named in Cargo.lock");
}

/// A source file without comments, up to its unit tests.
struct Source {
    path: PathBuf,
    /// As in `common::http::parse`.
    module: String,
    /// With their numbers.
    lines: Vec<(usize, String)>,
}

impl Source {
    /// Those of all crates but their tests.
    fn all() -> Vec<Source> {
        let files: Vec<_> =
            CRATES.iter().flat_map(|name| Source::find(&format!("{name}/src"))).collect();
        assert!(files.len() > 20, "this test must see the sources");
        files
    }

    fn all_with_tests() -> Vec<Source> {
        CRATES.iter().flat_map(|name| Source::find(name)).collect()
    }

    /// Those of a module and all modules in it.
    fn below(module: &str) -> Vec<Source> {
        let mut files = Source::all();
        files.retain(|file| is_prefix(module, &file.module));
        assert!(!files.is_empty(), "there is no {module}");
        files
    }

    fn find(below: &str) -> Vec<Source> {
        let mut found = Vec::new();
        let mut folders = vec![root().join(below)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|ending| ending == "rs") {
                    found.push(Source::read(path));
                }
            }
        }
        found
    }

    fn read(path: PathBuf) -> Source {
        let relative = path.strip_prefix(root()).unwrap().with_extension("");
        let names = relative.iter().map(|name| name.to_str().unwrap().replace('-', "_"));
        let names = names.filter(|name| !["src", "lib", "main", "mod"].contains(&&**name));
        let module = names.collect::<Vec<_>>().join("::");
        let text = read(&path);
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
        let lines = lines.map(|line| line.split("//").next().unwrap_or("").to_owned());
        Source { path, module, lines: (1..).zip(lines).collect() }
    }

    fn must_not_name(&self, word: &str) {
        for (number, line) in &self.lines {
            assert!(!has_word(line, word), "{}:{number} names {word}: {line}", self.path.display());
        }
    }

    /// Every path that starts with `crate`, `super` or a crate of ours, in full, with its line.
    fn imports(&self) -> Vec<(usize, String)> {
        let lines: Vec<&str> = self.lines.iter().map(|(_, line)| &**line).collect();
        let code = lines.join("\n");
        let crates = CRATES.iter().map(|name| name.replace('-', "_"));
        let starts: Vec<_> = crates.chain(["crate".to_owned(), "super".to_owned()]).collect();
        let mut imports = Vec::new();
        for (at, _) in code.match_indices("::") {
            let before = &code[..at];
            let word_start = before.rfind(|c: char| !is_of_a_name(c)).map_or(0, |end| end + 1);
            if starts.iter().any(|start| *start == before[word_start..])
                && !before[..word_start].ends_with("::")
            {
                let line = before.matches('\n').count() + 1;
                let mut rest = &code[word_start..];
                let paths = use_tree(&mut rest).into_iter();
                imports.extend(paths.map(|path| (line, self.in_full(&path))));
            }
        }
        imports
    }

    fn in_full(&self, path: &str) -> String {
        let own: Vec<&str> = self.module.split("::").collect();
        let mut names: Vec<&str> = path.split("::").collect();
        let supers = names.iter().take_while(|name| **name == "super").count();
        match (names[0], supers) {
            ("crate", _) => drop(names.splice(..1, own[..1].iter().copied())),
            ("super", _) => drop(names.splice(..supers, own[..own.len() - supers].iter().copied())),
            _ => {}
        }
        names.join("::")
    }
}

/// Reads `a::b` or `a::{b, c::{d, e}}` from the start of the text: each path in it.
fn use_tree(text: &mut &str) -> Vec<String> {
    *text = text.trim_start();
    let end = text.find(|c| !is_of_a_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    *text = rest;
    let Some(rest) = text.strip_prefix("::") else { return vec![name.to_owned()] };
    *text = rest;
    let Some(rest) = text.strip_prefix('{') else {
        let paths = use_tree(text);
        return paths.into_iter().map(|path| format!("{name}::{path}")).collect();
    };
    *text = rest;
    let mut paths = Vec::new();
    while !text.trim_start().starts_with('}') {
        paths.extend(use_tree(text).into_iter().map(|path| format!("{name}::{path}")));
        // A comma, a star, or the rest of `a as b`.
        let end = text.find([',', '}']).unwrap_or(text.len());
        *text = text[end..].strip_prefix(',').unwrap_or(&text[end..]);
    }
    *text = &text.trim_start()[1..];
    paths
}

fn row_of(module: &str) -> (&'static str, &'static [&'static str]) {
    let rows = IMPORTS.iter().filter(|(row, _)| is_prefix(row, module));
    *rows.max_by_key(|(row, _)| row.len()).unwrap_or_else(|| panic!("{module} has no row"))
}

/// Returns true if a module is this one, or in it.
fn is_prefix(module: &str, of: &str) -> bool {
    of.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !before.ends_with(is_of_a_name) && !after.starts_with(is_of_a_name)
    })
}

fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

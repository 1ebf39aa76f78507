//! The invariants of the crate's first page, held against the sources themselves.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn the_protocol_names_no_socket_no_clock_and_no_thread() {
    for path in sources("common/src/http") {
        for word in ["TcpStream", "TcpListener", "Instant", "SystemTime", "Duration", "thread"] {
            refuse(&path, word);
        }
        for path_of in ["std::io", "std::os", "crate::sys", "crate::runtime", "crate::server"] {
            refuse(&path, path_of);
        }
    }
}

/// The only files with unsafe code: of the services, and of the tools.
const SYS: [&str; 2] = ["common/src/sys.rs", "tools/src/sys.rs"];

#[test]
fn unsafe_and_extern_stand_in_sys_alone() {
    let mut found = 0;
    for path in sources("") {
        for word in ["unsafe", "extern"] {
            let lines = code(&path).into_iter().filter(|(_, line)| has_word(line, word)).count();
            if SYS.iter().any(|file| path.ends_with(file)) {
                found += lines;
            } else if !path.ends_with("common/tests/tidy.rs") {
                refuse(&path, word);
            }
        }
    }
    assert!(found > 10, "sys.rs itself must be seen by this test");
}

#[test]
fn every_unsafe_block_states_its_reason() {
    for path in SYS.map(|file| root().join(file)) {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            if line.contains("unsafe {") {
                let before = &lines[number.saturating_sub(3)..=number];
                let said = before.iter().any(|line| line.contains("// SAFETY: "));
                assert!(said, "{}:{}: {line}", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn the_machinery_names_no_route_no_json_and_no_metric() {
    for file in ["common/src/runtime.rs", "common/src/server.rs"] {
        for word in ["json", "Json", "metric", "Metrics", "telemetry", "healthz", "traceback"] {
            refuse(&root().join(file), word);
        }
    }
    for word in ["http", "Http", "HTTP"] {
        refuse(&root().join("common/src/runtime.rs"), word);
    }
}

#[test]
fn imports_never_point_back() {
    let allowed: [(&str, &[&str]); 9] = [
        ("sys", &[]),
        ("json", &[]),
        ("telemetry", &[]),
        ("cli", &[]),
        ("http", &["http"]),
        ("runtime", &["sys"]),
        ("server", &["http", "runtime", "sys"]),
        ("client", &["http", "runtime", "sys"]),
        ("service", &["cli", "http", "json", "runtime", "server", "sys", "telemetry"]),
    ];
    for (module, allowed) in allowed {
        let mut paths = sources(&format!("common/src/{module}"));
        paths.push(root().join(format!("common/src/{module}.rs")));
        for path in paths {
            for (number, line) in code(&path) {
                let Some((_, after)) = line.split_once("crate::") else { continue };
                let named = after.split(|c: char| !c.is_alphanumeric()).next().unwrap_or("");
                assert!(
                    allowed.contains(&named),
                    "{}:{number}: {module} must not know {named}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn what_a_peer_sent_is_never_unwrapped_or_indexed() {
    // Clippy refuses these for everything below `http`, if the first line asks it to.
    let http = read(&root().join("common/src/http.rs"));
    assert!(
        http.contains(
            "#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]"
        )
    );
    let mut paths = sources("common/src/http");
    paths.extend(
        ["http.rs", "json.rs", "server.rs"].map(|file| root().join("common/src").join(file)),
    );
    for path in paths {
        for (number, line) in code(&path) {
            for call in [".unwrap()", ".expect(", "unreachable!", "panic!", "todo!"] {
                assert!(!line.contains(call), "{}:{number}: {line}", path.display());
            }
        }
    }
}

#[test]
fn there_is_no_dependency_but_std() {
    let lock = read(&root().join("Cargo.lock"));
    let names: Vec<&str> = lock.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
    let ours = ["api-backend", "api-frontend", "common", "grade", "lab", "tools"]
        .map(|name| format!("\"{name}\""));
    assert_eq!(names, ours);
    assert!(!lock.contains("source = "), "a registry is named in Cargo.lock");
}

/// Rust sources below a folder of the workspace.
fn sources(below: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(below)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("a readable entry").path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// A file's numbered lines, up to its unit tests and without its comments.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = read(path);
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
    let lines = lines.map(|line| line.split("//").next().unwrap_or("").to_owned());
    (1..).zip(lines).collect()
}

fn refuse(path: &Path, word: &str) {
    for (number, line) in code(path) {
        assert!(!has_word(&line, word), "{}:{number} names {word}: {line}", path.display());
    }
}

fn has_word(line: &str, word: &str) -> bool {
    let part_of_a_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !part_of_a_name(before.chars().next_back()) && !part_of_a_name(after.chars().next())
    })
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

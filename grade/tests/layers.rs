//! Imports of the marker's modules point one way: down the list of `lib.rs`.

use std::fs;
use std::path::{Path, PathBuf};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

#[test]
fn modules_import_from_those_below_them_alone() {
    let lib = fs::read_to_string(Path::new(SOURCES).join("lib.rs")).expect("lib.rs");
    let groups = lib.split("\n\n").map(|group| group.lines().filter_map(declared).collect());
    let groups: Vec<Vec<&str>> = groups.filter(|group: &Vec<_>| !group.is_empty()).collect();
    let mut imports = 0;
    for (place, group) in groups.iter().enumerate() {
        let below = groups[place + 1..].concat();
        for module in group {
            for file in files(module) {
                let text = fs::read_to_string(&file).expect("a source");
                for part in text.split("crate::").skip(1) {
                    let name = part.split(|c: char| !c.is_alphanumeric() && c != '_').next();
                    let name = name.unwrap_or_default();
                    let fits = name == *module || below.contains(&name);
                    assert!(fits, "{}: {module} imports {name}", file.display());
                    imports += usize::from(name != *module);
                }
            }
        }
    }
    assert!(imports > 20, "{imports} imports in {groups:?}");
}

fn declared(line: &str) -> Option<&str> {
    line.strip_prefix("mod ")?.strip_suffix(';')
}

/// A module's file, and those of its folder.
fn files(module: &str) -> Vec<PathBuf> {
    let folder = fs::read_dir(Path::new(SOURCES).join(module)).into_iter().flatten();
    let own = Path::new(SOURCES).join(format!("{module}.rs"));
    folder.map(|entry| entry.expect("an entry").path()).chain([own]).collect()
}

//! The size of a build's context: the files of its context without those that
//! `.dockerignore` excludes, so that a checkout cannot fill the engine's disk.

use std::fs;
use std::path::Path;

use crate::paths;

/// More than the sources of two services.
pub(crate) const CONTEXT_BYTES_MAX: u64 = 512 << 20;
const CONTEXT_FILES_MAX: usize = 50_000;
/// Folders in each other, so that the walk ends.
const DEPTH_MAX: usize = 64;

/// The size of a context, if it is too large.
pub(crate) fn excess(folder: &Path) -> Option<String> {
    let ignored = paths::text(&folder.join(".dockerignore")).unwrap_or_default();
    let mut walk = Walk { patterns: patterns(&ignored), bytes: 0, files: 0 };
    walk.folder(folder, &mut Vec::new());
    let Walk { bytes, files, .. } = walk;
    (bytes > CONTEXT_BYTES_MAX || files > CONTEXT_FILES_MAX)
        .then(|| format!("{files} files, {} MB", bytes >> 20))
}

struct Walk {
    patterns: Vec<Pattern>,
    bytes: u64,
    files: usize,
}

impl Walk {
    fn folder(&mut self, folder: &Path, parts: &mut Vec<String>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            if self.bytes > CONTEXT_BYTES_MAX
                || self.files > CONTEXT_FILES_MAX
                || parts.len() > DEPTH_MAX
            {
                return;
            }
            let Ok(about) = entry.metadata() else { continue };
            parts.push(entry.file_name().to_string_lossy().into_owned());
            let is_excluded = is_excluded(&self.patterns, parts);
            if about.is_dir() {
                if !is_excluded || may_include_below(&self.patterns, parts) {
                    self.folder(&entry.path(), parts);
                }
            } else if !is_excluded {
                self.files += 1;
                // Its length and not its blocks: a hole is sent as zeros.
                self.bytes += about.len();
            }
            parts.pop();
        }
    }
}

/// A line of `.dockerignore`.
struct Pattern {
    parts: Vec<String>,
    /// It begins with `!`.
    includes: bool,
}

fn patterns(text: &str) -> Vec<Pattern> {
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pattern = |line: &str| {
        let includes = line.starts_with('!');
        let parts = line.trim_start_matches('!').trim().split('/');
        let parts = parts.filter(|part| !matches!(*part, "" | ".")).map(str::to_owned);
        Pattern { parts: parts.collect(), includes }
    };
    lines.map(pattern).collect()
}

/// The last pattern that matches a path, or a folder above it, decides.
fn is_excluded(patterns: &[Pattern], path: &[String]) -> bool {
    let matches = |it: &&Pattern| (1..=path.len()).any(|end| fits(&it.parts, &path[..end]));
    patterns.iter().rfind(matches).is_some_and(|it| !it.includes)
}

/// Returns true if something below an excluded folder may be included again.
fn may_include_below(patterns: &[Pattern], folder: &[String]) -> bool {
    patterns.iter().filter(|it| it.includes).any(|it| {
        let above = it.parts.iter().zip(folder);
        let anywhere = it.parts.iter().take(folder.len()).any(|part| part == "**");
        let mut above = above;
        anywhere || it.parts.len() > folder.len() && above.all(|(part, name)| is_like(part, name))
    })
}

fn fits(pattern: &[String], path: &[String]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "**" => {
            fits(rest, path) || path.split_first().is_some_and(|(_, path)| fits(pattern, path))
        }
        (Some((first, rest)), Some((name, names))) => is_like(first, name) && fits(rest, names),
        _ => false,
    }
}

/// Returns true if a name fits a pattern of one part. A class in brackets is taken for one that
/// fits nothing: its files count.
fn is_like(pattern: &str, name: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return name.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    match first {
        '*' => {
            let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.into_iter().any(|end| is_like(rest, &name[end..]))
        }
        '[' => false,
        _ => name.chars().next().is_some_and(|char| {
            (first == '?' || first == char) && is_like(rest, &name[char.len_utf8()..])
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str) -> Vec<String> {
        path.split('/').map(str::to_owned).collect()
    }

    #[test]
    fn what_is_ignored_is_not_sent() {
        let lines = "*\n!Cargo.toml\n!*/Cargo.toml\n!common/src\n# x\ncommon/src/*.md\n\n!**/kept";
        let patterns = patterns(lines);
        for (name, is_sent) in [
            ("target", false),
            ("target/debug/app", false),
            ("Cargo.toml", true),
            ("lab/Cargo.toml", true),
            ("lab/src/Cargo.toml", false),
            ("common/src/http/head.rs", true),
            ("common/src/a.md", false),
            ("a/b/c/kept/d", true),
        ] {
            assert_eq!(!is_excluded(&patterns, &path(name)), is_sent, "{name}");
        }
        let lines = "*\n!*/Cargo.toml\n!common/src";
        let patterns = super::patterns(lines);
        for (folder, may) in [("target", true), ("target/debug", false), ("common", true)] {
            assert_eq!(may_include_below(&patterns, &path(folder)), may, "{folder}");
        }
    }

    #[test]
    fn a_hole_counts_as_what_is_sent_and_what_is_ignored_does_not() {
        let folder = std::env::temp_dir().join(format!("context-{}", std::process::id()));
        fs::create_dir_all(folder.join("data")).expect("a folder");
        let file = fs::File::create(folder.join("data/hole")).expect("a file");
        file.set_len(CONTEXT_BYTES_MAX * 20).expect("a hole");
        let found = excess(&folder);
        fs::write(folder.join(".dockerignore"), "data\n").expect("a file");
        let ignored = excess(&folder);
        fs::remove_dir_all(&folder).expect("the folder removed");
        assert_eq!((found.as_deref(), ignored), (Some("1 files, 10240 MB"), None));
    }
}

//! The words of comments, messages, names and documents: plain ones.

use std::fs;
use std::path::{Path, PathBuf};

/// Words that no text contains, and the plain way to say the same.
const WORDS: &[(&str, &str)] = &[
    ("whoever", "name the client, worker, caller or peer"),
    ("whatever", "name the thing"),
    ("nobody", "name the client, worker, caller or peer"),
    ("anybody", "name the client, worker, caller or peer"),
    ("somebody", "name the client, worker, caller or peer"),
    ("shall", "must, or the present tense"),
    ("anew", "again"),
    ("lest", "so that … not"),
    ("beside", "next to, besides, with"),
    ("be it", "or"),
];

/// Words that open no sentence of a comment, and the plain way to say the same.
const OPENINGS: &[(&str, &str)] = &[
    ("What ", "begin with a noun"),
    ("Whether ", "`Returns true if`"),
    ("Who ", "name the peer"),
    ("The same, ", "repeat the noun"),
];

/// Other people's words, and files that are not prose.
const LEFT_OUT: &[&str] =
    &[".git", "target", "Cargo.lock", "LICENSE", "fuzz/seeds", "fuzz/corpus", "lab/tests/grade"];

#[test]
fn texts_use_plain_words() {
    let mut found = Vec::new();
    let mut files = 0;
    for path in texts() {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        files += 1;
        for (number, line) in (1..).zip(text.lines()) {
            // Names of functions are words, too.
            let line = line.to_lowercase().replace('_', " ");
            for (word, plain) in WORDS.iter().filter(|(word, _)| has_word(&line, word)) {
                found.push(format!("{}:{number}: {word}: {plain}", path.display()));
            }
        }
        let is_source = path.extension().is_some_and(|ending| ending == "rs");
        for (number, sentence) in if is_source { sentences(&text) } else { Vec::new() } {
            for (_, plain) in OPENINGS
                .iter()
                .filter(|(word, _)| sentence.starts_with(word) && !sentence.ends_with('?'))
            {
                found.push(format!("{}:{number}: {sentence:?}: {plain}", path.display()));
            }
        }
    }
    assert!(files > 50, "this test must see the texts");
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

#[test]
fn sentences_of_comments_are_found() {
    let text = "//! One.\n//! Two is\n//! long. Three\n\nfn f() {} // Four\n/// Five?\nlet s = 5;";
    let expected = [(1, "One."), (1, "Two is long."), (1, "Three"), (5, "Four"), (6, "Five?")];
    assert_eq!(sentences(text), expected.map(|(line, text)| (line, text.to_owned())));
}

/// The sentences of each block of comments, with the line of the block.
fn sentences(source: &str) -> Vec<(usize, String)> {
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut is_open = false;
    for (number, line) in (1..).zip(source.lines()) {
        let Some((code, comment)) = line.split_once("//") else {
            is_open = false;
            continue;
        };
        let comment = comment.trim_start_matches(['/', '!']).trim();
        match blocks.last_mut().filter(|_| is_open && code.trim().is_empty()) {
            Some((_, block)) => {
                block.push(' ');
                block.push_str(comment);
            }
            None => blocks.push((number, comment.to_owned())),
        }
        is_open = code.trim().is_empty();
    }
    let split = |(number, block): (usize, String)| {
        let block = block.replace(". ", ".\n");
        block.lines().map(|sentence| (number, sentence.to_owned())).collect::<Vec<_>>()
    };
    blocks.into_iter().flat_map(split).collect()
}

/// All files of the workspace, by their relative paths.
fn texts() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(root()).unwrap();
            let is_left_out = LEFT_OUT.iter().any(|name| relative.ends_with(name));
            if is_left_out || relative.ends_with(file!()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(relative.to_owned());
            }
        }
    }
    found
}

fn has_word(line: &str, word: &str) -> bool {
    let is_letter = |c: char| c.is_alphabetic();
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !before.ends_with(is_letter) && !after.starts_with(is_letter)
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

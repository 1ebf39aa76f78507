//! `lab`: the tools around the services. Each verb has a module or a crate; here it is found by
//! name.

// Counts are far below 2^52, and the targets have 64 bits.
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]

mod up;

mod bench;
mod load;

use std::io::{self, Write};
use std::process::ExitCode;

use tools::verb::{Failure, Verb};

const VERBS: &[Verb] = &[
    Verb { name: "up", usage: up::USAGE, run: up::run },
    Verb { name: "load", usage: load::USAGE, run: load::run },
    Verb { name: "bench", usage: bench::USAGE, run: bench::run },
    Verb { name: "grade", usage: grade::USAGE, run: grade::run },
];

fn main() -> ExitCode {
    // What is not UTF-8 fits no argument, and is shown in the mistake.
    let arguments = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let arguments: Vec<String> = arguments.collect();
    let Some((name, rest)) = arguments.split_first().filter(|(name, _)| !asks_for_help(name))
    else {
        return print(&VERBS.iter().map(|verb| verb.usage).collect::<String>());
    };
    let Some(verb) = VERBS.iter().find(|verb| verb.name == name) else {
        return mistake(&format!("unknown verb {name:?}; see lab --help"));
    };
    if rest.iter().any(|word| asks_for_help(word)) {
        return print(verb.usage);
    }
    match (verb.run)(rest) {
        Ok(code) => code,
        Err(Failure::Mistake(line)) => mistake(&line),
        Err(Failure::Error(error)) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn asks_for_help(word: &str) -> bool {
    matches!(word, "--help" | "-h")
}

fn print(page: &str) -> ExitCode {
    match io::stdout().write_all(page.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn mistake(line: &str) -> ExitCode {
    eprintln!("lab: {line}");
    ExitCode::from(2)
}

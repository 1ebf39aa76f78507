//! `lab`: the tools around the services. Finds the module or crate of the verb and runs it.

// Counts are far below 2^52, and the targets have 64 bits.
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]

mod bench;
mod load;
mod up;

mod programs;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use tools::process::explain;
use tools::verb::{Failure, Verb};

const VERBS: &[Verb] = &[
    Verb { name: "up", summary: "runs both services", usage: up::USAGE, run: up::run },
    Verb { name: "load", summary: "sends requests", usage: load::USAGE, run: load::run },
    Verb { name: "bench", summary: "measures both services", usage: bench::USAGE, run: bench::run },
    Verb { name: "grade", summary: "marks a checkout", usage: grade::USAGE, run: grade::run },
];

fn main() -> ExitCode {
    // An argument that is not UTF-8 matches no option; the error message shows it.
    let arguments = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let arguments: Vec<String> = arguments.collect();
    let result = match arguments.split_first() {
        None => print(&overview()),
        Some((name, rest)) if is_help(name) => help(rest),
        Some((name, rest)) => run(name, rest),
    };
    match result {
        Ok(code) => code,
        Err(Failure::Mistake(line)) => {
            eprintln!("lab: {line}");
            ExitCode::from(2)
        }
        Err(Failure::Error(error)) => {
            eprintln!("lab: {}", explain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, arguments: &[String]) -> Result<ExitCode, Failure> {
    let verb = find(name)?;
    if arguments.iter().any(|word| matches!(word.as_str(), "--help" | "-h")) {
        return print(verb.usage);
    }
    (verb.run)(arguments)
}

fn help(names: &[String]) -> Result<ExitCode, Failure> {
    match names.first() {
        Some(name) => print(find(name)?.usage),
        None => print(&overview()),
    }
}

fn find(name: &str) -> Result<&'static Verb, String> {
    let verb = VERBS.iter().find(|verb| verb.name == name);
    verb.ok_or_else(|| format!("unknown verb {name:?}; see cargo lab help"))
}

fn is_help(word: &str) -> bool {
    matches!(word, "help" | "--help" | "-h")
}

fn overview() -> String {
    let mut page = "usage: cargo lab VERB [OPTIONS]\n".to_owned();
    for verb in VERBS {
        let _ = writeln!(page, "         {:<7} {}", verb.name, verb.summary);
    }
    page.push_str("       cargo lab help VERB prints the options of a verb.\n");
    page
}

fn print(page: &str) -> Result<ExitCode, Failure> {
    io::stdout().write_all(page.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

//! A verb of the command line: its name, its help and its function.

use std::io;
use std::process::ExitCode;

/// A subcommand.
pub struct Verb {
    /// The name on the command line.
    pub name: &'static str,
    /// One line for the list of verbs.
    pub summary: &'static str,
    /// The page of `--help`.
    pub usage: &'static str,
    /// Runs it with the arguments after its name.
    pub run: fn(&[String]) -> Result<ExitCode, Failure>,
}

/// Why a verb failed, in one line.
pub enum Failure {
    /// A wrong argument: exit code 2.
    Mistake(String),
    /// An error: exit code 1.
    Error(io::Error),
}

impl From<String> for Failure {
    fn from(line: String) -> Failure {
        Failure::Mistake(line)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Error(error)
    }
}

/// The exit code that shells give to a program that a signal has ended.
pub fn interrupted(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(1)
}

//! The marker as a program of its own, for its tests; people run it as `cargo lab grade`.

use std::process::ExitCode;

use tools::verb::Failure;

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    match grade::run(&arguments) {
        Ok(code) => code,
        Err(Failure::Mistake(line)) => {
            eprintln!("grade: {line}");
            ExitCode::from(2)
        }
        Err(Failure::Error(error)) => {
            eprintln!("grade: {error}");
            ExitCode::FAILURE
        }
    }
}

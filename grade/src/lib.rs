//! `lab grade`: marks a deployment of the two services out of 20, as the exercise demands it.
//!
//! Read the modules in this order: a group imports from those below it alone.

// Counts are far below 2^52, and the targets have 64 bits.
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]

mod batch;

mod course;
mod options;

mod inspection;
mod report;

mod marker;

mod progress;

mod checkout;
mod engine;
mod probe;
mod sources;

mod command;
mod context;
mod deployment;
mod dockerfile;
mod environment;
mod host;
mod plan;

mod policy;

mod outcome;
mod paths;

mod rubric;

mod node;
mod words;

use std::fs::File;
use std::io;
use std::process::ExitCode;

use common::rt::{self, Shutdown, Signals};
use common::sys::{self, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use tools::signals::until_signal;
use tools::verb::{Failure, interrupted};

use batch::Batch;
use engine::Engine;
use marker::Marker;
use options::Options;
use progress::Progress;

pub use options::USAGE;

/// The verb.
pub fn run(arguments: &[String]) -> Result<ExitCode, Failure> {
    let options = Options::read(arguments)?;
    Ok(grade(&options)?.into())
}

/// Marks all that the options name; the exit code.
fn grade(options: &Options) -> io::Result<u8> {
    let signals = sys::signals(&[SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGCHLD])?;
    let shutdown = Shutdown::default();
    rt::run(&shutdown, async {
        let signals = Signals::new(signals);
        let engine = match until_signal(&signals, Engine::find()).await? {
            Ok(Ok(engine)) => engine,
            Ok(Err(words)) => {
                eprintln!("grade: {}", words.text(options.lang));
                return Ok(2);
            }
            Err(signal) => return Ok(interrupted(signal)),
        };
        let marker = Marker {
            engine: &engine,
            progress: Progress::new(options.lang),
            allowed: options.allowed.clone(),
            hub: options.hub,
            is_offline: options.is_offline,
            variables: options.variables.clone(),
            build_timeout: options.build_timeout,
            kept_log: options.keep_log.as_ref().map(File::create).transpose()?,
        };
        Batch { options, marker, signals }.run().await
    })?
}

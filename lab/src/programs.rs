//! The programs of both services: cargo builds them, and they are found in its target folder.

use std::env;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::process::Command;

/// The profile of the services, and its folder. A debug build of this program is for its tests, and
/// runs debug builds of the services.
const PROFILE: &str = if cfg!(debug_assertions) { "dev" } else { "release" };
const FOLDER: &str = if cfg!(debug_assertions) { "debug" } else { "release" };
/// The folder of this program's own profile.
const OWN_FOLDER: &str = "lab";

/// Builds both services, if cargo started this program.
pub(crate) fn build() -> io::Result<()> {
    let Some(cargo) = env::var_os("CARGO") else { return Ok(()) };
    if find("api-frontend").is_err() {
        eprintln!(
            "lab: building api-backend and api-frontend, which takes a minute the first time"
        );
    }
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--profile", PROFILE]);
    command.args(["--package", "api-backend", "--package", "api-frontend"]);
    let status = tools::sys::die_with_parent(&mut command).status()?;
    match (status.success(), status.code()) {
        (true, _) => Ok(()),
        (false, Some(code)) => {
            Err(io::Error::other(format!("cargo build ended with exit code {code}")))
        }
        (false, None) => Err(io::Error::other(format!("cargo build ended: {status}"))),
    }
}

/// The program of a service.
pub(crate) fn find(name: &str) -> io::Result<PathBuf> {
    let mut program = env::current_exe()?.with_file_name(name);
    if let Some(folder) = program.parent().filter(|folder| folder.ends_with(OWN_FOLDER)) {
        program = folder.with_file_name(FOLDER).join(name);
    }
    if program.is_file() {
        return Ok(program);
    }
    let line = format!("{} is missing; cargo build --release makes it", program.display());
    Err(io::Error::new(ErrorKind::NotFound, line))
}

//! One service as a child process: how it is started, its health, and how it ended.

use std::cell::Cell;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use common::http::{KeepAlive, Limits};
use common::rt::{self, AsyncFd};
use tools::http::{Connection, Response};
use tools::json::Value;
use tools::process::explain;

use crate::programs;

/// Between two health checks, and for one.
const HEALTH_INTERVAL: Duration = Duration::from_millis(50);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
/// The responses to health checks are far smaller.
const LIMITS: Limits = Limits { head_bytes_max: 4 << 10, body_bytes_max: 4 << 10 };

/// A service, whether it runs or not.
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) colour: u8,
    pub(super) port: u16,
    /// The option of `lab up` that sets the port.
    pub(super) port_option: &'static str,
    program: PathBuf,
    variables: Vec<(&'static str, String)>,
    /// The process, from its start until it was waited for.
    pub(super) pid: Cell<Option<u32>>,
    pub(super) has_been_healthy: Cell<bool>,
}

impl Service {
    pub(super) fn new(
        name: &'static str,
        colour: u8,
        (port_option, port): (&'static str, u16),
        mut variables: Vec<(&'static str, String)>,
    ) -> io::Result<Service> {
        variables.push(("PORT", port.to_string()));
        Ok(Service {
            name,
            colour,
            port,
            port_option,
            program: programs::find(name)?,
            variables,
            pid: Cell::new(None),
            has_been_healthy: Cell::new(false),
        })
    }

    /// Starts the process. Its output is read from the socket.
    pub(super) fn start(&self) -> io::Result<(Child, AsyncFd<UnixStream>)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(&self.program);
        // Some shells set HOST to the name of the machine, which is not an address to listen on.
        command.envs(self.variables.iter().cloned()).env_remove("HOST");
        command.stdin(Stdio::null());
        command.stdout(OwnedFd::from(theirs.try_clone()?)).stderr(OwnedFd::from(theirs));
        // Its own process group: a Ctrl-C on the terminal reaches `lab` alone, which passes it on.
        let child = tools::sys::die_with_parent(command.process_group(0)).spawn()?;
        self.pid.set(Some(child.id()));
        Ok((child, AsyncFd::new(ours)))
    }

    /// Waits until the process is healthy.
    pub(super) async fn healthy(&self) {
        loop {
            let checked = rt::timeout_at(rt::now() + HEALTH_TIMEOUT, self.is_healthy()).await;
            if let Some(Ok(true)) = checked {
                return self.has_been_healthy.set(true);
            }
            rt::sleep_until(rt::now() + HEALTH_INTERVAL).await;
        }
    }

    async fn is_healthy(&self) -> io::Result<bool> {
        let Some(pid) = self.pid.get() else { return Ok(false) };
        let address = (Ipv4Addr::LOCALHOST, self.port).into();
        let deadline = rt::now() + HEALTH_TIMEOUT;
        let mut connection = Connection::open(address, deadline, LIMITS).await?;
        let health = connection.get("/healthz", KeepAlive::Keep).await?;
        // Another process may be healthy on this port, and ours about to find the port in use.
        let Response { body, .. } = connection.get("/version", KeepAlive::Close).await?;
        let version = Value::read(&body).map_err(|fault| io::Error::other(fault.to_string()))?;
        let is_ours = version.get("pid").and_then(Value::number) == Some(f64::from(pid));
        Ok(health.status == 200 && is_ours)
    }
}

/// How a process ended, or why it could not be started.
pub(super) fn describe(end: &io::Result<ExitStatus>) -> String {
    match end.as_ref().map(|status| (status.code(), status.signal())) {
        Ok((Some(code), _)) => format!("ended with exit code {code}"),
        Ok((None, Some(signal))) => format!("ended with signal {signal}"),
        Ok((None, None)) => "ended".to_owned(),
        Err(error) => format!("cannot be started: {}", explain(error)),
    }
}

/// The exit code of `lab up` after a service has failed to start: the service's own, or the one
/// that a shell makes of its signal.
pub(super) fn exit_code(end: &io::Result<ExitStatus>) -> u8 {
    let status = end.as_ref().ok();
    let code = status.and_then(|it| it.code().or(it.signal().map(|signal| 128 + signal)));
    code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code > 0).unwrap_or(1)
}

//! The servers to measure: how each is configured and started, and what the kernel knows of it.

use std::env;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::http::{KeepAlive, Limits};
use tools::contract::{BACKEND, FRONTEND};
use tools::http::Connection;

use crate::programs;

/// A server that has not responded by then has failed to start.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts to get the first response: a small part of any start.
const START_POLL_INTERVAL: Duration = Duration::from_micros(50);
const LIMITS: Limits = Limits { head_bytes_max: 16 << 10, body_bytes_max: 64 << 10 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Responds with the backend's JSON.
    Backend,
    /// Requests a backend for each request.
    Frontend,
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Role::Backend => "backend",
            Role::Frontend => "frontend",
        }
    }
}

/// The cores of the measured server and of the load.
#[derive(Clone, Copy)]
pub(super) struct Cores {
    pub(super) server: usize,
    pub(super) load: usize,
}

impl Cores {
    /// The first and the last core that this process may use.
    pub(super) fn find() -> io::Result<Cores> {
        let status = fs::read_to_string("/proc/self/status")?;
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        // Such as 0-3,8.
        let cores = allowed.unwrap_or_default().trim().split([',', '-']);
        let mut cores = cores.filter_map(|core| core.parse().ok());
        let server = cores.next().unwrap_or_default();
        let load = cores.next_back().unwrap_or(server);
        if load == server {
            eprintln!("lab: server and load share the only core");
        }
        Ok(Cores { server, load })
    }
}

/// A program to measure.
pub(super) struct Peer {
    pub(super) name: &'static str,
    program: PathBuf,
    kind: Kind,
    /// The body of its responses.
    pub(super) body: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Own,
    Nginx,
    Haproxy,
}

/// The settings of one start.
#[derive(Clone, Copy)]
pub(super) struct Server {
    pub(super) role: Role,
    pub(super) port: u16,
    /// Of a frontend.
    pub(super) backend_port: u16,
}

impl Peer {
    /// The peers for a role, our own first.
    pub(super) fn all(role: Role) -> io::Result<Vec<Peer>> {
        let mut peers = vec![Peer::own(role)?];
        for (name, kind) in [("nginx", Kind::Nginx), ("haproxy", Kind::Haproxy)] {
            match find_program(name) {
                // Both pass the backend's response on as it is.
                Some(program) => peers.push(Peer { name, program, kind, body: BACKEND }),
                None => eprintln!(
                    "lab: {name} is left out: it is not installed (apt-get install {name})"
                ),
            }
        }
        Ok(peers)
    }

    /// Our service for a role.
    pub(super) fn own(role: Role) -> io::Result<Peer> {
        let (name, body) = match role {
            Role::Backend => ("api-backend", BACKEND),
            Role::Frontend => ("api-frontend", FRONTEND),
        };
        Ok(Peer { name, program: programs::find(name)?, kind: Kind::Own, body })
    }

    fn command(&self, server: Server) -> io::Result<Command> {
        let mut command = Command::new(&self.program);
        let (port, backend_port) = (server.port.to_string(), server.backend_port.to_string());
        match self.kind {
            Kind::Own => {
                command.envs([("WORKERS", "1"), ("LOG_FORMAT", "off"), ("HOST", "127.0.0.1")]);
                command.envs([("PORT", &port), ("API_BACKEND_PORT", &backend_port)]);
                command.env("API_BACKEND_URL", "127.0.0.1");
            }
            Kind::Nginx => {
                let path = self.configure(server, &nginx_response(server.role))?;
                command.arg("-c").arg(path).args(["-e", "stderr"]);
            }
            Kind::Haproxy => {
                let path = self.configure(server, &haproxy_response(server.role))?;
                command.arg("-db").arg("-f").arg(path);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        tools::sys::die_with_parent(&mut command);
        Ok(command)
    }

    /// Writes the configuration into cargo's target folder, which also holds temporary files.
    fn configure(&self, server: Server, response: &str) -> io::Result<PathBuf> {
        let folder = env::current_exe()?.with_file_name("bench");
        fs::create_dir_all(&folder)?;
        let template = match self.kind {
            Kind::Haproxy => include_str!("haproxy.cfg"),
            _ => include_str!("nginx.conf"),
        };
        let configuration = template
            .replace("FOLDER", &folder.display().to_string())
            .replace("LISTEN_PORT", &server.port.to_string())
            .replace("BACKEND_PORT", &server.backend_port.to_string())
            .replace("RESPONSE", response);
        let path = folder.join(self.name);
        fs::write(&path, configuration)?;
        Ok(path)
    }
}

/// The directive with which nginx responds in a role. As a frontend, it passes on.
fn nginx_response(role: Role) -> String {
    match role {
        Role::Backend => format!("return 200 '{}\\n';", BACKEND.replace('\\', "\\\\")),
        Role::Frontend => "proxy_pass http://backend; proxy_http_version 1.1; \
                           proxy_set_header Connection '';"
            .to_owned(),
    }
}

/// The line with which haproxy responds in a role.
fn haproxy_response(role: Role) -> String {
    match role {
        Role::Backend => format!(
            "http-request return status 200 content-type application/json string '{BACKEND}'"
        ),
        Role::Frontend => "default_backend backend".to_owned(),
    }
}

/// A program in `PATH` or in the folders of system programs.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let mut programs = env::split_paths(&path).chain(system).map(|folder| folder.join(name));
    programs.find(|program| program.is_file())
}

/// A running server. Dropping it kills it.
pub(super) struct Running {
    child: Child,
    address: SocketAddr,
    /// From before fork until the first response.
    pub(super) start_time: Duration,
}

impl Running {
    pub(super) async fn start(
        peer: &Peer,
        server: Server,
        core: Option<usize>,
    ) -> io::Result<Running> {
        let mut command = peer.command(server)?;
        if let Some(core) = core {
            tools::sys::pin(&mut command, core);
        }
        let began = Instant::now();
        let child = command.spawn()?;
        let address = (Ipv4Addr::LOCALHOST, server.port).into();
        let mut running = Running { child, address, start_time: Duration::ZERO };
        while running.connect(1).await.is_err() {
            let error = |reason: String| io::Error::other(format!("{}: {reason}", peer.name));
            if let Some(status) = running.child.try_wait()? {
                return Err(error(format!("it has ended: {status}")));
            }
            if began.elapsed() > START_TIMEOUT {
                return Err(error("it does not respond".to_owned()));
            }
            // Blocks the event loop, whose timers are too coarse. No other task runs.
            thread::sleep(START_POLL_INTERVAL);
        }
        running.start_time = began.elapsed();
        Ok(running)
    }

    /// Opens connections that have had one response each.
    pub(super) async fn connect(&self, count: usize) -> io::Result<Vec<Connection>> {
        let mut connections = Vec::new();
        for _ in 0..count {
            let deadline = Instant::now() + START_TIMEOUT;
            let mut connection = Connection::open(self.address, deadline, LIMITS).await?;
            let response = connection.get("/", KeepAlive::Keep).await?;
            if response.status != 200 {
                return Err(io::Error::other(format!("status {}", response.status)));
            }
            connections.push(connection);
        }
        Ok(connections)
    }

    /// The CPU time of its threads, including the kernel's work for them.
    pub(super) fn cpu_time(&self) -> io::Result<Duration> {
        let mut sum_ns = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let line = fs::read_to_string(thread?.path().join("schedstat"))?;
            let ns = line.split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
            let unsupported = || io::Error::other("the kernel has no schedstat");
            sum_ns += ns.ok_or_else(unsupported)?;
        }
        Ok(Duration::from_nanos(sum_ns))
    }

    pub(super) fn resident_bytes(&self) -> io::Result<u64> {
        tools::process::resident_bytes(self.child.id())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! Servers to be measured: how each is started in a role, and what the kernel says of it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use common::http::Limits;
use common::http::client::ClientConn;

use super::Role;
use tools::contract::{BACKEND, FRONTEND};

/// Whoever has not answered by then has failed to start.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries whether it answers yet: a fraction of what any start takes.
const LOOK: Duration = Duration::from_micros(50);
const LIMITS: Limits = Limits { head_bytes_max: 16 << 10, body_bytes_max: 64 << 10 };

/// Where configurations are written, and on which cores whoever is measured and the load run.
pub(super) struct Workplace {
    folder: PathBuf,
    pub(super) server_core: usize,
    pub(super) load_core: usize,
    /// The signal that has asked to end: then nothing more is to be started.
    pub(super) signal: Arc<OnceLock<i32>>,
}

impl Workplace {
    pub(super) fn new(signal: Arc<OnceLock<i32>>) -> io::Result<Workplace> {
        let status = fs::read_to_string("/proc/self/status")?;
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        // Such as 0-3,8: the first and the last are what is wanted of it.
        let cores = allowed.unwrap_or_default().trim().split([',', '-']);
        let mut cores = cores.filter_map(|core| core.parse().ok());
        let server_core = cores.next().unwrap_or_default();
        let load_core = cores.next_back().unwrap_or(server_core);
        if load_core == server_core {
            eprintln!("lab: there is one core, which server and load share");
        }
        let folder = std::env::temp_dir().join(format!("lab-bench-{}", std::process::id()));
        fs::create_dir(&folder)?;
        Ok(Workplace { folder, server_core, load_core, signal })
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// How to start a server.
pub(super) struct Plan {
    pub(super) name: String,
    program: PathBuf,
    kind: Kind,
}

enum Kind {
    Own,
    Nginx,
    Haproxy,
    Shell(String),
}

/// What a server is to do.
pub(super) struct Setup {
    pub(super) role: Role,
    pub(super) port: u16,
    /// Of a frontend.
    pub(super) backend_port: u16,
}

impl Plan {
    /// One of ours, whose program lies beside this one.
    pub(super) fn own(name: &str) -> io::Result<Plan> {
        let program = std::env::current_exe()?.with_file_name(name);
        Ok(Plan { name: name.to_owned(), program, kind: Kind::Own })
    }

    /// Those whose way of being configured is known here, where they are installed.
    pub(super) fn installed() -> impl Iterator<Item = Plan> {
        [("nginx", Kind::Nginx), ("haproxy", Kind::Haproxy)].into_iter().filter_map(
            |(name, kind)| Some(Plan { name: name.to_owned(), program: find(name)?, kind }),
        )
    }

    pub(super) fn peer(name: &str, command: &str) -> Plan {
        let kind = Kind::Shell(format!("exec {command}"));
        Plan { name: name.to_owned(), program: "/bin/sh".into(), kind }
    }

    fn command(&self, setup: &Setup, workplace: &Workplace) -> io::Result<Command> {
        let mut command = Command::new(&self.program);
        let folder = &workplace.folder;
        match &self.kind {
            Kind::Own => {}
            Kind::Nginx => {
                let path = folder.join(format!("nginx-{}.conf", setup.port));
                fs::write(&path, nginx(setup, folder))?;
                command.arg("-c").arg(path).arg("-e").arg("stderr");
            }
            Kind::Haproxy => {
                let path = folder.join(format!("haproxy-{}.conf", setup.port));
                fs::write(&path, haproxy(setup))?;
                command.arg("-db").arg("-f").arg(path);
            }
            Kind::Shell(line) => {
                command.args(["-c", line]);
            }
        }
        command.envs([("WORKERS", "1"), ("LOG_FORMAT", "off"), ("ROLE", setup.role.name())]);
        command.env("HOST", "127.0.0.1").env("PORT", setup.port.to_string());
        command.env("API_BACKEND_URL", "127.0.0.1");
        command.env("API_BACKEND_PORT", setup.backend_port.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A group of its own, so that all that it starts can be ended with it.
        tools::sys::die_with_parent(command.process_group(0));
        Ok(command)
    }
}

/// What it answers as a backend; as a frontend it only passes on.
fn nginx(setup: &Setup, folder: &Path) -> String {
    let (port, backend_port, folder) = (setup.port, setup.backend_port, folder.display());
    let (upstream, location) = match setup.role {
        Role::Backend => {
            (String::new(), format!("return 200 '{}\\n';", BACKEND.replace('\\', "\\\\")))
        }
        Role::Frontend => (
            format!(
                "upstream backend {{ server 127.0.0.1:{backend_port}; keepalive 1024; \
                 keepalive_requests 1000000000; }}"
            ),
            "proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection '';"
                .to_owned(),
        ),
    };
    format!(
        "daemon off; master_process off; pid {folder}/nginx-{port}.pid; error_log stderr crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
    access_log off; server_tokens off; default_type application/json;
    keepalive_requests 1000000000; keepalive_timeout 600s;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    {upstream}
    server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ {location} }} }}
}}
"
    )
}

/// The same of haproxy.
fn haproxy(setup: &Setup) -> String {
    let (port, backend_port) = (setup.port, setup.backend_port);
    let answer = match setup.role {
        Role::Backend => format!(
            "    http-request return status 200 content-type application/json string '{BACKEND}'\n"
        ),
        Role::Frontend => "    default_backend backend\n".to_owned(),
    };
    format!(
        "global
    nbthread 1
    maxconn 9000
defaults
    mode http
    timeout client 600s
    timeout connect 5s
    timeout server 60s
    maxconn 9000
    http-reuse always
frontend frontend
    bind 127.0.0.1:{port} backlog 4096
{answer}backend backend
    server one 127.0.0.1:{backend_port} pool-max-conn 2048
"
    )
}

/// A program by its name, in the places where servers are installed too.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|it| it.is_file())
}

/// A server that runs. Dropping it ends it.
pub(super) struct Contestant {
    child: Child,
    pub(super) address: SocketAddr,
    /// From before the process was made to its first answer.
    pub(super) took: Duration,
}

impl Contestant {
    pub(super) fn start(
        plan: &Plan,
        setup: &Setup,
        workplace: &Workplace,
        core: Option<usize>,
    ) -> io::Result<Contestant> {
        let mut command = plan.command(setup, workplace)?;
        if let Some(core) = core {
            tools::sys::pin(&mut command, core);
        }
        let address = (Ipv4Addr::LOCALHOST, setup.port).into();
        let began = Instant::now();
        let child = command.spawn()?;
        let mut contestant = Contestant { child, address, took: Duration::ZERO };
        while get(address).is_err() {
            if let Some(status) = contestant.child.try_wait()? {
                return Err(io::Error::other(format!("it ended: {status}")));
            }
            if began.elapsed() > PATIENCE {
                return Err(io::Error::other("it does not answer"));
            }
            thread::sleep(LOOK);
        }
        contestant.took = began.elapsed();
        Ok(contestant)
    }

    /// Whether it answers as this role does, or passes the backend's answer on.
    pub(super) fn gives(&self, role: Role) -> io::Result<bool> {
        let (_socket, body) = get(self.address)?;
        let body = body.trim_ascii_end();
        Ok(match role {
            Role::Backend => body == BACKEND.as_bytes(),
            Role::Frontend => body == FRONTEND.as_bytes() || body == BACKEND.as_bytes(),
        })
    }

    /// Connections that have had one answer each, and stay.
    pub(super) fn idle_connections(&self, count: usize) -> io::Result<Vec<TcpStream>> {
        (0..count).map(|_| get(self.address).map(|(socket, _)| socket)).collect()
    }

    /// What its processes have had of a processor, the kernel's work for them included.
    pub(super) fn cpu_time(&self) -> io::Result<Duration> {
        let mut sum_ns = 0;
        for pid in self.processes()? {
            for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                let line = fs::read_to_string(thread?.path().join("schedstat"))?;
                let ns = line.split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
                sum_ns += ns.ok_or_else(|| io::Error::other("the kernel keeps no schedstat"))?;
            }
        }
        Ok(Duration::from_nanos(sum_ns))
    }

    /// The memory that its processes occupy; what they share counts for each.
    pub(super) fn resident_bytes(&self) -> io::Result<u64> {
        self.processes()?.into_iter().map(tools::process::resident_bytes).sum()
    }

    /// The size of its program's file, without the libraries that it may need.
    pub(super) fn program_bytes(&self) -> io::Result<u64> {
        Ok(fs::metadata(format!("/proc/{}/exe", self.child.id()))?.len())
    }

    /// Its process, and all that this has started.
    fn processes(&self) -> io::Result<Vec<u32>> {
        let mut found = vec![self.child.id()];
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            next += 1;
            for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                let children = fs::read_to_string(thread?.path().join("children"))?;
                found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        Ok(found)
    }
}

impl Drop for Contestant {
    fn drop(&mut self) {
        // Its whole group, and at once: nobody waits for an answer any more.
        let _ = tools::sys::kill_group(self.child.id());
        let _ = self.child.wait();
    }
}

/// Asks once; the connection and the body of the answer, which must be a 200.
fn get(address: SocketAddr) -> io::Result<(TcpStream, Vec<u8>)> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut call = ClientConn::new(LIMITS);
    call.request(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes());
    socket.write_all(call.outgoing())?;
    call.sent(call.outgoing().len());
    let mut bytes = [0; 4096];
    loop {
        match call.response().map_err(|error| io::Error::other(error.to_string()))? {
            Some(answer) if answer.status == 200 => return Ok((socket, answer.body.to_vec())),
            Some(answer) => return Err(io::Error::other(format!("status {}", answer.status))),
            None => {}
        }
        match socket.read(&mut bytes)? {
            0 => call.close(),
            count => call.receive(bytes.get(..count).unwrap_or_default()),
        }
    }
}

//! `lab bench`: measures both services, and other servers in the same roles, on this machine. The
//! servers take turns under the load of `lab load`, so that a machine that is busy with other work
//! is busy for all of them. The table shows medians of the rounds.

mod peer;
mod table;

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::process::{Command, ExitCode, Stdio};

use common::rt::{self, Shutdown};
use common::sys;
use tools::arguments::Arguments;
use tools::json::Value;
use tools::process::free_port;
use tools::verb::Failure;

use crate::programs;
use peer::{Cores, Peer, Role, Running, Server};
use table::{Measure, Panel};

pub(crate) const USAGE: &str = "\
usage: cargo lab bench [--rounds N] [--json]
       Measures api-backend and api-frontend, and nginx and haproxy in the same roles where they
       are installed: CPU time under several loads, latency at 2,000 requests a second, memory with
       idle connections, and the time from exec to the first response. Each server has one worker
       on the first core. The load generator, and the backend of a frontend, run on the last core.
       The log is off. Takes five minutes. Exit code 1 if a request failed.
         --rounds N  rounds; the table shows their medians (5)
         --json      the figures of all rounds as one JSON object
";

/// The loads under which CPU time is measured, with the options of `lab load`.
const LOADS: [(&str, &[&str]); 5] = [
    ("64 connections", &["--connections", "64"]),
    ("256 connections", &["--connections", "256"]),
    ("1,024 connections", &["--connections", "1024"]),
    ("16 pipelined on each of 64", &["--connections", "64", "--pipeline", "16"]),
    ("a new connection for each", &["--connections", "32", "--close"]),
];
const LOAD_SECONDS: u64 = 1;
/// Latency is measured for longer: the rarest percentile must be that of several requests.
const LATENCY_SECONDS: u64 = 3;
const LATENCY_LOAD: [&str; 4] = ["--connections", "64", "--rate", "2000"];
const PERCENTILES: [&str; 3] = ["p50", "p99", "p99.9"];
const IDLE_CONNECTIONS: [(&str, usize); 2] = [("idle", 0), ("5,000 idle connections", 5_000)];
/// Starts in each round. Each takes a few milliseconds.
const STARTS: usize = 5;

/// Runs the verb.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode, Failure> {
    let options = Options::read(arguments)?;
    programs::build()?;
    sys::raise_descriptor_limit()?;
    let panels = rt::run(&Shutdown::default(), async {
        let cores = Cores::find()?;
        let backend = measure(&options, Role::Backend, cores).await?;
        Ok::<_, io::Error>([backend, measure(&options, Role::Frontend, cores).await?])
    })??;
    let page = if options.is_json { table::json(&panels) } else { table::text(&panels) };
    io::stdout().write_all(page.as_bytes())?;
    let has_failed = panels.iter().any(|panel| panel.failed > 0.0);
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

struct Options {
    rounds: usize,
    is_json: bool,
}

impl Options {
    fn read(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options { rounds: 5, is_json: false };
        let mut arguments = Arguments::new(arguments);
        while let Some(word) = arguments.next_word()? {
            match word {
                "--rounds" => options.rounds = arguments.number(1, 100)? as usize,
                "--json" => options.is_json = true,
                _ => return Err(arguments.unknown("bench")),
            }
        }
        Ok(options)
    }
}

/// The measures, in the order of the figures that `measure_once` returns.
fn measures() -> Vec<Measure> {
    let group = |group, decimals, names: &[&'static str]| {
        names.iter().map(|&name| Measure { group, name, decimals }).collect()
    };
    let groups: [Vec<Measure>; 4] = [
        group("CPU seconds for 100,000 requests", 3, &LOADS.map(|(name, _)| name)),
        group("latency at 2,000 requests a second, ms", 3, &PERCENTILES),
        group("memory, MB", 1, &IDLE_CONNECTIONS.map(|(name, _)| name)),
        group("start, ms", 1, &["exec to first response"]),
    ];
    groups.concat()
}

/// Measures all servers in one role.
async fn measure(options: &Options, role: Role, cores: Cores) -> io::Result<Panel> {
    let backend_port = free_port()?;
    let _backend = match role {
        Role::Backend => None,
        Role::Frontend => {
            let server = Server { role: Role::Backend, port: backend_port, backend_port };
            let backend = Peer::own(Role::Backend)?;
            Some(Running::start(&backend, server, Some(cores.load)).await?)
        }
    };
    let peers = Peer::all(role)?;
    let mut figures = vec![Vec::new(); peers.len()];
    let mut failed = 0.0;
    for round in 0..options.rounds {
        for turn in 0..peers.len() {
            // Another peer goes first in each round.
            let index = (round + turn) % peers.len();
            let (peer, rounds) = (&peers[index], options.rounds);
            eprintln!("lab: {}, round {} of {rounds}: {}", role.name(), round + 1, peer.name);
            let result = measure_once(peer, role, backend_port, cores).await?;
            figures[index].push(result.figures);
            failed += result.failed;
        }
    }
    let names = peers.iter().map(|peer| peer.name).collect();
    Ok(Panel { role: role.name(), measures: measures(), names, figures, failed })
}

/// One round of one server.
struct Round {
    /// A figure for each of `measures`.
    figures: Vec<f64>,
    failed: f64,
}

async fn measure_once(
    peer: &Peer,
    role: Role,
    backend_port: u16,
    cores: Cores,
) -> io::Result<Round> {
    // Starts use any core, because the client that waits for the response needs one as well; and a
    // new port each, because the kernel searches the closed connections of a port.
    let mut start_times_ms = Vec::new();
    for _ in 0..STARTS {
        let server = Server { role, port: free_port()?, backend_port };
        let started = Running::start(peer, server, None).await?;
        start_times_ms.push(started.start_time.as_secs_f64() * 1e3);
    }
    let server = Server { role, port: free_port()?, backend_port };
    let running = Running::start(peer, server, Some(cores.server)).await?;
    let mut memory_mb = Vec::new();
    for (_, count) in IDLE_CONNECTIONS {
        let _idle = running.connect(count).await?;
        memory_mb.push(running.resident_bytes()? as f64 / 1e6);
    }
    let (mut cpu_seconds, mut failed) = (Vec::new(), 0.0);
    for (_, flags) in LOADS {
        let before = running.cpu_time()?;
        let report = load(peer, server.port, LOAD_SECONDS, flags, cores)?;
        let spent = running.cpu_time()?.saturating_sub(before);
        cpu_seconds.push(spent.as_secs_f64() / report.responses * 1e5);
        failed += report.failed;
    }
    let report = load(peer, server.port, LATENCY_SECONDS, &LATENCY_LOAD, cores)?;
    failed += report.failed;
    let latencies_ms = report.latencies_us.map(|us| us / 1e3).to_vec();
    let start_ms = table::median(&start_times_ms);
    let figures = [cpu_seconds, latencies_ms, memory_mb, vec![start_ms]].concat();
    Ok(Round { figures, failed })
}

/// The report of one `lab load`.
struct LoadReport {
    responses: f64,
    failed: f64,
    latencies_us: [f64; PERCENTILES.len()],
}

fn load(
    peer: &Peer,
    port: u16,
    seconds: u64,
    flags: &[&str],
    cores: Cores,
) -> io::Result<LoadReport> {
    let mut command = Command::new(std::env::current_exe()?);
    let url = format!("http://{}:{port}/", Ipv4Addr::LOCALHOST);
    command.args(["load", &url, "--json", "--expect", peer.body]);
    command.args(["--seconds", &seconds.to_string()]).args(flags);
    tools::sys::pin(&mut command, cores.load);
    let output = tools::sys::die_with_parent(&mut command).stderr(Stdio::inherit()).output()?;
    let error = || io::Error::other("lab load has printed no report");
    let report = Value::read(&output.stdout).map_err(|_| error())?;
    let number = |path: &str| report.at(path).and_then(Value::number);
    Ok(LoadReport {
        responses: number("responses").ok_or_else(error)?,
        failed: number("failed").ok_or_else(error)?,
        latencies_us: PERCENTILES
            .map(|name| number(&format!("latency_us/{name}")).unwrap_or(f64::NAN)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let read = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            Options::read(&words).map(|options| (options.rounds, options.is_json))
        };
        assert_eq!(read(&["--rounds", "2", "--json"]), Ok((2, true)));
        assert_eq!(read(&[]), Ok((5, false)));
        let line = "unknown argument \"fast\"; see cargo lab bench --help";
        assert_eq!(read(&["fast"]), Err(line.to_owned()));
    }
}

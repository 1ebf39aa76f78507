//! `lab bench`: measures both services beside other servers in the same roles, on this machine, in
//! one run. All are loaded by `lab load`, in turn, so that a machine that is busy with other things
//! is so for all of them; what is shown are medians of the rounds.

mod contestant;
mod table;

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;

use common::rt::{self, Shutdown, Signals};
use common::sys::{self, SIGINT, SIGTERM};
use tools::arguments::Arguments;
use tools::json::Value;
use tools::process::free_port;
use tools::verb::{Failure, interrupted};

use contestant::{Contestant, Plan, Setup, Workplace};
use table::{Column, Panel};

pub(crate) const USAGE: &str = "\
usage: lab bench [--rounds N] [--seconds N] [--rate N] [--peer NAME=COMMAND]... [--json] [--svg FILE]
       Measures api-backend and api-frontend beside nginx and haproxy, where those are installed,
       and any other server: CPU time for each request under several loads, latency at a fixed
       rate, memory with idle connections, and the time from exec to the first answer. One worker
       on the first core; the load, and the backend behind a frontend, on the last one. The log is
       off. Some minutes; exit code 1 if a server failed a request.
         --rounds N   rounds, of which the medians are shown (5)
         --seconds N  of each load in each round, and of the one for latencies three times as many (1)
         --rate N     requests a second for the latencies (2000)
         --peer NAME=COMMAND
                      another server, by a shell command that finds PORT (to listen on at
                      127.0.0.1), ROLE (backend or frontend), API_BACKEND_URL and API_BACKEND_PORT
                      in its environment; it is left out of a role whose JSON it does not give
         --json       the figures as one JSON object
         --svg FILE   a picture of the CPU times
";

/// One server's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It answers the backend's JSON by itself.
    Backend,
    /// It asks a backend for each request.
    Frontend,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Backend => "backend",
            Role::Frontend => "frontend",
        }
    }
}

/// The loads under which CPU time is measured.
const LOADS: [(&str, &[&str]); 5] = [
    ("64 conns.", &["--connections", "64"]),
    ("256 conns.", &["--connections", "256"]),
    ("1,024 conns.", &["--connections", "1024"]),
    ("16 deep", &["--connections", "64", "--pipeline", "16"]),
    ("new conns.", &["--connections", "32", "--close"]),
];
const LATENCIES: [&str; 3] = ["p50", "p99", "p99.9"];
/// Idle connections with which memory is measured.
const IDLE: [(&str, usize); 3] = [("idle", 0), ("1,000 idle", 1_000), ("5,000 idle", 5_000)];
/// Starts in each round, which take a few milliseconds each.
const STARTS: usize = 5;

/// The verb.
pub(crate) fn run(words: &[String]) -> Result<ExitCode, Failure> {
    let order = Order::read(words)?;
    Ok(bench(&order)?)
}

#[derive(Debug)]
struct Order {
    rounds: usize,
    seconds: u64,
    rate: u64,
    peers: Vec<(String, String)>,
    json: bool,
    svg: Option<PathBuf>,
}

impl Order {
    fn read(words: &[String]) -> Result<Order, String> {
        let mut order =
            Order { rounds: 5, seconds: 1, rate: 2000, peers: Vec::new(), json: false, svg: None };
        let mut arguments = Arguments::new(words);
        while let Some(word) = arguments.next_word()? {
            match word {
                "--rounds" => order.rounds = arguments.number(1, 100)? as usize,
                "--seconds" => order.seconds = arguments.number(1, 60)?,
                "--rate" => order.rate = arguments.number(1, 1_000_000)?,
                "--peer" => {
                    let value = arguments.value("NAME=COMMAND")?;
                    let (name, command) = value
                        .split_once('=')
                        .filter(|(name, command)| !name.is_empty() && !command.is_empty())
                        .ok_or_else(|| format!("--peer holds {value:?}; it takes NAME=COMMAND"))?;
                    order.peers.push((name.to_owned(), command.to_owned()));
                }
                "--json" => order.json = true,
                "--svg" => order.svg = Some(arguments.value("a file")?.into()),
                _ => return Err(arguments.unknown("bench")),
            }
        }
        Ok(order)
    }
}

fn bench(order: &Order) -> io::Result<ExitCode> {
    crate::up::build()?;
    sys::raise_descriptor_limit()?;
    // Before any thread starts: they inherit what is blocked.
    let signals = sys::signals(&[SIGINT, SIGTERM])?;
    let signalled = Arc::<OnceLock<i32>>::default();
    let workplace = Workplace::new(Arc::clone(&signalled))?;
    thread::spawn(move || {
        let next = async { Signals::new(signals).next().await };
        if let Ok(Ok(signal)) = rt::run(&Shutdown::default(), next) {
            let _ = signalled.set(signal);
        }
    });
    let roles = [Role::Backend, Role::Frontend].into_iter();
    let panels: io::Result<Vec<_>> = roles.map(|role| measure(order, role, &workplace)).collect();
    if let Some(&signal) = workplace.signal.get() {
        return Ok(interrupted(signal).into());
    }
    let panels = panels?;
    let page = if order.json { table::json(&panels) } else { table::text(&panels) };
    io::stdout().write_all(page.as_bytes())?;
    if let Some(path) = &order.svg {
        fs::write(path, table::svg(&panels))
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    }
    let failed = panels.iter().any(|panel| panel.failed > 0.0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// All figures of one role.
fn measure(order: &Order, role: Role, workplace: &Workplace) -> io::Result<Panel> {
    let behind = match role {
        Role::Backend => None,
        Role::Frontend => Some(Contestant::start(
            &Plan::own("api-backend")?,
            &Setup { role: Role::Backend, port: free_port()?, backend_port: 0 },
            workplace,
            Some(workplace.load_core),
        )?),
    };
    let backend_port = behind.as_ref().map_or(0, |backend| backend.address.port());
    let mut plans = vec![Plan::own(match role {
        Role::Backend => "api-backend",
        Role::Frontend => "api-frontend",
    })?];
    plans.extend(Plan::installed());
    plans.extend(order.peers.iter().map(|(name, command)| Plan::peer(name, command)));

    let mut columns: Vec<Column> =
        table::columns(&LOADS.map(|(name, _)| name), &LATENCIES, &IDLE.map(|(name, _)| name));
    let mut entries = Vec::new();
    for plan in plans {
        let setup = Setup { role, port: free_port()?, backend_port };
        match Contestant::start(&plan, &setup, workplace, Some(workplace.server_core)) {
            Ok(contestant) if contestant.gives(role)? => entries.push((plan, setup)),
            Ok(_) => eprintln!(
                "lab: {} is left out: it does not give the {}'s JSON",
                plan.name,
                role.name()
            ),
            Err(error) => eprintln!("lab: {} is left out: {error}", plan.name),
        }
    }
    for column in &mut columns {
        column.figures = vec![Vec::new(); entries.len()];
    }
    let mut failed = 0.0;
    for round in 0..order.rounds {
        for turn in 0..entries.len() {
            let which = (round + turn) % entries.len();
            let (plan, setup) = &entries[which];
            let (role, name, rounds) = (role.name(), &plan.name, order.rounds);
            eprintln!("lab: {role}, round {} of {rounds}: {name}", round + 1);
            let round = measure_once(order, plan, setup, workplace)?;
            failed += round.failed;
            for (id, figure) in round.figures {
                let column = columns.iter_mut().find(|column| column.id == id);
                column.expect("every figure has its column").figures[which].push(figure);
            }
        }
    }
    let names = entries.into_iter().map(|(plan, _)| plan.name).collect();
    Ok(Panel { role: role.name(), rate: order.rate, names, columns, failed })
}

/// What one round came to for one server.
struct Round {
    figures: Vec<(table::Id, f64)>,
    /// Requests.
    failed: f64,
}

fn measure_once(
    order: &Order,
    plan: &Plan,
    setup: &Setup,
    workplace: &Workplace,
) -> io::Result<Round> {
    let (mut figures, mut failed) = (Vec::new(), 0.0);
    // On any core, as whoever waits for the first answer needs one too; and on a port of its own,
    // as the kernel looks through all connections that a port has had lately.
    for _ in 0..STARTS {
        let setup = Setup { port: free_port()?, ..*setup };
        let started = Contestant::start(plan, &setup, workplace, None)?;
        figures.push((Column::START, started.took.as_secs_f64() * 1e3));
    }
    let server = Contestant::start(plan, setup, workplace, Some(workplace.server_core))?;
    figures.push((Column::FILE, server.program_bytes()? as f64 / 1e6));
    for (number, (_, idle)) in IDLE.into_iter().enumerate() {
        let _held = server.idle_connections(idle)?;
        figures.push((Column::memory(number), server.resident_bytes()? as f64 / 1e6));
    }
    for (number, (_, flags)) in LOADS.iter().enumerate() {
        let before = server.cpu_time()?;
        let result = load(server.address, order.seconds, flags, workplace)?;
        let spent = server.cpu_time()?.saturating_sub(before);
        failed += result.failed;
        let each = spent.as_secs_f64() / result.answers;
        figures.push((Column::cpu(number), each * 1e5));
    }
    let rate = order.rate.to_string();
    let flags = ["--connections", "64", "--rate", &rate];
    // The rarest of the latencies shall still be those of several requests.
    let result = load(server.address, 3 * order.seconds, &flags, workplace)?;
    failed += result.failed;
    for (number, micros) in result.latencies_us.into_iter().enumerate() {
        figures.push((Column::latency(number), micros / 1e3));
    }
    Ok(Round { figures, failed })
}

/// What one load came to.
struct Loaded {
    answers: f64,
    failed: f64,
    latencies_us: [f64; LATENCIES.len()],
}

fn load(
    server: SocketAddr,
    seconds: u64,
    flags: &[&str],
    workplace: &Workplace,
) -> io::Result<Loaded> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([
        "load",
        &format!("http://{server}/"),
        "--seconds",
        &seconds.to_string(),
        "--json",
    ]);
    tools::sys::pin(&mut command, workplace.load_core);
    let output =
        tools::sys::die_with_parent(command.args(flags)).stderr(Stdio::inherit()).output()?;
    if workplace.signal.get().is_some() {
        return Err(io::ErrorKind::Interrupted.into());
    }
    let broken = || io::Error::other("lab load did not say what it measured");
    let result = Value::read(&output.stdout).map_err(|_| broken())?;
    let number = |value: &Value<'_>, name: &str| value.get(name).and_then(Value::number);
    let latencies = result.get("latency_us").ok_or_else(broken)?;
    Ok(Loaded {
        answers: number(&result, "answers").ok_or_else(broken)?,
        failed: number(&result, "failed").ok_or_else(broken)?,
        latencies_us: LATENCIES.map(|name| number(latencies, name).unwrap_or(f64::NAN)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_and_mistakes_told() {
        let read = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            Order::read(&words)
        };
        let order = read(&["--peer", "a=b --c=d", "--peer=e=f", "--rounds", "2"]).unwrap();
        let peers = [("a", "b --c=d"), ("e", "f")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!((order.rounds, &order.peers[..]), (2, &peers[..]));
        for (words, line) in [
            (&["--peer", "a"][..], "--peer holds \"a\"; it takes NAME=COMMAND"),
            (&["--peer", "=b"], "--peer holds \"=b\"; it takes NAME=COMMAND"),
            (&["--rounds", "0"], "--rounds holds \"0\"; it takes a whole number, 1 to 100"),
            (&["fast"], "unknown argument \"fast\"; see lab bench --help"),
        ] {
            assert_eq!(read(words).err().as_deref(), Some(line));
        }
    }
}

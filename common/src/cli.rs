//! The settings of a service: variables and flags to a checked `Config`, and the `--help` page.
//! Each error is one line that names the setting, its value and the values that it takes.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::net::IpAddr;

/// A setting of a service.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The environment variable; the flag has the same name in lower case, with dashes.
    pub variable: &'static str,
    /// The values that it takes.
    pub kind: Kind,
    /// The value if none is given; `None` makes the setting required.
    pub default: Option<&'static str>,
    /// Its effect, and the reason for the default.
    pub help: &'static str,
}

/// The values that a setting takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// An address to listen on.
    Address,
    /// A port to listen on.
    Port,
    /// A port to connect to, which cannot be 0.
    PeerPort,
    /// The name or address of a host to connect to.
    Host,
    /// A whole number within these bounds.
    Number(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
}

/// The identity of a service and its settings.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Its purpose, in one sentence.
    pub summary: &'static str,
    /// It sends requests to a backend.
    pub has_backend: bool,
    /// Its settings, table after table.
    pub settings: &'static [&'static [Setting]],
}

/// The command to run.
#[derive(Debug)]
pub enum Command {
    /// Serve.
    Serve(Config),
    /// Check the health of the running service.
    Healthcheck(Config),
    /// Print this text.
    Print(String),
}

/// The checked values of the settings.
#[derive(Debug)]
pub struct Config(Vec<(&'static str, String)>);

impl Config {
    /// The value of a setting.
    pub fn text(&self, variable: &str) -> &str {
        let found = self.0.iter().find(|(name, _)| *name == variable);
        found.map(|(_, value)| value.as_str()).expect("a setting of the table")
    }

    /// The value of a number.
    pub fn number(&self, variable: &str) -> u64 {
        self.text(variable).parse().expect("a checked number")
    }

    /// The value of a port.
    pub fn port(&self, variable: &str) -> u16 {
        self.text(variable).parse().expect("a checked port")
    }
}

/// The settings that a health check reads. A wrong value of another must not make it fail.
const HEALTHCHECK_SETTINGS: [&str; 2] = ["HOST", "PORT"];

/// Parses the arguments (without the program's name) and the environment. A flag takes precedence
/// over its variable, and an empty variable counts as not set. The error is the line to print.
///
/// `process_1` has the arguments of process 1 of the container if it is this program: a health
/// check follows its flags.
pub fn read(
    about: &About,
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
    process_1: impl FnOnce() -> Vec<OsString>,
) -> Result<Command, String> {
    let arguments: Vec<String> = arguments.into_iter().map(|it| text(&it)).collect();
    let has = |names: [&str; 2]| arguments.iter().any(|it| names.contains(&it.as_str()));
    if has(["--help", "-h"]) {
        return Ok(Command::Print(help(about)));
    }
    if has(["--version", "-V"]) {
        return Ok(Command::Print(format!("{} {}\n", about.name, about.version)));
    }
    if !has(["healthcheck"; 2]) {
        return Ok(Command::Serve(config(about, &flags(about, arguments)?, variable, |_| true)?));
    }
    let process_1 = process_1().iter().map(|it| text(it)).collect();
    let mut all = flags(about, process_1).unwrap_or_default();
    all.extend(flags(about, arguments.into_iter().filter(|it| it != "healthcheck").collect())?);
    let is_needed = |setting: &Setting| HEALTHCHECK_SETTINGS.contains(&setting.variable);
    Ok(Command::Healthcheck(config(about, &all, variable, is_needed)?))
}

type Flags = Vec<(&'static str, String)>;

/// The variables of the flags, and their values.
fn flags(about: &About, arguments: Vec<String>) -> Result<Flags, String> {
    let mut flags = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let mut settings = about.settings.iter().copied().flatten();
        let setting = settings.find(|setting| setting.flag() == name);
        let setting =
            setting.ok_or_else(|| format!("unknown argument {argument:?}; see --help"))?;
        let missing = || format!("{name} needs a value: {}", setting.kind.takes());
        flags.push((setting.variable, value.or_else(|| arguments.next()).ok_or_else(missing)?));
    }
    Ok(flags)
}

/// The checked values of the settings that are needed.
fn config(
    about: &About,
    flags: &Flags,
    variable: impl Fn(&str) -> Option<OsString>,
    is_needed: impl Fn(&Setting) -> bool,
) -> Result<Config, String> {
    let mut values = Vec::new();
    for setting in about.settings.iter().copied().flatten().filter(|setting| is_needed(setting)) {
        let flag = flags.iter().rfind(|(name, _)| *name == setting.variable);
        let given = match flag {
            Some((_, value)) => Some((setting.flag(), value.clone())),
            None => variable(setting.variable)
                .map(|value| (setting.variable.to_owned(), text(&value)))
                .filter(|(_, value)| !value.is_empty()),
        };
        let takes = || setting.kind.takes();
        let value = match (given, setting.default) {
            (Some((name, value)), _) => setting.kind.check(&value).ok_or_else(|| {
                format!("{name} holds {value:?}; it takes {}{}", takes(), injected(&name, &value))
            })?,
            (None, Some(default)) => default.to_owned(),
            (None, None) => {
                return Err(format!("{} is not set; it takes {}", setting.variable, takes()));
            }
        };
        values.push((setting.variable, value));
    }
    Ok(Config(values))
}

/// Names the platform that has set a variable to the address of a service.
fn injected(name: &str, value: &str) -> &'static str {
    if !(name.ends_with("_PORT") && value.starts_with("tcp://")) {
        return "";
    }
    ". Kubernetes (for a Service of that name) or Docker's --link has set it: set it yourself, or \
     turn that off with enableServiceLinks: false"
}

/// Bytes that are not UTF-8 fit no setting, and are shown in the error.
fn text(value: &OsStr) -> String {
    value.to_string_lossy().into_owned()
}

impl Setting {
    fn flag(&self) -> String {
        format!("--{}", self.variable.to_ascii_lowercase().replace('_', "-"))
    }
}

impl Kind {
    /// The values that it takes, in words.
    pub fn takes(self) -> String {
        match self {
            Kind::Address => "an IP address".to_owned(),
            Kind::Port => "a port, 0 to 65535 (0: any free one)".to_owned(),
            Kind::PeerPort => "a port, 1 to 65535".to_owned(),
            Kind::Host => "a host name or an IP address, without scheme, port and path".to_owned(),
            Kind::Number(min, max) => format!("a whole number, {min} to {max}"),
            Kind::Word(words) => words.join(" or "),
        }
    }

    /// The value as the service sees it; `None` if the setting does not take it.
    pub fn check(self, value: &str) -> Option<String> {
        let fits = match self {
            Kind::Address => value.parse::<IpAddr>().is_ok(),
            Kind::Port => number(value).is_some_and(|port| port <= 65535),
            Kind::PeerPort => number(value).is_some_and(|port| (1..=65535).contains(&port)),
            Kind::Host => return host(value).map(str::to_owned),
            Kind::Number(min, max) => number(value).is_some_and(|n| (min..=max).contains(&n)),
            Kind::Word(words) => words.contains(&value),
        };
        fits.then(|| value.to_owned())
    }
}

/// Digits only: `str::parse` would take a sign.
fn number(value: &str) -> Option<u64> {
    value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok())?
}

/// The host in a value. `http://` before it and `/` behind it are ignored.
fn host(value: &str) -> Option<&str> {
    let host = value.strip_prefix("http://").unwrap_or(value);
    let host = host.strip_suffix('/').unwrap_or(host);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_name = |host: &str| {
        let label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        (1..=253).contains(&host.len()) && host.bytes().all(label)
    };
    match bare.parse::<IpAddr>() {
        Ok(_) => Some(bare),
        Err(_) => is_name(host).then_some(host),
    }
}

fn help(about: &About) -> String {
    let name = about.name;
    let mut page = format!(
        "{name} {}: {}\n\nusage: {name} [FLAGS]              serve\n       {name} healthcheck [FLAGS]  \
         request GET /healthz of the service that runs here; exit 0 or 1\n       {name} --help | \
         --version\n\nEach setting is a variable and a flag; the flag takes precedence, and \
         an empty variable counts as not set.\n",
        about.version, about.summary,
    );
    for setting in about.settings.iter().copied().flatten() {
        let default =
            setting.default.map_or("required".to_owned(), |value| format!("default {value}"));
        let (variable, flag, takes) = (setting.variable, setting.flag(), setting.kind.takes());
        let _ = write!(page, "\n  {variable}, {flag}\n      {takes}; {default}\n");
        for line in setting.help.lines() {
            let _ = writeln!(page, "      {line}");
        }
    }
    page.push_str(
        "\nexit codes: 0 success, 1 failure, 2 wrong setting, 130 or 143 after a second signal\n",
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About = About {
        name: "it",
        version: "1.2.3",
        summary: "does it.",
        has_backend: false,
        settings: &[&[
            Setting { variable: "HOST", kind: Kind::Address, default: Some("::"), help: "" },
            Setting { variable: "PORT", kind: Kind::Port, default: Some("8001"), help: "" },
            Setting { variable: "PEER", kind: Kind::Host, default: None, help: "peer" },
            Setting { variable: "PEER_PORT", kind: Kind::PeerPort, default: Some("1"), help: "" },
            Setting {
                variable: "WAIT_MS",
                kind: Kind::Number(1, 60_000),
                default: Some("50"),
                help: "first\nsecond",
            },
            Setting {
                variable: "COLOR",
                kind: Kind::Word(&["on", "off"]),
                default: Some("on"),
                help: "",
            },
        ]],
    };

    fn reading(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Command, String> {
        reading_with(arguments, variables, &[])
    }

    fn reading_with(
        arguments: &[&str],
        variables: &[(&str, &str)],
        process_1: &[&str],
    ) -> Result<Command, String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        };
        read(&ABOUT, arguments.iter().map(OsString::from), variable, || {
            process_1.iter().map(OsString::from).collect()
        })
    }

    #[test]
    fn prefers_flags_to_variables_and_variables_to_defaults() {
        let variables = [("PEER", "b"), ("PORT", "1"), ("WAIT_MS", ""), ("COLOR", "off")];
        let arguments = ["--port", "2", "--port=3"];
        let Ok(Command::Serve(config)) = reading(&arguments, &variables) else { panic!() };
        assert_eq!(config.number("PORT"), 3);
        assert_eq!(config.number("WAIT_MS"), 50);
        assert_eq!(config.text("COLOR"), "off");
        assert_eq!(config.text("HOST"), "::");
    }

    #[test]
    fn an_error_names_the_setting_its_value_and_the_values_it_takes() {
        for (arguments, variables, line) in [
            (
                &[][..],
                &[][..],
                "PEER is not set; it takes a host name or an IP address, without scheme, port and path",
            ),
            (
                &[],
                &[("PEER", "")],
                "PEER is not set; it takes a host name or an IP address, without scheme, port and path",
            ),
            (
                &[],
                &[("PEER", "b"), ("PORT", "+80")],
                "PORT holds \"+80\"; it takes a port, 0 to 65535 (0: any free one)",
            ),
            (
                &[],
                &[("PEER", "b"), ("PORT", "65536")],
                "PORT holds \"65536\"; it takes a port, 0 to 65535 (0: any free one)",
            ),
            (
                &[],
                &[("PEER", "b"), ("PEER_PORT", "0")],
                "PEER_PORT holds \"0\"; it takes a port, 1 to 65535",
            ),
            (
                &["--wait-ms", "0"],
                &[("PEER", "b")],
                "--wait-ms holds \"0\"; it takes a whole number, 1 to 60000",
            ),
            (
                &["--wait-ms"],
                &[("PEER", "b")],
                "--wait-ms needs a value: a whole number, 1 to 60000",
            ),
            (&["--color=red\n"], &[("PEER", "b")], "--color holds \"red\\n\"; it takes on or off"),
            (
                &[],
                &[("PEER", "b"), ("HOST", "here")],
                "HOST holds \"here\"; it takes an IP address",
            ),
            (
                &[],
                &[("PEER", "b"), ("PORT", "tcp://10.0.0.1:80")],
                "PORT holds \"tcp://10.0.0.1:80\"; it takes a port, 0 to 65535 (0: any free one)",
            ),
            (
                &[],
                &[("PEER", "b"), ("PEER_PORT", "tcp://10.0.0.1:80")],
                "PEER_PORT holds \"tcp://10.0.0.1:80\"; it takes a port, 1 to 65535. Kubernetes (for \
                 a Service of that name) or Docker's --link has set it: set it yourself, or turn \
                 that off with enableServiceLinks: false",
            ),
            (&["serve"], &[("PEER", "b")], "unknown argument \"serve\"; see --help"),
        ] {
            assert_eq!(reading(arguments, variables).unwrap_err(), line);
        }
    }

    #[test]
    fn ignores_the_scheme_and_the_slash_of_a_host_alone() {
        for (value, host) in [
            ("api-backend", Some("api-backend")),
            ("http://api-backend", Some("api-backend")),
            ("http://api-backend/", Some("api-backend")),
            ("api_backend.example.", Some("api_backend.example.")),
            ("127.0.0.1", Some("127.0.0.1")),
            ("::1", Some("::1")),
            ("[::1]", Some("::1")),
            ("https://api-backend", None),
            ("api-backend:8001", None),
            ("api-backend/path", None),
            ("http://", None),
            ("a b", None),
            ("a\r\nX: y", None),
            ("h\u{e9}", None),
            ("", None),
        ] {
            assert_eq!(super::host(value), host, "{value:?}");
        }
    }

    #[test]
    fn a_health_check_reads_host_and_port_alone() {
        let variables = [("PORT", "9"), ("WAIT_MS", "wrong")];
        for (arguments, process_1, port) in [
            (&["healthcheck"][..], &[][..], 9),
            // The flags of process 1 take precedence over variables, its own over those.
            (&["healthcheck"], &["--port=7", "--peer", "b"], 7),
            (&["healthcheck", "--port", "8"], &["--port=7"], 8),
            (&["--port", "8", "healthcheck"], &["--port=7"], 8),
            // Process 1 is another program.
            (&["healthcheck"], &["-c", "sleep"], 9),
        ] {
            let found = reading_with(arguments, &variables, process_1);
            let Ok(Command::Healthcheck(config)) = found else { panic!("{found:?}") };
            assert_eq!(config.port("PORT"), port, "{arguments:?} {process_1:?}");
            assert_eq!(config.text("HOST"), "::");
        }
        assert!(reading(&["healthcheck"], &[("PORT", "x")]).is_err());
    }

    #[test]
    fn help_lists_each_setting_with_its_flag_and_default() {
        let Ok(Command::Print(page)) = reading(&["--help"], &[]) else { panic!() };
        for part in [
            "it 1.2.3: does it.",
            "PEER, --peer\n",
            "required",
            "--wait-ms",
            "default 50",
            "      first\n      second\n",
        ] {
            assert!(page.contains(part), "{part:?} in {page}");
        }
        let Ok(Command::Print(version)) = reading(&["-V"], &[]) else { panic!() };
        assert_eq!(version, "it 1.2.3\n");
    }
}

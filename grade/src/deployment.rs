//! What the engine's and Compose's documents say of a deployment, as data. Nothing is run here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tools::json::Value;

use crate::words::{Words, words};

/// One of the two services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Backend,
    Frontend,
}

impl Role {
    pub(crate) const BOTH: [Role; 2] = [Role::Backend, Role::Frontend];

    /// What the exercise calls it, as a service and as a folder.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Backend => "api-backend",
            Role::Frontend => "api-frontend",
        }
    }

    pub(crate) fn port(self) -> u16 {
        match self {
            Role::Backend => 8001,
            Role::Frontend => 8000,
        }
    }

    fn other(self) -> Role {
        match self {
            Role::Backend => Role::Frontend,
            Role::Frontend => Role::Backend,
        }
    }
}

/// A container, as `docker inspect` shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Its service's name in the compose file.
    pub(crate) service: String,
    /// The image's name as the compose file has it, and its id.
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) variables: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) arguments: Vec<String>,
    pub(crate) user: String,
    pub(crate) has_health_check: bool,
    pub(crate) capabilities_dropped: Vec<String>,
    pub(crate) restart_policy: String,
    pub(crate) network_mode: String,
    /// `links` and `extra_hosts`, wherever the engine keeps them.
    pub(crate) links: Vec<String>,
    pub(crate) extra_hosts: Vec<String>,
    pub(crate) endpoints: Vec<Endpoint>,
    /// The container's ports that are published, and where.
    pub(crate) published: Vec<(u16, u16)>,
    pub(crate) state: State,
}

/// A container's place on a network.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Endpoint {
    pub(crate) network: String,
    pub(crate) address: Option<IpAddr>,
    /// The address that the compose file asks for, if it does.
    pub(crate) fixed_address: Option<String>,
}

/// What changes while a container lives.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    pub(crate) status: String,
    pub(crate) pid: i64,
    pub(crate) exit_code: i64,
    pub(crate) restarts: i64,
    /// RFC 3339 without the zone, which is always `Z`: as text, earlier is less.
    pub(crate) started_at: String,
}

/// The value behind a path of keys, such as `State/Pid`; the whole value behind an empty one.
pub(crate) fn at<'a, 'b>(value: &'a Value<'b>, path: &str) -> Option<&'a Value<'b>> {
    path.split_terminator('/').try_fold(value, |value, key| value.get(key))
}

/// The text behind a path; empty where there is none.
pub(crate) fn text(value: &Value, path: &str) -> String {
    at(value, path).and_then(Value::text).unwrap_or_default().into_owned()
}

/// The texts of a list behind a path.
pub(crate) fn texts(value: &Value, path: &str) -> Vec<String> {
    let items = at(value, path).map(Value::items).unwrap_or_default();
    items.iter().filter_map(|item| Some(item.text()?.into_owned())).collect()
}

/// The members of an object behind a path.
pub(crate) fn members<'a, 'b>(value: &'a Value<'b>, path: &str) -> Vec<(String, &'a Value<'b>)> {
    match at(value, path) {
        Some(Value::Object(members)) => {
            members.iter().map(|(key, value)| (key.decode().into_owned(), value)).collect()
        }
        _ => Vec::new(),
    }
}

/// The whole number behind a path; 0 where there is none.
fn number(value: &Value, path: &str) -> i64 {
    match at(value, path) {
        Some(Value::Number(digits)) => digits.parse().unwrap_or_default(),
        _ => 0,
    }
}

impl Container {
    /// All that `docker inspect` shows; `None` if that is not what it writes.
    pub(crate) fn read_all(inspected: &[u8]) -> Option<Vec<Container>> {
        match Value::read(inspected).ok()? {
            Value::Array(containers) => Some(containers.iter().map(Container::read).collect()),
            _ => None,
        }
    }

    fn read(value: &Value) -> Container {
        let endpoints = members(value, "NetworkSettings/Networks");
        let links = endpoints.iter().flat_map(|(_, endpoint)| texts(endpoint, "Links"));
        let check = texts(value, "Config/Healthcheck/Test");
        let policy = text(value, "HostConfig/RestartPolicy/Name");
        Container {
            id: text(value, "Id"),
            name: text(value, "Name").trim_start_matches('/').to_owned(),
            service: text(value, "Config/Labels/com.docker.compose.service"),
            image: text(value, "Config/Image"),
            image_id: text(value, "Image"),
            variables: texts(value, "Config/Env"),
            entrypoint: texts(value, "Config/Entrypoint"),
            arguments: texts(value, "Config/Cmd"),
            user: text(value, "Config/User"),
            has_health_check: check.first().is_some_and(|first| first != "NONE"),
            capabilities_dropped: texts(value, "HostConfig/CapDrop"),
            restart_policy: if policy.is_empty() { "no".to_owned() } else { policy },
            network_mode: text(value, "HostConfig/NetworkMode"),
            links: links.chain(texts(value, "HostConfig/Links")).collect(),
            extra_hosts: texts(value, "HostConfig/ExtraHosts"),
            published: published(value),
            state: State::read(value),
            endpoints: endpoints.into_iter().map(Endpoint::read).collect(),
        }
    }

    /// A variable's value, the last one if it is there twice.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        let mut pairs = self.variables.iter().rev().filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Whether this port of the host leads to it.
    pub(crate) fn publishes(&self, port: u16) -> bool {
        self.published.iter().any(|(_, host)| *host == port)
    }

    /// Where it takes connections to one of its ports: where the exercise wants it, or else, if it
    /// is not published there, on its own network, which this machine is on as well.
    pub(crate) fn door(&self, port: u16) -> Option<SocketAddr> {
        if self.publishes(port) {
            return Some((Ipv4Addr::LOCALHOST, port).into());
        }
        let address = self.endpoints.iter().find_map(|it| it.address);
        address.map(|address| (address, port).into())
    }

    /// Its own port behind one of the host's; the same one if that is not published.
    pub(crate) fn inner_port(&self, port: u16) -> u16 {
        self.published.iter().find(|(_, host)| *host == port).map_or(port, |(inner, _)| *inner)
    }

    /// Whether it runs, or the engine is about to start it again.
    pub(crate) fn lives(&self) -> bool {
        matches!(&*self.state.status, "running" | "restarting")
    }
}

impl Endpoint {
    fn read((network, value): (String, &Value)) -> Endpoint {
        let fixed = ["IPAMConfig/IPv4Address", "IPAMConfig/IPv6Address"];
        let fixed = fixed.map(|path| text(value, path));
        Endpoint {
            network,
            address: text(value, "IPAddress").parse().ok(),
            fixed_address: fixed.into_iter().find(|address| !address.is_empty()),
        }
    }
}

impl State {
    fn read(value: &Value) -> State {
        State {
            status: text(value, "State/Status"),
            pid: number(value, "State/Pid"),
            exit_code: number(value, "State/ExitCode"),
            restarts: number(value, "RestartCount"),
            started_at: text(value, "State/StartedAt").trim_end_matches('Z').to_owned(),
        }
    }
}

/// What the compose file asks for, whether the container runs or not.
fn published(value: &Value) -> Vec<(u16, u16)> {
    let mut ports = Vec::new();
    for (port, bindings) in members(value, "HostConfig/PortBindings") {
        let port = port.split('/').next().and_then(|port| port.parse().ok());
        for binding in bindings.items() {
            ports.extend(port.zip(text(binding, "HostPort").parse().ok()));
        }
    }
    ports
}

/// Who of them is the service: by its name, else by what it does, else the one of two that is not
/// the other service.
pub(crate) fn find(containers: &[Container], role: Role) -> Option<&Container> {
    let other = role.other();
    let named = containers.iter().find(|it| it.service == role.name());
    let mut free = containers.iter().filter(|it| it.service != other.name());
    let mut rest = containers.iter().filter(|it| it.service != other.name() && !does(it, other));
    named.or_else(|| free.find(|it| does(it, role))).or_else(|| match rest.next() {
        Some(one) if containers.len() == 2 && rest.next().is_none() => Some(one),
        _ => None,
    })
}

/// Whether a container does what that service does: it takes its port, or asks a backend.
fn does(container: &Container, role: Role) -> bool {
    let port = role.port();
    let takes = container.published.iter().any(|(inner, host)| *inner == port || *host == port);
    takes || role == Role::Frontend && container.variable("API_BACKEND_URL").is_some()
}

/// What is wrong with the backend's host as the frontend is told it.
pub(crate) fn host_defect(frontend: &Container) -> Option<Words> {
    let Some(host) = frontend.variable("API_BACKEND_URL").filter(|host| !host.is_empty()) else {
        return Some(words("API_BACKEND_URL is not set", "API_BACKEND_URL n'est pas définie"));
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() {
        return Some(words(
            format!("API_BACKEND_URL is an address: {host}"),
            format!("API_BACKEND_URL est une adresse : {host}"),
        ));
    }
    // Docker takes underscores in names, though RFC 1123 does not.
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (!host.chars().all(fits)).then(|| {
        words(
            format!("API_BACKEND_URL is not a host name alone: {host}"),
            format!("API_BACKEND_URL n'est pas un simple nom d'hôte : {host}"),
        )
    })
}

/// What is wrong with the backend's port as the frontend is told it.
pub(crate) fn port_defect(frontend: &Container) -> Option<Words> {
    match frontend.variable("API_BACKEND_PORT") {
        None | Some("") => {
            Some(words("API_BACKEND_PORT is not set", "API_BACKEND_PORT n'est pas définie"))
        }
        Some(port) if !matches!(port.parse::<u16>(), Ok(1..)) => Some(words(
            format!("API_BACKEND_PORT is not a port: {port}"),
            format!("API_BACKEND_PORT n'est pas un port : {port}"),
        )),
        Some(_) => None,
    }
}

/// What is wrong with how the backend is found.
pub(crate) fn finding_defect(backend: &Container, frontend: &Container) -> Option<Words> {
    for container in [frontend, backend] {
        let service = &container.service;
        let fixed = container.endpoints.iter().find_map(|it| it.fixed_address.as_ref());
        if let Some(link) = container.links.first() {
            return Some(words(
                format!("{service} has links: {link}"),
                format!("{service} a des links : {link}"),
            ));
        }
        if let Some(entry) = container.extra_hosts.first() {
            return Some(words(
                format!("{service} has extra_hosts: {entry}"),
                format!("{service} a des extra_hosts : {entry}"),
            ));
        }
        if let Some(address) = fixed {
            return Some(words(
                format!("{service} has a fixed address: {address}"),
                format!("{service} a une adresse fixe : {address}"),
            ));
        }
    }
    None
}

/// The networks that both are on.
pub(crate) fn common_networks<'a>(a: &'a Container, b: &Container) -> Vec<&'a str> {
    let on_both = |one: &&Endpoint| b.endpoints.iter().any(|other| other.network == one.network);
    a.endpoints.iter().filter(on_both).map(|endpoint| &*endpoint.network).collect()
}

/// Whether an image's name means the tag `latest`: said, or left out.
pub(crate) fn is_latest(image: &str) -> bool {
    // A colon before the last slash is a registry's port; `@` begins a digest.
    let name = image.rsplit('/').next().unwrap_or_default();
    !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// Namespace and name, if this is an address on Docker Hub.
pub(crate) fn on_hub(url: &str) -> Option<(&str, &str)> {
    let url = url.trim();
    let url = url.strip_prefix("https://").or(url.strip_prefix("http://")).unwrap_or(url);
    let path = url.strip_prefix("www.").unwrap_or(url).strip_prefix("hub.docker.com/")?;
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let namespace = match parts.next()? {
        "r" => parts.next()?,
        "repository" => {
            parts.next()?;
            parts.next()?
        }
        namespace => namespace,
    };
    let name = parts.next()?;
    let fits = |part: &str| {
        part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
    };
    (fits(namespace) && fits(name)).then_some((namespace, name))
}

/// The services of `docker-compose config`, each with what is said of its build.
pub(crate) struct Build {
    pub(crate) service: String,
    /// The image's name, if it is given one.
    pub(crate) image: String,
    pub(crate) context: String,
    /// Relative to the context; empty for `Dockerfile`.
    pub(crate) dockerfile: String,
    pub(crate) target: String,
    pub(crate) arguments: Vec<(String, String)>,
}

impl Build {
    pub(crate) fn read_all(config: &Value) -> Vec<Build> {
        let services = members(config, "services").into_iter();
        services.map(|(service, spec)| Build::read(service, spec)).collect()
    }

    fn read(service: String, spec: &Value) -> Build {
        let arguments = members(spec, "build/args")
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.text()?.into_owned())));
        let listed = texts(spec, "build/args").into_iter();
        let listed = listed.filter_map(|pair| {
            pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        });
        let short = spec.get("build").and_then(Value::text);
        Build {
            service,
            image: text(spec, "image"),
            context: short
                .map_or_else(|| text(spec, "build/context"), std::borrow::Cow::into_owned),
            dockerfile: text(spec, "build/dockerfile"),
            target: text(spec, "build/target"),
            arguments: arguments.chain(listed).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Lang;

    fn container(service: &str) -> Container {
        Container { service: service.to_owned(), ..Container::default() }
    }

    fn names(containers: &[Container]) -> [Option<&str>; 2] {
        Role::BOTH.map(|role| find(containers, role).map(|it| &*it.service))
    }

    #[test]
    fn services_are_found_by_name_and_else_by_what_they_do() {
        let published =
            |service, port| Container { published: vec![(port, port)], ..container(service) };
        let asking = |service| Container {
            variables: vec!["API_BACKEND_URL=x".to_owned()],
            ..container(service)
        };
        for (containers, expected) in [
            (
                vec![container("api-backend"), container("api-frontend")],
                ["api-backend", "api-frontend"],
            ),
            // A name goes before a port.
            (
                vec![published("api-backend", 8000), published("api-frontend", 8001)],
                ["api-backend", "api-frontend"],
            ),
            (vec![published("b", 8001), published("f", 8000), container("db")], ["b", "f"]),
            (
                vec![published("api-backend", 8001), asking("f"), container("db")],
                ["api-backend", "f"],
            ),
            (vec![container("b"), asking("f")], ["b", "f"]),
            (vec![published("f", 8000), container("b")], ["b", "f"]),
        ] {
            assert_eq!(names(&containers), expected.map(Some));
        }
        assert_eq!(names(&[]), [None, None]);
        assert_eq!(names(&[container("a"), container("b")]), [None, None]);
        assert_eq!(names(&[container("api-frontend")]), [None, Some("api-frontend")]);
    }

    #[test]
    fn a_host_is_a_name_alone_and_a_port_a_number() {
        let told = |name: &str, value: Option<&str>| Container {
            variables: value.map(|value| format!("{name}={value}")).into_iter().collect(),
            ..Container::default()
        };
        let seen = |defect: Option<Words>| defect.map(|it| it.text(Lang::English).to_owned());
        for (host, defect) in [
            (Some("api-backend"), None),
            (Some("back_end.local"), None),
            (None, Some("API_BACKEND_URL is not set")),
            (Some(""), Some("API_BACKEND_URL is not set")),
            (Some("10.0.0.2"), Some("API_BACKEND_URL is an address: 10.0.0.2")),
            (Some("[::1]"), Some("API_BACKEND_URL is an address: [::1]")),
            (Some("http://b"), Some("API_BACKEND_URL is not a host name alone: http://b")),
            (Some("b:8001"), Some("API_BACKEND_URL is not a host name alone: b:8001")),
            (Some("b/"), Some("API_BACKEND_URL is not a host name alone: b/")),
        ] {
            let seen = seen(host_defect(&told("API_BACKEND_URL", host)));
            assert_eq!(seen.as_deref(), defect, "{host:?}");
        }
        for (port, fits) in [
            (Some("8001"), true),
            (None, false),
            (Some("0"), false),
            (Some("65536"), false),
            (Some("a"), false),
        ] {
            assert_eq!(port_defect(&told("API_BACKEND_PORT", port)).is_none(), fits, "{port:?}");
        }
    }

    #[test]
    fn latest_is_said_or_left_out() {
        for (image, latest) in [
            ("api", true),
            ("ns/api:latest", true),
            ("localhost:5000/ns/api", true),
            ("localhost:5000/ns/api:1.0", false),
            ("ns/api:1.0", false),
            ("ns/api@sha256:0", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }

    #[test]
    fn an_address_on_docker_hub_has_a_namespace_and_a_name() {
        for (url, found) in [
            ("https://hub.docker.com/r/ns/name", Some(("ns", "name"))),
            ("hub.docker.com/r/ns/name/tags", Some(("ns", "name"))),
            ("http://hub.docker.com/repository/docker/ns/name/general", Some(("ns", "name"))),
            ("https://hub.docker.com/ns/name/", Some(("ns", "name"))),
            ("https://hub.docker.com/r/ns/name?tab=tags", Some(("ns", "name"))),
            ("https://hub.docker.com/r/ns", None),
            ("https://hub.docker.com/", None),
            ("https://hub.docker.com.evil.example/r/ns/name", None),
            ("https://github.com/ns/name", None),
            ("https://hub.docker.com/r/<ns>/name", None),
            ("", None),
        ] {
            assert_eq!(on_hub(url), found, "{url}");
        }
    }

    fn recorded(name: &str, file: &str) -> [Container; 2] {
        let path = format!("{}/tests/fixtures/recorded/{name}/{file}", env!("CARGO_MANIFEST_DIR"));
        let document = std::fs::read(&path).expect(&path);
        let containers = Container::read_all(&document).expect("what docker inspect writes");
        Role::BOTH.map(|role| find(&containers, role).expect("both are there").clone())
    }

    #[test]
    fn what_the_engine_was_recorded_to_say_is_read() {
        let [backend, frontend] = recorded("good", "containers.json");
        assert_eq!((backend.inner_port(8001), backend.publishes(8000)), (8001, false));
        assert_eq!(backend.door(8001), Some(([127, 0, 0, 1], 8001).into()));
        assert_eq!((&*backend.restart_policy, backend.state.restarts), ("always", 0));
        assert_eq!((&*backend.image, &*backend.user), ("student/api-backend", ""));
        assert_eq!((&*frontend.arguments[0], frontend.has_health_check), ("python3", false));
        assert!(backend.state.started_at < frontend.state.started_at, "{backend:?}");
        assert!(backend.lives() && frontend.lives());
        assert_eq!(common_networks(&backend, &frontend).len(), 1);
        for defect in [host_defect, port_defect] {
            assert_eq!(defect(&frontend), None);
        }
        assert_eq!(finding_defect(&backend, &frontend), None);
    }

    #[test]
    fn links_and_fixed_addresses_are_seen_where_the_engine_keeps_them() {
        for (name, part) in
            [("links", "api-frontend has links: "), ("static-addresses", "10.231.87.4")]
        {
            let [backend, frontend] = recorded(name, "containers.json");
            let defect = finding_defect(&backend, &frontend).expect(name);
            assert!(defect.text(Lang::English).contains(part), "{defect:?}");
        }
    }

    #[test]
    fn a_crash_shows_in_the_state() {
        let before = recorded("good", "containers.json");
        for (before, after) in before.iter().zip(recorded("good", "crashed.json")) {
            assert_eq!(before.id, after.id);
            assert!(after.state.restarts > before.state.restarts, "{after:?}");
            assert!(after.state.started_at > before.state.started_at, "{after:?}");
        }
        let [_, frontend] = recorded("no-restart", "crashed.json");
        assert_eq!((&*frontend.restart_policy, frontend.lives()), ("no", false));
        assert_eq!(frontend.state.exit_code, 1);
    }
}

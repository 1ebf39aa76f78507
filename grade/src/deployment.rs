//! A deployment as data: containers as the engine shows them, and builds of a configuration. Nothing
//! is run here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tools::json::Value;

use crate::node::{Dollars, Node};
use crate::words::{Words, words};

/// One of the two services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Backend,
    Frontend,
}

impl Role {
    pub(crate) const BOTH: [Role; 2] = [Role::Backend, Role::Frontend];

    /// Its name in the exercise, as a service and as a folder.
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
    pub(crate) working_dir: String,
    /// With its count, such as `on-failure:1`.
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

/// The state of a container, which changes while it lives.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    pub(crate) status: String,
    pub(crate) pid: i64,
    pub(crate) exit_code: i64,
    pub(crate) restarts: i64,
    /// RFC 3339 without the zone, which is always `Z`: as text, earlier is less.
    pub(crate) started_at: String,
    /// Why the engine could not start it, if it could not.
    pub(crate) error: String,
}

/// The scalars of a list behind a path.
fn texts(node: &Node, path: &str) -> Vec<String> {
    let items = node.at(path).map(Node::items).unwrap_or_default();
    items.iter().filter_map(Node::scalar).collect()
}

/// The whole number behind a path; 0 where there is none.
fn number(node: &Node, path: &str) -> i64 {
    node.scalar_at(path).parse().unwrap_or_default()
}

fn members<'a>(node: &'a Node, path: &str) -> &'a [(String, Node)] {
    node.at(path).map(Node::members).unwrap_or_default()
}

impl Container {
    /// All that `docker inspect` shows; `None` if that is not what it writes.
    pub(crate) fn read_all(inspected: &[u8]) -> Option<Vec<Container>> {
        match Value::read(inspected).ok()? {
            Value::Array(containers) => {
                let containers = containers.iter().map(|it| Node::from(it, Dollars::Single));
                Some(containers.map(|container| Container::read(&container)).collect())
            }
            _ => None,
        }
    }

    fn read(value: &Node) -> Container {
        let endpoints = members(value, "NetworkSettings/Networks");
        let links = endpoints.iter().flat_map(|(_, endpoint)| texts(endpoint, "Links"));
        let check = texts(value, "Config/Healthcheck/Test");
        let policy = value.scalar_at("HostConfig/RestartPolicy/Name");
        Container {
            id: value.scalar_at("Id"),
            name: value.scalar_at("Name").trim_start_matches('/').to_owned(),
            service: value.scalar_at("Config/Labels/com.docker.compose.service"),
            image: value.scalar_at("Config/Image"),
            image_id: value.scalar_at("Image"),
            variables: texts(value, "Config/Env"),
            entrypoint: texts(value, "Config/Entrypoint"),
            arguments: texts(value, "Config/Cmd"),
            user: value.scalar_at("Config/User"),
            has_health_check: check.first().is_some_and(|first| first != "NONE"),
            capabilities_dropped: texts(value, "HostConfig/CapDrop"),
            working_dir: value.scalar_at("Config/WorkingDir"),
            restart_policy: match (
                &*policy,
                number(value, "HostConfig/RestartPolicy/MaximumRetryCount"),
            ) {
                ("", _) => "no".to_owned(),
                (name, 0) => name.to_owned(),
                (name, count) => format!("{name}:{count}"),
            },
            network_mode: value.scalar_at("HostConfig/NetworkMode"),
            links: links.chain(texts(value, "HostConfig/Links")).collect(),
            extra_hosts: texts(value, "HostConfig/ExtraHosts"),
            published: published(value),
            state: State::read(value),
            endpoints: endpoints.iter().map(Endpoint::read).collect(),
        }
    }

    /// A variable's value, the last one if it is there twice.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        let mut pairs = self.variables.iter().rev().filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Returns true if this port of the host leads to it.
    pub(crate) fn publishes(&self, port: u16) -> bool {
        self.published.iter().any(|(_, host)| *host == port)
    }

    /// Where it takes connections to one of its ports: where the exercise wants it, or else, if it
    /// is not published there, on its own network, which this machine is on as well. `None` while
    /// it does not run: its port may be that of another program then.
    pub(crate) fn address(&self, port: u16) -> Option<SocketAddr> {
        if self.state.status != "running" {
            return None;
        }
        if self.publishes(port) {
            return Some((Ipv4Addr::LOCALHOST, port).into());
        }
        if let Some(host) = self.outer_port(port) {
            return Some((Ipv4Addr::LOCALHOST, host).into());
        }
        let address = self.endpoints.iter().find_map(|it| it.address);
        address.map(|address| (address, port).into())
    }

    /// Its own port behind one of the host's; the same one if that is not published.
    pub(crate) fn inner_port(&self, port: u16) -> u16 {
        self.published.iter().find(|(_, host)| *host == port).map_or(port, |(inner, _)| *inner)
    }

    /// The port of the host that one of its own is published at.
    pub(crate) fn outer_port(&self, port: u16) -> Option<u16> {
        let found = self.published.iter().find(|(inner, _)| *inner == port);
        found.map(|(_, host)| *host)
    }

    /// Where a container that publishes one port is reached; `None` while it does not run.
    pub(crate) fn published_address(&self) -> Option<SocketAddr> {
        let (_, host) = self.published.first().filter(|_| self.state.status == "running")?;
        Some((Ipv4Addr::LOCALHOST, *host).into())
    }

    /// Returns true if it runs, or the engine is about to start it again.
    pub(crate) fn lives(&self) -> bool {
        matches!(&*self.state.status, "running" | "restarting")
    }
}

impl Endpoint {
    fn read((network, value): &(String, Node)) -> Endpoint {
        let fixed = ["IPAMConfig/IPv4Address", "IPAMConfig/IPv6Address"];
        let fixed = fixed.map(|path| value.scalar_at(path));
        Endpoint {
            network: network.clone(),
            address: value.scalar_at("IPAddress").parse().ok(),
            fixed_address: fixed.into_iter().find(|address| !address.is_empty()),
        }
    }
}

impl State {
    fn read(value: &Node) -> State {
        State {
            status: value.scalar_at("State/Status"),
            pid: number(value, "State/Pid"),
            exit_code: number(value, "State/ExitCode"),
            restarts: number(value, "RestartCount"),
            started_at: value.scalar_at("State/StartedAt").trim_end_matches('Z').to_owned(),
            error: value.scalar_at("State/Error"),
        }
    }
}

/// The ports that the engine has published; while the container is down, those that it will.
fn published(value: &Node) -> Vec<(u16, u16)> {
    let path = match &*value.scalar_at("State/Status") {
        "running" => "NetworkSettings/Ports",
        _ => "HostConfig/PortBindings",
    };
    let mut ports = Vec::new();
    for (inner, bindings) in members(value, path) {
        let Some((inner, "tcp")) = inner.split_once('/') else { continue };
        for binding in bindings.items() {
            // Of a range the engine takes the first port that is free.
            let host = binding.scalar_at("HostPort");
            let host = host.split('-').next().unwrap_or_default();
            if let (Ok(inner), Ok(host @ 1..)) = (inner.parse(), host.parse())
                && !ports.contains(&(inner, host))
            {
                ports.push((inner, host));
            }
        }
    }
    ports
}

/// The container of a service: by its name, else by what it does, else the one of two that is not
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

/// Returns true if a container does what that service does: it takes its port, or has a backend.
fn does(container: &Container, role: Role) -> bool {
    let port = role.port();
    let takes = container.published.iter().any(|(inner, host)| *inner == port || *host == port);
    takes || role == Role::Frontend && container.variable("API_BACKEND_URL").is_some()
}

/// The defect of the backend's host as the frontend is told it.
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

/// The defect of the backend's port as the frontend is told it.
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

/// The defect of how the backend is found.
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

/// Returns true if an image's name means the tag `latest`: said, or left out.
pub(crate) fn is_latest(image: &str) -> bool {
    // A colon before the last slash is a registry's port; `@` begins a digest.
    let name = image.rsplit('/').next().unwrap_or_default();
    !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// Namespace and name, if this is an address on Docker Hub in one of these forms, with `https://`,
/// `http://` or none before the host, and with anything behind a further `/`, `?` or `#`:
/// `hub.docker.com/r/NS/NAME`, `hub.docker.com/repository/docker/NS/NAME`; or without a host, as
/// `docker pull` takes it: `NS/NAME[:TAG]`, `docker.io/NS/NAME[:TAG]`.
pub(crate) fn on_hub(url: &str) -> Option<(&str, &str)> {
    let url = url.trim();
    let with_scheme = url.strip_prefix("https://").or(url.strip_prefix("http://"));
    let bare = with_scheme.unwrap_or(url);
    let (namespace, name) = match bare.strip_prefix("hub.docker.com/") {
        Some(path) => {
            let path = path.split(['?', '#']).next().unwrap_or_default();
            let path = path.strip_prefix("r/").or(path.strip_prefix("repository/docker/"))?;
            let mut parts = path.split('/');
            (parts.next()?, parts.next()?)
        }
        None if with_scheme.is_none() => {
            let (namespace, name) =
                bare.strip_prefix("docker.io/").unwrap_or(bare).split_once('/')?;
            (namespace, name.split_once(':').map_or(name, |(name, _)| name))
        }
        None => return None,
    };
    let fits = |part: &str, joints: &str| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || joints.contains(c);
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(fits)
    };
    // A dot in the first part is another registry's host.
    (fits(namespace, "-_") && fits(name, "-_.")).then_some((namespace, name))
}

/// A compose file of containers that run, of what the engine knows of them.
pub(crate) fn plan_of(containers: &[&Container]) -> Node {
    let list = |texts: &[String]| Node::List(texts.iter().map(Node::text).collect());
    let services = containers.iter().map(|it| {
        let mut service = Node::map([
            ("image", Node::text(&it.image_id)),
            ("command", list(&it.arguments)),
            ("environment", list(&it.variables)),
        ]);
        if !it.entrypoint.is_empty() {
            service.set("entrypoint", list(&it.entrypoint));
        }
        for (key, value) in [("user", &it.user), ("working_dir", &it.working_dir)] {
            if !value.is_empty() {
                service.set(key, Node::text(value));
            }
        }
        (it.service.clone(), service)
    });
    Node::map([("services", Node::Map(services.collect()))])
}

/// Returns true if the backend is started before the frontend by what the configuration says.
pub(crate) fn is_ordered(config: &Node, backend: &str, frontend: &str) -> bool {
    let services = config.at("services");
    let needed_by = |name: &str| -> Vec<String> {
        let Some(service) = services.and_then(|services| services.at(name)) else {
            return Vec::new();
        };
        let mut needed: Vec<String> = Vec::new();
        for key in ["depends_on", "links", "volumes_from"] {
            needed.extend(members(service, key).iter().map(|(name, _)| name.clone()));
            let listed = texts(service, key).into_iter();
            needed.extend(listed.filter_map(|it| Some(it.split(':').next()?.to_owned())));
        }
        for key in ["network_mode", "pid", "ipc"] {
            let mode = service.scalar_at(key);
            needed.extend(mode.strip_prefix("service:").map(str::to_owned));
        }
        needed
    };
    let (mut known, mut at) = (needed_by(frontend), 0);
    while let Some(name) = known.get(at).cloned() {
        at += 1;
        for name in needed_by(&name) {
            if !known.contains(&name) {
                known.push(name);
            }
        }
    }
    known.iter().any(|name| name == backend)
}

/// Returns true if two entries of a configuration want the same port of the host.
pub(crate) fn publishes_twice(config: &Node) -> bool {
    let mut taken: Vec<String> = Vec::new();
    for (_, service) in members(config, "services") {
        for entry in service.at("ports").map(Node::items).unwrap_or_default() {
            let host = match entry.scalar() {
                Some(short) => {
                    let parts: Vec<&str> = short.split(':').collect();
                    parts.len().checked_sub(2).map_or("", |it| parts[it]).to_owned()
                }
                None => entry.scalar_at("published"),
            };
            if !host.is_empty() && taken.contains(&host) {
                return true;
            }
            taken.push(host);
        }
    }
    false
}

/// A service's image as the configuration has it.
pub(crate) struct Build {
    pub(crate) service: String,
    /// The image's name, if it is given one.
    pub(crate) image: String,
    /// Empty if the service builds nothing.
    pub(crate) context: String,
    /// Relative to the context; empty if the compose file names none.
    pub(crate) dockerfile: String,
    pub(crate) target: String,
    pub(crate) arguments: Vec<(String, String)>,
}

impl Build {
    pub(crate) fn read_all(config: &Node) -> Vec<Build> {
        let services = members(config, "services").iter();
        services
            .map(|(service, spec)| Build {
                service: service.clone(),
                image: spec.scalar_at("image"),
                context: spec.scalar_at("build/context"),
                dockerfile: spec.scalar_at("build/dockerfile"),
                target: spec.scalar_at("build/target"),
                arguments: spec.at("build/args").map(Node::pairs).unwrap_or_default(),
            })
            .collect()
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
            ("https://hub.docker.com/r/ns/name?tab=tags", Some(("ns", "name"))),
            ("ns/name", Some(("ns", "name"))),
            (" ns/name:latest ", Some(("ns", "name"))),
            ("docker.io/ns/name:1.0", Some(("ns", "name"))),
            ("https://hub.docker.com/ns/name/", None),
            ("https://hub.docker.com/u/name", None),
            ("hub.docker.com/u/ns/name", None),
            ("https://docker.io/ns/name", None),
            ("ghcr.io/ns/name", None),
            ("quay.io/name", None),
            ("localhost:5000/name", None),
            ("ns/name/more", None),
            ("NS/name", None),
            ("name", None),
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

    fn config(services: &str) -> Node {
        let json = format!("{{\"services\": {services}}}");
        Node::from(&Value::read(json.as_bytes()).expect(services), Dollars::Doubled)
    }

    #[test]
    fn the_configuration_says_which_service_is_started_first() {
        for (services, is_ordered) in [
            (r#"{"b": {}, "f": {"depends_on": ["b"]}}"#, true),
            (r#"{"b": {}, "f": {"depends_on": {"b": {"condition": "service_started"}}}}"#, true),
            (r#"{"b": {}, "c": {"depends_on": ["b"]}, "f": {"depends_on": ["c"]}}"#, true),
            (r#"{"b": {}, "f": {"links": ["b:other"]}}"#, true),
            (r#"{"b": {}, "f": {"network_mode": "service:b"}}"#, true),
            (r#"{"b": {}, "f": {}}"#, false),
            (r#"{"b": {"depends_on": ["f"]}, "f": {}}"#, false),
        ] {
            assert_eq!(super::is_ordered(&config(services), "b", "f"), is_ordered, "{services}");
        }
    }

    #[test]
    fn a_port_that_is_wanted_twice_is_the_deployments_own_fault() {
        for (services, is_twice) in [
            (r#"{"a": {"ports": ["8000:8000"]}, "b": {"ports": ["8001:8000"]}}"#, false),
            (r#"{"a": {"ports": ["8000:8000"]}, "b": {"ports": ["8000:8001"]}}"#, true),
            (r#"{"a": {"ports": ["8000"]}, "b": {"ports": ["8000"]}}"#, false),
            (
                r#"{"a": {"ports": [{"published": 8000, "target": 1}, {"published": 8000, "target": 2}]}}"#,
                true,
            ),
        ] {
            assert_eq!(publishes_twice(&config(services)), is_twice, "{services}");
        }
    }

    #[test]
    fn a_container_is_reached_at_its_own_ports_while_it_runs() {
        let endpoints =
            vec![Endpoint { address: Some([10, 1, 2, 3].into()), ..Endpoint::default() }];
        for (status, published, address) in [
            ("running", &[(8000, 8000)][..], Some("127.0.0.1:8000")),
            ("running", &[(80, 8000)], Some("127.0.0.1:8000")),
            ("running", &[(8000, 9000)], Some("127.0.0.1:9000")),
            ("running", &[], Some("10.1.2.3:8000")),
            // Its port may be that of another program by now.
            ("exited", &[(8000, 8000)], None),
            ("created", &[(8000, 8000)], None),
        ] {
            let state = State { status: status.to_owned(), ..State::default() };
            let (published, endpoints) = (published.to_vec(), endpoints.clone());
            let container = Container { endpoints, published, state, ..Container::default() };
            let found = container.address(8000).map(|it| it.to_string());
            assert_eq!(found.as_deref(), address, "{status} {:?}", container.published);
        }
    }

    #[test]
    fn ports_are_those_that_the_engine_has_published() {
        for (document, ports) in [
            (
                r#"[{"State": {"Status": "running"}, "NetworkSettings": {"Ports": {"8000/tcp": [{"HostPort": "8000"}, {"HostPort": "8000"}]}}}]"#,
                &[(8000, 8000)][..],
            ),
            (
                r#"[{"HostConfig": {"PortBindings": {"8000/tcp": [{"HostPort": "8000-8000"}]}}}]"#,
                &[(8000, 8000)],
            ),
            (
                r#"[{"State": {"Status": "running"}, "NetworkSettings": {"Ports": {"53/udp": [{"HostPort": "53"}], "1/tcp": null}}}]"#,
                &[],
            ),
        ] {
            let containers = Container::read_all(document.as_bytes()).expect(document);
            assert_eq!(containers[0].published, ports, "{document}");
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
        assert_eq!(backend.address(8001), Some(([127, 0, 0, 1], 8001).into()));
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

//! The compose files that are run: the allowed configuration with names, limits and logs of the
//! marker's own. Nothing in it names an image, a network, a volume or a container of others.

use crate::node::Node;

/// The label on what a marking makes; its value names the marking.
pub(crate) const LABEL: &str = "grade.marking";

/// For each container. The exercise's services need a tenth of it.
const MEMORY: &str = "1g";
const PIDS: &str = "512";
/// For the last lines that are shown of a service.
const LOG_BYTES: &str = "4m";

/// The backend's name in the second project.
pub(crate) const OTHER_BACKEND: &str = "another-backend";
/// The frontend in the second project that is given a port where nothing listens.
pub(crate) const MISLED: &str = "misled-frontend";

/// Settings of the first project's compose file.
pub(crate) struct Limits<'a> {
    /// The marking's name.
    pub(crate) marking: &'a str,
    /// Cores of this machine.
    pub(crate) cores: usize,
    /// Builds have no network.
    pub(crate) is_offline: bool,
}

/// The configuration of the first project: what a person would start.
pub(crate) fn first(config: &Node, limits: &Limits) -> Node {
    let mut plan = config.clone();
    let images = built_images(config);
    for_each_service(&mut plan, |name, service| {
        if let Some(Node::Map(_)) = service.at("build") {
            service.set("image", Node::text(own_image(limits.marking, name)));
            let mut build = service.remove("build").unwrap_or(Node::Null);
            let mut labels: Vec<_> = build.at("labels").map(Node::pairs).unwrap_or_default();
            labels.push((LABEL.to_owned(), limits.marking.to_owned()));
            let labels = labels.into_iter().map(|(name, value)| (name, Node::Text(value)));
            build.set("labels", Node::Map(labels.collect()));
            if limits.is_offline {
                build.set("network", Node::text("none"));
            }
            service.set("build", build);
        } else if let Some((_, builder)) =
            images.iter().find(|(image, _)| *image == service.scalar_at("image"))
        {
            // An image that another service of the file builds.
            service.set("image", Node::text(own_image(limits.marking, builder)));
        }
        bound(service, limits);
        if let Some(Node::List(ports)) = service.remove("ports") {
            service.set("ports", Node::List(ports.iter().map(short).collect()));
        }
        if let Some(Node::Text(alias)) = service.remove("container_name") {
            add_alias(service, &alias);
        }
    });
    plan
}

/// The configuration of the second project: the same services, in which the backend has another
/// name, the frontend is told so, and one more frontend is told a wrong port. `images` holds the
/// image of each service; `port` is the backend's port, `inner_port` that of the frontend.
pub(crate) fn second(
    first: &Node,
    names: [&str; 2],
    images: &[(String, String)],
    port: u16,
    inner_port: u16,
) -> Node {
    let [backend, frontend] = names;
    let mut plan = first.clone();
    let mut services: Vec<(String, Node)> = Vec::new();
    for_each_service(&mut plan, |name, service| {
        service.remove("build");
        if let Some((_, image)) = images.iter().find(|(service, _)| service == name) {
            service.set("image", Node::text(image));
        }
        for key in PLACES {
            service.remove(key);
        }
        rename(service, backend);
        if name == frontend {
            let published = format!("127.0.0.1::{inner_port}");
            service.set("ports", Node::List(vec![Node::Text(published)]));
            // Some end if they start before their backend.
            service.set("restart", Node::text("always"));
            let mut misled = service.clone();
            told(&mut misled, port ^ 1);
            told(service, port);
            services.push((MISLED.to_owned(), misled));
        }
        let name = if name == backend { OTHER_BACKEND } else { name };
        services.push((name.to_owned(), service.clone()));
    });
    plan.set("services", Node::Map(services));
    // All are on one network of their own: which networks they share is another rule.
    plan.remove("networks");
    plan
}

/// Keys that name a place of the first project: a port, an address, another name.
const PLACES: &[&str] =
    &["ports", "links", "extra_hosts", "scale", "hostname", "profiles", "networks", "network_mode"];

/// The name of the image that a service builds.
pub(crate) fn own_image(marking: &str, service: &str) -> String {
    format!("{marking}/{}:latest", service.to_ascii_lowercase())
}

/// The images that services build, by the names that the compose file gives them.
fn built_images(config: &Node) -> Vec<(String, String)> {
    let services = config.at("services").map(Node::members).unwrap_or_default();
    let built = services.iter().filter(|(_, service)| service.at("build").is_some());
    built
        .map(|(name, service)| (service.scalar_at("image"), name.clone()))
        .filter(|(image, _)| !image.is_empty())
        .collect()
}

/// Tells a frontend where its backend is.
fn told(frontend: &mut Node, port: u16) {
    let pairs = frontend.at("environment").map(Node::pairs).unwrap_or_default();
    let mut environment =
        Node::Map(pairs.into_iter().map(|(name, value)| (name, Node::Text(value))).collect());
    environment.set("API_BACKEND_URL", Node::text(OTHER_BACKEND));
    environment.set("API_BACKEND_PORT", Node::text(port.to_string()));
    frontend.set("environment", environment);
}

fn for_each_service(config: &mut Node, mut change: impl FnMut(&str, &mut Node)) {
    for (key, services) in config.members_mut() {
        if key == "services" {
            for (name, service) in services.members_mut() {
                change(name, service);
            }
        }
    }
}

/// An entry of `ports` in its short form: Compose 1 writes ranges in a long form that it does not
/// read again.
fn short(port: &Node) -> Node {
    if port.members().is_empty() {
        return port.clone();
    }
    let [ip, published, target, protocol] =
        ["host_ip", "published", "target", "protocol"].map(|key| port.scalar_at(key));
    let ip = if ip.contains(':') {
        format!("[{ip}]:")
    } else if ip.is_empty() {
        ip
    } else {
        ip + ":"
    };
    let published = if published.is_empty() && ip.is_empty() { published } else { published + ":" };
    let protocol = if protocol.is_empty() { protocol } else { format!("/{protocol}") };
    Node::Text(format!("{ip}{published}{target}{protocol}"))
}

/// Sets the limits of a service.
fn bound(service: &mut Node, limits: &Limits) {
    service.set("mem_limit", Node::text(MEMORY));
    service.set("pids_limit", Node::Number(PIDS.to_owned()));
    service.set("cpus", Node::Number(limits.cores.clamp(1, 2).to_string()));
    let options = Node::map([("max-size", Node::text(LOG_BYTES)), ("max-file", Node::text("2"))]);
    let logging = Node::map([("driver", Node::text("json-file")), ("options", options)]);
    service.set("logging", logging);
}

/// Has a service be found by one more name on its networks, as a container is by its own.
fn add_alias(service: &mut Node, alias: &str) {
    if service.at("network_mode").is_some_and(|mode| !mode.is_empty()) {
        return;
    }
    let mut networks = match service.remove("networks") {
        Some(Node::List(names)) => {
            Node::Map(names.iter().filter_map(|name| Some((name.scalar()?, Node::Null))).collect())
        }
        Some(map @ Node::Map(_)) => map,
        _ => Node::map([("default", Node::Null)]),
    };
    for (_, attachment) in networks.members_mut() {
        let mut aliases = attachment.at("aliases").map(Node::items).unwrap_or_default().to_vec();
        aliases.push(Node::text(alias));
        attachment.set("aliases", Node::List(aliases));
    }
    service.set("networks", networks);
}

/// Has a service of the second project name the backend as it is called there.
fn rename(service: &mut Node, backend: &str) {
    match service.remove("depends_on") {
        Some(Node::Map(members)) => {
            let members = members.into_iter().map(|(name, condition)| {
                (if name == backend { OTHER_BACKEND.to_owned() } else { name }, condition)
            });
            service.set("depends_on", Node::Map(members.collect()));
        }
        Some(Node::List(names)) => {
            let names = names.into_iter().map(|name| {
                if name == Node::text(backend) { Node::text(OTHER_BACKEND) } else { name }
            });
            service.set("depends_on", Node::List(names.collect()));
        }
        _ => {}
    }
    if let Some(Node::List(from)) = service.remove("volumes_from") {
        let renamed = from.into_iter().map(|entry| {
            let text = entry.scalar().unwrap_or_default();
            let (name, mode) =
                text.split_once(':').map_or((&*text, ""), |(name, mode)| (name, mode));
            match (name == backend, mode) {
                (false, _) => entry.clone(),
                (true, "") => Node::text(OTHER_BACKEND),
                (true, mode) => Node::text(format!("{OTHER_BACKEND}:{mode}")),
            }
        });
        service.set("volumes_from", Node::List(renamed.collect()));
    }
}

#[cfg(test)]
mod tests {
    use tools::json::Value;

    use super::*;
    use crate::node::Dollars;

    fn node(json: &str) -> Node {
        Node::from(&Value::read(json.as_bytes()).expect(json), Dollars::Single)
    }

    const CONFIG: &str = r#"{
        "services": {
            "api-backend": {"build": {"context": "/c/b", "labels": ["a=b"]}, "image": "student/b",
                "container_name": "backend", "ports": ["8001:8001"]},
            "again": {"image": "student/b"},
            "api-frontend": {"build": {"context": "/c/f"}, "depends_on": ["api-backend"],
                "environment": {"API_BACKEND_URL": "backend", "A": "1"}, "ports": ["8000:80"],
                "networks": {"n": {"ipv4_address": "10.1.2.3"}}, "working_dir": "/w",
                "secrets": ["s"], "links": ["api-backend"], "extra_hosts": ["backend:10.1.2.2"],
                "volumes_from": ["api-backend:ro", "again"]}
        },
        "networks": {"n": {"ipam": {"config": [{"subnet": "10.1.2.0/24"}]}}},
        "secrets": {"s": {"file": "/c/s"}}
    }"#;

    fn first() -> Node {
        let limits = Limits { marking: "grade-1", cores: 8, is_offline: true };
        super::first(&node(CONFIG), &limits)
    }

    #[test]
    fn what_is_run_has_names_limits_and_logs_of_the_markers_own() {
        let plan = first();
        let backend = plan.at("services/api-backend").expect("the backend");
        assert_eq!(backend.scalar_at("image"), "grade-1/api-backend:latest");
        assert_eq!(plan.scalar_at("services/again/image"), "grade-1/api-backend:latest");
        assert_eq!(
            backend.at("build/labels"),
            Some(&node(r#"{"a": "b", "grade.marking": "grade-1"}"#))
        );
        assert_eq!(backend.scalar_at("build/network"), "none");
        assert_eq!(backend.at("container_name"), None);
        assert_eq!(backend.at("networks"), Some(&node(r#"{"default": {"aliases": ["backend"]}}"#)));
        assert_eq!(backend.at("ports"), Some(&node(r#"["8001:8001"]"#)));
        for (_, service) in plan.at("services").expect("services").members() {
            assert_eq!(service.scalar_at("mem_limit"), MEMORY);
            assert_eq!(service.scalar_at("pids_limit"), PIDS);
            assert_eq!(service.scalar_at("cpus"), "2");
            assert_eq!(service.scalar_at("logging/driver"), "json-file");
        }
    }

    #[test]
    fn ports_are_written_in_their_short_form() {
        for (port, expected) in [
            (r#""8000:8000/tcp""#, "8000:8000/tcp"),
            (r#"{"published": "8000-8000", "target": 8000}"#, "8000-8000:8000"),
            (
                r#"{"published": 8000, "target": 80, "protocol": "tcp", "mode": "host"}"#,
                "8000:80/tcp",
            ),
            (r#"{"host_ip": "127.0.0.1", "published": "8000", "target": 80}"#, "127.0.0.1:8000:80"),
            (r#"{"host_ip": "::1", "published": "8000", "target": 80}"#, "[::1]:8000:80"),
            (r#"{"target": 80}"#, "80"),
        ] {
            assert_eq!(short(&node(port)), Node::text(expected), "{port}");
        }
    }

    #[test]
    fn the_second_project_is_the_first_with_another_name_for_the_backend() {
        let images = [("api-backend".to_owned(), "sha256:1".to_owned())];
        let plan = second(&first(), ["api-backend", "api-frontend"], &images, 8001, 80);
        let names: Vec<_> = plan
            .at("services")
            .expect("services")
            .members()
            .iter()
            .map(|(name, _)| &**name)
            .collect();
        assert_eq!(names, [OTHER_BACKEND, "again", MISLED, "api-frontend"]);
        let backend = plan.at("services/another-backend").expect("the backend");
        assert_eq!(backend.scalar_at("image"), "sha256:1");
        for key in ["build", "ports", "networks", "container_name"] {
            assert_eq!(backend.at(key), None, "{key}");
        }
        let frontend = plan.at("services/api-frontend").expect("the frontend");
        assert_eq!(
            frontend.at("environment"),
            Some(&node(
                r#"{"API_BACKEND_URL": "another-backend", "A": "1", "API_BACKEND_PORT": "8001"}"#
            ))
        );
        assert_eq!(frontend.at("ports"), Some(&node(r#"["127.0.0.1::80"]"#)));
        assert_eq!(frontend.at("depends_on"), Some(&node(r#"["another-backend"]"#)));
        assert_eq!(frontend.at("volumes_from"), Some(&node(r#"["another-backend:ro", "again"]"#)));
        assert_eq!(frontend.scalar_at("working_dir"), "/w");
        assert_eq!(frontend.at("secrets"), Some(&node(r#"["s"]"#)));
        for key in ["links", "extra_hosts", "networks"] {
            assert_eq!(frontend.at(key), None, "{key}");
        }
        let port = plan.scalar_at("services/misled-frontend/environment/API_BACKEND_PORT");
        assert_eq!((&*port, plan.at("networks")), ("8000", None));
    }
}

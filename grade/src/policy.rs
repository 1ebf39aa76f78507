//! The rights of a stranger's deployment on this machine, decided on the configuration that Compose
//! itself has resolved. Every key is in one table: copied, checked, left out or refused; a key that
//! is not in it is refused. The result is a configuration of allowed keys and values alone.

use std::net::IpAddr;
use std::path::Path;

use crate::node::Node;
use crate::outcome::Refusal;
use crate::paths;
use crate::words::Words;

/// Every word of `--allow`.
pub(crate) const WORDS: &[&str] = &[
    PRIVILEGES, DEVICES, NAMESPACES, MOUNTS, PATHS, REMOTE, BUILD, EXTERNAL, ENGINE, RESOURCES,
    UNKNOWN,
];
/// More than a container has by default.
const PRIVILEGES: &str = "privileges";
const DEVICES: &str = "devices";
/// Namespaces, networks and control groups of the host, or of containers of other projects.
const NAMESPACES: &str = "namespaces";
/// Files, file systems and sockets of the host.
const MOUNTS: &str = "mounts";
/// Files outside of the checkout.
pub(crate) const PATHS: &str = "paths";
/// A repository or an archive that a builder or Compose would fetch.
pub(crate) const REMOTE: &str = "remote";
/// More than a build needs.
const BUILD: &str = "build";
/// Volumes, networks, secrets, configs and images that others made.
pub(crate) const EXTERNAL: &str = "external";
/// Another engine, a log of the host, or a program of the host.
pub(crate) const ENGINE: &str = "engine";
/// More memory, disk, ports or containers than a deployment needs.
pub(crate) const RESOURCES: &str = "resources";
/// A key or a file that the marker cannot judge.
pub(crate) const UNKNOWN: &str = "unknown";

/// More than a page of `/dev/shm` or a tmpfs needs.
const MEMORY_BYTES_MAX: f64 = (512u32 << 20) as f64;
/// More than two services, a database and what watches them.
const SERVICES_MAX: usize = 16;
const REPLICAS_MAX: f64 = 4.0;
const PORTS_MAX: usize = 32;

/// Keys of a mount that is no path of the host.
const MOUNT_KEYS: &[&str] =
    &["type", "source", "target", "read_only", "consistency", "volume", "tmpfs"];

/// Files that builders read by their names.
const BUILDER_FILES: &[&str] = &[
    "Dockerfile",
    "dockerfile",
    ".dockerignore",
    "Dockerfile.dockerignore",
    "dockerfile.dockerignore",
];

/// Limits of a process that cannot harm others: none of them lets it go before them.
const ULIMITS: &[&str] = &["core", "fsize", "memlock", "nofile", "nproc", "stack"];

/// The decision on a key.
#[derive(Clone, Copy, Debug)]
enum Decision {
    /// Copied with all that is below it.
    Keep,
    /// Its own keys are decided one by one.
    Keys,
    /// Copied with all that is below it, if this holds.
    Check(Check),
    /// Left out: no rule depends on it.
    Omit,
    /// Refused, unless it is empty.
    Refuse(&'static str),
}

/// A condition on a value.
#[derive(Clone, Copy, Debug)]
enum Check {
    BuildArguments,
    BuildContext,
    BuildContexts,
    BuildDockerfile,
    BuildNetwork,
    Environment,
    File,
    LogDriver,
    Memory,
    Mounts,
    NetworkDriver,
    NetworkMode,
    NetworkOptions,
    OomScore,
    OwnNamespace,
    Ports,
    Replicas,
    SecurityOptions,
    Subnet,
    Tmpfs,
    Truth,
    Ulimits,
    VolumeDriver,
    VolumeOptions,
    VolumesFrom,
    IpamDriver,
}

use Decision::{Check as If, Keep, Keys, Omit, Refuse};

/// Every key of a compose file. A star stands for any name, `[]` for any item of a list. A key
/// below one that is copied, checked, left out or refused as a whole has no row of its own.
const TABLE: &[(&str, Decision)] = &[
    ("version", Omit),
    ("name", Omit),
    // Compose has put the files in already; where they are is checked before.
    ("include", Omit),
    ("models", Refuse(UNKNOWN)),
    ("jobs", Refuse(UNKNOWN)),
    ("services", Keys),
    ("services.*", Keys),
    ("services.*.annotations", Omit),
    ("services.*.attach", Omit),
    ("services.*.blkio_config", Omit),
    ("services.*.build", Keys),
    ("services.*.build.additional_contexts", If(Check::BuildContexts)),
    ("services.*.build.args", If(Check::BuildArguments)),
    // Both name images of this machine, or files.
    ("services.*.build.cache_from", Refuse(BUILD)),
    ("services.*.build.cache_to", Refuse(BUILD)),
    ("services.*.build.context", If(Check::BuildContext)),
    ("services.*.build.dockerfile", If(Check::BuildDockerfile)),
    ("services.*.build.dockerfile_inline", Keep),
    ("services.*.build.entitlements", Refuse(BUILD)),
    ("services.*.build.extra_hosts", Keep),
    ("services.*.build.isolation", Omit),
    ("services.*.build.labels", Keep),
    ("services.*.build.network", If(Check::BuildNetwork)),
    ("services.*.build.no_cache", Omit),
    ("services.*.build.no_cache_filter", Omit),
    ("services.*.build.platforms", Omit),
    ("services.*.build.privileged", Refuse(BUILD)),
    ("services.*.build.provenance", Omit),
    ("services.*.build.pull", Omit),
    ("services.*.build.sbom", Omit),
    // They are of the file's own `secrets`, which are checked there.
    ("services.*.build.secrets", Keep),
    ("services.*.build.shm_size", If(Check::Memory)),
    ("services.*.build.ssh", Refuse(BUILD)),
    // Names of images that a build would take from others on this machine.
    ("services.*.build.tags", Refuse(BUILD)),
    ("services.*.build.target", Keep),
    ("services.*.build.ulimits", If(Check::Ulimits)),
    ("services.*.cap_add", Refuse(PRIVILEGES)),
    ("services.*.cap_drop", Keep),
    ("services.*.cgroup", If(Check::OwnNamespace)),
    ("services.*.cgroup_parent", Refuse(NAMESPACES)),
    ("services.*.command", Keep),
    ("services.*.configs", Keep),
    // Kept as an alias on the service's networks.
    ("services.*.container_name", Keep),
    ("services.*.cpu_count", Omit),
    ("services.*.cpu_percent", Omit),
    ("services.*.cpu_period", Omit),
    ("services.*.cpu_quota", Omit),
    ("services.*.cpu_rt_period", Omit),
    ("services.*.cpu_rt_runtime", Omit),
    ("services.*.cpu_shares", Omit),
    ("services.*.cpus", Omit),
    ("services.*.cpuset", Omit),
    ("services.*.credential_spec", Refuse(PRIVILEGES)),
    ("services.*.depends_on", Keep),
    ("services.*.deploy", Keys),
    ("services.*.deploy.endpoint_mode", Omit),
    ("services.*.deploy.labels", Omit),
    ("services.*.deploy.mode", Omit),
    ("services.*.deploy.placement", Omit),
    ("services.*.deploy.replicas", If(Check::Replicas)),
    ("services.*.deploy.resources", Keys),
    ("services.*.deploy.resources.limits", Omit),
    ("services.*.deploy.resources.reservations", Keys),
    ("services.*.deploy.resources.reservations.cpus", Omit),
    ("services.*.deploy.resources.reservations.devices", Refuse(DEVICES)),
    ("services.*.deploy.resources.reservations.generic_resources", Refuse(DEVICES)),
    ("services.*.deploy.resources.reservations.memory", Omit),
    ("services.*.deploy.restart_policy", Keep),
    ("services.*.deploy.rollback_config", Omit),
    ("services.*.deploy.update_config", Omit),
    ("services.*.develop", Omit),
    ("services.*.device_cgroup_rules", Refuse(DEVICES)),
    ("services.*.devices", Refuse(DEVICES)),
    ("services.*.dns", Keep),
    ("services.*.dns_opt", Keep),
    ("services.*.dns_search", Keep),
    ("services.*.domainname", Keep),
    ("services.*.entrypoint", Keep),
    // Compose has read it; where it is is checked before.
    ("services.*.env_file", Omit),
    ("services.*.environment", If(Check::Environment)),
    ("services.*.expose", Keep),
    ("services.*.extends", Omit),
    ("services.*.external_links", Refuse(NAMESPACES)),
    ("services.*.extra_hosts", Keep),
    ("services.*.gpus", Refuse(DEVICES)),
    ("services.*.group_add", Keep),
    ("services.*.healthcheck", Keep),
    ("services.*.hostname", Keep),
    ("services.*.image", Keep),
    ("services.*.init", If(Check::Truth)),
    ("services.*.ipc", If(Check::OwnNamespace)),
    ("services.*.isolation", Omit),
    ("services.*.label_file", Omit),
    ("services.*.labels", Omit),
    ("services.*.links", Keep),
    ("services.*.logging", Keys),
    ("services.*.logging.driver", If(Check::LogDriver)),
    ("services.*.logging.options", Omit),
    ("services.*.mac_address", Omit),
    // The marker sets limits of its own.
    ("services.*.mem_limit", Omit),
    ("services.*.mem_reservation", Omit),
    ("services.*.mem_swappiness", Omit),
    ("services.*.memswap_limit", Omit),
    ("services.*.models", Refuse(UNKNOWN)),
    ("services.*.network_mode", If(Check::NetworkMode)),
    ("services.*.networks", Keys),
    ("services.*.networks.*", Keys),
    ("services.*.networks.*.aliases", Keep),
    ("services.*.networks.*.driver_opts", Refuse(NAMESPACES)),
    ("services.*.networks.*.gw_priority", Omit),
    ("services.*.networks.*.interface_name", Omit),
    ("services.*.networks.*.ipv4_address", Keep),
    ("services.*.networks.*.ipv6_address", Keep),
    ("services.*.networks.*.link_local_ips", Refuse(NAMESPACES)),
    ("services.*.networks.*.mac_address", Omit),
    ("services.*.networks.*.priority", Omit),
    ("services.*.networks.*.use_service_name_alias", Omit),
    ("services.*.oom_kill_disable", Refuse(PRIVILEGES)),
    ("services.*.oom_score_adj", If(Check::OomScore)),
    ("services.*.pid", If(Check::OwnNamespace)),
    ("services.*.pids_limit", Omit),
    ("services.*.platform", Keep),
    ("services.*.ports", If(Check::Ports)),
    ("services.*.post_start", Refuse(UNKNOWN)),
    ("services.*.pre_start", Refuse(UNKNOWN)),
    ("services.*.pre_stop", Refuse(UNKNOWN)),
    ("services.*.privileged", Refuse(PRIVILEGES)),
    ("services.*.profiles", Keep),
    // A program of the host that Compose runs.
    ("services.*.provider", Refuse(ENGINE)),
    ("services.*.pull_policy", Omit),
    ("services.*.pull_refresh_after", Omit),
    ("services.*.read_only", Keep),
    ("services.*.restart", Keep),
    ("services.*.runtime", Refuse(PRIVILEGES)),
    ("services.*.scale", If(Check::Replicas)),
    ("services.*.secrets", Keep),
    ("services.*.security_opt", If(Check::SecurityOptions)),
    ("services.*.shm_size", If(Check::Memory)),
    ("services.*.stdin_open", Keep),
    ("services.*.stop_grace_period", Keep),
    ("services.*.stop_signal", Keep),
    ("services.*.storage_opt", Omit),
    ("services.*.sysctls", Refuse(PRIVILEGES)),
    ("services.*.tmpfs", If(Check::Tmpfs)),
    ("services.*.tty", Keep),
    ("services.*.ulimits", If(Check::Ulimits)),
    ("services.*.umask", Keep),
    ("services.*.use_api_socket", Refuse(ENGINE)),
    ("services.*.user", Keep),
    ("services.*.userns_mode", Refuse(NAMESPACES)),
    ("services.*.uts", Refuse(NAMESPACES)),
    ("services.*.volumes", If(Check::Mounts)),
    ("services.*.volumes_from", If(Check::VolumesFrom)),
    ("services.*.working_dir", Keep),
    ("networks", Keys),
    ("networks.*", Keys),
    ("networks.*.attachable", Keep),
    ("networks.*.driver", If(Check::NetworkDriver)),
    ("networks.*.driver_opts", If(Check::NetworkOptions)),
    ("networks.*.enable_ipv4", Keep),
    ("networks.*.enable_ipv6", Keep),
    ("networks.*.external", Refuse(EXTERNAL)),
    ("networks.*.internal", Keep),
    ("networks.*.ipam", Keys),
    ("networks.*.ipam.config", Keys),
    ("networks.*.ipam.config.[]", Keys),
    ("networks.*.ipam.config.[].aux_addresses", Keep),
    ("networks.*.ipam.config.[].gateway", Keep),
    ("networks.*.ipam.config.[].ip_range", Keep),
    ("networks.*.ipam.config.[].subnet", If(Check::Subnet)),
    ("networks.*.ipam.driver", If(Check::IpamDriver)),
    ("networks.*.ipam.options", Refuse(NAMESPACES)),
    ("networks.*.labels", Omit),
    // Without it the name is the project's own.
    ("networks.*.name", Omit),
    ("volumes", Keys),
    ("volumes.*", Keys),
    ("volumes.*.driver", If(Check::VolumeDriver)),
    ("volumes.*.driver_opts", If(Check::VolumeOptions)),
    ("volumes.*.external", Refuse(EXTERNAL)),
    ("volumes.*.labels", Omit),
    ("volumes.*.name", Omit),
    ("secrets", Keys),
    ("secrets.*", Keys),
    ("secrets.*.driver", Refuse(UNKNOWN)),
    ("secrets.*.driver_opts", Refuse(UNKNOWN)),
    ("secrets.*.environment", Refuse(UNKNOWN)),
    ("secrets.*.external", Refuse(EXTERNAL)),
    ("secrets.*.file", If(Check::File)),
    ("secrets.*.labels", Omit),
    ("secrets.*.name", Omit),
    ("secrets.*.template_driver", Refuse(UNKNOWN)),
    ("configs", Keys),
    ("configs.*", Keys),
    ("configs.*.content", Keep),
    ("configs.*.environment", Refuse(UNKNOWN)),
    ("configs.*.external", Refuse(EXTERNAL)),
    ("configs.*.file", If(Check::File)),
    ("configs.*.labels", Omit),
    ("configs.*.name", Omit),
    ("configs.*.template_driver", Refuse(UNKNOWN)),
];

/// The part of a configuration that may be run, and the refusals.
pub(crate) struct Decided {
    pub(crate) config: Node,
    pub(crate) refusals: Vec<Refusal>,
}

/// Decides on a configuration. `root` is the checkout, without symbolic links; what `allowed` has
/// the word of is copied as it is.
pub(crate) fn decide(config: &Node, root: &Path, allowed: &[String]) -> Decided {
    let volumes = config.at("volumes").map(Node::members).unwrap_or_default();
    let mut judge = Judge {
        root,
        allowed,
        volumes: volumes.iter().map(|(name, _)| name.as_str()).collect(),
        context: String::new(),
        refusals: Vec::new(),
    };
    let services = config.at("services").map(Node::members).unwrap_or_default().len();
    if services > SERVICES_MAX {
        judge.refuse(RESOURCES, format!("{services} services"));
    }
    let config = judge.members(config, "", "");
    Decided { config, refusals: judge.refusals }
}

struct Judge<'a> {
    root: &'a Path,
    allowed: &'a [String],
    /// Names of the volumes that the file declares.
    volumes: Vec<&'a str>,
    /// The context of the build that is being judged.
    context: String,
    refusals: Vec<Refusal>,
}

impl Judge<'_> {
    /// The allowed members of a map. `row` is its place in the table, `shown` its place for people.
    fn members(&mut self, map: &Node, row: &str, shown: &str) -> Node {
        let mut kept = Node::Map(Vec::new());
        for (key, value) in map.members() {
            let row_of = |key: &str| {
                if row.is_empty() { key.to_owned() } else { format!("{row}.{key}") }
            };
            let shown = match (row, shown) {
                ("services" | "", _) => key.clone(),
                ("networks" | "volumes" | "secrets" | "configs", _) => {
                    format!("{} {key}", row.trim_end_matches('s'))
                }
                (_, "") => key.clone(),
                _ => format!("{shown}: {key}"),
            };
            if key.starts_with("x-") && !matches!(row, "services" | "networks" | "volumes") {
                continue;
            }
            let found =
                [row_of("*"), row_of(key)].into_iter().find_map(|row| Some((decision(&row)?, row)));
            let Some((decision, row)) = found else {
                if !value.is_empty() {
                    self.refuse(UNKNOWN, shown);
                    self.keep_if_allowed(UNKNOWN, &mut kept, key, value);
                }
                continue;
            };
            match decision {
                Omit => {}
                Keep => kept.set(key, value.clone()),
                Keys => {
                    let value = self.keys(value, &row, &shown);
                    kept.set(key, value);
                }
                Refuse(_) if value.is_empty() => {}
                Refuse(word) => {
                    self.refuse(word, format!("{shown} {}", value.shown()));
                    self.keep_if_allowed(word, &mut kept, key, value);
                }
                If(check) => {
                    if let Some(value) = self.check(check, value, &shown) {
                        kept.set(key, value);
                    }
                }
            }
        }
        kept
    }

    /// The allowed keys of a value that has keys: a map, or a list of names, of maps or both.
    fn keys(&mut self, value: &Node, row: &str, shown: &str) -> Node {
        match value {
            Node::Map(_) => {
                if row == "services.*.build" {
                    self.context = value.scalar_at("context");
                }
                self.members(value, row, shown)
            }
            Node::List(items) => {
                let row = format!("{row}.[]");
                Node::List(items.iter().map(|item| self.keys(item, &row, shown)).collect())
            }
            // `build: FOLDER`.
            Node::Text(context) if row == "services.*.build" => {
                self.context.clone_from(context);
                let map = Node::map([("context", Node::text(context))]);
                self.members(&map, row, shown)
            }
            // A name in a list, such as a network's.
            _ => value.clone(),
        }
    }

    fn refuse(&mut self, word: &'static str, what: String) {
        self.refuse_words(word, Words::keyed(what));
    }

    fn refuse_words(&mut self, word: &'static str, what: Words) {
        if !self.is_allowed(word) {
            self.refusals.push(Refusal { word, what });
        }
    }

    fn is_allowed(&self, word: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed == word)
    }

    fn keep_if_allowed(&self, word: &str, kept: &mut Node, key: &str, value: &Node) {
        if self.is_allowed(word) {
            kept.set(key, value.clone());
        }
    }

    /// The value as it may be run; `None` leaves it out.
    fn check(&mut self, check: Check, value: &Node, shown: &str) -> Option<Node> {
        let scalar = value.scalar().unwrap_or_default();
        let said = format!("{shown} {}", value.scalar().unwrap_or_else(|| value.shown()));
        match check {
            // A name without a value would take the marker's own variable of this name.
            Check::Environment | Check::BuildArguments => {
                let pairs = value.pairs().into_iter();
                return Some(Node::Map(pairs.map(|(name, it)| (name, Node::Text(it))).collect()));
            }
            Check::Mounts => return self.mounts(value, shown),
            // A score that only the container itself can suffer from.
            Check::OomScore if scalar.parse().is_ok_and(|score: f64| score >= 0.0) => return None,
            _ => {}
        }
        let wrong = self.wrong(check, value, &scalar).filter(|_| !value.is_empty());
        let Some(word) = wrong else { return Some(value.clone()) };
        let what = match (word, check) {
            (PATHS, Check::BuildDockerfile) => {
                paths::outside(&said, &self.root.join(&self.context).join(&scalar))
            }
            (PATHS, _) => paths::outside(&said, &self.root.join(&scalar)),
            (_, Check::NetworkMode | Check::OwnNamespace) => {
                Words::keyed(format!("{shown}: {scalar}"))
            }
            _ => Words::keyed(said),
        };
        self.refuse_words(word, what);
        self.is_allowed(word).then(|| value.clone())
    }

    /// The word for a fault in a value.
    fn wrong(&self, check: Check, value: &Node, scalar: &str) -> Option<&'static str> {
        let unless = |fits: bool, word| (!fits).then_some(word);
        match check {
            // These three are decided by the caller, but for scores below 0.
            Check::Environment | Check::BuildArguments | Check::Mounts => None,
            Check::OomScore => Some(PRIVILEGES),
            Check::BuildContext => self.wrong_context(scalar),
            Check::BuildContexts => {
                value.pairs().iter().find_map(|(_, context)| self.wrong_context(context))
            }
            Check::BuildDockerfile => {
                let path = self.root.join(&self.context).join(scalar);
                unless(paths::is_own_file(self.root, &path), PATHS)
            }
            Check::BuildNetwork => unless(matches!(scalar, "" | "none" | "default"), BUILD),
            Check::File => unless(paths::is_own_file(self.root, &self.root.join(scalar)), PATHS),
            Check::LogDriver => {
                unless(matches!(scalar, "" | "json-file" | "local" | "none"), ENGINE)
            }
            Check::Memory => unless(is_small(scalar), RESOURCES),
            Check::NetworkDriver => unless(matches!(scalar, "" | "bridge"), NAMESPACES),
            Check::IpamDriver => unless(matches!(scalar, "" | "default"), NAMESPACES),
            Check::NetworkMode => {
                let own = matches!(scalar, "" | "bridge" | "none" | "default");
                unless(own || scalar.starts_with("service:"), NAMESPACES)
            }
            Check::OwnNamespace => {
                let own = matches!(scalar, "" | "private" | "shareable" | "none");
                unless(own || scalar.starts_with("service:"), NAMESPACES)
            }
            Check::NetworkOptions => {
                unless(has_only(value, &["com.docker.network.driver.mtu"]), NAMESPACES)
            }
            Check::Ports => {
                unless(value.items().iter().map(ports).sum::<usize>() <= PORTS_MAX, RESOURCES)
            }
            Check::Replicas => {
                unless(scalar.parse().is_ok_and(|count: f64| count <= REPLICAS_MAX), RESOURCES)
            }
            Check::SecurityOptions => {
                let own = |option: &Node| {
                    let option = option.scalar().unwrap_or_default().replace('=', ":");
                    matches!(&*option, "no-new-privileges" | "no-new-privileges:true")
                };
                unless(value.items().iter().all(own), PRIVILEGES)
            }
            Check::Subnet => unless(is_private(scalar), NAMESPACES),
            Check::Tmpfs => {
                let one = std::slice::from_ref(value);
                let mounts = if value.items().is_empty() { one } else { value.items() };
                let wrong = |mount: &Node| {
                    let mount = mount.scalar().unwrap_or_default();
                    wrong_tmpfs(mount.split_once(':').map_or("", |(_, options)| options))
                };
                mounts.iter().find_map(wrong)
            }
            // Once it could name a program of the host.
            Check::Truth => unless(matches!(scalar, "" | "true" | "false"), PRIVILEGES),
            Check::Ulimits => unless(has_only(value, ULIMITS), PRIVILEGES),
            Check::VolumeDriver => unless(matches!(scalar, "" | "local"), MOUNTS),
            Check::VolumeOptions => wrong_volume(value),
            Check::VolumesFrom => {
                let other = |it: &Node| it.scalar().is_none_or(|it| it.starts_with("container:"));
                unless(!value.items().iter().any(other), MOUNTS)
            }
        }
    }

    fn wrong_context(&self, context: &str) -> Option<&'static str> {
        if paths::is_remote(context) {
            return Some(REMOTE);
        }
        let folder = self.root.join(context);
        let own = |name: &str| {
            let path = folder.join(name);
            path.symlink_metadata().is_err() || paths::is_own_file(self.root, &path)
        };
        let is_own =
            !paths::escapes(self.root, &folder) && BUILDER_FILES.iter().all(|name| own(name));
        (!is_own).then_some(PATHS)
    }

    /// A service's mounts: volumes of the project, and tmpfs.
    fn mounts(&mut self, value: &Node, shown: &str) -> Option<Node> {
        let mut kept = Vec::new();
        for mount in value.items() {
            let wrong = self.wrong_mount(mount);
            match wrong {
                None => kept.push(mount.clone()),
                Some(word) => {
                    let [kind, source, target] =
                        ["type", "source", "target"].map(|key| mount.scalar_at(key));
                    let said = match mount.scalar() {
                        Some(short) => short,
                        // As Compose 2 writes the short form.
                        None if kind == "bind" => format!("{source}:{target}"),
                        None => mount.shown(),
                    };
                    self.refuse(word, format!("{shown} {said}"));
                    kept.extend(self.is_allowed(word).then(|| mount.clone()));
                }
            }
        }
        (!kept.is_empty()).then_some(Node::List(kept))
    }

    fn wrong_mount(&self, mount: &Node) -> Option<&'static str> {
        let undeclared = |source: &str| (!self.volumes.contains(&source)).then_some(EXTERNAL);
        let is_path = |source: &str| source.starts_with(['/', '.', '~', '$', '\\']);
        if let Some(short) = mount.scalar() {
            // `SOURCE:TARGET[:MODE]`, or a TARGET for a volume without a name.
            return match short.split_once(':') {
                None => None,
                Some((source, _)) if is_path(source) => Some(MOUNTS),
                Some((source, _)) => undeclared(source),
            };
        }
        if !has_only(mount, MOUNT_KEYS) {
            return Some(MOUNTS);
        }
        match &*mount.scalar_at("type") {
            "tmpfs" => {
                let size = mount.scalar_at("tmpfs/size");
                (!size.is_empty() && !is_small(&size)).then_some(RESOURCES)
            }
            "volume" => match &*mount.scalar_at("source") {
                "" => None,
                source if is_path(source) => Some(MOUNTS),
                source => undeclared(source),
            },
            _ => Some(MOUNTS),
        }
    }
}

fn decision(row: &str) -> Option<Decision> {
    TABLE.iter().find(|(key, _)| *key == row).map(|(_, decision)| *decision)
}

/// The word for a fault in a volume's options: a tmpfs is the only file system that needs nothing of
/// the host.
fn wrong_volume(options: &Node) -> Option<&'static str> {
    if options.is_empty() {
        return None;
    }
    if options.scalar_at("type") != "tmpfs" || !has_only(options, &["type", "device", "o"]) {
        return Some(MOUNTS);
    }
    wrong_tmpfs(&options.scalar_at("o"))
}

/// The word for a fault in the options of a tmpfs, such as `size=64m,mode=1777`.
fn wrong_tmpfs(options: &str) -> Option<&'static str> {
    options.split(',').filter(|it| !it.is_empty()).find_map(|option| match option.split_once('=') {
        Some(("size", size)) => {
            bytes(size).is_none_or(|it| it > MEMORY_BYTES_MAX).then_some(RESOURCES)
        }
        Some(("mode" | "uid" | "gid" | "nr_inodes", _)) => None,
        None if matches!(option, "rw" | "ro" | "exec" | "noexec" | "nosuid" | "nodev") => None,
        _ => Some(MOUNTS),
    })
}

/// Returns true if a map has no keys but these.
fn has_only(map: &Node, keys: &[&str]) -> bool {
    map.members().iter().all(|(key, _)| keys.contains(&key.as_str()))
}

/// Returns true if a size is one that a deployment needs.
fn is_small(size: &str) -> bool {
    bytes(size).is_some_and(|bytes| bytes <= MEMORY_BYTES_MAX)
}

/// A size as Compose takes it: `67108864`, `64m`, `64MB`, `1g`.
fn bytes(size: &str) -> Option<f64> {
    let size = size.trim().to_ascii_lowercase();
    let end = size.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(size.len());
    let (number, unit) = size.split_at(end);
    let shift = match unit.trim().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    Some(
        number.parse::<f64>().ok()?
            * f64::from(1 << (shift / 2))
            * f64::from(1 << (shift - shift / 2)),
    )
}

/// How many ports of the host an entry of `ports` takes.
fn ports(entry: &Node) -> usize {
    let published = match entry.scalar() {
        Some(short) => {
            let short = short.split('/').next().unwrap_or_default().to_owned();
            let mut parts = short.rsplit(':');
            let target = parts.next().unwrap_or_default().to_owned();
            parts.next().filter(|it| !it.is_empty()).map_or(target, str::to_owned)
        }
        None => entry.scalar_at("published"),
    };
    let Some((first, last)) = published.split_once('-') else { return 1 };
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) if first <= last => last - first + 1,
        _ => usize::from(u16::MAX),
    }
}

/// Returns true if a subnet is one of those that RFC 1918 and RFC 4193 keep for private use: any
/// other would take the host's way to public addresses.
fn is_private(subnet: &str) -> bool {
    let Some((address, length)) = subnet.split_once('/') else { return false };
    match (address.parse::<IpAddr>(), length.parse::<u8>()) {
        (Ok(IpAddr::V4(address)), Ok(length @ ..=32)) => {
            let most = match address.octets() {
                [10, ..] => 8,
                [172, 16..=31, ..] => 12,
                [192, 168, ..] => 16,
                _ => return false,
            };
            length >= most
        }
        (Ok(IpAddr::V6(address)), Ok(length @ ..=128)) => {
            address.segments()[0] & 0xfe00 == 0xfc00 && length >= 7
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tools::json::Value;

    use super::*;
    use crate::node::Dollars;
    use crate::words::Lang;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    const KEYS: &str = include_str!("../tests/compose-keys.txt");

    /// A word of `--allow`, and a part of the reason.
    type Reason = (&'static str, &'static str);

    fn config(json: &str) -> Node {
        Node::from(&Value::read(json.as_bytes()).expect(json), Dollars::Doubled)
    }

    fn good() -> std::path::PathBuf {
        Path::new(FIXTURES).join("good").canonicalize().expect("the good one")
    }

    fn assert_refused(decided: &Decided, expected: &[Reason], case: &str) {
        let found = decided.refusals.iter();
        let found: Vec<_> = found.map(|it| (it.word, it.what.text(Lang::English))).collect();
        assert_eq!(found.len(), expected.len(), "{case}: {found:?}");
        for ((word, what), (expected, part)) in found.iter().zip(expected) {
            assert!(word == expected && what.contains(part), "{case}: {found:?}");
        }
    }

    #[test]
    fn every_key_of_the_specification_is_decided() {
        let mut decided = 0;
        for key in KEYS.lines().filter(|line| !line.starts_with('#')) {
            let rows = key.match_indices('.').map(|(at, _)| &key[..at]).chain([key]);
            let found: Vec<Decision> = rows.filter_map(decision).collect();
            let is_decided = found.iter().any(|it| !matches!(it, Keys)) || decision(key).is_some();
            assert!(is_decided, "{key} is neither copied, checked, left out nor refused");
            decided += 1;
        }
        assert!(decided > 200, "{decided} keys");
        for (row, _) in TABLE.iter().filter(|(row, _)| !row.ends_with('*') && !row.ends_with("[]"))
        {
            assert!(KEYS.lines().any(|key| key == *row), "{row} is no key of the specification");
        }
    }

    #[test]
    fn recorded_configurations_are_decided() {
        let root = good();
        let cases: &[(&str, &[Reason])] = &[
            ("good", &[]),
            ("links", &[]),
            ("static-addresses", &[]),
            ("privileged", &[(PRIVILEGES, "api-backend: privileged true")]),
            ("cap-add", &[(PRIVILEGES, "api-backend: cap_add [\"SYS_ADMIN\"]")]),
            ("devices", &[(DEVICES, "api-backend: devices [\"/dev/")]),
            ("pid-host", &[(NAMESPACES, "api-backend: pid: host")]),
            ("host-network", &[(NAMESPACES, "api-backend: network_mode: host")]),
            ("host-mount", &[(MOUNTS, "api-backend: volumes /")]),
            ("docker-socket", &[(MOUNTS, ": volumes /var/run/docker.sock")]),
        ];
        for (name, expected) in cases {
            let path = format!("{FIXTURES}/recorded/{name}/config.json");
            let recorded = fs::read_to_string(&path).expect(&path);
            let here = root.to_str().expect("UTF-8");
            let config = config(&recorded.replace("/home/student/deployment", here));
            assert_refused(&decide(&config, &root, &[]), expected, name);
        }
    }

    /// Keys of a service, and why they are refused.
    const SERVICES: &[(&str, &[Reason])] = &[
        // Both versions of Compose write these where nothing is wanted.
        (r#""privileged": false, "cap_add": [], "command": null, "sysctls": {}, "ipc": """#, &[]),
        (r#""security_opt": ["no-new-privileges=true"], "cap_drop": ["ALL"], "init": true"#, &[]),
        (
            r#""volumes": ["data:/data:rw", "/anonymous"], "tmpfs": ["/tmp:size=64m,mode=1777"]"#,
            &[],
        ),
        (r#""volumes": [{"type": "volume", "source": "data", "target": "/data"}]"#, &[]),
        (r#""network_mode": "service:api-frontend", "x-anything": 1"#, &[]),
        (r#""logging": {"driver": "json-file", "options": {"max-size": "1g"}}"#, &[]),
        (r#""shm_size": "64m", "oom_score_adj": 100, "ulimits": {"nofile": 1024}"#, &[]),
        (r#""deploy": {"replicas": 2, "resources": {"limits": {"cpus": "1"}}}"#, &[]),
        (r#""build": {"context": "api-backend", "args": {"A": "1"}, "target": "x"}"#, &[]),
        (r#""security_opt": ["seccomp:unconfined"]"#, &[(PRIVILEGES, "seccomp:unconfined")]),
        (
            r#""sysctls": {"a": 1}, "runtime": "other""#,
            &[(PRIVILEGES, "sysctls"), (PRIVILEGES, "runtime")],
        ),
        (r#""oom_score_adj": -1000"#, &[(PRIVILEGES, "oom_score_adj")]),
        (r#""ulimits": {"rtprio": 99}"#, &[(PRIVILEGES, "ulimits")]),
        (r#""init": "/bin/sh""#, &[(PRIVILEGES, "init /bin/sh")]),
        (r#""gpus": "all""#, &[(DEVICES, "gpus")]),
        (
            r#""deploy": {"resources": {"reservations": {"devices": [{"capabilities": ["gpu"]}]}}}"#,
            &[(DEVICES, "devices")],
        ),
        (r#""device_cgroup_rules": ["a *:* rwm"]"#, &[(DEVICES, "a *:* rwm")]),
        (r#""ipc": "host", "uts": "host""#, &[(NAMESPACES, "ipc: host"), (NAMESPACES, "uts")]),
        (
            r#""userns_mode": "host", "cgroup": "host""#,
            &[(NAMESPACES, "userns_mode"), (NAMESPACES, "cgroup")],
        ),
        (r#""cgroup_parent": "/system.slice""#, &[(NAMESPACES, "cgroup_parent")]),
        (r#""network_mode": "container:other""#, &[(NAMESPACES, "container:other")]),
        (r#""network_mode": "other_default""#, &[(NAMESPACES, "other_default")]),
        (r#""external_links": ["db"]"#, &[(NAMESPACES, "external_links")]),
        (
            r#""networks": {"default": {"link_local_ips": ["169.254.1.1"]}}"#,
            &[(NAMESPACES, "link_local_ips")],
        ),
        (
            r#""volumes": [{"type": "bind", "source": "/etc", "target": "/x"}]"#,
            &[(MOUNTS, "volumes /etc:/x")],
        ),
        (
            r#""volumes": [{"type": "image", "source": "other", "target": "/x"}]"#,
            &[(MOUNTS, "image")],
        ),
        (
            r#""volumes": [{"type": "volume", "source": "data", "target": "/x", "bind": {}}]"#,
            &[(MOUNTS, "bind")],
        ),
        (r#""volumes": ["./data:/data", "~/x:/x"]"#, &[(MOUNTS, "./data"), (MOUNTS, "~/x")]),
        (r#""volumes": ["other_data:/data"]"#, &[(EXTERNAL, "other_data")]),
        (
            r#""volumes": [{"type": "volume", "source": "other", "target": "/x"}]"#,
            &[(EXTERNAL, "other")],
        ),
        (r#""volumes_from": ["container:other:rw"]"#, &[(MOUNTS, "container:other")]),
        (r#""tmpfs": "/x:size=64g""#, &[(RESOURCES, "64g")]),
        (r#""tmpfs": ["/x:bind"]"#, &[(MOUNTS, "/x:bind")]),
        (r#""shm_size": "8gb""#, &[(RESOURCES, "8gb")]),
        (r#""deploy": {"replicas": 1000}"#, &[(RESOURCES, "1000")]),
        (r#""scale": 5"#, &[(RESOURCES, "scale")]),
        (r#""ports": ["20000-30000:20000-30000"]"#, &[(RESOURCES, "ports")]),
        (
            r#""logging": {"driver": "syslog", "options": {"syslog-address": "unix:///dev/log"}}"#,
            &[(ENGINE, "syslog")],
        ),
        (r#""logging": {"driver": "journald"}"#, &[(ENGINE, "journald")]),
        (r#""logging": {"driver": "gelf"}"#, &[(ENGINE, "gelf")]),
        (r#""provider": {"type": "sh"}"#, &[(ENGINE, "provider")]),
        (r#""use_api_socket": true"#, &[(ENGINE, "use_api_socket")]),
        (r#""build": {"context": "https://example.org/x.git"}"#, &[(REMOTE, "example.org")]),
        (r#""build": "git@example.org:x""#, &[(REMOTE, "example.org")]),
        (r#""build": "..""#, &[(PATHS, "context ..")]),
        (r#""build": {"context": ".", "dockerfile": "/etc/passwd"}"#, &[(PATHS, "/etc/passwd")]),
        (r#""build": {"context": "nowhere/../../..", "target": "x"}"#, &[(PATHS, "nowhere")]),
        (r#""build": {"context": ".", "network": "host"}"#, &[(BUILD, "network host")]),
        (
            r#""build": {"context": ".", "entitlements": ["security.insecure"]}"#,
            &[(BUILD, "insecure")],
        ),
        (r#""build": {"context": ".", "tags": ["debian:12"]}"#, &[(BUILD, "debian:12")]),
        (r#""build": {"context": ".", "cache_from": ["other"]}"#, &[(BUILD, "cache_from")]),
        (r#""build": {"context": ".", "cache_to": ["type=local,dest=/"]}"#, &[(BUILD, "cache_to")]),
        (r#""build": {"context": ".", "additional_contexts": {"a": "/etc"}}"#, &[(PATHS, "/etc")]),
        (
            r#""build": {"context": ".", "additional_contexts": ["a=docker-image://other"]}"#,
            &[(REMOTE, "other")],
        ),
        (r#""no_such_key": 1"#, &[(UNKNOWN, "no_such_key")]),
        (r#""build": {"context": ".", "no_such_key": 1}"#, &[(UNKNOWN, "no_such_key")]),
    ];

    #[test]
    fn every_way_out_of_a_container_is_refused() {
        for (keys, expected) in SERVICES {
            let json =
                format!("{{\"services\": {{\"s\": {{{keys}}}}}, \"volumes\": {{\"data\": null}}}}");
            assert_refused(&decide(&config(&json), &good(), &[]), expected, keys);
        }
    }

    #[test]
    fn volumes_networks_and_files_of_others_are_refused() {
        let cases: &[(&str, &[Reason])] = &[
            (r#""volumes": {"v": null}, "networks": {"n": {"driver": "bridge"}}"#, &[]),
            (
                r#""volumes": {"v": {"driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}}}"#,
                &[],
            ),
            (r#""networks": {"n": {"ipam": {"config": [{"subnet": "10.1.0.0/24"}]}}}"#, &[]),
            (r#""name": "n", "version": "3", "x-anything": 1, "models": {}"#, &[]),
            (
                r#""volumes": {"v": {"driver_opts": {"type": "none", "o": "bind", "device": "/"}}}"#,
                &[(MOUNTS, "volume v")],
            ),
            (r#""volumes": {"v": {"driver_opts": {"type": "proc"}}}"#, &[(MOUNTS, "proc")]),
            (r#""volumes": {"v": {"driver_opts": {"type": "sysfs"}}}"#, &[(MOUNTS, "sysfs")]),
            (r#""volumes": {"v": {"driver_opts": {"type": "devtmpfs"}}}"#, &[(MOUNTS, "devtmpfs")]),
            (
                r#""volumes": {"v": {"driver_opts": {"type": "overlay", "o": "lowerdir=/,upperdir=/a"}}}"#,
                &[(MOUNTS, "overlay")],
            ),
            (
                r#""volumes": {"v": {"driver_opts": {"type": "nfs", "o": "addr=10.0.0.1", "device": ":/"}}}"#,
                &[(MOUNTS, "nfs")],
            ),
            (
                r#""volumes": {"v": {"driver_opts": {"type": "ext4", "device": "/dev/sda1"}}}"#,
                &[(MOUNTS, "/dev/sda1")],
            ),
            (
                r#""volumes": {"v": {"driver_opts": {"type": "tmpfs", "o": "size=64g"}}}"#,
                &[(RESOURCES, "64g")],
            ),
            (r#""volumes": {"v": {"driver": "sshfs"}}"#, &[(MOUNTS, "sshfs")]),
            (r#""models": {"m": {"model": "m"}}"#, &[(UNKNOWN, "models")]),
            (r#""volumes": {"v": {"external": true}}"#, &[(EXTERNAL, "volume v")]),
            (r#""networks": {"n": {"external": {"name": "x"}}}"#, &[(EXTERNAL, "network n")]),
            (r#""networks": {"n": {"driver": "macvlan"}}"#, &[(NAMESPACES, "macvlan")]),
            (
                r#""networks": {"n": {"driver_opts": {"com.docker.network.bridge.name": "eth0"}}}"#,
                &[(NAMESPACES, "bridge.name")],
            ),
            (
                r#""networks": {"n": {"ipam": {"config": [{"subnet": "8.8.8.0/24"}]}}}"#,
                &[(NAMESPACES, "8.8.8.0/24")],
            ),
            (
                r#""networks": {"n": {"ipam": {"config": [{"subnet": "10.0.0.0/7"}]}}}"#,
                &[(NAMESPACES, "10.0.0.0/7")],
            ),
            (r#""secrets": {"s": {"file": "/etc/shadow"}}"#, &[(PATHS, "/etc/shadow")]),
            (r#""secrets": {"s": {"environment": "HOME"}}"#, &[(UNKNOWN, "HOME")]),
            (r#""configs": {"c": {"file": "../c"}}"#, &[(PATHS, "../c")]),
        ];
        for (keys, expected) in cases {
            let json = format!("{{{keys}}}");
            assert_refused(&decide(&config(&json), &good(), &[]), expected, keys);
        }
    }

    #[test]
    fn only_allowed_keys_are_run_and_names_of_others_are_not() {
        let json = r#"{"version": "3", "services": {"s": {"build": {"context": "."}, "image": "i",
            "labels": {"a": "b"}, "mem_limit": "64g", "env_file": ["x"], "cap_add": [],
            "environment": {"A": "1", "HOME": null}, "volumes": ["/etc:/x", "data:/y"]}},
            "volumes": {"data": {"name": "other_data"}}, "networks": {"n": {"name": "other"}}}"#;
        let decided = decide(&config(json), &good(), &[]);
        assert_eq!(
            decided.config,
            config(
                r#"{"services": {"s": {"build": {"context": "."}, "image": "i",
                "environment": {"A": "1"}, "volumes": ["data:/y"]}},
                "volumes": {"data": {}}, "networks": {"n": {}}}"#
            )
        );
        let allowed = decide(&config(json), &good(), &["mounts".to_owned()]);
        assert_refused(&allowed, &[], "allowed");
        let mounts = allowed.config.at("services/s/volumes").expect("both").items();
        assert_eq!(mounts, [Node::text("/etc:/x"), Node::text("data:/y")]);
    }

    #[test]
    fn what_a_builder_reads_by_name_must_be_inside_and_regular() {
        let root = std::env::temp_dir().join(format!("policy-{}", std::process::id()));
        for folder in ["linked", "ignored", "plain"] {
            fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        let root = root.canonicalize().expect("a path");
        let link = |to| std::os::unix::fs::symlink("/etc/hostname", root.join(to)).expect("a link");
        link("linked/Dockerfile");
        link("ignored/.dockerignore");
        let refused = |folder: &str| {
            let json = format!("{{\"services\": {{\"s\": {{\"build\": \"{folder}\"}}}}}}");
            decide(&config(&json), &root, &[]).refusals.len()
        };
        let found = ["linked", "ignored", "plain"].map(refused);
        fs::remove_dir_all(&root).expect("the folder removed");
        assert_eq!(found, [1, 1, 0]);
    }

    #[test]
    fn sizes_are_read_as_compose_reads_them() {
        for (size, expected) in [
            ("67108864", Some(67_108_864.0)),
            ("64m", Some(67_108_864.0)),
            ("64MB", Some(67_108_864.0)),
            ("64MiB", Some(67_108_864.0)),
            ("1.5g", Some(1_610_612_736.0)),
            ("1t", Some(1_099_511_627_776.0)),
            ("many", None),
            ("-1", None),
        ] {
            assert_eq!(bytes(size), expected, "{size}");
        }
    }
}

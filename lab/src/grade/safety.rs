//! What a stranger's repository may not ask of this machine. Whatever is found here is refused
//! before anything of it is built or started, unless it was allowed by its word.

use std::borrow::Cow;
use std::fs;
use std::path::{Component, Path, PathBuf};

use common::json::Value;

use super::deployment::{members, text, texts};
use super::rubric::{Words, words};

/// A reason not to build and start it.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// What `--allow` takes to let it through.
    pub(crate) word: &'static str,
    pub(crate) what: Words,
}

/// Everything that `--allow` takes.
pub(crate) const WORDS: &[&str] =
    &[PRIVILEGES, DEVICES, NAMESPACES, MOUNTS, PATHS, REMOTE, BUILD, EXTERNAL, ENGINE, UNKNOWN];
/// More than a container has by itself.
const PRIVILEGES: &str = "privileges";
const DEVICES: &str = "devices";
/// Those of the host, or of containers that are not the project's.
const NAMESPACES: &str = "namespaces";
/// Folders and sockets of the host.
const MOUNTS: &str = "mounts";
/// Files outside of the repository.
const PATHS: &str = "paths";
/// A repository or an archive to be fetched and built.
const REMOTE: &str = "remote";
/// What a build may reach.
const BUILD: &str = "build";
/// Volumes, networks, secrets and configs that are there already, whoever made them.
const EXTERNAL: &str = "external";
/// Another engine, or a program of the host.
const ENGINE: &str = "engine";
/// What is not known here.
const UNKNOWN: &str = "unknown";

/// Services' keys that give a container nothing of the host, or are looked at below.
const SERVICE_KEYS: &[&str] = &[
    "annotations",
    "attach",
    "blkio_config",
    "build",
    "cap_add",
    "cap_drop",
    "cgroup",
    "cgroup_parent",
    "command",
    "configs",
    "container_name",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_quota",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "cpu_shares",
    "cpus",
    "cpuset",
    "credential_spec",
    "depends_on",
    "deploy",
    "develop",
    "device_cgroup_rules",
    "devices",
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "entrypoint",
    "env_file",
    "environment",
    "expose",
    "external_links",
    "extra_hosts",
    "gpus",
    "group_add",
    "healthcheck",
    "hostname",
    "image",
    "init",
    "ipc",
    "isolation",
    "label_file",
    "labels",
    "links",
    "logging",
    "mac_address",
    "mem_limit",
    "mem_reservation",
    "mem_swappiness",
    "memswap_limit",
    "network_mode",
    "networks",
    "oom_kill_disable",
    "oom_score_adj",
    "pid",
    "pids_limit",
    "platform",
    "ports",
    "privileged",
    "profiles",
    "pull_policy",
    "read_only",
    "restart",
    "runtime",
    "scale",
    "secrets",
    "security_opt",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "storage_opt",
    "sysctls",
    "tmpfs",
    "tty",
    "ulimits",
    "user",
    "userns_mode",
    "uts",
    "volumes",
    "volumes_from",
    "working_dir",
];

/// More files than anybody's compose file is made of.
const FILES_MAX: usize = 32;

/// What stands in files that Compose and the builder would read by themselves: to be looked at
/// before they are asked to. `root` is the repository, without symbolic links; `files` are the
/// compose files.
pub(crate) fn check_files(root: &Path, files: &[PathBuf]) -> Vec<Refusal> {
    let mut found = Vec::new();
    let own = ["", "api-backend/", "api-frontend/"].into_iter().flat_map(|folder| {
        ["Dockerfile", ".dockerignore", ".env"].map(|file| format!("{folder}{file}"))
    });
    for name in
        own.chain(["api-backend", "api-frontend", "LICENSE", "README.md"].map(str::to_owned))
    {
        check_path(root, &root.join(&name), &name, &mut found);
    }
    for line in read(&root.join(".env")).lines() {
        let name = line.trim().trim_start_matches("export ").split('=').next().unwrap_or_default();
        if name.trim().starts_with("DOCKER_") && name.trim() != "DOCKER_BUILDKIT" {
            refuse(&mut found, ENGINE, format!(".env: {name}"));
        }
    }
    let mut files = files.to_vec();
    let mut at = 0;
    while let Some(file) = files.get(at).cloned() {
        at += 1;
        let name = shown(root, &file);
        check_path(root, &file, &name, &mut found);
        if escapes(root, &file) {
            continue;
        }
        if at == FILES_MAX {
            refuse(&mut found, PATHS, format!("{name}: {FILES_MAX} files"));
            break;
        }
        let folder = file.parent().unwrap_or(root).to_owned();
        for word in named_files(&read(&file)) {
            // An alias, or a variable: where that leads is known to Compose alone.
            if word.contains(['*', '$']) {
                refuse(&mut found, PATHS, format!("{name}: {word}"));
                continue;
            }
            if is_remote(&word) {
                refuse(&mut found, REMOTE, format!("{name}: {word}"));
                continue;
            }
            let path = folder.join(&word);
            check_path(root, &path, &format!("{name}: {word}"), &mut found);
            if path.is_file() && !files.contains(&path) {
                files.push(path);
            }
        }
    }
    found
}

/// What may name a file behind the keys that have Compose read one. Told from the text alone, and
/// rather too much than too little: the words behind such a key, up to the next key that is not
/// within it.
fn named_files(text: &str) -> Vec<String> {
    const KEYS: [&str; 4] = ["env_file", "label_file", "extends", "include"];
    let mut found = Vec::new();
    let lines: Vec<&str> = text.lines().map(without_comment).collect();
    for (number, line) in lines.iter().enumerate() {
        // A key may be spelled in escapes; nobody means well by that.
        let key = line.split_once(':').map_or("", |(key, _)| key);
        found.extend(key.contains('\\').then(|| format!("${key}")));
        let start = KEYS.iter().filter_map(|key| Some(line.find(key)? + key.len())).min();
        let Some(start) = start else { continue };
        let below = lines[number + 1..].iter();
        let below = below.take_while(|next| indentation(next) > indentation(line) || !is_key(next));
        for line in std::iter::once(&line[start..]).chain(below.copied()) {
            let words = line.split([' ', '\t', ',', '[', ']', '{', '}', '"', '\'']);
            let words = words.map(|word| word.trim_matches(':'));
            found.extend(words.filter(|word| !word.is_empty()).map(str::to_owned));
        }
    }
    found
}

fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with('#') {
        return "";
    }
    line.split(" #").next().unwrap_or(line)
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Whether a line begins with a key, and not within an item of a list.
fn is_key(line: &str) -> bool {
    let part_of_a_key = |c: char| c.is_ascii_alphanumeric() || "_-.\"'".contains(c);
    let key = line.trim_start().split_once(':').map_or("", |(key, _)| key.trim_end());
    !key.is_empty() && key.chars().all(part_of_a_key)
}

/// What `docker-compose config` shows and a container or a build must not have.
pub(crate) fn check(config: &Value, root: &Path) -> Vec<Refusal> {
    let mut found = Vec::new();
    for (service, spec) in members(config, "services") {
        check_service(&service, spec, root, &mut found);
    }
    for (volume, spec) in members(config, "volumes") {
        check_external(&format!("volume {volume}"), spec, &mut found);
        let device = text(spec, "driver_opts/device");
        let options = text(spec, "driver_opts/o");
        if !device.is_empty() && (device.starts_with('/') || options.contains("bind")) {
            refuse(&mut found, MOUNTS, format!("volume {volume}: device {device}"));
        }
    }
    for (network, spec) in members(config, "networks") {
        check_external(&format!("network {network}"), spec, &mut found);
        let driver = text(spec, "driver");
        if !matches!(&*driver, "" | "bridge" | "overlay") {
            refuse(&mut found, NAMESPACES, format!("network {network}: driver {driver}"));
        }
    }
    for kind in ["secrets", "configs"] {
        for (name, spec) in members(config, kind) {
            check_external(&format!("{kind} {name}"), spec, &mut found);
            let file = text(spec, "file");
            if !file.is_empty() {
                check_path(root, &root.join(&file), &format!("{kind} {name}: {file}"), &mut found);
            }
        }
    }
    found
}

/// What has a name that somebody else's has already: Compose would take that in silence.
pub(crate) fn claimed(kind: &str, name: &str) -> Refusal {
    let what = words(
        format!("{kind} {name}: there is one of this name already"),
        format!("{kind} {name} : il y en a déjà un de ce nom"),
    );
    Refusal { word: EXTERNAL, what }
}

fn check_external(what: &str, spec: &Value, found: &mut Vec<Refusal>) {
    if !matches!(spec.get("external"), None | Some(Value::Null | Value::Bool(false))) {
        refuse(found, EXTERNAL, format!("{what}: external"));
    }
}

fn check_service(service: &str, spec: &Value, root: &Path, found: &mut Vec<Refusal>) {
    for (key, value) in members(spec, "") {
        if is_empty(value) {
            continue;
        }
        let mut refuse = |word, what: String| refuse(found, word, format!("{service}: {what}"));
        match &*key {
            "privileged" | "cap_add" | "sysctls" | "runtime" | "oom_kill_disable"
            | "credential_spec" => refuse(PRIVILEGES, format!("{key} {}", said(value))),
            "oom_score_adj" if value.number().is_none_or(|score| score < 0.0) => {
                refuse(PRIVILEGES, format!("{key} {}", said(value)));
            }
            "security_opt" => {
                for option in value.items().iter().filter_map(Value::text) {
                    if !["no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"]
                        .contains(&&*option)
                    {
                        refuse(PRIVILEGES, format!("{key} {option}"));
                    }
                }
            }
            "devices" | "device_cgroup_rules" | "gpus" => {
                refuse(DEVICES, format!("{key} {}", said(value)));
            }
            "deploy"
                if members(value, "resources/reservations")
                    .iter()
                    .any(|(key, _)| key == "devices") =>
            {
                refuse(DEVICES, format!("{key} devices"));
            }
            "pid" | "ipc" | "uts" | "userns_mode" | "cgroup" | "cgroup_parent" | "network_mode" => {
                let mode = value.text().unwrap_or_default();
                let own = matches!(&*mode, "bridge" | "none" | "default" | "private" | "shareable");
                if !own && !mode.starts_with("service:") {
                    refuse(NAMESPACES, format!("{key}: {mode}"));
                }
            }
            "external_links" => refuse(NAMESPACES, format!("{key} {}", said(value))),
            "volumes" => {
                for volume in value.items() {
                    if let Some(source) = host_path(volume) {
                        refuse(MOUNTS, format!("{key} {source}"));
                    }
                }
            }
            "volumes_from" => {
                for from in value.items().iter().filter_map(Value::text) {
                    if from.starts_with("container:") {
                        refuse(MOUNTS, format!("{key} {from}"));
                    }
                }
            }
            "build" => check_build(service, value, root, found),
            _ if SERVICE_KEYS.contains(&&*key) || key.starts_with("x-") => {}
            _ => refuse(UNKNOWN, key),
        }
    }
}

/// Whether a key that has this value might as well not be there.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::Text(text) => text.decode().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

/// A value as it may be shown.
fn said(value: &Value) -> String {
    let mut json = Vec::new();
    value.write(&mut json);
    String::from_utf8_lossy(&json).into_owned()
}

/// The host's side of a mount, if it is a path there and not a volume.
fn host_path(volume: &Value) -> Option<String> {
    match volume.text() {
        // `SOURCE:TARGET`, where a volume's name never begins like a path.
        Some(short) => {
            let (source, _) = short.split_once(':')?;
            source.starts_with(['/', '.', '~', '$']).then(|| source.to_owned())
        }
        None => {
            let kind = text(volume, "type");
            (!matches!(&*kind, "volume" | "tmpfs"))
                .then(|| format!("{} ({kind})", text(volume, "source")))
        }
    }
}

fn check_build(service: &str, build: &Value, root: &Path, found: &mut Vec<Refusal>) {
    let context = build.text().map_or_else(|| text(build, "context"), Cow::into_owned);
    let named = |what: &str, value: &str| format!("{service}: build {what} {value}");
    if is_remote(&context) {
        refuse(found, REMOTE, named("context", &context));
        return;
    }
    let folder = root.join(&context);
    check_path(root, &folder, &named("context", &shown(root, &folder)), found);
    let dockerfile = text(build, "dockerfile");
    let name = if dockerfile.is_empty() { "Dockerfile" } else { &dockerfile };
    for file in [folder.join(name), folder.join(".dockerignore")] {
        check_path(root, &file, &named("file", &shown(root, &file)), found);
    }
    for (key, value) in members(build, "") {
        match &*key {
            "network"
                if text(build, "network") != "none" && text(build, "network") != "default" =>
            {
                refuse(found, BUILD, named("network", &text(build, "network")));
            }
            "privileged" | "entitlements" | "ssh" | "cache_to" if !is_empty(value) => {
                refuse(found, BUILD, named(&key, &said(value)));
            }
            "additional_contexts" => {
                let contexts =
                    members(build, &key).into_iter().filter_map(|(_, value)| value.text());
                let listed = texts(build, &key).into_iter().map(|pair| {
                    pair.split_once('=').map(|(_, value)| value.to_owned()).unwrap_or(pair)
                });
                for context in contexts.map(Cow::into_owned).chain(listed) {
                    if is_remote(&context) {
                        refuse(found, REMOTE, named(&key, &context));
                    } else {
                        check_path(root, &root.join(&context), &named(&key, &context), found);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Whether a builder would fetch it from elsewhere.
fn is_remote(context: &str) -> bool {
    context.contains("://") || context.starts_with("git@") || context.starts_with("github.com/")
}

fn check_path(root: &Path, path: &Path, said: &str, found: &mut Vec<Refusal>) {
    if escapes(root, path) {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let what = words(
            format!("{said}: {} is outside of the repository", real.display()),
            format!("{said} : {} est hors du dépôt", real.display()),
        );
        found.push(Refusal { word: PATHS, what });
    }
}

/// Whether a path leads out of the repository, by `..`, from the root, or by a symbolic link.
fn escapes(root: &Path, path: &Path) -> bool {
    let path = root.join(path);
    if path.components().any(|part| part.as_os_str().to_string_lossy().starts_with('~')) {
        return true;
    }
    let mut known = &*path;
    loop {
        match known.canonicalize() {
            Ok(real) => return !real.starts_with(root),
            // What is not there leads nowhere, but what stands before it may. Steps upwards from
            // nowhere are another matter: Compose would take them.
            Err(_) if path.components().any(|part| part == Component::ParentDir) => return true,
            Err(_) if known.is_symlink() => return true,
            Err(_) => match known.parent() {
                Some(parent) => known = parent,
                None => return true,
            },
        }
    }
}

fn refuse(found: &mut Vec<Refusal>, word: &'static str, what: String) {
    found.push(Refusal { word, what: Words::quoted(what) });
}

/// A path as seen from the repository.
fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

/// A file's text; nothing where there is none, or it is more than people write.
pub(crate) fn read(path: &Path) -> String {
    /// The longest compose file that we have seen has 100 kB.
    const FILE_BYTES_MAX: u64 = 1 << 20;
    match path.metadata() {
        // A pipe would be waited for, and a device may have no end.
        Ok(about) if about.is_file() && about.len() <= FILE_BYTES_MAX => fs::read(path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default(),
        _ => String::new(),
    }
}

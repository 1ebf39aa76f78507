//! What a stranger's repository may not ask of this machine. Whatever is found here is refused
//! before anything of it is built or started, unless it was allowed by its word.

use std::borrow::Cow;
use std::fs;
use std::path::{Component, Path, PathBuf};

use tools::json::Value;

use crate::deployment::{members, text, texts};
use crate::outcome::Refusal;
use crate::words::{Words, words};

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

/// What a compose file is made of.
const TOP_KEYS: &[&str] =
    &["configs", "name", "networks", "secrets", "services", "version", "volumes"];

/// Services' keys that give a container nothing of the host, or are looked at below.
const SERVICE_KEYS: &str = "\
    annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command \
    configs container_name cpu_count cpu_percent cpu_period cpu_quota cpu_rt_period \
    cpu_rt_runtime cpu_shares cpus cpuset credential_spec depends_on deploy develop \
    device_cgroup_rules devices dns dns_opt dns_search domainname entrypoint env_file \
    environment expose external_links extra_hosts gpus group_add healthcheck hostname image \
    init ipc isolation label_file labels links logging mac_address mem_limit mem_reservation \
    mem_swappiness memswap_limit network_mode networks oom_kill_disable oom_score_adj pid \
    pids_limit platform ports privileged profiles pull_policy read_only restart runtime scale \
    secrets security_opt shm_size stdin_open stop_grace_period stop_signal storage_opt sysctls \
    tmpfs tty ulimits user userns_mode uts volumes volumes_from working_dir";

/// More files than anybody's compose file is made of.
const FILES_MAX: usize = 32;
/// More words than stand in all lists of files of one.
const WORDS_MAX: usize = 1000;

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
    for line in read(&root.join(".env")).unwrap_or_default().lines() {
        let line = line.trim();
        let line = line.strip_prefix("export").map_or(line, str::trim_start);
        let name = line.split(['=', ':']).next().unwrap_or_default().trim_end();
        if name.starts_with("DOCKER_") && name != "DOCKER_BUILDKIT" {
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
        let words = read(&file).filter(|_| at <= FILES_MAX).map(|text| named_files(&text));
        let Some(words) = words.filter(|words| words.len() <= WORDS_MAX) else {
            refuse(&mut found, PATHS, format!("{name}: too much, or no text"));
            break;
        };
        let folder = file.parent().unwrap_or(root);
        for word in words {
            let said = format!("{name}: {word}");
            let path = folder.join(&word);
            // An alias, or a variable: where that leads is known to Compose alone.
            if word.contains(['*', '$']) {
                refuse(&mut found, PATHS, said);
            } else if is_remote(&word) {
                refuse(&mut found, REMOTE, said);
            } else if escapes(root, &path) {
                check_path(root, &path, &said, &mut found);
            } else if path.is_file() && !files.contains(&path) {
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
    // YAML has more line breaks than one, and a comment ends at any.
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']);
    let lines: Vec<&str> = lines.filter(|line| !line.trim_start().starts_with('#')).collect();
    for (number, line) in lines.iter().enumerate() {
        // A key may be spelled in escapes; nobody means well by that.
        let key = line.split_once(':').map_or("", |(key, _)| key);
        let spelled = key.contains('"') && ["\\x", "\\u", "\\U"].iter().any(|it| key.contains(it));
        found.extend(spelled.then(|| format!("${key}")));
        let start = KEYS.iter().filter_map(|key| Some(line.find(key)? + key.len())).min();
        let Some(start) = start else { continue };
        if found.len() > WORDS_MAX {
            break;
        }
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
    for (key, value) in members(config, "") {
        if !TOP_KEYS.contains(&&*key) && !key.starts_with("x-") && !is_empty(value) {
            refuse(&mut found, UNKNOWN, key);
        }
    }
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
            _ if SERVICE_KEYS.split(' ').any(|known| known == key) || key.starts_with("x-") => {}
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

/// A file's text; `None` where there is none, or it is not what people write.
pub(crate) fn read(path: &Path) -> Option<String> {
    /// The longest compose file that we have seen has 100 kB.
    const FILE_BYTES_MAX: u64 = 1 << 20;
    let about = path.metadata().ok()?;
    // A pipe would be waited for, and a device may have no end.
    if !about.is_file() || about.len() > FILE_BYTES_MAX {
        return None;
    }
    // With NULs in it, it is UTF-16, which some readers of YAML take.
    let bytes = fs::read(path).ok().filter(|bytes| !bytes.contains(&0))?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::words::Lang;

    const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/recorded");
    const GOOD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/good");

    /// A word of `--allow`, and a part of the reason.
    type Reason = (&'static str, &'static str);

    fn assert_refused(found: &[Refusal], expected: &[Reason], case: &str) {
        let found: Vec<_> = found.iter().map(|it| (it.word, it.what.text(Lang::English))).collect();
        assert_eq!(found.len(), expected.len(), "{case}: {found:?}");
        for ((word, what), (expected, part)) in found.iter().zip(expected) {
            assert!(word == expected && what.contains(part), "{case}: {found:?}");
        }
    }

    #[test]
    fn what_compose_was_recorded_to_say_is_judged() {
        let root = Path::new(GOOD).canonicalize().expect("the good one");
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
            let path = format!("{RECORDED}/{name}/config.json");
            let recorded = fs::read_to_string(&path).expect(&path);
            let here = root.to_str().expect("UTF-8");
            let config = recorded.replace("/home/student/deployment", here);
            let config = Value::read(config.as_bytes()).expect("JSON");
            assert_refused(&check(&config, &root), expected, name);
        }
    }

    #[test]
    fn every_way_out_of_a_container_is_refused() {
        let root = Path::new(GOOD).canonicalize().expect("the good one");
        let cases: &[(&str, &[Reason])] = &[
            // What both versions of Compose write where nothing is asked for.
            (
                r#""privileged": false, "cap_add": [], "command": null, "sysctls": {}, "ipc": """#,
                &[],
            ),
            (
                r#""security_opt": ["no-new-privileges:true"], "cap_drop": ["ALL"], "init": true"#,
                &[],
            ),
            (r#""volumes": ["data:/data:rw", "/anonymous"], "tmpfs": ["/tmp"]"#, &[]),
            (r#""volumes": [{"type": "volume", "source": "data", "target": "/data"}]"#, &[]),
            (r#""network_mode": "service:api-frontend", "x-anything": 1"#, &[]),
            (r#""security_opt": ["seccomp:unconfined"]"#, &[(PRIVILEGES, "seccomp:unconfined")]),
            (
                r#""sysctls": {"a": 1}, "runtime": "other""#,
                &[(PRIVILEGES, "sysctls"), (PRIVILEGES, "runtime")],
            ),
            (r#""oom_score_adj": -1000"#, &[(PRIVILEGES, "oom_score_adj")]),
            (r#""gpus": "all""#, &[(DEVICES, "gpus")]),
            (r#""device_cgroup_rules": ["a *:* rwm"]"#, &[(DEVICES, "a *:* rwm")]),
            (
                r#""ipc": "host", "uts": "host""#,
                &[(NAMESPACES, "ipc: host"), (NAMESPACES, "uts: host")],
            ),
            (
                r#""userns_mode": "host", "cgroup": "host""#,
                &[(NAMESPACES, "userns_mode"), (NAMESPACES, "cgroup")],
            ),
            (r#""network_mode": "container:other""#, &[(NAMESPACES, "container:other")]),
            (r#""external_links": ["db"]"#, &[(NAMESPACES, "external_links")]),
            (
                r#""volumes": [{"type": "bind", "source": "/etc", "target": "/x"}]"#,
                &[(MOUNTS, "/etc (bind)")],
            ),
            (r#""volumes": ["./data:/data", "~/x:/x"]"#, &[(MOUNTS, "./data"), (MOUNTS, "~/x")]),
            (r#""volumes_from": ["container:other:rw"]"#, &[(MOUNTS, "container:other")]),
            (r#""build": {"context": "https://example.org/x.git"}"#, &[(REMOTE, "example.org")]),
            (r#""build": "git@example.org:x""#, &[(REMOTE, "example.org")]),
            (
                r#""build": "..""#,
                &[(PATHS, "build context"), (PATHS, "Dockerfile"), (PATHS, ".dockerignore")],
            ),
            (
                r#""build": {"context": ".", "dockerfile": "/etc/passwd"}"#,
                &[(PATHS, "/etc/passwd")],
            ),
            (
                r#""build": {"context": "nowhere/../../..", "dockerfile": "x"}"#,
                &[(PATHS, ""), (PATHS, ""), (PATHS, "")],
            ),
            (r#""build": {"context": ".", "network": "host"}"#, &[(BUILD, "network host")]),
            (
                r#""build": {"context": ".", "entitlements": ["security.insecure"]}"#,
                &[(BUILD, "insecure")],
            ),
            (
                r#""build": {"context": ".", "cache_to": ["type=local,dest=/"]}"#,
                &[(BUILD, "cache_to")],
            ),
            (
                r#""build": {"context": ".", "additional_contexts": {"a": "/etc"}}"#,
                &[(PATHS, "/etc")],
            ),
            (r#""use_api_socket": true"#, &[(UNKNOWN, "use_api_socket")]),
        ];
        for (keys, expected) in cases {
            let config = format!("{{\"services\": {{\"s\": {{{keys}}}}}}}");
            let config = Value::read(config.as_bytes()).expect(keys);
            assert_refused(&check(&config, &root), expected, keys);
        }
        let cases: &[(&str, &[Reason])] = &[
            (r#""volumes": {"v": null}, "networks": {"n": {"driver": "bridge"}}"#, &[]),
            (
                r#""volumes": {"v": {"driver_opts": {"type": "none", "o": "bind", "device": "/"}}}"#,
                &[(MOUNTS, "device /")],
            ),
            (r#""name": "n", "version": "3", "x-anything": 1, "models": {}"#, &[]),
            (r#""models": {"m": {"model": "m"}}"#, &[(UNKNOWN, "models")]),
            (r#""volumes": {"v": {"external": true}}"#, &[(EXTERNAL, "volume v")]),
            (r#""networks": {"n": {"external": {"name": "x"}}}"#, &[(EXTERNAL, "network n")]),
            (r#""networks": {"n": {"driver": "macvlan"}}"#, &[(NAMESPACES, "macvlan")]),
            (r#""secrets": {"s": {"file": "/etc/shadow"}}"#, &[(PATHS, "/etc/shadow")]),
            (r#""configs": {"c": {"file": "../c"}}"#, &[(PATHS, "../c")]),
        ];
        for (keys, expected) in cases {
            let config = format!("{{{keys}}}");
            let config = Value::read(config.as_bytes()).expect(keys);
            assert_refused(&check(&config, &root), expected, keys);
        }
    }

    /// A checkout with a compose file. Dropping it removes it.
    struct Checkout(PathBuf);

    impl Checkout {
        fn new(name: &str, compose: &str) -> Checkout {
            let folder = std::env::temp_dir().join(format!("safety-{name}-{}", std::process::id()));
            fs::create_dir_all(folder.join("api-backend")).expect("a folder");
            let checkout = Checkout(folder.canonicalize().expect("a path"));
            fs::write(checkout.0.join("docker-compose.yaml"), compose).expect("a file");
            checkout
        }

        fn check(&self) -> Vec<Refusal> {
            check_files(&self.0, &[self.0.join("docker-compose.yaml")])
        }
    }

    impl Drop for Checkout {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn files_that_compose_would_read_are_found_in_any_spelling() {
        let cases: &[(&str, &[Reason])] = &[
            ("services:\n  s:\n    env_file: s.env\n    command: [/s]\n", &[]),
            ("services:\n  s:\n    env_file:\n      - s.env # ours\n    command: [/s]\n", &[]),
            ("# env_file: /etc/passwd\nservices: {}\n", &[]),
            ("services:\n  s:\n    extends: {file: api-backend/x.yaml, service: s}\n", &[]),
            ("services:\n  s:\n    env_file: /etc/passwd\n", &[(PATHS, "/etc/passwd")]),
            ("services:\n  s:\n    \"env_file\": ['../s']\n", &[(PATHS, "../s")]),
            ("services:\n  s:\n    env_file:\n    - a\n    - ~/b\n", &[(PATHS, "~/b")]),
            ("services:\n  s:\n    ? env_file\n    : /etc/passwd\n", &[(PATHS, "/etc/passwd")]),
            ("{services: {s: {env_file:\n[a,\n/etc/passwd]}}}\n", &[(PATHS, "/etc/passwd")]),
            ("x: &e [/etc/passwd]\nservices:\n  s:\n    env_file: *e\n", &[(PATHS, "*e")]),
            ("services:\n  s:\n    env_file: ${HOME}/x\n", &[(PATHS, ": $")]),
            ("services:\n  s:\n    \"env\\x5ffile\": /etc/passwd\n", &[(PATHS, "env\\x5ffile")]),
            (
                "services:\n  s:\n    extends:\n      file: ../x.yaml\n      service: s\n",
                &[(PATHS, "../x.yaml")],
            ),
            ("# a\renv_file: /etc/passwd\n", &[(PATHS, "/etc/passwd")]),
            (
                "services: {s: {labels: {\"a #\": b}, env_file: /etc/passwd}}\n",
                &[(PATHS, "/etc/passwd")],
            ),
            ("s:\n  command: sh -c 'sed s/\\\\x:y/z/'\n", &[]),
            ("x: \0env_file\n", &[(PATHS, "no text")]),
            ("include:\n  - https://example.org/x.git\n", &[(REMOTE, "example.org")]),
            ("include:\n  - path: more\n", &[(PATHS, "more: /etc/passwd")]),
        ];
        for (number, (compose, expected)) in cases.iter().enumerate() {
            let checkout = Checkout::new(&format!("files-{number}"), compose);
            let more = "services:\n  s:\n    env_file: /etc/passwd\n";
            fs::write(checkout.0.join("more"), more).expect("a file");
            let found = checkout.check();
            let found: Vec<Refusal> = found.into_iter().take(expected.len().max(1)).collect();
            assert_refused(&found, expected, compose);
        }
    }

    #[test]
    fn links_that_lead_out_are_refused_and_others_are_not() {
        let checkout = Checkout::new("links", "services: {}\n");
        let at = |name: &str| checkout.0.join(name);
        symlink("docker-compose.yaml", at("LICENSE")).expect("a link");
        symlink("nowhere", at("README.md")).expect("a link");
        symlink("/etc/hostname", at("api-backend/Dockerfile")).expect("a link");
        symlink("/", at("api-frontend")).expect("a link");
        fs::write(at(".env"), "A=b\nexport DOCKER_HOST=tcp://elsewhere\nDOCKER_BUILDKIT=1\n")
            .expect("a file");
        let found = checkout.check();
        let said = |part: &str| found.iter().any(|it| it.what.text(Lang::English).contains(part));
        assert!(said("api-backend/Dockerfile: /etc/hostname is outside"), "{found:?}");
        assert!(said("api-frontend: / is outside"), "{found:?}");
        assert!(said(".env: DOCKER_HOST"), "{found:?}");
        assert!(!said("LICENSE") && !said("BUILDKIT"), "{found:?}");
    }
}

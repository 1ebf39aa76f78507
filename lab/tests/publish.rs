//! `lab/publish` with a registry, Debian's `docker-registry`: the images that are there afterwards, and
//! its failures. `RUST_IMAGE`, or `.env`, names an image to build with that knows both
//! architectures: `lab/rust-image aarch64` makes one.
//!
//! `cargo test --test publish -- --ignored`

use std::env::consts::ARCH;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};

use testing::docker::{
    Folder, Run, SERVICES, docker, exclusive, files, inspect, namespace, serves, stdout_of, text,
    timed,
};
use testing::process::Process;
use testing::{WAIT_MAX, wait_for, wait_until};

const PUBLISH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/publish");
const VERSION: &str = env!("CARGO_PKG_VERSION");
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];

/// The registry's only user, with a hash of `secret`.
const PASSWORDS: &str = "user:$2y$04$tp7i1y3.n.L6LXPJW6HHV.gjGGSLzTs.tGqWY9.xD3kJrEWLvRT3.\n";
/// `user:secret` and `user:wrong`, as Docker keeps them.
const RIGHT: &str = "dXNlcjpzZWNyZXQ=";
const WRONG: &str = "dXNlcjp3cm9uZw==";

#[test]
#[ignore = "needs a Docker engine and a registry"]
fn latest_is_what_was_built_for_either_architecture() {
    let _exclusive = exclusive();
    let registry = Registry::start("published");
    registry.log_in(RIGHT);
    let output = registry.publish();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let said: Vec<_> = said.lines().filter_map(|line| line.split_once(' ')).collect();
    // A tag that anyone uses comes after all that is new.
    let images = SERVICES.map(|service| {
        ARCHITECTURES.map(|arch| registry.name(service, &format!("{VERSION}-{arch}")))
    });
    let lists = [VERSION, "latest"].map(|tag| SERVICES.map(|service| registry.name(service, tag)));
    let names: Vec<_> = said.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, [images.concat(), lists.concat()].concat());

    for arch in ARCHITECTURES {
        let latest = SERVICES.map(|service| {
            let image = registry.name(service, &format!("{VERSION}-{arch}"));
            let built = files(&image);
            docker(&["rmi", &image]);
            let latest = registry.name(service, "latest");
            let platform = format!("--platform=linux/{arch}");
            stdout_of(registry.client("docker").args(["pull", "--quiet", &platform, &latest]));
            assert_eq!(inspect(&latest, "Architecture"), arch);
            let address = latest.strip_suffix(":latest").expect("the tag");
            assert_eq!(inspect(&latest, "Config/Labels/hub_url"), format!("https://{address}"));
            let digests = inspect(&latest, "RepoDigests");
            for (_, digest) in said.iter().filter(|(name, _)| *name == latest) {
                assert!(digests.contains(digest), "{latest}: {digests}");
            }
            assert!(files(&latest) == built, "{latest} for {arch}");
            latest
        });
        match (ARCH, arch) {
            ("x86_64", "amd64") | ("aarch64", "arm64") => check_containers(&latest),
            (_, "amd64") => check_emulated("qemu-x86_64-static", &latest),
            (_, _) => check_emulated("qemu-aarch64-static", &latest),
        }
        docker(&["rmi", &latest[0], &latest[1]]);
    }
}

#[test]
#[ignore = "needs a Docker engine and a registry"]
fn a_failure_is_one_line_and_publishes_nothing() {
    let _exclusive = exclusive();
    let mut registry = Registry::start("refusing");
    for (credentials, reason) in [("", "no basic auth credentials"), (WRONG, "unauthorized")] {
        registry.log_in(credentials);
        registry.check_failure(reason);
        assert!(!registry.folder.0.join("images").exists(), "{reason}");
    }
    registry.log_in(RIGHT);
    registry.stop();
    registry.check_failure("connection refused");
}

/// This machine's own kind, as containers.
fn check_containers([backend, frontend]: &[String; 2]) {
    let backend = Run::start(backend, &[]);
    let host = format!("-eAPI_BACKEND_URL={}", backend.address("bridge", 8001).ip());
    let frontend = Run::start(frontend, &[&host, "-eAPI_BACKEND_PORT=8001"]);
    wait_until("a response", || serves(frontend.address("bridge", 8000)));
}

/// The other kind, as processes.
fn check_emulated(emulator: &str, images: &[String; 2]) {
    if let Err(error) = Command::new(emulator).arg("--version").output() {
        return eprintln!("skipped: {emulator}: {error}");
    }
    let folder = Folder::create(emulator);
    let start = |image: &str, variables: &[(&str, &str)]| {
        let (name, program) = files(image).pop_first().expect("a file");
        let path = folder.0.join(name);
        fs::write(&path, program).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("executable");
        let mut command = Command::new(emulator);
        Process::start(command.arg(path).env("PORT", "0").envs(variables.iter().copied()))
    };
    let backend = start(&images[0], &[]);
    let port = backend.address.port().to_string();
    let asks = [("API_BACKEND_URL", "127.0.0.1"), ("API_BACKEND_PORT", &port)];
    let frontend = start(&images[1], &asks);
    assert!(serves(frontend.address), "a good response");
}

/// A registry on a free port with one user, ended when dropped; and the clients that publish to it.
struct Registry {
    child: Child,
    address: String,
    folder: Folder,
}

impl Registry {
    fn start(name: &str) -> Registry {
        let folder = Folder::create(name);
        let [config, passwords, images, log] =
            ["config.yml", "passwords", "images", "log"].map(|name| folder.0.join(name));
        fs::write(&passwords, PASSWORDS).expect("written");
        let settings = format!(
            "version: 0.1\n\
             http: {{addr: '127.0.0.1:0'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\n\
             auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n",
            images.display(),
            passwords.display(),
        );
        fs::write(&config, settings).expect("written");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&log).expect("a file"));
        tools::sys::die_with_parent(&mut command);
        let child = command.spawn().expect("docker-registry is installed");
        let address = wait_for("a registry", WAIT_MAX, || {
            let log = fs::read_to_string(&log).expect("text");
            let (_, rest) = log.split_once("listening on ")?;
            rest.split_once('"').map(|(address, _)| address.to_owned())
        });
        Registry { child, address, folder }
    }

    /// The name of a service's image here.
    fn name(&self, service: &str, tag: &str) -> String {
        format!("{}/{}/{service}:{tag}", self.address, namespace())
    }

    /// Has every client use these credentials from now on.
    fn log_in(&self, credentials: &str) {
        let config = format!(r#"{{"auths": {{"{}": {{"auth": "{credentials}"}}}}}}"#, self.address);
        fs::write(self.folder.0.join("config.json"), config).expect("written");
    }

    fn client(&self, program: &str) -> Command {
        let mut command = timed(program);
        command.env("DOCKER_CONFIG", &self.folder.0);
        command
    }

    fn publish(&self) -> Output {
        let namespace = format!("{}/{}", self.address, namespace());
        self.client(PUBLISH).env("NAMESPACE", namespace).output().expect("it starts")
    }

    fn check_failure(&self, reason: &str) {
        let output = self.publish();
        let said = text(&output.stderr);
        assert_eq!(
            (output.status.code(), text(&output.stdout)),
            (Some(1), String::new()),
            "{said}"
        );
        // The error comes after the lines of progress.
        let error = said.lines().last().expect("an error");
        assert!(error.starts_with("publish: docker push ") && error.contains(reason), "{said}");
        let mut progress = said.lines().rev().skip(1);
        assert!(
            progress.all(|line| line.starts_with("publish: ") && line.contains("/12 ")),
            "{said}"
        );
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

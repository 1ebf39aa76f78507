//! The course of one marking: build, start, look, crash, and remove all again.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::json::Value;
use common::runtime;

use super::command::{self, End};
use super::deployment::{self, Build, Container, Role, State};
use super::dockerfile::Dockerfile;
use super::engine::{self, Engine, Project};
use super::host;
use super::probe::{self, Reply};
use super::progress::Progress;
use super::rubric::{Rule, Sheet, Verdict, Words, words};
use super::safety::{self, Refusal};
use crate::up::both;

/// How long both may take from `up` to their first answers.
const START: Duration = Duration::from_secs(60);
/// How long a first answer that is not right may yet become so: a backend that is slower to start
/// than its frontend.
const SETTLE: Duration = Duration::from_secs(3);
/// Within this a crashed service answers again, as the exercise has it.
const BACK: Duration = Duration::from_secs(10);
/// How long a process may take to end after it has cut its last connection.
const END: Duration = Duration::from_secs(3);
/// How long a frontend on its own may take to show that it reaches a backend, or does not.
const DECOY: Duration = Duration::from_secs(10);
/// Between two looks at what tells nobody.
const LOOK: Duration = Duration::from_millis(100);
/// How often each service is crashed.
const CRASHES: usize = 2;
/// From SIGTERM to SIGKILL, in seconds: our own services drain within 3.
const STOP_SECONDS: &str = "3";
/// The other name under which a backend is started.
const DECOY_NAME: &str = "another-backend";

/// What every marking is done with.
pub(crate) struct Marker<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) progress: Progress,
    /// Words of `--allow`.
    pub(crate) allowed: Vec<String>,
    /// Whether Docker Hub is asked for the images.
    pub(crate) hub: bool,
    pub(crate) build_patience: Duration,
    pub(crate) keep_log: Option<PathBuf>,
}

/// How a marking ended.
pub(crate) enum Outcome {
    Marked(Sheet),
    /// Nothing of it was built or started.
    Refused(Vec<Refusal>),
    /// It could not be marked, for no fault of its own.
    Failed(Words),
}

/// What one run makes: all that must be gone in the end, however the run ended.
pub(crate) struct Site {
    pub(crate) project: String,
    /// The images' names that the build gives, and whose they were before.
    names: RefCell<Vec<(String, Option<String>)>>,
    /// The images that the build made, in their order, and all that were there before.
    made: RefCell<Vec<String>>,
    before: RefCell<Vec<String>>,
}

impl Site {
    pub(crate) fn new(project: String) -> Site {
        let (names, made, before) = Default::default();
        Site { project, names, made, before }
    }

    /// Removes what was made, and gives names back to the images that had them.
    pub(crate) async fn clear(&self, engine: &Engine) {
        engine.remove(&self.project).await;
        for (name, id) in self.names.take() {
            match id {
                None => engine.run(&["rmi", &name]).await,
                Some(id) => {
                    let now = engine.ask(&["images", "--quiet", "--no-trunc", &name]).await;
                    self.made.borrow_mut().extend(now.filter(|now| *now != id));
                    engine.run(&["tag", &id, &name]).await
                }
            };
        }
        // The last ones first: they are made of the others.
        let made = self.made.take();
        let before = self.before.take();
        for id in made.iter().rev() {
            let is_new = !before.iter().any(|known| {
                known.trim_start_matches("sha256:").starts_with(id.trim_start_matches("sha256:"))
            });
            if is_new {
                engine.run(&["rmi", id]).await;
            }
        }
    }
}

/// A checkout that was looked at.
struct Source {
    root: PathBuf,
    files: Vec<PathBuf>,
}

impl Source {
    fn find(path: &Path) -> Result<Source, Words> {
        let root = path.canonicalize().ok().filter(|root| root.is_dir() && root.to_str().is_some());
        let Some(root) = root else {
            let path = path.display();
            return Err(words(
                format!("{path} is no folder"),
                format!("{path} n'est pas un dossier"),
            ));
        };
        let files = compose_files(&root);
        Ok(Source { root, files })
    }

    /// The rules that need no engine.
    fn judge(&self, sheet: &mut Sheet) {
        let missing = |name: &str| {
            let gone = || words(format!("{name} is missing"), format!("{name} manque"));
            (!self.root.join(name).is_file()).then(gone)
        };
        sheet.judge(Rule::TreeLicense, missing("LICENSE"), "ls LICENSE");
        sheet.judge(Rule::TreeReadme, missing("README.md"), "ls README.md");
        let dockerfiles = missing("api-backend/Dockerfile").or(missing("api-frontend/Dockerfile"));
        sheet.judge(Rule::TreeDockerfiles, dockerfiles, "ls */Dockerfile");
        let name = self.files.first().and_then(|file| file.file_name()?.to_str());
        let compose = match name {
            Some("docker-compose.yaml") => None,
            Some(name) => {
                Some(words(format!("it is called {name}"), format!("il s'appelle {name}")))
            }
            None => Some(words("there is none", "il n'y en a pas")),
        };
        sheet.judge(Rule::TreeCompose, compose, "ls docker-compose.yaml");
    }
}

/// The compose file and its override, as Compose would find them, but here alone and the
/// exercise's own name first.
fn compose_files(root: &Path) -> Vec<PathBuf> {
    for stem in ["docker-compose", "compose"] {
        for ending in ["yaml", "yml"] {
            let file = root.join(format!("{stem}.{ending}"));
            if file.is_file() {
                let overrides =
                    ["yaml", "yml"].map(|it| root.join(format!("{stem}.override.{it}")));
                let found = overrides.into_iter().find(|file| file.is_file());
                return [file].into_iter().chain(found).collect();
            }
        }
    }
    Vec::new()
}

impl Marker<'_> {
    /// Builds, starts and marks a checkout. What it makes is noted in `site`, for the caller to
    /// clear.
    pub(crate) async fn checkout(&self, path: &Path, site: &Site) -> Outcome {
        let source = match Source::find(path) {
            Ok(source) => source,
            Err(words) => return Outcome::Failed(words),
        };
        for role in Role::BOTH {
            if let Some(who) = self.taken(role.port()).await {
                return Outcome::Failed(who);
            }
        }
        let mut sheet = Sheet::default();
        source.judge(&mut sheet);
        let refused = self.refused(safety::check_files(&source.root, &source.files));
        if !refused.is_empty() {
            return Outcome::Refused(refused);
        }
        let Source { root, files } = &source;
        let project = Project { name: &site.project, root, files };
        let compose = self.engine.compose();
        if files.is_empty() {
            let none = words("there is no compose file", "il n'y a pas de fichier compose");
            sheet.judge(Rule::UpStarts, Some(none.clone()), &format!("{compose} up"));
            sheet.close(&none);
            return Outcome::Marked(sheet);
        }
        self.progress.step(&words("reading the compose file", "lecture du fichier compose"));
        let config = match self.engine.config(&project).await {
            Ok(config) => config,
            Err(said) => {
                let command = format!("{compose} config");
                sheet.judge(Rule::UpStarts, Some(Words::quoted(said)), &command);
                sheet.close(&words(format!("{command} fails"), format!("{command} échoue")));
                return Outcome::Marked(sheet);
            }
        };
        let Ok(config) = Value::read(&config) else {
            return Outcome::Failed(Words::quoted("docker-compose config: no JSON"));
        };
        let mut refused = safety::check(&config, root);
        refused.extend(self.claimed(&config).await);
        let refused = self.refused(refused);
        if !refused.is_empty() {
            return Outcome::Refused(refused);
        }
        let builds = Build::read_all(&config);
        if let Some(reproach) = self.build(&project, &builds, site).await {
            sheet.judge(Rule::UpStarts, Some(reproach), &format!("{compose} build"));
            sheet.close(&words("the build fails", "la construction échoue"));
            return Outcome::Marked(sheet);
        }
        self.progress.step(&words("starting both", "démarrage des deux"));
        let up = self.engine.up(&project, &mut |line| self.progress.detail(line)).await;
        let started = self.engine.containers(&site.project).await;
        if !up.succeeded() {
            let said = Words::quoted(engine::said(&up));
            sheet.judge(Rule::UpStarts, Some(said), &format!("{compose} up"));
        }
        let mut course = Course {
            marker: self,
            project: &site.project,
            site,
            source: Some(&source),
            builds,
            own: true,
            sheet,
        };
        course.run(started).await;
        Outcome::Marked(course.sheet)
    }

    /// Marks what runs already; nothing is built or stopped, but both are crashed.
    pub(crate) async fn running(&self, project: &str, path: Option<&Path>, site: &Site) -> Outcome {
        let source = match path.map(Source::find).transpose() {
            Ok(source) => source,
            Err(words) => return Outcome::Failed(words),
        };
        let started = self.engine.containers(project).await;
        if started.is_empty() {
            return Outcome::Failed(words(
                format!(
                    "no container of a project {project} is here; see docker-compose ls or docker ps"
                ),
                format!("aucun conteneur d'un projet {project} n'est ici ; voir docker ps"),
            ));
        }
        let mut sheet = Sheet::default();
        if let Some(source) = &source {
            source.judge(&mut sheet);
        }
        let untold = words("no PATH was given", "aucun PATH n'a été donné");
        for rule in [Rule::TreeLicense, Rule::TreeReadme, Rule::TreeDockerfiles, Rule::TreeCompose]
        {
            sheet.set(rule, Verdict::NotMarked(untold.clone()));
        }
        if source.is_none() {
            for rule in [Rule::LabelBackend, Rule::LabelFrontend] {
                sheet.set(rule, Verdict::NotMarked(untold.clone()));
            }
        }
        let builds = Vec::new();
        let source = source.as_ref();
        let mut course = Course { marker: self, project, site, source, builds, own: false, sheet };
        course.run(started).await;
        Outcome::Marked(course.sheet)
    }

    /// What is left of them without those that are allowed.
    fn refused(&self, found: Vec<Refusal>) -> Vec<Refusal> {
        found.into_iter().filter(|it| !self.allowed.iter().any(|word| word == it.word)).collect()
    }

    /// Networks and volumes that are called by names which somebody else's have.
    async fn claimed(&self, config: &Value<'_>) -> Vec<Refusal> {
        let mut found = Vec::new();
        for (kind, object) in [("networks", "network"), ("volumes", "volume")] {
            for (_, spec) in deployment::members(config, kind) {
                let name = deployment::text(spec, "name");
                if !name.is_empty() && self.engine.ask(&[object, "inspect", &name]).await.is_some()
                {
                    found.push(safety::claimed(object, &name));
                }
            }
        }
        found
    }

    /// Who is in the way on a port.
    async fn taken(&self, port: u16) -> Option<Words> {
        let who = match host::listener(port)? {
            listener => match self.engine.publisher(port).await {
                Some(container) => {
                    words(format!("the container {container}"), format!("le conteneur {container}"))
                }
                None => listener,
            },
        };
        let (english, french) =
            (who.text(super::rubric::Lang::English), who.text(super::rubric::Lang::French));
        Some(words(
            format!("port {port} is in use, by {english}"),
            format!("le port {port} est pris, par {french}"),
        ))
    }

    /// Builds the images; what went wrong, if anything did.
    async fn build(&self, project: &Project<'_>, builds: &[Build], site: &Site) -> Option<Words> {
        let minutes = self.build_patience.as_secs().div_ceil(60);
        self.progress.step(&words(
            format!("building, for {minutes} min at most"),
            format!("construction, {minutes} min au plus"),
        ));
        site.before.replace(self.engine.images().await);
        for build in builds {
            let name = match &*build.image {
                "" => continue,
                name => name.to_owned(),
            };
            let id = self.engine.ask(&["images", "--quiet", "--no-trunc", &name]).await;
            site.names.borrow_mut().push((name, id.filter(|id| !id.is_empty())));
        }
        let mut kept = self.keep_log.as_ref().and_then(|path| File::create(path).ok());
        let mut line = |line: &str| {
            self.progress.detail(line);
            if let Some(file) = &mut kept {
                // A log that cannot be kept is no reason not to mark.
                let _ = writeln!(file, "{line}");
            }
            // The classic builder's word for an image that it has made or found.
            if let Some(id) = line.trim().strip_prefix("---> ") {
                if id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    site.made.borrow_mut().push(id.to_owned());
                }
            }
        };
        let outcome = self.engine.build(project, self.build_patience, &mut line).await;
        // Images that have no name in the compose file are called after the project.
        for build in builds.iter().filter(|build| build.image.is_empty()) {
            for joint in ["_", "-"] {
                let name = format!("{}{joint}{}", project.name, build.service);
                if self
                    .engine
                    .ask(&["images", "--quiet", &name])
                    .await
                    .is_some_and(|id| !id.is_empty())
                {
                    site.names.borrow_mut().push((name, None));
                }
            }
        }
        let said = engine::said(&outcome);
        match outcome.end {
            End::Exit(Some(0)) => None,
            End::Late(patience) => {
                let seconds = patience.as_secs();
                Some(words(
                    format!("the build is not done after {seconds} s; its last lines:\n{said}"),
                    format!(
                        "la construction n'est pas finie après {seconds} s ; ses dernières lignes :\n{said}"
                    ),
                ))
            }
            _ => Some(words(
                format!("the build fails:\n{said}"),
                format!("la construction échoue :\n{said}"),
            )),
        }
    }
}

/// One deployment that has been started.
struct Course<'a> {
    marker: &'a Marker<'a>,
    project: &'a str,
    /// Whose is what is started beside it.
    site: &'a Site,
    source: Option<&'a Source>,
    builds: Vec<Build>,
    /// Whether it is ours to stop.
    own: bool,
    sheet: Sheet,
}

/// One of the two, and what it answered before anything was done to it.
struct Service {
    role: Role,
    container: Container,
    reply: Reply,
}

impl Course<'_> {
    async fn run(&mut self, started: Vec<Container>) {
        self.marker.progress.step(&words("waiting for answers", "attente des réponses"));
        let containers = self.settle().await;
        let [backend, frontend] =
            Role::BOTH.map(|role| deployment::find(&containers, role).cloned());
        self.judge_start(&containers, [&backend, &frontend]).await;
        self.judge_order(&started, [&backend, &frontend]);
        if let (Some(backend), Some(frontend)) = (&backend, &frontend) {
            self.judge_network(backend, frontend).await;
        }
        if let Some(frontend) = &frontend {
            let command = format!("docker exec {} env", frontend.name);
            self.sheet.judge(Rule::EnvironmentUrl, deployment::reproach_host(frontend), &command);
            self.sheet.judge(Rule::EnvironmentPort, deployment::reproach_port(frontend), &command);
        }
        let mut services = Vec::new();
        for (role, container) in Role::BOTH.into_iter().zip([backend, frontend]) {
            let Some(container) = container else { continue };
            self.judge_image(role, &container).await;
            let reply = self.judge_answer(role, &container).await;
            services.push(Service { role, container, reply });
        }
        if let [backend, frontend] = &services[..] {
            self.judge_backend_crash(backend, Some(frontend)).await;
            self.judge_frontend_crash(frontend).await;
            self.judge_variables(backend, frontend).await;
        } else if let [service] = &services[..] {
            match service.role {
                Role::Backend => self.judge_backend_crash(service, None).await,
                Role::Frontend => self.judge_frontend_crash(service).await,
            }
        }
        self.marker.progress.step(&words("looking at hygiene", "examen de l'hygiène"));
        for service in &services {
            self.note_hygiene(service).await;
        }
        if self.own {
            self.note_stops(&services).await;
        }
        self.sheet.close(&words("it was not started", "il n'a pas été démarré"));
    }

    fn engine(&self) -> &Engine {
        self.marker.engine
    }

    /// Waits until both answer right, or nothing more is to be expected.
    async fn settle(&self) -> Vec<Container> {
        let began = runtime::now();
        let mut last_change = began;
        let mut waited_for = usize::MAX;
        loop {
            let containers = self.engine().containers(self.project).await;
            let (mut silent, mut wrong) = (0, 0);
            for (role, wanted) in Role::BOTH.into_iter().zip([probe::BACKEND, probe::FRONTEND]) {
                let Some(container) = deployment::find(&containers, role) else { continue };
                let Some(door) = container.door(role.port()).filter(|_| container.lives()) else {
                    continue;
                };
                match probe::get(door, "/").await {
                    reply if reply.reproach(wanted).is_none() => {}
                    Reply::Answer(_) | Reply::Broken(_) => wrong += 1,
                    _ => silent += 1,
                }
            }
            let now = runtime::now();
            if silent != waited_for {
                (waited_for, last_change) = (silent, now);
            }
            let over = now - began >= START;
            let settled = silent == 0 && (wrong == 0 || now - last_change >= SETTLE);
            if over || settled {
                return containers;
            }
            runtime::sleep_until(now + LOOK).await;
        }
    }

    async fn judge_start(&mut self, containers: &[Container], found: [&Option<Container>; 2]) {
        let mut reproach = None;
        for (role, container) in Role::BOTH.into_iter().zip(found) {
            let name = role.name();
            match container {
                None => {
                    let services: Vec<&str> = containers.iter().map(|it| &*it.service).collect();
                    let services = services.join(", ");
                    reproach.get_or_insert(words(
                        format!("none of the services is the {name}: {services}"),
                        format!("aucun des services n'est le {name} : {services}"),
                    ));
                }
                Some(container) if !container.lives() => {
                    let (service, code) = (&container.service, container.state.exit_code);
                    let log = self.engine().run(&["logs", "--tail", "3", &container.id]).await;
                    let log = [log.text(), log.log.join("\n")].join("\n");
                    let log = log.trim();
                    reproach.get_or_insert(words(
                        format!("{service} has ended with exit code {code}: {log}"),
                        format!("{service} s'est terminé avec le code {code} : {log}"),
                    ));
                }
                Some(_) => {}
            }
        }
        let compose = self.engine().compose();
        self.sheet.judge(Rule::UpStarts, reproach, &format!("{compose} up -d && {compose} ps -a"));
        if let [Some(backend), Some(frontend)] = found {
            let named = |role: Role, container: &Container| {
                (container.service != role.name()).then(|| {
                    let (name, service) = (role.name(), &container.service);
                    words(
                        format!("{name} is called {service}"),
                        format!("{name} s'appelle {service}"),
                    )
                })
            };
            let reproach = named(Role::Backend, backend).or(named(Role::Frontend, frontend));
            self.sheet.judge(Rule::UpNames, reproach, &format!("{compose} config --services"));
        }
    }

    /// By what the engine noted just after `up`.
    fn judge_order(&mut self, started: &[Container], found: [&Option<Container>; 2]) {
        let [Some(backend), Some(frontend)] = found.map(|found| {
            let id = &found.as_ref()?.id;
            started.iter().find(|it| it.id == *id)
        }) else {
            return;
        };
        if !self.own && backend.state.restarts + frontend.state.restarts > 0 {
            let told = words("they were restarted since", "ils ont été redémarrés depuis");
            self.sheet.set(Rule::UpOrder, Verdict::NotMarked(told));
            return;
        }
        let (first, second) = (&backend.state.started_at, &frontend.state.started_at);
        let reproach = (first >= second || first.starts_with("0001")).then(|| {
            words(
                format!("the backend started at {first}, the frontend at {second}"),
                format!("le backend a démarré à {first}, le frontend à {second}"),
            )
        });
        let command = format!(
            "docker inspect -f '{{{{.State.StartedAt}}}}' {} {}",
            backend.name, frontend.name
        );
        self.sheet.judge(Rule::UpOrder, reproach, &command);
    }

    async fn judge_network(&mut self, backend: &Container, frontend: &Container) {
        let mut bridged = false;
        for network in deployment::common_networks(backend, frontend) {
            let words = ["network", "inspect", "--format", "{{.Driver}}", network];
            let driver = self.engine().ask(&words).await;
            // The engine's own network `bridge` resolves no names.
            bridged |= driver.as_deref() == Some("bridge") && network != "bridge";
        }
        let of = |container: &Container| {
            let networks: Vec<&str> = container.endpoints.iter().map(|it| &*it.network).collect();
            if networks.is_empty() { container.network_mode.clone() } else { networks.join(", ") }
        };
        let (backends, frontends) = (of(backend), of(frontend));
        let reproach = (!bridged).then(|| {
            words(
                format!("the backend is on {backends}, the frontend on {frontends}"),
                format!("le backend est sur {backends}, le frontend sur {frontends}"),
            )
        });
        let command = format!(
            "docker inspect -f '{{{{json .NetworkSettings.Networks}}}}' {} {}",
            backend.name, frontend.name
        );
        self.sheet.judge(Rule::NetworkBridge, reproach, &command);
        let command = format!("{} config", self.engine().compose());
        self.sheet.judge(
            Rule::NetworkName,
            deployment::reproach_finding(backend, frontend),
            &command,
        );
    }

    /// The label and the tag.
    async fn judge_image(&mut self, role: Role, container: &Container) {
        let (label, tag) = match role {
            Role::Backend => (Rule::LabelBackend, Rule::TagBackend),
            Role::Frontend => (Rule::LabelFrontend, Rule::TagFrontend),
        };
        let carried = self.engine().image(&container.image_id).await.map(|(labels, _)| labels);
        let carried = carried.unwrap_or_default().into_iter().find(|(name, _)| name == "hub_url");
        let url = carried.map(|(_, url)| url);
        let hub = url.as_deref().and_then(deployment::on_hub);
        if let Some(source) = self.source {
            let (path, dockerfile) = self.dockerfile(source, role, &container.service);
            let written = dockerfile.as_ref().and_then(|it| it.label("hub_url"));
            let reproach = match (dockerfile.is_some(), written, &url) {
                (false, ..) => Some(words(format!("{path} is missing"), format!("{path} manque"))),
                (true, None, _) => Some(words(
                    format!("{path} has no LABEL hub_url"),
                    format!("{path} n'a pas de LABEL hub_url"),
                )),
                (true, Some(_), None) => Some(words(
                    format!("the image {} has no label hub_url", container.image),
                    format!("l'image {} n'a pas de label hub_url", container.image),
                )),
                (true, Some(_), Some(url)) => hub.is_none().then(|| {
                    words(
                        format!("hub_url is no address on Docker Hub: {url}"),
                        format!("hub_url n'est pas une adresse sur Docker Hub : {url}"),
                    )
                }),
            };
            let command = format!(
                "docker image inspect -f '{{{{json .Config.Labels}}}}' {}",
                container.image
            );
            self.sheet.judge(label, reproach, &command);
        }
        let image = &container.image;
        if !deployment::is_latest(image) {
            let reproach = words(format!("its name is {image}"), format!("son nom est {image}"));
            self.sheet.judge(tag, Some(reproach), &format!("{} images", self.engine().compose()));
            return;
        }
        let mut reproach = None;
        let mut command = String::new();
        if self.marker.hub {
            let name = match hub {
                Some((namespace, name)) => format!("{namespace}/{name}:latest"),
                None => image.clone(),
            };
            command = format!("docker pull {name}");
            let asked = self.engine().run(&["manifest", "inspect", &name]).await;
            let said = engine::said(&asked);
            reproach = (!asked.succeeded()).then(|| {
                words(
                    format!("{name} cannot be pulled: {said}"),
                    format!("{name} ne peut pas être téléchargée : {said}"),
                )
            });
        }
        self.sheet.judge(tag, reproach, &command);
    }

    /// A service's Dockerfile, where the compose file or else the exercise has it.
    fn dockerfile(
        &self,
        source: &Source,
        role: Role,
        service: &str,
    ) -> (String, Option<Dockerfile>) {
        let build = self.builds.iter().find(|it| it.service == service);
        let build = build.filter(|build| !build.context.is_empty());
        let path = match build {
            None => source.root.join(role.name()).join("Dockerfile"),
            Some(build) => {
                let name =
                    if build.dockerfile.is_empty() { "Dockerfile" } else { &build.dockerfile };
                source.root.join(&build.context).join(name)
            }
        };
        let shown = path.strip_prefix(&source.root).unwrap_or(&path).display().to_string();
        let text = path.is_file().then(|| safety::read(&path));
        let (arguments, target) = match build {
            Some(build) => (&build.arguments[..], &*build.target),
            None => (&[][..], ""),
        };
        (shown, text.map(|text| Dockerfile::read(&text, arguments, target)))
    }

    async fn judge_answer(&mut self, role: Role, container: &Container) -> Reply {
        let (rule, wanted) = match role {
            Role::Backend => (Rule::AnswerBackend, probe::BACKEND),
            Role::Frontend => (Rule::AnswerFrontend, probe::FRONTEND),
        };
        let port = role.port();
        let reply = match container.door(port) {
            Some(door) => probe::get(door, "/").await,
            None => Reply::Closed,
        };
        let reproach = match container.publishes(port) {
            true => reply.reproach(wanted),
            false => Some(words(
                format!("port {port} is not published"),
                format!("le port {port} n'est pas publié"),
            )),
        };
        self.sheet.judge(rule, reproach, &format!("curl -i http://127.0.0.1:{port}/"));
        if let Reply::Answer(answer) = &reply {
            let same = answer.body.trim_ascii_end() == wanted.as_bytes();
            let name = role.name();
            self.sheet.note(
                words(format!("{name}: bytes"), format!("{name} : octets")),
                match same {
                    true => {
                        words("the very bytes of the exercise", "les octets mêmes de l'exercice")
                    }
                    false => words(
                        "another spelling of JSON, or another text",
                        "une autre écriture du JSON, ou un autre texte",
                    ),
                },
            );
        }
        reply
    }

    /// Crashes the backend, and sees whether the frontend finds it again.
    async fn judge_backend_crash(&mut self, backend: &Service, frontend: Option<&Service>) {
        self.marker.progress.step(&words("crashing the backend", "plantage du backend"));
        let Some(answer) = backend.reply.answer() else {
            self.leave(
                &[Rule::CrashBackend, Rule::RecoverChain, Rule::EnvironmentUsed],
                backend.role,
            );
            return;
        };
        let whole =
            |reply: &Reply| reply.answer().is_some_and(|it| probe::holds(&it.body, &answer.body));
        let (mut reproach, mut broken) = (None, None);
        for _ in 0..CRASHES {
            let before = match frontend {
                Some(frontend) => self.state(&frontend.container.id).await,
                None => None,
            };
            let crash = self.crash(backend).await;
            let is_back = crash.is_back;
            reproach = reproach.or(crash.reproach);
            let Some(frontend) = frontend.filter(|_| broken.is_none()) else { continue };
            broken = match is_back {
                _ if !whole(&frontend.reply) => {
                    Some(told("before any crash", "avant tout plantage", &frontend.reply))
                }
                false => Some(words(
                    "the backend is not back within 10 s",
                    "le backend n'est pas revenu en 10 s",
                )),
                true => {
                    let reply = self.until(frontend, BACK, &whole).await;
                    let after = self.state(&frontend.container.id).await;
                    match before == after {
                        _ if !whole(&reply) => Some(told("10 s later", "10 s plus tard", &reply)),
                        true => None,
                        false => {
                            Some(words("the frontend was restarted", "le frontend a été redémarré"))
                        }
                    }
                }
            };
            if !is_back {
                break;
            }
        }
        self.revive(backend).await;
        let command = "curl -i http://127.0.0.1:8001/traceback; docker ps -a";
        self.sheet.judge(Rule::CrashBackend, reproach, command);
        if frontend.is_some() {
            let command =
                "curl http://127.0.0.1:8001/traceback; sleep 10; curl -i http://127.0.0.1:8000/";
            self.sheet.judge(Rule::RecoverChain, broken, command);
        }
    }

    async fn judge_frontend_crash(&mut self, frontend: &Service) {
        self.marker.progress.step(&words("crashing the frontend", "plantage du frontend"));
        if frontend.reply.answer().is_none() {
            self.leave(&[Rule::CrashFrontend], frontend.role);
            return;
        }
        let mut reproach = None;
        for _ in 0..CRASHES {
            let crash = self.crash(frontend).await;
            reproach = reproach.or(crash.reproach);
            if !crash.is_back {
                break;
            }
        }
        self.revive(frontend).await;
        let command = "curl -i http://127.0.0.1:8000/traceback; docker ps -a";
        self.sheet.judge(Rule::CrashFrontend, reproach, command);
    }

    /// These rules need an answer of that service.
    fn leave(&mut self, rules: &[Rule], role: Role) {
        let name = role.name();
        for rule in rules {
            self.sheet.set(
                *rule,
                Verdict::NotReached(words(
                    format!("{name} never answered"),
                    format!("{name} n'a jamais répondu"),
                )),
            );
        }
    }

    /// Crashes a service once, and waits until it is back, whatever else is wrong.
    async fn crash(&self, service: &Service) -> Crash {
        let id = &service.container.id;
        let mut reproach = None;
        let (Some(before), Some(door)) = (self.state(id).await, self.door(service).await) else {
            let gone = words("its container is gone", "son conteneur a disparu");
            return Crash { reproach: Some(gone), is_back: false };
        };
        let since = epoch();
        let began = runtime::now();
        match probe::get(door, "/traceback").await {
            Reply::Nothing | Reply::Silence => {}
            reply => reproach = Some(told("GET /traceback", "GET /traceback", &reply)),
        }
        let has_ended =
            |state: &State| state.started_at != before.started_at || state.status != "running";
        if self.until_state(id, END, has_ended).await.is_none() {
            let pid = before.pid;
            reproach.get_or_insert(words(
                format!("process 1 (here {pid}) has not ended: a child of it may have"),
                format!(
                    "le processus 1 (ici {pid}) ne s'est pas terminé : peut-être un de ses enfants"
                ),
            ));
        } else {
            match self.exit_code(id, since).await {
                Some(1) => {}
                Some(code) => {
                    reproach.get_or_insert(words(
                        format!("process 1 ended with exit code {code}"),
                        format!(
                            "le processus 1 s'est terminé avec le code {code} (exit code {code})"
                        ),
                    ));
                }
                None => {
                    reproach.get_or_insert(words(
                        "the engine knows of no end of process 1",
                        "le moteur ne connaît pas de fin du processus 1",
                    ));
                }
            }
            let policy = &service.container.restart_policy;
            let left = (began + BACK).saturating_duration_since(runtime::now());
            let is_restarted =
                |state: &State| state.restarts > before.restarts && state.status == "running";
            let restarted = match &**policy {
                "" | "no" => None,
                _ => self.until_state(id, left, is_restarted).await,
            };
            if restarted.is_none() {
                let policy = if policy.is_empty() { "no" } else { policy };
                reproach.get_or_insert(words(
                    format!("the engine does not restart it; its restart policy is {policy}"),
                    format!("le moteur ne le redémarre pas ; sa politique de redémarrage (restart) est {policy}"),
                ));
                return Crash { reproach, is_back: false };
            }
        }
        let status = service.reply.answer().map(|it| it.status);
        let as_before = |reply: &Reply| reply.answer().map(|it| it.status) == status;
        let left = (began + BACK).saturating_duration_since(runtime::now());
        let reply = self.until(service, left, &as_before).await;
        let is_back = as_before(&reply);
        if !is_back {
            reproach.get_or_insert(told("10 s later", "10 s plus tard", &reply));
        }
        Crash { reproach, is_back }
    }

    /// Starts what was not restarted, so that the rest can be marked.
    async fn revive(&self, service: &Service) {
        let lives =
            self.engine().container(&service.container.id).await.is_some_and(|it| it.lives());
        if !lives {
            self.engine().run(&["start", &service.container.id]).await;
            self.until(service, BACK, &|reply| reply.answer().is_some()).await;
        }
    }

    /// The last exit code of a container since then.
    async fn exit_code(&self, id: &str, since: Duration) -> Option<i32> {
        let deadline = runtime::now() + END;
        loop {
            let ends = self.engine().ends(id, since, epoch()).await;
            if !ends.is_empty() || runtime::now() >= deadline {
                return ends.last().copied();
            }
            runtime::sleep_until(runtime::now() + LOOK).await;
        }
    }

    async fn state(&self, id: &str) -> Option<State> {
        self.engine().container(id).await.map(|it| it.state)
    }

    /// Waits until a container is in a state; `None` if that does not come.
    async fn until_state(
        &self,
        id: &str,
        patience: Duration,
        wanted: impl Fn(&State) -> bool,
    ) -> Option<State> {
        let deadline = runtime::now() + patience;
        loop {
            if let Some(state) = self.state(id).await.filter(&wanted) {
                return Some(state);
            }
            if runtime::now() >= deadline {
                return None;
            }
            runtime::sleep_until(runtime::now() + LOOK).await;
        }
    }

    /// Where it is now: a restart may move it.
    async fn door(&self, service: &Service) -> Option<SocketAddr> {
        self.engine().container(&service.container.id).await?.door(service.role.port())
    }

    /// Asks until the reply is as wanted; the last reply.
    async fn until(
        &self,
        service: &Service,
        patience: Duration,
        wanted: &dyn Fn(&Reply) -> bool,
    ) -> Reply {
        let deadline = runtime::now() + patience;
        loop {
            let reply = match self.door(service).await {
                Some(door) => probe::get(door, "/").await,
                None => Reply::Closed,
            };
            if wanted(&reply) || runtime::now() >= deadline {
                return reply;
            }
            runtime::sleep_until(runtime::now() + LOOK).await;
        }
    }

    /// Starts the backend under another name on a network of its own, and shows that the frontend
    /// finds it by its variables, and by them alone.
    async fn judge_variables(&mut self, backend: &Service, frontend: &Service) {
        let Some(answer) = backend.reply.answer() else { return };
        self.marker.progress.step(&words("following the variables", "suivi des variables"));
        let network = format!("{}-decoy", self.site.project);
        let port = backend.container.inner_port(Role::Backend.port());
        let wrong = port ^ 1;
        let label = format!("com.docker.compose.project={}", self.site.project);
        self.engine().run(&["network", "create", "--label", &label, &network]).await;
        let alias = ["--network-alias", DECOY_NAME];
        let mut made = vec![self.start(&backend.container, &network, &alias).await];
        let publish =
            format!("127.0.0.1::{}", frontend.container.inner_port(Role::Frontend.port()));
        let mut replies = Vec::new();
        let whole =
            |reply: &Reply| reply.answer().is_some_and(|it| probe::holds(&it.body, &answer.body));
        for (port, done) in [
            (port, &whole as &dyn Fn(&Reply) -> bool),
            (wrong, &|reply: &Reply| reply.answer().is_some()),
        ] {
            let url = format!("API_BACKEND_URL={DECOY_NAME}");
            let port = format!("API_BACKEND_PORT={port}");
            let options = ["--publish", &publish, "--env", &url, "--env", &port];
            let started = self.start(&frontend.container, &network, &options).await;
            replies.push(self.first_answer(started.as_deref(), done).await);
            made.push(started);
        }
        for id in made.iter().flatten() {
            self.engine().run(&["rm", "--force", "--volumes", id]).await;
        }
        self.engine().run(&["network", "rm", &network]).await;
        let reproach = match &replies[..] {
            [right, _] if !whole(right) => Some(told(
                &format!("with API_BACKEND_URL={DECOY_NAME} and API_BACKEND_PORT={port}"),
                &format!("avec API_BACKEND_URL={DECOY_NAME} et API_BACKEND_PORT={port}"),
                right,
            )),
            [_, beside] if whole(beside) => Some(words(
                format!(
                    "it reaches the backend even with API_BACKEND_PORT={wrong}, where nobody listens"
                ),
                format!(
                    "il atteint le backend même avec API_BACKEND_PORT={wrong}, où personne n'écoute"
                ),
            )),
            _ => None,
        };
        let command = format!(
            "docker run --rm -e API_BACKEND_URL={DECOY_NAME} -e API_BACKEND_PORT={port} {}",
            frontend.container.image
        );
        self.sheet.judge(Rule::EnvironmentUsed, reproach, &command);
    }

    /// Starts a container like that one on a network; its id.
    async fn start(&self, like: &Container, network: &str, options: &[&str]) -> Option<String> {
        let label = format!("com.docker.compose.project={}", self.site.project);
        let mut words =
            vec!["run", "--detach", "--restart", "always", "--label", &label, "--network", network];
        // Later ones win, so its own come first.
        for variable in &like.variables {
            words.extend(["--env", variable]);
        }
        if !like.user.is_empty() {
            words.extend(["--user", &like.user]);
        }
        words.extend(options);
        let (entrypoint, rest) = like.command();
        if let Some(entrypoint) = entrypoint {
            words.extend(["--entrypoint", entrypoint]);
        }
        words.push(&like.image_id);
        words.extend(rest);
        self.engine().ask(&words).await
    }

    /// Asks a container that publishes one port until the reply is as wanted; the last reply.
    async fn first_answer(&self, id: Option<&str>, done: &dyn Fn(&Reply) -> bool) -> Reply {
        let deadline = runtime::now() + DECOY;
        let Some(id) = id else { return Reply::Closed };
        loop {
            let ports = self.engine().ask(&["port", id]).await.unwrap_or_default();
            let door = ports.lines().find_map(|line| line.rsplit(' ').next()?.parse().ok());
            let reply = match door {
                Some(door) => probe::get(door, "/").await,
                None => Reply::Closed,
            };
            if done(&reply) || runtime::now() >= deadline {
                return reply;
            }
            runtime::sleep_until(runtime::now() + LOOK).await;
        }
    }

    /// What is good craft, and never marked.
    async fn note_hygiene(&mut self, service: &Service) {
        let Service { role, container, .. } = service;
        let name = role.name();
        let mut note = |what: (&str, &str), seen: Words| {
            self.sheet
                .notes
                .push((words(format!("{name}: {}", what.0), format!("{name} : {}", what.1)), seen));
        };
        let user = container.user.split(':').next().unwrap_or_default();
        note(
            ("user", "utilisateur"),
            match user {
                "" | "0" | "root" => words("root", "root"),
                user => Words::quoted(user),
            },
        );
        note(
            ("health check", "health check"),
            match container.has_health_check {
                true => words("yes", "oui"),
                false => words("none", "aucun"),
            },
        );
        let dropped = &container.capabilities_dropped;
        note(
            ("capabilities dropped", "capacités retirées"),
            match &dropped[..] {
                [] => words("none", "aucune"),
                dropped => Words::quoted(dropped.join(", ")),
            },
        );
        if let Some((_, bytes)) = self.marker.engine.image(&container.image_id).await {
            let megabytes = format!("{:.1} MB", bytes / 1e6);
            note(("image size", "taille de l'image"), Words::quoted(megabytes));
        }
        let Some(source) = self.source else { return };
        let (path, dockerfile) = self.dockerfile(source, *role, &container.service);
        let Some(dockerfile) = dockerfile else { return };
        let loose: Vec<&str> = dockerfile
            .bases
            .iter()
            .map(String::as_str)
            .filter(|base| *base != "scratch" && deployment::is_latest(base))
            .collect();
        self.sheet.note(
            words(format!("{name}: bases"), format!("{name} : bases")),
            match &loose[..] {
                [] => words("all have a version", "toutes ont une version"),
                loose => {
                    let loose = loose.join(", ");
                    words(format!("without a version: {loose}"), format!("sans version : {loose}"))
                }
            },
        );
        let file = source.root.join(path);
        let file = file.to_str().unwrap_or_default();
        let found = command::ask(&["hadolint", "--no-fail", "--format", "json", file], END).await;
        if let Ok(findings) = Value::read(&found.answer) {
            let codes: Vec<String> =
                findings.items().iter().map(|it| deployment::text(it, "code")).collect();
            self.sheet.note(
                Words::quoted(format!("{name}: hadolint")),
                match &codes[..] {
                    [] => words("nothing found", "rien trouvé"),
                    codes => Words::quoted(codes.join(", ")),
                },
            );
        }
    }

    /// How both take being stopped, at the same time.
    async fn note_stops(&mut self, services: &[Service]) {
        let times: Vec<Cell<Option<Duration>>> = services.iter().map(|_| Cell::new(None)).collect();
        let stop = async |index: usize| {
            let Some(service) = services.get(index) else { return };
            let began = Instant::now();
            self.engine().run(&["stop", "--time", STOP_SECONDS, &service.container.id]).await;
            times[index].set(Some(began.elapsed()));
        };
        both(stop(0), stop(1)).await;
        for (service, took) in services.iter().zip(&times) {
            let (Some(took), Some(state)) = (took.get(), self.state(&service.container.id).await)
            else {
                continue;
            };
            let (seconds, code) = (took.as_secs_f64(), state.exit_code);
            let name = service.role.name();
            self.sheet.note(
                words(format!("{name}: docker stop"), format!("{name} : docker stop")),
                match code {
                    137 => words(
                        format!("not ended after {STOP_SECONDS} s, and killed (exit code 137)"),
                        format!("pas terminé après {STOP_SECONDS} s, et tué (code 137)"),
                    ),
                    _ => words(
                        format!("ended after {seconds:.1} s with exit code {code}"),
                        format!("terminé après {seconds:.1} s avec le code {code}"),
                    ),
                },
            );
        }
    }
}

/// What one crash came to.
struct Crash {
    reproach: Option<Words>,
    is_back: bool,
}

/// A reply, and when or how it came.
fn told(english: &str, french: &str, reply: &Reply) -> Words {
    use super::rubric::Lang::{English, French};
    let told = reply.told();
    words(format!("{english}: {}", told.text(English)), format!("{french} : {}", told.text(French)))
}

/// The time as the engine's events have it.
fn epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

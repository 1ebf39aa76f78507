//! A deployment that has been started: what the engine says of it and what it responds. The
//! parts below act on it.

mod crash;
mod decoy;
mod hygiene;
mod image;

use std::net::SocketAddr;
use std::time::Duration;

use common::date;
use common::rt;

use crate::checkout::Checkout;
use crate::deployment::{self, Build, Container, Role, State};
use crate::engine::Engine;
use crate::marker::{Cleanup, Marker};
use crate::node::Node;
use crate::probe::{self, Probed};
use crate::rubric::{Rule, Sheet, Verdict};
use crate::words::{Lang, Words, words};

/// How long both may take from `up` to their first responses.
const START: Duration = Duration::from_secs(60);
/// How long a first response that is not right may yet become so: a backend that is slower to
/// start than its frontend.
const SETTLE: Duration = Duration::from_secs(3);
/// How long a process must live to have started: a crash loop's does not.
const STABLE: Duration = Duration::from_secs(4);
/// Starts so far apart are not by chance, in nanoseconds.
const CHANCE_NS: u64 = 3_000_000_000;
/// Between two looks at a state that the engine does not announce.
const LOOK: Duration = Duration::from_millis(200);

/// One deployment that has been started.
pub(crate) struct Inspection<'a> {
    pub(crate) marker: &'a Marker<'a>,
    pub(crate) subject: Subject,
    pub(crate) project: &'a str,
    /// Takes notes of all that is started for it.
    pub(crate) cleanup: &'a Cleanup,
    pub(crate) checkout: Option<&'a Checkout>,
    pub(crate) sheet: Sheet,
}

/// Where a deployment comes from.
pub(crate) enum Subject {
    /// The marker has built and started it.
    Started {
        builds: Vec<Build>,
        /// The compose file that was run.
        plan: Node,
        /// When each container was started first: its id, and nanoseconds of the epoch.
        first_starts: Vec<(String, u64)>,
    },
    /// It was here before, and must stay.
    Running,
}

/// One of the two, and its response before anything was done to it.
struct Service {
    role: Role,
    container: Container,
    probed: Probed,
}

impl Inspection<'_> {
    /// Judges all rules that have no verdict yet.
    pub(crate) async fn run(mut self) -> Sheet {
        self.step("waiting for responses", "attente des réponses");
        let containers = self.settle().await;
        let found = Role::BOTH.map(|role| deployment::find(&containers, role));
        self.judge_start(&containers, found).await;
        if let [Some(backend), Some(frontend)] = found {
            self.judge_names([backend, frontend]);
            self.judge_order([backend, frontend]);
            self.judge_network(backend, frontend).await;
        }
        let mut services = Vec::new();
        for (role, container) in Role::BOTH.into_iter().zip(found) {
            let Some(container) = container.cloned() else { continue };
            self.judge_image(role, &container).await;
            let probed = self.judge_response(role, &container).await;
            services.push(Service { role, container, probed });
        }
        let [backend, frontend] = Role::BOTH.map(|role| services.iter().find(|it| it.role == role));
        if let Some(frontend) = frontend {
            self.judge_variables_set(&frontend.container);
        }
        if let Some(backend) = backend {
            self.judge_backend_crash(backend, frontend).await;
        }
        if let Some(frontend) = frontend {
            self.judge_frontend_crash(frontend).await;
        }
        if let (Some(backend), Some(frontend)) = (backend, frontend) {
            self.judge_variables(backend, frontend).await;
        }
        self.step("looking at the craft", "examen de la qualité");
        for service in &services {
            self.note_hygiene(service).await;
        }
        if !self.stays() {
            self.note_stops(&services).await;
        }
        self.sheet.close(&words("there is no such service", "ce service n'existe pas"));
        self.sheet
    }

    /// Returns true if it was here before, and must stay.
    fn stays(&self) -> bool {
        matches!(self.subject, Subject::Running)
    }

    fn builds(&self) -> &[Build] {
        match &self.subject {
            Subject::Started { builds, .. } => builds,
            Subject::Running => &[],
        }
    }

    /// A container, as a person would name it who has the checkout, and started it.
    fn typed(&self, container: &Container) -> String {
        if self.stays() {
            return container.name.clone();
        }
        format!("$({} ps -q {})", self.engine().compose(), container.service)
    }

    fn step(&self, english: &str, french: &str) {
        self.marker.progress.step(&words(english, french));
    }

    fn engine(&self) -> &Engine {
        self.marker.engine
    }

    /// Waits until both respond right and have lived for a while, or nothing more is to be
    /// expected.
    async fn settle(&self) -> Vec<Container> {
        let began = rt::now();
        // How many are silent yet, and since when so many are.
        let mut silence = (usize::MAX, began);
        // Restarts and start times, which a crash loop changes; and when they changed last.
        let (mut lives, mut lives_since) = (Vec::new(), began);
        loop {
            let containers = self.engine().containers(self.project).await;
            let (mut silent, mut wrong, mut lives_now) = (0, 0, Vec::new());
            for role in Role::BOTH {
                let Some(container) = deployment::find(&containers, role) else { continue };
                lives_now.push((container.state.restarts, container.state.started_at.clone()));
                if !container.lives() {
                    continue;
                }
                match probe::get(container.address(role.port()), "/").await {
                    probed if probed.defect(probe::wanted(role)).is_none() => {}
                    Probed::Response(_) | Probed::Malformed(_) => wrong += 1,
                    _ => silent += 1,
                }
            }
            let now = rt::now();
            if silence.0 != silent {
                silence = (silent, now);
            }
            if lives != lives_now {
                (lives, lives_since) = (lives_now, now);
            }
            let settled = silent == 0 && (wrong == 0 || now - silence.1 >= SETTLE);
            if settled && now - lives_since >= STABLE || now - began >= START {
                return containers;
            }
            rt::sleep_until(now + LOOK).await;
        }
    }

    async fn judge_start(&mut self, all: &[Container], found: [Option<&Container>; 2]) {
        let mut defect = None;
        for (role, container) in Role::BOTH.into_iter().zip(found) {
            let unlike = match container {
                Some(container) => self.not_started(role, container).await,
                None => {
                    let services: Vec<&str> = all.iter().map(|it| &*it.service).collect();
                    let (name, services) = (role.name(), services.join(", "));
                    Some(words(
                        format!("none of the services is the {name}: {services}"),
                        format!("aucun des services n'est {name} : {services}"),
                    ))
                }
            };
            defect = defect.or(unlike);
        }
        let compose = self.engine().compose();
        self.sheet.judge(Rule::UpStarts, defect, &format!("{compose} up -d; {compose} ps -a"));
    }

    /// Why a service counts as not started, if it does.
    async fn not_started(&self, role: Role, container: &Container) -> Option<Words> {
        let Container { service, state, .. } = container;
        let (code, restarts) = (state.exit_code, state.restarts);
        let is_silent =
            || async { probe::get(container.address(role.port()), "/").await == Probed::Refused };
        let is_looping = state.status == "restarting" || restarts > 1 && is_silent().await;
        let (english, french) = match &*state.status {
            _ if !state.error.is_empty() => (
                format!("{service} cannot be started: {}", state.error),
                format!("{service} ne peut pas démarrer : {}", state.error),
            ),
            "running" | "restarting" if !is_looping => return None,
            "running" | "restarting" => (
                format!("{service} ends again and again: {restarts} restarts"),
                format!("{service} s'arrête sans cesse : {restarts} redémarrages"),
            ),
            "created" => (
                format!("{service} was created and not started"),
                format!("{service} a été créé et n'a pas démarré"),
            ),
            _ => (
                format!("{service} has ended with exit code {code}"),
                format!("{service} s'est terminé avec le code {code}"),
            ),
        };
        let last = self.engine().last_lines(&container.id).await;
        Some(words(format!("{english}\n{last}"), format!("{french}\n{last}")))
    }

    fn judge_names(&mut self, found: [&Container; 2]) {
        let mut pairs = Role::BOTH.into_iter().zip(found);
        let defect = pairs.find(|(role, it)| it.service != role.name()).map(|(role, it)| {
            let (name, service) = (role.name(), &it.service);
            words(format!("{name} is named {service}"), format!("{name} se nomme {service}"))
        });
        let command = format!("{} config --services", self.engine().compose());
        self.sheet.judge(Rule::UpNames, defect, &command);
    }

    /// Decided by the configuration: without it, starts in the right order are luck, unless they
    /// are far apart. Of what ran before only the last starts are known.
    fn judge_order(&mut self, found: [&Container; 2]) {
        let [backend, frontend] = found;
        let inspected = found.map(|it| self.typed(it));
        let command = format!(
            "docker inspect -f '{{{{.State.StartedAt}}}}' {} {}",
            inspected[0], inspected[1]
        );
        let Subject::Started { plan, first_starts, .. } = &self.subject else {
            if backend.state.restarts + frontend.state.restarts > 0 {
                let why = words("they were restarted since", "ils ont redémarré depuis");
                return self.sheet.set(Rule::UpOrder, Verdict::NotMarked(why));
            }
            let (first, second) = (&backend.state.started_at, &frontend.state.started_at);
            let defect = (first >= second).then(|| starts(first, second));
            return self.sheet.judge(Rule::UpOrder, defect, &command);
        };
        let first = |it: &Container| {
            first_starts.iter().find(|(id, _)| *id == it.id).map(|(_, nanos)| *nanos)
        };
        let is_first = |it: &Container, other: &Container| {
            deployment::is_ordered(plan, &it.service, &other.service)
        };
        let times = found.map(first);
        let is_late = |[backend, frontend]: [u64; 2]| {
            backend > frontend && backend - frontend >= CHANCE_NS || is_first(found[1], found[0])
        };
        let defect = match times {
            _ if is_first(backend, frontend) => None,
            [Some(backend), Some(frontend)] if is_late([backend, frontend]) => {
                Some(starts(&time(backend), &time(frontend)))
            }
            [Some(backend), Some(frontend)] if frontend.saturating_sub(backend) >= CHANCE_NS => {
                None
            }
            _ => Some(words(
                "nothing orders their starts: no depends_on",
                "rien n'ordonne leur démarrage : pas de depends_on",
            )),
        };
        self.sheet.judge(Rule::UpOrder, defect, &command);
    }

    async fn judge_network(&mut self, backend: &Container, frontend: &Container) {
        let mut bridged = false;
        for network in deployment::common_networks(backend, frontend) {
            let words = ["network", "inspect", "--format", "{{.Driver}}", network];
            let driver = self.engine().query(&words).await;
            // The engine's own network `bridge` resolves no names.
            bridged |= driver.as_deref() == Some("bridge") && network != "bridge";
        }
        let of = |container: &Container| {
            let networks: Vec<&str> = container.endpoints.iter().map(|it| &*it.network).collect();
            if networks.is_empty() { container.network_mode.clone() } else { networks.join(", ") }
        };
        let (backends, frontends) = (of(backend), of(frontend));
        let defect = (!bridged).then(|| {
            words(
                format!("the backend is on {backends}, the frontend on {frontends}"),
                format!("le backend est sur {backends}, le frontend sur {frontends}"),
            )
        });
        let [backends, frontends] = [backend, frontend].map(|it| self.typed(it));
        let command = format!(
            "docker inspect -f '{{{{json .NetworkSettings.Networks}}}}' {backends} {frontends}"
        );
        self.sheet.judge(Rule::NetworkBridge, defect, &command);
        let command = format!("{} config", self.engine().compose());
        self.sheet.judge(
            Rule::NetworkName,
            deployment::finding_defect(backend, frontend),
            &command,
        );
    }

    fn judge_variables_set(&mut self, frontend: &Container) {
        let command = format!("docker inspect -f '{{{{.Config.Env}}}}' {}", self.typed(frontend));
        self.sheet.judge(Rule::EnvironmentUrl, deployment::host_defect(frontend), &command);
        self.sheet.judge(Rule::EnvironmentPort, deployment::port_defect(frontend), &command);
    }

    async fn judge_response(&mut self, role: Role, container: &Container) -> Probed {
        let demanded = match role {
            Role::Backend => Rule::AnswerBackend,
            Role::Frontend => Rule::AnswerFrontend,
        };
        let port = role.port();
        let probed = probe::get(container.address(port), "/").await;
        // A project that runs may have been started with other ports of the host.
        let published =
            container.publishes(port) || self.stays() && container.outer_port(port).is_some();
        let defect = if published {
            probed.defect(probe::wanted(role))
        } else {
            Some(words(
                format!("port {port} is not published"),
                format!("le port {port} n'est pas publié"),
            ))
        };
        let shown = container.outer_port(port).filter(|_| self.stays()).unwrap_or(port);
        self.sheet.judge(demanded, defect, &format!("curl -i 127.0.0.1:{shown}"));
        probed
    }

    async fn state(&self, id: &str) -> Option<State> {
        self.engine().container(id).await.map(|it| it.state)
    }

    /// Where it is now: a restart may move it.
    async fn address(&self, service: &Service) -> Option<SocketAddr> {
        self.engine().container(&service.container.id).await?.address(service.role.port())
    }
}

fn starts(backend: &str, frontend: &str) -> Words {
    words(
        format!("the backend started at {backend}, the frontend at {frontend}"),
        format!("le backend a démarré à {backend}, le frontend à {frontend}"),
    )
}

/// A time of the epoch in nanoseconds, for people.
fn time(nanos: u64) -> String {
    let mut out = Vec::new();
    date::rfc3339(nanos / 1_000_000, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// The outcome of a probe, and its time.
fn shown(english: &str, french: &str, probed: &Probed) -> Words {
    let shown = probed.shown();
    words(
        format!("{english}: {}", shown.text(Lang::English)),
        format!("{french} : {}", shown.text(Lang::French)),
    )
}

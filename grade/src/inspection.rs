//! Looking at a deployment that has been started: what the engine says of it and what it answers.
//! What is done to it is in the parts below.

mod crash;
mod decoy;
mod hygiene;
mod image;

use std::net::SocketAddr;
use std::time::Duration;

use common::runtime;

use crate::checkout::Checkout;
use crate::deployment::{self, Build, Container, Role, State};
use crate::engine::Engine;
use crate::marker::{Cleanup, Marker};
use crate::probe::{self, Reply};
use crate::rubric::{Rule, Sheet, Verdict};
use crate::words::{Lang, Words, words};

/// How long both may take from `up` to their first answers.
const START: Duration = Duration::from_secs(60);
/// How long a first answer that is not right may yet become so: a backend that is slower to start
/// than its frontend.
const SETTLE: Duration = Duration::from_secs(3);
/// Between two looks at what tells nobody.
const LOOK: Duration = Duration::from_millis(100);

/// One deployment that has been started.
pub(crate) struct Inspection<'a> {
    pub(crate) marker: &'a Marker<'a>,
    pub(crate) project: &'a str,
    /// Whose is what is started beside it.
    pub(crate) cleanup: &'a Cleanup,
    pub(crate) source: Option<&'a Checkout>,
    pub(crate) builds: Vec<Build>,
    /// Whether it was here before, and must stay.
    pub(crate) stays: bool,
    pub(crate) sheet: Sheet,
}

/// One of the two, and what it answered before anything was done to it.
struct Service {
    role: Role,
    container: Container,
    reply: Reply,
}

impl Inspection<'_> {
    /// Marks all that has no mark yet. `started` is what was there just after `up`.
    pub(crate) async fn run(mut self, started: Vec<Container>) -> Sheet {
        self.step("waiting for answers", "attente des réponses");
        let containers = self.settle().await;
        let found = Role::BOTH.map(|role| deployment::find(&containers, role));
        self.judge_start(&containers, found).await;
        if let [Some(backend), Some(frontend)] = found {
            self.judge_names([backend, frontend]);
            self.judge_order(&started, [backend, frontend]);
            self.judge_network(backend, frontend).await;
        }
        let mut services = Vec::new();
        for (role, container) in Role::BOTH.into_iter().zip(found) {
            let Some(container) = container.cloned() else { continue };
            self.judge_image(role, &container).await;
            let reply = self.judge_answer(role, &container).await;
            services.push(Service { role, container, reply });
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
        if !self.stays {
            self.note_stops(&services).await;
        }
        self.sheet.close(&words("there is no such service", "il n'y a pas un tel service"));
        self.sheet
    }

    /// A container, as a person would name it who has the checkout, and started it.
    fn typed(&self, container: &Container) -> String {
        if self.stays {
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

    /// Waits until both answer right, or nothing more is to be expected.
    async fn settle(&self) -> Vec<Container> {
        let began = runtime::now();
        // How many are silent yet, and since when so many are.
        let mut silence = (usize::MAX, began);
        loop {
            let containers = self.engine().containers(self.project).await;
            let (mut silent, mut wrong) = (0, 0);
            for role in Role::BOTH {
                let container = deployment::find(&containers, role).filter(|it| it.lives());
                let Some(door) = container.and_then(|it| it.door(role.port())) else { continue };
                match probe::get(Some(door), "/").await {
                    reply if reply.defect(probe::wanted(role)).is_none() => {}
                    Reply::Answer(_) | Reply::Broken(_) => wrong += 1,
                    _ => silent += 1,
                }
            }
            let now = runtime::now();
            if silence.0 != silent {
                silence = (silent, now);
            }
            let settled = silent == 0 && (wrong == 0 || now - silence.1 >= SETTLE);
            if settled || now - began >= START {
                return containers;
            }
            runtime::sleep_until(now + LOOK).await;
        }
    }

    async fn judge_start(&mut self, all: &[Container], found: [Option<&Container>; 2]) {
        let mut defect = None;
        for (role, container) in Role::BOTH.into_iter().zip(found) {
            let unlike = match container {
                Some(container) if container.lives() => continue,
                Some(container) => {
                    let (service, code) = (&container.service, container.state.exit_code);
                    let last = self.engine().last_words(&container.id).await;
                    words(
                        format!("{service} has ended with exit code {code}: {last}"),
                        format!("{service} s'est terminé avec le code {code} : {last}"),
                    )
                }
                None => {
                    let services: Vec<&str> = all.iter().map(|it| &*it.service).collect();
                    let (name, services) = (role.name(), services.join(", "));
                    words(
                        format!("none of the services is the {name}: {services}"),
                        format!("aucun des services n'est le {name} : {services}"),
                    )
                }
            };
            defect = defect.or(Some(unlike));
        }
        let compose = self.engine().compose();
        self.sheet.judge(Rule::UpStarts, defect, &format!("{compose} up -d; {compose} ps -a"));
    }

    fn judge_names(&mut self, found: [&Container; 2]) {
        let mut pairs = Role::BOTH.into_iter().zip(found);
        let defect = pairs.find(|(role, it)| it.service != role.name()).map(|(role, it)| {
            let (name, service) = (role.name(), &it.service);
            words(format!("{name} is called {service}"), format!("{name} s'appelle {service}"))
        });
        let command = format!("{} config --services", self.engine().compose());
        self.sheet.judge(Rule::UpNames, defect, &command);
    }

    /// By what the engine noted just after `up`.
    fn judge_order(&mut self, started: &[Container], found: [&Container; 2]) {
        let state = |it: &Container| started.iter().find(|one| one.id == it.id).map(|it| &it.state);
        let [Some(backend), Some(frontend)] = found.map(state) else { return };
        if self.stays && backend.restarts + frontend.restarts > 0 {
            let why = words("they were restarted since", "ils ont été redémarrés depuis");
            return self.sheet.set(Rule::UpOrder, Verdict::NotMarked(why));
        }
        let (first, second) = (&backend.started_at, &frontend.started_at);
        let defect = (first >= second).then(|| {
            words(
                format!("the backend started at {first}, the frontend at {second}"),
                format!("le backend a été démarré à {first}, le frontend à {second}"),
            )
        });
        let [backend, frontend] = found.map(|it| self.typed(it));
        let command = format!("docker inspect -f '{{{{.State.StartedAt}}}}' {backend} {frontend}");
        self.sheet.judge(Rule::UpOrder, defect, &command);
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

    async fn judge_answer(&mut self, role: Role, container: &Container) -> Reply {
        let demanded = match role {
            Role::Backend => Rule::AnswerBackend,
            Role::Frontend => Rule::AnswerFrontend,
        };
        let port = role.port();
        let reply = probe::get(container.door(port), "/").await;
        let defect = if container.publishes(port) {
            reply.defect(probe::wanted(role))
        } else {
            Some(words(
                format!("port {port} is not published"),
                format!("le port {port} n'est pas publié"),
            ))
        };
        self.sheet.judge(demanded, defect, &format!("curl -i 127.0.0.1:{port}"));
        reply
    }

    async fn state(&self, id: &str) -> Option<State> {
        self.engine().container(id).await.map(|it| it.state)
    }

    /// Where it is now: a restart may move it.
    async fn door(&self, service: &Service) -> Option<SocketAddr> {
        self.engine().container(&service.container.id).await?.door(service.role.port())
    }
}

/// A reply, and to what it came.
fn told(english: &str, french: &str, reply: &Reply) -> Words {
    let told = reply.told();
    words(
        format!("{english}: {}", told.text(Lang::English)),
        format!("{french} : {}", told.text(Lang::French)),
    )
}

//! The rule that the frontend follows its variables: all services are started once more as they are, in a
//! project of their own, where the backend has another name.

use std::io;
use std::time::{Duration, Instant};

use common::rt;

use super::{Inspection, LOOK, Service, Subject, shown};
use crate::command::Finished;
use crate::deployment::{self, Container, Role};
use crate::engine::{self, Project};
use crate::plan::{self, MISLED, OTHER_BACKEND};
use crate::probe::{self, Probed};
use crate::rubric::{Rule, Verdict};
use crate::words::{Words, words};

/// How long the frontend may take to reach the backend: a slow start is paid elsewhere.
const START: Duration = Duration::from_secs(60);
/// How long one that is told a wrong port may take to show that it does not.
const MISLED_START: Duration = Duration::from_secs(5);

impl Inspection<'_> {
    /// A frontend that is told the other name must reach the backend, and one that is told a port
    /// where nothing listens must not. Another rule judges its JSON.
    pub(super) async fn judge_variables(&mut self, backend: &Service, frontend: &Service) {
        if frontend.probed.response().is_none() {
            return;
        }
        if backend.probed.response().is_none() {
            let why = words(
                "without a backend, it cannot be told",
                "sans backend, on ne peut pas le savoir",
            );
            return self.sheet.set(Rule::EnvironmentUsed, Verdict::NotMarked(why));
        }
        self.step("following the variables", "suivi des variables");
        let port = backend.container.inner_port(Role::Backend.port());
        let started = self.start_second(backend, frontend, port).await;
        let defect = match &started {
            Ok(up) if up.succeeded() => self.misled(backend, frontend, port).await,
            Ok(up) => Some(engine::failed("up", "up", up)),
            Err(error) => Some(Words::quoted(error.to_string())),
        };
        self.engine().remove_project(&self.cleanup.second()).await;
        if let Some(why) =
            defect.clone().filter(|_| started.as_ref().map_or(true, engine::is_not_theirs))
        {
            return self.sheet.set(Rule::EnvironmentUsed, Verdict::NotMarked(why));
        }
        let (compose, service) = (self.engine().compose(), &frontend.container.service);
        let (other, inner) =
            (&backend.container.service, frontend.container.inner_port(Role::Frontend.port()));
        let command = format!(
            "{compose} run -d --name {OTHER_BACKEND} {other}; \
             {compose} run -d -p 9000:{inner} -e API_BACKEND_URL={OTHER_BACKEND} {service}; \
             {compose} run -d -p 9001:{inner} -e API_BACKEND_PORT={wrong} {service}; \
             sleep 5; curl -i 127.0.0.1:9000; curl -i 127.0.0.1:9001",
            wrong = port ^ 1
        );
        self.sheet.judge(Rule::EnvironmentUsed, defect, &command);
    }

    /// Starts all once more.
    async fn start_second(
        &self,
        backend: &Service,
        frontend: &Service,
        port: u16,
    ) -> io::Result<Finished> {
        let names = [&*backend.container.service, &*frontend.container.service];
        let containers = self.engine().containers(self.project).await;
        let images: Vec<(String, String)> =
            containers.iter().map(|it| (it.service.clone(), it.image_id.clone())).collect();
        let inner_port = frontend.container.inner_port(Role::Frontend.port());
        let plan = match &self.subject {
            Subject::Started { plan, .. } => plan.clone(),
            Subject::Running => deployment::plan_of(&[&backend.container, &frontend.container]),
        };
        let plan = plan::second(&plan, names, &images, port, inner_port);
        self.cleanup.has_made.set(true);
        let (name, files) =
            (self.cleanup.second(), [self.cleanup.write("second.yaml", &plan.compose_file())?]);
        let env_file = self.cleanup.write("none", "")?;
        let folder = &self.cleanup.folder;
        let project =
            Project { name: &name, folder, files: &files, env_file: &env_file, profiles: "" };
        Ok(self.engine().up(&project, &mut |line| self.marker.progress.detail(line)).await)
    }

    /// The defect of how the frontends of the second project follow their variables.
    async fn misled(&self, backend: &Service, frontend: &Service, port: u16) -> Option<Words> {
        let response = backend.probed.response()?;
        let reaches = |probed: &Probed| probed.holds(response) || probed.is_same(&frontend.probed);
        let right = self.first(&frontend.container.service, rt::now() + START, reaches).await;
        if !reaches(&right) {
            let variables = format!("API_BACKEND_URL={OTHER_BACKEND} API_BACKEND_PORT={port}");
            return Some(shown(&format!("with {variables}"), &format!("avec {variables}"), &right));
        }
        let responds = |probed: &Probed| probed.response().is_some();
        let misled = self.first(MISLED, rt::now() + MISLED_START, responds).await;
        let wrong = port ^ 1;
        reaches(&misled).then(|| {
            words(
                format!(
                    "it responds the same with API_BACKEND_PORT={wrong}, where nothing listens"
                ),
                format!("il répond la même chose avec API_BACKEND_PORT={wrong}, où rien n'écoute"),
            )
        })
    }

    /// Probes a frontend of the second project until it responds as wanted; the last response.
    async fn first(
        &self,
        service: &str,
        deadline: Instant,
        wanted: impl Fn(&Probed) -> bool,
    ) -> Probed {
        loop {
            let containers = self.engine().containers(&self.cleanup.second()).await;
            let container = containers.iter().find(|it| it.service == service);
            let probed = probe::get(container.and_then(Container::published_address), "/").await;
            if wanted(&probed) || rt::now() >= deadline {
                return probed;
            }
            rt::sleep_until(rt::now() + LOOK).await;
        }
    }
}

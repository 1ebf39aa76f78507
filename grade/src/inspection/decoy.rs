//! Whether the frontend follows its variables: both services are started once more, on a network
//! of their own, where the backend has another name.

use std::time::Duration;

use common::runtime;

use super::{Inspection, LOOK, Service, told};
use crate::deployment::{Container, Role};
use crate::engine::PROJECT;
use crate::probe::{self, Reply};
use crate::rubric::Rule;
use crate::words::words;

/// The other name.
const NAME: &str = "another-backend";
/// How long the frontend may take to show that it reaches the backend, or does not: as long as a
/// crashed one may take to be back.
const PATIENCE: Duration = Duration::from_secs(10);

impl Inspection<'_> {
    /// A frontend that is told the other name must reach the backend, and one that is told a port
    /// where nobody listens must not.
    pub(super) async fn judge_variables(&mut self, backend: &Service, frontend: &Service) {
        let Some(answer) = backend.reply.answer() else { return };
        self.step("following the variables", "suivi des variables");
        let port = backend.container.inner_port(Role::Backend.port());
        let wrong = port ^ 1;
        let network = format!("{}-decoy", self.cleanup.project);
        let label = format!("{PROJECT}={}", self.cleanup.project);
        self.engine().run(&["network", "create", "--label", &label, &network]).await;
        self.start(&backend.container, &network, &["--network-alias", NAME]).await;
        let publish =
            format!("127.0.0.1::{}", frontend.container.inner_port(Role::Frontend.port()));
        let mut started = Vec::new();
        for port in [port, wrong] {
            let (url, port) =
                (format!("API_BACKEND_URL={NAME}"), format!("API_BACKEND_PORT={port}"));
            let options = ["--publish", &publish, "--env", &url, "--env", &port];
            started.push(self.start(&frontend.container, &network, &options).await);
        }
        let [right, beside] = &started[..] else { return };
        let right = self.first(right.as_deref(), |reply| reply.holds(answer)).await;
        let beside = self.first(beside.as_deref(), |reply| reply.answer().is_some()).await;
        let defect = if !right.holds(answer) {
            let variables = format!("API_BACKEND_URL={NAME} API_BACKEND_PORT={port}");
            Some(told(&format!("with {variables}"), &format!("avec {variables}"), &right))
        } else if beside.holds(answer) {
            Some(words(
                format!(
                    "it reaches the backend with API_BACKEND_PORT={wrong} too, where nobody listens"
                ),
                format!(
                    "il atteint le backend aussi avec API_BACKEND_PORT={wrong}, où personne n'écoute"
                ),
            ))
        } else {
            None
        };
        let (compose, service) = (self.engine().compose(), &frontend.container.service);
        let command = format!("{compose} run --service-ports -e API_BACKEND_URL={NAME} {service}");
        self.sheet.judge(Rule::EnvironmentUsed, defect, &command);
    }

    /// Starts a container like that one on a network; its id.
    async fn start(&self, like: &Container, network: &str, options: &[&str]) -> Option<String> {
        let label = format!("{PROJECT}={}", self.cleanup.project);
        let mut words = vec!["run", "--detach", "--restart", "always"];
        words.extend(["--label", &label, "--network", network]);
        // Of two options the last one counts, so that its own come first.
        for variable in &like.variables {
            words.extend(["--env", variable]);
        }
        if !like.user.is_empty() {
            words.extend(["--user", &like.user]);
        }
        words.extend(options);
        let mut command = like.entrypoint.iter().chain(&like.arguments).map(String::as_str);
        if !like.entrypoint.is_empty() {
            // The option takes one word; the rest goes before the arguments.
            words.extend(command.next().into_iter().flat_map(|word| ["--entrypoint", word]));
        }
        words.push(&like.image_id);
        words.extend(command);
        self.engine().ask(&words).await
    }

    /// Asks a container that publishes one port until the reply is as wanted; the last reply.
    async fn first(&self, id: Option<&str>, wanted: impl Fn(&Reply) -> bool) -> Reply {
        let deadline = runtime::now() + PATIENCE;
        let Some(id) = id else { return Reply::Closed };
        loop {
            let ports = self.engine().ask(&["port", id]).await.unwrap_or_default();
            let door = ports.lines().find_map(|line| line.rsplit(' ').next()?.parse().ok());
            let reply = probe::get(door, "/").await;
            if wanted(&reply) || runtime::now() >= deadline {
                return reply;
            }
            runtime::sleep_until(runtime::now() + LOOK).await;
        }
    }
}

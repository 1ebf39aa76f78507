//! Crashing the services on purpose: whether they end as they must, and come back.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::runtime;

use super::{Inspection, LOOK, Service, told};
use crate::deployment::{Role, State};
use crate::probe::{self, Reply};
use crate::rubric::{Rule, Verdict};
use crate::words::{Words, words};

/// How often each service is crashed.
const CRASHES: usize = 2;
/// Within this a crashed service answers again, as the exercise has it.
const BACK: Duration = Duration::from_secs(10);
/// The engine waits before it starts a container again, twice as long each time, unless that ran
/// for so long. After more restarts than these, which may have come while both were starting, the
/// wait alone could take what the service is given.
const RESTS: Duration = Duration::from_secs(11);
const RESTARTS_MAX: i64 = 3;
/// How long a process may take to end after it has cut its last connection.
const END: Duration = Duration::from_secs(3);

/// What one crash came to.
struct Crash {
    /// What is wrong with it, if anything is.
    defect: Option<Words>,
    /// Whether the service answered again in time.
    is_back: bool,
}

impl Inspection<'_> {
    /// Crashes the backend, and sees whether the frontend finds it again.
    pub(super) async fn judge_backend_crash(
        &mut self,
        backend: &Service,
        frontend: Option<&Service>,
    ) {
        self.step("crashing the backend", "plantage du backend");
        if backend.reply.answer().is_none() {
            let rules = [Rule::CrashBackend, Rule::RecoverChain, Rule::EnvironmentUsed];
            return self.never_answered(backend.role, &rules);
        }
        let frontend = frontend.filter(|it| it.reply.answer().is_some());
        let (mut defect, mut broken) = (None, None);
        for _ in 0..CRASHES {
            let before = match frontend {
                Some(frontend) => self.state(&frontend.container.id).await,
                None => None,
            };
            let crash = self.crash(backend).await;
            defect = defect.or(crash.defect);
            if let Some(frontend) = frontend.filter(|_| broken.is_none()) {
                broken = if crash.is_back {
                    self.unrecovered(backend, frontend, before).await
                } else {
                    Some(words("the backend is not back", "le backend n'est pas revenu"))
                };
            }
            if !crash.is_back {
                break;
            }
        }
        self.revive(backend).await;
        let command = "curl -i 127.0.0.1:8001/traceback; docker ps -a";
        self.sheet.judge(Rule::CrashBackend, defect, command);
        match frontend {
            Some(_) => {
                let command = "curl 127.0.0.1:8001/traceback; sleep 10; curl -i 127.0.0.1:8000";
                self.sheet.judge(Rule::RecoverChain, broken, command);
            }
            None => self.never_answered(Role::Frontend, &[Rule::RecoverChain]),
        }
    }

    /// What is wrong with the frontend now that the backend is back, if anything is.
    async fn unrecovered(
        &self,
        backend: &Service,
        frontend: &Service,
        before: Option<State>,
    ) -> Option<Words> {
        let answer = backend.reply.answer()?;
        if !frontend.reply.holds(answer) {
            return Some(told("before any crash", "avant tout plantage", &frontend.reply));
        }
        let deadline = runtime::now() + BACK;
        let reply = self.until(frontend, deadline, |reply| reply.holds(answer)).await;
        if !reply.holds(answer) {
            return Some(told("10 s later", "10 s plus tard", &reply));
        }
        let restarted = self.state(&frontend.container.id).await != before;
        restarted.then(|| words("the frontend was restarted", "le frontend a été redémarré"))
    }

    pub(super) async fn judge_frontend_crash(&mut self, frontend: &Service) {
        self.step("crashing the frontend", "plantage du frontend");
        if frontend.reply.answer().is_none() {
            return self.never_answered(frontend.role, &[Rule::CrashFrontend]);
        }
        let mut defect = None;
        for _ in 0..CRASHES {
            let crash = self.crash(frontend).await;
            defect = defect.or(crash.defect);
            if !crash.is_back {
                break;
            }
        }
        self.revive(frontend).await;
        let command = "curl -i 127.0.0.1:8000/traceback; docker ps -a";
        self.sheet.judge(Rule::CrashFrontend, defect, command);
    }

    fn never_answered(&mut self, role: Role, rules: &[Rule]) {
        let name = role.name();
        let why = words(format!("{name} never answered"), format!("{name} n'a jamais répondu"));
        for rule in rules {
            self.sheet.set(*rule, Verdict::NotReached(why.clone()));
        }
    }

    /// Crashes a service once, and waits until it is back, whatever else is wrong.
    async fn crash(&self, service: &Service) -> Crash {
        let Some(before) = self.state(&service.container.id).await else {
            let gone = words("its container is gone", "son conteneur a disparu");
            return Crash { defect: Some(gone), is_back: false };
        };
        if before.restarts > RESTARTS_MAX {
            runtime::sleep_until(runtime::now() + RESTS).await;
        }
        let (began, since) = (runtime::now(), epoch());
        let mut defect = match probe::get(self.door(service).await, "/traceback").await {
            Reply::Nothing | Reply::Silence => None,
            reply => Some(told("GET /traceback", "GET /traceback", &reply)),
        };
        let has_ended =
            |state: &State| state.started_at != before.started_at || state.status != "running";
        if self.until_state(service, runtime::now() + END, has_ended).await {
            defect = defect.or(self.wrong_end(service, since).await);
            let restarted =
                |state: &State| state.restarts > before.restarts && state.status == "running";
            let policy = &service.container.restart_policy;
            if policy == "no" || !self.until_state(service, began + BACK, restarted).await {
                let left = words(
                    format!("the engine does not restart it: its restart policy is {policy}"),
                    format!("le moteur ne le redémarre pas : sa politique (restart) est {policy}"),
                );
                return Crash { defect: defect.or(Some(left)), is_back: false };
            }
        } else {
            let pid = before.pid;
            defect = defect.or_else(|| Some(words(
                format!("process 1 (pid {pid} of the host) has not ended; only a child of it may have"),
                format!("le processus 1 (pid {pid} de l'hôte) ne s'est pas terminé ; tout au plus un de ses enfants"),
            )));
        }
        let status = service.reply.answer().map(|it| it.status);
        let as_before = |reply: &Reply| reply.answer().map(|it| it.status) == status;
        let reply = self.until(service, began + BACK, as_before).await;
        let is_back = as_before(&reply);
        if !is_back {
            defect = defect.or(Some(told("10 s later", "10 s plus tard", &reply)));
        }
        Crash { defect, is_back }
    }

    /// What is wrong with how process 1 has ended since then, if anything is.
    async fn wrong_end(&self, service: &Service, since: Duration) -> Option<Words> {
        let deadline = runtime::now() + END;
        loop {
            let codes = self.engine().ends(&service.container.id, since, epoch()).await;
            match codes.last() {
                Some(1) => return None,
                Some(code) => {
                    return Some(words(
                        format!("process 1 ended with exit code {code}"),
                        format!("le processus 1 s'est terminé avec le code {code}"),
                    ));
                }
                // The event may come a little later than the state.
                None if runtime::now() < deadline => {
                    runtime::sleep_until(runtime::now() + LOOK).await;
                }
                None => {
                    return Some(words(
                        "the engine knows of no end of process 1",
                        "le moteur ne connaît pas de fin du processus 1",
                    ));
                }
            }
        }
    }

    /// Starts what was not restarted, so that the rest can be marked.
    async fn revive(&self, service: &Service) {
        let container = self.engine().container(&service.container.id).await;
        if !container.is_some_and(|it| it.lives()) {
            self.engine().run(&["start", &service.container.id]).await;
            let deadline = runtime::now() + BACK;
            self.until(service, deadline, |reply| reply.answer().is_some()).await;
        }
    }

    /// Waits until its container is as wanted; whether that came in time.
    async fn until_state(
        &self,
        service: &Service,
        deadline: Instant,
        wanted: impl Fn(&State) -> bool,
    ) -> bool {
        loop {
            if self.state(&service.container.id).await.is_some_and(|state| wanted(&state)) {
                return true;
            }
            if runtime::now() >= deadline {
                return false;
            }
            runtime::sleep_until(runtime::now() + LOOK).await;
        }
    }

    /// Asks until the reply is as wanted; the last reply.
    async fn until(
        &self,
        service: &Service,
        deadline: Instant,
        wanted: impl Fn(&Reply) -> bool,
    ) -> Reply {
        loop {
            let reply = probe::get(self.door(service).await, "/").await;
            if wanted(&reply) || runtime::now() >= deadline {
                return reply;
            }
            runtime::sleep_until(runtime::now() + LOOK).await;
        }
    }
}

/// The time as the engine's events have it.
fn epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

//! Crashing the services on purpose: whether they end as they must, and come back.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::rt;

use super::{Inspection, LOOK, Service, shown};
use crate::deployment::{Role, State};
use crate::probe::{self, Probed};
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

/// How long a backend may take that is started again for the sake of the next rules.
const SLOW: Duration = Duration::from_secs(60);
/// Between two looks at a frontend whose backend is stopped: one that keeps a response for a moment
/// is told from one that never asks.
const MOMENT: Duration = Duration::from_secs(2);

/// One crash.
struct Crash {
    defect: Option<Words>,
    /// The service responded again in time.
    is_back: bool,
}

impl Inspection<'_> {
    /// Crashes the backend, and looks whether the frontend finds it again.
    pub(super) async fn judge_backend_crash(
        &mut self,
        backend: &Service,
        frontend: Option<&Service>,
    ) {
        self.step("crashing the backend", "plantage du backend");
        let frontend = frontend.filter(|it| it.probed.response().is_some());
        if backend.probed.response().is_none() {
            self.never_responded(backend.role, &[Rule::CrashBackend]);
            if frontend.is_some() {
                let why = words(
                    "without a backend, it cannot be told",
                    "sans backend, on ne peut pas le savoir",
                );
                self.sheet.set(Rule::RecoverChain, Verdict::NotMarked(why));
            }
            return self.never_responded(backend.role, &[Rule::RecoverChain]);
        }
        let (mut defect, mut broken) = (None, None);
        for _ in 0..CRASHES {
            let before = match frontend {
                Some(frontend) => self.state(&frontend.container.id).await,
                None => None,
            };
            let crash = self.crash(backend).await;
            defect = defect.or(crash.defect);
            if !crash.is_back {
                // Its own rule is lost; whether the frontend finds it again can still be seen.
                self.revive(backend).await;
            }
            if let Some(frontend) = frontend.filter(|_| broken.is_none()) {
                broken = self.unrecovered(backend, frontend, before).await;
            }
            if !crash.is_back {
                break;
            }
        }
        let command = "curl -i 127.0.0.1:8001/traceback; docker ps -a";
        self.sheet.judge(Rule::CrashBackend, defect, command);
        let Some(frontend) = frontend else {
            return self.never_responded(Role::Frontend, &[Rule::RecoverChain]);
        };
        let mut command =
            "curl 127.0.0.1:8001/traceback; sleep 10; curl -i 127.0.0.1:8000".to_owned();
        if broken.is_none() {
            broken = self.indifferent(backend, frontend).await;
            if broken.is_some() {
                command = format!(
                    "docker stop {}; curl -i 127.0.0.1:8000",
                    self.typed(&backend.container)
                );
            }
        }
        self.sheet.judge(Rule::RecoverChain, broken, &command);
    }

    /// Why the frontend does not count as recovered now that the backend is back.
    async fn unrecovered(
        &self,
        backend: &Service,
        frontend: &Service,
        before: Option<State>,
    ) -> Option<Words> {
        let as_before = |probed: &Probed| is_as_before(backend, frontend, probed);
        if !as_before(&frontend.probed) {
            return Some(shown("before any crash", "avant tout plantage", &frontend.probed));
        }
        let deadline = rt::now() + BACK;
        let probed = self.until(frontend, deadline, as_before).await;
        if !as_before(&probed) {
            return Some(shown("10 s later", "10 s plus tard", &probed));
        }
        let restarted = self.state(&frontend.container.id).await != before;
        restarted.then(|| words("the frontend was restarted", "le frontend a redémarré"))
    }

    /// Why the frontend counts as one that never asks the backend: it responds as before while
    /// that is stopped.
    async fn indifferent(&self, backend: &Service, frontend: &Service) -> Option<Words> {
        self.engine().run(&["stop", "--time", "0", &backend.container.id]).await;
        let as_before = |probed: &Probed| is_as_before(backend, frontend, probed);
        let mut probed = probe::get(self.address(frontend).await, "/").await;
        if as_before(&probed) {
            rt::sleep_until(rt::now() + MOMENT).await;
            probed = probe::get(self.address(frontend).await, "/").await;
        }
        self.revive(backend).await;
        self.until(frontend, rt::now() + BACK, as_before).await;
        as_before(&probed).then(|| {
            words(
                "it responds the same while the backend is stopped",
                "il répond la même chose quand le backend est arrêté",
            )
        })
    }

    pub(super) async fn judge_frontend_crash(&mut self, frontend: &Service) {
        self.step("crashing the frontend", "plantage du frontend");
        if frontend.probed.response().is_none() {
            let rules = [Rule::CrashFrontend, Rule::EnvironmentUsed];
            return self.never_responded(frontend.role, &rules);
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

    fn never_responded(&mut self, role: Role, rules: &[Rule]) {
        let name = role.name();
        let why = words(format!("{name} never responded"), format!("{name} n'a jamais répondu"));
        for rule in rules {
            self.sheet.set(*rule, Verdict::NotReached(why.clone()));
        }
    }

    /// Crashes a service once, and waits until it is back.
    async fn crash(&self, service: &Service) -> Crash {
        let Some(before) = self.state(&service.container.id).await else {
            let gone = words("its container is gone", "son conteneur a disparu");
            return Crash { defect: Some(gone), is_back: false };
        };
        if before.restarts > RESTARTS_MAX {
            rt::sleep_until(rt::now() + RESTS).await;
        }
        let (began, since) = (rt::now(), epoch());
        let mut defect = match probe::get(self.address(service).await, "/traceback").await {
            Probed::Closed | Probed::TimedOut => None,
            probed => Some(shown("GET /traceback", "GET /traceback", &probed)),
        };
        let has_ended =
            |state: &State| state.started_at != before.started_at || state.status != "running";
        if self.until_state(service, rt::now() + END, has_ended).await {
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
        let status = service.probed.response().map(|it| it.status);
        let as_before = |probed: &Probed| probed.response().map(|it| it.status) == status;
        let probed = self.until(service, began + BACK, as_before).await;
        let is_back = as_before(&probed);
        if !is_back {
            defect = defect.or(Some(shown("10 s later", "10 s plus tard", &probed)));
        }
        Crash { defect, is_back }
    }

    /// The defect of how process 1 has ended since then.
    async fn wrong_end(&self, service: &Service, since: Duration) -> Option<Words> {
        let deadline = rt::now() + END;
        loop {
            let codes = self.engine().exit_codes(&service.container.id, since, epoch()).await;
            match codes.last() {
                Some(1) => return None,
                Some(code) => {
                    return Some(words(
                        format!("process 1 ended with exit code {code}"),
                        format!("le processus 1 s'est terminé avec le code {code}"),
                    ));
                }
                // The event may come a little later than the state.
                None if rt::now() < deadline => {
                    rt::sleep_until(rt::now() + LOOK).await;
                }
                None => {
                    return Some(words(
                        "the engine has not seen process 1 end",
                        "le moteur n'a pas vu le processus 1 se terminer",
                    ));
                }
            }
        }
    }

    /// Starts a service that the engine has not restarted, and waits until it responds.
    async fn revive(&self, service: &Service) {
        let container = self.engine().container(&service.container.id).await;
        if !container.is_some_and(|it| it.lives()) {
            self.engine().run(&["start", &service.container.id]).await;
        }
        let deadline = rt::now() + SLOW;
        self.until(service, deadline, |probed| probed.response().is_some()).await;
    }

    /// Waits until its container is as wanted; returns true if that came in time.
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
            if rt::now() >= deadline {
                return false;
            }
            rt::sleep_until(rt::now() + LOOK).await;
        }
    }

    /// Probes until the response is as wanted; the last one.
    async fn until(
        &self,
        service: &Service,
        deadline: Instant,
        wanted: impl Fn(&Probed) -> bool,
    ) -> Probed {
        loop {
            let probed = probe::get(self.address(service).await, "/").await;
            if wanted(&probed) || rt::now() >= deadline {
                return probed;
            }
            rt::sleep_until(rt::now() + LOOK).await;
        }
    }
}

/// Returns true if the frontend responds as it did before any crash: with the backend's JSON in its
/// own, or else with the same success. Another rule judges its JSON.
fn is_as_before(backend: &Service, frontend: &Service, probed: &Probed) -> bool {
    let held = backend.probed.response().filter(|response| frontend.probed.holds(response));
    match held {
        Some(response) => probed.holds(response),
        None => probed.is_same(&frontend.probed),
    }
}

/// The time as the engine's events have it.
fn epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

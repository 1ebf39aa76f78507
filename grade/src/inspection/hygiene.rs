//! Good craft that the exercise does not demand: shown, and never marked.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tools::json::Value;

use super::{Inspection, Service};
use crate::deployment;
use crate::probe;
use crate::words::{Lang, Words, words};
use tools::signals::both;

/// From SIGTERM to SIGKILL, in seconds: our own services drain within 3.
const STOP_SECONDS: &str = "3";
/// The exit code of a program that SIGKILL has ended.
const KILLED: i64 = 137;
/// For a look at one Dockerfile.
const LINT: Duration = Duration::from_secs(10);

impl Inspection<'_> {
    /// Notes on one of the two while it runs.
    pub(super) async fn note_hygiene(&mut self, service: &Service) {
        let container = &service.container;
        if let Some(answer) = service.probed.response() {
            let same = answer.body.trim_ascii_end() == probe::wanted(service.role).as_bytes();
            self.note(
                service,
                "bytes",
                "octets",
                if same {
                    words(
                        "exactly the bytes of the exercise",
                        "exactement les octets de l'exercice",
                    )
                } else {
                    words(
                        "other bytes than the exercise's",
                        "d'autres octets que ceux de l'exercice",
                    )
                },
            );
        }
        let user = container.user.split(':').next().unwrap_or_default();
        let user = if matches!(user, "" | "0") { "root" } else { user };
        self.note(service, "user", "utilisateur", Words::quoted(user));
        self.note(
            service,
            "health check",
            "contrôle de santé",
            if container.has_health_check { words("yes", "oui") } else { words("none", "aucun") },
        );
        self.note(
            service,
            "capabilities dropped",
            "capacités retirées",
            match &container.capabilities_dropped[..] {
                [] => words("none", "aucune"),
                dropped => Words::quoted(dropped.join(", ")),
            },
        );
        if let Some((_, bytes)) = self.engine().image(&container.image_id).await {
            let megabytes = format!("{:.1}", bytes / 1e6);
            let megabytes = words(
                format!("{megabytes} MB"),
                format!("{} Mo", Lang::French.decimal(&megabytes)),
            );
            self.note(service, "image size", "taille de l'image", megabytes);
        }
        self.note_dockerfile(service).await;
    }

    /// Notes on its Dockerfile.
    async fn note_dockerfile(&mut self, service: &Service) {
        let Some(checkout) = self.checkout else { return };
        let (path, dockerfile) =
            self.dockerfile(checkout, service.role, &service.container.service);
        let Some(dockerfile) = dockerfile else { return };
        let mut loose = dockerfile.bases;
        loose.retain(|base| base != "scratch" && deployment::is_latest(base));
        let loose = loose.join(", ");
        self.note(
            service,
            "bases",
            "images de base",
            match &*loose {
                "" => words("all have a version", "toutes ont une version"),
                _ => {
                    words(format!("without a version: {loose}"), format!("sans version : {loose}"))
                }
            },
        );
        let file = checkout.root.join(path);
        let linter =
            ["hadolint", "--no-fail", "--format", "json", file.to_str().unwrap_or_default()];
        let linted = self.engine().program(&linter, LINT).await;
        let Ok(findings) = Value::read(&linted.stdout) else { return };
        let codes: Vec<String> = findings
            .items()
            .iter()
            .filter_map(|it| Some(it.get("code")?.text()?.into_owned()))
            .collect();
        self.note(
            service,
            "hadolint",
            "hadolint",
            match &codes[..] {
                [] => words("nothing found", "rien trouvé"),
                codes => Words::quoted(codes.join(", ")),
            },
        );
    }

    /// How they take being stopped, both at the same time.
    pub(super) async fn note_stops(&mut self, services: &[Service]) {
        let times = [const { Cell::new(Duration::ZERO) }; 2];
        let stop = async |index: usize| {
            let Some(service) = services.get(index) else { return };
            let began = Instant::now();
            self.engine().run(&["stop", "--time", STOP_SECONDS, &service.container.id]).await;
            times[index].set(began.elapsed());
        };
        both(stop(0), stop(1)).await;
        for (service, took) in services.iter().zip(&times) {
            let Some(state) = self.state(&service.container.id).await else { continue };
            let (seconds, code) = (took.get().as_secs_f64(), state.exit_code);
            let in_french = Lang::French.decimal(&format!("{seconds:.1}"));
            self.note(
                service,
                "docker stop",
                "docker stop",
                match code {
                    KILLED => words(
                        format!("still there after {STOP_SECONDS} s, and killed"),
                        format!("toujours là après {STOP_SECONDS} s, puis tué"),
                    ),
                    _ => words(
                        format!("ended within {seconds:.1} s, with exit code {code}"),
                        format!("terminé en {in_french} s, avec le code {code}"),
                    ),
                },
            );
        }
    }

    fn note(&mut self, service: &Service, english: &str, french: &str, seen: Words) {
        let name = service.role.name();
        let what = words(format!("{name}: {english}"), format!("{name} : {french}"));
        self.sheet.notes.push((what, seen));
    }
}

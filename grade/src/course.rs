//! The course of one marking, from a checkout to its sheet: refuse, build, start; and in the end
//! remove all again. What has been started is looked at in `inspection`.

use std::io::Write;
use std::path::{Path, PathBuf};

use tools::json::Value;

use crate::checkout::Checkout;
use crate::deployment::{self, Build, Role};
use crate::engine::{self, Project};
use crate::host;
use crate::inspection::Inspection;
use crate::marker::{Cleanup, Marker};
use crate::outcome::{Outcome, Refusal};
use crate::rubric::{Rule, Sheet, Verdict};
use crate::safety;
use crate::words::{Lang, Words, words};

impl Marker<'_> {
    /// Builds, starts and marks a checkout. What it makes is noted in `cleanup`, for the caller to
    /// clear.
    pub(crate) async fn checkout(&self, path: &Path, cleanup: &Cleanup) -> Outcome {
        let source = match Checkout::find(path) {
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
        let Checkout { root, files } = &source;
        let project = Project { name: &cleanup.project, root, files };
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
        if let Some(defect) = self.build(&project, &builds, cleanup).await {
            sheet.judge(Rule::UpStarts, Some(defect), &format!("{compose} build"));
            sheet.close(&words("the build fails", "la construction échoue"));
            return Outcome::Marked(sheet);
        }
        self.progress.step(&words("starting both", "démarrage des deux"));
        let up = self.engine.up(&project, &mut |line| self.progress.detail(line)).await;
        let started = self.engine.containers(&cleanup.project).await;
        if !up.succeeded() {
            let failed = engine::failed("up", "up", &up);
            sheet.judge(Rule::UpStarts, Some(failed), &format!("{compose} up"));
        }
        let inspection = Inspection {
            marker: self,
            project: &cleanup.project,
            cleanup,
            source: Some(&source),
            builds,
            stays: false,
            sheet,
        };
        Outcome::Marked(Box::pin(inspection.run(started)).await)
    }

    /// Marks what runs already; nothing is built or stopped, but both are crashed.
    pub(crate) async fn running(
        &self,
        project: &str,
        path: Option<&PathBuf>,
        cleanup: &Cleanup,
    ) -> Outcome {
        let source = match path.map(|path| Checkout::find(path)).transpose() {
            Ok(source) => source,
            Err(words) => return Outcome::Failed(words),
        };
        let started = self.engine.containers(project).await;
        if started.is_empty() {
            return Outcome::Failed(words(
                format!("no container of a project {project} is here; see docker ps"),
                format!("aucun conteneur d'un projet {project} n'est ici ; voir docker ps"),
            ));
        }
        let mut sheet = Sheet::default();
        if let Some(source) = &source {
            let refused = self.refused(safety::check_files(&source.root, &source.files));
            if !refused.is_empty() {
                return Outcome::Refused(refused);
            }
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
        let inspection =
            Inspection { marker: self, project, cleanup, source, builds, stays: true, sheet };
        Outcome::Marked(Box::pin(inspection.run(started)).await)
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
        let process = host::listener(port)?;
        // What the engine publishes is held by a process of its own.
        let who = match self.engine.publisher(port).await {
            Some(name) => words(format!("the container {name}"), format!("le conteneur {name}")),
            None => process,
        };
        let (english, french) = (who.text(Lang::English), who.text(Lang::French));
        Some(words(
            format!("port {port} is in use, by {english}"),
            format!("le port {port} est pris, par {french}"),
        ))
    }

    /// Builds the images; what went wrong, if anything did.
    async fn build(
        &self,
        project: &Project<'_>,
        builds: &[Build],
        cleanup: &Cleanup,
    ) -> Option<Words> {
        let minutes = self.build_patience.as_secs().div_ceil(60);
        self.progress.step(&words(
            format!("building, for {minutes} min at most"),
            format!("construction, {minutes} min au plus"),
        ));
        cleanup.before.replace(self.engine.images().await);
        for Build { service, image, .. } in builds {
            let names = match &**image {
                // Compose calls it after the project, and each version in its own way.
                "" => ["_", "-"].map(|joint| format!("{}{joint}{service}", project.name)).to_vec(),
                name => vec![name.to_owned()],
            };
            for name in names {
                let before = self.engine.image_id(&name).await;
                cleanup.names.borrow_mut().push((name, before));
            }
        }
        let mut line = |line: &str| {
            self.progress.detail(line);
            if let Some(mut file) = self.kept_log.as_ref() {
                // A full disk is no reason not to mark.
                let _ = writeln!(file, "{line}");
            }
            // The classic builder's word for an image that it has made or found.
            let id = line.trim().strip_prefix("---> ");
            let is_id = |id: &&str| id.len() == 12 && id.bytes().all(|it| it.is_ascii_hexdigit());
            cleanup.made.borrow_mut().extend(id.filter(is_id).map(str::to_owned));
        };
        let outcome = self.engine.build(project, self.build_patience, &mut line).await;
        (!outcome.succeeded()).then(|| engine::failed("the build", "la construction", &outcome))
    }
}

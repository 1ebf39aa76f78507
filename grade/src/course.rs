//! The course of one marking, from a checkout to its sheet: read, decide, build, start. `inspection`
//! then judges what runs.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::checkout::Checkout;
use crate::command::End;
use crate::context;
use crate::deployment::{self, Build, Role};
use crate::engine::{self, Project, Unread};
use crate::host;
use crate::inspection::{Inspection, Subject};
use crate::marker::{Cleanup, Marker};
use crate::node::Node;
use crate::outcome::{Outcome, Refusal};
use crate::paths;
use crate::plan::{self, Limits};
use crate::policy::{self, Decided};
use crate::rubric::{Rule, Sheet, Verdict};
use crate::sources;
use crate::words::{Lang, Words, words};

/// A step of a marking that ended it.
enum Stop {
    Outcome(Outcome),
    Error(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Error(error)
    }
}

/// The files of a checkout, read.
struct Read {
    /// The configuration as Compose resolves it.
    config: Node,
    /// Variables that the compose files have put in.
    variables: Vec<String>,
}

impl Marker<'_> {
    /// Builds, starts and marks a checkout. `cleanup` lists what the caller must remove.
    pub(crate) async fn checkout(&self, path: &Path, cleanup: &Cleanup) -> Outcome {
        match self.mark_checkout(path, cleanup).await {
            Ok(outcome) | Err(Stop::Outcome(outcome)) => outcome,
            Err(Stop::Error(error)) => Outcome::Failed(Words::quoted(error.to_string())),
        }
    }

    async fn mark_checkout(&self, path: &Path, cleanup: &Cleanup) -> Result<Outcome, Stop> {
        let checkout = Checkout::find(path).map_err(|why| Stop::Outcome(Outcome::Failed(why)))?;
        let mut sheet = Sheet::default();
        checkout.judge(&mut sheet);
        let mut refused = sources::check_tree(&checkout.root);
        refused.extend(checkout.refusals.iter().cloned());
        self.refuse(refused)?;
        let compose = self.engine.compose();
        if checkout.files.is_empty() {
            let none = words("there is no compose file", "il n'y a pas de fichier compose");
            sheet.judge(Rule::UpStarts, Some(none.clone()), &format!("{compose} up"));
            sheet.close(&none);
            return Ok(Outcome::Marked(sheet));
        }
        self.progress.step(&words("reading the compose file", "lecture du fichier compose"));
        let mut variables = checkout.variables.clone();
        variables.extend(&self.variables);
        let env_file = cleanup.write("variables", &variables.file())?;
        match self.read(&checkout, &env_file).await? {
            Ok(read) => {
                let config = self.decide(&read.config, &checkout.root).await?;
                self.start(&checkout, &read.variables, config, sheet, cleanup).await
            }
            Err(defect) => {
                let command = format!("{compose} config");
                sheet.judge(Rule::UpStarts, Some(defect), &command);
                sheet.close(&words(format!("{command} fails"), format!("{command} échoue")));
                Ok(Outcome::Marked(sheet))
            }
        }
    }

    /// The part of a configuration that may be run, if nothing of it is refused.
    async fn decide(&self, config: &Node, root: &Path) -> Result<Node, Stop> {
        let Decided { config, mut refusals } = policy::decide(config, root, &self.allowed);
        refusals.extend(contexts(&config, root));
        refusals.extend(self.local_images(&config).await);
        self.refuse(refusals)?;
        match overlapped(&config) {
            Some(why) => Err(Stop::Outcome(Outcome::Failed(why))),
            None => Ok(config),
        }
    }

    /// Builds and starts what was decided, and has it inspected. `variables` are those that the
    /// compose files put in.
    async fn start(
        &self,
        checkout: &Checkout,
        variables: &[String],
        config: Node,
        mut sheet: Sheet,
        cleanup: &Cleanup,
    ) -> Result<Outcome, Stop> {
        self.need_ports().await?;
        let compose = self.engine.compose();
        let limits = Limits {
            marking: &cleanup.marking,
            cores: thread::available_parallelism().map_or(1, usize::from),
            is_offline: self.is_offline,
        };
        let plan = plan::first(&config, &limits);
        let files = [cleanup.write("compose.yaml", &plan.compose_file())?];
        let project = Project {
            name: &cleanup.marking,
            folder: &cleanup.folder,
            files: &files,
            env_file: &cleanup.write("none", "")?,
            profiles: checkout.variables.get("COMPOSE_PROFILES"),
        };
        if let Some(defect) = self.build(&project, cleanup).await? {
            let defect = self.with_hint(defect, variables, checkout);
            sheet.judge(Rule::UpStarts, Some(defect), &format!("{compose} build"));
            sheet.close(&words("the build fails", "la construction échoue"));
            return Ok(Outcome::Marked(sheet));
        }
        // The build took its time: another program may have taken a port since.
        self.need_ports().await?;
        self.progress.step(&words("starting both", "démarrage des deux"));
        let since = epoch();
        let up = self.engine.up(&project, &mut |line| self.progress.detail(line)).await;
        let first_starts = self.engine.first_starts(&cleanup.marking, since, epoch()).await;
        if !up.succeeded() {
            let failed = engine::failed("up", "up", &up);
            if engine::is_not_theirs(&up) && !deployment::publishes_twice(&config) {
                return Ok(Outcome::Failed(failed));
            }
            sheet.judge(Rule::UpStarts, Some(failed), &format!("{compose} up"));
        }
        let inspection = Inspection {
            marker: self,
            subject: Subject::Started { builds: Build::read_all(&config), plan, first_starts },
            project: &cleanup.marking,
            cleanup,
            checkout: Some(checkout),
            sheet,
        };
        let sheet = Box::pin(inspection.run()).await;
        // An engine that has gone shows no containers: what was judged then is no fault of theirs.
        Ok(match self.engine.fault().await {
            Some(fault) => Outcome::Failed(fault),
            None => Outcome::Marked(sheet),
        })
    }

    /// Marks a project that runs; nothing is built or stopped, but both are crashed.
    pub(crate) async fn running(
        &self,
        project: &str,
        path: Option<&PathBuf>,
        cleanup: &Cleanup,
    ) -> Outcome {
        let checkout = match path.map(|path| Checkout::find(path)).transpose() {
            Ok(checkout) => checkout,
            Err(words) => return Outcome::Failed(words),
        };
        if self.engine.containers(project).await.is_empty() {
            return Outcome::Failed(words(
                format!("no container of a project {project} is here; see docker ps"),
                format!("aucun conteneur du projet {project} ici ; voir docker ps"),
            ));
        }
        let mut sheet = Sheet::default();
        if let Some(checkout) = &checkout {
            if let Err(Stop::Outcome(refused)) = self.refuse(sources::check_tree(&checkout.root)) {
                return refused;
            }
            checkout.judge(&mut sheet);
        }
        let untold = words("no PATH was given", "aucun PATH n'a été donné");
        for rule in [Rule::TreeLicense, Rule::TreeReadme, Rule::TreeDockerfiles, Rule::TreeCompose]
        {
            sheet.set(rule, Verdict::NotMarked(untold.clone()));
        }
        if checkout.is_none() {
            for rule in [Rule::LabelBackend, Rule::LabelFrontend] {
                sheet.set(rule, Verdict::NotMarked(untold.clone()));
            }
        }
        let checkout = checkout.as_ref();
        let subject = Subject::Running;
        let inspection = Inspection { marker: self, subject, project, cleanup, checkout, sheet };
        Outcome::Marked(Box::pin(inspection.run()).await)
    }

    /// Reads the compose files, first as they stand and then as Compose resolves them. The inner
    /// `Err` is Compose's message.
    async fn read(
        &self,
        checkout: &Checkout,
        env_file: &Path,
    ) -> Result<Result<Read, Words>, Stop> {
        let (mut files, mut at) = (checkout.files.clone(), 0);
        let (mut refused, mut variables) = (Vec::new(), Vec::new());
        while let Some(file) = files.get(at).cloned() {
            at += 1;
            let name = paths::shown(&checkout.root, &file);
            if !paths::is_own_file(&checkout.root, &file) {
                let what = paths::outside(&name, &file);
                refused.push(Refusal { word: policy::PATHS, what });
                continue;
            }
            if at > sources::FILES_MAX || file.exists() && paths::bytes(&file).is_none() {
                let what = words(
                    format!("{name}: too many files, or too long a file"),
                    format!("{name} : trop de fichiers, ou un fichier trop long"),
                );
                refused.push(Refusal { word: policy::RESOURCES, what });
                break;
            }
            let document = match self.engine.document(&file).await {
                Ok(document) => document,
                Err(Unread::Broken(said)) if refused.is_empty() => {
                    return Ok(Err(Words::quoted(said)));
                }
                Err(Unread::Broken(said) | Unread::Odd(said)) => {
                    let what = Words::quoted(format!("{name}: {said}"));
                    refused.push(Refusal { word: policy::UNKNOWN, what });
                    continue;
                }
            };
            variables.extend(sources::variables(&document));
            let (found, more) = sources::check_document(&checkout.root, &file, &document);
            refused.extend(found);
            for file in more {
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        self.refuse(refused)?;
        let project = Project {
            name: "grade",
            // Compose takes paths from the folder of the first file.
            folder: checkout.files.first().and_then(|it| it.parent()).unwrap_or(&checkout.root),
            files: &checkout.files,
            env_file,
            profiles: checkout.variables.get("COMPOSE_PROFILES"),
        };
        Ok(match self.engine.config(&project).await {
            Ok(config) => Ok(Read { config, variables }),
            Err(said) => Err(self.with_hint(Words::quoted(said), &variables, checkout)),
        })
    }

    /// A defect, with a hint at variables that are set here and were not passed on.
    fn with_hint(&self, defect: Words, used: &[String], checkout: &Checkout) -> Words {
        let is_unpassed = |name: &&String| {
            !checkout.variables.has(name)
                && !self.variables.has(name)
                && env::var_os(name).is_some()
        };
        let Some(name) = used.iter().find(is_unpassed) else { return defect };
        let (english, french) = (defect.text(Lang::English), defect.text(Lang::French));
        words(
            format!("{english}\n{name} is set here and not passed on; see --env"),
            format!("{french}\n{name} est définie ici et n'est pas transmise ; voir --env"),
        )
    }

    /// Ends the marking if anything is refused that is not allowed.
    fn refuse(&self, found: Vec<Refusal>) -> Result<(), Stop> {
        let is_allowed = |it: &Refusal| self.allowed.iter().any(|word| word == it.word);
        let refused: Vec<Refusal> = found.into_iter().filter(|it| !is_allowed(it)).collect();
        if refused.is_empty() { Ok(()) } else { Err(Stop::Outcome(Outcome::Refused(refused))) }
    }

    /// Ends the marking if a port of the exercise is taken.
    async fn need_ports(&self) -> Result<(), Stop> {
        for role in Role::BOTH {
            if let Some(why) = self.taken(role.port()).await {
                return Err(Stop::Outcome(Outcome::Failed(why)));
            }
        }
        Ok(())
    }

    /// The program or container that has a port.
    async fn taken(&self, port: u16) -> Option<Words> {
        let process = host::listener(port)?;
        // Ports that the engine publishes are held by a process of its own.
        let holder = match self.engine.publisher(port).await {
            Some(name) => words(format!("the container {name}"), format!("le conteneur {name}")),
            None => process,
        };
        let (english, french) = (holder.text(Lang::English), holder.text(Lang::French));
        Some(words(
            format!("port {port} is in use, by {english}"),
            format!("le port {port} est pris, par {french}"),
        ))
    }

    /// Images that services name without building them, and that were built on this machine: they
    /// are of another project.
    async fn local_images(&self, config: &Node) -> Vec<Refusal> {
        let services = config.at("services").map(Node::members).unwrap_or_default();
        let built: Vec<String> = services
            .iter()
            .filter(|(_, service)| service.at("build").is_some())
            .map(|(_, service)| service.scalar_at("image"))
            .collect();
        let mut found = Vec::new();
        for (name, service) in services {
            let image = service.scalar_at("image");
            if service.at("build").is_none()
                && !built.contains(&image)
                && self.engine.is_local_image(&image).await
            {
                let what = words(
                    format!("{name}: image {image} was built on this machine"),
                    format!("{name} : l'image {image} a été construite sur cette machine"),
                );
                found.push(Refusal { word: policy::EXTERNAL, what });
            }
        }
        found
    }

    /// Builds the images; the defect, if the build fails.
    async fn build(&self, project: &Project<'_>, cleanup: &Cleanup) -> Result<Option<Words>, Stop> {
        cleanup.before_build(&self.engine.images().await)?;
        let minutes = self.build_timeout.as_secs().div_ceil(60);
        self.progress.step(&words(
            format!("building, for {minutes} min at most"),
            format!("construction, {minutes} min au plus"),
        ));
        let mut line = |line: &str| {
            self.progress.detail(line);
            if let Some(mut file) = self.kept_log.as_ref() {
                // A full disk is no reason not to mark.
                let _ = writeln!(file, "{line}");
            }
            // The classic builder's lines for an image that it has made or found, and for the
            // container of a step.
            let id = line.trim().strip_prefix("---> ");
            let id = id.map(|id| id.strip_prefix("Running in ").unwrap_or(id));
            let is_id = |id: &&str| id.len() == 12 && id.bytes().all(|it| it.is_ascii_hexdigit());
            if let Some(id) = id.filter(is_id) {
                cleanup.note(id);
            }
        };
        let built = self.engine.build(project, self.build_timeout, &mut line).await;
        if let End::Exit(_) = built.end {
            cleanup.after_build();
        }
        if built.succeeded() {
            return Ok(None);
        }
        let failed = engine::failed("the build", "la construction", &built);
        if engine::is_not_theirs(&built) {
            return Err(Stop::Outcome(Outcome::Failed(failed)));
        }
        Ok(Some(failed))
    }
}

/// Contexts that are too large.
fn contexts(config: &Node, root: &Path) -> Vec<Refusal> {
    let services = config.at("services").map(Node::members).unwrap_or_default();
    let mut folders: Vec<PathBuf> = services
        .iter()
        .map(|(_, service)| service.scalar_at("build/context"))
        .filter(|context| !context.is_empty())
        .map(|context| root.join(context))
        .collect();
    folders.sort();
    folders.dedup();
    let excess = |folder: PathBuf| {
        let (size, name) = (context::excess(&folder)?, paths::shown(root, &folder));
        let what = words(
            format!("the build context {name} is too large: {size}"),
            format!("le contexte de construction {name} est trop gros : {size}"),
        );
        Some(Refusal { word: policy::RESOURCES, what })
    };
    folders.into_iter().filter_map(excess).collect()
}

/// A subnet of the configuration that this machine uses.
fn overlapped(config: &Node) -> Option<Words> {
    let networks = config.at("networks").map(Node::members).unwrap_or_default();
    let entries = networks.iter().filter_map(|(_, network)| network.at("ipam/config"));
    entries.flat_map(Node::items).find_map(|entry| {
        let subnet = entry.scalar_at("subnet");
        let own = host::overlapped(&subnet)?;
        Some(words(
            format!("the subnet {subnet} is used by this machine: {own}"),
            format!("le sous-réseau {subnet} est utilisé par cette machine : {own}"),
        ))
    })
}

/// The time as the engine's events have it.
fn epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

//! What every marking is done with, and what one marking made.

use std::cell::RefCell;
use std::fs::File;
use std::time::Duration;

use crate::engine::Engine;
use crate::progress::Progress;

/// What every marking is done with.
pub(crate) struct Marker<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) progress: Progress,
    /// Words of `--allow`.
    pub(crate) allowed: Vec<String>,
    /// Whether Docker Hub is asked for the images.
    pub(crate) hub: bool,
    pub(crate) build_patience: Duration,
    /// Takes the builds' whole logs.
    pub(crate) kept_log: Option<File>,
}

/// What one run makes: all that must be gone in the end, however the run ended.
pub(crate) struct Cleanup {
    pub(crate) project: String,
    /// The images' names that the build gives, and whose they were before.
    pub(crate) names: RefCell<Vec<(String, Option<String>)>>,
    /// The images that the build made, in their order, and all that were there before.
    pub(crate) made: RefCell<Vec<String>>,
    pub(crate) before: RefCell<Vec<String>>,
}

impl Cleanup {
    pub(crate) fn new(project: String) -> Cleanup {
        let (names, made, before) = Default::default();
        Cleanup { project, names, made, before }
    }

    /// Removes what was made, and gives names back to the images that had them.
    pub(crate) async fn run(&self, engine: &Engine) {
        engine.remove(&self.project).await;
        let mut made = self.made.take();
        for (name, before) in self.names.take() {
            let Some(before) = before else {
                engine.run(&["rmi", &name]).await;
                continue;
            };
            made.extend(engine.image_id(&name).await);
            engine.run(&["tag", &before, &name]).await;
        }
        let before = self.before.take();
        made.retain(|id| !before.iter().any(|known| known.contains(&**id)));
        // The last ones first: they are made of the others.
        made.reverse();
        engine.remove_unnamed(&made).await;
    }
}

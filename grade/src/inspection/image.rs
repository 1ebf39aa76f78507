//! The images: their labels, their tags, and the Dockerfiles that they come from.

use std::path::{Path, PathBuf};

use super::Inspection;
use crate::checkout::Checkout;
use crate::deployment::{self, Container, Role};
use crate::dockerfile::Dockerfile;
use crate::engine;
use crate::paths;
use crate::rubric::Rule;

use crate::words::words;

/// The label that says where an image is published.
const LABEL: &str = "hub_url";

impl Inspection<'_> {
    pub(super) async fn judge_image(&mut self, role: Role, container: &Container) {
        let labels = self.engine().image(&container.image_id).await.map(|(labels, _)| labels);
        let carried = labels.unwrap_or_default().into_iter().find(|(name, _)| name == LABEL);
        let url = carried.map(|(_, url)| url);
        if let Some(checkout) = self.checkout {
            self.judge_label(checkout, role, container, url.as_deref());
        }
        self.judge_tag(role, container, url.as_deref()).await;
    }

    /// Judges whether the Dockerfile has the label, and the image's is an address on Docker Hub.
    fn judge_label(
        &mut self,
        checkout: &Checkout,
        role: Role,
        container: &Container,
        url: Option<&str>,
    ) {
        let demanded = match role {
            Role::Backend => Rule::LabelBackend,
            Role::Frontend => Rule::LabelFrontend,
        };
        let (path, dockerfile) = self.dockerfile(checkout, role, &container.service);
        let defect = match (dockerfile.as_ref().map(|it| it.label(LABEL)), url) {
            (None, _) => Some(words(format!("{path} is missing"), format!("{path} manque"))),
            (Some(None), _) => Some(words(
                format!("{path} has no LABEL {LABEL}"),
                format!("{path} n'a pas de LABEL {LABEL}"),
            )),
            (Some(Some(_)), None) => Some(words(
                format!("the image has no label {LABEL}"),
                format!("l'image n'a pas de label {LABEL}"),
            )),
            (Some(Some(_)), Some(url)) => deployment::on_hub(url).is_none().then(|| {
                words(
                    format!("{LABEL} is no address on Docker Hub: {url}"),
                    format!("{LABEL} n'est pas une adresse sur Docker Hub : {url}"),
                )
            }),
        };
        let typed = self.typed(container);
        let command = format!("docker inspect -f '{{{{json .Config.Labels}}}}' {typed}");
        self.sheet.judge(demanded, defect, &command);
    }

    /// Judges whether it is `latest`, and whether Docker Hub has it with `--hub`.
    async fn judge_tag(&mut self, role: Role, container: &Container, url: Option<&str>) {
        let demanded = match role {
            Role::Backend => Rule::TagBackend,
            Role::Frontend => Rule::TagFrontend,
        };
        // A built image has a name of the marker's own.
        let build = self.builds().iter().find(|it| it.service == container.service);
        let image = &build.map_or_else(|| container.image.clone(), |it| it.image.clone());
        if !deployment::is_latest(image) {
            let defect = words(format!("its name is {image}"), format!("son nom est {image}"));
            let command = format!("{} images", self.engine().compose());
            return self.sheet.judge(demanded, Some(defect), &command);
        }
        if !self.marker.hub {
            return self.sheet.judge(demanded, None, "");
        }
        let name = match url.and_then(deployment::on_hub) {
            Some((namespace, name)) => format!("{namespace}/{name}:latest"),
            None => image.clone(),
        };
        let found = self.engine().run(&["manifest", "inspect", &name]).await;
        let defect = (!found.succeeded()).then(|| {
            let said = engine::said(&found);
            words(
                format!("{name} cannot be pulled: {said}"),
                format!("{name} ne peut pas être téléchargée : {said}"),
            )
        });
        self.sheet.judge(demanded, defect, &format!("docker pull {name}"));
    }

    /// A service's Dockerfile, where the compose file or else the exercise has it; and its path.
    pub(super) fn dockerfile(
        &self,
        checkout: &Checkout,
        role: Role,
        service: &str,
    ) -> (String, Option<Dockerfile>) {
        let build = self.builds().iter().find(|it| it.service == service);
        let (path, arguments, target) = match build.filter(|build| !build.context.is_empty()) {
            None => (usual(&checkout.root.join(role.name())), &[][..], ""),
            Some(build) => {
                let folder = checkout.root.join(&build.context);
                let path = match &*build.dockerfile {
                    // Compose 2 names the usual one always.
                    "" | "Dockerfile" => usual(&folder),
                    name => folder.join(name),
                };
                (path, &build.arguments[..], &*build.target)
            }
        };
        let shown = path.strip_prefix(&checkout.root).unwrap_or(&path).display().to_string();
        let text = paths::text(&path);
        (shown, text.map(|text| Dockerfile::read(&text, arguments, target)))
    }
}

/// The Dockerfile of a folder, as builders find it.
fn usual(folder: &Path) -> PathBuf {
    let path = folder.join("Dockerfile");
    let lower = folder.join("dockerfile");
    if !path.exists() && lower.exists() { lower } else { path }
}

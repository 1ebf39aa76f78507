//! The images: their labels, their tags, and the Dockerfiles that they come from.

use super::Inspection;
use crate::checkout::Checkout;
use crate::deployment::{self, Container, Role};
use crate::dockerfile::Dockerfile;
use crate::engine;
use crate::rubric::Rule;
use crate::safety;
use crate::words::words;

/// The label that says where an image is published.
const LABEL: &str = "hub_url";

impl Inspection<'_> {
    pub(super) async fn judge_image(&mut self, role: Role, container: &Container) {
        let labels = self.engine().image(&container.image_id).await.map(|(labels, _)| labels);
        let carried = labels.unwrap_or_default().into_iter().find(|(name, _)| name == LABEL);
        let url = carried.map(|(_, url)| url);
        if let Some(source) = self.source {
            self.judge_label(source, role, container, url.as_deref());
        }
        self.judge_tag(role, container, url.as_deref()).await;
    }

    /// Whether the Dockerfile has it, and what the image carries is an address on Docker Hub.
    fn judge_label(
        &mut self,
        source: &Checkout,
        role: Role,
        container: &Container,
        url: Option<&str>,
    ) {
        let demanded = match role {
            Role::Backend => Rule::LabelBackend,
            Role::Frontend => Rule::LabelFrontend,
        };
        let (path, dockerfile) = self.dockerfile(source, role, &container.service);
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

    /// Whether it is `latest`, and Docker Hub has it, if that is asked.
    async fn judge_tag(&mut self, role: Role, container: &Container, url: Option<&str>) {
        let demanded = match role {
            Role::Backend => Rule::TagBackend,
            Role::Frontend => Rule::TagFrontend,
        };
        let image = &container.image;
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
        let asked = self.engine().run(&["manifest", "inspect", &name]).await;
        let defect = (!asked.succeeded()).then(|| {
            let said = engine::said(&asked);
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
        source: &Checkout,
        role: Role,
        service: &str,
    ) -> (String, Option<Dockerfile>) {
        let build = self.builds.iter().find(|it| it.service == service);
        let (path, arguments, target) = match build.filter(|build| !build.context.is_empty()) {
            None => (source.root.join(role.name()).join("Dockerfile"), &[][..], ""),
            Some(build) => {
                let name = match &*build.dockerfile {
                    "" => "Dockerfile",
                    name => name,
                };
                let path = source.root.join(&build.context).join(name);
                (path, &build.arguments[..], &*build.target)
            }
        };
        let shown = path.strip_prefix(&source.root).unwrap_or(&path).display().to_string();
        let text = safety::read(&path);
        (shown, text.map(|text| Dockerfile::read(&text, arguments, target)))
    }
}

//! The rubric as data: what the exercise demands, in both languages, and its points. A rule is
//! earned or lost; there are no partial marks.

use crate::words::{Lang, Words};

macro_rules! rules {
    ($($name:ident $id:literal $quarters:literal $english:literal $french:literal)*) => {
        /// The rules that make a mark.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Rule {
            $($name,)*
        }

        impl Rule {
            /// All of them, in the order of the reports.
            pub(crate) const ALL: &[Rule] = &[$(Rule::$name),*];

            /// Its name in every report and language.
            pub(crate) fn id(self) -> &'static str {
                match self {
                    $(Rule::$name => $id,)*
                }
            }

            /// Its points, in quarters of one.
            pub(crate) fn quarters(self) -> u32 {
                match self {
                    $(Rule::$name => $quarters,)*
                }
            }

            /// The demand.
            pub(crate) fn demand(self, lang: Lang) -> &'static str {
                match (self, lang) {
                    $((Rule::$name, Lang::English) => $english,
                    (Rule::$name, Lang::French) => $french,)*
                }
            }
        }
    };
}

rules! {
    TreeLicense "tree.license" 2
        "a file LICENSE"
        "un fichier LICENSE"
    TreeReadme "tree.readme" 2
        "a file README.md"
        "un fichier README.md"
    TreeDockerfiles "tree.dockerfiles" 2
        "api-backend/Dockerfile and api-frontend/Dockerfile"
        "api-backend/Dockerfile et api-frontend/Dockerfile"
    TreeCompose "tree.compose" 2
        "a file docker-compose.yaml, by this very name"
        "un fichier docker-compose.yaml, sous ce nom exact"
    LabelBackend "label.backend" 4
        "the backend's Dockerfile has LABEL hub_url with an address on Docker Hub, and the image carries it"
        "le Dockerfile du backend a un LABEL hub_url avec une adresse sur Docker Hub, et l'image le porte"
    LabelFrontend "label.frontend" 4
        "the frontend's Dockerfile has LABEL hub_url with an address on Docker Hub, and the image carries it"
        "le Dockerfile du frontend a un LABEL hub_url avec une adresse sur Docker Hub, et l'image le porte"
    TagBackend "tag.backend" 1
        "the backend's image is tagged latest"
        "l'image du backend porte le tag latest"
    TagFrontend "tag.frontend" 1
        "the frontend's image is tagged latest"
        "l'image du frontend porte le tag latest"
    UpStarts "up.starts" 8
        "docker-compose up builds and starts both, with nothing else typed"
        "docker-compose up construit et démarre les deux, sans rien taper d'autre"
    UpNames "up.names" 2
        "the services are named api-backend and api-frontend"
        "les services se nomment api-backend et api-frontend"
    UpOrder "up.order" 2
        "the backend is started before the frontend"
        "le backend est démarré avant le frontend"
    EnvironmentUrl "environment.url" 4
        "the frontend has API_BACKEND_URL: a host name, neither a URL nor an address"
        "le frontend a API_BACKEND_URL : un nom d'hôte, ni une URL ni une adresse"
    EnvironmentPort "environment.port" 2
        "the frontend has API_BACKEND_PORT: a port"
        "le frontend a API_BACKEND_PORT : un port"
    EnvironmentUsed "environment.used" 6
        "the frontend follows both variables to a backend of another name"
        "le frontend suit les deux variables vers un backend d'un autre nom"
    NetworkBridge "network.bridge" 4
        "both are on one bridge network of the project"
        "les deux sont sur un même réseau bridge du projet"
    NetworkName "network.name" 4
        "the backend is found by its name: no links, no fixed addresses, no extra_hosts"
        "le backend est trouvé par son nom : ni links, ni adresses fixes, ni extra_hosts"
    AnswerBackend "answer.backend" 6
        "port 8001 answers GET / with 200, application/json and the backend's JSON"
        "le port 8001 répond à GET / par 200, application/json et le JSON du backend"
    AnswerFrontend "answer.frontend" 6
        "port 8000 answers GET / with 200, application/json and the frontend's JSON"
        "le port 8000 répond à GET / par 200, application/json et le JSON du frontend"
    CrashBackend "crash.backend" 6
        "GET /traceback on port 8001, twice: no answer, process 1 ends with exit code 1, the engine starts the same container again, and it answers within 10 s"
        "GET /traceback sur le port 8001, deux fois : pas de réponse, le processus 1 se termine avec le code 1, le moteur redémarre le même conteneur, qui répond en moins de 10 s"
    CrashFrontend "crash.frontend" 6
        "GET /traceback on port 8000, twice: no answer, process 1 ends with exit code 1, the engine starts the same container again, and it answers within 10 s"
        "GET /traceback sur le port 8000, deux fois : pas de réponse, le processus 1 se termine avec le code 1, le moteur redémarre le même conteneur, qui répond en moins de 10 s"
    RecoverChain "recover.chain" 6
        "once a crashed backend is back, the frontend answers as before within 10 s, without a restart of its own"
        "quand un backend tombé est revenu, le frontend répond comme avant en moins de 10 s, sans redémarrer lui-même"
}

/// The verdict on a rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    Earned,
    /// Observed instead of the demand, and the command that shows it.
    Lost {
        seen: Words,
        command: String,
    },
    /// It could not be judged, because of this: no points.
    NotReached(Words),
    /// The deployment does not show it, because of this: its points are in no sum.
    NotMarked(Words),
}

/// The verdicts on one deployment, and notes that are no part of the mark.
#[derive(Debug, Default)]
pub(crate) struct Sheet {
    verdicts: Vec<(Rule, Verdict)>,
    /// Notes: the subject, and the observation.
    pub(crate) notes: Vec<(Words, Words)>,
}

impl Sheet {
    /// The verdict on a rule; the first one stands.
    pub(crate) fn set(&mut self, rule: Rule, verdict: Verdict) {
        if self.verdict(rule).is_none() {
            self.verdicts.push((rule, verdict));
        }
    }

    /// Earned if there is no defect.
    pub(crate) fn judge(&mut self, rule: Rule, defect: Option<Words>, command: &str) {
        let verdict = match defect {
            None => Verdict::Earned,
            Some(seen) => Verdict::Lost { seen, command: command.to_owned() },
        };
        self.set(rule, verdict);
    }

    /// Sets every rule without a verdict to not reached.
    pub(crate) fn close(&mut self, reason: &Words) {
        for rule in Rule::ALL {
            self.set(*rule, Verdict::NotReached(reason.clone()));
        }
    }

    pub(crate) fn verdict(&self, rule: Rule) -> Option<&Verdict> {
        self.verdicts.iter().find(|(judged, _)| *judged == rule).map(|(_, verdict)| verdict)
    }

    /// Every verdict, in the rubric's order.
    pub(crate) fn verdicts(&self) -> impl Iterator<Item = (Rule, &Verdict)> {
        Rule::ALL.iter().filter_map(|rule| Some((*rule, self.verdict(*rule)?)))
    }

    /// The quarters earned.
    pub(crate) fn quarters(&self) -> u32 {
        let earned = self.verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Earned);
        earned.map(|(rule, _)| rule.quarters()).sum()
    }

    /// The quarters that could be earned.
    pub(crate) fn quarters_max(&self) -> u32 {
        let left_out = |verdict: &Verdict| matches!(verdict, Verdict::NotMarked(_));
        let marked = self.verdicts.iter().filter(|(_, verdict)| !left_out(verdict));
        marked.map(|(rule, _)| rule.quarters()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::points;

    #[test]
    fn the_rules_sum_up_to_20_points() {
        assert_eq!(Rule::ALL.iter().map(|rule| rule.quarters()).sum::<u32>(), 4 * 20);
    }

    #[test]
    fn the_page_for_teachers_shows_every_rule() {
        let page = include_str!("../README.md");
        for rule in Rule::ALL {
            let (id, points, demand) =
                (rule.id(), points(rule.quarters()), rule.demand(Lang::English));
            assert!(page.contains(&format!("| `{id}` | {points} | {demand} |\n")), "{id}");
        }
    }

    #[test]
    fn what_is_not_marked_is_in_no_sum_and_the_first_verdict_stands() {
        let mut sheet = Sheet::default();
        sheet.set(Rule::TreeLicense, Verdict::NotMarked(Words::quoted("no tree")));
        sheet.judge(Rule::TreeReadme, None, "");
        sheet.judge(Rule::TreeReadme, Some(Words::quoted("gone")), "ls");
        assert_eq!((sheet.quarters(), sheet.quarters_max()), (2, 2));
        sheet.close(&Words::quoted("it ends here"));
        assert_eq!((sheet.quarters(), sheet.quarters_max()), (2, 78));
        assert_eq!(sheet.verdicts().count(), Rule::ALL.len());
    }
}

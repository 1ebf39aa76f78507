//! The report for programs. A JSON string can hold any text.

use tools::json::quoted as text;

use super::Report;
use crate::outcome::Outcome;
use crate::rubric::{Rule, Verdict};
use crate::words::{Lang, points};

pub(super) fn write(report: &Report) -> String {
    let lang = report.lang;
    let outcome = match report.outcome {
        Outcome::Marked(_) => "marked",
        Outcome::Refused(_) => "refused",
        Outcome::Failed(_) => "failed",
    };
    let mut members = vec![("deployment", text(&report.deployment)), ("outcome", text(outcome))];
    if let Outcome::Marked(sheet) = &report.outcome {
        let rules = sheet.verdicts().map(|(rule, verdict)| judged(rule, verdict, lang));
        let notes = sheet.notes.iter().map(|(what, seen)| {
            object(&[("what", text(what.text(lang))), ("seen", text(seen.text(lang)))])
        });
        members.extend([
            ("mark", points(sheet.quarters())),
            ("out_of", points(sheet.quarters_max())),
            ("rules", array(rules)),
            ("notes", array(notes)),
        ]);
    } else {
        members.push(("reasons", array(report.reasons().iter().map(|reason| text(reason)))));
    }
    object(&members) + "\n"
}

fn judged(rule: Rule, verdict: &Verdict, lang: Lang) -> String {
    let mut members = vec![
        ("id", text(rule.id())),
        ("points", points(rule.quarters())),
        ("expected", text(rule.demand(lang))),
    ];
    let word = match verdict {
        Verdict::Earned => "earned",
        Verdict::Lost { .. } => "lost",
        Verdict::NotReached(_) => "not reached",
        Verdict::NotMarked(_) => "not marked",
    };
    members.push(("verdict", text(word)));
    match verdict {
        Verdict::Earned => {}
        Verdict::Lost { seen, command } => {
            members.extend([("seen", text(seen.text(lang))), ("command", text(command))]);
        }
        Verdict::NotReached(why) | Verdict::NotMarked(why) => {
            members.push(("because", text(why.text(lang))));
        }
    }
    object(&members)
}

fn object(members: &[(&str, String)]) -> String {
    let members: Vec<String> =
        members.iter().map(|(key, value)| format!("{}: {value}", text(key))).collect();
    format!("{{{}}}", members.join(", "))
}

fn array(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

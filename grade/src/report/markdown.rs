//! The report for a forge's page. Every character that Markdown or HTML takes for a mark is escaped.

use super::Report;
use crate::outcome::Outcome;
use crate::rubric::Verdict;
use crate::words::{lines, points};

pub(super) fn write(report: &Report) -> String {
    let mut out = vec![format!("# {}\n\n", markdown(&report.deployment))];
    let Outcome::Marked(sheet) = &report.outcome else {
        out.push(format!("**{}**\n\n", report.kind()));
        for reason in report.reasons() {
            out.push(format!("- {}\n", markdown(&reason)));
        }
        return out.concat();
    };
    out.push(format!("**{}**\n", report.score().unwrap_or_default()));
    for (title, part) in report.parts() {
        let mut head = Some(report.say(
            "| rule | points | expected | seen |\n|---|--:|---|---|\n",
            "| règle | points | attendu | constaté |\n|---|--:|---|---|\n",
        ));
        for (rule, verdict) in sheet.verdicts().filter(|(_, verdict)| part(verdict)) {
            if let Some(head) = head.take() {
                out.push(format!("\n## {title}\n\n{head}"));
            }
            let seen = match verdict {
                Verdict::Earned => String::new(),
                Verdict::Lost { seen, command } => {
                    let typed = report.say("type:", "tapez :");
                    markdown(&format!("{}\n{typed} {command}", seen.text(report.lang)))
                }
                Verdict::NotReached(why) | Verdict::NotMarked(why) => {
                    markdown(why.text(report.lang))
                }
            };
            let (id, points) = (rule.id(), report.lang.decimal(&points(rule.quarters())));
            out.push(format!(
                "| {id} | {points} | {} | {seen} |\n",
                markdown(rule.demand(report.lang))
            ));
        }
    }
    if !sheet.notes.is_empty() {
        let title = report.say("not part of the mark", "hors notation");
        out.push(format!("\n## {title}\n\n| | |\n|---|---|\n"));
    }
    for (what, seen) in &sheet.notes {
        let (what, seen) = (markdown(what.text(report.lang)), markdown(seen.text(report.lang)));
        out.push(format!("| {what} | {seen} |\n"));
    }
    out.concat()
}

/// Text in a cell or a heading: nothing of it is a mark.
fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in lines(text).join("\n").chars() {
        match char {
            '\n' => out.push_str("<br>"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '!' | '~' => {
                out.push('\\');
                out.push(char);
            }
            _ => out.push(char),
        }
    }
    out
}

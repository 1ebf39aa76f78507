//! The report for a terminal. Bytes that could move its cursor are printed as escapes.

use std::fmt::Write;

use tools::colour::{Colours, GREEN, RED, YELLOW};

use super::Report;
use crate::outcome::Outcome;
use crate::rubric::Verdict;
use crate::words::{lines, points, printable};

/// Where demands begin, and how long a line of them is: a hundred columns together.
const INDENT: usize = 23;
const DEMAND_BYTES_MAX: usize = 74;

pub(super) fn write(report: &Report, colours: Colours) -> String {
    let (name, colon) = (printable(&report.deployment), report.lang.colon());
    let mut out = String::new();
    let Outcome::Marked(sheet) = &report.outcome else {
        line(&mut out, format_args!("{name}{colon} {}", colours.paint(RED, report.kind())));
        for reason in report.reasons() {
            line(&mut out, format_args!("  {}", lines(&reason).join(" / ")));
        }
        return out;
    };
    let score = report.score().unwrap_or_default();
    let colour = if sheet.quarters() == sheet.quarters_max() { GREEN } else { YELLOW };
    line(&mut out, format_args!("{name}{colon} {}", colours.paint(colour, &score)));
    for ((title, part), colour) in report.parts().into_iter().zip([RED, RED, YELLOW, GREEN]) {
        let mut title = Some(title);
        for (rule, verdict) in sheet.verdicts().filter(|(_, verdict)| part(verdict)) {
            if let Some(title) = title.take() {
                line(&mut out, format_args!("\n{}", colours.paint(colour, title)));
            }
            let mut before =
                format!("{:<5} {}", report.lang.decimal(&points(rule.quarters())), rule.id());
            for part in wrapped(rule.demand(report.lang)) {
                line(&mut out, format_args!("  {before:<INDENT$} {part}"));
                before.clear();
            }
            match verdict {
                Verdict::Earned => {}
                Verdict::Lost { seen, command } => {
                    paragraph(&mut out, report.say("seen:", "constaté :"), seen.text(report.lang));
                    paragraph(&mut out, report.say("type:", "tapez :"), command);
                }
                Verdict::NotReached(why) | Verdict::NotMarked(why) => {
                    paragraph(&mut out, report.say("because:", "raison :"), why.text(report.lang));
                }
            }
        }
    }
    if !sheet.notes.is_empty() {
        line(&mut out, format_args!("\n{}", report.say("not part of the mark", "hors notation")));
    }
    for (what, seen) in &sheet.notes {
        let (what, seen) = (printable(what.text(report.lang)), printable(seen.text(report.lang)));
        line(&mut out, format_args!("  {what:<34} {seen}"));
    }
    out
}

/// A sentence in lines that fit behind the rules' names.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= DEMAND_BYTES_MAX => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A title, and lines under each other.
fn paragraph(out: &mut String, title: &str, text: &str) {
    let mut title = title;
    for part in lines(text) {
        line(out, format_args!("        {title:<10} {part}"));
        title = "";
    }
}

fn line(out: &mut String, text: std::fmt::Arguments) {
    // Writing to a string never fails.
    let _ = writeln!(out, "{text}");
}

//! The table of a batch, as CSV (RFC 4180), and its summary. In French its cells are parted by
//! semicolons, and a byte order mark goes first: French spreadsheets read nothing else.

use std::cmp::Reverse;

use super::{LOST, NOT_REACHED, Part, Report};
use crate::outcome::Outcome;
use crate::rubric::Rule;
use crate::words::{Lang, lines, points};

/// The names of the columns.
pub(crate) fn head(lang: Lang) -> String {
    match lang {
        Lang::English => line(
            ["deployment", "mark", "out of", "outcome", "lost", "not reached", "reasons"],
            lang,
        ),
        Lang::French => {
            let names =
                ["déploiement", "note", "sur", "résultat", "perdu", "non atteint", "raisons"];
            format!("\u{feff}{}", line(names, lang))
        }
    }
}

/// The row of a deployment.
pub(crate) fn row(report: &Report) -> String {
    let (mark, of) = match report.mark() {
        Some((quarters, of)) => {
            (report.lang.decimal(&points(quarters)), report.lang.decimal(&points(of)))
        }
        None => (String::new(), String::new()),
    };
    let ids = |part: Part| match &report.outcome {
        Outcome::Marked(sheet) => {
            let rules = sheet.verdicts().filter(|(_, verdict)| part(verdict));
            rules.map(|(rule, _)| rule.id()).collect::<Vec<_>>().join(" ")
        }
        Outcome::Refused(_) | Outcome::Failed(_) => String::new(),
    };
    let (lost, not_reached, reasons) = (ids(LOST), ids(NOT_REACHED), report.reasons().join("\n"));
    line(
        [&report.deployment, &mark, &of, report.kind(), &lost, &not_reached, &reasons],
        report.lang,
    )
}

fn line(cells: [&str; 7], lang: Lang) -> String {
    let separator = match lang {
        Lang::English => ",",
        Lang::French => ";",
    };
    let cell = |text: &str| {
        let text = lines(text).join(" / ").replace('"', "\"\"");
        // Spreadsheets take these for formulas, unless an apostrophe comes before.
        let guard = if text.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
        format!("\"{guard}{text}\"")
    };
    cells.map(cell).join(separator) + "\r\n"
}

/// How many were marked, the mean and the median, and what was lost most.
pub(crate) fn summary(reports: &[Report], lang: Lang) -> String {
    let mut marks: Vec<u32> = reports.iter().filter_map(|it| Some(it.mark()?.0)).collect();
    marks.sort_unstable();
    let (all, marked) = (reports.len(), marks.len());
    let mut out = vec![match lang {
        Lang::English => format!("{marked} of {all} marked\n"),
        Lang::French => format!("{marked} sur {all} notés\n"),
    }];
    if let [low, .., high] | [low @ high] = &marks[..] {
        let (count, sum) =
            marks.iter().fold((0.0, 0.0), |(n, sum), it| (n + 4.0, sum + f64::from(*it)));
        let mean = sum / count;
        let middle = f64::from(marks[marked / 2] + marks[(marked - 1) / 2]) / 8.0;
        let [low, high] = [*low, *high].map(|quarters| lang.decimal(&points(quarters)));
        let (mean, median) =
            (lang.decimal(&format!("{mean:.2}")), lang.decimal(&middle.to_string()));
        out.push(match lang {
            Lang::English => format!("mean {mean}, median {median}, from {low} to {high}\n"),
            Lang::French => format!("moyenne {mean}, médiane {median}, de {low} à {high}\n"),
        });
    }
    let losers = |rule: &Rule| {
        let lost = |it: &&Report| match &it.outcome {
            Outcome::Marked(sheet) => sheet.verdict(*rule).is_some_and(LOST),
            Outcome::Refused(_) | Outcome::Failed(_) => false,
        };
        (reports.iter().filter(lost).count(), *rule)
    };
    let mut lost: Vec<(usize, Rule)> = Rule::ALL.iter().map(losers).collect();
    lost.retain(|(count, _)| *count > 0);
    lost.sort_by_key(|(count, _)| Reverse(*count));
    for (count, rule) in lost {
        out.push(format!("{count:>4}  {:<17} {}\n", rule.id(), rule.demand(lang)));
    }
    out.concat()
}

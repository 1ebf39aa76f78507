//! Reports: what a marking came to, for people and for programs. Names and outputs are a
//! stranger's: each format has its own way to take their teeth out.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use common::json;
use common::telemetry;

use super::course::Outcome;
use super::rubric::{Lang, Rule, Sheet, Verdict, points};

/// What reports are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
    Junit,
    Markdown,
}

impl Format {
    /// Those that `--format` takes.
    pub(crate) const ALL: [(&str, Format); 4] = [
        ("text", Format::Text),
        ("json", Format::Json),
        ("junit", Format::Junit),
        ("markdown", Format::Markdown),
    ];

    /// How files of it are called.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Format::Text => "txt",
            Format::Json => "json",
            Format::Junit => "xml",
            Format::Markdown => "md",
        }
    }
}

/// Whether a report has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Colours,
    Nothing,
}

/// What came of marking one deployment.
pub(crate) struct Report {
    /// As it was named to us.
    pub(crate) deployment: String,
    pub(crate) outcome: Outcome,
    pub(crate) lang: Lang,
}

/// Whether a verdict is of a kind.
type Kind = fn(&Verdict) -> bool;

/// Colours, as ANSI terminals number them.
const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;

impl Report {
    pub(crate) fn write(&self, format: Format, paint: Paint) -> String {
        match format {
            Format::Text => self.text(paint),
            Format::Json => self.json(),
            Format::Junit => self.junit(),
            Format::Markdown => self.markdown(),
        }
    }

    /// Quarters earned, and quarters that there were.
    pub(crate) fn mark(&self) -> Option<(u32, u32)> {
        match &self.outcome {
            Outcome::Marked(sheet) => Some((sheet.quarters(), sheet.quarters_max())),
            Outcome::Refused(_) | Outcome::Failed(_) => None,
        }
    }

    fn say(&self, english: &'static str, french: &'static str) -> &'static str {
        match self.lang {
            Lang::English => english,
            Lang::French => french,
        }
    }

    /// Why there is no mark: the kind, and a line for each reason.
    fn reasons(&self) -> (&'static str, Vec<String>) {
        match &self.outcome {
            Outcome::Marked(_) => (self.say("marked", "noté"), Vec::new()),
            Outcome::Failed(words) => {
                (self.say("not marked", "non noté"), vec![words.text(self.lang).to_owned()])
            }
            Outcome::Refused(refusals) => {
                let reason = |it: &super::safety::Refusal| {
                    format!("{} (--allow {})", it.what.text(self.lang), it.word)
                };
                (self.say("refused", "refusé"), refusals.iter().map(reason).collect())
            }
        }
    }

    fn text(&self, paint: Paint) -> String {
        let coloured = |colour: u8, text: &str| match paint {
            Paint::Colours => format!("\x1b[{colour}m{text}\x1b[0m"),
            Paint::Nothing => text.to_owned(),
        };
        let name = printable(&self.deployment);
        let mut out = String::new();
        let Outcome::Marked(sheet) = &self.outcome else {
            let (kind, reasons) = self.reasons();
            let _ = writeln!(out, "{name}: {}", coloured(RED, kind));
            for reason in reasons {
                let _ = writeln!(out, "  {}", printable(&reason));
            }
            return out;
        };
        let mark = format!("{} / {}", points(sheet.quarters()), points(sheet.quarters_max()));
        let colour = if sheet.quarters() == sheet.quarters_max() { GREEN } else { YELLOW };
        let _ = writeln!(out, "{name}: {}", coloured(colour, &mark));
        for (title, colour, wanted) in self.parts() {
            let rules: Vec<_> = sheet.verdicts().filter(|(_, verdict)| wanted(verdict)).collect();
            if rules.is_empty() {
                continue;
            }
            let _ = writeln!(out, "\n{}", coloured(colour, title));
            for (rule, verdict) in rules {
                let _ = writeln!(
                    out,
                    "  {:<4}  {:<17} {}",
                    points(rule.quarters()),
                    rule.id(),
                    rule.demand(self.lang)
                );
                match verdict {
                    Verdict::Earned => {}
                    Verdict::Lost { seen, command } => {
                        paragraph(self.say("seen", "constaté"), seen.text(self.lang), &mut out);
                        if !command.is_empty() {
                            paragraph(self.say("type", "tapez"), command, &mut out);
                        }
                    }
                    Verdict::NotReached(why) | Verdict::NotMarked(why) => {
                        paragraph(self.say("because", "car"), why.text(self.lang), &mut out);
                    }
                }
            }
        }
        if !sheet.notes.is_empty() {
            let _ = writeln!(out, "\n{}", self.say("beside the mark", "hors notation"));
        }
        for (what, seen) in &sheet.notes {
            let what = printable(what.text(self.lang));
            let _ = writeln!(out, "  {what:<34} {}", printable(seen.text(self.lang)));
        }
        out
    }

    /// The parts of a report for people: title, colour, and which verdicts belong there.
    fn parts(&self) -> [(&'static str, u8, Kind); 4] {
        [
            (self.say("lost", "perdu"), RED, |it| matches!(it, Verdict::Lost { .. })),
            (self.say("not reached", "non atteint"), RED, |it| {
                matches!(it, Verdict::NotReached(_))
            }),
            (self.say("not marked", "non noté"), YELLOW, |it| matches!(it, Verdict::NotMarked(_))),
            (self.say("earned", "acquis"), GREEN, |it| matches!(it, Verdict::Earned)),
        ]
    }

    fn json(&self) -> String {
        let mut out = Vec::new();
        let text = |text: &str, out: &mut Vec<u8>| json::write_text(text, out);
        let member = |key: &str, value: &str, out: &mut Vec<u8>| {
            out.extend_from_slice(b", ");
            json::write_text(key, out);
            out.extend_from_slice(b": ");
            json::write_text(value, out);
        };
        out.extend_from_slice(b"{\"deployment\": ");
        text(&self.deployment, &mut out);
        let (outcome, reasons) = match &self.outcome {
            Outcome::Marked(_) => ("marked", Vec::new()),
            Outcome::Refused(_) => ("refused", self.reasons().1),
            Outcome::Failed(_) => ("failed", self.reasons().1),
        };
        member("outcome", outcome, &mut out);
        if let Outcome::Marked(sheet) = &self.outcome {
            let (mark, out_of) = (points(sheet.quarters()), points(sheet.quarters_max()));
            out.extend_from_slice(
                format!(", \"mark\": {mark}, \"out_of\": {out_of}, \"rules\": [").as_bytes(),
            );
            for (before, (rule, verdict)) in sheet.verdicts().enumerate() {
                out.extend_from_slice(if before == 0 { b"{\"id\": " } else { b", {\"id\": " });
                text(rule.id(), &mut out);
                out.extend_from_slice(
                    format!(", \"points\": {}", points(rule.quarters())).as_bytes(),
                );
                member("expected", rule.demand(self.lang), &mut out);
                member("verdict", word(verdict), &mut out);
                match verdict {
                    Verdict::Earned => {}
                    Verdict::Lost { seen, command } => {
                        member("seen", seen.text(self.lang), &mut out);
                        member("command", command, &mut out);
                    }
                    Verdict::NotReached(why) | Verdict::NotMarked(why) => {
                        member("because", why.text(self.lang), &mut out);
                    }
                }
                out.push(b'}');
            }
            out.extend_from_slice(b"], \"notes\": [");
            for (before, (what, seen)) in sheet.notes.iter().enumerate() {
                out.extend_from_slice(if before == 0 { b"{\"what\": " } else { b", {\"what\": " });
                text(what.text(self.lang), &mut out);
                member("seen", seen.text(self.lang), &mut out);
                out.push(b'}');
            }
            out.push(b']');
        }
        if !reasons.is_empty() {
            out.extend_from_slice(b", \"reasons\": [");
            for (before, reason) in reasons.iter().enumerate() {
                out.extend_from_slice(if before == 0 { b"" } else { b", " });
                text(reason, &mut out);
            }
            out.push(b']');
        }
        out.extend_from_slice(b"}\n");
        String::from_utf8_lossy(&out).into_owned()
    }

    fn junit(&self) -> String {
        let name = xml(&self.deployment);
        let mut cases = String::new();
        let (mut failures, mut skipped, mut errors, mut tests) = (0, 0, 0, 0);
        let mut case = |id: &str, body: &str| {
            tests += 1;
            let _ = writeln!(
                cases,
                "    <testcase classname=\"{name}\" name=\"{id}\" time=\"0\">{body}</testcase>"
            );
        };
        let mut notes = String::new();
        match &self.outcome {
            Outcome::Marked(sheet) => {
                for (rule, verdict) in sheet.verdicts() {
                    let demand = xml(rule.demand(self.lang));
                    let body = match verdict {
                        Verdict::Earned => String::new(),
                        Verdict::Lost { seen, command } => {
                            failures += 1;
                            let (seen, command) = (xml(seen.text(self.lang)), xml(command));
                            format!(
                                "<failure type=\"lost\" message=\"{demand}\">{seen}\n{command}</failure>"
                            )
                        }
                        Verdict::NotReached(why) => {
                            errors += 1;
                            let why = xml(why.text(self.lang));
                            format!(
                                "<error type=\"not reached\" message=\"{demand}\">{why}</error>"
                            )
                        }
                        Verdict::NotMarked(_) => {
                            skipped += 1;
                            "<skipped/>".to_owned()
                        }
                    };
                    case(rule.id(), &body);
                }
                for (what, seen) in &sheet.notes {
                    let _ = writeln!(notes, "{}: {}", what.text(self.lang), seen.text(self.lang));
                }
            }
            Outcome::Refused(_) | Outcome::Failed(_) => {
                errors += 1;
                let (kind, reasons) = self.reasons();
                let reasons = xml(&reasons.join("\n"));
                case(
                    "outcome",
                    &format!("<error type=\"{kind}\" message=\"{kind}\">{reasons}</error>"),
                );
            }
        }
        let mark = self.mark().map(|(quarters, of)| {
            let (mark, of) = (points(quarters), points(of));
            format!("<property name=\"mark\" value=\"{mark}\"/><property name=\"out_of\" value=\"{of}\"/>")
        });
        let (mark, notes) = (mark.unwrap_or_default(), xml(&notes));
        let timestamp = timestamp();
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <testsuites>\n  \
             <testsuite id=\"0\" package=\"grade\" name=\"{name}\" timestamp=\"{timestamp}\" \
             hostname=\"localhost\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" \
             skipped=\"{skipped}\" time=\"0\">\n    \
             <properties>{mark}</properties>\n{cases}    \
             <system-out>{notes}</system-out>\n    \
             <system-err></system-err>\n  \
             </testsuite>\n</testsuites>\n"
        )
    }

    fn markdown(&self) -> String {
        let mut out = format!("# {}\n\n", markdown(&self.deployment));
        let Outcome::Marked(sheet) = &self.outcome else {
            let (kind, reasons) = self.reasons();
            let _ = writeln!(out, "**{kind}**\n");
            for reason in reasons {
                let _ = writeln!(out, "- {}", markdown(&reason));
            }
            return out;
        };
        let _ =
            writeln!(out, "**{} / {}**", points(sheet.quarters()), points(sheet.quarters_max()));
        for (title, _, wanted) in self.parts() {
            let rules: Vec<_> = sheet.verdicts().filter(|(_, verdict)| wanted(verdict)).collect();
            if rules.is_empty() {
                continue;
            }
            let (points_title, expected) =
                (self.say("points", "points"), self.say("expected", "attendu"));
            let (rule_title, seen_title) =
                (self.say("rule", "règle"), self.say("seen", "constaté"));
            let _ = writeln!(
                out,
                "\n## {title}\n\n| {rule_title} | {points_title} | {expected} | {seen_title} |\n|---|--:|---|---|"
            );
            for (rule, verdict) in rules {
                let seen = match verdict {
                    Verdict::Earned => String::new(),
                    Verdict::Lost { seen, command } if command.is_empty() => {
                        markdown(seen.text(self.lang))
                    }
                    Verdict::Lost { seen, command } => {
                        format!(
                            "{}<br>{}: {}",
                            markdown(seen.text(self.lang)),
                            self.say("type", "tapez"),
                            markdown(command)
                        )
                    }
                    Verdict::NotReached(why) | Verdict::NotMarked(why) => {
                        markdown(why.text(self.lang))
                    }
                };
                let _ = writeln!(
                    out,
                    "| {} | {} | {} | {seen} |",
                    rule.id(),
                    points(rule.quarters()),
                    markdown(rule.demand(self.lang))
                );
            }
        }
        if !sheet.notes.is_empty() {
            let _ = writeln!(
                out,
                "\n## {}\n\n| | |\n|---|---|",
                self.say("beside the mark", "hors notation")
            );
        }
        for (what, seen) in &sheet.notes {
            let _ = writeln!(
                out,
                "| {} | {} |",
                markdown(what.text(self.lang)),
                markdown(seen.text(self.lang))
            );
        }
        out
    }

    /// The line of a class's table.
    pub(crate) fn csv(&self) -> String {
        let (outcome, reasons) = self.reasons();
        let (mark, out_of) = self
            .mark()
            .map_or_else(Default::default, |(quarters, of)| (points(quarters), points(of)));
        let ids = |wanted: Kind| match &self.outcome {
            Outcome::Marked(sheet) => ids(sheet, wanted),
            _ => String::new(),
        };
        let lost = ids(|it| matches!(it, Verdict::Lost { .. }));
        let not_reached = ids(|it| matches!(it, Verdict::NotReached(_)));
        let cells =
            [&self.deployment, &mark, &out_of, outcome, &lost, &not_reached, &reasons.join("; ")];
        csv_line(&cells.map(str::to_owned))
    }

    /// The names of that table's columns.
    pub(crate) fn csv_head(lang: Lang) -> String {
        let cells = match lang {
            Lang::English => {
                ["deployment", "mark", "out of", "outcome", "lost", "not reached", "reasons"]
            }
            Lang::French => {
                ["déploiement", "note", "sur", "issue", "perdu", "non atteint", "raisons"]
            }
        };
        csv_line(&cells.map(str::to_owned))
    }
}

fn paragraph(title: &str, text: &str, out: &mut String) {
    let mut title = format!("{title}:");
    for line in text.lines() {
        let _ = writeln!(out, "        {title:<10} {}", printable(line));
        title.clear();
    }
}

/// Of a class: how many were marked, the mean and the median, and what most of them lost.
pub(crate) fn summary(reports: &[Report], lang: Lang) -> String {
    let mut marks: Vec<u32> = reports.iter().filter_map(|it| Some(it.mark()?.0)).collect();
    marks.sort_unstable();
    let mut out = String::new();
    let (all, marked) = (reports.len(), marks.len());
    let _ = match lang {
        Lang::English => writeln!(out, "{marked} of {all} marked"),
        Lang::French => writeln!(out, "{marked} notés sur {all}"),
    };
    if let (Some(low), Some(high), Some(median)) =
        (marks.first(), marks.last(), marks.get(marked / 2))
    {
        let mean = f64::from(marks.iter().sum::<u32>())
            / 4.0
            / f64::from(u32::try_from(marked).unwrap_or(1));
        let (low, high, median) = (points(*low), points(*high), points(*median));
        let _ = match lang {
            Lang::English => writeln!(out, "mean {mean:.2}, median {median}, from {low} to {high}"),
            Lang::French => writeln!(out, "moyenne {mean:.2}, médiane {median}, de {low} à {high}"),
        };
    }
    let losers = |rule: Rule| {
        let lost = |it: &&Report| match &it.outcome {
            Outcome::Marked(sheet) => matches!(sheet.verdict(rule), Some(Verdict::Lost { .. })),
            _ => false,
        };
        reports.iter().filter(lost).count()
    };
    let mut lost: Vec<(usize, Rule)> =
        Rule::ALL.iter().map(|rule| (losers(*rule), *rule)).collect();
    lost.retain(|(count, _)| *count > 0);
    lost.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    for (count, rule) in lost {
        let _ = writeln!(out, "{count:>4}  {:<17} {}", rule.id(), rule.demand(lang));
    }
    out
}

fn ids(sheet: &Sheet, wanted: Kind) -> String {
    let ids = sheet.verdicts().filter(|(_, verdict)| wanted(verdict)).map(|(rule, _)| rule.id());
    ids.collect::<Vec<_>>().join(" ")
}

/// One word for a verdict, the same in every language.
fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Earned => "earned",
        Verdict::Lost { .. } => "lost",
        Verdict::NotReached(_) => "not reached",
        Verdict::NotMarked(_) => "not marked",
    }
}

/// Text of one line that does nothing to a terminal: controls and marks that turn the direction of
/// writing are shown as what they are.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.extend(char.escape_unicode());
            }
            '\n' => out.push_str(" / "),
            _ if char.is_control() => out.extend(char.escape_default()),
            _ => out.push(char),
        }
    }
    out
}

/// Text between XML's marks. XML 1.0 has no way to write most controls.
fn xml(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(printable).collect();
    let mut out = String::with_capacity(text.len());
    for char in lines.join("\n").chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(char),
        }
    }
    out
}

/// Text in a table of Markdown: nothing of it is a mark.
fn markdown(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(printable).collect();
    let mut out = String::with_capacity(text.len());
    for char in lines.join("\n").chars() {
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

/// One line of CSV (RFC 4180). Programs that open it take some cells for formulas, unless these
/// begin with an apostrophe.
fn csv_line(cells: &[String]) -> String {
    let cell = |text: &String| {
        let text = printable(text);
        let guard = if text.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
        format!("\"{guard}{}\"", text.replace('"', "\"\""))
    };
    cells.iter().map(cell).collect::<Vec<_>>().join(",") + "\r\n"
}

/// Now, as `JUnit`'s schema wants it: no fraction, no zone.
fn timestamp() -> String {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut out = Vec::new();
    telemetry::rfc3339(u64::try_from(millis).unwrap_or_default(), &mut out);
    String::from_utf8_lossy(out.get(..19).unwrap_or_default()).into_owned()
}

//! Reports of a marking, for people and for programs. Names and outputs are a stranger's: each
//! format says how it makes them harmless.

mod json;
mod junit;
mod markdown;
mod table;
mod text;

use tools::colour::Colours;

use crate::outcome::Outcome;
use crate::rubric::Verdict;
use crate::words::{Lang, points};

pub(crate) use table::{head, row, summary};

/// A format of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
    Junit,
    Markdown,
}

impl Format {
    pub(crate) const ALL: [Format; 4] =
        [Format::Text, Format::Json, Format::Junit, Format::Markdown];

    /// Their names for `--format`, in the same order.
    pub(crate) const NAMES: &[&str] = &["text", "json", "junit", "markdown"];

    /// The ending of its files' names.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Format::Text => "txt",
            Format::Json => "json",
            Format::Junit => "xml",
            Format::Markdown => "md",
        }
    }
}

/// The report on one deployment.
pub(crate) struct Report {
    /// As the caller named it.
    pub(crate) deployment: String,
    pub(crate) outcome: Outcome,
    pub(crate) lang: Lang,
}

/// Returns true if a verdict belongs in a part of a report.
type Part = fn(&Verdict) -> bool;

const LOST: Part = |it| matches!(it, Verdict::Lost { .. });
const NOT_REACHED: Part = |it| matches!(it, Verdict::NotReached(_));
const NOT_MARKED: Part = |it| matches!(it, Verdict::NotMarked(_));
const EARNED: Part = |it| matches!(it, Verdict::Earned);

impl Report {
    pub(crate) fn write(&self, format: Format, colours: Colours) -> String {
        match format {
            Format::Text => text::write(self, colours),
            Format::Json => json::write(self),
            Format::Junit => junit::write(self),
            Format::Markdown => markdown::write(self),
        }
    }

    /// Quarters earned, and quarters that there were.
    pub(crate) fn mark(&self) -> Option<(u32, u32)> {
        match &self.outcome {
            Outcome::Marked(sheet) => Some((sheet.quarters(), sheet.quarters_max())),
            Outcome::Refused(_) | Outcome::Failed(_) => None,
        }
    }

    /// The mark as people write it: `18.5 / 20`.
    pub(crate) fn score(&self) -> Option<String> {
        let (quarters, of) = self.mark()?;
        let points = |quarters| self.lang.decimal(&points(quarters));
        Some(format!("{} / {}", points(quarters), points(of)))
    }

    fn say<'a>(&self, english: &'a str, french: &'a str) -> &'a str {
        match self.lang {
            Lang::English => english,
            Lang::French => french,
        }
    }

    /// The kind of outcome.
    pub(crate) fn kind(&self) -> &'static str {
        match self.outcome {
            Outcome::Marked(_) => self.say("marked", "noté"),
            Outcome::Refused(_) => self.say("refused", "refusé"),
            Outcome::Failed(_) => self.say("not marked", "non noté"),
        }
    }

    /// Why there is no mark, if there is none.
    fn reasons(&self) -> Vec<String> {
        match &self.outcome {
            Outcome::Marked(_) => Vec::new(),
            Outcome::Failed(why) => vec![why.text(self.lang).to_owned()],
            Outcome::Refused(refusals) => {
                let reasons = refusals.iter();
                reasons
                    .map(|it| format!("{} (--allow {})", it.what.text(self.lang), it.word))
                    .collect()
            }
        }
    }

    /// The parts of a report for people, in their order.
    fn parts(&self) -> [(&'static str, Part); 4] {
        [
            (self.say("lost", "perdu"), LOST),
            (self.say("not reached", "non atteint"), NOT_REACHED),
            (self.say("not marked", "non noté"), NOT_MARKED),
            (self.say("earned", "acquis"), EARNED),
        ]
    }
}

#[cfg(test)]
mod tests {
    use tools::json::Value;

    use super::*;
    use crate::outcome::Refusal;
    use crate::rubric::{Rule, Sheet};
    use crate::words::{Words, words};

    const HOSTILE: &str = "</testcase>]]>&\"'|`*_[x](y)\x1b[2J\u{202e}\0=1+1\nnext line";

    /// A deployment that is called, answers and fails with all that does harm somewhere.
    fn hostile(outcome: Outcome) -> Report {
        Report { deployment: format!("=1+1{HOSTILE}"), outcome, lang: Lang::English }
    }

    fn sheet() -> Sheet {
        let mut sheet = Sheet::default();
        sheet.judge(Rule::TreeLicense, None, "ls");
        sheet.judge(Rule::AnswerFrontend, Some(Words::quoted(HOSTILE)), HOSTILE);
        sheet.set(Rule::UpOrder, Verdict::NotMarked(Words::quoted(HOSTILE)));
        sheet.close(&Words::quoted(HOSTILE));
        sheet.notes.push((Words::quoted(HOSTILE), Words::quoted(HOSTILE)));
        sheet
    }

    fn all() -> [Report; 3] {
        let refusal = Refusal { word: "mounts", what: Words::quoted(HOSTILE) };
        [
            hostile(Outcome::Marked(sheet())),
            hostile(Outcome::Refused(vec![refusal])),
            hostile(Outcome::Failed(Words::quoted(HOSTILE))),
        ]
    }

    #[test]
    fn no_report_passes_controls_on() {
        for report in all() {
            for (name, format) in Format::NAMES.iter().zip(Format::ALL) {
                let written = report.write(format, Colours::Off);
                let odd = written
                    .chars()
                    .find(|it| *it != '\n' && (it.is_control() || *it == '\u{202e}'));
                assert_eq!(odd, None, "{name}: {written}");
            }
        }
    }

    #[test]
    fn text_says_expected_seen_and_what_to_type() {
        let [report, ..] = all();
        let written = report.write(Format::Text, Colours::Off);
        let shown = "</testcase>]]>&\"'|`*_[x](y)\\u{1b}[2J\\u{202e}\\u{0}=1+1";
        for part in [
            &format!("=1+1{shown}\\nnext line: 0.5 / 19.5\n"),
            "lost\n  1.5   answer.frontend   port 8000 answers GET / with 200",
            &format!("        seen:      {shown}\n                   next line\n"),
            &format!("        type:      {shown}\n"),
            &format!("        because:   {shown}\n"),
            "earned\n  0.5   tree.license      a file LICENSE\n",
        ] {
            assert!(written.contains(part), "{part}\nin\n{written}");
        }
        let coloured = report.write(Format::Text, Colours::On);
        assert!(coloured.contains("\x1b[33m0.5 / 19.5\x1b[0m"), "{coloured}");
    }

    #[test]
    fn json_is_json_and_keeps_every_character() {
        for report in all() {
            let written = report.write(Format::Json, Colours::Off);
            let read = Value::read(written.as_bytes()).expect("JSON");
            let deployment = read.get("deployment").and_then(Value::text);
            assert_eq!(deployment.as_deref(), Some(&*report.deployment));
            let Outcome::Marked(_) = report.outcome else {
                let reasons = read.get("reasons").expect("reasons").items();
                assert!(reasons[0].text().expect("a reason").starts_with(HOSTILE));
                continue;
            };
            let rules = read.get("rules").expect("rules").items();
            assert_eq!(rules.len(), Rule::ALL.len());
            let text =
                |rule: &Value, key: &str| rule.get(key).and_then(Value::text).map(String::from);
            let lost = rules.iter().find(|rule| text(rule, "verdict").as_deref() == Some("lost"));
            let lost = lost.expect("a lost one");
            assert_eq!(text(lost, "id").as_deref(), Some("answer.frontend"));
            assert_eq!(text(lost, "seen").as_deref(), Some(HOSTILE));
            assert_eq!(read.get("mark").and_then(Value::number), Some(0.5));
            assert_eq!(read.get("out_of").and_then(Value::number), Some(19.5));
        }
    }

    #[test]
    fn json_is_as_its_schema_says() {
        let schema = include_bytes!("../report-schema.json");
        let schema = Value::read(schema).expect("JSON");
        for report in all() {
            let written = report.write(Format::Json, Colours::Off);
            let value = Value::read(written.as_bytes()).expect("JSON");
            assert_eq!(fits(&value, &schema), Ok(()), "{written}");
        }
        for (json, fault) in [
            ("[]", "[] is no object"),
            (r#"{"deployment": "a"}"#, "outcome is missing"),
            (r#"{"deployment": 1, "outcome": "marked"}"#, "1 is no string"),
            (r#"{"deployment": "a", "outcome": "odd"}"#, "\"odd\" is none of the words"),
            (r#"{"deployment": "a", "outcome": "marked", "more": 1}"#, "more is not known"),
            (
                r#"{"deployment": "a", "outcome": "marked", "notes": [{"what": "b"}]}"#,
                "seen is missing",
            ),
        ] {
            let value = Value::read(json.as_bytes()).expect("JSON");
            assert_eq!(fits(&value, &schema), Err(fault.to_owned()), "{json}");
        }
    }

    /// Checks the part of JSON Schema that the report's schema uses.
    fn fits(value: &Value, schema: &Value) -> Result<(), String> {
        let shown = || {
            let mut out = Vec::new();
            value.write(&mut out);
            String::from_utf8(out).expect("ASCII")
        };
        let words = schema.get("enum").map(Value::items).unwrap_or_default();
        if !words.is_empty() && !words.iter().any(|word| word.text() == value.text()) {
            return Err(format!("{} is none of the words", shown()));
        }
        let wanted = schema.get("type").and_then(Value::text).unwrap_or_default();
        match (&*wanted, value) {
            ("", _) | ("string", Value::Text(_)) | ("number", Value::Number(_)) => {}
            ("array", Value::Array(items)) => {
                let schema = schema.get("items").expect("items");
                items.iter().try_for_each(|item| fits(item, schema))?;
            }
            ("object", Value::Object(members)) => {
                let required = schema.get("required").map(Value::items).unwrap_or_default();
                for name in required.iter().filter_map(Value::text) {
                    value.get(&name).ok_or_else(|| format!("{name} is missing"))?;
                }
                for (name, member) in members {
                    let name = name.decode();
                    let known = schema.at(&format!("properties/{name}"));
                    fits(member, known.ok_or_else(|| format!("{name} is not known"))?)?;
                }
            }
            _ => return Err(format!("{} is no {wanted}", shown())),
        }
        Ok(())
    }

    #[test]
    fn junit_has_no_marks_but_its_own() {
        let [marked, refused, _] = all();
        let written = marked.write(Format::Junit, Colours::Off);
        assert_eq!(written.matches("<testcase ").count(), Rule::ALL.len());
        assert_eq!(written.matches("</testcase>").count(), Rule::ALL.len());
        assert!(
            written.contains(" tests=\"21\" failures=\"1\" errors=\"18\" skipped=\"1\" "),
            "{written}"
        );
        assert!(!written.contains("]]>"), "{written}");
        let written = refused.write(Format::Junit, Colours::Off);
        assert!(
            written.contains("<error type=\"refused\" message=\"refused\">&lt;/testcase&gt;"),
            "{written}"
        );
    }

    #[test]
    fn markdown_has_no_cells_but_its_own() {
        let [report, ..] = all();
        let written = report.write(Format::Markdown, Colours::Off);
        for line in written.lines().filter(|line| line.starts_with("| ")) {
            let bars = line.matches('|').count() - line.matches("\\|").count();
            assert!(bars == 5 || bars == 3, "{line}");
            assert!(
                !line.contains("</") && !line.contains("](y)") || line.contains("\\](y)"),
                "{line}"
            );
        }
    }

    #[test]
    fn a_row_is_one_line_of_seven_cells_and_no_formula() {
        for report in all() {
            let row = row(&report);
            let inner = row.strip_prefix('"').and_then(|row| row.strip_suffix("\"\r\n"));
            // Doubled quotes stand for one, and cells are never empty of quotes.
            let inner = inner.expect("quotes around").replace("\",\"", "\n").replace("\"\"", "'");
            let cells: Vec<&str> = inner.split('\n').collect();
            assert_eq!(cells.len(), 7, "{row}");
            assert!(cells[0].starts_with("'=1+1</testcase>]]>&''|"), "{row}");
            assert!(!inner.contains('"') && !inner.contains('\r'), "{row}");
        }
    }

    #[test]
    fn a_batch_is_summed_up() {
        let batch = all();
        let found = summary(&batch, Lang::English);
        let line = "1 of 3 marked\nmean 0.50, median 0.5, from 0.5 to 0.5\n";
        assert!(found.starts_with(line), "{found}");
        assert!(found.contains("   1  answer.frontend "), "{found}");
        let marked = |rules: &[Rule]| {
            let mut sheet = Sheet::default();
            for rule in rules {
                sheet.judge(*rule, None, "");
            }
            Report { lang: Lang::French, ..hostile(Outcome::Marked(sheet)) }
        };
        // Of an even count the median is the mean of the two in the middle.
        let batch = [
            marked(&[]),
            marked(&[Rule::CrashBackend]),
            marked(&[]),
            marked(&[Rule::CrashBackend, Rule::CrashFrontend]),
        ];
        let found = summary(&batch, Lang::French);
        let line = "4 sur 4 notés\nmoyenne 1,12, médiane 0,75, de 0 à 3\n";
        assert!(found.starts_with(line), "{found}");
    }

    #[test]
    fn a_table_in_french_is_one_that_french_spreadsheets_read() {
        assert!(head(Lang::French).starts_with("\u{feff}\"déploiement\";\"note\";"));
        let report = Report { lang: Lang::French, ..hostile(Outcome::Marked(sheet())) };
        assert!(row(&report).contains(";\"0,5\";\"19,5\";\"noté\";"), "{}", row(&report));
    }

    #[test]
    fn every_word_is_in_both_languages() {
        let both = words("a", "b");
        assert_eq!((both.text(Lang::English), both.text(Lang::French)), ("a", "b"));
        for rule in Rule::ALL {
            assert_ne!(rule.demand(Lang::English), rule.demand(Lang::French));
        }
        let report = Report { lang: Lang::French, ..hostile(Outcome::Marked(sheet())) };
        let written = report.write(Format::Text, Colours::Off);
        for word in
            ["perdu", "acquis", "constaté :", "tapez :", "raison :", "hors notation", "0,5 / 19,5"]
        {
            assert!(written.contains(word), "{written}");
        }
    }
}

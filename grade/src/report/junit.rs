//! The report for what reads test results: a rule is a test case. XML has a spelling for its own
//! marks, and none for most controls, which are printed as escapes.

use std::time::{SystemTime, UNIX_EPOCH};

use common::date;

use super::{EARNED, LOST, NOT_MARKED, NOT_REACHED, Part, Report};
use crate::outcome::Outcome;
use crate::rubric::{Rule, Verdict};
use crate::words::{lines, points};
use tools::xml::escaped;

pub(super) fn write(report: &Report) -> String {
    let name = xml(&report.deployment);
    let case = |id: &str, body: &str| {
        format!("    <testcase classname=\"{name}\" name=\"{id}\" time=\"0\">{body}</testcase>\n")
    };
    let (cases, counts, properties, notes) = match &report.outcome {
        Outcome::Marked(sheet) => {
            let verdicts = sheet.verdicts();
            let cases: String = verdicts
                .map(|(rule, verdict)| case(rule.id(), &body(report, rule, verdict)))
                .collect();
            let count = |part: Part| sheet.verdicts().filter(|(_, verdict)| part(verdict)).count();
            let counts = [LOST, NOT_REACHED, NOT_MARKED, EARNED].map(count);
            let (mark, of) = (points(sheet.quarters()), points(sheet.quarters_max()));
            let properties = format!(
                "<property name=\"mark\" value=\"{mark}\"/><property name=\"out_of\" value=\"{of}\"/>"
            );
            let notes = sheet.notes.iter().map(|(what, seen)| {
                format!("{}: {}\n", what.text(report.lang), seen.text(report.lang))
            });
            (cases, counts, properties, notes.collect())
        }
        Outcome::Refused(_) | Outcome::Failed(_) => {
            let (kind, reasons) = (report.kind(), xml(&report.reasons().join("\n")));
            let body = format!("<error type=\"{kind}\" message=\"{kind}\">{reasons}</error>");
            (case("outcome", &body), [0, 1, 0, 0], String::new(), String::new())
        }
    };
    let [failures, errors, skipped, passed] = counts;
    let tests = failures + errors + skipped + passed;
    let (timestamp, notes) = (timestamp(), xml(&notes));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites>\n  \
         <testsuite id=\"0\" package=\"grade\" name=\"{name}\" timestamp=\"{timestamp}\" \
         hostname=\"localhost\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" \
         skipped=\"{skipped}\" time=\"0\">\n    \
         <properties>{properties}</properties>\n\
         {cases}    \
         <system-out>{notes}</system-out>\n    \
         <system-err></system-err>\n  \
         </testsuite>\n\
         </testsuites>\n"
    )
}

/// The inside of a rule's test case.
fn body(report: &Report, rule: Rule, verdict: &Verdict) -> String {
    let demand = xml(rule.demand(report.lang));
    match verdict {
        Verdict::Earned => String::new(),
        Verdict::Lost { seen, command } => {
            let seen = xml(&format!("{}\n{command}", seen.text(report.lang)));
            format!("<failure type=\"lost\" message=\"{demand}\">{seen}</failure>")
        }
        Verdict::NotReached(why) => {
            let why = xml(why.text(report.lang));
            format!("<error type=\"not reached\" message=\"{demand}\">{why}</error>")
        }
        Verdict::NotMarked(_) => "<skipped/>".to_owned(),
    }
}

/// Text for an element or an attribute.
fn xml(text: &str) -> String {
    escaped(&lines(text).join("\n"))
}

/// The time now in the schema's form: without fraction and zone.
fn timestamp() -> String {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut time = Vec::new();
    date::rfc3339(u64::try_from(millis).unwrap_or_default(), &mut time);
    time.truncate("YYYY-MM-DDThh:mm:ss".len());
    String::from_utf8_lossy(&time).into_owned()
}

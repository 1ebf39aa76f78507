//! The exercise's pages list the rules of the rubric, with their points, in its order.

use std::fs;
use std::path::Path;

struct Rule {
    quarters: u32,
    english: String,
    french: String,
}

#[test]
fn the_pages_list_the_rules_of_the_rubric() {
    let rules = rules();
    assert_eq!(rules.iter().map(|rule| rule.quarters).sum::<u32>(), 4 * 20);
    let expected = |demand: fn(&Rule) -> &str, mark: &str| -> Vec<String> {
        let points = |rule: &Rule| (f64::from(rule.quarters) / 4.0).to_string().replace('.', mark);
        rules.iter().map(|rule| format!("| {} | {} |", demand(rule), points(rule))).collect()
    };
    for (page, heading, expected) in [
        ("docs/exercise.md", "## Marking, out of 20", expected(|rule| &rule.english, ".")),
        ("docs/exercice.fr.md", "## Barème, sur 20", expected(|rule| &rule.french, ",")),
    ] {
        let text = read(&format!("../{page}"));
        let (_, table) = text.split_once(heading).expect("the heading");
        let rows = table.lines().filter(|line| line.starts_with('|')).skip(2);
        assert_eq!(rows.collect::<Vec<_>>(), expected, "{page}");
    }
}

/// The rules as their source has them: a line with name, id and quarters, and a line for each language.
fn rules() -> Vec<Rule> {
    let source = read("src/rubric.rs");
    let (_, rules) = source.split_once("\nrules! {\n").expect("the rules");
    let (rules, _) = rules.split_once("\n}\n").expect("their end");
    let lines: Vec<&str> = rules.lines().map(str::trim).collect();
    let rule = |lines: &[&str]| Rule {
        quarters: lines[0].rsplit(' ').next().expect("a number").parse().expect("a number"),
        english: lines[1].trim_matches('"').to_owned(),
        french: lines[2].trim_matches('"').to_owned(),
    };
    lines.chunks(3).map(rule).collect()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

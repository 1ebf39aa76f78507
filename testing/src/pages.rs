//! Tables of the documentation, to compare with the programs that they describe.

use std::fs;
use std::path::Path;

/// The text of a file of the repository.
pub fn page(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The rows of the first table below a heading.
pub fn rows<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let mut lines = page.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "no heading {heading:?}");
    let table = lines.skip_while(|line| !line.starts_with('|'));
    // The first two lines are the table's head.
    table.take_while(|line| line.starts_with('|')).skip(2).collect()
}

/// The rows that describe the settings of a `--help`, in its order.
pub fn settings_rows(help: &str) -> Vec<String> {
    let (_, settings) = help.split_once("not set.\n\n").expect("the settings");
    let (settings, _) = settings.split_once("\n\nexit codes").expect("their end");
    let row = |setting: &str| {
        let mut lines = setting.lines().map(str::trim);
        let (variable, _) = lines.next().and_then(|line| line.split_once(", --")).expect("a flag");
        let (values, default) =
            lines.next().and_then(|line| line.rsplit_once("; ")).expect("values");
        let default =
            default.strip_prefix("default ").map_or("required".into(), |it| format!("`{it}`"));
        let meaning = lines.collect::<Vec<_>>().join(" ");
        format!("| `{variable}` | {default} | {values} | {meaning} |")
    };
    settings.split("\n\n").map(row).collect()
}

/// The rows that describe the metric families of a metrics page, in its order. `open_labels` have
/// values without end, which the row leaves out.
pub fn metrics_rows(metrics: &str, open_labels: &[&str]) -> Vec<String> {
    let families = metrics.split("# HELP ").skip(1);
    families.map(|family| metrics_row(family, open_labels)).collect()
}

fn metrics_row(family: &str, open_labels: &[&str]) -> String {
    let (name, rest) = family.split_once(' ').expect("a name");
    let (help, rest) = rest.split_once('\n').expect("a help text");
    let kind = rest.split_whitespace().nth(3).expect("a type");
    let mut labels: Vec<(&str, Vec<&str>)> = Vec::new();
    for sample in rest.lines().skip(1) {
        let Some((_, inner)) = sample.split_once('{') else { continue };
        let (inner, _) = inner.rsplit_once('}').expect("the end of the labels");
        for label in inner.split("\",") {
            let (key, value) = label.split_once("=\"").expect("a label");
            let value = value.trim_end_matches('"');
            let index = labels.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                labels.push((key, Vec::new()));
                labels.len() - 1
            });
            if !labels[index].1.contains(&value) {
                labels[index].1.push(value);
            }
        }
    }
    let describe = |(key, values): &(&str, Vec<&str>)| {
        if open_labels.contains(key) {
            format!("`{key}`")
        } else {
            format!("`{key}`: {}", values.join(", "))
        }
    };
    let labels: Vec<String> = labels.iter().filter(|(key, _)| *key != "le").map(describe).collect();
    format!("| `{name}` | {kind} | {} | {help} |", labels.join("; "))
}

/// Compares the rows of a page with those that a program gives.
pub fn compare(what: &str, documented: &[&str], expected: &[String]) {
    for row in expected {
        assert!(documented.contains(&&**row), "{what} has no such row:\n{row}");
    }
    for row in documented {
        assert!(expected.iter().any(|it| it == row), "{what} has a row without a subject:\n{row}");
    }
}

//! The figures of a bench, as a text for people, as JSON for programs, and as a picture.

use std::fmt::Write;

use common::json;

/// The figures of one role.
pub(super) struct Panel {
    pub(super) role: &'static str,
    pub(super) rate: u64,
    /// Whoever was measured, ours first.
    pub(super) names: Vec<String>,
    pub(super) columns: Vec<Column>,
    /// Requests that failed, of any of them.
    pub(super) failed: f64,
}

/// One thing that was measured of all, in each round.
pub(super) struct Column {
    pub(super) id: Id,
    name: String,
    /// Those of each contestant.
    pub(super) figures: Vec<Vec<f64>>,
}

/// Which column it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(usize, usize);

const CPU: usize = 0;
const LATENCY: usize = 1;
const MEMORY: usize = 2;
/// The groups of columns, each with its unit.
const GROUPS: [&str; 5] = [
    "CPU seconds per 100,000 requests",
    "latency at the fixed rate, ms",
    "memory, MB",
    "start, ms",
    "file, MB",
];

impl Column {
    pub(super) const START: Id = Id(3, 0);
    pub(super) const FILE: Id = Id(4, 0);

    pub(super) fn cpu(number: usize) -> Id {
        Id(CPU, number)
    }

    pub(super) fn latency(number: usize) -> Id {
        Id(LATENCY, number)
    }

    pub(super) fn memory(number: usize) -> Id {
        Id(MEMORY, number)
    }

    fn median(&self, which: usize) -> f64 {
        let mut figures = self.figures[which].clone();
        figures.sort_by(f64::total_cmp);
        match figures.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => figures[count / 2],
            count => f64::midpoint(figures[count / 2 - 1], figures[count / 2]),
        }
    }
}

/// All columns, empty.
pub(super) fn columns(loads: &[&str], latencies: &[&str], memory: &[&str]) -> Vec<Column> {
    let groups = [loads, latencies, memory, &["to answer"], &["program"]];
    let mut columns = Vec::new();
    for (group, names) in groups.into_iter().enumerate() {
        for (number, name) in names.iter().enumerate() {
            let id = Id(group, number);
            columns.push(Column { id, name: (*name).to_owned(), figures: Vec::new() });
        }
    }
    columns
}

/// Of each contestant the medians, and how many times ours that is.
pub(super) fn text(panels: &[Panel]) -> String {
    let mut page = String::new();
    for panel in panels {
        let _ = writeln!(page, "as a {}; the fixed rate is {} a second\n", panel.role, panel.rate);
        let name_width = panel.names.iter().map(String::len).max().unwrap_or_default();
        for (group, title) in GROUPS.into_iter().enumerate() {
            let columns: Vec<_> = panel.columns.iter().filter(|it| it.id.0 == group).collect();
            let _ = write!(page, "{title}\n{:name_width$}", "");
            for column in &columns {
                let _ = write!(page, "{:>17}", column.name);
            }
            page.push('\n');
            for (which, name) in panel.names.iter().enumerate() {
                let _ = write!(page, "{name:name_width$}");
                for column in &columns {
                    let (figure, ours) = (column.median(which), column.median(0));
                    let _ = write!(page, "{figure:>10.3}");
                    let _ = match which {
                        0 => write!(page, "       "),
                        _ => write!(page, " ×{:<5.2}", figure / ours),
                    };
                }
                page.truncate(page.trim_end().len());
                page.push('\n');
            }
            page.push('\n');
        }
        if panel.failed > 0.0 {
            let _ = writeln!(page, "{} requests failed\n", panel.failed);
        }
    }
    page
}

pub(super) fn json(panels: &[Panel]) -> String {
    let quoted = |text: &str| {
        let mut out = Vec::new();
        json::write_text(text, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    let joined = |parts: Vec<String>| parts.join(", ");
    let panels = panels.iter().map(|panel| {
        let servers = panel.names.iter().enumerate().map(|(which, name)| {
            let figures = panel.columns.iter().map(|column| {
                let all = column.figures[which].iter().copied().map(number);
                format!(
                    "{{\"group\": {}, \"column\": {}, \"median\": {}, \"rounds\": [{}]}}",
                    quoted(GROUPS[column.id.0]),
                    quoted(&column.name),
                    number(column.median(which)),
                    joined(all.collect())
                )
            });
            format!("{{\"name\": {}, \"figures\": [{}]}}", quoted(name), joined(figures.collect()))
        });
        format!(
            "{{\"role\": \"{}\", \"requests_per_second\": {}, \"failed\": {}, \"servers\": [{}]}}",
            panel.role,
            panel.rate,
            panel.failed,
            joined(servers.collect())
        )
    });
    format!("{{\"roles\": [{}]}}\n", joined(panels.collect()))
}

/// JSON knows no infinity: who has answered nothing has no figure.
fn number(figure: f64) -> String {
    if figure.is_finite() { format!("{figure:.6}") } else { "null".to_owned() }
}

/// Of the picture, in its own units.
const WIDTH: usize = 960;
const LEFT: usize = 120;
const BAR: usize = 14;
const GAP: usize = 14;
/// Ours stands out, whoever else there is.
const COLOURS: [&str; 6] = ["#c2410c", "#64748b", "#94a3b8", "#a8a29e", "#7c8f7a", "#b4a7c7"];

/// The CPU times as bars, group by group: the shorter the better.
pub(super) fn svg(panels: &[Panel]) -> String {
    let mut body = String::new();
    let mut y = 30;
    for panel in panels {
        let columns: Vec<_> = panel.columns.iter().filter(|it| it.id.0 == CPU).collect();
        let all =
            columns.iter().flat_map(|it| (0..panel.names.len()).map(|which| it.median(which)));
        let most = all.fold(f64::MIN_POSITIVE, f64::max);
        let _ = writeln!(
            body,
            "<text x=\"{LEFT}\" y=\"{y}\" class=\"title\">as a {}: {}, the less the better</text>",
            panel.role, GROUPS[CPU]
        );
        y += 16;
        let mut x = LEFT;
        for (which, name) in panel.names.iter().enumerate() {
            let colour = COLOURS[which % COLOURS.len()];
            let _ = writeln!(
                body,
                "<rect x=\"{x}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
                 <text x=\"{}\" y=\"{}\">{}</text>",
                x + 15,
                y + 9,
                escaped(name)
            );
            x += 40 + 8 * name.chars().count();
        }
        y += 26;
        for column in columns {
            let middle = y + BAR * panel.names.len() / 2 + 4;
            let _ = writeln!(
                body,
                "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
                LEFT - 10,
                escaped(&column.name)
            );
            for which in 0..panel.names.len() {
                let figure = column.median(which);
                let length = figure / most * (WIDTH - LEFT - 70) as f64;
                let _ = writeln!(
                    body,
                    "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{}\"/>\
                     <text x=\"{:.1}\" y=\"{}\">{figure:.2}</text>",
                    BAR - 2,
                    COLOURS[which % COLOURS.len()],
                    LEFT as f64 + length + 6.0,
                    y + BAR - 4
                );
                y += BAR;
            }
            y += GAP;
        }
        y += 24;
    }
    let style = "text{font:12px sans-serif;fill:#1f2937}.title{font-size:14px;font-weight:bold}";
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" role=\"img\">\n\
         <title>CPU time for each request, measured by lab bench</title>\n<style>{style}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{y}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tools::json::Value;

    fn panel() -> Panel {
        let mut columns = columns(&["64"], &["p50"], &["idle", "1,000 idle"]);
        for (number, column) in columns.iter_mut().enumerate() {
            let ours = number as f64 + 1.0;
            column.figures = vec![vec![ours, 9.0, 0.0], vec![ours * 2.0; 2]];
        }
        let names = vec!["api-backend".to_owned(), "<peer> & \"co\"".to_owned()];
        Panel { role: "backend", rate: 2_000, names, columns, failed: 3.0 }
    }

    #[test]
    fn a_median_lies_in_the_middle() {
        let mut column = columns(&["64"], &[], &[]).remove(0);
        column.figures = vec![vec![3.0, 1.0, 2.0], vec![4.0, 1.0, 2.0, 3.0], Vec::new()];
        assert!((column.median(0) - 2.0).abs() < 1e-9 && (column.median(1) - 2.5).abs() < 1e-9);
        assert!(column.median(2).is_nan());
    }

    #[test]
    fn the_text_shows_each_figure_and_how_many_times_ours_it_is() {
        let page = text(&[panel()]);
        for part in [
            "as a backend; the fixed rate is 2000 a second",
            "CPU seconds per 100,000 requests",
            "       1,000 idle",
            "api-backend       3.000            4.000\n",
            "3 requests failed",
        ] {
            assert!(page.contains(part), "{part:?} in {page}");
        }
        assert_eq!(page.matches("×2.00").count(), 6, "{page}");
    }

    #[test]
    fn json_and_picture_bear_any_name_and_who_answered_nothing() {
        let mut nothing = panel();
        nothing.columns[0].figures[1] = vec![f64::INFINITY, f64::NAN];
        let text = json(&[panel(), nothing]);
        let value = Value::read(text.as_bytes()).expect("JSON");
        assert!(text.contains("\"median\": null, \"rounds\": [null, null]"), "{text}");
        let servers = value.get("roles").unwrap().items()[0].get("servers").unwrap().items();
        assert_eq!(servers[1].get("name").unwrap().text().unwrap(), "<peer> & \"co\"");
        assert_eq!(servers[0].get("figures").unwrap().items().len(), 6);
        let picture = svg(&[panel()]);
        assert!(picture.contains("&lt;peer&gt; &amp; \"co\""), "{picture}");
        assert_eq!(picture.matches("<rect").count(), 1 + 2 + 2);
    }
}

//! The figures of a bench, as a table and as JSON.

use std::fmt::Write;

use tools::json::quoted;

/// The figures of all servers in one role.
pub(super) struct Panel {
    pub(super) role: &'static str,
    pub(super) measures: Vec<Measure>,
    /// The names of the servers, our own first.
    pub(super) names: Vec<&'static str>,
    /// Of each server and each round: a figure for each measure.
    pub(super) figures: Vec<Vec<Vec<f64>>>,
    /// Failed requests of all servers.
    pub(super) failed: f64,
}

/// One row of the table.
#[derive(Clone, Copy)]
pub(super) struct Measure {
    /// The title of the rows with the same unit.
    pub(super) group: &'static str,
    pub(super) name: &'static str,
    pub(super) decimals: usize,
}

impl Panel {
    /// The figures of one server in all rounds.
    fn rounds(&self, server: usize, measure: usize) -> Vec<f64> {
        self.figures[server].iter().map(|round| round[measure]).collect()
    }
}

/// The median of some figures.
pub(super) fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => figures[count / 2],
        count => f64::midpoint(figures[count / 2 - 1], figures[count / 2]),
    }
}

/// The medians of each server, and for the others the ratio to our own.
pub(super) fn text(panels: &[Panel]) -> String {
    let mut page = String::new();
    for panel in panels {
        let mut header = format!("{:<30}", format!("as a {}", panel.role));
        for name in &panel.names {
            let _ = write!(header, "{name:>13}       ");
        }
        let _ = writeln!(page, "{}", header.trim_end());
        let mut group = "";
        for (index, measure) in panel.measures.iter().enumerate() {
            if measure.group != group {
                group = measure.group;
                let _ = writeln!(page, "{group}");
            }
            let own = median(&panel.rounds(0, index));
            let mut row = format!("  {:<28}", measure.name);
            for server in 0..panel.names.len() {
                let figure = median(&panel.rounds(server, index));
                let ratio = match server {
                    0 => String::new(),
                    _ => format!("×{:.2}", figure / own),
                };
                let _ = write!(row, "{figure:>13.*} {ratio:<6}", measure.decimals);
            }
            let _ = writeln!(page, "{}", row.trim_end());
        }
        let _ = writeln!(page, "{} requests failed\n", panel.failed);
    }
    page
}

/// The figures of all rounds and their medians.
pub(super) fn json(panels: &[Panel]) -> String {
    let panels = panels.iter().map(|panel| {
        let servers = panel.names.iter().enumerate().map(|(server, name)| {
            let figures = panel.measures.iter().enumerate().map(|(index, measure)| {
                let rounds = panel.rounds(server, index);
                format!(
                    "{{\"group\": {}, \"name\": {}, \"median\": {}, \"rounds\": [{}]}}",
                    quoted(measure.group),
                    quoted(measure.name),
                    number(median(&rounds)),
                    joined(rounds.into_iter().map(number))
                )
            });
            format!("{{\"name\": {}, \"figures\": [{}]}}", quoted(name), joined(figures))
        });
        let (role, failed) = (panel.role, panel.failed);
        format!(
            "{{\"role\": \"{role}\", \"failed\": {failed}, \"servers\": [{}]}}",
            joined(servers)
        )
    });
    format!("{{\"roles\": [{}]}}\n", joined(panels))
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// JSON has no infinity and no NaN, which are the figures of a server without responses.
fn number(figure: f64) -> String {
    if figure.is_finite() { format!("{figure:.6}") } else { "null".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tools::json::Value;

    fn panel() -> Panel {
        let measure = |group, name, decimals| Measure { group, name, decimals };
        Panel {
            role: "backend",
            measures: vec![
                measure("CPU", "64", 3),
                measure("CPU", "256", 3),
                measure("MB", "idle", 1),
            ],
            names: vec!["api-backend", "nginx"],
            figures: vec![
                vec![vec![1.0, 2.0, 3.0], vec![3.0, 2.0, 3.0], vec![2.0, 2.0, 3.0]],
                vec![vec![4.0, 10.0, f64::NAN], vec![8.0, 10.0, f64::INFINITY]],
            ],
            failed: 3.0,
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        for (figures, expected) in
            [(&[3.0, 1.0, 2.0][..], 2.0), (&[4.0, 1.0, 2.0, 3.0], 2.5), (&[7.0], 7.0)]
        {
            assert!((median(figures) - expected).abs() < 1e-9, "{figures:?}");
        }
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_columns_of_the_table_are_aligned() {
        let expected = "\
as a backend                    api-backend               nginx
CPU
  64                                  2.000               6.000 ×3.00
  256                                 2.000              10.000 ×5.00
MB
  idle                                  3.0                 NaN ×NaN
3 requests failed

";
        assert_eq!(text(&[panel()]), expected);
    }

    #[test]
    fn json_has_every_round_and_null_for_no_figure() {
        let text = json(&[panel()]);
        let value = Value::read(text.as_bytes()).expect("JSON");
        assert!(text.contains("\"median\": null, \"rounds\": [null, null]"), "{text}");
        let servers = value.get("roles").unwrap().items()[0].get("servers").unwrap().items();
        assert_eq!(servers[1].get("name").unwrap().text().unwrap(), "nginx");
        assert_eq!(servers[0].get("figures").unwrap().items().len(), 3);
        let median = servers[1].get("figures").unwrap().items()[0].get("median").unwrap();
        assert_eq!(median.number(), Some(6.0));
    }
}

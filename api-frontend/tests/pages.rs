//! The documentation agrees with the frontend, and with the settings that both services have.

use testing::at;
use testing::pages::{compare, metrics_rows, page, rows, settings_rows};
use testing::process::{Process, frontend_command, run, service_command};

const PAGE: &str = "docs/operations.md";
const PROGRAM: &str = env!("CARGO_BIN_EXE_api-frontend");

#[test]
fn the_page_lists_the_settings_of_help() {
    let (settings, page) = (settings_rows(&help()), page(PAGE));
    let mut documented = rows(&page, "### Of the frontend");
    documented.extend(rows(&page, "### Of both services"));
    // The default port is that of either service.
    let expected: Vec<_> =
        settings.iter().map(|row| row.replace("| `8000` |", "| `8000` or `8001` |")).collect();
    compare(PAGE, &documented, &expected);
}

#[test]
fn the_compose_file_passes_on_every_setting() {
    let compose = page("docker-compose.yaml");
    for row in settings_rows(&help()) {
        let variable = row.split('`').nth(1).expect("a variable");
        let is_passed =
            compose.lines().any(|line| line.trim_start().starts_with(&format!("{variable}:")));
        // The address is fixed within a container.
        assert!(is_passed || matches!(variable, "HOST" | "PORT"), "{variable}");
    }
}

#[test]
fn the_page_lists_the_metrics() {
    let process = Process::start(&mut frontend_command(PROGRAM, at(9)));
    let metrics = process.connect().request("/metrics").body;
    let page = page(PAGE);
    let mut documented = rows(&page, "### Of requests and the process");
    documented.extend(rows(&page, "### Of requests to the backend"));
    let expected = metrics_rows(&metrics, &["route", "status", "name", "version"]);
    compare(PAGE, &documented, &expected);
}

fn help() -> String {
    let output = run(service_command(PROGRAM).arg("--help"));
    String::from_utf8(output.stdout).expect("text")
}

//! Telling a person what is being done, on standard error.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

use crate::words::{Lang, Words, printable};

/// A line for each step; on a terminal one line, which shows the last words of a long step too.
pub(crate) struct Progress {
    lang: Lang,
    on_terminal: bool,
    /// The line has something on it.
    written: Cell<bool>,
}

/// Fits on a line of any terminal.
const COLUMNS: usize = 72;

impl Progress {
    pub(crate) fn new(lang: Lang) -> Progress {
        let on_terminal = io::stderr().is_terminal();
        Progress { lang, on_terminal, written: Cell::new(false) }
    }

    /// Shows the step that begins.
    pub(crate) fn step(&self, words: &Words) {
        self.write(words.text(self.lang));
    }

    /// Shows a line of a program that runs.
    pub(crate) fn detail(&self, line: &str) {
        if self.on_terminal && !line.trim().is_empty() {
            self.write(line.trim());
        }
    }

    fn write(&self, line: &str) {
        let line: String = printable(line).chars().take(COLUMNS).collect();
        // Standard error may be closed.
        let _ = if self.on_terminal {
            write!(io::stderr(), "\r\x1b[Kgrade: {line}")
        } else {
            writeln!(io::stderr(), "grade: {line}")
        };
        self.written.set(true);
    }

    /// Takes the line away again.
    pub(crate) fn clear(&self) {
        if self.on_terminal && self.written.replace(false) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

//! Colours on a terminal, unless `NO_COLOR` is set.

use std::env;
use std::io::IsTerminal;

/// ANSI colours by their numbers.
pub const RED: u8 = 31;
/// Green.
pub const GREEN: u8 = 32;
/// Yellow.
pub const YELLOW: u8 = 33;
/// Cyan.
pub const CYAN: u8 = 36;

/// Coloured or plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// Text with ANSI escapes.
    On,
    /// Plain text.
    Off,
}

impl Colours {
    /// On if this is a terminal, and `NO_COLOR` is empty or not set (no-color.org).
    pub fn of(stream: &impl IsTerminal) -> Colours {
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if stream.is_terminal() && !plain { Colours::On } else { Colours::Off }
    }

    /// The text in this colour.
    pub fn paint(self, colour: u8, text: &str) -> String {
        match self {
            Colours::On => format!("\x1b[{colour}m{text}\x1b[0m"),
            Colours::Off => text.to_owned(),
        }
    }
}

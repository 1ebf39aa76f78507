//! Sentences in English and French, marks as people write them, and text that is safe to print.

/// The languages that reports are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lang {
    English,
    French,
}

/// A sentence in both languages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Words {
    english: String,
    french: String,
}

/// A sentence of both texts.
pub(crate) fn words(english: impl Into<String>, french: impl Into<String>) -> Words {
    Words { english: english.into(), french: french.into() }
}

impl Words {
    /// A place and its value, such as `service: key value`.
    pub(crate) fn keyed(text: impl Into<String>) -> Words {
        let text = text.into();
        Words { french: text.replace(": ", " : "), english: text }
    }

    /// The output of a tool, which has a language of its own.
    pub(crate) fn quoted(text: impl Into<String>) -> Words {
        let text = text.into();
        Words { english: text.clone(), french: text }
    }

    pub(crate) fn text(&self, lang: Lang) -> &str {
        match lang {
            Lang::English => &self.english,
            Lang::French => &self.french,
        }
    }
}

/// Quarters as points: `18.5`, `20`.
pub(crate) fn points(quarters: u32) -> String {
    (f64::from(quarters) / 4.0).to_string()
}

impl Lang {
    /// A number as people write it in this language: `18,5` in French.
    pub(crate) fn decimal(self, number: &str) -> String {
        match self {
            Lang::English => number.to_owned(),
            Lang::French => number.replace('.', ","),
        }
    }

    /// The colon between a title and its text: French has a space before it.
    pub(crate) fn colon(self) -> &'static str {
        match self {
            Lang::English => ":",
            Lang::French => " :",
        }
    }
}

/// One line that does nothing to a terminal: controls, and the marks that turn the direction of
/// writing, are shown as what they are.
pub(crate) fn printable(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for char in line.chars() {
        match char {
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.extend(char.escape_unicode());
            }
            _ if char.is_control() => out.extend(char.escape_default()),
            _ => out.push(char),
        }
    }
    out
}

/// Text of several lines, each of them printable.
pub(crate) fn lines(text: &str) -> Vec<String> {
    text.lines().map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_written_as_people_write_them() {
        for (quarters, written) in [(0, "0"), (1, "0.25"), (74, "18.5"), (80, "20")] {
            assert_eq!(points(quarters), written);
        }
    }
}

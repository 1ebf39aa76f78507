//! Text in XML.

/// Text that holds no markup, for an element or an attribute. Control characters have no spelling
/// in XML 1.0: the caller replaces them before.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            // XML 1.0 2.2: these two are no characters of a document.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_holds_no_markup() {
        assert_eq!(
            escaped("<a b=\"c\">&\n\u{ffff}é"),
            "&lt;a b=&quot;c&quot;&gt;&amp;&#10;\u{fffd}é"
        );
    }
}

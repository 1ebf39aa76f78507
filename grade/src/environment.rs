//! The variables that Compose puts into a checkout's compose file: those of its `.env`, and those
//! of the caller that `--env` names. Compose is given a file that the marker writes: the `.env` of
//! a stranger could name another engine.

use std::path::Path;

use crate::outcome::Refusal;
use crate::paths;
use crate::policy::{ENGINE, UNKNOWN};
use crate::words::{Words, words};

/// Variables in their order; of two of a name the last one counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Variables(Vec<(String, String)>);

impl Variables {
    /// Those of a checkout's `.env`, and what is refused of it.
    pub(crate) fn read(root: &Path) -> (Variables, Vec<Refusal>) {
        let path = root.join(".env");
        // A dangling link is as good as no file.
        if !path.exists() || !paths::is_own_file(root, &path) {
            return (Variables::default(), Vec::new());
        }
        match paths::bytes(&path) {
            Some(bytes) => Variables::parse(&bytes),
            None => (Variables::default(), vec![unreadable("too long")]),
        }
    }

    /// Reads what every version of Compose reads in one way: `NAME=VALUE`, with a value that is
    /// bare, or in quotes of either kind without escapes. All else is refused.
    fn parse(bytes: &[u8]) -> (Variables, Vec<Refusal>) {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let Some(text) = str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')) else {
            return (Variables::default(), vec![unreadable("not UTF-8")]);
        };
        let (mut variables, mut refusals) = (Variables::default(), Vec::new());
        for line in text.split(['\n', '\r']).map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line = line.strip_prefix("export ").map_or(line, str::trim_start);
            // Without a value it sets nothing.
            let Some((name, value)) = line.split_once('=') else { continue };
            match (is_name(name.trim_end()), value_of(value.trim_start())) {
                (true, Some(value)) => variables.push(name.trim_end(), value),
                _ => refusals.push(unreadable(line)),
            }
        }
        for (name, _) in &variables.0 {
            if name.starts_with("DOCKER_") && name != "DOCKER_BUILDKIT" {
                let what = Words::quoted(format!(".env: {name}"));
                refusals.push(Refusal { word: ENGINE, what });
            }
        }
        (variables, refusals)
    }

    /// Sets a variable.
    pub(crate) fn push(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// Sets all of these too.
    pub(crate) fn extend(&mut self, others: &Variables) {
        self.0.extend(others.0.iter().cloned());
    }

    /// A variable's value; empty if it is not set.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().rfind(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Returns true if a variable is set.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// The text of an env file for Compose, without what Compose takes for itself.
    pub(crate) fn file(&self) -> String {
        let own = |name: &str| !name.starts_with("DOCKER_") && !name.starts_with("COMPOSE_");
        let lines = self.0.iter().filter(|(name, _)| own(name));
        lines.fold(String::new(), |text, (name, value)| text + name + "='" + value + "'\n")
    }
}

/// Returns true if this is a name of a variable.
pub(crate) fn is_name(name: &str) -> bool {
    let fits = |c: char| c == '_' || c.is_ascii_alphanumeric();
    !name.is_empty() && name.chars().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// Returns true if a value can be written in single quotes, which no version of Compose changes.
pub(crate) fn is_plain(value: &str) -> bool {
    !value.contains(['\'', '\\', '$', '\n', '\r', '\0'])
}

/// The value of a line; `None` if versions of Compose differ on it.
fn value_of(value: &str) -> Option<&str> {
    let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''));
    let value = match quote {
        Some(quote) => {
            let (inner, rest) = value[1..].split_once(quote)?;
            let rest = rest.trim();
            (rest.is_empty() || rest.starts_with('#')).then_some(inner)?
        }
        None => {
            let comment = value.find(" #").or_else(|| value.find("\t#"));
            let value = value[..comment.unwrap_or(value.len())].trim_end();
            (!value.contains(['"', '`'])).then_some(value)?
        }
    };
    is_plain(value).then_some(value)
}

fn unreadable(what: &str) -> Refusal {
    let what = words(
        format!(".env: cannot be read in one way: {what}"),
        format!(".env : lecture ambiguë : {what}"),
    );
    Refusal { word: UNKNOWN, what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Lang;

    #[test]
    fn variables_are_read_as_every_compose_reads_them() {
        let text = "\u{feff}A=1\r\n# B=2\n\nexport C = c d # e\nD='x \"y\" #z'\nE=\"a b\" # c\nF=\nG\nA=3\nH=a#b\n";
        let (variables, refusals) = Variables::parse(text.as_bytes());
        assert!(refusals.is_empty(), "{refusals:?}");
        for (name, value) in
            [("A", "3"), ("C", "c d"), ("D", "x \"y\" #z"), ("E", "a b"), ("F", ""), ("H", "a#b")]
        {
            assert_eq!((variables.get(name), variables.has(name)), (value, true), "{name}");
        }
        assert!(!variables.has("B") && !variables.has("G"));
        assert!(variables.file().contains("C='c d'\n"));
    }

    #[test]
    fn what_can_be_read_in_two_ways_or_names_an_engine_is_refused() {
        for (text, part) in [
            (&b"DOCKER_HOST=tcp://elsewhere\n"[..], "DOCKER_HOST"),
            (b"\xef\xbb\xbfDOCKER_HOST=tcp://elsewhere\n", "DOCKER_HOST"),
            (b"A=1\rDOCKER_HOST=tcp://elsewhere\n", "DOCKER_HOST"),
            (b"export\tDOCKER_HOST=tcp://elsewhere\n", "DOCKER_HOST"),
            (b"A=\"\nDOCKER_HOST=tcp://elsewhere\n\"\n", "A=\""),
            (b"\"DOCKER_HOST\"=tcp://elsewhere\n", "DOCKER_HOST"),
            (b"A=\0\nDOCKER_HOST=x\n", "UTF-8"),
            (b"A=\xff\n", "UTF-8"),
            (b"A=$B\n", "A=$B"),
            (b"A='\\''\n", "A='"),
            (b"A='b' c\n", "A='b' c"),
            (b"A B=1\n", "A B=1"),
        ] {
            let (variables, refusals) = Variables::parse(text);
            let said: Vec<_> = refusals.iter().map(|it| it.what.text(Lang::English)).collect();
            assert!(said.iter().any(|it| it.contains(part)), "{}: {said:?}", text.escape_ascii());
            assert!(!variables.file().contains("DOCKER"), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn what_compose_takes_for_itself_is_not_passed_on() {
        let (variables, refusals) =
            Variables::parse(b"COMPOSE_FILE=a.yaml:b.yaml\nCOMPOSE_PROJECT_NAME=x\nA=1\n");
        assert!(refusals.is_empty());
        assert_eq!(
            (variables.get("COMPOSE_FILE"), &*variables.file()),
            ("a.yaml:b.yaml", "A='1'\n")
        );
    }
}

//! Reading a Dockerfile for what the marker asks of it: which bases it builds on, and which labels
//! its image gets, in any form that the builder takes.

use std::collections::BTreeMap;

/// More than people write. Stages are searched one by one, for each instruction.
const INSTRUCTIONS_MAX: usize = 1000;
/// Longer than any URL; variables that double each other end here.
const WORD_BYTES_MAX: usize = 4 << 10;

/// The bases and labels of a Dockerfile.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Dockerfile {
    /// The images that it builds on, expanded; stages of its own left out.
    pub(crate) bases: Vec<String>,
    labels: Pairs,
}

/// Names and values, of which the last one counts.
type Pairs = BTreeMap<String, String>;

/// One stage of a build.
#[derive(Default)]
struct Stage {
    name: String,
    /// The earlier stage that it is built on, if it is one.
    base: Option<usize>,
    variables: Pairs,
    labels: Pairs,
}

impl Dockerfile {
    /// Reads one, given the build's arguments; the stage `target` is built, or the last one.
    pub(crate) fn read(text: &str, arguments: &[(String, String)], target: &str) -> Dockerfile {
        // Builders skip the mark that some editors put first.
        let text = text.trim_start_matches('\u{feff}');
        let escape = escape(text);
        let mut global = Pairs::new();
        let mut stages: Vec<Stage> = Vec::new();
        let mut bases = Vec::new();
        let named = |stage: &Stage, name: &str| stage.name.eq_ignore_ascii_case(name);
        for (instruction, rest) in instructions(text, escape) {
            // A line that begins a stage stands before it, as do those before the first one.
            let stage = stages.len().checked_sub(1).filter(|_| instruction != "FROM");
            let scopes = match stage {
                Some(stage) => chain(&stages, stage).map(|stage| &stage.variables).collect(),
                None => vec![&global],
            };
            let lexer = Lexer { escape, scopes };
            let pairs = match &*instruction {
                "ARG" => lexer.arguments(&rest, arguments, &global),
                "ENV" | "LABEL" => lexer.pairs(&rest),
                "FROM" => {
                    let (base, name) = from(&lexer.words(&rest));
                    let base = lexer.expand(&base);
                    let known = stages.iter().rposition(|stage| named(stage, &base));
                    if known.is_none() {
                        bases.push(base);
                    }
                    stages.push(Stage { name, base: known, ..Stage::default() });
                    continue;
                }
                _ => continue,
            };
            match (&*instruction, stages.last_mut()) {
                ("LABEL", Some(stage)) => stage.labels.extend(pairs),
                (_, Some(stage)) => stage.variables.extend(pairs),
                ("ARG", None) => global.extend(pairs),
                (_, None) => {}
            }
        }
        let asked = stages.iter().position(|stage| !target.is_empty() && named(stage, target));
        let mut labels = Pairs::new();
        if let Some(built) = asked.or(stages.len().checked_sub(1)) {
            for (name, value) in chain(&stages, built).flat_map(|stage| &stage.labels) {
                labels.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        Dockerfile { bases, labels }
    }

    /// A label's value.
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }
}

/// A stage, what that is built on, and so on.
fn chain(stages: &[Stage], of: usize) -> impl Iterator<Item = &Stage> {
    std::iter::successors(stages.get(of), |stage| stages.get(stage.base?))
}

/// The base and the stage's name in `[--platform=…] BASE [AS NAME]`.
fn from(words: &[String]) -> (String, String) {
    let mut words = words.iter().filter(|word| !word.starts_with("--"));
    let base = words.next().cloned().unwrap_or_default();
    let name = words.nth(1).cloned().unwrap_or_default();
    (base, name)
}

/// The character that continues a line: a backslash, unless a directive at the very top says otherwise.
fn escape(text: &str) -> char {
    for line in text.lines() {
        let Some((name, value)) = line.trim().strip_prefix('#').and_then(|it| it.split_once('='))
        else {
            break;
        };
        if name.trim().eq_ignore_ascii_case("escape") {
            return if value.trim() == "`" { '`' } else { '\\' };
        }
    }
    '\\'
}

/// Every instruction in capitals, and what stands behind it, its lines joined.
fn instructions(text: &str, escape: char) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(first) = lines.next().filter(|_| found.len() < INSTRUCTIONS_MAX) {
        if first.trim().is_empty() || first.trim_start().starts_with('#') {
            continue;
        }
        let mut whole = String::new();
        let mut line = first;
        loop {
            let Some(part) = line.trim_end().strip_suffix(escape) else {
                whole.push_str(line);
                break;
            };
            whole.push_str(part);
            // Comments and empty lines do not end what was begun.
            let mut rest = lines
                .by_ref()
                .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
            let Some(next) = rest.next() else { break };
            line = next;
        }
        let whole = whole.trim();
        let (name, rest) = whole.split_once(char::is_whitespace).unwrap_or((whole, ""));
        let name = name.to_ascii_uppercase();
        if matches!(&*name, "RUN" | "COPY" | "ADD") {
            for end in here_documents(rest) {
                let mut behind = lines.clone();
                // One without an end is none: the classic builder has no here-documents.
                if behind.any(|line| line.trim_start_matches('\t') == end) {
                    lines = behind;
                }
            }
        }
        found.push((name, rest.trim().to_owned()));
    }
    found
}

/// The words that end the here-documents which a line begins: `<<EOF`, `<<-"EOF"`, `3<<EOF`.
fn here_documents(line: &str) -> Vec<&str> {
    let end = |word| {
        let (_, word) = str::split_once(word, "<<").filter(|(number, _)| is_number(number))?;
        let word = word.strip_prefix('-').unwrap_or(word).trim_matches(['"', '\'']);
        word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_').then_some(word)
    };
    line.split_whitespace().filter_map(end).collect()
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Takes words apart as the builder's shell syntax has it.
struct Lexer<'a> {
    escape: char,
    /// Where variables are looked up, in this order.
    scopes: Vec<&'a Pairs>,
}

impl Lexer<'_> {
    /// Words between blanks, with their quotes and escapes.
    fn words(&self, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut word = String::new();
        let mut quote = None;
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match (char, quote) {
                (_, None) if char.is_whitespace() => {
                    words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
                    continue;
                }
                ('"' | '\'', None) => quote = Some(char),
                (_, Some(open)) if char == open => quote = None,
                _ => {}
            }
            word.push(char);
            // In single quotes an escape is a character like any other.
            if char == self.escape && quote != Some('\'') {
                word.extend(chars.next());
            }
        }
        words.extend(Some(word).filter(|word| !word.is_empty()));
        words
    }

    /// Names and values, expanded: `NAME=VALUE …`, or the older `NAME VALUE` to the line's end.
    fn pairs(&self, text: &str) -> Vec<(String, String)> {
        let words = self.words(text);
        let Some(first) = words.first() else { return Vec::new() };
        if !first.contains('=') {
            let value = text.get(first.len()..).unwrap_or_default().trim();
            return vec![(self.expand(first), self.expand(value))];
        }
        let pairs = words.iter().filter_map(|word| word.split_once('='));
        pairs.map(|(name, value)| (self.expand(name), self.expand(value))).collect()
    }

    /// The arguments that are declared: as the build gives them, or else as they are by default.
    fn arguments(
        &self,
        text: &str,
        given: &[(String, String)],
        global: &Pairs,
    ) -> Vec<(String, String)> {
        let declared = self.words(text).into_iter().filter_map(|word| {
            let (name, default) = match word.split_once('=') {
                Some((name, default)) => (name, Some(self.expand(default))),
                None => (&*word, global.get(&word).cloned()),
            };
            let given = given.iter().rfind(|(key, _)| key == name).map(|(_, value)| value.clone());
            Some((name.to_owned(), given.or(default)?))
        });
        declared.collect()
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.scopes.iter().find_map(|scope| scope.get(name)).map(String::as_str)
    }

    /// A word as it is meant: quotes and escapes taken off, variables put in.
    fn expand(&self, word: &str) -> String {
        // Braces within braces are as deep as a word is long.
        if word.len() > WORD_BYTES_MAX {
            return word.to_owned();
        }
        let mut out = String::new();
        let mut quote = None;
        let mut rest = word;
        while let Some(char) = rest.chars().next().filter(|_| out.len() < WORD_BYTES_MAX) {
            rest = &rest[char.len_utf8()..];
            match (char, quote) {
                ('"' | '\'', None) => quote = Some(char),
                (_, Some(open)) if char == open => quote = None,
                (_, Some('\'')) => out.push(char),
                ('$', _) => rest = self.substitute(rest, &mut out),
                _ if char == self.escape => {
                    let Some(next) = rest.chars().next() else { continue };
                    // Between double quotes an escape means something before a few alone.
                    if quote.is_some() && !['"', '$', self.escape].contains(&next) {
                        out.push(char);
                    }
                    out.push(next);
                    rest = &rest[next.len_utf8()..];
                }
                _ => out.push(char),
            }
        }
        out
    }

    /// Puts in the variable whose name or braces come behind a `$`; what comes behind that.
    fn substitute<'t>(&self, text: &'t str, out: &mut String) -> &'t str {
        let name_length = |text: &str| {
            text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
        };
        let Some(inner) = text.strip_prefix('{') else {
            let (name, rest) = text.split_at(name_length(text));
            match name {
                "" => out.push('$'),
                _ => out.push_str(self.value(name).unwrap_or_default()),
            }
            return rest;
        };
        let Some(end) = closing(inner) else {
            out.push_str("${");
            return inner;
        };
        let (name, operation) = inner[..end].split_at(name_length(&inner[..end]));
        let value = self.value(name);
        let set = value.is_some_and(|value| !value.is_empty());
        let value = value.unwrap_or_default();
        match operation.split_at_checked(1) {
            None => out.push_str(value),
            _ if operation.starts_with(":-") && !set => out.push_str(&self.expand(&operation[2..])),
            _ if operation.starts_with(":+") && set => out.push_str(&self.expand(&operation[2..])),
            _ if operation.starts_with(":+") => {}
            _ => out.push_str(value),
        }
        &inner[end + 1..]
    }
}

/// Where the brace closes that was opened just before.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(at, char)| {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://hub.docker.com/r/ns/name";

    fn hub_url(text: &str, arguments: &[(&str, &str)], target: &str) -> Option<String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let arguments: Vec<_> = arguments.iter().map(owned).collect();
        Dockerfile::read(text, &arguments, target).label("hub_url").map(str::to_owned)
    }

    #[test]
    fn a_label_is_found_in_every_form_that_the_builder_takes() {
        for text in [
            "FROM a\nLABEL hub_url=https://hub.docker.com/r/ns/name",
            "FROM a\nLABEL hub_url=\"https://hub.docker.com/r/ns/name\"\n",
            "FROM a\nLABEL 'hub_url'='https://hub.docker.com/r/ns/name'",
            "\u{feff}FROM a\r\nLABEL hub_url=https://hub.docker.com/r/ns/name\r\n",
            "from a\nlabel \"hub_url\"=https://hub.docker.com/r/ns/name\r\n",
            // The legacy form: to the end of the line.
            "FROM a\nLABEL hub_url https://hub.docker.com/r/ns/name",
            "FROM a\n  LABEL\thub_url   \"https://hub.docker.com/r/ns/name\"  ",
            // Several, continued, with comments and empty lines between.
            "FROM a\nLABEL x=\"a b\" hub_url=https://hub.docker.com/r/ns/name y=z",
            "FROM a\nLABEL x=1 \\\n  # between\n\n  hub_url=https://hub.docker.com/r/ns/name \\\n  y=2\n",
            "FROM a\nLABEL x=1 \\  \n hub_url=https://hub.docker.com/\\\nr/ns/name",
            "# escape=`\nFROM a\nLABEL x=1 `\n hub_url=https://hub.docker.com/r/ns/name",
            "#syntax=docker/dockerfile:1\n# ESCAPE = `\nFROM a\nLABEL hub_url=https:`//hub.docker.com/r/ns/name",
            // The last one stands.
            "FROM a\nLABEL hub_url=other\nLABEL hub_url=https://hub.docker.com/r/ns/name",
            // Variables.
            "FROM a\nARG NS=ns\nLABEL hub_url=https://hub.docker.com/r/$NS/name",
            "FROM a\nARG NS=ns N=name\nLABEL hub_url=\"https://hub.docker.com/r/${NS}/$N\"",
            "FROM a\nENV NS ns\nLABEL hub_url=https://hub.docker.com/r/${NS}/name",
            "FROM a\nENV A=\"https://hub.docker.com\" B=/r/ns\nLABEL hub_url=$A$B/name",
            "FROM a\nLABEL hub_url=https://hub.docker.com/r/${NS:-ns}/name",
            "FROM a\nARG NS=x\nLABEL hub_url=https://hub.docker.com/r/${NS:+ns}/name",
            "FROM a\nARG D=ns\nLABEL hub_url=https://hub.docker.com/r/${NS:-${D}}/name",
            "ARG NS=ns\nFROM a\nARG NS\nLABEL hub_url=https://hub.docker.com/r/$NS/name",
            // Stages.
            "FROM a AS build\nLABEL hub_url=x\nFROM b\nLABEL hub_url=https://hub.docker.com/r/ns/name",
            "FROM a AS base\nLABEL hub_url=https://hub.docker.com/r/ns/name\nFROM base",
            // The lines of a here-document are no instructions.
            "FROM a\nLABEL hub_url=https://hub.docker.com/r/ns/name\nRUN <<EOF\nLABEL hub_url=x\nEOF\n",
            "FROM a\nLABEL hub_url=https://hub.docker.com/r/ns/name\nRUN cat <<-'E' >f\nLABEL hub_url=x\n\tE\n",
            "FROM a\nRUN <<A cat 3<<B\nLABEL hub_url=x\nA\nB\nLABEL hub_url=https://hub.docker.com/r/ns/name",
            "FROM a\nRUN a=$((1<<B)) b <<C\nLABEL hub_url=https://hub.docker.com/r/ns/name",
        ] {
            assert_eq!(hub_url(text, &[], "").as_deref(), Some(URL), "{text}");
        }
    }

    #[test]
    fn what_is_no_label_is_not_found() {
        for text in [
            "",
            "FROM a",
            "FROM a\n# LABEL hub_url=x",
            "FROM a\nRUN echo LABEL hub_url=x",
            "FROM a\nLABEL Hub_URL=x",
            "FROM a\nLABEL x=\"hub_url=y\"",
            "LABEL hub_url=x",
            "FROM a\nLABEL hub_url=x\nFROM b",
            "FROM a\nRUN true \\\nLABEL hub_url=x",
        ] {
            assert_eq!(hub_url(text, &[], ""), None, "{text}");
        }
    }

    #[test]
    fn what_would_grow_without_end_does_not() {
        let double = |n: u32| format!("ARG A{n}=$A{m}$A{m}\n", m = n - 1);
        let doubled = (1..60).map(double).collect::<Vec<_>>().concat();
        let text = format!("FROM a\nARG A0=0123456789\n{doubled}LABEL hub_url=$A59\n");
        let length = hub_url(&text, &[], "").map(|url| url.len());
        assert!(length.is_some_and(|length| length < 3 * WORD_BYTES_MAX), "{length:?}");
        for depth in [WORD_BYTES_MAX / 6, 200_000] {
            let nested = "${a:-".repeat(depth) + &"}".repeat(depth);
            assert!(hub_url(&format!("FROM a\nLABEL hub_url={nested}"), &[], "").is_some());
        }
        let many = "FROM a AS a\n".repeat(INSTRUCTIONS_MAX) + "LABEL hub_url=x\n";
        assert_eq!(hub_url(&many, &[], ""), None);
    }

    #[test]
    fn arguments_and_the_target_are_the_builds() {
        let text = "ARG V=1\nFROM a:$V AS one\nARG NS=x\nLABEL hub_url=r/$NS/'$NS'\nFROM one\nARG NS\nLABEL hub_url=$NS\\$";
        for (arguments, target, expected) in [
            (&[("NS", "ns")][..], "", "ns$"),
            // A stage has the arguments of the stage that it is built on.
            (&[], "", "x$"),
            (&[("NS", "ns")], "one", "r/ns/$NS"),
            (&[], "ONE", "r/x/$NS"),
        ] {
            let found = hub_url(text, arguments, target);
            assert_eq!(found.as_deref(), Some(expected), "{arguments:?} {target}");
        }
        let read = Dockerfile::read(text, &[("V".to_owned(), "2".to_owned())], "");
        assert_eq!(read.bases, ["a:2"]);
    }
}

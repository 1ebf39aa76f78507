//! Reading a Dockerfile for what the marker asks of it: which bases it builds on, and which labels
//! its image gets, in any form that the builder takes.

/// What a Dockerfile says.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Dockerfile {
    /// The images that it builds on, expanded; stages of its own left out.
    pub(crate) bases: Vec<String>,
    /// The labels of the stage that is built, in their order.
    pub(crate) labels: Vec<(String, String)>,
}

/// What one stage knows.
#[derive(Clone, Default)]
struct Stage {
    name: String,
    variables: Variables,
    labels: Vec<(String, String)>,
}

type Variables = Vec<(String, String)>;

impl Dockerfile {
    /// Reads one, given the build's arguments; the stage `target` is built, or the last one.
    pub(crate) fn read(text: &str, arguments: &[(String, String)], target: &str) -> Dockerfile {
        let escape = escape(text);
        let mut global = Variables::new();
        let mut stages: Vec<Stage> = Vec::new();
        let mut bases = Vec::new();
        for (instruction, rest) in instructions(text, escape) {
            match (&*instruction, stages.last_mut()) {
                ("FROM", _) => {
                    let (base, name) = from(&Lexer::new(escape, &global).words(&rest));
                    let base = Lexer::new(escape, &global).expand(&base);
                    let known = stages.iter().rfind(|stage| stage.name.eq_ignore_ascii_case(&base));
                    // What a stage is built on brings its labels and its environment along.
                    let mut stage = known.cloned().unwrap_or_default();
                    if known.is_none() {
                        bases.push(base);
                    }
                    stage.name = name;
                    stages.push(stage);
                }
                ("ARG", stage) => {
                    let outer = global.clone();
                    let known = stage.map_or(&mut global, |stage| &mut stage.variables);
                    for word in Lexer::new(escape, known).words(&rest) {
                        let (name, default) = match word.split_once('=') {
                            Some((name, default)) => {
                                (name, Some(Lexer::new(escape, known).expand(default)))
                            }
                            None => (&*word, value(&outer, &word).map(str::to_owned)),
                        };
                        let given = value(arguments, name).map(str::to_owned);
                        known.extend(given.or(default).map(|value| (name.to_owned(), value)));
                    }
                }
                ("ENV", Some(stage)) => {
                    let pairs = Lexer::new(escape, &stage.variables).pairs(&rest);
                    stage.variables.extend(pairs);
                }
                ("LABEL", Some(stage)) => {
                    let pairs = Lexer::new(escape, &stage.variables).pairs(&rest);
                    stage.labels.extend(pairs);
                }
                _ => {}
            }
        }
        let named = |stage: &&Stage| !target.is_empty() && stage.name.eq_ignore_ascii_case(target);
        let built = stages.iter().find(named).or(stages.last());
        let labels = built.map(|stage| stage.labels.clone()).unwrap_or_default();
        Dockerfile { bases, labels }
    }

    /// A label's value; the last one stands.
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        value(&self.labels, name)
    }
}

fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().rfind(|(key, _)| key == name).map(|(_, value)| &**value)
}

/// The base and the stage's name in `[--platform=…] BASE [AS NAME]`.
fn from(words: &[String]) -> (String, String) {
    let mut words = words.iter().filter(|word| !word.starts_with("--"));
    let base = words.next().cloned().unwrap_or_default();
    let name = words.nth(1).cloned().unwrap_or_default();
    (base, name)
}

/// What continues a line: a backslash, unless a directive at the very top says otherwise.
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
    while let Some(first) = lines.next() {
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
    variables: &'a [(String, String)],
}

impl<'a> Lexer<'a> {
    fn new(escape: char, variables: &'a [(String, String)]) -> Lexer<'a> {
        Lexer { escape, variables }
    }

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

    /// A word as it is meant: quotes and escapes taken off, variables put in.
    fn expand(&self, word: &str) -> String {
        let mut out = String::new();
        let mut quote = None;
        let mut rest = word;
        while let Some(char) = rest.chars().next() {
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
                _ => out.push_str(value(self.variables, name).unwrap_or_default()),
            }
            return rest;
        };
        let Some(end) = closing(inner) else {
            out.push_str("${");
            return inner;
        };
        let (name, operation) = inner[..end].split_at(name_length(&inner[..end]));
        let value = value(self.variables, name);
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
            // What a here-document holds is no instruction.
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
    fn arguments_and_the_target_are_the_builds() {
        let text = "ARG V=1\nFROM a:$V AS one\nARG NS=x\nLABEL hub_url=r/$NS/'$NS'\nFROM one\nARG NS\nLABEL hub_url=$NS\\$";
        for (arguments, target, expected) in [
            (&[("NS", "ns")][..], "", "ns$"),
            // What a stage is built on brings its arguments along.
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

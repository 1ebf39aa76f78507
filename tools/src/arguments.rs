//! The arguments of a verb: flags with their values, as `--flag value` or `--flag=value`.

use std::slice::Iter;
use std::str::FromStr;

use common::cli::Kind;

/// Reads the arguments one after the other.
pub struct Arguments<'a> {
    rest: Iter<'a, String>,
    /// The last argument read, without the value attached to it.
    name: &'a str,
    attached: Option<&'a str>,
}

impl<'a> Arguments<'a> {
    /// A reader of these arguments.
    pub fn new(words: &'a [String]) -> Arguments<'a> {
        Arguments { rest: words.iter(), name: "", attached: None }
    }

    /// The next flag or operand. `Err` if the last flag had a value attached that it does not take.
    pub fn next_word(&mut self) -> Result<Option<&'a str>, String> {
        if let Some(value) = self.attached {
            return Err(format!("{} takes no value, and has {value:?}", self.name));
        }
        let Some(word) = self.rest.next() else { return Ok(None) };
        (self.name, self.attached) = match word.split_once('=') {
            Some((name, value)) if word.starts_with("--") => (name, Some(value)),
            _ => (word.as_str(), None),
        };
        Ok(Some(self.name))
    }

    /// The value of the last flag; `takes` says in the error message which values it takes.
    pub fn value(&mut self, takes: &str) -> Result<&'a str, String> {
        let value = self.attached.take().or_else(|| self.rest.next().map(String::as_str));
        value.ok_or_else(|| format!("{} needs a value: {takes}", self.name))
    }

    /// The value of the last flag, checked and parsed.
    pub fn parsed<T: FromStr>(&mut self, kind: Kind) -> Result<T, String> {
        let takes = kind.takes();
        let value = self.value(&takes)?;
        let checked = kind.check(value).and_then(|value| value.parse().ok());
        checked.ok_or_else(|| format!("{} holds {value:?}; it takes {takes}", self.name))
    }

    /// The value of the last flag, a whole number.
    pub fn number(&mut self, min: u64, max: u64) -> Result<u64, String> {
        self.parsed(Kind::Number(min, max))
    }

    /// The arguments after a `--`, which are not flags.
    pub fn rest(&mut self) -> impl Iterator<Item = &'a str> {
        std::mem::take(&mut self.rest).map(String::as_str)
    }

    /// The error message for an unknown argument.
    pub fn unknown(&self, verb: &str) -> String {
        format!("unknown argument {:?}; see cargo lab {verb} --help", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_follows_its_flag_or_is_attached_to_it() {
        let words = ["--port", "80", "word=1", "--rate=5", "--json"].map(str::to_owned);
        let mut arguments = Arguments::new(&words);
        assert_eq!(arguments.next_word(), Ok(Some("--port")));
        assert_eq!(arguments.parsed(Kind::PeerPort), Ok(80));
        assert_eq!(arguments.next_word(), Ok(Some("word=1")));
        assert_eq!(arguments.next_word(), Ok(Some("--rate")));
        assert_eq!(arguments.number(1, 9), Ok(5));
        assert_eq!(arguments.next_word(), Ok(Some("--json")));
        assert_eq!(arguments.next_word(), Ok(None));
    }

    #[test]
    fn an_error_names_the_flag_its_value_and_the_values_that_it_takes() {
        for (words, line) in [
            (&["--rate"][..], "--rate needs a value: a whole number, 1 to 9"),
            (&["--rate", "0"], "--rate holds \"0\"; it takes a whole number, 1 to 9"),
            (&["--rate=+5"], "--rate holds \"+5\"; it takes a whole number, 1 to 9"),
            (&["--rate="], "--rate holds \"\"; it takes a whole number, 1 to 9"),
        ] {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            let mut arguments = Arguments::new(&words);
            assert_eq!(arguments.next_word(), Ok(Some("--rate")));
            assert_eq!(arguments.number(1, 9).as_ref().map_err(String::as_str), Err(line));
        }
        let words = ["--json=yes".to_owned()];
        let mut arguments = Arguments::new(&words);
        assert_eq!(arguments.next_word(), Ok(Some("--json")));
        let line = "--json takes no value, and has \"yes\"";
        assert_eq!(arguments.next_word(), Err(line.to_owned()));
        assert_eq!(arguments.unknown("up"), "unknown argument \"--json\"; see cargo lab up --help");
    }
}

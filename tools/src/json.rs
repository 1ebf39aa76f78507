//! JSON for tools: a value as a tree, and text as a JSON string. `common::json` reads and writes
//! the tokens.

use std::borrow::Cow;

use common::json::{Container, Error, Reader, Text, Token, write_text};

/// A text as one JSON string, with its quotes.
pub fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    write_text(text, &mut out);
    String::from_utf8(out).expect("JSON is written in ASCII")
}

/// A JSON value, borrowed from the bytes that it was read from.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as its text, so that no digit is lost.
    Number(&'a str),
    /// A string.
    Text(Text<'a>),
    /// Items in their order.
    Array(Vec<Value<'a>>),
    /// Members in their order, doubled keys included.
    Object(Vec<(Text<'a>, Value<'a>)>),
}

impl<'a> Value<'a> {
    /// Reads the one value that is all of `json`.
    pub fn read(json: &'a [u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(json)?;
        let mut whole = Value::Null;
        while let Some((_, value)) = Self::next(&mut reader)? {
            whole = value;
        }
        Ok(whole)
    }

    /// The next value in what is open, after its key if that is an object; `None` where it ends.
    fn next(reader: &mut Reader<'a>) -> Result<Option<(Text<'a>, Self)>, Error> {
        let mut key = Text::default();
        while let Some(token) = reader.next_token()? {
            let value = match token {
                Token::Comma => continue,
                Token::Key(text) => {
                    key = text;
                    continue;
                }
                Token::Close(_) => break,
                Token::Null => Value::Null,
                Token::Bool(truth) => Value::Bool(truth),
                Token::Number(digits) => Value::Number(digits),
                Token::Text(text) => Value::Text(text),
                // Recursion is as deep as the reader lets containers nest.
                Token::Open(Container::Array) => {
                    let mut items = Vec::new();
                    while let Some((_, item)) = Self::next(reader)? {
                        items.push(item);
                    }
                    Value::Array(items)
                }
                Token::Open(Container::Object) => {
                    let mut members = Vec::new();
                    while let Some(member) = Self::next(reader)? {
                        members.push(member);
                    }
                    Value::Object(members)
                }
            };
            return Ok(Some((key, value)));
        }
        Ok(None)
    }

    /// Appends the bytes to `out` that `json::rewrite` makes of the value's source.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => Token::Null.write(out),
            Value::Bool(truth) => Token::Bool(*truth).write(out),
            Value::Number(digits) => Token::Number(digits).write(out),
            Value::Text(text) => Token::Text(*text).write(out),
            Value::Array(items) => {
                Token::Open(Container::Array).write(out);
                for (before, item) in items.iter().enumerate() {
                    if before > 0 {
                        Token::Comma.write(out);
                    }
                    item.write(out);
                }
                Token::Close(Container::Array).write(out);
            }
            Value::Object(members) => {
                Token::Open(Container::Object).write(out);
                for (before, (key, value)) in members.iter().enumerate() {
                    if before > 0 {
                        Token::Comma.write(out);
                    }
                    Token::Key(*key).write(out);
                    value.write(out);
                }
                Token::Close(Container::Object).write(out);
            }
        }
    }

    /// The value of an object's member; the last one wins, as in Python.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let Value::Object(members) = self else {
            return None;
        };
        let (_, value) = members.iter().rfind(|(name, _)| name.decode() == key)?;
        Some(value)
    }

    /// The value behind a path of keys, such as `State/Pid`; the whole value behind an empty one.
    pub fn at(&self, path: &str) -> Option<&Value<'a>> {
        path.split_terminator('/').try_fold(self, |value, key| value.get(key))
    }

    /// The items of an array; none for anything else.
    pub fn items(&self) -> &[Value<'a>] {
        match self {
            Value::Array(items) => items,
            _ => &[],
        }
    }

    /// The text of a string, or `None` for anything else.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        match self {
            Value::Text(text) => Some(text.decode()),
            _ => None,
        }
    }

    /// A number as near as an `f64` comes to it, or `None` for anything else.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Number(digits) => digits.parse().ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_written_as_the_tokens_are() {
        for json in [
            "null",
            "[ false , null ]",
            r#"{"a":1,"b":[2,{"c":3}],"d":{}}"#,
            r#"{ "a" : 1 , "\u0061" : 2 , "a" : [ ] }"#,
            "[10,-1,0.5,1E5,1e+05,0e1,-12.340E-56]",
            "{\"clé\": \"漢字 and 😀\"}",
        ] {
            let (mut straight, mut by_tree) = (Vec::new(), Vec::new());
            common::json::rewrite(json.as_bytes(), &mut straight).expect(json);
            Value::read(json.as_bytes()).expect(json).write(&mut by_tree);
            assert_eq!(straight, by_tree, "{json}");
        }
        for json in ["", "[1", "[1]]", "{\"a\" 1}", "\"\\x\""] {
            let refused = common::json::rewrite(json.as_bytes(), &mut Vec::new());
            assert_eq!(Value::read(json.as_bytes()).map(drop), refused, "{json}");
        }
    }

    #[test]
    fn a_tool_finds_its_way_through_a_value() {
        let json = r#"{"n": -1.5e2, "t": "\u00e9\ud83d\ude00\ud83d!", "a": [1, 1e999], "a\/": null,
            "twice": 1, "tw\u0069ce": "last"}"#;
        let value = Value::read(json.as_bytes()).unwrap();
        assert_eq!(value.get("n").unwrap().number(), Some(-150.0));
        assert_eq!(value.get("t").unwrap().text().unwrap(), "é😀\u{fffd}!");
        assert_eq!(value.get("twice").unwrap().text().unwrap(), "last");
        assert!(matches!(value.get("a/"), Some(Value::Null)));
        let [one, infinity] = value.get("a").unwrap().items() else {
            panic!("two items");
        };
        assert_eq!((one.number(), infinity.number()), (Some(1.0), Some(f64::INFINITY)));
        assert!(value.get("absent").is_none() && one.get("n").is_none());
        assert!(value.text().is_none() && value.number().is_none() && value.items().is_empty());
    }
}

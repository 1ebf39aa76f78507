//! A Compose configuration as a tree that can be changed, and as the text of a compose file.

use tools::json::Value;

/// A value of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    /// As its text.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// The way that a `$` is written: doubled, Compose takes it for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dollars {
    Single,
    Doubled,
}

impl Node {
    /// A tree of a JSON value. `docker-compose config` doubles each `$`; here it stands once.
    pub(crate) fn from(value: &Value, dollars: Dollars) -> Node {
        let text = |text: String| match dollars {
            Dollars::Single => text,
            Dollars::Doubled => text.replace("$$", "$"),
        };
        match value {
            Value::Null => Node::Null,
            Value::Bool(truth) => Node::Bool(*truth),
            Value::Number(digits) => Node::Number((*digits).to_owned()),
            Value::Text(it) => Node::Text(text(it.decode().into_owned())),
            Value::Array(items) => {
                Node::List(items.iter().map(|item| Node::from(item, dollars)).collect())
            }
            Value::Object(members) => {
                let mut map = Node::Map(Vec::new());
                for (key, value) in members {
                    // Of a doubled key the last one counts.
                    map.set(&text(key.decode().into_owned()), Node::from(value, dollars));
                }
                map
            }
        }
    }

    /// A text.
    pub(crate) fn text(text: impl Into<String>) -> Node {
        Node::Text(text.into())
    }

    /// A map of these members.
    pub(crate) fn map<const N: usize>(members: [(&str, Node); N]) -> Node {
        Node::Map(members.map(|(key, value)| (key.to_owned(), value)).into())
    }

    /// The value behind a path of keys, such as `build/context`.
    pub(crate) fn at(&self, path: &str) -> Option<&Node> {
        path.split_terminator('/').try_fold(self, |node, key| {
            node.members().iter().find(|(name, _)| name == key).map(|(_, value)| value)
        })
    }

    /// The members of a map; none for anything else.
    pub(crate) fn members(&self) -> &[(String, Node)] {
        match self {
            Node::Map(members) => members,
            _ => &[],
        }
    }

    /// The members of a map, to be changed.
    pub(crate) fn members_mut(&mut self) -> impl Iterator<Item = (&str, &mut Node)> {
        let members = match self {
            Node::Map(members) => &mut members[..],
            _ => &mut [],
        };
        members.iter_mut().map(|(key, value)| (key.as_str(), value))
    }

    /// The items of a list; none for anything else.
    pub(crate) fn items(&self) -> &[Node] {
        match self {
            Node::List(items) => items,
            _ => &[],
        }
    }

    /// The text of a text, a number or a truth value; `None` for anything else.
    pub(crate) fn scalar(&self) -> Option<String> {
        match self {
            Node::Text(text) | Node::Number(text) => Some(text.clone()),
            Node::Bool(truth) => Some(truth.to_string()),
            Node::Null | Node::List(_) | Node::Map(_) => None,
        }
    }

    /// The scalar behind a path; empty if there is none.
    pub(crate) fn scalar_at(&self, path: &str) -> String {
        self.at(path).and_then(Node::scalar).unwrap_or_default()
    }

    /// Names and values of a map, or of a list of `NAME=VALUE`. Members without a value are left
    /// out.
    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        let members = self.members().iter();
        let members = members.filter_map(|(name, value)| Some((name.clone(), value.scalar()?)));
        let listed = self.items().iter().filter_map(|item| {
            let item = item.scalar()?;
            let (name, value) = item.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        members.chain(listed).collect()
    }

    /// Returns true if a key with this value might as well not be there.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Node::Null | Node::Bool(false) => true,
            Node::Bool(true) | Node::Number(_) => false,
            Node::Text(text) => text.is_empty(),
            Node::List(items) => items.is_empty(),
            Node::Map(members) => members.is_empty(),
        }
    }

    /// Sets a member of a map. Anything else becomes a map first.
    pub(crate) fn set(&mut self, key: &str, value: Node) {
        if !matches!(self, Node::Map(_)) {
            *self = Node::Map(Vec::new());
        }
        let Node::Map(members) = self else { return };
        match members.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => members.push((key.to_owned(), value)),
        }
    }

    /// Removes a member of a map, and gives it.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Node> {
        let Node::Map(members) = self else { return None };
        let place = members.iter().position(|(name, _)| name == key)?;
        Some(members.remove(place).1)
    }

    /// The tree as one line for people.
    pub(crate) fn shown(&self) -> String {
        let mut out = String::new();
        self.write(Dollars::Single, &mut out);
        out
    }

    /// The text of a compose file: JSON, but for the escapes of characters above U+FFFF.
    pub(crate) fn compose_file(&self) -> String {
        let mut out = String::new();
        self.write(Dollars::Doubled, &mut out);
        out.push('\n');
        out
    }

    fn write(&self, dollars: Dollars, out: &mut String) {
        match self {
            Node::Null => out.push_str("null"),
            Node::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
            Node::Number(digits) => out.push_str(digits),
            Node::Text(text) => write_text(text, dollars, out),
            Node::List(items) => {
                out.push('[');
                for (before, item) in items.iter().enumerate() {
                    out.push_str(if before > 0 { ", " } else { "" });
                    item.write(dollars, out);
                }
                out.push(']');
            }
            Node::Map(members) => {
                out.push('{');
                for (before, (key, value)) in members.iter().enumerate() {
                    out.push_str(if before > 0 { ", " } else { "" });
                    // Compose puts no variables into keys.
                    write_text(key, Dollars::Single, out);
                    out.push_str(": ");
                    value.write(dollars, out);
                }
                out.push('}');
            }
        }
    }
}

/// A text in double quotes as YAML has it: readers of YAML do not join the halves of a surrogate
/// pair, as JSON spells characters above U+FFFF.
fn write_text(text: &str, dollars: Dollars, out: &mut String) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            '$' if dollars == Dollars::Doubled => out.push_str("$$"),
            ' '..='~' => out.push(char),
            _ if u32::from(char) <= 0xffff => {
                out.push_str(&escape('u', 4, char));
            }
            _ => out.push_str(&escape('U', 8, char)),
        }
    }
    out.push('"');
}

fn escape(kind: char, digits: usize, char: char) -> String {
    format!("\\{kind}{:0digits$x}", u32::from(char))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(json: &str) -> Node {
        Node::from(&Value::read(json.as_bytes()).expect(json), Dollars::Doubled)
    }

    #[test]
    fn a_tree_is_read_changed_and_written_with_each_dollar_doubled() {
        let mut tree = node(r#"{"a": {"b": ["x$$y", 1.5, null, true]}, "c": 1, "c": "é😀\"\n"}"#);
        assert_eq!(tree.at("a/b").expect("b").items()[0], Node::text("x$y"));
        assert_eq!((tree.scalar_at("c"), tree.scalar_at("d")), ("é😀\"\n".into(), String::new()));
        assert_eq!(tree.remove("nothing"), None);
        tree.set("d", Node::map([("k$", Node::text("v$"))]));
        assert_eq!(
            tree.compose_file(),
            "{\"a\": {\"b\": [\"x$$y\", 1.5, null, true]}, \
             \"c\": \"\\u00e9\\U0001f600\\\"\\u000a\", \"d\": {\"k$\": \"v$$\"}}\n"
        );
        assert!(tree.shown().contains("\"x$y\""));
    }

    #[test]
    fn pairs_are_taken_from_a_map_and_from_a_list() {
        let expected = [("A", "1"), ("B", "")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(node(r#"{"A": 1, "B": "", "C": null}"#).pairs(), expected);
        assert_eq!(node(r#"["A=1", "B=", "C"]"#).pairs(), expected);
    }

    #[test]
    fn what_changes_nothing_is_empty() {
        for (json, is_empty) in [
            ("null", true),
            ("false", true),
            ("\"\"", true),
            ("[]", true),
            ("{}", true),
            ("0", false),
            ("true", false),
            ("[0]", false),
        ] {
            assert_eq!(node(json).is_empty(), is_empty, "{json}");
        }
    }
}

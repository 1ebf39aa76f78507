//! JSON: strict reading (RFC 8259), and writing as Python's `json.dumps` does it. `rewrite` does
//! both in one pass. It serves every request and allocates nothing but space in `out`. `Reader`
//! returns the tokens one by one. The caller limits the length of a text.

use std::borrow::Cow;
use std::fmt;
use std::str::{self, Chars};

/// Nested containers: deeper than any message that people design, shallow enough for the stack of
/// any thread, and as many as a `u64` has bits.
pub const DEPTH_MAX: usize = 64;

/// Appends `json` to `out` as Python would write it after reading it, except that numbers keep
/// their text and objects their repeated keys. It grows by a factor of six at most. An error
/// leaves `out` unchanged.
pub fn rewrite(json: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let mut reader = Reader::new(json)?;
    let length = out.len();
    loop {
        match reader.next_token() {
            Ok(Some(token)) => token.write(out),
            Ok(None) => return Ok(()),
            Err(error) => {
                out.truncate(length);
                return Err(error);
            }
        }
    }
}

/// Appends `text` to `out` as a JSON string, with its quotes.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut chars = text.chars();
    while let Some(char) = write_plain(&mut chars, out) {
        write_escaped(char, out);
    }
    out.push(b'"');
}

/// The checked text between the quotes of a string, with its escapes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    /// The text without escapes. Half a surrogate pair becomes U+FFFD.
    pub fn decode(self) -> Cow<'a, str> {
        if !self.0.contains('\\') {
            return Cow::Borrowed(self.0);
        }
        let mut units = Vec::with_capacity(self.0.len());
        let mut chars = self.0.chars();
        while let Some(char) = chars.next() {
            match char {
                '\\' => units.extend(unescape(&mut chars)),
                _ => units.extend_from_slice(char.encode_utf16(&mut [0; 2])),
            }
        }
        Cow::Owned(String::from_utf16_lossy(&units))
    }

    fn write(self, out: &mut Vec<u8>) {
        out.push(b'"');
        let mut chars = self.0.chars();
        while let Some(char) = write_plain(&mut chars, out) {
            if char != '\\' {
                write_escaped(char, out);
            } else if let Some(unit) = unescape(&mut chars) {
                write_unit(unit, out);
            }
        }
        out.push(b'"');
    }
}

/// Why a text is not JSON, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// The offset of the byte that fits no JSON.
    pub offset: usize,
    /// Why it does not fit.
    pub kind: ErrorKind,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} at byte {}", self.kind, self.offset)
    }
}

impl std::error::Error for Error {}

/// The kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Bytes that are not UTF-8.
    Encoding,
    /// A byte that the grammar does not have here.
    Byte,
    /// The text ends within a value.
    End,
    /// A raw control character in a string.
    Control,
    /// A backslash before something that RFC 8259 section 7 does not list.
    Escape,
    /// A number without a digit where one must be.
    Number,
    /// More than `DEPTH_MAX` nested containers.
    Depth,
    /// Bytes after the value.
    Trailing,
}

impl ErrorKind {
    /// The message for people.
    pub fn phrase(self) -> &'static str {
        match self {
            ErrorKind::Encoding => "bytes that are not UTF-8",
            ErrorKind::Byte => "an unexpected byte",
            ErrorKind::End => "an unexpected end",
            ErrorKind::Control => "a control character in a string",
            ErrorKind::Escape => "a broken escape",
            ErrorKind::Number => "a broken number",
            ErrorKind::Depth => "nested too deeply",
            ErrorKind::Trailing => "bytes after the value",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.phrase())
    }
}

/// A token of a JSON text.
#[derive(Clone, Copy, Debug)]
pub enum Token<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as its text, so that no digit is lost.
    Number(&'a str),
    /// A string.
    Text(Text<'a>),
    /// The start of a container.
    Open(Container),
    /// The name of a member, with its colon.
    Key(Text<'a>),
    /// The comma between two items or members.
    Comma,
    /// The end of a container.
    Close(Container),
}

/// The kind of a container.
#[derive(Clone, Copy, Debug)]
pub enum Container {
    /// `[]`
    Array,
    /// `{}`
    Object,
}

impl Token<'_> {
    /// Appends the token to `out` as `rewrite` does.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            Token::Null => out.extend_from_slice(b"null"),
            Token::Bool(true) => out.extend_from_slice(b"true"),
            Token::Bool(false) => out.extend_from_slice(b"false"),
            Token::Number(digits) => out.extend_from_slice(digits.as_bytes()),
            Token::Text(text) => text.write(out),
            Token::Open(Container::Array) => out.push(b'['),
            Token::Open(Container::Object) => out.push(b'{'),
            Token::Key(text) => {
                text.write(out);
                out.extend_from_slice(b": ");
            }
            Token::Comma => out.extend_from_slice(b", "),
            Token::Close(Container::Array) => out.push(b']'),
            Token::Close(Container::Object) => out.push(b'}'),
        }
    }
}

/// Reads a text token by token. Text outside the grammar is an error.
pub struct Reader<'a> {
    json: &'a str,
    offset: usize,
    depth: usize,
    /// One bit for each open container, the innermost lowest: set for an object.
    objects: u64,
    expected: Expected,
}

/// The grammar's next element.
#[derive(Clone, Copy)]
enum Expected {
    /// The value of the whole text or of a key.
    Value,
    /// An item or a key of the innermost container.
    Entry,
    /// An item or a key, or the end of a container that is empty so far.
    EntryOrEnd,
    /// A comma or the end of the innermost container; outside of containers, the end of the text.
    CommaOrEnd,
}

impl<'a> Reader<'a> {
    /// A reader of `json`, which must be one value.
    pub fn new(json: &'a [u8]) -> Result<Self, Error> {
        match str::from_utf8(json) {
            Ok(json) => {
                Ok(Self { json, offset: 0, depth: 0, objects: 0, expected: Expected::Value })
            }
            Err(error) => Err(Error { offset: error.valid_up_to(), kind: ErrorKind::Encoding }),
        }
    }

    /// The next token; `None` at the end of a complete text.
    pub fn next_token(&mut self) -> Result<Option<Token<'a>>, Error> {
        self.skip_blanks();
        let Some(byte) = self.peek() else {
            return match (self.expected, self.innermost()) {
                (Expected::CommaOrEnd, None) => Ok(None),
                _ => Err(self.error(ErrorKind::End)),
            };
        };
        let token = match (self.expected, self.innermost(), byte) {
            (
                Expected::EntryOrEnd | Expected::CommaOrEnd,
                Some(container @ Container::Array),
                b']',
            )
            | (
                Expected::EntryOrEnd | Expected::CommaOrEnd,
                Some(container @ Container::Object),
                b'}',
            ) => self.close(container),
            (Expected::CommaOrEnd, Some(_), b',') => {
                self.offset += 1;
                Token::Comma
            }
            (Expected::CommaOrEnd, Some(_), _) => return Err(self.error(ErrorKind::Byte)),
            (Expected::CommaOrEnd, None, _) => return Err(self.error(ErrorKind::Trailing)),
            (Expected::Entry | Expected::EntryOrEnd, Some(Container::Object), _) => self.key()?,
            (Expected::Value | Expected::Entry | Expected::EntryOrEnd, _, _) => self.value(byte)?,
        };
        self.expected = match token {
            Token::Open(_) => Expected::EntryOrEnd,
            Token::Comma => Expected::Entry,
            Token::Key(_) => Expected::Value,
            _ => Expected::CommaOrEnd,
        };
        Ok(Some(token))
    }

    fn key(&mut self) -> Result<Token<'a>, Error> {
        let text = self.text()?;
        self.skip_blanks();
        self.require(":")?;
        Ok(Token::Key(text))
    }

    fn value(&mut self, first: u8) -> Result<Token<'a>, Error> {
        match first {
            b'{' => self.open(Container::Object),
            b'[' => self.open(Container::Array),
            b'"' => self.text().map(Token::Text),
            b'-' | b'0'..=b'9' => self.number().map(Token::Number),
            b'n' => self.require("null").map(|()| Token::Null),
            b't' => self.require("true").map(|()| Token::Bool(true)),
            b'f' => self.require("false").map(|()| Token::Bool(false)),
            _ => Err(self.error(ErrorKind::Byte)),
        }
    }

    fn open(&mut self, container: Container) -> Result<Token<'a>, Error> {
        if self.depth == DEPTH_MAX {
            return Err(self.error(ErrorKind::Depth));
        }
        self.offset += 1;
        self.depth += 1;
        self.objects = self.objects << 1 | u64::from(matches!(container, Container::Object));
        Ok(Token::Open(container))
    }

    fn close(&mut self, container: Container) -> Token<'a> {
        self.offset += 1;
        self.depth -= 1;
        self.objects >>= 1;
        Token::Close(container)
    }

    fn innermost(&self) -> Option<Container> {
        match (self.depth, self.objects & 1) {
            (0, _) => None,
            (_, 0) => Some(Container::Array),
            _ => Some(Container::Object),
        }
    }

    fn text(&mut self) -> Result<Text<'a>, Error> {
        self.require("\"")?;
        let start = self.offset;
        loop {
            self.offset += plain_length(self.rest());
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                None | Some(0..0x20) => return Err(self.error(ErrorKind::Control)),
                Some(_) => self.skip(|byte| byte >= 0x7f),
            }
        }
        let text = Text(self.since(start));
        self.offset += 1;
        Ok(text)
    }

    fn escape(&mut self) -> Result<(), Error> {
        let mut chars = self.rest().chars();
        chars.next();
        if unescape(&mut chars).is_none() {
            return Err(self.error(ErrorKind::Escape));
        }
        self.offset = self.json.len() - chars.as_str().len();
        Ok(())
    }

    fn number(&mut self) -> Result<&'a str, Error> {
        let start = self.offset;
        self.take(b"-");
        // RFC 8259 6: only a fraction or an exponent follows a leading zero.
        if !self.take(b"0") {
            self.digits()?;
        }
        if self.take(b".") {
            self.digits()?;
        }
        if self.take(b"eE") {
            self.take(b"+-");
            self.digits()?;
        }
        Ok(self.since(start))
    }

    fn digits(&mut self) -> Result<(), Error> {
        let start = self.offset;
        self.skip(|byte| byte.is_ascii_digit());
        if self.offset == start {
            return Err(self.error(ErrorKind::Number));
        }
        Ok(())
    }

    fn require(&mut self, word: &str) -> Result<(), Error> {
        if !self.rest().starts_with(word) {
            return Err(self.error(ErrorKind::Byte));
        }
        self.offset += word.len();
        Ok(())
    }

    fn take(&mut self, any: &[u8]) -> bool {
        let taken = self.peek().is_some_and(|byte| any.contains(&byte));
        self.offset += usize::from(taken);
        taken
    }

    fn skip_blanks(&mut self) {
        self.skip(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    }

    fn skip(&mut self, passes: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&passes) {
            self.offset += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.offset).copied()
    }

    fn rest(&self) -> &'a str {
        self.json.get(self.offset..).unwrap_or_default()
    }

    fn since(&self, start: usize) -> &'a str {
        self.json.get(start..self.offset).unwrap_or_default()
    }

    /// An error at the current byte. At the end of the text, its end is the error.
    fn error(&self, kind: ErrorKind) -> Error {
        let kind = if self.offset == self.json.len() { ErrorKind::End } else { kind };
        Error { offset: self.offset, kind }
    }
}

/// The number of bytes at the front that `json.dumps` writes as they are.
fn plain_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut rest = bytes;
    while let Some((eight, after)) = rest.split_first_chunk() {
        let bits = escape_bits(u64::from_le_bytes(*eight));
        if bits != 0 {
            return bytes.len() - rest.len() + bits.trailing_zeros() as usize / 8;
        }
        rest = after;
    }
    let is_escaped = |byte: &u8| !matches!(byte, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~');
    bytes.len() - rest.len() + rest.iter().position(is_escaped).unwrap_or(rest.len())
}

/// Finds bytes to escape among eight at once: the lowest bit set lies in the first of them. Bits
/// above it may be wrong, because a borrow starts there. No sum carries: UTF-8 has no 0xff.
fn escape_bits(eight: u64) -> u64 {
    const fn each(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    let quote = (eight ^ each(b'"')).wrapping_sub(each(1));
    let backslash = (eight ^ each(b'\\')).wrapping_sub(each(1));
    let below_space = eight.wrapping_sub(each(b' '));
    let above_tilde = eight.wrapping_add(each(1));
    (quote | backslash | below_space | above_tilde) & each(0x80)
}

/// Takes the rest of an escape, behind its backslash, from `chars`; returns its UTF-16 unit, or
/// `None` if it is malformed.
fn unescape(chars: &mut Chars) -> Option<u16> {
    let unit = match chars.next()? {
        'b' => 0x08,
        't' => 0x09,
        'n' => 0x0a,
        'f' => 0x0c,
        'r' => 0x0d,
        same @ ('"' | '\\' | '/') => u32::from(same),
        'u' => {
            let mut unit = 0;
            for _ in 0..4 {
                unit = unit << 4 | chars.next()?.to_digit(16)?;
            }
            unit
        }
        _ => return None,
    };
    u16::try_from(unit).ok()
}

/// Moves the plain text at the front of `chars` to `out`, and takes the character after it.
fn write_plain(chars: &mut Chars, out: &mut Vec<u8>) -> Option<char> {
    let text = chars.as_str();
    let (run, rest) = text.split_at_checked(plain_length(text))?;
    out.extend_from_slice(run.as_bytes());
    *chars = rest.chars();
    chars.next()
}

fn write_escaped(char: char, out: &mut Vec<u8>) {
    for unit in char.encode_utf16(&mut [0; 2]) {
        write_unit(*unit, out);
    }
}

fn write_unit(unit: u16, out: &mut Vec<u8>) {
    let [high, low] = unit.to_be_bytes();
    match (high, low) {
        (0, b'\n') => out.extend_from_slice(b"\\n"),
        (0, b'\r') => out.extend_from_slice(b"\\r"),
        (0, b'\t') => out.extend_from_slice(b"\\t"),
        (0, 0x08) => out.extend_from_slice(b"\\b"),
        (0, 0x0c) => out.extend_from_slice(b"\\f"),
        (0, b'"' | b'\\') => out.extend_from_slice(&[b'\\', low]),
        (0, b' '..=b'~') => out.push(low),
        _ => {
            let digits = [high >> 4, high & 0xf, low >> 4, low & 0xf].map(hex);
            out.extend_from_slice(b"\\u");
            out.extend_from_slice(&digits);
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        0..10 => b'0' + digit,
        _ => b'a' + digit - 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts, and the output of `json.dumps` for them.
    const ACCEPTED: &[(&str, &str)] = &[
        // The backend's response.
        (
            "{\"body\": \"Je suis une r\\u00e9ponse du backend\"}\n",
            r#"{"body": "Je suis une r\u00e9ponse du backend"}"#,
        ),
        // Words and blanks.
        ("null", "null"),
        (" \t\r\n true \t\r\n ", "true"),
        ("[ false , null ]", "[false, null]"),
        // Containers.
        ("[]", "[]"),
        ("{}", "{}"),
        ("[ \n ]", "[]"),
        ("{ \n }", "{}"),
        ("[[],{},[[]],{\"\":{}}]", r#"[[], {}, [[]], {"": {}}]"#),
        (r#"{"a":1,"b":[2,{"c":3}],"d":{}}"#, r#"{"a": 1, "b": [2, {"c": 3}], "d": {}}"#),
        (r#"{ "a" : 1 , "\u0061" : 2 , "a" : [ ] }"#, r#"{"a": 1, "a": 2, "a": []}"#),
        // Numbers.
        ("0", "0"),
        ("-0", "-0"),
        ("-0.0e-0", "-0.0e-0"),
        ("[10,-1,0.5,1E5,1e+05,0e1,-12.340E-56]", "[10, -1, 0.5, 1E5, 1e+05, 0e1, -12.340E-56]"),
        ("1e999", "1e999"),
        ("123456789012345678901234567890.10", "123456789012345678901234567890.10"),
        // Strings.
        (r#""""#, r#""""#),
        (r#""a/b\/c '\"\\ {[,:]}""#, r#""a/b/c '\"\\ {[,:]}""#),
        (r#""\b\f\n\r\t""#, r#""\b\f\n\r\t""#),
        (r#""\u0008\u000C\u000a\u000D\u0009""#, r#""\b\f\n\r\t""#),
        (r#""\u0000\u001F\u0020\u0022\u005C\u002f\u007E""#, r#""\u0000\u001f \"\\/~""#),
        (r#""\u00e9\u00E9\uABCD\uffff""#, r#""\u00e9\u00e9\uabcd\uffff""#),
        ("\"\u{7f}\u{80}é\u{7ff}\"", r#""\u007f\u0080\u00e9\u07ff""#),
        ("\"\u{800}漢\u{feff}\u{2028}\u{ffff}\"", r#""\u0800\u6f22\ufeff\u2028\uffff""#),
        ("\"\u{10000}😀\u{10ffff}\"", r#""\ud800\udc00\ud83d\ude00\udbff\udfff""#),
        ("{\"clé\": \"漢字 and 😀\"}", r#"{"cl\u00e9": "\u6f22\u5b57 and \ud83d\ude00"}"#),
        // Surrogates: a pair, its halves alone, and the halves in the wrong order.
        (r#""\uD83D\ude00""#, r#""\ud83d\ude00""#),
        (r#""\uD83D""#, r#""\ud83d""#),
        (r#""x\uDE00y""#, r#""x\ude00y""#),
        (r#""\ude00\ud83d""#, r#""\ude00\ud83d""#),
        ("\"\\ud83d\u{1f600}\\n\"", r#""\ud83d\ud83d\ude00\n""#),
    ];

    const REJECTED: &[(&[u8], ErrorKind, usize)] = &[
        // Empty, incomplete, or too much.
        (b"", ErrorKind::End, 0),
        (b" \n", ErrorKind::End, 2),
        (b"[", ErrorKind::End, 1),
        (b"{", ErrorKind::End, 1),
        (b"[1", ErrorKind::End, 2),
        (b"[1,", ErrorKind::End, 3),
        (b"{\"a\"", ErrorKind::End, 4),
        (b"{\"a\":", ErrorKind::End, 5),
        (b"{\"a\":1", ErrorKind::End, 6),
        (b"\"", ErrorKind::End, 1),
        (b"\"abcdefghi", ErrorKind::End, 10),
        (b"\"\\\"", ErrorKind::End, 3),
        (b"-", ErrorKind::End, 1),
        (b"1.", ErrorKind::End, 2),
        (b"1e", ErrorKind::End, 2),
        (b"1e+", ErrorKind::End, 3),
        (b"1 2", ErrorKind::Trailing, 2),
        (b"{}}", ErrorKind::Trailing, 2),
        (b"[],", ErrorKind::Trailing, 2),
        (b"nullx", ErrorKind::Trailing, 4),
        (b"null\0", ErrorKind::Trailing, 4),
        // Words.
        (b"nul", ErrorKind::Byte, 0),
        (b"True", ErrorKind::Byte, 0),
        (b"[NaN]", ErrorKind::Byte, 1),
        (b"Infinity", ErrorKind::Byte, 0),
        (b"-Infinity", ErrorKind::Number, 1),
        (b"\0", ErrorKind::Byte, 0),
        (b"\x0cnull", ErrorKind::Byte, 0),
        (b"\xef\xbb\xbfnull", ErrorKind::Byte, 0),
        (b"\xc2\xa0null", ErrorKind::Byte, 0),
        // Containers.
        (b"]", ErrorKind::Byte, 0),
        (b"}", ErrorKind::Byte, 0),
        (b",", ErrorKind::Byte, 0),
        (b":", ErrorKind::Byte, 0),
        (b"[1}", ErrorKind::Byte, 2),
        (b"{\"a\":1]", ErrorKind::Byte, 6),
        (b"[}", ErrorKind::Byte, 1),
        (b"{]", ErrorKind::Byte, 1),
        (b"[1,]", ErrorKind::Byte, 3),
        (b"[,1]", ErrorKind::Byte, 1),
        (b"[1,,2]", ErrorKind::Byte, 3),
        (b"[1 2]", ErrorKind::Byte, 3),
        (b"[1:2]", ErrorKind::Byte, 2),
        (b"{\"a\":1,}", ErrorKind::Byte, 7),
        (b"{,\"a\":1}", ErrorKind::Byte, 1),
        (b"{\"a\",1}", ErrorKind::Byte, 4),
        (b"{\"a\"}", ErrorKind::Byte, 4),
        (b"{\"a\"::1}", ErrorKind::Byte, 5),
        (b"{\"a\":}", ErrorKind::Byte, 5),
        (b"{\"a\" 1}", ErrorKind::Byte, 5),
        (b"{\"a\":1 \"b\":2}", ErrorKind::Byte, 7),
        (b"{1:2}", ErrorKind::Byte, 1),
        (b"{a:1}", ErrorKind::Byte, 1),
        (b"{null:1}", ErrorKind::Byte, 1),
        (b"['a']", ErrorKind::Byte, 1),
        (b"[1]//", ErrorKind::Trailing, 3),
        (b"[/**/1]", ErrorKind::Byte, 1),
        (b"#\n1", ErrorKind::Byte, 0),
        // Numbers.
        (b"+1", ErrorKind::Byte, 0),
        (b".5", ErrorKind::Byte, 0),
        (b"01", ErrorKind::Trailing, 1),
        (b"[-01]", ErrorKind::Byte, 3),
        (b"[00]", ErrorKind::Byte, 2),
        (b"[-]", ErrorKind::Number, 2),
        (b"--1", ErrorKind::Number, 1),
        (b"-.5", ErrorKind::Number, 1),
        (b"[1.]", ErrorKind::Number, 3),
        (b"1.e1", ErrorKind::Number, 2),
        (b"[1e]", ErrorKind::Number, 3),
        (b"[1e-]", ErrorKind::Number, 4),
        (b"1e1.5", ErrorKind::Trailing, 3),
        (b"1.2.3", ErrorKind::Trailing, 3),
        (b"0x10", ErrorKind::Trailing, 1),
        (b"1_000", ErrorKind::Trailing, 1),
        ("١".as_bytes(), ErrorKind::Byte, 0),
        // Strings.
        (b"\"\n\"", ErrorKind::Control, 1),
        (b"\"a\tb\"", ErrorKind::Control, 2),
        (b"\"abcdefg\0\"", ErrorKind::Control, 8),
        (b"\"abcdefgh\x1f\"", ErrorKind::Control, 9),
        (b"\"\\", ErrorKind::Escape, 1),
        (b"\"\\a\"", ErrorKind::Escape, 1),
        (b"\"\\'\"", ErrorKind::Escape, 1),
        (b"\"\\x41\"", ErrorKind::Escape, 1),
        (b"\"\\U0041\"", ErrorKind::Escape, 1),
        (b"\"\\\n\"", ErrorKind::Escape, 1),
        (b"\"\\u12\"", ErrorKind::Escape, 1),
        (b"\"\\u12", ErrorKind::Escape, 1),
        (b"\"\\u123g\"", ErrorKind::Escape, 1),
        (b"\"\\u+123\"", ErrorKind::Escape, 1),
        (b"\"\\u-123\"", ErrorKind::Escape, 1),
        (b"\"\\u 123\"", ErrorKind::Escape, 1),
        (b"\"\\ud83d\\u\"", ErrorKind::Escape, 7),
        ("\"\\u123١\"".as_bytes(), ErrorKind::Escape, 1),
        // UTF-8: alone, cut, overlong, a surrogate, beyond U+10FFFF; then other encodings.
        (b"\"\x80\"", ErrorKind::Encoding, 1),
        (b"\"\xe9\"", ErrorKind::Encoding, 1),
        (b"\"\xc3", ErrorKind::Encoding, 1),
        (b"\"\xf0\x9f\x98\"", ErrorKind::Encoding, 1),
        (b"\"\xc0\xaf\"", ErrorKind::Encoding, 1),
        (b"\"\xe0\x80\xaf\"", ErrorKind::Encoding, 1),
        (b"\"\xed\xa0\x80\"", ErrorKind::Encoding, 1),
        (b"\"\xf4\x90\x80\x80\"", ErrorKind::Encoding, 1),
        (b"\"\xff\"", ErrorKind::Encoding, 1),
        (b"1\xff", ErrorKind::Encoding, 1),
        (b"\xff\xfe1\0", ErrorKind::Encoding, 0),
        (b"\x001", ErrorKind::Byte, 0),
    ];

    #[test]
    fn rewrites_as_json_dumps_does() {
        for (json, expected) in ACCEPTED {
            assert_eq!(rewritten(json.as_bytes()).as_deref(), Ok(*expected), "{json}");
            assert_eq!(
                rewritten(expected.as_bytes()).as_deref(),
                Ok(*expected),
                "{expected} again"
            );
        }
    }

    #[test]
    fn rejects_text_outside_the_grammar_at_its_offset() {
        for (json, kind, offset) in REJECTED {
            let error = Error { offset: *offset, kind: *kind };
            assert_eq!(rewritten(json), Err(error), "{}", json.escape_ascii());
        }
    }

    #[test]
    fn rejects_a_text_cut_at_any_place() {
        for (json, _) in ACCEPTED {
            let json = json.trim_ascii().as_bytes();
            for cut in (0..json.len()).map(|length| &json[..length]) {
                let number =
                    matches!(cut, [b'-' | b'0'..=b'9', ..]) && matches!(cut, [.., b'0'..=b'9']);
                assert_eq!(rewritten(cut).is_ok(), number, "{}", cut.escape_ascii());
            }
        }
    }

    #[test]
    fn limits_nested_containers() {
        for (open, close) in [("[", "]"), ("{\"\": ", "}"), ("[{\"\": ", "}]")] {
            let levels = DEPTH_MAX / close.len();
            let deepest = open.repeat(levels) + "0" + &close.repeat(levels);
            assert_eq!(rewritten(deepest.as_bytes()), Ok(deepest.clone()), "{open}");
            let deeper = open.repeat(levels) + "[" + &close.repeat(levels);
            let error = Error { offset: levels * open.len(), kind: ErrorKind::Depth };
            assert_eq!(rewritten(deeper.as_bytes()), Err(error), "{open}");
        }
        let wide = format!("[{}[]]", "[[]], ".repeat(1000));
        assert_eq!(rewritten(wide.as_bytes()), Ok(wide.clone()));
    }

    #[test]
    fn keeps_earlier_output_after_an_error() {
        let mut out = b"before".to_vec();
        assert!(rewrite(b"[1, 2, 3, \"four\", x]", &mut out).is_err());
        assert_eq!(out, b"before");
        assert!(rewrite(b"[1]", &mut out).is_ok());
        assert_eq!(out, b"before[1]");
    }

    #[test]
    fn writes_each_character_in_ascii_and_reads_it_back() {
        for char in '\0'..=char::MAX {
            let json = written(char.encode_utf8(&mut [0; 4]));
            assert!(json.iter().all(|byte| matches!(byte, b' '..=b'~')), "{char:?}");
            let token = Reader::new(&json).unwrap().next_token().unwrap();
            let Some(Token::Text(read)) = token else { panic!("{token:?}") };
            assert_eq!(read.decode().chars().collect::<Vec<_>>(), [char]);
        }
        for (text, expected) in [
            ("", r#""""#),
            ("a/b \\ \"c\"", r#""a/b \\ \"c\"""#),
            ("\n\r\t\u{8}\u{c}\0\u{1f}\u{7f}", r#""\n\r\t\b\f\u0000\u001f\u007f""#),
            ("é 漢 😀", r#""\u00e9 \u6f22 \ud83d\ude00""#),
            ("\\u00e9", r#""\\u00e9""#),
        ] {
            assert_eq!(written(text), expected.as_bytes(), "{text}");
        }
    }

    #[test]
    fn escapes_a_byte_at_any_place_of_a_word() {
        for odd in ('\0'..='\u{ff}').map(String::from) {
            let alone = written(&odd);
            for before in 0..20 {
                let (left, right) = ("~".repeat(before), " ".repeat(20 - before));
                let json = written(&(left.clone() + &odd + &right));
                let inner = &alone[1..alone.len() - 1];
                let expected = [b"\"", left.as_bytes(), inner, right.as_bytes(), b"\""].concat();
                assert_eq!(json, expected, "{odd:?} after {before}");
                assert_eq!(rewritten(&json).unwrap().as_bytes(), json);
            }
        }
    }

    #[test]
    fn shows_an_error_with_its_offset() {
        let error = rewritten(b"[1, \"\\x\"]").unwrap_err();
        assert_eq!(error.to_string(), "a broken escape at byte 5");
    }

    #[test]
    fn survives_mutations_and_rewrites_its_output_unchanged() {
        let accepted = ACCEPTED.iter().map(|(json, _)| json.as_bytes());
        let corpus: Vec<_> = accepted.chain(REJECTED.iter().map(|(json, ..)| *json)).collect();
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |bound: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed >> 32).unwrap() % bound
        };
        let mut accepted = 0;
        for _ in 0..200_000 {
            let mut json = corpus[below(corpus.len())].to_vec();
            for _ in 0..=below(3) {
                let start = below(json.len() + 1);
                let end = start + below(json.len() - start + 1).min(4);
                let token = b"[]{},:\"\\0-+.e \n\x1f\x7f\xc3\xa9u"[below(20)];
                match below(5) {
                    0 => json.truncate(start),
                    1 => drop(json.drain(start..end)),
                    2 => json.insert(start, token),
                    3 => drop(json.splice(start..end, [token])),
                    _ => {
                        let other = corpus[below(corpus.len())];
                        drop(json.splice(start..start, other.iter().copied()));
                    }
                }
            }
            if let Ok(once) = rewritten(&json) {
                accepted += 1;
                assert_eq!(rewritten(once.as_bytes()), Ok(once), "{}", json.escape_ascii());
            }
        }
        assert!((10_000..190_000).contains(&accepted), "{accepted} cases show little");
    }

    fn rewritten(json: &[u8]) -> Result<String, Error> {
        let mut out = Vec::new();
        rewrite(json, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn written(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        write_text(text, &mut out);
        out
    }
}

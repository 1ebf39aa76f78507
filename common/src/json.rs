//! JSON: read strictly, as RFC 8259 has it, and written as Python's `json.dumps` writes it.
//! `rewrite` does both at once and allocates nothing but room in `out`, for the path of every
//! request; `Reader` gives the tokens one by one. The caller bounds the length of a text.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::str::{self, Chars};

/// Containers in each other: deeper than any message that people design, shallow enough for the
/// stack of any thread, and as many as a `u64` has bits.
pub const DEPTH_MAX: usize = 64;

/// Appends `json` to `out` as Python would write what it reads there, except that numbers keep
/// their text and objects their doubled keys; six times as long at most. `Err` leaves `out` as
/// it was.
pub fn rewrite(json: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut reader = Reader::new(json)?;
    let length = out.len();
    loop {
        match reader.next_token() {
            Ok(Some(token)) => token.write(out),
            Ok(None) => return Ok(()),
            Err(fault) => {
                out.truncate(length);
                return Err(fault);
            }
        }
    }
}

/// Appends `text` to `out` as one JSON string, with its quotes.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut chars = text.chars();
    while let Some(odd) = write_plain(&mut chars, out) {
        write_odd(odd, out);
    }
    out.push(b'"');
}

/// The sound text between two quotes, with its escapes as they stand in the source.
#[derive(Clone, Copy, Debug, Default)]
pub struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    /// What the text says; half a surrogate pair becomes U+FFFD.
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
        while let Some(odd) = write_plain(&mut chars, out) {
            if odd != '\\' {
                write_odd(odd, out);
            } else if let Some(unit) = unescape(&mut chars) {
                write_unit(unit, out);
            }
        }
        out.push(b'"');
    }
}

/// What is wrong with a text, and the offset of the byte where that shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Bytes before the fault.
    pub at: usize,
    /// Its kind.
    pub what: Problem,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

impl Error for Fault {}

/// Why a text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Bytes that are not UTF-8.
    Encoding,
    /// A byte that cannot stand here.
    Byte,
    /// A value that is not whole.
    End,
    /// A raw control character in a string.
    Control,
    /// A backslash before something that RFC 8259 section 7 does not list.
    Escape,
    /// A number without a digit where one must be.
    Number,
    /// More than `DEPTH_MAX` containers in each other.
    Depth,
    /// More than one value.
    Surplus,
}

impl Problem {
    /// It in words.
    pub fn phrase(self) -> &'static str {
        match self {
            Problem::Encoding => "bytes that are not UTF-8",
            Problem::Byte => "an unexpected byte",
            Problem::End => "an unexpected end",
            Problem::Control => "a control character in a string",
            Problem::Escape => "a broken escape",
            Problem::Number => "a broken number",
            Problem::Depth => "too deep a nesting",
            Problem::Surplus => "something after the value",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.phrase())
    }
}

/// A piece of a JSON text.
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
    /// The begin of a container.
    Open(Shape),
    /// A member's name, and the colon.
    Key(Text<'a>),
    /// Between two items or members.
    Comma,
    /// The end of a container.
    Close(Shape),
}

/// The kind of a container.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// `[]`
    Array,
    /// `{}`
    Object,
}

impl Token<'_> {
    /// Appends it to `out` as `rewrite` does.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            Token::Null => out.extend_from_slice(b"null"),
            Token::Bool(true) => out.extend_from_slice(b"true"),
            Token::Bool(false) => out.extend_from_slice(b"false"),
            Token::Number(digits) => out.extend_from_slice(digits.as_bytes()),
            Token::Text(text) => text.write(out),
            Token::Open(Shape::Array) => out.push(b'['),
            Token::Open(Shape::Object) => out.push(b'{'),
            Token::Key(text) => {
                text.write(out);
                out.extend_from_slice(b": ");
            }
            Token::Comma => out.extend_from_slice(b", "),
            Token::Close(Shape::Array) => out.push(b']'),
            Token::Close(Shape::Object) => out.push(b'}'),
        }
    }
}

/// Takes a text apart, token by token, and lets nothing pass that the grammar does not.
pub struct Reader<'a> {
    json: &'a str,
    at: usize,
    depth: usize,
    /// A bit for every open container, the innermost lowest: set for an object.
    objects: u64,
    due: Due,
}

/// What must stand next.
#[derive(Clone, Copy)]
enum Due {
    /// The whole text's value, or that of a key.
    Value,
    /// What the innermost container holds: an item or a key.
    Entry,
    /// The same, or the end of a container that is empty so far.
    EntryOrEnd,
    /// A comma or the end of the container; outside of all, the end of the text.
    CommaOrEnd,
}

impl<'a> Reader<'a> {
    /// A reader of the one value that is all of `json`.
    pub fn new(json: &'a [u8]) -> Result<Self, Fault> {
        match str::from_utf8(json) {
            Ok(json) => Ok(Self { json, at: 0, depth: 0, objects: 0, due: Due::Value }),
            Err(error) => Err(Fault { at: error.valid_up_to(), what: Problem::Encoding }),
        }
    }

    /// The next token, or `None` at the end of a whole text.
    pub fn next_token(&mut self) -> Result<Option<Token<'a>>, Fault> {
        self.skip_blanks();
        let Some(byte) = self.peek() else {
            return match (self.due, self.innermost()) {
                (Due::CommaOrEnd, None) => Ok(None),
                _ => Err(self.fault(Problem::End)),
            };
        };
        let token = match (self.due, self.innermost(), byte) {
            (Due::EntryOrEnd | Due::CommaOrEnd, Some(shape @ Shape::Array), b']')
            | (Due::EntryOrEnd | Due::CommaOrEnd, Some(shape @ Shape::Object), b'}') => {
                self.close(shape)
            }
            (Due::CommaOrEnd, Some(_), b',') => {
                self.at += 1;
                Token::Comma
            }
            (Due::CommaOrEnd, Some(_), _) => return Err(self.fault(Problem::Byte)),
            (Due::CommaOrEnd, None, _) => return Err(self.fault(Problem::Surplus)),
            (Due::Entry | Due::EntryOrEnd, Some(Shape::Object), _) => self.key()?,
            (Due::Value | Due::Entry | Due::EntryOrEnd, _, _) => self.value(byte)?,
        };
        self.due = match token {
            Token::Open(_) => Due::EntryOrEnd,
            Token::Comma => Due::Entry,
            Token::Key(_) => Due::Value,
            _ => Due::CommaOrEnd,
        };
        Ok(Some(token))
    }

    fn key(&mut self) -> Result<Token<'a>, Fault> {
        let text = self.text()?;
        self.skip_blanks();
        self.require(":")?;
        Ok(Token::Key(text))
    }

    fn value(&mut self, first: u8) -> Result<Token<'a>, Fault> {
        match first {
            b'{' => self.open(Shape::Object),
            b'[' => self.open(Shape::Array),
            b'"' => self.text().map(Token::Text),
            b'-' | b'0'..=b'9' => self.number().map(Token::Number),
            b'n' => self.require("null").map(|()| Token::Null),
            b't' => self.require("true").map(|()| Token::Bool(true)),
            b'f' => self.require("false").map(|()| Token::Bool(false)),
            _ => Err(self.fault(Problem::Byte)),
        }
    }

    fn open(&mut self, shape: Shape) -> Result<Token<'a>, Fault> {
        if self.depth == DEPTH_MAX {
            return Err(self.fault(Problem::Depth));
        }
        self.at += 1;
        self.depth += 1;
        self.objects = self.objects << 1 | u64::from(matches!(shape, Shape::Object));
        Ok(Token::Open(shape))
    }

    fn close(&mut self, shape: Shape) -> Token<'a> {
        self.at += 1;
        self.depth -= 1;
        self.objects >>= 1;
        Token::Close(shape)
    }

    fn innermost(&self) -> Option<Shape> {
        match (self.depth, self.objects & 1) {
            (0, _) => None,
            (_, 0) => Some(Shape::Array),
            _ => Some(Shape::Object),
        }
    }

    fn text(&mut self) -> Result<Text<'a>, Fault> {
        self.require("\"")?;
        let start = self.at;
        loop {
            self.at += plain(self.rest());
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                None | Some(0..0x20) => return Err(self.fault(Problem::Control)),
                Some(_) => self.skip(|byte| byte >= 0x7f),
            }
        }
        let text = Text(self.since(start));
        self.at += 1;
        Ok(text)
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let mut chars = self.rest().chars();
        chars.next();
        if unescape(&mut chars).is_none() {
            return Err(self.fault(Problem::Escape));
        }
        self.at = self.json.len() - chars.as_str().len();
        Ok(())
    }

    fn number(&mut self) -> Result<&'a str, Fault> {
        let start = self.at;
        self.take(b"-");
        // RFC 8259 6: nothing follows a leading zero but a fraction or an exponent.
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

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        self.skip(|byte| byte.is_ascii_digit());
        if self.at == start {
            return Err(self.fault(Problem::Number));
        }
        Ok(())
    }

    fn require(&mut self, word: &str) -> Result<(), Fault> {
        if !self.rest().starts_with(word) {
            return Err(self.fault(Problem::Byte));
        }
        self.at += word.len();
        Ok(())
    }

    fn take(&mut self, any: &[u8]) -> bool {
        let taken = self.peek().is_some_and(|byte| any.contains(&byte));
        self.at += usize::from(taken);
        taken
    }

    fn skip_blanks(&mut self) {
        self.skip(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    }

    fn skip(&mut self, passes: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&passes) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a str {
        self.json.get(self.at..).unwrap_or_default()
    }

    fn since(&self, start: usize) -> &'a str {
        self.json.get(start..self.at).unwrap_or_default()
    }

    /// Where the text has no more bytes, that is what is wrong.
    fn fault(&self, what: Problem) -> Fault {
        let what = if self.at == self.json.len() { Problem::End } else { what };
        Fault { at: self.at, what }
    }
}

/// How many bytes at the front `json.dumps` writes as they are, up to the first odd one.
fn plain(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut rest = bytes;
    while let Some((eight, after)) = rest.split_first_chunk() {
        let odd = odd_bits(u64::from_le_bytes(*eight));
        if odd != 0 {
            return bytes.len() - rest.len() + odd.trailing_zeros() as usize / 8;
        }
        rest = after;
    }
    let odd = |byte: &u8| !matches!(byte, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~');
    bytes.len() - rest.len() + rest.iter().position(odd).unwrap_or(rest.len())
}

/// Eight bytes at once: the lowest bit set lies in the first odd one. Bits above it may be wrong,
/// for borrows start there and nowhere else. Nothing carries: UTF-8 has no 0xff.
fn odd_bits(eight: u64) -> u64 {
    const fn each(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    let quote = (eight ^ each(b'"')).wrapping_sub(each(1));
    let backslash = (eight ^ each(b'\\')).wrapping_sub(each(1));
    let below_space = eight.wrapping_sub(each(b' '));
    let above_tilde = eight.wrapping_add(each(1));
    (quote | backslash | below_space | above_tilde) & each(0x80)
}

/// Takes what follows a backslash from `chars`, as a UTF-16 unit; `None` if it is no escape.
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

/// Moves what is plain at the front of `chars` to `out`, and takes the character after it.
fn write_plain(chars: &mut Chars, out: &mut Vec<u8>) -> Option<char> {
    let text = chars.as_str();
    let (run, rest) = text.split_at_checked(plain(text))?;
    out.extend_from_slice(run.as_bytes());
    *chars = rest.chars();
    chars.next()
}

fn write_odd(odd: char, out: &mut Vec<u8>) {
    for unit in odd.encode_utf16(&mut [0; 2]) {
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

    /// What is read, and what `json.dumps` makes of it.
    const ACCEPTED: &[(&str, &str)] = &[
        // The backend's answer.
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

    const REFUSED: &[(&[u8], Problem, usize)] = &[
        // Nothing, not all, or too much.
        (b"", Problem::End, 0),
        (b" \n", Problem::End, 2),
        (b"[", Problem::End, 1),
        (b"{", Problem::End, 1),
        (b"[1", Problem::End, 2),
        (b"[1,", Problem::End, 3),
        (b"{\"a\"", Problem::End, 4),
        (b"{\"a\":", Problem::End, 5),
        (b"{\"a\":1", Problem::End, 6),
        (b"\"", Problem::End, 1),
        (b"\"abcdefghi", Problem::End, 10),
        (b"\"\\\"", Problem::End, 3),
        (b"-", Problem::End, 1),
        (b"1.", Problem::End, 2),
        (b"1e", Problem::End, 2),
        (b"1e+", Problem::End, 3),
        (b"1 2", Problem::Surplus, 2),
        (b"{}}", Problem::Surplus, 2),
        (b"[],", Problem::Surplus, 2),
        (b"nullx", Problem::Surplus, 4),
        (b"null\0", Problem::Surplus, 4),
        // Words.
        (b"nul", Problem::Byte, 0),
        (b"True", Problem::Byte, 0),
        (b"[NaN]", Problem::Byte, 1),
        (b"Infinity", Problem::Byte, 0),
        (b"-Infinity", Problem::Number, 1),
        (b"\0", Problem::Byte, 0),
        (b"\x0cnull", Problem::Byte, 0),
        (b"\xef\xbb\xbfnull", Problem::Byte, 0),
        (b"\xc2\xa0null", Problem::Byte, 0),
        // Containers.
        (b"]", Problem::Byte, 0),
        (b"}", Problem::Byte, 0),
        (b",", Problem::Byte, 0),
        (b":", Problem::Byte, 0),
        (b"[1}", Problem::Byte, 2),
        (b"{\"a\":1]", Problem::Byte, 6),
        (b"[}", Problem::Byte, 1),
        (b"{]", Problem::Byte, 1),
        (b"[1,]", Problem::Byte, 3),
        (b"[,1]", Problem::Byte, 1),
        (b"[1,,2]", Problem::Byte, 3),
        (b"[1 2]", Problem::Byte, 3),
        (b"[1:2]", Problem::Byte, 2),
        (b"{\"a\":1,}", Problem::Byte, 7),
        (b"{,\"a\":1}", Problem::Byte, 1),
        (b"{\"a\",1}", Problem::Byte, 4),
        (b"{\"a\"}", Problem::Byte, 4),
        (b"{\"a\"::1}", Problem::Byte, 5),
        (b"{\"a\":}", Problem::Byte, 5),
        (b"{\"a\" 1}", Problem::Byte, 5),
        (b"{\"a\":1 \"b\":2}", Problem::Byte, 7),
        (b"{1:2}", Problem::Byte, 1),
        (b"{a:1}", Problem::Byte, 1),
        (b"{null:1}", Problem::Byte, 1),
        (b"['a']", Problem::Byte, 1),
        (b"[1]//", Problem::Surplus, 3),
        (b"[/**/1]", Problem::Byte, 1),
        (b"#\n1", Problem::Byte, 0),
        // Numbers.
        (b"+1", Problem::Byte, 0),
        (b".5", Problem::Byte, 0),
        (b"01", Problem::Surplus, 1),
        (b"[-01]", Problem::Byte, 3),
        (b"[00]", Problem::Byte, 2),
        (b"[-]", Problem::Number, 2),
        (b"--1", Problem::Number, 1),
        (b"-.5", Problem::Number, 1),
        (b"[1.]", Problem::Number, 3),
        (b"1.e1", Problem::Number, 2),
        (b"[1e]", Problem::Number, 3),
        (b"[1e-]", Problem::Number, 4),
        (b"1e1.5", Problem::Surplus, 3),
        (b"1.2.3", Problem::Surplus, 3),
        (b"0x10", Problem::Surplus, 1),
        (b"1_000", Problem::Surplus, 1),
        ("١".as_bytes(), Problem::Byte, 0),
        // Strings.
        (b"\"\n\"", Problem::Control, 1),
        (b"\"a\tb\"", Problem::Control, 2),
        (b"\"abcdefg\0\"", Problem::Control, 8),
        (b"\"abcdefgh\x1f\"", Problem::Control, 9),
        (b"\"\\", Problem::Escape, 1),
        (b"\"\\a\"", Problem::Escape, 1),
        (b"\"\\'\"", Problem::Escape, 1),
        (b"\"\\x41\"", Problem::Escape, 1),
        (b"\"\\U0041\"", Problem::Escape, 1),
        (b"\"\\\n\"", Problem::Escape, 1),
        (b"\"\\u12\"", Problem::Escape, 1),
        (b"\"\\u12", Problem::Escape, 1),
        (b"\"\\u123g\"", Problem::Escape, 1),
        (b"\"\\u+123\"", Problem::Escape, 1),
        (b"\"\\u-123\"", Problem::Escape, 1),
        (b"\"\\u 123\"", Problem::Escape, 1),
        (b"\"\\ud83d\\u\"", Problem::Escape, 7),
        ("\"\\u123١\"".as_bytes(), Problem::Escape, 1),
        // UTF-8: alone, cut, overlong, a surrogate, beyond U+10FFFF; then other encodings.
        (b"\"\x80\"", Problem::Encoding, 1),
        (b"\"\xe9\"", Problem::Encoding, 1),
        (b"\"\xc3", Problem::Encoding, 1),
        (b"\"\xf0\x9f\x98\"", Problem::Encoding, 1),
        (b"\"\xc0\xaf\"", Problem::Encoding, 1),
        (b"\"\xe0\x80\xaf\"", Problem::Encoding, 1),
        (b"\"\xed\xa0\x80\"", Problem::Encoding, 1),
        (b"\"\xf4\x90\x80\x80\"", Problem::Encoding, 1),
        (b"\"\xff\"", Problem::Encoding, 1),
        (b"1\xff", Problem::Encoding, 1),
        (b"\xff\xfe1\0", Problem::Encoding, 0),
        (b"\x001", Problem::Byte, 0),
    ];

    #[test]
    fn what_is_read_is_written_as_json_dumps_writes_it() {
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
    fn what_the_grammar_lacks_is_refused_where_it_shows() {
        for (json, what, at) in REFUSED {
            let fault = Fault { at: *at, what: *what };
            assert_eq!(rewritten(json), Err(fault), "{}", json.escape_ascii());
        }
    }

    #[test]
    fn a_text_cut_anywhere_is_refused() {
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
    fn sixty_four_levels_may_nest_and_no_more() {
        for (open, close) in [("[", "]"), ("{\"\": ", "}"), ("[{\"\": ", "}]")] {
            let levels = DEPTH_MAX / close.len();
            let deepest = open.repeat(levels) + "0" + &close.repeat(levels);
            assert_eq!(rewritten(deepest.as_bytes()), Ok(deepest.clone()), "{open}");
            let deeper = open.repeat(levels) + "[" + &close.repeat(levels);
            let fault = Fault { at: levels * open.len(), what: Problem::Depth };
            assert_eq!(rewritten(deeper.as_bytes()), Err(fault), "{open}");
        }
        let wide = format!("[{}[]]", "[[]], ".repeat(1000));
        assert_eq!(rewritten(wide.as_bytes()), Ok(wide.clone()));
    }

    #[test]
    fn a_refused_text_leaves_what_was_written_before() {
        let mut out = b"before".to_vec();
        assert!(rewrite(b"[1, 2, 3, \"four\", x]", &mut out).is_err());
        assert_eq!(out, b"before");
        assert!(rewrite(b"[1]", &mut out).is_ok());
        assert_eq!(out, b"before[1]");
    }

    #[test]
    fn every_character_is_written_in_ascii_and_read_back() {
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
    fn an_odd_byte_is_seen_wherever_it_stands_in_a_word() {
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
    fn a_fault_says_what_and_where() {
        let fault = rewritten(b"[1, \"\\x\"]").unwrap_err();
        assert_eq!(fault.to_string(), "a broken escape at byte 5");
    }

    #[test]
    fn no_mutation_panics_and_what_is_accepted_is_stable() {
        let accepted = ACCEPTED.iter().map(|(json, _)| json.as_bytes());
        let corpus: Vec<_> = accepted.chain(REFUSED.iter().map(|(json, ..)| *json)).collect();
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
        assert!((10_000..190_000).contains(&accepted), "{accepted} say little");
    }

    fn rewritten(json: &[u8]) -> Result<String, Fault> {
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

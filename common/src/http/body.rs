//! Message bodies: the decision on their length, and decoding. Limits and grammar are enforced.

use super::grammar::{hex, is_field_byte, is_tchar};
use super::parse::{Coding, MessageHeaders};
use super::{Limits, ParseError, Version};

/// The message that a body belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageKind {
    Request,
    /// A response to a GET, with this status.
    Response(u16),
}

/// A body that is being decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body {
    kind: MessageKind,
    framing: Framing,
    /// Bytes that the body may still have.
    bytes_left: u64,
    /// Bytes that chunk extensions and trailers may still have, all together.
    overhead_left: usize,
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    /// This many bytes are still to come.
    Length(u64),
    Chunked(ChunkState),
    /// All bytes until the peer closes.
    UntilClose,
}

/// The place in a chunked body (RFC 9112 section 7.1) of the next byte. The numbers are chunk
/// sizes.
#[derive(Clone, Copy, Debug)]
enum ChunkState {
    Size {
        digits: u8,
        size: u64,
    },
    /// Blanks after the size.
    Blank(u64),
    Extension(u64, ExtensionState),
    SizeEnd(u64),
    /// This many bytes, then CRLF.
    Data(u64),
    DataEnd,
    /// At the start of a line of the trailer section.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerEnd,
    LastEnd,
    End,
}

/// The place in a chunk extension of the next byte:
/// `BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ]` (RFC 9112 section 7.1.1).
#[derive(Clone, Copy, Debug)]
enum ExtensionState {
    /// Behind the semicolon.
    Start,
    Name,
    /// Blanks after the name.
    NameBlank,
    /// Behind the equals sign.
    ValueStart,
    Value,
    Quoted,
    QuotedPair,
    /// Behind the closing quote.
    QuotedEnd,
    /// Blanks after the value.
    ValueBlank,
}

impl Body {
    /// Decides how long a body is, in the order of RFC 9112 section 6.3.
    pub(super) fn new(
        kind: MessageKind,
        version: Version,
        headers: &MessageHeaders<'_>,
        limits: &Limits,
    ) -> Result<Body, ParseError> {
        let framing = match (kind, headers.coding, headers.length) {
            // RFC 9112 6.1: both lengths at once is how requests are smuggled, and a coding in
            // HTTP/1.0 is faulty, with any name.
            (_, Some(_), Some(_)) => return Err(ParseError::Framing),
            (_, Some(_), None) if version == Version::Http10 => return Err(ParseError::Framing),
            (MessageKind::Response(100..=199 | 204 | 304), _, _) => Framing::Length(0),
            (_, Some(Coding::Unknown), None) => return Err(ParseError::Coding),
            (_, Some(Coding::Empty | Coding::NotFinal), None) => return Err(ParseError::Framing),
            (_, Some(Coding::Chunked), None) => {
                Framing::Chunked(ChunkState::Size { digits: 0, size: 0 })
            }
            (_, None, Some(length)) if length > limits.body_bytes_max => {
                return Err(ParseError::BodyTooLarge);
            }
            (_, None, Some(length)) => Framing::Length(length),
            (MessageKind::Request, None, None) => Framing::Length(0),
            (MessageKind::Response(_), None, None) => Framing::UntilClose,
        };
        let (bytes_left, overhead_left) = (limits.body_bytes_max, limits.head_bytes_max);
        Ok(Body { kind, framing, bytes_left, overhead_left })
    }

    /// Returns true if there are no bytes to wait for.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.framing, Framing::Length(0))
    }

    /// Returns true if the body ends when the peer closes.
    pub(super) fn ends_by_close(&self) -> bool {
        matches!(self.framing, Framing::UntilClose)
    }

    /// Decodes `input`, moves it behind what was taken, and passes the data on. Returns true if
    /// the body is complete.
    pub(super) fn decode(
        &mut self,
        input: &mut &[u8],
        mut on_data: impl FnMut(&[u8]),
    ) -> Result<bool, ParseError> {
        loop {
            if let Framing::Length(0) | Framing::Chunked(ChunkState::End) = self.framing {
                return Ok(true);
            }
            let Some((&byte, rest)) = input.split_first() else { return Ok(false) };
            let data = match &mut self.framing {
                Framing::UntilClose => std::mem::take(input),
                Framing::Length(left) | Framing::Chunked(ChunkState::Data(left @ 1..)) => {
                    take(input, left)
                }
                Framing::Chunked(state) => {
                    *input = rest;
                    if state.is_overhead() {
                        let left = self.overhead_left.checked_sub(1);
                        self.overhead_left = left.ok_or(ParseError::TrailersTooLarge)?;
                    }
                    *state = state.next(byte, self.kind).ok_or(ParseError::Chunk)?;
                    if let ChunkState::Data(size) = state
                        && *size > self.bytes_left
                    {
                        return Err(ParseError::BodyTooLarge);
                    }
                    continue;
                }
            };
            let left = self.bytes_left.checked_sub(data.len() as u64);
            self.bytes_left = left.ok_or(ParseError::BodyTooLarge)?;
            on_data(data);
        }
    }
}

/// Takes up to `left` bytes off the front of `input`.
fn take<'a>(input: &mut &'a [u8], left: &mut u64) -> &'a [u8] {
    let count = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    let (data, rest) = input.split_at_checked(count).unwrap_or((input, b""));
    *left -= data.len() as u64;
    *input = rest;
    data
}

impl ChunkState {
    /// Returns true if the next byte belongs to an extension or a trailer.
    fn is_overhead(self) -> bool {
        use ChunkState::{Data, DataEnd, Size, SizeEnd};
        !matches!(self, Size { .. } | SizeEnd(_) | Data(_) | DataEnd)
    }

    /// The state after this byte; `None` if the byte is malformed.
    fn next(self, byte: u8, kind: MessageKind) -> Option<ChunkState> {
        use ChunkState::{
            Blank, Data, DataEnd, End, Extension, LastEnd, Size, SizeEnd, Trailer, TrailerEnd,
            TrailerName, TrailerValue,
        };
        /// A `u64` holds sixteen hexadecimal digits.
        const DIGITS_MAX: u8 = 16;
        Some(match (self, byte) {
            (Size { digits: 1.., size }, b'\r') => SizeEnd(size),
            (Size { digits: 1.., size } | Blank(size), b';') => {
                Extension(size, ExtensionState::Start)
            }
            (Size { digits: 1.., size } | Blank(size), b' ' | b'\t') => Blank(size),
            (Size { digits, size }, _) if digits < DIGITS_MAX => {
                Size { digits: digits + 1, size: size << 4 | u64::from(hex(byte)?) }
            }
            // Real servers send blanks there. They are harmless in a response, which is parsed here
            // and not forwarded.
            (Blank(size), b'\r') if kind != MessageKind::Request => SizeEnd(size),
            (Extension(size, state), b'\r') if state.can_end() => SizeEnd(size),
            (Extension(size, state), _) => Extension(size, state.next(byte)?),
            (SizeEnd(0) | TrailerEnd, b'\n') => Trailer,
            (SizeEnd(size), b'\n') => Data(size),
            (Data(_), b'\r') => DataEnd,
            (DataEnd, b'\n') => Size { digits: 0, size: 0 },
            (Trailer, b'\r') => LastEnd,
            (Trailer | TrailerName, _) if is_tchar(byte) => TrailerName,
            (TrailerName, b':') => TrailerValue,
            (TrailerValue, b'\r') => TrailerEnd,
            (TrailerValue, _) if is_field_byte(byte) => TrailerValue,
            (LastEnd, b'\n') => End,
            _ => return None,
        })
    }
}

impl ExtensionState {
    fn can_end(self) -> bool {
        matches!(self, ExtensionState::Name | ExtensionState::Value | ExtensionState::QuotedEnd)
    }

    /// The state after this byte; `None` if the byte is malformed.
    fn next(self, byte: u8) -> Option<ExtensionState> {
        use ExtensionState::{
            Name, NameBlank, Quoted, QuotedEnd, QuotedPair, Start, Value, ValueBlank, ValueStart,
        };
        Some(match (self, byte) {
            (Start | ValueStart, b' ' | b'\t') => self,
            (Start | Name, _) if is_tchar(byte) => Name,
            (Name | NameBlank, b' ' | b'\t') => NameBlank,
            (Name | NameBlank, b'=') => ValueStart,
            (Name | NameBlank | Value | ValueBlank | QuotedEnd, b';') => Start,
            (ValueStart | Value, _) if is_tchar(byte) => Value,
            (ValueStart, b'"') => Quoted,
            (Value | ValueBlank | QuotedEnd, b' ' | b'\t') => ValueBlank,
            (Quoted, b'"') => QuotedEnd,
            (Quoted, b'\\') => QuotedPair,
            (Quoted | QuotedPair, _) if is_field_byte(byte) => Quoted,
            _ => return None,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::every_split;
    use super::*;

    const LIMITS: Limits = Limits { head_bytes_max: 64, body_bytes_max: 32 };

    /// The data of a body and the bytes behind it, which are `None` while the body goes on.
    type Outcome = Result<(Vec<u8>, Option<Vec<u8>>), ParseError>;

    fn read(mut body: Body, pieces: &[&[u8]]) -> Outcome {
        let (mut data, mut rest) = (Vec::new(), None);
        for mut input in pieces.iter().copied() {
            while rest.is_none() {
                let is_complete = body.decode(&mut input, |piece| {
                    assert!(!piece.is_empty());
                    data.extend_from_slice(piece);
                })?;
                if !is_complete {
                    assert!(input.is_empty());
                    break;
                }
                rest = Some(Vec::new());
            }
            if let Some(rest) = &mut rest {
                rest.extend_from_slice(input);
            }
        }
        Ok((data, rest))
    }

    fn chunked(kind: MessageKind) -> Body {
        let fields = MessageHeaders { coding: Some(Coding::Chunked), ..MessageHeaders::default() };
        Body::new(kind, Version::Http11, &fields, &LIMITS).unwrap()
    }

    fn assert_chunked(input: &[u8], expected: &Outcome) {
        for pieces in every_split(input) {
            assert_eq!(
                read(chunked(MessageKind::Request), &pieces),
                *expected,
                "{}",
                input.escape_ascii()
            );
        }
    }

    #[test]
    fn decides_the_length_in_the_order_of_the_rfc() {
        use Coding::{Chunked, Empty, NotFinal, Unknown};
        use MessageKind::{Request, Response};
        use Version::{Http10, Http11};
        type Case =
            (MessageKind, Version, Option<Coding>, Option<u64>, Result<&'static str, ParseError>);
        const CASES: &[Case] = &[
            (Request, Http11, None, None, Ok("empty")),
            (Request, Http10, None, None, Ok("empty")),
            (Request, Http11, None, Some(0), Ok("empty")),
            (Request, Http11, None, Some(5), Ok("length")),
            (Request, Http10, None, Some(5), Ok("length")),
            (Request, Http11, None, Some(32), Ok("length")),
            (Request, Http11, None, Some(33), Err(ParseError::BodyTooLarge)),
            (Request, Http11, None, Some(u64::MAX), Err(ParseError::BodyTooLarge)),
            (Request, Http11, Some(Chunked), None, Ok("chunked")),
            (Request, Http11, Some(NotFinal), None, Err(ParseError::Framing)),
            (Request, Http11, Some(Empty), None, Err(ParseError::Framing)),
            (Request, Http11, Some(Empty), Some(0), Err(ParseError::Framing)),
            (Request, Http11, Some(Unknown), None, Err(ParseError::Coding)),
            // Both lengths at once.
            (Request, Http11, Some(Chunked), Some(0), Err(ParseError::Framing)),
            (Request, Http11, Some(Chunked), Some(33), Err(ParseError::Framing)),
            (Request, Http11, Some(NotFinal), Some(5), Err(ParseError::Framing)),
            (Request, Http11, Some(Unknown), Some(5), Err(ParseError::Framing)),
            (Request, Http10, Some(Chunked), Some(5), Err(ParseError::Framing)),
            // A coding in HTTP/1.0.
            (Request, Http10, Some(Chunked), None, Err(ParseError::Framing)),
            (Request, Http10, Some(Unknown), None, Err(ParseError::Framing)),
            (Response(200), Http11, None, None, Ok("until close")),
            (Response(500), Http10, None, None, Ok("until close")),
            (Response(200), Http11, None, Some(0), Ok("empty")),
            (Response(200), Http10, None, Some(5), Ok("length")),
            (Response(200), Http11, None, Some(33), Err(ParseError::BodyTooLarge)),
            (Response(404), Http11, Some(Chunked), None, Ok("chunked")),
            (Response(200), Http11, Some(NotFinal), None, Err(ParseError::Framing)),
            (Response(200), Http11, Some(Empty), None, Err(ParseError::Framing)),
            (Response(200), Http11, Some(Unknown), None, Err(ParseError::Coding)),
            (Response(200), Http11, Some(Chunked), Some(5), Err(ParseError::Framing)),
            (Response(200), Http10, Some(Chunked), None, Err(ParseError::Framing)),
            // Statuses without a body: their lengths describe another response.
            (Response(204), Http11, None, None, Ok("empty")),
            (Response(304), Http11, None, None, Ok("empty")),
            (Response(304), Http11, None, Some(5), Ok("empty")),
            (Response(304), Http11, None, Some(u64::MAX), Ok("empty")),
            (Response(304), Http11, Some(Chunked), None, Ok("empty")),
            (Response(204), Http11, None, Some(5), Ok("empty")),
            (Response(204), Http10, None, None, Ok("empty")),
            (Response(304), Http11, Some(Chunked), Some(5), Err(ParseError::Framing)),
            (Response(205), Http11, None, None, Ok("until close")),
        ];
        for case @ (of, version, coding, length, expected) in CASES {
            let fields =
                MessageHeaders { coding: *coding, length: *length, ..MessageHeaders::default() };
            let found = Body::new(*of, *version, &fields, &LIMITS).map(|body| match body.framing {
                Framing::Length(0) if body.is_empty() => "empty",
                Framing::Length(left) if Some(left) == *length => "length",
                Framing::Chunked(_) => "chunked",
                Framing::UntilClose if body.ends_by_close() => "until close",
                _ => "another",
            });
            assert_eq!(found, *expected, "{case:?}");
        }
    }

    #[test]
    fn reads_a_body_with_a_length_to_the_byte() {
        for (length, input, data, rest) in [
            (5, &b"hello"[..], &b"hello"[..], Some(&b""[..])),
            (5, b"hello GET", b"hello", Some(b" GET")),
            (5, b"hell", b"hell", None),
            (5, b"", b"", None),
            (1, b"\r\n", b"\r", Some(b"\n")),
        ] {
            let fields = MessageHeaders { length: Some(length), ..MessageHeaders::default() };
            for pieces in every_split(input) {
                let body =
                    Body::new(MessageKind::Request, Version::Http11, &fields, &LIMITS).unwrap();
                let expected = Ok((data.to_vec(), rest.map(<[u8]>::to_vec)));
                assert_eq!(read(body, &pieces), expected, "{length} {}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn limits_a_body_until_the_close() {
        let limit = [b'a'; 32];
        for (input, expected) in [
            (&b""[..], Ok((Vec::new(), None))),
            (b"0\r\n\r\n", Ok((b"0\r\n\r\n".to_vec(), None))),
            (&limit, Ok((limit.to_vec(), None))),
            (&[b'a'; 33], Err(ParseError::BodyTooLarge)),
        ] {
            for pieces in every_split(input) {
                let none = MessageHeaders::default();
                let body =
                    Body::new(MessageKind::Response(200), Version::Http11, &none, &LIMITS).unwrap();
                assert_eq!(read(body, &pieces), expected, "{}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn joins_chunks() {
        const CASES: &[(&[u8], &[u8])] = &[
            (b"0\r\n\r\n", b""),
            (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
            (b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!"),
            (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789"),
            (b"1f\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n0\r\n\r\n", &[b'a'; 31]),
            (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
            (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
            // Leading zeros, up to sixteen digits.
            (b"0000\r\n\r\n", b""),
            (b"0000000000000001\r\na\r\n0000000000000000\r\n\r\n", b"a"),
            // Extensions are dropped.
            (b"5;a\r\nhello\r\n0;b\r\n\r\n", b"hello"),
            (b"5;a=b;c=d\r\nhello\r\n0\r\n\r\n", b"hello"),
            (b"5 \t; \ta \t= \tb\r\nhello\r\n0 ;c\r\n\r\n", b"hello"),
            (b"5;a ;b\t; c=d ; e=\"\" ;f\r\nhello\r\n0\r\n\r\n", b"hello"),
            (b"5;a;a;!#$%&'*+-.^_`|~09azAZ=!\r\nhello\r\n0\r\n\r\n", b"hello"),
            (b"5;a=\"b\\\";c 0\"\r\nhello\r\n0\r\n\r\n", b"hello"),
            (b"5;a=\"\xc3\xa9\"\r\nhello\r\n0\r\n\r\n", b"hello"),
            // Trailers are dropped.
            (b"0\r\nA: b\r\n\r\n", b""),
            (b"1\r\na\r\n0\r\nA: b\r\nC:\r\nD: \t e \r\n\r\n", b"a"),
            (b"0\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\n\r\n", b""),
        ];
        for (input, data) in CASES {
            for rest in [&b""[..], b"\r\n", b"GET / HTTP/1.1"] {
                let expected = Ok((data.to_vec(), Some(rest.to_vec())));
                assert_chunked(&[input, rest].concat(), &expected);
            }
            for end in 0..input.len() {
                let unfinished = read(chunked(MessageKind::Request), &[&input[..end]]);
                assert!(matches!(unfinished, Ok((_, None))), "{}", input[..end].escape_ascii());
            }
        }
    }

    #[test]
    fn rejects_a_malformed_chunk_at_its_first_odd_byte() {
        const CASES: &[&[u8]] = &[
            // Sizes that other parsers take.
            b"+",
            b"-",
            b" ",
            b"0x",
            b"1_",
            b"1,",
            b"1\n",
            b"1 1",
            b"1 \r",
            b"1 a",
            b"00000000000000001",
            b"fffffffffffffffff",
            b"10000000000000000",
            // Lines within lines.
            b"1;a\n",
            b"1;a=\"b\n",
            b"1;a\r;",
            b"1;a\0",
            // Extensions without a name, without a value, with an open quote.
            b"1;\r",
            b"1; \r",
            b"1;;",
            b"1;a;\r",
            b"1; =",
            b"1;=",
            b"1;a=\r",
            b"1;a= \r",
            b"1;a=;",
            b"1;a==",
            b"1;a=b=",
            b"1;a=\"\r",
            b"1;a=\"b\\\r",
            b"1;a=\"b\"c",
            b"1;a=b\"",
            b"1;a b",
            b"1;a \r",
            b"1;a=b c",
            b"1;a=b \r",
            b"1;a=\"b\" \r",
            b"1;\"",
            b"1;a,",
            b"1;\xc3",
            b"1\r\na\n",
            b"1\r\na0",
            b"1\r\na\r\n\r",
            b"1\r\na\r\n\n",
            b"0\n",
            b"0\r\n\n",
            b"0\r\n ",
            b"0\r\n:",
            b"0\r\nA ",
            b"0\r\nA\r",
            b"0\r\nA: b\n",
            b"0\r\nA: b\rc",
            b"0\r\nA: b\r\n ",
            b"0\r\n\ra",
        ];
        for input in CASES {
            assert_chunked(input, &Err(ParseError::Chunk));
            let (_, before) = input.split_last().unwrap();
            assert!(
                read(chunked(MessageKind::Request), &[before]).is_ok(),
                "{}",
                before.escape_ascii()
            );
        }
    }

    #[test]
    fn accepts_each_byte_only_where_the_grammar_has_it() {
        const HEX: &str = "0123456789abcdefABCDEF";
        const TCHAR: &str = "!#$%&'*+-.^_`|~0123456789\
            abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let text = |byte: u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
        let hex = |byte: u8| HEX.as_bytes().contains(&byte);
        let tchar = |byte: u8| TCHAR.as_bytes().contains(&byte);
        let places: &[(&str, &dyn Fn(u8) -> bool)] = &[
            ("", &hex),
            ("1", &|byte| hex(byte) || b"\r; \t".contains(&byte)),
            ("1 ", &|byte| b"; \t".contains(&byte)),
            ("1;", &|byte| tchar(byte) || b" \t".contains(&byte)),
            ("1;a", &|byte| tchar(byte) || b"\r;= \t".contains(&byte)),
            ("1;a ", &|byte| b";= \t".contains(&byte)),
            ("1;a=", &|byte| tchar(byte) || b"\" \t".contains(&byte)),
            ("1;a=b", &|byte| tchar(byte) || b"\r; \t".contains(&byte)),
            ("1;a=b ", &|byte| b"; \t".contains(&byte)),
            ("1;a=\"", &text),
            ("1;a=\"\\", &text),
            ("1;a=\"\"", &|byte| b"\r; \t".contains(&byte)),
            ("1\r", &|byte| byte == b'\n'),
            ("1;a\r", &|byte| byte == b'\n'),
            ("1\r\n", &|_| true),
            ("1\r\na", &|byte| byte == b'\r'),
            ("1\r\na\r", &|byte| byte == b'\n'),
            ("1\r\na\r\n", &hex),
            ("0\r", &|byte| byte == b'\n'),
            ("0\r\n", &|byte| tchar(byte) || byte == b'\r'),
            ("0\r\nA", &|byte| tchar(byte) || byte == b':'),
            ("0\r\nA:", &|byte| text(byte) || byte == b'\r'),
            ("0\r\nA: b\r", &|byte| byte == b'\n'),
            ("0\r\nA: b\r\n", &|byte| tchar(byte) || byte == b'\r'),
            ("0\r\n\r", &|byte| byte == b'\n'),
        ];
        for (before, takes) in places {
            for byte in 0..=u8::MAX {
                let input = [before.as_bytes(), &[byte]].concat();
                let found = read(chunked(MessageKind::Request), &[&input]).map(drop);
                let expected = if takes(byte) { Ok(()) } else { Err(ParseError::Chunk) };
                assert_eq!(found, expected, "{}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn accepts_blanks_after_a_chunk_size_in_responses_alone() {
        for (input, is_lenient) in [
            (&b"1 \r\na\r\n0\t\r\n\r\n"[..], true),
            (b"1 \t ;a\r\na\r\n0 \r\n\r\n", true),
            (b"1;a \r\na\r\n0\r\n\r\n", false),
            (b"1 a\r\na\r\n0\r\n\r\n", false),
            (b" 1\r\na\r\n0\r\n\r\n", false),
            (b"1 \n", false),
        ] {
            let expected = if is_lenient {
                Ok((b"a".to_vec(), Some(Vec::new())))
            } else {
                Err(ParseError::Chunk)
            };
            assert_chunked(input, &Err(ParseError::Chunk));
            for pieces in every_split(input) {
                let found = read(chunked(MessageKind::Response(200)), &pieces);
                assert_eq!(found, expected, "{}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn limits_the_total_of_chunk_sizes() {
        const CASES: &[(&[u8], bool)] = &[
            (b"20\r\n", true),
            (b"21\r\n", false),
            (b"10\r\n0123456789abcdef\r\n10\r\n", true),
            (b"10\r\n0123456789abcdef\r\n11\r\n", false),
            (b"20\r\n0123456789abcdef0123456789abcdef\r\n0\r\n\r\n", true),
            (b"20\r\n0123456789abcdef0123456789abcdef\r\n1\r\n", false),
            (b"7fffffffffffffff\r\n", false),
            (b"8000000000000000\r\n", false),
            (b"ffffffffffffffff\r\n", false),
            (b"1\r\na\r\nffffffffffffffff\r\n", false),
        ];
        for (input, fits) in CASES {
            if *fits {
                assert!(
                    read(chunked(MessageKind::Request), &[input]).is_ok(),
                    "{}",
                    input.escape_ascii()
                );
            } else {
                assert_chunked(input, &Err(ParseError::BodyTooLarge));
            }
        }
    }

    #[test]
    fn limits_extensions_and_trailers_together() {
        const TOO_LARGE: Outcome = Err(ParseError::TrailersTooLarge);
        const WITHOUT_END: &[(&[u8], &[u8])] = &[
            (b"1;", b"a"),
            (b"1;", b" "),
            (b"1;a=\"", b"b"),
            (b"1", b" "),
            (b"0\r\n", b"A"),
            (b"0\r\nA:", b"a"),
            (b"0\r\n", b"A:\r\n"),
        ];
        for (start, more) in WITHOUT_END {
            assert_chunked(&[start, &more.repeat(70)[..]].concat(), &TOO_LARGE);
        }
        // A little in every chunk is as much as all in one.
        let input = b"1;abcdefgh\r\na\r\n".repeat(8);
        assert_chunked(&input, &TOO_LARGE);
        assert!(read(chunked(MessageKind::Request), &[&input[..60]]).is_ok());
        let (extension, trailer) = ([b'a'; 40], [b'b'; 40]);
        let input = [b"0;", &extension[..], b"\r\nA:", &trailer, b"\r\n\r\n"].concat();
        assert_chunked(&input, &TOO_LARGE);
    }
}

//! Message bodies: how long one is, and how to take it out of a stream.
//! Sockets and clocks are not known here; `server` and `client` have them.

use super::head::{self, Coding, Digest, hex};
use super::{Limits, Refusal, Version};

/// Which message a body belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Request,
    /// To a GET, with this status.
    Response(u16),
}

/// A body that is being taken out of a stream.
#[derive(Debug)]
pub(super) struct Body {
    framing: Framing,
    /// Bytes that it may still have.
    room: u64,
    /// Bytes that chunk extensions and trailers may still have, all together.
    spare: usize,
}

#[derive(Debug)]
enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Chunk),
    /// Whatever comes before the peer closes.
    UntilClose,
}

/// Where in a chunked body (RFC 9112 section 7.1) the next byte stands.
#[derive(Clone, Copy, Debug)]
enum Chunk {
    Size {
        digits: u8,
        size: u64,
    },
    /// Space after the size, before the `;` that must follow.
    Gap(u64),
    Extension(u64),
    SizeEnd(u64),
    /// So many bytes, then CRLF.
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

/// What `piece` found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Data(&'a [u8]),
    /// All input was taken, and the body goes on.
    More,
    End,
}

impl Body {
    /// The one decision how long a body is, in the order of RFC 9112 section 6.3.
    pub(super) fn of(
        message: Of,
        version: Version,
        fields: &Digest<'_>,
        limits: &Limits,
    ) -> Result<Body, Refusal> {
        let framing = match (message, fields.coding, fields.length) {
            // RFC 9112 6.1: both lengths at once is how requests are smuggled, and a coding in
            // HTTP/1.0 is faulty whatever it says.
            (_, Some(_), Some(_)) => return Err(Refusal::Framing),
            (_, Some(_), None) if version == Version::Http10 => return Err(Refusal::Framing),
            (Of::Response(100..=199 | 204 | 304), _, _) => Framing::Length(0),
            (_, Some(Coding::Unknown), None) => return Err(Refusal::Coding),
            (_, Some(Coding::NotFinal), None) => return Err(Refusal::Framing),
            (_, Some(Coding::Chunked), None) => {
                Framing::Chunked(Chunk::Size { digits: 0, size: 0 })
            }
            (_, None, Some(length)) if length > limits.body_bytes_max => {
                return Err(Refusal::BodyTooLarge);
            }
            (_, None, Some(length)) => Framing::Length(length),
            (Of::Request, None, None) => Framing::Length(0),
            (Of::Response(_), None, None) => Framing::UntilClose,
        };
        Ok(Body { framing, room: limits.body_bytes_max, spare: limits.head_bytes_max })
    }

    /// Whether there is nothing to wait for.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.framing, Framing::Length(0))
    }

    /// Whether the peer's close is this body's end, rather than a body cut short.
    pub(super) fn ends_by_close(&self) -> bool {
        matches!(self.framing, Framing::UntilClose)
    }

    /// Takes the next piece off the front of `input`.
    pub(super) fn piece<'a>(&mut self, input: &mut &'a [u8]) -> Result<Piece<'a>, Refusal> {
        let data = match &mut self.framing {
            Framing::Length(0) => return Ok(Piece::End),
            Framing::Length(left) => take(input, left),
            Framing::UntilClose => std::mem::take(input),
            Framing::Chunked(chunk) => loop {
                if let Chunk::Data(left @ 1..) = chunk {
                    break take(input, left);
                }
                if let Chunk::End = chunk {
                    return Ok(Piece::End);
                }
                let Some((&byte, rest)) = input.split_first() else { return Ok(Piece::More) };
                *input = rest;
                *chunk = chunk.next(byte, &mut self.spare)?;
                if let Chunk::Data(size) = chunk
                    && *size > self.room
                {
                    return Err(Refusal::BodyTooLarge);
                }
            },
        };
        if data.is_empty() {
            return Ok(Piece::More);
        }
        self.room = self.room.checked_sub(data.len() as u64).ok_or(Refusal::BodyTooLarge)?;
        Ok(Piece::Data(data))
    }
}

/// As much of `left` bytes as `input` has.
fn take<'a>(input: &mut &'a [u8], left: &mut u64) -> &'a [u8] {
    let count = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    let (data, rest) = input.split_at_checked(count).unwrap_or((input, b""));
    *left -= data.len() as u64;
    *input = rest;
    data
}

impl Chunk {
    fn next(self, byte: u8, spare: &mut usize) -> Result<Chunk, Refusal> {
        /// Sixteen hexadecimal digits are all that a `u64` holds.
        const DIGITS_MAX: u8 = 16;
        let framing = matches!(
            self,
            Chunk::Size { .. } | Chunk::SizeEnd(_) | Chunk::Data(_) | Chunk::DataEnd
        );
        if !framing {
            *spare = spare.checked_sub(1).ok_or(Refusal::TrailersTooLarge)?;
        }
        match (self, byte) {
            (Chunk::Size { digits, size }, _) if hex(byte).is_some() => match hex(byte) {
                Some(digit) if digits < DIGITS_MAX => {
                    Ok(Chunk::Size { digits: digits + 1, size: size << 4 | u64::from(digit) })
                }
                _ => Err(Refusal::Chunk),
            },
            (Chunk::Size { digits: 1.., size } | Chunk::Extension(size), b'\r') => {
                Ok(Chunk::SizeEnd(size))
            }
            (Chunk::Size { digits: 1.., size } | Chunk::Gap(size), b';') => {
                Ok(Chunk::Extension(size))
            }
            (Chunk::Size { digits: 1.., size } | Chunk::Gap(size), b' ' | b'\t') => {
                Ok(Chunk::Gap(size))
            }
            (Chunk::Extension(_), _) if head::is_field(byte) => Ok(self),
            (Chunk::SizeEnd(0) | Chunk::TrailerEnd, b'\n') => Ok(Chunk::Trailer),
            (Chunk::SizeEnd(size), b'\n') => Ok(Chunk::Data(size)),
            (Chunk::Data(_), b'\r') => Ok(Chunk::DataEnd),
            (Chunk::DataEnd, b'\n') => Ok(Chunk::Size { digits: 0, size: 0 }),
            (Chunk::Trailer, b'\r') => Ok(Chunk::LastEnd),
            (Chunk::Trailer | Chunk::TrailerName, _) if head::may_begin(byte) => {
                Ok(Chunk::TrailerName)
            }
            (Chunk::TrailerName, b':') => Ok(Chunk::TrailerValue),
            (Chunk::TrailerValue, b'\r') => Ok(Chunk::TrailerEnd),
            (Chunk::TrailerValue, _) if head::is_field(byte) => Ok(self),
            (Chunk::LastEnd, b'\n') => Ok(Chunk::End),
            _ => Err(Refusal::Chunk),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::every_way;
    use super::*;

    const LIMITS: Limits = Limits { head_bytes_max: 64, body_bytes_max: 32 };

    /// What becomes of a body: what was in it and what follows it, or why it was refused. `None`
    /// for the latter as long as it goes on.
    type Outcome = Result<(Vec<u8>, Option<Vec<u8>>), Refusal>;

    fn read(mut body: Body, pieces: &[&[u8]]) -> Outcome {
        let (mut data, mut rest) = (Vec::new(), None);
        for mut input in pieces.iter().copied() {
            while rest.is_none() {
                match body.piece(&mut input)? {
                    Piece::Data(piece) => {
                        assert!(!piece.is_empty());
                        data.extend_from_slice(piece);
                    }
                    Piece::More => {
                        assert!(input.is_empty());
                        break;
                    }
                    Piece::End => rest = Some(Vec::new()),
                }
            }
            if let Some(rest) = &mut rest {
                rest.extend_from_slice(input);
            }
        }
        Ok((data, rest))
    }

    fn chunked(limits: &Limits) -> Body {
        let fields = Digest { coding: Some(Coding::Chunked), ..Digest::default() };
        Body::of(Of::Request, Version::Http11, &fields, limits).unwrap()
    }

    fn assert_chunked(input: &[u8], expected: &Outcome) {
        for pieces in every_way(input) {
            assert_eq!(read(chunked(&LIMITS), &pieces), *expected, "{}", input.escape_ascii());
        }
    }

    #[test]
    fn a_length_is_decided_in_the_order_of_the_rfc() {
        use Coding::{Chunked, NotFinal, Unknown};
        use Of::{Request, Response};
        use Version::{Http10, Http11};
        type Case = (Of, Version, Option<Coding>, Option<u64>, Result<&'static str, Refusal>);
        const CASES: &[Case] = &[
            (Request, Http11, None, None, Ok("empty")),
            (Request, Http10, None, None, Ok("empty")),
            (Request, Http11, None, Some(0), Ok("empty")),
            (Request, Http11, None, Some(5), Ok("length")),
            (Request, Http10, None, Some(5), Ok("length")),
            (Request, Http11, None, Some(32), Ok("length")),
            (Request, Http11, None, Some(33), Err(Refusal::BodyTooLarge)),
            (Request, Http11, None, Some(u64::MAX), Err(Refusal::BodyTooLarge)),
            (Request, Http11, Some(Chunked), None, Ok("chunked")),
            (Request, Http11, Some(NotFinal), None, Err(Refusal::Framing)),
            (Request, Http11, Some(Unknown), None, Err(Refusal::Coding)),
            // Both lengths at once, whatever they say.
            (Request, Http11, Some(Chunked), Some(0), Err(Refusal::Framing)),
            (Request, Http11, Some(Chunked), Some(33), Err(Refusal::Framing)),
            (Request, Http11, Some(NotFinal), Some(5), Err(Refusal::Framing)),
            (Request, Http11, Some(Unknown), Some(5), Err(Refusal::Framing)),
            (Request, Http10, Some(Chunked), Some(5), Err(Refusal::Framing)),
            // A coding in HTTP/1.0.
            (Request, Http10, Some(Chunked), None, Err(Refusal::Framing)),
            (Request, Http10, Some(Unknown), None, Err(Refusal::Framing)),
            (Response(200), Http11, None, None, Ok("until close")),
            (Response(500), Http10, None, None, Ok("until close")),
            (Response(200), Http11, None, Some(0), Ok("empty")),
            (Response(200), Http10, None, Some(5), Ok("length")),
            (Response(200), Http11, None, Some(33), Err(Refusal::BodyTooLarge)),
            (Response(404), Http11, Some(Chunked), None, Ok("chunked")),
            (Response(200), Http11, Some(NotFinal), None, Err(Refusal::Framing)),
            (Response(200), Http11, Some(Unknown), None, Err(Refusal::Coding)),
            (Response(200), Http11, Some(Chunked), Some(5), Err(Refusal::Framing)),
            (Response(200), Http10, Some(Chunked), None, Err(Refusal::Framing)),
            // Statuses without a body, whose lengths speak of another answer.
            (Response(204), Http11, None, None, Ok("empty")),
            (Response(304), Http11, None, None, Ok("empty")),
            (Response(304), Http11, None, Some(5), Ok("empty")),
            (Response(304), Http11, None, Some(u64::MAX), Ok("empty")),
            (Response(304), Http11, Some(Chunked), None, Ok("empty")),
            (Response(204), Http11, None, Some(5), Ok("empty")),
            (Response(204), Http10, None, None, Ok("empty")),
            (Response(304), Http11, Some(Chunked), Some(5), Err(Refusal::Framing)),
            (Response(205), Http11, None, None, Ok("until close")),
        ];
        for case @ (of, version, coding, length, expected) in CASES {
            let fields = Digest { coding: *coding, length: *length, ..Digest::default() };
            let found = Body::of(*of, *version, &fields, &LIMITS).map(|body| match body.framing {
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
    fn a_body_with_a_length_is_taken_to_the_byte() {
        for (length, input, data, rest) in [
            (5, &b"hello"[..], &b"hello"[..], Some(&b""[..])),
            (5, b"hello GET", b"hello", Some(b" GET")),
            (5, b"hell", b"hell", None),
            (5, b"", b"", None),
            (1, b"\r\n", b"\r", Some(b"\n")),
        ] {
            let fields = Digest { length: Some(length), ..Digest::default() };
            for pieces in every_way(input) {
                let body = Body::of(Of::Request, Version::Http11, &fields, &LIMITS).unwrap();
                let expected = Ok((data.to_vec(), rest.map(<[u8]>::to_vec)));
                assert_eq!(read(body, &pieces), expected, "{length} {}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn a_body_until_the_close_is_bounded() {
        let limit = [b'a'; 32];
        for (input, expected) in [
            (&b""[..], Ok((Vec::new(), None))),
            (b"0\r\n\r\n", Ok((b"0\r\n\r\n".to_vec(), None))),
            (&limit, Ok((limit.to_vec(), None))),
            (&[b'a'; 33], Err(Refusal::BodyTooLarge)),
        ] {
            for pieces in every_way(input) {
                let none = Digest::default();
                let body = Body::of(Of::Response(200), Version::Http11, &none, &LIMITS).unwrap();
                assert_eq!(read(body, &pieces), expected, "{}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn chunks_are_put_together() {
        const CASES: &[(&[u8], &[u8])] = &[
            (b"0\r\n\r\n", b""),
            (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
            (b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!"),
            (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789"),
            (b"1f\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n0\r\n\r\n", &[b'a'; 31]),
            (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
            (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
            // Zeros: as many as sixteen digits hold.
            (b"0000\r\n\r\n", b""),
            (b"0000000000000001\r\na\r\n0000000000000000\r\n\r\n", b"a"),
            // Extensions, which are nobody's here.
            (b"5;a\r\nhello\r\n0;b\r\n\r\n", b"hello"),
            (b"5;a=b;c=d\r\nhello\r\n0\r\n\r\n", b"hello"),
            (b"5;\r\nhello\r\n0\r\n\r\n", b"hello"),
            (b"5 \t; \ta \t= \tb\r\nhello\r\n0 ;c\r\n\r\n", b"hello"),
            (b"5;a=\"b\\\";c 0\"\r\nhello\r\n0\r\n\r\n", b"hello"),
            (b"5;a=\"\xc3\xa9\"\r\nhello\r\n0\r\n\r\n", b"hello"),
            // Trailers, which nobody asks for.
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
                let unfinished = read(chunked(&LIMITS), &[&input[..end]]);
                assert!(matches!(unfinished, Ok((_, None))), "{}", input[..end].escape_ascii());
            }
        }
    }

    #[test]
    fn a_malformed_chunk_is_refused_at_its_first_odd_byte() {
        const CASES: &[&[u8]] = &[
            // Sizes that other readers take.
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
            assert_chunked(input, &Err(Refusal::Chunk));
            let (_, before) = input.split_last().unwrap();
            assert!(read(chunked(&LIMITS), &[before]).is_ok(), "{}", before.escape_ascii());
        }
    }

    #[test]
    fn every_place_in_a_chunk_takes_its_own_bytes_only() {
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
            ("1;", &|byte| text(byte) || byte == b'\r'),
            ("1\r", &|byte| byte == b'\n'),
            ("1;\r", &|byte| byte == b'\n'),
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
                let found = read(chunked(&LIMITS), &[&input]).map(drop);
                let expected = if takes(byte) { Ok(()) } else { Err(Refusal::Chunk) };
                assert_eq!(found, expected, "{}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn chunks_are_bounded_in_total_before_they_are_read() {
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
                assert!(read(chunked(&LIMITS), &[input]).is_ok(), "{}", input.escape_ascii());
            } else {
                assert_chunked(input, &Err(Refusal::BodyTooLarge));
            }
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded_together() {
        const REFUSED: Outcome = Err(Refusal::TrailersTooLarge);
        const WITHOUT_END: &[(&[u8], &[u8])] = &[
            (b"1;", b"a"),
            (b"1", b" "),
            (b"0\r\n", b"A"),
            (b"0\r\nA:", b"a"),
            (b"0\r\n", b"A:\r\n"),
        ];
        for (start, more) in WITHOUT_END {
            assert_chunked(&[start, &more.repeat(70)[..]].concat(), &REFUSED);
        }
        // A little in every chunk is as much as all in one.
        let input = b"1;abcdefgh\r\na\r\n".repeat(8);
        assert_chunked(&input, &REFUSED);
        assert!(read(chunked(&LIMITS), &[&input[..60]]).is_ok());
        let (extension, trailer) = ([b'a'; 40], [b'b'; 40]);
        let input = [b"0;", &extension[..], b"\r\nA:", &trailer, b"\r\n\r\n"].concat();
        assert_chunked(&input, &REFUSED);
    }
}

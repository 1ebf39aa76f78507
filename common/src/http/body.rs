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
        if matches!(
            self,
            Chunk::Gap(_) | Chunk::Extension(_) | Chunk::TrailerName | Chunk::TrailerValue
        ) {
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

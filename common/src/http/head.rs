//! Heads: bytes to start lines and fields, by the grammar of RFC 9110 and RFC 9112. Where
//! leniency would let two readers see different messages, there is none.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use super::{Content, Date, Method, Refusal, Request, Response, Then, Version};

/// More fields than any client sends; each costs a pass over its name.
const FIELDS_MAX: usize = 128;

/// Where the head at the start of `bytes` ends, blank line included. `searched` is how far an
/// earlier call came; it is moved forward, so that no byte is looked at twice.
pub(super) fn end(bytes: &[u8], searched: &mut usize) -> Result<Option<usize>, Refusal> {
    loop {
        let Some(found) = bytes.get(*searched..).and_then(|rest| find(rest, b'\n')) else {
            *searched = bytes.len();
            return Ok(None);
        };
        let at = *searched + found;
        *searched = at + 1;
        let line = bytes.get(..at).unwrap_or_default();
        match line {
            [.., b'\n', b'\r'] | [b'\r'] => return Ok(Some(at + 1)),
            [.., b'\r'] => {}
            // RFC 9112 2.2 lets a bare LF end a line; two readers then split heads differently.
            _ if line.contains(&b'\n') => return Err(Refusal::Field),
            _ => return Err(Refusal::StartLine),
        }
    }
}

/// What a request's head says of the message, checked (RFC 9112 section 3).
#[derive(Debug)]
pub(super) struct RequestHead<'a> {
    pub(super) method: Method<'a>,
    pub(super) version: Version,
    pub(super) digest: Digest<'a>,
}

/// Reads a whole request head, blank line included.
pub(super) fn request(head: &[u8]) -> Result<RequestHead<'_>, Refusal> {
    let (line, rest) = split_line(head).ok_or(Refusal::StartLine)?;
    let (method, line) = split(line, b' ').ok_or(Refusal::StartLine)?;
    let (target, version) = split(line, b' ').ok_or(Refusal::StartLine)?;
    if !is_token(method) {
        return Err(Refusal::StartLine);
    }
    let version = read_version(version).ok_or(Refusal::StartLine)??;
    let method = Method::of(method);
    path(method, target).ok_or(Refusal::Target)?;
    let digest = Digest::of(rest)?;
    // RFC 9112 3.2: 400 for none in 1.1, for more than one, and for an invalid one.
    match digest.hosts {
        0 if version == Version::Http10 => {}
        1 if is_authority(digest.host) => {}
        _ => return Err(Refusal::Host),
    }
    Ok(RequestHead { method, version, digest })
}

/// Reads a head again that `request` has found good: what a request shows of it.
pub(super) fn reread(head: &[u8]) -> Option<Request<'_>> {
    let (line, rest) = split_line(head)?;
    let (method, line) = split(line, b' ')?;
    let (target, version) = split(line, b' ')?;
    let method = Method::of(method);
    let path = path(method, target)?;
    let version = read_version(version)?.ok()?;
    Some(Request { method, path, version, fields: Fields(rest) })
}

/// A status line and the fields after it, checked (RFC 9112 section 4).
#[derive(Debug)]
pub(super) struct ResponseHead<'a> {
    pub(super) status: u16,
    pub(super) version: Version,
    pub(super) digest: Digest<'a>,
}

/// Reads a whole response head, blank line included.
pub(super) fn response(head: &[u8]) -> Result<ResponseHead<'_>, Refusal> {
    let (line, rest) = split_line(head).ok_or(Refusal::StartLine)?;
    let (version, line) = split(line, b' ').ok_or(Refusal::StartLine)?;
    let version = read_version(version).ok_or(Refusal::StartLine)??;
    // The reason is optional; many servers leave out the space before an empty one as well.
    let (code, reason) = split(line, b' ').unwrap_or((line, b""));
    let status = match code {
        [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'] => {
            code.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'))
        }
        _ => return Err(Refusal::StartLine),
    };
    if !reason.iter().all(|&byte| is(byte, FIELD)) {
        return Err(Refusal::StartLine);
    }
    let digest = Digest::of(rest)?;
    Ok(ResponseHead { status, version, digest })
}

/// `None` is no version at all; `Err` one that is not spoken here.
fn read_version(bytes: &[u8]) -> Option<Result<Version, Refusal>> {
    match bytes {
        b"HTTP/1.1" => Some(Ok(Version::Http11)),
        b"HTTP/1.0" => Some(Ok(Version::Http10)),
        b"HTTP/1.2" | b"HTTP/1.3" | b"HTTP/1.4" | b"HTTP/1.5" | b"HTTP/1.6" | b"HTTP/1.7"
        | b"HTTP/1.8" | b"HTTP/1.9" => Some(Ok(Version::Http11)),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            Some(Err(Refusal::Version))
        }
        _ => None,
    }
}

/// The decoded path of a request target (RFC 9112 section 3.2), or `None` where the form does not
/// fit the method or a byte does not fit the form.
fn path<'a>(method: Method<'_>, target: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    match (method, target) {
        // The authority-form names no resource of ours; the method will be refused.
        (Method::Connect, _) => (!port(target)?.is_empty()).then_some(Cow::Borrowed(target)),
        (Method::Options, b"*") => Some(Cow::Borrowed(target)),
        (_, b"/") => Some(Cow::Borrowed(target)),
        (_, [b'/', ..]) => decoded(target),
        _ => {
            let (scheme, rest) = target.split_at_checked(7)?;
            if !scheme.eq_ignore_ascii_case(b"http://") {
                return None;
            }
            let cut = rest.iter().position(|&byte| matches!(byte, b'/' | b'?'));
            let (authority, path) = rest.split_at_checked(cut.unwrap_or(rest.len()))?;
            match path {
                _ if !is_authority(authority) => None,
                b"" if method == Method::Options => Some(Cow::Borrowed(b"*")),
                [b'/', ..] => decoded(path),
                _ => decoded(path).map(|_| Cow::Borrowed(&b"/"[..])),
            }
        }
    }
}

/// Checks path and query, and decodes the path: `/%74raceback` is `/traceback`.
fn decoded(target: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (path, query) = split(target, b'?').unwrap_or((target, b""));
    escapes(query, QUERY)?;
    match escapes(path, TARGET)? {
        0 => Some(Cow::Borrowed(path)),
        _ => Some(Cow::Owned(unescaped(path))),
    }
}

/// How many `%XX` there are; `None` for a broken one, or another byte outside the class.
fn escapes(bytes: &[u8], class: u8) -> Option<usize> {
    if bytes.iter().all(|&byte| is(byte, class)) {
        return Some(0);
    }
    let mut count = 0;
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        rest = match (byte, after) {
            _ if is(byte, class) => after,
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                count += 1;
                after
            }
            _ => return None,
        };
    }
    Some(count)
}

/// The bytes with every `%XX` replaced.
fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        let (value, after) = match after {
            [high, low, after @ ..] if byte == b'%' => {
                (hex(*high).zip(hex(*low)).map_or(byte, |(high, low)| high << 4 | low), after)
            }
            _ => (byte, after),
        };
        plain.push(value);
        rest = after;
    }
    plain
}

/// The value of a hexadecimal digit.
pub(super) fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// `uri-host [ ":" port ]`, not empty (RFC 9110 sections 4.2.1 and 7.2).
fn is_authority(bytes: &[u8]) -> bool {
    port(bytes).is_some()
}

/// The port of an authority, empty if it has none; `None` for no authority at all.
fn port(bytes: &[u8]) -> Option<&[u8]> {
    let (host_is_valid, port) = match bytes {
        [b'[', rest @ ..] => {
            let (address, after) = split(rest, b']')?;
            let address = std::str::from_utf8(address).ok().map(str::parse::<Ipv6Addr>);
            let port = if after.is_empty() { Some(after) } else { after.strip_prefix(b":") };
            (matches!(address, Some(Ok(_))) && port.is_some(), port.unwrap_or_default())
        }
        _ => {
            let (host, port) = split(bytes, b':').unwrap_or((bytes, b""));
            (!host.is_empty() && escapes(host, NAME).is_some(), port)
        }
    };
    // `http://host:/` is valid: an empty port is the default one (RFC 3986 section 3.2.3).
    let port_is_valid =
        port.is_empty() || decimal(port).is_some_and(|port| u16::try_from(port).is_ok());
    (host_is_valid && port_is_valid).then_some(port)
}

/// The fields of a head, checked once and found again when asked for.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [u8]);

/// What the fields say of the message itself, gathered in the one pass that checks them.
#[derive(Debug, Default)]
pub(super) struct Digest<'a> {
    pub(super) hosts: usize,
    pub(super) host: &'a [u8],
    /// Content-Length, at most one: a second is refused on sight.
    pub(super) length: Option<u64>,
    pub(super) coding: Option<Coding>,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
}

/// What `Transfer-Encoding` says, all its fields together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// `chunked` and nothing else.
    Chunked,
    /// Known codings, of which the last is not `chunked` or `chunked` is not the last alone.
    NotFinal,
    /// A coding that is not understood, or one under `chunked` that is not undone here.
    Unknown,
}

impl<'a> Fields<'a> {
    /// The value of the first field of this name.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        let mut rest = self.0;
        while let Some((line, after)) = split_line(rest) {
            let (found, value) = split(line, b':')?;
            if found.eq_ignore_ascii_case(name.as_bytes()) {
                return Some(value.trim_ascii());
            }
            rest = after;
        }
        None
    }
}

impl<'a> Digest<'a> {
    /// Checks the lines up to the blank one.
    fn of(fields: &'a [u8]) -> Result<Digest<'a>, Refusal> {
        let mut digest = Digest::default();
        let mut rest = fields;
        let mut count = 0;
        loop {
            let (line, after) = split_line(rest).ok_or(Refusal::Field)?;
            if line.is_empty() {
                return Ok(digest);
            }
            count += 1;
            if count > FIELDS_MAX {
                return Err(Refusal::HeadTooLarge);
            }
            let (name, value) = field(line).ok_or(Refusal::Field)?;
            digest.note(name, value)?;
            rest = after;
        }
    }

    fn note(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Refusal> {
        // Lengths first: most names stop there.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                self.host = value;
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                // RFC 9110 10.1.1: a list, of which only this member is defined.
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::Expectation);
                }
                self.expects_continue = true;
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                // RFC 9112 6.3 allows equal repetitions to be folded; a smuggler's tool, so no.
                let length = decimal(value).ok_or(Refusal::Length)?;
                if self.length.replace(length).is_some() {
                    return Err(Refusal::Length);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                for coding in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    self.coding = Some(Coding::then(self.coding, coding));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Coding {
    fn then(before: Option<Coding>, coding: &[u8]) -> Coding {
        const KNOWN: [&[u8]; 6] =
            [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", b"identity"];
        let chunked = coding.eq_ignore_ascii_case(b"chunked");
        let known = chunked || KNOWN.iter().any(|known| coding.eq_ignore_ascii_case(known));
        match before {
            None if chunked => Coding::Chunked,
            None if known || coding.is_empty() => Coding::NotFinal,
            // A coding under `chunked`: understood perhaps, undone never.
            Some(Coding::NotFinal) if chunked => Coding::Unknown,
            Some(Coding::NotFinal | Coding::Chunked) if known || coding.is_empty() => {
                Coding::NotFinal
            }
            _ => Coding::Unknown,
        }
    }
}

/// Splits a field line (RFC 9112 section 5): no space before the colon, no folded line.
pub(super) fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, value) = split(line, b':')?;
    let valid = is_token(name) && value.iter().all(|&byte| is(byte, FIELD));
    // `trim_ascii` takes more than space and tab, but nothing more is valid here.
    valid.then(|| (name, value.trim_ascii()))
}

/// Digits only: `str::parse` would take a sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether a request can begin with this byte: other protocols are told at once.
pub(super) fn may_begin(byte: u8) -> bool {
    is(byte, TOKEN)
}

/// Whether a field's value can hold this byte.
pub(super) fn is_field(byte: u8) -> bool {
    is(byte, FIELD)
}

/// Writes a response's head, and its body unless `body` says not to.
pub(super) fn write_response(
    response: &Response,
    date: &Date,
    connection: Option<Then>,
    body: bool,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(response.status.line());
    out.extend_from_slice(b"Date: ");
    out.extend_from_slice(date);
    match connection {
        None => {}
        Some(Then::Keep) => out.extend_from_slice(b"\r\nConnection: keep-alive"),
        Some(Then::Close) => out.extend_from_slice(b"\r\nConnection: close"),
    }
    if let Some(allow) = response.allow {
        out.extend_from_slice(b"\r\nAllow: ");
        out.extend_from_slice(allow.as_bytes());
    }
    // RFC 9110 8.6: no Content-Length in a 204.
    if response.status == super::Status::NoContent {
        out.extend_from_slice(b"\r\n\r\n");
        return;
    }
    out.extend_from_slice(match response.content {
        Content::Json => b"\r\nContent-Type: application/json\r\nContent-Length: ",
        Content::Metrics => {
            b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: "
        }
    });
    write_decimal(response.body.len(), out);
    out.extend_from_slice(b"\r\n\r\n");
    if body {
        out.extend_from_slice(&response.body);
    }
}

fn write_decimal(number: usize, out: &mut Vec<u8>) {
    if number >= 10 {
        write_decimal(number / 10, out);
    }
    out.push(b'0' + (number % 10) as u8);
}

// ---------- the grammar ----------

/// `tchar`: methods and field names (RFC 9110 section 5.6.2).
const TOKEN: u8 = 1;
/// `field-vchar`, space and tab: field values and reasons (RFC 9110 section 5.5).
const FIELD: u8 = 2;
/// `pchar` without escapes, and `/`: paths (RFC 3986 section 3.3).
const TARGET: u8 = 4;
/// The same and `?`: queries (RFC 3986 section 3.4).
const QUERY: u8 = 8;
/// `reg-name` without escapes: hosts (RFC 3986 section 3.2.2).
const NAME: u8 = 16;

const CLASSES: [u8; 256] = classes();

#[allow(clippy::indexing_slicing)] // at compile time
const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let this = byte as u8;
        let alphanumeric = this.is_ascii_alphanumeric();
        let unreserved = alphanumeric || matches!(this, b'-' | b'.' | b'_' | b'~');
        let delimiter = matches!(
            this,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
        );
        let mark = matches!(
            this,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        );
        classes[byte] = if alphanumeric || mark { TOKEN } else { 0 }
            | if matches!(this, b'\t' | b' '..=b'~' | 0x80..) { FIELD } else { 0 }
            | if unreserved || delimiter || matches!(this, b':' | b'@' | b'/') {
                TARGET | QUERY
            } else {
                0
            }
            | if this == b'?' { QUERY } else { 0 }
            | if unreserved || delimiter { NAME } else { 0 };
        byte += 1;
    }
    classes
}

#[allow(clippy::indexing_slicing)] // every byte is below 256
fn is(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is(byte, TOKEN))
}

/// Where the byte first stands: eight at a time, as heads are made of searches.
fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let (words, rest) = bytes.as_chunks::<8>();
    for (word, at) in words.iter().zip((0..).step_by(8)) {
        let zero_where_equal = u64::from_le_bytes(*word) ^ (LOW * u64::from(wanted));
        // The lowest set bit stands in the first byte that is zero.
        let equal = zero_where_equal.wrapping_sub(LOW) & !zero_where_equal & (LOW << 7);
        if equal != 0 {
            return Some(at + equal.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|&byte| byte == wanted)?;
    Some(words.len() * 8 + at)
}

/// Whether `bytes` begin so, eight at a time: musl compares one by one.
pub(super) fn begins(bytes: &[u8], so: &[u8]) -> bool {
    let Some(bytes) = bytes.get(..so.len()) else { return false };
    let ((words, rest), (so_words, so_rest)) = (bytes.as_chunks::<8>(), so.as_chunks::<8>());
    let equal = |(a, b): (&[u8; 8], &[u8; 8])| u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b);
    words.iter().zip(so_words).all(equal) && rest.iter().eq(so_rest)
}

/// What stands before and after the first `at`.
fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let (before, after) = bytes.split_at_checked(find(bytes, at)?)?;
    Some((before, after.get(1..)?))
}

/// The first line, without its CRLF, and what follows; a CR elsewhere stays in and is refused.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (line, rest) = split(bytes, b'\n')?;
    Some((line.strip_suffix(b"\r")?, rest))
}

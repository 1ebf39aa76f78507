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
    pub(super) outline: Outline,
    pub(super) method: Method<'a>,
    pub(super) version: Version,
    pub(super) digest: Digest<'a>,
}

/// Where the parts of a request head end, in bytes from its start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outline {
    method: usize,
    target: usize,
    line: usize,
}

/// Reads a whole request head, blank line included.
pub(super) fn request(head: &[u8]) -> Result<RequestHead<'_>, Refusal> {
    let (line, rest) = split_line(head).ok_or(Refusal::StartLine)?;
    let (method, line) = split(line, b' ').ok_or(Refusal::StartLine)?;
    let (target, version) = split(line, b' ').ok_or(Refusal::StartLine)?;
    if !is_token(method) {
        return Err(Refusal::StartLine);
    }
    let outline = Outline {
        method: method.len(),
        target: method.len() + 1 + target.len(),
        line: head.len() - rest.len(),
    };
    let version = read_version(version).ok_or(Refusal::StartLine)??;
    let method = Method::of(method);
    path(method, target).ok_or(Refusal::Target)?;
    let digest = Digest::of(rest)?;
    if digest.expects_more {
        return Err(Refusal::Expectation);
    }
    // RFC 9112 3.2: 400 for none in 1.1, for more than one, and for an invalid one.
    match digest.hosts {
        0 if version == Version::Http10 => {}
        1 if is_authority(digest.host) => {}
        _ => return Err(Refusal::Host),
    }
    Ok(RequestHead { outline, method, version, digest })
}

/// Reads a head again that `request` has found good: what a request shows of it.
pub(super) fn reread(head: &[u8], outline: Outline, version: Version) -> Option<Request<'_>> {
    let method = Method::of(head.get(..outline.method)?);
    let path = path(method, head.get(outline.method + 1..outline.target)?)?;
    Some(Request { method, path, version, fields: Fields(head.get(outline.line..)?) })
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
    if !query.iter().all(|&byte| is(byte, QUERY)) {
        return None;
    }
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
#[allow(clippy::struct_excessive_bools)] // any of them may stand beside any other
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
    pub(super) expects_more: bool,
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
                let known = value.eq_ignore_ascii_case(b"100-continue");
                self.expects_continue |= known;
                self.expects_more |= !known;
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

fn write_decimal(mut number: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut length = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        length += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(20 - length..).unwrap_or_default());
}

// ---------- the grammar ----------

/// `tchar`: methods and field names (RFC 9110 section 5.6.2).
const TOKEN: u8 = 1;
/// `field-vchar`, space and tab: field values and reasons (RFC 9110 section 5.5).
const FIELD: u8 = 2;
/// `pchar` without escapes, and `/`: paths (RFC 3986 section 3.3).
const TARGET: u8 = 4;
/// Queries: more than RFC 3986 section 3.4 has, because nothing is read out of them here, and
/// browsers leave brackets and a lone `%` as they are (WHATWG URL, query percent-encode set).
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
                TARGET
            } else {
                0
            }
            | if matches!(this, b'!' | b'$'..=b';' | b'=' | b'?'..=b'~') { QUERY } else { 0 }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::{Status, every_way};
    use super::*;

    /// Some bytes, and what they are to be taken for.
    type Case<T> = (&'static [u8], T);

    /// A request head, and what it shows once it has been found good.
    fn read(head: &[u8]) -> Result<Request<'_>, Refusal> {
        request(head).map(|found| reread(head, found.outline, found.version).unwrap())
    }

    fn with_line(line: &[u8]) -> Vec<u8> {
        [line, b"\r\nHost: h\r\n\r\n"].concat()
    }

    fn with_fields(fields: &[u8]) -> Vec<u8> {
        [b"GET / HTTP/1.1\r\nHost: h\r\n", fields, b"\r\n"].concat()
    }

    #[test]
    fn a_request_line_has_three_words_and_two_spaces() {
        const CASES: &[Case<Result<(), Refusal>>] = &[
            (b"GET / HTTP/1.1", Ok(())),
            (b"get / HTTP/1.1", Ok(())),
            (b"BREW / HTTP/1.1", Ok(())),
            (b"!#$%&'*+-.^_`|~09azAZ / HTTP/1.1", Ok(())),
            (b"", Err(Refusal::StartLine)),
            (b" ", Err(Refusal::StartLine)),
            (b"GET", Err(Refusal::StartLine)),
            (b"GET /", Err(Refusal::StartLine)),
            (b"GET HTTP/1.1", Err(Refusal::StartLine)),
            (b" GET / HTTP/1.1", Err(Refusal::StartLine)),
            (b"GET / HTTP/1.1 ", Err(Refusal::StartLine)),
            (b"GET  / HTTP/1.1", Err(Refusal::StartLine)),
            (b"GET /  HTTP/1.1", Err(Refusal::StartLine)),
            (b"GET / / HTTP/1.1", Err(Refusal::StartLine)),
            (b"GET\t/ HTTP/1.1", Err(Refusal::StartLine)),
            (b"GET /\tHTTP/1.1", Err(Refusal::StartLine)),
            (b"GET\x0b/\x0bHTTP/1.1", Err(Refusal::StartLine)),
            (b"GET\r/ HTTP/1.1", Err(Refusal::StartLine)),
            (b"GET: / HTTP/1.1", Err(Refusal::StartLine)),
            (b"G(T / HTTP/1.1", Err(Refusal::StartLine)),
            (b"G\0T / HTTP/1.1", Err(Refusal::StartLine)),
            (b"G\xc3\x89T / HTTP/1.1", Err(Refusal::StartLine)),
            (b"\"GET\" / HTTP/1.1", Err(Refusal::StartLine)),
        ];
        for (line, expected) in CASES {
            let case = line.escape_ascii();
            assert_eq!(read(&with_line(line)).map(drop), *expected, "{case}");
        }
    }

    #[test]
    fn a_method_is_known_by_its_exact_token() {
        let known: &[Method<'_>] = &[
            Method::Get,
            Method::Head,
            Method::Post,
            Method::Put,
            Method::Delete,
            Method::Options,
            Method::Trace,
            Method::Patch,
            Method::Other(b"Get"),
            Method::Other(b"GETS"),
            Method::Other(b"PRI"),
        ];
        for method in known {
            let head = with_line(&[method.token(), b" / HTTP/1.1"].concat());
            assert_eq!(read(&head).unwrap().method, *method);
        }
    }

    #[test]
    fn a_version_is_one_of_the_first_or_refused() {
        const CASES: &[Case<Result<Version, Refusal>>] = &[
            (b"HTTP/1.0", Ok(Version::Http10)),
            (b"HTTP/1.1", Ok(Version::Http11)),
            (b"HTTP/1.2", Ok(Version::Http11)),
            (b"HTTP/1.9", Ok(Version::Http11)),
            (b"HTTP/0.9", Err(Refusal::Version)),
            (b"HTTP/2.0", Err(Refusal::Version)),
            (b"HTTP/9.9", Err(Refusal::Version)),
            (b"", Err(Refusal::StartLine)),
            (b"HTTP/1", Err(Refusal::StartLine)),
            (b"HTTP/2", Err(Refusal::StartLine)),
            (b"HTTP/1.", Err(Refusal::StartLine)),
            (b"HTTP/.1", Err(Refusal::StartLine)),
            (b"HTTP/1.10", Err(Refusal::StartLine)),
            (b"HTTP/01.1", Err(Refusal::StartLine)),
            (b"HTTP/1,1", Err(Refusal::StartLine)),
            (b"HTTP/1.x", Err(Refusal::StartLine)),
            (b"HTTP/1.1\0", Err(Refusal::StartLine)),
            (b"HTTP/1.1\r", Err(Refusal::StartLine)),
            (b"HTTP 1.1", Err(Refusal::StartLine)),
            (b"http/1.1", Err(Refusal::StartLine)),
            (b"HTTPS/1.1", Err(Refusal::StartLine)),
            (b"ICY/1.1", Err(Refusal::StartLine)),
        ];
        for (version, expected) in CASES {
            let head = with_line(&[b"GET / ", *version].concat());
            let found = read(&head).map(|request| request.version);
            assert_eq!(found, *expected, "{}", version.escape_ascii());
            let head = [version, &b" 200 OK\r\n\r\n"[..]].concat();
            let found = response(&head).map(|head| head.version);
            assert_eq!(found, *expected, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn the_preface_of_http_2_is_a_version_not_spoken() {
        let head = b"PRI * HTTP/2.0\r\n\r\n";
        assert_eq!(request(head).map(drop), Err(Refusal::Version));
    }

    #[test]
    fn a_target_fits_its_method_and_is_shown_decoded() {
        const CASES: &[Case<Option<&[u8]>>] = &[
            // The origin-form.
            (b"GET /", Some(b"/")),
            (b"GET /healthz", Some(b"/healthz")),
            (b"GET /a/b//../c/.", Some(b"/a/b//../c/.")),
            (b"GET //h/p", Some(b"//h/p")),
            (b"GET /-._~!$&'()*+,;=:@", Some(b"/-._~!$&'()*+,;=:@")),
            (b"OPTIONS /x", Some(b"/x")),
            // Escapes.
            (b"GET /%74raceback", Some(b"/traceback")),
            (b"GET /%2f%2F%25%3f%23", Some(b"///%?#")),
            (b"GET /%2574", Some(b"/%74")),
            (b"GET /%00%0d%0A%7f%fF", Some(b"/\0\r\n\x7f\xff")),
            (b"GET /%c3%a9", Some(b"/\xc3\xa9")),
            (b"GET /%", None),
            (b"GET /%7", None),
            (b"GET /%7?4", None),
            (b"GET /%7g", None),
            (b"GET /%+7", None),
            (b"GET /%%74", None),
            (b"GET /%u0074", None),
            // Queries, which say nothing here.
            (b"GET /?", Some(b"/")),
            (b"GET /a?b=c&d=%20", Some(b"/a")),
            (b"GET /a??/b:@", Some(b"/a")),
            (b"GET /%41?%42", Some(b"/A")),
            (b"GET /?100%", Some(b"/")),
            (b"GET /?a[]={'b'|^`\\}", Some(b"/")),
            (b"GET /?\xff", None),
            // Bytes that must be escaped.
            (b"GET /#", None),
            (b"GET /a#b", None),
            (b"GET /?a#b", None),
            (b"GET /\xc3\xa9", None),
            (b"GET /\0", None),
            (b"GET /\x7f", None),
            (b"GET /a\tb", None),
            (b"GET /a\rb", None),
            (b"GET /\\", None),
            (b"GET /\"", None),
            (b"GET /<>", None),
            (b"GET /^`{|}", None),
            (b"GET /[1]", None),
            // The absolute-form.
            (b"GET http://h/a?b", Some(b"/a")),
            (b"GET HTTP://H:80/%41", Some(b"/A")),
            (b"GET http://h", Some(b"/")),
            (b"GET http://h:", Some(b"/")),
            (b"GET http://h?q", Some(b"/")),
            (b"GET http://h?#", None),
            (b"GET http://[::1]:8000/x", Some(b"/x")),
            (b"OPTIONS http://h", Some(b"*")),
            (b"OPTIONS http://h/", Some(b"/")),
            (b"OPTIONS http://h?q", Some(b"/")),
            (b"GET http://", None),
            (b"GET http:///a", None),
            (b"GET http://?q", None),
            (b"GET http://:80/", None),
            (b"GET http://u@h/", None),
            (b"GET http://u:p@h/", None),
            (b"GET http://h:80:80/", None),
            (b"GET http://h:65536/", None),
            (b"GET http://h:+80/", None),
            (b"GET http://h%/", None),
            (b"GET http://h#f", None),
            (b"GET http://h\\a", None),
            (b"GET http://[::1/", None),
            (b"GET http:/h/", None),
            (b"GET http:", None),
            (b"GET https://h/", None),
            (b"GET ftp://h/", None),
            (b"GET h/a", None),
            (b"GET ?q", None),
            (b"GET %2f", None),
            // The asterisk-form.
            (b"OPTIONS *", Some(b"*")),
            (b"OPTIONS **", None),
            (b"OPTIONS *?q", None),
            (b"GET *", None),
            (b"HEAD *", None),
            (b"options *", None),
            // The authority-form, whose port is required (RFC 9110 9.3.6).
            (b"CONNECT h:443", Some(b"h:443")),
            (b"CONNECT 1.2.3.4:1", Some(b"1.2.3.4:1")),
            (b"CONNECT [::1]:443", Some(b"[::1]:443")),
            (b"CONNECT h", None),
            (b"CONNECT h:", None),
            (b"CONNECT [::1]", None),
            (b"CONNECT [::1]:", None),
            (b"CONNECT :443", None),
            (b"CONNECT h:x", None),
            (b"CONNECT h:65536", None),
            (b"CONNECT /", None),
            (b"CONNECT http://h:80/", None),
            (b"CONNECT *", None),
            (b"GET h:443", None),
            (b"OPTIONS h:443", None),
        ];
        for (line, expected) in CASES {
            let case = line.escape_ascii();
            let head = with_line(&[line, &b" HTTP/1.1"[..]].concat());
            let found = read(&head).map(|request| request.path.into_owned());
            let expected = expected.map(<[u8]>::to_vec).ok_or(Refusal::Target);
            assert_eq!(found, expected, "{case}");
        }
    }

    #[test]
    fn a_path_holds_the_bytes_of_rfc_3986_and_a_query_those_that_browsers_leave() {
        // Each byte alone, spelled out.
        const PATH: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789\
            -._~!$&'()*+,;=:@/?";
        const QUERY_TOO: &[u8] = b"%[]{}|\\^`";
        for byte in 0..=u8::MAX {
            let (path, query_too) = (PATH.contains(&byte), QUERY_TOO.contains(&byte));
            for (at, fits) in [(&b"/"[..], path), (b"/?", path || query_too)] {
                let head = with_line(&[b"GET ", at, &[byte], b" HTTP/1.1"].concat());
                let case = head.escape_ascii();
                assert_eq!(read(&head).is_ok(), fits, "{case}");
            }
        }
    }

    #[test]
    fn a_host_is_given_once_and_valid() {
        const CASES: &[(&[u8], bool, bool)] = &[
            // The fields, whether they suit HTTP/1.1, and whether they suit HTTP/1.0.
            (b"Host: h\r\n", true, true),
            (b"hOST:h\r\n", true, true),
            (b"Host: \t h \t \r\n", true, true),
            (b"Host: h:8000\r\n", true, true),
            (b"Host: h:\r\n", true, true),
            (b"Host: h:0\r\n", true, true),
            (b"Host: h:065535\r\n", true, true),
            (b"Host: api_backend.example.\r\n", true, true),
            (b"Host: 127.0.0.1\r\n", true, true),
            (b"Host: %c3%a9-._~!$&'()*+,;=\r\n", true, true),
            (b"Host: [::1]\r\n", true, true),
            (b"Host: [2001:DB8::1.2.3.4]:80\r\n", true, true),
            (b"X-Host: a b\r\nHost: h\r\n", true, true),
            (b"", false, true),
            (b"Hosts: h\r\n", false, true),
            (b"Host:\r\n", false, false),
            (b"Host: \t\r\n", false, false),
            (b"Host: h\r\nHost: h\r\n", false, false),
            (b"Host: h\r\nX: y\r\nhost: i\r\n", false, false),
            (b"Host:\r\nHost: h\r\n", false, false),
            (b"Host: h i\r\n", false, false),
            (b"Host: h/\r\n", false, false),
            (b"Host: h?\r\n", false, false),
            (b"Host: h#\r\n", false, false),
            (b"Host: u@h\r\n", false, false),
            (b"Host: http://h\r\n", false, false),
            (b"Host: h\\\r\n", false, false),
            (b"Host: \xc3\xa9\r\n", false, false),
            (b"Host: h%\r\n", false, false),
            (b"Host: h%4\r\n", false, false),
            (b"Host: :80\r\n", false, false),
            (b"Host: h:80:80\r\n", false, false),
            (b"Host: h:-1\r\n", false, false),
            (b"Host: h:+1\r\n", false, false),
            (b"Host: h:8 0\r\n", false, false),
            (b"Host: h:65536\r\n", false, false),
            (b"Host: h:99999999999999999999999\r\n", false, false),
            (b"Host: ::1\r\n", false, false),
            (b"Host: []\r\n", false, false),
            (b"Host: [::1\r\n", false, false),
            (b"Host: ::1]\r\n", false, false),
            (b"Host: [h]\r\n", false, false),
            (b"Host: [1.2.3.4]\r\n", false, false),
            (b"Host: [::1]x\r\n", false, false),
            (b"Host: [::1]:x\r\n", false, false),
            (b"Host: [::1]80\r\n", false, false),
            (b"Host: [::\xff]\r\n", false, false),
            (b"Host: [[::1]]\r\n", false, false),
        ];
        for (fields, in_11, in_10) in CASES {
            for (version, expected) in [("1.1", in_11), ("1.2", in_11), ("1.0", in_10)] {
                let line = format!("GET / HTTP/{version}\r\n");
                let head = [line.as_bytes(), fields, b"\r\n"].concat();
                let expected = if *expected { Ok(()) } else { Err(Refusal::Host) };
                assert_eq!(read(&head).map(drop), expected, "{}", head.escape_ascii());
            }
        }
    }

    #[test]
    fn the_host_of_a_target_does_not_stand_in_for_the_field() {
        let head = b"GET http://h/ HTTP/1.1\r\n\r\n";
        assert_eq!(request(head).map(drop), Err(Refusal::Host));
    }

    #[test]
    fn a_field_keeps_to_the_grammar() {
        const GOOD: &[&[u8]] = &[
            b"",
            b"X:\r\n",
            b"X: \r\n",
            b"X:y\r\n",
            b"X: \t y \t z \t \r\n",
            b"X: a:b::c\r\n",
            b"X: :\r\n",
            b"X: \"a\\\"b\" (c)\r\n",
            b"X: caf\xc3\xa9 \x80\xff\r\n",
            b"!#$%&'*+-.^_`|~09azAZ: y\r\n",
            b"X: y\r\nX: z\r\n",
        ];
        const BAD: &[&[u8]] = &[
            // Folds, and what looks like one.
            b"X: y\r\n z\r\n",
            b"X: y\r\n\tz\r\n",
            b"X: y\r\n \r\n",
            b" X: y\r\n",
            b"\tX: y\r\n",
            b" \r\n",
            // Names.
            b"X : y\r\n",
            b"X\t: y\r\n",
            b"X Y: z\r\n",
            b": y\r\n",
            b":\r\n",
            b"X\r\n",
            b"X(Y): z\r\n",
            b"\"X\": y\r\n",
            b"X\0: y\r\n",
            b"X\r: y\r\n",
            b"\xc3\xa9: y\r\n",
            b"\x7fX: y\r\n",
            // Values.
            b"X: y\0z\r\n",
            b"X: \0\r\n",
            b"X: y\rz\r\n",
            b"X: y\r\r\n",
            b"X: \r\r\n",
            b"X:\r y\r\n",
            b"X: y\nZ: z\r\n",
            b"X: y\x0bz\r\n",
            b"X: \x0c\r\n",
            b"X: y\x7f\r\n",
            b"X: \x1b[2J\r\n",
        ];
        for fields in GOOD {
            let head = with_fields(fields);
            assert!(request(&head).is_ok(), "{}", fields.escape_ascii());
        }
        for fields in BAD {
            let (head, case) = (with_fields(fields), fields.escape_ascii());
            assert_eq!(request(&head).map(drop), Err(Refusal::Field), "{case}");
            let head = [b"HTTP/1.1 200 OK\r\n", *fields, b"\r\n"].concat();
            assert_eq!(response(&head).map(drop), Err(Refusal::Field), "{case}");
        }
    }

    #[test]
    fn every_byte_stands_only_where_the_grammar_has_it() {
        const TCHAR: &[u8] = b"!#$%&'*+-.^_`|~0123456789\
            abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        for byte in 0..=u8::MAX {
            let token = TCHAR.contains(&byte);
            let text = matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
            // In the first eight bytes and behind them: more than one is looked at at once.
            for before in ["", "a", "abcdefg", "abcdefghijklmnopq"] {
                let word = [before.as_bytes(), &[byte], b"z"].concat();
                let case = word.escape_ascii().to_string();
                let head = with_line(&[&word, &b" / HTTP/1.1"[..]].concat());
                assert_eq!(request(&head).is_ok(), token, "method {case}");
                let head = with_fields(&[&word, &b": y\r\n"[..]].concat());
                let ends_name = byte == b':' && !before.is_empty();
                assert_eq!(request(&head).is_ok(), token || ends_name, "name {case}");
                let head = with_fields(&[b"X: ", &word[..], b"\r\n"].concat());
                assert_eq!(request(&head).is_ok(), text, "value {case}");
                let head = [b"HTTP/1.1 200 ", &word[..], b"\r\n\r\n"].concat();
                assert_eq!(response(&head).is_ok(), text, "reason {case}");
            }
            assert_eq!(may_begin(byte), token, "{byte:#x}");
            assert_eq!(is_field(byte), text, "{byte:#x}");
            let digit = char::from(byte).to_digit(16);
            assert_eq!(hex(byte).map(u32::from), digit, "{byte:#x}");
        }
    }

    #[test]
    fn a_field_is_found_by_its_name_in_any_case() {
        let head = with_fields(b"Ab:  first \t\r\nAb-c: \xe9\r\naB: second\r\nEmpty:\r\n");
        let fields = read(&head).unwrap().fields;
        for (name, expected) in [
            ("ab", Some(&b"first"[..])),
            ("AB", Some(b"first")),
            ("ab-C", Some(b"\xe9")),
            ("host", Some(b"h")),
            ("empty", Some(b"")),
            ("a", None),
            ("ab-", None),
            ("", None),
            ("get / http/1.1", None),
        ] {
            assert_eq!(fields.get(name), expected, "{name}");
        }
    }

    #[test]
    fn a_length_is_one_number_in_digits() {
        const CASES: &[Case<Result<Option<u64>, Refusal>>] = &[
            (b"X-Content-Length: 1\r\nContent-Lengt: 1\r\n", Ok(None)),
            (b"Content-Length: 0\r\n", Ok(Some(0))),
            (b"CONTENT-length:\t5 \r\n", Ok(Some(5))),
            (b"Content-Length: 0005\r\n", Ok(Some(5))),
            (b"Content-Length: 00000000000000000000000000000005\r\n", Ok(Some(5))),
            (b"Content-Length: 18446744073709551615\r\n", Ok(Some(u64::MAX))),
            (b"Content-Length: 18446744073709551616\r\n", Err(Refusal::Length)),
            (b"Content-Length: 99999999999999999999999999999\r\n", Err(Refusal::Length)),
            (b"Content-Length:\r\n", Err(Refusal::Length)),
            (b"Content-Length: \t \r\n", Err(Refusal::Length)),
            (b"Content-Length: +5\r\n", Err(Refusal::Length)),
            (b"Content-Length: -5\r\n", Err(Refusal::Length)),
            (b"Content-Length: -0\r\n", Err(Refusal::Length)),
            (b"Content-Length: 5.0\r\n", Err(Refusal::Length)),
            (b"Content-Length: 5e1\r\n", Err(Refusal::Length)),
            (b"Content-Length: 0x5\r\n", Err(Refusal::Length)),
            (b"Content-Length: f\r\n", Err(Refusal::Length)),
            (b"Content-Length: 1_0\r\n", Err(Refusal::Length)),
            (b"Content-Length: 5 5\r\n", Err(Refusal::Length)),
            (b"Content-Length: 5,5\r\n", Err(Refusal::Length)),
            (b"Content-Length: 5, 6\r\n", Err(Refusal::Length)),
            (b"Content-Length: 5,\r\n", Err(Refusal::Length)),
            (b"Content-Length: 5;q=1\r\n", Err(Refusal::Length)),
            (b"Content-Length: \"5\"\r\n", Err(Refusal::Length)),
            (b"Content-Length: \xd9\xa5\r\n", Err(Refusal::Length)),
            (b"Content-Length: 5\r\nContent-Length: 5\r\n", Err(Refusal::Length)),
            (b"Content-Length: 5\r\ncontent-length: 6\r\n", Err(Refusal::Length)),
            (b"Content-Length: 0\r\nX: y\r\nContent-Length: 0\r\n", Err(Refusal::Length)),
        ];
        for (fields, expected) in CASES {
            let (head, case) = (with_fields(fields), fields.escape_ascii());
            assert_eq!(request(&head).map(|head| head.digest.length), *expected, "{case}");
        }
    }

    #[test]
    fn a_coding_is_chunked_alone_or_nothing_that_is_undone_here() {
        const CASES: &[Case<Option<Coding>>] = &[
            (b"TE: chunked\r\n", None),
            (b"Transfer-Encoding: chunked\r\n", Some(Coding::Chunked)),
            (b"transfer-ENCODING:\tChUnKeD \r\n", Some(Coding::Chunked)),
            // `chunked` is missing, comes twice, or does not come last.
            (b"Transfer-Encoding:\r\n", Some(Coding::NotFinal)),
            (b"Transfer-Encoding: ,\r\n", Some(Coding::NotFinal)),
            (b"Transfer-Encoding: identity\r\n", Some(Coding::NotFinal)),
            (b"Transfer-Encoding: gzip\r\n", Some(Coding::NotFinal)),
            (b"Transfer-Encoding: gzip, deflate\r\n", Some(Coding::NotFinal)),
            (b"Transfer-Encoding: chunked, gzip\r\n", Some(Coding::NotFinal)),
            (b"Transfer-Encoding: chunked, identity\r\n", Some(Coding::NotFinal)),
            (b"Transfer-Encoding: chunked,\r\n", Some(Coding::NotFinal)),
            (b"Transfer-Encoding: chunked, chunked\r\n", Some(Coding::NotFinal)),
            (
                b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Some(Coding::NotFinal),
            ),
            (
                b"Transfer-Encoding: chunked\r\nX: y\r\ntransfer-encoding: identity\r\n",
                Some(Coding::NotFinal),
            ),
            // Others are not undone, wherever they stand.
            (b"Transfer-Encoding: gzip, chunked\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: X-Gzip, deflate,\tCHUNKED\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: x-gzip\r\nTransfer-Encoding: chunked\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: ,chunked\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: cow\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: cow, chunked\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: chunked, cow\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: gzip, cow\r\n", Some(Coding::Unknown)),
            // What some readers take for `chunked`.
            (b"Transfer-Encoding: xchunked\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: chunkedx\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: chunked chunked\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: \"chunked\"\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: 'chunked'\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: chunked;a=b\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: chunked;\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: chunked\xa0\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: chun ked\r\n", Some(Coding::Unknown)),
        ];
        for (fields, expected) in CASES {
            let (head, case) = (with_fields(fields), fields.escape_ascii());
            assert_eq!(request(&head).unwrap().digest.coding, *expected, "{case}");
        }
    }

    #[test]
    fn connection_options_are_a_list_in_any_case() {
        const CASES: &[(&[u8], bool, bool)] = &[
            // Whether it says `close`, and whether `keep-alive`.
            (b"", false, false),
            (b"Connection:\r\n", false, false),
            (b"Connection: close\r\n", true, false),
            (b"connection:CLOSE\r\n", true, false),
            (b"CONNECTION: \tClose \t\r\n", true, false),
            (b"Connection: Keep-Alive\r\n", false, true),
            (b"Connection: keep-alive, Upgrade\r\n", false, true),
            (b"Connection: upgrade ,\tkeep-ALIVE\t, close\r\n", true, true),
            (b"Connection: ,,close,,\r\n", true, false),
            (b"Connection: keep-alive\r\nConnection: close\r\n", true, true),
            (b"Connection: close\r\nConnection: x\r\n", true, false),
            (b"Connection: closed\r\n", false, false),
            (b"Connection: clos\r\n", false, false),
            (b"Connection: close keep-alive\r\n", false, false),
            (b"Connection: \"close\"\r\n", false, false),
            (b"Connection: close;q=1\r\n", false, false),
            (b"Proxy-Connection: close\r\n", false, false),
            (b"Keep-Alive: close\r\n", false, false),
        ];
        for (fields, close, keep_alive) in CASES {
            let (head, case) = (with_fields(fields), fields.escape_ascii());
            let digest = request(&head).unwrap().digest;
            assert_eq!((digest.close, digest.keep_alive), (*close, *keep_alive), "{case}");
        }
    }

    #[test]
    fn nothing_but_100_continue_can_be_expected() {
        const CASES: &[Case<Result<bool, Refusal>>] = &[
            (b"", Ok(false)),
            (b"Expect: 100-continue\r\n", Ok(true)),
            (b"eXPECT:100-Continue \r\n", Ok(true)),
            (b"Expect: 100-continue\r\nExpect: 100-continue\r\n", Ok(true)),
            (b"Expect:\r\n", Err(Refusal::Expectation)),
            (b"Expect: 100\r\n", Err(Refusal::Expectation)),
            (b"Expect: 100-continued\r\n", Err(Refusal::Expectation)),
            (b"Expect: 100-continue, x\r\n", Err(Refusal::Expectation)),
            (b"Expect: x=y\r\n", Err(Refusal::Expectation)),
            (b"Expect: 100-continue\r\nExpect: x\r\n", Err(Refusal::Expectation)),
        ];
        for (fields, expected) in CASES {
            let (head, case) = (with_fields(fields), fields.escape_ascii());
            let found = request(&head).map(|head| head.digest.expects_continue);
            assert_eq!(found, *expected, "{case}");
        }
    }

    #[test]
    fn fields_are_bounded_in_number() {
        for (more, expected) in [(127, Ok(())), (128, Err(Refusal::HeadTooLarge))] {
            let head = with_fields(&b"X:\r\n".repeat(more));
            assert_eq!(request(&head).map(drop), expected, "{more}");
        }
    }

    #[test]
    fn a_status_line_needs_no_reason() {
        const CASES: &[Case<Result<u16, Refusal>>] = &[
            (b"HTTP/1.1 200 OK", Ok(200)),
            (b"HTTP/1.1 200 ", Ok(200)),
            (b"HTTP/1.1 200", Ok(200)),
            (b"HTTP/1.0 404 Not  Found\t\xc3\xa9 ", Ok(404)),
            (b"HTTP/1.1 100 Continue", Ok(100)),
            (b"HTTP/1.1 599 ", Ok(599)),
            (b"HTTP/1.1 000 ", Err(Refusal::StartLine)),
            (b"HTTP/1.1 099 ", Err(Refusal::StartLine)),
            (b"HTTP/1.1 600 ", Err(Refusal::StartLine)),
            (b"HTTP/1.1 999 ", Err(Refusal::StartLine)),
            (b"HTTP/1.1 20 OK", Err(Refusal::StartLine)),
            (b"HTTP/1.1 2000 OK", Err(Refusal::StartLine)),
            (b"HTTP/1.1 2x0 OK", Err(Refusal::StartLine)),
            (b"HTTP/1.1 +20 OK", Err(Refusal::StartLine)),
            (b"HTTP/1.1 -20 OK", Err(Refusal::StartLine)),
            (b"HTTP/1.1 200OK", Err(Refusal::StartLine)),
            (b"HTTP/1.1 200\tOK", Err(Refusal::StartLine)),
            (b"HTTP/1.1  200 OK", Err(Refusal::StartLine)),
            (b"HTTP/1.1 OK", Err(Refusal::StartLine)),
            (b"HTTP/1.1 ", Err(Refusal::StartLine)),
            (b"HTTP/1.1", Err(Refusal::StartLine)),
            (b" HTTP/1.1 200 OK", Err(Refusal::StartLine)),
            (b"HTTP/1.1 200 O\0K", Err(Refusal::StartLine)),
            (b"HTTP/1.1 200 O\rK", Err(Refusal::StartLine)),
            (b"HTTP/1.1 200 \x1b[2J", Err(Refusal::StartLine)),
            (b"SSH-2.0-OpenSSH_9.6", Err(Refusal::StartLine)),
            (b"<html>", Err(Refusal::StartLine)),
            (b"", Err(Refusal::StartLine)),
        ];
        for (line, expected) in CASES {
            let (head, case) = ([line, &b"\r\n\r\n"[..]].concat(), line.escape_ascii());
            assert_eq!(response(&head).map(|head| head.status), *expected, "{case}");
        }
    }

    #[test]
    fn a_head_ends_at_its_first_blank_line_however_it_comes() {
        const CASES: &[Case<Result<Option<usize>, Refusal>>] = &[
            (b"a\r\n\r\n", Ok(Some(5))),
            (b"a\r\n\r\nb\r\n\r\n", Ok(Some(5))),
            (b"a\r\nb: c\r\n\r\n\n", Ok(Some(11))),
            (b"a\r\n\r\n\r\n", Ok(Some(5))),
            (b"\r\n", Ok(Some(2))),
            (b"", Ok(None)),
            (b"a", Ok(None)),
            (b"a\r", Ok(None)),
            (b"a\r\n", Ok(None)),
            (b"a\r\n\r", Ok(None)),
            (b"a\r\nb: c\r\n", Ok(None)),
            (b"a\r\n\rb\r\n", Ok(None)),
            (b"a\r\rb", Ok(None)),
            (b"\n", Err(Refusal::StartLine)),
            (b"a\n", Err(Refusal::StartLine)),
            (b"a\n\n", Err(Refusal::StartLine)),
            (b"a\n\r\n", Err(Refusal::StartLine)),
            (b"a\r\n\n", Err(Refusal::Field)),
            (b"a\r\nb\n", Err(Refusal::Field)),
            (b"a\r\nb\n\r\n", Err(Refusal::Field)),
            (b"a\r\nb\r\n\n", Err(Refusal::Field)),
        ];
        for (input, expected) in CASES {
            for pieces in every_way(input) {
                let (mut received, mut searched) = (Vec::new(), 0);
                let mut found = Ok(None);
                for piece in pieces {
                    received.extend_from_slice(piece);
                    if found == Ok(None) {
                        found = end(&received, &mut searched);
                    }
                    // What was searched once is not searched again.
                    assert!(found != Ok(None) || searched == received.len());
                }
                assert_eq!(found, *expected, "{}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn a_byte_is_found_wherever_it_first_stands() {
        for other in [0, 1, b'\n' - 1, b'\n' + 1, 0x7f, b'\n' | 0x80, 0xff] {
            for length in 0..40 {
                assert_eq!(find(&vec![other; length], b'\n'), None, "{length} of {other}");
                for at in 0..length {
                    let mut bytes = vec![other; length];
                    bytes[at..].fill(b'\n');
                    assert_eq!(find(&bytes, b'\n'), Some(at), "{}", bytes.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn a_beginning_is_the_same_in_every_byte() {
        let bytes: Vec<u8> = (0..40).collect();
        for length in 0..=bytes.len() {
            assert!(begins(&bytes, &bytes[..length]), "{length}");
            for at in 0..length {
                let mut other = bytes[..length].to_vec();
                other[at] ^= 0x80;
                assert!(!begins(&bytes, &other), "{length} but for {at}");
            }
        }
        assert!(!begins(b"", b"a") && !begins(b"0123456", b"01234567"));
    }

    #[test]
    fn an_answer_is_written_to_the_byte() {
        const DATE: &Date = b"Sun, 06 Nov 1994 08:49:37 GMT";
        let written = |response: &Response, connection, body| {
            let mut out = b"before".to_vec();
            write_response(response, DATE, connection, body, &mut out);
            String::from_utf8(out).unwrap()
        };
        let json = Response::json(Status::Ok, &b"{\"a\": 1}\n"[..]);
        let head = "beforeHTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Content-Type: application/json\r\nContent-Length: 9\r\n\r\n";
        assert_eq!(written(&json, None, true), [head, "{\"a\": 1}\n"].concat());
        assert_eq!(written(&json, None, false), head);
        assert_eq!(
            written(&json, Some(Then::Keep), false),
            head.replace("Content-Type", "Connection: keep-alive\r\nContent-Type")
        );
        assert_eq!(
            written(&json, Some(Then::Close), false),
            head.replace("Content-Type", "Connection: close\r\nContent-Type")
        );
        let allow = Some("GET, HEAD, OPTIONS");
        let not_allowed = Response { status: Status::MethodNotAllowed, allow, ..json.clone() };
        assert_eq!(
            written(&not_allowed, None, false),
            "beforeHTTP/1.1 405 Method Not Allowed\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Allow: GET, HEAD, OPTIONS\r\n\
            Content-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        );
        // RFC 9110 8.6 and 15.3.5: neither a length nor a body.
        let no_content = Response { status: Status::NoContent, allow, ..json };
        assert_eq!(
            written(&no_content, None, true),
            "beforeHTTP/1.1 204 No Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Allow: GET, HEAD, OPTIONS\r\n\r\n"
        );
        let metrics =
            Response { content: Content::Metrics, ..Response::json(Status::Ok, vec![b'a'; 1050]) };
        assert_eq!(
            written(&metrics, None, false),
            "beforeHTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Content-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: 1050\r\n\r\n"
        );
    }

    #[test]
    fn a_number_is_written_in_full() {
        for number in [0, 7, 9, 10, 99, 100, 65_535, 1 << 20, usize::MAX] {
            let mut out = Vec::new();
            write_decimal(number, &mut out);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}

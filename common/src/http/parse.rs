//! Heads: start lines and header fields, checked in one pass (RFC 9110 section 5, RFC 9112
//! sections 2 to 5). The grammar of their parts is in `grammar`.

use super::grammar::{
    self, FIELD, decimal, is, is_authority, is_token, split, split_line, target_path,
};
use super::{Method, ParseError, Request, Version};

/// More fields than any client sends. Each costs a pass over its name.
const FIELDS_MAX: usize = 128;

/// Finds the end of the head at the start of `bytes`, blank line included. `searched` is the end
/// of the previous search; it moves forward, so that no byte is searched twice.
pub(super) fn find_end(bytes: &[u8], searched: &mut usize) -> Result<Option<usize>, ParseError> {
    loop {
        let Some(found) = bytes.get(*searched..).and_then(|rest| grammar::find(rest, b'\n')) else {
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
            _ if line.contains(&b'\n') => return Err(ParseError::Field),
            _ => return Err(ParseError::StartLine),
        }
    }
}

/// A checked request head (RFC 9112 section 3).
#[derive(Debug)]
pub(super) struct RequestHead<'a> {
    pub(super) offsets: HeadOffsets,
    pub(super) method: Method<'a>,
    pub(super) version: Version,
    pub(super) headers: MessageHeaders<'a>,
}

/// Where the parts of a request head end, in bytes from its start.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadOffsets {
    method: usize,
    target: usize,
    line: usize,
}

/// Parses a whole request head, blank line included.
pub(super) fn request(head: &[u8]) -> Result<RequestHead<'_>, ParseError> {
    let (line, rest) = split_line(head).ok_or(ParseError::StartLine)?;
    let (method, target, version) = request_line(line)?;
    let offsets = HeadOffsets {
        method: method.as_bytes().len(),
        target: method.as_bytes().len() + 1 + target.len(),
        line: head.len() - rest.len(),
    };
    let headers = MessageHeaders::parse(rest)?;
    if headers.expects_other {
        return Err(ParseError::Expectation);
    }
    // RFC 9112 3.2: 400 for none in 1.1, for more than one, and for an invalid one.
    match headers.hosts {
        0 if version == Version::Http10 => {}
        1 if is_authority(headers.host) => {}
        _ => return Err(ParseError::Host),
    }
    Ok(RequestHead { offsets, method, version, headers })
}

/// Parses a request line without its CRLF: method, target, version.
pub(super) fn request_line(line: &[u8]) -> Result<(Method<'_>, &[u8], Version), ParseError> {
    let (method, rest) = split(line, b' ').ok_or(ParseError::StartLine)?;
    let (target, version) = split(rest, b' ').ok_or(ParseError::StartLine)?;
    if !is_token(method) {
        return Err(ParseError::StartLine);
    }
    let method = Method::parse(method);
    let version = parse_version(version)?;
    target_path(method, target).ok_or(ParseError::Target)?;
    Ok((method, target, version))
}

/// Rebuilds the request of a head that `request` has accepted.
pub(super) fn rebuild(head: &[u8], offsets: HeadOffsets, version: Version) -> Option<Request<'_>> {
    let method = Method::parse(head.get(..offsets.method)?);
    let path = target_path(method, head.get(offsets.method + 1..offsets.target)?)?;
    Some(Request { method, path, version, fields: Fields(head.get(offsets.line..)?) })
}

/// A checked response head (RFC 9112 section 4).
#[derive(Debug)]
pub(super) struct ResponseHead<'a> {
    pub(super) status: u16,
    pub(super) version: Version,
    pub(super) headers: MessageHeaders<'a>,
    pub(super) fields: Fields<'a>,
}

/// Parses a whole response head, blank line included.
pub(super) fn response(head: &[u8]) -> Result<ResponseHead<'_>, ParseError> {
    let (line, rest) = split_line(head).ok_or(ParseError::StartLine)?;
    let (version, line) = split(line, b' ').ok_or(ParseError::StartLine)?;
    let version = parse_version(version)?;
    // The reason is optional; many servers leave out the space before an empty one as well.
    let (code, reason) = split(line, b' ').unwrap_or((line, b""));
    let status = match code {
        [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'] => {
            code.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'))
        }
        _ => return Err(ParseError::StartLine),
    };
    if !reason.iter().all(|&byte| is(byte, FIELD)) {
        return Err(ParseError::StartLine);
    }
    let headers = MessageHeaders::parse(rest)?;
    Ok(ResponseHead { status, version, headers, fields: Fields(rest) })
}

fn parse_version(bytes: &[u8]) -> Result<Version, ParseError> {
    match bytes {
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Ok(Version::Http11),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(ParseError::Version),
        _ => Err(ParseError::StartLine),
    }
}

/// The checked field lines of a head.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Field lines that `response` has accepted.
    pub(super) fn of_checked(lines: &'a [u8]) -> Fields<'a> {
        Fields(lines)
    }

    /// The field lines.
    pub(super) fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The value of the first field of this name.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.get_all(name).next()
    }

    /// The values of all fields of this name: together, they are one list (RFC 9110 section 5.3).
    pub fn get_all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.0;
        let lines = std::iter::from_fn(move || {
            let (line, after) = split_line(rest)?;
            rest = after;
            split(line, b':')
        });
        let fields = lines.filter(move |(found, _)| found.eq_ignore_ascii_case(name.as_bytes()));
        fields.map(|(_, value)| value.trim_ascii())
    }
}

/// The fields that decide framing and connection, gathered in the pass that checks all fields.
#[allow(clippy::struct_excessive_bools)] // independent of each other
#[derive(Debug, Default)]
pub(super) struct MessageHeaders<'a> {
    pub(super) hosts: usize,
    pub(super) host: &'a [u8],
    /// Content-Length, at most one.
    pub(super) length: Option<u64>,
    pub(super) coding: Option<Coding>,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    pub(super) expects_other: bool,
}

/// The list of all `Transfer-Encoding` fields together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// A field without a coding, alone or with others: some parsers see a coding there.
    Empty,
    /// `chunked` and nothing else.
    Chunked,
    /// No final `chunked`, so that the length is not known (RFC 9112 section 6.3).
    NotFinal,
    /// A coding that is not supported, alone or under `chunked`.
    Unknown,
}

impl<'a> MessageHeaders<'a> {
    /// Parses the lines up to the blank one.
    fn parse(fields: &'a [u8]) -> Result<MessageHeaders<'a>, ParseError> {
        let mut headers = MessageHeaders::default();
        let mut rest = fields;
        for _ in 0..=FIELDS_MAX {
            let (line, after) = split_line(rest).ok_or(ParseError::Field)?;
            if line.is_empty() {
                return Ok(headers);
            }
            let (name, value) = field(line).ok_or(ParseError::Field)?;
            headers.add(name, value)?;
            rest = after;
        }
        Err(ParseError::HeadTooLarge)
    }

    fn add(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), ParseError> {
        // Lengths first: most names stop there.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                self.host = value;
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                // RFC 9110 10.1.1: a list, of which only this member is defined.
                for expectation in list(value) {
                    let known = expectation.eq_ignore_ascii_case(b"100-continue");
                    self.expects_continue |= known;
                    self.expects_other |= !known;
                }
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in list(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                // RFC 9112 6.3 allows equal repetitions to be folded; a smuggler's tool, so no.
                let length = decimal(value).ok_or(ParseError::Length)?;
                if self.length.replace(length).is_some() {
                    return Err(ParseError::Length);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if list(value).next().is_none() {
                    self.coding = Some(Coding::Empty);
                }
                for coding in list(value) {
                    self.coding = Some(Coding::append(self.coding, coding));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Coding {
    fn append(before: Option<Coding>, coding: &[u8]) -> Coding {
        const KNOWN: [&[u8]; 6] =
            [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", b"identity"];
        let is_chunked = coding.eq_ignore_ascii_case(b"chunked");
        let is_known = KNOWN.iter().any(|known| coding.eq_ignore_ascii_case(known));
        match before {
            Some(Coding::Empty) => Coding::Empty,
            None if is_chunked => Coding::Chunked,
            None | Some(Coding::NotFinal) if is_known => Coding::NotFinal,
            Some(Coding::Chunked) if is_chunked || is_known => Coding::NotFinal,
            _ => Coding::Unknown,
        }
    }
}

/// The members of a comma-separated list. Empty ones are ignored (RFC 9110 section 5.6.1.2).
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Splits a field line (RFC 9112 section 5): no space before the colon, no folded line.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, value) = split(line, b':')?;
    let valid = is_token(name) && value.iter().all(|&byte| is(byte, FIELD));
    // `trim_ascii` takes more than space and tab, but nothing more is valid here.
    valid.then(|| (name, value.trim_ascii()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::every_split;
    use super::*;

    /// Some bytes and their meaning.
    type Case<T> = (&'static [u8], T);

    /// The request of a head.
    fn read(head: &[u8]) -> Result<Request<'_>, ParseError> {
        request(head).map(|found| rebuild(head, found.offsets, found.version).unwrap())
    }

    fn with_line(line: &[u8]) -> Vec<u8> {
        [line, b"\r\nHost: h\r\n\r\n"].concat()
    }

    fn with_fields(fields: &[u8]) -> Vec<u8> {
        [b"GET / HTTP/1.1\r\nHost: h\r\n", fields, b"\r\n"].concat()
    }

    #[test]
    fn parses_request_lines() {
        const CASES: &[Case<Result<(), ParseError>>] = &[
            (b"GET / HTTP/1.1", Ok(())),
            (b"get / HTTP/1.1", Ok(())),
            (b"BREW / HTTP/1.1", Ok(())),
            (b"!#$%&'*+-.^_`|~09azAZ / HTTP/1.1", Ok(())),
            (b"", Err(ParseError::StartLine)),
            (b" ", Err(ParseError::StartLine)),
            (b"GET", Err(ParseError::StartLine)),
            (b"GET /", Err(ParseError::StartLine)),
            (b"GET HTTP/1.1", Err(ParseError::StartLine)),
            (b" GET / HTTP/1.1", Err(ParseError::StartLine)),
            (b"GET / HTTP/1.1 ", Err(ParseError::StartLine)),
            (b"GET  / HTTP/1.1", Err(ParseError::StartLine)),
            (b"GET /  HTTP/1.1", Err(ParseError::StartLine)),
            (b"GET / / HTTP/1.1", Err(ParseError::StartLine)),
            (b"GET\t/ HTTP/1.1", Err(ParseError::StartLine)),
            (b"GET /\tHTTP/1.1", Err(ParseError::StartLine)),
            (b"GET\x0b/\x0bHTTP/1.1", Err(ParseError::StartLine)),
            (b"GET\r/ HTTP/1.1", Err(ParseError::StartLine)),
            (b"GET: / HTTP/1.1", Err(ParseError::StartLine)),
            (b"G(T / HTTP/1.1", Err(ParseError::StartLine)),
            (b"G\0T / HTTP/1.1", Err(ParseError::StartLine)),
            (b"G\xc3\x89T / HTTP/1.1", Err(ParseError::StartLine)),
            (b"\"GET\" / HTTP/1.1", Err(ParseError::StartLine)),
        ];
        for (line, expected) in CASES {
            let case = line.escape_ascii();
            assert_eq!(read(&with_line(line)).map(drop), *expected, "{case}");
        }
    }

    #[test]
    fn parses_methods() {
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
            let head = with_line(&[method.as_bytes(), b" / HTTP/1.1"].concat());
            assert_eq!(read(&head).unwrap().method, *method);
        }
    }

    #[test]
    fn parses_versions() {
        const CASES: &[Case<Result<Version, ParseError>>] = &[
            (b"HTTP/1.0", Ok(Version::Http10)),
            (b"HTTP/1.1", Ok(Version::Http11)),
            (b"HTTP/1.2", Ok(Version::Http11)),
            (b"HTTP/1.9", Ok(Version::Http11)),
            (b"HTTP/0.9", Err(ParseError::Version)),
            (b"HTTP/2.0", Err(ParseError::Version)),
            (b"HTTP/9.9", Err(ParseError::Version)),
            (b"", Err(ParseError::StartLine)),
            (b"HTTP/1", Err(ParseError::StartLine)),
            (b"HTTP/2", Err(ParseError::StartLine)),
            (b"HTTP/1.", Err(ParseError::StartLine)),
            (b"HTTP/.1", Err(ParseError::StartLine)),
            (b"HTTP/1.10", Err(ParseError::StartLine)),
            (b"HTTP/01.1", Err(ParseError::StartLine)),
            (b"HTTP/1,1", Err(ParseError::StartLine)),
            (b"HTTP/1.x", Err(ParseError::StartLine)),
            (b"HTTP/1.1\0", Err(ParseError::StartLine)),
            (b"HTTP/1.1\r", Err(ParseError::StartLine)),
            (b"HTTP 1.1", Err(ParseError::StartLine)),
            (b"http/1.1", Err(ParseError::StartLine)),
            (b"HTTPS/1.1", Err(ParseError::StartLine)),
            (b"ICY/1.1", Err(ParseError::StartLine)),
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
    fn rejects_the_http_2_preface_by_its_version() {
        let head = b"PRI * HTTP/2.0\r\n\r\n";
        assert_eq!(request(head).map(drop), Err(ParseError::Version));
    }

    #[test]
    fn parses_and_decodes_targets() {
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
            // Queries are checked and dropped.
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
            let expected = expected.map(<[u8]>::to_vec).ok_or(ParseError::Target);
            assert_eq!(found, expected, "{case}");
        }
    }

    #[test]
    fn accepts_the_bytes_of_rfc_3986_in_paths_and_more_in_queries() {
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
    fn requires_one_valid_host() {
        const CASES: &[(&[u8], bool, bool)] = &[
            // Field lines; valid in HTTP/1.1; valid in HTTP/1.0.
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
                let expected = if *expected { Ok(()) } else { Err(ParseError::Host) };
                assert_eq!(read(&head).map(drop), expected, "{}", head.escape_ascii());
            }
        }
    }

    #[test]
    fn requires_a_host_field_with_an_absolute_target() {
        let head = b"GET http://h/ HTTP/1.1\r\n\r\n";
        assert_eq!(request(head).map(drop), Err(ParseError::Host));
    }

    #[test]
    fn parses_fields_by_their_grammar() {
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
            // Folded lines, and lines that look folded.
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
            assert_eq!(request(&head).map(drop), Err(ParseError::Field), "{case}");
            let head = [b"HTTP/1.1 200 OK\r\n", *fields, b"\r\n"].concat();
            assert_eq!(response(&head).map(drop), Err(ParseError::Field), "{case}");
        }
    }

    #[test]
    fn accepts_each_byte_only_where_the_grammar_has_it() {
        const TCHAR: &[u8] = b"!#$%&'*+-.^_`|~0123456789\
            abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        for byte in 0..=u8::MAX {
            let token = TCHAR.contains(&byte);
            let text = matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
            // In the first eight bytes and behind them: eight are compared at once.
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
        }
    }

    #[test]
    fn finds_fields_in_any_case() {
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
    fn parses_content_lengths() {
        const CASES: &[Case<Result<Option<u64>, ParseError>>] = &[
            (b"X-Content-Length: 1\r\nContent-Lengt: 1\r\n", Ok(None)),
            (b"Content-Length: 0\r\n", Ok(Some(0))),
            (b"CONTENT-length:\t5 \r\n", Ok(Some(5))),
            (b"Content-Length: 0005\r\n", Ok(Some(5))),
            (b"Content-Length: 00000000000000000000000000000005\r\n", Ok(Some(5))),
            (b"Content-Length: 18446744073709551615\r\n", Ok(Some(u64::MAX))),
            (b"Content-Length: 18446744073709551616\r\n", Err(ParseError::Length)),
            (b"Content-Length: 99999999999999999999999999999\r\n", Err(ParseError::Length)),
            (b"Content-Length:\r\n", Err(ParseError::Length)),
            (b"Content-Length: \t \r\n", Err(ParseError::Length)),
            (b"Content-Length: +5\r\n", Err(ParseError::Length)),
            (b"Content-Length: -5\r\n", Err(ParseError::Length)),
            (b"Content-Length: -0\r\n", Err(ParseError::Length)),
            (b"Content-Length: 5.0\r\n", Err(ParseError::Length)),
            (b"Content-Length: 5e1\r\n", Err(ParseError::Length)),
            (b"Content-Length: 0x5\r\n", Err(ParseError::Length)),
            (b"Content-Length: f\r\n", Err(ParseError::Length)),
            (b"Content-Length: 1_0\r\n", Err(ParseError::Length)),
            (b"Content-Length: 5 5\r\n", Err(ParseError::Length)),
            (b"Content-Length: 5,5\r\n", Err(ParseError::Length)),
            (b"Content-Length: 5, 6\r\n", Err(ParseError::Length)),
            (b"Content-Length: 5,\r\n", Err(ParseError::Length)),
            (b"Content-Length: 5;q=1\r\n", Err(ParseError::Length)),
            (b"Content-Length: \"5\"\r\n", Err(ParseError::Length)),
            (b"Content-Length: \xd9\xa5\r\n", Err(ParseError::Length)),
            (b"Content-Length: 5\r\nContent-Length: 5\r\n", Err(ParseError::Length)),
            (b"Content-Length: 5\r\ncontent-length: 6\r\n", Err(ParseError::Length)),
            (b"Content-Length: 0\r\nX: y\r\nContent-Length: 0\r\n", Err(ParseError::Length)),
        ];
        for (fields, expected) in CASES {
            let (head, case) = (with_fields(fields), fields.escape_ascii());
            assert_eq!(request(&head).map(|head| head.headers.length), *expected, "{case}");
        }
    }

    #[test]
    fn parses_transfer_encodings() {
        const CASES: &[Case<Option<Coding>>] = &[
            (b"TE: chunked\r\n", None),
            (b"Transfer-Encoding: chunked\r\n", Some(Coding::Chunked)),
            (b"transfer-ENCODING:\tChUnKeD \r\n", Some(Coding::Chunked)),
            // Empty members are ignored (RFC 9110 5.6.1.2).
            (b"Transfer-Encoding: ,chunked\r\n", Some(Coding::Chunked)),
            (b"Transfer-Encoding: , \t, chunked , ,\r\n", Some(Coding::Chunked)),
            // A field without a coding.
            (b"Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n", Some(Coding::Empty)),
            (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: ,\r\n", Some(Coding::Empty)),
            (b"Transfer-Encoding:\r\n", Some(Coding::Empty)),
            (b"Transfer-Encoding: ,\r\n", Some(Coding::Empty)),
            (b"Transfer-Encoding: , ,\t, \r\n", Some(Coding::Empty)),
            (b"Transfer-Encoding:\r\nTransfer-Encoding: cow, chunked\r\n", Some(Coding::Empty)),
            (b"Transfer-Encoding: gzip,\r\n", Some(Coding::NotFinal)),
            // `chunked` is missing, comes twice, or does not come last.
            (b"Transfer-Encoding: identity\r\n", Some(Coding::NotFinal)),
            (b"Transfer-Encoding: gzip\r\n", Some(Coding::NotFinal)),
            (b"Transfer-Encoding: gzip, deflate\r\n", Some(Coding::NotFinal)),
            (b"Transfer-Encoding: chunked, gzip\r\n", Some(Coding::NotFinal)),
            (b"Transfer-Encoding: chunked, identity\r\n", Some(Coding::NotFinal)),
            (b"Transfer-Encoding: chunked, chunked\r\n", Some(Coding::NotFinal)),
            (
                b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Some(Coding::NotFinal),
            ),
            (
                b"Transfer-Encoding: chunked\r\nX: y\r\ntransfer-encoding: identity\r\n",
                Some(Coding::NotFinal),
            ),
            // Other codings are not decoded, at any place.
            (b"Transfer-Encoding: gzip, chunked\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: X-Gzip, deflate,\tCHUNKED\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: x-gzip\r\nTransfer-Encoding: chunked\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: cow\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: cow, chunked\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: chunked, cow\r\n", Some(Coding::Unknown)),
            (b"Transfer-Encoding: gzip, cow\r\n", Some(Coding::Unknown)),
            // Some parsers take these for `chunked`.
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
            assert_eq!(request(&head).unwrap().headers.coding, *expected, "{case}");
        }
    }

    #[test]
    fn parses_connection_options() {
        const CASES: &[(&[u8], bool, bool)] = &[
            // Field lines; has `close`; has `keep-alive`.
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
            let headers = request(&head).unwrap().headers;
            assert_eq!((headers.close, headers.keep_alive), (*close, *keep_alive), "{case}");
        }
    }

    #[test]
    fn accepts_100_continue_as_the_only_expectation() {
        const CASES: &[Case<Result<bool, ParseError>>] = &[
            (b"", Ok(false)),
            (b"Expect: 100-continue\r\n", Ok(true)),
            (b"eXPECT:100-Continue \r\n", Ok(true)),
            (b"Expect: 100-continue\r\nExpect: 100-continue\r\n", Ok(true)),
            (b"Expect:\r\n", Ok(false)),
            (b"Expect: \t, ,\r\n", Ok(false)),
            (b"Expect: 100-continue, 100-continue\r\n", Ok(true)),
            (b"Expect: ,100-CONTINUE,\r\n", Ok(true)),
            (b"Expect: x,\r\n", Err(ParseError::Expectation)),
            (b"Expect: 100\r\n", Err(ParseError::Expectation)),
            (b"Expect: 100-continued\r\n", Err(ParseError::Expectation)),
            (b"Expect: 100-continue, x\r\n", Err(ParseError::Expectation)),
            (b"Expect: x=y\r\n", Err(ParseError::Expectation)),
            (b"Expect: 100-continue\r\nExpect: x\r\n", Err(ParseError::Expectation)),
        ];
        for (fields, expected) in CASES {
            let (head, case) = (with_fields(fields), fields.escape_ascii());
            let found = request(&head).map(|head| head.headers.expects_continue);
            assert_eq!(found, *expected, "{case}");
        }
    }

    #[test]
    fn limits_the_number_of_fields() {
        for (more, expected) in [(127, Ok(())), (128, Err(ParseError::HeadTooLarge))] {
            let head = with_fields(&b"X:\r\n".repeat(more));
            assert_eq!(request(&head).map(drop), expected, "{more}");
        }
    }

    #[test]
    fn parses_status_lines() {
        const CASES: &[Case<Result<u16, ParseError>>] = &[
            (b"HTTP/1.1 200 OK", Ok(200)),
            (b"HTTP/1.1 200 ", Ok(200)),
            (b"HTTP/1.1 200", Ok(200)),
            (b"HTTP/1.0 404 Not  Found\t\xc3\xa9 ", Ok(404)),
            (b"HTTP/1.1 100 Continue", Ok(100)),
            (b"HTTP/1.1 599 ", Ok(599)),
            (b"HTTP/1.1 000 ", Err(ParseError::StartLine)),
            (b"HTTP/1.1 099 ", Err(ParseError::StartLine)),
            (b"HTTP/1.1 600 ", Err(ParseError::StartLine)),
            (b"HTTP/1.1 999 ", Err(ParseError::StartLine)),
            (b"HTTP/1.1 20 OK", Err(ParseError::StartLine)),
            (b"HTTP/1.1 2000 OK", Err(ParseError::StartLine)),
            (b"HTTP/1.1 2x0 OK", Err(ParseError::StartLine)),
            (b"HTTP/1.1 +20 OK", Err(ParseError::StartLine)),
            (b"HTTP/1.1 -20 OK", Err(ParseError::StartLine)),
            (b"HTTP/1.1 200OK", Err(ParseError::StartLine)),
            (b"HTTP/1.1 200\tOK", Err(ParseError::StartLine)),
            (b"HTTP/1.1  200 OK", Err(ParseError::StartLine)),
            (b"HTTP/1.1 OK", Err(ParseError::StartLine)),
            (b"HTTP/1.1 ", Err(ParseError::StartLine)),
            (b"HTTP/1.1", Err(ParseError::StartLine)),
            (b" HTTP/1.1 200 OK", Err(ParseError::StartLine)),
            (b"HTTP/1.1 200 O\0K", Err(ParseError::StartLine)),
            (b"HTTP/1.1 200 O\rK", Err(ParseError::StartLine)),
            (b"HTTP/1.1 200 \x1b[2J", Err(ParseError::StartLine)),
            (b"SSH-2.0-OpenSSH_9.6", Err(ParseError::StartLine)),
            (b"<html>", Err(ParseError::StartLine)),
            (b"", Err(ParseError::StartLine)),
        ];
        for (line, expected) in CASES {
            let (head, case) = ([line, &b"\r\n\r\n"[..]].concat(), line.escape_ascii());
            assert_eq!(response(&head).map(|head| head.status), *expected, "{case}");
        }
    }

    #[test]
    fn finds_the_end_of_a_head() {
        const CASES: &[Case<Result<Option<usize>, ParseError>>] = &[
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
            (b"\n", Err(ParseError::StartLine)),
            (b"a\n", Err(ParseError::StartLine)),
            (b"a\n\n", Err(ParseError::StartLine)),
            (b"a\n\r\n", Err(ParseError::StartLine)),
            (b"a\r\n\n", Err(ParseError::Field)),
            (b"a\r\nb\n", Err(ParseError::Field)),
            (b"a\r\nb\n\r\n", Err(ParseError::Field)),
            (b"a\r\nb\r\n\n", Err(ParseError::Field)),
        ];
        for (input, expected) in CASES {
            for pieces in every_split(input) {
                let (mut received, mut searched) = (Vec::new(), 0);
                let mut found = Ok(None);
                for piece in pieces {
                    received.extend_from_slice(piece);
                    if found == Ok(None) {
                        found = find_end(&received, &mut searched);
                    }
                    // No byte is searched twice.
                    assert!(found != Ok(None) || searched == received.len());
                }
                assert_eq!(found, *expected, "{}", input.escape_ascii());
            }
        }
    }
}

//! The grammar of RFC 9110, RFC 9112 and RFC 3986 below the level of a head: character classes,
//! tokens, numbers, authorities, request targets. There is no leniency where two parsers could
//! see different messages.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use super::Method;

/// The decoded path of a request target (RFC 9112 section 3.2), or `None` where the form does not
/// fit the method or a byte does not fit the form.
pub(super) fn target_path<'a>(method: Method<'_>, target: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    match (method, target) {
        // The authority-form names no resource here; the method receives 501.
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
    unescape(path, TARGET)
}

/// The bytes with every `%XX` replaced; `None` for a broken one, or another byte outside the class.
fn unescape(bytes: &[u8], class: u8) -> Option<Cow<'_, [u8]>> {
    if bytes.iter().all(|&byte| is(byte, class)) {
        return Some(Cow::Borrowed(bytes));
    }
    let mut plain = Vec::new();
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        let (value, after) = match (byte, after) {
            _ if is(byte, class) => (byte, after),
            (b'%', [high, low, after @ ..]) => (hex(*high)? << 4 | hex(*low)?, after),
            _ => return None,
        };
        plain.push(value);
        rest = after;
    }
    Some(Cow::Owned(plain))
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

/// Returns true if the bytes are `uri-host [ ":" port ]` (RFC 9110 sections 4.2.1 and 7.2).
pub(super) fn is_authority(bytes: &[u8]) -> bool {
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
            (!host.is_empty() && unescape(host, NAME).is_some(), port)
        }
    };
    // `http://host:/` is valid: an empty port is the default one (RFC 3986 section 3.2.3).
    let port_is_valid =
        port.is_empty() || decimal(port).is_some_and(|port| u16::try_from(port).is_ok());
    (host_is_valid && port_is_valid).then_some(port)
}

/// Parses digits alone: `str::parse` would take a sign.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Returns true if a token can hold this byte (`tchar`).
pub(super) fn is_tchar(byte: u8) -> bool {
    is(byte, TOKEN)
}

/// Returns true if a field value can hold this byte.
pub(super) fn is_field_byte(byte: u8) -> bool {
    is(byte, FIELD)
}

/// `tchar`: methods and field names (RFC 9110 section 5.6.2).
const TOKEN: u8 = 1;
/// `field-vchar`, space and tab: field values and reasons (RFC 9110 section 5.5).
pub(super) const FIELD: u8 = 2;
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
        let delimiter = matches!(this, b'!' | b'$' | b'&'..=b',' | b';' | b'=');
        let mark = matches!(
            this,
            b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~'
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
pub(super) fn is(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is(byte, TOKEN))
}

/// The offset of the first such byte. Eight at a time: searches are most of the parsing.
pub(super) fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
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

/// Returns true if `bytes` begin with `prefix`. Eight at a time: musl compares one by one.
pub(super) fn starts_with(bytes: &[u8], prefix: &[u8]) -> bool {
    let Some(bytes) = bytes.get(..prefix.len()) else { return false };
    let ((words, rest), (others, other_rest)) = (bytes.as_chunks::<8>(), prefix.as_chunks::<8>());
    let equal = |(a, b): (&[u8; 8], &[u8; 8])| u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b);
    words.iter().zip(others).all(equal) && rest.iter().eq(other_rest)
}

/// The bytes before and after the first `at`.
pub(super) fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let (before, after) = bytes.split_at_checked(find(bytes, at)?)?;
    Some((before, after.get(1..)?))
}

/// The first line without its CRLF, and the rest. A CR elsewhere stays in and is rejected later.
pub(super) fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (line, rest) = split(bytes, b'\n')?;
    Some((line.strip_suffix(b"\r")?, rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn sorts_bytes_into_their_classes() {
        // Each class spelled out.
        const ALPHANUMERIC: &[u8] =
            b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let classes: [(u8, &[u8]); 4] = [
            (TOKEN, b"!#$%&'*+-.^_`|~"),
            (TARGET, b"-._~!$&'()*+,;=:@/"),
            (QUERY, b"-._~!$&'()*+,;=:@/?%[]{}|\\^`"),
            (NAME, b"-._~!$&'()*+,;="),
        ];
        for byte in 0..=u8::MAX {
            for (class, marks) in classes {
                let expected = ALPHANUMERIC.contains(&byte) || marks.contains(&byte);
                assert_eq!(is(byte, class), expected, "{byte:#x} in {class}");
            }
            let is_text = matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
            assert_eq!(is_field_byte(byte), is_text, "{byte:#x}");
            assert_eq!(is_tchar(byte), is(byte, TOKEN), "{byte:#x}");
            assert_eq!(hex(byte).map(u32::from), char::from(byte).to_digit(16), "{byte:#x}");
        }
    }

    #[test]
    fn a_token_is_not_empty() {
        assert!(is_token(b"a") && is_token(b"A-b"));
        assert!(!is_token(b"") && !is_token(b"a b") && !is_token(b"\xc3\xa9"));
    }

    #[test]
    fn parses_decimals_without_a_sign() {
        for (digits, number) in [
            (&b"0"[..], Some(0)),
            (b"007", Some(7)),
            (b"18446744073709551615", Some(u64::MAX)),
            (b"18446744073709551616", None),
            (b"", None),
            (b"+1", None),
            (b"-1", None),
            (b" 1", None),
            (b"1_0", None),
            (b"0x1", None),
        ] {
            assert_eq!(decimal(digits), number, "{}", digits.escape_ascii());
        }
    }

    #[test]
    fn splits_an_authority_into_host_and_port() {
        for (authority, expected) in [
            (&b"h"[..], Some(&b""[..])),
            (b"h:", Some(b"")),
            (b"h:080", Some(b"080")),
            (b"h:65535", Some(b"65535")),
            (b"%c3%a9", Some(b"")),
            (b"[::1]", Some(b"")),
            (b"[::1]:80", Some(b"80")),
            (b"", None),
            (b":80", None),
            (b"h:65536", None),
            (b"h:+80", None),
            (b"h:80:80", None),
            (b"h%4", None),
            (b"u@h", None),
            (b"h/", None),
            (b"::1", None),
            (b"[::1]80", None),
            (b"[::1", None),
            (b"[h]", None),
        ] {
            let case = authority.escape_ascii();
            assert_eq!(port(authority), expected, "{case}");
            assert_eq!(is_authority(authority), expected.is_some(), "{case}");
        }
    }

    #[test]
    fn splits_at_the_first_separator() {
        assert_eq!(split(b"a:b:c", b':'), Some((&b"a"[..], &b"b:c"[..])));
        assert_eq!(split(b":", b':'), Some((&b""[..], &b""[..])));
        assert_eq!(split(b"a", b':'), None);
        assert_eq!(split_line(b"a\rb\r\n\r\n"), Some((&b"a\rb"[..], &b"\r\n"[..])));
        assert_eq!(split_line(b"a\n\r\n"), None);
        assert_eq!(split_line(b"a\r"), None);
    }

    #[test]
    fn finds_the_first_byte_at_any_place() {
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
    fn compares_every_byte_of_a_prefix() {
        let bytes: Vec<u8> = (0..40).collect();
        for length in 0..=bytes.len() {
            assert!(starts_with(&bytes, &bytes[..length]), "{length}");
            for at in 0..length {
                let mut other = bytes[..length].to_vec();
                other[at] ^= 0x80;
                assert!(!starts_with(&bytes, &other), "{length} but for {at}");
            }
        }
        assert!(!starts_with(b"", b"a") && !starts_with(b"0123456", b"01234567"));
    }
}

//! HTTP/1.1 as data (RFC 9110, RFC 9112): requests, responses, limits. The modules below turn
//! bytes into these and back. None of them knows a socket, a clock or a thread.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod body;
mod buffer;
pub mod client;
mod error;
mod grammar;
mod parse;
pub mod server;

use std::borrow::Cow;
use std::rc::Rc;

pub use error::ParseError;
pub use parse::Fields;

/// A request method (RFC 9110 section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method<'a> {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
    /// `CONNECT`
    Connect,
    /// `OPTIONS`
    Options,
    /// `TRACE`
    Trace,
    /// `PATCH` (RFC 5789)
    Patch,
    /// Any other token.
    Other(&'a [u8]),
}

impl<'a> Method<'a> {
    /// Parses a token. Methods are case-sensitive.
    pub fn parse(token: &'a [u8]) -> Method<'a> {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"CONNECT" => Method::Connect,
            b"OPTIONS" => Method::Options,
            b"TRACE" => Method::Trace,
            b"PATCH" => Method::Patch,
            other => Method::Other(other),
        }
    }

    /// The token on the wire.
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Method::Get => b"GET",
            Method::Head => b"HEAD",
            Method::Post => b"POST",
            Method::Put => b"PUT",
            Method::Delete => b"DELETE",
            Method::Connect => b"CONNECT",
            Method::Options => b"OPTIONS",
            Method::Trace => b"TRACE",
            Method::Patch => b"PATCH",
            Method::Other(token) => token,
        }
    }
}

/// The minor version of HTTP/1; a higher one than 1 is treated as 1 (RFC 9110 section 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: the connection closes after each response, unless the client sends `keep-alive`.
    Http10,
    /// HTTP/1.1
    Http11,
}

/// The connection after a response: it persists or closes (RFC 9112 section 9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// It stays open for the next request.
    Keep,
    /// It closes.
    Close,
}

/// A request. Its body, if it had one, has been read and dropped.
#[derive(Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method<'a>,
    /// The path, percent-decoded, without the query; `*` for the asterisk-form.
    pub path: Cow<'a, [u8]>,
    /// The client's version.
    pub version: Version,
    /// The header fields.
    pub fields: Fields<'a>,
}

macro_rules! statuses {
    ($($name:ident $code:literal $reason:literal)*) => {
        /// The statuses that the services send (RFC 9110 section 15, RFC 5842, RFC 6585).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Status {
            $(#[doc = concat!(stringify!($code), " ", $reason)] $name = $code,)*
        }

        impl Status {
            /// All statuses, in order.
            pub const ALL: &[Status] = &[$(Status::$name),*];

            pub(crate) fn status_line(self) -> &'static [u8] {
                match self {
                    $(Status::$name => {
                        concat!("HTTP/1.1 ", $code, " ", $reason, "\r\n").as_bytes()
                    })*
                }
            }
        }
    };
}

statuses! {
    Ok 200 "OK"
    NoContent 204 "No Content"
    NotModified 304 "Not Modified"
    BadRequest 400 "Bad Request"
    NotFound 404 "Not Found"
    MethodNotAllowed 405 "Method Not Allowed"
    RequestTimeout 408 "Request Timeout"
    ContentTooLarge 413 "Content Too Large"
    UriTooLong 414 "URI Too Long"
    ExpectationFailed 417 "Expectation Failed"
    RequestHeaderFieldsTooLarge 431 "Request Header Fields Too Large"
    InternalServerError 500 "Internal Server Error"
    NotImplemented 501 "Not Implemented"
    BadGateway 502 "Bad Gateway"
    ServiceUnavailable 503 "Service Unavailable"
    GatewayTimeout 504 "Gateway Timeout"
    HttpVersionNotSupported 505 "HTTP Version Not Supported"
    LoopDetected 508 "Loop Detected"
}

impl Status {
    /// Returns true if a response with this status has no body (RFC 9112 section 6.3).
    pub(crate) fn is_bodiless(self) -> bool {
        matches!(self, Status::NoContent | Status::NotModified)
    }

    /// The three digits.
    pub fn code(self) -> u16 {
        self as u16
    }
}

/// `Content-Type` of JSON.
pub const JSON: &str = "application/json";

/// A response, before it is known whether the connection stays open.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status. 204 and 304 have no body.
    pub status: Status,
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// More header lines, each ended by CRLF.
    pub fields: &'static str,
    /// The body.
    pub body: Cow<'static, [u8]>,
    /// The reason word of an error, for the log.
    pub reason: Option<&'static str>,
    /// The hosts that served this before this one did, for `X-Served-By`.
    pub served_by: Option<Rc<str>>,
}

impl Response {
    /// A JSON response.
    pub fn json(status: Status, body: impl Into<Cow<'static, [u8]>>) -> Response {
        Response {
            status,
            content_type: JSON,
            fields: "",
            body: body.into(),
            reason: None,
            served_by: None,
        }
    }
}

/// The value of a `Date` field: an IMF-fixdate (RFC 9110 section 5.6.7).
pub type Date = [u8; 29];

/// Limits of a message. `--help` gives the reasons for the defaults.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Start line, fields and blank line together; also trailers and chunk extensions together.
    pub head_bytes_max: usize,
    /// The body, without the bytes that chunking adds.
    pub body_bytes_max: u64,
}

/// The input as a network may deliver it: whole, cut at every place, byte by byte.
#[cfg(test)]
fn every_split(input: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let cuts = (1..input.len()).map(|at| <[_; 2]>::from(input.split_at(at)).to_vec());
    std::iter::once(vec![input]).chain(cuts).chain([input.chunks(1).collect()])
}

//! HTTP/1.1 as data (RFC 9110, RFC 9112): what a request and a response are, and every reason to
//! refuse one. The parts below turn bytes into these and back; none knows a socket or a clock.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub mod body;
pub mod call;
pub mod conversation;
pub mod head;

use std::borrow::Cow;
use std::fmt;

pub use head::Fields;

/// What is asked for (RFC 9110 section 9).
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
    /// The method that a token names; methods are case-sensitive.
    pub fn of(token: &'a [u8]) -> Method<'a> {
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

    /// Its token.
    pub fn token(self) -> &'a [u8] {
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
    /// HTTP/1.0: closes after each answer, unless asked to keep the connection.
    Http10,
    /// HTTP/1.1
    Http11,
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is kept for the next request.
    Keep,
    /// It is closed.
    Close,
}

/// A request whose body, if it had one, was read and dropped.
#[derive(Debug)]
pub struct Request<'a> {
    /// What is asked for.
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
        /// The statuses that a service of ours sends (RFC 9110 section 15, RFC 6585).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Status {
            $(#[doc = concat!(stringify!($code), " ", $reason)] $name = $code,)*
        }

        impl Status {
            /// All of them, in order.
            pub const ALL: &[Status] = &[$(Status::$name),*];

            fn line(self) -> &'static [u8] {
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
    BadRequest 400 "Bad Request"
    NotFound 404 "Not Found"
    MethodNotAllowed 405 "Method Not Allowed"
    RequestTimeout 408 "Request Timeout"
    ContentTooLarge 413 "Content Too Large"
    UriTooLong 414 "URI Too Long"
    ExpectationFailed 417 "Expectation Failed"
    FieldsTooLarge 431 "Request Header Fields Too Large"
    InternalServerError 500 "Internal Server Error"
    NotImplemented 501 "Not Implemented"
    BadGateway 502 "Bad Gateway"
    ServiceUnavailable 503 "Service Unavailable"
    GatewayTimeout 504 "Gateway Timeout"
    VersionNotSupported 505 "HTTP Version Not Supported"
}

impl Status {
    /// Its three digits.
    pub fn code(self) -> u16 {
        self as u16
    }
}

/// What a response's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// `application/json`
    Json,
    /// The Prometheus text format 0.0.4.
    Metrics,
}

/// An answer, before it is known whether the connection stays.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status; a 204 has no body.
    pub status: Status,
    /// What the body is.
    pub content: Content,
    /// The body.
    pub body: Cow<'static, [u8]>,
    /// The methods that the target takes, for `Allow` (RFC 9110 section 10.2.1).
    pub allow: Option<&'static str>,
}

impl Response {
    /// A JSON answer.
    pub fn json(status: Status, body: impl Into<Cow<'static, [u8]>>) -> Response {
        Response { status, content: Content::Json, body: body.into(), allow: None }
    }
}

/// The value of a `Date` field: an IMF-fixdate (RFC 9110 section 5.6.7).
pub type Date = [u8; 29];

macro_rules! refusals {
    ($($name:ident $status:ident $word:literal $phrase:literal)*) => {
        /// Every reason why a message is not taken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Refusal {
            $(#[doc = $phrase] $name,)*
        }

        impl Refusal {
            /// All of them.
            pub const ALL: &[Refusal] = &[$(Refusal::$name),*];

            /// The status that the peer must see.
            pub fn status(self) -> Status {
                match self {
                    $(Refusal::$name => Status::$status,)*
                }
            }

            /// One word for it, fit for a metric's label.
            pub fn word(self) -> &'static str {
                match self {
                    $(Refusal::$name => $word,)*
                }
            }

            /// What was wrong.
            pub fn phrase(self) -> &'static str {
                match self {
                    $(Refusal::$name => $phrase,)*
                }
            }
        }
    };
}

refusals! {
    StartLine BadRequest "start_line" "malformed start line"
    Version VersionNotSupported "version" "only HTTP/1.0 and HTTP/1.1 are spoken here"
    Target BadRequest "target" "malformed request target"
    TargetTooLong UriTooLong "target_too_long" "request line too long"
    Field BadRequest "field" "malformed header field"
    HeadTooLarge FieldsTooLarge "head_too_large" "header fields too large or too many"
    Host BadRequest "host" "exactly one valid Host field is required"
    Length BadRequest "length" "malformed or repeated Content-Length"
    Framing BadRequest "framing" "ambiguous message length"
    Coding NotImplemented "coding" "unknown transfer coding"
    Chunk BadRequest "chunk" "malformed chunk"
    TrailersTooLarge FieldsTooLarge "trailers_too_large" "chunk extensions or trailers too large"
    BodyTooLarge ContentTooLarge "body_too_large" "body too large"
    Expectation ExpectationFailed "expectation" "only 100-continue can be expected"
    Slow RequestTimeout "slow" "the request took too long to arrive"
    Crowded ServiceUnavailable "crowded" "too many connections"
    Overloaded ServiceUnavailable "overloaded" "too much is kept for slow clients"
    Unasked BadRequest "unasked" "an answer that was not asked for"
    Short BadRequest "short" "connection closed within a message"
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.phrase())
    }
}

/// What bounds a message, beside the reasons in `--help`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Start line, fields and blank line together; also all trailers and chunk extensions.
    pub head_bytes_max: usize,
    /// The body, without what chunking adds.
    pub body_bytes_max: u64,
}

/// The input in every way that a network may deliver it: whole, cut at every place, byte by byte.
#[cfg(test)]
fn every_way(input: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let cuts = (1..input.len()).map(|at| <[_; 2]>::from(input.split_at(at)).to_vec());
    std::iter::once(vec![input]).chain(cuts).chain([input.chunks(1).collect()])
}

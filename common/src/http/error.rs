//! The errors of HTTP messages: one row each, with status, metric label and phrase.

use std::fmt;

use super::Status;

macro_rules! parse_errors {
    ($($name:ident $status:ident $label:literal $phrase:literal)*) => {
        /// Why a message is malformed or too large.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ParseError {
            $(#[doc = $phrase] $name,)*
        }

        impl ParseError {
            /// All errors, for metrics.
            pub const ALL: &[ParseError] = &[$(ParseError::$name),*];

            /// The status of the response to a request with this error.
            pub fn status(self) -> Status {
                match self {
                    $(ParseError::$name => Status::$status,)*
                }
            }

            /// The value of the metric's label.
            pub fn label(self) -> &'static str {
                match self {
                    $(ParseError::$name => $label,)*
                }
            }

            /// The message for people.
            pub fn phrase(self) -> &'static str {
                match self {
                    $(ParseError::$name => $phrase,)*
                }
            }
        }
    };
}

parse_errors! {
    StartLine BadRequest "start_line" "malformed start line"
    Version HttpVersionNotSupported "version" "unsupported version; HTTP/1.0 and HTTP/1.1 are supported"
    Target BadRequest "target" "malformed request target"
    TargetTooLong UriTooLong "target_too_long" "request line too long"
    Field BadRequest "field" "malformed header field"
    HeadTooLarge RequestHeaderFieldsTooLarge "head_too_large" "header fields too large or too many"
    Host BadRequest "host" "exactly one valid Host field is required"
    Length BadRequest "length" "malformed or repeated Content-Length"
    Framing BadRequest "framing" "ambiguous message length"
    Coding NotImplemented "coding" "unknown transfer coding"
    Chunk BadRequest "chunk" "malformed chunk"
    TrailersTooLarge RequestHeaderFieldsTooLarge "trailers_too_large" "chunk extensions or trailers too large"
    BodyTooLarge ContentTooLarge "body_too_large" "body too large"
    Expectation ExpectationFailed "expectation" "unsupported expectation; 100-continue is supported"
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.phrase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_status_and_a_label_of_its_own() {
        let expected = [
            (ParseError::StartLine, 400),
            (ParseError::Version, 505),
            (ParseError::Target, 400),
            (ParseError::TargetTooLong, 414),
            (ParseError::Field, 400),
            (ParseError::HeadTooLarge, 431),
            (ParseError::Host, 400),
            (ParseError::Length, 400),
            (ParseError::Framing, 400),
            (ParseError::Coding, 501),
            (ParseError::Chunk, 400),
            (ParseError::TrailersTooLarge, 431),
            (ParseError::BodyTooLarge, 413),
            (ParseError::Expectation, 417),
        ];
        assert!(expected.iter().map(|(error, _)| error).eq(ParseError::ALL));
        for (error, code) in expected {
            assert_eq!(error.status().code(), code, "{error}");
            let same = ParseError::ALL.iter().filter(|other| other.label() == error.label());
            assert_eq!(same.count(), 1, "{error}");
        }
    }
}

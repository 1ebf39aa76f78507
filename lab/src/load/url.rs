//! URLs of servers, in the parts that a request needs (RFC 9110 section 4.2.1).

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// An `http` URL.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Url {
    /// Host and port as in the URL.
    pub(super) authority: String,
    host: String,
    port: u16,
    /// Path and query.
    pub(super) target: String,
}

impl Url {
    /// Parses a URL. The scheme may be left out.
    pub(super) fn parse(text: &str) -> Result<Url, String> {
        let error = |reason: &str| format!("{text:?} {reason}");
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return Err(error("is not an http:// URL; other schemes are not supported")),
            None => text,
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(error("contains a user name, which is not supported"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (authority, "80"),
        };
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| is_number && *port > 0);
        let port = port.ok_or_else(|| error("has no port from 1 to 65535"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(error("has no host"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(error("contains characters that must be percent-encoded"));
        }
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Url { authority: authority.to_owned(), host: host.to_owned(), port, target })
    }

    /// The addresses of the host; at least one.
    pub(super) fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        let found = found.map_err(|error| io::Error::other(format!("{}: {error}", self.host)))?;
        let addresses: Vec<_> = found.collect();
        if addresses.is_empty() {
            return Err(io::Error::other(format!("{} has no address", self.host)));
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_into_its_parts() {
        for (text, authority, host, port, target) in [
            ("http://a", "a", "a", 80, "/"),
            ("http://127.0.0.1:8000/", "127.0.0.1:8000", "127.0.0.1", 8000, "/"),
            ("http://a:8001/b/c?d=e#f", "a:8001", "a", 8001, "/b/c?d=e"),
            ("http://a?b", "a", "a", 80, "/?b"),
            ("http://[::1]:81/x", "[::1]:81", "::1", 81, "/x"),
            ("http://[::1]", "[::1]", "::1", 80, "/"),
            ("127.0.0.1:8000/b", "127.0.0.1:8000", "127.0.0.1", 8000, "/b"),
            ("a:80", "a:80", "a", 80, "/"),
            ("localhost", "localhost", "localhost", 80, "/"),
        ] {
            let url = Url {
                authority: authority.to_owned(),
                host: host.to_owned(),
                port,
                target: target.to_owned(),
            };
            assert_eq!(Url::parse(text), Ok(url), "{text}");
        }
    }

    #[test]
    fn a_wrong_url_is_an_error_that_names_the_reason() {
        for (text, reason) in [
            ("https://a/", "is not an http:// URL; other schemes are not supported"),
            ("ftp://a/", "is not an http:// URL; other schemes are not supported"),
            ("http://", "has no host"),
            ("http://:80/", "has no host"),
            ("http://a:0/", "has no port from 1 to 65535"),
            ("http://a:+1/", "has no port from 1 to 65535"),
            ("http://a:65536/", "has no port from 1 to 65535"),
            ("http://a@b/", "contains a user name, which is not supported"),
            ("http://a/\u{e9}", "contains characters that must be percent-encoded"),
            ("http://a/ b", "contains characters that must be percent-encoded"),
        ] {
            assert_eq!(Url::parse(text), Err(format!("{text:?} {reason}")), "{text}");
        }
    }
}

//! `GET /ui`: the page that draws the chain. A test compares its header fields with its bytes.

use common::http::{Request, Response, Status};

const HTML: &str = include_str!("page.html");

/// The first half of the page's SHA-256.
const ETAG: &str = "\"cfe8a4bc5ae7433a416f4c64f38f3667\"";

/// The policy allows the page's own style and script, by their hashes, and requests to its origin.
/// `data:` is its empty icon; without one, browsers request `/favicon.ico`.
const FIELDS: &str = "ETag: \"cfe8a4bc5ae7433a416f4c64f38f3667\"\r\n\
    Cache-Control: no-cache\r\n\
    Content-Security-Policy: default-src 'none'; connect-src 'self'; img-src data:; \
    script-src 'sha256-vQ1mUceaU8tXI86ghudZyMtP5BPsoezh8Hd0Pp3BZYM='; \
    style-src 'sha256-XY432H4GxMQPcwybQ5MH98YyYkLSeyqgPqLAz+DVRV0='; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
    X-Content-Type-Options: nosniff\r\n";

/// The page, or 304 for a client that has it.
pub(crate) fn response(request: &Request<'_>) -> Response {
    let tags = request.fields.get("if-none-match").unwrap_or_default();
    let status = if has_current(tags) { Status::NotModified } else { Status::Ok };
    Response {
        content_type: "text/html; charset=utf-8",
        fields: FIELDS,
        ..Response::json(status, HTML.as_bytes())
    }
}

/// Returns true if a list of entity tags has the page's, compared weakly (RFC 9110 section 13.1.2).
fn has_current(tags: &[u8]) -> bool {
    tags.split(|byte| *byte == b',').any(|tag| {
        let tag = tag.trim_ascii();
        tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == ETAG.as_bytes()
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::{ETAG, FIELDS, HTML, has_current};

    #[test]
    fn the_fields_hold_the_hashes_of_the_page() {
        for element in ["script", "style"] {
            let (_, after) = HTML.split_once(&format!("<{element}")).expect("an opening tag");
            let (_, after) = after.split_once('>').expect("its end");
            let (content, _) = after.split_once(&format!("</{element}>")).expect("a closing tag");
            let to_base64 = "sha256sum | cut -c -64 | tr a-f A-F | basenc --base16 -d | base64";
            let source = format!("{element}-src 'sha256-{}';", piped(content, to_base64));
            assert!(FIELDS.contains(&source), "the policy must have {source}");
        }
        assert_eq!(ETAG, format!("\"{}\"", piped(HTML, "sha256sum | cut -c -32")));
        assert!(FIELDS.starts_with(&format!("ETag: {ETAG}\r\n")));
    }

    #[test]
    fn the_page_is_at_most_12_kb() {
        assert!(HTML.len() <= 12 * 1024, "{} bytes", HTML.len());
    }

    #[test]
    fn finds_its_tag_in_a_list() {
        let weak = format!("W/{ETAG}");
        let list = format!("\"a\", {ETAG}");
        for (tags, expected) in
            [("", false), ("\"a\"", false), ("*", true), (ETAG, true), (&weak, true), (&list, true)]
        {
            assert_eq!(has_current(tags.as_bytes()), expected, "{tags}");
        }
    }

    /// Runs a shell command on the input and returns its output.
    fn piped(input: &str, command: &str) -> String {
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", command]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = shell.spawn().expect("a shell");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("its input");
        let output = child.wait_with_output().expect("its output");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }
}

//! Bytes to lines, each of bounded length.

/// Splits bytes that arrive in pieces into lines. A line over the limit is cut into several.
#[derive(Debug)]
pub struct Lines {
    /// The line that has no line feed yet.
    partial: Vec<u8>,
    line_bytes_max: usize,
}

impl Lines {
    /// A splitter that buffers at most `line_bytes_max` bytes.
    pub fn new(line_bytes_max: usize) -> Lines {
        Lines { partial: Vec::new(), line_bytes_max }
    }

    /// Passes every line that ends in these bytes to `line`, without the line feed.
    pub fn receive(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for byte in bytes {
            let is_end = *byte == b'\n';
            if is_end || self.partial.len() == self.line_bytes_max {
                line(&self.partial);
                self.partial.clear();
            }
            if !is_end {
                self.partial.push(*byte);
            }
        }
    }

    /// Passes the last line to `line` if it had no line feed.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            line(&self.partial);
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_arrive() {
        let bytes = b"ab\n\nabcdefg\nhi";
        for piece in 1..=bytes.len() {
            let (mut found, mut lines) = (Vec::new(), Lines::new(4));
            for piece in bytes.chunks(piece) {
                lines.receive(piece, |line| found.push(line.to_vec()));
            }
            lines.finish(|line| found.push(line.to_vec()));
            let expected: [&[u8]; 5] = [b"ab", b"", b"abcd", b"efg", b"hi"];
            assert_eq!(found, expected, "{piece}");
        }
    }
}

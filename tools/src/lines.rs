//! Bytes to lines, each of bounded length.

/// Splits bytes that come in pieces into lines. A longer line is cut into several.
#[derive(Debug)]
pub struct Lines {
    begun: Vec<u8>,
    line_bytes_max: usize,
}

impl Lines {
    /// A splitter that buffers so many bytes at most.
    pub fn new(line_bytes_max: usize) -> Lines {
        Lines { begun: Vec::new(), line_bytes_max }
    }

    /// Takes a piece, and gives every line that ends in it to `line`, without the line feed.
    pub fn receive(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for byte in bytes {
            let is_end = *byte == b'\n';
            if is_end || self.begun.len() == self.line_bytes_max {
                line(&self.begun);
                self.begun.clear();
            }
            if !is_end {
                self.begun.push(*byte);
            }
        }
    }

    /// Gives the last line to `line` if it has no line feed.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            line(&self.begun);
            self.begun.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_the_bytes_come() {
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

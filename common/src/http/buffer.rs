//! Buffers of a connection: bytes received and not parsed, bytes written and not sent.

use super::ParseError;
use super::grammar::starts_with;
use super::parse;

/// Received bytes. Those before `start` have been consumed.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    bytes: Vec<u8>,
    start: usize,
    /// How far the head at `start` has been searched for its end.
    searched: usize,
}

/// The last head that was accepted, and its meaning. Peers send the same head again and again, and
/// its meaning depends on its bytes alone. On the server's side this saves a sixth of the time of a
/// pipelined request.
#[derive(Debug)]
pub(super) struct HeadCache<T> {
    bytes: Vec<u8>,
    head: Option<T>,
}

impl<T> Default for HeadCache<T> {
    fn default() -> HeadCache<T> {
        HeadCache { bytes: Vec::new(), head: None }
    }
}

impl<T: Copy> HeadCache<T> {
    /// The length and the meaning of the head at the front of `bytes`, if it is the cached one.
    pub(super) fn get(&self, bytes: &[u8]) -> Option<(usize, T)> {
        let head = self.head?;
        starts_with(bytes, &self.bytes).then_some((self.bytes.len(), head))
    }

    /// Replaces the cached head.
    pub(super) fn put(&mut self, bytes: &[u8], head: T) {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.head = Some(head);
    }

    /// Bytes of memory.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Inbound {
    /// Appends received bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            (self.start, self.searched) = (0, self.searched.saturating_sub(self.start));
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes that have not been consumed.
    pub(super) fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Returns true if all bytes have been consumed.
    pub(super) fn is_consumed(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Consumes bytes from the front.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        self.searched = self.searched.max(self.start);
    }

    /// Consumes the head at the front, of this length, and returns it.
    pub(super) fn take_head(&mut self, length: usize) -> &[u8] {
        let start = self.start;
        self.consume(length);
        self.searched = self.start;
        self.bytes.get(start..self.start).unwrap_or_default()
    }

    /// Removes `count` bytes that follow the first `kept` unread ones.
    pub(super) fn remove_behind(&mut self, kept: usize, count: usize) {
        let from = self.start + kept;
        self.bytes.drain(from..from + count);
    }

    /// Drops all bytes.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        (self.start, self.searched) = (0, 0);
    }

    /// The length of the head at the front, blank line included; `None` until more is received.
    /// Bytes beyond `bytes_max` must not matter: they may have arrived or not.
    pub(super) fn head_length(&mut self, bytes_max: usize) -> Result<Option<usize>, ParseError> {
        let unread = self.bytes.get(self.start..).unwrap_or_default();
        let reachable = unread.get(..bytes_max).unwrap_or(unread);
        let mut searched = self.searched.saturating_sub(self.start);
        let end = parse::find_end(reachable, &mut searched)?;
        self.searched = self.start + searched;
        match end {
            None if unread.len() > bytes_max => Err(ParseError::HeadTooLarge),
            end => Ok(end),
        }
    }

    /// Bytes of memory.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Frees memory beyond the unread bytes if there is more than `spare_bytes_max` of it.
    pub(super) fn shrink(&mut self, spare_bytes_max: usize) {
        self.push(&[]);
        shrink(&mut self.bytes, spare_bytes_max);
    }
}

/// Written bytes. Those before `sent` have been sent.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbound {
    /// Where to append bytes to send.
    pub(super) fn writer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The bytes to send.
    pub(super) fn unsent(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// Records that this many bytes were sent.
    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
        // At least half of the bytes go: each is moved once on average, and sent bytes do not pile
        // up for a peer that never takes all.
        if self.sent >= self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Drops all bytes.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }

    /// Bytes of memory.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Frees memory beyond the bytes held if there is more than `spare_bytes_max` of it.
    pub(super) fn shrink(&mut self, spare_bytes_max: usize) {
        shrink(&mut self.bytes, spare_bytes_max);
    }
}

fn shrink(bytes: &mut Vec<u8>, spare_bytes_max: usize) {
    if bytes.capacity() - bytes.len() > spare_bytes_max {
        bytes.shrink_to_fit();
    }
}

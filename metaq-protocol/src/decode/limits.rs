//! The limits of received frames.

/// The limits of a [`Decoder`](super::Decoder). The protocol itself has none, so a peer could make a decoder
/// without limits buffer until memory runs out.
///
/// With the limits below, `put test 0 3000000 0 -1 1\r\n` is refused before a byte of its body has arrived.
///
/// ```
/// use metaq_protocol::Limits;
///
/// let limits = Limits::default().with_max_line(1024).with_max_body(2 << 20);
/// assert_eq!((limits.max_line(), limits.max_body()), (1024, 2 << 20));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    pub(super) max_line: usize,
    pub(super) max_body: usize,
}

impl Limits {
    /// Sets the limit of header lines, in bytes without their CR LF.
    ///
    /// Too small a value refuses long topic names or XA ids; a `put` with the longest ids that an `Xid`
    /// allows takes about 500 bytes in addition to its names.
    #[must_use]
    pub const fn with_max_line(mut self, bytes: usize) -> Self {
        self.max_line = bytes;
        self
    }

    /// Sets the limit of bodies, in bytes. A broker with default settings sends at most 1 MiB in a `value`.
    #[must_use]
    pub const fn with_max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// The longest header line in bytes, without its CR LF. Default 64 KiB.
    #[must_use]
    pub const fn max_line(&self) -> usize {
        self.max_line
    }

    /// The longest body in bytes. Default 64 MiB.
    #[must_use]
    pub const fn max_body(&self) -> usize {
        self.max_body
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_line: 64 << 10, max_body: 64 << 20 }
    }
}

//! `stats`: ask for statistics.

use bytes::BytesMut;

use crate::{
    Opaque, Token,
    encode::{Encode, frame_methods},
    number::{LineBuilder, text_len},
};

/// `stats`: ask for statistics.
///
/// ```text
/// stats item opaque\r\n
/// stats  opaque\r\n                  (no item: two spaces)
///
/// >> stats  70\r\n
/// << result 200 294 70\r\nSTATS\r\npid 32025\r\n...\r\nEND\r\n
/// ```
///
/// The items are `topics`, `offsets`, `realtime`, `config`, `help`, `reset`; any other text is taken for a
/// topic. [`parse_stats`](crate::parse_stats) parses the response.
///
/// No item and an empty one, which only a peer can send, are equal: they are the same on the wire.
#[derive(Clone, Debug, Eq)]
#[non_exhaustive]
pub struct StatsCommand {
    /// The item to ask for; `None` requests the statistics of the broker as a whole.
    pub item: Option<Token>,
    /// The number that the response repeats.
    pub opaque: Opaque,
}

impl StatsCommand {
    /// Creates a request for the statistics of `item`.
    #[must_use]
    pub fn new(item: Option<Token>, opaque: Opaque) -> Self {
        Self { item, opaque }
    }
}

impl PartialEq for StatsCommand {
    fn eq(&self, other: &Self) -> bool {
        let item = |stats: &Self| stats.item.clone().filter(|item| !item.is_empty());
        self.opaque == other.opaque && item(self) == item(other)
    }
}

impl Encode for StatsCommand {
    fn head_len(&self) -> usize {
        let item = self.item.as_ref().map_or(0, |item| item.len());
        "stats ".len() + item + 1 + text_len(self.opaque.0.into()) + 2
    }

    fn write_head(&self, dst: &mut BytesMut, body_len: usize) {
        let item = self.item.as_deref().unwrap_or_default();
        let mut line = LineBuilder::line_end();
        line.number(self.opaque.0).append_to(dst, [b"stats ", item.as_bytes()], body_len);
    }
}

frame_methods!(StatsCommand);

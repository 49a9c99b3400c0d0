//! `version` and `quit`.

use bytes::BytesMut;

use crate::{
    Opaque,
    encode::{Encode, frame_methods},
    number::{LineBuilder, text_len},
};

/// `version`: ask for the broker's version; also the heartbeat.
///
/// ```text
/// >> version 60\r\n
/// << result 200 3 60\r\n0.1
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionCommand {
    /// The number that the response repeats.
    pub opaque: Opaque,
}

impl VersionCommand {
    /// Creates a request for the version.
    #[must_use]
    pub fn new(opaque: Opaque) -> Self {
        Self { opaque }
    }
}

impl Encode for VersionCommand {
    fn head_len(&self) -> usize {
        "version ".len() + text_len(self.opaque.0.into()) + 2
    }

    fn write_head(&self, dst: &mut BytesMut, body_len: usize) {
        LineBuilder::line_end().number(self.opaque.0).append_to(dst, [b"version", b""], body_len);
    }
}

frame_methods!(VersionCommand);

/// `quit`: end the connection. There is no response; queued responses are sent first.
///
/// ```text
/// >> quit\r\n
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuitCommand {}

impl QuitCommand {
    /// Creates a request to end the connection.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
}

impl Encode for QuitCommand {
    fn head_len(&self) -> usize {
        "quit\r\n".len()
    }

    fn write_head(&self, dst: &mut BytesMut, body_len: usize) {
        LineBuilder::line_end().append_to(dst, [b"quit", b""], body_len);
    }
}

frame_methods!(QuitCommand);

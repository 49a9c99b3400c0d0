//! The key of a slot, which is the opaque of its request.

use metaq_protocol::Opaque;

/// A slot and one of its successive users.
///
/// The opaque on the wire is this key: the index in the low half, the generation in the high half. A response
/// that comes twice, or to no request, finds another generation and is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotKey {
    pub(super) index: u16,
    pub(super) generation: u16,
}

impl SlotKey {
    pub(crate) fn opaque(self) -> Opaque {
        Opaque(i32::from_be_bytes([
            self.generation.to_be_bytes()[0],
            self.generation.to_be_bytes()[1],
            self.index.to_be_bytes()[0],
            self.index.to_be_bytes()[1],
        ]))
    }

    pub(crate) fn from_opaque(opaque: Opaque) -> Self {
        let [g0, g1, i0, i1] = opaque.0.to_be_bytes();
        Self { index: u16::from_be_bytes([i0, i1]), generation: u16::from_be_bytes([g0, g1]) }
    }
}

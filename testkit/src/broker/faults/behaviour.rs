//! The behaviour of a broker towards all of its connections.

/// The behaviour of a broker towards all of its connections.
#[derive(Clone, Debug, Default)]
pub(in crate::broker) struct Behaviour {
    /// Nothing is read, nothing written.
    pub(in crate::broker) frozen: bool,
    /// New connections are closed immediately.
    pub(in crate::broker) refuses: bool,
    /// Incremented to close all connections.
    pub(in crate::broker) closings: u64,
    /// Incremented to strand all connections.
    pub(in crate::broker) strandings: u64,
    /// The number of bytes of responses after which a connection is closed; for all connections, or for one.
    pub(super) cuts: Vec<(Option<usize>, u64)>,
}

impl Behaviour {
    /// Returns the number of bytes of responses after which a connection is closed.
    pub(in crate::broker) fn cut_after(&self, connection: usize) -> Option<u64> {
        let cuts = self.cuts.iter().filter(|(of, _)| of.is_none_or(|of| of == connection));
        cuts.map(|(_, after)| *after).min()
    }
}

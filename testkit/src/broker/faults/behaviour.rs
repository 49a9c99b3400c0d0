//! The behaviour of a broker towards all of its connections.

/// The conduct of the broker towards all connections.
#[derive(Clone, Debug, Default)]
pub(in crate::broker) struct Behaviour {
    /// Nothing is read, nothing written.
    pub(in crate::broker) frozen: bool,
    /// New connections are closed at once.
    pub(in crate::broker) refuses: bool,
    /// Counts up whenever all are to be closed.
    pub(in crate::broker) closings: u64,
    /// Counts up whenever all are to be stranded.
    pub(in crate::broker) strandings: u64,
    /// After how many bytes of answers a connection is closed; of all, or of one.
    pub(super) cuts: Vec<(Option<usize>, u64)>,
}

impl Behaviour {
    /// After how many bytes of answers a connection is closed.
    pub(in crate::broker) fn cut(&self, connection: usize) -> Option<u64> {
        let cuts = self.cuts.iter().filter(|(of, _)| of.is_none_or(|of| of == connection));
        cuts.map(|(_, after)| *after).min()
    }
}

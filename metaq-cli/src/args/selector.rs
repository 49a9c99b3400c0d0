//! The selectors of partitions by name.

use clap::ValueEnum;
use metaq_producer::{ProducerBuilder, selector};

/// A selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SelectorName {
    RoundRobin,
    Random,
    Sticky,
    KeyHash,
    Rendezvous,
    Latency,
}

impl SelectorName {
    /// Sets the selector on `builder`.
    pub(crate) fn configure(self, builder: ProducerBuilder) -> ProducerBuilder {
        match self {
            Self::RoundRobin => builder.selector(selector::RoundRobinSelector::new()),
            Self::Random => builder.selector(selector::RandomSelector::new()),
            Self::Sticky => builder.selector(selector::StickySelector::new()),
            Self::KeyHash => builder.selector(selector::KeyHashSelector::new()),
            Self::Rendezvous => builder.selector(selector::RendezvousSelector::new()),
            Self::Latency => builder.selector(selector::LatencySelector::new()),
        }
    }
}

//! Real peers, and messages that flow all the time.

pub(crate) mod account;
pub(crate) mod load;
pub(crate) mod registry;

pub(crate) use crate::common::form::{figure, in_form, is_full};

use std::{fmt, time::Duration};

use metaq_producer::{
    Producer, ProducerConfig,
    discovery::{Discovery, ZooKeeperDiscovery},
};
use metaq_testkit::peers::ZooKeeper;

/// The allowance for a message beyond its timeout. In the short form other work has the machine, too.
pub(crate) fn grace() -> Duration {
    in_form(Duration::from_secs(1), Duration::from_millis(100))
}

/// Repeated measurements of a time.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub(crate) fn max(&self) -> Duration {
        self.0.iter().copied().max().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {} ms, max {} ms", self.median().as_millis(), self.max().as_millis())
    }
}

/// The producer of a cluster.
pub(crate) fn producer(zookeeper: &ZooKeeper, change: impl FnOnce(&mut ProducerConfig)) -> Producer {
    producer_with(ZooKeeperDiscovery::new(&zookeeper.connect_string()).unwrap(), change)
}

pub(crate) fn producer_with(
    discovery: impl Discovery + 'static,
    change: impl FnOnce(&mut ProducerConfig),
) -> Producer {
    let mut config = ProducerConfig::default();
    change(&mut config);
    Producer::builder().discovery(discovery).config(config).build().unwrap()
}

/// With thousands between commas.
pub(crate) struct Count(pub(crate) usize);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

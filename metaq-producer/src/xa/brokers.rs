//! The brokers that may hold transactions, whether they can be reached now or not.

use std::collections::BTreeMap;

use metaq_protocol::{BrokerAddr, BrokerId};
use parking_lot::Mutex;

/// The brokers that were seen, or that the program named.
#[derive(Debug, Default)]
pub(super) struct KnownBrokers {
    /// With the id under which a broker was seen last.
    known: Mutex<BTreeMap<BrokerAddr, Option<BrokerId>>>,
}

impl KnownBrokers {
    /// Takes note of the brokers that the registry names now. Those that were seen under one of these ids at
    /// another address have moved, and are not expected there any more.
    pub(super) fn see(&self, present: &[(BrokerId, BrokerAddr)]) {
        let mut known = self.known.lock();
        let is_here = |addr: &BrokerAddr| present.iter().any(|(_, here)| here == addr);
        let is_elsewhere = |id: BrokerId| present.iter().any(|(here, _)| *here == id);
        known.retain(|addr, id| is_here(addr) || !id.is_some_and(is_elsewhere));
        known.extend(present.iter().map(|(id, addr)| (addr.clone(), Some(*id))));
    }

    pub(super) fn expect(&self, brokers: impl IntoIterator<Item = BrokerAddr>) {
        let mut known = self.known.lock();
        for broker in brokers {
            known.entry(broker).or_default();
        }
    }

    pub(super) fn dismiss(&self, broker: &BrokerAddr) -> bool {
        self.known.lock().remove(broker).is_some()
    }

    pub(super) fn all(&self) -> Vec<BrokerAddr> {
        self.known.lock().keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_expected_until_it_is_seen_elsewhere_or_dismissed() {
        let addr = |port| BrokerAddr::new("h", port).unwrap();
        let known = KnownBrokers::default();
        known.see(&[(BrokerId(0), addr(1)), (BrokerId(1), addr(2))]);
        known.expect([addr(9)]);
        known.see(&[(BrokerId(1), addr(2))]);
        assert_eq!(known.all(), [addr(1), addr(2), addr(9)], "the first is away");
        known.see(&[(BrokerId(0), addr(3))]);
        assert_eq!(known.all(), [addr(2), addr(3), addr(9)], "it has moved");
        known.see(&[(BrokerId(0), addr(2)), (BrokerId(1), addr(3))]);
        assert_eq!(known.all(), [addr(2), addr(3), addr(9)], "two exchanged their addresses");
        assert!(known.dismiss(&addr(9)) && !known.dismiss(&addr(9)));
        assert_eq!(known.all(), [addr(2), addr(3)]);
    }
}

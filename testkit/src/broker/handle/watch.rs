//! Recording the requests that a broker receives, and counting its unanswered puts.

use super::broker::Broker;
use crate::broker::{
    observe::{PutMonitor, Record},
    requests::Requests,
};

impl Broker {
    /// Records the requests that match from now on, also those that meet a fault. [`Requests::after`] and
    /// [`Requests::first`] count from this call on; [`Requests::with_chance`] has no effect.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use metaq_testkit::{Broker, Requests};
    ///
    /// let broker = Broker::builder().topic("orders", 4).start_without_port()?;
    /// let heartbeats = broker.record(Requests::versions());
    /// // … what the service does …
    /// assert_eq!(heartbeats.count(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use = "requests are recorded only as long as the record is kept"]
    pub fn record(&self, requests: Requests) -> Record {
        let record = Record::new(requests);
        self.shared.records.add(record.clone());
        record
    }

    /// Counts the unanswered puts of each partition from now on. The first call starts the count, later ones
    /// return the same monitor.
    #[must_use]
    pub fn monitor_puts(&self) -> PutMonitor {
        self.shared.put_monitor.get_or_init(PutMonitor::default).clone()
    }
}

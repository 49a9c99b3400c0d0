//! The configuration of a broker as the text of a Java broker's configuration file.

use std::{fmt::Write as _, sync::atomic::Ordering};

use super::shared::BrokerShared;

impl BrokerShared {
    /// Returns the configuration in the form of a Java broker's file: the settings that matter to clients.
    pub(super) fn config(&self) -> String {
        let mut text = format!(
            "[system]\nbrokerId={}\nnumPartitions={}\nserverPort={}\nhostName={}\nmaxTransferSize={}\n\
             maxTxTimeoutInSeconds={}\n",
            self.id,
            self.topics.settings.default_partitions,
            self.addr.port(),
            self.addr.host(),
            self.settings.max_transfer,
            self.settings.max_transaction.as_secs(),
        );
        for entry in self.topics.all() {
            if entry.is_configured() {
                let partitions = self.topics.partitions(Some(&entry));
                // Writing to a string can't fail.
                let _ = write!(text, "[topic={}]\nnumPartitions={partitions}\n", entry.name);
                for (name, switch) in
                    [("acceptPublish", &entry.publishes), ("acceptSubscribe", &entry.subscribes)]
                {
                    if !switch.load(Ordering::Acquire) {
                        let _ = writeln!(text, "{name}=false");
                    }
                }
            }
        }
        text
    }

    /// Returns the CRC-32 of the configuration.
    pub(super) fn config_checksum(&self) -> u32 {
        crc32fast::hash(self.config().as_bytes())
    }
}

//! The messages of a folder that a command is about.

use std::{collections::HashSet, io};

use metaq_producer::{Partition, Topic};
use metaq_spool::{SpoolFolder, SpoolId, SpooledMessage};

use super::usage;

/// The options by which messages are chosen; without any, all are.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Selection")]
pub(super) struct Selection {
    /// The numbers of messages, as show prints them; one that is given twice counts once
    #[arg(value_name = "ID", conflicts_with_all = ["topic", "partition", "set_aside"])]
    pub(super) ids: Vec<u64>,
    /// Messages of this topic
    #[arg(short, long)]
    pub(super) topic: Option<Topic>,
    /// Messages that name this partition, such as 0-1
    #[arg(short, long, value_name = "BROKER-PART")]
    pub(super) partition: Option<Partition>,
    /// Messages that were set aside
    #[arg(long)]
    pub(super) set_aside: bool,
    /// Messages that wait, which is without those that were set aside
    #[arg(skip)]
    pub(super) waiting: bool,
}

impl Selection {
    /// Fails when the folder doesn't hold a message that is named; the error is the exit status.
    pub(super) fn check(&self, folder: &SpoolFolder) -> Result<(), u8> {
        for id in &self.ids {
            match folder.find(SpoolId(*id)) {
                Ok(Some(_)) => {}
                Ok(None) => {
                    let path = folder.path().display();
                    return Err(usage(&format!(
                        "spool {path} has no message {id}; metaq spool show lists those that it has"
                    )));
                }
                Err(error) => return Err(super::failed(folder.path(), &error)),
            }
        }
        Ok(())
    }

    /// Returns whether messages of a topic or partition are chosen, which damaged ones may belong to.
    pub(super) fn is_by_place(&self) -> bool {
        self.topic.is_some() || self.partition.is_some()
    }

    /// The messages: those that wait, by topic and partition in their order, then those that were set
    /// aside. An error ends them.
    pub(super) fn messages<'a>(
        &'a self,
        folder: &'a SpoolFolder,
    ) -> Box<dyn Iterator<Item = io::Result<SpooledMessage>> + 'a> {
        if !self.ids.is_empty() {
            // One that is named twice is one message.
            let mut seen = HashSet::new();
            let ids = self.ids.iter().filter(move |id| seen.insert(**id));
            return Box::new(ids.filter_map(|id| folder.find(SpoolId(*id)).transpose()));
        }
        let is_meant = move |topic: &Topic, partition: Option<Partition>| {
            self.topic.as_ref().is_none_or(|wanted| wanted == topic)
                && self.partition.is_none_or(|wanted| partition == Some(wanted))
        };
        let queues = if self.set_aside { Vec::new() } else { folder.queues() };
        let waiting = queues
            .into_iter()
            .filter(move |queue| is_meant(&queue.topic, queue.partition))
            .flat_map(|queue| folder.messages(&queue));
        let is_meant = move |found: &io::Result<SpooledMessage>| match found {
            Ok(SpooledMessage { message: Ok(message), .. }) => is_meant(message.topic(), message.partition()),
            // Where it belongs is not known.
            Ok(_) => self.topic.is_none() && self.partition.is_none(),
            Err(_) => true,
        };
        let with_aside = !self.waiting;
        let aside = with_aside.then(|| folder.set_aside().filter(is_meant)).into_iter().flatten();
        Box::new(waiting.chain(aside))
    }
}

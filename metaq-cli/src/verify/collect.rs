//! The second phase: each partition is read from where it ended before the run to a message that is sent at
//! the end, its fence. What the broker stored before the fence precedes it in the log.

use std::time::Duration;

use metaq_producer::{
    Message, Topic,
    inspect::{ListedPartition, ReadItem},
};
use tokio::time::{Instant, sleep};

use super::{
    ledger::{Ledger, Order},
    payload::{RunId, decode, encode_fence},
    state::Header,
};
use crate::{
    look::{Failure, Look},
    progress::ProgressLine,
    report::describe_send_error,
    stderr::{describe, print_message},
};

/// The pause before a broker is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Reads all partitions. Returns the problems that kept some of them from being read to the end.
pub(super) async fn collect(
    look: &Look,
    topic: &Topic,
    run: RunId,
    header: &Header,
    settle: Duration,
    ledger: &mut Ledger,
) -> Result<Vec<String>, Failure> {
    let mut problems = Vec::new();
    let line = ProgressLine::new(None, "reading back, {elapsed}, {msg}");
    for (partition, start) in &header.starts {
        if let Some(line) = &line {
            line.show(|bar| bar.set_message(partition.clone()));
        }
        let read = Partition { look, topic, run, name: partition, settle };
        if let Err(problem) = read.read(*start, header.ordered, ledger).await {
            print_message(&problem);
            problems.push(problem);
        }
    }
    Ok(problems)
}

/// A partition that is read back.
struct Partition<'a> {
    look: &'a Look,
    topic: &'a Topic,
    run: RunId,
    name: &'a str,
    settle: Duration,
}

impl Partition<'_> {
    async fn read(&self, start: i64, is_ordered: bool, ledger: &mut Ledger) -> Result<(), String> {
        let (place, fence) = self.fence().await?;
        // A log that ends before it began has lost its beginning.
        let mut reader = self.look.inspector.reader(&place, if fence < start { 0 } else { start });
        let mut order = Order::default();
        let mut progress = Instant::now();
        while reader.offset() <= fence {
            match reader.next().await {
                Ok(Some(item)) => {
                    progress = Instant::now();
                    match item {
                        ReadItem::Message(message) => {
                            let place = (message.partition, message.offset);
                            let order = is_ordered.then_some(&mut order);
                            ledger.find(decode(self.run, &message.payload), place, order);
                        }
                        ReadItem::Corrupt { offset, .. } => {
                            ledger.find_damage(place.partition, offset);
                        }
                        ReadItem::Skipped { offset, next_offset, .. } => print_message(&format!(
                            "partition {} has nothing from offset {offset} to {next_offset}: it was deleted",
                            self.name
                        )),
                        _ => {}
                    }
                }
                Ok(None) if progress.elapsed() < self.settle => sleep(RETRY_PAUSE).await,
                Ok(None) => {
                    // What was acknowledged and is not there is lost.
                    print_message(&format!(
                        "partition {} ends at offset {}, before offset {fence} where the last message was acknowledged",
                        self.name,
                        reader.offset()
                    ));
                    return Ok(());
                }
                Err(error) if error.is_transient() && progress.elapsed() < self.settle => {
                    sleep(RETRY_PAUSE).await;
                    // It may have moved.
                    if let Ok(place) = self.find().await {
                        reader.set_place(place);
                    }
                }
                Err(error) => {
                    return Err(format!("partition {} can't be read: {}", self.name, describe(&error)));
                }
            }
        }
        Ok(())
    }

    /// Sends the last message of the partition. Returns the partition, and the message's offset.
    async fn fence(&self) -> Result<(ListedPartition, i64), String> {
        let started = Instant::now();
        loop {
            let problem = match self.find().await {
                Err(problem) => problem,
                Ok(place) => {
                    let message = Message::new(self.topic.clone(), encode_fence(self.run));
                    match self.look.producer.send(message.with_partition(place.partition)).await {
                        Ok(receipt) => return Ok((place, receipt.offset)),
                        Err(error) => describe_send_error(&error),
                    }
                }
            };
            if started.elapsed() >= self.settle {
                return Err(format!("partition {} can't be read back: {problem}", self.name));
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn find(&self) -> Result<ListedPartition, String> {
        let places = self.look.inspector.partitions(self.topic).await.map_err(|error| describe(&error))?;
        let place = places.into_iter().find(|place| place.partition.to_string() == self.name);
        place.ok_or_else(|| format!("no broker offers partition {} of topic {} now", self.name, self.topic))
    }
}

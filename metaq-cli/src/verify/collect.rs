//! The second phase: each partition is read from where it ended before the run to a message that is sent at
//! the end, its fence. What the broker stored before the fence precedes it in the log. What follows the
//! fence by then is read, too, as a copy that came late may be there.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use metaq_producer::{
    BrokerId, Message, Outcome, Partition, Topic,
    inspect::{InspectErrorKind, ListedPartition, PartitionReader, ReadItem},
};
use tokio::time::{Instant, sleep};

use super::{
    ledger::{Ledger, Order},
    payload::{RunId, decode, encode_fence},
    state::Header,
};
use crate::{
    exit_status::{EXIT_NOT_FOUND, EXIT_REFUSED, EXIT_UNREACHABLE, of_inspect_error},
    look::Look,
    progress::ProgressLine,
    report::describe_send_error,
    stderr::{describe, print_message},
};

/// The pause before a broker is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A part of what was sent that could not be read back, and the exit status for it.
#[derive(Debug)]
pub(super) struct Problem {
    text: String,
    pub(super) status: u8,
}

impl Problem {
    pub(super) fn new(text: impl Into<String>, status: u8) -> Self {
        Self { text: text.into(), status }
    }
}

/// A run whose messages are read back.
pub(super) struct Collecting<'a> {
    pub(super) look: &'a Look,
    pub(super) topic: &'a Topic,
    pub(super) run: RunId,
    pub(super) header: &'a Header,
    /// The time to wait for brokers without any progress.
    pub(super) settle: Duration,
    pub(super) ledger: RefCell<&'a mut Ledger>,
}

impl Collecting<'_> {
    /// Reads all partitions, those of different brokers at the same time. Prints and returns the problems
    /// that kept some of them from being read to the end.
    pub(super) async fn collect(self) -> Vec<Problem> {
        let starts = self.header.starts();
        let mut names: BTreeSet<_> = starts.keys().copied().collect();
        names.extend(self.ledger.borrow_mut().end_sending());
        let mut problems = Vec::new();
        // The selector also takes brokers that have come since.
        if !self.header.ordered {
            match self.list().await {
                Ok(places) => names.extend(places.iter().map(|place| place.partition)),
                Err(problem) => problems.push(problem),
            }
        }
        let mut brokers = BTreeMap::<BrokerId, Vec<Partition>>::new();
        for name in names {
            brokers.entry(name.broker).or_default().push(name);
        }
        let line = ProgressLine::new(None, "reading back, {elapsed}, {msg}");
        let of_broker = async |names: &Vec<Partition>| {
            let (mut problems, mut settle) = (Vec::new(), self.settle);
            for name in names {
                if let Some(line) = &line {
                    line.show(|bar| bar.set_message(name.to_string()));
                }
                let partition = OnePartition { run: &self, name: *name, settle };
                if let Err(problem) = partition.read(starts.get(name).copied(), &mut problems).await {
                    if problem.status != EXIT_REFUSED {
                        // It was waited for.
                        settle = Duration::ZERO;
                    }
                    problems.push(problem);
                }
            }
            problems
        };
        problems.extend(join_all(brokers.values().map(of_broker)).await.into_iter().flatten());
        drop(line);
        problems.iter().for_each(|problem| print_message(&problem.text));
        problems
    }

    /// Lists the partitions that there are now. Waits for the registry.
    async fn list(&self) -> Result<Vec<ListedPartition>, Problem> {
        let started = Instant::now();
        loop {
            match self.look.inspector.partitions(self.topic).await {
                Ok(places) => return Ok(places),
                Err(_) if started.elapsed() < self.settle => sleep(RETRY_PAUSE).await,
                Err(error) => {
                    let text = format!("the partitions can't be listed: {}", describe(&error));
                    return Err(Problem::new(text, of_inspect_error(&error)));
                }
            }
        }
    }
}

/// A partition that is read back.
struct OnePartition<'a, 'b> {
    run: &'a Collecting<'b>,
    name: Partition,
    settle: Duration,
}

impl OnePartition<'_, '_> {
    /// Reads the partition from `start`, or from its first message. The error is the problem that ends it;
    /// parts that are missing are added to `problems`.
    async fn read(&self, start: Option<i64>, problems: &mut Vec<Problem>) -> Result<(), Problem> {
        let name = self.name;
        let (place, fence) = self.fence().await?;
        let acknowledged = self.run.ledger.borrow().next_place(name, i64::MIN);
        let begin = start.into_iter().chain(acknowledged).min().filter(|_| start.is_some());
        let begin = match begin {
            Some(begin) if begin <= fence => begin,
            // A log that ends before it began has lost its beginning; one that is new begins anywhere.
            _ => self.first(&place).await,
        };
        let mut reader = self.run.look.inspector.reader(&place, begin);
        let mut order = Order::default();
        let (mut end, mut is_end_known) = (fence.saturating_add(1), false);
        let mut progress = Instant::now();
        loop {
            let offset = reader.offset();
            if offset > fence && !is_end_known {
                is_end_known = true;
                self.run.ledger.borrow_mut().read_to(name, i64::MAX);
                if let Ok(offsets) = self.run.look.inspector.offsets(reader.place()).await {
                    end = end.max(offsets.end);
                }
            }
            if offset >= end {
                return Ok(());
            }
            match reader.next().await {
                Ok(Some(item)) => {
                    progress = Instant::now();
                    problems.extend(self.take(item, &mut order));
                    if reader.offset() <= fence {
                        self.run.ledger.borrow_mut().read_to(name, reader.offset());
                    }
                }
                // The rest isn't readable yet, and was not sent by this run.
                Ok(None) if offset > fence => return Ok(()),
                Ok(None) if progress.elapsed() < self.settle => sleep(RETRY_PAUSE).await,
                Ok(None) => {
                    let text = format!(
                        "partition {name} can be read up to offset {offset} only, although the broker has acknowledged \
                         the last message at offset {fence}"
                    );
                    return Err(Problem::new(text, EXIT_UNREACHABLE));
                }
                Err(error) if error.is_transient() && progress.elapsed() < self.settle => {
                    sleep(RETRY_PAUSE).await;
                    // It may have moved.
                    if let Ok(place) = self.find().await {
                        reader.set_place(place);
                    }
                }
                Err(error) if error.kind() == InspectErrorKind::Corrupt => {
                    print_message(&describe(&error));
                    progress = Instant::now();
                    match self.behind_damage(offset, fence) {
                        Some(next) => reader = self.reader(&reader, next),
                        None => return Ok(()),
                    }
                }
                Err(error) => {
                    let text = format!("partition {name} can't be read: {}", describe(&error));
                    return Err(Problem::new(text, of_inspect_error(&error)));
                }
            }
        }
    }

    fn reader(&self, before: &PartitionReader, offset: i64) -> PartitionReader {
        self.run.look.inspector.reader(before.place(), offset)
    }

    /// Enters damage at an offset. Returns the next offset that is known to be that of a message.
    fn behind_damage(&self, offset: i64, fence: i64) -> Option<i64> {
        let mut ledger = self.run.ledger.borrow_mut();
        ledger.find_damage((self.name, offset), None);
        let next = ledger.next_place(self.name, offset.saturating_add(1));
        next.filter(|next| *next < fence).or(Some(fence)).filter(|next| *next > offset)
    }

    /// Enters what was read.
    fn take(&self, item: ReadItem, order: &mut Order) -> Option<Problem> {
        let (name, mut ledger) = (self.name, self.run.ledger.borrow_mut());
        match item {
            ReadItem::Message(message) => {
                let order = self.run.header.ordered.then_some(order);
                ledger.find(decode(self.run.run, &message.payload), (name, message.offset), order);
                None
            }
            ReadItem::Corrupt { offset, .. } => {
                ledger.find_damage((name, offset), None);
                None
            }
            ReadItem::Skipped { offset, next_offset, .. } => {
                ledger.skip(name, offset..next_offset);
                let text = format!(
                    "partition {name} has nothing from offset {offset} to {next_offset} any more: it was deleted before \
                     it was read back; raise the broker's deletePolicy"
                );
                Some(Problem::new(text, EXIT_NOT_FOUND))
            }
            ReadItem::TooLarge { offset, next_offset, .. } => {
                ledger.skip(name, offset..next_offset);
                let length = next_offset - offset;
                let text = format!(
                    "the message of partition {name} at offset {offset} takes {length} bytes, more than the broker sends \
                     at a time (maxTransferSize): no consumer can read it"
                );
                Some(Problem::new(text, EXIT_REFUSED))
            }
            _ => None,
        }
    }

    /// Returns the first offset, or 0, from which the reader moves there.
    async fn first(&self, place: &ListedPartition) -> i64 {
        self.run.look.inspector.offsets(place).await.map_or(0, |offsets| offsets.first)
    }

    /// Sends the last message of the partition. Returns the partition, and the message's offset.
    async fn fence(&self) -> Result<(ListedPartition, i64), Problem> {
        let started = Instant::now();
        loop {
            let (problem, status) = match self.find().await {
                Err(problem) => (problem, EXIT_UNREACHABLE),
                Ok(place) => {
                    let message = Message::new(self.run.topic.clone(), encode_fence(self.run.run));
                    match self.run.look.producer.send(message.with_partition(place.partition)).await {
                        Ok(receipt) => return Ok((place, receipt.offset)),
                        Err(error) => {
                            let is_refused = error.outcome() == Outcome::Rejected;
                            let status = if is_refused { EXIT_REFUSED } else { EXIT_UNREACHABLE };
                            (describe_send_error(&error), status)
                        }
                    }
                }
            };
            if started.elapsed() >= self.settle {
                let text = format!("partition {} can't be read back: {problem}", self.name);
                return Err(Problem::new(text, status));
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn find(&self) -> Result<ListedPartition, String> {
        let places = self.run.look.inspector.partitions(self.run.topic).await;
        let mut places = places.map_err(|error| describe(&error))?.into_iter();
        let place = places.find(|place| place.partition == self.name);
        place.ok_or_else(|| {
            format!("no broker offers partition {} of topic {} now", self.name, self.run.topic)
        })
    }
}

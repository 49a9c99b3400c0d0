//! `metaq spool ls`: what each topic and partition holds.

use std::{collections::BTreeMap, io, path::PathBuf, time::Duration};

use metaq_producer::Partition;
use metaq_spool::SpoolFolder;
use serde::Serialize;

use super::{Printer, age, failed, form, open, seconds};
use crate::{
    display::{OutputForm, one_line},
    exit_status::EXIT_DONE,
    look::Table,
    report::count_messages,
};

/// The number of different reasons that are kept of each topic and partition.
const MAX_REASONS: usize = 20;

/// Lists what each topic and partition holds.
///
/// It shows messages that wait, their bytes, the age of the oldest, and the
/// messages that were set aside, with the reasons. With --json it prints one line
/// for each:
/// {"topic":"orders","partition":"0-1","messages":2,"bytes":96,"oldest_age_s":12.5,
/// "set_aside":1,"reasons":[{"reason":"…","messages":1}]}
/// where partition is null for messages that name none, and topic for damaged
/// ones.
///
/// Examples:
///   metaq spool ls /var/spool/orders
///   metaq spool ls /var/spool/orders --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// The folder
    folder: PathBuf,
    /// Prints JSON lines
    #[arg(long)]
    json: bool,
}

/// What is held of a topic and partition.
#[derive(Debug, Default)]
struct Held {
    messages: u64,
    bytes: u64,
    oldest: Option<Duration>,
    set_aside: u64,
    reasons: BTreeMap<String, u64>,
    /// Messages that were set aside for other reasons than these.
    for_others: u64,
}

/// The topic, if it is known, and the partition.
type Place = (Option<String>, Option<Partition>);

#[derive(Serialize)]
struct Line<'a> {
    topic: Option<&'a str>,
    partition: Option<String>,
    messages: u64,
    bytes: u64,
    oldest_age_s: Option<f64>,
    set_aside: u64,
    reasons: Vec<Reason<'a>>,
}

#[derive(Serialize)]
struct Reason<'a> {
    reason: &'a str,
    messages: u64,
}

pub(super) async fn run(args: Args) -> Result<u8, u8> {
    let form = form()?;
    let folder = open(&args.folder)?;
    let held = collect(&folder).map_err(|error| failed(&args.folder, &error))?;
    let mut printer = Printer::new()?;
    if args.json || form == Some(OutputForm::Json) {
        for (place, held) in &held {
            printer.json(&line(place, held)).await?;
        }
    } else {
        let table = table(&held);
        let is_plain = form == Some(OutputForm::Plain);
        if is_plain {
            printer.text(&table.plain()).await?;
        } else {
            if !held.is_empty() {
                printer.text(&table.format()).await?;
            }
            let waiting = count_messages(held.values().map(|held| held.messages).sum());
            let aside = folder.set_aside_count();
            printer.text(&format!("{waiting} waiting, {aside} set aside\n")).await?;
        }
    }
    printer.finish().await?;
    Ok(EXIT_DONE)
}

fn collect(folder: &SpoolFolder) -> io::Result<BTreeMap<Place, Held>> {
    let mut held = BTreeMap::<Place, Held>::new();
    for queue in folder.queues() {
        let oldest = folder.messages(&queue).next().transpose()?;
        let place = (Some(queue.topic.to_string()), queue.partition);
        let held = held.entry(place).or_default();
        (held.messages, held.bytes) = (queue.messages, queue.bytes);
        held.oldest = oldest.and_then(|message| folder.age(&message));
    }
    for message in folder.set_aside() {
        let message = message?;
        let place = match &message.message {
            Ok(message) => (Some(message.topic().to_string()), message.partition()),
            Err(_) => (None, None),
        };
        let held = held.entry(place).or_default();
        held.set_aside += 1;
        let reason = message.set_aside.map(|aside| aside.reason).unwrap_or_default();
        if held.reasons.len() < MAX_REASONS || held.reasons.contains_key(&reason) {
            *held.reasons.entry(reason).or_default() += 1;
        } else {
            held.for_others += 1;
        }
    }
    Ok(held)
}

fn line<'a>((topic, partition): &'a Place, held: &'a Held) -> Line<'a> {
    let others = (held.for_others > 0).then_some(("other reasons", held.for_others));
    let reasons = held.reasons.iter().map(|(reason, count)| (reason.as_str(), *count));
    Line {
        topic: topic.as_deref(),
        partition: partition.map(|partition| partition.to_string()),
        messages: held.messages,
        bytes: held.bytes,
        oldest_age_s: held.oldest.map(seconds),
        set_aside: held.set_aside,
        reasons: reasons.chain(others).map(|(reason, messages)| Reason { reason, messages }).collect(),
    }
}

fn table(all: &BTreeMap<Place, Held>) -> Table {
    let mut table =
        Table::new(&["TOPIC", "PARTITION", "MESSAGES", "BYTES", "OLDEST", "SET ASIDE", "REASONS"]);
    for (place, held) in all {
        let Line { topic, partition, messages, bytes, set_aside, reasons, .. } = line(place, held);
        let reasons: Vec<_> = reasons
            .iter()
            .map(|Reason { reason, messages }| format!("{messages}x {}", one_line(reason)))
            .collect();
        table.row(vec![
            topic.unwrap_or("?").to_owned(),
            partition.unwrap_or_else(|| "any".to_owned()),
            messages.to_string(),
            bytes.to_string(),
            held.oldest.map_or_else(|| "-".to_owned(), age),
            set_aside.to_string(),
            reasons.join("; "),
        ]);
    }
    table
}

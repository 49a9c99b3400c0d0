//! `metaq partitions`: the partitions of a topic, and their offsets.

use futures_util::future::join_all;
use metaq_producer::{Topic, inspect::ListedPartition};
use serde::Serialize;

use super::{Failure, Look, LookArgs, Table, partly, run as look_at};
use crate::{
    exit_status::of_inspect_error,
    stderr::{describe, print_message},
};

/// Lists the partitions of a topic, with the broker of each.
///
/// With --offsets, the brokers are asked for the first offset that is kept and
/// the end of what consumers can read, in bytes. Brokers make messages readable
/// some time after they have acknowledged them.
///
/// With --json it prints one line for each partition:
/// {"topic":"orders","partition":"0-1","broker":"meta://10.0.0.1:8123",
///  "first":0,"end":1024}
/// where first and end are there with --offsets only, and replaced by "error" if
/// the broker does not answer.
///
/// Examples:
///   metaq partitions orders --offsets --cluster zk://zk1:2181/meta
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The topic
    topic: Topic,
    #[command(flatten)]
    look: LookArgs,
    /// Asks the brokers for the offsets of each partition
    #[arg(long)]
    offsets: bool,
    /// Prints JSON lines
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> u8 {
    let Args { topic, look, offsets, json } = args;
    look_at(look, async |look| {
        let json = look.is_json(json);
        list(look, &topic, offsets, json).await
    })
    .await
}

async fn list(look: &mut Look, topic: &Topic, offsets: bool, json: bool) -> Result<u8, Failure> {
    let places = look.inspector.partitions(topic).await?;
    let mut failed = None;
    let columns = ["PARTITION", "BROKER", "FIRST", "END", "BYTES"];
    let mut table = Table::new(if offsets { &columns } else { &columns[..2] });
    let found = if offsets {
        let ask = async |place: &ListedPartition| Some(look.inspector.offsets(place).await);
        join_all(places.iter().map(ask)).await
    } else {
        places.iter().map(|_| None).collect()
    };
    for (place, found) in places.iter().zip(found) {
        let (partition, broker) = (place.partition.to_string(), place.broker.to_string());
        let mut row = vec![partition.clone(), broker.clone()];
        let mut line = Line { topic: topic.as_str(), partition, broker, first: None, end: None, error: None };
        match found {
            None => {}
            Some(Ok(found)) => {
                (line.first, line.end) = (Some(found.first), Some(found.end));
                row.extend([found.first, found.end, found.end - found.first].map(|n| n.to_string()));
            }
            Some(Err(error)) => {
                let text = describe(&error);
                print_message(&text);
                line.error = Some(text);
                row.push("?".to_owned());
                failed.get_or_insert_with(|| of_inspect_error(&error));
            }
        }
        if json {
            look.json(&line)?;
            look.capacity().await?;
        } else {
            table.row(row);
        }
    }
    if !json {
        look.table(&table);
    }
    Ok(partly(failed))
}

/// The line of a partition.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    partition: String,
    broker: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

//! `metaq read`: the messages that brokers have stored.
//!
//! `follow` reads partitions, `format` prints what it finds.

mod follow;
mod format;

use std::str::FromStr;

use clap::ValueEnum;
use futures_util::future::join_all;
use metaq_producer::{
    Partition, Topic,
    inspect::{InspectError, ListedPartition},
};
use tokio::time::sleep;

pub(crate) use self::format::hex_rows;
use self::{
    follow::{POLL_INTERVAL, Stop},
    format::Form,
};
use crate::{
    exit_status::{EXIT_NOT_FOUND, EXIT_UNREACHABLE, EXIT_USAGE},
    look::{Failure, Look, LookArgs, run as look_at},
    stderr::{describe, print_message},
};

/// Prints messages that brokers have stored, by partition and offset. Takes
/// nothing away from consumers, and stores no offsets.
///
/// Without --follow it reads up to the end that each partition has when it
/// begins, one partition after the other. With --follow it goes on with what is
/// stored later, of all partitions at once, until a signal.
///
/// The formats:
///   raw   the payload and a line feed
///   json  {"topic":"orders","partition":"0-1","offset":0,"id":"…",
///         "attribute":null,"data":"…"} in one line, with data_b64 in place of
///         data if the payload is not UTF-8
///   hex   a line with partition, offset, id and attribute, and the payload in rows
///         of 16 bytes
///
/// Messages that are damaged, deleted meanwhile, or longer than a broker sends at
/// a time are named on stderr. A partition that can't be read is named there,
/// too, and the others are read all the same.
///
/// Examples:
///   metaq read orders -n 10 --cluster zk://zk1:2181/meta
///   metaq read orders --from end --follow --cluster zk://zk1:2181/meta
///   metaq read orders -p 0-1 --from 8192 --format hex --cluster meta://broker:8123
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The topic
    topic: Topic,
    #[command(flatten)]
    look: LookArgs,
    /// A partition, such as 0-1; may be repeated. All by default
    #[arg(short, long = "partition", value_name = "BROKER-PART")]
    partitions: Vec<Partition>,
    /// Where to begin: begin, end, or an offset of one partition
    #[arg(long, value_name = "begin|end|OFFSET", default_value = "begin")]
    from: Start,
    /// Stops after this number of messages
    #[arg(short = 'n', long = "count", value_name = "COUNT")]
    count: Option<u64>,
    /// Waits for further messages at the end
    #[arg(short, long)]
    follow: bool,
    /// The form of the output; raw by default
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Raw,
    Json,
    Hex,
}

/// The offset to begin at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Begin,
    End,
    At(i64),
}

impl FromStr for Start {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "begin" => Ok(Self::Begin),
            "end" => Ok(Self::End),
            _ => {
                let offset = text.parse().ok().filter(|offset| *offset >= 0).map(Self::At);
                offset.ok_or("expected begin, end, or an offset in bytes, such as 8192")
            }
        }
    }
}

pub(crate) async fn run(args: Args) -> u8 {
    let Args { topic, look, partitions, from, count, follow, format, json } = args;
    if matches!(from, Start::At(_)) && partitions.len() != 1 {
        print_message(
            "--from with an offset needs one partition, as each has its own; add -p BROKER-PART, as metaq partitions \
             lists them",
        );
        return EXIT_USAGE;
    }
    look_at(look, async |look| {
        let form = match format {
            Some(Format::Json) => Form::Json,
            Some(Format::Hex) => Form::Hex,
            None if look.is_json(json) => Form::Json,
            Some(Format::Raw) | None => Form::Raw,
        };
        let mut is_away = false;
        let places = loop {
            match choose(look, &topic, &partitions).await {
                Err(Failure::Inspect(error)) if follow && may_pass(look, &error) => {
                    if !is_away {
                        print_message(&format!("{}; trying again", describe(&error)));
                    }
                    is_away = true;
                    sleep(POLL_INTERVAL).await;
                }
                chosen => break chosen?,
            }
        };
        let (mut readers, mut failed) = (Vec::new(), None);
        for started in join_all(places.iter().map(|place| start(look, place, from, follow))).await {
            match started {
                Ok(reading) => readers.push(reading),
                Err(failure) => {
                    let status = failure.report_of(look);
                    failed.get_or_insert(status);
                }
            }
        }
        let stop = Stop { count: count.unwrap_or(u64::MAX), follow };
        let status = follow::read(look, readers, stop, form).await?;
        Ok(failed.unwrap_or(status))
    })
    .await
}

/// Returns whether the topic's partitions may be listed later: the registry or the brokers are away.
fn may_pass(look: &Look, error: &InspectError) -> bool {
    error.is_transient() || look.status_of(error) == EXIT_UNREACHABLE
}

/// Returns those of the topic's partitions that were asked for.
async fn choose(look: &Look, topic: &Topic, wanted: &[Partition]) -> Result<Vec<ListedPartition>, Failure> {
    let all = look.inspector.partitions(topic).await?;
    for partition in wanted {
        if all.iter().all(|place| place.partition != *partition) {
            let known: Vec<_> = all.iter().map(|place| place.partition.to_string()).collect();
            let text = format!("topic {topic} has no partition {partition}; it has {}", known.join(", "));
            return Err(Failure::Other(text, EXIT_NOT_FOUND));
        }
    }
    Ok(all.into_iter().filter(|place| wanted.is_empty() || wanted.contains(&place.partition)).collect())
}

/// Makes a reader, and finds the offset to stop at.
async fn start(
    look: &Look,
    place: &ListedPartition,
    from: Start,
    follow: bool,
) -> Result<follow::Reading, Failure> {
    let offsets = match look.inspector.offsets(place).await {
        Ok(offsets) => offsets,
        Err(error) if follow && error.is_transient() => {
            print_message(&format!("{}; trying again", describe(&error)));
            let (offset, is_late) = match from {
                Start::At(offset) => (offset, false),
                Start::Begin | Start::End => (0, true),
            };
            let reader = look.inspector.reader(place, offset);
            let late = is_late.then(|| (look.inspector.clone(), from == Start::End));
            return Ok(follow::Reading { reader, end: i64::MAX, late });
        }
        Err(error) => return Err(error.into()),
    };
    let offset = match from {
        Start::Begin => offsets.first,
        Start::End => offsets.end,
        Start::At(offset) if offset > offsets.end => {
            let text = format!(
                "partition {} ends at offset {}, before {offset}; see metaq partitions --offsets",
                place.partition, offsets.end
            );
            return Err(Failure::Other(text, EXIT_NOT_FOUND));
        }
        Start::At(offset) => offset,
    };
    let reader = look.inspector.reader(place, offset);
    Ok(follow::Reading { reader, end: if follow { i64::MAX } else { offsets.end }, late: None })
}

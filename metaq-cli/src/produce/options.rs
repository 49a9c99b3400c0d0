//! The options of `metaq produce`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::ValueEnum;
use metaq_producer::{Partition, Topic};

use crate::{
    args::{ConnectionArgs, SelectorName, parse_time, parse_timeout, timeout_text},
    input::{Delimiter, Framing},
};

/// Sends each line of the input as one message, as soon as it is read. An empty line is an empty message.
///
/// Prints one JSON line for each message when its outcome is known:
/// {"line":N,"partition":"0-1","offset":O,"id":"I"} or
/// {"line":N,"error":{"kind":"…","outcome":"not-sent|rejected|unknown","message":"…"}}.
/// With --output plain, the same in words separated by tabs; with --output human, failures on stderr and a
/// summary at the end.
///
/// With --spool, a message that can't be sent now is kept in a folder, and gets the line
/// {"line":N,"spooled":"ID"}. What the folder holds is sent when brokers are back, each message with a line
/// {"spooled":"ID","partition":"0-1","offset":O,"id":"I"}, or {"spooled":"ID","error":{"kind":"set-aside",…}}
/// if brokers refuse it for good. The status is 0 when every line was stored or spooled. After a signal,
/// lines that were read are spooled.
///
/// SIGHUP, SIGINT and SIGTERM stop reading; messages in flight still get their lines, as long as the lines
/// are read within --timeout. A second signal ends the program immediately, or after 1s if the lines are not
/// read; messages in flight are reported as unknown. When lines can't be written, reading stops, too, and
/// stderr reports the number of messages without a line, by outcome.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic. When repeated, line N goes to topic (N-1) modulo their number
    #[arg(short, long = "topic", value_name = "TOPIC", required = true)]
    pub(super) topics: Vec<Topic>,
    /// The time limit for each message, retries included, and for the start, unless --wait says otherwise.
    /// By default 3s
    #[arg(long, value_name = "TIMEOUT", value_parser = timeout_text)]
    pub(super) timeout: Option<String>,
    /// Waits up to this time for the registry, the topics and their brokers, and reads nothing meanwhile.
    /// Without it, what is not there within --timeout is an error
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub(super) wait: Option<Duration>,
    /// The limit on unacknowledged messages, at most 65536; fewer if their lines, plus 1 KiB each, take more
    /// than 32 MiB
    #[arg(long, value_name = "K", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) in_flight: u32,
    /// An attribute for every message
    #[arg(short, long)]
    pub(super) attribute: Option<Arc<str>>,
    /// A key for every message, for the selectors key-hash and rendezvous; keys are not sent
    #[arg(short, long, conflicts_with = "partition")]
    pub(super) key: Option<Arc<str>>,
    /// The partition of every message, such as 0-1
    #[arg(short, long, value_name = "BROKER-PART", conflicts_with = "selector", value_parser = parse_partition)]
    pub(super) partition: Option<Partition>,
    /// How partitions are chosen. By default in turn, or by key if there are keys or a spool
    #[arg(long, value_name = "NAME")]
    pub(super) selector: Option<SelectorName>,
    /// Keeps the order of the input in each partition, by one message in flight in each
    #[arg(long)]
    pub(super) ordered: bool,
    /// The largest message, such as 512KiB. By default 1048556 bytes, the largest that consumers can fetch
    #[arg(long, value_name = "SIZE")]
    pub(super) max_message_size: Option<String>,
    /// The topic whose brokers get the messages of topics that no broker offers
    #[arg(long, value_name = "TOPIC")]
    pub(super) default_topic: Option<String>,
    /// The text that ends a message, with \n, \r, \t, \0, \xHH and \\. By default a line feed
    #[arg(short = 'D', long, value_name = "TEXT", value_parser = str::parse::<Delimiter>)]
    pub(super) delimiter: Option<Delimiter>,
    /// Each message follows its length, four bytes with the highest first
    #[arg(long, conflicts_with = "delimiter")]
    pub(super) length_prefixed: bool,
    /// Each file is one message
    #[arg(long, conflicts_with_all = ["delimiter", "length_prefixed", "rejects"])]
    pub(super) file_per_message: bool,
    /// Each line is JSON: {"data":"text"} or {"data_b64":"…"}, with "key" or "key_b64", "attribute" and
    /// "partition" where wanted
    #[arg(long, conflicts_with_all = ["delimiter", "length_prefixed", "file_per_message"])]
    pub(super) json_lines: bool,
    /// Whether a carriage return at the end of a line is a part of the message
    #[arg(long, value_name = "WHAT", default_value = "keep", conflicts_with_all = ["length_prefixed", "file_per_message"])]
    pub(super) crlf: Crlf,
    /// Sends at most this number of messages a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: Option<u32>,
    /// Stops after this number of messages; what was read beyond them is dropped
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
    /// What a message that is not acknowledged does to those after it
    #[arg(long, value_name = "WHAT", default_value = "skip")]
    pub(super) on_error: OnError,
    /// Appends the messages that were not acknowledged to a file, in the form of the input, so that it can be
    /// fed in again. Those with an unknown outcome are stored twice then, if they were stored. Takes one
    /// --topic
    #[arg(long, value_name = "FILE")]
    pub(super) rejects: Option<PathBuf>,
    /// Appends the line of each message to a file instead of stdout
    #[arg(long, value_name = "FILE")]
    pub(super) ack_log: Option<PathBuf>,
    /// Writes the messages to stdout as they are sent; their lines only go to the file of --ack-log
    #[arg(long)]
    pub(super) tee: bool,
    /// Shows what would be sent, and sends nothing; no cluster is needed
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Keeps messages that can't be sent now in this folder, which is made if it doesn't exist, and sends
    /// them when brokers are back, as well as those that the folder holds from before. One command at a
    /// time can use it. Starts without registry and brokers; --wait gives them time to be there first, 1s
    /// by default
    #[arg(long, value_name = "FOLDER", conflicts_with = "dry_run", help_heading = "Spool")]
    pub(super) spool: Option<PathBuf>,
    /// At the end of the input, waits up to this time for the spool to become empty. By default it ends at
    /// once, and leaves the rest to the next command
    #[arg(long, value_name = "DURATION", requires = "spool", value_parser = parse_time, help_heading = "Spool")]
    pub(super) drain: Option<Duration>,
    /// When a message counts as spooled: each, when it is on the disk; interval or interval=TIME, the same
    /// with one write in 10ms or TIME, for which messages wait unless no more come; never, when the operating
    /// system has it, which may lose it when the machine loses its power. By default each. -X
    /// spool.NAME=VALUE sets the bounds, such as spool.max_bytes=10GiB
    #[arg(long, value_name = "WHEN", requires = "spool", help_heading = "Spool")]
    pub(super) spool_fsync: Option<String>,
    /// Files to read; stdin when there are none, or for -
    #[arg(value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

/// What happens to a carriage return at the end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Crlf {
    Strip,
    Keep,
}

/// What happens after a message that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnError {
    /// No more lines are sent; those that were read are reported
    Stop,
    /// The next ones are sent
    Skip,
}

impl Args {
    pub(super) fn framing(&self) -> Framing {
        if self.length_prefixed {
            Framing::LengthPrefixed
        } else if self.file_per_message {
            Framing::WholeFile
        } else {
            Framing::Delimited {
                delimiter: self.delimiter.clone().unwrap_or_default(),
                strips_cr: self.crlf == Crlf::Strip,
            }
        }
    }

    /// Returns whether messages may have keys.
    pub(super) fn has_keys(&self) -> bool {
        self.key.is_some() || self.json_lines
    }

    pub(super) fn stops_on_error(&self) -> bool {
        self.on_error == OnError::Stop
    }
}

fn parse_partition(text: &str) -> Result<Partition, String> {
    let wrong = || "expected a broker's id and the index of a partition, such as 0-1".to_owned();
    let (broker, index) = text.split_once('-').ok_or_else(wrong)?;
    if broker.parse::<u32>().is_err() || index.parse::<u32>().is_err() {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

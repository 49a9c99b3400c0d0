//! `metaq produce`: each line of the input is one message.

mod run;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use metaq_producer::{Producer, ProducerConfig, PublishError, Topic};

use self::run::Run;
use crate::{
    args::{Cluster, parse_timeout},
    exit_status::{self, EXIT_USAGE},
    input::{Lines, checked_sources},
    report::Report,
    shutdown::{Shutdown, StopSignals, close},
    stderr::print_error,
};

/// Sends each line of the input as one message, as soon as it is read. An empty line is an empty message.
///
/// Prints one JSON line for each message when its outcome is known:
/// {"line":N,"partition":"0-1","offset":O,"id":"I"} or
/// {"line":N,"error":{"kind":"…","outcome":"not-sent|rejected|unknown","message":"…"}}
///
/// SIGINT and SIGTERM stop reading;
/// messages in flight still get their lines, as long as the lines are read within --timeout. A second signal
/// ends the program immediately, or after 1s if the lines are not read; messages in flight are reported as
/// unknown. When lines can't be written, reading stops, too, and stderr reports the number of messages
/// without a line, by outcome.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The source of broker addresses: zk://HOST:PORT,HOST:PORT[/ROOT] or, in builds with the feature etcd,
    /// etcd://HOST:PORT,HOST:PORT[/ROOT] for a registry (ROOT is /meta by default), meta://HOST:PORT for one
    /// broker without a registry, or file:PATH for a TOML or JSON file of brokers
    #[arg(long)]
    cluster: Cluster,
    /// The topic. When repeated, line N goes to topic (N-1) modulo their number
    #[arg(long = "topic", value_name = "TOPIC", required = true)]
    topics: Vec<Topic>,
    /// The time limit for each message, retries included
    #[arg(long, default_value = "3s", value_parser = parse_timeout)]
    timeout: Duration,
    /// The limit on unacknowledged messages, at most 65536; fewer if their lines, plus 1 KiB each, take more
    /// than 32 MiB
    #[arg(long, value_name = "K", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
    /// An attribute for every message
    #[arg(long)]
    attribute: Option<Arc<str>>,
    /// Files to read; stdin when there are none, or for -
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(crate) async fn run(args: Args) -> u8 {
    let sources = match checked_sources(&args.files) {
        Ok(sources) => sources,
        Err((name, error)) => {
            print_error(&format!("{name} can't be read"), &error);
            return EXIT_USAGE;
        }
    };
    let mut signals = match StopSignals::new() {
        Ok(signals) => signals,
        Err(error) => return print_error("signals can't be handled", &error),
    };
    let mut config = ProducerConfig::default();
    config.send_timeout = args.timeout;
    // One broker can have at most half of the messages that a producer has in flight.
    config.max_in_flight = config.max_in_flight.max(2 * args.in_flight as usize);
    let producer = match args.cluster.configure(Producer::builder().config(config)).build() {
        Ok(producer) => producer,
        Err(error) => return print_error("the producer can't be created", &error),
    };
    let published = tokio::select! {
        published = publish(&producer, &args.topics) => published,
        status = signals.next() => return status,
    };
    if let Err(error) = published {
        print_error("can't send", &error);
        return exit_status::of_publish_error(&error);
    }
    let started = Report::new().and_then(|report| Ok((report, Lines::read(sources)?)));
    let (report, lines) = match started {
        Ok(started) => started,
        Err(error) => return print_error("the input and the output can't be set up", &error),
    };
    let mut shutdown = Shutdown::new(signals, args.timeout);
    let run = Run::new(producer.clone(), args.topics, args.attribute, args.in_flight as usize, report);
    let status = run.run(lines, &mut shutdown).await;
    close(&producer, &mut shutdown, status).await
}

async fn publish(producer: &Producer, topics: &[Topic]) -> Result<(), PublishError> {
    try_join_all(topics.iter().map(|topic| producer.publish_topic(topic))).await?;
    Ok(())
}

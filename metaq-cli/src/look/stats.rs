//! `metaq stats`: the statistics that brokers keep.

use std::{collections::BTreeMap, time::Duration};

use metaq_producer::{BrokerAddr, BrokerId, inspect::ListedBroker};
use serde::Serialize;
use tokio::time::Instant;

use super::{Failure, Look, LookArgs, Table, ask, partly, prometheus, run as look_at};
use crate::{
    args::parse_timeout,
    display::is_for_prometheus,
    exit_status::{EXIT_NOT_FOUND, EXIT_USAGE, of_inspect_error},
    stderr::{describe, print_message},
};

/// Prints the statistics that the brokers keep themselves.
///
/// With --output json it prints one line for each broker:
/// {"id":0,"addr":"meta://10.0.0.1:8123","stats":[["pid","4711"],…]}
/// where a name without a value has null. With --output prometheus it prints the figures of brokers, topics
/// and partitions in the text format of Prometheus, for a node exporter's textfile collector.
///
/// With --watch it asks again at that interval until a signal comes, and shows how fast figures grow. A
/// broker that does not answer is reported on stderr.
///
/// Examples:
///   metaq stats --cluster zk://zk1:2181/meta
///   metaq stats 0 --item topics --watch 2s --cluster zk://zk1:2181/meta
///   metaq stats --output prometheus --cluster meta://broker:8123
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The broker's id or address; all brokers when it is left out
    broker: Option<String>,
    #[command(flatten)]
    look: LookArgs,
    /// What to ask for: topics, offsets, realtime, or the name of a topic; the broker as a whole by default
    #[arg(long)]
    item: Option<String>,
    /// Asks again at this interval
    #[arg(long, value_name = "INTERVAL", value_parser = parse_timeout)]
    watch: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Human,
    Json,
    Prometheus,
}

pub(crate) async fn run(args: Args) -> u8 {
    let Args { broker, look, item, watch } = args;
    if is_for_prometheus() && item.is_some() {
        print_message("--output prometheus has items of its own; leave --item out");
        return EXIT_USAGE;
    }
    look_at(look, async |look| {
        let brokers = find(look, broker.as_deref()).await?;
        let form = match is_for_prometheus() {
            true => Form::Prometheus,
            false if look.is_json(false) => Form::Json,
            false => Form::Human,
        };
        let mut before = Before::default();
        loop {
            let failed = match form {
                Form::Prometheus => prometheus::print(look, &brokers).await?,
                form => print(look, &brokers, item.as_deref(), form, &mut before).await?,
            };
            let Some(interval) = watch else { return Ok(partly(failed)) };
            look.written().await?;
            tokio::time::sleep(interval).await;
        }
    })
    .await
}

/// Finds the broker with this id or address; all brokers for none.
async fn find(look: &Look, wanted: Option<&str>) -> Result<Vec<ListedBroker>, Failure> {
    let mut brokers = look.inspector.brokers().await?;
    if let Some(wanted) = wanted {
        let addr = wanted.parse::<BrokerAddr>().ok();
        let id = wanted.parse().ok().map(BrokerId);
        brokers.retain(|broker| id == Some(broker.id) || addr.as_ref() == Some(&broker.addr));
        if brokers.is_empty() {
            let text = format!("no broker {wanted} offers a topic; metaq brokers lists those that do");
            return Err(Failure::Other(text, EXIT_NOT_FOUND));
        }
    }
    Ok(brokers)
}

/// The figures that were printed last, for the rates.
#[derive(Default)]
struct Before {
    figures: BTreeMap<(BrokerAddr, String), i64>,
    at: Option<Instant>,
}

/// Prints the statistics of all brokers. Returns the status of the first failure.
async fn print(
    look: &mut Look,
    brokers: &[ListedBroker],
    item: Option<&str>,
    form: Form,
    before: &mut Before,
) -> Result<Option<u8>, Failure> {
    let answers = ask(look, brokers, item).await;
    let elapsed = before.at.replace(Instant::now()).map(|at| at.elapsed().as_secs_f64());
    let mut failed = None;
    for (broker, answer) in brokers.iter().zip(answers) {
        let stats = match answer {
            Ok(stats) => stats,
            Err(error) => {
                print_message(&describe(&error));
                failed.get_or_insert_with(|| of_inspect_error(&error));
                continue;
            }
        };
        // The lines around the figures are not figures.
        let figures =
            stats.iter().filter(|(name, value)| value.is_some() || !["STATS", "END"].contains(name));
        if form == Form::Json {
            let addr = broker.addr.to_string();
            look.json(&Line { id: broker.id.0, addr, stats: figures.collect() })?;
            continue;
        }
        let title = format!("broker {}", broker.id);
        let mut table = Table::new(&[&title, &broker.addr.to_string()]);
        for (name, value) in figures {
            let mut row = vec![name.to_owned(), value.unwrap_or_default().to_owned()];
            if let Some(number) = value.and_then(|value| value.parse::<i64>().ok()) {
                let key = (broker.addr.clone(), name.to_owned());
                let last = before.figures.insert(key, number);
                if let Some((last, elapsed)) = last.zip(elapsed).filter(|(last, _)| *last != number) {
                    row.push(format!("{:+.1}/s", (number - last) as f64 / elapsed));
                }
            }
            table.row(row);
        }
        look.table(&table);
        look.text("\n");
    }
    Ok(failed)
}

/// The line of a broker.
#[derive(Serialize)]
struct Line<'a> {
    id: i32,
    addr: String,
    /// Pairs, since a name may occur more than once.
    stats: Vec<(&'a str, Option<&'a str>)>,
}

//! `metaq stats`: the statistics that brokers keep.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use metaq_producer::{
    BrokerAddr, BrokerId,
    discovery::BrokerRole,
    inspect::{InspectError, ListedBroker, ListedBrokers},
};
use serde::Serialize;
use tokio::time::Instant;

use super::{Failure, Look, LookArgs, Table, broker_id, known_id, partly, prometheus, run as look_at};
use crate::{
    args::parse_timeout,
    exit_status::{EXIT_NOT_FOUND, EXIT_USAGE, of_inspect_error},
    stderr::{describe, print_message},
};

/// Prints the statistics that the brokers keep themselves.
///
/// With --output json it prints one line for each broker:
/// {"id":0,"addr":"meta://10.0.0.1:8123","stats":[["pid","4711"],…]}
/// where a name without a value has null, as has an id that isn't known. With
/// --output prometheus it prints the figures of brokers, topics and partitions in
/// the text format of Prometheus, for a node exporter's textfile collector.
///
/// With --watch it lists the brokers and asks them again at that interval until a
/// signal comes, and shows how fast figures grow. A broker that does not answer
/// is reported on stderr. A slave is asked when its address is given.
///
/// Examples:
///   metaq stats --cluster zk://zk1:2181/meta
///   metaq stats 0 --item topics --watch 2s --cluster zk://zk1:2181/meta
///   metaq stats --output prometheus --cluster meta://broker:8123
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The broker's id or address; all masters when it is left out
    broker: Option<String>,
    #[command(flatten)]
    look: LookArgs,
    /// What to ask for: topics, offsets, realtime, config, help, or the name of a topic; the broker as
    /// a whole by default. Passwords in the configuration are not shown
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
    let Args { broker, mut look, item, watch } = args;
    look.takes_prometheus = true;
    let refusal = match item.as_deref() {
        Some("reset") => {
            Some("--item reset would set the counters of the brokers to zero; it is not supported")
        }
        Some(item) if item.is_empty() || item.contains(char::is_whitespace) => {
            Some("--item takes one word: topics, offsets, realtime, config, help, or the name of a topic")
        }
        _ => None,
    };
    if let Some(refusal) = refusal {
        print_message(refusal);
        return EXIT_USAGE;
    }
    look_at(look, async |look| {
        let refusal = match (&item, watch) {
            _ if !look.is_for_prometheus => None,
            (Some(_), _) => Some("--output prometheus has items of its own; leave --item out"),
            (None, Some(_)) => Some(
                "--output prometheus prints one set of figures; leave --watch out, and run it at an interval",
            ),
            (None, None) => None,
        };
        if let Some(refusal) = refusal {
            return Err(Failure::Other(refusal.to_owned(), EXIT_USAGE));
        }
        let mut printed = BTreeSet::new();
        let mut brokers = find(look, broker.as_deref(), &mut printed).await?;
        let form = match look.is_for_prometheus {
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
            if let Some(item) = item.as_deref().filter(|_| failed.is_none() && !before.is_item_known) {
                let text =
                    format!("no broker has statistics or a topic {item}; --item help lists what there is");
                return Err(Failure::Other(text, EXIT_NOT_FOUND));
            }
            let Some(interval) = watch else { return Ok(partly(failed)) };
            look.written().await?;
            tokio::time::sleep(interval).await;
            // Brokers come and go. Where they can't be listed, those that are known are asked.
            match find(look, broker.as_deref(), &mut printed).await {
                Ok(found) => brokers = found,
                Err(failure) => drop(failure.report_of(look)),
            }
        }
    })
    .await
}

/// Finds the master with this id, or the broker with this address; all masters for none. Fails when there is
/// none.
async fn find(
    look: &Look,
    wanted: Option<&str>,
    printed: &mut BTreeSet<String>,
) -> Result<Vec<ListedBroker>, Failure> {
    let mut brokers = all(look, printed).await?;
    let is_master = |broker: &ListedBroker| broker.role == BrokerRole::Master;
    let Some(wanted) = wanted else {
        brokers.retain(is_master);
        return Ok(brokers);
    };
    let addr = wanted.parse::<BrokerAddr>().ok();
    let id = wanted.parse().ok().map(BrokerId);
    let is_wanted = |broker: &ListedBroker| {
        id == Some(broker.id) && is_master(broker) || addr.as_ref() == Some(&broker.addr)
    };
    brokers.retain(is_wanted);
    if brokers.is_empty() {
        let text = format!("there is no broker {wanted}; metaq brokers lists those that there are");
        return Err(Failure::Other(text, EXIT_NOT_FOUND));
    }
    Ok(brokers)
}

/// Returns all brokers, and prints the entries of brokers that can't be used, except those that `printed`
/// has. Fails when there is none.
pub(super) async fn all(look: &Look, printed: &mut BTreeSet<String>) -> Result<Vec<ListedBroker>, Failure> {
    let ListedBrokers { brokers, bad_entries, .. } = look.inspector.brokers().await?;
    for bad in bad_entries {
        let text = format!("an entry of the registry is not used: {bad}");
        if printed.insert(text.clone()) {
            print_message(&text);
        }
    }
    if brokers.is_empty() {
        return Err(look.nothing_listed(&look.inspector.topics().await?).await);
    }
    Ok(brokers)
}

/// The figures that were printed last, for the rates.
#[derive(Default)]
struct Before {
    figures: BTreeMap<(BrokerAddr, String), i64>,
    at: Option<Instant>,
    /// Whether a broker had figures of the item.
    is_item_known: bool,
}

impl Before {
    /// Remembers a figure. Returns how much it has grown each second, if it has changed since `elapsed`.
    fn growth(
        &mut self,
        broker: &ListedBroker,
        name: &str,
        number: i64,
        elapsed: Option<f64>,
    ) -> Option<f64> {
        let last = self.figures.insert((broker.addr.clone(), name.to_owned()), number)?;
        (last != number).then_some((number - last) as f64 / elapsed?)
    }

    /// Forgets the figures of a broker that was restarted, which begin at zero.
    fn forget_restarted(&mut self, broker: &ListedBroker, stats: &Figures) {
        let uptime = stats.iter().find(|(name, _)| name == "uptime");
        let uptime = uptime.and_then(|(_, value)| value.as_deref()?.parse().ok());
        let last = self.figures.get(&(broker.addr.clone(), "uptime".to_owned()));
        if uptime.zip(last).is_some_and(|(uptime, last): (i64, &i64)| uptime < *last) {
            self.figures.retain(|(addr, _), _| *addr != broker.addr);
        }
    }
}

/// Names, and their values if they have one.
type Figures = Vec<(String, Option<String>)>;

/// Asks a broker for an item.
async fn ask_for(look: &Look, broker: &ListedBroker, item: Option<&str>) -> Result<Figures, InspectError> {
    if item == Some("config") {
        let config = look.inspector.config(&broker.addr).await?;
        return Ok(config.lines().map(config_line).collect());
    }
    let stats = look.inspector.stats(&broker.addr, item).await?;
    // The lines around the figures are not figures.
    let figures = stats.iter().filter(|(name, value)| value.is_some() || !["STATS", "END"].contains(name));
    Ok(figures.map(|(name, value)| (name.to_owned(), value.map(str::to_owned))).collect())
}

/// Takes a line of a broker's configuration apart, and replaces a secret.
fn config_line(line: &str) -> (String, Option<String>) {
    let Some((key, value)) = line.split_once('=') else { return (line.trim().to_owned(), None) };
    let lower = key.to_ascii_lowercase();
    let is_secret = ["pass", "auth", "secret"].iter().any(|word| lower.contains(word));
    (key.trim().to_owned(), Some(if is_secret { "***".to_owned() } else { value.trim().to_owned() }))
}

/// Prints the statistics of all brokers. Returns the status of the first failure.
async fn print(
    look: &mut Look,
    brokers: &[ListedBroker],
    item: Option<&str>,
    form: Form,
    before: &mut Before,
) -> Result<Option<u8>, Failure> {
    let answers = join_all(brokers.iter().map(|broker| ask_for(look, broker, item))).await;
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
        before.is_item_known |= is_known(&stats);
        before.forget_restarted(broker, &stats);
        if form == Form::Json {
            let addr = broker.addr.to_string();
            look.json(&Line { id: known_id(broker.id), addr, stats: &stats })?;
            continue;
        }
        let mut table = Table::without_names();
        table.row(vec![format!("broker {}", broker_id(broker.id)), broker.addr.to_string()]);
        for (name, value) in stats {
            let number = value.as_ref().and_then(|value| value.parse().ok());
            let growth = number.and_then(|number| before.growth(broker, &name, number, elapsed));
            let mut row = vec![name, value.unwrap_or_default()];
            row.extend(growth.map(|growth| format!("{growth:+.1}/s")));
            table.row(row);
        }
        look.table(&table);
        if !look.is_plain() {
            look.text("\n");
        }
    }
    Ok(failed)
}

/// Returns whether the broker of these statistics knows the item, which it takes for a topic otherwise.
fn is_known(stats: &Figures) -> bool {
    stats.iter().all(|(name, value)| name != "resultCode" || value.as_deref() != Some("1"))
}

/// The line of a broker.
#[derive(Serialize)]
struct Line<'a> {
    id: Option<i32>,
    addr: String,
    /// Pairs, since a name may occur more than once.
    stats: &'a Figures,
}

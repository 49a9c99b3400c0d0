//! `metaq brokers`: the brokers of a cluster.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use metaq_producer::{discovery::BrokerRole, inspect::ListedBroker};
use serde::Serialize;

use super::{Failure, Look, LookArgs, Table, broker_id, known_id, partly, run as look_at};
use crate::{
    exit_status::of_inspect_error,
    stderr::{describe, print_message},
};

/// Lists the brokers in the registry, masters and slaves, also those without
/// topics.
///
/// With --ping, each is connected to and asked for its version; the round trip is
/// the time between that request and its answer, without connecting.
///
/// With --json it prints one line for each broker:
/// {"id":0,"role":"master","addr":"meta://10.0.0.1:8123","topics":2,
///  "version":"1.4.6.2","round_trip_us":85.3}
/// where the role of a slave is slave and its number, topics are those that
/// producers can send to, and version and round_trip_us are there with --ping
/// only, and replaced by "error" if the broker does not answer. An id that isn't
/// known is null.
///
/// Examples:
///   metaq brokers --ping --cluster zk://zk1:2181/meta
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    #[command(flatten)]
    look: LookArgs,
    /// Asks each broker for its version, and measures the round trip
    #[arg(long)]
    ping: bool,
    /// Prints JSON lines
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> u8 {
    let Args { look, ping, json } = args;
    look_at(look, async |look| {
        let json = look.is_json(json);
        list(look, ping, json).await
    })
    .await
}

async fn list(look: &mut Look, ping: bool, json: bool) -> Result<u8, Failure> {
    let brokers = super::stats::all(look, &mut BTreeSet::new()).await?;
    let mut failed = None;
    let columns = ["ID", "ROLE", "ADDRESS", "TOPICS", "VERSION", "ROUND TRIP"];
    let mut table = Table::new(if ping { &columns } else { &columns[..4] });
    let answers = if ping {
        let ask = async |broker: &ListedBroker| Some(look.inspector.version(&broker.addr).await);
        join_all(brokers.iter().map(ask)).await
    } else {
        brokers.iter().map(|_| None).collect()
    };
    for (broker, answer) in brokers.iter().zip(answers) {
        let (addr, topics) = (broker.addr.to_string(), broker.topics.len());
        let role = broker.role.to_string();
        // Producers send nothing to a slave.
        let shown = if broker.role == BrokerRole::Master { topics.to_string() } else { "-".to_owned() };
        let mut row = vec![broker_id(broker.id), role.clone(), addr.clone(), shown];
        let id = known_id(broker.id);
        let mut line = Line { id, role, addr, topics, version: None, round_trip_us: None, error: None };
        match answer {
            None => {}
            Some(Ok(answer)) => {
                let micros = answer.round_trip.as_nanos() as f64 / 1e3;
                row.extend([answer.version.clone(), format!("{micros:.0} µs")]);
                (line.version, line.round_trip_us) = (Some(answer.version), Some(micros));
            }
            Some(Err(error)) => {
                let text = describe(&error);
                print_message(&text);
                line.error = Some(text);
                row.extend(["?".to_owned(), "no answer".to_owned()]);
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

/// The line of a broker.
#[derive(Serialize)]
struct Line {
    id: Option<i32>,
    role: String,
    addr: String,
    topics: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

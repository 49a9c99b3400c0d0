//! `metaq topics`: the topics of a cluster.

use metaq_producer::{
    Topic,
    discovery::{TopicView, ViewBroker},
};
use serde::Serialize;

use super::{Failure, Look, LookArgs, Table, known_id, run as look_at};
use crate::exit_status::EXIT_DONE;

/// Lists the topics that producers can send to, and the brokers that offer them.
///
/// With --json it prints one line for each topic:
/// {"topic":"orders","partitions":6,
/// "brokers":[{"id":0,"addr":"meta://10.0.0.1:8123","partitions":4},…]}
/// where the partitions of a broker that names none are null, as is an id that
/// isn't known.
///
/// Examples:
///   metaq topics --cluster zk://zk1:2181/meta
///   metaq topics orders --json --cluster meta://broker:8123
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Shows this topic only
    topic: Option<Topic>,
    #[command(flatten)]
    look: LookArgs,
    /// Prints JSON lines
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> u8 {
    let Args { topic, look, json } = args;
    look_at(look, async |look| {
        let json = look.is_json(json);
        list(look, topic.as_ref(), json).await
    })
    .await
}

async fn list(look: &mut Look, topic: Option<&Topic>, json: bool) -> Result<u8, Failure> {
    let views = match topic {
        Some(topic) => vec![look.inspector.topic(topic).await?],
        None => {
            let mut views = look.inspector.all_topics().await?;
            let registered: Vec<_> = views.iter().map(|view| view.topic().clone()).collect();
            views.retain(|view| !view.is_empty());
            if views.is_empty() {
                return Err(look.nothing_listed(&registered).await);
            }
            views
        }
    };
    let mut table = Table::new(&["TOPIC", "PARTITIONS", "BROKERS"]);
    for view in &views {
        if json {
            look.json(&line(view))?;
            look.capacity().await?;
        } else {
            let broker = |broker: &ViewBroker| match broker.partitions {
                Some(count) => format!("{}:{count}", broker.id),
                None => broker.addr.to_string(),
            };
            let brokers: Vec<_> = view.brokers().iter().map(broker).collect();
            let partitions = partitions(view).map_or_else(|| "?".to_owned(), |count| count.to_string());
            table.row(vec![view.topic().to_string(), partitions, brokers.join(" ")]);
        }
    }
    if !json {
        look.table(&table);
    }
    Ok(EXIT_DONE)
}

/// The number of partitions, if all brokers name it.
fn partitions(view: &TopicView) -> Option<u64> {
    view.brokers().iter().map(|broker| broker.partitions.map(u64::from)).sum()
}

/// The line of a topic.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    partitions: Option<u64>,
    brokers: Vec<BrokerOfTopic>,
}

#[derive(Serialize)]
struct BrokerOfTopic {
    id: Option<i32>,
    addr: String,
    partitions: Option<u32>,
}

fn line(view: &TopicView) -> Line<'_> {
    let broker = |broker: &ViewBroker| BrokerOfTopic {
        id: known_id(broker.id),
        addr: broker.addr.to_string(),
        partitions: broker.partitions,
    };
    let brokers = view.brokers().iter().map(broker).collect();
    Line { topic: view.topic().as_str(), partitions: partitions(view), brokers }
}

//! `metaq doctor`: walks from the registry to a stored message, and explains the first step that fails.
//!
//! `steps` has the steps, `finding` what a step found.

mod finding;
mod steps;

use metaq_producer::Topic;

use crate::look::{LookArgs, run as look_at};

/// Checks the way to the brokers step by step, and explains the first step that
/// fails, with its remedy.
///
/// The steps: 1 the registry answers, 2 it lists topics, 3 brokers offer the
/// topic, 4 their host names have addresses, 5 their ports accept connections, 6
/// a MetaQ broker answers there, 7 it can read the topic's partitions, 8 it
/// stores a message. Without TOPIC, steps 3, 7 and 8 are left out and all brokers
/// are checked.
///
/// Step 8 needs --put, since IT STORES A MESSAGE in every partition: consumers
/// get it. Its payload is "metaq doctor".
///
/// The exit status is that of the first failure. With --json it prints one line
/// for each finding:
/// {"step":5,"name":"port","ok":false,"subject":"meta://10.0.0.1:8123",
///  "text":"…","remedy":"…"}
///
/// Examples:
///   metaq doctor --cluster zk://zk1:2181/meta
///   metaq doctor orders --put --cluster zk://zk1:2181/meta
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The topic to check
    topic: Option<Topic>,
    #[command(flatten)]
    look: LookArgs,
    /// Sends a test message to each partition
    #[arg(long, requires = "topic")]
    put: bool,
    /// Prints JSON lines
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> u8 {
    let Args { topic, look, put, json } = args;
    let timeout = look.timeout();
    look_at(look, async |look| {
        let (cluster, json) = (look.cluster.clone(), look.is_json(json));
        let mut examination =
            steps::Examination { look, cluster, timeout, json, failed: None, is_taken_by_pattern: false };
        examination.run(topic.as_ref(), put).await?;
        Ok(examination.failed.unwrap_or_default())
    })
    .await
}

//! The commands that list what a cluster has: `topics`, `partitions`, `brokers` and `stats`, each in its
//! file.
//!
//! They, and `read` and `doctor` beside this folder, share [`LookArgs`], and [`run`], which prepares an
//! [`Inspector`], writes what the command prints, and turns failures into messages and exit statuses. `table`
//! formats rows.

pub(crate) mod brokers;
mod failure;
pub(crate) mod partitions;
mod prometheus;
pub(crate) mod stats;
mod table;
pub(crate) mod topics;

use std::{io, time::Duration};

use futures_util::future::join_all;
use metaq_producer::{
    Producer, ProducerConfig,
    inspect::{InspectError, Inspector, ListedBroker},
    stats::RemoteBrokerStats,
};
use serde::Serialize;

pub(crate) use self::{failure::Failure, table::Table};
use crate::{
    args::{Cluster, parse_timeout},
    exit_status::{EXIT_DONE, EXIT_FAILED},
    output::Output,
    shutdown::StopSignals,
    stderr::print_error,
};

/// Limit on closing at the end, when there is nothing left to wait for.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The options of commands that look at a cluster.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LookArgs {
    /// The source of broker addresses: zk://HOST:PORT,HOST:PORT[/ROOT] or, in builds with the feature etcd,
    /// etcd://HOST:PORT,HOST:PORT[/ROOT] for a registry (ROOT is /meta by default), meta://HOST:PORT for one
    /// broker without a registry, or file:PATH for a TOML or JSON file of brokers
    #[arg(long)]
    pub(crate) cluster: Cluster,
    /// The time limit for each question to the registry or a broker
    #[arg(long, default_value = "5s", value_parser = parse_timeout)]
    pub(crate) timeout: Duration,
}

/// The cluster that a command looks at, and its output.
pub(crate) struct Look {
    pub(crate) producer: Producer,
    pub(crate) inspector: Inspector,
    pub(crate) output: Output,
}

impl Look {
    /// Prepares the cluster and stdout. `change` changes the settings of the producer.
    ///
    /// # Errors
    /// The exit status, after a message.
    pub(crate) fn open(args: LookArgs, change: impl FnOnce(&mut ProducerConfig)) -> Result<Self, u8> {
        let LookArgs { cluster, timeout } = args;
        let output = Output::stdout();
        let output = output.map_err(|error| print_error("the output can't be set up", &error))?;
        let mut config = ProducerConfig::default();
        config.send_timeout = timeout;
        config.publish_timeout = timeout;
        change(&mut config);
        let producer = cluster.configure(Producer::builder().config(config)).build();
        let producer = producer.map_err(|error| print_error("the cluster can't be looked at", &error))?;
        let inspector = producer.inspector().with_timeout(timeout);
        Ok(Self { producer, inspector, output })
    }

    /// Disconnects.
    pub(crate) async fn close(&self) {
        self.producer.close(CLOSE_TIMEOUT).await;
    }

    /// Appends a line of JSON to the output.
    pub(crate) fn json(&mut self, line: &impl Serialize) -> Result<(), Failure> {
        let text = self.output.text();
        serde_json::to_writer(&mut *text, line).map_err(|error| Failure::Output(error.into()))?;
        text.push(b'\n');
        Ok(())
    }

    /// Appends text to the output.
    pub(crate) fn text(&mut self, text: &str) {
        self.output.text().extend_from_slice(text.as_bytes());
    }

    /// Waits until the output takes more.
    ///
    /// # Errors
    /// When writing has failed.
    pub(crate) async fn capacity(&mut self) -> Result<(), Failure> {
        while !self.output.has_capacity() && !self.output.has_failed() {
            self.output.changed().await;
        }
        self.check_output()
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// When writing has failed.
    pub(crate) async fn written(&mut self) -> Result<(), Failure> {
        self.output.written().await;
        self.check_output()
    }

    fn check_output(&mut self) -> Result<(), Failure> {
        if !self.output.has_failed() {
            return Ok(());
        }
        let failure = self.output.take_failure();
        Err(Failure::Output(failure.unwrap_or_else(|| io::Error::other("writing has failed before"))))
    }
}

/// Runs a command that looks at a cluster. Returns the exit status: that which `work` returns, that of its
/// failure, or that of a signal, which ends it at once.
pub(crate) async fn run(args: LookArgs, work: impl AsyncFnOnce(&mut Look) -> Result<u8, Failure>) -> u8 {
    let mut signals = match StopSignals::new() {
        Ok(signals) => signals,
        Err(error) => return print_error("signals can't be handled", &error),
    };
    let mut look = match Look::open(args, |_| {}) {
        Ok(look) => look,
        Err(status) => return status,
    };
    let work = async {
        let result = work(&mut look).await;
        // What was found before a failure is of use.
        let written = look.written().await;
        result.and_then(|status| written.map(|()| status))
    };
    let status = tokio::select! {
        result = work => result.unwrap_or_else(|failure| failure.report()),
        status = signals.next() => return status,
    };
    tokio::select! {
        () = look.close() => status,
        _ = signals.next() => status,
    }
}

/// Asks all brokers for statistics. The answers are in their order.
async fn ask(
    look: &Look,
    brokers: &[ListedBroker],
    item: Option<&str>,
) -> Vec<Result<RemoteBrokerStats, InspectError>> {
    join_all(brokers.iter().map(|broker| look.inspector.stats(&broker.addr, item))).await
}

/// Returns the status of a command of which a part failed.
pub(crate) fn partly(failed: Option<u8>) -> u8 {
    failed.map_or(EXIT_DONE, |status| if status == EXIT_DONE { EXIT_FAILED } else { status })
}

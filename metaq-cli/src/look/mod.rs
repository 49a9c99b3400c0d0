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

use std::{error::Error as _, io, time::Duration};

use metaq_producer::{
    BrokerId, Producer, ProducerBuilder, ProducerConfig, Topic,
    inspect::{InspectError, Inspector},
};
use serde::Serialize;

pub(crate) use self::{failure::Failure, table::Table};
use crate::{
    args::{ConnectionArgs, parse_timeout, timeout_text},
    display::{OutputForm, is_for_prometheus},
    exit_status::{EXIT_DONE, EXIT_FAILED, EXIT_NOT_FOUND, EXIT_USAGE, of_inspect_error},
    output::Output,
    settings::{Cluster, Flag, Origin, Settings},
    shutdown::StopSignals,
    stderr::{print_error, print_message},
};

/// Limit on closing at the end, when there is nothing left to wait for.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Limit on each question to the registry or a broker, unless the options have another.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The options of commands that look at a cluster.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LookArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// The time limit for each question to the registry or a broker, 5s by default
    #[arg(long, value_name = "TIMEOUT", value_parser = timeout_text)]
    timeout: Option<String>,
    /// Whether the command has `--output prometheus`.
    #[arg(skip)]
    pub(crate) takes_prometheus: bool,
}

impl LookArgs {
    /// Collects the settings. When they can't be used, prints the reason, and fails with the exit status. The
    /// file of settings may be a named pipe: signals are to be handled only later, so that they end the wait
    /// for its other end.
    pub(crate) fn settings(&self) -> Result<Settings, u8> {
        self.connection.settings(&[Flag::new("send_timeout", "--timeout", self.timeout.as_deref())])
    }

    /// Returns the limit on each question.
    pub(crate) fn timeout(&self) -> Duration {
        let asked = self.timeout.as_deref().and_then(|text| parse_timeout(text).ok());
        asked.unwrap_or(QUESTION_TIMEOUT)
    }
}

/// The cluster that a command looks at, and its output.
pub(crate) struct Look {
    pub(crate) cluster: Cluster,
    /// The cluster as the settings name it.
    pub(crate) cluster_name: String,
    pub(crate) producer: Producer,
    pub(crate) inspector: Inspector,
    pub(crate) output: Output,
    /// The form of results, if one is asked for.
    form: Option<OutputForm>,
    /// Set for the text format of Prometheus.
    pub(crate) is_for_prometheus: bool,
}

impl Look {
    /// Prepares the cluster and stdout. `change` changes the settings of the producer.
    ///
    /// # Errors
    /// The exit status, after a message, or of a signal.
    pub(crate) async fn open(
        args: &LookArgs,
        settings: Settings,
        change: impl FnOnce(&mut ProducerConfig),
        signals: &mut StopSignals,
    ) -> Result<Self, u8> {
        let (limit, takes_prometheus) = (args.timeout(), args.takes_prometheus);
        let usage = |text: String| {
            print_message(&text);
            EXIT_USAGE
        };
        let is_for_prometheus = takes_prometheus && is_for_prometheus(settings.get("output"));
        let form = if is_for_prometheus { Ok(None) } else { settings.output_form() };
        let form = form.map_err(usage)?;
        let (cluster, broker_tls) = settings.open_cluster(limit, signals).await?;
        let cluster_name = settings.get("cluster").unwrap_or_default().to_owned();
        let output = Output::stdout();
        let output = output.map_err(|error| print_error("the output can't be set up", &error))?;
        let is_default = |name| *settings.origin(name) == Origin::Default;
        let (sends_default, publishes_default) = (is_default("send_timeout"), is_default("publish_timeout"));
        let mut config = settings.config;
        if sends_default {
            config.send_timeout = limit;
        }
        if publishes_default {
            config.publish_timeout = limit;
        }
        change(&mut config);
        let builder = cluster.clone().configure(Producer::builder().config(config.clone()));
        let producer = broker_tls.configure(builder, &config).and_then(ProducerBuilder::build);
        let producer = producer.map_err(|error| print_error("the cluster can't be looked at", &error))?;
        let inspector = producer.inspector().with_timeout(limit);
        Ok(Self { cluster, cluster_name, producer, inspector, output, form, is_for_prometheus })
    }

    /// Returns whether results are lines of JSON: by the command's `--json`, or as the settings say.
    pub(crate) fn is_json(&self, json: bool) -> bool {
        json || self.form == Some(OutputForm::Json)
    }

    /// Returns whether results are lines of words separated by tabs.
    pub(crate) fn is_plain(&self) -> bool {
        self.form == Some(OutputForm::Plain)
    }

    /// Appends a table to the output: in columns or, in the plain form, as lines of words without names of
    /// columns.
    pub(crate) fn table(&mut self, table: &Table) {
        let text = if self.is_plain() { table.plain() } else { table.format() };
        self.text(&text);
    }

    /// Disconnects.
    pub(crate) async fn close(&self) {
        self.producer.close(CLOSE_TIMEOUT).await;
    }

    /// Returns the exit status for a cluster that can't be looked at.
    pub(crate) fn status_of(&self, error: &InspectError) -> u8 {
        self.cluster.status_of_cause(error.source()).unwrap_or_else(|| of_inspect_error(error))
    }

    /// The failure of a cluster that has no broker with a topic. `topics` are those that are registered.
    pub(crate) async fn nothing_listed(&self, topics: &[Topic]) -> Failure {
        Failure::Other(self.explain_nothing(topics).await, EXIT_NOT_FOUND)
    }

    /// Explains why no broker offers a topic. `topics` are those that are registered.
    pub(crate) async fn explain_nothing(&self, topics: &[Topic]) -> String {
        if let Some(topic) = topics.first() {
            let count = topics.len();
            let (topics, their) = if count == 1 { ("topic is", "its") } else { ("topics are", "their") };
            return format!(
                "{count} {topics} registered, {topic} first, but none of {their} brokers is alive now; start them"
            );
        }
        if let Cluster::Direct(addr) = &self.cluster {
            return format!("broker {addr} has no topics; add [topic=NAME] to its server.ini");
        }
        self.explain_root().await.unwrap_or_else(|| {
            format!(
                "no topics are registered in {}; check its root, and that brokers run and have topics configured",
                self.cluster_name
            )
        })
    }

    /// Explains why a registry lists no topics, if it has more to say.
    pub(crate) async fn explain_root(&self) -> Option<String> {
        // The root has none, whatever its name.
        self.inspector.explain_absence(&"any".parse().ok()?).await
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
    let settings = match args.settings() {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    let mut signals = match StopSignals::new() {
        Ok(signals) => signals,
        Err(error) => return print_error("signals can't be handled", &error),
    };
    let mut look = match Look::open(&args, settings, |_| {}, &mut signals).await {
        Ok(look) => look,
        Err(status) => return status,
    };
    let work = async {
        let result = work(&mut look).await;
        // What was found before a failure is of use.
        let written = look.written().await;
        result.and_then(|status| written.map(|()| status))
    };
    let result = tokio::select! {
        result = work => result,
        status = signals.next() => return status,
    };
    let status = result.unwrap_or_else(|failure| failure.report_of(&look));
    tokio::select! {
        () = look.close() => status,
        _ = signals.next() => status,
    }
}

/// Returns a broker's id for people.
pub(crate) fn broker_id(id: BrokerId) -> String {
    if id == BrokerId::UNKNOWN { "?".to_owned() } else { id.to_string() }
}

/// Returns a broker's id for programs.
fn known_id(id: BrokerId) -> Option<i32> {
    (id != BrokerId::UNKNOWN).then_some(id.0)
}

/// Returns the status of a command of which a part failed.
pub(crate) fn partly(failed: Option<u8>) -> u8 {
    failed.map_or(EXIT_DONE, |status| if status == EXIT_DONE { EXIT_FAILED } else { status })
}

/// Returns a value of the section `[system]` of a broker's configuration file.
pub(crate) fn system_setting(config: &str, name: &str) -> Option<String> {
    let mut section = String::new();
    for line in config.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.trim().to_owned();
        } else if section == "system"
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == name
        {
            return Some(value.trim().to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_topics_are_not_those_of_the_system() {
        let config = "[topic=t]\nflush=1\n[system]\n; flush=2\n flush = 3\n[topic=u]\nother=4\n";
        assert_eq!(system_setting(config, "flush").as_deref(), Some("3"));
        assert_eq!(system_setting(config, "other"), None);
    }
}

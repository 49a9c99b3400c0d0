//! `metaq spool replay`: sends what a folder holds.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use metaq_producer::{PublishError, Topic};
use metaq_spool::{SpoolFolder, SpoolStats, SpooledMessage};
use tokio::time::{Instant, sleep, sleep_until};

use super::{failed, open};
use crate::{
    args::{ConnectionArgs, LONGEST, SelectorName, parse_timeout, timeout_text},
    connect::Connecting,
    display::{self, OutputForm},
    exit_status::{self, EXIT_DONE, EXIT_NOT_SENT, EXIT_REFUSED},
    output::Output,
    report::{Destination, Report, WriteFailure, count_messages},
    settings::Flag,
    shutdown::{PendingResults, Shutdown, StopSignals, close, finish},
    spooling::{Spool, WRITE_TIME, describe_account, ensure_exists},
    stderr::{describe, print_error, print_message},
};

/// The pause before a topic is published again.
const PAUSE: Duration = Duration::from_millis(500);

/// Messages that are put back are read in portions of this number, and of these bytes.
const PORTION: (usize, usize) = (1000, 8 << 20);

/// Sends what a folder holds, and removes what brokers have acknowledged.
///
/// Prints one line of JSON for each message, as produce --spool does:
/// {"spooled":"ID","partition":"0-1","offset":O,"id":"I"}, or
/// {"spooled":"ID","error":{"kind":"set-aside","outcome":"rejected",
///  "message":"…"}}
/// for one that brokers refuse for good, or that is damaged; it stays in the
/// folder.
///
/// It ends when no message waits any more, or when none could be sent for the
/// time of --wait. The status is 0 if none waits any more, and 7 if messages were
/// set aside in this run. If some are left, it is 4, 5, 6 or 7 by the reason, or
/// else 3; they stay in the folder, and stderr names the reason.
///
/// The first SIGHUP, SIGINT or SIGTERM ends it; what is in flight gets its line
/// within --timeout. A second one ends it at once.
///
/// Examples:
///   metaq spool replay /var/spool/orders -b zk://zk1:2181,zk2:2181/meta
///   metaq spool replay /var/spool/orders -b meta://broker:8123 --set-aside
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// The folder
    folder: PathBuf,
    /// The time limit of each attempt to send a message. By default 3s
    #[arg(long, value_name = "TIMEOUT", value_parser = timeout_text)]
    timeout: Option<String>,
    /// Ends when no message could be sent for this time, in which brokers that are away may come back; with
    /// --rate, beside the time between two messages
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_timeout)]
    wait: Duration,
    /// Sends messages that were set aside, too
    #[arg(long)]
    set_aside: bool,
    /// Has one message of each partition in flight, so that brokers store them in their order
    #[arg(long)]
    ordered: bool,
    /// Sends at most this number of messages a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How the partitions of messages are chosen that name none. By default by key, or in turn without one
    #[arg(long, value_name = "NAME", default_value = "key-hash", hide_default_value = true)]
    selector: SelectorName,
    /// The topic whose brokers get the messages of topics that no broker offers
    #[arg(long, value_name = "TOPIC")]
    default_topic: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// One run of the command.
struct Run {
    spool: Spool,
    report: Report,
    default_topic: Option<Topic>,
    /// Why topics could not be published the last time.
    unpublished: HashMap<Topic, PublishError>,
}

pub(super) async fn run(args: Args) -> Result<u8, u8> {
    ensure_exists(&args.folder)?;
    let mut settings = args.connection.settings(&[
        Flag::new("send_timeout", "--timeout", args.timeout.as_deref()),
        Flag::new("default_topic", "--default-topic", args.default_topic.as_deref()),
        Flag::new("ordered", "--ordered", args.ordered.then_some("true")),
    ])?;
    let form = settings.output_form().map_err(|text| super::usage(&text))?;
    let form = form.unwrap_or(OutputForm::Json);
    let mut signals = StopSignals::new().map_err(|error| print_error("signals can't be handled", &error))?;
    let timeout = settings.config.send_timeout;
    let mut options = settings.spool(&args.folder);
    options.replay_rate = args.rate.or(options.replay_rate);
    let limit = timeout.saturating_add(WRITE_TIME);
    let wait = patience(args.wait, options.replay_rate);
    let default_topic = settings.config.default_topic.clone();
    settings.lift_size_limit();
    let adapt = |builder| args.selector.configure(builder);
    let connecting = Connecting::new(settings, &[], None, adapt, &mut signals).await?;
    if args.set_aside {
        put_back(&args.folder)?;
    }
    let report = Report::new(form, Destination::Stdout, None);
    let report = report.map_err(|error| print_error("the output can't be set up", &error))?;
    let spool = Spool::open(connecting.producer.clone(), options).await?;
    let mut run = Run { spool, report, default_topic, unpublished: HashMap::new() };
    let mut shutdown = Shutdown::new(signals, limit);
    run.replay(wait, &mut shutdown).await;
    if !shutdown.is_forced() {
        let closing = run.spool.producer.clone();
        let timeout = shutdown.remaining_of(timeout);
        run.report_until(closing.close(timeout), &mut shutdown).await;
    }
    run.spool.report(&mut run.report);
    let stats = run.spool.producer.stats();
    run.report.progress(0, true);
    if form == OutputForm::Human && !display::is_quiet() {
        run.report.note(&describe_account(&args.folder, &stats));
    }
    shutdown.extend_deadline_for_writing();
    finish(&mut run, &mut shutdown).await;
    let status = run.status(&args.folder, &stats);
    if let Some(WriteFailure { what, error, unwritten }) = run.report.take_failure() {
        let unwritten = unwritten.describe("stored");
        print_message(&format!("{what} can't be written: {}; {unwritten}", describe(&error)));
        return Ok(shutdown.status().unwrap_or_else(|| exit_status::of_output_error(&error)));
    }
    let status = shutdown.status().unwrap_or(status);
    let producer = run.spool.producer.producer().clone();
    Ok(close(&producer, &mut shutdown, status).await)
}

/// Returns the time without a message after which a replay ends: at a low rate, each waits for its turn, too.
fn patience(wait: Duration, rate: Option<u32>) -> Duration {
    let turn = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.max(1));
    wait.saturating_add(turn)
}

/// Has all messages wait again that were set aside.
fn put_back(path: &Path) -> Result<(), u8> {
    let mut folder = open(path)?;
    loop {
        let done = portion(&folder).and_then(|portion| folder.put_back(portion));
        if done.map_err(|error| failed(path, &error))? == 0 {
            return Ok(());
        }
    }
}

/// Returns the first messages that were set aside and can be read.
fn portion(folder: &SpoolFolder) -> io::Result<Vec<SpooledMessage>> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for found in folder.set_aside() {
        let found = found?;
        if let Ok(message) = &found.message {
            bytes += message.payload().len();
            taken.push(found);
            if taken.len() == PORTION.0 || bytes >= PORTION.1 {
                break;
            }
        }
    }
    Ok(taken)
}

impl Run {
    /// Publishes the topics and reports what is replayed, until no message waits, none could be sent for
    /// `wait`, or a signal comes.
    async fn replay(&mut self, wait: Duration, shutdown: &mut Shutdown) {
        let producer = self.spool.producer.clone();
        let held: BTreeSet<_> = producer.stats().queues.into_iter().map(|queue| queue.topic).collect();
        if held.is_empty() {
            return;
        }
        // While a topic is being published, its messages don't go to the default topic: the spool, which does
        // that as well, pauses between its attempts.
        let topics = self.default_topic.clone().map_or(held, |topic| BTreeSet::from([topic]));
        let publish = async |topic: Topic, pause: Duration| {
            sleep(pause).await;
            let published = producer.producer().publish_topic(&topic).await;
            (topic, published)
        };
        let mut publishing: FuturesUnordered<_> =
            topics.into_iter().map(|topic| publish(topic, Duration::ZERO)).collect();
        let mut drained = pin!(producer.drain(LONGEST));
        let mut end = Instant::now() + wait;
        loop {
            self.spool.report(&mut self.report);
            self.report.progress(0, false);
            self.report.flush();
            if self.report.has_failed() {
                return;
            }
            let has_capacity = self.report.has_capacity();
            tokio::select! {
                biased;
                _ = shutdown.signal() => return,
                () = self.report.changed(), if !has_capacity => end = Instant::now() + wait,
                replayed = self.spool.next(), if has_capacity => {
                    self.report.replayed(&replayed);
                    end = Instant::now() + wait;
                }
                Some((topic, published)) = publishing.next(), if !publishing.is_empty() => match published {
                    Ok(()) => {
                        self.unpublished.remove(&topic);
                        producer.replay_now();
                    }
                    Err(error) => {
                        self.unpublished.insert(topic.clone(), error);
                        publishing.push(publish(topic, PAUSE));
                    }
                },
                _ = &mut drained => return,
                () = sleep_until(end), if has_capacity => return,
            }
        }
    }

    /// Returns why a topic, or the one that takes its place, could not be published the last time.
    fn unpublished(&self, topic: &Topic) -> Option<&PublishError> {
        let of_default = || self.unpublished.get(self.default_topic.as_ref()?);
        self.unpublished.get(topic).or_else(of_default)
    }

    /// Reports what is replayed until `closing` is done, or until the second signal.
    async fn report_until<T>(&mut self, closing: impl Future<Output = T>, shutdown: &mut Shutdown) {
        let mut closing = pin!(closing);
        loop {
            self.spool.report(&mut self.report);
            self.report.flush();
            let has_capacity = self.report.has_capacity();
            tokio::select! {
                biased;
                _ = shutdown.signal() => if shutdown.is_forced() { return },
                () = self.report.changed(), if !has_capacity => {}
                replayed = self.spool.next(), if has_capacity => self.report.replayed(&replayed),
                _ = &mut closing => return,
            }
        }
    }

    /// Prints what is left, and returns the exit status.
    fn status(&self, folder: &Path, stats: &SpoolStats) -> u8 {
        let folder = folder.display();
        for queue in &stats.queues {
            let partition = queue.partition.map(|partition| format!(" {partition}")).unwrap_or_default();
            let unpublished = self.unpublished(&queue.topic).map(|error| describe(error));
            let reason = unpublished.or_else(|| queue.failing.clone());
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            let (count, topic) = (count_messages(queue.waiting), &queue.topic);
            print_message(&format!("spool {folder} still holds {count} of {topic}{partition}{reason}"));
        }
        if stats.held_aside > 0 {
            let count = count_messages(stats.held_aside);
            let (were, s) = if stats.held_aside == 1 { ("was", "") } else { ("were", "s") };
            print_message(&format!(
                "spool {folder} holds {count} that {were} set aside; metaq spool show --set-aside has the reason{s}"
            ));
        }
        if stats.waiting == 0 {
            return if stats.set_aside > 0 { EXIT_REFUSED } else { EXIT_DONE };
        }
        let of_topic = stats.queues.iter().find_map(|queue| self.unpublished(&queue.topic));
        let of_failure = self.spool.status_of_left(stats);
        match (of_failure, of_topic) {
            (Some(status), None) => status,
            (_, Some(error)) => exit_status::of_publish_error(error),
            (None, None) => EXIT_NOT_SENT,
        }
    }
}

impl PendingResults for Run {
    async fn complete(&mut self) {
        loop {
            self.spool.report(&mut self.report);
            self.report.flush();
            if self.report.has_capacity() {
                break;
            }
            self.report.changed().await;
        }
        self.report.written().await;
    }

    /// All messages have their outcomes, as the spool is closed.
    fn stop_waiting(&mut self, _: bool) {}

    fn output(&mut self) -> &mut Output {
        self.report.output()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_waits_for_its_turn_ends_no_replay() {
        let ms = Duration::from_millis;
        assert_eq!(patience(ms(700), Some(1)), ms(1700));
        assert_eq!(patience(ms(700), Some(100)), ms(710));
        assert_eq!(patience(ms(700), None), ms(700));
    }
}

//! `metaq tx`: all lines of the input are one transaction.

use std::{io, path::PathBuf, pin::pin, sync::Arc, time::Duration, vec};

use metaq_producer::{
    Message, Outcome, Producer, Topic, Transaction, TransactionError, TransactionErrorKind,
    TransactionOptions, TransactionOutcome,
};

use crate::{
    EXIT_BROKEN_PIPE, EXIT_DONE, EXIT_FAILED, EXIT_USAGE,
    cluster::Cluster,
    complain, describe,
    lines::{Line, Lines, MAX_LINE, sources},
    report::{Report, TransactionEnd},
    signals::StopSignals,
};

/// How long connections may take to close at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends all lines of the input in one local transaction, one after the other, and commits it or rolls it back. All are stored
/// by one broker, or none. An empty line is an empty message.
///
/// For each message one JSON line is printed when the broker has taken it, as by metaq produce; the offset is -1, since
/// it is never told. They count only by the last line, which says what became of the transaction:
/// {"transaction":"TX:…","outcome":"committed|rolled-back|unknown","messages":N}, with "error" if it is not as asked.
/// When a line can't be sent, the transaction is rolled back.
///
/// Exit status: 0 when the outcome is as asked, 1 when it isn't or isn't known. SIGINT and SIGTERM roll the transaction
/// back, except when its commit was sent; lines that were read and not sent are reported. While the transaction is being
/// ended, the first signal sets the exit status, and the second ends the program at once: the outcome is unknown then.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("end").args(["commit", "rollback"]).required(true)))]
pub(crate) struct Args {
    /// Where the brokers are found: zk://HOST:PORT,HOST:PORT[/ROOT] (ROOT is /meta when left out),
    /// meta://HOST:PORT for one broker without a registry, or file:PATH for a TOML or JSON file of brokers
    #[arg(long)]
    cluster: Cluster,
    /// The topic. When repeated, line N goes to topic (N-1) modulo their number; all have to be on one broker
    #[arg(long = "topic", value_name = "TOPIC", required = true)]
    topics: Vec<Topic>,
    /// Commits at the end of the input
    #[arg(long)]
    commit: bool,
    /// Rolls back at the end of the input
    #[arg(long)]
    rollback: bool,
    /// After how long the broker rolls back by itself, in whole seconds, 60 at most as brokers are shipped; "never" leaves
    /// the messages in its memory until it is restarted if this program is killed
    #[arg(long, value_parser = parse_timeout, default_value = "60s")]
    timeout: Timeout,
    /// An attribute for every message
    #[arg(long)]
    attribute: Option<Arc<str>>,
    /// Files to read; stdin when there are none, or for -
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// When the broker rolls back by itself.
#[derive(Clone, Copy, Debug)]
enum Timeout {
    After(Duration),
    Never,
}

fn parse_timeout(text: &str) -> Result<Timeout, humantime::DurationError> {
    if text == "never" { Ok(Timeout::Never) } else { humantime::parse_duration(text).map(Timeout::After) }
}

pub(crate) async fn run(args: Args) -> u8 {
    let sources = match sources(&args.files) {
        Ok(sources) => sources,
        Err((name, error)) => {
            complain(&format!("{name} can't be read"), &error);
            return EXIT_USAGE;
        }
    };
    let mut signals = match StopSignals::new() {
        Ok(signals) => signals,
        Err(error) => return complain("signals can't be handled", &error),
    };
    let producer = match args.cluster.clone().tell(Producer::builder()).build() {
        Ok(producer) => producer,
        Err(error) => return complain("the producer can't be made", &error),
    };
    for topic in &args.topics {
        let published = tokio::select! {
            published = producer.publish_topic(topic) => published,
            status = signals.next() => return status,
        };
        if let Err(error) = published {
            return complain("can't send", &error);
        }
    }
    let options = match args.timeout {
        Timeout::After(timeout) => TransactionOptions::new().with_timeout(timeout),
        Timeout::Never => TransactionOptions::new().without_timeout(),
    };
    let transaction = producer.begin(options);
    let run = Run { args, report: Report::new(), line: 0 };
    let status = run.run(transaction, Lines::read(sources), &mut signals).await;
    // It also ends what was not ended properly.
    producer.close(CLOSE_TIMEOUT).await;
    status
}

struct Run {
    args: Args,
    report: Report,
    /// How many lines were read.
    line: u64,
}

/// Why no more lines are sent.
enum Stop {
    EndOfInput,
    Signal(u8),
    InputFailed(io::Error),
    /// A line can't be sent.
    Refused(String),
    /// The transaction is over.
    Over(TransactionError),
}

impl Run {
    async fn run(mut self, transaction: Transaction, lines: Lines, signals: &mut StopSignals) -> u8 {
        match self.send_and_end(transaction, lines, signals).await {
            Ok(status) => status,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_BROKEN_PIPE,
            Err(error) => complain("the results can't be written", &error),
        }
    }

    async fn send_and_end(
        &mut self,
        mut transaction: Transaction,
        lines: Lines,
        signals: &mut StopSignals,
    ) -> io::Result<u8> {
        let stop = self.send(&mut transaction, lines, signals).await?;
        let mut end = TransactionEnd {
            transaction: transaction.id().map(str::to_owned),
            messages: transaction.messages(),
            ..TransactionEnd::default()
        };
        let commits = self.args.commit && matches!(stop, Stop::EndOfInput);
        let mut stopped = if let Stop::Signal(status) = stop { Some(status) } else { None };
        let ended = match &stop {
            Stop::Over(_) => Some(Ok(())),
            _ if commits => {
                let committed = until_told_twice(transaction.commit(), signals, &mut stopped).await;
                committed.map(|committed| committed.map(|receipt| end.messages = receipt.messages))
            }
            _ => until_told_twice(transaction.rollback(), signals, &mut stopped).await,
        };
        end.outcome = match &ended {
            Some(Ok(())) if commits => "committed",
            Some(Err(error)) if error.outcome() == TransactionOutcome::Unknown => "unknown",
            None => "unknown",
            _ => "rolled-back",
        };
        let reason = match &stop {
            Stop::Over(error) => Some((error.kind().as_str(), describe(error))),
            Stop::Refused(text) => Some(("refused", text.clone())),
            Stop::InputFailed(error) => Some(("input", format!("the input can't be read: {error}"))),
            Stop::Signal(_) => Some(("stopped", "the program was told to stop".to_owned())),
            Stop::EndOfInput => match &ended {
                Some(ended) => ended.as_ref().err().map(|error| (error.kind().as_str(), describe(error))),
                None => Some((
                    "stopped",
                    "the program was told twice to stop before the outcome was known".to_owned(),
                )),
            },
        };
        end.error = reason;
        let is_as_asked = match end.outcome {
            "committed" => self.args.commit,
            "rolled-back" => self.args.rollback,
            _ => false,
        };
        self.report.transaction(&end)?;
        self.report.progress(0, true);
        self.report.flush()?;
        if let Some(status) = stopped {
            if ended.is_none() {
                std::process::exit(status.into());
            }
            return Ok(status);
        }
        Ok(match stop {
            Stop::InputFailed(_) => EXIT_FAILED,
            _ if is_as_asked => EXIT_DONE,
            _ => EXIT_FAILED,
        })
    }

    /// Sends line after line until there is a reason to stop.
    async fn send(
        &mut self,
        transaction: &mut Transaction,
        mut lines: Lines,
        signals: &mut StopSignals,
    ) -> io::Result<Stop> {
        let mut batch = Vec::new().into_iter();
        let stop = self.send_lines(transaction, &mut lines, &mut batch, signals).await?;
        if !matches!(stop, Stop::EndOfInput) {
            // Read, but not to be sent any more: these too are accounted for.
            for _ in batch.chain(lines.take_rest()) {
                self.line += 1;
                let text = "the transaction was ended before this line was sent";
                self.report.failed(self.line, "stopped", Outcome::NotSent, text)?;
            }
        }
        Ok(stop)
    }

    async fn send_lines(
        &mut self,
        transaction: &mut Transaction,
        lines: &mut Lines,
        batch: &mut vec::IntoIter<Line>,
        signals: &mut StopSignals,
    ) -> io::Result<Stop> {
        loop {
            self.report.flush()?;
            let next = tokio::select! {
                biased;
                status = signals.next() => return Ok(Stop::Signal(status)),
                next = lines.next() => next,
            };
            *batch = match next {
                Some(Ok(next)) => next.into_iter(),
                Some(Err(error)) => return Ok(Stop::InputFailed(error)),
                None => return Ok(Stop::EndOfInput),
            };
            for line in batch.by_ref() {
                self.line += 1;
                let message = match self.message(line)? {
                    Ok(message) => message,
                    Err(text) => return Ok(Stop::Refused(text)),
                };
                let sent = tokio::select! {
                    sent = transaction.send(message) => sent,
                    status = signals.next() => {
                        let text = "the program was told to stop before the broker had taken this line";
                        self.report.failed(self.line, "stopped", Outcome::Rejected, text)?;
                        return Ok(Stop::Signal(status));
                    }
                };
                match sent {
                    Ok(receipt) => self.report.taken(self.line, &receipt)?,
                    Err(error) => {
                        let outcome = outcome_of(error.kind());
                        self.report.failed(self.line, error.kind().as_str(), outcome, &describe(&error))?;
                        return Ok(match error.outcome() {
                            TransactionOutcome::Open => {
                                Stop::Refused(format!("line {} was not taken", self.line))
                            }
                            _ => Stop::Over(error),
                        });
                    }
                }
                self.report.progress(0, false);
            }
        }
    }

    /// The message of a line; in its place what to say when it can't be one.
    fn message(&mut self, line: Line) -> io::Result<Result<Message, String>> {
        let Line::Whole(payload) = line else {
            let text = format!("the line is longer than {MAX_LINE} bytes, which no consumer could fetch");
            self.report.failed(self.line, "too-large", Outcome::NotSent, &text)?;
            return Ok(Err(format!("line {} is too long", self.line)));
        };
        let topic = &self.args.topics[((self.line - 1) % self.args.topics.len() as u64) as usize];
        let message = Message::new(topic.clone(), payload);
        Ok(Ok(match &self.args.attribute {
            Some(attribute) => message.with_attribute(Arc::clone(attribute)),
            None => message,
        }))
    }
}

/// Waits for the end of a transaction. The first signal sets the exit status, the second ends the waiting.
async fn until_told_twice<T>(
    ended: impl Future<Output = T>,
    signals: &mut StopSignals,
    stopped: &mut Option<u8>,
) -> Option<T> {
    let mut ended = pin!(ended);
    loop {
        tokio::select! {
            biased;
            ended = &mut ended => return Some(ended),
            status = signals.next() => {
                if stopped.replace(status).is_some() {
                    return None;
                }
            }
        }
    }
}

/// What a failed line is called by the words of `metaq produce`. It is not stored in any case.
fn outcome_of(kind: TransactionErrorKind) -> Outcome {
    match kind {
        TransactionErrorKind::NotPublished
        | TransactionErrorKind::TooLarge
        | TransactionErrorKind::Interceptor
        | TransactionErrorKind::NoPartition
        | TransactionErrorKind::NotConnected
        | TransactionErrorKind::NoRuntime
        | TransactionErrorKind::NoEntropy => Outcome::NotSent,
        _ => Outcome::Rejected,
    }
}

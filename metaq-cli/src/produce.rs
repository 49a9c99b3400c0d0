//! `metaq produce`: every line of the input is one message.

use std::{
    io,
    num::NonZeroUsize,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, try_join_all},
    stream::FuturesUnordered,
};
use metaq_producer::{Message, Outcome, Producer, PublishError, SendError, SendReceipt, Topic};

use crate::{
    EXIT_BROKEN_PIPE, EXIT_DONE, EXIT_FAILED, EXIT_USAGE,
    cluster::Cluster,
    complain,
    lines::{Line, Lines, MAX_LINE, sources},
    report::Report,
    signals::StopSignals,
};

/// How long connections may take to close at the end; every message has its outcome by then.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How many bytes of lines may be on their way, beside a line that alone has more.
const MAX_BYTES_IN_FLIGHT: usize = 32 * 1024 * 1024;

/// Sends every line of the input as one message, as soon as it is read. An empty line is an empty message.
///
/// For each message one JSON line is printed when its outcome is known:
/// {"line":N,"partition":"0-1","offset":O,"id":"I"} or
/// {"line":N,"error":{"kind":"…","outcome":"not-sent|rejected|unknown","message":"…"}}
///
/// Exit status: 0 when every message was acknowledged, 1 when any was not. SIGINT and SIGTERM stop the reading; what is
/// in flight still gets its line. The second signal ends the program at once; what is in flight is reported as unknown.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the brokers are found: zk://HOST:PORT,HOST:PORT[/ROOT] (ROOT is /meta when left out),
    /// meta://HOST:PORT for one broker without a registry, or file:PATH for a TOML or JSON file of brokers
    #[arg(long)]
    cluster: Cluster,
    /// The topic. When repeated, line N goes to topic (N-1) modulo their number
    #[arg(long = "topic", value_name = "TOPIC", required = true)]
    topics: Vec<Topic>,
    /// How long a message may take in all
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The most unacknowledged messages
    #[arg(long, value_name = "K", default_value = "1024")]
    in_flight: NonZeroUsize,
    /// An attribute for every message
    #[arg(long)]
    attribute: Option<Arc<str>>,
    /// Files to read; stdin when there are none, or for -
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
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
    let producer = match args.cluster.tell(Producer::builder()).send_timeout(args.timeout).build() {
        Ok(producer) => producer,
        Err(error) => return complain("the producer can't be made", &error),
    };
    let published = tokio::select! {
        published = publish(&producer, &args.topics) => published,
        status = signals.next() => return status,
    };
    if let Err(error) = published {
        return complain("can't send", &error);
    }
    let run = Run {
        producer: producer.clone(),
        topics: args.topics,
        attribute: args.attribute,
        report: Report::new(),
        sent: FuturesUnordered::new(),
        bytes: 0,
        line: 0,
    };
    let status = run.run(Lines::read(sources), args.in_flight.get(), &mut signals).await;
    producer.close(CLOSE_TIMEOUT).await;
    status
}

async fn publish(producer: &Producer, topics: &[Topic]) -> Result<(), PublishError> {
    try_join_all(topics.iter().map(|topic| producer.publish_topic(topic))).await?;
    Ok(())
}

/// The outcome of the message in one line of the input.
struct Completed {
    line: u64,
    length: usize,
    result: Result<SendReceipt, SendError>,
}

/// A message whose outcome isn't known yet.
struct Sending {
    line: u64,
    length: usize,
    result: BoxFuture<'static, Result<SendReceipt, SendError>>,
}

impl Future for Sending {
    type Output = Completed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completed> {
        let (line, length) = (self.line, self.length);
        self.result.as_mut().poll(context).map(|result| Completed { line, length, result })
    }
}

struct Run {
    producer: Producer,
    topics: Vec<Topic>,
    attribute: Option<Arc<str>>,
    report: Report,
    sent: FuturesUnordered<Sending>,
    /// How many bytes the lines of `sent` have.
    bytes: usize,
    /// How many lines were read.
    line: u64,
}

/// Why no more lines are read.
enum Stop {
    EndOfInput,
    Signal(u8),
    InputFailed(io::Error),
}

impl Run {
    async fn run(mut self, lines: Lines, in_flight: usize, signals: &mut StopSignals) -> u8 {
        match self.read_and_drain(lines, in_flight, signals).await {
            Ok(Stop::EndOfInput) if self.report.is_clean() => EXIT_DONE,
            Ok(Stop::EndOfInput) => EXIT_FAILED,
            Ok(Stop::Signal(status)) => status,
            Ok(Stop::InputFailed(error)) => complain("the input can't be read", &error),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_BROKEN_PIPE,
            Err(error) => complain("the results can't be written", &error),
        }
    }

    async fn read_and_drain(
        &mut self,
        lines: Lines,
        in_flight: usize,
        signals: &mut StopSignals,
    ) -> io::Result<Stop> {
        let mut stop = self.read(lines, in_flight, signals).await?;
        self.drain(signals, &mut stop).await?;
        Ok(stop)
    }

    /// Reads and sends until there is a reason to stop.
    async fn read(
        &mut self,
        mut lines: Lines,
        in_flight: usize,
        signals: &mut StopSignals,
    ) -> io::Result<Stop> {
        let mut waiting = Vec::new().into_iter();
        let stop = loop {
            self.report_completed()?;
            // From here to the waiting nothing completes, so that there is something to wait for: either as much as
            // may be in flight is, or all that was read has been sent.
            while self.sent.len() < in_flight
                && self.bytes < MAX_BYTES_IN_FLIGHT
                && let Some(line) = waiting.next()
            {
                self.send(line)?;
            }
            self.report.flush()?;
            let more = waiting.len() == 0;
            tokio::select! {
                biased;
                status = signals.next() => break Stop::Signal(status),
                Some(completed) = self.sent.next() => self.completed(&completed)?,
                batch = lines.next(), if more => match batch {
                    Some(Ok(batch)) => waiting = batch.into_iter(),
                    Some(Err(error)) => break Stop::InputFailed(error),
                    None => break Stop::EndOfInput,
                },
            }
        };
        let (kind, text) = match stop {
            Stop::EndOfInput => return Ok(stop),
            Stop::Signal(_) => ("stopped", "the program was told to stop before this line was sent"),
            Stop::InputFailed(_) => ("input", "the input could not be read to the end of this line"),
        };
        // Read, but not to be sent any more: these too are accounted for.
        for _ in waiting.chain(lines.take_rest()) {
            self.line += 1;
            self.report.failed(self.line, kind, Outcome::NotSent, text)?;
        }
        Ok(stop)
    }

    fn send(&mut self, line: Line) -> io::Result<()> {
        self.line += 1;
        let number = self.line;
        let payload: Bytes = match line {
            Line::Whole(payload) => payload,
            Line::TooLong => {
                let text = format!("the line is longer than {MAX_LINE} bytes, which no consumer could fetch");
                return self.report.failed(number, "too-large", Outcome::NotSent, &text);
            }
        };
        let length = payload.len();
        let topic = &self.topics[((number - 1) % self.topics.len() as u64) as usize];
        let mut message = Message::new(topic.clone(), payload);
        if let Some(attribute) = &self.attribute {
            message = message.with_attribute(Arc::clone(attribute));
        }
        let producer = self.producer.clone();
        let result = async move { producer.send(message).await }.boxed();
        let mut sending = Sending { line: number, length, result };
        // Its time begins now, and not after whatever is done before outcomes are waited for.
        match (&mut sending).now_or_never() {
            Some(completed) => self.report.message(number, &completed.result)?,
            None => {
                self.bytes += length;
                self.sent.push(sending);
            }
        }
        Ok(())
    }

    /// A message that was on its way has its outcome.
    fn completed(&mut self, completed: &Completed) -> io::Result<()> {
        self.bytes -= completed.length;
        self.report.message(completed.line, &completed.result)
    }

    /// Reports what has completed.
    fn report_completed(&mut self) -> io::Result<()> {
        while let Some(Some(completed)) = self.sent.next().now_or_never() {
            self.completed(&completed)?;
        }
        self.report.progress(self.sent.len(), false);
        Ok(())
    }

    /// Waits until every message has its outcome. The first signal sets the exit status, the second ends the waiting.
    async fn drain(&mut self, signals: &mut StopSignals, stop: &mut Stop) -> io::Result<()> {
        loop {
            self.report_completed()?;
            self.report.flush()?;
            tokio::select! {
                completed = self.sent.next() => match completed {
                    Some(completed) => self.completed(&completed)?,
                    None => break,
                },
                status = signals.next() => {
                    if matches!(stop, Stop::Signal(_)) {
                        self.give_up()?;
                        std::process::exit(status.into());
                    }
                    *stop = Stop::Signal(status);
                }
            }
        }
        self.report.progress(0, true);
        self.report.flush()
    }

    /// Reports what is still in flight.
    fn give_up(&mut self) -> io::Result<()> {
        self.report_completed()?;
        let mut lines: Vec<_> = self.sent.iter().map(|sending| sending.line).collect();
        lines.sort_unstable();
        for line in lines {
            let text = "the program was told twice to stop before the outcome of this message was known";
            self.report.failed(line, "stopped", Outcome::Unknown, text)?;
        }
        self.report.flush()
    }
}

//! The start of a command that sends: a producer whose topics are published.

use std::{error::Error as _, time::Duration};

use futures_util::{
    FutureExt as _,
    future::{join_all, try_join_all},
};
use metaq_producer::{
    Producer, ProducerBuilder, PublishError, Topic,
    discovery::{DiscoveryEvent, DiscoveryEvents},
    error::PublishErrorKind,
};
use metaq_spool::SpoolingProducer;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::{
    args::LONGEST,
    exit_status::{self, EXIT_FAILED, EXIT_UNREACHABLE, EXIT_USAGE},
    settings::{Cluster, Origin, Settings},
    shutdown::StopSignals,
    stderr::{describe, print_error, print_message},
};

/// Limit on the time in which a registry that works lists a topic, unless the settings have another.
const TOPIC_TIMEOUT: Duration = Duration::from_secs(1);

/// The time in which brokers are expected to be there before messages are spooled.
const START_WAIT: Duration = Duration::from_secs(1);

/// The pause before a registry is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// Limit on listing the topics for an error.
const LIST_TIMEOUT: Duration = Duration::from_secs(1);

/// The number of topics that an error lists.
const MAX_LISTED: usize = 10;

/// Builds a producer with `settings` and publishes `topics`. Without `wait` that has to work within the
/// timeout of a message; with it, the registry, the topics and their brokers have that time to appear. A
/// failure is printed; the error is the exit status.
pub(crate) async fn connect(
    settings: Settings,
    topics: &[Topic],
    wait: Option<Duration>,
    adapt: impl FnOnce(ProducerBuilder) -> ProducerBuilder,
    signals: &mut StopSignals,
) -> Result<Producer, u8> {
    let mut connecting = Connecting::new(settings, topics, wait, adapt, signals).await?;
    let published = tokio::select! {
        published = connecting.publish(topics, wait.is_some()) => published,
        status = signals.next() => return Err(status),
    };
    match published {
        Ok(()) => Ok(connecting.connected()),
        Err(error) => {
            let text = connecting.explain(&error, signals).await?;
            print_message(&format!("can't send: {text}"));
            Err(match exit_status::of_publish_error(&error) {
                EXIT_UNREACHABLE | EXIT_FAILED => {
                    connecting.cluster.status_of_cause(error.source()).unwrap_or(EXIT_UNREACHABLE)
                }
                status => status,
            })
        }
    }
}

/// A producer whose topics are not published yet.
pub(crate) struct Connecting {
    pub(crate) producer: Producer,
    cluster: Cluster,
    default_topic: Option<Topic>,
    events: DiscoveryEvents,
    /// The time in which a topic has to be published.
    limit: Duration,
}

impl Connecting {
    /// Builds a producer. `wait` is the time that registry, topics and brokers have to appear, if they have.
    /// A failure is printed; the error is the exit status, also of a signal.
    pub(crate) async fn new(
        mut settings: Settings,
        topics: &[Topic],
        wait: Option<Duration>,
        adapt: impl FnOnce(ProducerBuilder) -> ProducerBuilder,
        signals: &mut StopSignals,
    ) -> Result<Self, u8> {
        let is_default = |name| *settings.origin(name) == Origin::Default;
        let limit = match wait {
            Some(wait) => wait,
            None if is_default("publish_timeout") => settings.config.send_timeout,
            None => settings.config.publish_timeout,
        }
        .min(LONGEST);
        let waits_for_topic = match wait {
            Some(wait) => Some(wait),
            None => is_default("topic_timeout").then(|| TOPIC_TIMEOUT.min(limit / 2)),
        };
        settings.config.topic_timeout = waits_for_topic.unwrap_or(settings.config.topic_timeout);
        settings.config.publish_timeout = limit;
        let (cluster, broker_tls) = settings.open_cluster(limit, signals).await?;
        if cluster.has_registry()
            && let Some(topic) = topics.iter().find(|topic| topic.as_str().contains('/'))
        {
            return Err(usage(format!(
                "the topic {topic} has a /, which no registry can hold; check its name"
            )));
        }
        let default_topic = settings.config.default_topic.clone();
        let builder = cluster.clone().configure(Producer::builder().config(settings.config.clone()));
        let built =
            broker_tls.configure(builder, &settings.config).and_then(|builder| adapt(builder).build());
        let producer = built.map_err(|error| print_error("the producer can't be created", &error))?;
        let events = producer.discovery_events();
        Ok(Self { producer, cluster, default_topic, events, limit })
    }

    /// Publishes the topics. Tries again until the time is over if `is_patient`.
    async fn publish(&self, topics: &[Topic], is_patient: bool) -> Result<(), PublishError> {
        publish(&self.producer, topics, self.default_topic.as_ref(), self.limit, is_patient).await
    }

    /// Publishes the topics through a spool, which goes on with that in the background. Returns when they are
    /// published, or after `wait`; without it after a moment. What keeps messages from being sent is printed.
    ///
    /// # Errors
    /// The exit status of a signal, and of a registry that can't be used as it is named, which is printed.
    pub(crate) async fn publish_spooled(
        mut self,
        spool: &SpoolingProducer,
        topics: &[Topic],
        wait: Option<Duration>,
        signals: &mut StopSignals,
    ) -> Result<(), u8> {
        let default_topic = self.default_topic.clone();
        let mut all: Vec<_> = topics.iter().collect();
        all.extend(default_topic.iter().filter(|topic| !topics.contains(topic)));
        let publishing = all.iter().map(async |&topic| match spool.publish_topic(topic).await {
            // Its messages go to the brokers of the default topic.
            Err(error)
                if error.kind() == PublishErrorKind::NoSuchTopic
                    && default_topic.as_ref().is_some_and(|default| default != topic) =>
            {
                Ok(())
            }
            published => published,
        });
        let deadline = Instant::now() + wait.unwrap_or(START_WAIT);
        let published = tokio::select! {
            published = timeout_at(deadline, join_all(publishing)) => published,
            status = signals.next() => return Err(status),
        };
        let error = published.ok().and_then(|published| published.into_iter().find_map(Result::err));
        let reason = match error {
            Some(error) => {
                Some((exit_status::of_publish_error(&error), self.explain(&error, signals).await?))
            }
            None => None,
        };
        if let Some((EXIT_USAGE, reason)) = &reason {
            print_message(&format!("can't send: {reason}"));
            return Err(EXIT_USAGE);
        }
        let is_ready = |topic: &Topic| spool.producer().ready([topic]).is_ok();
        let by_default = || default_topic.as_ref().is_some_and(is_ready);
        let missing = || topics.iter().find(|topic| !is_ready(topic) && !by_default());
        while wait.is_some() && reason.is_some() && missing().is_some() && Instant::now() < deadline {
            tokio::select! {
                () = sleep(PAUSE) => {}
                status = signals.next() => return Err(status),
            }
        }
        if let Some(topic) = missing() {
            let not_yet = || format!("no broker of topic {topic} is connected yet");
            let reason = reason.map_or_else(not_yet, |(_, reason)| reason);
            print_message(&format!("messages are spooled until they can be sent: {reason}"));
        }
        self.connected();
        Ok(())
    }

    /// Returns the producer. Entries of the registry that can't be used are reported from now on.
    fn connected(self) -> Producer {
        let mut events = self.events;
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                report_bad_entry(&event, "");
            }
        });
        self.producer
    }

    /// Explains why a topic can't be published; the error is the exit status of a signal.
    async fn explain(&mut self, error: &PublishError, signals: &mut StopSignals) -> Result<String, u8> {
        let text = describe(error);
        while let Some(Some(event)) = self.events.next().now_or_never() {
            report_bad_entry(&event, &text);
        }
        tokio::select! {
            remedy = remedy(error, &self.cluster) => Ok(text + &remedy),
            status = signals.next() => Err(status),
        }
    }
}

fn usage(text: String) -> u8 {
    print_message(&text);
    EXIT_USAGE
}

/// Prints an entry of the registry that can't be used, unless `error` has the reason: its broker gets no
/// messages.
fn report_bad_entry(event: &DiscoveryEvent, error: &str) {
    if let DiscoveryEvent::BadEntry(entry) = event
        && !error.contains(&entry.reason)
    {
        print_message(&format!("an entry of the registry is not used: {entry}"));
    }
}

/// Publishes the topics and the default topic. Tries again until `limit` is over if `is_patient`.
async fn publish(
    producer: &Producer,
    topics: &[Topic],
    default_topic: Option<&Topic>,
    limit: Duration,
    is_patient: bool,
) -> Result<(), PublishError> {
    let deadline = Instant::now() + limit;
    let mut last = None;
    loop {
        let attempt = publish_once(producer, topics, default_topic);
        let published = match last {
            None => attempt.await,
            Some(error) => timeout_at(deadline, attempt).await.unwrap_or(Err(error)),
        };
        let passes = |error: &PublishError| {
            !matches!(error.kind(), PublishErrorKind::Closed | PublishErrorKind::NoRuntime)
        };
        match published {
            Err(error) if is_patient && passes(&error) && Instant::now() + PAUSE < deadline => {
                last = Some(error);
                sleep(PAUSE).await;
            }
            published => return published,
        }
    }
}

async fn publish_once(
    producer: &Producer,
    topics: &[Topic],
    default_topic: Option<&Topic>,
) -> Result<(), PublishError> {
    if let Some(topic) = default_topic {
        producer.publish_topic(topic).await?;
    }
    let published = topics.iter().map(async |topic| match producer.publish_topic(topic).await {
        // Its messages go to the brokers of the default topic.
        Err(error) if error.kind() == PublishErrorKind::NoSuchTopic && default_topic.is_some() => Ok(()),
        published => published,
    });
    try_join_all(published).await.map(drop)
}

/// Returns what can be done about a topic that no broker offers, to be added to the error.
async fn remedy(error: &PublishError, cluster: &Cluster) -> String {
    if error.kind() != PublishErrorKind::NoSuchTopic {
        return String::new();
    }
    let topics = timeout(LIST_TIMEOUT, cluster.topics()).await.ok().flatten().unwrap_or_default();
    let mut names: Vec<_> =
        topics.iter().filter(|topic| *topic != error.topic()).map(Topic::as_str).collect();
    if names.is_empty() {
        return String::new();
    }
    let more = names.len().saturating_sub(MAX_LISTED);
    names.truncate(MAX_LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "; the registry has {}{more}. Where brokers take any topic, by [topic=*], name one of those with --default-topic",
        names.join(", ")
    )
}

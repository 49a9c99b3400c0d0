//! The start of a command that sends: a producer whose topics are published.

use std::time::Duration;

use futures_util::{FutureExt as _, future::try_join_all};
use metaq_producer::{
    Producer, ProducerBuilder, PublishError, Topic, discovery::DiscoveryEvent, error::PublishErrorKind,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::{
    exit_status::{self, EXIT_FAILED, EXIT_UNREACHABLE, EXIT_USAGE},
    settings::{Cluster, Origin, Settings},
    shutdown::StopSignals,
    stderr::{describe, print_error, print_message},
};

/// Limit on the time in which a registry that works lists a topic, unless the settings have another.
const TOPIC_TIMEOUT: Duration = Duration::from_secs(1);

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
    mut settings: Settings,
    topics: &[Topic],
    wait: Option<Duration>,
    adapt: impl FnOnce(ProducerBuilder) -> ProducerBuilder,
    signals: &mut StopSignals,
) -> Result<Producer, u8> {
    let is_default = |name| *settings.origin(name) == Origin::Default;
    let limit = match wait {
        Some(wait) => wait,
        None if is_default("publish_timeout") => settings.config.send_timeout,
        None => settings.config.publish_timeout,
    };
    let waits_for_topic = match wait {
        Some(wait) => Some(wait),
        None => is_default("topic_timeout").then(|| TOPIC_TIMEOUT.min(limit / 2)),
    };
    settings.config.topic_timeout = waits_for_topic.unwrap_or(settings.config.topic_timeout);
    settings.config.publish_timeout = limit;
    let cluster = settings.cluster(limit).map_err(usage)?;
    if cluster.has_registry()
        && let Some(topic) = topics.iter().find(|topic| topic.as_str().contains('/'))
    {
        return Err(usage(format!("the topic {topic} has a /, which no registry can hold; check its name")));
    }
    let builder = cluster.clone().configure(Producer::builder().config(settings.config.clone()));
    let producer =
        adapt(builder).build().map_err(|error| print_error("the producer can't be created", &error))?;
    let default_topic = settings.config.default_topic.as_ref();
    let mut events = producer.discovery_events();
    let published = tokio::select! {
        published = publish(&producer, topics, default_topic, limit, wait.is_some()) => published,
        status = signals.next() => return Err(status),
    };
    match published {
        Ok(()) => {
            tokio::spawn(async move {
                while let Some(event) = events.next().await {
                    report_bad_entry(&event, "");
                }
            });
            Ok(producer)
        }
        Err(error) => {
            let text = describe(&error);
            while let Some(Some(event)) = events.next().now_or_never() {
                report_bad_entry(&event, &text);
            }
            let remedy = tokio::select! {
                remedy = remedy(&error, &cluster) => remedy,
                status = signals.next() => return Err(status),
            };
            print_message(&format!("can't send: {text}{remedy}"));
            Err(match exit_status::of_publish_error(&error) {
                EXIT_FAILED => EXIT_UNREACHABLE,
                status => status,
            })
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

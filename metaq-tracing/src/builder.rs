//! Describing a layer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use metaq_producer::{Producer, Topic};
use tokio::sync::watch;

use crate::{
    buffer::{Buffer, Limits, StatsHandle},
    error::BuildError,
    guard::LayerGuard,
    json::{Form, LayerId},
    layer::{Key, MetaqLayer},
    suppression::ExcludedTargets,
    worker::Worker,
};

/// The limits of the longest event.
const EVENT_BYTES: std::ops::RangeInclusive<usize> = 1024..=1_000_000;

/// The longest attribute or key. With the longest event, it is one that consumers can fetch.
const LONGEST_ATTRIBUTE: usize = 4096;

/// Describes a [`MetaqLayer`].
#[must_use]
#[derive(Debug)]
pub struct MetaqLayerBuilder {
    producer: Producer,
    topic: Topic,
    attribute: Option<String>,
    key: Key,
    max_buffered: usize,
    max_buffered_bytes: usize,
    form: Form,
    excluded: ExcludedTargets,
    drop_timeout: Duration,
}

impl MetaqLayer {
    /// The targets whose events are left out by default, with the modules in them: the crates of metaq, and
    /// the client libraries of ZooKeeper and etcd with the one that carries the latter's requests.
    pub const DEFAULT_EXCLUDED_TARGETS: [&str; 9] = [
        "metaq_discovery",
        "metaq_producer",
        "metaq_protocol",
        "metaq_spool",
        "metaq_tracing",
        "metaq_transport",
        "zookeeper_client",
        "etcd_client",
        "tonic",
    ];

    /// Begins to describe a layer that sends to `topic` by a producer.
    ///
    /// The producer should be the layer's own: the layer publishes the topic on it, and closes it at the
    /// shutdown. So log events take no capacity from other messages, and what the producer logs is logged on
    /// the layer's thread, where it is not sent. Making a producer does no I/O and needs no runtime. Which
    /// partition an event goes to, how long it may take, and whether it is sent again when it may be stored
    /// are the producer's settings.
    ///
    /// ```
    /// use metaq_producer::{Producer, selector::KeyHashSelector};
    /// use metaq_tracing::MetaqLayer;
    /// use tracing_subscriber::{filter::LevelFilter, prelude::*};
    ///
    /// let producer = Producer::builder()
    ///     .broker("meta://127.0.0.1:8123".parse()?)
    ///     .selector(KeyHashSelector::new())
    ///     .build()?;
    /// let (layer, guard) = MetaqLayer::builder(producer, "logs".parse()?)
    ///     .attribute("json")
    ///     .key("host-7")
    ///     .max_buffered(50_000)
    ///     .max_buffered_bytes(64 << 20)
    ///     .build()?;
    /// let subscriber = tracing_subscriber::registry().with(layer.with_filter(LevelFilter::INFO));
    /// # let _ = (subscriber, guard);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder(producer: Producer, topic: Topic) -> MetaqLayerBuilder {
        MetaqLayerBuilder {
            producer,
            topic,
            attribute: None,
            key: Key::None,
            max_buffered: 10_000,
            max_buffered_bytes: 16 << 20,
            form: Form { limit: 64 << 10, has_thread_name: false, has_source: false },
            excluded: ExcludedTargets::new(Self::DEFAULT_EXCLUDED_TARGETS),
            drop_timeout: Duration::from_secs(5),
        }
    }
}

impl MetaqLayerBuilder {
    /// The attribute of each message, such as `json`: a text that consumers receive beside the payload.
    /// Default none. At most 4096 bytes.
    pub fn attribute(self, attribute: impl Into<String>) -> Self {
        Self { attribute: Some(attribute.into()), ..self }
    }

    /// The key of each message, by which a [`KeyHashSelector`](metaq_producer::selector::KeyHashSelector)
    /// chooses the partition: with the name of the host, all its events are in one. Default none. At most
    /// 4096 bytes.
    pub fn key(self, key: impl AsRef<[u8]>) -> Self {
        Self { key: Key::Fixed(Bytes::copy_from_slice(key.as_ref())), ..self }
    }

    /// Has the target of an event be the key of its message, in place of a [`key`](Self::key) that is the
    /// same for all.
    pub fn key_by_target(self) -> Self {
        Self { key: Key::Target, ..self }
    }

    /// The most events that are held in memory, those that are being sent included. While there are as many,
    /// events that are logged are dropped, or those that give way to them: the ones for partitions that take
    /// none while others do, down to a quarter of it. Default 10,000.
    pub fn max_buffered(self, events: usize) -> Self {
        Self { max_buffered: events, ..self }
    }

    /// The most bytes that those events take: their JSON, their keys, and some 150 bytes for each. Default
    /// 16 MiB. The producer takes as much again for what is in flight, and the layer 1 KiB for each event
    /// that is being sent: at most 640, and 4096 that wait for a broker while another one is connected.
    pub fn max_buffered_bytes(self, bytes: usize) -> Self {
        Self { max_buffered_bytes: bytes, ..self }
    }

    /// The most bytes of one event's JSON, and of the fields that are kept for a span. Default 64 KiB, from
    /// 1024 to 1,000,000.
    ///
    /// Of an event that is longer, a text is cut where it has half of this or nothing more fits, and ends
    /// with `…`; other fields and spans that do not fit are left out. Such an event has `"truncated":true` at
    /// its end.
    pub fn max_event_bytes(mut self, bytes: usize) -> Self {
        self.form.limit = bytes;
        self
    }

    /// Whether events have `threadName`, the name of the thread that logs them, if it has one. Default
    /// `false`.
    pub fn thread_names(mut self, has_thread_name: bool) -> Self {
        self.form.has_thread_name = has_thread_name;
        self
    }

    /// Whether events have `filename` and `line_number`, the place in the source that logs them. Default
    /// `false`.
    pub fn source_locations(mut self, has_source: bool) -> Self {
        self.form.has_source = has_source;
        self
    }

    /// The targets whose events are left out, with the modules in them, in place of the
    /// [default](MetaqLayer::DEFAULT_EXCLUDED_TARGETS). `metaq_producer` leaves `metaq_producer::route` out,
    /// too.
    ///
    /// With an empty list, what another producer of the program logs is sent as well. What the layer's own
    /// thread logs, on which its producer runs, is never sent. A producer that is shared with the program may
    /// run on other threads: each of its lines about a log event would become a log event, so leave the
    /// crates of metaq out then.
    ///
    /// ```
    /// # use metaq_producer::Producer;
    /// use metaq_tracing::MetaqLayer;
    ///
    /// # let producer = Producer::builder().broker("meta://127.0.0.1:8123".parse()?).build()?;
    /// let excluded = MetaqLayer::DEFAULT_EXCLUDED_TARGETS.into_iter().chain(["h2", "my_service::noise"]);
    /// let builder = MetaqLayer::builder(producer, "logs".parse()?).exclude_targets(excluded);
    /// # let _ = builder;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn exclude_targets(self, targets: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { excluded: ExcludedTargets::new(targets), ..self }
    }

    /// The time for which the layer's thread sends what is buffered after the guard was dropped without a
    /// shutdown, if the process lives as long. Default 5 s.
    pub fn drop_timeout(self, timeout: Duration) -> Self {
        Self { drop_timeout: timeout, ..self }
    }

    /// Builds the layer, and starts its thread, which publishes the topic and tries again until that
    /// succeeds. Events are buffered until then.
    ///
    /// # Errors
    /// When an option is outside of its limits, or the thread can't be started.
    pub fn build(self) -> Result<(MetaqLayer, LayerGuard), BuildError> {
        let limits = self.check()?;
        let buffer = Arc::new(Buffer::new(limits));
        let (deadline, asked) = watch::channel(None);
        let worker = Worker {
            producer: self.producer,
            topic: self.topic,
            attribute: self.attribute,
            buffer: Arc::clone(&buffer),
            deadline: asked,
        };
        let running = worker.start().map_err(BuildError::thread)?;
        let stats = StatsHandle { buffer: Arc::clone(&buffer) };
        let (form, key, excluded) = (self.form, self.key, self.excluded);
        let layer = MetaqLayer { buffer, form, key, excluded, id: LayerId::new() };
        Ok((layer, LayerGuard::new(deadline, running, stats, self.drop_timeout)))
    }

    fn check(&self) -> Result<Limits, BuildError> {
        let (least, most) = EVENT_BYTES.into_inner();
        if !EVENT_BYTES.contains(&self.form.limit) {
            let problem = format!("is {}, and has to be from {least} to {most} bytes", self.form.limit);
            return Err(BuildError::option("max_event_bytes", problem));
        }
        if self.max_buffered == 0 {
            return Err(BuildError::option("max_buffered", "is 0: every event would be dropped"));
        }
        let longest = Buffer::cost_of(self.form.limit + LONGEST_ATTRIBUTE);
        if self.max_buffered_bytes < longest {
            let problem = format!(
                "is {}, and has to be at least {longest} bytes, which one event takes by max_event_bytes",
                self.max_buffered_bytes
            );
            return Err(BuildError::option("max_buffered_bytes", problem));
        }
        let key = if let Key::Fixed(key) = &self.key { key.len() } else { 0 };
        let attribute = self.attribute.as_ref().map_or(0, String::len);
        for (option, len) in [("attribute", attribute), ("key", key)] {
            if len > LONGEST_ATTRIBUTE {
                let problem = format!("has {len} bytes, and may have {LONGEST_ATTRIBUTE}");
                return Err(BuildError::option(option, problem));
            }
        }
        Ok(Limits { events: self.max_buffered, bytes: self.max_buffered_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(change: impl FnOnce(MetaqLayerBuilder) -> MetaqLayerBuilder) -> String {
        let producer = Producer::builder().broker("meta://127.0.0.1:1".parse().unwrap()).build().unwrap();
        let builder = change(MetaqLayer::builder(producer, "t".parse().unwrap()));
        builder.build().unwrap_err().to_string()
    }

    #[test]
    fn an_option_outside_of_its_limits_is_named() {
        for (error, parts) in [
            (
                error(|builder| builder.max_event_bytes(10)),
                ["max_event_bytes", "is 10, and has to be from 1024"],
            ),
            (error(|builder| builder.max_event_bytes(1 << 20)), ["max_event_bytes", "to 1000000 bytes"]),
            (error(|builder| builder.max_buffered(0)), ["max_buffered", "every event would be dropped"]),
            (error(|builder| builder.max_buffered_bytes(9)), ["max_buffered_bytes", "is 9, and has to be"]),
            (
                error(|builder| builder.attribute("x".repeat(5000))),
                ["attribute", "5000 bytes, and may have 4096"],
            ),
            (error(|builder| builder.key([0; 4097])), ["key", "4097 bytes"]),
        ] {
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}

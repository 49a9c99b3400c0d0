//! The text forms of settings in files.

use std::{borrow::Cow, collections::BTreeMap, fmt, time::Duration};

use metaq_protocol::Topic;
use metaq_transport::ConnectionConfig;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor},
};

use super::{
    PartitionSet,
    partition_set::{parse_by_topic, write_by_topic},
    size::parse_size,
};

/// A duration: a text with a unit, such as `500ms` or `1m 30s`.
pub(super) mod duration {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        humantime_serde::serialize(duration, serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        deserializer.deserialize_str(DurationVisitor)
    }

    struct DurationVisitor;

    impl Visitor<'_> for DurationVisitor {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration with a unit, such as \"3s\" or \"500ms\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            humantime::parse_duration(text).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
}

/// A size: a number of bytes, or a text such as `64MiB`.
pub(super) mod size {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(size: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        size.serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<usize, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }

    struct SizeVisitor;

    impl Visitor<'_> for SizeVisitor {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number of bytes, or a text such as \"64MiB\" with a whole number")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<usize, E> {
            usize::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<usize, E> {
            usize::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<usize, E> {
            parse_size(text).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
}

/// A topic by its name; none is left out, or an empty text.
pub(super) mod topic {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        topic: &Option<Topic>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        topic.as_ref().map(Topic::as_str).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Topic>, D::Error> {
        match Option::<Cow<'de, str>>::deserialize(deserializer)?.as_deref() {
            None | Some("") => Ok(None),
            Some(name) => name.parse().map(Some).map_err(de::Error::custom),
        }
    }
}

/// The partition sets of topics: a table, or a text such as `orders=0:4;1:4 payments=ever-named`.
pub(super) mod partitions {
    use super::*;

    type Sets = BTreeMap<Topic, PartitionSet>;

    pub(in super::super) fn serialize<S: Serializer>(sets: &Sets, serializer: S) -> Result<S::Ok, S::Error> {
        write_by_topic(sets).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Sets, D::Error> {
        deserializer.deserialize_any(SetsVisitor)
    }

    struct SetsVisitor;

    impl<'de> Visitor<'de> for SetsVisitor {
        type Value = Sets;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table of topics with texts such as \"0:4;1:4\" or \"ever-named\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Sets, E> {
            parse_by_topic(text).map_err(E::custom)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Sets, A::Error> {
            let mut sets = Sets::new();
            while let Some((topic, set)) = map.next_entry::<String, String>()? {
                let topic: Topic = topic.parse().map_err(de::Error::custom)?;
                let set = set
                    .parse()
                    .map_err(|error| de::Error::custom(format_args!("of topic {topic}, {error}")))?;
                sets.insert(topic, set);
            }
            Ok(sets)
        }
    }
}

/// The settings of connections without their limits of what is in flight, which are set by the producer's.
pub(super) mod connection {
    use super::*;

    #[derive(Deserialize, Serialize)]
    #[serde(default, deny_unknown_fields, rename = "connection")]
    struct ConnectionOptions {
        #[serde(with = "super::duration")]
        connect_timeout: Duration,
        #[serde(with = "super::duration")]
        initial_backoff: Duration,
        #[serde(with = "super::duration")]
        max_backoff: Duration,
        #[serde(with = "super::duration")]
        stall_after: Duration,
        #[serde(with = "super::duration")]
        heartbeat_after: Duration,
        #[serde(with = "super::duration")]
        heartbeat_timeout: Duration,
        #[serde(with = "super::duration")]
        drain_timeout: Duration,
    }

    impl Default for ConnectionOptions {
        fn default() -> Self {
            Self::from(&ConnectionConfig::default())
        }
    }

    impl From<&ConnectionConfig> for ConnectionOptions {
        fn from(config: &ConnectionConfig) -> Self {
            Self {
                connect_timeout: config.connect_timeout,
                initial_backoff: config.initial_backoff,
                max_backoff: config.max_backoff,
                stall_after: config.stall_after,
                heartbeat_after: config.heartbeat_after,
                heartbeat_timeout: config.heartbeat_timeout,
                drain_timeout: config.drain_timeout,
            }
        }
    }

    pub(in super::super) fn serialize<S: Serializer>(
        config: &ConnectionConfig,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        ConnectionOptions::from(config).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ConnectionConfig, D::Error> {
        let options = ConnectionOptions::deserialize(deserializer)?;
        let mut config = ConnectionConfig::default();
        config.connect_timeout = options.connect_timeout;
        config.initial_backoff = options.initial_backoff;
        config.max_backoff = options.max_backoff;
        config.stall_after = options.stall_after;
        config.heartbeat_after = options.heartbeat_after;
        config.heartbeat_timeout = options.heartbeat_timeout;
        config.drain_timeout = options.drain_timeout;
        Ok(config)
    }
}

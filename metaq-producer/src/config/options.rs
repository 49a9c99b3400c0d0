//! The options by name, and their values as text.

use std::{collections::HashMap, time::Duration};

use metaq_protocol::Topic;

use super::{ConfigError, ProducerConfig, partition_set::parse_by_topic, size::parse_size};

/// An option, and what sets it.
pub(super) struct ConfigOption {
    /// With the table that it is in, such as `retry.max_attempts`.
    pub(super) name: &'static str,
    set: fn(&mut ProducerConfig, &str) -> Result<(), String>,
}

/// All options. A test compares them with the fields of the settings.
pub(super) const OPTIONS: &[ConfigOption] = &[
    ConfigOption { name: "send_timeout", set: |to, text| duration(&mut to.send_timeout, text) },
    ConfigOption { name: "publish_timeout", set: |to, text| duration(&mut to.publish_timeout, text) },
    ConfigOption { name: "topic_timeout", set: |to, text| duration(&mut to.topic_timeout, text) },
    ConfigOption { name: "max_message_size", set: |to, text| size(&mut to.max_message_size, text) },
    ConfigOption { name: "max_in_flight", set: |to, text| number(&mut to.max_in_flight, text) },
    ConfigOption { name: "max_in_flight_bytes", set: |to, text| size(&mut to.max_in_flight_bytes, text) },
    ConfigOption {
        name: "connections_per_broker",
        set: |to, text| number(&mut to.connections_per_broker, text),
    },
    ConfigOption { name: "ordered", set: |to, text| switch(&mut to.ordered, text) },
    ConfigOption { name: "default_topic", set: |to, text| topic(&mut to.default_topic, text) },
    ConfigOption { name: "auto_publish", set: |to, text| switch(&mut to.auto_publish, text) },
    ConfigOption { name: "max_auto_topics", set: |to, text| number(&mut to.max_auto_topics, text) },
    ConfigOption { name: "partitions", set: |to, text| partitions(to, text) },
    ConfigOption { name: "span_per_send", set: |to, text| switch(&mut to.span_per_send, text) },
    ConfigOption { name: "retry.max_attempts", set: |to, text| number(&mut to.retry.max_attempts, text) },
    ConfigOption {
        name: "retry.initial_backoff",
        set: |to, text| duration(&mut to.retry.initial_backoff, text),
    },
    ConfigOption { name: "retry.max_backoff", set: |to, text| duration(&mut to.retry.max_backoff, text) },
    ConfigOption { name: "retry.at_least_once", set: |to, text| switch(&mut to.retry.at_least_once, text) },
    ConfigOption { name: "retry.server_errors", set: |to, text| switch(&mut to.retry.server_errors, text) },
    ConfigOption {
        name: "connection.connect_timeout",
        set: |to, text| duration(&mut to.connection.connect_timeout, text),
    },
    ConfigOption {
        name: "connection.initial_backoff",
        set: |to, text| duration(&mut to.connection.initial_backoff, text),
    },
    ConfigOption {
        name: "connection.max_backoff",
        set: |to, text| duration(&mut to.connection.max_backoff, text),
    },
    ConfigOption {
        name: "connection.stall_after",
        set: |to, text| duration(&mut to.connection.stall_after, text),
    },
    ConfigOption {
        name: "connection.heartbeat_after",
        set: |to, text| duration(&mut to.connection.heartbeat_after, text),
    },
    ConfigOption {
        name: "connection.heartbeat_timeout",
        set: |to, text| duration(&mut to.connection.heartbeat_timeout, text),
    },
    ConfigOption {
        name: "connection.drain_timeout",
        set: |to, text| duration(&mut to.connection.drain_timeout, text),
    },
];

/// The environment variable of an option.
pub(super) fn variable(option: &str) -> String {
    format!("METAQ_{}", option.replace('.', "_").to_ascii_uppercase())
}

impl ProducerConfig {
    /// The names of all options, as they stand in a file; those in tables with the table, such as
    /// `retry.max_attempts`.
    pub fn option_names() -> impl Iterator<Item = &'static str> {
        OPTIONS.iter().map(|option| option.name)
    }

    /// Sets the option with this name, for instance from an argument of a program. Durations are texts such
    /// as `3s` or `500ms`, sizes numbers of bytes or texts such as `64MiB`, switches `true` or `false`; an
    /// empty `default_topic` is none, and so are empty `partitions`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use metaq_producer::ProducerConfig;
    ///
    /// let mut config = ProducerConfig::default();
    /// config.set("send_timeout", "10s")?;
    /// config.set("retry.max_attempts", "3")?;
    /// assert_eq!((config.send_timeout, config.retry.max_attempts), (Duration::from_secs(10), 3));
    /// let error = config.set("send_timeout", "soon").unwrap_err();
    /// assert!(error.to_string().starts_with("send_timeout is \"soon\""), "{error}");
    /// # Ok::<(), metaq_producer::config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// When there is no such option, or the text is no value for it. Whether the value makes sense is asked
    /// by [`validate`](Self::validate), and when the producer is built.
    pub fn set(&mut self, option: &str, value: &str) -> Result<(), ConfigError> {
        let known = OPTIONS.iter().find(|known| known.name == option);
        let known = known.ok_or_else(|| ConfigError::unknown_option(option))?;
        (known.set)(self, value).map_err(|problem| ConfigError::value(option, value, &problem))
    }

    /// The same settings with what the environment says: each option has a variable, `METAQ_` and its name in
    /// upper case with `_` for `.`, such as `METAQ_SEND_TIMEOUT=3s` or `METAQ_RETRY_MAX_ATTEMPTS=3`. The
    /// values are those of [`set`](Self::set). Other variables are left alone.
    ///
    /// # Errors
    /// Names the variable, its value, and what is wrong with it.
    pub fn with_environment(self) -> Result<Self, ConfigError> {
        let variable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            // What isn't Unicode is no name of an option; a value that isn't will be no value of one.
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        self.with_variables(std::env::vars_os().filter_map(variable))
    }

    /// [`with_environment`](Self::with_environment), with these variables in place of the environment's.
    ///
    /// ```
    /// use metaq_producer::ProducerConfig;
    ///
    /// let variables = [("METAQ_MAX_IN_FLIGHT".to_owned(), "100".to_owned())];
    /// let config = ProducerConfig::default().with_variables(variables)?;
    /// assert_eq!(config.max_in_flight, 100);
    /// # Ok::<(), metaq_producer::config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// As for `with_environment`.
    pub fn with_variables(
        mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let variables: HashMap<_, _> = variables.into_iter().collect();
        for option in OPTIONS {
            let name = variable(option.name);
            if let Some(value) = variables.get(&name) {
                (option.set)(&mut self, value)
                    .map_err(|problem| ConfigError::value(&name, value, &problem))?;
            }
        }
        Ok(self)
    }
}

fn duration(to: &mut Duration, text: &str) -> Result<(), String> {
    let problem = |_| "it has to be a duration with a unit, such as 3s or 500ms".to_owned();
    *to = humantime::parse_duration(text).map_err(problem)?;
    Ok(())
}

fn size(to: &mut usize, text: &str) -> Result<(), String> {
    *to = parse_size(text)?;
    Ok(())
}

fn number<N: std::str::FromStr>(to: &mut N, text: &str) -> Result<(), String> {
    let text = text.trim();
    let problem = || {
        let is_whole = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<u64>() {
            Ok(0) => "it has to be greater than zero",
            _ if is_whole => "it is too large",
            _ => "it has to be a whole number",
        }
    };
    *to = text.parse().map_err(|_| problem().to_owned())?;
    Ok(())
}

fn switch(to: &mut bool, text: &str) -> Result<(), String> {
    *to = text.trim().parse().map_err(|_| "it has to be true or false".to_owned())?;
    Ok(())
}

fn topic(to: &mut Option<Topic>, text: &str) -> Result<(), String> {
    *to = match text {
        "" => None,
        text => Some(text.parse().map_err(|error| format!("it has to be the name of a topic: {error}"))?),
    };
    Ok(())
}

fn partitions(to: &mut ProducerConfig, text: &str) -> Result<(), String> {
    let problem =
        |error| format!("it has to be TOPIC=BROKER:COUNT;BROKER:COUNT, or TOPIC=ever-named: {error}");
    to.partitions = parse_by_topic(text).map_err(problem)?;
    Ok(())
}

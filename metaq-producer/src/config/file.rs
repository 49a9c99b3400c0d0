//! Settings from TOML, and what can be wrong with settings that are given as text.

use super::{ProducerConfig, options::OPTIONS};

impl ProducerConfig {
    /// The settings that a TOML text says; what it leaves out has its default. Durations are texts such as
    /// `"3s"`, sizes numbers of bytes or texts such as `"64MiB"`. `docs/configuration.md` of the repository
    /// has the list of all options.
    ///
    /// What the environment says usually goes before the file:
    ///
    /// ```
    /// use std::time::Duration;
    /// use metaq_producer::ProducerConfig;
    ///
    /// let file = r#"
    ///     send_timeout = "10s"
    ///
    ///     [retry]
    ///     max_attempts = 3
    /// "#;
    /// let config = ProducerConfig::from_toml(file)?.with_environment()?;
    /// assert_eq!(config.send_timeout, Duration::from_secs(10));
    /// # Ok::<(), metaq_producer::config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// When the text isn't TOML, names an option that there isn't, or has a value that is none; with the
    /// place. Whether the values make sense is asked by [`validate`](Self::validate), and when the producer
    /// is built.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError { problem: Problem::Toml(error) })
    }
}

/// Settings that are given as text are wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(transparent)]
pub struct ConfigError {
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
enum Problem {
    #[error("there is no option {option}; there are {known}")]
    UnknownOption { option: String, known: String },
    #[error("{name} is {value:?}, but {problem}")]
    Value { name: String, value: String, problem: String },
    #[error("the settings are wrong: {}", .0.to_string().trim_end())]
    Toml(toml::de::Error),
}

impl ConfigError {
    pub(super) fn unknown_option(option: &str) -> Self {
        let known = OPTIONS.iter().map(|option| option.name).collect::<Vec<_>>().join(", ");
        Self { problem: Problem::UnknownOption { option: option.to_owned(), known } }
    }

    /// `name` is that of the option or its variable.
    pub(super) fn value(name: &str, value: &str, problem: &str) -> Self {
        let (name, value, problem) = (name.to_owned(), value.to_owned(), problem.to_owned());
        Self { problem: Problem::Value { name, value, problem } }
    }
}

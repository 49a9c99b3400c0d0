//! Settings from TOML, and what can be wrong with settings that are given as text.

use std::{error::Error as StdError, fmt};

use super::{ProducerConfig, options::OPTIONS};

impl ProducerConfig {
    /// The settings that a TOML text says; what it leaves out has its default. Durations are texts such as
    /// `"3s"`, sizes numbers of bytes or texts such as `"64MiB"`. The guide
    /// [`configuration`](crate::guides::configuration) lists all options.
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
    /// option, the place, and the form that the value has to have. Whether the values make sense is asked by
    /// [`validate`](Self::validate), and when the producer is built.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let wrong = |option, error| ConfigError { problem: Problem::Toml { option, error } };
        let file = toml::Deserializer::parse(text).map_err(|error| wrong(None, error))?;
        serde_path_to_error::deserialize(file).map_err(|error| {
            let option = error.path().to_string();
            // The whole file, or what has no name in it.
            let is_named = !option.is_empty() && !option.contains(['?']) && option != ".";
            wrong(is_named.then_some(option), error.into_inner())
        })
    }
}

/// Settings that are given as text are wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigError {
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq)]
enum Problem {
    UnknownOption {
        option: String,
        known: String,
    },
    Value {
        name: String,
        value: String,
        problem: String,
    },
    /// Wrong TOML, or the value of an option, where it is known which.
    Toml {
        option: Option<String>,
        error: toml::de::Error,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            Problem::UnknownOption { option, known } => {
                write!(f, "there is no option {option}; there are {known}")
            }
            Problem::Value { name, value, problem } => write!(f, "{name} is {value:?}, but {problem}"),
            Problem::Toml { option, error } => {
                f.write_str("the settings are wrong: ")?;
                if let Some(option) = option {
                    write!(f, "option {option}: ")?;
                }
                f.write_str(error.to_string().trim_end())
            }
        }
    }
}

impl StdError for ConfigError {}

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

//! The settings of a command, each with its origin: an option, the environment, a profile, the file of
//! settings, or the default.
//!
//! `file` reads the file of settings, `access` credentials and TLS, `cluster` opens the source of brokers,
//! `spool` has the settings of a spool.

mod access;
mod broker_tls;
mod cluster;
mod file;
mod spool;

use std::{
    collections::BTreeMap,
    env::{self, VarError},
    fmt,
    path::Path,
};

use metaq_producer::ProducerConfig;

pub(crate) use self::{access::names_place, cluster::Cluster};
use self::{file::SettingsFile, spool::SPOOL_SETTINGS};

/// The variable that names the profile.
const PROFILE_VARIABLE: &str = "METAQ_PROFILE";

/// The settings that are not options of a producer.
const COMMAND_SETTINGS: [&str; 11] = [
    "cluster",
    "tls.ca",
    "tls.cert",
    "tls.key",
    "broker_tls.ca",
    "broker_tls.cert",
    "broker_tls.key",
    "broker_tls.name",
    "zk_auth",
    "etcd_auth",
    "output",
];

/// An option of the command line that has the value of a setting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag<'a> {
    setting: &'static str,
    option: &'static str,
    value: Option<&'a str>,
}

impl<'a> Flag<'a> {
    pub(crate) fn new(setting: &'static str, option: &'static str, value: Option<&'a str>) -> Self {
        Self { setting, option, value }
    }
}

/// Where settings come from, besides the environment.
#[derive(Clone, Debug)]
pub(crate) struct Sources<'a, F> {
    pub(crate) flags: F,
    /// Texts `NAME=VALUE`.
    pub(crate) set: &'a [String],
    pub(crate) file: Option<&'a Path>,
    pub(crate) profile: Option<&'a str>,
}

/// The place that a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File(String),
    Profile(String),
    Environment(String),
    Option(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Option(option) => write!(f, "option {option}"),
        }
    }
}

/// All settings of a command.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The producer's options.
    pub(crate) config: ProducerConfig,
    values: BTreeMap<String, (String, Origin)>,
}

impl Settings {
    /// Collects the settings. A value from an option comes before one from the environment, then the
    /// profile, then the file.
    ///
    /// # Errors
    /// A text about the first value that can't be used.
    pub(crate) fn collect<'a>(
        sources: Sources<'_, impl Iterator<Item = &'a Flag<'a>>>,
    ) -> Result<Self, String> {
        let mut settings = Self { config: ProducerConfig::default(), values: BTreeMap::new() };
        let of_environment = if sources.profile.is_none() { environment(PROFILE_VARIABLE)? } else { None };
        let asked = sources.profile.or(of_environment.as_deref());
        if let Some(file) = SettingsFile::find(sources.file)? {
            let origin = Origin::File(file.path.clone());
            for (name, value) in &file.values {
                settings.set(name, value, origin.clone())?;
            }
            if let Some((profile, values)) = file.profile(asked)? {
                for (name, value) in values {
                    settings.set(name, value, Origin::Profile(profile.clone()))?;
                }
            }
        } else if let Some(profile) = asked {
            let origin = if of_environment.is_some() { "METAQ_PROFILE" } else { "--profile" };
            return Err(format!(
                "{origin}: there is no profile {profile}, as there is no file of settings; use --config"
            ));
        }
        for name in names() {
            let variable = variable(name);
            if let Some(value) = environment(&variable)? {
                settings.set(name, &value, Origin::Environment(variable))?;
            }
        }
        for (at, text) in (1..).zip(sources.set) {
            // The text may have a secret, and is not shown.
            let (name, value) = text.split_once('=').ok_or_else(|| {
                let which = if sources.set.len() > 1 { format!(" number {at}") } else { String::new() };
                format!("-X takes NAME=VALUE, and the text of -X{which} has no =")
            })?;
            settings.set(name.trim(), value, Origin::Option("-X".to_owned()))?;
        }
        for Flag { setting, option, value } in sources.flags {
            if let Some(value) = value {
                if *settings.origin(setting) == Origin::Option("-X".to_owned()) {
                    return Err(format!(
                        "{option} and -X {setting} are the same setting; leave one of them out"
                    ));
                }
                settings.set(setting, value, Origin::Option((*option).to_owned()))?;
            }
        }
        settings.config.validate().map_err(|error| error.to_string())?;
        Ok(settings)
    }

    fn set(&mut self, name: &str, value: &str, origin: Origin) -> Result<(), String> {
        if SPOOL_SETTINGS.contains(&name) {
            spool::check(name, value).map_err(|error| format!("{origin}: {error}"))?;
        } else if !COMMAND_SETTINGS.contains(&name) {
            if !ProducerConfig::option_names().any(|option| option == name) {
                let known: Vec<_> = names().collect();
                // Any other text may be a secret.
                let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
                let name = if is_name { name } else { "of that name" };
                return Err(format!("{origin}: there is no setting {name}; there are {}", known.join(", ")));
            }
            self.config.set(name, value).map_err(|error| format!("{origin}: {error}"))?;
        }
        self.values.insert(name.to_owned(), (value.to_owned(), origin));
        Ok(())
    }

    /// Returns the value of a setting if it is not the default.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(value, _)| value.as_str())
    }

    /// Returns the origin of a setting.
    pub(crate) fn origin(&self, name: &str) -> &Origin {
        self.values.get(name).map_or(&Origin::Default, |(_, origin)| origin)
    }
}

/// Returns the text of a variable; an empty one counts as not set.
fn environment(variable: &str) -> Result<Option<String>, String> {
    match env::var(variable) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(format!("environment {variable}: it is not UTF-8")),
    }
}

/// The names of all settings.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    COMMAND_SETTINGS.into_iter().chain(SPOOL_SETTINGS).chain(ProducerConfig::option_names())
}

/// Returns the environment variable of a setting.
pub(crate) fn variable(name: &str) -> String {
    format!("METAQ_{}", name.replace('.', "_").to_ascii_uppercase())
}

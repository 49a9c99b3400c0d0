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
use crate::display::{OutputForm, output_form};

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
    /// The path, and the number of the line.
    File(String, usize),
    /// The name of the profile, the path of the file, and the number of the line.
    Profile(String, String, usize),
    Environment(String),
    Option(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "file {path}, line {line}"),
            Self::Profile(name, path, line) => write!(f, "profile {name}, file {path}, line {line}"),
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
        let asked = match (sources.profile, of_environment) {
            (Some(profile), _) => Some((profile.to_owned(), Origin::Option("--profile".to_owned()))),
            (None, Some(profile)) => Some((profile, Origin::Environment(PROFILE_VARIABLE.to_owned()))),
            (None, None) => None,
        };
        if let Some(file) = SettingsFile::find(sources.file)? {
            for (name, value) in &file.values {
                settings.set(name, &value.text, Origin::File(file.path.clone(), value.line))?;
            }
            if let Some((profile, values)) = file.profile(asked.as_ref())? {
                for (name, value) in values {
                    let origin = Origin::Profile(profile.to_owned(), file.path.clone(), value.line);
                    settings.set(name, &value.text, origin)?;
                }
            }
        } else if let Some((profile, origin)) = asked {
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
        settings.validate()?;
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

    /// Checks the producer's options as a whole.
    fn validate(&self) -> Result<(), String> {
        self.config.validate().map_err(|error| {
            let text = error.to_string();
            let named = text.split([' ', ':']).find(|word| self.values.contains_key(*word));
            match named {
                Some(name) => format!("{}: {text}", self.origin(name)),
                None => text,
            }
        })
    }

    /// Returns the form of results that the display's options or the settings ask for.
    ///
    /// # Errors
    /// A text when the setting names no form.
    pub(crate) fn output_form(&self) -> Result<Option<OutputForm>, String> {
        output_form(self.get("output"), self.origin("output"))
    }

    /// Returns a function that puts the origin of a setting in front of the reason for which it can't be
    /// used.
    fn unusable(&self, name: &str) -> impl Fn(String) -> String {
        let origin = self.origin(name).to_string();
        move |reason| format!("{origin}: {reason}")
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

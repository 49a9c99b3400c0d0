//! Credentials and TLS for registries. Secrets come from files and the environment, and are never shown.

use std::{
    env::{self, VarError},
    fs,
};

use metaq_producer::discovery::Credentials;

use super::Settings;

/// What a registry is connected to with.
#[derive(Clone, Debug, Default)]
pub(super) struct Access {
    pub(super) credentials: Option<Credentials>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<metaq_producer::discovery::TlsConfig>,
}

impl Access {
    /// Reads what the settings name. `auth` is the setting of the registry's credentials.
    ///
    /// # Errors
    /// A text about the setting that can't be used.
    pub(super) fn read(settings: &Settings, auth: &str) -> Result<Self, String> {
        for other in ["zk_auth", "etcd_auth"] {
            if other != auth && settings.get(other).is_some() {
                let origin = settings.origin(other);
                return Err(format!("{origin}: {other} is not for this cluster"));
            }
        }
        let credentials = match settings.get(auth) {
            None => None,
            Some(text) => Some(credentials(auth, text).map_err(settings.unusable(auth))?),
        };
        Ok(Self {
            credentials,
            #[cfg(feature = "tls")]
            tls: tls(settings)?,
        })
    }

    /// Fails when the settings ask for credentials or TLS, which `cluster` does not take.
    pub(super) fn refuse(settings: &Settings, cluster: &str) -> Result<(), String> {
        let asked = ["zk_auth", "etcd_auth", "tls.ca", "tls.cert", "tls.key"];
        // A file may have them for the registries of other profiles.
        let from_option = |name: &&&str| matches!(settings.origin(name), super::Origin::Option(_));
        match asked.iter().find(from_option) {
            Some(name) => {
                let remedy = if name.starts_with("tls.") { ", and broker_tls is for brokers" } else { "" };
                let origin = settings.origin(name);
                Err(format!("{origin}: {cluster} takes no {name}; it is for registries{remedy}"))
            }
            None => Ok(()),
        }
    }
}

/// Returns whether a text has the form of a place that holds credentials. Any other may be a secret itself.
pub(crate) fn names_place(text: &str) -> bool {
    let place = text.strip_prefix("digest:").unwrap_or(text);
    let is_variable = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    place.strip_prefix("file:").is_some_and(|path| !path.is_empty())
        || place.strip_prefix("env:").is_some_and(is_variable)
}

/// Reads `USER:PASSWORD` from the place that `text` names.
fn credentials(setting: &str, text: &str) -> Result<Credentials, String> {
    let place = match setting {
        "zk_auth" => text.strip_prefix("digest:").unwrap_or_default(),
        _ => text,
    };
    let (secret, place) = if let Some(path) = place.strip_prefix("file:") {
        let secret = fs::read_to_string(path);
        (
            secret.map_err(|error| format!("the credentials in {path} can't be read: {error}"))?,
            path.to_owned(),
        )
    } else if let Some(variable) = place.strip_prefix("env:") {
        let secret = env::var(variable);
        (
            secret.map_err(|error| match error {
                VarError::NotPresent => format!("the variable {variable} is not set"),
                VarError::NotUnicode(_) => format!("the variable {variable} is not UTF-8"),
            })?,
            format!("the variable {variable}"),
        )
    } else {
        // The text may be a secret itself, and is not shown.
        let scheme = if setting == "zk_auth" { "digest:" } else { "" };
        return Err(format!(
            "{setting} has to be {scheme}file:PATH or {scheme}env:VARIABLE, a place that holds USER:PASSWORD"
        ));
    };
    let secret = secret.trim_end_matches(['\r', '\n']);
    match secret.split_once(':') {
        Some((name, password)) if !name.is_empty() => Ok(Credentials::new(name, password)),
        _ => Err(format!("{place} doesn't hold USER:PASSWORD")),
    }
}

#[cfg(feature = "tls")]
fn tls(settings: &Settings) -> Result<Option<metaq_producer::discovery::TlsConfig>, String> {
    use metaq_producer::discovery::TlsConfig;

    use crate::stderr::describe;

    let describe = |error: metaq_producer::discovery::DiscoveryError| describe(&error);
    let Some(ca) = settings.get("tls.ca") else {
        return match ["tls.cert", "tls.key"].iter().find(|name| settings.get(name).is_some()) {
            Some(name) => Err(format!("{}: {name} needs tls.ca, too", settings.origin(name))),
            None => Ok(None),
        };
    };
    let tls = TlsConfig::from_ca_file(ca).map_err(describe).map_err(settings.unusable("tls.ca"))?;
    match (settings.get("tls.cert"), settings.get("tls.key")) {
        (None, None) => Ok(Some(tls)),
        (Some(certificate), Some(key)) => {
            let tls = tls.with_identity_files(certificate, key).map(Some);
            tls.map_err(describe).map_err(settings.unusable("tls.cert"))
        }
        (cert, _) => {
            let name = if cert.is_some() { "tls.cert" } else { "tls.key" };
            let reason = "tls.cert and tls.key are set together, or neither";
            Err(settings.unusable(name)(reason.to_owned()))
        }
    }
}

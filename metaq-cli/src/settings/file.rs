//! The file of settings: TOML, with profiles.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

/// The variable that names the file.
const FILE_VARIABLE: &str = "METAQ_CONFIG";

/// The setting that is a table of topics in a file.
const PARTITIONS: &str = "partitions";

/// Settings by name, with the table that they are in, such as `retry.max_attempts`.
type Values = BTreeMap<String, String>;

/// A file of settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SettingsFile {
    pub(super) path: String,
    pub(super) values: Values,
    profiles: BTreeMap<String, Values>,
    /// The profile to use if none is asked for.
    default_profile: Option<String>,
}

impl SettingsFile {
    /// Reads `file`, or the one that the environment names, or the user's if there is one.
    ///
    /// # Errors
    /// A text that names the file and the reason.
    pub(super) fn find(file: Option<&Path>) -> Result<Option<Self>, String> {
        let named = file.map(Path::to_owned).or_else(|| path_of(FILE_VARIABLE));
        let path = match &named {
            Some(path) => path.clone(),
            None => match user_file() {
                Some(path) => path,
                None => return Ok(None),
            },
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // The file of the user is skipped where it can't be opened, as after a change of the user.
            Err(error) if named.is_none() && is_absence(&error) => return Ok(None),
            Err(error) => return Err(format!("the settings in {} can't be read: {error}", path.display())),
        };
        let read = Self::parse(&path.display().to_string(), &text);
        read.map(Some).map_err(|reason| format!("the settings in {} can't be used: {reason}", path.display()))
    }

    fn parse(path: &str, text: &str) -> Result<Self, String> {
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| one_line(&error, text))?;
        let default_profile = match table.remove("profile") {
            None => None,
            Some(toml::Value::String(name)) => Some(name),
            Some(_) => return Err("profile is not a text".to_owned()),
        };
        let mut profiles = BTreeMap::new();
        match table.remove("profiles") {
            None => {}
            Some(toml::Value::Table(tables)) => {
                for (name, profile) in tables {
                    let toml::Value::Table(profile) = profile else {
                        return Err(format!("profiles.{name} is not a table"));
                    };
                    let mut values = Values::new();
                    flatten("", profile, &mut values)?;
                    profiles.insert(name, values);
                }
            }
            Some(_) => return Err("profiles is not a table".to_owned()),
        }
        let mut values = Values::new();
        flatten("", table, &mut values)?;
        Ok(Self { path: path.to_owned(), values, profiles, default_profile })
    }

    /// Returns the profile that is asked for, or else that of the file, with its name.
    ///
    /// # Errors
    /// A text when there is no such profile.
    pub(super) fn profile(&self, asked: Option<&str>) -> Result<Option<(String, &Values)>, String> {
        let Some(name) = asked.map(str::to_owned).or_else(|| self.default_profile.clone()) else {
            return Ok(None);
        };
        match self.profiles.get(&name) {
            Some(values) => Ok(Some((name, values))),
            None => {
                let known: Vec<_> = self.profiles.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(format!("there is no profile {name} in {}; there is {known}", self.path))
            }
        }
    }
}

/// Returns whether a file is not there for this user.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory
    )
}

/// Returns the path of the user's file, which need not exist.
fn user_file() -> Option<PathBuf> {
    let folder = path_of("XDG_CONFIG_HOME").or_else(|| Some(path_of("HOME")?.join(".config")))?;
    Some(folder.join("metaq/config.toml"))
}

/// Returns the path in a variable; an empty one counts as not set.
fn path_of(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Adds the values of a table, and of the tables in it, as texts.
fn flatten(prefix: &str, table: toml::Table, values: &mut Values) -> Result<(), String> {
    for (key, value) in table {
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(switch) => switch.to_string(),
            toml::Value::Table(table) if name == PARTITIONS => partitions(table)?,
            toml::Value::Table(table) => {
                flatten(&name, table, values)?;
                continue;
            }
            _ => return Err(format!("{name} is neither a text nor a whole number, true or false")),
        };
        values.insert(name, text);
    }
    Ok(())
}

/// Formats a table of partitions by topic as the one text that the setting takes.
fn partitions(table: toml::Table) -> Result<String, String> {
    let mut sets = Vec::new();
    for (topic, set) in table {
        let name = format!("{PARTITIONS}.{topic}");
        let toml::Value::String(set) = set else {
            return Err(format!("{name} is not a text; a topic with a dot stands in quotation marks"));
        };
        // In the text, these would begin another topic.
        if topic.contains(char::is_whitespace) || set.contains('=') {
            return Err(format!("{name} is not a topic with a set such as \"0:4;1:4\""));
        }
        sets.push(format!("{topic}={set}"));
    }
    Ok(sets.join(" "))
}

/// Formats an error without the excerpt of the file, which may have a secret.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    format!("{place}{}", error.message().replace('\n', ", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
        cluster = 'zk://h:1'
        profile = 'near'
        [retry]
        max_attempts = 3
        [profiles.near]
        send_timeout = '1s'
        [profiles.far]
        ordered = true
        retry.max_attempts = 9
    ";

    #[test]
    fn values_have_the_names_of_their_tables() {
        let file = SettingsFile::parse("f", TEXT).unwrap();
        let pairs = |values: &Values| values.clone().into_iter().collect::<Vec<_>>();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(pairs(&file.values), [pair("cluster", "zk://h:1"), pair("retry.max_attempts", "3")]);
        let (name, far) = file.profile(Some("far")).unwrap().unwrap();
        assert_eq!(
            (name.as_str(), pairs(far)),
            ("far", vec![pair("ordered", "true"), pair("retry.max_attempts", "9")])
        );
        let error = file.profile(Some("away")).unwrap_err();
        assert_eq!(error, "there is no profile away in f; there is far, near");
    }

    #[test]
    fn a_file_that_is_no_table_of_settings_is_refused() {
        for (text, reason) in [
            ("a = 1\nb = =", "line 2: "),
            ("cluster = [1]", "cluster is neither a text"),
            ("profile = 1", "profile is not a text"),
            ("profiles = 1", "profiles is not a table"),
            ("[profiles]\nx = 1", "profiles.x is not a table"),
            ("[partitions]\na.b = '0:1'", "partitions.a is not a text; a topic with a dot"),
            ("[partitions]\na = '0:1 b=0:1'", "partitions.a is not a topic with a set"),
            ("[partitions]\n'a b' = '0:1'", "partitions.a b is not a topic with a set"),
        ] {
            let error = SettingsFile::parse("f", text).unwrap_err();
            assert!(error.starts_with(reason) && !error.contains('\n'), "{text}: {error}");
        }
    }
}

//! The file of settings: TOML, with profiles.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::Origin;

/// The variable that names the file.
const FILE_VARIABLE: &str = "METAQ_CONFIG";

/// The setting that is a table of topics in a file.
const PARTITIONS: &str = "partitions";

/// Settings by name, with the table that they are in, such as `retry.max_attempts`.
type Values = BTreeMap<String, Value>;

/// The text of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) text: String,
    /// The number of its line, the first of which is 1.
    pub(super) line: usize,
}

/// The lines of keys, by their names with the tables that they are in.
type Lines = BTreeMap<String, usize>;

/// A file of settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SettingsFile {
    pub(super) path: String,
    pub(super) values: Values,
    profiles: BTreeMap<String, Values>,
    /// The profile to use if none is asked for.
    default_profile: Option<Value>,
}

impl SettingsFile {
    /// Reads `file`, or the one that the environment names, or the user's if there is one.
    ///
    /// # Errors
    /// A text that names the file and the reason.
    pub(super) fn find(file: Option<&Path>) -> Result<Option<Self>, String> {
        let by_option = file.map(|file| (file.to_owned(), Some(Origin::Option("--config".to_owned()))));
        let by_variable =
            || Some((path_of(FILE_VARIABLE)?, Some(Origin::Environment(FILE_VARIABLE.to_owned()))));
        let of_user = || Some((user_file()?, None));
        let Some((path, origin)) = by_option.or_else(by_variable).or_else(of_user) else { return Ok(None) };
        let by = origin.as_ref().map(|origin| format!("{origin}: ")).unwrap_or_default();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // The file of the user is skipped where it can't be opened, as after a change of the user.
            Err(error) if origin.is_none() && is_absence(&error) => return Ok(None),
            Err(error) => {
                return Err(format!("{by}the settings in {} can't be read: {error}", path.display()));
            }
        };
        let read = Self::parse(&path.display().to_string(), &text);
        let unusable = |reason| format!("{by}the settings in {} can't be used: {reason}", path.display());
        read.map(Some).map_err(unusable)
    }

    fn parse(path: &str, text: &str) -> Result<Self, String> {
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| one_line(&error, text))?;
        let lines = lines(text);
        let line = |name: &str| lines.get(name).copied().unwrap_or(1);
        let at = |name: &str, reason: &str| format!("line {}: {name} {reason}", line(name));
        let default_profile = match table.remove("profile") {
            None => None,
            Some(toml::Value::String(text)) => Some(Value { text, line: line("profile") }),
            Some(_) => return Err(at("profile", "is not a text")),
        };
        let mut profiles = BTreeMap::new();
        match table.remove("profiles") {
            None => {}
            Some(toml::Value::Table(tables)) => {
                for (name, profile) in tables {
                    let toml::Value::Table(profile) = profile else {
                        return Err(at(&format!("profiles.{name}"), "is not a table"));
                    };
                    let mut values = Values::new();
                    let line = |setting: &str| line(&format!("profiles.{name}.{setting}"));
                    flatten("", profile, &mut values, &line)?;
                    profiles.insert(name, values);
                }
            }
            Some(_) => return Err(at("profiles", "is not a table")),
        }
        let mut values = Values::new();
        flatten("", table, &mut values, &line)?;
        Ok(Self { path: path.to_owned(), values, profiles, default_profile })
    }

    /// Returns the profile that is asked for, or else that of the file, with its name. `asked` is the name
    /// and its origin.
    ///
    /// # Errors
    /// A text when there is no such profile.
    pub(super) fn profile<'a>(
        &'a self,
        asked: Option<&'a (String, Origin)>,
    ) -> Result<Option<(&'a str, &'a Values)>, String> {
        let (name, origin) = match (asked, &self.default_profile) {
            (Some((name, origin)), _) => (name, origin.clone()),
            (None, Some(Value { text, line })) => (text, Origin::File(self.path.clone(), *line)),
            (None, None) => return Ok(None),
        };
        match self.profiles.get(name) {
            Some(values) => Ok(Some((name, values))),
            None => {
                let known: Vec<_> = self.profiles.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(format!("{origin}: there is no profile {name} in {}; there is {known}", self.path))
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

/// Returns the lines of all keys of a file that is TOML.
fn lines(text: &str) -> Lines {
    let mut lines = Lines::new();
    // That it is TOML was checked before.
    if let Ok(table) = DeTable::parse(text) {
        add_lines("", table.get_ref(), &|at| line_of(text, at), &mut lines);
    }
    lines
}

/// Adds the lines of the keys of a table. `line` returns that of a place in the text.
fn add_lines(prefix: &str, table: &DeTable<'_>, line: &dyn Fn(usize) -> usize, lines: &mut Lines) {
    for (key, value) in table {
        let name = named(prefix, key.get_ref());
        if let DeValue::Table(table) = value.get_ref() {
            add_lines(&name, table, line, lines);
        }
        lines.insert(name, line(key.span().start));
    }
}

/// Returns the number of the line that has a place of the text.
fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Returns the name of a key with the tables that it is in.
fn named(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// Adds the values of a table, and of the tables in it, as texts. `line` returns the line of a key.
fn flatten(
    prefix: &str,
    table: toml::Table,
    values: &mut Values,
    line: &dyn Fn(&str) -> usize,
) -> Result<(), String> {
    for (key, value) in table {
        let name = named(prefix, &key);
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(switch) => switch.to_string(),
            toml::Value::Table(table) if name == PARTITIONS => partitions(table, line)?,
            toml::Value::Table(table) => {
                flatten(&name, table, values, line)?;
                continue;
            }
            _ => {
                let line = line(&name);
                let reason = "is neither a text nor a whole number, true or false";
                return Err(format!("line {line}: {name} {reason}"));
            }
        };
        let line = line(&name);
        values.insert(name, Value { text, line });
    }
    Ok(())
}

/// Formats a table of partitions by topic as the one text that the setting takes.
fn partitions(table: toml::Table, line: &dyn Fn(&str) -> usize) -> Result<String, String> {
    let mut sets = Vec::new();
    for (topic, set) in table {
        let name = format!("{PARTITIONS}.{topic}");
        let at = |reason: &str| format!("line {}: {name} {reason}", line(&name));
        let toml::Value::String(set) = set else {
            return Err(at("is not a text; a topic with a dot stands in quotation marks"));
        };
        // In the text, these would begin another topic.
        if topic.contains(char::is_whitespace) || set.contains('=') {
            return Err(at("is not a topic with a set such as \"0:4;1:4\""));
        }
        sets.push(format!("{topic}={set}"));
    }
    Ok(sets.join(" "))
}

/// Formats an error without the excerpt of the file, which may have a secret.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map(|span| line_of(text, span.start));
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
        let found = |values: &Values| {
            let found = values.iter().map(|(name, value)| (name.clone(), value.text.clone(), value.line));
            found.collect::<Vec<_>>()
        };
        let value = |name: &str, value: &str, line| (name.to_owned(), value.to_owned(), line);
        let expected = [value("cluster", "zk://h:1", 2), value("retry.max_attempts", "3", 5)];
        assert_eq!(found(&file.values), expected);
        let asked = |name: &str| (name.to_owned(), Origin::Option("--profile".to_owned()));
        let far = asked("far");
        let (name, far) = file.profile(Some(&far)).unwrap().unwrap();
        let expected = vec![value("ordered", "true", 9), value("retry.max_attempts", "9", 10)];
        assert_eq!((name, found(far)), ("far", expected));
        let error = file.profile(Some(&asked("away"))).unwrap_err();
        assert_eq!(error, "option --profile: there is no profile away in f; there is far, near");
    }

    #[test]
    fn a_file_that_is_no_table_of_settings_is_refused() {
        for (text, reason) in [
            ("a = 1\nb = =", "line 2: "),
            ("a = 1\ncluster = [1]", "line 2: cluster is neither a text"),
            ("profile = 1", "line 1: profile is not a text"),
            ("profiles = 1", "line 1: profiles is not a table"),
            ("[profiles]\nx = 1", "line 2: profiles.x is not a table"),
            ("[partitions]\na.b = '0:1'", "line 2: partitions.a is not a text; a topic with a dot"),
            ("[partitions]\na = '0:1 b=0:1'", "line 2: partitions.a is not a topic with a set"),
            ("[partitions]\n'a b' = '0:1'", "line 2: partitions.a b is not a topic with a set"),
        ] {
            let error = SettingsFile::parse("f", text).unwrap_err();
            assert!(error.starts_with(reason) && !error.contains('\n'), "{text}: {error}");
        }
    }
}

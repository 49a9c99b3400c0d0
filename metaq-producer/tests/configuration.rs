//! Settings from TOML, from the environment and by name, and their list in `docs/configuration.md`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, time::Duration};

use metaq_producer::{Producer, ProducerConfig};

const DOCUMENT: &str = include_str!("../../docs/configuration.md");

/// A text with other values than the defaults for all options.
const ALL: &str = r#"
send_timeout = "11s"
publish_timeout = "12s"
topic_timeout = "13s"
max_message_size = "14KiB"
max_in_flight = 15
max_in_flight_bytes = "16MiB"
connections_per_broker = 17
ordered = true
default_topic = "misc"
auto_publish = true
max_auto_topics = 28
partitions = "a=0:4;1:4 b=ever-named"
span_per_send = true

[retry]
max_attempts = 18
initial_backoff = "19ms"
max_backoff = "1m 20s"
at_least_once = true
server_errors = true

[connection]
connect_timeout = "21s"
initial_backoff = "22ms"
max_backoff = "23s"
stall_after = "24s"
heartbeat_after = "25s"
heartbeat_timeout = "26s"
drain_timeout = "27s"
"#;

/// The keys and values of a table and the tables in it.
fn leaves(table: &toml::Table) -> Vec<(String, toml::Value)> {
    let of = |(key, value): (&String, &toml::Value)| match value {
        toml::Value::Table(inner) => {
            leaves(inner).into_iter().map(|(name, value)| (format!("{key}.{name}"), value)).collect()
        }
        value => vec![(key.clone(), value.clone())],
    };
    table.iter().flat_map(of).collect()
}

fn as_table(config: &ProducerConfig) -> toml::Table {
    toml::Table::try_from(config).unwrap()
}

fn variable(option: &str) -> String {
    format!("METAQ_{}", option.replace('.', "_").to_uppercase())
}

#[test]
fn the_options_by_name_are_the_fields() {
    let names: BTreeSet<_> = ProducerConfig::option_names().map(str::to_owned).collect();
    let in_file: BTreeSet<_> = leaves(&as_table(&ProducerConfig::from_toml(ALL).unwrap()))
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, in_file);
}

#[test]
fn every_option_is_read_from_a_file_a_variable_and_by_name() {
    let defaults = as_table(&ProducerConfig::default());
    let from_file = ProducerConfig::from_toml(ALL).unwrap();
    let leaves = leaves(&as_table(&from_file));
    for (name, value) in &leaves {
        let default =
            name.split('.').try_fold(&toml::Value::Table(defaults.clone()), |at, key| at.get(key)).cloned();
        assert_ne!(Some(value), default.as_ref(), "{name} differs from its default in the test's text");
    }
    let text = |value: &toml::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let variables = leaves.iter().map(|(name, value)| (variable(name), text(value)));
    let from_variables = ProducerConfig::default().with_variables(variables).unwrap();
    let mut by_name = ProducerConfig::default();
    leaves.iter().for_each(|(name, value)| by_name.set(name, &text(value)).unwrap());
    assert_eq!(as_table(&from_variables), as_table(&from_file));
    assert_eq!(as_table(&by_name), as_table(&from_file));
    let again = ProducerConfig::from_toml(&toml::to_string(&from_file).unwrap()).unwrap();
    assert_eq!(as_table(&again), as_table(&from_file), "what is written is read again");
}

#[test]
fn environment_overrides_file_and_file_overrides_defaults() {
    let config = ProducerConfig::from_toml("send_timeout = \"7s\"\nmax_in_flight = 70\n").unwrap();
    let variables = [("METAQ_MAX_IN_FLIGHT", "700"), ("METAQ_LOG", "info"), ("HOME", "/")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = config.with_variables(variables).unwrap();
    assert_eq!((config.send_timeout, config.max_in_flight), (Duration::from_secs(7), 700));
    assert_eq!(config.topic_timeout, Duration::from_secs(3));
}

#[test]
fn partitions_are_read_as_a_table_or_as_one_text() {
    let table =
        ProducerConfig::from_toml("[partitions]\nledger = \" 0:4; 1:4 \"\n\"a.b\" = \"ever-named\"\n");
    let text = ProducerConfig::from_toml("partitions = \"ledger=0:4; 1:4 a.b=ever-named\"").unwrap();
    let table = table.unwrap();
    assert_eq!(table.partitions, text.partitions);
    let of = |topic: &str| table.partitions[topic].to_string();
    assert_eq!((of("ledger"), of("a.b")), ("0:4;1:4".to_owned(), "ever-named".to_owned()));
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_its_place() {
    for (text, expected) in [
        ("send_timeuot = \"3s\"", &["line 1", "send_timeuot", "`send_timeout`"][..]),
        ("[retry]\nattempts = 3", &["line 2", "attempts", "`max_attempts`"]),
        ("[connection]\nmax_in_flight = 3", &["line 2", "max_in_flight", "`connect_timeout`"]),
        (
            "send_timeout = \"3 sacks\"",
            &["option send_timeout: ", "line 1", "3 sacks", "a duration with a unit, such as \"3s\""],
        ),
        ("send_timeout = 3", &["option send_timeout: ", "line 1", "a duration with a unit, such as \"3s\""]),
        (
            "[retry]\nmax_backoff = 0.5",
            &["option retry.max_backoff: ", "line 2", "0.5", "a duration with a unit, such as \"3s\""],
        ),
        (
            "connection = { stall_after = \"soon\" }",
            &["option connection.stall_after: ", "line 1", "\"soon\"", "such as \"3s\" or \"500ms\""],
        ),
        ("max_in_flight = -1", &["option max_in_flight: ", "line 1", "-1"]),
        ("max_in_flight_bytes = \"64 miles\"", &["line 1", "64 miles", "64MiB"]),
        ("max_message_size = -1", &["line 1", "-1", "a whole number of bytes"]),
        ("default_topic = \"a topic\"", &["line 1", "a topic"]),
        ("[partitions]\nt = \"0:4;1\"", &["line 1", "of topic t, \"1\" is no set of partitions"]),
        ("partitions = \"0:4\"", &["line 1", "\"0:4\" has no topic; expected TOPIC=0:4"]),
        ("partitions = 4", &["line 1", "a table of topics"]),
        ("ordered = \"yes\"", &["line 1", "yes", "a boolean"]),
        ("retry = 3", &["line 1", "3"]),
        ("send_timeout", &["line 1"]),
    ] {
        let error = ProducerConfig::from_toml(text).unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{text}: {part} is missing in: {error}");
        }
    }
}

#[test]
fn what_is_wrong_in_the_environment_is_named_with_its_variable() {
    for (name, value, expected) in [
        (
            "METAQ_SEND_TIMEOUT",
            "3 sacks",
            "METAQ_SEND_TIMEOUT is \"3 sacks\", but it has to be a duration with a unit, such as 3s or 500ms",
        ),
        (
            "METAQ_RETRY_MAX_ATTEMPTS",
            "-1",
            "METAQ_RETRY_MAX_ATTEMPTS is \"-1\", but it has to be a whole number",
        ),
        (
            "METAQ_MAX_IN_FLIGHT_BYTES",
            "many",
            "METAQ_MAX_IN_FLIGHT_BYTES is \"many\", but it has to be a whole number of bytes",
        ),
        ("METAQ_ORDERED", "yes", "METAQ_ORDERED is \"yes\", but it has to be true or false"),
        (
            "METAQ_PARTITIONS",
            "t=0:0",
            "METAQ_PARTITIONS is \"t=0:0\", but it has to be TOPIC=BROKER:COUNT;BROKER:COUNT, or TOPIC=ever-named: of \
             topic t, \"0:0\" is no set of partitions such as 0:4;1:4: a broker has from 1 to 65536 partitions",
        ),
        (
            "METAQ_DEFAULT_TOPIC",
            "a b",
            "METAQ_DEFAULT_TOPIC is \"a b\", but it has to be the name of a topic",
        ),
    ] {
        let variables = [(name.to_owned(), value.to_owned())];
        let error = ProducerConfig::default().with_variables(variables).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    let error = ProducerConfig::default().set("send_timeuot", "3s").unwrap_err().to_string();
    assert!(error.starts_with("there is no option send_timeuot; there are send_timeout, "), "{error}");
}

#[test]
fn what_makes_no_sense_is_named_when_the_producer_is_built() {
    let mut config = ProducerConfig::from_toml("[retry]\nmax_attempts = 0").unwrap();
    let build = |config: &ProducerConfig| {
        Producer::builder().broker("meta://127.0.0.1:8123".parse().unwrap()).config(config.clone()).build()
    };
    let error = build(&config).unwrap_err().to_string();
    assert!(error.contains("retry.max_attempts"), "{error}");
    config.set("retry.max_attempts", "1").unwrap();
    assert!(build(&config).is_ok());
}

#[test]
fn the_document_has_every_option_with_its_variable_and_default() {
    let defaults = toml::Value::Table(as_table(&ProducerConfig::default()));
    // Another table, of features, comes later.
    let options = DOCUMENT.split("\n## Publish on first use\n").next().unwrap();
    let mut rows = options.lines().filter(|line| line.starts_with("| `"));
    for name in ProducerConfig::option_names() {
        let row = rows.next().unwrap_or_else(|| panic!("{name} has no row"));
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let default = name.split('.').try_fold(&defaults, |at, key| at.get(key));
        let default = default.map_or_else(|| "none".to_owned(), |default| format!("`{default}`"));
        assert_eq!(cells[..3], [&format!("`{name}`"), &format!("`{}`", variable(name)), &default], "{row}");
        assert!(cells.len() == 5 && cells[3..].iter().all(|cell| cell.len() > 10), "{row}");
    }
    assert_eq!(rows.next(), None, "the document has an option that there isn't");
    let example = DOCUMENT.split("```toml").nth(1).unwrap().split("```").next().unwrap();
    assert!(ProducerConfig::from_toml(example).is_ok());
}

//! The contents of the file.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    BrokerRole, MAX_PARTITIONS, RegisteredBroker, TopicView, backend::bad_entries::UnusableEntry,
    view::ReadTime,
};

/// The views of all topics and the unusable entries, or the reason why the file as a whole can't be used.
pub(super) type Parsed = Result<Arc<FileContent>, String>;

/// The content of a well-formed file.
#[derive(Debug, Default)]
pub(super) struct FileContent {
    pub(super) views: BTreeMap<Topic, TopicView>,
    /// All brokers, also those without topics.
    pub(super) brokers: Vec<RegisteredBroker>,
    pub(super) bad: Vec<UnusableEntry>,
    /// The read time that all views share.
    pub(super) read_time: ReadTime,
}

/// The read time is not compared.
impl PartialEq for FileContent {
    fn eq(&self, other: &Self) -> bool {
        self.views == other.views && self.brokers == other.brokers && self.bad == other.bad
    }
}

impl Eq for FileContent {}

impl FileContent {
    /// The view of a topic, which is empty if the file doesn't list the topic.
    pub(super) fn view(&self, topic: &Topic) -> TopicView {
        let view = self.views.get(topic).cloned();
        view.unwrap_or_else(|| TopicView::new(topic.clone()).read_at(&self.read_time))
    }
}

/// The raw structure of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entries {
    brokers: BTreeMap<String, Value>,
    topics: BTreeMap<String, BTreeMap<String, Value>>,
}

pub(super) fn parse(path: &Path, bytes: &[u8]) -> Parsed {
    let entries = entries(path, bytes)?;
    let mut content = FileContent::default();
    let mut report = |entry: String, reason: String| {
        content.bad.push(UnusableEntry::permanent(format!("{} {entry}", path.display()), reason));
    };
    // `None` for an address that can't be used, which is reported once.
    let mut brokers = BTreeMap::new();
    for (text, addr) in &entries.brokers {
        match parse_id(text).map(|id| (id, broker(addr))) {
            Ok((id, addr)) => {
                let addr = addr.map_err(|reason| report(format!("brokers.{text}"), reason));
                brokers.insert(id, addr.ok());
            }
            Err(reason) => report(format!("brokers.{text}"), reason),
        }
    }
    let listed = brokers.iter().filter_map(|(id, addr)| Some((*id, addr.clone()?)));
    content.brokers = listed.map(|(id, addr)| RegisteredBroker::new(id, BrokerRole::Master, addr)).collect();
    // The missing brokers, with the number of topics that name each and the first of these topics.
    let mut missing: BTreeMap<BrokerId, (usize, &str)> = BTreeMap::new();
    for (name, counts) in &entries.topics {
        let topic = match Topic::new(name) {
            Ok(topic) => topic,
            Err(error) => {
                report(format!("topics.{name}"), error.to_string());
                continue;
            }
        };
        let mut view = TopicView::new(topic.clone()).read_at(&content.read_time);
        for (text, count) in counts {
            match parse_id(text).and_then(|id| Ok((id, partitions(count)?))) {
                Ok((id, count)) => match brokers.get(&id) {
                    Some(Some(addr)) => view = view.with_broker(id, addr.clone(), count),
                    Some(None) => {}
                    None => missing.entry(id).or_insert((0, name)).0 += 1,
                },
                Err(reason) => report(format!("topics.{name}.{text}"), reason),
            }
        }
        content.views.insert(topic, view);
    }
    for (id, (count, first)) in missing {
        let topics = if count == 1 {
            format!("topic {first}")
        } else {
            format!("{count} topics, the first of which is {first}")
        };
        report(format!("brokers.{id}"), format!("it is missing, but named by {topics}"));
    }
    Ok(Arc::new(content))
}

fn entries(path: &Path, bytes: &[u8]) -> Result<Entries, String> {
    let text = str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{} at line {line}", error.message())
    })
}

fn broker(addr: &Value) -> Result<BrokerAddr, String> {
    let addr =
        addr.as_str().ok_or_else(|| format!("{addr} is not an address such as \"meta://host:8123\""))?;
    addr.parse().map_err(|error: metaq_protocol::InvalidBrokerAddr| error.to_string())
}

fn parse_id(text: &str) -> Result<BrokerId, String> {
    let id: Option<i32> = text.parse().ok().filter(|id| *id >= 0);
    match id {
        // Otherwise two entries could name the same broker, and only one of them would be used.
        Some(id) if id.to_string() != text => Err(format!("{text:?} must be written as {id}")),
        Some(id) => Ok(BrokerId(id)),
        None => Err(format!("{text:?} is not the id of a broker, a number from 0 on")),
    }
}

fn partitions(count: &Value) -> Result<u32, String> {
    let number = count.as_u64().filter(|count| (1..=u64::from(MAX_PARTITIONS)).contains(count));
    number
        .map(|count| count as u32)
        .ok_or_else(|| format!("{count} is not a number of partitions from 1 to {MAX_PARTITIONS}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::file) const GOOD: &str = "[brokers]\n0 = \"meta://h:1\"\n1 = \"meta://[::1]:2\"\n[topics.a]\n0 = 2\n1 = 1\n[topics.b]\n1 = 1\n";

    pub(in crate::file) fn texts(views: &BTreeMap<Topic, TopicView>) -> Vec<String> {
        let partitions =
            |view: &TopicView| view.partitions().iter().map(|p| format!(" {p}")).collect::<String>();
        views.values().map(|view| format!("{}{}", view.topic(), partitions(view))).collect()
    }

    #[test]
    fn toml_and_json_parse_to_the_same() {
        let content = parse(Path::new("x.toml"), GOOD.as_bytes()).unwrap();
        let (views, bad) = (&content.views, &content.bad);
        assert!(bad.is_empty(), "{bad:?}");
        assert_eq!(texts(views), ["a 0-0 0-1 1-0", "b 1-0"]);
        let addrs: Vec<_> = content.brokers.iter().map(|broker| broker.addr.to_string()).collect();
        assert_eq!(addrs, ["meta://h:1", "meta://[::1]:2"]);
        let json =
            r#"{"brokers":{"0":"meta://h:1","1":"meta://[::1]:2"},"topics":{"a":{"0":2,"1":1},"b":{"1":1}}}"#;
        assert_eq!(parse(Path::new("x.JSON"), json.as_bytes()).unwrap().views, *views);
    }

    #[test]
    fn a_bad_entry_is_named_and_does_not_affect_the_others() {
        for (line, path, reason) in [
            ("[brokers]\n9 = \"h:1\"", "x brokers.9", "meta://"),
            ("[brokers]\n9 = 7", "x brokers.9", "7 is not an address"),
            ("[brokers]\n-1 = \"meta://h:1\"", "x brokers.-1", "\"-1\" is not the id"),
            ("[topics.a]\n9 = 1", "x brokers.9", "it is missing, but named by topic a"),
            ("[brokers]\n00 = \"meta://h:3\"", "x brokers.00", "\"00\" must be written as 0"),
            ("[brokers]\n\"+0\" = \"meta://h:3\"", "x brokers.+0", "must be written as 0"),
            ("[topics.a]\n01 = 7", "x topics.a.01", "must be written as 1"),
            ("[topics.a]\n0 = 0", "x topics.a.0", "0 is not a number of partitions"),
            ("[topics.a]\n0 = 65537", "x topics.a.0", "from 1 to 65536"),
            ("[topics.a]\n0 = \"2\"", "x topics.a.0", "is not a number of partitions"),
            ("[topics.\"b c\"]\n0 = 2", "x topics.b c", "contains a space"),
        ] {
            let mut lines = GOOD.replace("[topics.a]\n0 = 2\n", "[topics.a]\n");
            let (header, entry) = line.split_once('\n').unwrap();
            if lines.contains(&format!("{header}\n")) {
                lines = lines.replace(&format!("{header}\n"), &format!("{header}\n{entry}\n"));
            } else {
                lines.push_str(line);
            }
            let content = parse(Path::new("x"), lines.as_bytes()).unwrap();
            let (views, bad) = (&content.views, &content.bad);
            assert_eq!(texts(views), ["a 1-0", "b 1-0"], "{line}");
            assert_eq!(bad.len(), 1, "{line}: {bad:?}");
            let entry = &bad[0].entry;
            assert!(entry.path == path && entry.reason.contains(reason), "{line}: {entry}");
        }
    }

    #[test]
    fn errors_of_malformed_files_contain_the_position() {
        for (file, text, wanted) in [
            ("x.toml", "[brokers", "expected `]` at line 1"),
            ("x.toml", "[brokers]\n\n0 = [1", "at line 3"),
            ("x.json", "{\n1", "line 2"),
            ("x.toml", "[brokers]\n", "missing field `topics`"),
            ("x.toml", "[brokers]\n[topics]\n[more]\n", "unknown field `more`"),
        ] {
            let error = parse(Path::new(file), text.as_bytes()).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert_eq!(parse(Path::new("x"), b"\xff").unwrap_err(), "it is not UTF-8");
    }

    #[test]
    fn a_broker_that_many_topics_miss_is_one_bad_entry() {
        let mut text = GOOD.replace("[brokers]\n", "[brokers]\n8 = \"nowhere\"\n");
        (0..500).for_each(|n| text += &format!("[topics.t{n:03}]\n1 = 1\n8 = 1\n9 = 1\n"));
        let content = parse(Path::new("x"), text.as_bytes()).unwrap();
        let bad: Vec<_> = content.bad.iter().map(|bad| bad.entry.to_string()).collect();
        assert_eq!(bad.len(), 2, "{bad:?}");
        assert!(bad[0].starts_with("x brokers.8: "), "{bad:?}");
        assert_eq!(bad[1], "x brokers.9: it is missing, but named by 500 topics, the first of which is t000");
        assert!(content.views.len() == 502 && content.views.values().all(|view| !view.is_empty()));
    }
}

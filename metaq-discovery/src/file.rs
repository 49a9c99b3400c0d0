//! Brokers that are named in a file.

mod read;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    Discovery, DiscoveryError, DiscoveryErrorKind, DiscoveryEvent, DiscoveryEvents, EventPublisher,
    MAX_PARTITIONS, TopicView, TopicWatch,
    notices::{Notice, Notices},
    publishers::Publishers,
    reports::{Bad, Reports},
    supervise::TaskSlot,
    view::ViewSource,
};

use read::{Content, Reader, Stamp};

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_millis(500);

/// Brokers that are named in a TOML or JSON file, which is read again when it changes.
///
/// ```toml
/// [brokers]
/// 0 = "meta://10.0.0.1:8123"
/// 1 = "meta://10.0.0.2:8123"
///
/// # How many partitions of the topic each broker has.
/// [topics.orders]
/// 0 = 4
/// 1 = 2
/// ```
///
/// A file whose name ends with `.json` is JSON of the same shape, any other TOML. It is looked at twice a second as long
/// as a topic is watched, and a change counts when it is there at two looks, so that it may be replaced in any way, also be
/// written in portions. While it is missing or malformed, the last views hold;
/// an entry that can't be used leaves the others working. Both are logged and told by [`events`](Discovery::events).
///
/// It has to be a regular file of 64 MiB at most.
#[derive(Clone, Debug)]
pub struct FileDiscovery {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    reader: Reader,
    events: EventPublisher,
    state: Mutex<State>,
    notices: Notices,
    /// The task that looks at the file.
    task: TaskSlot,
}

#[derive(Debug, Default)]
struct State {
    /// What the file held when that counted last, and how it looked.
    bytes: Option<Vec<u8>>,
    stamp: Option<Stamp>,
    /// Why that can't be used, if it can't.
    malformed: Option<String>,
    /// What it held at the last look, if that doesn't count yet.
    unsettled: Option<Vec<u8>>,
    views: BTreeMap<Topic, TopicView>,
    reports: Reports<()>,
    publishers: Publishers,
    /// Whether the file could be read the last time.
    readable: bool,
    closed: bool,
}

/// Whether what the file holds counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Yes,
    /// It has changed, and may be about to change further.
    NotYet,
}

/// The file, as far as its shape is right.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entries {
    brokers: BTreeMap<String, Value>,
    topics: BTreeMap<String, BTreeMap<String, Value>>,
}

impl FileDiscovery {
    /// A discovery that reads `path`, which is not opened before the first use.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let (reader, events) = (Reader::new(path.into()), EventPublisher::default());
        let (state, notices, task) = (Mutex::default(), Notices::default(), TaskSlot::default());
        Self { inner: Arc::new(Inner { reader, events, state, notices, task }) }
    }
}

#[async_trait]
impl Discovery for FileDiscovery {
    async fn watch(&self, topic: &Topic) -> Result<TopicWatch, DiscoveryError> {
        let inner = &self.inner;
        inner.settle().await?;
        let watch = {
            let mut state = inner.state.lock();
            if state.closed {
                return Err(DiscoveryError::closed());
            }
            let view = state.views.get(topic).cloned().unwrap_or_else(|| TopicView::new(topic.clone()));
            state.publishers.watch(view)
        };
        Arc::clone(inner).ensure_followed()?;
        Ok(watch.with_source(Arc::<Inner>::clone(inner)))
    }

    async fn topics(&self) -> Result<Vec<Topic>, DiscoveryError> {
        self.inner.settle().await?;
        Ok(self.inner.state.lock().views.keys().cloned().collect())
    }

    fn events(&self) -> DiscoveryEvents {
        self.inner.events.subscribe()
    }

    async fn close(&self) {
        let ended = {
            let mut state = self.inner.state.lock();
            state.closed = true;
            state.publishers.take_all()
        };
        self.inner.notices.push(Notice::End(ended, DiscoveryError::closed()));
        self.inner.notices.deliver(&self.inner.events);
        self.inner.events.close();
    }
}

impl ViewSource for Inner {
    fn ensure_followed(self: Arc<Self>) -> Result<watch::Receiver<bool>, DiscoveryError> {
        if self.state.lock().closed {
            return Err(DiscoveryError::closed());
        }
        let (followed, inner) = (Arc::clone(&self), Arc::clone(&self));
        let follow = move || Arc::clone(&followed).follow();
        self.task.ensure("file follower", follow, |_| {}, move || inner.is_needed())
    }
}

impl Inner {
    /// Looks at the file until what it holds counts.
    ///
    /// # Errors
    /// When it can't be read, or used.
    async fn settle(&self) -> Result<(), DiscoveryError> {
        loop {
            let known = {
                let state = self.state.lock();
                state.stamp.clone().filter(|_| state.unsettled.is_none())
            };
            if self.take_in(self.reader.read(known).await?)? == Settled::Yes {
                return Ok(());
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Looks at the file until nobody watches a topic any more.
    async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if !self.is_needed() {
                return;
            }
            if let Ok(read) = self.reader.read(None).await {
                // What is wrong has been told; the last views hold.
                let _ = self.take_in(read);
            }
        }
    }

    fn is_needed(&self) -> bool {
        let mut state = self.state.lock();
        !state.closed && !state.publishers.topics().is_empty()
    }

    /// Brings the views in line with what was read, and tells what is new.
    fn take_in(&self, read: io::Result<Content>) -> Result<Settled, DiscoveryError> {
        let result = self.take_in_locked(&mut self.state.lock(), read);
        self.notices.deliver(&self.events);
        result
    }

    /// Brings the views in line with what was read; what is to be told is queued.
    fn take_in_locked(
        &self,
        state: &mut State,
        read: io::Result<Content>,
    ) -> Result<Settled, DiscoveryError> {
        if state.closed {
            return Err(DiscoveryError::closed());
        }
        let path = self.reader.path().display();
        let content = match read {
            Ok(content) => content,
            Err(error) => {
                state.unsettled = None;
                if std::mem::take(&mut state.readable) {
                    let text =
                        format!("the file of brokers {path} can't be read; the last views hold: {error}");
                    self.notices.push(Notice::Warning(text));
                    self.notices.push(Notice::Event(DiscoveryEvent::Lost));
                }
                let text = format!("the file of brokers {path} can't be read");
                return Err(DiscoveryError::with_source(DiscoveryErrorKind::Unreachable, text, error));
            }
        };
        if !std::mem::replace(&mut state.readable, true) {
            self.notices.push(Notice::Event(DiscoveryEvent::Connected));
        }
        let malformed = |reason: &str| {
            let text = format!("the file of brokers {path} is malformed: {reason}");
            Err(DiscoveryError::new(DiscoveryErrorKind::Config, text))
        };
        match content {
            Content::Same => return state.malformed.as_deref().map_or(Ok(Settled::Yes), malformed),
            Content::Bytes(bytes, stamp) => {
                let is_new = state.bytes.as_ref() != Some(&bytes);
                // The first content counts at once: there is nothing better.
                let is_settled = !is_new || state.bytes.is_none() || state.unsettled.as_ref() == Some(&bytes);
                if !is_settled {
                    state.unsettled = Some(bytes);
                    return Ok(Settled::NotYet);
                }
                state.unsettled = None;
                state.stamp = Some(stamp);
                if is_new {
                    self.parse(state, &bytes);
                    state.bytes = Some(bytes);
                } else {
                    // Only the time of reading is new.
                    state.views.values_mut().for_each(TopicView::mark_read);
                }
            }
        }
        if let Some(reason) = &state.malformed {
            return malformed(reason);
        }
        for topic in state.publishers.topics() {
            let view = state.views.get(&topic).cloned().unwrap_or_else(|| TopicView::new(topic));
            self.notices.push(Notice::View(state.publishers.of(view.topic()), view));
        }
        Ok(Settled::Yes)
    }

    fn parse(&self, state: &mut State, bytes: &[u8]) {
        let path = self.reader.path();
        match parse(path, bytes) {
            Ok((views, bad)) => {
                (state.views, state.malformed) = (views, None);
                self.report(state, bad);
            }
            Err(reason) => {
                state.malformed = Some(reason.clone());
                self.report(state, vec![Bad::lasting(path.display().to_string(), reason)]);
            }
        }
    }

    fn report(&self, state: &mut State, bad: Vec<Bad>) {
        let new = state.reports.report((), bad);
        new.into_iter().for_each(|entry| self.notices.push(Notice::BadEntry(entry)));
    }
}

/// The views of all topics, and the entries that can't be used; or why the file as a whole can't be.
fn parse(path: &Path, bytes: &[u8]) -> Result<(BTreeMap<Topic, TopicView>, Vec<Bad>), String> {
    let text = str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let content: Entries = if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
    {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
            format!("{} at line {line}", error.message())
        })?
    };
    let mut bad = Vec::new();
    let mut report =
        |entry: String, reason: String| bad.push(Bad::lasting(format!("{} {entry}", path.display()), reason));
    let mut brokers = BTreeMap::new();
    for (id, addr) in &content.brokers {
        match broker(id, addr) {
            Ok((id, addr)) => {
                brokers.insert(id, addr);
            }
            Err(reason) => report(format!("brokers.{id}"), reason),
        }
    }
    let mut views = BTreeMap::new();
    for (name, counts) in &content.topics {
        let topic = match Topic::new(name) {
            Ok(topic) => topic,
            Err(error) => {
                report(format!("topics.{name}"), error.to_string());
                continue;
            }
        };
        let mut view = TopicView::new(topic.clone());
        for (id, count) in counts {
            let entry = parse_id(id).and_then(|id| {
                let addr = brokers.get(&id).ok_or_else(|| format!("brokers names no usable broker {id}"))?;
                Ok((id, addr.clone(), partitions(count)?))
            });
            match entry {
                Ok((id, addr, count)) => view = view.with_broker(id, addr, count),
                Err(reason) => report(format!("topics.{name}.{id}"), reason),
            }
        }
        views.insert(topic, view);
    }
    Ok((views, bad))
}

fn broker(id: &str, addr: &Value) -> Result<(BrokerId, BrokerAddr), String> {
    let id = parse_id(id)?;
    let addr =
        addr.as_str().ok_or_else(|| format!("{addr} is not an address such as \"meta://host:8123\""))?;
    Ok((id, addr.parse().map_err(|error: metaq_protocol::InvalidBrokerAddr| error.to_string())?))
}

fn parse_id(text: &str) -> Result<BrokerId, String> {
    let id = text.parse().ok().filter(|id| *id >= 0);
    id.map(BrokerId).ok_or_else(|| format!("{text:?} is not the id of a broker, a number from 0 on"))
}

fn partitions(count: &Value) -> Result<u32, String> {
    let number = count.as_u64().filter(|count| (1..=u64::from(MAX_PARTITIONS)).contains(count));
    number
        .map(|count| count as u32)
        .ok_or_else(|| format!("{count} is not a number of partitions from 1 to {MAX_PARTITIONS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[brokers]\n0 = \"meta://h:1\"\n1 = \"meta://[::1]:2\"\n[topics.a]\n0 = 2\n1 = 1\n[topics.b]\n1 = 1\n";

    fn texts(views: &BTreeMap<Topic, TopicView>) -> Vec<String> {
        let partitions =
            |view: &TopicView| view.partitions().iter().map(|p| format!(" {p}")).collect::<String>();
        views.values().map(|view| format!("{}{}", view.topic(), partitions(view))).collect()
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let (views, bad) = parse(Path::new("x.toml"), GOOD.as_bytes()).unwrap();
        assert!(bad.is_empty(), "{bad:?}");
        assert_eq!(texts(&views), ["a 0-0 0-1 1-0", "b 1-0"]);
        let json =
            r#"{"brokers":{"0":"meta://h:1","1":"meta://[::1]:2"},"topics":{"a":{"0":2,"1":1},"b":{"1":1}}}"#;
        assert_eq!(parse(Path::new("x.JSON"), json.as_bytes()).unwrap().0, views);
    }

    #[test]
    fn a_bad_entry_is_named_and_leaves_the_others_working() {
        for (line, path, reason) in [
            ("[brokers]\n9 = \"h:1\"", "x brokers.9", "meta://"),
            ("[brokers]\n9 = 7", "x brokers.9", "7 is not an address"),
            ("[brokers]\n-1 = \"meta://h:1\"", "x brokers.-1", "\"-1\" is not the id"),
            ("[topics.a]\n9 = 1", "x topics.a.9", "names no usable broker 9"),
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
            let (views, bad) = parse(Path::new("x"), lines.as_bytes()).unwrap();
            assert_eq!(texts(&views), ["a 1-0", "b 1-0"], "{line}");
            assert_eq!(bad.len(), 1, "{line}: {bad:?}");
            let entry = &bad[0].entry;
            assert!(entry.path == path && entry.reason.contains(reason), "{line}: {entry}");
        }
    }

    #[test]
    fn a_malformed_file_says_where() {
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

    /// A writer hasn't written all yet. Cut at the end of a line, TOML is as sound as the whole, and names fewer topics.
    #[test]
    fn what_is_seen_only_once_spoils_no_view() {
        let discovery = FileDiscovery::new("x.toml");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        std::fs::write(&path, "").unwrap();
        let look = |text: &str| {
            std::fs::write(&path, text).unwrap();
            discovery.inner.take_in(read::read_at_most(&path, None, 1000))
        };
        let seen = || texts(&discovery.inner.state.lock().views);
        let whole = ["a 0-0 0-1 1-0", "b 1-0"];
        assert_eq!(look(GOOD).unwrap(), Settled::Yes);
        assert_eq!(seen(), whole, "there was nothing better");
        let (portion, _) = GOOD.split_at(GOOD.find("[topics.b]").unwrap());
        for portion in [portion, "", "[brokers"] {
            assert_eq!(look(portion).unwrap(), Settled::NotYet);
            assert_eq!(look(GOOD).unwrap(), Settled::Yes);
            assert_eq!(seen(), whole);
        }
        let changed = GOOD.replace("1 = 1\n[topics.b]", "1 = 2\n[topics.b]");
        assert_eq!((look(portion).unwrap(), look(&changed).unwrap()), (Settled::NotYet, Settled::NotYet));
        assert_eq!(seen(), whole);
        assert_eq!(look(&changed).unwrap(), Settled::Yes);
        assert_eq!(seen(), ["a 0-0 0-1 1-0 1-1", "b 1-0"]);
        assert_eq!(look(portion).unwrap(), Settled::NotYet);
        assert_eq!(look(portion).unwrap(), Settled::Yes, "it is meant");
        assert_eq!(seen(), ["a 0-0 0-1 1-0"]);
        assert_eq!(look("[brokers").unwrap(), Settled::NotYet);
        assert!(look("[brokers").is_err());
        assert_eq!(seen(), ["a 0-0 0-1 1-0"], "the last views hold");
    }
}

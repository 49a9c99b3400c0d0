//! Brokers that are named in a file.

use std::{
    collections::BTreeMap,
    fs, io,
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
    supervise::{TaskSlot, runtime},
    view::ViewSource,
};

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
/// as a topic is watched, so that it may be replaced in any way. While it is missing or malformed, the last views hold;
/// an entry that can't be used leaves the others working. Both are logged and told by [`events`](Discovery::events).
#[derive(Clone, Debug)]
pub struct FileDiscovery {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    events: EventPublisher,
    state: Mutex<State>,
    notices: Notices,
    /// The task that looks at the file.
    task: TaskSlot,
}

#[derive(Debug, Default)]
struct State {
    /// What the file held when it was read and could be used.
    bytes: Option<Vec<u8>>,
    views: BTreeMap<Topic, TopicView>,
    reports: Reports<()>,
    publishers: Publishers,
    /// Whether the file could be read the last time.
    readable: bool,
    closed: bool,
}

/// The file, as far as its shape is right.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    brokers: BTreeMap<String, Value>,
    topics: BTreeMap<String, BTreeMap<String, Value>>,
}

impl FileDiscovery {
    /// A discovery that reads `path`, which is not opened before the first use.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let (path, events) = (path.into(), EventPublisher::default());
        let (state, notices, task) = (Mutex::default(), Notices::default(), TaskSlot::default());
        Self { inner: Arc::new(Inner { path, events, state, notices, task }) }
    }
}

#[async_trait]
impl Discovery for FileDiscovery {
    async fn watch(&self, topic: &Topic) -> Result<TopicWatch, DiscoveryError> {
        let inner = &self.inner;
        let bytes = inner.read().await?;
        let watch = inner.update(bytes, |state| {
            let view = state.views.get(topic).cloned().unwrap_or_else(|| TopicView::new(topic.clone()));
            state.publishers.watch(view)
        })?;
        Arc::clone(inner).ensure_followed()?;
        Ok(watch.with_source(Arc::<Inner>::clone(inner)))
    }

    async fn topics(&self) -> Result<Vec<Topic>, DiscoveryError> {
        let bytes = self.inner.read().await?;
        self.inner.update(bytes, |state| state.views.keys().cloned().collect())
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
    async fn read(&self) -> Result<io::Result<Vec<u8>>, DiscoveryError> {
        let (runtime, path) = (runtime()?, self.path.clone());
        let read = runtime.spawn_blocking(move || fs::read(path)).await;
        Ok(read.unwrap_or_else(|error| Err(io::Error::other(error))))
    }

    /// Looks at the file until nobody watches a topic any more.
    async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if !self.is_needed() {
                return;
            }
            if let Ok(bytes) = self.read().await {
                // What is wrong has been told; the last views hold.
                let _ = self.update(bytes, |_| {});
            }
        }
    }

    fn is_needed(&self) -> bool {
        let mut state = self.state.lock();
        !state.closed && !state.publishers.topics().is_empty()
    }

    /// Brings the views in line with what was read, uses them, and tells what is new.
    fn update<T>(
        &self,
        bytes: io::Result<Vec<u8>>,
        f: impl FnOnce(&mut State) -> T,
    ) -> Result<T, DiscoveryError> {
        let result = {
            let mut state = self.state.lock();
            self.take_in(&mut state, bytes).map(|()| f(&mut state))
        };
        self.notices.deliver(&self.events);
        result
    }

    /// Brings the views in line with what was read; what is to be told is queued.
    fn take_in(&self, state: &mut State, bytes: io::Result<Vec<u8>>) -> Result<(), DiscoveryError> {
        if state.closed {
            return Err(DiscoveryError::closed());
        }
        let path = self.path.display();
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => {
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
        let parsed =
            if state.bytes.as_deref() == Some(&bytes) { None } else { Some(parse(&self.path, &bytes)) };
        match parsed {
            Some(Ok((views, bad))) => {
                self.report(state, bad);
                state.views = views;
                state.bytes = Some(bytes);
            }
            Some(Err(reason)) => {
                state.bytes = None;
                let text = format!("the file of brokers {path} is malformed: {reason}");
                self.report(state, vec![Bad::lasting(path.to_string(), reason)]);
                return Err(DiscoveryError::new(DiscoveryErrorKind::Config, text));
            }
            // Only the time of reading is new.
            None => state.views.values_mut().for_each(TopicView::mark_read),
        }
        for topic in state.publishers.topics() {
            let view = state.views.get(&topic).cloned().unwrap_or_else(|| TopicView::new(topic));
            self.notices.push(Notice::View(state.publishers.of(view.topic()), view));
        }
        Ok(())
    }

    fn report(&self, state: &mut State, bad: Vec<Bad>) {
        let new = state.reports.report((), bad);
        new.into_iter().for_each(|entry| self.notices.push(Notice::BadEntry(entry)));
    }
}

/// The views of all topics, and the entries that can't be used; or why the file as a whole can't be.
fn parse(path: &Path, bytes: &[u8]) -> Result<(BTreeMap<Topic, TopicView>, Vec<Bad>), String> {
    let text = str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let content: Content = if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
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
}

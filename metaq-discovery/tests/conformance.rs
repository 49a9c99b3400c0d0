//! The conformance suite for the backends without a server; ZooKeeper and etcd have their own test files.
#![cfg(all(feature = "file", feature = "mock"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use metaq_discovery::{
    BadEntry, BrokerAddr, BrokerId, Discovery, DiscoveryErrorKind, DiscoveryEvent, FileDiscovery,
    MockDiscovery, TopicView,
};
use metaq_testkit::conformance::{RegistryUnderTest, check_discovery, topic};
use serde_json::json;
use tokio::time::timeout;

#[derive(Default)]
struct Mock {
    mock: MockDiscovery,
    brokers: Mutex<BTreeMap<BrokerId, (BrokerAddr, u32)>>,
}

impl Mock {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<BrokerId, (BrokerAddr, u32)>)) {
        let mut brokers = self.brokers.lock().unwrap();
        change(&mut brokers);
        let view = brokers.iter().fold(TopicView::new(topic()), |view, (id, (addr, partitions))| {
            view.with_broker(*id, addr.clone(), *partitions)
        });
        self.mock.set(view);
    }
}

#[async_trait]
impl RegistryUnderTest for Mock {
    fn discovery(&self) -> Arc<dyn Discovery> {
        // Closing the tested discovery must not close its successor.
        let brokers = self.brokers.lock().unwrap();
        if brokers.is_empty() {
            return Arc::new(self.mock.clone());
        }
        let view = brokers.iter().fold(TopicView::new(topic()), |view, (id, (addr, partitions))| {
            view.with_broker(*id, addr.clone(), *partitions)
        });
        let fresh = MockDiscovery::new();
        fresh.set(view);
        Arc::new(fresh)
    }

    async fn register(&self, broker: BrokerId, addr: BrokerAddr, partitions: u32) {
        self.change(|brokers| {
            brokers.insert(broker, (addr, partitions));
        });
    }

    async fn unregister(&self, broker: BrokerId) {
        self.change(|brokers| {
            brokers.remove(&broker);
        });
    }

    async fn corrupt(&self, broker: BrokerId) {
        self.unregister(broker).await;
        self.mock.send_event(DiscoveryEvent::BadEntry(BadEntry::new(format!("{broker}"), "spoiled")));
    }

    fn slow_down(&self, delay: Duration) {
        self.mock.set_delay(delay);
    }

    async fn disconnect(&self) {
        self.mock.set_away(true);
    }

    async fn reconnect(&self) {
        self.mock.set_away(false);
    }
}

/// A file that is written as a whole after each change, unless it is away.
struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
    state: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    /// The entries as they are written, usable or not.
    brokers: BTreeMap<BrokerId, (String, u32)>,
    away: bool,
}

impl File {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let file = Self { _folder: folder, path, state: Mutex::default() };
        file.change(|_| {});
        file
    }

    fn change(&self, change: impl FnOnce(&mut Content)) {
        let mut content = self.state.lock().unwrap();
        change(&mut content);
        if content.away {
            let _ = fs::remove_file(&self.path);
            return;
        }
        let text = if self.path.extension().unwrap() == "json" {
            let brokers: BTreeMap<_, _> =
                content.brokers.iter().map(|(id, (addr, _))| (id.to_string(), addr)).collect();
            let counts: BTreeMap<_, _> =
                content.brokers.iter().map(|(id, (_, count))| (id.to_string(), count)).collect();
            json!({ "brokers": brokers, "topics": { topic().as_str(): counts } }).to_string()
        } else {
            let mut text = "[brokers]\n".to_owned();
            content.brokers.iter().for_each(|(id, (addr, _))| text += &format!("{id} = \"{addr}\"\n"));
            text += &format!("[topics.{}]\n", topic());
            content.brokers.iter().for_each(|(id, (_, count))| text += &format!("{id} = {count}\n"));
            text
        };
        // Readers of a replaced file never see a part of it.
        let new = self.path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.path).unwrap();
    }
}

#[async_trait]
impl RegistryUnderTest for File {
    fn discovery(&self) -> Arc<dyn Discovery> {
        Arc::new(FileDiscovery::new(&self.path))
    }

    async fn register(&self, broker: BrokerId, addr: BrokerAddr, partitions: u32) {
        self.change(|content| {
            content.brokers.insert(broker, (addr.to_string(), partitions));
        });
    }

    async fn unregister(&self, broker: BrokerId) {
        self.change(|content| {
            content.brokers.remove(&broker);
        });
    }

    async fn corrupt(&self, broker: BrokerId) {
        self.change(|content| "nowhere".clone_into(&mut content.brokers.get_mut(&broker).unwrap().0));
    }

    async fn disconnect(&self) {
        self.change(|content| content.away = true);
    }

    async fn reconnect(&self) {
        self.change(|content| content.away = false);
    }
}

#[tokio::test]
async fn the_mock_passes_the_conformance_suite() {
    println!("the slowest change was seen after {:?}", check_discovery(&Mock::default()).await);
}

#[tokio::test]
async fn a_toml_file_passes_the_conformance_suite() {
    println!("the slowest change was seen after {:?}", check_discovery(&File::new("brokers.toml")).await);
}

#[tokio::test]
async fn a_json_file_passes_the_conformance_suite() {
    println!("the slowest change was seen after {:?}", check_discovery(&File::new("brokers.json")).await);
}

#[tokio::test]
async fn errors_name_a_missing_or_malformed_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("brokers.toml");
    // A file that is written in place could be read in between.
    let replace = |text: &str| {
        fs::write(folder.path().join("new"), text)
            .and_then(|()| fs::rename(folder.path().join("new"), &path))
            .unwrap();
    };
    let discovery = FileDiscovery::new(&path);
    let error = discovery.watch(&topic()).await.unwrap_err();
    assert_eq!(error.kind(), DiscoveryErrorKind::Unreachable);
    assert_eq!(error.to_string(), format!("the file of brokers {} can't be read", path.display()));
    let good = "[brokers]\n0 = \"meta://h:1\"\n[topics.conformance]\n0 = 1\n";
    replace(good);
    let mut events = discovery.events();
    let watch = discovery.watch(&topic()).await.unwrap();
    assert_eq!(events.next().await, Some(DiscoveryEvent::Connected));
    // While the file is malformed the view remains valid. The fault is reported once, and again when it
    // recurs.
    for _ in 0..2 {
        replace("[brokers]\n0 = ");
        let reported = timeout(Duration::from_secs(60), events.next()).await.unwrap();
        assert!(matches!(reported, Some(DiscoveryEvent::BadEntry(_))), "{reported:?}");
        let again = timeout(Duration::from_secs(2), events.next()).await;
        assert!(again.is_err(), "{again:?}");
        assert_eq!(watch.current().brokers().len(), 1);
        replace(good);
        assert!(discovery.watch(&topic()).await.is_ok());
    }
    replace("[brokers]\n0 = ");
    let error = discovery.watch(&topic()).await.unwrap_err();
    assert_eq!(error.kind(), DiscoveryErrorKind::Config);
    assert!(error.to_string().contains("malformed") && error.to_string().contains("line 2"), "{error}");
}

#[test]
fn a_pipe_blocks_neither_a_call_nor_the_runtimes_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("brokers.toml");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let started = std::time::Instant::now();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = runtime.block_on(FileDiscovery::new(&path).watch(&topic())).unwrap_err();
    assert_eq!(error.kind(), DiscoveryErrorKind::Unreachable);
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "it is not a regular file");
    drop(runtime);
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn thousands_of_topics_are_opened_quickly_from_a_file() {
    const TOPICS: usize = 2_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("brokers.toml");
    let mut text = "[brokers]\n0 = \"meta://h:1\"\n".to_owned();
    (0..TOPICS).for_each(|n| text += &format!("[topics.t{n}]\n0 = 1\n"));
    fs::write(&path, text).unwrap();
    let discovery = FileDiscovery::new(&path);
    let started = std::time::Instant::now();
    let mut watches = Vec::new();
    for n in 0..TOPICS {
        watches.push(discovery.watch(&metaq_discovery::Topic::new(&format!("t{n}")).unwrap()).await.unwrap());
    }
    let took = started.elapsed();
    println!("{TOPICS} topics were opened in {took:?}");
    assert!(watches.iter().all(|watch| watch.current().brokers().len() == 1));
    // Parsing the file for each takes minutes; a unit test counts that it is parsed once.
    assert!(took < Duration::from_secs(60), "{took:?}");
}

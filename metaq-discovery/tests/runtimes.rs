//! Discoveries that outlive their runtimes, that are used without a runtime, and whose callers' code panics
//! or calls back.
#![cfg(all(feature = "file", feature = "mock"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    future::Future,
    path::Path,
    sync::{Arc, mpsc},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_util::FutureExt as _;
use metaq_discovery::{
    BrokerId, Discovery, DiscoveryErrorKind, FileDiscovery, MockDiscovery, StaticDiscovery, Topic, TopicView,
    TopicWatch,
};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

const TIMEOUT: Duration = Duration::from_secs(20);

fn topic() -> Topic {
    Topic::new("t").unwrap()
}

fn view(partitions: u32) -> TopicView {
    TopicView::new(topic()).with_broker(BrokerId(0), "meta://h:1".parse().unwrap(), partitions)
}

/// Runtimes of both kinds.
fn runtimes() -> Vec<Runtime> {
    let mut builders =
        [Builder::new_current_thread(), Builder::new_multi_thread(), Builder::new_current_thread()];
    builders.iter_mut().map(|builder| builder.enable_all().build().unwrap()).collect()
}

fn write(path: &Path, partitions: u32) {
    let new = path.with_extension("new");
    fs::write(&new, format!("[brokers]\n0 = \"meta://h:1\"\n[topics.t]\n0 = {partitions}\n")).unwrap();
    fs::rename(new, path).unwrap();
}

async fn becomes(watch: &mut TopicWatch, partitions: usize) {
    let reached = async {
        while watch.current().partitions().len() != partitions {
            watch.changed().await.unwrap();
        }
    };
    timeout(TIMEOUT, reached).await.unwrap_or_else(|_| panic!("the view is {:?}", watch.current()));
}

#[test]
fn a_file_is_followed_over_three_runtimes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("brokers.toml");
    write(&path, 1);
    let discovery = FileDiscovery::new(&path);
    let mut watches = Vec::new();
    for (round, runtime) in (2..).zip(runtimes()) {
        runtime.block_on(async {
            // Watches from former runtimes first: nothing else has started the task then.
            write(&path, round);
            for watch in &mut watches {
                becomes(watch, round as usize).await;
            }
            let watch = discovery.watch(&topic()).await.unwrap();
            assert_eq!(watch.current().partitions().len(), round as usize);
            watches.push(watch);
        });
    }
}

#[test]
fn a_waiting_watch_survives_the_end_of_another_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("brokers.toml");
    write(&path, 1);
    let discovery = FileDiscovery::new(&path);
    let [first, second] = [(); 2].map(|()| Builder::new_multi_thread().enable_all().build().unwrap());
    // The file is followed on the first runtime, and awaited on the second.
    let mut watch = first.block_on(discovery.watch(&topic())).unwrap();
    let (begun, waits) = mpsc::channel();
    let waiting = second.spawn(async move {
        let changed = async {
            let mut changed = std::pin::pin!(watch.changed());
            assert!(changed.as_mut().now_or_never().is_none());
            begun.send(()).unwrap();
            changed.await.map(|view| view.partitions().len())
        };
        timeout(TIMEOUT, changed).await
    });
    waits.recv().unwrap();
    drop(first);
    write(&path, 3);
    assert_eq!(second.block_on(waiting).unwrap().unwrap().unwrap(), 3);
}

#[test]
fn static_and_mock_discoveries_need_no_runtime() {
    let known = StaticDiscovery::new([view(2)]);
    let mock = MockDiscovery::new();
    let mut watches: Vec<TopicWatch> = Vec::new();
    for (round, runtime) in (1..).zip(runtimes()) {
        runtime.block_on(async {
            assert_eq!(known.watch(&topic()).await.unwrap().current().partitions().len(), 2);
            watches.push(mock.watch(&topic()).await.unwrap());
            mock.set(view(round));
            for watch in &mut watches {
                becomes(watch, round as usize).await;
            }
        });
    }
    runtimes()[0].block_on(known.close());
    runtimes()[0].block_on(mock.close());
    for watch in &mut watches {
        // The last view may not have been returned yet.
        let error = loop {
            if let Err(error) = without_runtime(watch.changed()) {
                break error;
            }
        };
        assert_eq!(error.kind(), DiscoveryErrorKind::Closed);
    }
}

/// Polls outside of any runtime; the future must be ready immediately.
fn without_runtime<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("it doesn't wait for a runtime that isn't there")
}

#[test]
fn calls_without_a_runtime_return_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("brokers.toml");
    write(&path, 1);
    let mock = MockDiscovery::new();
    mock.set_delay(Duration::from_secs(1));
    let file = FileDiscovery::new(&path);
    let refusing: Vec<Arc<dyn Discovery>> = vec![
        Arc::new(file.clone()),
        Arc::new(mock),
        #[cfg(feature = "zookeeper")]
        Arc::new(metaq_discovery::ZooKeeperDiscovery::new("127.0.0.1:1").unwrap()),
        #[cfg(feature = "etcd")]
        Arc::new(metaq_discovery::EtcdDiscovery::new("127.0.0.1:1").unwrap()),
    ];
    for discovery in &refusing {
        for _ in 0..2 {
            let errors = [
                without_runtime(discovery.watch(&topic())).map(drop).unwrap_err(),
                without_runtime(discovery.topics()).map(drop).unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.kind(), DiscoveryErrorKind::NoRuntime, "{discovery:?}");
                assert!(error.to_string().contains("Tokio runtime"), "{error}");
            }
        }
    }
    // The error has no lasting effect.
    let watch = runtimes()[0].block_on(file.watch(&topic())).unwrap();
    assert_eq!(watch.current().partitions().len(), 1);
    // Its task has stopped with the runtime, and can't be started here.
    let error = without_runtime(watch.clone().changed()).unwrap_err();
    assert_eq!(error.kind(), DiscoveryErrorKind::NoRuntime);
    write(&path, 2);
    runtimes()[1].block_on(becomes(&mut watch.clone(), 2));
    for discovery in &refusing {
        without_runtime(discovery.close());
        let runtime = &runtimes()[0];
        let error = runtime.block_on(discovery.watch(&topic())).unwrap_err();
        // The mock's own delay comes first.
        assert_eq!(error.kind(), DiscoveryErrorKind::Closed, "{discovery:?}");
    }
    assert_eq!(without_runtime(watch.clone().changed()).unwrap().partitions().len(), 2, "published before");
}

/// A waker that calls a closure.
struct Calls<F: Fn() + Send + Sync>(F);

impl<F: Fn() + Send + Sync> Wake for Calls<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

/// Lets `watch` wait with a waker that runs `f`.
fn wait_with(watch: &mut TopicWatch, f: impl Fn() + Send + Sync + 'static, then: impl FnOnce()) {
    let waker = Waker::from(Arc::new(Calls(f)));
    let mut changed = std::pin::pin!(watch.changed());
    assert!(matches!(changed.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending));
    then();
}

#[test]
fn a_waker_may_call_the_discovery() {
    // On a separate thread: if a lock is held, the call never returns.
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let mock = MockDiscovery::new();
        let mut watch = without_runtime(mock.watch(&topic())).unwrap();
        let (inner, other) = (mock.clone(), mock.clone());
        let call_back = move || {
            inner.set(view(2));
            let _ = without_runtime(inner.topics());
        };
        wait_with(&mut watch, call_back, || mock.set(view(1)));
        assert_eq!(watch.current().partitions().len(), 2, "what is set later is published later");
        let mut watch = without_runtime(mock.watch(&topic())).unwrap();
        let close = move || {
            let _ = without_runtime(other.watch(&topic()));
        };
        wait_with(&mut watch, close, || without_runtime(mock.close()));

        let known = StaticDiscovery::new([view(1)]);
        let mut watch = without_runtime(known.watch(&topic())).unwrap();
        let inner = known.clone();
        let call_back = move || {
            let _ = without_runtime(inner.watch(&topic()));
        };
        wait_with(&mut watch, call_back, || without_runtime(known.close()));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("brokers.toml");
        write(&path, 1);
        let file = FileDiscovery::new(&path);
        runtimes()[0].block_on(async {
            let mut watch = file.watch(&topic()).await.unwrap();
            let mut second = file.watch(&topic()).await.unwrap();
            let inner = file.clone();
            let call_back = move || {
                without_runtime(inner.close());
            };
            let waker = Waker::from(Arc::new(Calls(call_back)));
            let mut changed = std::pin::pin!(watch.changed());
            assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            write(&path, 2);
            while second.changed().await.is_ok() {}
        });
        done.send(()).unwrap();
    });
    is_done.recv_timeout(TIMEOUT).expect("no lock is held while somebody is woken");
}

#[tokio::test]
async fn a_panic_does_not_stop_following_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("brokers.toml");
    write(&path, 1);
    let discovery = FileDiscovery::new(&path);
    let mut watch = discovery.watch(&topic()).await.unwrap();
    let mut panicking = discovery.watch(&topic()).await.unwrap();
    for partitions in 2..5 {
        let waker = Waker::from(Arc::new(Calls(|| panic!("a waker panics"))));
        let mut changed = Box::pin(panicking.changed());
        while changed.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            drop(changed);
            changed = Box::pin(panicking.changed());
        }
        write(&path, partitions);
        becomes(&mut watch, partitions as usize).await;
    }
}

#[test]
fn closing_a_static_discovery_contains_panicking_wakers() {
    let known = StaticDiscovery::new([view(1)]);
    let [mut panicking, mut other] = [(); 2].map(|()| without_runtime(known.watch(&topic())).unwrap());
    let waker = Waker::from(Arc::new(Calls(|| panic!("a waker panics"))));
    let mut changed = std::pin::pin!(panicking.changed());
    assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    without_runtime(known.close());
    assert_eq!(without_runtime(other.changed()).unwrap_err().kind(), DiscoveryErrorKind::Closed);
}

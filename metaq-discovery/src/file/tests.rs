//! Tests of the acceptance of contents.

use super::{
    parse::tests::{GOOD, texts},
    *,
};

/// A file, scanned at times that the test chooses.
struct Fixture {
    discovery: FileDiscovery,
    begun: Instant,
}

impl Fixture {
    fn new() -> Self {
        Self { discovery: FileDiscovery::new("x.toml"), begun: Instant::now() }
    }

    /// A scan `after` the one before, of a file that was written just before the scan.
    fn scan(&mut self, after: Duration, text: &str) -> ScanOutcome {
        self.scan_at(after, text, Duration::ZERO)
    }

    fn scan_at(&mut self, after: Duration, text: &str, quiet_for: Duration) -> ScanOutcome {
        self.begun += after;
        let content = parse::parse(&self.discovery.inner.path, text.as_bytes());
        self.discovery.inner.apply_scan(self.begun, Ok(ScanResult { content, quiet_for }))
    }

    fn views(&self) -> Vec<String> {
        texts(&self.discovery.inner.state.lock().content.views)
    }
}

const WHOLE: [&str; 2] = ["a 0-0 0-1 1-0", "b 1-0"];
const SOON: Duration = Duration::from_millis(1);

/// A writer has not finished yet. TOML that is cut at the end of a line is valid, and lists fewer topics.
#[test]
fn short_lived_content_changes_no_view() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.scan(SOON, GOOD).unwrap(), Settled::NotYet, "a writer may not have finished");
    assert_eq!(fixture.scan(INTERVAL, GOOD).unwrap(), Settled::Yes);
    assert_eq!(fixture.views(), WHOLE);
    let (portion, _) = GOOD.split_at(GOOD.find("[topics.b]").unwrap());
    for portion in [portion, "", "[brokers"] {
        assert_eq!(fixture.scan(INTERVAL, portion).unwrap(), Settled::NotYet);
        // The number of scans in between does not matter.
        for _ in 0..10 {
            assert_eq!(fixture.scan(INTERVAL / 11, portion).unwrap(), Settled::NotYet);
        }
        assert_eq!(fixture.scan(INTERVAL, GOOD).unwrap(), Settled::Yes);
        assert_eq!(fixture.views(), WHOLE);
    }
    let changed = GOOD.replace("1 = 1\n[topics.b]", "1 = 2\n[topics.b]");
    assert_eq!(fixture.scan(INTERVAL, portion).unwrap(), Settled::NotYet);
    assert_eq!(fixture.scan(INTERVAL, &changed).unwrap(), Settled::NotYet);
    assert_eq!(fixture.views(), WHOLE);
    // Scans in between do not delay the acceptance.
    assert_eq!(fixture.scan(INTERVAL / 2, &changed).unwrap(), Settled::NotYet);
    assert_eq!(fixture.scan(INTERVAL / 2, &changed).unwrap(), Settled::Yes);
    assert_eq!(fixture.views(), ["a 0-0 0-1 1-0 1-1", "b 1-0"]);
    assert_eq!(fixture.scan(INTERVAL, portion).unwrap(), Settled::NotYet);
    assert_eq!(fixture.scan(INTERVAL, portion).unwrap(), Settled::Yes, "it is meant");
    assert_eq!(fixture.views(), ["a 0-0 0-1 1-0"]);
    assert_eq!(fixture.scan(INTERVAL, "[brokers").unwrap(), Settled::NotYet);
    assert!(fixture.scan(INTERVAL, "[brokers").is_err());
    assert_eq!(fixture.views(), ["a 0-0 0-1 1-0"], "the last views hold");
}

#[test]
fn old_first_content_is_accepted_immediately() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.scan_at(SOON, GOOD, INTERVAL).unwrap(), Settled::Yes);
    // Any other content must stay the same: the file may have been replaced by an older one, and is being
    // replaced again.
    assert_eq!(fixture.scan_at(SOON, "[brokers]\n[topics]", INTERVAL).unwrap(), Settled::NotYet);
    assert_eq!(fixture.views(), WHOLE);
}

#[test]
fn changes_of_comments_do_not_delay_acceptance() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.scan(SOON, &format!("# 1\n{GOOD}")).unwrap(), Settled::NotYet);
    assert_eq!(fixture.scan(INTERVAL, &format!("# 2\n{GOOD}")).unwrap(), Settled::Yes);
    assert_eq!(fixture.scan(SOON, &format!("# 3\n{GOOD}")).unwrap(), Settled::Yes);
}

#[test]
fn the_age_of_views_is_that_of_the_last_scan() {
    let mut fixture = Fixture::new();
    fixture.scan_at(SOON, GOOD, INTERVAL).unwrap();
    let view = |name: &str| fixture.discovery.inner.state.lock().content.view(&Topic::new(name).unwrap());
    let views = [view("a"), view("not-there")];
    fixture.begun -= Duration::from_secs(60);
    fixture.scan(SOON, GOOD).unwrap();
    assert!(views.iter().all(|view| view.age() >= Duration::from_secs(50)));
    fixture.begun += Duration::from_secs(60);
    fixture.scan(SOON, GOOD).unwrap();
    assert!(views.iter().all(|view| view.age() < Duration::from_secs(50)));
}

/// A file system that hangs. No call waits longer than the limit, and later calls do not wait at all.
#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "that is what hangs")]
async fn a_hanging_read_times_out_once_and_is_applied_when_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    std::fs::write(&path, GOOD).unwrap();
    let discovery = FileDiscovery::new(path);
    assert_eq!(discovery.topics().await.unwrap().len(), 2);
    let mut events = discovery.events();
    let inner = Arc::clone(&discovery.inner);
    let hanging = inner.reading.lock();
    let started = std::time::Instant::now();
    let error = discovery.topics().await.unwrap_err();
    assert_eq!(error.kind(), DiscoveryErrorKind::Unreachable);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "it could not be read within 5s");
    assert!(started.elapsed() >= Duration::from_secs(5));
    let error = futures_util::FutureExt::now_or_never(discovery.topics()).unwrap().unwrap_err();
    assert_eq!(error.kind(), DiscoveryErrorKind::Unreachable, "the same read still hangs");
    assert_eq!(events.next().await, Some(DiscoveryEvent::Lost));
    drop(hanging);
    assert_eq!(events.next().await, Some(DiscoveryEvent::Connected));
    assert_eq!(discovery.topics().await.unwrap().len(), 2);
}

/// Replaces a file by one with `text`. Its modification time is ahead of ours, so that it never counts as
/// old.
fn replace(path: &std::path::Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    let ahead = std::time::SystemTime::now() + Duration::from_secs(3600);
    std::fs::File::options().write(true).open(&new).unwrap().set_modified(ahead).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// The content is never the same twice: the accepted content remains valid, and without one the call fails. A
/// scan begins only when the call is polled, hence after the next content was written.
#[tokio::test(start_paused = true)]
async fn a_call_fails_when_the_file_never_settles() {
    let folder = tempfile::tempdir().unwrap();
    for is_known in [true, false] {
        let path = folder.path().join("x.toml");
        replace(&path, GOOD);
        let (discovery, watched) = (FileDiscovery::new(&path), Topic::new("a").unwrap());
        if is_known {
            assert_eq!(discovery.topics().await.unwrap().len(), 2);
        }
        let (mut watching, mut port) = (discovery.watch(&watched), 1000);
        let watch = std::future::poll_fn(|context| {
            port += 1;
            replace(&path, &GOOD.replace("h:1", &format!("h:{port}")));
            watching.as_mut().poll(context)
        });
        match watch.await {
            Ok(watch) => assert_eq!((is_known, watch.current().brokers()[0].addr.port()), (true, 1)),
            Err(error) => {
                assert_eq!((is_known, error.kind()), (false, DiscoveryErrorKind::Failed));
                assert!(error.to_string().contains("different at each scan for 5s"), "{error}");
            }
        }
    }
}

#[test]
fn an_unsettled_file_is_reported_once() {
    let mut fixture = Fixture::new();
    fixture.scan_at(SOON, GOOD, INTERVAL).unwrap();
    for _ in 0..2 {
        for round in 1..40 {
            let text = GOOD.replace("h:1", &format!("h:{}", 1000 + round));
            assert_eq!(fixture.scan(INTERVAL, &text).unwrap(), Settled::NotYet);
            assert_eq!(
                fixture.discovery.inner.scan_state.lock().is_reported,
                INTERVAL * (round - 1) >= SETTLE_TIMEOUT
            );
        }
        assert_eq!(fixture.scan(INTERVAL, GOOD).unwrap(), Settled::Yes);
        assert!(!fixture.discovery.inner.scan_state.lock().is_reported);
    }
}

/// Each call scans the file, and parsing it each time would take minutes for a file of thousands of topics.
#[tokio::test]
async fn unchanged_content_is_parsed_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("brokers.toml");
    std::fs::write(&path, GOOD).unwrap();
    let discovery = FileDiscovery::new(&path);
    let first = discovery.watch(&Topic::new("a").unwrap()).await.unwrap();
    let content = || discovery.inner.last_read.lock().as_ref().unwrap().content.clone().unwrap();
    let parsed = content();
    let mut watches = vec![first];
    for n in 0..20 {
        // What is written again is read again.
        if n == 10 {
            std::fs::write(&path, GOOD).unwrap();
        }
        watches.push(discovery.watch(&Topic::new("b").unwrap()).await.unwrap());
        assert!(Arc::ptr_eq(&content(), &parsed));
    }
}

//! A client whose process is suspended for longer than its session lasts.

use std::{env, io::Write as _, process::Stdio, time::Duration};

use metaq_discovery::{Discovery, ZooKeeperConfig, ZooKeeperDiscovery};
use metaq_testkit::{
    conformance::text,
    peers::{Peers, ZooKeeper},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::{Instant, sleep, timeout},
};

use crate::registry::{Registry, TIMEOUT, topic};

/// The environment variable with the servers for the child.
const SERVERS: &str = "METAQ_TEST_FOLLOW";

const SESSION: Duration = Duration::from_secs(2);

/// The suspended process: it prints each event and each view until its standard input is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is the child of a_suspended_process_follows_again"]
async fn follow_as_a_child() {
    let servers = env::var(SERVERS).expect("it is started by its parent");
    let mut config = ZooKeeperConfig::default();
    config.session_timeout = SESSION;
    let discovery = ZooKeeperDiscovery::with_config(&servers, config).unwrap();
    let mut events = discovery.events();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    let show = |line: String| writeln!(std::io::stdout(), "\n{line}").unwrap();
    show(format!("view {}", text(&watch.current())));
    let follow = async {
        loop {
            tokio::select! {
                view = watch.changed() => show(format!("view {}", text(&view.unwrap()))),
                event = events.next() => show(format!("event {}", event.unwrap())),
            }
        }
    };
    let mut stdin = tokio::io::stdin();
    tokio::select! {
        () = follow => {}
        _ = stdin.read_u8() => {}
    }
}

/// This program, as a child process that follows a topic.
struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    shown: Vec<String>,
}

impl Follower {
    fn start(servers: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "frozen::follow_as_a_child", "--ignored", "--nocapture"]);
        command.env(SERVERS, servers).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, shown: Vec::new() }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap().try_into().unwrap()), signal).unwrap();
    }

    /// Reads on until this line.
    async fn shows(&mut self, wanted: &str) {
        let shown = timeout(TIMEOUT, async {
            while self.shown.last().is_none_or(|last| last != wanted) {
                let line = self.lines.next_line().await.unwrap().expect("the child goes on");
                self.shown.push(line.trim_end().to_owned());
            }
        });
        assert!(shown.await.is_ok(), "{wanted:?} is shown, after {:?}", self.shown);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_process_follows_again() {
    let Some(peers) = Peers::get("a_suspended_process_follows_again") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    registry.register(0, 1000, 1).await;
    let mut follower = Follower::start(&zookeeper.connect_string());
    follower.shows("view 0@1000:1").await;
    let mut sessions = zookeeper.sessions().await;
    sessions.retain(|id| *id != registry.client.session_id().0 && *id != 0);
    follower.signal(Signal::SIGSTOP);
    // Until the server has expired its session, with changes that no watch has reported.
    let frozen = Instant::now();
    while zookeeper.sessions().await.iter().any(|id| sessions.contains(id)) {
        assert!(frozen.elapsed() < TIMEOUT, "the session is still there");
        sleep(Duration::from_millis(20)).await;
    }
    let expired = frozen.elapsed();
    assert!(expired >= SESSION / 2, "{expired:?}");
    registry.register(1, 1001, 2).await;
    registry.address(0, "meta://127.0.0.1:2000").await;
    follower.signal(Signal::SIGCONT);
    let thawed = Instant::now();
    follower.shows("view 0@2000:1 1@1001:2").await;
    let took = thawed.elapsed();
    registry.unregister(0).await;
    follower.shows("view 1@1001:2").await;
    // Printed by another task of the child, before or after.
    let removed = "event view changed: t +0 -1 ~0";
    if !follower.shown.iter().any(|line| line == removed) {
        follower.shows(removed).await;
    }
    println!(
        "a process was frozen, its session expired after {expired:?}; it was right {took:?} after its thaw"
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
    let lines = |wanted: &dyn Fn(&str) -> bool| follower.shown.iter().filter(|line| wanted(line)).count();
    assert_eq!(lines(&|line| line == "view"), 0, "a view was empty: {:?}", follower.shown);
    // Nothing was removed before the end.
    let removing = lines(&|line| line.starts_with("event view changed") && !line.contains("-0"));
    assert_eq!(removing, 1, "{:?}", follower.shown);
}

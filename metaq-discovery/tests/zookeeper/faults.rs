//! Faults of the server and of the connection to it. No view may become empty, the view must be correct
//! within two seconds after the registry is back, and no task may remain.

use std::{ops::RangeInclusive, time::Duration};

use metaq_discovery::{Discovery, TopicWatch, ZooKeeperConfig, ZooKeeperDiscovery};
use metaq_testkit::{
    conformance::{Observer, Tasks, on_own_runtime, text},
    peers::{Peers, ZooKeeper, ZooKeeperEnsemble},
    proxy::{Direction, OnConnect, Plan, Proxy},
};
use tokio::time::{Instant, sleep, timeout};

use crate::registry::{Registry, TIMEOUT, becomes, topic};

/// A server, a proxy that can inject faults, and a topic with the broker 0 that is followed through the
/// proxy.
struct Fixture {
    zookeeper: ZooKeeper,
    proxy: Proxy,
    registry: Registry,
    discovery: ZooKeeperDiscovery,
    watch: TopicWatch,
    observer: Observer,
    tasks: Tasks,
}

impl Fixture {
    async fn open(peers: &Peers, config: ZooKeeperConfig) -> Self {
        let zookeeper = ZooKeeper::start(peers).await.unwrap();
        let registry = Registry::open(&zookeeper).await;
        registry.register(0, 1000, 1).await;
        let proxy = on_own_runtime(Proxy::start(zookeeper.connect_string())).await.unwrap();
        let tasks = Tasks::now();
        let discovery = ZooKeeperDiscovery::with_config(&proxy.addr().to_string(), config).unwrap();
        let watch = discovery.watch(&topic()).await.unwrap();
        let observer = Observer::new(&discovery, &watch);
        Self { zookeeper, proxy, registry, discovery, watch, observer, tasks }
    }

    /// Drops all data, and accepts no connections.
    async fn cut(&self) {
        self.proxy.on_connect(OnConnect::Refuse).await.unwrap();
        self.proxy.reset_all();
    }

    async fn mend(&self) {
        self.proxy.plan_both(Plan::new());
        self.proxy.on_connect(OnConnect::Forward).await.unwrap();
    }

    /// Another client with the same session id and password ends the session. The client under test is kept
    /// from connecting until then: a server that it reaches meanwhile may accept it and never respond.
    async fn expire(&self) {
        let registrys = self.registry.client.session_id().0;
        let mut sessions = self.zookeeper.sessions().await;
        sessions.retain(|id| *id != 0 && *id != registrys);
        assert_eq!(sessions.len(), 1, "{sessions:x?}");
        self.proxy.on_connect(OnConnect::Refuse).await.unwrap();
        self.zookeeper.end_session(sessions[0]).await.unwrap();
        self.proxy.on_connect(OnConnect::Forward).await.unwrap();
    }

    /// Checks that the topic is still followed, and that neither a watch on the server nor a task remains
    /// afterwards. `gone` is the number of brokers that have left.
    async fn close(mut self, gone: usize) {
        self.registry.register(7, 1007, 7).await;
        let seen = Instant::now();
        while text(&self.watch.current()).split(' ').all(|broker| broker != "7@1007:7") {
            assert!(seen.elapsed() < TIMEOUT, "it isn't followed any more: {}", text(&self.watch.current()));
            self.watch.changed().await.unwrap();
        }
        let brokers = self.watch.current().brokers().len();
        // The list of children, each child, and its broker's address. The address of a broker that has left
        // stays watched unless it was removed before the broker's child.
        let wanted = 1 + 2 * brokers;
        self.watches(wanted..=wanted + gone).await;
        self.observer.take_events();
        self.discovery.close().await;
        self.watches(0..=0).await;
        self.tasks.wait_until_none_left().await;
    }

    /// Waits until the server has a number of watches within `wanted`: a former session ends its own when its
    /// connection works again.
    async fn watches(&self, wanted: RangeInclusive<usize>) {
        let begun = Instant::now();
        loop {
            let watches = self.zookeeper.watches().await;
            if wanted.contains(&watches) {
                return;
            }
            assert!(begun.elapsed() < TIMEOUT, "there are {watches} watches instead of {wanted:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn config(session_timeout: Duration) -> ZooKeeperConfig {
    let mut config = ZooKeeperConfig::default();
    config.session_timeout = session_timeout;
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_followed_after_its_restart() {
    let Some(peers) = Peers::get("a_killed_server_is_followed_after_its_restart") else { return };
    let mut fixture = Fixture::open(&peers, config(Duration::from_secs(20))).await;
    fixture.zookeeper.kill().await.unwrap();
    fixture.observer.wait_for_event("lost").await;
    fixture.zookeeper.restart().await.unwrap();
    let (back, registry) = (Instant::now(), &fixture.registry);
    // On a separate connection, which doesn't have to recover.
    let other = Registry::open(&fixture.zookeeper).await;
    other.register(1, 1001, 1).await;
    let took = fixture.observer.wait_for_view("0@1000:1 1@1001:1", back).await;
    drop(other);
    println!("a change was seen {took:?} after the server was back");
    registry.unregister(0).await;
    fixture.observer.wait_for_view("1@1001:1", Instant::now()).await;
    registry.address(1, "meta://127.0.0.1:2001").await;
    fixture.observer.wait_for_view("1@2001:1", Instant::now()).await;
    fixture.close(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_during_a_ten_second_outage_are_found() {
    let Some(peers) = Peers::get("changes_during_a_ten_second_outage_are_found") else { return };
    // The session survives the first outage, but not the second.
    let outages = [Duration::from_secs(15), Duration::from_secs(3)].map(async |session_timeout| {
        let mut fixture = Fixture::open(&peers, config(session_timeout)).await;
        fixture.cut().await;
        fixture.registry.register(1, 1001, 2).await;
        fixture.registry.address(0, "meta://127.0.0.1:2000").await;
        for port in 3001..3010 {
            fixture.registry.unregister(1).await;
            fixture.registry.register(1, port, 2).await;
        }
        fixture.registry.register(2, 1002, 1).await;
        fixture.observer.wait_for_event("lost").await;
        sleep(Duration::from_secs(10)).await;
        assert_eq!(text(&fixture.watch.current()), "0@1000:1", "the view holds");
        assert!(fixture.watch.current().age() >= Duration::from_secs(10), "it says how old it is");
        let reported = fixture.observer.take_events();
        assert_eq!(
            reported.contains(&"expired".to_owned()),
            session_timeout < Duration::from_secs(10),
            "{reported:?}"
        );
        fixture.mend().await;
        let took = fixture.observer.wait_for_view("0@2000:1 1@3009:2 2@1002:1", Instant::now()).await;
        println!("all changes were seen {took:?} after 10 s without, session timeout {session_timeout:?}");
        assert!(fixture.watch.current().age() < Duration::from_secs(2));
        fixture.close(0).await;
    });
    futures_util::future::join_all(outages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_session_is_replaced_and_never_empties_a_view() {
    let Some(peers) = Peers::get("an_expired_session_is_replaced_and_never_empties_a_view") else { return };
    let mut fixture = Fixture::open(&peers, config(Duration::from_secs(20))).await;
    for round in 1..=5 {
        fixture.expire().await;
        let ended = Instant::now();
        fixture.registry.register(round, 1000, 1).await;
        let all: Vec<_> = (0..=round).map(|id| format!("{id}@1000:1")).collect();
        let took = fixture.observer.wait_for_view(&all.join(" "), ended).await;
        println!("a change was seen {took:?} after the session was ended by another client");
    }
    fixture.close(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_an_expired_session_are_in_order() {
    let Some(peers) = Peers::get("events_of_an_expired_session_are_in_order") else { return };
    let mut fixture = Fixture::open(&peers, config(Duration::from_secs(20))).await;
    fixture.expire().await;
    fixture.observer.wait_for_event("connected").await;
    fixture.registry.register(1, 1001, 2).await;
    fixture.observer.wait_for_view("0@1000:1 1@1001:2", Instant::now()).await;
    let reported = fixture.observer.take_events();
    assert_eq!(reported, ["lost", "expired", "connected", "view changed: t +1 -0 ~0"]);
    fixture.close(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_is_detected_and_left() {
    let Some(peers) = Peers::get("a_black_hole_is_detected_and_left") else { return };
    // Data sent into the outage is delivered late, as after a retransmission, or lost; the session survives
    // or expires.
    let held = config(Duration::from_secs(30));
    let mut lost = config(Duration::from_secs(30));
    lost.silence_timeout = Duration::from_secs(1);
    let mut expired = config(Duration::from_secs(4));
    expired.silence_timeout = Duration::from_secs(1);
    let holes = [
        ("holds bytes back", held, Plan::new().freeze()),
        ("swallows bytes", lost, Plan::new().swallow()),
        ("swallows bytes until the session has expired", expired, Plan::new().swallow()),
    ];
    let holes = holes.map(async |(which, config, plan)| {
        let silence = config.silence_timeout;
        let expires = config.session_timeout < Duration::from_secs(10);
        let mut fixture = Fixture::open(&peers, config).await;
        fixture.proxy.plan_both(plan);
        fixture.registry.register(1, 1001, 1).await;
        let noticed = fixture.observer.wait_for_event("lost").await;
        assert!(noticed < silence + Duration::from_secs(1), "noticed after {noticed:?}");
        if expires {
            fixture.observer.wait_for_event("expired").await;
        }
        assert_eq!(text(&fixture.watch.current()), "0@1000:1", "the view holds");
        fixture.mend().await;
        let took = fixture.observer.wait_for_view("0@1000:1 1@1001:1", Instant::now()).await;
        println!("a black hole that {which} was noticed after {noticed:?}, over it {took:?} after its end");
        fixture.close(0).await;
    });
    futures_util::future::join_all(holes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_does_not_answer_calls_is_left() {
    let Some(peers) = Peers::get("a_server_that_does_not_answer_calls_is_left") else { return };
    let mut config = config(Duration::from_secs(30));
    // The connection itself would count as lost only after the longer limit.
    (config.call_timeout, config.silence_timeout) = (Duration::from_millis(500), Duration::from_secs(15));
    config.reread_interval = Duration::from_millis(100);
    let mut fixture = Fixture::open(&peers, config).await;
    for round in 1..=3 {
        fixture.proxy.plan(Direction::ToClient, Plan::new().freeze());
        let noticed = fixture.observer.wait_for_event("lost").await;
        assert!(noticed < Duration::from_secs(3), "noticed after {noticed:?}");
        assert!(!fixture.watch.current().is_empty(), "the view holds");
        fixture.registry.register(1, 1000 + round, 1).await;
        fixture.mend().await;
        let took =
            fixture.observer.wait_for_view(&format!("0@1000:1 1@{}:1", 1000 + round), Instant::now()).await;
        println!("a server that owed answers was left after {noticed:?}, a change seen {took:?} after that");
    }
    fixture.discovery.close().await;
    fixture.watches(0..=0).await;
    fixture.tasks.wait_until_none_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_accepts_but_never_answers_is_retried() {
    let Some(peers) = Peers::get("a_server_that_accepts_but_never_answers_is_retried") else {
        return;
    };
    // Like a starting server, which never responds to clients that connected too early.
    let mut fixture = Fixture::open(&peers, config(Duration::from_secs(30))).await;
    fixture.cut().await;
    fixture.registry.register(1, 1001, 1).await;
    fixture.observer.wait_for_event("lost").await;
    let before = fixture.proxy.accepted();
    fixture.proxy.on_connect(OnConnect::Ignore).await.unwrap();
    // The client in use, and its replacement.
    let came_early = async {
        while fixture.proxy.accepted() < before + 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(TIMEOUT, came_early).await.expect("they try to connect");
    fixture.mend().await;
    let took = fixture.observer.wait_for_view("0@1000:1 1@1001:1", Instant::now()).await;
    println!("all changes were seen {took:?} after the server answered");
    fixture.proxy.reset_all();
    fixture.observer.wait_for_event("lost").await;
    fixture.close(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_without_a_registry_leaves_nothing_behind() {
    let Some(peers) = Peers::get("closing_without_a_registry_leaves_nothing_behind") else { return };
    let fixture = Fixture::open(&peers, config(Duration::from_secs(2))).await;
    fixture.cut().await;
    let closed = Instant::now();
    timeout(Duration::from_millis(100), fixture.discovery.close())
        .await
        .expect("it doesn't wait for anybody");
    drop((fixture.watch, fixture.discovery));
    // The client library tries to close the session until it must have expired.
    fixture.tasks.wait_until_none_left().await;
    assert!(closed.elapsed() < Duration::from_secs(4), "{:?}", closed.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_detected_and_followed_again() {
    let Some(peers) = Peers::get("a_silent_server_is_detected_and_followed_again") else { return };
    let mut fixture = Fixture::open(&peers, config(Duration::from_secs(3))).await;
    fixture.zookeeper.freeze();
    let noticed = fixture.observer.wait_for_event("lost").await;
    // Longer than the session timeout: the session is abandoned while nothing responds.
    fixture.observer.wait_for_event("expired").await;
    assert_eq!(text(&fixture.watch.current()), "0@1000:1", "the view holds");
    fixture.zookeeper.thaw();
    let thawed = Instant::now();
    fixture.registry = Registry::open(&fixture.zookeeper).await;
    fixture.registry.register(1, 1001, 1).await;
    let seen = fixture.observer.wait_for_view("0@1000:1 1@1001:1", thawed).await;
    println!("noticed after {noticed:?}, a change seen {seen:?} after the thaw");
    fixture.close(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeatedly_broken_connections_leave_nothing_behind() {
    let Some(peers) = Peers::get("repeatedly_broken_connections_leave_nothing_behind") else { return };
    let mut fixture = Fixture::open(&peers, config(Duration::from_secs(20))).await;
    for round in 1..=15 {
        fixture.proxy.reset_all();
        fixture.registry.register(0, 1000 + round, 1).await;
        let wanted = format!("0@{}:1", 1000 + round);
        fixture.observer.wait_for_view(&wanted, Instant::now()).await;
    }
    fixture.close(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ensemble_without_its_leader_is_still_followed() {
    let Some(peers) = Peers::get("an_ensemble_without_its_leader_is_still_followed") else { return };
    let mut ensemble = ZooKeeperEnsemble::start(&peers, 3).await.unwrap();
    let servers = ensemble.connect_string();
    let registry = Registry::open_at(&servers, topic()).await;
    registry.register(0, 1000, 1).await;
    let tasks = Tasks::now();
    let discovery = ZooKeeperDiscovery::new(&servers).unwrap();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    // The writer's server may not have propagated the change to the reader's server yet.
    becomes(&mut watch, "0@1000:1").await;
    let mut observer = Observer::new(&discovery, &watch);
    ensemble.leader().await.expect("there is a leader").kill().await.unwrap();
    let killed = Instant::now();
    let election = async {
        while ensemble.leader().await.is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(TIMEOUT, election).await.expect("another leader is elected");
    let (elected, quorum) = (killed.elapsed(), Instant::now());
    registry.register(1, 1001, 1).await;
    let seen = observer.wait_for_view("0@1000:1 1@1001:1", quorum).await;
    println!("another leader after {elected:?}, a change seen {seen:?} after that");
    discovery.close().await;
    tasks.wait_until_none_left().await;
}

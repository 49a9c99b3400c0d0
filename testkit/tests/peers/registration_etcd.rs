//! The embedded broker registers in etcd, and leaves the entries of other brokers alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    time::{Duration, Instant},
};

use etcd_client::{Client, GetOptions, PutOptions, Txn, TxnOp};
use metaq_testkit::{
    Broker, BrokerBuilder, Registry,
    peers::{Etcd, EtcdProgram},
};
use tokio::time::sleep;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The session timeout of the brokers: long enough for a live one on a slow machine.
const SESSION: Duration = Duration::from_secs(4);

const MASTER: &str = "/meta/brokers/ids/7/master";
const CHECKSUM: &str = "/meta/brokers/ids/7/master_config_checksum";
const BROKER: &str = "/meta/brokers/ids/7";
const TOPIC: &str = "/meta/brokers/topics/t/7-m";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// 0 for a permanent entry.
    lease: i64,
    created: i64,
    changed: i64,
    text: String,
}

type Tree = BTreeMap<String, Entry>;

async fn tree(client: &Client) -> Tree {
    let answer = client.clone().get("/meta/", Some(GetOptions::new().with_prefix())).await.unwrap();
    let entries = answer.kvs().iter().map(|pair| {
        let entry = Entry {
            lease: pair.lease(),
            created: pair.create_revision(),
            changed: pair.mod_revision(),
            text: pair.value_str().unwrap().to_owned(),
        };
        (pair.key_str().unwrap().to_owned(), entry)
    });
    entries.collect()
}

async fn await_tree(client: &Client, what: &str, holds: impl Fn(&Tree) -> bool) -> Tree {
    let started = Instant::now();
    loop {
        let tree = tree(client).await;
        if holds(&tree) {
            return tree;
        }
        assert!(started.elapsed() < TIMEOUT, "{what}: {tree:#?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the leases of all entries that have one.
fn leases(tree: &Tree) -> BTreeSet<i64> {
    tree.values().map(|entry| entry.lease).filter(|lease| *lease != 0).collect()
}

fn text<'a>(tree: &'a Tree, path: &str) -> Option<&'a str> {
    tree.get(path).map(|entry| entry.text.as_str())
}

async fn start_etcd(test: &str) -> Option<(Etcd, Client)> {
    let program = EtcdProgram::get(test)?;
    let etcd = Etcd::start(&program).await.unwrap();
    let client = Client::connect([etcd.endpoint()], None).await.unwrap();
    Some((etcd, client))
}

/// Returns a builder of a broker with the id 7 and a topic.
fn broker(etcd: &Etcd) -> BrokerBuilder {
    broker_with(etcd, SESSION)
}

fn broker_with(etcd: &Etcd, session: Duration) -> BrokerBuilder {
    let registry = Registry::etcd(&etcd.endpoint()).session_timeout(session);
    Broker::builder().id(7).topic("t", 2).register_in(registry)
}

#[tokio::test]
async fn entries_in_etcd_match_those_in_zookeeper() {
    let Some((mut etcd, client)) = start_etcd("entries_in_etcd_match_those_in_zookeeper").await else {
        return;
    };
    // Long enough for a restart of etcd.
    let session = Duration::from_secs(5);
    let started = broker_with(&etcd, session).start().await.unwrap();
    let addr = started.addr().to_string();
    let json = r#"{"broker":"7-m","numParts":2}"#;
    let expected: BTreeMap<_, _> = [
        (BROKER, (false, addr.as_str())),
        (MASTER, (true, &addr)),
        ("/meta/brokers/topics-pub/t/7-m", (true, json)),
        ("/meta/brokers/topics-sub/t/7-m", (true, json)),
        (TOPIC, (true, "2")),
    ]
    .into();
    let mut found = tree(&client).await;
    let checksum = found.remove(CHECKSUM).unwrap();
    let kinds = |tree: &Tree| -> BTreeMap<String, (bool, String)> {
        tree.iter().map(|(path, e)| (path.clone(), (e.lease != 0, e.text.clone()))).collect()
    };
    let owned = |tree: &BTreeMap<&str, (bool, &str)>| -> BTreeMap<String, (bool, String)> {
        tree.iter().map(|(path, (lease, text))| ((*path).to_owned(), (*lease, (*text).to_owned()))).collect()
    };
    assert_eq!(kinds(&found), owned(&expected));

    // The lease is kept, and a change is registered.
    let first = leases(&found);
    sleep(session * 3 / 2).await;
    started.set_topic("t", 5);
    let changed = |tree: &Tree| {
        text(tree, TOPIC) == Some("5") && tree.get(CHECKSUM).is_some_and(|entry| entry.text != checksum.text)
    };
    let before = await_tree(&client, "the change", changed).await;
    assert_eq!(leases(&before), first);

    // etcd restarts: the broker registers again, and is never missing meanwhile.
    etcd.kill().await.unwrap();
    etcd.restart().await.unwrap();
    let client = Client::connect([etcd.endpoint()], None).await.unwrap();
    let renewed = |tree: &Tree| leases(tree).is_disjoint(&first) && tree.len() == before.len();
    let after = await_tree(&client, "a new lease", renewed).await;
    for (path, entry) in &before {
        assert_eq!(after[path].created, entry.created, "{path} was missing");
        assert_eq!(after[path].text, entry.text, "{path}");
    }
    sleep(session * 3 / 2).await;
    assert_eq!(tree(&client).await, after, "the new lease is kept");

    // Shut down: all its entries are removed immediately.
    started.shut_down().await.unwrap();
    assert_eq!(tree(&client).await, Tree::new());
}

#[tokio::test]
async fn a_live_id_is_refused_without_any_change() {
    let Some((etcd, client)) = start_etcd("a_live_id_is_refused_without_any_change").await else {
        return;
    };
    let first = broker(&etcd).start().await.unwrap();
    let before = tree(&client).await;
    let error = broker(&etcd).topic("other", 1).start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let error = error.to_string();
    for part in ["broker 7 ", &etcd.endpoint(), MASTER, &first.addr().to_string(), "another id"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert_eq!(tree(&client).await, before);

    // The first broker is not affected, and can still leave.
    first.set_topic("t", 3);
    await_tree(&client, "the change", |tree| text(tree, TOPIC) == Some("3")).await;
    first.shut_down().await.unwrap();
    assert_eq!(tree(&client).await, Tree::new());
}

#[tokio::test]
async fn a_restarted_broker_waits_for_the_lease_of_the_killed_one() {
    let Some((etcd, client)) = start_etcd("a_killed_broker_that_is_started_again_waits").await else {
        return;
    };
    let first = broker(&etcd).start().await.unwrap();
    let before = tree(&client).await;
    let killed = first.kill().await;
    let started = Instant::now();
    let second = killed.start().await.unwrap();
    let took = started.elapsed();
    println!("registered {took:?} after the kill");
    assert!(took < SESSION + Duration::from_secs(4), "{took:?}");
    let after = tree(&client).await;
    assert!(after.keys().eq(before.keys()), "{after:#?}");
    assert_eq!(leases(&after).len(), 1, "{after:#?}");
    assert!(leases(&after).is_disjoint(&leases(&before)), "the former lease was waited for: {after:#?}");
    assert!(after[MASTER].created > before[MASTER].changed);
    assert_eq!(text(&after, MASTER), Some(&*second.addr().to_string()));

    sleep(2 * SESSION).await;
    assert_eq!(tree(&client).await, after, "they are the second broker's, which lives");
}

#[tokio::test]
async fn unregistering_keeps_the_entries_of_another_broker() {
    let Some((etcd, client)) = start_etcd("a_withdrawal_leaves_what_another_has").await else { return };
    let first = broker(&etcd).start().await.unwrap();
    // As if the first broker had been stopped beyond the end of its lease.
    let lease = client.clone().lease_grant(60, None).await.unwrap().id();
    let puts = tree(&client).await.into_iter().map(|(path, entry)| {
        let options = (entry.lease != 0).then(|| PutOptions::new().with_lease(lease));
        TxnOp::put(path, "another's", options)
    });
    client.clone().txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
    let others = tree(&client).await;
    assert_eq!(leases(&others), [lease].into());
    first.shut_down().await.unwrap();
    assert_eq!(tree(&client).await, others);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exactly_one_of_four_simultaneous_starts_registers_an_id() {
    let Some((etcd, client)) = start_etcd("of_four_that_start_at_once").await else { return };
    let starts: Vec<_> = (0..4).map(|_| tokio::spawn(broker(&etcd).start())).collect();
    let (mut started, mut refused) = (Vec::new(), Vec::new());
    for start in starts {
        match start.await.unwrap() {
            Ok(broker) => started.push(broker),
            Err(error) => refused.push(error),
        }
    }
    assert_eq!((started.len(), refused.len()), (1, 3), "{refused:?}");
    assert!(refused.iter().all(|error| error.kind() == ErrorKind::AlreadyExists), "{refused:?}");
    let tree = tree(&client).await;
    let addr = started[0].addr().to_string();
    assert_eq!((text(&tree, MASTER), text(&tree, BROKER)), (Some(&*addr), Some(&*addr)));
    assert_eq!((leases(&tree).len(), tree.len()), (1, 6), "{tree:#?}");
}

#[tokio::test]
async fn a_permanent_entry_is_named_and_nothing_else_is_left() {
    let Some((etcd, client)) = start_etcd("an_entry_that_never_expires_is_named").await else { return };
    client.clone().put(TOPIC, "by hand", None).await.unwrap();
    let before = tree(&client).await;
    let started = Instant::now();
    let error = broker(&etcd).start().await.unwrap_err();
    assert!(started.elapsed() < SESSION, "{:?}", started.elapsed());
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let error = error.to_string();
    assert!(error.contains(TOPIC) && error.contains("by hand") && error.contains("delete it"), "{error}");
    assert_eq!(tree(&client).await, before);
}

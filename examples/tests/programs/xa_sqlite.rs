//! The example `xa_sqlite` with faults: with embedded brokers, and with a real Java broker that is killed as
//! well.

use std::{process::Stdio, time::Duration};

use metaq_producer::{BrokerAddr, Producer, xa::XaProducer};
use metaq_protocol::TransactionAction;
use metaq_testkit::{
    Broker, Fault, Heuristic, Requests,
    peers::{JavaBroker, Peers, ZooKeeper},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::Instant,
};

use crate::program;

/// Runs the example to its end, and returns its output.
async fn run(args: &[&str]) -> String {
    let output = example().args(args).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Prepares the example as a program.
fn example() -> Command {
    let mut command = Command::new(program::path("xa_sqlite"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The steps of a sale.
const STEPS: [&str; 6] = ["begun", "sent", "ended", "prepared", "decided", "committed"];

/// A database, and a broker's address.
struct Shop {
    _folder: TempDir,
    database: String,
    broker: String,
}

impl Shop {
    fn new(broker: &BrokerAddr) -> Self {
        let folder = TempDir::new().unwrap();
        let database = folder.path().join("shop.db").display().to_string();
        Self { _folder: folder, database, broker: broker.to_string() }
    }

    /// Sells, and kills the seller at a step if it gets there. Returns true if it succeeded.
    async fn sell(&self, order: &str, killed_when: &str) -> bool {
        let mut command = example();
        let mut child =
            command.args(["sell", &self.database, &self.broker, order, killed_when]).spawn().unwrap();
        let mut steps = BufReader::new(child.stdout.take().unwrap()).lines();
        while let Some(line) = steps.next_line().await.unwrap() {
            if line == killed_when {
                child.kill().await.unwrap();
            }
        }
        child.wait().await.unwrap().success()
    }

    /// Recovers until nothing is left, and returns all output.
    async fn recover(&self) -> String {
        let started = Instant::now();
        let mut said = String::new();
        loop {
            let text = run(&["recover", &self.database, &self.broker]).await;
            said.push_str(&text);
            if text.ends_with("nothing is left\n") {
                return said;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{said}");
        }
    }

    async fn orders(&self) -> Vec<String> {
        let text = run(&["orders", &self.database, &self.broker]).await;
        text.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
    }
}

fn announced(broker: &Broker) -> Vec<String> {
    let stored = broker.messages("orders").into_iter();
    let mut announced: Vec<_> =
        stored.map(|stored| String::from_utf8(stored.payload.to_vec()).unwrap()).collect();
    announced.sort_unstable();
    announced
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn database_and_broker_agree_whichever_answer_is_lost() {
    let broker = Broker::builder().topic("orders", 2).start().await.unwrap();
    let shop = Shop::new(broker.addr());
    // The answer is lost with the connection, after the request was carried out or before it; and also if
    // rollbacks fail.
    let lost = [Fault::Cut(3), Fault::Close];
    let requests = [
        Requests::transactions(Some(TransactionAction::Recover)),
        Requests::transactions(Some(TransactionAction::Begin)),
        Requests::puts(),
        Requests::transactions(Some(TransactionAction::Prepare)),
        Requests::transactions(Some(TransactionAction::CommitTwoPhase)),
    ];
    for (n, request) in requests.iter().enumerate() {
        for (k, fault) in lost.iter().enumerate() {
            let order = format!("order {n} {k}");
            broker.faults().plan(request.clone().first(1), fault.clone());
            let rollbacks = Requests::transactions(Some(TransactionAction::Rollback)).first(k as u64);
            broker.faults().plan(rollbacks, Fault::Close);
            shop.sell(&order, "").await;
            broker.faults().heal();
            // Immediately, before any recovery.
            assert!(shop.sell(&order, "").await, "{order}");
            let said = shop.recover().await;
            assert_eq!(shop.orders().await, announced(&broker), "{order}: {said}");
        }
    }
    // Answers to the recovery's own requests are lost, too.
    for (n, action) in
        [TransactionAction::CommitTwoPhase, TransactionAction::Rollback].into_iter().enumerate()
    {
        for (k, fault) in lost.iter().enumerate() {
            for step in ["prepared", "decided"] {
                shop.sell(&format!("{step} {n} {k}"), step).await;
            }
            broker.faults().plan(Requests::transactions(Some(action)).first(1), fault.clone());
            let said = shop.recover().await;
            broker.faults().heal();
            assert_eq!(shop.orders().await, announced(&broker), "{action:?} {fault:?}: {said}");
        }
    }
    assert_eq!(announced(&broker).len(), 2 * requests.len() + 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failed_rollback_is_left_for_the_next_recovery() {
    let broker = Broker::builder().topic("orders", 1).start().await.unwrap();
    let shop = Shop::new(broker.addr());
    assert!(!shop.sell("a cup", "prepared").await);
    let rollbacks = Requests::transactions(Some(TransactionAction::Rollback));
    let lost = broker.faults().plan(rollbacks, Fault::Ignore);
    let text = run(&["recover", &shop.database, &shop.broker]).await;
    assert!(text.contains("try again later") && text.ends_with("something is left\n"), "{text}");
    lost.cancel();
    shop.recover().await;
    assert!(shop.orders().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn decisions_of_an_operator_do_not_stop_recovery() {
    let broker = Broker::builder().topic("orders", 1).start().await.unwrap();
    let shop = Shop::new(broker.addr());
    for step in ["prepared", "decided"] {
        for n in 0..4 {
            shop.sell(&format!("{step} {n}"), step).await;
        }
    }
    let producer = Producer::builder().broker(broker.addr().clone()).build().unwrap();
    let xa = XaProducer::new(&producer, "example-shop-1".parse().unwrap());
    xa.publish_topic(&"orders".parse().unwrap()).await.unwrap();
    let found = xa.recover().await.transactions;
    assert_eq!(found.len(), 8);
    for found in found {
        let order = String::from_utf8(found.xid.gtrid()).unwrap();
        let decision = match order.chars().last() {
            Some('0') => Heuristic::Committed,
            Some('1') => Heuristic::RolledBack,
            Some('2') => Heuristic::Completed,
            _ => continue,
        };
        assert!(broker.decide(&found.xid, decision).unwrap());
    }
    let said = run(&["recover", &shop.database, &shop.broker]).await;
    for line in [
        "rolled back: prepared 3\n",
        "committed: decided 3\n",
        "committed by an operator: decided 0\n",
        "rolled back by an operator: prepared 1\n",
        "an operator decided otherwise on prepared 0, see to it",
        "an operator decided otherwise on prepared 2, see to it",
        "an operator decided otherwise on decided 1, see to it",
        "an operator decided otherwise on decided 2, see to it",
        "something is left\n",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(shop.orders().await, ["decided 0", "decided 1", "decided 2", "decided 3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn database_and_java_broker_agree_after_both_are_killed() {
    let Some(peers) = Peers::get("database_and_java_broker_agree_after_both_are_killed") else {
        return;
    };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let mut broker = JavaBroker::builder(0).topic("orders", 1).start(&peers, &zookeeper).await.unwrap();
    let shop = Shop::new(&broker.addr());
    assert!(shop.sell("sold", "").await);
    for step in STEPS {
        assert!(!shop.sell(&format!("killed when {step}"), step).await);
        // A retry, before any recovery.
        assert!(!shop.sell(&format!("killed twice when {step}"), step).await);
        assert!(shop.sell(&format!("killed twice when {step}"), "").await);
    }
    broker.kill().await.unwrap();
    broker.restart(&zookeeper).await.unwrap();
    let said = shop.recover().await;
    for line in ["committed: killed when decided\n", "rolled back: killed when prepared\n"] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(shop.recover().await, "nothing is left\n");
    let orders = shop.orders().await;
    let mut expected: Vec<_> = STEPS.iter().map(|step| format!("killed twice when {step}")).collect();
    expected.extend(["killed when committed", "killed when decided", "sold"].map(str::to_owned));
    expected.sort_unstable();
    assert_eq!(orders, expected);
    let read = peers.read_topic(&zookeeper, "orders", orders.len(), Duration::from_secs(60)).await.unwrap();
    let mut read: Vec<_> = read.iter().map(|message| str::from_utf8(&message.payload).unwrap()).collect();
    read.sort_unstable();
    assert_eq!(read, orders, "each once");
}

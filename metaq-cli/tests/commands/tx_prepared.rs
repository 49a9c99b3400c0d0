//! `metaq tx list`, `commit` and `rollback`.

use metaq_producer::{
    Message, Producer, Topic,
    xa::{UniqueQualifier, XaEnd, XaProducer, XaStart, XaVote},
};
use metaq_testkit::{Broker, Fault, Requests, TransactionAction};
use serde_json::json;

use crate::common::{Finished, Metaq, broker};

/// Prepares a transaction of one message, and returns its name.
pub(super) async fn prepare(broker: &Broker, qualifier: &str, payload: &'static str) -> String {
    let producer = Producer::builder().broker(broker.addr().clone()).build().unwrap();
    let xa = XaProducer::new(&producer, UniqueQualifier::new(qualifier).unwrap());
    let topic: Topic = "t".parse().unwrap();
    xa.publish_topic(&topic).await.unwrap();
    let xid = xa.new_xid(1, payload.as_bytes()).unwrap();
    let mut resource = xa.resource().unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.send(Message::new(topic, payload)).await.unwrap();
    resource.end(&xid, XaEnd::Success).await.unwrap();
    assert_eq!(resource.prepare(&xid).await.unwrap(), XaVote::Prepared);
    xid.to_string()
}

async fn tx(broker: &Broker, args: &[&str]) -> Finished {
    let addr = broker.addr().to_string();
    Metaq::start(&[&["tx"], args, &["-b", &addr, "-t", "t"]].concat()).finish(b"").await
}

#[tokio::test]
async fn prepared_transactions_are_listed_and_ended() {
    let broker = broker().await;
    let (one, two) = (prepare(&broker, "shop", "one").await, prepare(&broker, "shop", "two").await);
    let other = prepare(&broker, "bank", "other").await;
    let list = async |qualifier: &str| {
        let finished = tx(&broker, &["list", "--qualifier", qualifier]).await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""));
        let mut listed: Vec<_> =
            finished.json().iter().map(|line| line["xid"].as_str().unwrap().to_owned()).collect();
        listed.sort_unstable();
        listed
    };
    let mut both = vec![one.clone(), two.clone()];
    both.sort_unstable();
    assert_eq!((list("shop").await, list("bank").await), (both, vec![other]));

    let finished = tx(&broker, &["commit", &one]).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    let shown = json!({"xid": one, "broker": broker.addr().to_string(), "outcome": "committed"});
    assert_eq!(finished.json(), [shown]);
    let finished = tx(&broker, &["rollback", &two, "--output", "plain"]).await;
    let line = format!("{two}\t{}\trolled-back\t\n", broker.addr());
    assert_eq!((finished.status, finished.stdout), (0, line));
    assert_eq!(list("shop").await, [""; 0]);
    let payloads: Vec<_> = broker.messages("t").into_iter().map(|stored| stored.payload).collect();
    assert_eq!(payloads, ["one"]);
    // What has ended is not found again.
    let finished = tx(&broker, &["commit", &one]).await;
    assert_eq!((finished.status, &*finished.stdout), (4, ""));
    assert!(finished.stderr.contains(&format!("holds {one}")), "{}", finished.stderr);
}

#[tokio::test]
async fn a_commit_of_a_prepared_one_without_an_answer_is_unknown() {
    let broker = broker().await;
    let xid = prepare(&broker, "shop", "one").await;
    broker.faults().plan(Requests::transactions(Some(TransactionAction::CommitTwoPhase)), Fault::Cut(2));
    let finished = tx(&broker, &["commit", &xid]).await;
    assert_eq!(
        (finished.status, &finished.json()[0]["outcome"]),
        (6, &json!("unknown")),
        "{}",
        finished.stdout
    );
    let xid = prepare(&broker, "shop", "two").await;
    broker.faults().plan(Requests::transactions(Some(TransactionAction::Rollback)), Fault::refuse(500, "no"));
    let finished = tx(&broker, &["rollback", &xid]).await;
    assert_eq!(finished.status, 7, "{}", finished.stdout);
    assert_eq!(finished.json()[0]["outcome"], json!("failed"));
}

#[tokio::test]
async fn what_names_no_transaction_is_wrong_usage() {
    let broker = broker().await;
    for args in [&["list"][..], &["list", "--qualifier", "7"], &["commit", "x"], &["rollback"]] {
        let finished = tx(&broker, args).await;
        assert_eq!((finished.status, &*finished.stdout), (2, ""), "{args:?}: {}", finished.stderr);
    }
}

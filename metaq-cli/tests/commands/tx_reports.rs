//! The time at which `metaq tx` reports, and its exit status after an unconfirmed rollback.

use std::time::Duration;

use metaq_protocol::TransactionAction;
use metaq_testkit::{Broker, Fault, Requests};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::{Metaq, broker};

fn start(broker: &Broker, end: &str) -> Metaq {
    Metaq::start(&["tx", "--cluster", &broker.addr().to_string(), "--topic", "t", end])
}

async fn next_json(metaq: &mut Metaq) -> Value {
    let line = tokio::time::timeout(Duration::from_secs(30), metaq.next_line()).await.unwrap();
    serde_json::from_str(&line).unwrap_or_else(|_| panic!("no line of JSON: {line:?}"))
}

#[tokio::test]
async fn a_message_is_reported_while_the_next_one_is_sent() {
    let broker = broker().await;
    broker.faults().plan(Requests::puts().only(2), Fault::Ignore);
    let mut metaq = start(&broker, "--commit");
    metaq.write(b"1\n2\n").await;
    let first = next_json(&mut metaq).await;
    assert_eq!((&first["line"], &first["offset"]), (&json!(1), &json!(-1)));
    metaq.signal(Signal::SIGTERM);
    // It would have timed out if the first line had been held back.
    let second = next_json(&mut metaq).await;
    assert_eq!((&second["line"], &second["error"]["kind"]), (&json!(2), &json!("stopped")));
    assert_eq!(metaq.wait().await.status, 143);
}

#[tokio::test]
async fn an_unconfirmed_rollback_fails_and_later_signals_are_handled() {
    for stops in [false, true] {
        let broker = broker().await;
        broker.faults().plan(Requests::transactions(Some(TransactionAction::Rollback)), Fault::Ignore);
        let mut metaq = start(&broker, "--rollback");
        metaq.write(b"1\n").await;
        drop(metaq.take_stdin());
        assert_eq!(next_json(&mut metaq).await["line"], json!(1));
        let end = next_json(&mut metaq).await;
        assert_eq!((&end["outcome"], &end["error"]["kind"]), (&json!("rolled-back"), &json!("timed-out")));
        if stops {
            metaq.signal(Signal::SIGTERM);
        }
        let finished = metaq.wait().await;
        assert_eq!(finished.status, if stops { 143 } else { 7 }, "{}", finished.stderr);
    }
}

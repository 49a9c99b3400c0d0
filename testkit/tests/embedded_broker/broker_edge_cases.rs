//! Edge cases of a broker: an odd topic name, failed decisions, commits during its end, failed starts.

use metaq_protocol::Response;
use metaq_testkit::{Broker, Heuristic, XaTransactionId};
use tokio::io::DuplexStream;

use crate::wire::Client;

fn client(broker: &Broker) -> Client<DuplexStream> {
    Client::new(broker.connect())
}

async fn ask(client: &mut Client<DuplexStream>, request: String) -> (i32, String) {
    client.send(request).await;
    let Some(Response::Boolean(answer)) = client.next().await else { panic!("no answer") };
    (answer.status.0, answer.text().into_owned())
}

#[tokio::test]
async fn a_topic_named_as_the_brokers_own_folder_keeps_its_messages() {
    let folder = tempfile::tempdir().unwrap();
    let builder = || Broker::builder().topic("embedded.metaq", 1).data_dir(folder.path());
    let broker = builder().start_without_port().unwrap();
    let (status, _) = ask(&mut client(&broker), "put embedded.metaq 0 5 0 -1 1\r\nhello".to_owned()).await;
    broker.shut_down().await.unwrap();
    let broker = builder().start_without_port().unwrap();
    assert_eq!(broker.messages("embedded.metaq").len(), usize::from(status == 200), "after status {status}");
}

#[tokio::test]
async fn a_failed_operator_commit_is_not_reported_as_committed() {
    let broker = Broker::builder().topic("t", 1).capacity(10).start_without_port().unwrap();
    let mut client = client(&broker);
    let key = "XID:1:67:62:q";
    assert_eq!(ask(&mut client, format!("transaction {key} s BEGIN q 1\r\n")).await.0, 200);
    assert_eq!(ask(&mut client, format!("put t 0 5 0 -1 {key} 2\r\nhello")).await.0, 200);
    assert_eq!(ask(&mut client, format!("transaction {key} s PREPARE q 3\r\n")).await.1, "0");
    let xid: XaTransactionId = key.parse().unwrap();
    broker.decide(&xid, Heuristic::Committed).unwrap_err();
    assert!(broker.messages("t").is_empty());
    let (_, text) = ask(&mut client, format!("transaction {key} s COMMIT_TWO_PHASE q 4\r\n")).await;
    assert!(!text.contains("heuristically committed"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_local_commit_completes_before_the_end_or_stores_nothing() {
    const PARTITIONS: u32 = 40;
    for round in 0..60 {
        let folder = tempfile::tempdir().unwrap();
        let builder = || Broker::builder().topic("t", PARTITIONS).data_dir(folder.path());
        let broker = builder().start_without_port().unwrap();
        let mut client = client(&broker);
        ask(&mut client, "transaction TX:s:1 s BEGIN 1\r\n".to_owned()).await;
        for partition in 0..PARTITIONS {
            let put = format!("put t {partition} 5 0 -1 TX:s:1 1\r\nhello");
            assert_eq!(ask(&mut client, put).await.0, 200);
        }
        client.send("transaction TX:s:1 s COMMIT_ONE_PHASE 1\r\n".to_owned()).await;
        // On a blocking thread: connections run on other threads.
        let ended = tokio::task::spawn_blocking(move || {
            let begun = std::time::Instant::now();
            while broker.messages("t").is_empty() && begun.elapsed().as_secs() < 5 {
                std::hint::spin_loop();
            }
            drop(broker);
        });
        ended.await.unwrap();
        let stored = builder().start_without_port().unwrap().messages("t").len();
        assert!(stored == 0 || stored == PARTITIONS as usize, "round {round}: {stored} of {PARTITIONS}");
    }
}

#[tokio::test]
async fn the_error_names_a_port_that_is_taken() {
    let broker = Broker::builder().start().await.unwrap();
    let port = broker.addr().port();
    let error = Broker::builder().id(3).port(port).start().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    let expected = format!("broker 3 can't listen on 127.0.0.1:{port}: ");
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[test]
fn starting_without_a_runtime_explains_the_error() {
    let error = Broker::builder().start_without_port().unwrap_err().to_string();
    assert!(error.contains("#[tokio::test]"), "{error}");
    let mut start = std::pin::pin!(Broker::builder().start());
    let polled = start.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    let std::task::Poll::Ready(Err(error)) = polled else { panic!("{polled:?}") };
    assert!(error.to_string().contains("#[tokio::test]"), "{error}");
}

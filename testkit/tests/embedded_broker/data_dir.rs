//! The data folder of a broker stays consistent, however it ends and whichever other broker claims it.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use metaq_protocol::{PutResponse, Response};
use metaq_testkit::{Broker, BrokerBuilder};
use parking_lot::Mutex;
use tokio::{io::DuplexStream, net::TcpStream, sync::Barrier, task::JoinSet};

use crate::wire::Client;

const PARTITIONS: i32 = 2;

fn builder(folder: &Path) -> BrokerBuilder {
    Broker::builder().topic("t", PARTITIONS.cast_unsigned()).data_dir(folder)
}

fn client(broker: &Broker) -> Client<DuplexStream> {
    Client::new(broker.connect())
}

fn put(partition: i32) -> String {
    format!("put t {partition} 5 0 -1 1\r\nhello")
}

/// The ids of messages by partition and offset.
type Places = BTreeMap<(i32, i64), i64>;

/// Puts until the connection ends; records the reported places of the messages.
async fn put_until_the_end(
    stream: TcpStream,
    partition: i32,
    places: Arc<Mutex<Places>>,
    begun: Arc<Barrier>,
) {
    let mut client = Client::new(stream);
    let mut is_first = true;
    loop {
        client.send(put(partition).repeat(20)).await;
        for _ in 0..20 {
            let Some(Response::Boolean(answer)) = client.next().await else { return };
            assert!(answer.status.is_success(), "{answer:?}");
            let PutResponse { message_id, partition, offset } = PutResponse::parse(&answer.body).unwrap();
            let other = places.lock().insert((partition, offset), message_id);
            assert_eq!(other, None, "two messages at {offset}");
        }
        if std::mem::take(&mut is_first) {
            begun.wait().await;
        }
    }
}

fn stored(broker: &Broker) -> Places {
    let all = broker.messages("t");
    all.into_iter().map(|stored| ((stored.partition.index, stored.offset), stored.id)).collect()
}

/// Starts brokers on one folder, one after another; `end` ends each while eight connections put.
async fn one_after_another(end: impl AsyncFn(Broker)) {
    const CONNECTIONS: i32 = 8;
    let folder = tempfile::tempdir().unwrap();
    let places = Arc::new(Mutex::new(Places::new()));
    for _ in 0..20 {
        let broker = builder(folder.path()).max_segment_size(10_000).start().await.unwrap();
        let before = stored(&broker);
        for (place, id) in &*places.lock() {
            assert_eq!(before.get(place), Some(id), "an acknowledged message at {place:?}");
        }
        let begun = Arc::new(Barrier::new(CONNECTIONS as usize + 1));
        let mut clients = JoinSet::new();
        for n in 0..CONNECTIONS {
            let stream = TcpStream::connect(("127.0.0.1", broker.addr().port())).await.unwrap();
            let (places, begun) = (Arc::clone(&places), Arc::clone(&begun));
            clients.spawn(put_until_the_end(stream, n % PARTITIONS, places, begun));
        }
        begun.wait().await;
        end(broker).await;
        // The next broker opens the folder while these connections end.
        let next = builder(folder.path()).start_without_port().unwrap();
        let mut answers = Vec::new();
        for _ in 0..20 {
            let mut client = client(&next);
            for partition in 0..PARTITIONS {
                client.send(put(partition)).await;
                let Some(Response::Boolean(answer)) = client.next().await else { panic!("no answer") };
                answers.push(PutResponse::parse(&answer.body).unwrap());
            }
        }
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        let there = stored(&next);
        for PutResponse { message_id, partition, offset } in answers {
            assert_eq!(there.get(&(partition, offset)), Some(&message_id), "at {offset} of {partition}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_written_after_a_shutdown() {
    one_after_another(async |broker| broker.shut_down().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_written_after_a_drop() {
    one_after_another(async |broker| drop(broker)).await;
}

#[tokio::test]
async fn a_data_folder_has_one_owner_which_the_refusal_names() {
    let folder = tempfile::tempdir().unwrap();
    let one = builder(folder.path()).id(7).start_without_port().unwrap();
    let refused = builder(folder.path()).start_without_port().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
    let text = refused.to_string();
    let holder = format!("broker 7 at {} in process {}", one.addr(), std::process::id());
    assert!(text.contains(&holder) && text.contains(folder.path().to_str().unwrap()), "{text}");
    one.shut_down().await.unwrap();
    drop(builder(folder.path()).start_without_port().unwrap());
    // A broker that failed to start holds no claim.
    let failed = builder(folder.path()).topic("two words", 1).start_without_port();
    assert!(failed.is_err());
    builder(folder.path()).start_without_port().unwrap();
}

#[tokio::test]
async fn a_put_is_refused_exactly_when_it_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let broker = builder(folder.path()).max_segment_size(1).start_without_port().unwrap();
    let mut client = client(&broker);
    // Creating the second segment fails, then the fourth.
    for blocked in [25, 75] {
        let obstacle = folder.path().join(format!("t-0/{blocked:020}.meta"));
        fs::create_dir_all(&obstacle).unwrap();
        let mut acknowledged = broker.messages("t").len();
        for _ in 0..5 {
            acknowledged += usize::from(client.ask(put(0)).await.starts_with("200"));
            assert_eq!(broker.messages("t").len(), acknowledged);
        }
        fs::remove_dir(&obstacle).unwrap();
        assert!(client.ask(put(0)).await.starts_with("200"));
    }
    let before = broker.messages("t");
    broker.shut_down().await.unwrap();
    assert_eq!(builder(folder.path()).start_without_port().unwrap().messages("t"), before);
}

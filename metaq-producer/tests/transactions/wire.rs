//! The requests of transactions, word by word, as the Java client sends them (rules G-7 to G-10).

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use metaq_producer::{
    BrokerId, Message, Producer, Topic,
    discovery::{StaticDiscovery, TopicView},
    selector::RoundRobinSelector,
    transaction::TransactionOptions,
    xa::{UniqueQualifier, XaEnd, XaProducer, XaStart, XaVote},
};
use metaq_protocol::{BooleanCommand, Command, Decoder, Frame, Opaque, Status, TransactionAction};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A broker that says yes to everything, and writes down what it was asked, with the opaque as `#` and the
/// session as `S`.
struct Yes {
    asked: Arc<Mutex<Vec<String>>>,
    view: TopicView,
}

impl Yes {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = format!("meta://{}", listener.local_addr().unwrap()).parse().unwrap();
        let view = TopicView::new("t".parse().unwrap()).with_broker(BrokerId(3), addr, 2);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let written_down = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&written_down)));
            }
        });
        Self { asked, view }
    }

    async fn producer(&self) -> Producer {
        let builder = Producer::builder().discovery(StaticDiscovery::new([self.view.clone()]));
        let producer = builder.selector(RoundRobinSelector::new().starting_at(1)).build().unwrap();
        producer.publish_topic(&"t".parse().unwrap()).await.unwrap();
        producer
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock())
    }
}

async fn serve(mut stream: TcpStream, asked: Arc<Mutex<Vec<String>>>) {
    let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::new());
    while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        while let Some(Frame::Command(mut command)) = decoder.decode(&mut buffer).unwrap() {
            let opaque = command.opaque();
            let body = match &command {
                Command::Put(put) => format!("-5 {} -1", put.partition),
                Command::Version(_) => "0.1".to_owned(),
                Command::Transaction(step) => match step.action {
                    TransactionAction::Prepare => "0".to_owned(),
                    TransactionAction::Recover => "XID:1:61:62:q\r\nXID:2::63:q".to_owned(),
                    _ => String::new(),
                },
                _ => panic!("asked {command:?}"),
            };
            if let Command::Transaction(step) = &command {
                let session = step.session.to_string();
                command.set_opaque(Opaque(0));
                write_down(&command, Some(&session), &asked);
            } else if let Command::Put(put) = &command {
                let session = put.transaction.as_ref().and_then(|id| {
                    id.as_str().strip_prefix("TX:").map(|rest| rest.split(':').next().unwrap().to_owned())
                });
                command.set_opaque(Opaque(0));
                write_down(&command, session.as_deref(), &asked);
            }
            let mut answer = BytesMut::new();
            BooleanCommand::new(Status::SUCCESS, body.into(), opaque).encode(&mut answer);
            stream.write_all(&answer).await.unwrap();
        }
    }
}

fn write_down(command: &Command, session: Option<&str>, asked: &Mutex<Vec<String>>) {
    let mut line = BytesMut::new();
    command.encode(&mut line);
    let mut text = String::from_utf8(line.to_vec()).unwrap().replacen(" 0\r\n", " #\r\n", 1);
    if let Some(session) = session {
        assert!(!session.contains(':') && session.splitn(3, '-').count() == 3, "T-3: {session}");
        text = text.replace(session, "S");
    }
    asked.lock().push(text);
}

#[tokio::test]
async fn a_local_transaction_says_what_the_java_client_says() {
    let broker = Yes::start().await;
    let producer = broker.producer().await;
    let topic: Topic = "t".parse().unwrap();
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(Message::new(topic.clone(), "abc")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(
        broker.take(),
        [
            "transaction TX:S:1 S BEGIN 60 #\r\n",
            "put t 1 3 0 891568578 TX:S:1 #\r\nabc",
            "transaction TX:S:1 S COMMIT_ONE_PHASE #\r\n",
        ],
        "G-7, T-6, T-9, W-2, W-6"
    );
    let mut transaction = producer.begin(TransactionOptions::new().without_timeout());
    transaction.send(Message::new(topic.clone(), "")).await.unwrap();
    transaction.send(Message::new(topic.clone(), "")).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(broker.take()[0], "transaction TX:S:2 S BEGIN #\r\n", "T-12");
    let options = TransactionOptions::new().with_timeout(Duration::from_millis(6001));
    let mut transaction = producer.begin(options);
    transaction.send(Message::new(topic, "x").with_attribute("")).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(
        broker.take(),
        [
            "transaction TX:S:3 S BEGIN 7 #\r\n",
            "put t 0 5 1 419171859 TX:S:3 #\r\n\0\0\0\0x",
            "transaction TX:S:3 S ROLLBACK #\r\n",
        ],
        "T-4, T-12, W-8"
    );
}

#[tokio::test]
async fn an_xa_transaction_says_what_the_java_client_says_but_end() {
    let broker = Yes::start().await;
    let producer = broker.producer().await;
    let topic: Topic = "t".parse().unwrap();
    let xa = XaProducer::new(&producer, UniqueQualifier::new("XAMessageProducer-vm").unwrap());
    xa.publish_topic(&topic).await.unwrap();
    let mut resource = xa.resource().unwrap();
    resource.set_timeout(Duration::from_secs(7));
    let xid = xa.xid(-3, b"", b"bb").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.send(Message::new(topic, "abc")).await.unwrap();
    resource.end(&xid, XaEnd::Success).await.unwrap();
    resource.rollback(&xid).await.unwrap();
    assert_eq!(
        broker.take(),
        [
            // The broker would take the beginning of a prepared one for a success.
            "transaction null S RECOVER XAMessageProducer-vm #\r\n",
            "transaction XID:-3::6262:XAMessageProducer-vm S BEGIN 7 XAMessageProducer-vm #\r\n",
            "put t 1 3 0 891568578 XID:-3::6262:XAMessageProducer-vm #\r\nabc",
            "transaction XID:-3::6262:XAMessageProducer-vm S ROLLBACK XAMessageProducer-vm #\r\n",
        ],
        "G-8, X-4, X-8, X-13"
    );
    let xid = xa.xid(1, &[0x67, 0x01], b"b").unwrap();
    assert_eq!(resource.prepare(&xid).await.unwrap(), XaVote::Prepared, "C-62");
    resource.commit(&xid, false).await.unwrap();
    resource.commit(&xid, true).await.unwrap();
    resource.forget(&xid).await.unwrap();
    let steps = ["PREPARE", "COMMIT_TWO_PHASE", "COMMIT_ONE_PHASE", "FORGET"];
    let steps = steps.map(|step| {
        format!("transaction XID:1:6701:62:XAMessageProducer-vm S {step} XAMessageProducer-vm #\r\n")
    });
    assert_eq!(broker.take(), steps, "G-9, X-11, X-12, X-14");
    let found = resource.recover().await.unwrap();
    assert_eq!(broker.take(), ["transaction null S RECOVER XAMessageProducer-vm #\r\n"], "G-10, X-15");
    let found: Vec<_> = found.iter().map(|xid| xid.as_str()).collect();
    assert_eq!(found, ["XID:1:61:62:q", "XID:2::63:q"], "G-10");
}

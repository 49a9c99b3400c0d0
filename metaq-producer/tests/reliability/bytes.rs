//! Connections that end or go wrong at every byte, and answers that are not what was asked for: no message is
//! taken for another, none is stored in part, and all end as documented. Time is paused.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use metaq_producer::{
    Message, Outcome, Partition, Producer, SendError, SendReceipt, stats::ConnectionStats,
    transport::ConnectionConfig,
};
use metaq_protocol::Opaque;
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests, Stored};
use metaq_transport::StreamTransport;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::common::{
    alone,
    cluster::{Cluster, broker},
    measuring::{
        figure, in_form,
        spoiled::{End, Spoiler, Spoiling},
    },
    message, topic,
};

const TIMEOUT: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_millis(100);

/// A connection on which nothing makes sense any more is given up within this after a message had no answer:
/// so long a heartbeat may take, and a new connection to be made.
const GIVEN_UP: Duration = Duration::from_secs(6);

/// A broker, and a producer whose connection to it is spoiled.
struct Spoilt {
    broker: Broker,
    producer: Producer,
    next: Arc<Mutex<Spoiling>>,
}

type Ended = (Message, Result<SendReceipt, SendError>);

impl Spoilt {
    async fn new() -> Self {
        let registry = EmbeddedRegistry::new();
        let broker = broker(&registry, 0);
        let next = Arc::default();
        let spoiler = Spoiler { registry: registry.clone(), next: Arc::clone(&next) };
        let transport = StreamTransport::new(spoiler, ConnectionConfig::default());
        let builder = Producer::builder().discovery(registry.discovery()).transport(transport);
        let producer = builder.build().unwrap();
        producer.publish_topic(&topic()).await.unwrap();
        Self { broker, producer, next }
    }

    /// Sends messages while the connection is spoiled so, and waits for their ends. Then others are sent
    /// until one is stored.
    async fn send(&self, messages: &[Message], how: Spoiling) -> Vec<Ended> {
        *self.next.lock() = how;
        let handles: Vec<_> =
            messages.iter().map(|message| self.producer.try_send(message.clone()).unwrap()).collect();
        let mut ended = Vec::new();
        for (message, handle) in messages.iter().zip(handles) {
            let outcome = timeout(TIMEOUT + GRACE, handle).await.expect("it ends by its deadline");
            ended.push((message.clone(), outcome));
        }
        let goes_on = async { while self.producer.send(message("afterwards")).await.is_err() {} };
        timeout(GIVEN_UP + GRACE, goes_on).await.expect("it goes on");
        assert!(self.connection().await.established <= 2, "it is made anew once");
        ended
    }

    async fn connection(&self) -> ConnectionStats {
        self.producer.stats().await.connections[0].1
    }

    /// The number of times that each message is stored; checks that each is whole, and where its receipt
    /// says.
    fn stored(&self, ended: &[Ended]) -> Vec<usize> {
        let stored = self.broker.messages("t");
        let is = |stored: &Stored, message: &Message| {
            stored.payload == message.payload() && stored.attribute.as_deref() == message.attribute()
        };
        let mut whole = ended.iter().map(|(message, _)| message.clone()).collect::<Vec<_>>();
        whole.push(message("afterwards"));
        for stored in &stored {
            assert!(whole.iter().any(|message| is(stored, message)), "{stored:?} is no whole message");
        }
        let times = |(message, outcome): &Ended| {
            let those: Vec<_> = stored.iter().filter(|stored| is(stored, message)).collect();
            if let Ok(receipt) = outcome {
                let [one] = those[..] else { panic!("{receipt:?} is stored {} times", those.len()) };
                assert_eq!(
                    (one.id, one.offset, one.partition),
                    place(receipt),
                    "it is where it is said to be"
                );
            }
            those.len()
        };
        ended.iter().map(times).collect()
    }
}

fn place(receipt: &SendReceipt) -> (i64, i64, Partition) {
    (receipt.message_id, receipt.offset, receipt.partition)
}

/// A small message, one with an attribute, and one that is not copied to be sent.
fn three() -> [Message; 3] {
    [message("small"), message("x".repeat(40)).with_attribute("table-7"), message("y".repeat(9_000))]
}

/// The bytes to spoil: each one, or in the short form each of the first ones and a sample after them.
fn positions(all: u64) -> impl Iterator<Item = u64> {
    (0..all).filter(move |at| in_form(*at < 200 || at % 97 == 0 || at + 20 > all, true))
}

/// The lengths of the frames of messages that are sent together, and of their responses.
async fn lengths(messages: &[Message]) -> (Vec<u64>, Vec<u64>) {
    let (mut frames, mut answers) = (Vec::new(), Vec::new());
    // Before them the broker is asked whether it is there.
    let greeting = Spoilt::new().await.connection().await;
    let (mut written, mut read) = (greeting.bytes_written, greeting.bytes_read);
    for count in 1..=messages.len() {
        let spoilt = Spoilt::new().await;
        let handles: Vec<_> = messages[..count]
            .iter()
            .map(|message| spoilt.producer.try_send(message.clone()).unwrap())
            .collect();
        for handle in handles {
            handle.await.unwrap();
        }
        let stats = spoilt.connection().await;
        frames.push(stats.bytes_written - std::mem::replace(&mut written, stats.bytes_written));
        answers.push(stats.bytes_read - std::mem::replace(&mut read, stats.bytes_read));
    }
    (frames, answers)
}

#[tokio::test(start_paused = true)]
async fn a_put_that_is_cut_at_any_byte_is_stored_whole_or_not_at_all() {
    let _alone = alone().await;
    let messages = three();
    let (frames, _) = lengths(&messages).await;
    let mut cuts = 0;
    for end in [End::Closed, End::Reset] {
        for cut in positions(frames.iter().sum()) {
            let spoilt = Spoilt::new().await;
            let ended =
                spoilt.send(&messages, Spoiling { to_broker: Some(cut), end, ..Spoiling::default() }).await;
            let stored = spoilt.stored(&ended);
            let mut begins = 0;
            for (((_, outcome), stored), frame) in ended.iter().zip(stored).zip(&frames) {
                let case =
                    format!("{end:?} after {cut} bytes of {frames:?}: {outcome:?}, stored {stored} times");
                match outcome.as_ref().map_err(SendError::outcome) {
                    // Nothing of it was written.
                    Ok(_) => assert!(begins >= cut, "{case}"),
                    Err(Outcome::Unknown) => {
                        assert!(begins < cut, "{case}");
                        assert_eq!(stored, usize::from(begins + frame <= cut), "{case}");
                    }
                    Err(_) => panic!("{case}"),
                }
                begins += frame;
            }
            cuts += 1;
        }
    }
    figure(format_args!(
        "puts cut {cuts} times, at every byte: none stored in part or twice, all ended as documented"
    ));
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_cut_at_any_byte_are_taken_for_what_they_are() {
    let _alone = alone().await;
    let messages = three();
    let (_, answers) = lengths(&messages).await;
    let mut cuts = 0;
    for end in [End::Closed, End::Reset] {
        for cut in 0..answers.iter().sum() {
            let spoilt = Spoilt::new().await;
            let ended =
                spoilt.send(&messages, Spoiling { to_client: Some(cut), end, ..Spoiling::default() }).await;
            assert_eq!(spoilt.stored(&ended), [1; 3]);
            let mut ends = 0;
            for ((_, outcome), answer) in ended.iter().zip(&answers) {
                ends += answer;
                let case = format!("{end:?} after {cut} bytes of {answers:?}: {outcome:?}");
                match outcome.as_ref().map_err(SendError::outcome) {
                    // It was over before anything was written.
                    Ok(receipt) if cut == 0 => assert_eq!(receipt.attempts, 2, "{case}"),
                    Ok(_) => assert!(ends <= cut, "{case}"),
                    Err(outcome) => assert!(ends > cut && outcome == Outcome::Unknown, "{case}"),
                }
            }
            cuts += 1;
        }
    }
    figure(format_args!("answers cut {cuts} times, at every byte: no wrong match, all ended as documented"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_wrong_in_any_byte_ends_its_message_in_time() {
    let _alone = alone().await;
    let one = [message("one")];
    let (_, answers) = lengths(&one).await;
    let mut ends: HashMap<&str, usize> = HashMap::new();
    let mut longest = Duration::ZERO;
    for position in 0..answers[0] {
        for instead in [
            &b""[..],
            b"0",
            b"9",
            b"-",
            b" ",
            b"x",
            b"\r",
            b"\n",
            b"\0",
            b"\xff",
            b"  ",
            b"\r\n",
            b"99999999999",
        ] {
            let spoilt = Spoilt::new().await;
            let instead = Some(instead.to_vec());
            let spoiling = Spoiling { to_client: Some(position), instead, ..Spoiling::default() };
            let started = Instant::now();
            let ended = spoilt.send(&one, spoiling).await;
            longest = longest.max(started.elapsed());
            let how = match &ended[0].1 {
                Ok(_) => "acknowledged",
                Err(error) => error.kind().as_str(),
            };
            *ends.entry(how).or_default() += 1;
        }
    }
    let mut ends: Vec<_> = ends.into_iter().collect();
    ends.sort_unstable();
    figure(format_args!(
        "answers with one byte wrong, one too many or one missing: all ended by their deadline ({ends:?}), and a later \
         one was stored {longest:?} afterwards at the latest"
    ));
    assert!(ends.len() > 3, "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn odd_answers_are_never_matched_to_another_request() {
    let _alone = alone().await;
    let cluster = Cluster::new(2, |_| {}).await;
    for broker in &cluster.brokers {
        let some = |chance| Requests::puts().with_chance(chance);
        let faults = broker.faults();
        faults.plan(some(0.05), Fault::Late(TIMEOUT + Duration::from_secs(1)));
        faults.plan(some(0.2), Fault::Late(Duration::from_millis(30)));
        faults.plan(some(0.2), Fault::Twice);
        faults.plan(some(0.2), Fault::Behind(7));
        // Of slots that there are not, and of a slot's life that hasn't come.
        for opaque in [0xFFFF, -1, i32::MIN, i32::MAX, 0x7FFF_0000] {
            faults.plan(some(0.02), Fault::Opaque(Opaque(opaque)));
        }
    }
    let count = in_form(3_000, 100_000);
    let mut handles = VecDeque::new();
    let mut ended = Vec::new();
    let mut longest = Duration::ZERO;
    for n in 0..count + 500 {
        if n < count {
            let handle = cluster.producer.enqueue(message(n.to_string())).await.unwrap();
            handles.push_back((n, Instant::now(), handle));
        }
        if (n >= count || handles.len() > 500)
            && let Some((n, started, handle)) = handles.pop_front()
        {
            ended.push((n, handle.await));
            longest = longest.max(started.elapsed());
        }
    }
    let places = |broker: &Broker| {
        let stored = broker.messages("t").into_iter();
        stored
            .map(|stored| ((stored.partition, stored.id, stored.offset), stored.payload))
            .collect::<Vec<_>>()
    };
    let stored: HashMap<_, _> = cluster.brokers.iter().flat_map(places).collect();
    assert_eq!(stored.len(), count, "each is stored once");
    let mut unknown = 0;
    for (n, outcome) in &ended {
        match outcome {
            Ok(receipt) => {
                let place = (receipt.partition, receipt.message_id, receipt.offset);
                assert_eq!(stored.get(&place).map(|payload| &payload[..]), Some(n.to_string().as_bytes()));
            }
            Err(error) => {
                assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
                unknown += 1;
            }
        }
    }
    let ignored: u64 =
        cluster.producer.stats().await.connections.iter().map(|(_, stats)| stats.ignored_responses).sum();
    figure(format_args!(
        "{count} messages, whose answers were late, repeated, unknown or out of order: no wrong match, {unknown} unknown, \
         {ignored} answers ignored"
    ));
    assert!(unknown > count / 50 && ignored > count as u64 / 10, "{unknown} {ignored}");
    assert_eq!(ended.len(), count);
}

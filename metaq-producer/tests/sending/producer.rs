//! The producer with a mock registry and embedded brokers, or a transport of the test's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use metaq_producer::{
    BrokerAddr, Message, Outcome, Partition, Producer, ProducerConfig, SendErrorKind, Status, Topic,
    discovery::{DiscoveryError, DiscoveryErrorKind, MockDiscovery, StaticDiscovery, TopicView},
    error::PublishErrorKind,
    selector::select_fn,
    transport::Transport,
};
use metaq_protocol::{BooleanCommand, Command, Opaque, Response};
use metaq_testkit::Broker;
use metaq_transport::{
    Connection, ConnectionState, PendingResponse, Responder, TransportError, TransportErrorKind,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use crate::common::{SOON, message, topic, until};

async fn broker(id: i32) -> Broker {
    Broker::builder().id(id).topic("t", 2).start().await.unwrap()
}

/// A view of topic `t` with these brokers, two partitions each.
fn view(brokers: &[(i32, &BrokerAddr)]) -> TopicView {
    brokers.iter().fold(TopicView::new(topic()), |view, (id, addr)| {
        view.with_broker(metaq_producer::BrokerId(*id), (*addr).clone(), 2)
    })
}

fn mock(brokers: &[(i32, &BrokerAddr)]) -> MockDiscovery {
    let mock = MockDiscovery::new();
    mock.set(view(brokers));
    mock
}

async fn published(mock: &MockDiscovery) -> Producer {
    let producer = Producer::builder().discovery(mock.clone()).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer
}

/// An address without a listener.
fn nowhere() -> BrokerAddr {
    BrokerAddr::new("127.0.0.1", metaq_testkit::unused_addr().unwrap().port()).unwrap()
}

/// Sends until a message is stored by the broker at `addr`; none may fail on the way.
async fn reaches(producer: &Producer, addr: &BrokerAddr) {
    let reached = async { while producer.send(message("x")).await.unwrap().broker != *addr {} };
    timeout(SOON, reached).await.expect("the broker is used");
}

#[tokio::test]
async fn publishing_at_the_same_time_is_one_attempt() {
    let broker = broker(0).await;
    let mock = mock(&[(0, broker.addr())]);
    mock.set_delay(Duration::from_millis(50));
    let producer = Producer::builder().discovery(mock.clone()).build().unwrap();
    let publishers = (0..20).map(|_| {
        let producer = producer.clone();
        tokio::spawn(async move { producer.publish_topic(&topic()).await })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap().unwrap();
    }
    assert_eq!((mock.watch_calls(), broker.accepted_connections()), (1, 1), "P-3");
    for n in 0..20 {
        assert_eq!(mock.active_watches(&topic()), 1, "{n}");
        assert!(producer.send(message("x")).await.is_ok());
        assert!(producer.unpublish_topic(&topic()));
    }
    until(async || mock.active_watches(&topic()) == 0 && broker.open_connections() == 0).await; // K-10
    assert!(!producer.unpublish_topic(&topic()));
    let error = producer.send(message("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NotPublished, Outcome::NotSent));
    assert_eq!(error.into_message(), Some(message("x")));
}

#[tokio::test(start_paused = true)]
async fn unoffered_topic_fails_in_3_s_and_can_be_published_later() {
    let mock = MockDiscovery::new();
    let producer = Producer::builder().discovery(mock.clone()).build().unwrap();
    let started = Instant::now();
    let error = producer.publish_topic(&topic()).await.unwrap_err();
    assert_eq!(error.kind(), PublishErrorKind::NoSuchTopic);
    assert_eq!(started.elapsed(), Duration::from_secs(3));
    until(async || mock.active_watches(&topic()) == 0).await;
    assert_eq!(producer.send(message("x")).await.unwrap_err().kind(), SendErrorKind::NotPublished);

    mock.fail_next(DiscoveryError::new(DiscoveryErrorKind::Failed, "scripted"));
    let error = producer.publish_topic(&topic()).await.unwrap_err();
    assert_eq!(error.kind(), PublishErrorKind::Discovery, "K-6");
    assert_eq!(error.source().unwrap().to_string(), "scripted");
}

#[tokio::test]
async fn a_topic_that_appears_while_it_is_published_is_found() {
    let broker = broker(0).await;
    let mock = MockDiscovery::new();
    let producer = Producer::builder().discovery(mock.clone()).build().unwrap();
    let publish = tokio::spawn({
        let producer = producer.clone();
        async move { producer.publish_topic(&topic()).await }
    });
    until(async || mock.active_watches(&topic()) == 1).await;
    mock.set(view(&[(0, broker.addr())]));
    publish.await.unwrap().unwrap();
    assert!(producer.send(message("x")).await.is_ok());
}

#[tokio::test]
async fn giving_up_publishing_leaves_nothing_behind() {
    let mock = MockDiscovery::new();
    let producer = Producer::builder().discovery(mock.clone()).build().unwrap();
    assert!(timeout(Duration::from_millis(50), producer.publish_topic(&topic())).await.is_err());
    until(async || mock.active_watches(&topic()) == 0).await;
}

#[tokio::test]
async fn unreachable_broker_disturbs_no_other_and_joins_later() {
    let good = broker(0).await;
    let away = nowhere();
    let mock = mock(&[(0, good.addr()), (1, &away)]);
    let producer = published(&mock).await;
    for _ in 0..10 {
        assert_eq!(producer.send(message("x")).await.unwrap().broker, *good.addr(), "R-5, K-12");
    }
    let late = Broker::builder().id(1).port(away.port()).topic("t", 2).start().await.unwrap();
    reaches(&producer, late.addr()).await;
    assert_eq!(good.accepted_connections(), 1);
}

#[tokio::test]
async fn brokers_that_are_all_away_are_named() {
    let away = nowhere();
    let builder =
        Producer::builder().discovery(mock(&[(7, &away)])).publish_timeout(Duration::from_millis(200));
    let error = builder.build().unwrap().publish_topic(&topic()).await.unwrap_err();
    assert_eq!(error.kind(), PublishErrorKind::Unreachable);
    assert!(error.to_string().contains(&format!("{away} (broker 7)")), "{error}");
    assert!(error.source().is_some(), "it says why");
}

#[tokio::test]
async fn round_robin_begins_anywhere_and_uses_all() {
    let brokers = [broker(0).await, broker(1).await];
    let mock = mock(&[(0, brokers[0].addr()), (1, brokers[1].addr())]);
    let mut firsts = BTreeSet::new();
    // That all begin with the same partition has a chance of 1 in 4^39.
    for _ in 0..40 {
        let producer = published(&mock).await;
        let mut picks = Vec::new();
        for _ in 0..6 {
            picks.push(producer.send(message("x")).await.unwrap().partition.to_string());
        }
        let in_turn = ["0-0", "0-1", "1-0", "1-1"].into_iter().cycle();
        let expected: Vec<_> = in_turn.skip_while(|partition| *partition != picks[0]).take(6).collect();
        assert_eq!(picks, expected, "L-3, R-8");
        firsts.insert(picks.swap_remove(0));
    }
    assert!(firsts.len() > 1, "{firsts:?}");
}

#[tokio::test]
async fn topics_share_the_connection_to_a_broker() {
    let broker = Broker::builder().topic("t", 1).topic("u", 1).start().await.unwrap();
    let other = Topic::new("u").unwrap();
    let views = [topic(), other.clone()]
        .map(|topic| TopicView::new(topic).with_broker(broker.id(), broker.addr().clone(), 1));
    let producer = Producer::builder().discovery(StaticDiscovery::new(views)).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer.publish_topic(&other).await.unwrap();
    assert!(producer.send(message("x")).await.is_ok());
    assert!(producer.send(Message::new(other.clone(), "x")).await.is_ok());
    producer.unpublish_topic(&topic());
    assert!(producer.send(Message::new(other, "x")).await.is_ok(), "D-6, R-3");
    assert_eq!((broker.accepted_connections(), broker.open_connections()), (1, 1));
}

#[tokio::test]
async fn moved_broker_serves_at_its_old_address_until_ready() {
    let old = broker(0).await;
    let new_addr = nowhere();
    let mock = mock(&[(0, old.addr())]);
    let producer = published(&mock).await;
    mock.set(view(&[(0, &new_addr)]));
    for _ in 0..20 {
        assert_eq!(producer.send(message("x")).await.unwrap().broker, *old.addr(), "R-2, R-4");
    }
    let new = Broker::builder().id(0).port(new_addr.port()).topic("t", 2).start().await.unwrap();
    reaches(&producer, new.addr()).await;
    until(async || old.open_connections() == 0).await;
    let before = old.messages("t").len();
    for _ in 0..20 {
        assert_eq!(producer.send(message("x")).await.unwrap().broker, *new.addr());
    }
    assert_eq!(old.messages("t").len(), before);
}

#[tokio::test]
async fn renumbered_and_exchanged_addresses_keep_connections() {
    let (a, b) = (broker(0).await, broker(1).await);
    let mock = mock(&[(0, a.addr()), (1, b.addr())]);
    let producer = published(&mock).await;
    for (ids, what) in [((5, 1), "K-9 (a): renumbered"), ((1, 5), "K-9 (b): exchanged"), ((0, 1), "and back")]
    {
        mock.set(view(&[(ids.0, a.addr()), (ids.1, b.addr())]));
        let expected = BTreeMap::from([(ids.0, a.addr().clone()), (ids.1, b.addr().clone())]);
        let settled = async {
            loop {
                let mut seen = BTreeMap::new();
                for _ in 0..4 {
                    let receipt = producer.send(message("x")).await.unwrap();
                    seen.insert(receipt.partition.broker.0, receipt.broker);
                }
                if seen == expected {
                    break;
                }
            }
        };
        timeout(SOON, settled).await.expect(what);
        assert_eq!((a.accepted_connections(), b.accepted_connections()), (1, 1), "{what}");
        assert_eq!((a.open_connections(), b.open_connections()), (1, 1), "{what}");
    }
}

#[tokio::test]
async fn a_change_that_changes_nothing_touches_nothing() {
    let broker = broker(0).await;
    let mock = mock(&[(0, broker.addr())]);
    let producer = published(&mock).await;
    for partitions in [1, 2, 1, 2] {
        let id = metaq_producer::BrokerId(0);
        mock.set(TopicView::new(topic()).with_broker(id, broker.addr().clone(), partitions));
        assert!(producer.send(message("x")).await.is_ok());
    }
    assert_eq!(broker.accepted_connections(), 1, "R-1, D-7");
}

#[tokio::test]
async fn a_broker_that_registers_anew_is_not_left_for_an_instant() {
    let (broker, other) = (broker(0).await, broker(1).await);
    let mock = mock(&[(0, broker.addr()), (1, other.addr())]);
    let producer = published(&mock).await;
    for partitions in [2, 1, 2] {
        mock.remove(&topic());
        // Sends go on as if nothing had happened while the registry names no broker (registry §8).
        let mut used: Vec<_> = Vec::new();
        for _ in 0..8 {
            let sent = producer.send_with_timeout(message("x"), SOON).await.unwrap();
            used.push(sent.partition.broker.0);
        }
        assert!(used.contains(&0) && used.contains(&1), "{used:?}");
        let again = TopicView::new(topic()).with_broker(broker.id(), broker.addr().clone(), partitions);
        mock.set(again.with_broker(other.id(), other.addr().clone(), 2));
    }
    assert_eq!((broker.accepted_connections(), other.accepted_connections()), (1, 1));
    assert_eq!((broker.open_connections(), other.open_connections()), (1, 1));
    let taken_out = Instant::now();
    mock.set(view(&[(1, other.addr())]));
    until(async || broker.open_connections() == 0).await;
    assert!(taken_out.elapsed() < Duration::from_secs(1), "it is left: {:?}", taken_out.elapsed());
    let before = broker.messages("t").len();
    for _ in 0..8 {
        assert_eq!(producer.send(message("x")).await.unwrap().broker, *other.addr());
    }
    assert_eq!((broker.messages("t").len(), other.accepted_connections()), (before, 1));
}

#[tokio::test]
async fn a_send_waits_for_a_broker_but_not_beyond_its_deadline() {
    let gone = broker(0).await;
    let addr = gone.addr().clone();
    let producer = published(&mock(&[(0, &addr)])).await;
    drop(gone);
    until(async || std::net::TcpStream::connect((addr.host(), addr.port())).is_err()).await;
    let started = Instant::now();
    let error = producer.send_with_timeout(message("x"), Duration::from_millis(200)).await.unwrap_err();
    assert!((190..400).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    // The first one may have met the dying connection.
    if error.kind() != SendErrorKind::ConnectionLost {
        assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NotConnected, Outcome::NotSent));
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
        assert_eq!(error.into_message(), Some(message("x")));
    }
    let waiting = tokio::spawn({
        let producer = producer.clone();
        async move { producer.send_with_timeout(message("y"), SOON).await }
    });
    let back = Broker::builder().port(addr.port()).topic("t", 2).start().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().broker, *back.addr());
}

#[tokio::test]
async fn what_can_not_be_sent_comes_back_with_the_reason() {
    let broker = broker(0).await;
    let mock = mock(&[(0, broker.addr())]);
    let wrong = select_fn(|_, partitions, message| match message.attribute() {
        Some("none") => None,
        Some("foreign") => Some(Partition::new(9, 0)),
        Some("beyond") => Some(Partition::new(0, 2)),
        _ => partitions.first().copied(),
    });
    let producer = Producer::builder().discovery(mock).selector(wrong).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    for (attribute, said) in [("none", "refused"), ("foreign", "9-0"), ("beyond", "0-2")] {
        let error = producer.send(message("x").with_attribute(attribute)).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NoPartition, Outcome::NotSent), "L-6");
        assert!(error.to_string().contains(said), "{error}");
        assert!(error.into_message().is_some());
    }
    let limit = 1_048_556;
    let large = |size: usize| Message::new(topic(), vec![0; size]);
    assert!(producer.send(large(limit)).await.is_ok());
    assert!(producer.send(large(limit - 8).with_attribute("four")).await.is_ok());
    for message in [large(limit + 1), large(limit - 7).with_attribute("four")] {
        let error = producer.send(message).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (SendErrorKind::TooLarge, Outcome::NotSent));
    }
}

#[tokio::test]
async fn a_refusal_tells_the_brokers_own_words() {
    let broker = Broker::builder().topic("other", 1).start().await.unwrap();
    let producer = published(&mock(&[(0, broker.addr())])).await;
    let error = producer.send(message("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Rejected, Outcome::Rejected), "M-23");
    assert_eq!(error.status(), Some(Status::INTERNAL_SERVER_ERROR), "K-40");
    assert!(error.to_string().contains("The server do not accept topic t"), "{error}");
    assert_eq!(error.broker(), Some(broker.addr()));
}

#[tokio::test]
async fn a_broker_without_a_registry_tells_its_partitions() {
    let broker = Broker::builder().id(7).topic("t", 3).start().await.unwrap();
    let producer = Producer::builder().broker(broker.addr().clone()).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let mut used: Vec<_> = Vec::new();
    for _ in 0..3 {
        used.push(producer.send(message("x")).await.unwrap().partition);
    }
    used.sort_unstable();
    assert_eq!(used, [0, 1, 2].map(|index| Partition::new(7, index)), "K-23");
    // What it doesn't know it may still make; then it chooses, as for Java.
    let unknown = Topic::new("unknown").unwrap();
    producer.publish_topic(&unknown).await.unwrap();
    let refused = producer.send(Message::new(unknown, "x")).await.unwrap_err();
    assert_eq!(refused.outcome(), Outcome::Rejected, "{refused}");
    assert_eq!(broker.accepted_connections(), 1, "it is asked over the connection that is sent on");
    producer.close(Duration::from_secs(1)).await;
    until(async || broker.open_connections() == 0).await;
}

#[tokio::test]
async fn a_broker_without_a_registry_is_asked_when_it_comes() {
    let addr = nowhere();
    let producer = Producer::builder().broker(addr.clone()).build().unwrap();
    let publishing = tokio::spawn({
        let producer = producer.clone();
        async move { producer.publish_topic(&topic()).await }
    });
    let broker = Broker::builder().id(3).port(addr.port()).topic("t", 2).start().await.unwrap();
    publishing.await.unwrap().unwrap();
    let told = async { while producer.send(message("x")).await.unwrap().partition.broker.0 != 3 {} };
    timeout(SOON, told).await.expect("its id is known in the end");
    assert_eq!(broker.accepted_connections(), 1);
}

#[tokio::test]
async fn direct_mode_lets_the_broker_choose() {
    let broker = Broker::builder().topic("t", 3).start().await.unwrap();
    let discovery = StaticDiscovery::direct(broker.addr().clone());
    let producer = Producer::builder().discovery(discovery).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let receipt = producer.send(message("x")).await.unwrap();
    assert_eq!(receipt.partition.broker.0, -1, "S-14");
    assert!((0..3).contains(&receipt.partition.index), "the broker tells which it chose");
}

#[tokio::test]
async fn closing_leaves_no_connection_and_refuses_messages() {
    let broker = broker(0).await;
    let mock = mock(&[(0, broker.addr())]);
    let producer = published(&mock).await;
    let sends: Vec<_> = (0..100)
        .map(|_| {
            tokio::spawn({
                let producer = producer.clone();
                async move { producer.send(message("x")).await }
            })
        })
        .collect();
    let report = producer.close(SOON).await;
    assert_eq!((report.unknown, report.unsent.len()), (0, 0));
    until(async || broker.open_connections() == 0).await;
    let mut stored = 0;
    for send in sends {
        match send.await.unwrap() {
            Ok(_) => stored += 1,
            Err(error) => {
                assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Closed, Outcome::NotSent))
            }
        }
    }
    assert_eq!(broker.messages("t").len(), stored);
    let error = producer.send(message("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Closed, Outcome::NotSent), "K-30");
    assert_eq!(producer.publish_topic(&topic()).await.unwrap_err().kind(), PublishErrorKind::Closed);
    assert_eq!(mock.active_watches(&topic()), 0);
    producer.close(SOON).await;
}

#[tokio::test]
async fn send_that_waits_for_a_broker_ends_at_close() {
    let broker = broker(0).await;
    let mock = mock(&[(0, broker.addr())]);
    let producer = published(&mock).await;
    mock.remove(&topic());
    until(async || broker.open_connections() == 0).await;
    let waiting = tokio::spawn({
        let producer = producer.clone();
        async move { producer.send_with_timeout(message("x"), SOON).await }
    });
    tokio::task::yield_now().await;
    let started = Instant::now();
    let report = producer.close(Duration::from_millis(200)).await;
    assert!((200..300).contains(&started.elapsed().as_millis()), "a broker may still come until then");
    assert_eq!(report.unsent, [message("x")], "what was not sent comes back");
    let error = timeout(Duration::from_millis(100), waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Closed, Outcome::NotSent));
}

#[tokio::test]
async fn dropping_the_producer_closes_its_connections() {
    let broker = broker(0).await;
    let mock = mock(&[(0, broker.addr())]);
    let producer = published(&mock).await;
    assert!(producer.send(message("x")).await.is_ok());
    drop(producer);
    until(async || broker.open_connections() == 0 && mock.active_watches(&topic()) == 0).await;
}

/// A transport whose only connection hands its requests to the test.
#[derive(Debug)]
struct Scripted {
    requests: mpsc::UnboundedSender<(Command, Responder)>,
}

#[derive(Debug)]
struct ScriptedConnection {
    requests: mpsc::UnboundedSender<(Command, Responder)>,
    broker: BrokerAddr,
    state: watch::Sender<ConnectionState>,
}

#[async_trait]
impl Transport for Scripted {
    async fn connect(&self, broker: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError> {
        let state = watch::Sender::new(ConnectionState::Ready);
        Ok(Arc::new(ScriptedConnection { requests: self.requests.clone(), broker: broker.clone(), state }))
    }
}

#[async_trait]
impl Connection for ScriptedConnection {
    fn broker(&self) -> &BrokerAddr {
        &self.broker
    }

    fn submit(&self, command: &mut Command, _: Instant) -> Result<PendingResponse, TransportError> {
        let (responder, pending) = PendingResponse::channel(self.broker.clone());
        self.requests.send((command.clone(), responder)).unwrap();
        Ok(pending)
    }

    async fn submit_when_free(
        &self,
        command: &mut Command,
        deadline: Instant,
    ) -> Result<PendingResponse, TransportError> {
        self.submit(command, deadline)
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    fn close(&self, _: Instant) {
        self.state.send_replace(ConnectionState::Closed);
    }
}

#[tokio::test]
async fn every_answer_has_its_outcome() {
    let (requests, mut received) = mpsc::unbounded_channel();
    let addr = nowhere();
    let transport = Scripted { requests };
    let mut config = ProducerConfig::default();
    config.retry.max_attempts = 1;
    let builder = Producer::builder().discovery(mock(&[(3, &addr)])).transport(transport).config(config);
    let producer = builder.build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();

    let lost =
        |progress| Err(TransportError::new(TransportErrorKind::Lost, addr.clone()).with_progress(progress));
    let answer = |status, text: &'static str| {
        let text = Bytes::from_static(text.as_bytes());
        Ok(Response::from(BooleanCommand::new(Status(status), text, Opaque::NONE)).into())
    };
    use metaq_transport::Progress::{NotWritten, Written};
    for (given, expected) in [
        (answer(200, "-7 1 31"), Ok((Partition::new(3, 1), -7, 31))),
        (answer(200, "1 0 0 more"), Ok((Partition::new(3, 0), 1, 0))),
        (answer(200, ""), Err((SendErrorKind::BadResponse, Outcome::Unknown))), // M-21, K-27
        (answer(200, "1 x 3"), Err((SendErrorKind::BadResponse, Outcome::Unknown))),
        (answer(403, "closed"), Err((SendErrorKind::Rejected, Outcome::Rejected))), // M-22
        (answer(503, ""), Err((SendErrorKind::Rejected, Outcome::Rejected))),
        (answer(999, "?"), Err((SendErrorKind::Rejected, Outcome::Rejected))),
        (lost(Written), Err((SendErrorKind::ConnectionLost, Outcome::Unknown))), // M-26, K-28
        (lost(NotWritten), Err((SendErrorKind::ConnectionLost, Outcome::NotSent))),
    ] {
        let send = tokio::spawn({
            let producer = producer.clone();
            async move { producer.send(message("x")).await }
        });
        let (command, responder) = received.recv().await.unwrap();
        assert_eq!(command.name(), "put");
        responder.respond(given);
        let result = send.await.unwrap();
        let result = result.map(|receipt| (receipt.partition, receipt.message_id, receipt.offset));
        assert_eq!(result.map_err(|error| (error.kind(), error.outcome())), expected);
    }
}

//! The embedded broker and the Java broker 1.4.6.2 give the same responses, byte for byte, to the same raw
//! requests.
//!
//! Both have the same settings and get the same requests in the same order. Masked are message ids, process
//! ids, times, connections and threads, the measured figures of `stats`, the hash codes of Java objects, the
//! brokers' addresses, the text of the configuration, and the order of pipelined responses.
#![cfg(feature = "peers")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod masks;
mod recorded;
#[path = "../wire/mod.rs"]
mod wire;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use cases::{Case, Outcome};
use masks::{Place, masked};
use metaq_protocol::Response;
use metaq_testkit::{
    Broker, Requests,
    peers::{JavaBroker, Peers, ZooKeeper},
};
use tokio::{net::TcpStream, time::timeout};
use wire::{Client, TIMEOUT};

/// A request whose response shows that no other is outstanding.
const MARKER: i32 = 1_234_567;

/// The time without a response after which none is expected, if no marker can be sent.
const QUIET: Duration = Duration::from_millis(100);

/// The brokers that are compared.
struct Brokers {
    java: JavaBroker,
    /// With the defects of the Java broker, and without.
    compat: Broker,
    plain: Broker,
    _zookeeper: ZooKeeper,
}

impl Brokers {
    async fn start(peers: &Peers) -> Self {
        let zookeeper = ZooKeeper::start(peers).await.unwrap();
        let mut java = JavaBroker::builder(3).setting("unflushThreshold", "0").setting("numPartitions", "1");
        let mut embedded = Broker::builder().id(3);
        for (topic, partitions) in cases::TOPICS {
            java = java.topic(topic, partitions);
            embedded = embedded.topic(topic, partitions);
        }
        let start = |compat| embedded.clone().compat(compat).start();
        let (compat, plain) = (start(true).await.unwrap(), start(false).await.unwrap());
        let java = java.start(peers, &zookeeper).await.unwrap();
        let operator = peers.java_program("Operator", include_str!("../../java/Operator.java")).unwrap();
        let pid = java.pid().unwrap().to_string();
        operator.run(&[&pid, "close", "closed", "1", "1"], TIMEOUT).await.unwrap();
        for broker in [&compat, &plain] {
            broker.close_partition("closed", 1);
        }
        Self { java, compat, plain, _zookeeper: zookeeper }
    }

    fn ports(&self) -> [u16; 3] {
        [self.java.port(), self.compat.addr().port(), self.plain.addr().port()]
    }
}

/// The result of one step at one broker.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    answers: Vec<String>,
    closed: bool,
}

impl Seen {
    /// Omits the counts of requests, which differ if a broker closed the connection sooner, and the places of
    /// messages: pipelined ones overtake each other in a Java broker, even those of the former connection.
    fn uncounted(mut self) -> Self {
        for answer in &mut self.answers {
            if answer.contains("STATS\r\n") && answer.contains("cmd_put") {
                answer.retain(|c| !c.is_ascii_digit());
            }
            if answer.contains(": ID ")
                && let Some((rest, _)) = answer.rsplit_once(' ')
            {
                *answer = rest.to_owned();
            }
        }
        self
    }

    /// Returns whether this matches the result of the Java broker, which drops outstanding responses of its
    /// thread pools when it closes a connection (protocol §2).
    fn agrees_with(&self, java: &Self) -> bool {
        let (mut own, mut rest) = (self.answers.iter(), java.answers.iter());
        // Both are sorted.
        let subset = rest.all(|answer| own.any(|own| own == answer));
        self.closed == java.closed && subset && (self.closed || self.answers.len() == java.answers.len())
    }
}

/// Sends a step, and waits for its responses.
async fn take(client: &mut Client<TcpStream>, request: &[u8], outcome: Outcome) -> (Vec<Response>, bool) {
    client.send(request).await;
    let mut answers = Vec::new();
    match outcome {
        Outcome::Answers(count) => {
            while answers.len() < count {
                match client.next().await {
                    Some(answer) => answers.push(answer),
                    None => return (answers, true),
                }
            }
            client.send(format!("version {MARKER}\r\n")).await;
            loop {
                match client.next().await {
                    Some(answer) if answer.opaque().0 == MARKER => return (answers, false),
                    Some(answer) => answers.push(answer),
                    None => return (answers, true),
                }
            }
        }
        Outcome::Closed => {
            let all = async {
                while let Some(answer) = client.next().await {
                    answers.push(answer);
                }
            };
            let closed = timeout(TIMEOUT / 4, all).await.is_ok();
            (answers, closed)
        }
        Outcome::Becomes(text) => {
            let becoming = async {
                loop {
                    match client.next().await {
                        Some(Response::Boolean(answer)) if !answer.text().contains(text) => {
                            client.send(request).await;
                        }
                        answer => return answer,
                    }
                }
            };
            let answer = timeout(TIMEOUT, becoming).await.expect("the answer changes");
            let closed = answer.is_none();
            (answer.into_iter().collect(), closed)
        }
        Outcome::Nothing => {
            let closed = timeout(QUIET, async {
                while let Some(answer) = client.next().await {
                    answers.push(answer);
                }
            });
            let closed = closed.await.is_ok();
            (answers, closed)
        }
    }
}

/// One broker, with the connections of a case.
struct Player<'a> {
    /// `None` once the broker has closed it.
    clients: BTreeMap<usize, Option<Client<TcpStream>>>,
    port: u16,
    place: Place<'a>,
    seen: Vec<Seen>,
}

impl<'a> Player<'a> {
    fn new(port: u16, place: Place<'a>) -> Self {
        Self { clients: BTreeMap::new(), port, place, seen: Vec::new() }
    }

    async fn step(&mut self, request: &[u8], outcome: Outcome, connection: usize) {
        let client = match self.clients.entry(connection) {
            Entry::Occupied(client) => client.into_mut(),
            Entry::Vacant(entry) => {
                let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
                entry.insert(Some(Client::new(stream)))
            }
        };
        let Some(open) = client else { return };
        let (answers, closed) = take(open, request, outcome).await;
        if closed {
            *client = None;
        }
        let show = |answer| masked(answer, request, self.port, &self.place);
        let mut answers: Vec<_> = answers.iter().map(show).collect();
        answers.sort_unstable();
        self.seen.push(Seen { answers, closed });
    }
}

/// Runs a case at one broker.
async fn play(port: u16, case: &Case, broker: &Broker) -> Vec<Seen> {
    let mut player = Player::new(port, Place(broker));
    for (request, outcome, connection) in case.steps() {
        player.step(request, outcome, connection).await;
    }
    player.seen
}

/// The results of the first step: the embedded broker with the defects of the Java broker, without them, and
/// the Java broker.
async fn play_on_all(brokers: &Brokers, case: &Case) -> [Seen; 3] {
    let [java, compat, plain] = brokers.ports();
    let broker = &brokers.compat;
    let played =
        tokio::join!(play(compat, case, broker), play(plain, case, broker), play(java, case, broker));
    [played.0, played.1, played.2].map(|mut seen| seen.remove(0).uncounted())
}

/// Returns the ends of the readable parts of a broker's partitions. These requests are not counted.
async fn offsets(port: u16, broker: &Broker) -> Vec<Seen> {
    play(port, &Case::new("offsets", vec![cases::ask("stats offsets 1\r\n")]), broker).await
}

/// A Java broker responds to a commit before its messages are stored: waits until they are, if ever.
async fn settle(java: u16, compat: u16, broker: &Broker) {
    let expected = offsets(compat, broker).await;
    let settled = timeout(QUIET * 20, async { while offsets(java, broker).await != expected {} });
    // A difference shows in the next steps.
    let _ = settled.await;
}

/// Reports the first step that differs.
fn unlike(case: &Case, what: &str, embedded: &[Seen], java: &[Seen]) -> String {
    let step = embedded.iter().zip(java).take_while(|(embedded, java)| embedded == java).count();
    let request = case.steps.get(step).map(|(request, _)| request.escape_ascii().to_string());
    let (embedded, java) = (embedded.get(step), java.get(step));
    format!("{}, {what}, step {step}: {request:?}\n  embedded: {embedded:?}\n  java:     {java:?}", case.name)
}

#[tokio::test]
async fn the_embedded_broker_responds_like_the_java_broker() {
    let Some(peers) = Peers::get("the_embedded_broker_responds_like_the_java_broker") else { return };
    let brokers = Brokers::start(&peers).await;
    let [java, compat, plain] = brokers.ports();
    let (mut steps, mut wrong) = (0, Vec::new());
    for case in cases::all() {
        steps += case.steps.len();
        let broker = &brokers.compat;
        let mut players = [compat, plain, java].map(|port| Player::new(port, Place(broker)));
        for (request, outcome, connection) in case.steps() {
            for player in &mut players {
                player.step(request, outcome, connection).await;
            }
            if request.windows(6).any(|word| word == b"COMMIT") {
                settle(java, compat, broker).await;
            }
        }
        let mut seen = players.into_iter().map(|player| player.seen);
        let (Some(alike), Some(well_behaved), Some(real)) = (seen.next(), seen.next(), seen.next()) else {
            unreachable!("there were three");
        };
        for (what, embedded, differs) in
            [("with compat", alike, case.always), ("well-behaved", well_behaved, case.differs)]
        {
            match differs {
                None if embedded != real => wrong.push(unlike(&case, what, &embedded, &real)),
                Some(reason) if embedded == real => {
                    wrong.push(format!("{}, {what}: there is no difference any more ({reason})", case.name));
                }
                _ => {}
            }
        }
    }
    println!("{steps} requests");
    assert!(steps >= 200, "{steps}");
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn the_embedded_broker_accepts_inputs_that_java_classes_accept() {
    let name = "the_embedded_broker_accepts_inputs_that_java_classes_accept";
    let Some(peers) = Peers::get(name) else { return };
    let brokers = Brokers::start(&peers).await;
    let cases = recorded::all();
    let count = cases.len();
    let (mut wrong, mut differences) = (Vec::new(), Vec::new());
    // These cases don't depend on stored messages, so they may run side by side; transactions would
    // interfere.
    for case in cases {
        let mut seen = play_on_all(&brokers, &case).await;
        // A Java broker on a busy machine is late at times: only repeated differences count.
        for _ in 0..2 {
            let [alike, well_behaved, real] = &seen;
            if alike.agrees_with(real) && well_behaved.agrees_with(real) {
                break;
            }
            seen = play_on_all(&brokers, &case).await;
        }
        let [alike, well_behaved, real] = seen;
        let request = &case.steps[0].0;
        if !alike.agrees_with(&real) {
            wrong.push(format!("{}: with compat\n  {alike:?}\n  is not\n  {real:?}", case.name));
        }
        if !well_behaved.agrees_with(&real) {
            match recorded::difference(request, well_behaved.closed && !real.closed) {
                Some(reason) => differences.push(format!("{}: {reason}", case.name)),
                None => wrong.push(format!("{}\n  {well_behaved:?}\n  is not\n  {real:?}", case.name)),
            }
        }
    }
    println!("{count} requests; differences where the embedded broker behaves well:");
    println!("{}", differences.join("\n"));
    assert!(!differences.is_empty());
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// The documentation lists every intended difference.
#[test]
fn every_difference_is_documented() {
    let documented = include_str!("../../../docs/embedded-broker.md");
    let cases = cases::all();
    let reasons = cases.iter().flat_map(|case| [case.differs, case.always]).flatten();
    for reason in reasons {
        assert!(documented.contains(&format!("| {reason} |")), "{reason}");
    }
}

/// A test of the comparison itself: it detects a broker whose response differs by one bit.
#[tokio::test]
async fn the_comparison_detects_a_difference() {
    let broker = Broker::builder().id(3).topic("test", 3).start().await.unwrap();
    let port = broker.addr().port();
    let case = Case::new("a put", vec![cases::ask("put test 0 5 0 -1 7\r\nhello")]);
    let first = play(port, &case, &broker).await;
    assert_eq!(first[0].answers, ["result 200 opaque 7: ID 0 0"]);
    assert_ne!(play(port, &case, &broker).await, first, "another offset");
    broker.faults().plan(Requests::puts(), metaq_testkit::Fault::refuse(500, "no"));
    assert_eq!(play(port, &case, &broker).await[0].answers, ["result 500 opaque 7: no"]);
    let case = Case::new("an answer too many", vec![cases::silent("version 5\r\n")]);
    assert_eq!(play(port, &case, &broker).await[0].answers.len(), 1);
}

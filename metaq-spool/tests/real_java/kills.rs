//! A program and its real Java broker that are killed, each in the midst of what the other one does.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::Path,
    time::Duration,
};

use metaq_producer::{Message, Outcome};
use metaq_spool::{Sent, SpoolHandle, SpoolOptions, SpoolingProducer};
use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};
use tokio::time::{Instant, sleep};

use crate::{
    form::{Account, PATIENCE, broker, open, options, start_again, topic},
    program::{Program, say},
};

const KEYS: usize = 6;

const PARTITIONS: &str = "0:3";

/// The pause of each sender. In order a spool is replayed one message after the other: what came faster would
/// be spooled for ever.
const PACE: Duration = Duration::from_millis(20);

/// The messages of a queue that may be sent twice after a kill.
const WINDOW: usize = 16;

fn windowed(folder: &Path) -> SpoolOptions {
    let mut options = options(folder, true);
    options.replay_window = WINDOW;
    options
}

/// The child: sends and reports until it is killed.
pub(crate) async fn sender(zookeeper: &str, topic: &str, folder: &str, partitions: &str, run: &str) {
    let topic = crate::form::topic(topic);
    let spool = open(zookeeper, &topic, partitions, windowed(Path::new(folder))).await;
    let senders: Vec<_> =
        (0..KEYS).map(|key| tokio::spawn(send(spool.clone(), topic.clone(), run.to_owned(), key))).collect();
    // Its test may end before it kills it.
    let mut orders = tokio::io::stdin();
    let _ = tokio::io::copy(&mut orders, &mut tokio::io::sink()).await;
    senders.iter().for_each(tokio::task::JoinHandle::abort);
}

async fn send(spool: SpoolingProducer, topic: metaq_producer::Topic, run: String, key: usize) {
    let mut handles: VecDeque<(String, SpoolHandle)> = VecDeque::new();
    for n in 0_u32.. {
        let payload = format!("{key}-{run}-{n:06}");
        let message = Message::new(topic.clone(), payload.clone()).with_key(format!("key {key}"));
        handles.push_back((payload, spool.enqueue(message).await.unwrap()));
        if handles.len() < 16 {
            continue;
        }
        let (payload, handle) = handles.pop_front().unwrap();
        match handle.await {
            Ok(Sent::Stored(_)) => say(format_args!("stored {payload}")),
            Ok(_) => say(format_args!("spooled {payload}")),
            Err(error) if error.outcome() == Outcome::Unknown => say(format_args!("unknown {payload}")),
            Err(error) => panic!("{error}"),
        }
        sleep(PACE).await;
    }
}

#[derive(Default)]
struct Reported {
    kept: BTreeSet<String>,
    unknown: BTreeSet<String>,
    counts: BTreeMap<String, usize>,
}

impl Reported {
    fn take(&mut self, line: &str) {
        let (word, payload) = line.split_once(' ').unwrap();
        *self.counts.entry(word.to_owned()).or_default() += 1;
        let all = if word == "unknown" { &mut self.unknown } else { &mut self.kept };
        all.insert(payload.to_owned());
    }

    async fn until_more(&mut self, program: &mut Program, count: usize, word: &str) {
        let wanted = self.counts.get(word).copied().unwrap_or(0) + count;
        let began = Instant::now();
        while self.counts.get(word).copied().unwrap_or(0) < wanted {
            assert!(began.elapsed() < PATIENCE, "no {count} more are {word}: {:?}", self.counts);
            let line = program.says().await;
            self.take(&line);
        }
    }

    async fn until_killed(&mut self, program: Program) {
        program.kill().await.iter().for_each(|line| self.take(line));
    }
}

/// Starts the broker again while the program goes on.
async fn meanwhile(
    broker: &mut JavaBroker,
    zookeeper: &ZooKeeper,
    program: &mut Program,
    all: &mut Reported,
) {
    let mut start = std::pin::pin!(start_again(broker, zookeeper));
    loop {
        tokio::select! {
            () = &mut start => return,
            line = program.says() => all.take(&line),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_programs_and_java_brokers_lose_nothing() {
    let Some(peers) = Peers::get("killed_programs_and_java_brokers_lose_nothing") else { return };
    let session = Duration::from_secs(1);
    let zookeeper = ZooKeeper::builder().session_timeouts(session, session * 60).start(&peers).await.unwrap();
    let builder = broker(0).topic("t", 3).session_timeout(session);
    let mut broker = builder.start(&peers, &zookeeper).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let connect = zookeeper.connect_string();
    let start = |run: u32| {
        let folder = folder.path().to_str().unwrap();
        Program::rust(&["sender", &connect, "t", folder, PARTITIONS, &format!("{run:04}")])
    };
    let moment = || sleep(Duration::from_millis(fastrand::u64(0..100)));
    let mut all = Reported::default();

    // The program is killed while messages are stored live.
    let mut program = start(0);
    all.until_more(&mut program, 300, "stored").await;
    moment().await;
    all.until_killed(program).await;

    // The broker is killed, and then the program while it spools.
    let mut program = start(1);
    all.until_more(&mut program, 200, "stored").await;
    broker.kill().await.unwrap();
    all.until_more(&mut program, 500, "spooled").await;
    moment().await;
    all.until_killed(program).await;

    // The program is started again without a broker, and is killed while it replays.
    let mut program = start(2);
    all.until_more(&mut program, 200, "spooled").await;
    meanwhile(&mut broker, &zookeeper, &mut program, &mut all).await;
    moment().await;
    all.until_killed(program).await;

    // Both are killed, the broker first, while what is left is replayed.
    let mut program = start(3);
    all.until_more(&mut program, 200, "spooled").await;
    moment().await;
    broker.kill().await.unwrap();
    moment().await;
    all.until_killed(program).await;

    start_again(&mut broker, &zookeeper).await;
    let spool = open(&connect, &topic("t"), PARTITIONS, windowed(folder.path())).await;
    let recovered = spool.stats().recovered;
    assert_eq!(spool.drain(PATIENCE).await, 0, "{:#?}", spool.stats());
    let stats = spool.stats();
    assert!(!stats.was_closed && stats.set_aside + stats.damaged == 0, "{stats:#?}");
    spool.close(Duration::from_secs(1)).await;
    let account = Account::of(&peers, &zookeeper, "t", &all.kept).await;
    account.assert_order(&all.unknown);
    let duplicates = account.duplicates();
    // After each of 4 kills, in each of 3 partitions and in the queue of the topic.
    assert!(duplicates <= 4 * 4 * WINDOW, "{duplicates}");
    println!(
        "reliability: 4 kills of the program, 2 of the broker: {:?}, 0 lost, {duplicates} stored twice, {recovered} replayed in the end",
        all.counts
    );
}

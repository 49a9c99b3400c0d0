//! An outage of minutes while a program sends at a steady rate, which is killed and started again within it.
//! The program is this binary again, so that its memory is measured alone. The figures are in
//! `docs/reliability.md`; `cargo xtask reliability` has the outage last for 3 minutes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the figures are of interest")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Write as _,
    process::Stdio,
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    stream::{FuturesUnordered, StreamExt as _},
};
use metaq_producer::{
    BrokerId, Message, Outcome, Producer, Topic,
    discovery::{StaticDiscovery, TopicView},
};
use metaq_spool::{Sent, SpoolHandle, SpoolOptions, SpoolingProducer};
use metaq_testkit::Broker;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

/// The interval and the number of messages offered at a time: 1,000 a second.
const TICK: Duration = Duration::from_millis(10);
const AT_A_TIME: usize = 10;

const PAYLOAD: usize = 128;

const PARTITIONS: u32 = 4;

/// Names the program's folder, the broker's address, and the number of the run.
const CHILD: &str = "METAQ_SPOOL_OUTAGE";

const SAID: &str = "said: ";

const PATIENCE: Duration = Duration::from_secs(60);

/// With its broker back, a spool has fewer messages after this time, until it has none.
const STANDSTILL: Duration = Duration::from_secs(20);

fn in_form<T>(short: T, full: T) -> T {
    if env::var("METAQ_RELIABILITY").is_ok_and(|form| form == "full") { full } else { short }
}

fn topic() -> Topic {
    "t".parse().unwrap()
}

fn say(line: &str) {
    // In one write: a kill leaves it out or complete.
    std::io::stdout().write_all(format!("{SAID}{line}\n").as_bytes()).unwrap();
}

/// The program: sends and reports until it is killed, or its input ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn program() {
    let Ok(arguments) = env::var(CHILD) else { return };
    let [folder, addr, run] = arguments.split(' ').collect::<Vec<_>>()[..] else { panic!("{arguments}") };
    let view = TopicView::new(topic()).with_broker(BrokerId(0), addr.parse().unwrap(), PARTITIONS);
    let producer = Producer::builder().discovery(StaticDiscovery::new([view])).build().unwrap();
    let spool = SpoolingProducer::open(producer, SpoolOptions::new(folder)).await.unwrap();
    // It waits for no broker: the topic is published in the background.
    let _ = spool.publish_topic(&topic()).now_or_never();
    let (handles, reported) = mpsc::unbounded_channel();
    let reporting = tokio::spawn(report(reported));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut offered = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => for _ in 0..AT_A_TIME {
                let name = format!("{run}-{offered:08}");
                offered += 1;
                let message = Message::new(topic(), format!("{name:.<PAYLOAD$}"));
                let began = Instant::now();
                handles.send((name, began, spool.enqueue(message).await.unwrap())).unwrap();
            },
            line = lines.next_line() => match line.unwrap().as_deref() {
                Some("waiting") => say(&format!("waiting {}", spool.stats().waiting)),
                _ => break,
            },
        }
    }
    drop(handles);
    let slowest = reporting.await.unwrap();
    assert_eq!(spool.drain(PATIENCE).await, 0, "{:#?}", spool.stats());
    let stats = spool.stats();
    say(&format!("end {} {} {}", slowest.as_millis(), stats.unknown_attempts, stats.maybe_duplicates));
    spool.close(Duration::from_secs(5)).await;
}

/// Reports the outcome of each message, and returns the longest time that one took.
async fn report(mut handles: mpsc::UnboundedReceiver<(String, Instant, SpoolHandle)>) -> Duration {
    let (mut under_way, mut slowest, mut is_open) = (FuturesUnordered::new(), Duration::ZERO, true);
    while is_open || !under_way.is_empty() {
        tokio::select! {
            next = handles.recv(), if is_open => match next {
                Some((name, began, handle)) => under_way.push(async move { (name, began, handle.await) }),
                None => is_open = false,
            },
            Some((name, began, outcome)) = under_way.next() => {
                slowest = slowest.max(began.elapsed());
                match outcome {
                    Ok(Sent::Stored(_)) => say(&format!("stored {name}")),
                    Ok(_) => say(&format!("spooled {name}")),
                    Err(error) if error.outcome() == Outcome::Unknown => say(&format!("unknown {name}")),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    slowest
}

/// The test's end of the program, and what it has reported.
struct Running {
    child: Child,
    orders: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

#[derive(Default)]
struct Reported {
    kept: BTreeSet<String>,
    counts: BTreeMap<String, usize>,
}

impl Reported {
    fn count(&self, word: &str) -> usize {
        self.counts.get(word).copied().unwrap_or(0)
    }
}

impl Running {
    fn start(arguments: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "program", "--nocapture"]).env(CHILD, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (orders, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, orders, output: BufReader::new(output).lines() }
    }

    /// The next line that says something else than what became of a message, which is noted; none at its end.
    async fn next(&mut self, reported: &mut Reported) -> Option<String> {
        loop {
            let line = self.output.next_line().await.unwrap()?;
            let Some(at) = line.find(SAID) else { continue };
            let said = &line[at + SAID.len()..];
            let (word, name) = said.split_once(' ').unwrap();
            if !["stored", "spooled", "unknown"].contains(&word) {
                return Some(said.to_owned());
            }
            *reported.counts.entry(word.to_owned()).or_default() += 1;
            if word != "unknown" {
                reported.kept.insert(name.to_owned());
            }
        }
    }

    async fn waiting(&mut self, reported: &mut Reported) -> u64 {
        self.orders.write_all(b"waiting\n").await.unwrap();
        let said = timeout(PATIENCE, self.next(reported)).await.unwrap().unwrap();
        said.strip_prefix("waiting ").unwrap().parse().unwrap()
    }

    /// Waits until it has reported this number more as `word`.
    async fn until_more(&mut self, count: usize, word: &str, reported: &mut Reported) {
        let wanted = reported.count(word) + count;
        while reported.count(word) < wanted {
            self.waiting(reported).await;
        }
    }

    /// Its resident memory now, or at most, in KiB.
    fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().strip_suffix("kB").unwrap().trim().parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_long_outage_loses_nothing_and_is_drained() {
    let (folder, of_broker) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let builder = Broker::builder().topic("t", PARTITIONS).data_dir(of_broker.path());
    let broker = builder.start().await.unwrap();
    let addr = broker.addr().to_string();
    let start = |run: usize| Running::start(&format!("{} {addr} {run}", folder.path().display()));
    let mut reported = Reported::default();
    let half = in_form(2_000, 90_000);

    let mut program = start(0);
    program.until_more(1_000, "stored", &mut reported).await;
    let builder = broker.kill().await;
    let away = Instant::now();
    program.until_more(half, "spooled", &mut reported).await;
    program.child.start_kill().unwrap();
    while program.next(&mut reported).await.is_some() {}
    assert_eq!(program.child.wait().await.unwrap().code(), None, "it was killed");

    let restarted = Instant::now();
    let mut program = start(1);
    program.until_more(1, "spooled", &mut reported).await;
    let restart = restarted.elapsed();
    let at_first = program.memory("VmRSS");
    program.until_more(half, "spooled", &mut reported).await;
    let at_last = program.memory("VmRSS");
    let waiting = program.waiting(&mut reported).await;

    let broker = builder.start().await.unwrap();
    let (back, outage) = (Instant::now(), away.elapsed());
    // How long it takes depends on what else the machine does; that it goes on does not.
    let (mut least, mut changed) = (u64::MAX, Instant::now());
    while least > 0 {
        let left = program.waiting(&mut reported).await;
        if left < least {
            (least, changed) = (left, Instant::now());
        }
        assert!(
            changed.elapsed() < STANDSTILL,
            "{least} messages wait, and none was sent for {STANDSTILL:?}"
        );
    }
    let drained = back.elapsed();
    program.until_more(500, "stored", &mut reported).await;
    let peak = program.memory("VmHWM");
    program.orders.write_all(b"end\n").await.unwrap();
    let said = timeout(PATIENCE, program.next(&mut reported)).await.unwrap().unwrap();
    let figures: Vec<u64> = said.split(' ').skip(1).map(|figure| figure.parse().unwrap()).collect();
    let [slowest, unknown_attempts, maybe_duplicates] = figures[..] else { panic!("{said}") };
    while program.next(&mut reported).await.is_some() {}
    assert!(program.child.wait().await.unwrap().success());

    let mut stored = BTreeMap::<String, usize>::new();
    for message in broker.messages("t") {
        let payload = std::str::from_utf8(&message.payload).unwrap();
        *stored.entry(payload.trim_end_matches('.').to_owned()).or_default() += 1;
    }
    let lost = reported.kept.iter().filter(|name| !stored.contains_key(*name)).count();
    let duplicates: usize = stored.values().map(|count| count - 1).sum();
    let build = if cfg!(debug_assertions) { "an unoptimised build" } else { "a release build" };
    println!(
        "reliability: a spool, the broker away for {:.1} s at 1,000 messages of {PAYLOAD} B/s, the program killed and \
         restarted within, {build}: {lost} lost of {} ({} stored live, {} spooled), {} unknown, {duplicates} stored twice; \
         first message spooled {} ms after the restart; {waiting} waited, drained {:.2} s after the broker was back; \
         slowest report {slowest} ms; memory {at_first} KiB after the restart, {at_last} KiB at the end of the outage, \
         {peak} KiB at most",
        outage.as_secs_f64(),
        reported.kept.len(),
        reported.count("stored"),
        reported.count("spooled"),
        reported.count("unknown"),
        restart.as_millis(),
        drained.as_secs_f64(),
    );
    assert_eq!(lost, 0);
    assert!(duplicates as u64 <= unknown_attempts + maybe_duplicates, "{duplicates} stored twice: {said}");
    assert!(peak <= 96 * 1024, "{peak} KiB");
}

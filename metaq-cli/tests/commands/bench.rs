//! `metaq bench` as a process.

use std::time::Duration;

use metaq_testkit::{Broker, Fault, Requests};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::common::{Finished, Metaq};

/// The keys of the JSON line, in order.
const KEYS: [&str; 9] = [
    "messages",
    "elapsed_s",
    "msgs_per_s",
    "p50_us",
    "p99_us",
    "p999_us",
    "cpu_us_per_msg",
    "max_rss_kib",
    "failures",
];

async fn bench(cluster: &str, topic: &str, more: &[&str]) -> Finished {
    Metaq::start(&args(cluster, topic, more)).finish(b"").await
}

fn args<'a>(cluster: &'a str, topic: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["bench", "--cluster", cluster, "--topic", topic], more].concat()
}

/// Parses the figures on the last line.
fn figures(finished: &Finished) -> Value {
    serde_json::from_str(finished.stdout.lines().last().unwrap()).unwrap()
}

fn number(figures: &Value, key: &str) -> f64 {
    figures[key].as_f64().unwrap_or_else(|| panic!("{key} in {figures}"))
}

#[tokio::test]
async fn the_last_line_has_exactly_these_keys_and_they_fit_together() {
    let broker = Broker::builder().topic("t", 3).start().await.unwrap();
    let more = ["--messages", "2000", "--size", "100", "--in-flight", "64", "--warmup", "500", "--json"];
    let finished = bench(&broker.addr().to_string(), "t", &more).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));

    let line = finished.stdout.lines().last().unwrap();
    let at: Vec<_> = KEYS.iter().map(|key| line.find(&format!("\"{key}\":"))).collect();
    assert!(at.iter().all(Option::is_some) && at.is_sorted(), "{line}");
    let figures = figures(&finished);
    assert_eq!(figures.as_object().unwrap().len(), KEYS.len(), "{line}");
    assert_eq!((&figures["messages"], &figures["failures"]), (&2000.into(), &0.into()));
    let number = |key| number(&figures, key);
    assert!((number("msgs_per_s") * number("elapsed_s") - 2000.0).abs() < 0.5, "{line}");
    assert!(0.0 < number("p50_us") && number("p50_us") <= number("p99_us"), "{line}");
    assert!(
        number("p99_us") <= number("p999_us") && number("p999_us") <= number("elapsed_s") * 1e6,
        "{line}"
    );
    // Half of the messages took at least the median, with 64 in flight.
    assert!(number("p50_us") * 1000.0 / 64.0 <= number("elapsed_s") * 1e6, "{line}");
    assert!((0.1..10_000.0).contains(&number("cpu_us_per_msg")), "{line}");
    assert!((1024.0..1_048_576.0).contains(&number("max_rss_kib")), "{line}");

    let stored = broker.messages("t");
    assert_eq!(stored.len(), 2500, "the warm-up is sent, too");
    assert!(stored.iter().all(|message| message.payload.len() == 100 && message.attribute.is_none()));
}

#[tokio::test]
async fn without_json_there_is_a_table_for_people() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let more = ["--messages", "10", "--size", "0", "--in-flight", "4"];
    let finished = bench(&broker.addr().to_string(), "t", &more).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    let names: Vec<_> = finished.stdout.lines().map(|line| line.split("  ").next().unwrap()).collect();
    let expected = [
        "messages",
        "failures",
        "time",
        "rate",
        "latency p50",
        "latency p99",
        "latency p99.9",
        "CPU",
        "memory",
    ];
    assert_eq!(names, expected, "{}", finished.stdout);
    assert!(finished.stdout.contains("10 of 0 bytes, 4 in flight"), "{}", finished.stdout);
    assert_eq!(broker.messages("t").len(), 10);
}

#[tokio::test]
async fn the_window_may_exceed_the_messages_and_the_default_limit() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    for (messages, size, in_flight) in [("3", "1048556", "65536"), ("50000", "1", "40000")] {
        let more =
            ["--messages", messages, "--size", size, "--in-flight", in_flight, "--timeout", "60s", "--json"];
        let finished = bench(&broker.addr().to_string(), "t", &more).await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""));
        assert_eq!(figures(&finished)["messages"].to_string(), messages);
    }
    assert_eq!(broker.messages("t").len(), 50_003);
}

#[tokio::test]
async fn rejected_messages_are_counted_and_the_first_error_printed() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let addr = broker.addr().to_string();
    let more = ["--messages", "100", "--size", "8", "--in-flight", "8", "--json"];
    let finished = bench(&addr, "unknown", &more).await;
    assert_eq!(finished.status, 7);
    let figures = figures(&finished);
    assert_eq!((&figures["messages"], &figures["failures"]), (&100.into(), &100.into()));
    assert_eq!((number(&figures, "msgs_per_s"), number(&figures, "p50_us")), (0.0, 0.0));
    assert!(
        finished.stderr.starts_with("metaq: 100 of 100 messages failed, the first: "),
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains("The server do not accept topic unknown"), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1);
}

#[tokio::test]
async fn failures_of_the_warm_up_are_reported_and_set_the_status() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    broker.faults().plan(Requests::puts().only(1), Fault::refuse(500, "not yet"));
    let more = ["--messages", "10", "--size", "8", "--in-flight", "1", "--warmup", "2", "--json"];
    let finished = bench(&broker.addr().to_string(), "t", &more).await;
    assert_eq!(finished.status, 7);
    let figures = figures(&finished);
    assert_eq!((&figures["messages"], &figures["failures"]), (&10.into(), &0.into()));
    let said = "metaq: 1 message failed during the warm-up, the first: ";
    assert!(finished.stderr.starts_with(said) && finished.stderr.contains("not yet"), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1);
}

#[tokio::test]
async fn a_broker_that_lists_no_partitions_chooses_one() {
    let addr = start_broker_without_statistics().await;
    let more = ["--messages", "500", "--size", "16", "--in-flight", "8", "--json"];
    let finished = bench(&addr, "t", &more).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    assert_eq!(figures(&finished)["failures"], 0);
}

#[tokio::test]
async fn errors_name_any_partition_in_words() {
    let addr = start_broker_without_statistics().await;
    let finished = bench(&addr, "t", &["--messages", "1", "--size", "0", "--in-flight", "1"]).await;
    let said = format!("message to topic t, any partition of broker {addr} was rejected");
    assert!(finished.status == 7 && finished.stderr.contains(&said), "{}", finished.stderr);
    let finished = Metaq::start(&["produce", "--cluster", &addr, "--topic", "t"]).finish(b"\n").await;
    assert!(finished.status == 7 && finished.stdout.contains(&said), "{}", finished.stdout);
}

/// Starts a broker without statistics, and returns its address.
async fn start_broker_without_statistics() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = format!("meta://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer_puts_to_any_partition(stream));
        }
    });
    addr
}

/// Answers as a broker without statistics, which accepts only puts to partition -1 that are not empty.
async fn answer_puts_to_any_partition(stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await.unwrap_or(0) > 0 {
        let words: Vec<_> = line.split_whitespace().collect();
        let opaque = words.last().unwrap();
        let answer = if words[0] == "put" {
            let mut payload = vec![0; words[3].parse().unwrap()];
            stream.read_exact(&mut payload).await.unwrap();
            let is_accepted = words[2] == "-1" && !payload.is_empty();
            let (code, body) = if is_accepted { (200, "-1 0 0") } else { (500, "refused") };
            format!("result {code} {} {opaque}\r\n{body}", body.len())
        } else {
            format!("result 503 0 {opaque}\r\n")
        };
        stream.write_all(answer.as_bytes()).await.unwrap();
        line.clear();
    }
}

#[tokio::test]
async fn a_signal_stops_it_and_the_figures_are_printed() {
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let broker = Broker::builder().topic("t", 1).start().await.unwrap();
        let addr = broker.addr().to_string();
        let most = u64::MAX.to_string();
        let more = ["--messages", &most, "--size", "1", "--in-flight", "2", "--json"];
        let metaq = Metaq::start(&args(&addr, "t", &more));
        let some_are_stored = async {
            while broker.messages("t").len() < 100 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), some_are_stored).await.unwrap();
        metaq.signal(signal);
        let finished = metaq.wait().await;
        assert_eq!((finished.status, &*finished.stderr), (status, ""));
        let figures = figures(&finished);
        assert_eq!(
            (&figures["failures"], number(&figures, "messages") as usize),
            (&0.into(), broker.messages("t").len())
        );
    }
}

#[tokio::test]
async fn a_signal_during_the_warm_up_leaves_zero_figures() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let addr = broker.addr().to_string();
    let most = u64::MAX.to_string();
    let more = ["--messages", &most, "--warmup", &most, "--size", "1", "--in-flight", "2", "--json"];
    let metaq = Metaq::start(&args(&addr, "t", &more));
    while broker.messages("t").is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    metaq.signal(Signal::SIGINT);
    let finished = metaq.wait().await;
    assert_eq!((finished.status, &*finished.stderr), (130, ""));
    let figures = figures(&finished);
    for key in KEYS.iter().filter(|key| !["elapsed_s", "max_rss_kib"].contains(key)) {
        assert_eq!(number(&figures, key), 0.0, "{key} in {figures}");
    }
}

#[tokio::test]
async fn a_closed_stdout_ends_it_without_a_message() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let addr = broker.addr().to_string();
    let mut metaq = Metaq::start(&args(&addr, "t", &["--messages", "9", "--size", "1", "--in-flight", "1"]));
    metaq.close_stdout();
    let finished = metaq.wait().await;
    assert_eq!((finished.status, finished.stderr.as_str()), (141, ""));
}

#[tokio::test]
async fn wrong_usage_exits_with_2_and_says_what_is_wrong() {
    let right =
        ["--cluster", "meta://h:1", "--topic", "t", "--messages", "1", "--size", "1", "--in-flight", "1"];
    for (option, value, said) in [
        ("--cluster", "h:1", "expected zk://HOST:PORT"),
        ("--topic", "a b", "contains a space"),
        ("--messages", "0", "0 is not in 1.."),
        ("--messages", "many", "expected a whole number"),
        ("--messages", "18446744073709551616", "the number is too large"),
        ("--size", "1048557", "1048557 is not in 0..=1048556"),
        ("--size", "-1", "--size"),
        ("--in-flight", "0", "0 is not in 1..=65536"),
        ("--in-flight", "65537", "65537 is not in 1..=65536"),
        ("--timeout", "0ms", "'--timeout <TIMEOUT>': must be greater than zero"),
    ] {
        let mut args = [&["bench", "--timeout", "1s"], &right[..]].concat();
        let at = args.iter().position(|arg| *arg == option).unwrap();
        args[at + 1] = value;
        let finished = Metaq::start(&args).finish(b"").await;
        assert_eq!((finished.status, &*finished.stdout), (2, ""), "{option} {value}");
        assert!(finished.stderr.contains(said), "{option} {value}: {}", finished.stderr);
        if option == "--timeout" {
            continue;
        }
        // Each of the other options is required.
        args.drain(at..at + 2);
        let finished = Metaq::start(&args).finish(b"").await;
        assert_eq!((finished.status, &*finished.stdout), (2, ""), "without {option}");
        assert!(finished.stderr.contains(option), "without {option}: {}", finished.stderr);
    }
}

#[tokio::test]
async fn an_unreachable_cluster_gives_one_line_and_no_figures() {
    let port = metaq_testkit::unused_addr().unwrap().port();
    let addr = format!("meta://127.0.0.1:{port}");
    let finished = bench(&addr, "t", &["--messages", "1", "--size", "1", "--in-flight", "1", "--json"]).await;
    assert_eq!((finished.status, &*finished.stdout, finished.stderr.lines().count()), (5, "", 1));
    assert!(
        finished.stderr.starts_with("metaq: can't send: ") && finished.stderr.contains(&addr),
        "{}",
        finished.stderr
    );
}

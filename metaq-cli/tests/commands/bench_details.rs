//! `metaq bench` at a rate, for a time, with further figures, and its files.

use std::{fs, time::Duration};

use metaq_testkit::{Broker, Fault, Requests};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::{Finished, Metaq, broker, wait_until};

async fn bench(broker: &Broker, more: &str) -> Finished {
    Metaq::start(&args(&broker.addr().to_string(), more)).finish(b"").await
}

fn args<'a>(cluster: &'a str, more: &'a str) -> Vec<&'a str> {
    ["bench", "--topic", "t", "--json", "--cluster", cluster].into_iter().chain(more.split(' ')).collect()
}

fn figures(finished: &Finished) -> Value {
    serde_json::from_str(finished.stdout.lines().last().unwrap()).unwrap()
}

fn number(figures: &Value, key: &str) -> f64 {
    figures[key].as_f64().unwrap_or_else(|| panic!("{key} in {figures}"))
}

#[tokio::test]
async fn details_follow_the_figures_that_were_there_before() {
    let broker = broker().await;
    let finished = bench(&broker, "--messages 2000 --size 1000 --in-flight 32 --details").await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    let line = finished.stdout.lines().last().unwrap();
    let keys = [
        "\"failures\":",
        "\"p90_us\":",
        "\"max_us\":",
        "\"mb_per_s\":",
        "\"connections\":",
        "\"limited_by\":",
    ];
    let at: Vec<_> = keys.iter().map(|key| line.find(key)).collect();
    assert!(at.iter().all(Option::is_some) && at.is_sorted(), "{line}");
    let figures = figures(&finished);
    let number = |key| number(&figures, key);
    assert!(number("p50_us") <= number("p90_us") && number("p90_us") <= number("p99_us"), "{figures}");
    assert!(number("p999_us") <= number("max_us") && number("round_trip_us") > 0.0, "{figures}");
    assert!(
        (number("mb_per_s") - number("msgs_per_s") / 1000.0).abs() < 1e-6 * number("mb_per_s"),
        "{figures}"
    );
    assert!(["caller", "socket", "broker", "permits"].iter().any(|limit| figures["limited_by"] == *limit));
    let names: Vec<_> = finished.stdout.lines().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(
        names[9..13],
        ["latency p90", "latency max", "throughput", "limited by"],
        "{}",
        finished.stdout
    );
}

#[tokio::test]
async fn rate_is_kept_and_named_as_the_limit() {
    let broker = broker().await;
    let finished = bench(&broker, "--rate 500 --duration 2s --size 16 --in-flight 64").await;
    assert_eq!(finished.status, 0, "{}", finished.stderr);
    let figures = figures(&finished);
    assert_eq!(number(&figures, "asked_per_s"), 500.0);
    let messages = number(&figures, "messages");
    assert!(messages >= 100.0 && messages <= 500.0 * number(&figures, "elapsed_s") + 1.0, "{figures}");
    assert!(number(&figures, "late_p99_us") >= 0.0);
    // A busy machine may not keep the rate.
    let is_kept = number(&figures, "msgs_per_s") >= 0.95 * 500.0;
    assert_eq!(figures["limited_by"] == "rate", is_kept, "{figures}");
    assert_eq!(broker.messages("t").len(), messages as usize);
}

#[tokio::test]
async fn pause_of_the_broker_counts_for_every_message_that_was_due() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let pause = Duration::from_millis(600);
    // With one in flight, those that are due meanwhile wait for the one that is answered late.
    broker.faults().plan(Requests::puts().only(100), Fault::Late(pause));
    let more = "--messages 400 --size 16 --in-flight 1";
    let open = figures(&bench(&broker, &format!("{more} --rate 400")).await);
    assert!(
        number(&open, "p90_us") > 100_000.0,
        "most messages were due during the pause or after it: {open}"
    );
    broker.faults().plan(Requests::puts().only(100), Fault::Late(pause));
    let closed = figures(&bench(&broker, &format!("{more} --details")).await);
    // Here it is the latency of one message, and the others are sent later.
    assert!(number(&closed, "max_us") >= 600_000.0 && number(&closed, "p50_us") < 600_000.0, "{closed}");
}

#[tokio::test]
async fn duration_ends_the_run_after_the_warm_up() {
    let broker = broker().await;
    let finished = bench(&broker, "--duration 500ms --warmup 300 --size 16 --in-flight 8").await;
    let figures = figures(&finished);
    assert_eq!((finished.status, &figures["failures"]), (0, &0.into()));
    assert!((0.4..20.0).contains(&number(&figures, "elapsed_s")), "{figures}");
    assert_eq!(broker.messages("t").len(), number(&figures, "messages") as usize + 300);
    let finished = bench(&broker, "--duration 1h --messages 10 --size 16 --in-flight 8").await;
    assert_eq!(self::figures(&finished)["messages"], 10);
}

#[tokio::test]
async fn payloads_are_zero_random_or_lines_in_turn() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("payloads").display().to_string();
    fs::write(&file, "one\n\nthree").unwrap();
    type IsRight = fn(&[u8]) -> bool;
    let cases: [(&str, IsRight); 3] = [
        ("--size 64 --payload zero", |payload| payload == [0; 64]),
        ("--size 64 --payload random", |payload| {
            payload.len() == 64 && payload.iter().any(|byte| *byte > 127)
        }),
        ("--payload FILE", |payload| [&b"one"[..], b"", b"three"].contains(&payload)),
    ];
    for (options, is_right) in cases {
        let broker = Broker::builder().topic("t", 1).start().await.unwrap();
        let options = options.replace("FILE", &file);
        let finished = bench(&broker, &format!("--messages 30 --in-flight 4 {options}")).await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""), "{options}");
        let stored = broker.messages("t");
        assert!(stored.len() == 30 && stored.iter().all(|message| is_right(&message.payload)), "{options}");
        if options.contains(&file) {
            assert_eq!(stored.iter().filter(|message| message.payload == "one").count(), 10);
            assert!(finished.stdout.contains("30 of 0 to 5 bytes, 4 in flight"), "{}", finished.stdout);
        }
    }
    let broker = broker().await;
    for (path, said) in [("/no/such/file", "No such file"), ("/dev/null", "it has no line")] {
        let finished = bench(&broker, &format!("--messages 1 --in-flight 1 --payload {path}")).await;
        assert_eq!((finished.status, &*finished.stdout), (2, ""));
        assert!(finished.stderr.contains("the payloads can't be read") && finished.stderr.contains(said));
    }
}

#[tokio::test]
async fn connections_are_as_many_as_asked_for() {
    let broker = broker().await;
    let finished = bench(&broker, "--messages 100 --size 1 --in-flight 8 --connections 3").await;
    assert_eq!(number(&figures(&finished), "connections"), 3.0);
    // One more measures the round trip, and one asks for the partitions.
    assert!((3..=5).contains(&broker.accepted_connections()), "{}", broker.accepted_connections());
}

#[tokio::test]
async fn runs_are_compared_and_written_to_files() {
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (old, hdr, plot) = (path("old.json"), path("run.hgrm"), path("run.svg"));
    let first = bench(&broker, "--messages 500 --size 16 --in-flight 8 --details").await;
    fs::write(&old, &first.stdout).unwrap();
    let more = format!("--messages 500 --size 16 --in-flight 8 --compare {old} --hdr {hdr} --plot {plot}");
    let finished = bench(&broker, &more).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    let lines: Vec<_> = finished.stdout.lines().collect();
    let head = lines.iter().position(|line| line.split_whitespace().eq(["old", "new", "change"])).unwrap();
    let compared: Vec<_> =
        lines[head + 1..head + 10].iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(compared[..3], ["msgs_per_s", "mb_per_s", "p50_us"], "{}", finished.stdout);
    let hdr = fs::read_to_string(&hdr).unwrap();
    assert!(hdr.trim_start().starts_with("Value") && hdr.contains("Total count    =          500]"), "{hdr}");
    let svg = fs::read_to_string(&plot).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains("500 messages of 16 bytes, 8 in flight"), "{svg}");

    fs::write(&old, "no figures\n").unwrap();
    let refused = bench(&broker, &more).await;
    assert_eq!((refused.status, &*refused.stdout), (2, ""));
    assert!(refused.stderr.contains("its last line is not that of metaq bench --json"), "{}", refused.stderr);
    let stored = broker.messages("t").len();
    fs::write(&old, "one\n").unwrap();
    let refused = bench(&broker, &format!("--messages 5 --size 1 --in-flight 1 --payload {old}")).await;
    assert_eq!((refused.status, &*refused.stdout), (2, ""));
    assert!(refused.stderr.contains("have their own sizes; leave --size out"), "{}", refused.stderr);
    assert_eq!(broker.messages("t").len(), stored, "none of these begins");
}

#[tokio::test]
async fn files_are_opened_before_anything_is_sent() {
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let name = path.display();
    let run = "--messages 5 --size 1 --in-flight 1";
    for (more, status, said) in [
        ("--hdr /no/such/folder/file".to_owned(), 8, "/no/such/folder/file can't be written"),
        ("--plot /no/such/folder/file".to_owned(), 8, "/no/such/folder/file can't be written"),
        (format!("--hdr {name} --plot {name}"), 2, "is the file of --hdr and of --plot"),
    ] {
        let failed = bench(&broker, &format!("{run} {more}")).await;
        assert_eq!((failed.status, &*failed.stdout), (status, ""), "{more}: {}", failed.stderr);
        assert!(failed.stderr.contains(said), "{more}: {}", failed.stderr);
    }
    assert!(broker.messages("t").is_empty());
    // A longer file from before is replaced.
    fs::write(&path, "~".repeat(100_000)).unwrap();
    assert_eq!(bench(&broker, &format!("{run} --hdr {name}")).await.status, 0);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.trim_start().starts_with("Value") && !text.contains('~'), "{text}");
}

#[tokio::test]
async fn output_has_the_form_that_is_asked_for() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let run = ["--messages", "5", "--size", "1", "--in-flight", "1", "--cluster", &cluster];
    let start = |form| Metaq::start(&[&["bench", "--topic", "t", "--output", form][..], &run].concat());
    let finished = start("json").finish(b"").await;
    let lines = finished.json();
    assert_eq!((finished.status, lines.len(), &lines[0]["messages"]), (0, 1, &5.into()));
    let finished = start("plain").finish(b"").await;
    assert!(finished.stdout.starts_with("messages\t5 of 1 bytes, 1 in flight\nfailures\t0\n"));
    assert!(finished.stdout.lines().all(|line| line.split('\t').count() == 2), "{}", finished.stdout);
}

#[tokio::test]
async fn timeout_of_the_settings_holds() {
    let broker = broker().await;
    broker.faults().plan(Requests::puts(), Fault::Ignore);
    let finished = bench(&broker, "--messages 1 --size 1 --in-flight 1 -X send_timeout=2s").await;
    assert_eq!(finished.status, 6, "{}", finished.stderr);
    // Without it, the default of --timeout would hold, which is 3 s.
    assert!(number(&figures(&finished), "elapsed_s") < 2.95, "{}", finished.stdout);
}

#[tokio::test]
async fn signal_ends_a_run_at_a_rate() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let metaq = Metaq::start(&args(&cluster, "--rate 2 --duration 1h --size 1 --in-flight 4"));
    wait_until(|| !broker.messages("t").is_empty()).await;
    metaq.signal(Signal::SIGINT);
    let finished = metaq.wait().await;
    assert_eq!(finished.status, 130);
    assert_eq!(number(&figures(&finished), "messages") as usize, broker.messages("t").len());
}

#[tokio::test]
async fn second_signal_says_that_there_are_no_figures() {
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let broker = Broker::builder().topic("t", 1).start().await.unwrap();
        // Those that are in flight never end.
        let puts = broker.record(Requests::puts());
        broker.faults().plan(Requests::puts(), Fault::Ignore);
        let cluster = broker.addr().to_string();
        let more = "-t t --messages 1000000000 --size 1 --in-flight 4 --timeout 1h";
        let mut metaq = Metaq::start(
            &["bench", "--cluster", &cluster].into_iter().chain(more.split(' ')).collect::<Vec<_>>(),
        );
        wait_until(|| puts.count() == 4).await;
        let signals = async {
            while metaq.is_running() {
                metaq.signal(signal);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), signals).await.unwrap();
        let finished = metaq.wait().await;
        assert_eq!((finished.status, &*finished.stdout), (status, ""), "{}", finished.stderr);
        let text = "metaq: a second signal ended the program before there were figures; ";
        assert!(finished.stderr.starts_with(text), "{}", finished.stderr);
        assert!(finished.stderr.ends_with("; 0 messages have an outcome\n"), "{}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    }
}

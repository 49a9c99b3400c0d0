//! `metaq topics`, `partitions`, `brokers` and `stats` as processes.

use std::{fs, time::Duration};

use metaq_testkit::{Broker, Fault, Requests};
use nix::sys::signal::Signal;

use crate::common::{Finished, Metaq, broker, restart};

/// Runs `metaq COMMAND --cluster CLUSTER`.
async fn run(command: &str, cluster: &str) -> Finished {
    let args: Vec<_> = command.split(' ').chain(["--cluster", cluster]).collect();
    Metaq::start(&args).finish(b"").await
}

/// A file of brokers with topic `t`: two that run, and one that does not.
async fn cluster() -> (Vec<Broker>, tempfile::TempDir, String) {
    let mut brokers = Vec::new();
    for id in 0..2 {
        let builder = Broker::builder().id(id).topic("t", 2).topic("orders", 1);
        brokers.push(Box::pin(builder.start()).await.unwrap());
    }
    let away = metaq_testkit::unused_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("brokers.toml");
    let text = format!(
        "[brokers]\n0 = \"{}\"\n1 = \"{}\"\n2 = \"meta://{away}\"\n[topics.t]\n0 = 2\n1 = 2\n[topics.lost]\n2 = 1\n",
        brokers[0].addr(),
        brokers[1].addr()
    );
    fs::write(&file, text).unwrap();
    let cluster = format!("file:{}", file.display());
    (brokers, folder, cluster)
}

#[tokio::test]
async fn topics_are_listed_with_their_brokers() {
    let (brokers, _folder, cluster) = cluster().await;
    let finished = run("topics", &cluster).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    let lines: Vec<_> = finished.stdout.lines().collect();
    assert_eq!(lines, ["TOPIC  PARTITIONS  BROKERS", "lost   1           2:1", "t      4           0:2 1:2"]);
    let finished = run("topics t --json", &cluster).await;
    let expected = format!(
        "{{\"topic\":\"t\",\"partitions\":4,\"brokers\":[{{\"id\":0,\"addr\":\"{}\",\"partitions\":2}},{{\"id\":1,\
         \"addr\":\"{}\",\"partitions\":2}}]}}\n",
        brokers[0].addr(),
        brokers[1].addr()
    );
    assert_eq!((finished.status, finished.stdout), (0, expected));
    let finished = run("topics none", &cluster).await;
    assert_eq!((finished.status, &*finished.stdout), (4, ""));
    assert!(finished.stderr.starts_with("metaq: no broker offers topic none; check"), "{}", finished.stderr);
}

#[tokio::test]
async fn partitions_have_offsets_on_request() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let args = ["produce", "--cluster", &cluster, "--topic", "t"];
    assert_eq!(Metaq::start(&args).finish(b"one\ntwo\nthree\n").await.status, 0);
    let finished = run("partitions t", &cluster).await;
    assert_eq!(finished.stdout, format!("PARTITION  BROKER\n0-0        {cluster}\n0-1        {cluster}\n"));
    let lines = run("partitions t --offsets --json", &cluster).await.json();
    let ends: Vec<_> = lines.iter().map(|line| line["end"].as_i64().unwrap()).collect();
    assert_eq!(ends, [0, 1].map(|index| broker.log("t", index).len() as i64));
    assert_eq!(ends.iter().sum::<i64>(), 3 * 20 + 11);
    assert!(lines.iter().all(|line| line["first"] == 0 && line["topic"] == "t"));
    let finished = run("partitions none", &cluster).await;
    assert_eq!((finished.status, &*finished.stdout), (4, ""));
}

#[tokio::test]
async fn broker_that_is_away_has_an_error_and_the_others_answer() {
    let (_brokers, _folder, cluster) = cluster().await;
    let finished = run("brokers --ping", &cluster).await;
    assert_eq!((finished.status, finished.stderr.lines().count()), (5, 1), "{}", finished.stderr);
    assert!(finished.stderr.starts_with("metaq: connecting to broker meta://127.0.0.1:"));
    let lines: Vec<_> = finished.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[1].contains("0.1") && lines[1].ends_with(" µs"), "{lines:?}");
    assert!(lines[3].starts_with("2 ") && lines[3].ends_with("no answer"), "{lines:?}");
    let finished = run("brokers --ping --json", &cluster).await;
    let lines = finished.json();
    assert_eq!(
        (&lines[0]["id"], &lines[0]["version"], &lines[0]["topics"]),
        (&0.into(), &"0.1".into(), &1.into())
    );
    assert!(lines[1]["round_trip_us"].as_f64().unwrap() > 0.0);
    assert!(lines[2]["error"].as_str().unwrap().contains("connecting to broker"), "{lines:?}");
    // Without a request to them, no broker has to run.
    assert_eq!(run("brokers", &cluster).await.status, 0);
    let finished = run("partitions lost --offsets", &cluster).await;
    assert_eq!((finished.status, finished.stdout.lines().count()), (5, 2));
}

#[tokio::test]
async fn refusal_of_a_broker_has_its_status() {
    let broker = broker().await;
    broker.faults().plan(Requests::offsets(), Fault::refuse(500, "no disk"));
    let finished = run("partitions t --offsets", &broker.addr().to_string()).await;
    assert_eq!(finished.status, 7);
    assert!(finished.stderr.contains("answered 500 InternalServerError: no disk"), "{}", finished.stderr);
}

#[tokio::test]
async fn statistics_are_printed_in_three_forms() {
    let (_brokers, _folder, cluster) = cluster().await;
    let finished = run("stats 1", &cluster).await;
    assert_eq!((finished.status, &*finished.stderr), (0, ""));
    assert!(finished.stdout.starts_with("broker 1 "), "{}", finished.stdout);
    assert!(finished.stdout.lines().any(|line| line == "broker_id         1"), "{}", finished.stdout);
    assert!(!finished.stdout.contains("STATS") && !finished.stdout.contains("END"));

    let lines = run("stats 1 --output json --item topics", &cluster).await.json();
    assert_eq!(lines.len(), 1);
    let stats = lines[0]["stats"].as_array().unwrap();
    assert!(stats.contains(&serde_json::json!(["orders", "*Empty*"])), "{lines:?}");

    let finished = run("stats --output prometheus", &cluster).await;
    assert_eq!((finished.status, finished.stderr.lines().count()), (5, 1), "{}", finished.stderr);
    let up: Vec<_> = finished.stdout.lines().filter(|line| line.starts_with("metaq_broker_up{")).collect();
    assert_eq!(up.len(), 3);
    assert!(up[0].ends_with(" 1") && up[1].ends_with(" 1") && up[2].ends_with(" 0"), "{up:?}");
    check_prometheus(&finished.stdout);
}

/// Checks that each metric has one type, before its samples, which stand together.
fn check_prometheus(text: &str) {
    let mut names = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge"].contains(&kind) && !names.contains(&name), "{line}");
            names.push(name);
        } else {
            let (name, rest) = line.split_once('{').unwrap();
            assert_eq!(Some(&name), names.last(), "{line}");
            let (_, value) = rest.rsplit_once("} ").unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(names.contains(&"metaq_broker_cmd_put_total"), "{names:?}");
}

#[tokio::test]
async fn cluster_without_topics_or_brokers_is_explained_with_status_4() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("brokers.toml");
    let cluster = format!("file:{}", file.display());
    for (text, said) in [
        ("[brokers]\n[topics]\n", "no topics are registered in file:"),
        ("[brokers]\n[topics.t]\n", "1 topic is registered, t first, but none of its brokers is alive now"),
    ] {
        fs::write(&file, text).unwrap();
        for command in ["topics", "brokers", "brokers --ping", "stats", "stats --output prometheus"] {
            let finished = run(command, &cluster).await;
            assert_eq!((finished.status, &*finished.stdout), (4, ""), "{command}: {}", finished.stderr);
            assert!(finished.stderr.contains(said), "{command}: {}", finished.stderr);
        }
    }
    for command in ["topics", "partitions t", "brokers", "stats", "read t", "doctor t", "verify t"] {
        file_that_is_missing_is_wrong_usage(command).await;
    }
    file_that_is_missing_is_wrong_usage("produce --topic t").await;
    file_that_is_missing_is_wrong_usage("produce --topic t --wait 50ms").await;
    file_that_is_missing_is_wrong_usage("tx --topic t --commit").await;
    file_that_is_missing_is_wrong_usage("bench --topic t --messages 1 --size 1 --in-flight 1").await;
}

async fn file_that_is_missing_is_wrong_usage(command: &str) {
    let finished = run(command, "file:/no/such/file.toml").await;
    assert_eq!(finished.status, 2, "{command}: {}", finished.stderr);
    // The doctor prints what it finds to stdout.
    let text = finished.stdout + &finished.stderr;
    assert!(text.contains("/no/such/file.toml can't be read: No such file"), "{command}: {text}");
}

#[tokio::test]
async fn brokers_without_topics_are_listed_and_asked() {
    let broker = Broker::builder().id(3).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("brokers.toml");
    let text = format!("[brokers]\n3 = \"{}\"\n4 = \"nowhere\"\n[topics]\n", broker.addr());
    fs::write(&file, text).unwrap();
    let cluster = format!("file:{}", file.display());
    let finished = run("brokers", &cluster).await;
    let rows = format!("ID  ROLE    ADDRESS{}TOPICS\n3   master  {}  0\n", " ".repeat(16), broker.addr());
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!((finished.status, words(&finished.stdout)), (0, words(&rows)));
    assert!(
        finished.stderr.starts_with("metaq: an entry of the registry is not used: "),
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains("brokers.4: ") && finished.stderr.lines().count() == 1);
    let line = run("brokers --ping --json", &cluster).await.json().remove(0);
    assert_eq!(
        (&line["role"], &line["topics"], &line["version"]),
        (&"master".into(), &0.into(), &"0.1".into())
    );
    assert_eq!(run("stats 3", &cluster).await.status, 0);
    let finished = run("stats 5", &cluster).await;
    assert_eq!(finished.status, 4);
    assert!(finished.stderr.contains("there is no broker 5; metaq brokers lists"), "{}", finished.stderr);
}

#[tokio::test]
async fn broker_with_a_topic_by_pattern_is_listed_once() {
    let broker = Broker::builder().topic("t", 1).topic("any*", 1).start().await.unwrap();
    let cluster = broker.addr().to_string();
    let produce = Metaq::start(&["produce", "--cluster", &cluster, "--topic", "anything"]);
    assert_eq!(produce.finish(b"one\n").await.status, 0);
    let lines = run("brokers --json", &cluster).await.json();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["id"], &lines[0]["topics"]), (&0.into(), &3.into()), "with the pattern itself");
    let finished = run("stats --output prometheus", &cluster).await;
    assert_eq!(finished.stdout.lines().filter(|line| line.starts_with("metaq_broker_up{")).count(), 1);
}

#[tokio::test]
async fn items_and_forms_that_make_no_sense_are_refused() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    for (command, status, said) in [
        ("stats --item reset", 2, "is not supported"),
        ("stats --item none", 4, "no broker has statistics or a topic none; --item help lists"),
        ("stats --output prometheus --watch 1s", 2, "leave --watch out"),
        ("stats --output prometheus --item topics", 2, "leave --item out"),
        ("topics --output prometheus", 2, "is for metaq stats"),
        ("brokers --output prometheus", 2, "is for metaq stats"),
        ("verify t --output prometheus", 2, "is for metaq stats"),
    ] {
        let finished = run(command, &cluster).await;
        assert_eq!(finished.status, status, "{command}: {}", finished.stderr);
        assert!(finished.stderr.contains(said), "{command}: {}", finished.stderr);
    }
    let finished = Metaq::start(&["stats", "--item", "a b", "--cluster", &cluster]).finish(b"").await;
    assert_eq!((finished.status, &*finished.stdout), (2, ""), "{}", finished.stderr);
    for item in ["topics", "offsets", "realtime", "help", "config", "t"] {
        let finished = run(&format!("stats --item {item}"), &cluster).await;
        assert_eq!((finished.status, &*finished.stderr), (0, ""), "{item}");
    }
    let finished = run("stats --item config", &cluster).await;
    assert!(finished.stdout.contains("maxTransferSize"), "{}", finished.stdout);
}

#[tokio::test]
async fn statistics_that_a_broker_refuses_have_a_status() {
    let broker = broker().await;
    let stats = Requests::stats();
    // The first ones list topics and brokers.
    let record = broker.record(stats.clone());
    assert_eq!(run("stats --output prometheus", &broker.addr().to_string()).await.status, 0);
    let last = record.count() as u64;
    broker.faults().plan(stats.only(last), Fault::refuse(500, "busy"));
    let finished = run("stats --output prometheus", &broker.addr().to_string()).await;
    assert_eq!((finished.status, finished.stderr.lines().count()), (7, 1), "{}", finished.stderr);
    assert!(finished.stdout.contains("metaq_broker_up{"), "{}", finished.stdout);
}

#[tokio::test]
async fn statistics_are_watched_until_a_signal() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let mut metaq = Metaq::start(&["stats", "--watch", "20ms", "--cluster", &cluster]);
    // The first answer has no rates; putting makes them.
    while !metaq.next_line().await.is_empty() {}
    let produce = Metaq::start(&["produce", "--cluster", &cluster, "--topic", "t"]).finish(b"a\nb\n").await;
    assert_eq!(produce.status, 0);
    let rates = async {
        loop {
            let line = metaq.next_line().await;
            if line.starts_with("cmd_put") && line.ends_with("/s") {
                return line;
            }
        }
    };
    let line = tokio::time::timeout(Duration::from_secs(30), rates).await.unwrap();
    assert!(line.contains("+"), "{line}");
    metaq.signal(Signal::SIGTERM);
    assert_eq!(metaq.wait().await.status, 143);
}

#[tokio::test]
async fn restart_of_a_broker_is_not_a_negative_rate() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let produce = ["produce", "--cluster", &cluster, "--topic", "t"];
    assert_eq!(Metaq::start(&produce).finish(&b"x\n".repeat(1000)).await.status, 0);
    // The uptime has whole seconds; after the restart it is less only if it was one.
    let uptime = async || {
        let lines = run("stats --output json", &cluster).await.json();
        let stats = lines[0]["stats"].as_array().unwrap().clone();
        let uptime = stats.iter().find(|pair| pair[0] == "uptime").unwrap();
        uptime[1].as_str().unwrap().parse::<u64>().unwrap()
    };
    while uptime().await < 3 {}
    let mut metaq = Metaq::start(&["stats", "--watch", "20ms", "--cluster", &cluster]);
    let mut seen = Vec::new();
    let mut next = async |seen: &mut Vec<String>, wanted: &str| {
        let found = async {
            loop {
                seen.push(metaq.next_line().await);
                let words: Vec<_> = seen[seen.len() - 1].split_whitespace().collect();
                if words.len() >= 2 && format!("{} {}", words[0], words[1]) == wanted {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), found).await.expect("the figure is shown");
    };
    next(&mut seen, "cmd_put 1000").await;
    let _broker = restart(broker).await;
    next(&mut seen, "cmd_put 0").await;
    assert_eq!(Metaq::start(&produce).finish(b"a\nb\n").await.status, 0);
    next(&mut seen, "cmd_put 2").await;
    let negative: Vec<_> =
        seen.iter().filter(|line| line.starts_with("cmd_put") && line.contains(" -")).collect();
    assert!(negative.is_empty(), "{negative:?}");
}

#[tokio::test]
async fn watched_statistics_follow_the_list_of_brokers() {
    let (brokers, folder, _) = cluster().await;
    let file = folder.path().join("list.toml");
    let list = |brokers: &[Broker]| {
        let addrs: String =
            brokers.iter().map(|broker| format!("{} = \"{}\"\n", broker.id(), broker.addr())).collect();
        let counts: String = brokers.iter().map(|broker| format!("{} = 2\n", broker.id())).collect();
        // At once, as it may be read at any time.
        let new = folder.path().join("new.toml");
        fs::write(&new, format!("[brokers]\n{addrs}[topics.t]\n{counts}")).unwrap();
        fs::rename(new, &file).unwrap();
    };
    list(&brokers[..1]);
    let cluster = format!("file:{}", file.display());
    let mut metaq = Metaq::start(&["stats", "--watch", "20ms", "--cluster", &cluster, "--item", "topics"]);
    let until = async |metaq: &mut Metaq, begin: &str| {
        let found = async { while !metaq.next_line().await.starts_with(begin) {} };
        tokio::time::timeout(Duration::from_secs(30), found).await.expect("it comes in time");
    };
    until(&mut metaq, "broker 0 ").await;
    list(&brokers);
    until(&mut metaq, "broker 1 ").await;
    // Those that are known are asked where they can't be listed.
    fs::remove_file(&file).unwrap();
    for _ in 0..3 {
        until(&mut metaq, "broker 1 ").await;
    }
    metaq.signal(Signal::SIGTERM);
    let finished = metaq.wait().await;
    assert_eq!(finished.status, 143);
    assert!(finished.stderr.contains("list.toml"), "{}", finished.stderr);
}

#[tokio::test]
async fn plain_tables_have_every_row() {
    let (_brokers, _folder, cluster) = cluster().await;
    let finished = run("stats --output plain", &cluster).await;
    let brokers: Vec<_> = finished.stdout.lines().filter(|line| line.starts_with("broker ")).collect();
    assert!(brokers[0].starts_with("broker 0\tmeta://"), "{}", finished.stdout);
    assert!(brokers[1].starts_with("broker 1\tmeta://"), "{}", finished.stdout);
    assert!(finished.stdout.lines().all(|line| line.contains('\t')), "{}", finished.stdout);
    let finished = run("topics --output plain", &cluster).await;
    assert_eq!(finished.stdout, "lost\t1\t2:1\nt\t4\t0:2 1:2\n");
}

#[tokio::test]
async fn unreachable_cluster_is_one_line_and_status_5() {
    let away = format!("meta://{}", metaq_testkit::unused_addr().unwrap());
    for command in ["topics", "topics t", "partitions t", "brokers", "stats", "read t"] {
        let finished = run(command, &away).await;
        let report = (finished.status, &*finished.stdout, finished.stderr.lines().count());
        assert_eq!(report, (5, "", 1), "{command}: {}", finished.stderr);
        assert!(finished.stderr.contains(&away), "{command}: {}", finished.stderr);
        assert!(finished.stderr.contains("refused"), "{command}: {}", finished.stderr);
    }
    for command in ["topics", "stats"] {
        let finished = run(command, "zk://127.0.0.1:1/meta").await;
        assert_eq!((finished.status, finished.stderr.lines().count()), (5, 1), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn closed_stdout_ends_with_141_and_no_message() {
    let (_brokers, _folder, cluster) = cluster().await;
    for command in ["topics", "partitions t", "brokers", "stats 0"] {
        let args: Vec<_> = command.split(' ').chain(["--cluster", &cluster]).collect();
        let mut metaq = Metaq::start(&args);
        metaq.close_stdout();
        let finished = metaq.wait().await;
        assert_eq!((finished.status, &*finished.stderr), (141, ""), "{command}");
    }
}

//! The fields of JSON that the commands print, against those that docs/cli-json.md has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use data_encoding::HEXLOWER;
use metaq_testkit::{Broker, Fault, Requests, TransactionAction};
use serde_json::Value;

use super::{inspect_pcap, tx_prepared};
use crate::common::{Metaq, broker, json_lines};

fn text_of(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)).unwrap()
}

/// The rows of a section of the document: the word in the first cell, and the second cell.
fn rows(section: &str) -> Vec<(String, String)> {
    let document = text_of("docs/cli-json.md");
    let (_, rest) = document.split_once(&format!("\n## {section}\n")).expect("the document has the section");
    let text = rest.split_once("\n## ").map_or(rest, |(text, _)| text);
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    cells.map(|(name, rest)| (name.to_owned(), rest.split(" | ").next().unwrap().to_owned())).collect()
}

/// The types with which each field was printed, by the field's path.
#[derive(Default)]
struct Printed(BTreeMap<String, BTreeSet<&'static str>>);

impl Printed {
    fn add(&mut self, path: &str, value: &Value) {
        let kind = match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    self.add(&path, value);
                }
                return;
            }
            Value::Array(elements) if elements.iter().all(Value::is_object) => {
                elements.iter().for_each(|element| self.add(&format!("{path}[]"), element));
                return;
            }
            Value::Array(_) => "array",
            Value::String(_) => "text",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::Null => "null",
        };
        self.0.entry(path.to_owned()).or_default().insert(kind);
    }

    fn of(lines: &[Value]) -> Self {
        let mut printed = Self::default();
        lines.iter().for_each(|line| printed.add("", line));
        printed
    }
}

/// Checks that these lines have all fields of the section, and no others, with the types of the document.
#[track_caller]
fn check(section: &str, lines: &[Value]) {
    check_except(section, lines, &[]);
}

/// The same, except that `rare` fields need not have been printed.
#[track_caller]
fn check_except(section: &str, lines: &[Value], rare: &[&str]) {
    let (printed, rows) = (Printed::of(lines), rows(section));
    let documented: BTreeMap<_, _> = rows.iter().map(|(name, types)| (&**name, &**types)).collect();
    assert_eq!(documented.len(), rows.len(), "{section}: a field is documented twice");
    for (path, kinds) in &printed.0 {
        let Some(types) = documented.get(&**path) else { panic!("{section}: {path} is not documented") };
        for kind in kinds {
            assert!(
                types.split(" or ").any(|word| word == *kind),
                "{section}: {path} is {kind}, not {types}"
            );
        }
    }
    for path in documented.keys().filter(|path| !rare.contains(path)) {
        assert!(printed.0.contains_key(*path), "{section}: nothing has printed {path}: {lines:#?}");
    }
}

async fn lines(args: &[&str], input: &[u8]) -> Vec<Value> {
    Metaq::start(args).finish(input).await.json()
}

#[tokio::test]
async fn fields_of_produce_and_spool_are_documented() {
    let broker = broker().await;
    let (cluster, folder) = (broker.addr().to_string(), tempfile::tempdir().unwrap());
    let path = folder.path().join("spool").display().to_string();
    let away = format!("meta://{}", metaq_testkit::unused_addr().unwrap());
    let input = br#"{"data":"a","key":"k","attribute":"x","partition":"0-1"}
{"data_b64":"/w==","key_b64":"/w=="}
{"data":
"#;
    let json = ["--topic", "t", "--json-lines", "--cluster"];
    let mut all = lines(&[&["produce"], &json[..], &[&cluster]].concat(), input).await;
    let shown = lines(&[&["produce", "--dry-run"], &json[..], &[&cluster]].concat(), input).await;
    check("produce --dry-run", &shown);
    let spooled = lines(&[&["produce", "--spool", &path], &json[..], &[&away]].concat(), input).await;
    assert_eq!(spooled.iter().filter(|line| line["spooled"].is_string()).count(), 2, "{spooled:?}");
    all.extend(spooled);
    check("produce", &all);

    check("spool export", &lines(&["spool", "export", &path], b"").await);
    let mut listed = lines(&["spool", "ls", &path, "--json"], b"").await;
    let mut shown = lines(&["spool", "show", &path, "--json"], b"").await;
    broker.faults().plan(Requests::puts().first(1), Fault::refuse(400, "malformed"));
    check("spool replay", &lines(&["spool", "replay", &path, "-b", &cluster], b"").await);
    listed.extend(lines(&["spool", "ls", &path, "--json"], b"").await);
    shown.extend(lines(&["spool", "show", &path, "--json"], b"").await);
    check("spool ls", &listed);
    // Only a damaged message has it.
    check_except("spool show", &shown, &["error"]);
    check("spool drop", &lines(&["spool", "drop", &path, "--all", "--yes", "--output", "json"], b"").await);
}

#[tokio::test]
async fn fields_of_transactions_are_documented() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let to = ["--cluster", &cluster, "--topic", "t"];
    let mut all = lines(&[&["tx", "--commit"], &to[..]].concat(), b"one\n").await;
    broker.faults().plan(Requests::puts().first(1), Fault::refuse(400, "malformed"));
    all.extend(lines(&[&["tx", "--commit"], &to[..]].concat(), b"two\n").await);
    check("tx", &all);
    let xid = tx_prepared::prepare(&broker, "shop", "one").await;
    let mut all = lines(&[&["tx", "list", "--qualifier", "shop"], &to[..]].concat(), b"").await;
    let commits = Requests::transactions(Some(TransactionAction::CommitTwoPhase));
    broker.faults().plan(commits, Fault::Cut(2));
    all.extend(lines(&[&["tx", "commit", &xid], &to[..]].concat(), b"").await);
    check("tx list", &all);
}

#[tokio::test]
async fn fields_of_tools_are_documented() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let to = ["--cluster", &cluster, "--json"];
    let bench = ["bench", "--topic", "t", "--messages", "200", "--size", "80", "--in-flight", "10"];
    let bench = lines(&[&bench[..], &["--rate", "2000", "--output", "json"], &to[..2]].concat(), b"").await;
    check("bench", &bench);
    check("verify", &lines(&[&["verify", "t", "--count", "20"], &to[..]].concat(), b"").await);
    let show = ["config", "show", "--origin", "--output", "json"];
    check("config show", &lines(&[&show[..], &["--cluster", &cluster]].concat(), b"").await);

    let upstream = cluster.strip_prefix("meta://").unwrap();
    let finished = Metaq::start(&["proxy", upstream]).finish(b"bogus\nstatus\nquit\n").await;
    check("proxy", &json_lines(finished.stdout.split_once('\n').unwrap().1.as_bytes()));
}

#[tokio::test]
async fn fields_of_looks_are_documented() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let (cluster, folder) = (broker.addr().to_string(), tempfile::tempdir().unwrap());
    let away = metaq_testkit::unused_addr().unwrap();
    let file = folder.path().join("brokers.toml");
    let text = format!(
        "[brokers]\n0 = \"{cluster}\"\n1 = \"meta://{away}\"\n[topics.t]\n0 = 1\n[topics.lost]\n1 = 1\n"
    );
    fs::write(&file, text).unwrap();
    let both = format!("file:{}", file.display());
    let json = |command: &'static str| {
        let words: Vec<_> =
            command.split(' ').chain(["--cluster", &both, "--json"]).map(str::to_owned).collect();
        async move { lines(&words.iter().map(String::as_str).collect::<Vec<_>>(), b"").await }
    };
    let produce = ["produce", "--cluster", &cluster, "--topic", "t"];
    assert_eq!(Metaq::start(&produce).finish(b"one\n\xff\n").await.status, 0);
    check("topics", &json("topics").await);
    let mut partitions = json("partitions t --offsets").await;
    partitions.extend(json("partitions lost --offsets --timeout 2s").await);
    check("partitions", &partitions);
    check("brokers", &json("brokers --ping --timeout 2s").await);
    let stats = ["stats", "0", "--output", "json", "--cluster", &both];
    check("stats", &lines(&stats, b"").await);
    check("read", &json("read t").await);
    check("doctor", &json("doctor lost --timeout 2s").await);
}

#[tokio::test]
async fn fields_of_inspect_are_documented() {
    let broker = broker().await;
    let cluster = broker.addr().to_string();
    let produce = ["produce", "--cluster", &cluster, "--topic", "t", "--partition", "0-0"];
    assert_eq!(Metaq::start(&produce).finish(b"one\n").await.status, 0);
    let with_attribute = [&produce[..], &["--attribute", "a"]].concat();
    assert_eq!(Metaq::start(&with_attribute).finish(b"two\n").await.status, 0);
    let log = broker.log("t", 0);
    let corrupt = "ffffffff".repeat(5);
    let stored = HEXLOWER.encode(&log);
    let frames = format!(
        r#"{{"command":"put","fields":{{"topic":"t","partition":0,"flag":0,"checksum":0,"opaque":1,"data":"61"}}}}
{{"command":"put","fields":{{"topic":"t","partition":0,"flag":1,"checksum":0,"opaque":1,"data":"000000016162"}}}}
{{"command":"put","fields":{{"topic":"t","partition":0,"flag":1,"checksum":0,"opaque":1,"data":"ffffffff"}}}}
{{"command":"put","fields":{{"topic":"t","partition":0,"flag":0,"checksum":0,"opaque":1,"data":"61","tx":{{"type":"local","session":"s","value":1}}}}}}
{{"command":"sync","fields":{{"topic":"t","partition":0,"flag":0,"msg_id":1,"checksum":0,"opaque":1,"data":"61"}}}}
{{"command":"get","fields":{{"topic":"t","group":"g","partition":0,"offset":0,"max_size":1,"opaque":1}}}}
{{"command":"stats","fields":{{"item":"topics","opaque":1}}}}
{{"command":"stats","fields":{{"opaque":1}}}}
{{"command":"transaction","fields":{{"tx":{{"type":"xa","format_id":1,"gtrid":"61","bqual":"62","qualifier":"q"}},"session":"s","type":"PREPARE","timeout":1,"qualifier":"q","opaque":1}}}}
{{"command":"result","fields":{{"code":200,"message":"x","opaque":1}}}}
{{"command":"value","fields":{{"data":"{stored}","opaque":1}}}}
{{"command":"value","fields":{{"data":"{}","opaque":1}}}}
{{"command":"value","fields":{{"data":"{corrupt}","opaque":1}}}}
"#,
        &stored[..stored.len() - 2]
    );
    let encoded = Metaq::start(&["inspect", "--encode"]).finish(frames.as_bytes()).await.stdout;
    assert!(!encoded.contains("error"), "{encoded}");
    let mut all = lines(&["inspect", "--hex", "--raw"], encoded.as_bytes()).await;
    all.extend(lines(&["inspect"], b"bogus\r\nvers").await);
    all.extend(lines(&["inspect"], b"version 1\r\nvers").await);
    all.extend(lines(&["inspect", "--encode"], b"no JSON\n").await);
    let packets = [
        inspect_pcap::segment(false, 8123, 0, false, b"version 60\r\n"),
        inspect_pcap::segment(false, 8123, 20, false, b"version 61\r\n"),
    ];
    let (folder, capture) = (tempfile::tempdir().unwrap(), inspect_pcap::pcap(&packets));
    let path = folder.path().join("capture");
    fs::write(&path, capture).unwrap();
    all.extend(lines(&["inspect", "--pcap", path.to_str().unwrap()], b"").await);
    check("inspect", &all);
}

/// The words that a source file gives to the variants of the type with this name.
fn words_of(file: &str, name: &str) -> BTreeSet<String> {
    let text = text_of(file);
    let (_, rest) = text.split_once(&format!("impl {name} {{")).expect("the type has methods");
    let (body, _) = rest.split_once("\n}\n").unwrap();
    let words: BTreeSet<_> = body
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once(" => \"")?.1.split_once('"'))
        .map(|(word, _)| word.to_owned())
        .collect();
    assert!(words.len() > 2, "{file}: {words:?}");
    words
}

#[test]
fn all_kinds_and_outcomes_are_documented() {
    let documented = |section| rows(section).into_iter().map(|(word, _)| word).collect::<BTreeSet<_>>();
    let mut kinds = words_of("metaq-producer/src/error/send.rs", "SendErrorKind");
    kinds.extend(words_of("metaq-producer/src/transaction/error.rs", "TransactionErrorKind"));
    let own = ["input", "stopped", "set-aside", "spool-full", "spool-store", "spool-closed"];
    kinds.extend(own.map(str::to_owned));
    assert_eq!(documented("Kinds of errors"), kinds);
    let mut outcomes = words_of("metaq-producer/src/error/send.rs", "Outcome");
    outcomes.extend(["committed", "rolled-back", "prepared"].map(str::to_owned));
    assert_eq!(documented("Outcomes"), outcomes);
}

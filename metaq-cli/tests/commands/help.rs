//! The help, and errors about the command line.

use std::{fs, path::Path};

use crate::common::Metaq;

#[tokio::test]
async fn each_help_has_the_statuses_of_the_document() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let document = fs::read_to_string(document).unwrap();
    for command in [
        "",
        "produce",
        "tx",
        "bench",
        "dev-broker",
        "inspect",
        "topics",
        "partitions",
        "brokers",
        "stats",
        "read",
        "spool",
        "doctor",
        "verify",
        "proxy",
        "config",
        "completions",
    ] {
        let args: Vec<_> = [command, "--help"].into_iter().filter(|arg| !arg.is_empty()).collect();
        let finished = Metaq::start(&args).finish(b"").await;
        assert_eq!(finished.status, 0);
        let (_, statuses) = finished.stdout.split_once("Exit status:\n").expect("the help has statuses");
        let rows: Vec<_> = statuses.lines().take_while(|line| line.starts_with("  ")).collect();
        assert_eq!(rows.len(), 12, "{command}: {statuses}");
        assert!(command.is_empty() || finished.stdout.contains("Examples:\n  "), "{command}");
        for row in rows {
            let (statuses, meaning) = row.trim().split_once("  ").unwrap();
            let row = format!("| {statuses} | {} |", meaning.trim());
            assert!(document.contains(&row), "{command}: the document has no row {row}");
        }
    }
}

#[tokio::test]
async fn a_password_on_the_command_line_is_not_printed() {
    for args in [
        &["produce", "--topic", "t", "--cluster", "zk://me:s3cret@h:1/meta"][..],
        &["produce", "--topic", "t", "--cluster=etcd://me:s3cret@h:1"],
        &["produce", "--topic", "t", "--cluster", "meta://me:s3cret@h:1"],
        &["produce", "--topic", "t", "--cluster", "zk://me:s3/cr@s3et@h:1"],
        &["dev-broker", "--topic", "t:1", "--register", "zk://me:s3cret@h:1"],
        &["zk://me:s3cret@h:1"],
    ] {
        let finished = Metaq::start(args).finish(b"").await;
        assert_eq!((finished.status, &*finished.stdout), (2, ""), "{args:?}");
        assert!(
            !finished.stderr.contains("s3") && finished.stderr.contains("...@h:1"),
            "{}",
            finished.stderr
        );
    }
}

#[tokio::test]
async fn numbers_and_durations_that_are_none_are_refused_in_words() {
    let produce = ["produce", "-b", "meta://h:1", "-t", "t"];
    for (args, said) in [
        (&["--in-flight", "many"][..], "expected a whole number"),
        (&["--in-flight", ""], "expected a whole number"),
        (&["--count", "99999999999999999999"], "the number is too large"),
        (&["--timeout", "3"], "expected a duration with a unit, such as 500ms, 3s or 1m30s"),
        (&["--timeout", "soon"], "expected a duration with a unit"),
        (&["--wait", "0s"], "must be greater than zero"),
        (&["-D", ""], "it is empty"),
        (&["-X", "retry.max_attempts=0"], "retry.max_attempts is 0: nothing could be sent"),
        (&["-X", "max_in_flight=x"], "max_in_flight is \"x\", but it has to be a whole number"),
        (&["-X", "send_timeout=x"], "it has to be a duration with a unit, such as 3s or 500ms"),
        (&["--max-message-size", "x"], "1048556, 512KiB or 64MiB"),
    ] {
        let finished = Metaq::start(&[&produce[..], args].concat()).finish(b"").await;
        assert_eq!((finished.status, &*finished.stdout), (2, ""), "{args:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(said), "{args:?}: {}", finished.stderr);
    }
}

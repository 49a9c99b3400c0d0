//! The log on stderr: a log that can't be written changes neither what is stored, nor what is reported, nor
//! the exit status; and its text is plain.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Stdio},
};

use metaq_testkit::Broker;
use nix::{
    pty::{Winsize, openpty},
    sys::signal::Signal,
};

use crate::common::{Running, broker, command, dev_full};

/// The state of stderr.
#[derive(Clone, Copy, Debug)]
enum Stderr {
    Closed,
    Full,
    WithoutReader,
}

const ALL: [Stderr; 3] = [Stderr::Closed, Stderr::Full, Stderr::WithoutReader];

/// Starts `metaq` with the most detailed log.
fn start(stderr: Stderr, args: &[&str]) -> Running {
    let metaq = env!("CARGO_BIN_EXE_metaq");
    let mut command = match stderr {
        Stderr::Closed => {
            let mut shell = Command::new("sh");
            shell.args(["-c", "exec \"$0\" \"$@\" 2>&-", metaq]);
            shell
        }
        _ => Command::new(metaq),
    };
    command.args(args).env("METAQ_LOG", "trace").stdin(Stdio::piped()).stdout(Stdio::piped());
    match stderr {
        Stderr::Closed => command.stderr(Stdio::null()),
        Stderr::Full => command.stderr(dev_full()),
        Stderr::WithoutReader => {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            command.stderr(writer)
        }
    };
    Running::start(&mut command)
}

/// Writes the input and waits for the exit; returns the exit status and the output.
fn finish(mut metaq: Running, input: &str) -> (Option<i32>, String) {
    metaq.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = metaq.read_stdout();
    (metaq.wait().unwrap().code(), output)
}

/// Returns the number of messages that a broker has stored.
fn stored(broker: &Broker) -> usize {
    broker.messages("t").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unwritable_log_changes_nothing() {
    for stderr in ALL {
        let broker = broker().await;
        let cluster = broker.addr().to_string();
        let at = ["--cluster", &cluster, "--topic", "t"];
        let run = |command: &str, more: &[&str], input: &str| {
            let args = [&[command], &at[..], more].concat();
            finish(start(stderr, &args), input)
        };
        let (status, output) = run("produce", &[], "1\n2\n3\n");
        assert_eq!(
            (status, output.lines().count(), stored(&broker)),
            (Some(0), 3, 3),
            "{stderr:?}: {output}"
        );
        let (status, output) = run("tx", &["--commit"], "1\n2\n");
        assert_eq!((status, stored(&broker)), (Some(0), 5), "{stderr:?}: {output}");
        assert!(output.lines().last().unwrap().contains("\"committed\""), "{stderr:?}: {output}");
        let (status, output) = run("tx", &["--rollback"], "1\n2\n");
        assert_eq!((status, stored(&broker)), (Some(0), 5), "{stderr:?}: {output}");
        let bench = ["--messages", "50", "--size", "10", "--in-flight", "5", "--json"];
        let (status, output) = run("bench", &bench, "");
        assert_eq!((status, stored(&broker)), (Some(0), 55), "{stderr:?}: {output}");
        // The exit status alone reports a failure when stderr can't.
        let (status, output) =
            finish(start(stderr, &["produce", "--cluster", "zk://127.0.0.1:1", "--topic", "t"]), "");
        assert_eq!((status, &*output), (Some(5), ""), "{stderr:?}");
    }
}

#[test]
fn a_dev_broker_with_an_unwritable_log_serves() {
    for stderr in ALL {
        let mut dev_broker = start(stderr, &["dev-broker", "--topic", "t:1"]);
        let mut output = BufReader::new(dev_broker.stdout.take().unwrap());
        let mut addr = String::new();
        output.read_line(&mut addr).unwrap();
        let args = ["produce", "--cluster", addr.trim(), "--topic", "t"];
        let (status, output) = finish(start(stderr, &args), "1\n2\n");
        assert_eq!((status, output.lines().count()), (Some(0), 2), "{stderr:?}");
        dev_broker.signal(Signal::SIGTERM);
        assert_eq!(dev_broker.wait().unwrap().code(), Some(0), "{stderr:?}");
    }
}

#[test]
fn a_dev_broker_without_a_reader_exits_with_141() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let args = ["dev-broker", "--topic", "t:1"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_metaq"));
    let status = command.args(args).stdout(writer).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(141));
}

#[test]
fn an_invalid_log_variable_is_reported() {
    for (value, said) in [
        (
            "debug,metaq_producer=loud",
            Some("logging is off, because METAQ_LOG contains \"metaq_producer=loud\": "),
        ),
        ("off", None),
        ("metaq_producer=debug", None),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metaq"));
        command.args(["inspect", "/dev/null"]).env("METAQ_LOG", value);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let stderr = String::from_utf8(output.stderr).unwrap();
        match said {
            Some(said) => {
                assert!(stderr.starts_with(&format!("metaq: {said}")), "{stderr}");
                assert_eq!(stderr.lines().count(), 1, "{stderr}");
            }
            None => assert_eq!(stderr, ""),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_no_terminal_has_no_colors() {
    let broker = broker().await;
    let mut produce = command("produce", &broker, &[]);
    let mut metaq = Running::start(produce.env("METAQ_LOG", "debug"));
    metaq.stdin.take().unwrap().write_all(b"1\n").unwrap();
    let output = metaq.output().await;
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains(" INFO ") && !log.contains('\x1b'), "{log}");
}

/// The progress goes to the terminal alone, and leaves the results as they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_shown_on_a_terminal() {
    let broker = broker().await;
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&size, None).unwrap();
    let mut produce = command("produce", &broker, &[]);
    produce.env("TERM", "xterm").stderr(terminal.slave);
    let mut metaq = Running::start(&mut produce);
    // Nothing of this process may keep the terminal open.
    drop(produce);
    metaq.stdin.take().unwrap().write_all(b"1\n2\n3\n").unwrap();
    let output = metaq.read_stdout();
    assert_eq!(metaq.wait().unwrap().code(), Some(0));
    assert!(output.lines().count() == 3 && !output.contains('\x1b'), "{output}");
    let mut shown = Vec::new();
    // Reading ends with EIO when the last process has closed the terminal.
    let _ = File::from(terminal.master).read_to_end(&mut shown);
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("3 acknowledged, 0 failed, 0 in flight"), "{shown:?}");
}

/// Where results and progress would share a terminal, there is no progress.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_never_among_the_results() {
    let broker = broker().await;
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    for tee in [false, true] {
        let terminal = openpty(&size, None).unwrap();
        let mut produce = command("produce", &broker, if tee { &["--tee"] } else { &[] });
        produce.env("TERM", "xterm").stderr(terminal.slave.try_clone().unwrap()).stdout(terminal.slave);
        let mut metaq = Running::start(&mut produce);
        drop(produce);
        metaq.stdin.take().unwrap().write_all(b"1\n2\n3\n").unwrap();
        assert_eq!(metaq.wait().unwrap().code(), Some(0));
        let mut shown = Vec::new();
        // Reading ends with EIO when the last process has closed the terminal.
        let _ = File::from(terminal.master).read_to_end(&mut shown);
        let shown = String::from_utf8(shown).unwrap();
        let has_data =
            if tee { shown.starts_with("1\r\n2\r\n3\r\n") } else { shown.matches("line").count() == 3 };
        assert!(has_data && !shown.contains('\x1b') && !shown.contains("in flight"), "{shown:?}");
    }
}

//! Files that are named pipes whose other end is not there: a signal ends the wait.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::{signal::Signal::SIGINT, stat::Mode};

use crate::{common::Running, input_stop::open};

/// Starts a command that reads a named pipe.
fn start(args: &[&str]) -> Running {
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::start(&mut metaq)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn signal_ends_the_wait_for_credentials_in_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let name = pipe.to_str().unwrap();
    let auth = format!("digest:file:{name}");
    let by_auth = ["--zk-auth", &*auth];
    let bench = ["bench", "-t", "t", "--messages", "1", "--size", "1", "--in-flight", "1"];
    for (command, options) in [
        (&["produce", "-t", "t"][..], &by_auth[..]),
        (&["tx", "-t", "t", "--commit"], &by_auth),
        (&["tx", "list", "-t", "t", "--qualifier", "q"], &by_auth),
        (&bench, &by_auth),
        (&["topics"], &by_auth),
        (&["stats"], &by_auth),
        (&["read", "t"], &by_auth),
        (&["doctor"], &by_auth),
        (&["verify", "t", "--count", "1"], &by_auth),
        (&["produce", "-t", "t"], &["--tls-ca", name]),
        (&["topics"], &["--broker-tls-ca", name]),
    ] {
        let mut metaq = start(&[command, &["-b", "zk://127.0.0.1:1/meta"], options].concat());
        // It reads then, and nothing comes.
        let _end = open(&pipe).await;
        metaq.signal(SIGINT);
        let status = metaq.exited(Duration::from_secs(1)).await;
        assert_eq!(status.code(), Some(130), "{command:?} {options:?}: {}", metaq.read_stderr());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn signal_ends_the_wait_for_settings_in_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let name = pipe.to_str().unwrap();
    let bench = ["bench", "-t", "t", "--messages", "1", "--size", "1", "--in-flight", "1"];
    for command in [
        &["produce", "-t", "t"][..],
        &["tx", "-t", "t", "--rollback"],
        &bench,
        &["brokers"],
        &["verify", "t"],
        &["config", "show"],
    ] {
        let mut metaq = start(&[command, &["--config", name]].concat());
        // It reads then, and nothing comes.
        let _end = open(&pipe).await;
        metaq.signal(SIGINT);
        let status = metaq.exited(Duration::from_secs(1)).await;
        // Signals are not handled yet. A shell shows both as 130.
        assert_eq!((status.code(), status.signal()), (None, Some(SIGINT as i32)), "{command:?}");
    }
}

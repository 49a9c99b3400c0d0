//! Files that are named pipes whose other end is not there: a signal ends the wait.

use std::{
    fs::File,
    os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    fcntl::OFlag,
    sys::{signal::Signal::SIGINT, stat::Mode},
};

use crate::common::{Running, wait_until};

/// Starts a command that reads a named pipe.
fn start(args: &[&str]) -> Running {
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::start(&mut metaq)
}

/// Opens the other end of a pipe that a process waits for, or has opened.
fn try_open(pipe: &Path) -> Option<File> {
    File::options().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(pipe).ok()
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
        // The other end can be opened once the command waits for it. It then reads, and nothing comes.
        let mut end = None;
        wait_until(|| {
            end = try_open(&pipe);
            end.is_some()
        })
        .await;
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
        let mut end = None;
        wait_until(|| {
            end = try_open(&pipe);
            end.is_some()
        })
        .await;
        metaq.signal(SIGINT);
        let status = metaq.exited(Duration::from_secs(1)).await;
        // Signals are not handled yet. A shell shows both as 130.
        assert_eq!((status.code(), status.signal()), (None, Some(SIGINT as i32)), "{command:?}");
    }
}

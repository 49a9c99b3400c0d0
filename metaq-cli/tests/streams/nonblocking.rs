//! Streams that another process has made non-blocking, that aren't read, or that are missing; and limits of
//! the system.

use std::{
    io::{Read as _, Write as _},
    os::fd::AsFd,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::Signal,
};

use crate::common::{Running, broker, command, json_lines, line_numbers, wait_until};

fn make_nonblocking(file: impl AsFd) {
    fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonblocking_streams_lose_nothing() {
    const LINES: usize = 20_000;
    let broker = broker().await;
    let (input, mut writer) = std::io::pipe().unwrap();
    let (mut reader, output) = std::io::pipe().unwrap();
    make_nonblocking(&input);
    make_nonblocking(&output);
    let mut produce = command("produce", &broker, &[]);
    let mut metaq = Running::start(produce.stdin(input).stdout(output));
    // Nothing of this process may keep the pipes open.
    drop(produce);
    let writing = tokio::task::spawn_blocking(move || {
        for line in 0..LINES {
            writer.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    });
    // The output is read only once the pipe is full: by then results have been refused.
    wait_until(|| broker.messages("t").len() > 2000).await;
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        text
    });
    writing.await.unwrap();
    let lines = json_lines(&reading.await.unwrap());
    assert_eq!(metaq.exited(Duration::from_secs(30)).await.code(), Some(0), "{}", metaq.read_stderr());
    assert_eq!(line_numbers(&lines), (1..=LINES as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_holds_nothing_up() {
    let broker = broker().await;
    let (_reader, mut stderr) = std::io::pipe().unwrap();
    make_nonblocking(&stderr);
    while stderr.write(&[b'.'; 4096]).is_ok() {}
    fcntl(&stderr, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let mut produce = command("produce", &broker, &[]);
    let mut metaq = Running::start(produce.env("METAQ_LOG", "trace").stderr(stderr));
    metaq.stdin.take().unwrap().write_all(&b"x\n".repeat(5000)).unwrap();
    let output = metaq.read_stdout();
    assert_eq!(metaq.exited(Duration::from_secs(30)).await.code(), Some(0));
    assert_eq!(output.lines().count(), 5000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_stays_ignored_where_it_was() {
    let broker = broker().await;
    let mut shell = Command::new("sh");
    let addr = broker.addr().to_string();
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_metaq")]);
    shell.args(["produce", "-b", &addr, "-t", "t"]);
    let mut metaq = Running::start(shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut stdin = metaq.stdin.take().unwrap();
    stdin.write_all(b"1\n").unwrap();
    wait_until(|| broker.messages("t").len() == 1).await;
    metaq.signal(Signal::SIGHUP);
    stdin.write_all(b"2\n").unwrap();
    wait_until(|| broker.messages("t").len() == 2).await;
    drop(stdin);
    assert_eq!(metaq.exited(Duration::from_secs(30)).await.code(), Some(0));
}

#[test]
fn too_few_descriptors_are_one_line() {
    // How many it needs depends on how many it inherits.
    let is_started = (4..64).any(|limit| {
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_metaq"), "produce", "-b", "meta://127.0.0.1:1"]);
        shell.args(["-t", "t", "--timeout", "300ms"]);
        let output = shell.stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.stdout.len(), stderr.lines().count()), (0, 1), "{limit}: {stderr}");
        if output.status.code() == Some(5) {
            assert!(limit > 8, "it opens more than {limit} descriptors");
            return true;
        }
        assert_eq!(output.status.code(), Some(1), "{limit}: {stderr}");
        let said = "metaq: the program can't be started: Too many open files";
        assert!(stderr.starts_with(said), "{limit}: {stderr}");
        false
    });
    assert!(is_started);
}

#[test]
fn too_few_threads_are_one_line() {
    use std::os::unix::process::CommandExt as _;

    // The limit counts the threads of a user, and not those of root: an unused number.
    let user = 60_000 + std::process::id() % 5000;
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: only root changes the user of a process");
    }
    // A user of its own can't reach a folder of root.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("metaq");
    std::fs::copy(env!("CARGO_BIN_EXE_metaq"), &program).unwrap();
    for cluster in ["meta://127.0.0.1:1", "meta://localhost:1", "zk://localhost:1", "file:brokers.toml"] {
        for limit in 1..4 {
            let script = format!("ulimit -u {limit} && exec \"$0\" \"$@\"");
            let mut shell = Command::new("bash");
            shell.args(["-c", &script, program.to_str().unwrap(), "produce", "-b", cluster, "-t", "t"]);
            let output = shell.uid(user).gid(user).stdin(Stdio::null()).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{limit}: {stderr}");
            let said = "metaq: the program can't be started: Resource temporarily unavailable";
            assert!(stderr.starts_with(said) && stderr.lines().count() == 1, "{limit}: {stderr}");
        }
    }
}

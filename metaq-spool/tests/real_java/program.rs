//! Programs that take lines and say what became of them: Java programs, and this binary again.

use std::{
    env,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
};

use metaq_testkit::peers::JavaProgram;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
    time::timeout,
};

use crate::form::PATIENCE;

/// Has the child know what it is.
pub(crate) const CHILD: &str = "METAQ_SPOOL_REAL_CHILD";

/// The prefix of a line for the test; other lines are logs.
pub(crate) const SAID: &str = "said: ";

/// The lines of a log that are shown when a program ends too early.
const SHOWN: usize = 60;

pub(crate) struct Program {
    child: Child,
    orders: Option<ChildStdin>,
    said: mpsc::UnboundedReceiver<String>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Runs a Java program, whose log and stores are below `home`.
    pub(crate) fn java(program: &JavaProgram, home: &Path, args: &[&str]) -> Self {
        let mut command = Command::new("java");
        command.args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.args(program.arguments(home).unwrap()).args(args).current_dir(home);
        Self::start(command)
    }

    /// Runs this binary again, in a role.
    pub(crate) fn rust(args: &[&str]) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "program::child", "--nocapture"]).env(CHILD, args.join(" "));
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (orders, output) = (child.stdin.take(), child.stdout.take().unwrap());
        let (saying, said) = mpsc::unbounded_channel();
        let log = Arc::default();
        // Read all the time: a program whose output is full waits.
        tokio::spawn(read(output, saying, Arc::clone(&log)));
        Self { child, orders, said, log }
    }

    pub(crate) async fn order(&mut self, line: &str) {
        self.orders.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The next line for the test; none when the program has ended.
    pub(crate) async fn said(&mut self) -> Option<String> {
        self.said.recv().await
    }

    /// The next line for the test, which has to come.
    pub(crate) async fn says(&mut self) -> String {
        match timeout(PATIENCE, self.said()).await {
            Ok(Some(line)) => line,
            ended => {
                let log = self.log.lock().unwrap();
                let end = &log[log.len().saturating_sub(SHOWN)..];
                panic!("the program says nothing ({ended:?}):\n{}", end.join("\n"));
            }
        }
    }

    /// Ends it in order.
    pub(crate) async fn end(mut self) {
        self.order("end").await;
        loop {
            if self.says().await == "ended" {
                break;
            }
        }
        assert!(timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap().success());
    }

    /// Ends it by SIGKILL, and returns what it has said before.
    pub(crate) async fn kill(mut self) -> Vec<String> {
        self.child.start_kill().unwrap();
        let mut said = Vec::new();
        while let Some(line) = self.said().await {
            said.push(line);
        }
        assert_eq!(self.child.wait().await.unwrap().code(), None, "it ended by itself");
        said
    }

    /// Waits for `count` lines, each of which is handed over.
    pub(crate) async fn say_lines(&mut self, count: usize, mut take: impl FnMut(String)) {
        for _ in 0..count {
            take(self.says().await);
        }
    }
}

async fn read(output: ChildStdout, said: mpsc::UnboundedSender<String>, log: Arc<Mutex<Vec<String>>>) {
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        // Behind the name of the test, where that is without its end.
        match line.find(SAID) {
            // The test may need no more.
            Some(at) => _ = said.send(line[at + SAID.len()..].to_owned()),
            None => log.lock().unwrap().push(line),
        }
    }
}

/// Says a line to the test, in one write: a kill leaves it out or complete.
pub(crate) fn say(line: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    std::io::stdout().write_all(format!("{SAID}{line}\n").as_bytes()).unwrap();
}

/// The child, in the role that the test has given it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn child() {
    let Ok(arguments) = env::var(CHILD) else { return };
    let [role, zookeeper, topic, folder, rest @ ..] = &arguments.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{arguments}")
    };
    // The program ends with its test, whose end of the input is closed then.
    let result = match (*role, rest) {
        ("ordered", [partitions]) => crate::ported::ordered(zookeeper, topic, folder, partitions).await,
        ("async", []) => crate::ported::async_(zookeeper, topic, folder).await,
        ("sender", [partitions, run]) => {
            crate::kills::sender(zookeeper, topic, folder, partitions, run).await;
            return;
        }
        _ => panic!("{arguments}"),
    };
    result.unwrap();
    say(format_args!("ended"));
}

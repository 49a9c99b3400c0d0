//! A process of its own for what is measured: the test's own program, which runs the same test again in
//! another role.

use std::{
    env, fmt,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// Says to the process that it is one, and where the brokers are.
const BROKERS: &str = "METAQ_MEASURED_BROKERS";

/// The prefix of lines from the process to the test; the rest of its output is for people.
const SAID: &str = "measured: ";

/// The test's end of the process.
pub(crate) struct Measured {
    child: Child,
    orders: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Measured {
    /// Runs `test` in a process of its own, which is killed when this is dropped.
    pub(crate) fn start(test: &str, brokers: impl IntoIterator<Item = impl fmt::Display>) -> Self {
        let brokers: Vec<_> = brokers.into_iter().map(|broker| broker.to_string()).collect();
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(BROKERS, brokers.join(","));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (orders, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, orders, output: BufReader::new(output).lines() }
    }

    pub(crate) async fn order(&mut self, what: &str) {
        self.orders.write_all(format!("{what}\n").as_bytes()).await.unwrap();
    }

    /// Waits until the process says something that begins with `what`, and returns the rest. What else it
    /// prints is shown.
    pub(crate) async fn says(&mut self, what: &str, within: Duration) -> String {
        let said = async {
            loop {
                let line = self.output.next_line().await.unwrap();
                let line = line.unwrap_or_else(|| panic!("the process ended without saying {what:?}"));
                match line.strip_prefix(SAID).and_then(|said| said.strip_prefix(what)) {
                    Some(rest) => return rest.trim().to_owned(),
                    None => println!("{line}"),
                }
            }
        };
        timeout(within, said).await.unwrap_or_else(|_| panic!("the process doesn't say {what:?} in time"))
    }

    /// Shows what the process still prints, and waits for its end.
    pub(crate) async fn end(mut self, within: Duration) -> ExitStatus {
        let ended = async {
            while let Some(line) = self.output.next_line().await.unwrap() {
                println!("{line}");
            }
            self.child.wait().await.unwrap()
        };
        timeout(within, ended).await.expect("the process ends in time")
    }
}

/// The process's end, where orders come in.
pub(crate) struct Role {
    orders: Lines<BufReader<tokio::io::Stdin>>,
    /// The addresses of the brokers.
    pub(crate) brokers: Vec<String>,
}

impl Role {
    /// None in the test itself.
    pub(crate) fn get() -> Option<Self> {
        let brokers = env::var(BROKERS).ok()?.split(',').map(str::to_owned).collect();
        Some(Self { orders: BufReader::new(tokio::io::stdin()).lines(), brokers })
    }

    pub(crate) fn say(&self, what: fmt::Arguments<'_>) {
        println!("{SAID}{what}");
    }

    /// Waits for an order.
    pub(crate) async fn order(&mut self) -> String {
        self.orders.next_line().await.unwrap().expect("the test lives")
    }
}

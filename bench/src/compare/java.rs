//! The real Java client.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
};

use tempfile::TempDir;

use super::{
    Result, environment::Environment, environment::TOPIC, figures::Figures, plan::Case, program::Program,
};

const PROGRAM: &str = include_str!("../../java/SendBench.java");

/// Options of the JVM: more heap than it needs. Collector (G1) and compilers are the JVM's choice.
pub(super) const JVM_OPTIONS: &[&str] = &["-Xmx2g"];

/// The Java client, started for one message size and one window.
pub(super) struct Java {
    program: Program,
    log: PathBuf,
    _home: TempDir,
}

impl Java {
    pub(super) fn start(environment: &Environment, case: Case) -> Result<Self> {
        let home = TempDir::with_prefix("metaq-java-bench-")?;
        let log = home.path().join("log");
        let mut command = Command::new("java");
        let program = environment.peers.java_program("SendBench", PROGRAM)?;
        command.args(JVM_OPTIONS).args(program.arguments(home.path())?);
        command.args([&environment.zookeeper(), environment.root(case.target), TOPIC]);
        command.args([case.size.to_string(), case.window.to_string()]);
        command.current_dir(home.path()).stderr(File::create(&log)?);
        Ok(Self { program: Program::start("the Java client", &mut command)?, log, _home: home })
    }

    /// Sends `messages` messages.
    pub(super) fn round(&mut self, messages: u64) -> Result<Figures> {
        let figures =
            self.program.ask(&messages.to_string()).and_then(|line| Ok(serde_json::from_str(&line)?));
        figures.map_err(|error| {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let end = log.lines().rev().take(20).collect::<Vec<_>>();
            let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
            format!("{error}; its log ends with:\n{end}").into()
        })
    }
}

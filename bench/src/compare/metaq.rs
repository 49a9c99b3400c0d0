//! Our client, and what it could be at most.

use std::{path::Path, process::Command};

use super::{
    Result,
    figures::Figures,
    plan::Case,
    program::last_line,
    say,
    stage::{PARTITIONS, Stage, TOPIC},
};
use crate::{
    limits::Limit,
    tasks::{TaskFigures, Threads},
};

/// Sends so many messages by `metaq bench` of the build at `program`.
pub(super) fn round(stage: &Stage, program: &Path, case: Case, messages: u64) -> Result<Figures> {
    let mut command = Command::new(program);
    command.args(["bench", "--json", "--timeout", "10s", "--topic", TOPIC]);
    command.args(["--cluster", &stage.cluster(case.target)]);
    command.args(["--size", &case.size.to_string(), "--in-flight", &case.window.to_string()]);
    command.args(["--messages", &messages.to_string(), "--warmup", &(messages / 4).to_string()]);
    let (line, content) = last_line("metaq bench", &mut command)?;
    let figures: Figures = serde_json::from_str(&line)?;
    if !content {
        say(&format!("metaq bench was not content: {line}"));
    }
    Ok(figures)
}

/// What a client without a runtime reaches, for so long.
pub(super) fn limit(stage: &Stage, case: Case, what: &str, millis: u64) -> Result<Limit> {
    let mut command = Command::new(stage.program("raw-limits"));
    command.args(["--topic", TOPIC, "--partitions", &PARTITIONS.to_string()]);
    command.args(["--broker", &stage.addr(case.target).to_string()]);
    command.args(["--sizes", &case.size.to_string(), "--windows", &case.window.to_string()]);
    command.args(["--only", what, "--millis", &millis.to_string()]);
    let (line, _) = last_line("raw-limits", &mut command)?;
    Ok(serde_json::from_str(&line)?)
}

/// So many tasks that send to a broker, by `tasks` or by `allocations`.
pub(super) fn tasks(
    stage: &Stage,
    program: &str,
    case: Case,
    threads: Threads,
    millis: u64,
) -> Result<TaskFigures> {
    let mut command = Command::new(stage.program(program));
    command.args(["--topic", TOPIC, "--cluster", &stage.cluster(case.target)]);
    command.args(["--size", &case.size.to_string(), "--tasks", &case.window.to_string()]);
    let threads = if threads == Threads::One { "one" } else { "many" };
    command.args(["--threads", threads, "--millis", &millis.to_string()]);
    let (line, _) = last_line(program, &mut command)?;
    Ok(serde_json::from_str(&line)?)
}

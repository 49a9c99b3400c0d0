//! Rounds of metaq, and of the raw client that sets its limit.

use std::{path::Path, process::Command};

use super::{
    Result,
    environment::{Environment, PARTITIONS, TOPIC},
    figures::Figures,
    plan::Case,
    print_message,
    program::last_line,
};
use crate::{
    limits::Limit,
    tasks::{TaskFigures, Threads},
};

/// Sends `messages` messages with `metaq bench` of the build at `program`.
pub(super) fn round(environment: &Environment, program: &Path, case: Case, messages: u64) -> Result<Figures> {
    let mut command = Command::new(program);
    command.args(["bench", "--json", "--timeout", "10s", "--topic", TOPIC]);
    command.args(["--cluster", &environment.cluster(case.target)]);
    command.args(["--size", &case.size.to_string(), "--in-flight", &case.window.to_string()]);
    command.args(["--messages", &messages.to_string(), "--warmup", &(messages / 4).to_string()]);
    let (line, succeeded) = last_line("metaq bench", &mut command)?;
    let figures: Figures = serde_json::from_str(&line)?;
    if !succeeded {
        print_message(&format!("metaq bench failed: {line}"));
    }
    Ok(figures)
}

/// Measures a client without a runtime for `millis` milliseconds.
pub(super) fn limit(environment: &Environment, case: Case, what: &str, millis: u64) -> Result<Limit> {
    let mut command = Command::new(environment.program("raw-limits"));
    command.args(["--topic", TOPIC, "--partitions", &PARTITIONS.to_string()]);
    command.args(["--broker", &environment.addr(case.target).to_string()]);
    command.args(["--sizes", &case.size.to_string(), "--windows", &case.window.to_string()]);
    command.args(["--only", what, "--millis", &millis.to_string()]);
    let (line, _) = last_line("raw-limits", &mut command)?;
    Ok(serde_json::from_str(&line)?)
}

/// Measures many tasks that send to a broker, with the program `tasks` or `allocations`.
pub(super) fn tasks(
    environment: &Environment,
    program: &str,
    case: Case,
    threads: Threads,
    millis: u64,
) -> Result<TaskFigures> {
    let mut command = Command::new(environment.program(program));
    command.args(["--topic", TOPIC, "--cluster", &environment.cluster(case.target)]);
    command.args(["--size", &case.size.to_string(), "--tasks", &case.window.to_string()]);
    let threads = if threads == Threads::One { "one" } else { "many" };
    command.args(["--threads", threads, "--millis", &millis.to_string()]);
    let (line, _) = last_line(program, &mut command)?;
    Ok(serde_json::from_str(&line)?)
}

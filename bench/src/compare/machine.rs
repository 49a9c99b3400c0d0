//! The machine and the tools that the figures were measured with.

use std::{fs, process::Command, thread, time::SystemTime};

/// Returns facts about the machine, each with its name.
pub(super) fn facts() -> Vec<(&'static str, String)> {
    let unknown = || "unknown".to_owned();
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(unknown);
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|total| total.strip_suffix(" kB")?.parse::<u64>().ok())
        .map_or_else(unknown, |kib| format!("{:.0} GiB", kib as f64 / (1024.0 * 1024.0)));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| unknown());
    vec![
        ("date", humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
        ("processor", format!("{model}, {cores} cores")),
        ("memory", memory),
        ("kernel", format!("Linux {}", kernel.trim())),
        ("Java", version("java", "-version")),
        ("Rust", version("rustc", "--version")),
    ]
}

/// Returns the load average of the last minute.
pub(super) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("unknown").to_owned()
}

/// Returns the first line of a program's version text.
fn version(program: &str, option: &str) -> String {
    let output = Command::new(program).arg(option).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned()
}

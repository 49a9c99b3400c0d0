//! CPU time and memory of this process.

use std::{fs, time::Duration};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};

/// Returns the CPU time of all threads of this process, in user and system mode; zero if the system doesn't
/// report it.
#[must_use]
pub fn cpu_time() -> Duration {
    let micros = |time: TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    let used = usage.map_or(0, |usage| micros(usage.user_time()) + micros(usage.system_time()));
    Duration::from_micros(used.unsigned_abs())
}

/// Returns the peak resident memory of this process in KiB; zero if the system doesn't report it. Reads
/// `/proc`, since the value of `getrusage` includes the memory that the parent process had when it started
/// this one.
#[must_use]
pub fn peak_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|peak| peak.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}

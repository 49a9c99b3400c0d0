//! What this process has used.

use std::{fs, time::Duration};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};

/// The time that all threads of this process have spent on processors, in user and system mode. Zero where the system
/// doesn't tell.
#[must_use]
pub fn cpu_time() -> Duration {
    let micros = |time: TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    let used = usage.map_or(0, |usage| micros(usage.user_time()) + micros(usage.system_time()));
    Duration::from_micros(used.unsigned_abs())
}

/// The most memory that this process has had resident, in KiB. From `/proc`, since what `getrusage` tells includes what the
/// parent of a process had when it started it. Zero where the system doesn't tell.
#[must_use]
pub fn peak_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|peak| peak.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}

//! The resources that this process uses.

use std::{fs, time::Duration};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};

/// The time that all threads of this process have spent on processors, in user and system mode.
pub(crate) fn cpu_time() -> Duration {
    let micros = |time: TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    Duration::from_micros((micros(usage.user_time()) + micros(usage.system_time())).unsigned_abs())
}

/// The memory of this process that is resident now, in KiB.
pub(crate) fn memory_kib() -> u64 {
    status("VmRSS:")
}

/// The most memory of this process that was resident since it started, or since [`forget_peak`], in KiB.
pub(crate) fn peak_memory_kib() -> u64 {
    status("VmHWM:")
}

/// Has the peak count from now on.
pub(crate) fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap()
}

/// The number of open file descriptors.
pub(crate) fn open_files() -> usize {
    // Looking takes one.
    fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

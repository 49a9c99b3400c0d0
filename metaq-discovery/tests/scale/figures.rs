//! What was measured, each beside its bound.

use std::{fmt::Display, fs};

use tokio::sync::{Mutex, MutexGuard};

/// Whether the full form is to be run.
pub(crate) fn is_full() -> bool {
    std::env::var("METAQ_SCALE").is_ok_and(|form| form == "full")
}

/// The short form or the full one.
pub(crate) fn form<T>(short: T, full: T) -> T {
    if is_full() { full } else { short }
}

/// Lets one test run at a time: memory is that of the process.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// Prints a figure, and checks that it is within its bound.
#[track_caller]
pub(crate) fn figure<T: PartialOrd + Display>(what: impl Display, unit: &str, seen: T, bound: T) {
    println!("scale: {what}: {seen}{unit} (at most {bound}{unit})");
    assert!(seen <= bound, "{what}: {seen}{unit} is more than {bound}{unit}");
}

/// The memory of this process, in KiB.
pub(crate) fn resident_kib() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

//! Measured values, each with its limit.

use std::{fmt::Display, fs};

use tokio::sync::{Mutex, MutexGuard};

/// Returns true if the full form of the tests is requested.
pub(crate) fn is_full() -> bool {
    std::env::var("METAQ_SCALE").is_ok_and(|form| form == "full")
}

/// Selects the value of the short form or of the full one.
pub(crate) fn form<T>(short: T, full: T) -> T {
    if is_full() { full } else { short }
}

/// Serializes the tests: memory is measured for the whole process.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// Prints a value, and checks that it is within its limit.
#[track_caller]
pub(crate) fn figure<T: PartialOrd + Display>(what: impl Display, unit: &str, seen: T, bound: T) {
    println!("scale: {what}: {seen}{unit} (at most {bound}{unit})");
    assert!(seen <= bound, "{what}: {seen}{unit} is more than {bound}{unit}");
}

/// The resident memory of this process, in KiB.
pub(crate) fn resident_kib() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

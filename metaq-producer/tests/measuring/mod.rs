//! What those tests of `docs/reliability.md` share that measure a producer against embedded brokers. Each has a short form,
//! which always runs, and a full one, which runs with `METAQ_RELIABILITY=full`.
#![allow(dead_code, reason = "not every test needs all of it")]
#![allow(clippy::print_stdout, reason = "a test shows what it measures")]

pub(crate) mod process;
pub(crate) mod spoiled;
pub(crate) mod usage;

use std::fmt;

/// Whether the full form was asked for.
pub(crate) fn is_full() -> bool {
    std::env::var("METAQ_RELIABILITY").is_ok_and(|form| form == "full")
}

/// One for the short form, the other for the full one.
pub(crate) fn in_form<T>(short: T, full: T) -> T {
    if is_full() { full } else { short }
}

/// Shows a figure, on a line that begins as all figures do.
pub(crate) fn figure(text: fmt::Arguments<'_>) {
    println!("reliability: {text}");
}

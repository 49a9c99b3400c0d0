//! The two forms of the tests of `docs/reliability.md`: a short one, which always runs, and a full one, in
//! which faults come more often and last longer: `cargo xtask reliability`.

use std::fmt;

/// Whether the full form was asked for.
pub(crate) fn is_full() -> bool {
    std::env::var("METAQ_RELIABILITY").is_ok_and(|form| form == "full")
}

/// One for the short form, the other for the full one.
pub(crate) fn in_form<T>(short: T, full: T) -> T {
    if is_full() { full } else { short }
}

/// Shows a figure, on a line that `cargo xtask reliability` lets through.
#[allow(clippy::print_stdout, reason = "a test shows what it has measured")]
pub(crate) fn figure(text: fmt::Arguments<'_>) {
    println!("reliability: {text}");
}

//! `cargo xtask scale`: what a ZooKeeper with many topics costs, each figure beside its bound.

use crate::reliability::run_measured;

/// Runs the tests one after another in their full form; ARGS name tests, all are run without any. True when
/// every figure is within its bound.
pub(crate) fn run(args: &[String]) -> bool {
    let tests =
        ["test", "--package", "metaq-discovery", "--all-features", "--no-fail-fast", "--test", "scale"];
    run_measured(&tests, args, "METAQ_SCALE", "scale: ")
}

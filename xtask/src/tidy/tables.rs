//! The tables that the checks compare the tree with.

use std::panic::Location;

use super::{crates::Crate, limits::Ceilings, trees::Tree};

/// This file, as messages name it.
pub(super) const PATH: &str = "xtask/src/tidy/tables.rs";

/// The crates, and the arrows between them.
pub(super) const CRATES: [Crate; 11] = [
    Crate { folder: "metaq-protocol", name: "metaq-protocol", dependencies: &[], dev_dependencies: &[] },
    Crate {
        folder: "metaq-discovery",
        name: "metaq-discovery",
        dependencies: &["metaq-protocol"],
        dev_dependencies: &["metaq-testkit"],
    },
    Crate {
        folder: "metaq-transport",
        name: "metaq-transport",
        dependencies: &["metaq-protocol"],
        dev_dependencies: &["metaq-testkit"],
    },
    Crate {
        folder: "metaq-producer",
        name: "metaq-producer",
        dependencies: &["metaq-protocol", "metaq-discovery", "metaq-transport"],
        dev_dependencies: &["metaq-testkit"],
    },
    Crate {
        folder: "metaq-spool",
        name: "metaq-spool",
        dependencies: &["metaq-producer"],
        dev_dependencies: &["metaq-testkit"],
    },
    Crate {
        folder: "metaq-tracing",
        name: "metaq-tracing",
        dependencies: &["metaq-producer"],
        dev_dependencies: &["metaq-testkit"],
    },
    Crate {
        folder: "testkit",
        name: "metaq-testkit",
        dependencies: &["metaq-protocol", "metaq-discovery", "metaq-transport"],
        // The embedded broker is tested by what it is for.
        dev_dependencies: &["metaq-producer"],
    },
    Crate {
        folder: "metaq-cli",
        name: "metaq-cli",
        // `metaq dev-broker` is the embedded broker.
        dependencies: &["metaq-producer", "metaq-protocol", "metaq-spool", "metaq-testkit"],
        dev_dependencies: &[],
    },
    Crate {
        folder: "examples",
        name: "metaq-examples",
        // A transport of a program's own is made of the parts of `metaq-transport`.
        dependencies: &[
            "metaq-producer",
            "metaq-protocol",
            "metaq-testkit",
            "metaq-tracing",
            "metaq-transport",
        ],
        dev_dependencies: &[],
    },
    Crate {
        folder: "bench",
        name: "metaq-bench",
        dependencies: &["metaq-producer", "metaq-protocol", "metaq-spool", "metaq-testkit"],
        dev_dependencies: &[],
    },
    // What checks the workspace is built before it, and without it.
    Crate { folder: "xtask", name: "xtask", dependencies: &[], dev_dependencies: &[] },
];

/// The things that are too long, for now. The figures may only shrink.
pub(super) const CEILINGS: [Ceilings; 11] = [
    ceilings("metaq-protocol", 0, 0, 0),
    ceilings("metaq-discovery", 0, 0, 0),
    ceilings("metaq-transport", 0, 0, 0),
    ceilings("metaq-producer", 0, 0, 0),
    ceilings("metaq-spool", 0, 0, 0),
    ceilings("metaq-tracing", 0, 0, 0),
    ceilings("testkit", 0, 0, 0),
    ceilings("metaq-cli", 0, 0, 0),
    ceilings("examples", 0, 0, 0),
    ceilings("bench", 0, 0, 0),
    ceilings("xtask", 0, 0, 0),
];

/// The crates from elsewhere that a program builds, for now. The figures may only shrink, unless
/// ARCHITECTURE.md has a reason for one more.
pub(super) const TREES: [Tree; 8] = [
    tree("metaq-protocol", &[], 4, true),
    tree("metaq-transport", &[], 24, false),
    tree("metaq-discovery", &["--no-default-features"], 21, false),
    tree("metaq-producer", &["--no-default-features"], 34, true),
    tree("metaq-producer", &[], 110, false),
    tree("metaq-producer", &["--no-default-features", "--features", "tls-ring"], 43, false),
    tree("metaq-spool", &[], 35, false),
    tree("metaq-tracing", &[], 39, false),
];

#[track_caller]
const fn tree(
    package: &'static str,
    features: &'static [&'static str],
    ceiling: usize,
    has_reasons: bool,
) -> Tree {
    Tree { package, features, ceiling, has_reasons, line: Location::caller().line() }
}

#[track_caller]
const fn ceilings(
    folder: &'static str,
    long_comments: usize,
    long_test_names: usize,
    long_files: usize,
) -> Ceilings {
    Ceilings { folder, long_comments, long_test_names, long_files, line: Location::caller().line() }
}

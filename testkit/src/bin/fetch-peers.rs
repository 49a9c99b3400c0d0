//! Fetches what the real-peer tests need, so that they don't have to; says what is missing where that fails.

use std::{io::Write as _, process::ExitCode};

use metaq_testkit::peers::Peers;

fn main() -> ExitCode {
    match Peers::fetch() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            // A stderr that is gone can't be told about.
            let _ = writeln!(std::io::stderr(), "real peers can't be run: {error}");
            ExitCode::FAILURE
        }
    }
}

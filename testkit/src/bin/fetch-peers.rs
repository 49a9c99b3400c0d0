//! Fetches what the real-peer tests need, so that they don't have to; says what is missing where that fails.

use std::{io::Write as _, process::ExitCode};

use metaq_testkit::peers::{EtcdProgram, Peers};

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (what, fetched) in
        [("ZooKeeper and Java brokers", Peers::fetch().map(drop)), ("etcd", EtcdProgram::fetch().map(drop))]
    {
        if let Err(error) = fetched {
            // A stderr that is gone can't be told about.
            let _ = writeln!(std::io::stderr(), "{what} can't be run: {error}");
            code = ExitCode::FAILURE;
        }
    }
    code
}

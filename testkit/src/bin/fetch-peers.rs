//! Fetches the artifacts of real peers, so that the tests don't have to, and reports what is missing.

use std::{io::Write as _, process::ExitCode};

use metaq_testkit::peers::{EtcdProgram, Peers};

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (what, fetched) in
        [("ZooKeeper and Java brokers", Peers::fetch().map(drop)), ("etcd", EtcdProgram::fetch().map(drop))]
    {
        if let Err(error) = fetched {
            // Nothing is left to do about a closed stderr.
            let _ = writeln!(std::io::stderr(), "{what} can't be run: {error}");
            code = ExitCode::FAILURE;
        }
    }
    code
}

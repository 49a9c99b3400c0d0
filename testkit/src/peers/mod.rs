//! Real ZooKeeper and etcd servers and real Java brokers, as processes of the test that starts them.
//!
//! [`Peers::get`] fetches their artifacts by Maven, [`EtcdProgram::get`] builds etcd by Go, once for the
//! whole workspace. Everything runs in temporary folders and on free ports, and ends with its handle, or with
//! the test's process however that ends. A peer that fails keeps its folder, and the error names its log
//! there. Linux only.
//!
//! ZooKeeper listens on the loopback interface. A Java broker has no such setting: it listens on all
//! interfaces, and registers as `127.0.0.1`.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use metaq_testkit::peers::{JavaBroker, PeerError, Peers, ZooKeeper};
//! # async fn test() -> Result<(), PeerError> {
//! let Some(peers) = Peers::get("messages_arrive") else { return Ok(()) };
//! let zookeeper = ZooKeeper::start(&peers).await?;
//! let broker = JavaBroker::builder(0).topic("orders", 4).start(&peers, &zookeeper).await?;
//! // … send three messages …
//! let read = peers.read_topic(&zookeeper, "orders", 3, Duration::from_secs(30)).await?;
//! assert_eq!(read.len(), 3);
//! # drop(broker);
//! # Ok(())
//! # }
//! ```

// `artifacts` fetches and compiles, `process` runs a process that ends with its handle. `zookeeper` with its
// `zookeeper_ensemble` and `zookeeper_session`, `etcd`, and `java_broker` with its `java_broker_builder` are
// the peers; `java_reader` and `java_program` run programs that use the Java client. `tls` makes
// certificates, `error` has the error of all of them.
mod artifacts;
mod error;
mod etcd;
mod java_broker;
mod java_broker_builder;
mod java_program;
mod java_reader;
mod process;
mod tls;
mod zookeeper;
mod zookeeper_ensemble;
mod zookeeper_session;

use std::io::{self, Write as _};

pub use artifacts::Peers;
pub use error::PeerError;
pub use etcd::{Etcd, EtcdProgram};
pub use java_broker::JavaBroker;
pub use java_broker_builder::JavaBrokerBuilder;
pub use java_program::JavaProgram;
pub use java_reader::{JavaReader, ReadMessage};
pub use tls::{PeerTls, TestCa};
pub use zookeeper::{ZooKeeper, ZooKeeperBuilder};
pub use zookeeper_ensemble::ZooKeeperEnsemble;

/// The environment variable that has tests with real peers skipped.
const VARIABLE: &str = "METAQ_PEERS";

impl Peers {
    /// Returns the artifacts that real peers need, or `None` if they aren't there and can't be fetched: then
    /// a line `skipped: …` on stderr names the `test`, what is missing and how to get it. Blocks while it
    /// fetches.
    ///
    /// With `METAQ_PEERS=none` in the environment, returns `None` after such a line, and looks for nothing.
    ///
    /// # Panics
    /// When it would return `None` and the environment variable `CI` is `true`: tests may not be skipped
    /// there. In any environment, when fetching fails for another reason.
    #[must_use]
    pub fn get(test: &str) -> Option<Self> {
        skip_if_missing(test, Self::fetch)
    }
}

impl EtcdProgram {
    /// Returns the program of etcd, or `None` if it isn't there and can't be built; otherwise as
    /// [`Peers::get`].
    ///
    /// # Panics
    /// The same as for [`Peers::get`].
    #[must_use]
    pub fn get(test: &str) -> Option<Self> {
        skip_if_missing(test, Self::fetch)
    }
}

fn skip_if_missing<T>(test: &str, fetch: impl FnOnce() -> Result<T, PeerError>) -> Option<T> {
    let is_wanted = std::env::var(VARIABLE).as_deref() != Ok("none");
    match if is_wanted { fetch() } else { Err(PeerError::Unwanted) } {
        Ok(fetched) => Some(fetched),
        Err(error) => {
            assert!(error.is_missing(), "{test}: {error}");
            // Not by a macro: the test harness would capture its output. In one write, so that the lines of
            // several tests don't mix.
            let _ = io::stderr().write_all(format!("skipped: {test}: {error}\n").as_bytes());
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} may not be skipped here: {error}");
            None
        }
    }
}

//! The registries that a broker registers in.

use std::{fmt, io, sync::Arc, time::Duration};

use super::session::Session;

/// ZooKeeper's protocol has milliseconds as a signed 32-bit number.
const MAX_SESSION_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// A registry that a [`Broker`](crate::Broker) registers in; for
/// [`BrokerBuilder::register_in`](crate::BrokerBuilder::register_in).
///
/// The broker creates the entries of a Java broker, in the same order, and again after its session was lost.
/// When the broker is dropped or [killed](crate::Broker::kill), its entries stay until the session has
/// expired, like those of a killed process; [`Broker::shut_down`](crate::Broker::shut_down) removes them.
///
/// An id belongs to one broker at a time. Starting a broker waits for the entries of a former process with
/// the same id to expire: in etcd as long as their lease lasts, in ZooKeeper for the session timeout and 15
/// s. If they are still there then, another broker with this id is alive: starting fails with
/// `AlreadyExists`, and leaves the entries of that broker untouched. (A Java broker gives up immediately, and
/// serves unregistered.)
#[derive(Clone, Debug)]
pub struct Registry {
    kind: Kind,
    pub(super) hosts: Vec<String>,
    /// Empty, or beginning and not ending with a slash.
    pub(super) root: String,
    pub(super) session_timeout: Duration,
    /// The limit of the first registration; by default the session timeout and 15 s for an attempt to begin.
    pub(super) register_timeout: Option<Duration>,
    pub(super) observer: Observer,
}

/// A callback for the reasons for which a first registration is not complete yet.
#[derive(Clone, Default)]
pub(super) struct Observer(Option<Arc<Observe>>);

type Observe = dyn Fn(&str) + Send + Sync;

impl Observer {
    pub(super) fn notify(&self, reason: &str) {
        if let Some(observe) = &self.0 {
            observe(reason);
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observer").field(&self.0.is_some()).finish()
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    #[cfg(feature = "zookeeper")]
    ZooKeeper,
    #[cfg(feature = "etcd")]
    Etcd,
}

impl Registry {
    /// A ZooKeeper, named as `HOST:PORT,HOST:PORT/ROOT`, optionally preceded by `zk://`. The default root is
    /// `/meta`.
    #[cfg(feature = "zookeeper")]
    #[must_use]
    pub fn zookeeper(connect: &str) -> Self {
        Self::new(Kind::ZooKeeper, connect.strip_prefix("zk://").unwrap_or(connect))
    }

    /// An etcd, named as `HOST:PORT,HOST:PORT/ROOT`, optionally preceded by `etcd://`. The default root is
    /// `/meta`. The keys are the paths of ZooKeeper; ephemeral entries have a lease.
    #[cfg(feature = "etcd")]
    #[must_use]
    pub fn etcd(connect: &str) -> Self {
        Self::new(Kind::Etcd, connect.strip_prefix("etcd://").unwrap_or(connect))
    }

    fn new(kind: Kind, connect: &str) -> Self {
        let (hosts, root) = connect.split_once('/').unwrap_or((connect, "meta"));
        let root = root.trim_matches('/');
        Self {
            kind,
            hosts: hosts.split(',').map(|host| host.trim().to_owned()).collect(),
            root: if root.is_empty() { String::new() } else { format!("/{root}") },
            session_timeout: Duration::from_secs(6),
            register_timeout: None,
            observer: Observer::default(),
        }
    }

    /// Sets the time without contact after which the registry removes the broker. Default 6 s, at most 24
    /// days. etcd counts whole seconds, at least 2 s.
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout.min(MAX_SESSION_TIMEOUT);
        self
    }

    /// Limits the first registration to this time, whatever it waits for. By default, it is tried again for
    /// the session timeout and 15 s, and waits for an entry of a former process as long as that can last.
    #[must_use]
    pub fn register_timeout(mut self, timeout: Duration) -> Self {
        self.register_timeout = Some(timeout);
        self
    }

    /// Calls `observe` with each reason for which the first registration is not complete yet: an attempt that
    /// failed, or an entry of a former process that has to expire. Equal reasons in a row are reported once.
    #[must_use]
    pub fn on_waiting(mut self, observe: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.observer = Observer(Some(Arc::new(observe)));
        self
    }

    /// Begins a session. In etcd it takes over the entries of `former_sessions` of the same broker.
    #[cfg_attr(not(feature = "etcd"), expect(unused_variables, reason = "only etcd needs it"))]
    pub(super) async fn connect(&self, former_sessions: &[i64]) -> io::Result<Box<dyn Session>> {
        match self.kind {
            #[cfg(feature = "zookeeper")]
            Kind::ZooKeeper => super::zookeeper::connect(&self.hosts, self.session_timeout).await,
            #[cfg(feature = "etcd")]
            Kind::Etcd => {
                Box::pin(super::etcd::connect(&self.hosts, self.session_timeout, former_sessions)).await
            }
        }
    }
}

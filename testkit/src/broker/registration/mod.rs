//! Registering the broker as a Java broker registers (registry).

#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "zookeeper")]
mod zookeeper;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::Shared;

/// Between attempts to reach a registry that is away.
const PAUSE: Duration = Duration::from_millis(200);

/// How long the first registration may take on top of the session timeout, for which the entries of a former process
/// with the same id may last.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a withdrawal may take: a registry that is frozen answers no call of it.
const WITHDRAWAL: Duration = Duration::from_secs(10);

/// ZooKeeper's protocol has milliseconds in 32 bits with a sign.
const LONGEST_SESSION: Duration = Duration::from_millis(i32::MAX as u64);

/// Where a [`Broker`](super::Broker) registers; for [`BrokerBuilder::register_in`](super::BrokerBuilder::register_in).
///
/// It registers what a Java broker registers, in the same order, and again whenever its session was lost. When the
/// broker is dropped, its entries stay until the session has expired, as those of a process that was killed;
/// [`Broker::shut_down`](super::Broker::shut_down) removes them. The entries of a former process with the same id are waited for:
/// a Java broker would give up and serve unregistered (registry §18).
#[derive(Clone, Debug)]
pub struct Registry {
    kind: Kind,
    hosts: Vec<String>,
    /// Empty, or beginning and not ending with a slash.
    root: String,
    session_timeout: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    #[cfg(feature = "zookeeper")]
    ZooKeeper,
    #[cfg(feature = "etcd")]
    Etcd,
}

impl Registry {
    /// A ZooKeeper, named as `HOST:PORT,HOST:PORT/ROOT`, with `zk://` before it or not; the root is `/meta` when left out.
    #[cfg(feature = "zookeeper")]
    #[must_use]
    pub fn zookeeper(connect: &str) -> Self {
        Self::new(Kind::ZooKeeper, connect.strip_prefix("zk://").unwrap_or(connect))
    }

    /// An etcd, named as `HOST:PORT,HOST:PORT/ROOT`, with `etcd://` before it or not; the root is `/meta` when left out. The
    /// keys are the paths of ZooKeeper; what is ephemeral there has a lease.
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
        }
    }

    /// After how long the registry gives the broker up when it doesn't hear from it. Default 6 s, at most
    /// 24 days. etcd counts in whole seconds.
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout.min(LONGEST_SESSION);
        self
    }

    /// Registers the broker, and keeps it registered.
    pub(super) async fn register(self, shared: Arc<Shared>) -> io::Result<Registration> {
        let limit = PATIENCE + self.session_timeout;
        let what = format!(
            "broker {} could not be registered at {} within {limit:?}",
            shared.id,
            self.hosts.join(",")
        );
        let (withdrawals, orders) = mpsc::channel(1);
        let (state, mut registered) = watch::channel(State::default());
        let keeping = tokio::spawn(keep_registered(self, shared, orders, state));
        let registration = Registration { keeping, withdrawals };
        let waited = timeout(limit, registered.wait_for(|state| state.registered)).await;
        if matches!(waited, Ok(Ok(_))) {
            return Ok(registration);
        }
        drop(waited);
        let reason = registered.borrow().trouble.clone();
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what}{reason}")))
    }

    async fn connect(&self) -> io::Result<Box<dyn Session>> {
        match self.kind {
            #[cfg(feature = "zookeeper")]
            Kind::ZooKeeper => zookeeper::connect(&self.hosts, self.session_timeout).await,
            #[cfg(feature = "etcd")]
            Kind::Etcd => Box::pin(etcd::connect(&self.hosts, self.session_timeout)).await,
        }
    }
}

/// A session with a registry, and what can be done in it. An error means that it is of no more use.
#[async_trait]
trait Session: Send + Sync {
    /// Makes an entry that goes with the session, and the path to it. Waits for one of another session to go.
    async fn create(&self, path: &str, text: &str) -> io::Result<()>;

    /// Makes or changes an entry that stays.
    async fn write(&self, path: &str, text: &str) -> io::Result<()>;

    /// Removes an entry; it is no error when there is none.
    async fn remove(&self, path: &str) -> io::Result<()>;

    /// Removes an entry that stays, or empties it when others lie below it (registry §20).
    async fn remove_or_empty(&self, path: &str) -> io::Result<()>;

    /// Returns once the session has ended.
    async fn ended(&self);

    /// Ends the session, and what still goes with it.
    async fn end(&self) -> io::Result<()>;
}

/// A broker's registration. It ends with this, like that of a process that is killed.
#[derive(Debug)]
pub(super) struct Registration {
    keeping: JoinHandle<()>,
    withdrawals: mpsc::Sender<oneshot::Sender<io::Result<()>>>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

/// Takes the broker out of all its registries.
pub(super) async fn withdraw_all(registrations: &[Registration]) -> io::Result<()> {
    let withdrawn = join_all(registrations.iter().map(Registration::withdraw)).await;
    withdrawn.into_iter().collect()
}

impl Registration {
    async fn withdraw(&self) -> io::Result<()> {
        let gone = || io::Error::other("the broker's registration has ended already");
        let withdrawn = async {
            let (done, answer) = oneshot::channel();
            self.withdrawals.send(done).await.map_err(|_| gone())?;
            answer.await.unwrap_or_else(|_| Err(gone()))
        };
        match timeout(WITHDRAWAL, withdrawn).await {
            Ok(withdrawn) => withdrawn,
            Err(_) => {
                // What is left there expires.
                self.keeping.abort();
                let text = format!("the registry did not let the broker withdraw within {WITHDRAWAL:?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }
}

/// Whether the broker is registered, or why not.
#[derive(Clone, Debug, Default)]
struct State {
    registered: bool,
    trouble: Option<String>,
}

async fn keep_registered(
    registry: Registry,
    shared: Arc<Shared>,
    mut orders: mpsc::Receiver<oneshot::Sender<io::Result<()>>>,
    state: watch::Sender<State>,
) {
    let layout = Layout::new(&registry.root, &shared);
    loop {
        let served = async {
            let session = registry.connect().await?;
            let entries = layout.enter(&*session, &shared).await?;
            state.send_modify(|state| state.registered = true);
            layout.follow(&*session, &shared, entries, &mut orders).await
        };
        match served.await {
            Ok(()) => return,
            Err(error) => state.send_modify(|state| {
                *state = State { registered: false, trouble: Some(error.to_string()) };
            }),
        }
        tokio::select! {
            () = sleep(PAUSE) => {}
            Some(done) = orders.recv() => {
                // What is left there expires.
                let _ = done.send(Err(io::Error::other("the registry can not be reached")));
                return;
            }
        }
    }
}

/// The paths of a broker's entries below the root.
struct Layout {
    brokers: String,
    id: String,
}

/// The entries of each topic: path and text.
type Topics = BTreeMap<String, Vec<(String, String)>>;

impl Layout {
    fn new(root: &str, shared: &Shared) -> Self {
        Self { brokers: format!("{root}/brokers"), id: shared.id.to_string() }
    }

    fn ids(&self, rest: &str) -> String {
        format!("{}/ids/{}{rest}", self.brokers, self.id)
    }

    /// What a broker tells of its topics (registry §1).
    fn topics(&self, shared: &Shared) -> Topics {
        let mut topics = Topics::new();
        for entry in shared.topics.all() {
            if !entry.is_known() || !can_be_node(&entry.name) {
                continue;
            }
            let partitions = shared.topics.partitions(Some(&entry));
            let path = |kind: &str| format!("{}/{kind}/{}/{}-m", self.brokers, entry.name, self.id);
            let json = format!("{{\"broker\":\"{}-m\",\"numParts\":{partitions}}}", self.id);
            let mut entries = vec![(path("topics"), partitions.to_string())];
            for (kind, switch) in [("topics-pub", &entry.publishes), ("topics-sub", &entry.subscribes)] {
                if switch.load(Ordering::Acquire) {
                    entries.push((path(kind), json.clone()));
                }
            }
            topics.insert(entry.name.to_string(), entries);
        }
        topics
    }

    /// Registers the broker: its address first, then its topics (rule B-31).
    async fn enter(&self, session: &dyn Session, shared: &Shared) -> io::Result<Topics> {
        let addr = shared.addr.to_string();
        session.create(&self.ids("/master"), &addr).await?;
        session.write(&self.ids(""), &addr).await?;
        session.create(&self.ids("/master_config_checksum"), &shared.config_checksum().to_string()).await?;
        let topics = self.topics(shared);
        for (path, text) in topics.values().flatten() {
            session.create(path, text).await?;
        }
        Ok(topics)
    }

    /// Follows the changes of the broker's topics until it is to withdraw, which is good, or the session ends.
    async fn follow(
        &self,
        session: &dyn Session,
        shared: &Shared,
        mut told: Topics,
        orders: &mut mpsc::Receiver<oneshot::Sender<io::Result<()>>>,
    ) -> io::Result<()> {
        let mut offered = shared.offered.subscribe();
        // What changed since the topics were read.
        offered.mark_changed();
        loop {
            tokio::select! {
                () = session.ended() => return Err(io::Error::other("the session has ended")),
                Ok(()) = offered.changed() => {
                    let topics = self.topics(shared);
                    for (topic, entries) in &topics {
                        let before = told.get(topic);
                        if before == Some(entries) {
                            continue;
                        }
                        // Deleted and made again, not written over (registry §8).
                        for (path, _) in before.into_iter().flatten() {
                            session.remove(path).await?;
                        }
                        for (path, text) in entries {
                            session.create(path, text).await?;
                        }
                    }
                    if topics != told {
                        let path = self.ids("/master_config_checksum");
                        session.remove(&path).await?;
                        session.create(&path, &shared.config_checksum().to_string()).await?;
                        told = topics;
                    }
                }
                Some(done) = orders.recv() => {
                    // Whoever asked may have gone.
                    let _ = done.send(self.leave(session, &told).await);
                    return Ok(());
                }
            }
        }
    }

    /// Takes the broker out (registry §14).
    async fn leave(&self, session: &dyn Session, told: &Topics) -> io::Result<()> {
        session.remove(&self.ids("/master")).await?;
        session.remove(&self.ids("/master_config_checksum")).await?;
        session.remove_or_empty(&self.ids("")).await?;
        for (path, _) in told.values().flatten() {
            session.remove(path).await?;
        }
        session.end().await
    }
}

/// Whether the name of a topic, which a client may have chosen, can be that of a node.
fn can_be_node(name: &str) -> bool {
    let refused = |c: char| {
        c == '/'
            || c.is_control()
            || ('\u{e000}'..='\u{f8ff}').contains(&c)
            || ('\u{fff0}'..='\u{ffff}').contains(&c)
    };
    !matches!(name, "" | "." | "..") && !name.contains(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn withdrawing_has_a_deadline_whatever_the_registry_does() {
        let frozen = || {
            let (withdrawals, orders) = mpsc::channel(1);
            // It is in the middle of something, and never looks at its orders.
            let keeping = tokio::spawn(async move {
                let _orders = orders;
                std::future::pending().await
            });
            Registration { keeping, withdrawals }
        };
        let registrations = [frozen(), frozen()];
        let started = tokio::time::Instant::now();
        let waited = timeout(Duration::from_secs(3600), withdraw_all(&registrations)).await;
        assert_eq!(waited.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), WITHDRAWAL, "both at the same time");
    }

    #[test]
    fn names_that_no_registry_takes_are_left_out() {
        for (name, can) in [
            ("orders", true),
            ("dyn*", true),
            ("主题", true),
            ("", false),
            ("..", false),
            ("a/b", false),
            ("a\u{1}", false),
            ("\u{fffd}", false),
        ] {
            assert_eq!(can_be_node(name), can, "{name:?}");
        }
    }
}

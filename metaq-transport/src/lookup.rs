//! Looking up the addresses of brokers' names.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    thread,
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// A function that looks up names, and blocks.
type Resolve = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// The key of a lookup: a host and a port.
type Key = (String, u16);

/// The result of a lookup, once it is done.
type Found = Option<Result<Vec<SocketAddr>, Arc<io::Error>>>;

/// Looks up names, one lookup for each broker at a time.
///
/// A lookup blocks its thread, for half a minute if no name server answers, and can't be given up. So it has a thread of its
/// own, for which no runtime waits when it is shut down, and whoever wants the same while it lasts awaits its result.
#[derive(Clone, Debug)]
pub(crate) struct Lookups {
    resolve: Resolve,
    running: Arc<Mutex<HashMap<Key, watch::Receiver<Found>>>>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
    }
}

impl Lookups {
    fn new(resolve: Resolve) -> Self {
        Self { resolve, running: Arc::default() }
    }

    /// The addresses of `host`, at least one.
    pub(crate) async fn find(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let mut running = self.running(host, port)?;
        let found = running.wait_for(Option::is_some).await.map(|found| found.clone());
        match found {
            Ok(Some(Ok(addresses))) if !addresses.is_empty() => Ok(addresses),
            Ok(Some(Ok(_))) => Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"))),
            Ok(Some(Err(error))) => Err(io::Error::new(error.kind(), error)),
            Ok(None) | Err(_) => Err(io::Error::other(format!("the lookup of {host} panicked"))),
        }
    }

    /// The lookup that is under way, or a new one.
    fn running(&self, host: &str, port: u16) -> io::Result<watch::Receiver<Found>> {
        let key = (host.to_owned(), port);
        let mut running = self.running.lock();
        if let Some(lookup) = running.get(&key) {
            return Ok(lookup.clone());
        }
        let (sender, receiver) = watch::channel(None);
        let resolve = self.resolve;
        let done = Done { lookups: self.clone(), key: key.clone() };
        let look_up = move || {
            let found = resolve(&done.key.0, done.key.1).map_err(Arc::new);
            // Who comes from now on looks anew.
            drop(done);
            sender.send_replace(Some(found));
        };
        // A thread that can't be started drops what it was given, which takes the lock.
        running.insert(key, receiver.clone());
        drop(running);
        thread::Builder::new().name("metaq-lookup".to_owned()).spawn(look_up)?;
        Ok(receiver)
    }
}

/// Removes a lookup when it is done, also if it panics or its thread can't be started.
struct Done {
    lookups: Lookups,
    key: Key,
}

impl Drop for Done {
    fn drop(&mut self) {
        self.lookups.running.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            LazyLock,
            atomic::{AtomicUsize, Ordering},
        },
        time::{Duration, Instant},
    };

    use tokio::{runtime::Runtime, time::timeout};

    use super::*;

    #[test]
    fn a_lookup_that_hangs_holds_up_neither_later_attempts_nor_the_runtime() {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        static HANG: Mutex<()> = Mutex::new(());
        let hang = HANG.lock();
        let lookups = Lookups::new(|_, port| {
            STARTED.fetch_add(1, Ordering::SeqCst);
            drop(HANG.lock());
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
        });
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            for _ in 0..5 {
                assert!(timeout(Duration::from_millis(10), lookups.find("name", 1)).await.is_err());
            }
        });
        let started = Instant::now();
        drop(runtime);
        assert!(started.elapsed() < Duration::from_secs(5), "the runtime waits for no lookup");
        assert_eq!(STARTED.load(Ordering::SeqCst), 1, "one at a time");
        let waiting = Runtime::new().unwrap();
        let found = waiting.block_on(async {
            let found = tokio::spawn({
                let lookups = lookups.clone();
                async move { lookups.find("name", 1).await }
            });
            tokio::task::yield_now().await;
            drop(hang);
            found.await.unwrap().unwrap()
        });
        assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], 1))]);
        while !lookups.running.lock().is_empty() {
            thread::yield_now();
        }
        assert!(waiting.block_on(lookups.find("name", 1)).is_ok());
        assert!(STARTED.load(Ordering::SeqCst) >= 2, "a name is looked up anew at every attempt");
    }

    #[tokio::test]
    async fn addresses_need_no_lookup_and_failures_are_told() {
        let lookups = Lookups::new(|host, _| match host {
            "empty" => Ok(Vec::new()),
            "panics" => panic!("as asked"),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
        });
        assert_eq!(lookups.find("::1", 7).await.unwrap(), ["[::1]:7".parse::<SocketAddr>().unwrap()]);
        assert_eq!(
            lookups.find("127.0.0.1", 7).await.unwrap(),
            ["127.0.0.1:7".parse::<SocketAddr>().unwrap()]
        );
        let error = async |host| lookups.find(host, 1).await.unwrap_err().to_string();
        assert_eq!(error("unknown").await, "no such name");
        assert_eq!(error("empty").await, "empty has no address");
        assert!(error("panics").await.contains("panicked"));
        assert!(lookups.running.lock().is_empty());
    }

    #[tokio::test]
    async fn real_names_are_found() {
        static LOOKUPS: LazyLock<Lookups> = LazyLock::new(Lookups::default);
        let found = LOOKUPS.find("localhost", 80).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 80), "{found:?}");
    }
}

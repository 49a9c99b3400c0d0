//! Lookups of the addresses of brokers' names.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    thread,
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// A function that looks up a name, and blocks meanwhile.
type LookupFn = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// The key of a lookup: a host and a port.
type HostPort = (String, u16);

/// The result of a lookup, once it is done.
type LookupResult = Option<Result<Vec<SocketAddr>, Arc<io::Error>>>;

/// Looks up names, one lookup for each broker at a time.
///
/// A lookup blocks its thread, for half a minute if no name server answers, and can't be cancelled. So it has
/// a thread of its own, for which no runtime waits at its shutdown. Callers that need the same name meanwhile
/// share its result.
#[derive(Clone, Debug)]
pub(crate) struct Resolver {
    lookup_fn: LookupFn,
    running: Arc<Mutex<HashMap<HostPort, watch::Receiver<LookupResult>>>>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
    }
}

impl Resolver {
    fn new(lookup_fn: LookupFn) -> Self {
        Self { lookup_fn, running: Arc::default() }
    }

    /// Returns the addresses of `host`, at least one.
    pub(crate) async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
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

    /// Returns the lookup that is running, or starts one.
    fn running(&self, host: &str, port: u16) -> io::Result<watch::Receiver<LookupResult>> {
        let key = (host.to_owned(), port);
        let mut running = self.running.lock();
        if let Some(lookup) = running.get(&key) {
            return Ok(lookup.clone());
        }
        let (sender, receiver) = watch::channel(None);
        let lookup_fn = self.lookup_fn;
        let removed = RemoveOnDrop { resolver: self.clone(), key: key.clone() };
        let look_up = move || {
            let found = lookup_fn(&removed.key.0, removed.key.1).map_err(Arc::new);
            // From here on, callers start another lookup.
            drop(removed);
            sender.send_replace(Some(found));
        };
        // If the thread can't be started, its closure is dropped, which takes the lock.
        running.insert(key, receiver.clone());
        drop(running);
        thread::Builder::new().name("metaq-lookup".to_owned()).spawn(look_up)?;
        Ok(receiver)
    }
}

/// Removes a lookup when it is done, also if it panics or its thread can't be started.
struct RemoveOnDrop {
    resolver: Resolver,
    key: HostPort,
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        self.resolver.running.lock().remove(&self.key);
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
    fn a_hanging_lookup_delays_neither_attempts_nor_the_runtime() {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        static HANG: Mutex<()> = Mutex::new(());
        let hang = HANG.lock();
        let resolver = Resolver::new(|_, port| {
            STARTED.fetch_add(1, Ordering::SeqCst);
            drop(HANG.lock());
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
        });
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            for _ in 0..5 {
                assert!(timeout(Duration::from_millis(10), resolver.resolve("name", 1)).await.is_err());
            }
        });
        let started = Instant::now();
        drop(runtime);
        assert!(started.elapsed() < Duration::from_secs(5), "the runtime waits for no lookup");
        assert_eq!(STARTED.load(Ordering::SeqCst), 1, "one at a time");
        let waiting = Runtime::new().unwrap();
        let found = waiting.block_on(async {
            let found = tokio::spawn({
                let resolver = resolver.clone();
                async move { resolver.resolve("name", 1).await }
            });
            tokio::task::yield_now().await;
            drop(hang);
            found.await.unwrap().unwrap()
        });
        assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], 1))]);
        while !resolver.running.lock().is_empty() {
            thread::yield_now();
        }
        assert!(waiting.block_on(resolver.resolve("name", 1)).is_ok());
        assert!(STARTED.load(Ordering::SeqCst) >= 2, "a name is looked up anew at every attempt");
    }

    #[tokio::test]
    async fn addresses_need_no_lookup_and_failures_are_reported() {
        let resolver = Resolver::new(|host, _| match host {
            "empty" => Ok(Vec::new()),
            "panics" => panic!("as asked"),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
        });
        assert_eq!(resolver.resolve("::1", 7).await.unwrap(), ["[::1]:7".parse::<SocketAddr>().unwrap()]);
        assert_eq!(
            resolver.resolve("127.0.0.1", 7).await.unwrap(),
            ["127.0.0.1:7".parse::<SocketAddr>().unwrap()]
        );
        let error = async |host| resolver.resolve(host, 1).await.unwrap_err().to_string();
        assert_eq!(error("unknown").await, "no such name");
        assert_eq!(error("empty").await, "empty has no address");
        assert!(error("panics").await.contains("panicked"));
        assert!(resolver.running.lock().is_empty());
    }

    #[tokio::test]
    async fn real_names_are_found() {
        static LOOKUPS: LazyLock<Resolver> = LazyLock::new(Resolver::default);
        let found = LOOKUPS.resolve("localhost", 80).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 80), "{found:?}");
    }
}

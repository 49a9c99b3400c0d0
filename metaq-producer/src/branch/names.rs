//! Names of local transactions.

use std::{
    fmt::{self, Write as _},
    process,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicI32, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use metaq_protocol::{Token, TransactionId};

/// This machine's name, as it can stand in the name of a transaction.
static HOST: LazyLock<String> =
    LazyLock::new(|| clean(&hostname::get().unwrap_or_default().to_string_lossy()));

/// Replaces what a peer misreads. A colon would make the broker close the connection (K-21).
fn clean(host: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let host: String = host.chars().map(|c| if harmless(c) { c } else { '-' }).collect();
    if host.is_empty() { "localhost".to_owned() } else { host }
}

/// The operating system provided no random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoEntropy(getrandom::Error);

impl fmt::Display for NoEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the operating system provided no random bits, without which its name would not be unique: {}",
            self.0
        )
    }
}

impl std::error::Error for NoEntropy {}

/// The unique part of a session's name.
type RandomBits = [u8; 16];

fn random_bits() -> Result<RandomBits, NoEntropy> {
    let mut bits = RandomBits::default();
    getrandom::fill(&mut bits).map_err(NoEntropy)?;
    Ok(bits)
}

/// The names of one producer's transactions that one process hands out.
#[derive(Debug)]
struct Session {
    token: Token,
    /// The process that drew the random bits. A child that this process forked has another id, and must not
    /// go on here.
    process: u32,
    /// The number of the last transaction.
    last: AtomicI32,
}

impl Session {
    /// A session id, `HOST-PROCESS-RANDOM` (rule T-3), with the name of the host, since its address may hold
    /// colons.
    ///
    /// Only the random bits make it unique: hosts share names, containers share process ids, and brokers
    /// merge transactions of one name even if they come over different connections.
    fn new(process: u32, bits: &RandomBits) -> Self {
        let mut name = format!("{}-{process}-", *HOST);
        for byte in bits {
            // Writing to a string can't fail.
            let _ = write!(name, "{byte:02x}");
        }
        #[expect(clippy::unwrap_used, reason = "harmless characters make a word, and there is at least one")]
        let token = Token::new(&name).unwrap();
        Self { token, process, last: AtomicI32::new(0) }
    }

    /// The next number; none after the last. The broker reads it as 32 bits (K-22).
    fn next(&self) -> Option<i32> {
        let next = |last: i32| last.checked_add(1);
        self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?.checked_add(1)
    }
}

/// Names the local transactions of a producer, `TX:SESSION:NUMBER` (rule T-4).
///
/// Without a lock, which a forked child could inherit while it is held.
#[derive(Debug)]
pub(crate) struct TransactionNames {
    session: ArcSwapOption<Session>,
}

impl TransactionNames {
    pub(crate) fn new() -> Self {
        Self { session: ArcSwapOption::empty() }
    }

    /// The next name, and its session.
    ///
    /// # Errors
    /// When a new session is needed and the operating system provides no random bits for it.
    pub(crate) fn next(&self) -> Result<(TransactionId, Token), NoEntropy> {
        self.next_in(process::id(), random_bits)
    }

    /// The session id of this process.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    pub(crate) fn session(&self) -> Result<Token, NoEntropy> {
        Ok(self.session_in(process::id(), random_bits)?.token.clone())
    }

    #[expect(clippy::unwrap_used, reason = "a session of one's own holds no colon")]
    fn next_in(
        &self,
        process: u32,
        random_bits: impl Fn() -> Result<RandomBits, NoEntropy>,
    ) -> Result<(TransactionId, Token), NoEntropy> {
        loop {
            let session = self.session_in(process, &random_bits)?;
            match session.next() {
                Some(number) => {
                    let id = TransactionId::local(session.token.as_str(), number).unwrap();
                    return Ok((id, session.token.clone()));
                }
                // Its numbers are used up.
                None => self.session.store(None),
            }
        }
    }

    /// The session of this process. Threads that need a new one at the same time may get one each.
    fn session_in(
        &self,
        process: u32,
        random_bits: impl FnOnce() -> Result<RandomBits, NoEntropy>,
    ) -> Result<Arc<Session>, NoEntropy> {
        if let Some(session) = self.session.load_full().filter(|session| session.process == process) {
            return Ok(session);
        }
        let session = Arc::new(Session::new(process, &random_bits()?));
        self.session.store(Some(Arc::clone(&session)));
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use super::*;

    #[test]
    fn a_session_never_holds_what_a_broker_misreads() {
        for (host, cleaned) in [
            ("web-1.example", "web-1.example"),
            ("[fe80::1%eth0]", "-fe80--1-eth0-"),
            ("a b\r\nü", "a-b---"),
            ("", "localhost"),
        ] {
            assert_eq!(clean(host), cleaned, "K-21");
        }
        let session = TransactionNames::new().session().unwrap();
        assert!(!session.as_str().contains(':'), "K-21, T-3");
        assert_eq!(clean(session.as_str()), session.as_str(), "T-3");
    }

    #[test]
    fn numbers_count_and_never_leave_32_bits() {
        let names = TransactionNames::new();
        let ids: Vec<_> = (0..3).map(|_| names.next().unwrap()).collect();
        let session = ids[0].1.as_str();
        let expected: Vec<_> = (1..=3).map(|number| format!("TX:{session}:{number}")).collect();
        assert_eq!(ids.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>(), expected, "T-4");
        for (id, _) in &ids {
            assert_eq!(id.as_str().parse().as_ref(), Ok(id), "the broker reads it back");
        }
        names.session.load_full().unwrap().last.store(i32::MAX - 1, Ordering::Relaxed);
        assert_eq!(names.next().unwrap().0.to_string(), format!("TX:{session}:{}", i32::MAX));
        let (id, other) = names.next().unwrap();
        assert_eq!(id.to_string(), format!("TX:{other}:1"), "K-22");
        assert_ne!(other.as_str(), session);
    }

    #[test]
    fn a_session_holds_128_random_bits() {
        let session = || TransactionNames::new().session().unwrap().as_str().to_owned();
        let random = |session: &str| {
            let (start, random) = session.rsplit_once('-').unwrap();
            assert_eq!(start, format!("{}-{}", *HOST, process::id()));
            assert!(random.len() == 32 && random.bytes().all(|byte| byte.is_ascii_hexdigit()), "{session}");
            u128::from_str_radix(random, 16).unwrap()
        };
        let sessions: Vec<_> = (0..1000).map(|_| random(&session())).collect();
        // Each bit is set in about half of them.
        for bit in 0..128 {
            let set = sessions.iter().filter(|session| *session >> bit & 1 == 1).count();
            assert!((300..700).contains(&set), "bit {bit} is set in {set} of 1000");
        }
    }

    #[test]
    fn a_forked_child_goes_on_in_no_session_of_its_parent() {
        let parent = TransactionNames::new();
        let first = parent.next_in(7, random_bits).unwrap();
        // What a child has after the fork: the same memory, and another process id.
        let child = TransactionNames { session: ArcSwapOption::from(parent.session.load_full()) };
        let (of_child, session) = child.next_in(8, random_bits).unwrap();
        assert_ne!(session, first.1);
        assert_eq!(of_child.to_string(), format!("TX:{session}:1"), "it counts by itself");
        assert_eq!(child.next_in(8, random_bits).unwrap().1, session);
        let second = parent.next_in(7, random_bits).unwrap();
        assert_eq!(second.0.to_string(), format!("TX:{}:2", first.1), "the parent goes on");
    }

    #[test]
    fn without_random_bits_there_is_no_name() {
        let names = TransactionNames::new();
        let none = || Err(NoEntropy(getrandom::Error::UNSUPPORTED));
        let error = names.next_in(7, none).unwrap_err();
        assert!(error.to_string().contains("no random bits"), "{error}");
        let (_, session) = names.next_in(7, random_bits).unwrap();
        assert_eq!(names.next_in(7, none).unwrap().1, session, "only a new session needs them");
    }

    #[test]
    fn threads_that_share_the_names_never_get_one_twice() {
        let names = TransactionNames::new();
        let of_thread = || (0..2000).map(|_| names.next().unwrap().0.to_string()).collect::<Vec<_>>();
        let all: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(of_thread)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }
}

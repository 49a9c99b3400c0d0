//! Names of local transactions.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use metaq_protocol::{Token, TransactionId};
use parking_lot::Mutex;

/// This machine's name, as it can stand in the name of a transaction.
pub(crate) static HOST: LazyLock<String> =
    LazyLock::new(|| clean(&gethostname::gethostname().to_string_lossy()));

/// How many sessions this process has begun.
static SESSIONS: AtomicU32 = AtomicU32::new(0);

/// Keeps what no peer misreads. A colon would have the broker close the connection (K-21).
fn clean(host: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let host: String = host.chars().map(|c| if harmless(c) { c } else { '-' }).collect();
    if host.is_empty() { "localhost".to_owned() } else { host }
}

/// A session id, `HOST-MILLIS-N` (rule T-3), with the name of the host, since its address may hold colons.
#[expect(clippy::unwrap_used, reason = "harmless characters make a word, and there is at least one")]
pub(crate) fn new_session() -> Token {
    // A clock before 1970 makes names no worse: the number tells them apart within the process.
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let number = SESSIONS.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    Token::new(&format!("{}-{millis}-{number}", *HOST)).unwrap()
}

/// Names the local transactions of a producer, `TX:SESSION:NUMBER` (rule T-4).
#[derive(Debug)]
pub(crate) struct TransactionNames {
    session: Mutex<Option<(Token, i32)>>,
}

impl TransactionNames {
    pub(crate) fn new() -> Self {
        Self { session: Mutex::new(None) }
    }

    /// The next name, and its session.
    #[expect(clippy::unwrap_used, reason = "a session of one's own holds no colon")]
    pub(crate) fn next(&self) -> (TransactionId, Token) {
        let mut session = self.session.lock();
        // The broker reads the number as 32 bits (K-22): after the last there is a new session.
        let (token, number) = match session.take() {
            Some((token, number)) if number < i32::MAX => (token, number + 1),
            _ => (new_session(), 1),
        };
        let id = TransactionId::local(token.as_str(), number).unwrap();
        *session = Some((token.clone(), number));
        (id, token)
    }
}

#[cfg(test)]
mod tests {
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
        assert!(!new_session().as_str().contains(':'), "K-21, T-3");
    }

    #[test]
    fn numbers_count_and_never_leave_32_bits() {
        let names = TransactionNames::new();
        let ids: Vec<_> = (0..3).map(|_| names.next()).collect();
        let session = ids[0].1.as_str();
        let expected: Vec<_> = (1..=3).map(|number| format!("TX:{session}:{number}")).collect();
        assert_eq!(ids.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>(), expected, "T-4");
        for (id, _) in &ids {
            assert_eq!(id.as_str().parse().as_ref(), Ok(id), "the broker reads it back");
        }
        if let Some((_, number)) = &mut *names.session.lock() {
            *number = i32::MAX;
        }
        let (id, other) = names.next();
        assert_eq!(id.to_string(), format!("TX:{other}:1"), "K-22");
        assert_ne!(other.as_str(), session);
    }
}

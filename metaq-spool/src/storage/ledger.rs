//! The counts of what is spooled, and the bounds.

use parking_lot::Mutex;

use crate::options::{SpoolOptions, WhenFull};

/// The counts of one process.
///
/// At each moment `recovered + spooled = replayed + waiting + set_aside + dropped + damaged`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Messages that waited when the spool was opened.
    pub(crate) recovered: u64,
    pub(crate) spooled: u64,
    /// Messages that were handed over, and could not be written.
    pub(crate) unwritten: u64,
    pub(crate) replayed: u64,
    pub(crate) set_aside: u64,
    pub(crate) dropped: u64,
    pub(crate) damaged: u64,
    pub(crate) waiting: u64,
    pub(crate) waiting_bytes: u64,
    /// Messages in the folder that were set aside by this or an earlier process.
    pub(crate) held_aside: u64,
    pub(crate) held_aside_bytes: u64,
    /// Replayed messages that an earlier process may have replayed already.
    pub(crate) maybe_duplicates: u64,
    /// Attempts that may have stored their message, and were followed by another.
    pub(crate) unknown_attempts: u64,
    /// Damaged files that were replaced.
    pub(crate) files_set_aside: u64,
}

#[derive(Debug, Default)]
struct Books {
    counts: Counts,
    /// What was accepted and is not committed.
    reserved: u64,
    reserved_bytes: u64,
    /// A message was refused since there was space the last time.
    is_full: bool,
}

/// Counts and bounds, shared by all who spool, and by the writer.
#[derive(Debug)]
pub(crate) struct Ledger {
    books: Mutex<Books>,
    max_messages: u64,
    max_bytes: u64,
    refuses: bool,
}

/// There is no space for a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoSpace {
    /// Which bound it is, and its value.
    pub(crate) text: String,
    /// Set for the first message that is refused.
    pub(crate) is_new: bool,
}

impl Ledger {
    pub(crate) fn new(options: &SpoolOptions) -> Self {
        Self {
            books: Mutex::default(),
            max_messages: options.max_messages,
            max_bytes: options.max_bytes,
            refuses: options.when_full == WhenFull::Refuse,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.books.lock().counts
    }

    /// Takes space for a message with a row of this length.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<(), NoSpace> {
        let mut books = self.books.lock();
        let counts = books.counts;
        let messages = counts.waiting + counts.held_aside + books.reserved + 1;
        let all_bytes = counts.waiting_bytes + counts.held_aside_bytes + books.reserved_bytes + bytes;
        let text = if bytes > self.max_bytes {
            format!("its {bytes} bytes are more than max_bytes, which is {}", self.max_bytes)
        } else if self.refuses && messages > self.max_messages {
            format!("the spool holds max_messages, which is {}", self.max_messages)
        } else if self.refuses && all_bytes > self.max_bytes {
            format!("the spool would hold {all_bytes} bytes, and max_bytes is {}", self.max_bytes)
        } else if counts.held_aside >= self.max_messages {
            // Nothing else could be dropped for it.
            format!("the messages that were set aside reach max_messages, which is {}", self.max_messages)
        } else if counts.held_aside_bytes + bytes > self.max_bytes {
            format!("the messages that were set aside reach max_bytes, which is {}", self.max_bytes)
        } else {
            books.reserved += 1;
            books.reserved_bytes += bytes;
            books.is_full = false;
            return Ok(());
        };
        let is_new = !std::mem::replace(&mut books.is_full, true);
        Err(NoSpace { text, is_new })
    }

    /// Gives space back that was reserved for messages that could not be written.
    pub(crate) fn release(&self, messages: u64, bytes: u64) {
        let mut books = self.books.lock();
        books.reserved -= messages;
        books.reserved_bytes -= bytes;
    }

    /// Counts what was committed, and gives back the space that was reserved for it, in one step.
    pub(crate) fn settle(&self, messages: u64, bytes: u64, change: impl FnOnce(&mut Counts)) {
        let mut books = self.books.lock();
        books.reserved -= messages;
        books.reserved_bytes -= bytes;
        change(&mut books.counts);
    }

    /// The number of messages that were accepted, and are not committed.
    pub(crate) fn reserved(&self) -> u64 {
        self.books.lock().reserved
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.books.lock().counts);
    }

    /// The numbers of messages and bytes above the bounds once `more` are added.
    pub(crate) fn excess(&self, more: u64, more_bytes: u64) -> (u64, u64) {
        let counts = self.counts();
        let messages = counts.waiting + counts.held_aside + more;
        let bytes = counts.waiting_bytes + counts.held_aside_bytes + more_bytes;
        (messages.saturating_sub(self.max_messages), bytes.saturating_sub(self.max_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(change: impl FnOnce(&mut SpoolOptions)) -> Ledger {
        let mut options = SpoolOptions::new("/s");
        (options.max_messages, options.max_bytes) = (3, 100);
        change(&mut options);
        Ledger::new(&options)
    }

    #[test]
    fn what_is_reserved_counts_until_it_is_released() {
        let ledger = ledger(|_| ());
        (0..3).for_each(|_| ledger.reserve(10).unwrap());
        let refused = ledger.reserve(10).unwrap_err();
        assert!(refused.is_new && refused.text.contains("max_messages, which is 3"), "{refused:?}");
        assert!(!ledger.reserve(10).unwrap_err().is_new);
        ledger.release(1, 10);
        ledger.reserve(80).unwrap();
        ledger.release(1, 80);
        let refused = ledger.reserve(81).unwrap_err();
        assert!(refused.is_new && refused.text.contains("101 bytes"), "{refused:?}");
    }

    #[test]
    fn what_is_committed_counts_once_at_each_moment() {
        let ledger = ledger(|_| ());
        (0..2).for_each(|_| ledger.reserve(10).unwrap());
        ledger.settle(2, 20, |counts| {
            (counts.waiting, counts.waiting_bytes) = (2, 20);
            assert!(ledger.books.is_locked(), "not seen before its space is given back");
        });
        ledger.reserve(80).unwrap();
        assert!(ledger.reserve(1).unwrap_err().text.contains("max_messages"));
    }

    #[test]
    fn dropping_the_oldest_refuses_only_what_never_fits() {
        let ledger = ledger(|options| options.when_full = WhenFull::DropOldest);
        (0..9).for_each(|_| ledger.reserve(50).unwrap());
        assert!(ledger.reserve(101).unwrap_err().text.contains("more than max_bytes"));
        ledger.update(|counts| (counts.waiting, counts.waiting_bytes) = (2, 90));
        assert_eq!(ledger.excess(4, 50), (3, 40));
        assert_eq!(ledger.excess(0, 0), (0, 0));
        // What was set aside is not dropped: a message that takes its space would be.
        ledger.update(|counts| (counts.held_aside, counts.held_aside_bytes) = (2, 60));
        assert!(ledger.reserve(41).unwrap_err().text.contains("set aside reach max_bytes"));
        ledger.reserve(40).unwrap();
        ledger.update(|counts| counts.held_aside = 3);
        assert!(ledger.reserve(1).unwrap_err().text.contains("set aside reach max_messages"));
    }
}

//! Why queues can't be replayed.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Why queues could not be replayed the last time.
#[derive(Debug, Default)]
pub(crate) struct Failing(Mutex<HashMap<u32, String>>);

impl Failing {
    pub(crate) fn reason(&self, queue: u32) -> Option<String> {
        self.0.lock().get(&queue).cloned()
    }

    pub(crate) fn clear(&self, queue: u32) {
        self.0.lock().remove(&queue);
    }

    /// Sets the reason; false when it was the same.
    pub(crate) fn set(&self, queue: u32, reason: &str) -> bool {
        self.0.lock().insert(queue, reason.to_owned()).is_none_or(|before| before != reason)
    }
}

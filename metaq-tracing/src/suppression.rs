//! Events that are not to be sent, because sending them would log others, without end.

use std::cell::Cell;

/// What the layer does on a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Nothing,
    /// It reads an event or a span, and calls `Debug` implementations of the program's.
    Works,
    /// The thread is its own, or one that its runtime has started.
    Owns,
}

thread_local! {
    /// It has no destructor, so that it is there as long as the thread.
    static STATE: Cell<State> = const { Cell::new(State::Nothing) };
}

/// The reason for which an event is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suppressed {
    /// The layer is at work on this thread.
    Nested,
    /// The thread is the layer's own.
    OwnThread,
}

/// The work of a layer on a thread, as long as it lives.
#[must_use]
#[derive(Debug)]
pub(crate) struct Work(());

impl Work {
    /// Begins to work, unless a layer is at work on this thread already, or the thread is a layer's.
    pub(crate) fn begin() -> Result<Self, Suppressed> {
        let begun = STATE.try_with(|state| match state.get() {
            State::Nothing => {
                state.set(State::Works);
                Ok(Self(()))
            }
            State::Works => Err(Suppressed::Nested),
            State::Owns => Err(Suppressed::OwnThread),
        });
        begun.unwrap_or(Err(Suppressed::Nested))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = STATE.try_with(|state| state.set(State::Nothing));
    }
}

/// Marks this thread as a layer's own.
pub(crate) fn own_this_thread() {
    let _ = STATE.try_with(|state| state.set(State::Owns));
}

/// The targets whose events are left out.
#[derive(Clone, Debug)]
pub(crate) struct ExcludedTargets(Vec<String>);

impl ExcludedTargets {
    pub(crate) fn new(targets: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(targets.into_iter().map(Into::into).filter(|target: &String| !target.is_empty()).collect())
    }

    /// Whether one of them is `target`, or a module that it is in.
    pub(crate) fn contain(&self, target: &str) -> bool {
        self.0.iter().any(|excluded| {
            let rest = target.strip_prefix(excluded.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_within_work_is_noticed_on_the_same_thread_alone() {
        let work = Work::begin().unwrap();
        assert_eq!(Work::begin().unwrap_err(), Suppressed::Nested);
        let elsewhere = std::thread::spawn(|| {
            drop(Work::begin().unwrap());
            own_this_thread();
            Work::begin().unwrap_err()
        });
        assert_eq!(elsewhere.join().unwrap(), Suppressed::OwnThread);
        drop(work);
        assert!(Work::begin().is_ok());
    }

    #[test]
    fn targets_are_excluded_with_their_modules_alone() {
        let excluded = ExcludedTargets::new(["metaq_producer", "a::b", ""]);
        for target in ["metaq_producer", "metaq_producer::route::follower", "a::b", "a::b::c"] {
            assert!(excluded.contain(target), "{target}");
        }
        for target in ["metaq_producers", "metaq", "a", "a::bc", "my::metaq_producer", ""] {
            assert!(!excluded.contain(target), "{target}");
        }
    }
}

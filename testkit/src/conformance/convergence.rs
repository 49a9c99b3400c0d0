//! The time that a view takes to become the expected one.

use std::time::Duration;

use metaq_discovery::TopicWatch;
use tokio::time::{Instant, sleep, timeout};

use super::observer::text;

/// The time within which a change has to be seen after it was made, or after the registry is back.
pub(super) const MAX_CONVERGENCE: Duration = Duration::from_secs(2);

/// The time to wait for a result that is late, to report its delay instead of a timeout.
const TIMEOUT: Duration = Duration::from_secs(20);

const TICK: Duration = Duration::from_millis(10);

/// The delay with which a timer may fire on an idle machine.
const PRECISION: Duration = Duration::from_millis(2);

/// Waits until the view is as wanted. Returns the time by which timers were late meanwhile, since the machine
/// was busy, or `None` if the view is not reached.
pub(super) async fn reach(watch: &mut TopicWatch, wanted: &str) -> Option<Duration> {
    let mut late = Duration::ZERO;
    let reached = timeout(TIMEOUT, async {
        while text(&watch.current()) != wanted {
            let begun = Instant::now();
            tokio::select! {
                changed = watch.changed() => {
                    changed.expect("the watch goes on");
                }
                () = sleep(TICK) => late += begun.elapsed().saturating_sub(TICK + PRECISION),
            }
        }
    });
    reached.await.ok().map(|()| late)
}

/// Returns whether a view was reached in time. A machine that is busy delays the discovery as it delays the
/// timers of the test, which is no fault of the discovery.
pub(super) fn is_in_time(took: Duration, late: Duration) -> bool {
    took <= MAX_CONVERGENCE + late
}

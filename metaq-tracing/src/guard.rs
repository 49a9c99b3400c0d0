//! The end of a layer.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{buffer::StatsHandle, stats::LayerStats, worker::Running};

/// The longest time that is computed with.
const LONG: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Keeps a layer sending. Hold it until the end of the program, and then call [`shutdown`](Self::shutdown).
///
/// # Drop
/// Dropping it begins the shutdown and does not wait: the layer's thread sends what is buffered in the
/// background, for [`drop_timeout`](crate::MetaqLayerBuilder::drop_timeout) at most. The end of `main` ends
/// the process and this thread with it, so what is buffered then is lost. In either case events that are
/// logged afterwards are dropped and counted.
#[must_use = "dropping it ends the sending of events"]
pub struct LayerGuard {
    deadline: watch::Sender<Option<Instant>>,
    running: Option<Running>,
    stats: StatsHandle,
    drop_timeout: Duration,
}

impl LayerGuard {
    pub(crate) fn new(
        deadline: watch::Sender<Option<Instant>>,
        running: Running,
        stats: StatsHandle,
        drop_timeout: Duration,
    ) -> Self {
        Self { deadline, running: Some(running), stats, drop_timeout }
    }

    /// The counts by now.
    #[must_use]
    pub fn stats(&self) -> LayerStats {
        self.stats.stats()
    }

    /// Returns what reads the counts elsewhere, and after the shutdown.
    #[must_use]
    pub fn stats_handle(&self) -> StatsHandle {
        self.stats.clone()
    }

    /// Sends what is buffered, closes the producer, and ends the layer's thread. Events that are logged once
    /// the future was polled are dropped. Takes `timeout` and a moment at most; what is still buffered then
    /// is dropped, and what a broker has not answered is counted as failed, with the outcome unknown.
    ///
    /// May be called on any runtime, or without one, as it needs no timer of the caller's.
    ///
    /// # Cancel safety
    /// Once polled, the shutdown goes on in the background although the future is dropped.
    ///
    /// ```
    /// # use metaq_producer::Producer;
    /// # use metaq_tracing::MetaqLayer;
    /// # use tracing_subscriber::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("logs", 1).start().await?;
    /// # let producer = Producer::builder().broker(broker.addr().clone()).build()?;
    /// let (layer, guard) = MetaqLayer::builder(producer, "logs".parse()?).build()?;
    /// let subscriber = tracing_subscriber::registry().with(layer);
    /// tracing::subscriber::with_default(subscriber, || tracing::info!("the service is ready"));
    /// let stats = guard.shutdown(std::time::Duration::from_secs(5)).await;
    /// assert_eq!((stats.sent, stats.dropped.total()), (1, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn shutdown(mut self, timeout: Duration) -> LayerStats {
        if let Some(running) = self.begin(timeout) {
            // It is dropped with the thread's end.
            let _ = running.ended.await;
        }
        self.stats()
    }

    /// [`shutdown`](Self::shutdown) for programs without a runtime. It blocks the thread, so it does not
    /// belong into async code. On the layer's own thread, where selectors and interceptors of its producer
    /// run, it begins the shutdown and does not wait.
    pub fn shutdown_blocking(mut self, timeout: Duration) -> LayerStats {
        if let Some(running) = self.begin(timeout)
            && running.thread.thread().id() != thread::current().id()
        {
            // It contains its panics.
            let _ = running.thread.join();
        }
        self.stats()
    }

    fn begin(&mut self, timeout: Duration) -> Option<Running> {
        let running = self.running.take()?;
        // A moment ago is as good as now where the clock can't count as far.
        let now = Instant::now();
        self.deadline.send_replace(Some(now.checked_add(timeout.min(LONG)).unwrap_or(now)));
        // Afterwards, as a closed buffer that is empty ends the thread.
        self.stats.buffer.close();
        Some(running)
    }
}

impl Drop for LayerGuard {
    fn drop(&mut self) {
        self.begin(self.drop_timeout);
    }
}

impl fmt::Debug for LayerGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerGuard").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

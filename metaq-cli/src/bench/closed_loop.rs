//! Sending as fast as messages are acknowledged.

use std::{sync::atomic::Ordering, time::Duration};

use metaq_producer::{SendError, SendHandle, SendReceipt};

use super::{Benchmark, figures::Tally, window};

pub(super) type Outcome = Result<SendReceipt, SendError>;

/// Sends `messages` messages and keeps the window of messages in flight full.
pub(super) async fn send(benchmark: &Benchmark, messages: u64, tally: &mut Tally) {
    let completed = benchmark.progress.completed.load(Ordering::Relaxed);
    let mut workload = SendWorkload { benchmark, sent: 0, messages, completed, tally };
    window::drive(benchmark.in_flight, &mut workload).await;
}

/// One run of sending: the number of messages that were sent, and the outcomes.
struct SendWorkload<'a> {
    benchmark: &'a Benchmark,
    sent: u64,
    messages: u64,
    completed: u64,
    tally: &'a mut Tally,
}

impl window::Workload for SendWorkload<'_> {
    type Operation = SendHandle;

    async fn start(&mut self) -> Option<Result<SendHandle, Outcome>> {
        if self.sent >= self.messages || self.benchmark.progress.is_stopped.load(Ordering::Relaxed) {
            return None;
        }
        let message = self.benchmark.message(self.sent);
        self.sent += 1;
        Some(self.benchmark.producer.enqueue(message).await.map_err(Err))
    }

    fn completed(&mut self, outcome: Outcome) -> bool {
        self.completed += 1;
        self.benchmark.progress.completed.store(self.completed, Ordering::Relaxed);
        outcome.map_err(|error| self.tally.failed(error)).is_ok()
    }

    fn record_latency(&mut self, latency: Duration) {
        self.tally.acknowledged(latency);
    }
}

//! SIGHUP, SIGINT and SIGTERM.

use std::{
    fs,
    io::{self, IsTerminal as _},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    exit_status,
    progress::after_interrupt,
    stderr::{accepts_text, print_text},
};

/// The signals that ask the program to stop.
#[derive(Debug)]
pub(crate) struct StopSignals {
    /// `None` if the program was started with SIGHUP ignored, as by `nohup`.
    hangup: Option<Signal>,
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) },
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal, and returns the exit status that belongs to it.
    ///
    /// # Cancel safety
    /// No signal is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> u8 {
        let kind = tokio::select! {
            Some(()) = received(&mut self.hangup) => SignalKind::hangup(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        };
        if kind == SignalKind::interrupt() && io::stderr().is_terminal() && accepts_text() {
            // The terminal shows ^C, and what is printed next begins a line.
            print_text(after_interrupt());
        }
        exit_status::of_signal(kind.as_raw_value())
    }
}

impl StopSignals {
    /// Waits for a future until a signal, whose exit status is the error.
    ///
    /// # Cancel safety
    /// As that of the future; no signal is lost.
    pub(crate) async fn unless_stopped<T>(&mut self, future: impl Future<Output = T>) -> Result<T, u8> {
        tokio::select! {
            biased;
            output = future => Ok(output),
            status = self.next() => Err(status),
        }
    }
}

/// Waits for a signal; forever if it is not handled.
async fn received(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

/// Returns whether SIGHUP was ignored when the program was started; false where the system doesn't say.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (SignalKind::hangup().as_raw_value() - 1) & 1 == 1
}

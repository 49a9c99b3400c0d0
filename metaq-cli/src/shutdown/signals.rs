//! SIGINT and SIGTERM.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask the program to stop.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next signal, and returns the exit status that belongs to it.
    ///
    /// # Cancel safety
    /// No signal is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> u8 {
        let exit_status = |kind: SignalKind| 128 + kind.as_raw_value() as u8;
        tokio::select! {
            _ = self.interrupt.recv() => exit_status(SignalKind::interrupt()),
            _ = self.terminate.recv() => exit_status(SignalKind::terminate()),
        }
    }
}

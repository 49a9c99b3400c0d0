//! The progress on standard error, which is shown only if that is a terminal.

use std::{
    fmt,
    io::{self, IsTerminal as _},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::stderr::{accepts_text, print_text};

/// The time between two updates.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Set while the cursor is on a line of progress.
static IS_SHOWN: AtomicBool = AtomicBool::new(false);

/// The text to print to the terminal where it has printed `^C`, so that the next one begins a line. Clears a
/// line of progress, which would stay above the text otherwise.
pub(crate) fn after_interrupt() -> &'static str {
    if IS_SHOWN.load(Ordering::Relaxed) { "\r\x1b[K" } else { "\n" }
}

/// A line of the terminal that is updated in place, and cleared when this is dropped.
#[derive(Debug)]
pub(crate) struct ProgressLine {
    bar: ProgressBar,
}

impl ProgressLine {
    /// Returns a line with this template of `indicatif`, where `rate` is a whole number each second, or
    /// `None` if stderr is not a terminal.
    pub(crate) fn new(length: Option<u64>, template: &'static str) -> Option<Self> {
        if !io::stderr().is_terminal() {
            return None;
        }
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template(template).expect("templates are constants, and valid");
        let style = style.with_key("rate", |state: &ProgressState, text: &mut dyn fmt::Write| {
            // Writing to a string can't fail.
            let _ = write!(text, "{}/s", HumanCount(state.per_sec() as u64));
        });
        Some(Self { bar: bar.with_style(style) })
    }

    /// Shows a changed state, unless the terminal accepts no text at the moment.
    pub(crate) fn show(&self, change: impl FnOnce(&ProgressBar)) {
        if accepts_text() {
            change(&self.bar);
            let is_shown = !self.bar.is_finished();
            if is_shown {
                // The line is filled up with spaces: `^C` would be on the next one.
                print_text("\r");
            }
            IS_SHOWN.store(is_shown, Ordering::Relaxed);
        }
    }

    /// Shows the last state, which stays, and ends the line.
    pub(crate) fn finish(self, text: String) {
        self.show(|bar| bar.finish_with_message(text));
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        IS_SHOWN.store(false, Ordering::Relaxed);
        if accepts_text() {
            if !self.bar.is_finished() {
                self.bar.finish_and_clear();
            }
        } else {
            // Dropping the bar would write, and wait for the terminal.
            self.bar.set_draw_target(ProgressDrawTarget::hidden());
        }
    }
}

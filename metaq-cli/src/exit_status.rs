//! The exit statuses of the command.

/// The command did everything it was asked for.
pub(crate) const EXIT_DONE: u8 = 0;
/// Something failed.
pub(crate) const EXIT_FAILED: u8 = 1;
/// The command line, or a file that it names, can't be used.
pub(crate) const EXIT_USAGE: u8 = 2;
/// The reader of stdout is gone. The same as that of a program that SIGPIPE ends.
pub(crate) const EXIT_BROKEN_PIPE: u8 = 128 + 13;

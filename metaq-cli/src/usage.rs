//! The command line's help, and errors about it.

use std::{
    env,
    io::{self, Write as _},
};

use crate::{
    exit_status::{self, EXIT_DONE, EXIT_USAGE},
    stderr::print_text,
};

/// Adds the exit statuses to the end of the long help of a command and its subcommands.
pub(crate) fn with_statuses(command: clap::Command) -> clap::Command {
    command.after_long_help(exit_status::HELP).mut_subcommands(with_statuses)
}

/// Prints help to stdout, or a wrong usage to stderr without secrets; returns the exit status.
pub(crate) fn print(error: &clap::Error) -> u8 {
    if error.use_stderr() {
        print_text(&redacted(
            &error.render().to_string(),
            env::args_os().map(|arg| arg.to_string_lossy().into()),
        ));
        return EXIT_USAGE;
    }
    match write!(io::stdout(), "{}", error.render()).and_then(|()| io::stdout().flush()) {
        Ok(()) => EXIT_DONE,
        Err(error) => exit_status::of_output_error(&error),
    }
}

/// Removes from a text about the command line what stands before the `@` of a URL among its arguments: it may
/// be a password.
fn redacted(text: &str, args: impl Iterator<Item = String>) -> String {
    let mut text = text.to_owned();
    for arg in args {
        if let Some((scheme, rest)) = arg.split_once("://")
            && let Some((_, end)) = rest.rsplit_once('@')
        {
            // The text may have only the value of `--option=value`.
            let scheme = scheme.rsplit_once('=').map_or(scheme, |(_, scheme)| scheme);
            let url = &arg[arg.len() - rest.len() - "://".len() - scheme.len()..];
            text = text.replace(url, &format!("{scheme}://...@{end}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_removed_from_texts_about_arguments() {
        for (arg, shown) in [
            ("zk://me:secret@h:1/meta", "zk://...@h:1/meta"),
            ("--cluster=etcd://me:sec/ret@x@h:1", "etcd://...@h:1"),
            ("zk://h:1/meta", "zk://h:1/meta"),
        ] {
            let value = arg.trim_start_matches("--cluster=");
            let text = format!("invalid value '{value}' for '--cluster <CLUSTER>'");
            let expected = format!("invalid value '{shown}' for '--cluster <CLUSTER>'");
            assert_eq!(redacted(&text, [arg.to_owned()].into_iter()), expected);
        }
    }
}

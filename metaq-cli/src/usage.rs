//! The command line's help, and errors about it.

use std::{
    env,
    io::{self, Write as _},
};

use crate::{
    exit_status::{self, EXIT_DONE, EXIT_USAGE},
    stderr::print_text,
};

/// Adds examples and the exit statuses to the end of the long help of a command and its subcommands.
pub(crate) fn with_statuses(command: clap::Command) -> clap::Command {
    let examples = EXAMPLES.iter().find(|(name, _)| *name == command.get_name());
    let help = match examples {
        Some((_, lines)) => format!("Examples:\n{lines}\n\n{}", exit_status::HELP),
        None => exit_status::HELP.to_owned(),
    };
    command.after_long_help(help).mut_subcommands(with_statuses)
}

/// Examples of commands, by their names.
const EXAMPLES: [(&str, &str); 7] = [
    (
        "produce",
        "  metaq produce -b zk://zk1:2181,zk2:2181/meta -t orders < orders.txt
  metaq produce -b meta://broker:8123 -t orders --output human one.txt two.txt
  tail -f app.log | metaq produce -t logs --rate 1000 --rejects rejects.txt
  metaq produce -t orders --json-lines --ordered < messages.jsonl",
    ),
    ("tx", "  metaq tx -b zk://zk1:2181/meta -t orders --commit < orders.txt"),
    (
        "bench",
        "  metaq bench -b meta://broker:8123 -t load-test --messages 1000000 \\
      --size 128 --in-flight 1024",
    ),
    (
        "dev-broker",
        "  metaq dev-broker --topic orders:4
  metaq dev-broker --topic '*:1' --port 8123 \\
      --register zk://127.0.0.1:2181/meta",
    ),
    (
        "inspect",
        "  metaq inspect capture.bin
  echo 76657273696f6e2036300d0a | metaq inspect --hex",
    ),
    ("config", "  metaq config show --origin --profile staging"),
    ("completions", "  metaq completions bash > ~/.local/share/bash-completion/completions/metaq"),
];

/// Prints help to stdout, or a wrong usage to stderr without secrets; returns the exit status.
pub(crate) fn print(error: &clap::Error) -> u8 {
    if error.use_stderr() {
        let args = env::args_os().map(|arg| arg.to_string_lossy().into());
        print_text(&reworded(&redacted(&error.render().to_string(), args)));
        return EXIT_USAGE;
    }
    match write!(io::stdout(), "{}", error.render()).and_then(|()| io::stdout().flush()) {
        Ok(()) => EXIT_DONE,
        Err(error) => exit_status::of_output_error(&error),
    }
}

/// Replaces the standard library's words for a number that can't be parsed by a sentence for people.
fn reworded(text: &str) -> String {
    text.replace("invalid digit found in string", "expected a whole number")
        .replace("cannot parse integer from empty string", "expected a whole number")
        .replace("number too large to fit in target type", "the number is too large")
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
    use clap::CommandFactory as _;

    use super::*;

    /// The lines that are broken as they are written, which clap would break anew on a narrower terminal.
    fn assert_narrow(command: &clap::Command, name: &str) {
        let texts = [command.get_long_about(), command.get_after_long_help()].into_iter().flatten();
        for text in texts.map(ToString::to_string) {
            for paragraph in text.split("\n\n").filter(|paragraph| paragraph.contains('\n')) {
                for line in paragraph.lines() {
                    assert!(line.chars().count() <= 80, "{name}: {line}");
                }
            }
        }
        for subcommand in command.get_subcommands() {
            assert_narrow(subcommand, &format!("{name} {}", subcommand.get_name()));
        }
    }

    #[test]
    fn lines_of_help_fit_on_a_terminal_of_80_columns() {
        assert_narrow(&with_statuses(crate::Cli::command()), "metaq");
    }

    /// The command lines of the examples in the help of a command and its subcommands.
    fn examples_of(command: &clap::Command) -> Vec<String> {
        let texts = [command.get_long_about(), command.get_after_long_help()].into_iter().flatten();
        let mut examples = Vec::new();
        for text in texts.map(|text| text.to_string().replace("\\\n", "")) {
            let lines = text.split_once("Examples:\n").map_or("", |(_, lines)| lines).lines();
            let lines = lines.take_while(|line| line.starts_with("  "));
            examples.extend(lines.filter_map(|line| line.find("metaq ").map(|at| line[at..].to_owned())));
        }
        examples.extend(command.get_subcommands().flat_map(examples_of));
        examples
    }

    #[test]
    fn examples_are_right_usage() {
        let examples = examples_of(&with_statuses(crate::Cli::command()));
        assert!(examples.len() > 20, "{examples:?}");
        for example in examples {
            let args = example.split(['<', '>', '|']).next().unwrap_or_default();
            let args = args.split_whitespace().map(|arg| arg.trim_matches('\''));
            let parsed = crate::Cli::command().try_get_matches_from(args);
            assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
        }
    }

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

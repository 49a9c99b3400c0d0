//! How much is shown, and in which form: the options that every command has.

use std::{
    borrow::Cow,
    env, fmt,
    io::{self, IsTerminal as _},
    sync::OnceLock,
};

use clap::ValueEnum;

/// The options that every command has.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Display")]
pub(crate) struct DisplayArgs {
    /// The form of results on stdout: a summary for people, lines of JSON, or lines of words separated by
    /// tabs. By default what the command's description says; else $METAQ_OUTPUT
    #[arg(long, global = true, value_name = "FORM")]
    output: Option<OutputArg>,
    /// Shows no progress and no summary
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Writes a log to stderr; twice for more. METAQ_LOG selects in detail
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Whether the log is coloured; by default on a terminal, unless NO_COLOR is set or TERM is dumb
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Color,
}

/// The form of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputForm {
    /// A summary for people
    Human,
    /// Lines of JSON
    Json,
    /// Lines of words separated by tabs
    Plain,
}

/// The values of `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputArg {
    /// A summary for people
    Human,
    /// Lines of JSON
    Json,
    /// Lines of words separated by tabs
    Plain,
    /// Of stats: the text format of Prometheus
    Prometheus,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

/// The options of this run.
static DISPLAY: OnceLock<DisplayArgs> = OnceLock::new();

impl DisplayArgs {
    /// Makes these the options of this run.
    pub(crate) fn install(self) {
        // It is called once.
        let _ = DISPLAY.set(self);
    }

    fn current() -> Self {
        DISPLAY.get().cloned().unwrap_or_default()
    }
}

/// Returns the form of results if one is asked for by option, or else by `setting`, which comes from
/// `origin`.
///
/// # Errors
/// A text when the setting names no form.
pub(crate) fn output_form(
    setting: Option<&str>,
    origin: &impl fmt::Display,
) -> Result<Option<OutputForm>, String> {
    match (DisplayArgs::current().output, setting) {
        (Some(OutputArg::Human), _) => Ok(Some(OutputForm::Human)),
        (Some(OutputArg::Json), _) => Ok(Some(OutputForm::Json)),
        (Some(OutputArg::Plain), _) => Ok(Some(OutputForm::Plain)),
        (Some(OutputArg::Prometheus), _) => {
            Err("--output prometheus is for metaq stats; use human, json or plain".to_owned())
        }
        (None, Some("prometheus")) => {
            Err(format!("{origin}: output is prometheus, which is for metaq stats; use human, json or plain"))
        }
        (None, None) => Ok(None),
        (None, Some(text)) => match OutputForm::from_str(text, false) {
            Ok(form) => Ok(Some(form)),
            Err(_) => Err(format!("{origin}: output is {text:?}, but has to be human, json or plain")),
        },
    }
}

/// Returns whether the text format of Prometheus is asked for, by option or else by `setting`.
pub(crate) fn is_for_prometheus(setting: Option<&str>) -> bool {
    match DisplayArgs::current().output {
        Some(output) => output == OutputArg::Prometheus,
        None => setting == Some("prometheus"),
    }
}

/// Returns whether neither progress nor summaries are shown.
pub(crate) fn is_quiet() -> bool {
    DisplayArgs::current().quiet
}

/// Returns the log's directives that `-v` stands for.
pub(crate) fn log_directives() -> Option<&'static str> {
    match DisplayArgs::current().verbose {
        0 => None,
        1 => Some("info"),
        _ => Some("debug"),
    }
}

/// Returns whether the log is coloured.
pub(crate) fn log_has_colors() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    match DisplayArgs::current().color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto if is_set("CLICOLOR_FORCE") => true,
        Color::Auto => {
            let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
            io::stderr().is_terminal() && !is_set("NO_COLOR") && !is_dumb
        }
    }
}

/// Replaces characters that end a line, divide columns or control a terminal by spaces. Brokers and
/// registries may send any.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) { text.replace(char::is_control, " ").into() } else { text.into() }
}

/// Escapes such characters, so that names stay different, as `\t` and `\u{1b}`.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let mut escaped = String::new();
    for char in text.chars() {
        if char.is_control() { escaped.extend(char.escape_debug()) } else { escaped.push(char) }
    }
    escaped.into()
}

/// Wraps lines that are longer than the terminal is wide, if stdout is one: what follows is indented by
/// `indent`.
pub(crate) fn wrapped(text: &str, indent: usize) -> String {
    let size = if io::stdout().is_terminal() { terminal_size::terminal_size() } else { None };
    match size {
        Some((terminal_size::Width(width), _)) => wrapped_at(text, indent, width.into()),
        None => text.to_owned(),
    }
}

/// Wraps lines at spaces. A word is never divided.
fn wrapped_at(text: &str, indent: usize, width: usize) -> String {
    let mut wrapped = String::new();
    for line in text.split_inclusive('\n') {
        let mut column = 0;
        for (n, word) in line.split_inclusive(' ').enumerate() {
            let length = word.trim_end().chars().count();
            // The spaces that separate columns are words of their own.
            if n > 0 && length > 0 && column + length > width && column > indent {
                wrapped.truncate(wrapped.trim_end_matches(' ').len());
                wrapped.push('\n');
                wrapped.extend(std::iter::repeat_n(' ', indent));
                column = indent;
            }
            wrapped.push_str(word);
            column += word.chars().count();
        }
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_texts_keep_to_their_line_and_column() {
        assert!(matches!(one_line("a – b"), Cow::Borrowed("a – b")));
        assert_eq!(one_line("a\tb\r\n\u{1b}[2J\u{9b}c"), "a b   [2J c");
        assert!(matches!(escaped("a\\\"b"), Cow::Borrowed("a\\\"b")));
        assert_eq!(escaped("ü\t\u{1b}\u{85}\"b"), "ü\\t\\u{1b}\\u{85}\"b");
    }

    #[test]
    fn long_lines_are_wrapped_below_their_column() {
        let text = "name     one two three four\nname     a\n";
        assert_eq!(wrapped_at(text, 9, 80), text);
        assert_eq!(wrapped_at(text, 9, 18), "name     one two\n         three\n         four\nname     a\n");
        assert_eq!(wrapped_at("name     wörterbuch x\n", 9, 12), "name     wörterbuch\n         x\n");
        assert_eq!(wrapped_at("", 9, 12), "");
    }
}

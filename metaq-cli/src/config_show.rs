//! `metaq config`: shows the settings that a command would have.

use std::io::{self, Write as _};

use clap::Subcommand;
use serde::Serialize;
use serde_json::Value;

use crate::{
    args::ConnectionArgs,
    display::OutputForm,
    exit_status::{self, EXIT_DONE, EXIT_USAGE},
    settings::{self, Settings},
    stderr::{print_error, print_message},
};

/// Shows the settings that a command would have.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints every setting, from options, the environment, the profile and the file of settings, in this
    /// order of precedence. Credentials are places, not secrets
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Prints where each value comes from
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// One setting, as a line of JSON.
#[derive(Serialize)]
struct Shown {
    name: &'static str,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
}

pub(crate) fn run(args: &Args) -> u8 {
    let Command::Show(args) = &args.command;
    let settings = match args.connection.settings(&[]) {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    let form = match settings.output_form() {
        Ok(form) => form.unwrap_or(OutputForm::Human),
        Err(text) => {
            print_message(&text);
            return EXIT_USAGE;
        }
    };
    let mut text = String::new();
    for shown in shown(&settings, args.origin) {
        let value = shown.value.as_deref().unwrap_or("");
        let line = match form {
            OutputForm::Json => serde_json::to_string(&shown).unwrap_or_default(),
            OutputForm::Plain => {
                let origin = shown.origin.map(|origin| format!("\t{origin}")).unwrap_or_default();
                format!("{}\t{value}{origin}", shown.name)
            }
            OutputForm::Human => {
                let origin = shown.origin.map(|origin| format!("  # {origin}")).unwrap_or_default();
                format!("{} = {value:?}{origin}", shown.name)
            }
        };
        text += &line;
        text.push('\n');
    }
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => EXIT_DONE,
        Err(error) => {
            let status = exit_status::of_output_error(&error);
            if status != exit_status::EXIT_BROKEN_PIPE {
                print_error("the settings can't be written", &error);
            }
            status
        }
    }
}

fn shown(settings: &Settings, with_origin: bool) -> impl Iterator<Item = Shown> {
    // Durations and sizes are in their text form.
    let config = serde_json::to_value(&settings.config).unwrap_or_default();
    settings::names().map(move |name| {
        let of_producer = || {
            let pointer = format!("/{}", name.replace('.', "/"));
            config.pointer(&pointer).filter(|value| !value.is_null()).map(|value| match value {
                Value::String(text) => text.clone(),
                value => value.to_string(),
            })
        };
        let value = of_producer().or_else(|| settings.spool_text(name));
        let value = value.or_else(|| settings.get(name).map(|text| without_secret(name, text)));
        Shown { name, value, origin: with_origin.then(|| settings.origin(name).to_string()) }
    })
}

/// Replaces credentials that are not the name of a place, and what stands before an `@` in the servers of a
/// cluster.
fn without_secret(name: &str, text: &str) -> String {
    match name {
        "zk_auth" | "etcd_auth" if !settings::names_place(text) => "***".to_owned(),
        "cluster" if !text.starts_with("file:") => match text.rsplit_once('@') {
            Some((start, end)) => {
                let scheme = start.split_once("://").map(|(scheme, _)| format!("{scheme}://"));
                format!("{}...@{end}", scheme.unwrap_or_default())
            }
            None => text.to_owned(),
        },
        _ => text.to_owned(),
    }
}

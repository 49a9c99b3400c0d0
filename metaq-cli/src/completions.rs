//! `metaq completions` and `metaq man`: texts that are made of the definition of the command line.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use clap_complete::Shell;

use crate::{
    exit_status::{self, EXIT_BROKEN_PIPE, EXIT_DONE, EXIT_LOCAL_IO},
    stderr::print_error,
};

/// Prints the completions of a shell, to be sourced by it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the manual page, or writes one page for each command into a folder.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// The folder to write metaq.1, metaq-produce.1 and so on into; it has to exist
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, mut command: clap::Command) -> u8 {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "metaq", &mut text);
    print(&text)
}

pub(crate) fn man(args: &ManArgs, command: clap::Command) -> u8 {
    if let Some(folder) = &args.folder {
        return match clap_mangen::generate_to(command, folder) {
            Ok(()) => EXIT_DONE,
            Err(error) => {
                print_error(&format!("the manual can't be written to {}", folder.display()), &error);
                EXIT_LOCAL_IO
            }
        };
    }
    let mut text = Vec::new();
    match clap_mangen::Man::new(command).render(&mut text) {
        Ok(()) => print(&text),
        Err(error) => print_error("the manual can't be made", &error),
    }
}

fn print(text: &[u8]) -> u8 {
    match io::stdout().write_all(text).and_then(|()| io::stdout().flush()) {
        Ok(()) => EXIT_DONE,
        Err(error) => {
            let status = exit_status::of_output_error(&error);
            if status != EXIT_BROKEN_PIPE {
                print_error("the text can't be written", &error);
            }
            status
        }
    }
}

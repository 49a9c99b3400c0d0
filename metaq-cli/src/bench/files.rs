//! The files that the figures are written to.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::{Args, figures::Figures, hdr, plot};
use crate::{
    exit_status::{EXIT_LOCAL_IO, EXIT_USAGE},
    input::{are_same, is_stdout},
    shutdown::{Shutdown, StopSignals, on_thread},
    stderr::{print_error, print_message},
};

/// The files that were asked for. They are opened before anything is sent: one that can't be written is found
/// then.
#[derive(Debug)]
pub(super) struct Files {
    hdr: Option<(PathBuf, File)>,
    plot: Option<(PathBuf, File)>,
}

impl Files {
    /// Opens the files, and leaves what is in them. A named pipe is waited for until a signal.
    ///
    /// # Errors
    /// The exit status, after a message.
    pub(super) async fn open(args: &Args, signals: &mut StopSignals) -> Result<Self, u8> {
        let paths = [&args.hdr, &args.plot];
        if let Some(path) = paths.into_iter().flatten().find(|path| is_stdout(path)) {
            print_message(&format!("{} is stdout, too; use another file", path.display()));
            return Err(EXIT_USAGE);
        }
        if let (Some(hdr), Some(plot)) = (&args.hdr, &args.plot)
            && are_same(hdr, plot)
        {
            print_message(&format!("{} is the file of --hdr and of --plot; use two files", hdr.display()));
            return Err(EXIT_USAGE);
        }
        Ok(Self {
            hdr: open(args.hdr.as_deref(), signals).await?,
            plot: open(args.plot.as_deref(), signals).await?,
        })
    }

    /// Writes the files, as long as signals leave time for it.
    ///
    /// # Errors
    /// The exit status, after a message.
    pub(super) async fn write(
        self,
        figures: &Figures,
        workload: &str,
        shutdown: &mut Shutdown,
    ) -> Result<(), u8> {
        let mut texts = Vec::new();
        if let Some((path, file)) = self.hdr {
            texts.push((path, file, hdr::text(&figures.latencies)));
        }
        if let Some((path, file)) = self.plot {
            let title = format!("metaq bench: {} messages {workload}", figures.messages());
            let picture = plot::draw(&title, &figures.latencies, &figures.timeline);
            let picture = picture.map_err(|error| unwritable(&path, &error))?;
            texts.push((path, file, picture.into_bytes()));
        }
        for (path, file, text) in texts {
            let writing = on_thread(move || replace(file, &text));
            match shutdown.before_deadline(writing).await {
                Some(written) => written.map_err(|error| unwritable(&path, &error))?,
                None => {
                    let path = path.display();
                    print_message(&format!("{path} was not written before the program had to end"));
                    return Err(EXIT_LOCAL_IO);
                }
            }
        }
        Ok(())
    }
}

async fn open(path: Option<&Path>, signals: &mut StopSignals) -> Result<Option<(PathBuf, File)>, u8> {
    let Some(path) = path else { return Ok(None) };
    let name = path.to_owned();
    let opening = on_thread(move || OpenOptions::new().create(true).truncate(false).write(true).open(name));
    let file = signals.unless_stopped(opening).await?.map_err(|error| unwritable(path, &error))?;
    Ok(Some((path.to_owned(), file)))
}

/// Replaces what is in a file.
fn replace(mut file: File, text: &[u8]) -> io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(text)
}

fn unwritable(path: &Path, error: &io::Error) -> u8 {
    print_error(&format!("{} can't be written", path.display()), error);
    EXIT_LOCAL_IO
}

//! `metaq inspect`: captured bytes as JSON lines, and the other way.

mod decode;
mod encode;
mod fields;
mod hex;
mod message;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::PathBuf,
};

use crate::{EXIT_DONE, EXIT_USAGE, stderr::complain};

/// Shows the frames in bytes that were captured from a connection, in either direction.
///
/// One JSON line is printed for each frame: {"offset":O,"length":L,"command":"put","fields":{…}}, where a frame
/// starts at byte O of the input and takes L bytes. The input ends with {"offset":O,"error":"…"} where it is
/// malformed, and with {"offset":O,"incomplete":true} where it is cut off. Bytes are shown in hexadecimal.
///
/// A put or sync also shows what its data holds: "message":{"attribute":A,"payload":P}, each {"hex":"…","text":"…"}, where A is
/// null when the flag announces none, and {"error":"…"} stands in place of both when the data has no sound attribute. A
/// value shows its whole messages so, each with offset, id and flag, and last what ends them:
/// "messages":[{"offset":0,"id":I,"flag":F,"attribute":A,"payload":P},{"offset":M,"incomplete":true}]. There is a text where
/// the bytes are valid UTF-8 without control characters other than tab, line feed and carriage return.
///
/// What the bytes are is no matter of the exit status: it is 0 unless the input can't be read.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to read; - or nothing is the standard input
    file: Option<PathBuf>,
    /// Every line of the input is a stream of its own, in hexadecimal; what is printed starts with its number:
    /// {"input":N,…}
    #[arg(long)]
    hex: bool,
    /// Shows the bytes of each frame as they were on the wire, too: "bytes":"…"
    #[arg(long)]
    raw: bool,
    /// The other way: every line {"command":…,"fields":{…}} of the input becomes a line of hexadecimal, or
    /// {"input":N,"error":"…"}; whatever else is shown is made from the fields
    #[arg(long, conflicts_with_all = ["hex", "raw"])]
    encode: bool,
}

pub(crate) fn run(args: &Args) -> u8 {
    let input: Box<dyn Read> = match &args.file {
        Some(file) if file.as_os_str() != "-" => match File::open(file) {
            Ok(file) => Box::new(file),
            Err(error) => {
                complain(&format!("{} can't be read", file.display()), &error);
                return EXIT_USAGE;
            }
        },
        _ => Box::new(io::stdin().lock()),
    };
    let mut output = Output(BufWriter::with_capacity(BUFFER, io::stdout().lock()));
    let done = match *args {
        Args { hex: true, raw, .. } => {
            lines(input, &mut output, |output, number, line| decode::hex_line(output, number, line, raw))
        }
        Args { encode: true, .. } => lines(input, &mut output, encode::line),
        Args { raw, .. } => decode::stream(input, &mut output, raw),
    };
    match done.and_then(|()| output.0.flush().map_err(Stop::Output)) {
        Ok(()) => EXIT_DONE,
        // Whoever read the output has seen enough.
        Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_DONE,
        Err(Stop::Output(error)) => complain("the output can't be written", &error),
        Err(Stop::Input(error)) => {
            // What was found before is worth having; that it can't be written is not the point any more.
            let _ = output.0.flush();
            complain("the input can't be read", &error)
        }
    }
}

const BUFFER: usize = 64 * 1024;

/// Why there is nothing more to do.
#[derive(Debug)]
enum Stop {
    Input(io::Error),
    Output(io::Error),
}

/// Where lines are printed.
#[derive(Debug)]
struct Output(BufWriter<io::StdoutLock<'static>>);

impl Output {
    fn json(&mut self, line: &impl serde::Serialize) -> Result<(), Stop> {
        serde_json::to_writer(&mut self.0, line).map_err(|error| Stop::Output(error.into()))?;
        self.0.write_all(b"\n").map_err(Stop::Output)
    }

    fn text(&mut self, line: &[u8]) -> Result<(), Stop> {
        self.0.write_all(line).and_then(|()| self.0.write_all(b"\n")).map_err(Stop::Output)
    }

    fn flush(&mut self) -> Result<(), Stop> {
        self.0.flush().map_err(Stop::Output)
    }
}

/// Does `each` with the number and the bytes of every line, counted from 1.
fn lines(
    input: impl Read,
    output: &mut Output,
    mut each: impl FnMut(&mut Output, u64, &[u8]) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut input = BufReader::with_capacity(BUFFER, input);
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        if input.buffer().is_empty() {
            // The next read may have to wait, and somebody may be waiting for what is done.
            output.flush()?;
        }
        line.clear();
        if input.read_until(b'\n', &mut line).map_err(Stop::Input)? == 0 {
            return Ok(());
        }
        number += 1;
        each(output, number, line.trim_ascii())?;
    }
}

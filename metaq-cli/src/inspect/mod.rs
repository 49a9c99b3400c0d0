//! `metaq inspect`: converts captured bytes to JSON lines, and JSON lines to bytes.
//!
//! `decode` and `encode` are the two directions; `fields` and `message` are the JSON of a frame, `hex` the
//! digits. `pcap` reads captured packets, of which `reassembly` makes streams.

mod decode;
mod encode;
mod fields;
mod hex;
mod message;
mod pcap;
mod reassembly;

use std::{
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::PathBuf,
};

use crate::{
    exit_status::{EXIT_BROKEN_PIPE, EXIT_DONE, EXIT_LOCAL_IO, EXIT_USAGE},
    input::Source,
    stderr::print_error,
};

/// Prints the frames in bytes that were captured from a connection, in either direction.
///
/// Prints one JSON line for each frame: {"offset":O,"length":L,"command":"put","fields":{…}}, for a frame of
/// L bytes that starts at byte O of the input. The last line is {"offset":O,"error":"…"} if the input is
/// malformed from there on, and {"offset":O,"incomplete":true} if it ends within a frame. Bytes are printed
/// in hexadecimal.
///
/// The line of a put or sync also has the parts of its data: "message":{"attribute":A,"payload":P}, each
/// {"hex":"…", "text":"…"}, where A is null if the flag announces no attribute; {"error":"…"} replaces both
/// if the data has no valid attribute. The line of a value has its complete messages, each with offset, id
/// and flag, and at the end the reason why no more follow:
/// "messages":[{"offset":0,"id":I,"flag":F,"attribute":A,"payload":P},{"offset":M,"incomplete":true}]. "text"
/// is present if the bytes are valid UTF-8 without control characters other than tab, line feed and carriage
/// return.
///
/// The exit status doesn't depend on the bytes: it is 0 unless the input can't be read, or the output not
/// written.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to read; stdin if there is none, or for -
    file: Option<PathBuf>,
    /// Reads each line of the input as a stream of its own, in hexadecimal; printed lines start with the
    /// number of the line: {"input":N,…}. A line that isn't hexadecimal has no frames, unless it is longer
    /// than 16 MiB: then the frames before the error are printed
    #[arg(long)]
    hex: bool,
    /// Prints the bytes of each frame as they were on the wire, too: "bytes":"…"
    #[arg(long)]
    raw: bool,
    /// Reads a file of captured packets, pcap or pcapng, and prints the frames of each TCP stream; printed
    /// lines start with its addresses and the time: {"stream":"10.0.0.1:40000>10.0.0.2:8123","time":S,…}.
    /// Bytes that are missing in the capture end a stream: {…,"missing":N}
    #[arg(long, conflicts_with_all = ["hex", "encode"])]
    pcap: bool,
    /// The port of the brokers in captured packets; may be repeated
    #[arg(long, default_value = "8123", requires = "pcap")]
    port: Vec<u16>,
    /// Converts in the other direction: each line {"command":…,"fields":{…}} of the input becomes a line of
    /// hexadecimal, or {"input":N,"error":"…"}, also if it is longer than 64 MiB; other keys are ignored
    #[arg(long, conflicts_with_all = ["hex", "raw"])]
    encode: bool,
}

pub(crate) fn run(args: &Args) -> u8 {
    let source = match &args.file {
        Some(file) if file.as_os_str() != "-" => Source::File(file.clone()),
        _ => Source::Stdin,
    };
    let input = match source.ensure_not_output().and_then(|()| source.open()) {
        Ok(input) => input,
        Err(error) => {
            print_error(&format!("{} can't be read", source.name()), &error);
            return EXIT_USAGE;
        }
    };
    let mut output = Printer(BufWriter::with_capacity(BUFFER, io::stdout().lock()));
    let done = match *args {
        Args { pcap: true, raw, ref port, .. } => pcap::packets(input, &mut output, port, raw),
        Args { hex: true, raw, .. } => lines(input, &mut output, &decode::HexLines { raw }),
        Args { encode: true, .. } => lines(input, &mut output, &encode::JsonLines),
        Args { raw, .. } => decode::stream(input, &mut output, raw),
    };
    match done.and_then(|()| output.0.flush().map_err(InspectError::Output)) {
        Ok(()) => EXIT_DONE,
        // A reader that stops reading has seen enough.
        Err(InspectError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_BROKEN_PIPE,
        Err(InspectError::Output(error)) => {
            print_error("the output can't be written", &error);
            EXIT_LOCAL_IO
        }
        Err(InspectError::Input(error)) => {
            // The frames before the error are still of use; a failure to write them is secondary to it.
            let _ = output.0.flush();
            print_error(&format!("{} can't be read", source.name()), &error);
            EXIT_LOCAL_IO
        }
    }
}

const BUFFER: usize = 64 * 1024;

/// A failure that ends the command.
#[derive(Debug)]
enum InspectError {
    Input(io::Error),
    Output(io::Error),
}

/// The destination of printed lines.
#[derive(Debug)]
struct Printer(BufWriter<io::StdoutLock<'static>>);

impl Printer {
    fn json(&mut self, line: &impl serde::Serialize) -> Result<(), InspectError> {
        serde_json::to_writer(&mut self.0, line).map_err(|error| InspectError::Output(error.into()))?;
        self.0.write_all(b"\n").map_err(InspectError::Output)
    }

    fn text(&mut self, line: &[u8]) -> Result<(), InspectError> {
        self.0.write_all(line).and_then(|()| self.0.write_all(b"\n")).map_err(InspectError::Output)
    }

    fn flush(&mut self) -> Result<(), InspectError> {
        self.0.flush().map_err(InspectError::Output)
    }
}

/// The conversion of each line of the input.
trait EachLine {
    /// Limit on the length of a line that is passed as a whole.
    const MAX_LEN: usize;

    /// Converts line `number`, which has no white space at either end.
    fn whole(&self, output: &mut Printer, number: u64, line: &[u8]) -> Result<(), InspectError>;

    /// Converts a line that is longer than [`MAX_LEN`](Self::MAX_LEN). It begins with `start` and continues
    /// in `rest`; the caller skips what is not read of it.
    fn long(
        &self,
        output: &mut Printer,
        number: u64,
        start: &[u8],
        rest: &mut impl BufRead,
    ) -> Result<(), InspectError>;
}

/// Passes all lines to `each`, numbered from 1.
fn lines<L: EachLine>(input: impl Read, output: &mut Printer, each: &L) -> Result<(), InspectError> {
    let mut input = BufReader::with_capacity(BUFFER, input);
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        if !input.buffer().contains(&b'\n') {
            // The next read may block, and the reader of the output may be waiting for the lines printed so
            // far.
            output.flush()?;
        }
        line.clear();
        let limit = L::MAX_LEN as u64 + 1;
        if (&mut input).take(limit).read_until(b'\n', &mut line).map_err(InspectError::Input)? == 0 {
            return Ok(());
        }
        number += 1;
        if line.len() <= L::MAX_LEN || line.ends_with(b"\n") {
            each.whole(output, number, line.trim_ascii())?;
        } else {
            // The line feed is not consumed, so `skip_until` stops at the end of this line.
            each.long(output, number, &line, &mut RestOfLine(&mut input))?;
            input.skip_until(b'\n').map_err(InspectError::Input)?;
        }
    }
}

/// Reads up to the line feed, which is not consumed.
struct RestOfLine<'a, R>(&'a mut BufReader<R>);

impl<R: Read> Read for RestOfLine<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.fill_buf()?;
        let length = bytes.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

impl<R: Read> BufRead for RestOfLine<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let bytes = self.0.fill_buf()?;
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        Ok(&bytes[..end])
    }

    fn consume(&mut self, length: usize) {
        self.0.consume(length);
    }
}

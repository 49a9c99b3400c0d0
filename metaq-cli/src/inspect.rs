//! `metaq inspect`: frames as JSON, and back.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::PathBuf,
};

use bytes::BytesMut;
use metaq_protocol::{Decoder, Frame, Limits, json};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{EXIT_BROKEN_PIPE, EXIT_DONE, EXIT_FAILED, EXIT_USAGE, complain};

/// Shows captured bytes of either direction as JSON, one line a frame, or makes bytes of such lines.
///
/// A frame: {"offset":O,"length":L,"command":"put","fields":{…}}. What is malformed: {"offset":O,"error":"…"}, and there it
/// stops. What is cut off: {"offset":O,"incomplete":true}.
///
/// Exit status: 0, or 1 when the bytes are malformed; with --hex or --encode such lines have their error in the output, and
/// the status is 0.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Each input line is a stream of its own, in hexadecimal; output lines begin with its number, from 1
    #[arg(long, conflicts_with = "encode")]
    hex: bool,
    /// Each input line {"command":…,"fields":{…}} becomes a line of hexadecimal, or {"input":N,"error":"…"}
    #[arg(long)]
    encode: bool,
    /// The file to read; stdin when there is none, or for -
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// A line of the output.
#[derive(Debug, Default, Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A line of the input of `--encode`.
#[derive(Debug, Deserialize)]
struct Described {
    command: String,
    fields: Value,
}

pub(crate) fn run(args: &Args) -> u8 {
    let (name, input): (String, Box<dyn Read>) = match &args.file {
        Some(path) if path.as_os_str() != "-" => match File::open(path) {
            Ok(file) => (path.display().to_string(), Box::new(file)),
            Err(error) => {
                complain(&format!("{} can't be opened", path.display()), &error);
                return EXIT_USAGE;
            }
        },
        _ => ("stdin".to_owned(), Box::new(io::stdin().lock())),
    };
    let mut output = BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    let input = BufReader::with_capacity(64 * 1024, input);
    let done = match (args.hex, args.encode) {
        (_, true) => encode_lines(input, &mut output).map(|()| true),
        (true, _) => show_lines(input, &mut output).map(|()| true),
        _ => show_stream(input, &mut output),
    };
    match done.and_then(|good| output.flush().map(|()| good).map_err(Failure::Output)) {
        Ok(true) => EXIT_DONE,
        Ok(false) => EXIT_FAILED,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_BROKEN_PIPE,
        Err(Failure::Output(error)) => complain("the result can't be written", &error),
        Err(Failure::Input(error)) => complain(&format!("{name} can't be read"), &error),
    }
}

/// What went wrong, but for the bytes themselves.
#[derive(Debug)]
enum Failure {
    Input(io::Error),
    Output(io::Error),
}

/// As Java's decoder, which knows no limits: what is shown is there already.
fn decoder() -> Decoder {
    Decoder::with_limits(Limits::default().with_max_line(usize::MAX).with_max_body(usize::MAX))
}

fn write(output: &mut impl Write, line: &Shown<'_>) -> Result<(), Failure> {
    serde_json::to_writer(&mut *output, line).map_err(io::Error::from).map_err(Failure::Output)?;
    output.write_all(b"\n").map_err(Failure::Output)
}

fn shown(input: Option<u64>, offset: u64, length: usize, frame: &Frame) -> Shown<'_> {
    let (command, fields) = json::fields(frame);
    let (offset, length) = (Some(offset), Some(length as u64));
    Shown { input, offset, length, command: Some(command), fields: Some(fields), ..Shown::default() }
}

/// Shows one stream, whatever its size; false when it is malformed.
fn show_stream(mut input: impl BufRead, output: &mut impl Write) -> Result<bool, Failure> {
    let (mut decoder, mut buffer, mut offset) = (decoder(), BytesMut::new(), 0);
    loop {
        let chunk = match input.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::Input(error)),
        };
        let length = chunk.len();
        if length == 0 {
            break;
        }
        buffer.extend_from_slice(chunk);
        input.consume(length);
        if !show_frames(None, &mut decoder, &mut buffer, &mut offset, output)? {
            return Ok(false);
        }
    }
    if !buffer.is_empty() {
        write(output, &Shown { offset: Some(offset), incomplete: Some(true), ..Shown::default() })?;
    }
    Ok(true)
}

/// Shows each line, which is a stream of its own.
fn show_lines(input: impl BufRead, output: &mut impl Write) -> Result<(), Failure> {
    let mut buffer = BytesMut::new();
    for_each_line(input, |number, line| {
        let input = Some(number);
        let Some(bytes) = json::from_hex(&line) else {
            let error = Some("the line is not hexadecimal, two digits a byte".to_owned());
            return write(output, &Shown { input, offset: Some(0), error, ..Shown::default() });
        };
        buffer.clear();
        buffer.extend_from_slice(&bytes);
        let mut offset = 0;
        let good = show_frames(input, &mut decoder(), &mut buffer, &mut offset, output)?;
        // An empty stream lacks all of its first frame.
        if good && (!buffer.is_empty() || bytes.is_empty()) {
            write(
                output,
                &Shown { input, offset: Some(offset), incomplete: Some(true), ..Shown::default() },
            )?;
        }
        Ok(())
    })
}

/// Shows the complete frames in `buffer`; false when it is malformed.
fn show_frames(
    input: Option<u64>,
    decoder: &mut Decoder,
    buffer: &mut BytesMut,
    offset: &mut u64,
    output: &mut impl Write,
) -> Result<bool, Failure> {
    loop {
        let before = buffer.len();
        if before == 0 {
            return Ok(true);
        }
        match decoder.decode(buffer) {
            Ok(Some(frame)) => {
                let length = before - buffer.len();
                write(output, &shown(input, *offset, length, &frame))?;
                *offset += length as u64;
            }
            Ok(None) => return Ok(true),
            Err(error) => {
                let error = Some(error.to_string());
                write(output, &Shown { input, offset: Some(*offset), error, ..Shown::default() })?;
                return Ok(false);
            }
        }
    }
}

/// Makes bytes of each line.
fn encode_lines(input: impl BufRead, output: &mut impl Write) -> Result<(), Failure> {
    let mut bytes = BytesMut::new();
    for_each_line(input, |number, line| {
        let described = serde_json::from_str(&line).map_err(|error| error.to_string());
        let made = described.and_then(|Described { command, fields }| {
            json::frame(&command, &fields).map_err(|error| error.to_string())
        });
        match made {
            Ok(frame) => {
                bytes.clear();
                match &frame {
                    Frame::Command(command) => command.encode(&mut bytes),
                    Frame::Response(response) => response.encode(&mut bytes),
                    _ => return Ok(()),
                }
                writeln!(output, "{}", json::to_hex([&bytes[..]])).map_err(Failure::Output)
            }
            Err(error) => {
                write(output, &Shown { input: Some(number), error: Some(error), ..Shown::default() })
            }
        }
    })
}

/// Hands over each line with its number, from 1, without its line end.
fn for_each_line(
    mut input: impl BufRead,
    mut each: impl FnMut(u64, std::borrow::Cow<'_, str>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if input.read_until(b'\n', &mut line).map_err(Failure::Input)? == 0 {
            break;
        }
        each(number, String::from_utf8_lossy(line.trim_ascii()))?;
    }
    Ok(())
}

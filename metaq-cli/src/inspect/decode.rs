//! From bytes to JSON lines.

use std::io::{ErrorKind, Read};

use bytes::BytesMut;
use metaq_protocol::{Decoder, Limits};
use serde::Serialize;

use super::{BUFFER, Output, Stop, fields, hex};

/// Longer header lines are taken for something that is no capture of this protocol.
const MAX_LINE: usize = 1 << 20;

/// What is printed for one frame.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<u64>,
    offset: u64,
    length: u64,
    command: &'a str,
    fields: fields::Fields<'a>,
}

#[derive(Serialize)]
struct Malformed {
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    error: String,
}

#[derive(Serialize)]
struct Incomplete {
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<u64>,
    offset: u64,
    incomplete: bool,
}

/// One stream of bytes on its way through a decoder.
struct Stream {
    input: Option<u64>,
    decoder: Decoder,
    /// What came and was not taken yet.
    rest: BytesMut,
    /// Where the next frame starts.
    offset: u64,
    /// How many bytes came.
    fed: u64,
}

impl Stream {
    fn new(input: Option<u64>) -> Self {
        // The bytes are there, so a long body costs no more than they do.
        let limits = Limits::default().max_line(MAX_LINE).max_body(i32::MAX as usize);
        Self { input, decoder: Decoder::with_limits(limits), rest: BytesMut::new(), offset: 0, fed: 0 }
    }

    /// Takes more bytes, and shows the frames that they complete. False after what is malformed.
    fn feed(&mut self, bytes: &[u8], output: &mut Output) -> Result<bool, Stop> {
        self.rest.extend_from_slice(bytes);
        self.fed += bytes.len() as u64;
        let input = self.input;
        loop {
            match self.decoder.decode(&mut self.rest) {
                Ok(Some(frame)) => {
                    let end = self.fed - self.rest.len() as u64;
                    let (offset, length) = (self.offset, end - self.offset);
                    self.offset = end;
                    let (command, fields) = (frame.name(), fields::Fields::of(&frame));
                    output.json(&Shown { input, offset, length, command, fields })?;
                }
                Ok(None) => return Ok(true),
                Err(error) => {
                    output.json(&Malformed { input, offset: Some(self.offset), error: error.to_string() })?;
                    return Ok(false);
                }
            }
        }
    }

    /// Shows whether something is missing at the end.
    fn end(&self, output: &mut Output) -> Result<(), Stop> {
        if self.offset < self.fed {
            output.json(&Incomplete { input: self.input, offset: self.offset, incomplete: true })?;
        }
        Ok(())
    }
}

/// The whole input is one stream.
pub(super) fn stream(mut input: impl Read, output: &mut Output) -> Result<(), Stop> {
    let mut stream = Stream::new(None);
    let mut buffer = vec![0; BUFFER];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return stream.end(output),
            Ok(length) => {
                if !stream.feed(&buffer[..length], output)? {
                    return Ok(());
                }
                output.flush()?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Stop::Input(error)),
        }
    }
}

/// A line is a stream, in hexadecimal.
pub(super) fn hex_line(output: &mut Output, number: u64, line: &[u8]) -> Result<(), Stop> {
    let input = Some(number);
    match hex::parse(line) {
        Ok(bytes) => {
            let mut stream = Stream::new(input);
            if stream.feed(&bytes, output)? {
                stream.end(output)?;
            }
            Ok(())
        }
        Err(error) => output.json(&Malformed { input, offset: None, error: error.to_string() }),
    }
}

//! From bytes to JSON lines.

use std::io::{ErrorKind, Read};

use bytes::BytesMut;
use metaq_protocol::{Decoder, Limits, RawFrame};
use serde::Serialize;

use super::{
    BUFFER, Output, Stop, fields,
    hex::{self, Hex},
    message::{Message, Stored},
};

/// Longer header lines are taken for something that is no capture of this protocol.
const MAX_LINE: usize = 1 << 20;

/// What is printed for one frame.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<u64>,
    offset: u64,
    length: usize,
    command: &'a str,
    fields: fields::Fields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<Stored>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<Hex<'a>>,
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
    /// Whether the bytes of each frame are shown.
    raw: bool,
}

impl Stream {
    fn new(input: Option<u64>, raw: bool) -> Self {
        // The bytes are there, so a long body costs no more than they do.
        let limits = Limits::default().with_max_line(MAX_LINE).with_max_body(i32::MAX as usize);
        Self { input, decoder: Decoder::with_limits(limits), rest: BytesMut::new(), offset: 0, raw }
    }

    /// Takes more bytes, and shows the frames that they complete. False after what is malformed.
    fn feed(&mut self, bytes: &[u8], output: &mut Output) -> Result<bool, Stop> {
        self.rest.extend_from_slice(bytes);
        let input = self.input;
        loop {
            match self.decoder.decode_raw(&mut self.rest) {
                Ok(Some(RawFrame { frame, bytes, .. })) => {
                    output.json(&Shown {
                        input,
                        offset: self.offset,
                        length: bytes.len(),
                        command: frame.name(),
                        fields: fields::Fields::of(&frame),
                        message: Message::of(&frame),
                        messages: Stored::all_of(&frame),
                        bytes: self.raw.then_some(Hex(&bytes)),
                    })?;
                    self.offset += bytes.len() as u64;
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
        if !self.rest.is_empty() {
            output.json(&Incomplete { input: self.input, offset: self.offset, incomplete: true })?;
        }
        Ok(())
    }
}

/// The whole input is one stream.
pub(super) fn stream(mut input: impl Read, output: &mut Output, raw: bool) -> Result<(), Stop> {
    let mut stream = Stream::new(None, raw);
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
pub(super) fn hex_line(output: &mut Output, number: u64, line: &[u8], raw: bool) -> Result<(), Stop> {
    let input = Some(number);
    match hex::parse(line) {
        Ok(bytes) => {
            let mut stream = Stream::new(input, raw);
            if stream.feed(&bytes, output)? {
                stream.end(output)?;
            }
            Ok(())
        }
        Err(error) => output.json(&Malformed { input, offset: None, error: error.to_string() }),
    }
}

//! Converts bytes to JSON lines.

use std::io::{BufRead, ErrorKind, Read};

use bytes::BytesMut;
use metaq_protocol::{Decoder, Limits, RawFrame};
use serde::Serialize;

use super::{
    BUFFER, EachLine, InspectError, Printer, fields,
    hex::{self, Hex, InvalidHex},
    message::{Message, Messages},
};

/// Limit on the length of a header line. A longer one means that the input is no capture of this protocol.
const MAX_LINE: usize = 1 << 20;

/// Limit on the bytes of a frame that are kept until it is complete.
const MAX_KEPT: usize = 64 << 20;

/// Where the bytes of a captured stream come from.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Capture {
    /// The addresses of both sides.
    pub(super) stream: String,
    /// The time of the packet that completed the frame, in seconds since 1970.
    pub(super) time: f64,
}

/// The JSON line of one frame.
#[derive(Serialize)]
struct FrameLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<u64>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    capture: Option<Capture>,
    offset: u64,
    length: usize,
    command: &'a str,
    fields: fields::Fields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Messages<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<Hex<'a>>,
}

#[derive(Serialize)]
struct Malformed {
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<u64>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    capture: Option<Capture>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    error: String,
}

#[derive(Serialize)]
struct Incomplete {
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<u64>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    capture: Option<Capture>,
    offset: u64,
    incomplete: bool,
}

/// One stream of bytes and its decoder.
pub(super) struct Stream {
    input: Option<u64>,
    pub(super) capture: Option<Capture>,
    decoder: Decoder,
    /// Bytes that the decoder has not consumed yet.
    rest: BytesMut,
    /// The offset of the next frame.
    offset: u64,
    /// Set when the bytes of each frame are printed, too.
    raw: bool,
}

impl Stream {
    pub(super) fn new(input: Option<u64>, raw: bool) -> Self {
        let limits = Limits::default().with_max_line(MAX_LINE).with_max_body(i32::MAX as usize);
        Self {
            input,
            capture: None,
            decoder: Decoder::with_limits(limits),
            rest: BytesMut::new(),
            offset: 0,
            raw,
        }
    }

    /// Adds bytes, and prints the frames that they complete. Returns false after a malformed one.
    pub(super) fn feed(&mut self, bytes: &[u8], output: &mut Printer) -> Result<bool, InspectError> {
        self.rest.extend_from_slice(bytes);
        let input = self.input;
        loop {
            match self.decoder.decode_raw(&mut self.rest) {
                Ok(Some(RawFrame { frame, bytes, .. })) => {
                    output.json(&FrameLine {
                        input,
                        capture: self.capture.clone(),
                        offset: self.offset,
                        length: bytes.len(),
                        command: frame.name(),
                        fields: fields::Fields::of(&frame),
                        message: Message::of(&frame),
                        messages: Messages::of(&frame),
                        bytes: self.raw.then_some(Hex(&bytes)),
                    })?;
                    self.offset += bytes.len() as u64;
                }
                Ok(None) if self.rest.len() <= MAX_KEPT => return Ok(true),
                Ok(None) => {
                    let error = format!("the frame is longer than {MAX_KEPT} bytes, which is the limit");
                    let (capture, offset) = (self.capture.clone(), Some(self.offset));
                    self.rest = BytesMut::new();
                    output.json(&Malformed { input, capture, offset, error })?;
                    return Ok(false);
                }
                Err(error) => {
                    output.json(&Malformed {
                        input,
                        capture: self.capture.clone(),
                        offset: Some(self.offset),
                        error: error.to_string(),
                    })?;
                    return Ok(false);
                }
            }
        }
    }

    /// Prints a line if the stream ends within a frame.
    pub(super) fn end(&self, output: &mut Printer) -> Result<(), InspectError> {
        if !self.rest.is_empty() {
            output.json(&Incomplete {
                input: self.input,
                capture: self.capture.clone(),
                offset: self.offset,
                incomplete: true,
            })?;
        }
        Ok(())
    }
}

/// Prints the frames of an input that is one stream.
pub(super) fn stream(mut input: impl Read, output: &mut Printer, raw: bool) -> Result<(), InspectError> {
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
            Err(error) => return Err(InspectError::Input(error)),
        }
    }
}

/// Converts lines, each of which is a stream in hexadecimal.
pub(super) struct HexLines {
    pub(super) raw: bool,
}

impl EachLine for HexLines {
    const MAX_LEN: usize = 16 << 20;

    fn whole(&self, output: &mut Printer, number: u64, line: &[u8]) -> Result<(), InspectError> {
        match hex::parse(line) {
            Ok(bytes) => {
                let mut stream = Stream::new(Some(number), self.raw);
                if stream.feed(&bytes, output)? {
                    stream.end(output)?;
                }
                Ok(())
            }
            Err(error) => not_hexadecimal(output, number, error),
        }
    }

    fn long(
        &self,
        output: &mut Printer,
        number: u64,
        start: &[u8],
        rest: &mut impl BufRead,
    ) -> Result<(), InspectError> {
        let (mut digits, mut stream) = (hex::Digits::default(), Stream::new(Some(number), self.raw));
        let mut bytes = Vec::new();
        let mut text = start;
        let mut taken = 0;
        loop {
            bytes.clear();
            let parsed = digits.push(text, &mut bytes);
            if !stream.feed(&bytes, output)? {
                return Ok(());
            }
            if let Err(error) = parsed {
                return not_hexadecimal(output, number, error);
            }
            rest.consume(taken);
            // The next read may block.
            output.flush()?;
            text = rest.fill_buf().map_err(InspectError::Input)?;
            taken = text.len();
            if taken == 0 {
                break;
            }
        }
        match digits.end() {
            Ok(()) => stream.end(output),
            Err(error) => not_hexadecimal(output, number, error),
        }
    }
}

fn not_hexadecimal(output: &mut Printer, number: u64, error: InvalidHex) -> Result<(), InspectError> {
    output.json(&Malformed { input: Some(number), capture: None, offset: None, error: error.to_string() })
}

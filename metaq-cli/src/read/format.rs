//! The forms in which messages are printed.

use std::fmt::Write as _;

use data_encoding::BASE64;
use metaq_producer::inspect::{FetchedMessage, ReadItem};
use serde::Serialize;

use crate::{
    look::{Failure, Look},
    stderr::print_message,
};

/// The number of bytes in a row of a hex dump.
const ROW: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Raw,
    Json,
    Hex,
}

/// Prints messages, and counts them.
#[derive(Debug)]
pub(super) struct Printer {
    form: Form,
    /// The number of messages that were printed.
    pub(super) printed: u64,
    /// The number of messages that could not be read.
    pub(super) unread: u64,
}

/// The line of a message. `metaq produce --json-lines` takes the same keys.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    partition: &'a str,
    offset: i64,
    /// A text, since programs that read numbers as floating point would change it.
    id: String,
    attribute: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_b64: Option<String>,
}

impl Printer {
    pub(super) fn new(form: Form) -> Self {
        Self { form, printed: 0, unread: 0 }
    }

    pub(super) fn print(&mut self, look: &mut Look, partition: &str, item: ReadItem) -> Result<(), Failure> {
        match item {
            ReadItem::Message(message) => {
                self.printed += 1;
                match self.form {
                    Form::Raw => {
                        let text = look.output.text();
                        text.extend_from_slice(&message.payload);
                        text.push(b'\n');
                    }
                    Form::Json => self.json(look, partition, &message)?,
                    Form::Hex => look.text(&hex(partition, &message)),
                }
            }
            ReadItem::Corrupt { offset, reason, .. } => {
                self.unread += 1;
                print_message(&format!("the message of {partition} at offset {offset} is damaged: {reason}"));
            }
            ReadItem::TooLarge { offset, next_offset, .. } => {
                self.unread += 1;
                let length = next_offset - offset;
                print_message(&format!(
                    "the message of {partition} at offset {offset} takes {length} bytes, more than the broker sends at a \
                     time (maxTransferSize): no consumer can read it"
                ));
            }
            ReadItem::Skipped { offset, next_offset, .. } => print_message(&format!(
                "{partition} has nothing at offset {offset}, which was deleted; going on at {next_offset}"
            )),
            _ => {}
        }
        Ok(())
    }

    fn json(&self, look: &mut Look, partition: &str, message: &FetchedMessage) -> Result<(), Failure> {
        let text = str::from_utf8(&message.payload).ok();
        let topic = message.topic.as_str();
        look.json(&Line {
            topic,
            partition,
            offset: message.offset,
            id: message.id.to_string(),
            attribute: message.attribute.as_deref(),
            data: text,
            data_b64: if text.is_some() { None } else { Some(BASE64.encode(&message.payload)) },
        })
    }
}

/// A message in rows of 16 bytes.
fn hex(partition: &str, message: &FetchedMessage) -> String {
    let mut text = format!("{partition} offset {} id {}", message.offset, message.id);
    if let Some(attribute) = &message.attribute {
        // Writing to a string can't fail.
        let _ = write!(text, " attribute {attribute:?}");
    }
    let _ = writeln!(text, " {} bytes", message.payload.len());
    text + &hex_rows(&message.payload)
}

/// Formats bytes in rows of 16.
pub(crate) fn hex_rows(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (n, row) in bytes.chunks(ROW).enumerate() {
        let _ = write!(text, "  {:08x} ", n * ROW);
        for at in 0..ROW {
            let _ = match row.get(at) {
                Some(byte) => write!(text, " {byte:02x}"),
                None => write!(text, "   "),
            };
        }
        let shown = row.iter().map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' });
        let _ = writeln!(text, "  {}", shown.collect::<String>());
    }
    text
}

//! `metaq spool show`: the messages of a folder.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use data_encoding::BASE64;
use metaq_producer::Message;
use metaq_spool::SpooledMessage;
use serde::Serialize;

use super::{Printer, age, failed, form, open, seconds, select::Selection, unreadable};
use crate::{
    display::{OutputForm, escaped, one_line},
    exit_status::EXIT_DONE,
    read::hex_rows,
};

/// The number of characters of a payload that are shown in one line.
const MAX_SHOWN: usize = 60;

/// Prints messages, those that wait first, then those that were set aside.
///
/// The formats:
///   text  a line with number, topic, partition ("any" if the message names none),
///         age, attribute, key, bytes and the beginning of the payload; if it was
///         set aside, also the number of refusals and the reason
///   json  {"id":"17","topic":"orders","partition":"0-1","age_s":12.5,"attempts":5,
///         "reason":"…","key":"k","attribute":"a","data":"…"} in one line, with
///         data_b64 and key_b64 where these are not UTF-8; attempts and reason are
///         null while it waits
///   hex   the line of text, and the payload in rows of 16 bytes
///   raw   the payload and a line feed
///
/// Messages that are damaged have an error in place of their data, and the status
/// is 9.
///
/// Examples:
///   metaq spool show /var/spool/orders -n 10
///   metaq spool show /var/spool/orders --set-aside --json
///   metaq spool show /var/spool/orders 17 --format hex
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// The folder
    folder: PathBuf,
    /// Stops after this number of messages
    #[arg(short = 'n', long = "count", value_name = "COUNT")]
    count: Option<u64>,
    /// The form of the output; text by default
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Hex,
    Raw,
}

/// The line of a message.
#[derive(Serialize)]
struct Line<'a> {
    id: String,
    topic: Option<&'a str>,
    partition: Option<String>,
    age_s: Option<f64>,
    attempts: Option<u32>,
    reason: Option<&'a str>,
    #[serde(flatten)]
    parts: Parts<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// The parts of a message, as `metaq produce --json-lines` takes them.
#[derive(Default, Serialize)]
pub(super) struct Parts<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attribute: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_b64: Option<String>,
}

impl<'a> Parts<'a> {
    pub(super) fn of(message: &'a Message) -> Self {
        let (key, key_b64) = message.key().map_or((None, None), text_or_base64);
        let (data, data_b64) = text_or_base64(message.payload());
        Self { key, key_b64, attribute: message.attribute(), data, data_b64 }
    }
}

fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(BASE64.encode(bytes))),
    }
}

pub(super) async fn run(args: Args) -> Result<u8, u8> {
    let form = form()?;
    let format = match args.format {
        Some(format) => format,
        None if args.json || form == Some(OutputForm::Json) => Format::Json,
        None => Format::Text,
    };
    let is_plain = form == Some(OutputForm::Plain);
    let folder = open(&args.folder)?;
    args.selection.check(&folder)?;
    let mut printer = Printer::new()?;
    let mut damaged = 0;
    let count = usize::try_from(args.count.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    for message in args.selection.messages(&folder).take(count) {
        let message = message.map_err(|error| failed(&args.folder, &error))?;
        let age = folder.age(&message);
        damaged += u64::from(message.message.is_err());
        match format {
            Format::Json => printer.json(&line(&message, age)).await?,
            Format::Text if is_plain => printer.text(&words(&message, age)).await?,
            Format::Text => printer.text(&text(&message, age)).await?,
            Format::Hex => {
                printer.text(&text(&message, age)).await?;
                let payload = message.message.as_ref().map_or(&[][..], |message| message.payload());
                printer.text(&hex_rows(payload)).await?;
            }
            Format::Raw => {
                if let Ok(message) = &message.message {
                    printer.bytes(message.payload()).await?;
                    printer.text("\n").await?;
                }
            }
        }
    }
    printer.finish().await?;
    Ok(unreadable(damaged, EXIT_DONE))
}

fn line(found: &SpooledMessage, age: Option<Duration>) -> Line<'_> {
    let message = found.message.as_ref();
    Line {
        id: found.id.to_string(),
        topic: message.ok().map(|message| message.topic().as_str()),
        partition: message.ok().and_then(Message::partition).map(|partition| partition.to_string()),
        age_s: age.map(seconds),
        attempts: found.set_aside.as_ref().map(|aside| aside.attempts),
        reason: found.set_aside.as_ref().map(|aside| aside.reason.as_str()),
        parts: message.map(Parts::of).unwrap_or_default(),
        error: message.err().map(String::as_str),
    }
}

/// The cells that text and words share: number, topic, partition, age, refusals and bytes.
fn cells(found: &SpooledMessage, time: Option<Duration>) -> [String; 6] {
    let unknown = || "?".to_owned();
    let message = found.message.as_ref().ok();
    let partition =
        |message: &Message| message.partition().map_or_else(|| "any".to_owned(), |it| it.to_string());
    [
        found.id.to_string(),
        message.map_or_else(unknown, |message| escaped(message.topic().as_str()).into_owned()),
        message.map_or_else(unknown, partition),
        time.map_or_else(unknown, age),
        found.set_aside.as_ref().map_or_else(|| "-".to_owned(), |aside| aside.attempts.to_string()),
        message.map_or_else(unknown, |message| message.payload().len().to_string()),
    ]
}

/// Words separated by tabs: the cells, the reason, and the payload as an escaped text.
fn words(found: &SpooledMessage, age: Option<Duration>) -> String {
    let reason = found.set_aside.as_ref().map_or("", |aside| aside.reason.as_str());
    let payload = found.message.as_ref().map(|message| payload(message, usize::MAX));
    let payload = payload.unwrap_or_else(|error| format!("damaged: {error}"));
    format!("{}\t{}\t{payload}\n", cells(found, age).join("\t"), one_line(reason))
}

fn text(found: &SpooledMessage, time: Option<Duration>) -> String {
    let [id, topic, partition, age, attempts, bytes] = cells(found, time);
    let mut text = format!("{id} {topic} {partition} {age} old");
    match &found.message {
        Ok(message) => {
            if let Some(attribute) = message.attribute() {
                text += &format!(" attribute {attribute:?}");
            }
            if let Some(key) = message.key() {
                text += &format!(" key {:?}", String::from_utf8_lossy(key));
            }
            text += &format!(" {bytes} bytes \"{}\"\n", payload(message, MAX_SHOWN));
        }
        Err(error) => text += &format!(" damaged: {error}\n"),
    }
    if let Some(aside) = &found.set_aside {
        let times = if aside.attempts == 1 { "time" } else { "times" };
        text += &format!("  set aside, refused {attempts} {times}: {}\n", one_line(&aside.reason));
    }
    text
}

/// The beginning of a payload, without characters that control a terminal.
fn payload(message: &Message, most: usize) -> String {
    // A character takes 4 bytes at most.
    let bytes = &message.payload()[..message.payload().len().min(most.saturating_mul(4))];
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String = text.chars().take(most).flat_map(char::escape_debug).collect();
    if text.chars().nth(most).is_some() || bytes.len() < message.payload().len() {
        shown += "...";
    }
    shown
}

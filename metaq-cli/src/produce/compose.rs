//! Messages made of lines.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use data_encoding::BASE64;
use metaq_producer::{Message, Partition, Topic};
use serde::{Deserialize, de::IgnoredAny};

use super::Args;
use crate::input::{Line, MAX_LINE};

/// The byte order mark of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Makes messages of lines.
#[derive(Clone, Debug)]
pub(super) struct Composer {
    topics: Vec<Topic>,
    attribute: Option<Arc<str>>,
    key: Option<Arc<str>>,
    partition: Option<Partition>,
    is_json: bool,
}

/// A line that is no message: the kind and the text of the error.
pub(super) type Refused = (&'static str, String);

/// A line of JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonLine<'a> {
    #[serde(default, borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    key_b64: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    attribute: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    data: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    data_b64: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    partition: Option<Cow<'a, str>>,
    /// The rest of what `metaq read` prints, which has no meaning for another message.
    #[serde(default, rename = "topic")]
    _topic: IgnoredAny,
    #[serde(default, rename = "offset")]
    _offset: IgnoredAny,
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
}

/// Fails when a message is larger than `max_size` bytes.
pub(super) fn checked(message: Message, max_size: usize) -> Result<Message, Refused> {
    if message.encoded_len() > max_size {
        let text = format!("the message has {} bytes, and {max_size} is the limit", message.encoded_len());
        return Err(("too-large", text));
    }
    Ok(message)
}

impl Composer {
    pub(super) fn new(args: &Args) -> Self {
        Self {
            topics: args.topics.clone(),
            attribute: args.attribute.clone(),
            key: args.key.clone(),
            partition: args.partition,
            is_json: args.json_lines,
        }
    }

    /// Returns the message of a line with this number, the first of which is 1.
    pub(super) fn message(&self, number: u64, line: Line) -> Result<Message, Refused> {
        let payload = match line {
            Line::Whole(payload) => payload,
            Line::TooLong => {
                let text = format!("the line is longer than {MAX_LINE} bytes, which no consumer could fetch");
                return Err(("too-large", text));
            }
            Line::Incomplete => {
                return Err(("input", "the input ended within this message".to_owned()));
            }
        };
        let topic = self.topics[((number - 1) % self.topics.len() as u64) as usize].clone();
        let mut message = if self.is_json {
            self.of_json(topic, &payload).map_err(|text| ("input", text))?
        } else {
            Message::new(topic, payload)
        };
        if message.attribute().is_none()
            && let Some(attribute) = &self.attribute
        {
            message.set_attribute(attribute);
        }
        if message.key().is_none()
            && let Some(key) = &self.key
        {
            message = message.with_key(key.as_bytes());
        }
        if message.partition().is_none()
            && let Some(partition) = self.partition
        {
            message = message.with_partition(partition);
        }
        Ok(message)
    }

    fn of_json(&self, topic: Topic, line: &[u8]) -> Result<Message, String> {
        // Some programs begin a file with this mark.
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        let line: JsonLine<'_> = serde_json::from_slice(line)
            .map_err(|error| format!("the line is not the JSON of a message: {error}"))?;
        let payload: Bytes = match (line.data, line.data_b64) {
            (Some(data), None) => data.into_owned().into(),
            (None, Some(text)) => {
                let decoded = BASE64.decode(text.as_bytes());
                decoded.map_err(|error| format!("data_b64 is not base64: {error}"))?.into()
            }
            (Some(_), Some(_)) => return Err("the line has data and data_b64".to_owned()),
            (None, None) => return Err("the line has neither data nor data_b64".to_owned()),
        };
        let mut message = Message::new(topic, payload);
        if let Some(attribute) = line.attribute {
            message.set_attribute(attribute);
        }
        match (line.key, line.key_b64) {
            (None, None) => {}
            (Some(key), None) => message = message.with_key(key.as_bytes()),
            (None, Some(text)) => {
                let decoded = BASE64.decode(text.as_bytes());
                message =
                    message.with_key(decoded.map_err(|error| format!("key_b64 is not base64: {error}"))?);
            }
            (Some(_), Some(_)) => return Err("the line has key and key_b64".to_owned()),
        }
        if let Some(partition) = line.partition {
            // The text of any partition names none that could ever be there.
            let parsed = partition.parse().ok().filter(|partition| *partition != Partition::ANY);
            let wrong = || format!("{partition:?} is not a partition, such as \"0-1\"");
            message = message.with_partition(parsed.ok_or_else(wrong)?);
        }
        Ok(message)
    }
}

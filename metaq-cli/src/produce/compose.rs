//! Messages made of lines.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use data_encoding::{BASE64, DecodeError};
use metaq_producer::{Message, Partition, Topic};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::Args;
use crate::{
    input::{Line, MAX_LINE},
    stderr::without_line,
};

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
        if line.trim_ascii_start().starts_with(b"[") {
            // It would be taken for the fields in their order.
            return Err(format!("{NOT_JSON}{NO_OBJECT}"));
        }
        let line: JsonLine<'_> = serde_json::from_slice(line).map_err(|error| unusable(line, &error))?;
        let payload: Bytes = match (line.data, line.data_b64) {
            (Some(data), None) => data.into_owned().into(),
            (None, Some(text)) => {
                let decoded = BASE64.decode(text.as_bytes());
                decoded.map_err(|error| not_base64("data_b64", &error))?.into()
            }
            (Some(_), Some(_)) => {
                return Err("the line has data and data_b64; leave one of them out".to_owned());
            }
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
                message = message.with_key(decoded.map_err(|error| not_base64("key_b64", &error))?);
            }
            (Some(_), Some(_)) => {
                return Err("the line has key and key_b64; leave one of them out".to_owned());
            }
        }
        if let Some(partition) = line.partition {
            // The text of any partition names none that could ever be there.
            let parsed = partition.parse().ok().filter(|partition| *partition != Partition::ANY);
            let wrong = || format!("partition is {partition:?}, and not one such as \"0-1\"");
            message = message.with_partition(parsed.ok_or_else(wrong)?);
        }
        Ok(message)
    }
}

/// The fields of a line of JSON that are texts.
const TEXTS: [&str; 6] = ["data", "data_b64", "key", "key_b64", "attribute", "partition"];

/// The beginning of an error about a line of JSON.
const NOT_JSON: &str = "the line is not the JSON of a message: ";

/// The reason for which JSON of another kind is no message.
const NO_OBJECT: &str = "it has to be an object such as {\"data\":\"…\"}";

/// Explains why a line is not the JSON of a message: with the column, and the field where it is known.
fn unusable(line: &[u8], error: &serde_json::Error) -> String {
    let is_text = |value: &Value| value.is_string() || value.is_null();
    let reason = match serde_json::from_slice(line) {
        Ok(Value::Object(fields)) => {
            let wrong = TEXTS.iter().find(|name| fields.get(**name).is_some_and(|value| !is_text(value)));
            wrong.map(|name| format!("column {}: {name} has to be a text", error.column()))
        }
        Ok(_) => Some(NO_OBJECT.to_owned()),
        Err(_) => None,
    };
    let reason = reason.unwrap_or_else(|| without_line(error).replace('`', ""));
    format!("{NOT_JSON}{reason}")
}

fn not_base64(field: &str, error: &DecodeError) -> String {
    format!("{field} is not base64: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> String {
        let composer = Composer {
            topics: vec!["t".parse().unwrap()],
            attribute: None,
            key: None,
            partition: None,
            is_json: true,
        };
        let composed = composer.message(1, Line::Whole(Bytes::copy_from_slice(line.as_bytes())));
        let (kind, text) = composed.expect_err("it is refused");
        assert_eq!(kind, "input");
        text
    }

    #[test]
    fn errors_of_json_name_the_column_and_the_field() {
        for (line, said) in [
            (r#"{"data":5}"#, "column 9: data has to be a text"),
            (r#"{"data":"x","key":["k"]}"#, "column 18: key has to be a text"),
            (r#"{"data":"x","partition":0}"#, "column 25: partition has to be a text"),
            (r#"{"data":"x","dat":1}"#, "column 17: unknown field dat, expected one of key, key_b64, "),
            (r#"{"data":"x","data":"y"}"#, "column 18: duplicate field data"),
            (r#"{"data":"x""#, "column 11: EOF while parsing an object"),
            (r#"["x"]"#, "it has to be an object such as"),
            ("5", "it has to be an object such as"),
            ("", "column 0: EOF while parsing a value"),
            ("plain text", "column 1: expected value"),
        ] {
            let text = error(line);
            assert!(text.starts_with(&format!("{NOT_JSON}{said}")), "{line}: {text}");
            assert!(!text.contains("line 1"), "{text}");
        }
        assert!(error(r#"{"data_b64":"x y"}"#).starts_with("data_b64 is not base64: "));
        assert!(error(r#"{"data":"x","key_b64":"*"}"#).starts_with("key_b64 is not base64: "));
        let text = error(r#"{"data":"x","partition":"one"}"#);
        assert_eq!(text, r#"partition is "one", and not one such as "0-1""#);
    }
}

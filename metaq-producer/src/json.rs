//! Values as JSON messages.

use std::{any::type_name, error::Error as StdError, fmt, sync::Arc};

use bytes::Bytes;
use metaq_protocol::Topic;
use serde::Serialize;

use crate::{Message, Producer, SendError, SendReceipt, body::MessageBody};

impl Message {
    /// A message whose payload is `value` as JSON, in UTF-8 and without spaces.
    ///
    /// ```
    /// use metaq_producer::{Message, Topic};
    ///
    /// #[derive(serde::Serialize)]
    /// struct Order {
    ///     what: &'static str,
    ///     count: u32,
    /// }
    ///
    /// let message = Message::json(Topic::new("orders")?, &Order { what: "coffee", count: 1 })?;
    /// assert_eq!(message.payload(), r#"{"what":"coffee","count":1}"#);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When the value has no form in JSON, such as a map whose keys aren't texts; the error says where.
    /// Numbers that JSON doesn't have, NaN and the infinities, become `null`.
    pub fn json<T: Serialize + ?Sized>(topic: Topic, value: &T) -> Result<Self, JsonError> {
        match serde_json::to_vec(value) {
            Ok(payload) => Ok(Self::new(topic, payload)),
            Err(error) => Err(JsonError::new(topic, value, error)),
        }
    }
}

impl Producer {
    /// Sends `value` as JSON, and waits until the message has its outcome: [`Message::json`] and
    /// [`send`](Self::send) in one.
    ///
    /// # Errors
    /// When the value has no form in JSON: nothing is sent then. Otherwise as for `send`.
    ///
    /// # Cancel safety
    /// As for `send`.
    pub async fn send_json<T: Serialize + ?Sized>(
        &self,
        topic: &Topic,
        value: &T,
    ) -> Result<SendReceipt, SendJsonError> {
        // Made before anything is awaited, so that the value need not be `Sync` for the future to cross
        // threads.
        let message = Message::json(topic.clone(), value);
        Ok(self.send(message?).await?)
    }
}

/// A value whose JSON is the payload, for what takes any [`MessageBody`].
///
/// ```
/// use metaq_producer::{Message, Topic, json::Json};
///
/// let message = Message::from_body(Topic::new("orders")?, Json(["one coffee", "two teas"]))?;
/// assert_eq!(message.payload(), r#"["one coffee","two teas"]"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a value in a form")]
pub struct Json<T>(pub T);

impl<T: Serialize> MessageBody for Json<T> {
    type Error = Box<dyn StdError + Send + Sync>;

    fn into_payload(self) -> Result<Bytes, Self::Error> {
        serde_json::to_vec(&self.0).map(Bytes::from).map_err(|error| match place_of_error(&self.0) {
            Some(path) => format!("at {path}: {error}").into(),
            None => error.into(),
        })
    }
}

/// A value was not sent as JSON.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendJsonError {
    /// It has no form in JSON; nothing was sent.
    Json(JsonError),
    /// Its message was not acknowledged.
    Send(SendError),
}

impl From<JsonError> for SendJsonError {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

impl From<SendError> for SendJsonError {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

impl fmt::Display for SendJsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => error.fmt(f),
            Self::Send(error) => error.fmt(f),
        }
    }
}

impl StdError for SendJsonError {
    /// The source of the error, which it shows itself.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Json(error) => error.source(),
            Self::Send(error) => error.source(),
        }
    }
}

/// A value has no form in JSON.
#[derive(Clone)]
pub struct JsonError {
    inner: Arc<JsonFailure>,
}

struct JsonFailure {
    topic: Topic,
    type_name: &'static str,
    path: Option<String>,
    source: serde_json::Error,
}

impl JsonError {
    fn new<T: Serialize + ?Sized>(topic: Topic, value: &T, source: serde_json::Error) -> Self {
        let inner = JsonFailure { topic, type_name: type_name::<T>(), path: place_of_error(value), source };
        Self { inner: Arc::new(inner) }
    }

    /// The place in the value, such as `items[3].prices`. None if it is the value itself.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.inner.path.as_deref()
    }

    /// The topic of the message.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.inner.topic
    }
}

/// Finds where serialising `value` fails. Keeping account of the place takes time, so this is asked only when
/// it has failed.
fn place_of_error<T: Serialize + ?Sized>(value: &T) -> Option<String> {
    let mut track = serde_path_to_error::Track::new();
    let mut serializer = serde_json::Serializer::new(std::io::sink());
    value.serialize(serde_path_to_error::Serializer::new(&mut serializer, &mut track)).err()?;
    let path = track.path();
    path.iter().next().is_some().then(|| path.to_string())
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JsonFailure { topic, type_name, path, source } = &*self.inner;
        write!(f, "message to topic {topic} was not sent: {type_name} can't be written as JSON")?;
        match path {
            Some(path) => write!(f, ", at {path}: {source}"),
            None => write!(f, ": {source}"),
        }
    }
}

impl fmt::Debug for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonError").field("text", &self.to_string()).finish_non_exhaustive()
    }
}

impl StdError for JsonError {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Serialize)]
    struct Order {
        items: Vec<Item>,
    }

    #[derive(Serialize)]
    struct Item {
        prices: BTreeMap<(u8, u8), u8>,
    }

    fn error(value: &(impl Serialize + ?Sized)) -> JsonError {
        Message::json(Topic::new("t").unwrap(), value).unwrap_err()
    }

    #[test]
    fn what_has_no_form_in_json_is_named_with_its_place() {
        let item = |keys: &[(u8, u8)]| Item { prices: keys.iter().map(|key| (*key, 1)).collect() };
        let error = error(&Order { items: vec![item(&[]), item(&[(1, 2)])] });
        let text = error.to_string();
        assert_eq!(error.path(), Some("items[1].prices"), "{text}");
        assert!(text.starts_with("message to topic t was not sent: "), "{text}");
        assert!(
            text.contains("json::tests::Order can't be written as JSON, at items[1].prices: key must be"),
            "{text}"
        );
    }

    #[test]
    fn the_value_itself_has_no_place() {
        let error = error(&BTreeMap::from([((1, 2), 3)]));
        assert_eq!(error.path(), None, "{error}");
        assert_eq!(error.topic().as_str(), "t");
    }

    #[test]
    fn what_has_one_is_the_payload() {
        fn json<T: Serialize + ?Sized>(value: &T) -> Bytes {
            Message::json(Topic::new("t").unwrap(), value).unwrap().payload().clone()
        }
        assert_eq!(json("text"), r#""text""#);
        assert_eq!(json(&f64::NAN), "null");
        assert_eq!(json(&Order { items: vec![] }), r#"{"items":[]}"#);
    }
}

//! Values that are the payload of a message in some form of bytes.

use std::{any::type_name, convert::Infallible, error::Error as StdError, fmt};

use bytes::Bytes;
use metaq_protocol::Topic;

use crate::{Message, Producer, SendError, SendReceipt};

/// A value that can be made the payload of a message.
///
/// Texts and bytes are what they are; with the feature `json` a value in `Json` is its JSON. A program writes
/// down once how its own types look, and sends them by [`Message::from_body`] or [`Producer::send_body`].
///
/// ```
/// use metaq_producer::{Message, Topic, body::MessageBody};
///
/// struct Reading {
///     celsius: f32,
/// }
///
/// impl MessageBody for Reading {
///     type Error = String;
///
///     fn into_payload(self) -> Result<bytes::Bytes, String> {
///         if !self.celsius.is_finite() {
///             return Err(format!("{} is no temperature", self.celsius));
///         }
///         Ok(self.celsius.to_be_bytes().to_vec().into())
///     }
/// }
///
/// let readings: Topic = "readings".parse()?;
/// let message = Message::from_body(readings.clone(), Reading { celsius: 1.5 })?.with_key("sensor-7");
/// assert_eq!(message.payload(), &[0x3f, 0xc0, 0, 0][..]);
/// let error = Message::from_body(readings, Reading { celsius: f32::NAN }).unwrap_err();
/// assert!(error.to_string().ends_with("Reading can't be made a payload: NaN is no temperature"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait MessageBody {
    /// Why a value can't be made a payload. [`Infallible`] where each one can.
    type Error: Into<Box<dyn StdError + Send + Sync>>;

    /// The bytes of the payload.
    ///
    /// # Errors
    /// When the value has no such form.
    fn into_payload(self) -> Result<Bytes, Self::Error>;
}

macro_rules! bodies {
    ($($type:ty)*) => {
        $(impl MessageBody for $type {
            type Error = Infallible;

            fn into_payload(self) -> Result<Bytes, Infallible> {
                Ok(self.into())
            }
        })*
    };
}

bodies! { Bytes Vec<u8> String &'static str &'static [u8] }

impl Message {
    /// A message whose payload is `body`.
    ///
    /// # Errors
    /// When the body can't be made a payload.
    pub fn from_body<B: MessageBody>(topic: Topic, body: B) -> Result<Self, BodyError> {
        match body.into_payload() {
            Ok(payload) => Ok(Self::new(topic, payload)),
            Err(error) => {
                let (type_name, source) = (type_name::<B>(), error.into());
                Err(BodyError { inner: Box::new(BodyFailure { topic, type_name, source }) })
            }
        }
    }
}

impl Producer {
    /// Sends `body`, and waits until the message has its outcome: [`Message::from_body`] and
    /// [`send`](Self::send) in one.
    ///
    /// # Errors
    /// When the body can't be made a payload: nothing is sent then. Otherwise as for `send`.
    ///
    /// # Cancel safety
    /// As for `send`.
    pub async fn send_body<B: MessageBody>(
        &self,
        topic: &Topic,
        body: B,
    ) -> Result<SendReceipt, SendBodyError> {
        // Made before anything is awaited, so that the body need not be `Send` for the future to cross
        // threads.
        let message = Message::from_body(topic.clone(), body);
        Ok(self.send(message?).await?)
    }
}

/// A value can't be made the payload of a message. Its source is what the value's [`MessageBody`] said.
pub struct BodyError {
    inner: Box<BodyFailure>,
}

struct BodyFailure {
    topic: Topic,
    type_name: &'static str,
    source: Box<dyn StdError + Send + Sync>,
}

impl BodyError {
    /// The topic of the message.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.inner.topic
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BodyFailure { topic, type_name, source } = &*self.inner;
        write!(f, "message to topic {topic} was not sent: {type_name} can't be made a payload: {source}")
    }
}

impl fmt::Debug for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyError").field("text", &self.to_string()).finish_non_exhaustive()
    }
}

impl StdError for BodyError {
    /// The source of the reason, which the error shows itself.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.source()
    }
}

/// A body was not sent.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendBodyError {
    /// It can't be made a payload; nothing was sent.
    Body(BodyError),
    /// Its message was not acknowledged.
    Send(SendError),
}

impl From<BodyError> for SendBodyError {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

impl From<SendError> for SendBodyError {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

impl fmt::Display for SendBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(error) => error.fmt(f),
            Self::Send(error) => error.fmt(f),
        }
    }
}

impl StdError for SendBodyError {
    /// The source of the error, which it shows itself.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Body(error) => error.source(),
            Self::Send(error) => error.source(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_bytes_are_what_they_are() {
        fn payload(body: impl MessageBody) -> Bytes {
            Message::from_body(Topic::new("t").unwrap(), body).unwrap().payload().clone()
        }
        let shared = Bytes::from_static(b"x");
        assert_eq!(payload(shared.clone()).as_ptr(), shared.as_ptr(), "nothing is copied");
        assert_eq!(
            [payload("x"), payload("x".to_owned()), payload(vec![b'x'])],
            [(); 3].map(|()| shared.clone())
        );
        assert_eq!(payload(&b"x"[..]), shared);
    }

    #[test]
    fn an_error_names_topic_type_and_reason() {
        struct Body;
        impl MessageBody for Body {
            type Error = &'static str;

            fn into_payload(self) -> Result<Bytes, &'static str> {
                Err("it is too odd")
            }
        }
        let error = Message::from_body(Topic::new("t").unwrap(), Body).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("message to topic t was not sent: metaq_producer::body::tests::"), "{text}");
        assert!(text.ends_with("Body can't be made a payload: it is too odd"), "E-31: {text}");
        assert_eq!(error.topic().as_str(), "t");
    }
}

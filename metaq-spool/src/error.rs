//! Errors: of opening a spool, and of messages that were neither stored nor spooled.

use std::{
    error::Error as StdError,
    fmt, io,
    path::{Path, PathBuf},
};

use metaq_producer::{Message, Outcome, SendError, Topic};

/// The kinds of errors of opening a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpenErrorKind {
    /// Another process uses the folder, or another spool of this process.
    InUse,
    /// The folder or a file in it can't be made, read or written.
    Io,
    /// The folder was written by a newer version of this crate.
    Version,
    /// A setting makes no sense.
    Setting,
    /// There was no tokio runtime to replay messages on.
    NoRuntime,
    /// The folder holds no spool, and none was to be made.
    NotASpool,
}

/// A spool could not be opened.
#[derive(Debug)]
pub struct OpenError {
    kind: OpenErrorKind,
    folder: PathBuf,
    text: String,
    pid: Option<u32>,
    source: Option<io::Error>,
}

impl OpenError {
    pub(crate) fn setting(folder: &Path, name: &str, problem: &str) -> Self {
        Self::new(OpenErrorKind::Setting, folder, format!("the option {name} {problem}"))
    }

    pub(crate) fn new(kind: OpenErrorKind, folder: &Path, text: String) -> Self {
        Self { kind, folder: folder.to_owned(), text, pid: None, source: None }
    }

    pub(crate) fn io(folder: &Path, action: &str, error: io::Error) -> Self {
        let text = format!("{action} failed: {error}");
        Self { source: Some(error), ..Self::new(OpenErrorKind::Io, folder, text) }
    }

    pub(crate) fn in_use(folder: &Path, pid: Option<u32>) -> Self {
        let remedy = "one process can at a time: stop that one, or choose another folder";
        let text = match pid {
            Some(pid) if pid == std::process::id() => format!(
                "this process ({pid}) has it open already, and it can be open once: use that spool, close it first, or \
                 choose another folder"
            ),
            Some(pid) => format!("process {pid} uses it; {remedy}"),
            None => format!("another process uses it; {remedy}"),
        };
        Self { pid, ..Self::new(OpenErrorKind::InUse, folder, text) }
    }

    /// The kind of error.
    #[must_use]
    pub fn kind(&self) -> OpenErrorKind {
        self.kind
    }

    /// The process that uses the folder, if that is the reason and it is known.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// The spool's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spool {} was not opened: {}", self.folder.display(), self.text)
    }
}

impl StdError for OpenError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// The kinds of errors of messages that were neither stored nor spooled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpoolSendErrorKind {
    /// The producer failed to send it, in a way for which messages are not spooled.
    Send,
    /// It would have been spooled, and the spool has reached a bound.
    Full,
    /// It would have been spooled, and writing to the disk failed.
    Store,
    /// The spool was closed.
    Closed,
}

impl SpoolSendErrorKind {
    /// The kind as a word for machines, such as `full`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Full => "full",
            Self::Store => "store",
            Self::Closed => "closed",
        }
    }
}

/// A message was neither stored nor spooled.
///
/// Ask [`outcome`](Self::outcome) whether a broker may have stored it all the same.
pub struct SpoolSendError {
    inner: Box<Failure>,
}

struct Failure {
    kind: SpoolSendErrorKind,
    text: String,
    topic: Topic,
    /// Why it was not sent, if that was tried.
    send: Option<SendError>,
    message: Option<Message>,
    /// Set when a broker or the spool may have the message.
    is_unknown: bool,
}

impl SpoolSendError {
    /// The producer's error of a message that is not spooled.
    pub(crate) fn send(error: SendError) -> Self {
        let inner = Failure {
            kind: SpoolSendErrorKind::Send,
            text: String::new(),
            topic: error.topic().clone(),
            message: None,
            send: Some(error),
            is_unknown: false,
        };
        Self { inner: Box::new(inner) }
    }

    pub(crate) fn new(kind: SpoolSendErrorKind, text: impl Into<String>, message: Message) -> Self {
        let topic = message.topic().clone();
        let inner =
            Failure { kind, text: text.into(), topic, send: None, message: Some(message), is_unknown: false };
        Self { inner: Box::new(inner) }
    }

    /// The error of a message that is not at hand.
    pub(crate) fn without_message(kind: SpoolSendErrorKind, text: &str, topic: &Topic) -> Self {
        let (text, topic) = (text.to_owned(), topic.clone());
        let inner = Failure { kind, text, topic, send: None, message: None, is_unknown: false };
        Self { inner: Box::new(inner) }
    }

    /// The error of a message whose thread or task has ended while it had it.
    pub(crate) fn unknown(kind: SpoolSendErrorKind, text: &str, topic: &Topic) -> Self {
        let mut error = Self::without_message(kind, text, topic);
        error.inner.is_unknown = true;
        error
    }

    /// The same, after sending the message failed so.
    pub(crate) fn after(mut self, error: Option<SendError>) -> Self {
        self.inner.send = error;
        if self.outcome() == Outcome::Unknown {
            self.inner.message = None;
        }
        self
    }

    /// The kind of error.
    #[must_use]
    pub fn kind(&self) -> SpoolSendErrorKind {
        self.inner.kind
    }

    /// Whether a broker may have stored the message. It is not in the spool, unless the thread that writes or
    /// the runtime has ended while it had the message: the outcome is unknown then.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        if self.inner.is_unknown {
            return Outcome::Unknown;
        }
        self.inner.send.as_ref().map_or(Outcome::NotSent, SendError::outcome)
    }

    /// The message's topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.inner.topic
    }

    /// Why the producer didn't send it; none when it was not tried.
    #[must_use]
    pub fn send_error(&self) -> Option<&SendError> {
        self.inner.send.as_ref()
    }

    /// Gives the message back, when no broker has stored it for certain.
    #[must_use]
    pub fn into_message(self) -> Option<Message> {
        let Failure { message, send, is_unknown, .. } = *self.inner;
        if is_unknown {
            return None;
        }
        message.or_else(|| send.and_then(SendError::into_message))
    }
}

impl fmt::Display for SpoolSendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { kind, text, topic, send, .. } = &*self.inner;
        match (kind, send) {
            (SpoolSendErrorKind::Send, Some(error)) => return write!(f, "{error}"),
            _ => write!(f, "message to topic {topic} was not spooled: {text}")?,
        }
        send.as_ref().map_or(Ok(()), |error| write!(f, " (before that: {error})"))
    }
}

impl fmt::Debug for SpoolSendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpoolSendError")
            .field("kind", &self.inner.kind)
            .field("outcome", &self.outcome())
            .field("text", &self.to_string())
            .finish_non_exhaustive()
    }
}

impl StdError for SpoolSendError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.send.as_ref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_who_has_the_folder_and_what_to_do() {
        let error = OpenError::in_use(Path::new("/s"), Some(7));
        assert_eq!((error.kind(), error.pid()), (OpenErrorKind::InUse, Some(7)));
        assert_eq!(
            error.to_string(),
            "spool /s was not opened: process 7 uses it; one process can at a time: stop that one, or choose another \
             folder"
        );
    }

    #[test]
    fn a_refused_message_is_given_back() {
        let message = Message::new("t".parse().unwrap(), "x");
        let error = SpoolSendError::new(SpoolSendErrorKind::Full, "it is full", message.clone()).after(None);
        assert_eq!(error.to_string(), "message to topic t was not spooled: it is full");
        assert_eq!((error.kind(), error.outcome()), (SpoolSendErrorKind::Full, Outcome::NotSent));
        assert_eq!(error.into_message(), Some(message));
        assert_eq!(size_of::<SpoolSendError>(), size_of::<usize>());
    }
}

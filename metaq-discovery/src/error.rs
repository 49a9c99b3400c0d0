//! The errors of registries.

use std::{error::Error as StdError, fmt, sync::Arc};

/// The error of an operation on a registry. Cheap to clone.
#[derive(Clone)]
pub struct DiscoveryError {
    inner: Arc<Inner>,
}

struct Inner {
    kind: DiscoveryErrorKind,
    text: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kinds of errors of registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DiscoveryErrorKind {
    /// The settings are invalid.
    Config,
    /// No server of the registry could be reached in time.
    Unreachable,
    /// The registry was reached, but failed.
    Failed,
    /// The discovery was closed.
    Closed,
    /// There is no Tokio runtime to follow the registry on: the call was made outside of one, or the runtime
    /// that followed the registry has shut down. The same call works on a runtime.
    NoRuntime,
}

impl DiscoveryError {
    /// Creates an error of `kind`. `text` names the operation and the registry.
    pub fn new(kind: DiscoveryErrorKind, text: impl Into<String>) -> Self {
        Self { inner: Arc::new(Inner { kind, text: text.into(), source: None }) }
    }

    /// Creates an error of `kind` that was caused by `source`.
    pub fn with_source(
        kind: DiscoveryErrorKind,
        text: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { inner: Arc::new(Inner { kind, text: text.into(), source: Some(source.into()) }) }
    }

    pub(crate) fn closed() -> Self {
        Self::new(DiscoveryErrorKind::Closed, "the discovery was closed")
    }

    /// The kind of error.
    #[must_use]
    pub fn kind(&self) -> DiscoveryErrorKind {
        self.inner.kind
    }
}

impl fmt::Display for DiscoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.text)
    }
}

impl fmt::Debug for DiscoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryError")
            .field("kind", &self.inner.kind)
            .field("text", &self.inner.text)
            .field("source", &self.inner.source)
            .finish()
    }
}

impl StdError for DiscoveryError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}

//! One server of etcd: requests to it, and the classification of its errors.

use std::time::Duration;

#[cfg(feature = "_tls")]
use etcd_client::{Certificate, Identity, TlsOptions};
use etcd_client::{
    Client, ConnectOptions, Error, GetOptions, GetResponse, WatchOptions, WatchResponse, WatchStream,
};
use tokio::time::timeout;

use super::{
    Inner,
    call_error::CallError,
    read::Keys,
    refusal::{AccessRefused, is_access_error, permanent_reason},
};
use crate::{Credentials, DiscoveryError, DiscoveryErrorKind, backend::registry::Layout, panics::log};

/// The largest number of keys in one read. Reads are smaller if the response would exceed the 4 MiB that the
/// client library decodes.
const MAX_KEYS_PER_READ: i64 = 1000;

/// The average length of responses to aim at, in bytes.
const TARGET_RESPONSE_BYTES: usize = 1 << 20;

/// The log text when the next revision was compacted.
const COMPACTED: &str = "etcd forgot changes that were to come; all is read anew";

/// The name of the read call in errors.
const READ: &str = "read the registry";

/// The gRPC code for values beyond a limit: a length, or the revisions that are kept.
const OUT_OF_RANGE: i32 = 11;

/// The reason why a server can't be followed.
#[derive(Debug)]
pub(super) enum ServerError {
    /// Access was refused. Other servers of the same cluster would answer the same.
    Refused(AccessRefused),
    /// The login timed out, which costs the server as much as a refused one.
    Login(DiscoveryError),
    Other(DiscoveryError),
}

impl From<DiscoveryError> for ServerError {
    fn from(error: DiscoveryError) -> Self {
        Self::Other(error)
    }
}

/// Returns true if the client library refused to decode a message because of its length.
fn is_too_long(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status)
        if status.code() as i32 == OUT_OF_RANGE && status.message().contains("message length too large"))
}

/// Returns true if the requested revision was compacted.
fn is_compacted(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status)
        if status.code() as i32 == OUT_OF_RANGE && status.message().contains("compacted"))
}

/// The context of calls: the server, the key prefix, and the credentials.
struct CallContext<'a> {
    host: &'a str,
    user: Option<&'a str>,
    /// The prefix of all keys of the registry.
    prefix: String,
    call_timeout: Duration,
}

impl CallContext<'_> {
    /// Awaits `call`, with the limit for one call.
    async fn ask<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, ServerError> {
        self.within(what, call).await?.map_err(|error| self.failed(what, error))
    }

    async fn log_in<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, ServerError> {
        let what = "accept the connection";
        match self.within(what, call).await {
            Ok(answer) => answer.map_err(|error| self.failed(what, error)),
            Err(ServerError::Other(late)) if self.user.is_some() => Err(ServerError::Login(late)),
            Err(failure) => Err(failure),
        }
    }

    async fn within<T>(&self, what: &str, call: impl Future<Output = T>) -> Result<T, ServerError> {
        timeout(self.call_timeout, call).await.map_err(|_| {
            let text = format!("etcd at {} did not {what} within {:?}", self.host, self.call_timeout);
            DiscoveryError::new(DiscoveryErrorKind::Unreachable, text).into()
        })
    }

    fn failed(&self, what: &str, error: Error) -> ServerError {
        match permanent_reason(&error) {
            Some(reason) => self.refused(reason),
            None => {
                let text = format!("etcd at {} failed to {what}", self.host);
                DiscoveryError::with_source(DiscoveryErrorKind::Failed, text, CallError(error)).into()
            }
        }
    }

    fn refused(&self, reason: String) -> ServerError {
        ServerError::Refused(AccessRefused {
            host: self.host.to_owned(),
            user: self.user.map(str::to_owned),
            prefix: self.prefix.clone(),
            reason,
        })
    }
}

/// A connection to a server.
pub(super) struct Server<'a> {
    client: Client,
    context: CallContext<'a>,
}

impl<'a> Server<'a> {
    pub(super) async fn connect(inner: &'a Inner, host: &'a str) -> Result<Self, ServerError> {
        let config = &inner.config;
        let context = CallContext {
            host,
            user: config.credentials.as_ref().map(Credentials::name),
            prefix: inner.layout.brokers(),
            call_timeout: config.call_timeout,
        };
        let connect = Client::connect([host], Some(options(inner, host)?));
        let client = context.log_in(Box::pin(connect)).await?;
        Ok(Self { client, context })
    }

    /// Logs in again after the server has invalidated the token.
    pub(super) async fn log_in_again(&self) -> Result<(), ServerError> {
        self.context.log_in(Box::pin(self.client.refresh_token())).await
    }

    /// Reads all keys of the registry, and the revision at which they were read. `None` if that revision was
    /// compacted meanwhile, and everything must be read again.
    pub(super) async fn read(&mut self, layout: &Layout) -> Result<Option<(Keys, i64)>, ServerError> {
        let (mut keys, mut revision, mut portion) = (Keys::default(), 0, MAX_KEYS_PER_READ);
        let mut from = self.context.prefix.clone().into_bytes();
        loop {
            let options = GetOptions::new().with_limit(portion).with_revision(revision);
            let (mut answer, is_whole) = match self.range(&from, options.clone()).await? {
                Ok(answer) => (answer, true),
                Err(error) if is_compacted(&error) => {
                    log(|| tracing::info!(host = self.context.host, "{COMPACTED}"));
                    return Ok(None);
                }
                Err(error) if is_too_long(&error) && portion > 1 => {
                    portion = (portion / 4).max(1);
                    continue;
                }
                Err(error) if is_too_long(&error) => match self.range(&from, options.with_keys_only()).await?
                {
                    Ok(answer) => (answer, false),
                    Err(error) => return Err(self.context.failed(READ, error)),
                },
                Err(error) => return Err(self.context.failed(READ, error)),
            };
            if revision == 0 {
                revision = answer.header().map_or(0, |header| header.revision());
            }
            let kvs = answer.take_kvs();
            let Some(last) = kvs.last() else { return Ok(Some((keys, revision))) };
            from = [last.key(), b"\0"].concat();
            let (count, mut length) = (kvs.len(), 0);
            for (key, value) in kvs.into_iter().map(|kv| kv.into_key_value()) {
                length += key.len() + value.len();
                if is_whole {
                    keys.apply(layout, &key, Some(&value));
                } else {
                    keys.too_long(layout, &key);
                }
            }
            if !answer.more() {
                return Ok(Some((keys, revision)));
            }
            let fitting = TARGET_RESPONSE_BYTES * count / length.max(1);
            // A long value is often followed by others.
            portion = i64::try_from(fitting)
                .unwrap_or(MAX_KEYS_PER_READ)
                .clamp(1, MAX_KEYS_PER_READ.min(portion * 4));
        }
    }

    /// Reads keys of the registry, beginning with `from`.
    async fn range(
        &mut self,
        from: &[u8],
        options: GetOptions,
    ) -> Result<Result<GetResponse, Error>, ServerError> {
        // The prefix with its final slash incremented sorts after all of its keys.
        let prefix = self.context.prefix.as_bytes();
        let end = [&prefix[..prefix.len() - 1], b"0"].concat();
        self.context.within("answer", self.client.get(from, Some(options.with_range(end)))).await
    }

    /// Watches the changes of the registry from a revision on.
    pub(super) async fn watch(&mut self, revision: i64) -> Result<WatchStream, ServerError> {
        // Without fragments, a large transaction may exceed the length that the client library decodes.
        let options = WatchOptions::new().with_prefix().with_start_revision(revision).with_fragment();
        let watch = self.client.watch(self.context.prefix.as_str(), Some(options));
        self.context.ask("watch", watch).await
    }

    /// Returns the next changes of a watch. `None` if everything must be read again.
    pub(super) fn change(
        &self,
        received: Result<Option<WatchResponse>, Error>,
    ) -> Result<Option<WatchResponse>, ServerError> {
        let host = self.context.host;
        let change = match received {
            Ok(Some(change)) => change,
            Ok(None) => {
                let text = format!("etcd at {host} closed the watch");
                return Err(DiscoveryError::new(DiscoveryErrorKind::Unreachable, text).into());
            }
            Err(error) if is_too_long(&error) => {
                log(|| tracing::info!(host, %error, "a change is too long to be received; all is read anew"));
                return Ok(None);
            }
            Err(error) => return Err(self.context.failed("watch", error)),
        };
        // In this case the stream stays open, without an error and without any further change.
        if change.canceled() {
            if change.compact_revision() > 0 {
                log(|| tracing::info!(host, revision = change.compact_revision(), "{COMPACTED}"));
                return Ok(None);
            }
            let reason = change.cancel_reason();
            if is_access_error(reason) {
                return Err(self.context.refused(reason.to_owned()));
            }
            let text = format!("etcd at {host} canceled the watch: {reason}");
            return Err(DiscoveryError::new(DiscoveryErrorKind::Failed, text).into());
        }
        Ok(Some(change))
    }
}

#[cfg_attr(not(feature = "_tls"), expect(unused_variables, clippy::unnecessary_wraps, reason = "for TLS"))]
fn options(inner: &Inner, host: &str) -> Result<ConnectOptions, DiscoveryError> {
    let config = &inner.config;
    let (limit, keep_alive) = (config.call_timeout, config.keep_alive);
    // Without pings while it is idle, a watch would wait forever for a server that is gone.
    let mut options = ConnectOptions::new()
        .with_connect_timeout(limit)
        .with_keep_alive(keep_alive, limit)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    if let Some(credentials) = &config.credentials {
        options = options.with_user(credentials.name(), credentials.password());
    }
    #[cfg(feature = "_tls")]
    if let Some(tls) = &config.tls {
        let mut shown = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(tls.ca()))
            .domain_name(inner.server_name(host)?);
        if let Some((certificate, key)) = tls.identity() {
            shown = shown.identity(Identity::from_pem(certificate, key));
        }
        options = options.with_tls(shown);
    }
    Ok(options)
}

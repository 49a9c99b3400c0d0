//! One server of etcd: what it is asked, and what its failures mean.

use std::time::Duration;

#[cfg(feature = "tls")]
use etcd_client::{Certificate, Identity, TlsOptions};
use etcd_client::{
    Client, ConnectOptions, Error, GetOptions, GetResponse, WatchOptions, WatchResponse, WatchStream,
};
use tokio::time::timeout;

use super::{
    Inner,
    call_error::CallError,
    read::Keys,
    refusal::{Refused, lasting_reason, lasts},
};
use crate::{Credentials, DiscoveryError, DiscoveryErrorKind, backend::registry::Layout, panics::log};

/// The largest number of keys that are read at a time. Fewer are if the answer would be longer than the client library decodes,
/// which is 4 MiB.
const PORTION: i64 = 1000;

/// The average length of answers to aim at, in bytes.
const ANSWER: usize = 1 << 20;

/// The log text when the revision that comes next is gone.
const FORGOTTEN: &str = "etcd forgot changes that were to come; all is read anew";

/// The call that fails when the keys can't be read.
const READ: &str = "read the registry";

/// The code of gRPC for what is beyond a limit: a length, or the revisions that are kept.
const OUT_OF_RANGE: i32 = 11;

/// The reason why a server can't be followed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may not be read. Others of the same cluster would say the same.
    Refused(Refused),
    /// Logging in took too long, which costs the server as much as a refusal does.
    Login(DiscoveryError),
    Other(DiscoveryError),
}

impl From<DiscoveryError> for Failure {
    fn from(error: DiscoveryError) -> Self {
        Self::Other(error)
    }
}

/// Whether the client library refused to decode a message because of its length.
fn is_too_long(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status)
        if status.code() as i32 == OUT_OF_RANGE && status.message().contains("message length too large"))
}

/// Whether the revision that was to be read isn't kept any more.
fn is_compacted(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status)
        if status.code() as i32 == OUT_OF_RANGE && status.message().contains("compacted"))
}

/// The server, the keys that are asked for, and the credentials.
struct Question<'a> {
    host: &'a str,
    user: Option<&'a str>,
    /// The prefix of all keys of the registry.
    prefix: String,
    call_timeout: Duration,
}

impl Question<'_> {
    /// Awaits `call`, for which the server has the time of one call.
    async fn ask<T>(&self, what: &str, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        self.within(what, call).await?.map_err(|error| self.failed(what, error))
    }

    async fn log_in<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        let what = "let us in";
        match self.within(what, call).await {
            Ok(answer) => answer.map_err(|error| self.failed(what, error)),
            Err(Failure::Other(late)) if self.user.is_some() => Err(Failure::Login(late)),
            Err(failure) => Err(failure),
        }
    }

    async fn within<T>(&self, what: &str, call: impl Future<Output = T>) -> Result<T, Failure> {
        timeout(self.call_timeout, call).await.map_err(|_| {
            let text = format!("etcd at {} did not {what} within {:?}", self.host, self.call_timeout);
            DiscoveryError::new(DiscoveryErrorKind::Unreachable, text).into()
        })
    }

    fn failed(&self, what: &str, error: Error) -> Failure {
        match lasting_reason(&error) {
            Some(reason) => self.refused(reason),
            None => {
                let text = format!("etcd at {} failed to {what}", self.host);
                DiscoveryError::with_source(DiscoveryErrorKind::Failed, text, CallError(error)).into()
            }
        }
    }

    fn refused(&self, reason: String) -> Failure {
        Failure::Refused(Refused {
            host: self.host.to_owned(),
            user: self.user.map(str::to_owned),
            prefix: self.prefix.clone(),
            reason,
        })
    }
}

/// A server that was connected to.
pub(super) struct Server<'a> {
    client: Client,
    question: Question<'a>,
}

impl<'a> Server<'a> {
    pub(super) async fn connect(inner: &'a Inner, host: &'a str) -> Result<Self, Failure> {
        let config = &inner.config;
        let question = Question {
            host,
            user: config.credentials.as_ref().map(Credentials::name),
            prefix: inner.layout.brokers(),
            call_timeout: config.call_timeout,
        };
        let connect = Client::connect([host], Some(options(inner, host)?));
        let client = question.log_in(Box::pin(connect)).await?;
        Ok(Self { client, question })
    }

    /// Logs in once more, as the server has forgotten that it has let us in.
    pub(super) async fn log_in_again(&self) -> Result<(), Failure> {
        self.question.log_in(Box::pin(self.client.refresh_token())).await
    }

    /// All keys of the registry, and the revision at which they were read; none if that was forgotten meanwhile, and
    /// all is to be read anew.
    pub(super) async fn read(&mut self, layout: &Layout) -> Result<Option<(Keys, i64)>, Failure> {
        let (mut keys, mut revision, mut portion) = (Keys::default(), 0, PORTION);
        let mut from = self.question.prefix.clone().into_bytes();
        loop {
            let options = GetOptions::new().with_limit(portion).with_revision(revision);
            let (mut answer, is_whole) = match self.range(&from, options.clone()).await? {
                Ok(answer) => (answer, true),
                Err(error) if is_compacted(&error) => {
                    log(|| tracing::info!(host = self.question.host, "{FORGOTTEN}"));
                    return Ok(None);
                }
                Err(error) if is_too_long(&error) && portion > 1 => {
                    portion = (portion / 4).max(1);
                    continue;
                }
                Err(error) if is_too_long(&error) => match self.range(&from, options.with_keys_only()).await?
                {
                    Ok(answer) => (answer, false),
                    Err(error) => return Err(self.question.failed(READ, error)),
                },
                Err(error) => return Err(self.question.failed(READ, error)),
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
            let fitting = ANSWER * count / length.max(1);
            // One long value is often followed by others.
            portion = i64::try_from(fitting).unwrap_or(PORTION).clamp(1, PORTION.min(portion * 4));
        }
    }

    /// Keys of the registry from one on.
    async fn range(
        &mut self,
        from: &[u8],
        options: GetOptions,
    ) -> Result<Result<GetResponse, Error>, Failure> {
        // The slash at the end of the prefix made one greater is behind all of its keys.
        let prefix = self.question.prefix.as_bytes();
        let end = [&prefix[..prefix.len() - 1], b"0"].concat();
        self.question.within("answer", self.client.get(from, Some(options.with_range(end)))).await
    }

    /// The changes of the registry from a revision on.
    pub(super) async fn watch(&mut self, revision: i64) -> Result<WatchStream, Failure> {
        // Without fragments, what many changes make up may be longer than the client library decodes.
        let options = WatchOptions::new().with_prefix().with_start_revision(revision).with_fragment();
        let watch = self.client.watch(self.question.prefix.as_str(), Some(options));
        self.question.ask("watch", watch).await
    }

    /// Receives the next changes of a watch; none if all is to be read again.
    pub(super) fn change(
        &self,
        received: Result<Option<WatchResponse>, Error>,
    ) -> Result<Option<WatchResponse>, Failure> {
        let host = self.question.host;
        let change = match received {
            Ok(Some(change)) => change,
            Ok(None) => {
                let text = format!("etcd at {host} did not go on to watch");
                return Err(DiscoveryError::new(DiscoveryErrorKind::Unreachable, text).into());
            }
            Err(error) if is_too_long(&error) => {
                log(|| tracing::info!(host, %error, "a change is too long to be received; all is read anew"));
                return Ok(None);
            }
            Err(error) => return Err(self.question.failed("watch", error)),
        };
        // The stream stays open then, without an error and without any change.
        if change.canceled() {
            if change.compact_revision() > 0 {
                log(|| tracing::info!(host, revision = change.compact_revision(), "{FORGOTTEN}"));
                return Ok(None);
            }
            let reason = change.cancel_reason();
            if lasts(reason) {
                return Err(self.question.refused(reason.to_owned()));
            }
            let text = format!("etcd at {host} ended the watch: {reason}");
            return Err(DiscoveryError::new(DiscoveryErrorKind::Failed, text).into());
        }
        Ok(Some(change))
    }
}

#[cfg_attr(not(feature = "tls"), expect(unused_variables, clippy::unnecessary_wraps, reason = "for TLS"))]
fn options(inner: &Inner, host: &str) -> Result<ConnectOptions, DiscoveryError> {
    let config = &inner.config;
    let (limit, keep_alive) = (config.call_timeout, config.keep_alive);
    // Without being asked while it is idle, a server that is gone would leave a watch waiting for ever.
    let mut options = ConnectOptions::new()
        .with_connect_timeout(limit)
        .with_keep_alive(keep_alive, limit)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    if let Some(credentials) = &config.credentials {
        options = options.with_user(credentials.name(), credentials.password());
    }
    #[cfg(feature = "tls")]
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

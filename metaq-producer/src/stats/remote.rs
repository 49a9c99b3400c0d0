//! The statistics that brokers keep themselves.

use metaq_protocol::{Command, Opaque, Response, StatsCommand, parse_stats};
use metaq_transport::Connection;
use tokio::time::Instant;

/// The figures of a broker as it reports them: names and values, in the order in which it reports them. A
/// name may occur more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteBrokerStats {
    figures: Vec<(String, Option<String>)>,
}

impl RemoteBrokerStats {
    /// The figures in the body of an answer.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let figures =
            parse_stats(body).map(|(name, value)| (name.into_owned(), value.map(|value| value.into_owned())));
        Self { figures: figures.collect() }
    }

    /// All names, with their values if they have one.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.figures.iter().map(|(name, value)| (name.as_str(), value.as_deref()))
    }

    /// The first value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name)?.1
    }
}

/// Asks one broker.
pub(crate) async fn ask(
    connection: &dyn Connection,
    item: Option<&str>,
    deadline: Instant,
) -> Result<RemoteBrokerStats, String> {
    let body = raw(connection, item, deadline).await?;
    Ok(RemoteBrokerStats::parse(&body))
}

/// Asks one broker, and returns its answer as it is.
pub(crate) async fn raw(
    connection: &dyn Connection,
    item: Option<&str>,
    deadline: Instant,
) -> Result<bytes::Bytes, String> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err("there is no Tokio runtime here; ask from a task, or within Runtime::block_on".to_owned());
    }
    let item = item.map(str::parse).transpose();
    let item = item.map_err(|error| format!("there are no statistics of such a name: {error}"))?;
    let mut command = Command::from(StatsCommand::new(item, Opaque::default()));
    let pending =
        connection.submit_when_free(&mut command, deadline).await.map_err(|error| error.to_string())?;
    let answer = pending.await.map_err(|error| error.to_string())?;
    match answer.into_response() {
        Some(Response::Boolean(answer)) if answer.status.is_success() => Ok(answer.body),
        Some(Response::Boolean(answer)) => {
            Err(format!("the broker answered {}: {}", answer.status, answer.text()))
        }
        _ => Err("the broker answered with something else".to_owned()),
    }
}

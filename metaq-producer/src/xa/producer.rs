//! The shared state of a program's XA transactions, and their recovery.

use std::{fmt, sync::Arc, time::Duration};

use metaq_protocol::{BrokerAddr, Topic, TransactionId, XaTransactionId};
use metaq_transport::Connection;
use parking_lot::Mutex;

use super::{
    UniqueQualifier, XaError, XaErrorCode, XaResource, brokers::KnownBrokers, prepared::PreparedTransactions,
};
use crate::{
    Producer,
    branch::{Branch, NO_RUNTIME, REQUEST_TIMEOUT, TransactionNames, checked_request_timeout, in_runtime},
    route::topics::Publisher,
};

/// The longest global transaction identifier and branch qualifier, in bytes, by X/Open.
const LONGEST_PART: usize = 64;

/// Makes [`XaResource`]s, by which a transaction manager has brokers take part in distributed transactions,
/// and finds those transactions again after a crash.
///
/// Topics are published here, besides or instead of on the producer: a resource is one broker, and has to
/// have partitions of all topics. The producer sends other messages meanwhile; nothing depends on threads or
/// tasks.
///
/// Cheap to clone. With the last clone its topics are unpublished.
///
/// ```no_run
/// # use metaq_producer::{Message, Producer, Topic};
/// # use metaq_producer::xa::{UniqueQualifier, XaEnd, XaProducer, XaStart, XaVote};
/// # async fn example(producer: Producer, topic: Topic) -> Result<(), Box<dyn std::error::Error>> {
/// let xa = XaProducer::new(&producer, UniqueQualifier::new("billing-1")?);
/// xa.publish_topic(&topic).await?;
///
/// let mut resource = xa.resource()?;
/// let xid = xa.new_xid(1, b"invoice 17")?; // of this attempt alone
/// resource.start(&xid, XaStart::New).await?;
/// resource.send(Message::new(topic, "one coffee")).await?;
/// resource.end(&xid, XaEnd::Success).await?;
/// if resource.prepare(&xid).await? == XaVote::Prepared {
///     // … the other resources prepare, and the decision is written down …
///     resource.commit(&xid, false).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct XaProducer {
    pub(super) producer: Producer,
    pub(super) shared: Arc<Shared>,
    pub(super) request_timeout: Duration,
}

pub(super) struct Shared {
    producer: Producer,
    pub(super) qualifier: UniqueQualifier,
    names: TransactionNames,
    topics: Mutex<Vec<Topic>>,
    pub(super) brokers: KnownBrokers,
    pub(super) prepared: PreparedTransactions,
    /// The transactions that are rolled back in the background.
    pub(super) ending: Arc<Mutex<Vec<XaTransactionId>>>,
}

impl XaProducer {
    /// XA transactions of this producer, which are found again by `qualifier`.
    #[must_use]
    pub fn new(producer: &Producer, qualifier: UniqueQualifier) -> Self {
        let shared = Arc::new(Shared {
            producer: producer.clone(),
            qualifier,
            names: TransactionNames::new(),
            topics: Mutex::default(),
            brokers: KnownBrokers::default(),
            prepared: PreparedTransactions::default(),
            ending: Arc::default(),
        });
        Self { producer: producer.clone(), shared, request_timeout: REQUEST_TIMEOUT }
    }

    /// The time within which a broker must be reached and answer a step. Default 5 s, as the Java client.
    /// Less than 10 ms is taken as 10 ms, and more than 30 years as that.
    #[must_use]
    pub fn with_request_timeout(self, request_timeout: Duration) -> Self {
        Self { request_timeout: checked_request_timeout(request_timeout), ..self }
    }

    /// The name by which its transactions are found again.
    #[must_use]
    pub fn qualifier(&self) -> &UniqueQualifier {
        &self.shared.qualifier
    }

    /// Gets a topic ready for XA transactions. Publishing it again changes nothing.
    ///
    /// # Errors
    /// [`RMFAIL`](XaErrorCode::RMFAIL) when it can't be published, or no broker has partitions of it and of
    /// all topics that were published before; it isn't published then, however often that is tried.
    ///
    /// # Cancel safety
    /// Dropping the future before it is done leaves the topic as published as before.
    pub async fn publish_topic(&self, topic: &Topic) -> Result<(), XaError> {
        let refused = |text: String| XaError::new(XaErrorCode::RMFAIL, text);
        in_runtime().map_err(|_| refused(NO_RUNTIME.to_owned()))?;
        let topics = &self.producer.inner.topics;
        let published = topics.publish(topic, Publisher::Xa).await;
        published.map_err(|error| refused(error.to_string()).with_source(error))?;
        loop {
            let published = self.topics();
            if published.contains(topic) {
                topics.release(topic, Publisher::Xa);
                return Ok(());
            }
            let mut wanted = published.clone();
            wanted.push(topic.clone());
            if self.candidates(&wanted).is_empty() {
                topics.release(topic, Publisher::Xa);
                let names: Vec<_> = wanted.iter().map(Topic::as_str).collect();
                return Err(refused(format!(
                    "no connected broker has partitions of all topics: {}",
                    names.join(", ")
                )));
            }
            // Unless another topic was published meanwhile, which may be at other brokers.
            let mut topics = self.shared.topics.lock();
            if *topics == published {
                *topics = wanted;
                drop(topics);
                let _ = self.all();
                return Ok(());
            }
        }
    }

    /// The published topics, so that nothing else is done under the lock.
    fn topics(&self) -> Vec<Topic> {
        self.shared.topics.lock().clone()
    }

    /// The name of a branch of a distributed transaction, with this producer's qualifier. `format_id` is a
    /// number of the program's choice, which distinguishes its names from those of other programs; `gtrid`
    /// names what the transaction is about, such as an order, for all that take part in it.
    ///
    /// Each attempt needs a branch qualifier `bqual` that was never used before with this `gtrid`, as
    /// [`new_xid`](Self::new_xid) draws one. A program that is restarted and tries "invoice 17" again under
    /// the name of its former attempt may meet that one prepared: [`start`](XaResource::start) refuses it
    /// then.
    ///
    /// # Errors
    /// [`INVAL`](XaErrorCode::INVAL) when a part has more than 64 bytes.
    pub fn xid(&self, format_id: i32, gtrid: &[u8], bqual: &[u8]) -> Result<XaTransactionId, XaError> {
        let invalid = |text: &str| XaError::new(XaErrorCode::INVAL, text);
        if gtrid.len() > LONGEST_PART || bqual.len() > LONGEST_PART {
            return Err(invalid(
                "a global transaction identifier and a branch qualifier have 64 bytes at most",
            ));
        }
        match TransactionId::xa(format_id, gtrid, bqual, self.shared.qualifier.as_str()) {
            Ok(TransactionId::Xa(xid)) => Ok(xid),
            Ok(_) => Err(invalid("it is no XA transaction")),
            Err(error) => Err(invalid("it can't be a name").with_source(error)),
        }
    }

    /// The name of a new branch, as by [`xid`](Self::xid), with 16 random bytes as branch qualifier: for one
    /// attempt. Write it down before the transaction is prepared, to find the decision on it after a crash.
    ///
    /// # Errors
    /// [`INVAL`](XaErrorCode::INVAL) when `gtrid` has more than 64 bytes; [`RMERR`](XaErrorCode::RMERR) when
    /// the operating system provides no random bits.
    pub fn new_xid(&self, format_id: i32, gtrid: &[u8]) -> Result<XaTransactionId, XaError> {
        let mut bqual = [0; 16];
        getrandom::fill(&mut bqual).map_err(|error| {
            let text = "the operating system provided no random bits";
            XaError::new(XaErrorCode::RMERR, text).with_source(error)
        })?;
        self.xid(format_id, gtrid, &bqual)
    }

    /// Whether the name is one that this producer finds again.
    pub(super) fn ensure_own(&self, xid: &XaTransactionId) -> Result<(), XaError> {
        let (own, theirs) = (self.shared.qualifier.as_str(), xid.qualifier());
        if theirs == own {
            return Ok(());
        }
        let text = format!(
            "it has the qualifier {theirs:?} of another producer; recovery with {own:?} would not find it"
        );
        Err(XaError::new(XaErrorCode::INVAL, text))
    }

    /// The brokers that have partitions of all published topics and are connected, sorted. They are looked up
    /// anew at each call.
    #[must_use]
    pub fn brokers(&self) -> Vec<BrokerAddr> {
        let mut brokers: Vec<_> =
            self.candidates(&self.topics()).iter().map(|found| found.broker().clone()).collect();
        brokers.sort_unstable();
        brokers
    }

    /// A resource: one of [`brokers`](Self::brokers), drawn at random.
    ///
    /// # Errors
    /// [`RMFAIL`](XaErrorCode::RMFAIL) when there is none. Nothing has begun then.
    pub fn resource(&self) -> Result<XaResource, XaError> {
        let _ = self.all();
        let candidates = self.candidates(&self.topics());
        if candidates.is_empty() {
            let text =
                "no connected broker has partitions of all published topics; publish topics here first";
            return Err(XaError::new(XaErrorCode::RMFAIL, text));
        }
        let drawn = fastrand::usize(..candidates.len());
        Ok(XaResource::new(self, Arc::clone(&candidates[drawn])))
    }

    /// The resource that is this broker, as to end transactions that it [holds](Self::recover).
    ///
    /// # Errors
    /// [`RMFAIL`](XaErrorCode::RMFAIL) when no published topic is at that broker.
    pub fn resource_at(&self, broker: &BrokerAddr) -> Result<XaResource, XaError> {
        let found = self.all().into_iter().find(|connection| connection.broker() == broker);
        let found = found.ok_or_else(|| {
            let text = format!("no published topic is at broker {broker}");
            XaError::new(XaErrorCode::RMFAIL, text)
        })?;
        Ok(XaResource::new(self, found))
    }

    pub(super) fn branch(
        &self,
        id: TransactionId,
        connection: Arc<dyn Connection>,
    ) -> Result<Branch, XaError> {
        let session = self.shared.names.session();
        let session = session.map_err(|error| {
            XaError::new(XaErrorCode::RMERR, error.to_string()).of(&id, connection.broker())
        })?;
        let qualifier = Some(self.shared.qualifier.token().clone());
        Ok(Branch { id, session, qualifier, connection })
    }

    /// The ways to the connected brokers that have partitions of all these topics.
    fn candidates(&self, topics: &[Topic]) -> Vec<Arc<dyn Connection>> {
        let lookup = self.producer.inner.topics.lookup();
        let mut common: Option<Vec<Arc<dyn Connection>>> = None;
        for topic in topics {
            let Some(state) = lookup.find(topic) else { return Vec::new() };
            let route = state.route();
            let here = |addr: &BrokerAddr| {
                route.brokers.iter().any(|broker| broker.topic_broker.broker.addr == *addr)
            };
            match &mut common {
                Some(common) => common.retain(|connection| here(connection.broker())),
                None => {
                    let connections = route.brokers.iter().filter_map(|broker| broker.connections.first());
                    common = Some(connections.cloned().collect());
                }
            }
        }
        common.unwrap_or_default()
    }

    /// The ways to all brokers of the published topics, connected or not. They are taken note of.
    pub(super) fn all(&self) -> Vec<Arc<dyn Connection>> {
        let lookup = self.producer.inner.topics.lookup();
        let mut all: Vec<Arc<dyn Connection>> = Vec::new();
        let mut present = Vec::new();
        for topic in &self.topics() {
            let Some(state) = lookup.find(topic) else { continue };
            let route = state.route();
            let connected = route.brokers.iter();
            let connected = connected.filter_map(|broker| Some((broker.id, broker.connections.first()?)));
            let waiting = route.missing.iter().map(|(id, connection)| (*id, connection));
            for (id, connection) in connected.chain(waiting) {
                if !all.iter().any(|known| known.broker() == connection.broker()) {
                    present.push((id, connection.broker().clone()));
                    all.push(Arc::clone(connection));
                }
            }
        }
        self.shared.brokers.see(&present);
        all
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for topic in self.topics.get_mut().drain(..) {
            self.producer.inner.topics.release(&topic, Publisher::Xa);
        }
    }
}

impl fmt::Debug for XaProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XaProducer")
            .field("qualifier", &self.shared.qualifier)
            .field("topics", &self.topics())
            .finish_non_exhaustive()
    }
}

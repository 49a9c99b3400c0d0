//! Sales, and the recovery of transactions that a crash, a lost answer or an operator has left behind.

use std::{error::Error, future::Future, path::Path, time::Duration};

use metaq_producer::{
    BrokerAddr, Message, Producer, Topic,
    xa::{
        RecoveredTransaction, UniqueQualifier, XaEnd, XaErrorCode, XaProducer, XaResource, XaStart,
        XaTransactionId, XaVote,
    },
};
use rusqlite::Connection;

use crate::read_back::stored_attributes;

pub(crate) type Done<T> = Result<T, Box<dyn Error>>;

/// The format id that distinguishes this program's transactions from others.
const FORMAT: i32 = 4711;

pub(crate) struct Shop {
    database: Connection,
    producer: Producer,
    xa: XaProducer,
    topic: Topic,
}

impl Shop {
    pub(crate) async fn open(database: &Path, broker: &str) -> Done<Self> {
        let database = Connection::open(database)?;
        database.execute_batch(
            "PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS orders (name TEXT PRIMARY KEY);
             -- Transactions that were decided to commit, and are not known to be committed.
             CREATE TABLE IF NOT EXISTS decisions (xid TEXT PRIMARY KEY, broker TEXT);
             -- Brokers that may hold transactions, even while they are unreachable.
             CREATE TABLE IF NOT EXISTS brokers (address TEXT PRIMARY KEY);",
        )?;
        let broker: BrokerAddr = broker.parse()?;
        let producer = Producer::builder().broker(broker).build()?;
        // A qualifier from the configuration: recovery finds transactions by it, so it is the same after a
        // restart, and no other program uses it.
        let xa = XaProducer::new(&producer, UniqueQualifier::new("example-shop-1")?);
        let xa = xa.with_request_timeout(Duration::from_secs(2));
        let topic: Topic = "orders".parse()?;
        xa.publish_topic(&topic).await?;
        let shop = Self { database, producer, xa, topic };
        let known = shop.column("SELECT address FROM brokers")?;
        shop.xa.expect_brokers(known.iter().filter_map(|address| address.parse().ok()));
        Ok(shop)
    }

    /// Sells, and calls `reached` after each step. An order is sold if it is in the database, whatever this
    /// returns.
    pub(crate) async fn sell<F: Future>(
        &mut self,
        order: &str,
        reached: impl Fn(&'static str) -> F,
    ) -> Done<()> {
        if self.orders()?.iter().any(|sold| sold == order) {
            println!("sold before: {order}");
            return Ok(());
        }
        for broker in self.xa.expected_brokers() {
            self.database.execute("INSERT OR IGNORE INTO brokers VALUES (?1)", [broker.to_string()])?;
        }
        // An id for this attempt alone: an earlier attempt may be prepared and not decided yet.
        let xid = self.xa.new_xid(FORMAT, order.as_bytes())?;
        let mut resource = self.xa.resource()?;
        // This broker may be new since the loop above.
        let broker = resource.broker().to_string();
        self.database.execute("INSERT OR IGNORE INTO brokers VALUES (?1)", [broker])?;
        resource.start(&xid, XaStart::New).await?;
        reached("begun").await;
        let prepared = async {
            // The id in the attribute identifies the message when recovery looks for it.
            let message = Message::new(self.topic.clone(), order.to_owned()).with_attribute(xid.as_str());
            resource.send(message).await?;
            reached("sent").await;
            resource.end(&xid, XaEnd::Success).await?;
            reached("ended").await;
            resource.prepare(&xid).await
        };
        let decided = match prepared.await {
            Ok(XaVote::Prepared) => {
                reached("prepared").await;
                self.decide(order, &xid, resource.broker())
            }
            Ok(XaVote::ReadOnly) => Err("a message was sent, and the broker has none".into()),
            Err(error) => Err(error.into()),
        };
        // The database contents are the decision, even if storing it has returned an error.
        if let Err(error) = decided
            && self.decisions()?.iter().all(|(decided, _)| *decided != xid)
        {
            // The transaction may be prepared. Without a decision, `recover` rolls it back if this fails.
            if let Err(failed) = resource.rollback(&xid).await {
                println!("left to be rolled back by recovery: {failed}");
            }
            return Err(error);
        }
        reached("decided").await;
        self.commit(&mut resource, &xid).await?;
        reached("committed").await;
        Ok(())
    }

    /// Stores the decision: the order, and the transaction that the broker must commit.
    fn decide(&mut self, order: &str, xid: &XaTransactionId, broker: &BrokerAddr) -> Done<()> {
        let transaction = self.database.transaction()?;
        transaction.execute("INSERT INTO orders VALUES (?1)", [order])?;
        transaction.execute("INSERT INTO decisions VALUES (?1, ?2)", [xid.as_str(), &broker.to_string()])?;
        Ok(transaction.commit()?)
    }

    /// Carries a decision out. The decision is kept for `recover`, unless the message is known to be stored.
    async fn commit(&self, resource: &mut XaResource, xid: &XaTransactionId) -> Done<()> {
        match resource.commit(xid, false).await {
            Ok(()) => println!("committed: {}", order_of(xid)),
            Err(error) if error.code() == XaErrorCode::HEURCOM => {
                println!("committed by an operator: {}", order_of(xid));
                resource.forget(xid).await?;
            }
            // The broker doesn't know the transaction, or failed meanwhile: the message may or may not be
            // stored.
            Err(error) if error.code() == XaErrorCode::NOTA || error.code().is_rollback() => {
                if !self.is_stored(xid, resource.broker()).await? {
                    println!("{} is decided, and not to be seen at the broker: {error}", order_of(xid));
                    println!("look again; if it never shows, tell the broker's readers in another way");
                    return Ok(());
                }
                println!("committed before: {}", order_of(xid));
            }
            Err(error) if error.code().is_heuristic() => {
                println!("an operator decided otherwise on {}, see to it: {error}", order_of(xid));
                return Ok(());
            }
            Err(error) => {
                println!("left to be committed by recovery: {error}");
                return Ok(());
            }
        }
        self.database.execute("DELETE FROM decisions WHERE xid = ?1", [xid.as_str()])?;
        Ok(())
    }

    /// Rolls a transaction back. Returns true if the broker holds nothing of it any more.
    async fn roll_back(&self, resource: &mut XaResource, xid: &XaTransactionId) -> Done<bool> {
        match resource.rollback(xid).await {
            Ok(()) => println!("rolled back: {}", order_of(xid)),
            Err(error) if error.code() == XaErrorCode::NOTA => println!("gone: {}", order_of(xid)),
            Err(error) if error.code() == XaErrorCode::HEURRB => {
                println!("rolled back by an operator: {}", order_of(xid));
                resource.forget(xid).await?;
            }
            Err(error) if error.code().is_heuristic() => {
                println!("an operator decided otherwise on {}, see to it: {error}", order_of(xid));
                return Ok(false);
            }
            Err(error) => {
                println!("try again later: {error}");
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Completes each transaction that is left; returns true if none remains. No other process may sell under
    /// the same qualifier meanwhile: its prepared transactions that are not decided yet would be rolled back.
    pub(crate) async fn recover(&self) -> Done<bool> {
        let recovery = self.xa.recover().await;
        for (broker, error) in &recovery.failures {
            println!("try again later, {broker} can't be asked: {error}");
        }
        let decided = self.decisions()?;
        let is_ours = |found: &&RecoveredTransaction| found.xid.format_id() == FORMAT;
        let mut listed: Vec<_> = recovery.transactions.iter().filter(is_ours).collect();
        listed.sort_by_key(|found| found.xid.gtrid());
        let mut all_rolled_back = true;
        for RecoveredTransaction { xid, broker, .. } in &listed {
            let done = match self.xa.resource_at(broker) {
                Ok(mut resource) if decided.iter().any(|(known, _)| known == xid) => {
                    // Decisions that remain show whether this succeeded.
                    self.commit(&mut resource, xid).await.map(|()| true)
                }
                Ok(mut resource) => self.roll_back(&mut resource, xid).await,
                Err(error) => Err(error.into()),
            };
            all_rolled_back &= done.unwrap_or_else(|error| {
                println!("try again later, {}: {error}", order_of(xid));
                false
            });
        }
        // A decided transaction that is not listed was committed, unless the broker has lost it. Another
        // commit shows which.
        for (xid, broker) in &decided {
            let was_asked = !recovery.failures.iter().any(|(failed, _)| failed == broker);
            if was_asked && !listed.iter().any(|found| found.xid == *xid) {
                let done = match self.xa.resource_at(broker) {
                    Ok(mut resource) => self.commit(&mut resource, xid).await,
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = done {
                    println!("try again later, {}: {error}", order_of(xid));
                }
            }
        }
        Ok(recovery.is_complete() && all_rolled_back && self.decisions()?.is_empty())
    }

    fn decisions(&self) -> Done<Vec<(XaTransactionId, BrokerAddr)>> {
        let mut decisions = Vec::new();
        let (xids, brokers) = (
            self.column("SELECT xid FROM decisions ORDER BY xid")?,
            self.column("SELECT broker FROM decisions ORDER BY xid")?,
        );
        for (xid, broker) in xids.iter().zip(&brokers) {
            if let metaq_protocol::TransactionId::Xa(xid) = xid.parse()? {
                decisions.push((xid, broker.parse()?));
            }
        }
        Ok(decisions)
    }

    async fn is_stored(&self, xid: &XaTransactionId, broker: &BrokerAddr) -> Done<bool> {
        let partitions = self.producer.partitions(&self.topic);
        let indexes = partitions.iter().map(|partition| partition.index);
        let stored = stored_attributes(broker, &self.topic, indexes).await?;
        Ok(stored.contains(xid.as_str()))
    }

    pub(crate) fn orders(&self) -> rusqlite::Result<Vec<String>> {
        self.column("SELECT name FROM orders ORDER BY name")
    }

    fn column(&self, query: &str) -> rusqlite::Result<Vec<String>> {
        self.database.prepare(query)?.query_map([], |row| row.get(0))?.collect()
    }
}

fn order_of(xid: &XaTransactionId) -> String {
    String::from_utf8_lossy(&xid.gtrid()).into_owned()
}

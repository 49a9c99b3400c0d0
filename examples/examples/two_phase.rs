//! A database and a broker that agree, whatever crashes: orders go to SQLite and are announced by messages, in one
//! distributed transaction.
//!
//! ```text
//! cargo run --example two_phase
//! ```
//!
//! starts an embedded broker, and then itself again to sell: some sales succeed, some are killed (SIGKILL) between prepare and
//! commit. Then it starts itself once more to recover, and shows what database and broker hold.
//!
//! How it works: SQLite takes no part in distributed transactions itself, so it is asked last, and its own commit is the
//! decision:
//!
//! 1. The message is sent and prepared. The broker keeps it through crashes, and shows it to nobody.
//! 2. One SQLite transaction stores the order, and that it was decided to commit.
//! 3. The broker is told to commit.
//!
//! Whoever starts after a crash asks the broker what is prepared, and the database what was decided: a crash before 2 rolls the
//! message back, one after 2 commits it. If the broker crashed instead, it tells the same when it is back.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::{error::Error, io::Write as _, path::Path, process::Stdio, time::Duration};

use metaq_producer::{
    BrokerAddr, Message, Producer, Topic, UniqueQualifier, XaEnd, XaProducer, XaStart, XaVote,
};
use metaq_testkit::Broker;
use rusqlite::Connection;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

type Done<T> = Result<T, Box<dyn Error>>;

/// A number of one's own, by which transactions of this program are told from others'.
const FORMAT: i32 = 4711;

struct Shop {
    database: Connection,
    xa: XaProducer,
    topic: Topic,
}

impl Shop {
    async fn open(database: &Path, broker: &str) -> Done<Self> {
        let database = Connection::open(database)?;
        database.execute_batch(
            "PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS orders (name TEXT PRIMARY KEY);
             CREATE TABLE IF NOT EXISTS decisions (gtrid BLOB PRIMARY KEY);",
        )?;
        let broker: BrokerAddr = broker.parse()?;
        let producer = Producer::builder().broker(broker).build()?;
        // The same after a restart, and nobody else's: by it the transactions are found again.
        let xa = XaProducer::new(&producer, UniqueQualifier::new("example-shop")?);
        let topic: Topic = "orders".parse()?;
        xa.publish_topic(&topic).await?;
        Ok(Self { database, xa, topic })
    }

    /// Sells, and stops for good where it is told to.
    async fn sell(&mut self, order: &str, stop_when: &str) -> Done<()> {
        let xid = self.xa.xid(FORMAT, order.as_bytes(), b"message")?;
        let mut resource = self.xa.resource()?;
        // If this program dies before it has prepared, the broker needn't wait for it.
        resource.set_timeout(Duration::from_secs(30));
        resource.start(&xid, XaStart::New).await?;
        resource.send(Message::new(self.topic.clone(), order.to_owned())).await?;
        resource.end(&xid, XaEnd::Success).await?;
        let vote = resource.prepare(&xid).await?;
        assert_eq!(vote, XaVote::Prepared, "a message was sent");
        reached("prepared", stop_when).await?;

        let transaction = self.database.transaction()?;
        transaction.execute("INSERT INTO orders VALUES (?1)", [order])?;
        transaction.execute("INSERT INTO decisions VALUES (?1)", [order.as_bytes()])?;
        if let Err(error) = transaction.commit() {
            resource.rollback(&xid).await?;
            return Err(error.into());
        }
        reached("decided", stop_when).await?;

        // An error changes nothing any more: what is decided is committed by `recover` at the latest.
        resource.commit(&xid, false).await?;
        self.forget(order.as_bytes())?;
        reached("committed", stop_when).await
    }

    /// Ends what a crash has left. Nothing else may sell under the same qualifier meanwhile.
    async fn recover(&self) -> Done<()> {
        let recovery = self.xa.recover().await;
        for (broker, error) in &recovery.failures {
            println!("try again later, {broker} can't be asked: {error}");
        }
        for found in recovery.transactions.iter().filter(|found| found.xid.format_id() == FORMAT) {
            let gtrid = found.xid.gtrid();
            let count = "SELECT count(*) FROM decisions WHERE gtrid = ?1";
            let is_decided = self.database.query_row(count, [&gtrid], |row| row.get::<_, i64>(0))? > 0;
            let mut resource = self.xa.resource_at(&found.broker)?;
            if is_decided {
                resource.commit(&found.xid, false).await?;
                // Only now: of a broker that is away, it isn't known which decisions it has yet to hear.
                self.forget(&gtrid)?;
            } else {
                resource.rollback(&found.xid).await?;
            }
            let done = if is_decided { "committed" } else { "rolled back" };
            println!("recovered and {done}: {}", String::from_utf8_lossy(&gtrid));
        }
        Ok(())
    }

    fn forget(&self, gtrid: &[u8]) -> rusqlite::Result<usize> {
        self.database.execute("DELETE FROM decisions WHERE gtrid = ?1", [gtrid])
    }

    fn orders(&self) -> rusqlite::Result<Vec<String>> {
        let mut orders = self.database.prepare("SELECT name FROM orders ORDER BY name")?;
        orders.query_map([], |row| row.get(0))?.collect()
    }
}

/// Says how far it has come; if this is where to stop, waits to be killed.
async fn reached(step: &str, stop_when: &str) -> Done<()> {
    println!("{step}");
    std::io::stdout().flush()?;
    if step == stop_when {
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Starts this program again.
fn again(args: &[&str]) -> Done<Child> {
    let program = std::env::current_exe()?;
    Ok(Command::new(program).args(args).stdout(Stdio::piped()).kill_on_drop(true).spawn()?)
}

async fn demonstrate() -> Done<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("shop.db");
    let database = path.to_str().ok_or("the folder's name is no text")?;
    let broker = Broker::builder().topic("orders", 2).start().await?;
    let address = broker.addr().to_string();
    for (order, stop_when) in [
        ("one cup", ""),
        ("killed when prepared", "prepared"),
        ("two cups", ""),
        ("killed when decided", "decided"),
        ("killed when committed", "committed"),
    ] {
        let mut child = again(&["sell", database, &address, order, stop_when])?;
        let mut steps = BufReader::new(child.stdout.take().ok_or("it has no output")?).lines();
        while let Some(step) = steps.next_line().await? {
            if step == stop_when {
                child.kill().await?;
            }
        }
        let status = child.wait().await?;
        println!("sold {order:?}: {status}");
    }
    let mut recovery = again(&["recover", database, &address])?;
    let mut lines = BufReader::new(recovery.stdout.take().ok_or("it has no output")?).lines();
    while let Some(line) = lines.next_line().await? {
        println!("{line}");
    }
    recovery.wait().await?;

    let orders = Shop::open(&path, &address).await?.orders()?;
    let mut announced: Vec<_> = broker.messages("orders").into_iter().map(|stored| stored.payload).collect();
    announced.sort_unstable();
    println!("in the database: {}", orders.join(", "));
    println!(
        "at the broker:   {}",
        announced.iter().map(|payload| String::from_utf8_lossy(payload)).collect::<Vec<_>>().join(", ")
    );
    assert!(
        orders.iter().map(String::as_bytes).eq(announced.iter().map(|payload| &payload[..])),
        "they agree"
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Done<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        [] => demonstrate().await,
        ["sell", database, broker, order, stop_when] => {
            Shop::open(Path::new(database), broker).await?.sell(order, stop_when).await
        }
        ["recover", database, broker] => Shop::open(Path::new(database), broker).await?.recover().await,
        ["orders", database, broker] => {
            println!("{}", Shop::open(Path::new(database), broker).await?.orders()?.join("\n"));
            Ok(())
        }
        _ => Err("usage: two_phase [sell DATABASE BROKER ORDER STEP | recover DATABASE BROKER | orders DATABASE BROKER]".into()),
    }
}

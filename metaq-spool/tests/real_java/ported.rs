//! `ExtensionClient.java` in Rust, by docs/spool.md: the same input, the same output.

use std::time::Duration;

use metaq_producer::{
    Message, Outcome, Partition, PartitionSelector, Producer, Topic, discovery::ZooKeeperDiscovery,
};
use metaq_spool::{Sent, SpoolOptions, SpoolingProducer};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, stdin},
    time::sleep,
};

use crate::program::say;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// `String.hashCode()` of Java.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// A partition by the attribute.
struct ByAttribute;

impl PartitionSelector for ByAttribute {
    fn select(&self, _: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        let count = i32::try_from(partitions.len()).ok()?;
        let chosen = java_hash(message.attribute()?).checked_rem(count)?.unsigned_abs();
        partitions.get(usize::try_from(chosen).ok()?).copied()
    }

    fn reselect(&self, _: &Topic, _: &[Partition], _: &Message, _: Partition) -> Option<Partition> {
        None // No other partition will do.
    }
}

async fn open(producer: Producer, options: SpoolOptions, topic: &Topic) -> Result<SpoolingProducer, Error> {
    let spool = SpoolingProducer::open(producer, options).await?;
    if let Err(error) = spool.publish_topic(topic).await {
        eprintln!("no broker yet, messages are spooled: {error}");
    }
    say(format_args!("ready"));
    Ok(spool)
}

pub(crate) async fn ordered(
    zookeeper: &str,
    topic: &str,
    folder: &str,
    partitions: &str,
) -> Result<(), Error> {
    let topic: Topic = topic.parse()?;
    let producer = Producer::builder()
        .discovery(ZooKeeperDiscovery::new(zookeeper)?)
        .selector(ByAttribute)
        .partitions(topic.clone(), partitions.parse()?)
        .build()?;
    let mut options = SpoolOptions::new(folder);
    options.ordered = true;
    let spool = open(producer, options, &topic).await?;
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await?.filter(|line| line != "end") {
        let (attribute, payload) = line.split_once(' ').ok_or("a line without a payload")?;
        let message = Message::new(topic.clone(), payload.to_owned()).with_attribute(attribute);
        let partition = spool.producer().partition_for(&message)?;
        match spool.send(message).await {
            Ok(Sent::Stored(receipt)) => say(format_args!("{payload} stored {}", receipt.partition)),
            Ok(Sent::Spooled(_)) => say(format_args!("{payload} kept {partition}")),
            Ok(_) => return Err("an outcome of a later version".into()),
            Err(error) if error.outcome() == Outcome::Unknown => {
                say(format_args!("{payload} unknown {partition}"));
            }
            Err(error) => return Err(error.to_string().into()),
        }
    }
    spool.close(Duration::from_secs(5)).await;
    Ok(())
}

pub(crate) async fn async_(zookeeper: &str, topic: &str, folder: &str) -> Result<(), Error> {
    let topic: Topic = topic.parse()?;
    let producer = Producer::builder().discovery(ZooKeeperDiscovery::new(zookeeper)?).build()?;
    let mut options = SpoolOptions::new(folder);
    options.spool_unknown = true;
    let spool = open(producer, options, &topic).await?;
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await?.filter(|line| line != "end") {
        if line == "unregistered" {
            while spool.producer().ready([&topic]).is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
            say(format_args!("unregistered"));
            continue;
        }
        let (attribute, payload) = line.split_once(' ').ok_or("a line without a payload")?;
        let message = Message::new(topic.clone(), payload.to_owned()).with_attribute(attribute);
        if let Err(error) = spool.try_send(message) {
            eprintln!("neither sent nor spooled: {error}");
        }
        say(format_args!("{payload} offered"));
    }
    spool.close(Duration::from_secs(5)).await;
    Ok(())
}

//! Reading partitions: one after the other to their ends, or all at once without an end.

use std::time::Duration;

use futures_util::future::join_all;
use metaq_producer::inspect::{InspectError, PartitionReader, ReadItem};
use tokio::{sync::mpsc, time::sleep};

use super::format::{Form, Printer};
use crate::{
    look::{Failure, Look},
    stderr::{describe, print_message},
};

/// The pause at the end of a partition that is followed.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The number of items of all partitions that may wait to be printed.
const AHEAD: usize = 256;

/// A partition that is to be read up to an offset.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) reader: PartitionReader,
    pub(super) end: i64,
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    pub(super) count: u64,
    pub(super) follow: bool,
}

type Found = Result<(PartitionName, ReadItem), InspectError>;
type PartitionName = String;

/// Reads and prints. Returns the number of messages that could not be read.
pub(super) async fn read(
    look: &mut Look,
    readings: Vec<Reading>,
    stop: Stop,
    form: Form,
) -> Result<u64, Failure> {
    if stop.count == 0 {
        return Ok(0);
    }
    let (found, mut items) = mpsc::channel(AHEAD);
    let reading = async move {
        if stop.follow {
            join_all(readings.into_iter().map(|reading| follow(reading, found.clone()))).await;
        } else {
            for reading in readings {
                read_to_end(reading, &found).await;
            }
        }
    };
    // Ends with the command, and sooner when nobody receives any more.
    let task = tokio::spawn(reading);
    let printed = print(look, &mut items, stop.count, form).await;
    task.abort();
    printed
}

async fn print(
    look: &mut Look,
    items: &mut mpsc::Receiver<Found>,
    count: u64,
    form: Form,
) -> Result<u64, Failure> {
    let mut printer = Printer::new(form);
    while printer.printed < count {
        let item = match items.try_recv() {
            Ok(item) => Some(item),
            Err(_) => {
                // Nothing waits: whoever reads the output sees what was found so far.
                look.written().await?;
                items.recv().await
            }
        };
        let Some(item) = item else { break };
        let (partition, item) = item?;
        printer.print(look, &partition, item)?;
        look.capacity().await?;
    }
    Ok(printer.unread)
}

/// Reads one partition to its end.
async fn read_to_end(mut reading: Reading, found: &mpsc::Sender<Found>) {
    let partition = reading.reader.place().partition.to_string();
    while reading.reader.offset() < reading.end {
        let item = match reading.reader.next().await {
            Ok(Some(item)) => Ok((partition.clone(), item)),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let is_over = item.is_err();
        if found.send(item).await.is_err() || is_over {
            return;
        }
    }
}

/// Reads one partition for ever. A broker that is away is waited for.
async fn follow(mut reading: Reading, found: mpsc::Sender<Found>) {
    let partition = reading.reader.place().partition.to_string();
    let mut is_away = false;
    loop {
        let item = match reading.reader.next().await {
            Ok(Some(item)) => Ok((partition.clone(), item)),
            Ok(None) => {
                sleep(POLL_INTERVAL).await;
                continue;
            }
            Err(error) if error.is_transient() => {
                if !is_away {
                    print_message(&format!("{}; trying again", describe(&error)));
                }
                is_away = true;
                sleep(POLL_INTERVAL).await;
                continue;
            }
            Err(error) => Err(error),
        };
        is_away = false;
        let is_over = item.is_err();
        if found.send(item).await.is_err() || is_over {
            return;
        }
    }
}

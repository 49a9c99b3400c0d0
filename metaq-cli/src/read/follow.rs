//! Reading partitions: one after the other to their ends, or all at once without an end.

use std::time::Duration;

use futures_util::future::join_all;
use metaq_producer::inspect::{InspectError, Inspector, PartitionReader, ReadItem};
use tokio::{sync::mpsc, time::sleep};

use super::format::{Form, Printer};
use crate::{
    exit_status::{EXIT_DONE, EXIT_VERIFICATION},
    look::{Failure, Look},
    stderr::{describe, print_message},
};

/// The pause at the end of a partition that is followed, and before a broker that is away is asked again.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The number of items of all partitions that may wait to be printed.
const AHEAD: usize = 256;

/// A partition that is to be read up to an offset.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) reader: PartitionReader,
    pub(super) end: i64,
    /// For a broker that is away: what asks it later where to begin, and whether that is at the end.
    pub(super) late: Option<(Inspector, bool)>,
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    pub(super) count: u64,
    pub(super) follow: bool,
}

type Found = (PartitionName, Result<ReadItem, Unread>);
type PartitionName = String;

/// Why a partition is not read any further.
enum Unread {
    Failed(InspectError),
    /// The end that the broker named can't be reached from this offset.
    Ended(i64),
}

/// Reads and prints. A partition that can't be read any further is reported, and the others are read all the
/// same. Returns the status of the first failure.
pub(super) async fn read(
    look: &mut Look,
    readings: Vec<Reading>,
    stop: Stop,
    form: Form,
) -> Result<u8, Failure> {
    if stop.count == 0 {
        return Ok(EXIT_DONE);
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
    // Ends with the command, and sooner when the receiver is gone.
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
) -> Result<u8, Failure> {
    let (mut printer, mut failed) = (Printer::new(form), None);
    while printer.printed < count {
        let item = match items.try_recv() {
            Ok(item) => Some(item),
            Err(_) => {
                // Nothing waits: a reader of the output sees what was found so far.
                look.written().await?;
                items.recv().await
            }
        };
        let Some(item) = item else { break };
        let (text, status) = match item {
            (partition, Ok(item)) => {
                printer.print(look, &partition, item)?;
                look.capacity().await?;
                continue;
            }
            (_, Err(Unread::Failed(error))) => (describe(&error), look.status_of(&error)),
            (partition, Err(Unread::Ended(offset))) => {
                let text = format!(
                    "{partition} can't be read from offset {offset} to the end that its broker names"
                );
                (text, EXIT_VERIFICATION)
            }
        };
        print_message(&text);
        failed.get_or_insert(status);
    }
    let unread = (printer.unread > 0).then_some(EXIT_VERIFICATION);
    Ok(failed.or(unread).unwrap_or(EXIT_DONE))
}

/// Reads one partition to its end.
async fn read_to_end(mut reading: Reading, found: &mpsc::Sender<Found>) {
    let partition = reading.reader.place().partition.to_string();
    while reading.reader.offset() < reading.end {
        let item = match reading.reader.next().await {
            Ok(Some(item)) => Ok(item),
            Ok(None) => Err(Unread::Ended(reading.reader.offset())),
            Err(error) => Err(Unread::Failed(error)),
        };
        let is_over = item.is_err();
        if found.send((partition.clone(), item)).await.is_err() || is_over {
            return;
        }
    }
}

/// Reads one partition for ever. A broker that is away is waited for.
async fn follow(mut reading: Reading, found: mpsc::Sender<Found>) {
    let partition = reading.reader.place().partition.to_string();
    let mut is_away = reading.late.is_some();
    if let Some((inspector, is_at_end)) = reading.late.take() {
        let place = reading.reader.place().clone();
        let offsets = loop {
            match inspector.offsets(&place).await {
                Ok(offsets) => break offsets,
                Err(error) if error.is_transient() => sleep(POLL_INTERVAL).await,
                Err(error) => {
                    // It fails only when the receiver is gone.
                    let _ = found.send((partition, Err(Unread::Failed(error)))).await;
                    return;
                }
            }
        };
        reading.reader = inspector.reader(&place, if is_at_end { offsets.end } else { offsets.first });
    }
    loop {
        let item = match reading.reader.next().await {
            Ok(Some(item)) => Ok(item),
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
            Err(error) => Err(Unread::Failed(error)),
        };
        is_away = false;
        let is_over = item.is_err();
        if found.send((partition.clone(), item)).await.is_err() || is_over {
            return;
        }
    }
}

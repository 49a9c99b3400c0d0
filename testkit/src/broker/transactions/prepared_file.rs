//! Prepared transactions and decisions of operators on disk: they survive the broker, as in a Java broker
//! (B-33).

use std::{fs, io, path::PathBuf};

use bytes::{Bytes, BytesMut};
use metaq_protocol::{
    Checksum, Command, Decoder, Frame, Limits, PutData, SyncCommand, Token, Topic, TransactionAction,
    TransactionCommand, TransactionId, XaTransactionId,
};

use super::{
    pending::PendingMessage,
    xa::{Heuristic, XaTransaction, XaTransactions},
};
use crate::broker::store::{Topics, own_file};

/// The name of the file, one of the embedded broker's own. Each transaction is a `transaction … PREPARE`
/// frame, followed by its messages as `sync` frames, which have all fields of a stored message. The decision
/// of an operator is one frame with an action of [`DECIDED`].
const FILE_NAME: &str = "prepared";

const DECIDED: [(Heuristic, TransactionAction); 3] = [
    (Heuristic::Committed, TransactionAction::CommitTwoPhase),
    (Heuristic::RolledBack, TransactionAction::Rollback),
    (Heuristic::Completed, TransactionAction::Forget),
];

fn path(topics: &Topics) -> Option<PathBuf> {
    topics.settings.folder.as_ref().map(|folder| own_file(folder, FILE_NAME))
}

/// Writes all transactions that are prepared now.
pub(in crate::broker) fn write(topics: &Topics, transactions: &XaTransactions) -> io::Result<()> {
    let Some(path) = path(topics) else { return Ok(()) };
    if transactions.closed {
        return Err(io::Error::other("the broker has ended"));
    }
    let mut bytes = BytesMut::new();
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let session = Token::new("-").map_err(|error| invalid(error.to_string()))?;
    for (id, heuristic) in transactions.decided() {
        let action = DECIDED.iter().find(|(decided, _)| *decided == heuristic).map(|(_, action)| *action);
        let Some(action) = action else { continue };
        let id = TransactionId::Xa(id.clone());
        TransactionCommand::new(id, session.clone(), action).encode(&mut bytes);
    }
    for (id, transaction) in transactions.prepared() {
        let id = TransactionId::Xa(id.clone());
        TransactionCommand::new(id, session.clone(), TransactionAction::Prepare).encode(&mut bytes);
        for pending in &transaction.pending {
            let topic = Topic::new(&pending.topic.name).map_err(|error| invalid(error.to_string()))?;
            let data = PutData::from(pending.data.clone());
            SyncCommand::new(topic, pending.partition, pending.flag, pending.id, data)
                .with_checksum(Checksum::of(&pending.data))
                .encode(&mut bytes);
        }
    }
    // Readers find the old or the new list, complete.
    let fresh = path.with_extension("new");
    fs::write(&fresh, &bytes)?;
    fs::rename(fresh, path)
}

/// Updates the file after a transaction, prepared or not, has ended.
pub(in crate::broker) fn forget(topics: &Topics, ended: &XaTransaction, transactions: &XaTransactions) {
    if ended.prepared {
        // When the disk fails, the transaction is there again after a restart, and its owner has to end it
        // again.
        let _ = write(topics, transactions);
    }
}

/// Reads the transactions that were prepared when the broker ended.
pub(in crate::broker) fn read(topics: &Topics) -> io::Result<XaTransactions> {
    let mut transactions = XaTransactions::default();
    let Some(path) = path(topics) else { return Ok(transactions) };
    let mut bytes = match fs::read(&path) {
        Ok(bytes) => BytesMut::from(&bytes[..]),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(transactions),
        Err(error) => return Err(error),
    };
    let broken = |reason: String| {
        let text = format!("{} can't be read: {reason}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    // No limits: the messages met those of the broker that accepted them.
    let mut decoder =
        Decoder::with_limits(Limits::default().with_max_line(usize::MAX).with_max_body(usize::MAX));
    let mut current: Option<(XaTransactionId, Vec<PendingMessage>)> = None;
    loop {
        let frame = decoder.decode(&mut bytes).map_err(|error| broken(error.to_string()))?;
        match (frame, &mut current) {
            (Some(Frame::Command(Command::Sync(sync))), Some((_, pending))) => {
                let data: Bytes = sync.data.to_bytes();
                let topic = topics.accepting(&sync.topic);
                let topic = topic.ok_or_else(|| {
                    broken(format!("a prepared message is for the topic {}, which there is not", sync.topic))
                })?;
                let (partition, id, flag) = (sync.partition, sync.message_id, sync.flag);
                pending.push(PendingMessage { topic, partition, id, flag, data });
            }
            (Some(Frame::Command(Command::Transaction(command))), _) => {
                let TransactionId::Xa(id) = command.id else {
                    return Err(broken(format!("{} is no XA transaction", command.id)));
                };
                if let Some((heuristic, _)) = DECIDED.iter().find(|(_, action)| *action == command.action) {
                    transactions.restore_decided(id, *heuristic);
                    continue;
                }
                if let Some((id, pending)) = current.replace((id, Vec::new())) {
                    transactions.restore(id, pending);
                }
            }
            (Some(frame), _) => return Err(broken(format!("it holds a {}", frame.name()))),
            (None, _) if !bytes.is_empty() => return Err(broken("its end is missing".to_owned())),
            (None, _) => break,
        }
    }
    if let Some((id, pending)) = current {
        transactions.restore(id, pending);
    }
    Ok(transactions)
}

//! Choosing the handler of a request (protocol §3).

use bytes::Bytes;
use metaq_protocol::{Command, Response, Status, SyncCommand};

use super::response::{VERSION, result};
use crate::broker::{shared::BrokerShared, transactions::LocalTransactions};

/// The text of a broker without a handler for `sync`: a master.
const NO_SYNC: &str = "未注册请求处理器，请求处理器类为com.taobao.metamorphosis.network.SyncCommand";

impl BrokerShared {
    /// Carries out a request. Returns `None` if the protocol has no response to it.
    pub(in crate::broker) fn handle(
        &self,
        command: &Command,
        local_transactions: &mut LocalTransactions,
    ) -> Option<Response> {
        let opaque = command.opaque();
        Some(match command {
            Command::Put(put) => match &put.transaction {
                None => self.put(put),
                Some(id) => self.put_in_transaction(put, id, local_transactions),
            },
            Command::Get(get) => self.get(get),
            Command::Offset(offset) => self.offset(offset),
            Command::Stats(stats) => {
                result(opaque, Status::SUCCESS, self.stats(stats.item.as_deref().unwrap_or_default()))
            }
            Command::Version(_) => result(opaque, Status::SUCCESS, Bytes::from_static(VERSION.as_bytes())),
            Command::Transaction(transaction) => return self.transaction(transaction, local_transactions),
            Command::Sync(SyncCommand { .. }) => result(opaque, Status::SERVICE_UNAVAILABLE, NO_SYNC),
            _ => return None,
        })
    }
}

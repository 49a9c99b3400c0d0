//! The transactions of a broker: messages that are stored when they commit.
//!
//! - `pending`: one such message, storing a list of them, and the deadline that both kinds share.
//! - `local`: local transactions; each connection begins its own, but the messages of a key are one list
//!   (B-18).
//! - `xa`: XA transactions, which belong to the broker, and the decisions of operators about them.
//! - `prepared_file`: prepared XA transactions in the data folder, which survive the broker.
//!
//! Nothing here knows requests and responses; the steps of the protocol belong to `handlers/transaction`.

mod local;
mod pending;
pub(super) mod prepared_file;
mod xa;

pub(super) use local::{LocalMessages, LocalTransactions};
pub(super) use pending::{PendingMessage, store_all};
pub use xa::Heuristic;
pub(super) use xa::XaTransactions;

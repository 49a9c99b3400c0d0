//! XA transactions: messages that are part of a distributed transaction.

mod association;
mod brokers;
mod decide;
mod error;
mod flags;
mod prepared;
mod producer;
mod qualifier;
mod recovery;
mod resource;
mod transaction;

pub use error::{XaError, XaErrorCode};
pub use flags::{XaEnd, XaStart, XaVote};
pub use metaq_protocol::XaTransactionId;
pub use prepared::PreparedTransaction;
pub use producer::XaProducer;
pub use qualifier::{InvalidQualifier, UniqueQualifier};
pub use recovery::{RecoveredTransaction, Recovery};
pub use resource::XaResource;
pub use transaction::{XaTransaction, XaTransactionError};

//! XA transactions: messages that are part of a distributed transaction.

mod course;
mod decide;
mod error;
mod producer;
mod qualifier;
mod resource;

pub use course::{XaEnd, XaStart, XaVote};
pub use error::{XaError, XaErrorCode};
pub use producer::{RecoveredTransaction, Recovery, XaProducer};
pub use qualifier::{InvalidQualifier, UniqueQualifier};
pub use resource::XaResource;

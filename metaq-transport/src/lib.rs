//! Connections to MetaQ 1.4 (Metamorphosis) brokers: the [`Transport`] and [`Connection`] traits, and TCP.
//!
//! A connection is pipelined: requests are submitted without waiting for earlier answers, and each answer finds
//! its request again by the opaque that the broker repeats. It looks after itself: it dials in the background, sends
//! heartbeats when the broker is silent, replaces a connection that is silent while the broker answers on a new one, gives
//! up on a broker that doesn't answer heartbeats, and dials again, with growing and jittered pauses, until it is closed.
//!
//! This crate knows commands and bytes, but no topics and no registries.
//!
//! ```no_run
//! use std::time::Duration;
//! use metaq_protocol::{PutCommand, Topic};
//! use metaq_transport::{TcpTransport, Transport};
//! use tokio::time::Instant;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = TcpTransport::default().connect(&"meta://127.0.0.1:8123".parse()?).await?;
//! connection.state().wait_for(|state| state.is_ready()).await?;
//!
//! let put = PutCommand::new(Topic::new("orders")?, 0, "hello".into(), None);
//! let answer = connection.submit(&mut put.into(), Instant::now() + Duration::from_secs(3))?;
//! println!("{:?}", answer.await?);
//! # Ok(())
//! # }
//! ```

mod attempt;
mod backoff;
mod capacity;
mod completion;
mod completion_guard;
mod config;
mod contain;
#[doc(hidden)]
pub mod deadline;
mod deferred;
mod dialling;
mod error;
mod expiry;
mod in_flight_limit;
mod lookup;
mod outbox;
mod pending_response;
mod phase;
mod shared;

mod driver;
mod race;
mod request;
mod response;
mod runtime;
mod slots;
mod stream;
mod supervisor;
mod tcp;
#[cfg(feature = "tls")]
mod tls;

mod reserve;
mod transport;

#[doc(hidden)]
pub use backoff::backoff_ceiling;
pub use capacity::{Capacity, CapacityWait, Reservation};
pub use completion::{CompletionToken, Completions};
pub use config::{ConnectionConfig, InvalidConnectionConfig};
pub use error::{Progress, TransportError, TransportErrorKind};
pub use pending_response::{PendingResponse, Responder};
pub use response::{ReceivedResponse, ResponseBody};
pub use stream::{Dialer, StreamTransport};
pub use tcp::TcpTransport;
#[cfg(feature = "tls")]
pub use tls::TlsTransport;
#[cfg(feature = "tls")]
pub use tokio_rustls::rustls;
pub use transport::{Connection, ConnectionState, ConnectionStats, Transport};

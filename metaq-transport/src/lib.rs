//! Connections to MetaQ 1.4 (Metamorphosis) brokers: the [`Transport`] and [`Connection`] traits, and TCP.
//!
//! A connection is pipelined: requests are submitted without waiting for earlier responses, and each response
//! finds its request by the opaque that the broker repeats. A connection maintains itself in the background.
//! It dials, sends heartbeats when the broker is silent, replaces a stream that is silent while the broker
//! answers on a new one, gives up on a broker that doesn't answer heartbeats, and dials again with growing,
//! jittered backoff, until it is closed.
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
//! let response = connection.submit(&mut put.into(), Instant::now() + Duration::from_secs(3))?;
//! println!("{:?}", response.await?);
//! # Ok(())
//! # }
//! ```

// Dependencies between the modules point one way: `stream` starts the `supervisor`, which uses `driver` and
// `dial`; `driver` takes its stream from `dial`, and all of them use `connection`. `tcp` and `tls` dial for
// `stream`. `transport` has the traits alone.
mod config;
mod connection;
#[doc(hidden)]
pub mod deadline;
mod dial;
mod driver;
mod error;
mod panics;
mod response;
mod runtime;
mod state;
mod stream;
mod supervisor;
mod tcp;
#[cfg(any(feature = "tls", feature = "tls-ring"))]
mod tls;
mod transport;

pub use config::{ConnectionConfig, InvalidConnectionConfig};
pub use connection::{
    Capacity, CapacityWait, CompletionToken, Completions, PendingResponse, Reservation, Responder,
};
pub use dial::Dialer;
#[doc(hidden)]
pub use dial::backoff::backoff_ceiling;
pub use error::{Progress, TransportError, TransportErrorKind};
pub use response::{ReceivedResponse, ResponseBody};
pub use state::{ConnectionState, ConnectionStats};
pub use stream::StreamTransport;
pub use tcp::TcpTransport;
#[cfg(any(feature = "tls", feature = "tls-ring"))]
pub use tls::TlsTransport;
#[cfg(any(feature = "tls", feature = "tls-ring"))]
pub use tokio_rustls::rustls;
pub use transport::{Connection, Transport};

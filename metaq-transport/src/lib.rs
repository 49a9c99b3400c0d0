//! [`Transport`]: crate::Transport
//! [`Connection`]: crate::Connection
//! [`TcpTransport`]: crate::TcpTransport
//! [`StreamTransport`]: crate::StreamTransport
//! [`Progress`]: crate::Progress
//! [`ConnectionConfig`]: crate::ConnectionConfig
#![cfg_attr(any(feature = "tls", feature = "tls-ring"), doc = "[`TlsTransport`]: crate::TlsTransport")]
//!
// The first definition of a link counts: on docs.rs those above replace the addresses of README.
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

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

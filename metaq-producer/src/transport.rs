//! The connections to brokers: the public items of `metaq-transport` that a producer takes or returns.

pub use metaq_transport::{ConnectionConfig, TcpTransport, Transport, TransportError};
#[cfg(feature = "tls")]
pub use metaq_transport::{TlsTransport, rustls};

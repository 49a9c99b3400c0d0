//! The connections to brokers: the public items of `metaq-transport` that a producer takes or returns.

pub use metaq_transport::{ConnectionConfig, TcpTransport, Transport, TransportError};
#[cfg(any(feature = "tls", feature = "tls-ring"))]
pub use metaq_transport::{TlsTransport, rustls};

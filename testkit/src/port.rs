//! TCP ports of the loopback interface that no other process takes.
//!
//! The kernel gives the ports that it chooses to outgoing connections, too: a port that is released, to hand
//! it to another process or to listen on it again later, may be taken by then. Ports are therefore chosen
//! below that range.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::LazyLock,
};

/// The lowest port that is chosen; well-known services use lower ones.
const LOWEST_PORT: u16 = 10_000;

/// The number of ports that are tried before the search fails.
const MAX_ATTEMPTS: usize = 1_000;

/// A port that its owner, or a child process of it, listens on. While this value lives, no other `Port` of
/// any process on this machine has the same number.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    /// The UDP port of the same number, used as a lock: the kernel releases it however the process ends. None
    /// for a port that the caller chose.
    _claim: Option<UdpSocket>,
}

impl Port {
    /// Returns a port on which no process listens.
    pub(crate) fn free() -> io::Result<Self> {
        for _ in 0..MAX_ATTEMPTS {
            let number = fastrand::u16(LOWEST_PORT..*FIRST_EPHEMERAL_PORT);
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else { continue };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _claim: Some(claim) });
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!(
                "none of {MAX_ATTEMPTS} ports of 127.0.0.1 between {LOWEST_PORT} and {} is free",
                *FIRST_EPHEMERAL_PORT
            ),
        ))
    }

    /// Claims a port that this process has listened on. Returns `None` if another `Port` has the same number.
    pub(crate) fn claimed(number: u16) -> Option<Self> {
        let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _claim: Some(claim) })
    }

    /// A port that the caller chose, without a claim.
    #[cfg(feature = "peers")]
    pub(crate) fn fixed(number: u16) -> Self {
        Self { number, _claim: None }
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

/// Listens on a free port.
pub(crate) fn listen() -> io::Result<(Port, TcpListener)> {
    let mut attempts = 0;
    loop {
        let port = Port::free()?;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())) {
            Ok(listener) => return Ok((port, listener)),
            // A process without claims took the port in between.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts < MAX_ATTEMPTS => {
                attempts += 1
            }
            Err(error) => return Err(error),
        }
    }
}

/// Returns an address of the loopback interface on which no process listens: connecting to it is refused.
/// Nothing in this crate takes its port while this process lives, in any process, unless a test names the
/// port, for instance by [`BrokerBuilder::port`](crate::BrokerBuilder::port) for a broker that starts later.
///
/// ```
/// let addr = metaq_testkit::unused_addr()?;
/// let refused = std::net::TcpStream::connect(addr).unwrap_err();
/// assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// When no free port is found.
pub fn unused_addr() -> io::Result<SocketAddr> {
    let port = Port::free()?;
    let addr = (Ipv4Addr::LOCALHOST, port.number()).into();
    // Claimed until the process ends.
    std::mem::forget(port);
    Ok(addr)
}

/// The first port that the kernel gives to outgoing connections.
static FIRST_EPHEMERAL_PORT: LazyLock<u16> = LazyLock::new(|| {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok());
    // The default of Linux; the range begins higher elsewhere.
    let first = first.unwrap_or(32_768);
    // If the kernel uses nearly all ports, no better ones are left.
    if first > LOWEST_PORT + 1_000 { first } else { 32_768 }
});

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn held_ports_are_distinct_and_outside_the_kernels_range() {
        let ports: Vec<_> = (0..500).map(|_| Port::free().unwrap()).collect();
        assert_eq!(ports.iter().map(Port::number).collect::<HashSet<_>>().len(), ports.len());
        assert!(ports.iter().all(|port| (LOWEST_PORT..*FIRST_EPHEMERAL_PORT).contains(&port.number())));
    }

    #[test]
    fn a_claimed_port_can_be_listened_on_again_and_again() {
        let (port, mut listener) = listen().unwrap();
        for _ in 0..10 {
            drop(listener);
            listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).unwrap();
        }
    }
}

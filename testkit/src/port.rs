//! TCP ports of the loopback interface that nobody else takes.
//!
//! A port that the kernel chooses is one of those it gives to outgoing connections too: whoever lets go of it to hand it
//! to another process, or to listen on it again later, may find it taken. Ports are therefore chosen below that range.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::LazyLock,
};

/// The lowest port that is chosen; services that are known by their ports lie below.
const LOWEST: u16 = 10_000;

/// The number of ports that are looked at before the search is given up.
const ATTEMPTS: usize = 1_000;

/// A port on which its owner, or a process of its, listens or will. No other `Port` of any process on this machine is the
/// same as long as this one lives.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    /// The UDP port of the same number, which nothing here uses otherwise: the kernel gives it back whichever way the
    /// process ends. A port that was chosen by somebody else isn't claimed.
    _claim: Option<UdpSocket>,
}

impl Port {
    /// A port that nobody listens on.
    pub(crate) fn free() -> io::Result<Self> {
        for _ in 0..ATTEMPTS {
            let number = fastrand::u16(LOWEST..*FIRST_OF_THE_KERNEL);
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else { continue };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _claim: Some(claim) });
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!(
                "none of {ATTEMPTS} ports of 127.0.0.1 between {LOWEST} and {} is free",
                *FIRST_OF_THE_KERNEL
            ),
        ))
    }

    /// A port that this process has listened on; none when another `Port` is the same.
    pub(crate) fn claimed(number: u16) -> Option<Self> {
        let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _claim: Some(claim) })
    }

    /// The port that somebody asked for.
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
            // Somebody who knows nothing of claims was faster.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts < ATTEMPTS => attempts += 1,
            Err(error) => return Err(error),
        }
    }
}

/// An address of the loopback interface at which nobody listens: connecting to it is refused. Nothing of this crate in any
/// process takes its port as long as this process lives, unless it is told to, as by
/// [`BrokerBuilder::port`](crate::BrokerBuilder::port): a broker that comes later.
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
    // Claimed to the end of the process.
    std::mem::forget(port);
    Ok(addr)
}

/// The first port that the kernel gives to outgoing connections.
static FIRST_OF_THE_KERNEL: LazyLock<u16> = LazyLock::new(|| {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok());
    // As Linux has it by default; elsewhere the range begins higher.
    let first = first.unwrap_or(32_768);
    // A machine on which nearly all ports are the kernel's has no better ones.
    if first > LOWEST + 1_000 { first } else { 32_768 }
});

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ports_that_are_held_are_all_different_and_not_the_kernels() {
        let ports: Vec<_> = (0..500).map(|_| Port::free().unwrap()).collect();
        assert_eq!(ports.iter().map(Port::number).collect::<HashSet<_>>().len(), ports.len());
        assert!(ports.iter().all(|port| (LOWEST..*FIRST_OF_THE_KERNEL).contains(&port.number())));
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

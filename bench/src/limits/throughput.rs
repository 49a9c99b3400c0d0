//! The throughput of TCP alone.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::Limit;

/// The size of each write, and the largest size of a read.
const PIECE: usize = 256 * 1024;

/// The length of a put's header.
const HEADER: usize = 45;

/// Measures the rate at which a connection over loopback carries messages of a size that neither side encodes
/// or parses: one thread writes, one reads.
///
/// # Errors
/// When the connection can't be made.
pub fn tcp_throughput(size: usize, time: Duration) -> io::Result<Limit> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut writer = TcpStream::connect(listener.local_addr()?)?;
    let (mut reader, _) = listener.accept()?;
    thread::spawn(move || {
        let piece = vec![b'x'; PIECE];
        // Writes until the reader has closed the connection.
        while writer.write_all(&piece).is_ok() {}
    });
    let mut input = vec![0; PIECE];
    let (mut start, mut bytes, mut warming_up) = (Instant::now(), 0_u64, true);
    loop {
        bytes += reader.read(&mut input)? as u64;
        let elapsed = start.elapsed();
        if elapsed >= time {
            if !warming_up {
                return Ok(Limit::new("TCP", size, 0, bytes / (size + HEADER) as u64, elapsed));
            }
            (start, bytes, warming_up) = (Instant::now(), 0, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_measured() {
        let limit = tcp_throughput(1024, Duration::from_millis(50)).unwrap();
        assert!(limit.msgs_per_s > 1000.0, "{limit:?}");
    }
}

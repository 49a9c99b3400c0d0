//! Connecting to a name that has several addresses.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// The time for which an address has the field to itself before the next one is tried beside it, as RFC 8305 recommends.
const HEAD_START: Duration = Duration::from_millis(250);

/// The first connection that comes about. The addresses are tried in order, the next one as soon as one has failed or has
/// taken a while, so that a dead one doesn't hold up the others.
pub(crate) async fn first_to_connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter();
    let mut attempts = JoinSet::new();
    let mut error = io::Error::from(io::ErrorKind::NotFound);
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(next), if waiting.len() > 0 => {
                if let Some(address) = waiting.next().copied() {
                    attempts.spawn(TcpStream::connect(address));
                    next = Instant::now() + HEAD_START;
                }
            }
            Some(ended) = attempts.join_next() => match ended {
                // The others are given up with the set.
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(refused)) => {
                    error = refused;
                    next = Instant::now();
                }
                Err(failed) => error = io::Error::other(failed),
            },
            else => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn a_dead_address_does_not_hold_up_a_living_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let living = listener.local_addr().unwrap();
        // Bound and not listened on: nobody else can be there.
        let gone = TcpSocket::new_v4().unwrap();
        gone.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let dead = gone.local_addr().unwrap();
        let started = Instant::now();
        let stream = first_to_connect(&[dead, dead, living]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), living);
        assert!(started.elapsed() < HEAD_START, "a refusal is known at once");
        assert_eq!(
            first_to_connect(&[dead, dead]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }
}

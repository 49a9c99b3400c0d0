//! Connecting to a name that has several addresses, as RFC 8305 ("Happy Eyeballs") recommends.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// The delay between the attempts at two addresses.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Returns the first connection that is established.
///
/// The addresses are tried in order, the next one as soon as one has failed or [`ATTEMPT_DELAY`] has passed,
/// so that a dead address doesn't delay the others for long.
pub(crate) async fn first_to_connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut untried = addresses.iter();
    let mut attempts = JoinSet::new();
    let mut error = io::Error::from(io::ErrorKind::NotFound);
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(next), if untried.len() > 0 => {
                if let Some(address) = untried.next().copied() {
                    attempts.spawn(TcpStream::connect(address));
                    next = Instant::now() + ATTEMPT_DELAY;
                }
            }
            Some(finished) = attempts.join_next() => match finished {
                // The other attempts are cancelled with the set.
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
        // Bound and not listened on: no other process can listen there.
        let gone = TcpSocket::new_v4().unwrap();
        gone.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let dead = gone.local_addr().unwrap();
        let started = Instant::now();
        let stream = first_to_connect(&[dead, dead, living]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), living);
        assert!(started.elapsed() < ATTEMPT_DELAY, "a refusal is known at once");
        assert_eq!(
            first_to_connect(&[dead, dead]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }
}

//! The embedded broker's connections.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use bytes::BytesMut;
use metaq_protocol::{BooleanCommand, Command, Decoder, Frame, Response, Status};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::Shared;

/// Serves every connection until the returned future is dropped; all connections end with it.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A connection that was gone before it was accepted is no reason to stop.
                let Ok((stream, _)) = accepted else { continue };
                shared.accepted.fetch_add(1, Ordering::AcqRel);
                shared.open.fetch_add(1, Ordering::AcqRel);
                connections.spawn(serve(stream, OpenConnection(Arc::clone(&shared))));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts a connection as open for as long as it lives.
struct OpenConnection(Arc<Shared>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Answers requests until the client goes, quits, or sends what is no request. Like a real broker it then closes
/// without a word (wire rule 2).
async fn serve(mut stream: TcpStream, open: OpenConnection) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut decoder = Decoder::new();
    let mut input = BytesMut::new();
    let mut output = BytesMut::new();
    loop {
        let go_on = answer_all(&open.0, &mut decoder, &mut input, &mut output);
        stream.write_all_buf(&mut output).await?;
        if !go_on {
            return stream.shutdown().await;
        }
        input.reserve(64 * 1024);
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// Answers every complete request of `input`; false when the connection is to be closed.
fn answer_all(shared: &Shared, decoder: &mut Decoder, input: &mut BytesMut, output: &mut BytesMut) -> bool {
    loop {
        match decoder.decode(input) {
            Ok(Some(Frame::Command(Command::Quit(_)))) | Err(_) => return false,
            Ok(Some(Frame::Command(command))) => {
                if let Some(response) = answer(shared, &command) {
                    response.encode(output);
                }
            }
            // A real broker reads answers and drops them (wire rule 1).
            Ok(Some(_)) => {}
            Ok(None) => return true,
        }
    }
}

fn answer(shared: &Shared, command: &Command) -> Option<Response> {
    let mut store = shared.store.lock();
    let refused =
        |status, text: &'static str| Some(BooleanCommand::new(status, text.into(), command.opaque()).into());
    match command {
        Command::Put(put) => Some(store.put(put)),
        Command::Get(get) => Some(store.get(get)),
        Command::Offset(offset) => Some(store.offset(offset)),
        Command::Stats(stats) => Some(store.stats(stats)),
        Command::Version(version) => {
            Some(BooleanCommand::new(Status::SUCCESS, "0.1".into(), version.opaque).into())
        }
        _ => refused(Status::SERVICE_UNAVAILABLE, "The embedded broker does not handle this command."),
    }
}

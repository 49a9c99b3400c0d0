//! A client that sends raw bytes and formats the responses.

use std::time::Duration;

use bytes::BytesMut;
use metaq_protocol::{Decoder, Frame, Limits, Response};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct Client<S> {
    pub(crate) stream: S,
    decoder: Decoder,
    input: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn new(stream: S) -> Self {
        let decoder = Decoder::with_limits(Limits::default().with_max_body(usize::MAX));
        Self { stream, decoder, input: BytesMut::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A broker that closes the connection stops reading.
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Returns the next response, or `None` once the connection is closed.
    pub(crate) async fn next(&mut self) -> Option<Response> {
        let answer = async {
            loop {
                match self.decoder.decode(&mut self.input).unwrap() {
                    Some(Frame::Response(response)) => return Some(response),
                    Some(request) => panic!("a broker sent {request:?}"),
                    None => {}
                }
                match self.stream.read_buf(&mut self.input).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        };
        timeout(TIMEOUT, answer).await.expect("an answer, or the end of the connection")
    }

    /// Sends a request and formats its response: status and text, or `value` and the number of bytes;
    /// `closed` if there is none.
    #[allow(dead_code, reason = "not every test talks in steps")]
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> String {
        self.send(request).await;
        shown(self.next().await.as_ref())
    }

    /// Asserts that no response is outstanding: the last request had none.
    #[allow(dead_code, reason = "not every test talks in steps")]
    pub(crate) async fn expect_silence(&mut self) {
        assert_eq!(self.ask("version 4711\r\n").await, "200 0.1", "nothing but the answer to this");
    }
}

pub(crate) fn shown(answer: Option<&Response>) -> String {
    match answer {
        None => "closed".to_owned(),
        Some(Response::Boolean(answer)) => format!("{} {}", answer.status.0, answer.text()),
        Some(Response::Data(answer)) => format!("value {}", answer.data.len()),
        Some(other) => format!("{other:?}"),
    }
}

//! A scripted broker at the other end of a stream in memory, and completions that record what is reported to
//! them.
#![allow(dead_code, unreachable_pub, reason = "each test needs a part of it")]

pub mod ledger;

use std::{
    collections::{BTreeMap, HashMap},
    error::Error as _,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use metaq_protocol::{
    BooleanCommand, BrokerAddr, Command, Decoder, Flag, Frame, Opaque, PutCommand, PutData, PutRef, Response,
    Status, Topic,
};
use metaq_transport::{
    CompletionToken, Completions, Connection, ConnectionConfig, ConnectionState, Dialer, PendingResponse,
    ReceivedResponse, Reservation, StreamTransport, Transport as _, TransportError,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, timeout},
};

pub const SOON: Duration = Duration::from_secs(20);

/// The behaviour of a call of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Works,
    /// This number of bytes is accepted, and then none.
    Bytes(usize),
    /// Nothing happens, ever.
    Hangs,
    Fails,
    /// Fails with the error that the test has made.
    FailsWith,
    Panics,
}

/// A broker in memory, and the dialer that reaches it.
#[derive(Clone)]
pub struct Peer(Arc<Mutex<State>>);

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").finish_non_exhaustive()
    }
}

pub struct State {
    /// The number of times that it was dialled.
    pub dials: usize,
    pub dial: Mode,
    pub write: Mode,
    /// The behaviour of single streams, by the number of their dial.
    write_on: HashMap<usize, Mode>,
    pub shutdown: Mode,
    pub greets: bool,
    /// The puts that were received as a whole and not taken out yet.
    pub puts: Vec<PutCommand>,
    /// The puts that streams had swallowed when they ended.
    pub swallowed: Vec<PutCommand>,
    /// The streams that exist, by the number of their dial.
    lines: BTreeMap<usize, Line>,
    /// The streams over which requests came.
    origins: HashMap<Opaque, usize>,
    cause: Arc<Mutex<Option<io::Error>>>,
    /// Called when the oldest stream is dropped.
    pub on_drop: Option<Box<dyn FnOnce() + Send>>,
}

/// One stream.
struct Line {
    decoder: Decoder,
    received: BytesMut,
    greetings: Vec<Opaque>,
    first_greeting: Option<Opaque>,
    input: BytesMut,
    is_at_end: bool,
    /// It swallows everything, and nothing comes from it.
    is_stranded: bool,
    /// The requests that it swallowed.
    held: Vec<Command>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            decoder: Decoder::new(),
            received: BytesMut::new(),
            greetings: Vec::new(),
            first_greeting: None,
            input: BytesMut::new(),
            is_at_end: false,
            is_stranded: false,
            held: Vec::new(),
            reader: None,
            writer: None,
        }
    }
}

impl Default for Peer {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            dials: 0,
            dial: Mode::Works,
            write: Mode::Works,
            write_on: HashMap::new(),
            shutdown: Mode::Works,
            greets: true,
            puts: Vec::new(),
            swallowed: Vec::new(),
            lines: BTreeMap::new(),
            origins: HashMap::new(),
            cause: Arc::default(),
            on_drop: None,
        })))
    }
}

#[async_trait]
impl Dialer for Peer {
    type Stream = MemoryStream;

    async fn dial(&self, _: &BrokerAddr) -> io::Result<MemoryStream> {
        let (dial, what) = {
            let mut state = self.state();
            state.dials += 1;
            let (dial, what) = (state.dials, state.dial);
            if !matches!(what, Mode::Fails | Mode::Panics | Mode::Hangs) {
                state.lines.insert(dial, Line::default());
            }
            (dial, what)
        };
        match what {
            Mode::Fails => Err(io::ErrorKind::ConnectionRefused.into()),
            Mode::Panics => panic!("the dialer panics"),
            Mode::Hangs => std::future::pending().await,
            _ => Ok(MemoryStream { peer: self.clone(), dial }),
        }
    }
}

impl Peer {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn try_connect(&self, config: ConnectionConfig) -> Result<Arc<dyn Connection>, TransportError> {
        let addr = BrokerAddr::new("memory", 1).unwrap();
        StreamTransport::new(self.clone(), config).connect(&addr).await
    }

    /// A ready connection to it.
    pub async fn connect(&self, config: ConnectionConfig) -> Arc<dyn Connection> {
        let connection = self.try_connect(config).await.unwrap();
        until(&connection, ConnectionState::is_ready).await;
        connection
    }

    /// Changes what happens from now on, and has blocked calls tried again.
    pub fn set<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut wakers = Vec::new();
        let changed = {
            let mut state = self.state();
            let changed = change(&mut state);
            for line in state.lines.values_mut() {
                wakers.extend([line.reader.take(), line.writer.take()]);
            }
            changed
        };
        wakers.into_iter().flatten().for_each(Waker::wake);
        changed
    }

    /// Takes out `count` puts, once that number was received.
    pub async fn puts(&self, count: usize) -> Vec<PutCommand> {
        eventually(|| self.state().puts.len() >= count).await;
        self.state().puts.drain(..count).collect()
    }

    /// The error of [`Mode::FailsWith`].
    pub fn cause(&self) -> Arc<Mutex<Option<io::Error>>> {
        Arc::clone(&self.state().cause)
    }

    pub fn dials_and_streams(&self) -> (usize, Vec<usize>) {
        let state = self.state();
        (state.dials, state.streams())
    }

    pub fn answer(&self, opaque: Opaque) {
        self.set(|state| state.answer(opaque));
    }

    pub fn hang_up(&self) {
        self.set(State::hang_up);
    }
}

impl State {
    /// The streams that exist, by the numbers of their dials.
    pub fn streams(&self) -> Vec<usize> {
        self.lines.keys().copied().collect()
    }

    pub fn answer(&mut self, opaque: Opaque) {
        self.try_answer(opaque);
    }

    /// Answers on the stream over which the request came. Returns false if the response can't be read.
    pub fn try_answer(&mut self, opaque: Opaque) -> bool {
        let newest = self.lines.keys().next_back().copied();
        let Some(dial) = self.origins.get(&opaque).copied().or(newest) else { return false };
        self.answer_on(dial, opaque)
    }

    /// Returns whether the stream over which the request came is stranded, so that a response would be lost.
    pub fn is_stranded(&self, opaque: Opaque) -> bool {
        let line = self.origins.get(&opaque).and_then(|dial| self.lines.get(dial));
        line.is_some_and(|line| line.is_stranded)
    }

    pub fn answer_on(&mut self, dial: usize, opaque: Opaque) -> bool {
        let Some(line) = self.lines.get_mut(&dial) else { return false };
        if line.is_stranded || line.is_at_end {
            return false;
        }
        let answer = BooleanCommand::new(Status::SUCCESS, Bytes::from_static(b"1 0 2"), opaque);
        Response::from(answer).encode(&mut line.input);
        true
    }

    /// Answers the heartbeats that were received and not answered.
    pub fn answer_greetings(&mut self) {
        let dials: Vec<_> = self.lines.keys().copied().collect();
        dials.into_iter().for_each(|dial| self.answer_greetings_on(dial));
    }

    pub fn answer_greetings_on(&mut self, dial: usize) {
        let greetings = self.lines.get_mut(&dial).map(|line| std::mem::take(&mut line.greetings));
        for opaque in greetings.into_iter().flatten() {
            self.answer_on(dial, opaque);
        }
    }

    /// Sets how writes behave on one stream, in place of how they do on all.
    pub fn set_write_on(&mut self, dial: usize, mode: Option<Mode>) {
        match mode {
            Some(mode) => self.write_on.insert(dial, mode),
            None => self.write_on.remove(&dial),
        };
    }

    /// Returns the opaque of a stream's first heartbeat.
    pub fn first_greeting_on(&self, dial: usize) -> Option<Opaque> {
        self.lines.get(&dial)?.first_greeting
    }

    /// Hangs up all streams.
    pub fn hang_up(&mut self) {
        self.lines.values_mut().for_each(|line| line.is_at_end = true);
    }

    pub fn hang_up_on(&mut self, dial: usize) {
        self.lines.get_mut(&dial).into_iter().for_each(|line| line.is_at_end = true);
    }

    /// From now on the streams that exist swallow everything, and nothing more comes from them.
    pub fn strand(&mut self) {
        self.lines.values_mut().for_each(|line| line.is_stranded = true);
    }

    /// Streams that were stranded work again, and what they swallowed arrives.
    pub fn refloat(&mut self) {
        let dials = self.streams();
        for dial in dials {
            let Some(line) = self.lines.get_mut(&dial) else { continue };
            line.is_stranded = false;
            std::mem::take(&mut line.held).into_iter().for_each(|command| self.arrived(dial, command));
        }
    }

    fn arrived(&mut self, dial: usize, command: Command) {
        let Some(line) = self.lines.get_mut(&dial) else { return };
        match command {
            command if line.is_stranded => line.held.push(command),
            Command::Put(put) => {
                self.origins.insert(put.opaque, dial);
                self.puts.push(put);
            }
            Command::Version(version) => {
                line.greetings.push(version.opaque);
                line.first_greeting.get_or_insert(version.opaque);
                if self.greets {
                    self.answer_greetings_on(dial);
                }
            }
            _ => {}
        }
    }

    fn receive(&mut self, dial: usize, bytes: &[u8]) {
        let Some(line) = self.lines.get_mut(&dial) else { return };
        line.received.extend_from_slice(bytes);
        let mut commands = Vec::new();
        while let Some(frame) = line.decoder.decode(&mut line.received).unwrap() {
            if let Frame::Command(command) = frame {
                commands.push(command);
            }
        }
        commands.into_iter().for_each(|command| self.arrived(dial, command));
    }
}

pub struct MemoryStream {
    peer: Peer,
    dial: usize,
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        let on_drop = {
            let mut state = self.peer.state();
            let is_oldest = state.lines.keys().next() == Some(&self.dial);
            let held = state.lines.remove(&self.dial).map(|line| line.held);
            for command in held.into_iter().flatten() {
                if let Command::Put(put) = command {
                    state.swallowed.push(put);
                }
            }
            state.on_drop.take_if(|_| is_oldest)
        };
        if let Some(on_drop) = on_drop {
            on_drop();
        }
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.peer.state();
        let Some(line) = state.lines.get_mut(&self.dial) else { return Poll::Ready(Ok(())) };
        if !line.input.is_empty() {
            let take = line.input.len().min(buf.remaining());
            buf.put_slice(&line.input.split_to(take));
        } else if !line.is_at_end {
            line.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.peer.state();
        let mode = state.write_on.get(&self.dial).copied().unwrap_or(state.write);
        let taken = match mode {
            Mode::Works => bytes.len(),
            Mode::Bytes(left) if left > 0 => {
                let taken = left.min(bytes.len());
                let left = Mode::Bytes(left - taken);
                match state.write_on.get_mut(&self.dial) {
                    Some(mode) => *mode = left,
                    None => state.write = left,
                }
                taken
            }
            Mode::Bytes(_) | Mode::Hangs => {
                if let Some(line) = state.lines.get_mut(&self.dial) {
                    line.writer = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            Mode::FailsWith => {
                let cause = state.cause.lock().unwrap().take();
                return Poll::Ready(Err(cause.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())));
            }
            Mode::Fails => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Mode::Panics => {
                drop(state);
                panic!("the stream panics")
            }
        };
        state.receive(self.dial, &bytes[..taken]);
        let reader = state.lines.get_mut(&self.dial).and_then(|line| line.reader.take());
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.peer.state().shutdown {
            Mode::Hangs => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// A report to completions.
#[derive(Debug)]
pub enum Event {
    Ended(u64, Result<ReceivedResponse, TransportError>),
    Capacity(u64, Result<Reservation, TransportError>),
    Released(u64),
}

impl Event {
    pub fn token(&self) -> u64 {
        match self {
            Self::Ended(token, _) | Self::Capacity(token, _) | Self::Released(token) => *token,
        }
    }
}

/// Records what is reported, in order.
#[derive(Debug, Default)]
pub struct Log(Mutex<Vec<Event>>);

impl Completions for Log {
    fn completed(&self, completed: &mut Vec<(u64, Result<ReceivedResponse, TransportError>)>) {
        self.0
            .lock()
            .unwrap()
            .extend(completed.drain(..).map(|(token, outcome)| Event::Ended(token, outcome)));
    }

    fn capacity(&self, token: u64, granted: Result<Reservation, TransportError>) {
        self.0.lock().unwrap().push(Event::Capacity(token, granted));
    }

    fn released(&self, tokens: &mut Vec<u64>) {
        self.0.lock().unwrap().extend(tokens.drain(..).map(Event::Released));
    }
}

impl Log {
    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Takes out all reports, once there are `count`.
    pub async fn take(&self, count: usize) -> Vec<Event> {
        eventually(|| self.len() >= count).await;
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// Takes out all reports.
    pub fn take_now(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

pub fn completions(log: &Arc<Log>) -> Arc<dyn Completions> {
    Arc::clone(log) as Arc<dyn Completions>
}

pub async fn until(connection: &Arc<dyn Connection>, wanted: impl FnMut(&ConnectionState) -> bool) {
    timeout(SOON, connection.state().wait_for(wanted)).await.expect("the state is reached").unwrap();
}

/// Waits until a condition is true, which it polls.
pub async fn eventually(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, wait).await.expect("the condition comes true");
}

/// Awaits `future`, but not for ever.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("it ends")
}

pub fn after(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

pub fn put(payload: impl Into<Bytes>) -> Command {
    PutCommand::new(Topic::new("t").unwrap(), 0, payload.into(), None).into()
}

pub fn submit(
    connection: &Arc<dyn Connection>,
    payload: impl Into<Bytes>,
    deadline: Instant,
) -> Result<PendingResponse, TransportError> {
    connection.submit(&mut put(payload), deadline)
}

/// Submits a put whose outcome is reported to `log`.
pub fn submit_put(
    connection: &Arc<dyn Connection>,
    payload: impl Into<Bytes>,
    deadline: Instant,
    log: &Arc<dyn Completions>,
    token: u64,
) -> Result<bool, TransportError> {
    with_put(payload.into(), |put| {
        connection.submit_put(put, deadline, CompletionToken { completions: log, token })
    })
}

pub fn submit_reserved(
    connection: &Arc<dyn Connection>,
    payload: impl Into<Bytes>,
    deadline: Instant,
    log: &Arc<dyn Completions>,
    token: u64,
    reservation: Reservation,
) -> Result<bool, TransportError> {
    with_put(payload.into(), |put| {
        let notify = CompletionToken { completions: log, token };
        connection.submit_reserved_put(put, deadline, notify, &mut Some(reservation))
    })
}

fn with_put<T>(payload: Bytes, submit: impl FnOnce(PutRef<'_>) -> T) -> T {
    let (topic, data) = (Topic::new("t").unwrap(), PutData::new(payload, None));
    submit(PutRef::new(&topic, 0, Flag::EMPTY, data.checksum(), &data))
}

pub fn payload(put: &PutCommand) -> Bytes {
    put.data.to_bytes()
}

/// Returns the texts of an error and all its causes.
pub fn whole_text(error: &TransportError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The connection works.
pub async fn works(peer: &Peer, connection: &Arc<dyn Connection>) {
    until(connection, ConnectionState::is_ready).await;
    let pending = submit(connection, "works", after(60_000)).unwrap();
    let put = peer.puts(1).await.pop().unwrap();
    assert_eq!(payload(&put), "works");
    peer.answer(put.opaque);
    assert!(soon(pending).await.is_ok());
}

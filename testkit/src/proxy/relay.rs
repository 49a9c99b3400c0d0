//! One connection: both directions at once, each by its plan.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    net::Shutdown,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    plan::{Flow, Plan, StreamFault},
    shared::{Direction, End, OnConnect, OpenConnection, ProxyShared},
};

/// The number of bytes that one read reserves.
const READ_CAPACITY: usize = 16 * 1024;

/// The number of bytes that may be buffered while they are delayed.
const MAX_BUFFERED: usize = 4 * 1024 * 1024;

/// With a limited bandwidth, one write takes the bytes of this interval.
const WRITE_INTERVAL: Duration = Duration::from_millis(20);

/// Relays a connection to its end.
pub(super) async fn relay_connection(client: TcpStream, on_connect: OnConnect, shared: Arc<ProxyShared>) {
    // Aborting the task of a connection resets it.
    let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
    let open = OpenConnection::new(&shared);
    let mut end = shared.end.subscribe();
    let mut strandings = shared.strandings.subscribe();
    if on_connect == OnConnect::Ignore {
        if wait_for_end(&mut end).await == End::Closed {
            close([&client]);
        }
        return;
    }
    if on_connect != OnConnect::Forward {
        return;
    }
    let server = tokio::select! {
        connected = connect(&shared.target) => match connected {
            Ok(server) => server,
            Err(_) => return,
        },
        end = wait_for_end(&mut end) => {
            if end == End::Closed {
                close([&client]);
            }
            return;
        }
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut to_server, mut to_client) =
        (Relay::new(&shared, Direction::ToServer), Relay::new(&shared, Direction::ToClient));
    let both = async { tokio::try_join!(to_server.run(&client, &server), to_client.run(&server, &client)) };
    let outcome = tokio::select! {
        biased;
        Ok(()) = strandings.changed() => None,
        end = wait_for_end(&mut end) => Some(end),
        done = both => Some(done.map_or_else(|end| end, |_| End::Closed)),
    };
    let outcome = match outcome {
        Some(outcome) => outcome,
        None => {
            let swallow = async {
                tokio::join!(drain(&client), drain(&server));
                std::future::pending().await
            };
            tokio::select! {
                end = wait_for_end(&mut end) => end,
                end = swallow => end,
            }
        }
    };
    if outcome == End::Closed {
        close([&client, &server]);
        drop(open);
        // Input after the close would make the system reset the connection, and the receiver lose what it has
        // not read.
        tokio::join!(drain(&client), drain(&server));
    }
}

/// Connects to the server. Dropping the connection resets it, even before it is established.
async fn connect(target: &str) -> io::Result<TcpStream> {
    let mut result = Err(io::Error::other("it has no address"));
    for addr in lookup_host(target).await? {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        result = socket.connect(addr).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

async fn wait_for_end(end: &mut watch::Receiver<End>) -> End {
    match end.changed().await {
        Ok(()) => *end.borrow_and_update(),
        Err(_) => End::Reset,
    }
}

/// Ends the streams by FIN. Has no effect on streams that have ended.
fn close<const N: usize>(streams: [&TcpStream; N]) {
    for stream in streams {
        let _ = SockRef::from(stream).set_linger(None);
        let _ = SockRef::from(stream).shutdown(Shutdown::Write);
    }
}

/// Reads until the other side has ended too.
async fn drain(stream: &TcpStream) {
    let mut buffer = BytesMut::new();
    while matches!(read(stream, &mut buffer).await, Ok(1..)) {
        buffer.clear();
    }
}

/// Reads what is there; returns 0 at the end. Cancel safe.
async fn read(stream: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        buffer.reserve(READ_CAPACITY);
        match stream.try_read_buf(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Buffered bytes.
struct Chunk {
    due: Instant,
    bytes: Bytes,
    /// Set if a fault added the bytes: they don't count for positions, and no fault affects them.
    injected: bool,
}

/// One direction of a connection.
struct Relay<'a> {
    shared: &'a ProxyShared,
    direction: Direction,
    plans: watch::Receiver<Arc<Plan>>,
    plan: Arc<Plan>,
    /// The current flow of bytes, set by the plan or one of its faults.
    flow: Flow,
    /// The number of bytes since the plan was set.
    position: u64,
    /// The pending faults by position, and the number of additions that are among them.
    faults: VecDeque<(u64, StreamFault)>,
    additions: usize,
    /// The last bytes before the position, if a fault may need them.
    history: BytesMut,
    chunks: VecDeque<Chunk>,
    buffered: usize,
    at_end: bool,
    /// The time at which the bandwidth allows the next write.
    next: Instant,
}

impl<'a> Relay<'a> {
    fn new(shared: &'a ProxyShared, direction: Direction) -> Self {
        let plans = shared.plans[direction as usize].subscribe();
        let mut relay = Self {
            shared,
            direction,
            plans,
            plan: Arc::default(),
            flow: Flow::Forward,
            position: 0,
            faults: VecDeque::new(),
            additions: 0,
            history: BytesMut::new(),
            chunks: VecDeque::new(),
            buffered: 0,
            at_end: false,
            next: Instant::now(),
        };
        relay.load_plan();
        relay.begin_plan();
        relay.add_faults();
        relay
    }

    /// Takes over a plan that has changed.
    fn change_plan(&mut self) {
        let generation = self.plan.generation;
        self.load_plan();
        if self.plan.generation != generation {
            self.begin_plan();
        }
        self.add_faults();
    }

    fn load_plan(&mut self) {
        self.plan = Arc::clone(&self.plans.borrow_and_update());
        self.flow = self.plan.flow;
        self.next = Instant::now();
    }

    /// Begins to count for the faults of a new plan.
    fn begin_plan(&mut self) {
        (self.position, self.additions) = (0, 0);
        self.faults = self.plan.faults.iter().cloned().collect();
        self.history.clear();
    }

    /// Adds the faults that were added to the plan since then. Their positions count from here.
    fn add_faults(&mut self) {
        for (at, fault) in self.plan.added[self.additions..].iter().flatten() {
            let at = self.position.saturating_add(*at);
            let behind = self.faults.partition_point(|(other, _)| *other <= at);
            self.faults.insert(behind, (at, fault.clone()));
        }
        self.additions = self.plan.added.len();
    }

    /// Forwards until it has forwarded the end of the stream, or a fault ends the connection.
    async fn run(&mut self, from: &TcpStream, to: &TcpStream) -> Result<(), End> {
        let mut buffer = BytesMut::new();
        loop {
            self.apply_due_faults()?;
            if self.flow == Flow::Swallow {
                self.chunks.clear();
                self.buffered = 0;
            }
            if self.at_end && self.chunks.is_empty() && self.flow == Flow::Forward {
                // Fails if the other side has disconnected already.
                let _ = SockRef::from(to).shutdown(Shutdown::Write);
                return Ok(());
            }
            let can_read = self.chunks.is_empty()
                || !self.plan.delay.is_zero() && self.buffered < MAX_BUFFERED
                || self.flow == Flow::Swallow;
            let due = self.chunks.front().filter(|_| self.flow == Flow::Forward).map(|chunk| {
                if chunk.injected || self.plan.bandwidth.is_none() {
                    chunk.due
                } else {
                    chunk.due.max(self.next)
                }
            });
            tokio::select! {
                biased;
                // Never an error: the shared state holds the sender.
                Ok(()) = self.plans.changed() => self.change_plan(),
                writable = writable(to, due), if due.is_some() => {
                    writable.map_err(|_| End::Reset)?;
                    self.write(to)?;
                }
                got = read(from, &mut buffer), if can_read && !self.at_end && self.flow != Flow::Freeze => {
                    self.buffer_input(got, &mut buffer)?;
                }
            }
        }
    }

    /// Buffers the bytes that were read.
    fn buffer_input(&mut self, got: io::Result<usize>, buffer: &mut BytesMut) -> Result<(), End> {
        match got {
            Ok(0) => self.at_end = true,
            Ok(_) => {
                let bytes = buffer.split().freeze();
                if self.flow == Flow::Swallow {
                    return Ok(());
                }
                self.buffered += bytes.len();
                self.chunks.push_back(Chunk {
                    due: Instant::now() + self.plan.delay,
                    bytes,
                    injected: false,
                });
            }
            // The failure is swallowed, too.
            Err(_) if self.flow == Flow::Swallow => self.at_end = true,
            Err(_) => return Err(End::Reset),
        }
        Ok(())
    }

    /// Applies the faults that are due at this position.
    fn apply_due_faults(&mut self) -> Result<(), End> {
        // Bytes that a fault added are sent before the next fault.
        while self.chunks.front().is_none_or(|chunk| !chunk.injected) {
            if self.faults.front().is_none_or(|(at, _)| *at > self.position) {
                break;
            }
            let Some((_, fault)) = self.faults.pop_front() else { break };
            match fault {
                StreamFault::Close => return Err(End::Closed),
                StreamFault::Reset => return Err(End::Reset),
                StreamFault::Freeze => self.flow = Flow::Freeze,
                StreamFault::Swallow => self.flow = Flow::Swallow,
                StreamFault::Duplicate(count) => {
                    let kept = self.history.len();
                    let bytes = Bytes::copy_from_slice(&self.history[kept - kept.min(count)..]);
                    self.add(bytes);
                }
                StreamFault::Inject(bytes) => self.add(bytes),
            }
        }
        Ok(())
    }

    fn add(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.buffered += bytes.len();
            self.chunks.push_front(Chunk { due: Instant::now(), bytes, injected: true });
        }
    }

    /// Writes as much of the first chunk as the plan allows.
    fn write(&mut self, to: &TcpStream) -> Result<(), End> {
        let Some(chunk) = self.chunks.front_mut() else { return Ok(()) };
        let mut limit = chunk.bytes.len();
        if !chunk.injected {
            if let Some((at, _)) = self.faults.front() {
                limit = limit.min(usize::try_from(at - self.position).unwrap_or(usize::MAX));
            }
            if let Some(bandwidth) = self.plan.bandwidth {
                let chunk = bandwidth as f64 * WRITE_INTERVAL.as_secs_f64();
                limit = limit.min((chunk as usize).max(1));
            }
        }
        let written = match to.try_write(&chunk.bytes[..limit]) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(_) => return Err(End::Reset),
        };
        let bytes = chunk.bytes.split_to(written);
        let (injected, emptied) = (chunk.injected, chunk.bytes.is_empty());
        self.buffered -= written;
        if emptied {
            self.chunks.pop_front();
        }
        if !injected {
            self.position += written as u64;
            self.shared.forwarded[self.direction as usize].fetch_add(written as u64, Ordering::SeqCst);
            if let Some(bandwidth) = self.plan.bandwidth {
                self.next = self.next.max(Instant::now())
                    + Duration::from_secs_f64(written as f64 / bandwidth as f64);
            }
            self.keep_history(&bytes);
        }
        Ok(())
    }

    fn keep_history(&mut self, bytes: &[u8]) {
        let duplicated = self.faults.iter().map(|(_, fault)| match fault {
            StreamFault::Duplicate(count) => *count,
            _ => 0,
        });
        let wanted = duplicated.max().unwrap_or_default();
        if wanted > 0 {
            self.history.extend_from_slice(bytes);
            let kept = self.history.len();
            drop(self.history.split_to(kept - kept.min(wanted)));
        }
    }
}

/// Waits until `due`, and then until the stream is writable.
async fn writable(to: &TcpStream, due: Option<Instant>) -> io::Result<()> {
    if let Some(due) = due {
        sleep_until(due).await;
    }
    to.writable().await
}

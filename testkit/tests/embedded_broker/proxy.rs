//! The proxy injects the faults that are set, and no others.

use std::{io::ErrorKind, time::Duration};

use bytes::Bytes;
use metaq_testkit::proxy::{Direction, OnConnect, Plan, Proxy, StreamFault};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// The time to wait for bytes that must not arrive.
const NOTHING: Duration = Duration::from_millis(150);

/// A server, a proxy to it, and both ends of a connection through it.
struct Line {
    proxy: Proxy,
    server: TcpListener,
    client: TcpStream,
    served: TcpStream,
}

impl Line {
    async fn open() -> Self {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap().to_string()).await.unwrap();
        let client = TcpStream::connect(proxy.addr()).await.unwrap();
        let served = server.accept().await.unwrap().0;
        Self { proxy, server, client, served }
    }

    /// Opens another connection.
    async fn another(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.proxy.addr()).await.unwrap();
        (client, timeout(TIMEOUT, self.server.accept()).await.unwrap().unwrap().0)
    }
}

async fn expect_bytes(stream: &mut TcpStream, wanted: &[u8]) {
    let mut heard = vec![0; wanted.len()];
    let read = timeout(TIMEOUT, stream.read_exact(&mut heard)).await;
    assert!(matches!(read, Ok(Ok(_))), "{read:?} instead of {:?}", String::from_utf8_lossy(wanted));
    assert_eq!(String::from_utf8_lossy(&heard), String::from_utf8_lossy(wanted));
}

async fn expect_silence(stream: &mut TcpStream) {
    let mut byte = [0];
    let read = timeout(NOTHING, stream.read_exact(&mut byte)).await;
    assert!(read.is_err(), "{read:?} {byte:?}");
}

async fn hears_the_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    timeout(TIMEOUT, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"");
}

async fn is_reset(stream: &mut TcpStream) {
    let mut byte = [0];
    let read = timeout(TIMEOUT, stream.read_exact(&mut byte)).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

async fn until(condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(TIMEOUT, reached).await.expect("the condition holds in the end");
}

#[tokio::test]
async fn forwards_everything_in_both_directions_and_counts() {
    let mut line = Line::open().await;
    let sent: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    let mut heard = Vec::new();
    let write = async {
        line.client.write_all(&sent).await.unwrap();
        line.client.shutdown().await.unwrap();
    };
    tokio::join!(write, async { line.served.read_to_end(&mut heard).await.unwrap() });
    assert!(heard == sent, "{} of {} bytes, or others", heard.len(), sent.len());
    // One direction has ended, the other continues.
    line.served.write_all(b"done").await.unwrap();
    expect_bytes(&mut line.client, b"done").await;
    assert_eq!((line.proxy.accepted(), line.proxy.open()), (1, 1));
    let (forwarded, back) =
        (line.proxy.forwarded(Direction::ToServer), line.proxy.forwarded(Direction::ToClient));
    assert_eq!((forwarded, back), (1_000_000, 4));
    drop(line.served);
    hears_the_end(&mut line.client).await;
    until(|| line.proxy.open() == 0).await;
}

#[tokio::test]
async fn a_delay_applies_to_each_byte_of_one_direction() {
    let mut line = Line::open().await;
    line.proxy.plan(Direction::ToServer, Plan::new().delay(Duration::from_millis(200)));
    let started = Instant::now();
    line.client.write_all(b"one").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    line.client.write_all(b"two").await.unwrap();
    expect_bytes(&mut line.served, b"one").await;
    let (first, sent) = (started.elapsed(), Instant::now());
    line.served.write_all(b"back").await.unwrap();
    expect_bytes(&mut line.client, b"back").await;
    assert!(sent.elapsed() < Duration::from_millis(50), "{:?}", sent.elapsed());
    expect_bytes(&mut line.served, b"two").await;
    let second = started.elapsed();
    assert!((200..290).contains(&first.as_millis()), "{first:?}");
    assert!((300..400).contains(&second.as_millis()), "delays don't add up: {second:?}");
}

#[tokio::test]
async fn adjusted_plan_keeps_pending_faults_and_adds_others() {
    let mut line = Line::open().await;
    let direction = Direction::ToServer;
    line.proxy.plan(direction, Plan::new().at(6, StreamFault::Close));
    line.client.write_all(b"abc").await.unwrap();
    expect_bytes(&mut line.served, b"abc").await;
    line.proxy.adjust(direction, Plan::new().delay(Duration::from_millis(1)));
    line.proxy.adjust(direction, Plan::new().at(2, StreamFault::Inject(Bytes::from_static(b"-"))));
    line.client.write_all(b"defgh").await.unwrap();
    expect_bytes(&mut line.served, b"de-f").await;
    hears_the_end(&mut line.served).await;
    // Those of a later connection count from its beginning.
    let (mut client, mut served) = line.another().await;
    client.write_all(b"abcdefgh").await.unwrap();
    expect_bytes(&mut served, b"ab-cdef").await;
    hears_the_end(&mut served).await;
    // A new plan has none of them.
    line.proxy.plan(direction, Plan::new());
    let (mut client, mut served) = line.another().await;
    client.write_all(b"abcdefgh").await.unwrap();
    expect_bytes(&mut served, b"abcdefgh").await;
}

#[tokio::test]
async fn a_limited_bandwidth_slows_the_sender() {
    let mut line = Line::open().await;
    line.proxy.plan(Direction::ToServer, Plan::new().bandwidth(100_000));
    let mut heard = vec![0; 50_000];
    // A busy machine makes it slower, but not each time.
    for attempt in 1.. {
        let started = Instant::now();
        line.client.write_all(&[b'x'; 50_000]).await.unwrap();
        timeout(TIMEOUT, line.served.read_exact(&mut heard)).await.unwrap().unwrap();
        let took = started.elapsed();
        assert!(took.as_millis() >= 400 && (took.as_millis() < 800 || attempt < 20), "{took:?}");
        if took.as_millis() < 800 {
            break;
        }
    }
}

#[tokio::test]
async fn frozen_bytes_flow_later_and_the_sender_is_blocked() {
    let mut line = Line::open().await;
    line.proxy.plan_both(Plan::new().freeze());
    let sent = vec![b'x'; 24 * 1024 * 1024];
    let mut write = Box::pin(line.client.write_all(&sent));
    assert!(timeout(NOTHING, &mut write).await.is_err(), "the buffers are full");
    expect_silence(&mut line.served).await;
    line.proxy.plan_both(Plan::new());
    let mut heard = vec![0; sent.len()];
    let (written, read) = tokio::join!(write, line.served.read_exact(&mut heard));
    assert!(written.is_ok() && read.is_ok() && heard == sent);
}

#[tokio::test]
async fn swallowed_bytes_are_lost_while_the_sockets_stay_open() {
    let mut line = Line::open().await;
    line.proxy.plan_both(Plan::new().swallow());
    line.client.write_all(&vec![b'x'; 16 * 1024 * 1024]).await.unwrap();
    line.served.write_all(b"lost").await.unwrap();
    line.served.shutdown().await.unwrap();
    expect_silence(&mut line.client).await;
    expect_silence(&mut line.served).await;
    assert_eq!(line.proxy.open(), 1);
    // A new connection doesn't get through either.
    let (mut client, mut served) = line.another().await;
    client.write_all(b"lost").await.unwrap();
    expect_silence(&mut served).await;
    until(|| line.proxy.forwarded(Direction::ToServer) == 0).await;
    line.proxy.plan_both(Plan::new());
    line.client.write_all(b"heard").await.unwrap();
    expect_bytes(&mut line.served, b"heard").await;
    hears_the_end(&mut line.client).await;
}

#[tokio::test]
async fn faults_apply_at_their_exact_byte() {
    let line = Line::open().await;
    let faults = Plan::new()
        .at(9, StreamFault::Duplicate(100))
        .at(3, StreamFault::Duplicate(2))
        .at(6, StreamFault::Inject(Bytes::from_static(b"[in]")))
        .at(6, StreamFault::Inject(Bytes::from_static(b"[between]")))
        .at(12, StreamFault::Close);
    line.proxy.plan(Direction::ToServer, faults);
    // On each connection again, however the bytes are sent.
    for portion in [1, 2, 5, 20] {
        let (mut client, mut served) = line.another().await;
        for bytes in b"abcdefghijklmnop".chunks(portion) {
            let _ = client.write_all(bytes).await;
        }
        expect_bytes(&mut served, b"abcbcdef[in][between]ghiabcdefghijkl").await;
        hears_the_end(&mut served).await;
        hears_the_end(&mut client).await;
    }
    let forwarded = line.proxy.forwarded(Direction::ToServer);
    assert_eq!(forwarded, 4 * 12, "what faults add isn't counted");
}

#[tokio::test]
async fn positions_count_from_the_call_of_plan() {
    let mut line = Line::open().await;
    line.client.write_all(b"before").await.unwrap();
    expect_bytes(&mut line.served, b"before").await;
    line.proxy.plan(Direction::ToServer, Plan::new().at(2, StreamFault::Freeze));
    line.client.write_all(b"after").await.unwrap();
    expect_bytes(&mut line.served, b"af").await;
    expect_silence(&mut line.served).await;
    line.proxy.plan(Direction::ToServer, Plan::new().at(1, StreamFault::Swallow));
    expect_bytes(&mut line.served, b"t").await;
    expect_silence(&mut line.served).await;
    line.proxy.plan(Direction::ToServer, Plan::new().at(0, StreamFault::Reset));
    is_reset(&mut line.served).await;
    is_reset(&mut line.client).await;
}

#[tokio::test]
async fn close_all_and_reset_all_end_open_connections() {
    let mut line = Line::open().await;
    line.served.write_all(b"unread").await.unwrap();
    until(|| line.proxy.forwarded(Direction::ToClient) == 6).await;
    line.proxy.close_all();
    hears_the_end(&mut line.served).await;
    expect_bytes(&mut line.client, b"unread").await;
    hears_the_end(&mut line.client).await;
    until(|| line.proxy.open() == 0).await;
    let (mut client, mut served) = line.another().await;
    line.proxy.reset_all();
    is_reset(&mut client).await;
    is_reset(&mut served).await;
    until(|| line.proxy.open() == 0).await;
    // Commands affect the connections that are open at that time.
    let (mut client, mut served) = line.another().await;
    client.write_all(b"again").await.unwrap();
    expect_bytes(&mut served, b"again").await;
    assert_eq!((line.proxy.accepted(), line.proxy.open()), (3, 1));
}

#[tokio::test]
async fn stranded_connections_lose_everything_and_new_ones_work() {
    let mut line = Line::open().await;
    line.client.write_all(b"before").await.unwrap();
    expect_bytes(&mut line.served, b"before").await;
    line.proxy.strand_all();
    let (mut client, mut served) = line.another().await;
    client.write_all(b"works").await.unwrap();
    expect_bytes(&mut served, b"works").await;
    // By now the other connections are stranded.
    line.client.write_all(b"lost").await.unwrap();
    line.served.write_all(b"lost, too").await.unwrap();
    expect_silence(&mut line.client).await;
    line.client.shutdown().await.unwrap();
    expect_silence(&mut line.served).await;
    assert_eq!(line.proxy.open(), 2);
    line.proxy.strand_all();
    client.write_all(b"lost").await.unwrap();
    expect_silence(&mut served).await;
    line.proxy.reset_all();
    is_reset(&mut line.served).await;
    is_reset(&mut client).await;
    is_reset(&mut served).await;
    let (mut client, mut served) = line.another().await;
    served.write_all(b"again").await.unwrap();
    expect_bytes(&mut client, b"again").await;
}

#[tokio::test]
async fn new_connections_are_refused_reset_or_ignored() {
    let mut line = Line::open().await;
    let addr = line.proxy.addr();
    for _ in 0..3 {
        line.proxy.on_connect(OnConnect::Refuse).await.unwrap();
        let error = TcpStream::connect(addr).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(TcpListener::bind(addr).await.is_err(), "the port stays taken");
        line.proxy.on_connect(OnConnect::Reset).await.unwrap();
        is_reset(&mut TcpStream::connect(addr).await.unwrap()).await;
    }
    line.proxy.on_connect(OnConnect::Ignore).await.unwrap();
    let mut ignored = TcpStream::connect(addr).await.unwrap();
    ignored.write_all(b"anybody?").await.unwrap();
    expect_silence(&mut ignored).await;
    assert!(timeout(NOTHING, line.server.accept()).await.is_err(), "the server doesn't hear of it");
    // The former connection survives all of that.
    line.client.write_all(b"still here").await.unwrap();
    expect_bytes(&mut line.served, b"still here").await;
    line.proxy.on_connect(OnConnect::Forward).await.unwrap();
    let (mut client, mut served) = line.another().await;
    served.write_all(b"welcome").await.unwrap();
    expect_bytes(&mut client, b"welcome").await;
}

#[tokio::test]
async fn an_unreachable_server_resets_the_connection() {
    let line = Line::open().await;
    drop(line.server);
    is_reset(&mut TcpStream::connect(line.proxy.addr()).await.unwrap()).await;
}

#[tokio::test]
async fn dropping_a_proxy_ends_everything() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut line = Line::open().await;
    let (_frozen, _served) = line.another().await;
    line.proxy.plan_both(Plan::new().freeze());
    assert!(tasks() > before);
    let addr = line.proxy.addr();
    drop(line.proxy);
    is_reset(&mut line.client).await;
    is_reset(&mut line.served).await;
    until(|| tasks() == before).await;
    assert!(TcpListener::bind(addr).await.is_ok(), "the port is free again");
}

//! A transport of one's own: the brokers are behind an HTTP proxy, and connections to them are tunnels that
//! its `CONNECT` opens.
//!
//! ```text
//! cargo run -p metaq-examples --example custom_transport
//! ```
//!
//! starts a broker and a proxy. It prints where orders are stored that went through the proxy, and its
//! tunnels. Pipelining, heartbeats and reconnecting are those of `StreamTransport`; only dialling is new.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use async_trait::async_trait;
use metaq_producer::{BrokerAddr, Message, Outcome, Producer, Topic};
use metaq_testkit::Broker;
use metaq_transport::{ConnectionConfig, Dialer, StreamTransport};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

/// The longest head of a request or response of HTTP that is read.
const MAX_HEAD: usize = 8 * 1024;

/// Dials brokers through an HTTP proxy.
#[derive(Debug)]
struct HttpTunnel {
    proxy: SocketAddr,
}

#[async_trait]
impl Dialer for HttpTunnel {
    type Stream = TcpStream;

    // When this fails, it is called again after a pause. `connect_timeout` limits it.
    async fn dial(&self, broker: &BrokerAddr) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.proxy).await?;
        stream.set_nodelay(true)?;
        let target = format!("{}:{}", broker.host(), broker.port());
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let head = read_head(&mut stream).await?;
        match head.split(' ').nth(1) {
            Some("200") => Ok(stream),
            _ => Err(io::Error::other(format!(
                "the proxy refuses a tunnel to {target}: {}",
                head.lines().next().unwrap_or_default()
            ))),
        }
    }
}

/// Reads a head byte by byte, so that nothing behind it is taken.
async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the head is too long"));
        }
        head.push(stream.read_u8().await?);
    }
    String::from_utf8(head).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The proxy: opens one tunnel, and counts it.
async fn open_tunnel(mut client: TcpStream, opened: Arc<AtomicUsize>) -> io::Result<()> {
    let head = read_head(&mut client).await?;
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let Some(target) = target else {
        return client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n").await;
    };
    let mut server = TcpStream::connect(target).await?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    opened.fetch_add(1, Ordering::Relaxed);
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

#[tokio::main]
async fn main() -> Result<()> {
    let broker = Broker::builder().topic("orders", 1).start().await?;
    let proxy = TcpListener::bind("127.0.0.1:0").await?;
    let dialer = HttpTunnel { proxy: proxy.local_addr()? };
    let opened = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&opened);
    tokio::spawn(async move {
        while let Ok((client, _)) = proxy.accept().await {
            // A tunnel ends with an error when one of its ends breaks off.
            tokio::spawn(open_tunnel(client, Arc::clone(&counter)));
        }
    });

    let transport = StreamTransport::new(dialer, ConnectionConfig::default());
    let producer = Producer::builder().broker(broker.addr().clone()).transport(transport).build()?;
    let orders: Topic = "orders".parse()?;
    producer.publish_topic(&orders).await?;
    for order in ["one coffee", "one tea"] {
        match producer.send(Message::new(orders.clone(), order)).await {
            Ok(receipt) => println!("{order} is stored at byte {}", receipt.offset),
            Err(error) if error.outcome() == Outcome::Unknown => bail!("{order} may be stored: {error}"),
            Err(error) => bail!("{order} is not stored: {error}"),
        }
    }
    producer.close(Duration::from_secs(5)).await;
    let (opened, addr) = (opened.load(Ordering::Relaxed), broker.addr());
    println!("the proxy has opened {opened} tunnel(s) to {}:{}", addr.host(), addr.port());
    Ok(())
}

//! The rate at which a broker that is away is dialled.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use metaq_protocol::BrokerAddr;
use metaq_transport::{ConnectionConfig, Dialer, StreamTransport, Transport as _};
use tokio::{io::DuplexStream, time::Instant};

/// Records when it was called, and always fails.
#[derive(Clone, Debug, Default)]
struct InVain(Arc<Mutex<Vec<Instant>>>);

#[async_trait]
impl Dialer for InVain {
    type Stream = DuplexStream;

    async fn dial(&self, _: &BrokerAddr) -> io::Result<DuplexStream> {
        self.0.lock().unwrap().push(Instant::now());
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_returns_late_is_noticed_within_500_ms() {
    let dials = InVain::default();
    let transport = StreamTransport::new(dials.clone(), ConnectionConfig::default());
    let addr = BrokerAddr::new("away", 8123).unwrap();
    let _connection = transport.connect(&addr).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let dials = dials.0.lock().unwrap();
    let longest = dials.windows(2).map(|two| two[1] - two[0]).max().unwrap();
    assert!(longest <= Duration::from_millis(510), "it was not tried for {longest:?}");
    let mean = Duration::from_secs(600) / dials.len() as u32;
    assert!(mean >= Duration::from_millis(200), "it was tried every {mean:?}");
}

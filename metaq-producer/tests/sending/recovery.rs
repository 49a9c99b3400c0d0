//! A broker that is back is used as if nothing had been.

use std::time::Duration;

use metaq_testkit::{Fault, Requests};
use tokio::time::Instant;

use crate::common::{cluster::Cluster, message, topic, until};

#[tokio::test(start_paused = true)]
async fn returning_broker_is_used_at_once_despite_old_refusals() {
    let cluster = Cluster::new(2, |config| config.send_timeout = Duration::from_millis(500)).await;
    let (healthy, failing) = (&cluster.brokers[0], &cluster.brokers[1]);
    for fault in [Fault::refuse(403, "closed"), Fault::refuse(503, "busy"), Fault::Ignore] {
        let failed = failing.faults().plan(Requests::puts(), fault.clone());
        let before = failing.messages("t").len();
        for n in 0..40 {
            // One that is never answered may be stored, and is not sent again.
            let _ = cluster.producer.send(message(format!("{n}"))).await;
        }
        assert!(failed.met() > 0 && failing.messages("t").len() == before, "{fault:?}");
        failing.faults().heal();
        let connections = failing.accepted_connections();
        failing.faults().close_connections();
        until(async || {
            failing.accepted_connections() > connections && cluster.producer.partitions(&topic()).len() == 4
        })
        .await;
        let back = Instant::now();
        let mut stored = 0;
        for n in 0..8 {
            let receipt = cluster.producer.send(message(format!("{n}"))).await.unwrap();
            stored += usize::from(receipt.broker == *failing.addr());
        }
        assert_eq!(stored, 4, "{fault:?}: each takes its half");
        assert!(back.elapsed() < Duration::from_millis(100), "{:?}", back.elapsed());
        assert_eq!(healthy.accepted_connections(), 1);
    }
}

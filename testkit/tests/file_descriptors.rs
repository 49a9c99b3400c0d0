//! Few descriptors are enough. The limit holds for the whole process, so this file has one test.
#![cfg(feature = "peers")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod wire;

use metaq_testkit::Broker;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use wire::Client;

#[tokio::test]
async fn many_segments_and_partitions_need_few_descriptors() {
    const PUTS: usize = 300;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let builder = || {
        Broker::builder().topic("t", 1).topic("wide", PUTS as u32).max_segment_size(1).data_dir(folder.path())
    };
    let broker = builder().start_without_port().unwrap();
    let mut client = Client::new(broker.connect());
    for _ in 0..PUTS {
        let answer = client.ask("put t 0 5 0 -1 1\r\nhello").await;
        assert!(answer.starts_with("200"), "{answer}");
    }
    for partition in 0..PUTS {
        let answer = client.ask(format!("put wide {partition} 5 0 -1 1\r\nhello")).await;
        assert!(answer.starts_with("200"), "{answer}");
    }
    let before = [broker.messages("t"), broker.messages("wide")];
    assert_eq!(before.each_ref().map(Vec::len), [PUTS; 2]);
    broker.shut_down().await.unwrap();
    let broker = builder().start_without_port().unwrap();
    assert_eq!([broker.messages("t"), broker.messages("wide")], before);
}

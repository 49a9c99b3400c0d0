//! What a flush waits for.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::FutureExt as _;
use metaq_producer::{Producer, ProducerConfig};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use tokio::{runtime::Handle, sync::Notify, time::Instant};

use super::{SOON, message, options, pinned, start, topic, until};
use crate::{Sent, SpoolHandle, SpoolingProducer, storage::Storage, store::memory::MemoryStore};

/// A spool whose broker answers nothing until it refuses.
async fn open(storage: Storage) -> (SpoolingProducer, Broker) {
    let registry = EmbeddedRegistry::new();
    let broker = Broker::builder().topic("t", 4).register_with(&registry).start_without_port().unwrap();
    let mut config = ProducerConfig::default();
    config.send_timeout = SOON;
    config.retry.max_attempts = 1;
    let builder = Producer::builder().discovery(registry.discovery()).transport(registry.transport());
    let producer = builder.config(config).build().unwrap();
    let spool = SpoolingProducer::start(producer, options(), storage, Handle::current());
    spool.publish_topic(&topic()).await.unwrap();
    broker.faults().freeze();
    broker.faults().plan(Requests::puts(), Fault::refuse(503, "busy"));
    (spool, broker)
}

/// Polls a handle whose message has no outcome yet.
async fn poll_once(handle: &mut SpoolHandle) {
    poll_fn(|cx| {
        assert!(handle.poll_unpin(cx).is_pending());
        Poll::Ready(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flush_waits_for_a_task_that_has_not_run_since_the_outcome() {
    let (spool, broker) = open(start(&options(), &MemoryStore::default())).await;
    let runs = Arc::new(Notify::new());
    let mut handle = spool.enqueue(message("a")).await.unwrap();
    poll_once(&mut handle).await;
    let awaiting = tokio::spawn({
        let runs = Arc::clone(&runs);
        async move {
            // As on a machine that has no time for it.
            runs.notified().await;
            handle.await
        }
    });
    broker.faults().thaw();
    let mut flush = std::pin::pin!(spool.flush());
    let early = tokio::time::timeout(Duration::from_millis(300), flush.as_mut()).await;
    assert!(early.is_err(), "flushed while {} message has no outcome", spool.stats().in_flight);
    runs.notify_one();
    flush.await;
    let stats = spool.stats();
    assert_eq!((stats.in_flight, stats.spooled), (0, 1), "{stats:?}");
    assert!(matches!(awaiting.await.unwrap(), Ok(Sent::Spooled(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_that_tasks_await_is_outside_after_a_flush() {
    const TASKS: usize = 500;
    let (spool, broker) = open(start(&options(), &MemoryStore::default())).await;
    let polled = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|n| {
            let (spool, polled) = (spool.clone(), Arc::clone(&polled));
            tokio::spawn(async move {
                let mut handle = spool.enqueue(message(n.to_string())).await.unwrap();
                poll_once(&mut handle).await;
                polled.fetch_add(1, Ordering::AcqRel);
                handle.await
            })
        })
        .collect();
    while polled.load(Ordering::Acquire) < TASKS {
        tokio::task::yield_now().await;
    }
    broker.faults().thaw();
    // Several at the same time, the last one included that is given up.
    let (first, second) = (spool.flush(), spool.flush());
    let given_up = tokio::time::timeout(Duration::from_millis(1), spool.flush());
    let _ = tokio::join!(first, second, given_up);
    let stats = spool.stats();
    assert_eq!((stats.in_flight, stats.failed), (0, 0), "{stats:?}");
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_flush_gives_up_a_handle_that_is_polled_no_further() {
    let storage = Storage::start_on_task(&options(), Box::new(MemoryStore::default()), || Duration::ZERO);
    let (spool, broker) = open(storage.unwrap()).await;
    broker.faults().heal();
    let kept = spool.enqueue(message("kept")).await.unwrap();
    let began = Instant::now();
    spool.flush().await;
    assert!(began.elapsed() < Duration::from_secs(1), "it was never polled: {:?}", began.elapsed());
    broker.faults().freeze();
    let mut put_away = spool.enqueue(message("put away")).await.unwrap();
    poll_once(&mut put_away).await;
    broker.faults().thaw();
    for _ in 0..2 {
        let began = Instant::now();
        spool.flush().await;
        let took = began.elapsed();
        assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&took), "{took:?}");
    }
    drop((kept, put_away));
    let began = Instant::now();
    spool.flush().await;
    assert!(began.elapsed() < Duration::from_secs(1), "both were dropped: {:?}", began.elapsed());
    assert_eq!(spool.stats().in_flight, 0);
}

/// Four tasks that send one message after the other keep no flush waiting.
async fn flush_beside_senders(is_ordered: bool) {
    let broker = Broker::builder().topic("t", 4).start_without_port().unwrap();
    let builder = Producer::builder().discovery(broker.discovery()).transport(broker.transport());
    let (mut options, store) = (options(), MemoryStore::default());
    options.ordered = is_ordered;
    let storage = start(&options, &store);
    let spool = SpoolingProducer::start(builder.build().unwrap(), options, storage, Handle::current());
    spool.publish_topic(&topic()).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let (spool, is_over) = (spool.clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut last = None;
                while !is_over.load(Ordering::Acquire) {
                    // Two at a time: one has no outcome whenever that is looked at.
                    let next = spool.enqueue(pinned("m", sender)).await.unwrap();
                    if let Some(last) = last.replace(next) {
                        last.await.unwrap();
                    }
                }
                if let Some(last) = last {
                    last.await.unwrap();
                }
            })
        })
        .collect();
    until("nothing is sent", || !broker.messages("t").is_empty()).await;
    for _ in 0..20 {
        let flushed = tokio::time::timeout(SOON, async { tokio::join!(spool.flush(), spool.flush()) }).await;
        assert!(flushed.is_ok(), "newer messages keep it waiting");
    }
    is_over.store(true, Ordering::Release);
    for sender in senders {
        sender.await.unwrap();
    }
    spool.flush().await;
    assert_eq!(spool.stats().in_flight, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flush_ends_while_others_send() {
    flush_beside_senders(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flush_ends_while_others_send_in_order() {
    flush_beside_senders(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flush_ends_though_the_runtime_of_the_spool_has_ended() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let opened = runtime.spawn(async {
        let (spool, broker) = open(start(&options(), &MemoryStore::default())).await;
        let mut awaited = spool.enqueue(message("awaited")).await.unwrap();
        poll_once(&mut awaited).await;
        // One task goes on with what is dropped, another one with what it was given.
        drop(awaited);
        let mut awaited = spool.enqueue(message("awaited")).await.unwrap();
        poll_once(&mut awaited).await;
        tokio::spawn(awaited);
        drop(spool.enqueue(message("dropped")).await.unwrap());
        (spool, broker)
    });
    let (spool, _broker) = opened.await.unwrap();
    runtime.shutdown_background();
    let flushed = tokio::time::timeout(SOON, spool.flush()).await;
    assert!(flushed.is_ok(), "{:?}", spool.stats());
}

//! Transactions outside of a tokio runtime: an error instead of a panic, and all is well afterwards.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::{Duration, Instant},
};

use metaq_producer::{
    Producer,
    transaction::{TransactionErrorKind, TransactionOptions, TransactionOutcome},
    xa::{UniqueQualifier, XaEnd, XaErrorCode, XaProducer, XaStart, XaVote},
};
use metaq_protocol::TransactionAction;
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use tokio::runtime::Runtime;

use crate::common::{message, topic, watchdog::block_on};

fn start(runtime: &Runtime) -> (Broker, Producer) {
    let registry = EmbeddedRegistry::new();
    let broker = Broker::builder().topic("t", 3).register_with(&registry).start();
    let broker = runtime.block_on(broker).unwrap();
    let producer = Producer::builder().discovery(registry.discovery()).build().unwrap();
    runtime.block_on(producer.publish_topic(&topic())).unwrap();
    (broker, producer)
}

fn wait_until(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "the condition is not reached");
        thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn local_transactions_need_a_runtime_and_resume_within_one() {
    let runtime = Runtime::new().unwrap();
    let (broker, producer) = start(&runtime);
    let rollbacks = Requests::transactions(Some(TransactionAction::Rollback));
    let rollbacks = broker.faults().plan(rollbacks, Fault::Late(Duration::ZERO));
    let no_runtime = |error: metaq_producer::transaction::TransactionError| {
        assert_eq!(error.kind(), TransactionErrorKind::NoRuntime, "{error}");
        assert!(error.to_string().contains("tokio runtime"), "{error}");
        error.outcome()
    };
    let mut transaction = producer.begin(TransactionOptions::new());
    for _ in 0..2 {
        assert_eq!(
            no_runtime(block_on(transaction.send(message("x"))).unwrap_err()),
            TransactionOutcome::Open
        );
        let error = block_on(transaction.send_all([message("x"), message("x")])).unwrap_err();
        assert_eq!(no_runtime(error), TransactionOutcome::Open);
        runtime.block_on(transaction.send(message("x"))).unwrap();
    }
    runtime.block_on(transaction.commit()).unwrap();
    assert_eq!(broker.messages("t").len(), 2);

    // Ends that were tried there are rolled back by the runtime in which it began.
    let begun = || {
        let mut transaction = producer.begin(TransactionOptions::new());
        runtime.block_on(transaction.send(message("x"))).unwrap();
        transaction
    };
    assert_eq!(no_runtime(block_on(begun().commit()).unwrap_err()), TransactionOutcome::RolledBack);
    wait_until(|| rollbacks.met() == 1);
    assert_eq!(no_runtime(block_on(begun().rollback()).unwrap_err()), TransactionOutcome::RolledBack);
    wait_until(|| rollbacks.met() == 2);
    drop(begun());
    wait_until(|| rollbacks.met() == 3);
    assert_eq!(broker.messages("t").len(), 2);
    assert_eq!(runtime.block_on(producer.stats()).messages.queued, 0);
}

#[test]
fn drop_without_timers_rolls_back_on_the_first_runtime() {
    let runtime = Runtime::new().unwrap();
    let (broker, producer) = start(&runtime);
    let without_timers = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let asked = || Requests::transactions(Some(TransactionAction::Rollback));
    let rollbacks = broker.record(asked());
    broker.faults().plan(asked().first(1), Fault::refuse(503, "busy"));
    let mut transaction = producer.begin(TransactionOptions::new().without_timeout());
    runtime.block_on(transaction.send(message("x"))).unwrap();
    without_timers.block_on(async { drop(transaction) });
    // The first attempt is refused.
    wait_until(|| rollbacks.count() == 2);
    let panicked = catch_unwind(AssertUnwindSafe(|| without_timers.block_on(tokio::task::yield_now())));
    assert!(panicked.is_ok());
}

#[test]
fn the_wait_for_a_broker_fails_outside_of_a_runtime_too() {
    let runtime = Runtime::new().unwrap();
    let (broker, producer) = start(&runtime);
    broker.faults().refuse_connections(true);
    broker.faults().close_connections();
    wait_until(|| producer.partitions(&topic()).is_empty());
    let mut transaction = producer.begin(TransactionOptions::new());
    let error = block_on(transaction.send(message("x"))).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (TransactionErrorKind::NoRuntime, TransactionOutcome::Open));
}

#[test]
fn xa_transactions_need_a_runtime_and_resume_within_one() {
    let runtime = Runtime::new().unwrap();
    let (_broker, producer) = start(&runtime);
    let xa = XaProducer::new(&producer, UniqueQualifier::new("q").unwrap());
    let error = block_on(xa.publish_topic(&topic())).unwrap_err();
    assert!(error.to_string().contains("tokio runtime"), "{error}");
    runtime.block_on(xa.publish_topic(&topic())).unwrap();
    let mut resource = xa.resource().unwrap();
    let xid = xa.xid(1, b"g", b"b").unwrap();
    let no_runtime = |error: metaq_producer::xa::XaError| {
        assert_eq!((error.code(), error.is_unknown()), (XaErrorCode::RMFAIL, false), "{error}");
        assert!(error.to_string().contains("tokio runtime"), "{error}");
    };
    no_runtime(block_on(resource.start(&xid, XaStart::New)).unwrap_err());
    runtime.block_on(resource.start(&xid, XaStart::New)).unwrap();
    no_runtime(block_on(resource.send(message("x"))).unwrap_err());
    runtime.block_on(resource.send(message("x"))).unwrap();
    block_on(resource.end(&xid, XaEnd::Success)).unwrap();
    no_runtime(block_on(resource.prepare(&xid)).unwrap_err());
    assert_eq!(runtime.block_on(resource.prepare(&xid)).unwrap(), XaVote::Prepared);
    no_runtime(block_on(resource.recover()).unwrap_err());
    let mut recovery = block_on(xa.recover());
    assert!(recovery.transactions.is_empty());
    no_runtime(recovery.failures.pop().unwrap().1);
    no_runtime(block_on(resource.commit(&xid, false)).unwrap_err());
    no_runtime(block_on(resource.rollback(&xid)).unwrap_err());
    no_runtime(block_on(resource.forget(&xid)).unwrap_err());
    assert_eq!(runtime.block_on(xa.recover()).transactions.len(), 1);
    runtime.block_on(resource.commit(&xid, false)).unwrap();
}

#[test]
fn a_panic_that_was_caught_leaves_nothing_damaged() {
    let runtime = Runtime::new().unwrap();
    let (broker, producer) = start(&runtime);
    let mut transaction = producer.begin(TransactionOptions::new());
    runtime.block_on(transaction.send(message("x"))).unwrap();
    let panics =
        std::iter::once_with(|| message("x")).chain(std::iter::once_with(|| panic!("no more messages")));
    let sending = catch_unwind(AssertUnwindSafe(|| runtime.block_on(transaction.send_all(panics))));
    assert!(sending.is_err());
    runtime.block_on(transaction.send(message("x"))).unwrap();
    let receipt = runtime.block_on(transaction.commit()).unwrap();
    assert_eq!((receipt.messages, broker.messages("t").len()), (3, 3));
}

//! A message that is offered by the destructor of a thread-local. Alone in its process: once any test has
//! paused tokio's clock, to ask for the time panics there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::RefCell;

use metaq_producer::{Message, Outcome, Producer, failure::DropCounter};

fn message(payload: &'static str) -> Message {
    Message::new("t".parse().unwrap(), payload)
}

#[test]
fn a_thread_may_offer_as_it_ends() {
    struct OffersAtEnd(Producer, Vec<Message>);
    impl Drop for OffersAtEnd {
        fn drop(&mut self) {
            for message in self.1.drain(..) {
                assert!(!self.0.offer(message));
            }
        }
    }
    thread_local! {
        static LAST: RefCell<Option<OffersAtEnd>> = const { RefCell::new(None) };
    }
    let dropped = DropCounter::new();
    let producer = Producer::builder().broker("meta://127.0.0.1:1".parse().unwrap());
    let producer = producer.failure_handler(dropped.clone()).build().unwrap();
    let offers = OffersAtEnd(producer.clone(), vec![message("1"), message("2")]);
    let thread = std::thread::spawn(move || {
        // Its destructor runs after those of what the producer keeps for the thread.
        LAST.set(Some(offers));
        assert!(!producer.offer(message("0")));
    });
    thread.join().unwrap();
    assert_eq!(dropped.count(Outcome::NotSent), 3);
}

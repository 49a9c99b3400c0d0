//! Tests of the example itself.

use super::*;

const PARENT: TraceParent = TraceParent { trace: 0xabc, span: 0xd, sampled: false };

#[test]
fn only_formatted_contexts_are_parsed() {
    let text = PARENT.to_text();
    assert_eq!(text, "00-00000000000000000000000000000abc-000000000000000d-00");
    assert_eq!(TraceParent::parse(&text), Some(PARENT));
    for bad in [
        "",
        "00",
        "00-0-0-0",
        &text[1..],
        &format!("{text}-"),
        &text.replace("00-", "01-"),
        &text.to_uppercase(),
    ] {
        assert_eq!(TraceParent::parse(bad), None, "{bad}");
    }
}

#[test]
fn the_program_runs_to_its_end() {
    main().unwrap();
}

#[tokio::test]
async fn each_message_has_the_trace_context_of_its_task() {
    let broker = Broker::builder().topic("t", 1).start_without_port().unwrap();
    let producer = Producer::builder().discovery(broker.discovery()).transport(broker.transport());
    let producer = producer.interceptor(TraceContext).build().unwrap();
    let topic: Topic = "t".parse().unwrap();
    producer.publish_topic(&topic).await.unwrap();
    let sends = (1..=20).map(|n| {
        let parent = TraceParent { span: n, ..PARENT };
        let mut message = Message::new(topic.clone(), n.to_string());
        if n.is_multiple_of(2) {
            // As if another request had failed to send it before.
            message.set_attribute(format!("own {n};{FIELD}{}", PARENT.to_text()));
        }
        let producer = producer.clone();
        tokio::spawn(REQUEST.scope(parent, async move { producer.send(message).await }))
    });
    for send in sends.collect::<Vec<_>>() {
        send.await.unwrap().unwrap();
    }
    let stored = broker.messages("t");
    assert_eq!(stored.len(), 20);
    for message in stored {
        let n: u64 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
        let (own, parent) = split_attribute(message.attribute.as_deref().unwrap());
        assert_eq!(parent, Some(TraceParent { span: n, ..PARENT }));
        assert_eq!(own, if n.is_multiple_of(2) { format!("own {n}") } else { String::new() });
    }
}

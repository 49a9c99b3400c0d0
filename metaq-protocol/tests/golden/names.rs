//! `txid.jsonl`, `partition.jsonl`, `broker.jsonl`: names as text.

use std::cmp::Ordering;

use metaq_protocol::{BrokerAddr, Partition, TransactionId};
use serde_json::{Value, json};

use crate::{
    fields::{hex, int, text, transaction_id_fields},
    run::{self, Outcome},
};

#[test]
fn transaction_ids_equal_those_of_java() {
    run::all("txid", 130, |case| {
        let id = match case["op"].as_str().unwrap() {
            "parse" => text(case, "text").unwrap().parse::<TransactionId>(),
            "format_local" => match i32::try_from(case["value"].as_i64().unwrap()) {
                Ok(number) => TransactionId::local(text(case, "session").unwrap(), number),
                Err(error) => return Outcome::refused(error),
            },
            "format_xa" => {
                let (gtrid, bqual) = (hex(text(case, "gtrid").unwrap()), hex(text(case, "bqual").unwrap()));
                let qualifier = text(case, "qualifier").unwrap_or_default();
                TransactionId::xa(int(case, "format_id"), &gtrid, &bqual, qualifier)
            }
            other => panic!("no operation {other}"),
        };
        match (id, case["outcome"] == "ok") {
            (Err(error), true) => return Outcome::refused(error),
            (Err(_), false) => {}
            (Ok(id), ok) => {
                assert!(ok, "not refused");
                let key = case["key"].as_str().or_else(|| case["tx"]["key"].as_str());
                assert_eq!(Some(id.as_str()), key);
                if case["op"] == "parse" {
                    assert_eq!(transaction_id_fields(&id), case["tx"]);
                }
                assert_eq!(id.as_str().parse(), Ok(id));
            }
        }
        Outcome::Same
    });
}

#[test]
fn partitions_equal_those_of_java() {
    run::all("partition", 55, |case| {
        match case["op"].as_str().unwrap() {
            "parse" => match text(case, "text").unwrap().parse::<Partition>() {
                Ok(partition) => {
                    assert_eq!(case["outcome"], "ok");
                    assert_eq!(partition, Partition::new(int(case, "broker_id"), int(case, "partition")));
                }
                Err(_) => assert_eq!(case["outcome"], "error"),
            },
            "format" => {
                let partition = Partition::new(int(case, "broker_id"), int(case, "partition"));
                assert_eq!(partition.to_string(), case["text"].as_str().unwrap());
            }
            "compare" => {
                let partition = |side| text(case, side).unwrap().parse::<Partition>().unwrap();
                let order = match partition("left").cmp(&partition("right")) {
                    Ordering::Less => -1,
                    Ordering::Equal => 0,
                    Ordering::Greater => 1,
                };
                assert_eq!(json!(order), case["order"]);
            }
            other => panic!("no operation {other}"),
        }
        Outcome::Same
    });
}

#[test]
fn broker_addresses_equal_those_of_java() {
    run::all("broker", 56, |case| match case["op"].as_str().unwrap() {
        "parse" => parse_broker(case),
        "format" => match BrokerAddr::new(text(case, "host").unwrap(), int(case, "port")) {
            Ok(addr) => {
                assert_eq!(addr.to_string(), case["text"].as_str().unwrap());
                Outcome::Same
            }
            Err(error) => Outcome::refused(error),
        },
        other => panic!("no operation {other}"),
    });
}

fn parse_broker(case: &Value) -> Outcome {
    match (BrokerAddr::parse_with_slave_id(text(case, "text").unwrap()), case["outcome"] == "ok") {
        (Err(_), false) => {}
        (Err(error), true) => return Outcome::refused(error),
        (Ok((addr, slave_id)), ok) => {
            assert!(ok, "not refused");
            assert_eq!(json!(slave_id.is_some()), case["is_slave"]);
            assert_eq!(json!(slave_id.unwrap_or(-1)), case["slave_id"]);
            // Java finds no host in an address with an underscore; we can connect to it.
            let Some(host) = text(case, "host") else {
                assert!(addr.host().contains('_'));
                return Outcome::Same;
            };
            assert_eq!(addr.host(), host.trim_matches(['[', ']']));
            assert_eq!(json!(addr.port()), case["port"]);
            assert_eq!(addr.to_string(), case["text_again"].as_str().unwrap());
        }
    }
    Outcome::Same
}

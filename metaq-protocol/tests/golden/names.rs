//! The text forms of transaction ids, partitions and brokers.

use metaq_protocol::{
    BrokerAddr, BrokerUri, LocalTransactionId, Partition, TransactionId, XaTransactionId,
    json::transaction_id,
};
use serde_json::Value;

use crate::{hex, run, same};

/// That both refuse, or both give the same.
fn agree<T: PartialEq + std::fmt::Debug>(ours: Result<T, String>, java: Option<T>) -> Result<(), String> {
    match (ours, java) {
        (Ok(ours), Some(java)) => same("value", ours, java),
        (Err(_), None) => Ok(()),
        (ours, java) => Err(format!("{ours:?} here, {java:?} in Java")),
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn txid() {
    run("txid", include_str!("../vectors/txid.jsonl"), |case| {
        let text = |key: &str| case[key].as_str().unwrap_or_default();
        let java_key = case["key"].as_str().map(str::to_owned);
        match text("op") {
            "parse" => {
                let ours = text("text").parse().map(|id: TransactionId| transaction_id(&id));
                agree(ours.map_err(|error| error.to_string()), case.get("tx").cloned())
            }
            "format_local" => {
                let number =
                    i32::try_from(case["value"].as_i64().unwrap()).map_err(|error| error.to_string());
                let id = number.and_then(|number| {
                    LocalTransactionId::new(text("session"), number).map_err(|error| error.to_string())
                });
                agree(id.map(|id| TransactionId::from(id).to_string()), java_key)
            }
            _ => {
                let format_id = case["format_id"].as_i64().unwrap() as i32;
                let id = XaTransactionId::new(
                    format_id,
                    &hex(text("gtrid")),
                    &hex(text("bqual")),
                    text("qualifier"),
                );
                agree(
                    id.map(|id| TransactionId::from(id).to_string()).map_err(|error| error.to_string()),
                    java_key,
                )
            }
        }
    });
}

#[test]
fn partition() {
    run("partition", include_str!("../vectors/partition.jsonl"), |case| {
        let int = |key: &str| case[key].as_i64().map(|int| int as i32);
        let parse =
            |key: &str| case[key].as_str().unwrap().parse::<Partition>().map_err(|error| error.to_string());
        match case["op"].as_str().unwrap() {
            "parse" => {
                let java = int("broker_id")
                    .zip(int("partition"))
                    .map(|(broker, index)| Partition::new(broker, index));
                agree(parse("text"), java)
            }
            "format" => {
                let partition = Partition::new(int("broker_id").unwrap(), int("partition").unwrap());
                same("text", partition.to_string(), string(&case["text"]))
            }
            _ => same("order", parse("left")?.cmp(&parse("right")?) as i32, int("order").unwrap()),
        }
    });
}

#[test]
fn broker() {
    run("broker", include_str!("../vectors/broker.jsonl"), |case| {
        let host = |key: &str| case[key].as_str().unwrap_or_default().to_owned();
        let bare = |host: String| host.trim_matches(['[', ']']).to_owned();
        if case["op"] == "format" {
            let port = case["port"].as_i64().unwrap() as u16;
            let ours = BrokerAddr::new(&host("host"), port).map(|addr| addr.to_string());
            return agree(ours.map_err(|error| error.to_string()), case["text"].as_str().map(str::to_owned));
        }
        let ours = case["text"].as_str().unwrap().parse().map(|uri: BrokerUri| {
            let slave_id = uri.slave_id.map_or(-1, i64::from);
            let addr = &uri.addr;
            (
                addr.host().to_owned(),
                i64::from(addr.port()),
                slave_id,
                uri.slave_id.is_some(),
                addr.to_string(),
            )
        });
        let java = (case["outcome"] == "ok").then(|| {
            let (port, slave_id) = (case["port"].as_i64().unwrap(), case["slave_id"].as_i64().unwrap());
            (bare(host("host")), port, slave_id, case["is_slave"] == true, host("text_again"))
        });
        agree(ours.map_err(|error| error.to_string()), java)
    });
}

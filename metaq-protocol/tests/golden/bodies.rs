//! `body.jsonl`: the contents of the bodies of responses.

use metaq_protocol::{
    BooleanCommand, Opaque, PrepareVote, Status, Token, TransactionId, XaError, encode_recovered,
    encode_stats, parse_recovered, parse_stats,
};
use serde_json::{Map, Value, json};

use crate::{
    fields::{int, text, transaction_id_fields},
    run::{self, Outcome},
};

#[test]
fn bodies_are_parsed_as_by_java() {
    run::all("body", 51, |case| {
        let body = text(case, "body").unwrap_or_default();
        match case["op"].as_str().unwrap() {
            "xa_answer" => return xa_answer(case, body),
            "prepare_answer" => match PrepareVote::parse(body.as_bytes()) {
                Ok(vote) => assert_eq!(json!(vote.0), case["vote"]),
                Err(_) => assert_eq!(case["outcome"], "error"),
            },
            "recover_answer" => {
                // The Java client stops at the first line that it can't parse.
                let ids: Vec<_> = parse_recovered(body.as_bytes()).map_while(Result::ok).collect();
                let written = encode_recovered(&ids);
                assert!(parse_recovered(&written).map(Result::unwrap).eq(ids.iter().cloned()), "{written:?}");
                let ids: Vec<Value> =
                    ids.into_iter().map(|id| transaction_id_fields(&TransactionId::Xa(id))).collect();
                assert_eq!(json!(ids), case["xids"]);
            }
            "stats" => {
                let mut values = Map::new();
                for (key, value) in parse_stats(body.as_bytes()) {
                    values.insert(key.into(), value.as_deref().unwrap_or("NO VALUE").into());
                }
                assert_eq!(Value::Object(values), case["values"]);
                stats_again(body);
            }
            other => panic!("no operation {other}"),
        }
        Outcome::Same
    });
}

/// Statistics between `STATS` and `END` are encoded so that parsing yields the same, or refused.
fn stats_again(body: &str) {
    let figures: Vec<_> = parse_stats(body.as_bytes()).collect();
    let inner = match &figures[..] {
        [first, inner @ .., last] if (&*first.0, &*last.0) == ("STATS", "END") => inner,
        all => all,
    };
    match encode_stats(inner.iter().map(|(key, value)| (key, value.as_ref()))) {
        Ok(written) => {
            let mut read: Vec<_> = parse_stats(&written).collect();
            assert_eq!((&*read.pop().unwrap().0, &*read.remove(0).0), ("END", "STATS"));
            assert_eq!(read, inner);
        }
        Err(error) => assert!(error.field() == "value" || token_fails(error.text()), "{error}"),
    }
}

fn token_fails(text: &str) -> bool {
    Token::new(text).is_err()
}

fn xa_answer(case: &Value, body: &str) -> Outcome {
    let answer = BooleanCommand::new(Status(int(case, "code")), body.to_owned().into(), Opaque(1));
    let Some(error) = XaError::from_response(&answer) else {
        assert_eq!(case["outcome"], "ok");
        return Outcome::Same;
    };
    assert_eq!(case["outcome"], "xa_exception");
    if case["java_defect"] == json!(true) {
        // Java fails and reports its own failure; this crate reports the broker's text.
        assert_eq!((error.code, &*error.message), (XaError::RMERR, body));
        return Outcome::refused("Java's own exception");
    }
    assert_eq!(json!(error.code), case["xa_code"]);
    assert_eq!(json!(error.message), case["xa_message"]);
    Outcome::Same
}

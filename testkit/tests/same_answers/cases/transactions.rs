//! Transactions, step by step.

use super::{Case, Outcome, ask, closes, silent};

pub(super) fn local() -> Vec<Case> {
    let put = |rest: &str| ask(format!("put {rest}\r\nhello"));
    let step = |rest: &str| ask(format!("transaction {rest}\r\n"));
    vec![
        // Begun twice (B-14), prepared (B-17), and committed by the second phase (B-16).
        Case::new(
            "a local transaction",
            vec![
                step("TX:a:1 s BEGIN 1"),
                step("TX:a:1 s BEGIN 1"),
                put("test -1 5 0 -1 TX:a:1 2"),
                put("nope 0 5 0 -1 TX:a:1 2"),
                put("test 77 5 0 -1 TX:a:1 2"),
                put("test -2 5 0 -1 TX:a:1 2"),
                put("test 0 5 0 55 TX:a:1 3"),
                put("test 2 5 0 -1 TX:a:1 3"),
                put("test 1 5 1 -1 TX:a:1 3"),
                put("closed 1 5 0 -1 TX:a:1 3"),
                put("dyny 0 5 0 -1 TX:a:1 3"),
                ask("get dyny g 0 0 100 1\r\n"),
                step("TX:a:1 s PREPARE 4"),
                step("TX:a:1 s FORGET 5"),
                silent("transaction TX:a:1 s END 5\r\n"),
                step("TX:a:1 s RECOVER 6"),
                ask("get test g 0 0 1000 1\r\n"),
                step("TX:a:1 s COMMIT_TWO_PHASE 7"),
                ask("get test g 0 0 1000 1\r\n"),
                ask("get test g 1 0 1000 1\r\n"),
                ask("get dyny g 0 0 100 1\r\n"),
                step("TX:a:1 s COMMIT_ONE_PHASE 7"),
                step("TX:a:1 s ROLLBACK 7"),
                step("TX:a:1 s PREPARE 7"),
                put("test 0 5 0 -1 TX:a:1 3"),
            ],
        ),
        Case::new(
            "one that is rolled back",
            vec![
                step("TX:a:2 other BEGIN 30 1"),
                put("test 0 5 0 -1 TX:a:2 3"),
                step("TX:a:2 s ROLLBACK 7"),
                step("TX:a:2 s ROLLBACK 7"),
                ask("offset test g 0 99999 1\r\n"),
            ],
        ),
        Case::new(
            "one that is empty",
            vec![
                step("TX:a:3  BEGIN 30 q 1"),
                step("TX:a:3 s COMMIT_ONE_PHASE q 7"),
                step("TX::4 s BEGIN -5 1"),
                step("TX::4:: s COMMIT_ONE_PHASE 5 q 7"),
            ],
        ),
        Case::new(
            "one that goes with its connection",
            vec![step("TX:a:5 s BEGIN 1"), put("test 0 5 0 -1 TX:a:5 3"), closes("quit\r\n")],
        ),
        Case::new(
            "and is not there on the next",
            vec![step("TX:a:5 s COMMIT_ONE_PHASE 7"), ask("offset test g 0 99999 1\r\n")],
        ),
        Case::new(
            "no transaction",
            vec![
                step("null s BEGIN 1"),
                step("null s PREPARE 1"),
                step("null s COMMIT_ONE_PHASE 1"),
                step("null s COMMIT_TWO_PHASE 1"),
                step("null s ROLLBACK 1"),
                step("null s RECOVER 1"),
                step("null s FORGET 1"),
                silent("transaction null s END 1\r\n"),
            ],
        ),
    ]
}

/// One key on several connections: each begins it, and all put into the same list. No commit here adds two
/// messages to one partition, which `stats` would count differently.
pub(super) fn local_of_one_key() -> Vec<Case> {
    let put = |key: u32, partition: u32, text: &str| {
        ask(format!("put test {partition} {} 0 -1 TX:one:{key} 3\r\n{text}", text.len()))
    };
    let step = |key: u32, action: &str| ask(format!("transaction TX:one:{key} s {action} 1\r\n"));
    let stored = || ask("stats test 1\r\n");
    vec![
        Case::new(
            "the first commit stores the messages of both, the second what came since",
            vec![
                step(1, "BEGIN"),
                step(1, "BEGIN"),
                put(1, 0, "a"),
                put(1, 1, "b"),
                step(1, "COMMIT_ONE_PHASE"),
                stored(),
                put(1, 0, "late"),
                put(1, 2, "c"),
                step(1, "COMMIT_ONE_PHASE"),
                stored(),
                step(1, "COMMIT_ONE_PHASE"),
                step(1, "COMMIT_ONE_PHASE"),
            ],
        )
        .over([0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 0, 1]),
        Case::new(
            "a rollback drops the messages of both",
            vec![
                step(2, "BEGIN"),
                step(2, "BEGIN"),
                put(2, 0, "a"),
                put(2, 1, "b"),
                step(2, "ROLLBACK"),
                step(2, "COMMIT_ONE_PHASE"),
                stored(),
                ask("offset test g 0 99999 1\r\n"),
            ],
        )
        .over([0, 1, 0, 1, 1, 0, 0, 0]),
        Case::new(
            "what an ended connection left is stored by the next of the same key",
            vec![
                step(3, "BEGIN"),
                put(3, 0, "left"),
                closes("quit\r\n"),
                step(3, "COMMIT_ONE_PHASE"),
                step(3, "BEGIN"),
                put(3, 1, "new"),
                step(3, "COMMIT_ONE_PHASE"),
                stored(),
                ask("get test g 0 0 100000 1\r\n"),
            ],
        )
        .over([0, 0, 0, 1, 1, 1, 1, 1, 1]),
        // One thread of the broker handles all timeouts: when a later one has passed, the others are
        // complete.
        Case::new(
            "a timeout drops the messages of all, and of a connection that has ended",
            vec![
                step(4, "BEGIN 1"),
                put(4, 0, "left"),
                closes("quit\r\n"),
                step(4, "BEGIN 1"),
                put(4, 1, "mine"),
                step(4, "BEGIN"),
                put(4, 2, "dropped"),
                step(5, "BEGIN 2"),
                (b"transaction TX:one:5 s PREPARE 1\r\n".to_vec(), Outcome::Becomes("has not been started")),
                step(4, "PREPARE"),
                step(4, "COMMIT_ONE_PHASE"),
                stored(),
            ],
        )
        .over([0, 0, 0, 1, 1, 2, 2, 2, 2, 1, 2, 2]),
    ]
}

pub(super) fn xa() -> Vec<Case> {
    let put = |rest: &str| ask(format!("put {rest}\r\nhello"));
    let step = |rest: &str| ask(format!("transaction {rest}\r\n"));
    let x = "XID:1:aa:bb:q";
    let with = |action: &str| step(&format!("{x} s {action} 1"));
    // Not used again: messages after PREPARE wait for the next transaction of that name.
    let y = "XID:1:cc:dd:q";
    let with_y = |action: &str| step(&format!("{y} s {action} 1"));
    let put_in = |id: &str| put(&format!("test 0 5 0 -1 {id} 2"));
    vec![
        Case::new(
            "unknown",
            ["PREPARE", "COMMIT_ONE_PHASE", "COMMIT_TWO_PHASE", "ROLLBACK", "FORGET", "RECOVER"]
                .map(with)
                .into(),
        ),
        Case::new("the end of an unknown one", vec![silent(format!("transaction {x} s END 1\r\n"))]),
        Case::new(
            "empty, in one phase",
            ["BEGIN", "BEGIN", "COMMIT_TWO_PHASE", "COMMIT_ONE_PHASE", "COMMIT_ONE_PHASE"].map(with).into(),
        ),
        Case::new(
            "empty, in two phases",
            ["BEGIN", "PREPARE", "COMMIT_TWO_PHASE", "BEGIN", "ROLLBACK", "ROLLBACK"].map(with).into(),
        ),
        Case::new(
            "in two phases",
            vec![
                with_y("BEGIN"),
                put_in(y),
                with_y("COMMIT_TWO_PHASE"),
                with_y("PREPARE"),
                with_y("PREPARE"),
                with_y("BEGIN"),
                put_in(y),
                put(&format!("test 1 5 0 5 {y} 2")),
                with_y("RECOVER"),
                step("null s RECOVER q 1"),
                step("null s RECOVER zz 1"),
                step("null s RECOVER 5 1"),
                step("null s RECOVER 5 q 1"),
                step("null s RECOVER 5  1"),
                step("null s RECOVER -5 1"),
                with_y("FORGET"),
                silent(format!("transaction {y} s END q 1\r\n")),
                ask("offset test g 0 99999 1\r\n"),
                with_y("COMMIT_TWO_PHASE"),
                ask("offset test g 0 99999 1\r\n"),
                with_y("COMMIT_TWO_PHASE"),
                with_y("RECOVER"),
            ],
        ),
        Case::new(
            "in one phase, prepared all the same",
            vec![
                with("BEGIN"),
                put_in(x),
                with("PREPARE"),
                with("COMMIT_ONE_PHASE"),
                ask("get test g 0 0 1000 1\r\n"),
            ],
        ),
        Case::new("begun here", vec![step("XID:7:01::r s BEGIN q1 1"), put_in("XID:7:01::r")]),
        Case::new(
            "prepared there",
            vec![step("XID:7:01::r s PREPARE 1"), step("null s RECOVER q1 1"), step("null s RECOVER r 1")],
        ),
        Case::new(
            "rolled back elsewhere",
            vec![step("XID:7:01::r s ROLLBACK 1"), step("null s RECOVER r 1")],
        ),
        Case::new(
            "refused puts count as use",
            vec![
                with("BEGIN"),
                put(&format!("nope 0 5 0 -1 {x} 2")),
                put(&format!("test -1 5 0 -1 {x} 2")),
                with("PREPARE"),
                with("RECOVER"),
                with("ROLLBACK"),
            ],
        ),
        Case::new(
            "other spellings of an id",
            vec![
                step("XID:1:ABC::q s BEGIN 1"),
                put_in("XID:01:abc::q"),
                step("XID:1:ab::q s PREPARE 1"),
                step("null s RECOVER 1"),
                step("XID:1:aB0::q s ROLLBACK 1"),
                step("XID:1:-1+1:f: s BEGIN 1"),
                step("null s RECOVER 1"),
            ],
        ),
        Case::new(
            "several are recovered in their order",
            vec![
                step("XID:2:02:02:q s BEGIN 1"),
                put_in("XID:2:02:02:q"),
                step("XID:1:01:01:q s BEGIN 1"),
                put_in("XID:1:01:01:q"),
                step("XID:1:01:01:q s PREPARE 1"),
                step("XID:2:02:02:q s PREPARE 1"),
                step("null s RECOVER q 1"),
                step("XID:1:01:01:q s COMMIT_TWO_PHASE 1"),
                step("XID:2:02:02:q s COMMIT_TWO_PHASE 1"),
                ask("get test g 0 0 10000 1\r\n"),
            ],
        ),
    ]
}

/// A commit of two messages for one partition.
pub(super) fn batches() -> Case {
    let step = |rest: &str| ask(format!("transaction {rest}\r\n"));
    Case::new(
        "counts a commit as one message",
        vec![
            step("TX:b:1 s BEGIN 1"),
            ask("put single 0 5 0 -1 TX:b:1 2\r\nhello"),
            ask("put single 0 5 0 -1 TX:b:1 2\r\nhello"),
            step("TX:b:1 s COMMIT_ONE_PHASE 1"),
            ask("get single g 0 0 10000 1\r\n"),
            ask("stats single 1\r\n"),
        ],
    )
    .but("stats counts every message")
}

/// A message that arrives after the transaction was prepared.
pub(super) fn late_messages() -> Case {
    let step = |action: &str| ask(format!("transaction XID:5:05:05:q s {action} 1\r\n"));
    let put = || ask("put empty 0 5 0 -1 XID:5:05:05:q 2\r\nhello");
    let end = || ask("offset empty g 0 99999 1\r\n");
    let mut steps = vec![step("BEGIN"), put(), step("PREPARE"), put(), step("COMMIT_TWO_PHASE"), end()];
    steps.extend([step("BEGIN"), put(), step("COMMIT_ONE_PHASE"), end()]);
    Case::new("a message after PREPARE", steps).but_always("a message that comes after PREPARE is lost")
}

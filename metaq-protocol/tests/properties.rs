//! What holds for every frame and for any bytes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::{Bytes, BytesMut};
use metaq_protocol::{
    BooleanCommand, Checksum, Command, DataCommand, DecodeErrorKind, Decoder, Flag, Frame, GetCommand,
    Limits, LocalTransactionId, OffsetCommand, Opaque, PutCommand, QuitCommand, Response, StatsCommand,
    Status, SyncCommand, Topic, TransactionCommand, TransactionId, TransactionKind, VersionCommand, Word,
    XaTransactionId,
};
use proptest::{collection::vec, option, prelude::*};

const WORD: &str = "[a-zA-Z0-9_.*é主-]{1,20}";

fn topic() -> impl Strategy<Value = Topic> {
    WORD.prop_map(|name| Topic::new(&name).unwrap())
}

fn word() -> impl Strategy<Value = Word> {
    WORD.prop_map(|name| Word::new(&name).unwrap())
}

fn data() -> impl Strategy<Value = Bytes> {
    prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..3000)].prop_map(Bytes::from)
}

fn transaction_id() -> impl Strategy<Value = TransactionId> {
    prop_oneof![
        Just(TransactionId::Null),
        (WORD, any::<i32>()).prop_map(|(session, n)| LocalTransactionId::new(&session, n).unwrap().into()),
        (any::<i32>(), vec(any::<u8>(), 0..64), vec(any::<u8>(), 0..64), WORD).prop_map(
            |(format, global, branch, q)| XaTransactionId::new(format, &global, &branch, &q).unwrap().into()
        ),
    ]
}

fn kind() -> impl Strategy<Value = TransactionKind> {
    prop::sample::select(vec![
        TransactionKind::Begin,
        TransactionKind::Prepare,
        TransactionKind::CommitOnePhase,
        TransactionKind::CommitTwoPhase,
        TransactionKind::Rollback,
        TransactionKind::Recover,
        TransactionKind::Forget,
        TransactionKind::End,
    ])
}

fn transaction() -> impl Strategy<Value = Command> {
    (transaction_id(), word(), kind(), any::<i32>(), option::of(word())).prop_map(
        |(id, session, kind, timeout, q)| {
            let plain = TransactionCommand::new(id, session, kind).with_timeout(timeout);
            let qualified = q.and_then(|qualifier| plain.clone().with_qualifier(qualifier).ok());
            qualified.unwrap_or(plain).into()
        },
    )
}

fn put() -> impl Strategy<Value = Command> {
    let fields = (topic(), any::<i32>(), any::<i32>(), any::<i32>(), option::of(transaction_id()));
    (fields, data(), option::of(".{0,20}")).prop_map(
        |((topic, partition, flag, checksum, id), data, attribute)| {
            let mut put = PutCommand::new(topic, partition, data, attribute.as_deref());
            put.flag = Flag(flag);
            put.checksum = Checksum(checksum);
            put.transaction = id;
            put.into()
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    let kinds = prop_oneof![
        put(),
        transaction(),
        (topic(), any::<i32>(), any::<i64>(), any::<i32>(), data()).prop_map(
            |(topic, partition, id, flag, data)| {
                SyncCommand::new(topic, partition, id, Flag(flag), data.into()).into()
            }
        ),
        (topic(), word(), any::<i32>(), any::<i64>(), any::<i32>()).prop_map(
            |(topic, group, partition, offset, size)| {
                GetCommand::new(topic, group, partition, offset, size).into()
            }
        ),
        (topic(), word(), any::<i32>(), any::<i64>()).prop_map(|(topic, group, partition, offset)| {
            OffsetCommand::new(topic, group, partition, offset).into()
        }),
        option::of(word())
            .prop_map(|item| item.map_or_else(StatsCommand::overview, StatsCommand::about).into()),
        Just(Command::from(VersionCommand::default())),
        Just(Command::from(QuitCommand::default())),
    ];
    (kinds, any::<i32>()).prop_map(|(mut command, opaque)| {
        command.set_opaque(Opaque(opaque));
        command
    })
}

fn response() -> impl Strategy<Value = Response> {
    prop_oneof![
        (any::<i32>(), data(), any::<i32>()).prop_map(|(status, body, opaque)| BooleanCommand::new(
            Status(status),
            body,
            Opaque(opaque)
        )
        .into()),
        (data(), any::<i32>()).prop_map(|(data, opaque)| DataCommand::new(data, Opaque(opaque)).into()),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![command().prop_map(Frame::Command), response().prop_map(Frame::Response)]
}

fn encode(frame: &Frame, bytes: &mut BytesMut) {
    match frame {
        Frame::Command(command) => command.encode(bytes),
        Frame::Response(response) => response.encode(bytes),
        _ => unreachable!(),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_however_it_is_cut(frames in vec(frame(), 1..6), cuts in vec(1..200_usize, 1..50)) {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| encode(frame, &mut bytes));
        let (mut decoder, mut buffer, mut read) = (Decoder::new(), BytesMut::new(), Vec::new());
        let mut cuts = cuts.iter().cycle();
        while !bytes.is_empty() {
            let size = (*cuts.next().unwrap()).min(bytes.len());
            buffer.extend_from_slice(&bytes.split_to(size));
            while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                read.push(frame);
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn the_length_is_known_beforehand_and_the_header_is_the_start(command in command()) {
        let (mut whole, mut head) = (BytesMut::new(), BytesMut::new());
        command.encode(&mut whole);
        command.encode_head(&mut head);
        prop_assert_eq!(whole.len(), command.encoded_len());
        let body = command.body().map(|body| body.to_bytes()).unwrap_or_default();
        prop_assert_eq!(whole, [&head[..], &body].concat());
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..300), piece in 1..50_usize) {
        let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::new());
        'pieces: for piece in bytes.chunks(piece) {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buffer) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => {
                        prop_assert!(error.to_string().len() < 500, "the offending text is cut: {}", error);
                        break 'pieces;
                    }
                }
            }
        }
    }

    #[test]
    fn transaction_ids_are_read_back(id in transaction_id()) {
        prop_assert_eq!(id.to_string().parse::<TransactionId>().unwrap(), id);
    }
}

fn fails(limits: Limits, bytes: &[u8]) -> Option<DecodeErrorKind> {
    Decoder::with_limits(limits).decode(&mut BytesMut::from(bytes)).err().map(|error| error.kind())
}

#[test]
fn limits_refuse_before_anything_is_waited_for_or_reserved() {
    let limits = Limits::default().with_max_line(20).with_max_body(100);
    assert_eq!(fails(limits, b"result 200 100 1\r\n"), None, "as much as is allowed");
    assert!(matches!(
        fails(limits, b"result 200 101 1\r\n"),
        Some(DecodeErrorKind::BodyTooLong { length: 101, limit: 100, .. })
    ));
    assert_eq!(fails(limits, b"version 000000000005"), None, "its end may be next");
    assert!(matches!(
        fails(limits, b"version 0000000000005"),
        Some(DecodeErrorKind::LineTooLong { limit: 20, .. })
    ));
    assert!(fails(limits, b"version 0000000000005\r\n").is_some());
    assert!(matches!(
        fails(Limits::default(), b"result 200 -1 1\r\n"),
        Some(DecodeErrorKind::Field { field: "length", .. })
    ));

    let mut buffer = BytesMut::from(&b"put t 0 60000000 0 -1 1\r\n"[..]);
    assert_eq!(Decoder::new().decode(&mut buffer), Ok(None));
    assert!(
        buffer.capacity() <= 2 * 1024 * 1024,
        "an announced length is not believed: {}",
        buffer.capacity()
    );
}

#[test]
fn the_time_is_linear_in_the_input_however_it_is_cut() {
    // A megabyte in single bytes, with no end of the line, would take minutes if each were scanned again.
    let limits = Limits::default().with_max_line(usize::MAX);
    let (mut decoder, mut buffer) = (Decoder::with_limits(limits), BytesMut::new());
    for _ in 0..1_000_000 {
        buffer.extend_from_slice(b"x");
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
    }
}

//! Any frame that a program can create.

use bytes::Bytes;
use metaq_protocol::{
    BooleanCommand, Checksum, DataCommand, Flag, Frame, GetCommand, OffsetCommand, Opaque, PutCommand,
    PutData, QuitCommand, StatsCommand, Status, SyncCommand, Token, Topic, TransactionAction,
    TransactionCommand, TransactionId, VersionCommand,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// A word of any script, mostly a short one.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[a-zA-Z0-9._-]{1,12}",
        4 => "\\PC{1,8}",
        1 => "[a-z:]{150,300}",
        1 => "[0-9٣９]{1,4}",
    ]
    .prop_map(|word| word.replace(' ', "_"))
}

fn topic() -> impl Strategy<Value = Topic> {
    word().prop_map(|name| Topic::new(&name).unwrap())
}

fn token() -> impl Strategy<Value = Token> {
    word().prop_map(|word| Token::new(&word).unwrap())
}

pub(crate) fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![4 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 0..2000)].prop_map(Bytes::from)
}

pub(crate) fn data() -> impl Strategy<Value = PutData> {
    let attribute = option::of(prop_oneof![Just(String::new()), "\\PC{0,10}"]);
    (bytes(), attribute).prop_map(|(payload, attribute)| PutData::new(payload, attribute.as_deref()))
}

fn transaction_id() -> impl Strategy<Value = TransactionId> {
    let local = (word(), any::<i32>())
        .prop_map(|(session, number)| TransactionId::local(&session.replace(':', "-"), number).unwrap());
    let part = || vec(any::<u8>(), 0..64);
    let xa = (any::<i32>(), part(), part(), word()).prop_filter_map(
        "a blank qualifier",
        |(format_id, gtrid, bqual, qualifier)| {
            TransactionId::xa(format_id, &gtrid, &bqual, &qualifier.replace(':', "-")).ok()
        },
    );
    prop_oneof![Just(TransactionId::Null), local, xa]
}

fn put() -> impl Strategy<Value = PutCommand> {
    (topic(), any::<i32>(), any::<i32>(), option::of(any::<i32>()), option::of(transaction_id()), data())
        .prop_map(|(topic, partition, flag, checksum, transaction, data)| {
            let mut put = PutCommand::from_data(topic, partition, Flag(flag), data);
            put.checksum = checksum.map_or(put.checksum, Checksum);
            put.transaction = transaction;
            put
        })
}

fn transaction() -> impl Strategy<Value = TransactionCommand> {
    (transaction_id(), token(), select(&TransactionAction::ALL), any::<i32>(), option::of(word())).prop_map(
        |(id, session, action, timeout, qualifier)| {
            let command = TransactionCommand::new(id, session, action).with_timeout(timeout);
            match qualifier {
                // Refused when it would be taken for a timeout.
                Some(qualifier) => command.clone().with_qualifier(&qualifier).unwrap_or(command),
                None => command,
            }
        },
    )
}

pub(crate) fn answer() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (any::<i32>(), bytes(), any::<i32>()).prop_map(|(status, body, opaque)| BooleanCommand::new(
            Status(status),
            body,
            Opaque(opaque)
        )
        .into()),
        (0_i32..1000, bytes(), any::<i32>()).prop_map(|(status, body, opaque)| BooleanCommand::new(
            Status(status),
            body,
            Opaque(opaque)
        )
        .into()),
        (bytes(), any::<i32>()).prop_map(|(data, opaque)| DataCommand::new(data, Opaque(opaque)).into()),
    ]
}

pub(crate) fn request() -> impl Strategy<Value = Frame> {
    let frame = prop_oneof![
        3 => put().prop_map(Frame::from),
        1 => (topic(), token(), any::<i32>(), any::<i64>(), any::<i32>())
            .prop_map(|(topic, group, partition, offset, size)| {
                GetCommand::new(topic, group, partition, offset, size).into()
            }),
        1 => (topic(), token(), any::<i32>(), any::<i64>()).prop_map(|(topic, group, partition, offset)| {
            OffsetCommand::new(topic, group, partition, offset).into()
        }),
        1 => (topic(), any::<i32>(), any::<i32>(), any::<i64>(), data()).prop_map(
            |(topic, partition, flag, id, data)| {
                SyncCommand::new(topic, partition, Flag(flag), id, data).into()
            }
        ),
        1 => option::of(token()).prop_map(|item| StatsCommand::new(item, Opaque(0)).into()),
        1 => Just(VersionCommand::new(Opaque(0)).into()),
        1 => Just(QuitCommand::new().into()),
        2 => transaction().prop_map(Frame::from),
    ];
    (frame, any::<i32>()).prop_map(|(mut frame, opaque)| {
        if let Frame::Command(command) = &mut frame {
            command.set_opaque(Opaque(opaque));
        }
        frame
    })
}

pub(crate) fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![3 => request(), 1 => answer()]
}

//! The errors of bytes that are not frames, and of texts that no frame can carry.

use bytes::{Bytes, BytesMut};
use metaq_protocol::{
    BooleanCommand, BrokerAddr, Checksum, CorruptMessageKind, DataCommand, DecodeError,
    DecodeErrorKind as Kind, Decoder, Flag, Frame, InvalidAttribute, InvalidTokenKind,
    InvalidTransactionIdKind as IdKind, Limits, LocalTransactionId, MAX_BODY_LEN, Opaque, Partition,
    PrepareVote, PutCommand, PutData, PutResponse, Status, StoredMessages, Token, Topic, TransactionAction,
    TransactionCommand, TransactionId, XaTransactionId, encode_stats, encode_stored_message,
};

fn decoder() -> Decoder {
    Decoder::with_limits(Limits::default().with_max_line(100).with_max_body(1000))
}

fn refused(bytes: &[u8]) -> DecodeError {
    let mut src = BytesMut::from(bytes);
    let error = decoder().decode(&mut src).expect_err("no frame");
    // In place, a request is not a response, whatever else is wrong with it.
    let in_place = decoder().decode_response_in_place(bytes).expect_err("no answer");
    let same = in_place == error || in_place.kind() == Kind::UnexpectedCommand;
    assert!(same, "{in_place} in place, else {error}");
    error
}

#[test]
fn errors_name_command_field_text_and_limit() {
    let long = "x".repeat(101);
    let excerpt = "x".repeat(80);
    let too_long =
        format!("the header line is longer than the limit of 100 bytes; it starts with {excerpt:?}");
    /// Bytes, and the expected error: kind, command, field, limit, message.
    type Case<'a> = (&'a str, Kind, Option<&'a str>, Option<&'a str>, Option<usize>, &'a str);
    let cases: &[Case<'_>] = &[
        ("\r\n", Kind::BlankLine, None, None, None, "the header line is empty"),
        (" quit\r\n", Kind::BlankLine, None, None, None, "the header line starts with a space: \" quit\""),
        ("bogus 1\r\n", Kind::UnknownCommand, None, None, None, "\"bogus\" is not a command"),
        (&long, Kind::LineTooLong, None, None, Some(100), &too_long),
        (
            "value 9\r\n",
            Kind::MissingField,
            Some("value"),
            Some("opaque"),
            None,
            "value: the opaque is missing in \"value 9\"",
        ),
        (
            "put t 0 1 0 1 null 1 1\r\n",
            Kind::SurplusField,
            Some("put"),
            None,
            None,
            "put: too many words in \"put t 0 1 0 1 null 1 1\"",
        ),
        (
            "version 2147483648\r\n",
            Kind::InvalidNumber,
            Some("version"),
            Some("opaque"),
            None,
            "version: the opaque \"2147483648\" is not a number that fits it",
        ),
        (
            "result 200 1001 1\r\n",
            Kind::BodyTooLong,
            Some("result"),
            Some("length"),
            Some(1000),
            "result: the body of 1001 bytes is longer than the limit of 1000 bytes",
        ),
        (
            "value -1 1\r\n",
            Kind::NegativeLength,
            Some("value"),
            Some("length"),
            None,
            "value: the length -1 is negative",
        ),
        (
            "put t 0 1 0 TX:a 1\r\n",
            Kind::InvalidTransactionId,
            Some("put"),
            Some("transaction id"),
            None,
            "put: the transaction id \"TX:a\" is not a transaction id",
        ),
        (
            "transaction null s begin 1\r\n",
            Kind::UnknownAction,
            Some("transaction"),
            Some("action"),
            None,
            "transaction: the action \"begin\" is not known",
        ),
    ];
    for &(bytes, kind, command, field, limit, message) in cases {
        let error = refused(bytes.as_bytes());
        assert_eq!(
            (error.kind(), error.command(), error.field(), error.limit()),
            (kind, command, field, limit)
        );
        assert_eq!(error.to_string(), message);
    }
    let error = decoder().decode_response_in_place(b"quit\r\n").expect_err("no answer");
    assert_eq!((error.kind(), error.text()), (Kind::UnexpectedCommand, "quit"));
}

#[test]
fn the_longest_line_is_the_limit() {
    let limits = Limits::default();
    assert_eq!((limits.max_line(), limits.max_body()), (64 << 10, 64 << 20));
    let limits = limits.with_max_line(100).with_max_body(1000);
    assert_eq!((limits.max_line(), limits.max_body()), (100, 1000));
    // "version " and 92 digits make 100 bytes.
    let line = format!("version {:092}\r\n", 7);
    for end in 0..line.len() {
        assert_eq!(decoder().decode(&mut BytesMut::from(&line[..end])), Ok(None), "{end} bytes");
    }
    let frame = decoder().decode(&mut BytesMut::from(&*line)).expect("within the limit");
    assert_eq!(frame.map(|frame| frame.opaque().0), Some(7));
    let line = format!("version {:093}\r\n", 7);
    for end in 101..=line.len() {
        let mut src = BytesMut::from(&line[..end]);
        // A CR may be the first byte of the line's end.
        let kind = decoder().decode(&mut src).expect_err("beyond the limit").kind();
        assert_eq!(kind, Kind::LineTooLong, "{end} bytes");
    }
}

#[test]
fn invalid_texts_are_refused_on_creation() {
    for text in ["", "a b", "a\r\nquit", "a\n", "\r"] {
        assert!(Topic::new(text).is_err() && Token::new(text).is_err(), "{text:?}");
    }
    for session in ["a:b", "a b", "a\n"] {
        assert!(TransactionId::local(session, 1).is_err(), "{session:?}");
    }
    for qualifier in ["", " ", "\t", "a:b", "a b", "a\tb", "a\r"] {
        assert!(TransactionId::xa(1, b"g", b"b", qualifier).is_err(), "{qualifier:?}");
    }
}

#[test]
fn a_qualifier_of_digits_needs_a_timeout() {
    let session: Token = "s".parse().expect("a word");
    let step = TransactionCommand::new(TransactionId::Null, session, TransactionAction::Recover);
    for digits in ["42", "٤٢"] {
        let error = step.clone().with_qualifier(digits).expect_err("read as a timeout").to_string();
        assert!(error.contains("would be taken for the timeout"), "{error}");
    }
    let with_timeout = step.with_timeout(5).with_qualifier("42").expect("beside a timeout");
    for (step, line) in [
        (with_timeout.clone(), "transaction null s RECOVER 5 42 0\r\n"),
        // When the timeout is removed later, it is still encoded: 0 is never, and the qualifier remains a
        // qualifier.
        (with_timeout.with_timeout(-1), "transaction null s RECOVER 0 42 0\r\n"),
    ] {
        let mut written = BytesMut::new();
        step.encode(&mut written);
        assert_eq!((&written[..], step.encoded_len()), (line.as_bytes(), line.len()));
        assert_eq!(Decoder::new().decode(&mut written), Ok(Some(step.into())));
    }
}

#[test]
fn errors_are_shareable_and_small() {
    fn is_shareable<T: std::error::Error + Send + Sync + Clone + 'static>() {}
    is_shareable::<DecodeError>();
    assert_eq!(size_of::<DecodeError>(), size_of::<usize>());
    let answer = PutResponse::parse(b"1 2").expect_err("no offset").to_string();
    assert_eq!(
        answer,
        "the response \"1 2\" to put has no valid offset; expected MESSAGE-ID PARTITION OFFSET"
    );
    let slave = BrokerAddr::parse_with_slave_id("meta://h:1?slaveId=x").expect_err("no number").to_string();
    assert!(slave.contains("its slaveId is not a number"), "{slave}");
}

#[test]
fn errors_expose_text_and_reason() {
    let long = "ä b".repeat(100);
    let excerpt: String = long.chars().take(80).collect();
    for text in ["a b", &*long] {
        let expected = (text.chars().take(80).collect::<String>(), InvalidTokenKind::Space);
        let (topic, token) = (Topic::new(text).expect_err("a space"), Token::new(text).expect_err("a space"));
        assert_eq!((topic.text().to_owned(), topic.kind()), expected);
        assert_eq!((token.text().to_owned(), token.kind()), expected);
    }
    let step = TransactionCommand::new(
        TransactionId::Null,
        Token::new("s").expect("a word"),
        TransactionAction::Recover,
    );
    let qualifier = step.with_qualifier("42").expect_err("read as a timeout");
    assert_eq!((qualifier.text(), qualifier.kind()), ("42", InvalidTokenKind::TakenForTimeout));
    let partition = long.parse::<Partition>().expect_err("no partition");
    assert_eq!(partition.text(), excerpt);
    let action = "begin".parse::<TransactionAction>().expect_err("lower case");
    assert_eq!(action.text(), "begin");
    let answer = PutResponse::parse(b"1 2 \xff").expect_err("no offset");
    assert_eq!((answer.request(), answer.field(), answer.text()), ("put", "offset", "1 2 \u{fffd}"));
    assert_eq!(answer.expected(), "MESSAGE-ID PARTITION OFFSET");
    let vote = PrepareVote::parse(b"").expect_err("no number");
    assert_eq!(
        (vote.request(), vote.field(), vote.expected(), vote.text()),
        ("PREPARE", "vote", "a number", "")
    );
    let mut stored = BytesMut::new();
    encode_stored_message(&mut stored, 1, Flag::ATTRIBUTE, b"\0\0\0\x09attr");
    let corrupt = StoredMessages::new(stored).next().expect("one message").expect_err("its attribute");
    let invalid = InvalidAttribute::Length { length: 9, available: 4 };
    assert_eq!((corrupt.offset(), corrupt.kind()), (0, CorruptMessageKind::Attribute(invalid)));
    for (key, value, field, text, kind) in [
        ("", None, "key", "", InvalidTokenKind::Empty),
        ("a b", Some("1"), "key", "a b", InvalidTokenKind::Space),
        ("a", Some("1\r\nEND"), "value", "1\r\nEND", InvalidTokenKind::LineEnd),
    ] {
        let stat = encode_stats([(key, value)]).expect_err("another figure");
        assert_eq!((stat.field(), stat.text(), stat.kind()), (field, text, kind));
    }
}

#[test]
fn transaction_id_errors_name_the_fault() {
    for (text, kind) in [
        ("", IdKind::Prefix),
        ("xid:1:67:62:uq", IdKind::Prefix),
        ("TX:a b:1", IdKind::Space),
        ("TX:a\r\n:1", IdKind::LineEnd),
        ("TX:a", IdKind::LocalParts),
        ("TX:a:x", IdKind::Number),
        ("XID:1:67:62", IdKind::XaParts),
        ("XID:x:67:62:uq", IdKind::FormatId),
        ("XID:1:6x:62:uq", IdKind::Hexadecimal),
    ] {
        for error in [
            text.parse::<TransactionId>().map(drop),
            text.parse::<LocalTransactionId>().map(drop),
            text.parse::<XaTransactionId>().map(drop),
        ] {
            let error = error.expect_err(text);
            assert_eq!((error.text(), error.kind()), (text, kind));
        }
    }
    for (session, kind) in [("a:b", IdKind::Colon), ("a b", IdKind::Space), ("a\n", IdKind::LineEnd)] {
        let error = LocalTransactionId::new(session, 1).expect_err(session);
        assert_eq!((error.text(), error.kind()), (session, kind));
        assert_eq!(TransactionId::local(session, 1), Err(error));
    }
    for (qualifier, kind) in [
        ("", IdKind::BlankQualifier),
        (" ", IdKind::BlankQualifier),
        ("a\tb", IdKind::Tab),
        ("a:b", IdKind::Colon),
        ("a b", IdKind::Space),
        ("a\r", IdKind::LineEnd),
    ] {
        let error = XaTransactionId::new(1, b"g", b"b", qualifier).expect_err(qualifier);
        assert_eq!((error.text(), error.kind()), (qualifier, kind));
        assert_eq!(TransactionId::xa(1, b"g", b"b", qualifier), Err(error));
    }
}

#[test]
fn each_kind_of_transaction_id_parses_its_own_form() {
    let local = LocalTransactionId::new("h-1", -7).expect("an id");
    let xa = XaTransactionId::new(-1, b"", b"\xff", "uq").expect("an id");
    assert_eq!((local.to_string(), xa.to_string()), ("TX:h-1:-7".to_owned(), "XID:-1::ff:uq".to_owned()));
    assert_eq!(TransactionId::local("h-1", -7), Ok(local.clone().into()));
    assert_eq!(TransactionId::xa(-1, b"", b"\xff", "uq"), Ok(xa.clone().into()));
    assert_eq!(local.as_str().parse(), Ok(local.clone()));
    assert_eq!(xa.as_str().parse(), Ok(xa.clone()));
    // Any spelling that the general parser accepts.
    assert_eq!("TX:h-1:-07:".parse(), Ok(local.clone()));
    assert_eq!("XID:-01::FF:uq".parse(), Ok(xa.clone()));
    for text in [xa.as_str(), "null"] {
        let error = text.parse::<LocalTransactionId>().expect_err(text);
        assert_eq!((error.text(), error.kind()), (text, IdKind::NotLocal));
    }
    for text in [local.as_str(), "null"] {
        let error = text.parse::<XaTransactionId>().expect_err(text);
        assert_eq!((error.text(), error.kind()), (text, IdKind::NotXa));
    }
}

/// Zeroed memory that is never touched takes no physical memory.
#[cfg(target_pointer_width = "64")]
#[test]
fn a_body_longer_than_a_length_can_say_is_never_written() {
    let most = MAX_BODY_LEN;
    assert_eq!(most, i32::MAX as usize);
    let zeros = Bytes::from(vec![0; most + 1]);
    let topic = Topic::new("t").expect("a word");
    let put = |payload: Bytes, attribute: Option<&str>| {
        let data = PutData::new(payload, attribute);
        PutCommand::from_checked(topic.clone(), 0, Flag::EMPTY, Checksum::NONE, data)
    };
    let result = |body| Frame::from(BooleanCommand::new(Status::SUCCESS, body, Opaque(1)));
    let value = |data| Frame::from(DataCommand::new(data, Opaque(1)));
    for (frame, length) in [
        (put(zeros.clone(), None).into(), most + 1),
        // The length of the attribute counts.
        (put(zeros.slice(4..), Some("")).into(), most + 1),
        (put(zeros.slice(1..), Some("a")).into(), most + 5),
        (result(zeros.clone()), most + 1),
        (value(zeros.clone()), most + 1),
    ] {
        let mut dst = BytesMut::from("before");
        let error = frame.try_encode(&mut dst).expect_err("too long");
        assert_eq!(error.body_len(), length);
        assert_eq!(frame.check(), Err(error));
        assert!(
            error.to_string().starts_with(&format!("the body of {length} bytes is longer than 2147483647"))
        );
        frame.encode(&mut dst);
        frame.encode_head(&mut dst);
        assert_eq!((&dst[..], frame.encoded_len(), frame.body_len()), (&b"before"[..], 0, 0));
        assert_eq!(frame.body_parts(), (&Bytes::new(), &Bytes::new()));
    }
    for (frame, head) in [
        (put(zeros.slice(1..), None).into(), "put t 0 2147483647 0 -1 0\r\n"),
        (put(zeros.slice(5..), Some("")).into(), "put t 0 2147483647 0 -1 0\r\n"),
        (result(zeros.slice(1..)), "result 200 2147483647 1\r\n"),
        (value(zeros.slice(1..)), "value 2147483647 1\r\n"),
    ] {
        let mut dst = BytesMut::new();
        frame.encode_head(&mut dst);
        assert_eq!((&dst[..], frame.check()), (head.as_bytes(), Ok(())));
        assert_eq!((frame.body_len(), frame.encoded_len()), (most, head.len() + most));
    }
    let mut stored = BytesMut::new();
    encode_stored_message(&mut stored, 1, Flag::EMPTY, &zeros);
    assert!(stored.is_empty(), "nor is it stored");
}

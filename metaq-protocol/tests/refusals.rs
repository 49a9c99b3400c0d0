//! What is said about bytes that are no frame, and about texts that no frame can carry.

use bytes::BytesMut;
use metaq_protocol::{
    BrokerAddr, DecodeError, DecodeErrorKind as Kind, Decoder, Limits, PutAnswer, Token, Topic,
    TransactionAction, TransactionCommand, TransactionId,
};

fn decoder() -> Decoder {
    Decoder::with_limits(Limits::default().max_line(100).max_body(1000))
}

fn refused(bytes: &[u8]) -> DecodeError {
    let mut src = BytesMut::from(bytes);
    let error = decoder().decode(&mut src).expect_err("no frame");
    // In place, a request is no answer, whatever else is wrong with it.
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
    /// Bytes, and what is said about them: kind, command, field, limit, message.
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
fn texts_are_refused_where_they_are_made() {
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
        assert!(error.contains("would be read as a timeout"), "{error}");
    }
    let with_timeout = step.with_timeout(5).with_qualifier("42").expect("beside a timeout");
    for (step, line) in [
        (with_timeout.clone(), "transaction null s RECOVER 5 42 0\r\n"),
        // Taken away later, the timeout is written all the same: 0 is never, and the qualifier stays one.
        (with_timeout.with_timeout(-1), "transaction null s RECOVER 0 42 0\r\n"),
    ] {
        let mut written = BytesMut::new();
        step.encode(&mut written);
        assert_eq!((&written[..], step.encoded_len()), (line.as_bytes(), line.len()));
        assert_eq!(Decoder::new().decode(&mut written), Ok(Some(step.into())));
    }
}

#[test]
fn errors_are_cheap_to_pass_on() {
    fn is_shareable<T: std::error::Error + Send + Sync + Clone + 'static>() {}
    is_shareable::<DecodeError>();
    assert_eq!(size_of::<DecodeError>(), size_of::<usize>());
    let answer = PutAnswer::parse(b"1 2").expect_err("no offset").to_string();
    assert_eq!(answer, "the answer to put \"1 2\" has no valid offset; expected MESSAGE-ID PARTITION OFFSET");
    let slave = BrokerAddr::parse_with_slave_id("meta://h:1?slaveId=x").expect_err("no number").to_string();
    assert!(slave.contains("its query can't be read"), "{slave}");
}

//! Masking the parts of responses that differ between brokers.

use bytes::BytesMut;
use metaq_protocol::{BooleanCommand, Command, DataCommand, Decoder, Frame, PutResponse, Response};
use metaq_testkit::Broker;

/// The broker whose responses contain the places of messages: they are the same in the others.
pub(crate) struct Place<'a>(pub(crate) &'a Broker);

/// The lines of `stats` whose values belong to a process.
const OWN: [&str; 6] = ["pid ", "port ", "uptime ", "curr_connections ", "threads ", "config_checksum "];

/// Formats a response as text, with masks.
pub(crate) fn masked(answer: &Response, request: &[u8], port: u16, place: &Place<'_>) -> String {
    match answer {
        Response::Boolean(answer) => {
            let text = text_of(answer, port);
            format!("result {} opaque {}: {text}", answer.status.0, answer.opaque)
        }
        Response::Data(answer) => {
            let data = without_ids(answer, request, place);
            format!("value opaque {}: {}", answer.opaque, data.escape_ascii())
        }
        other => format!("{other:?}"),
    }
}

fn text_of(answer: &BooleanCommand, port: u16) -> String {
    let text = answer.text().into_owned();
    if text.starts_with("STATS\r\n") {
        return without_figures(&text);
    }
    if text.starts_with("[system]") {
        // Each broker has a different configuration; clients read the sections of topics.
        let mut sections: Vec<_> = text.lines().filter(|line| line.starts_with("[topic=")).collect();
        sections.sort_unstable();
        return sections.join(" ");
    }
    if answer.status.is_success()
        && let Ok(PutResponse { partition, offset, .. }) = PutResponse::parse(&answer.body)
    {
        return format!("ID {partition} {offset}");
    }
    let text = text.replace(&format!("meta://127.0.0.1:{port}"), "BROKER");
    match text.split_once("NullTransactionId@") {
        Some((before, after)) => {
            let rest = after.trim_start_matches(|c: char| c.is_ascii_hexdigit());
            format!("{before}NullTransactionId@HASH{rest}")
        }
        None => text,
    }
}

fn without_figures(text: &str) -> String {
    let lines = text.split_inclusive("\r\n").map(|line| {
        let own = OWN.iter().find(|name| line.starts_with(*name));
        let measured = line.contains("realtime_").then(|| line.split(' ').next()).flatten();
        own.copied().or(measured).map_or_else(|| line.to_owned(), |name| format!("{name} MASKED\r\n"))
    });
    let mut lines: Vec<_> = lines.collect();
    // Topics come in the order of a hash table.
    lines.sort_unstable();
    lines.concat()
}

/// Returns the bytes of a log with zeros in place of message ids.
fn without_ids(answer: &DataCommand, request: &[u8], place: &Place<'_>) -> Vec<u8> {
    let mut data = answer.data.to_vec();
    let frame = Decoder::new().decode(&mut BytesMut::from(request));
    let Ok(Some(Frame::Command(Command::Get(get)))) = frame else { return data };
    let log = place.0.log(&get.topic, get.partition);
    let mut at = 0;
    while let Some(length) = log.get(at..).and_then(|rest| rest.first_chunk()) {
        for id in at + 8..at + 16 {
            let place = usize::try_from(get.offset).ok().and_then(|offset| id.checked_sub(offset));
            if let Some(byte) = place.and_then(|place| data.get_mut(place)) {
                *byte = 0;
            }
        }
        at += 20 + u32::from_be_bytes(*length) as usize;
    }
    data
}

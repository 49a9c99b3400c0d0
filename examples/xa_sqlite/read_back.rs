//! Reads the messages that a broker has stored, to find out whether a certain one is among them.

use std::collections::HashSet;

use bytes::BytesMut;
use metaq_protocol::{
    BrokerAddr, Command, Decoder, Frame, GetCommand, Response, StoredMessages, Token, Topic,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::shop::Done;

const CHUNK: i32 = 1 << 20;

/// Reads the attributes of all messages of a topic in these partitions of a broker. A program with many
/// messages stores the lengths of the partitions with its decisions, and begins to read there.
pub(crate) async fn stored_attributes(
    broker: &BrokerAddr,
    topic: &Topic,
    partitions: impl Iterator<Item = i32>,
) -> Done<HashSet<String>> {
    let mut stream = TcpStream::connect((broker.host(), broker.port())).await?;
    let (mut decoder, mut received) = (Decoder::new(), BytesMut::new());
    let mut attributes = HashSet::new();
    for partition in partitions {
        let mut offset = 0;
        loop {
            let get = GetCommand::new(topic.clone(), Token::new("read-back")?, partition, offset, CHUNK);
            let mut request = BytesMut::new();
            Command::from(get).encode(&mut request);
            stream.write_all(&request).await?;
            let answer = loop {
                if let Some(frame) = decoder.decode(&mut received)? {
                    break frame;
                }
                if stream.read_buf(&mut received).await? == 0 {
                    return Err("the broker closed the connection".into());
                }
            };
            // Any other answer means the end of the partition.
            let Frame::Response(Response::Data(data)) = answer else { break };
            let mut messages = StoredMessages::new(data.data);
            for message in &mut messages {
                attributes.extend(message?.attribute);
            }
            if messages.offset() == 0 {
                break;
            }
            offset += i64::try_from(messages.offset())?;
        }
    }
    Ok(attributes)
}

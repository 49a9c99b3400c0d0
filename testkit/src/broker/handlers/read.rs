//! The handlers of `get` and `offset` (protocol §3.2, protocol §3.3).

use metaq_protocol::{DataCommand, GetCommand, OffsetCommand, Response, Status};

use super::response::result;
use crate::broker::shared::BrokerShared;

impl BrokerShared {
    /// Returns messages by the rules of protocol §3.2.
    pub(super) fn get(&self, get: &GetCommand) -> Response {
        self.counters.get.add_one();
        let text = |status, text: String| result(get.opaque, status, text);
        let miss = |status, handle: String| {
            self.counters.get_miss.add_one();
            text(status, handle)
        };
        let moved = |offset: u64| {
            self.counters.offset.add_one();
            miss(Status::MOVED, offset.to_string())
        };
        let topic = self.topics.get(&get.topic);
        if topic.as_ref().is_some_and(|topic| topic.is_closed(get.partition)) {
            return text(
                Status::FORBIDDEN,
                format!("Partition[{}-{}] has been closed", self.id, get.partition),
            );
        }
        let Some(log) = topic.and_then(|topic| topic.existing_log(get.partition)) else {
            return miss(Status::NOT_FOUND, no_such_log(&get.topic, get.partition));
        };
        let Some(max) = usize::try_from(get.max_size).ok().filter(|max| *max > 0) else {
            return text(Status::BAD_REQUEST, format!("Bad request,invalid max size:{}", get.max_size));
        };
        let mut log = log.lock();
        let (first, end) = (log.first_offset(), log.readable_end());
        match u64::try_from(get.offset) {
            Err(_) => moved(first),
            Ok(offset) if offset < first => moved(first),
            Ok(offset) if offset >= end && get.offset == i64::MAX => moved(end),
            Ok(offset) if offset >= end => {
                miss(Status::NOT_FOUND, format!("Could not find message at position {offset}"))
            }
            Ok(offset) => match log.read(offset, max.min(self.settings.max_transfer)) {
                Ok(data) => DataCommand::new(data, get.opaque).into(),
                Err(error) => text(Status::INTERNAL_SERVER_ERROR, error.to_string()),
            },
        }
    }

    /// Returns the offset of a segment by the rules of protocol §3.3.
    pub(super) fn offset(&self, command: &OffsetCommand) -> Response {
        self.counters.offset.add_one();
        let topic = self.topics.get(&command.topic);
        let Some(log) = topic.and_then(|topic| topic.existing_log(command.partition)) else {
            return result(command.opaque, Status::NOT_FOUND, no_such_log(&command.topic, command.partition));
        };
        let mut log = log.lock();
        let (first, end) = (log.first_offset(), log.readable_end());
        let offset = match u64::try_from(command.offset) {
            Ok(offset) if offset >= end => end,
            Ok(offset) if offset >= first => log.segment_start(offset),
            _ => first,
        };
        result(command.opaque, Status::SUCCESS, offset.to_string())
    }
}

fn no_such_log(topic: &str, partition: i32) -> String {
    format!("The topic `{topic}` in partition `{partition}` is not exists")
}

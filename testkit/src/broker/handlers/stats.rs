//! The handler of `stats` (protocol §3.4).

use std::{
    fmt::{self, Write as _},
    sync::atomic::Ordering,
};

use super::response::VERSION;
use crate::broker::{
    counters::Counters,
    shared::BrokerShared,
    store::{Log, TopicEntry},
};

/// The figures that a Java broker reports as `null` when no topic has the setting `stat`.
const REALTIME: [&str; 6] = ["put", "get", "offset", "get_miss", "put_failed", "message_size"];

const HELP_TEXT: &str = "*EMPTY* Returns broker info.\r\nhelp Returns help menu.\r\n\
    topics Returns topics statistics detail info.\r\noffsets Returns partitions detail info.\r\n\
    realtime Returns realtime statistics detail info.\r\nconfig Returns broker's config file content.\r\n";

impl BrokerShared {
    /// Returns the whole body of the response.
    pub(in crate::broker) fn stats(&self, item: &str) -> String {
        let mut text = String::from("STATS\r\n");
        // Writing to a string can't fail.
        let _ = match item {
            _ if item.trim().is_empty() => self.system_stats(&mut text),
            "config" => return self.config(),
            "topics" => self.topics_stats(&mut text),
            "offsets" => self.offsets_stats(&mut text),
            "realtime" => REALTIME.iter().try_for_each(|figure| write!(text, "realtime_{figure} null\r\n")),
            "help" => text.write_str(HELP_TEXT),
            "reset" => text.write_str("reset ok\r\n"),
            topic => self.topic_stats(topic, &mut text),
        };
        text.push_str("END\r\n");
        text
    }

    fn system_stats(&self, text: &mut String) -> fmt::Result {
        let Counters { put, get, offset, begin, xa_begin, commit, rollback, get_miss, put_failed } =
            &self.counters;
        let topics = self.topics.all();
        let messages: u64 = topics.iter().map(|entry| self.figures(entry).messages).sum();
        let count = topics.iter().filter(|entry| entry.is_configured() || entry.has_logs()).count();
        write!(
            text,
            "pid {}\r\nbroker_id {}\r\nport {}\r\nuptime {}\r\nversion {}\r\nslave false\r\ncurr_connections {}\r\n\
             threads 1\r\ncmd_put {put}\r\ncmd_get {get}\r\ncmd_offset {offset}\r\ntx_begin {begin}\r\n\
             tx_xa_begin {xa_begin}\r\ntx_commit {commit}\r\ntx_rollback {rollback}\r\nget_miss {get_miss}\r\n\
             put_failed {put_failed}\r\ntotal_messages {messages}\r\ntopics {count}\r\nconfig_checksum {}\r\n",
            std::process::id(),
            self.id,
            self.addr.port(),
            self.started.elapsed().as_secs(),
            VERSION,
            self.open.load(Ordering::Acquire),
            self.config_checksum(),
        )
    }

    fn topics_stats(&self, text: &mut String) -> fmt::Result {
        let topics = self.topics.all();
        for entry in topics.iter().filter(|entry| entry.has_logs()) {
            let Figures { partitions, messages, bytes } = self.figures(entry);
            write!(
                text,
                "{} partitions {partitions} message_count {messages} message_bytes {bytes} accept_publish {} \
                 accept_subscribe {}\r\n",
                entry.name,
                entry.publishes.load(Ordering::Acquire),
                entry.subscribes.load(Ordering::Acquire),
            )?;
        }
        for entry in topics.iter().filter(|entry| entry.is_configured() && !entry.has_logs()) {
            write!(text, "{} *Empty*\r\n", entry.name)?;
        }
        Ok(())
    }

    fn offsets_stats(&self, text: &mut String) -> fmt::Result {
        for entry in self.topics.all() {
            for (index, log) in entry.logs() {
                let mut log = log.lock();
                let (first, end) = (log.first_offset(), log.readable_end());
                write!(text, "{} part {index} min_offset {first} max_offset {end}\r\n", entry.name)?;
            }
        }
        Ok(())
    }

    fn topic_stats(&self, topic: &str, text: &mut String) -> fmt::Result {
        let entry = self.topics.get(topic);
        let Figures { partitions, messages, bytes } =
            entry.as_ref().map_or_else(Figures::default, |entry| self.figures(entry));
        let code = match &entry {
            Some(entry) if entry.has_logs() => 0,
            Some(entry) if entry.is_configured() => 2,
            _ => 1,
        };
        write!(
            text,
            "{topic}\r\nresultCode {code}\r\npartitions {partitions}\r\nmessage_count {messages}\r\nbytes {bytes}\r\n"
        )?;
        REALTIME.iter().try_for_each(|figure| write!(text, "topic_realtime_{figure} null\r\n"))
    }

    fn figures(&self, entry: &TopicEntry) -> Figures {
        let mut figures = Figures::default();
        for (_, log) in entry.logs() {
            let log = log.lock();
            figures.partitions += 1;
            figures.messages += self.message_count(&log);
            figures.bytes += log.len();
        }
        figures
    }

    /// Returns the number of messages in the form of `stats`: a Java broker counts all messages that a
    /// transaction adds to a partition as one.
    fn message_count(&self, log: &Log) -> u64 {
        if self.settings.compat { log.appends } else { log.messages }
    }
}

#[derive(Default)]
struct Figures {
    partitions: usize,
    messages: u64,
    bytes: u64,
}

//! The counts of a broker, and its answers to `stats` (protocol §3.4).

use std::{
    fmt::{self, Write as _},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{BrokerShared, log::Log, topics::TopicEntry};

/// A figure that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.load(Ordering::Relaxed).fmt(f)
    }
}

/// The counts of a broker. A Java broker counts requests, refused ones included, with the exceptions that the answers to
/// them show.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) put: Counter,
    pub(super) get: Counter,
    pub(super) offset: Counter,
    pub(super) begin: Counter,
    pub(super) xa_begin: Counter,
    pub(super) commit: Counter,
    pub(super) rollback: Counter,
    pub(super) get_miss: Counter,
    pub(super) put_failed: Counter,
}

/// A Java broker says `null` for what it has not measured, as when no topic has the setting `stat`.
const REALTIME: [&str; 6] = ["put", "get", "offset", "get_miss", "put_failed", "message_size"];

const HELP: &str = "*EMPTY* Returns broker info.\r\nhelp Returns help menu.\r\n\
    topics Returns topics statistics detail info.\r\noffsets Returns partitions detail info.\r\n\
    realtime Returns realtime statistics detail info.\r\nconfig Returns broker's config file content.\r\n";

impl BrokerShared {
    /// The whole body of the answer.
    pub(super) fn stats(&self, item: &str) -> String {
        let mut text = String::from("STATS\r\n");
        // Writing to a string can't fail.
        let _ = match item {
            _ if item.trim().is_empty() => self.system_stats(&mut text),
            "config" => return self.config(),
            "topics" => self.topics_stats(&mut text),
            "offsets" => self.offsets_stats(&mut text),
            "realtime" => REALTIME.iter().try_for_each(|figure| write!(text, "realtime_{figure} null\r\n")),
            "help" => text.write_str(HELP),
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
            super::VERSION,
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

    /// The configuration in the form of a Java broker's file: what matters to clients.
    pub(super) fn config(&self) -> String {
        let mut text = format!(
            "[system]\nbrokerId={}\nnumPartitions={}\nserverPort={}\nhostName={}\nmaxTransferSize={}\n\
             maxTxTimeoutInSeconds={}\n",
            self.id,
            self.topics.settings.default_partitions,
            self.addr.port(),
            self.addr.host(),
            self.settings.max_transfer,
            self.settings.max_transaction.as_secs(),
        );
        for entry in self.topics.all() {
            if entry.is_configured() {
                let partitions = self.topics.partitions(Some(&entry));
                // Writing to a string can't fail.
                let _ = write!(text, "[topic={}]\nnumPartitions={partitions}\n", entry.name);
                for (name, switch) in
                    [("acceptPublish", &entry.publishes), ("acceptSubscribe", &entry.subscribes)]
                {
                    if !switch.load(Ordering::Acquire) {
                        let _ = writeln!(text, "{name}=false");
                    }
                }
            }
        }
        text
    }

    /// CRC-32 of the configuration.
    pub(super) fn config_checksum(&self) -> u32 {
        crc32fast::hash(self.config().as_bytes())
    }

    fn figures(&self, entry: &TopicEntry) -> Figures {
        let mut figures = Figures::default();
        for (_, log) in entry.logs() {
            let log = log.lock();
            figures.partitions += 1;
            figures.messages += self.counted(&log);
            figures.bytes += log.len();
        }
        figures
    }

    /// A Java broker counts what a transaction brings to a partition as one message.
    fn counted(&self, log: &Log) -> u64 {
        if self.settings.compat { log.appends } else { log.messages }
    }
}

#[derive(Default)]
struct Figures {
    partitions: usize,
    messages: u64,
    bytes: u64,
}

//! The steps of the examination.

use std::{collections::BTreeSet, io, time::Duration};

use metaq_producer::{
    BrokerAddr, Message, Outcome, SendErrorKind, Topic,
    discovery::TopicView,
    inspect::{InspectError, InspectErrorKind, ListedPartition, PartitionOffsets},
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::finding::{Finding, Step};
use crate::{
    exit_status::{
        EXIT_NOT_FOUND, EXIT_NOT_SENT, EXIT_REFUSED, EXIT_UNKNOWN, EXIT_UNREACHABLE, of_inspect_error,
        of_publish_error,
    },
    look::{Failure, Look, broker_id, system_setting},
    report::describe_send_error,
    settings::Cluster,
    stderr::describe,
};

/// The number of names that are listed as an alternative.
const SHOWN: usize = 10;

/// The payload of test messages.
const PAYLOAD: &str = "metaq doctor";

/// An examination in progress.
pub(super) struct Examination<'a> {
    pub(super) look: &'a mut Look,
    pub(super) cluster: Cluster,
    pub(super) timeout: Duration,
    pub(super) json: bool,
    /// The status of the first failure.
    pub(super) failed: Option<u8>,
    /// Whether the broker names no partitions of the topic.
    pub(super) is_taken_by_pattern: bool,
}

impl Examination<'_> {
    /// Takes one step after the other, and stops after the first in which something failed.
    pub(super) async fn run(&mut self, topic: Option<&Topic>, put: bool) -> Result<(), Failure> {
        let addrs = if let Cluster::Direct(addr) = &self.cluster {
            let addr = addr.clone();
            let text = "is one broker, which needs no registry";
            self.report((Finding::ok(Step::Registry, &addr, text), None)).await?;
            self.direct(topic, &addr).await?;
            BTreeSet::from([addr])
        } else {
            let views = self.registry(topic).await?;
            views.iter().flat_map(TopicView::brokers).map(|broker| broker.addr.clone()).collect()
        };
        if self.failed.is_none() {
            self.brokers(&addrs).await?;
        }
        if let Some(topic) = topic.filter(|_| self.failed.is_none()) {
            self.messages(topic, put).await?;
        }
        Ok(())
    }

    /// Step 3 without a registry: the broker lists its topics. If it can't be asked, the steps that
    /// follow say why.
    async fn direct(&mut self, topic: Option<&Topic>, addr: &BrokerAddr) -> Result<(), Failure> {
        let Some(topic) = topic else { return Ok(()) };
        match self.look.inspector.topics().await {
            Ok(topics) => self.topic(topic, &topics).await.map(drop),
            Err(error) => {
                self.brokers(&BTreeSet::from([addr.clone()])).await?;
                if self.failed.is_some() {
                    return Ok(());
                }
                let remedy = "the broker answers other questions: see its log";
                let finding = Finding::failed(Step::Version, addr, describe(&error), remedy);
                let status = self.look.status_of(&error);
                self.report((finding, Some(status))).await
            }
        }
    }

    /// Steps 7 and 8.
    async fn messages(&mut self, topic: &Topic, put: bool) -> Result<(), Failure> {
        let places = match self.look.inspector.partitions(topic).await {
            Ok(places) => places,
            Err(error) => {
                let remedy = "the steps before have succeeded: try again, and see the broker's log";
                let finding = Finding::failed(Step::Partition, topic, describe(&error), remedy);
                let status = self.look.status_of(&error);
                return self.report((finding, Some(status))).await;
            }
        };
        if places.is_empty() {
            let finding = if self.is_taken_by_pattern {
                let text = "has no partitions yet; the broker makes them when it gets a message";
                (Finding::ok(Step::Partition, topic, text), None)
            } else {
                let remedy =
                    "set numPartitions of the topic above 0 in the broker's server.ini, and restart it";
                let finding = Finding::failed(Step::Partition, topic, "has no partitions", remedy);
                (finding, Some(EXIT_NOT_FOUND))
            };
            self.report(finding).await?;
        }
        for place in &places {
            let finding = self.partition(place).await;
            self.report(finding).await?;
        }
        if put && self.failed.is_none() {
            self.put(topic, &places).await?;
        }
        Ok(())
    }

    /// Prints a finding, and remembers the status of the first failure.
    async fn report(&mut self, (finding, status): (Finding, Option<u8>)) -> Result<(), Failure> {
        if self.json {
            self.look.json(&finding)?;
        } else if self.look.is_plain() {
            self.look.text(&finding.plain());
        } else {
            self.look.text(&finding.text());
        }
        self.failed = self.failed.or(status);
        // Each finding is shown at once, as the next may take long.
        self.look.written().await
    }

    /// Steps 1 to 3. Returns the topics to go on with.
    async fn registry(&mut self, topic: Option<&Topic>) -> Result<Vec<TopicView>, Failure> {
        let is_file = matches!(self.cluster, Cluster::File(_));
        let subject = if is_file { "the file" } else { "the registry" };
        let topics = match self.look.inspector.topics().await {
            Ok(topics) => topics,
            Err(error) => {
                let remedy = if is_file {
                    "check the path and the syntax of the file"
                } else {
                    "check host names and ports in --cluster, that the servers run, and that this machine may reach \
                     them; with TLS or passwords, check these"
                };
                let finding = Finding::failed(Step::Registry, subject, describe(&error), remedy);
                let status = self.look.status_of(&error);
                self.report((finding, Some(status))).await?;
                return Ok(Vec::new());
            }
        };
        self.report((Finding::ok(Step::Registry, subject, "answers"), None)).await?;
        let views = match self.look.inspector.all_topics().await {
            Ok(views) => views,
            Err(error) => {
                let remedy = "the registry answered before: try again, and see its log";
                let finding = Finding::failed(Step::Topics, subject, describe(&error), remedy);
                let status = self.look.status_of(&error);
                self.report((finding, Some(status))).await?;
                return Ok(Vec::new());
            }
        };
        let is_alive = views.iter().any(|view| !view.is_empty());
        // A topic that is registered is explained by its own step.
        if topics.is_empty() || !is_alive && topic.is_none_or(|topic| !topics.contains(topic)) {
            let (text, remedy) = if topics.is_empty() {
                let reason = self.look.explain_root().await.map(|reason| format!(": {reason}"));
                let remedy = "check the root at the end of --cluster, which is that of the brokers' zk.zkRoot (/meta by \
                              default), and that brokers run and have topics configured";
                (format!("lists no topics{}", reason.unwrap_or_default()), remedy)
            } else {
                (
                    self.look.explain_nothing(&topics).await,
                    "no broker is registered: start them, and see their logs",
                )
            };
            let finding = Finding::failed(Step::Topics, subject, text, remedy);
            self.report((finding, Some(EXIT_NOT_FOUND))).await?;
            return Ok(Vec::new());
        }
        let topics_word = if topics.len() == 1 { "topic" } else { "topics" };
        let count = format!("lists {} {topics_word}", topics.len());
        self.report((Finding::ok(Step::Topics, subject, count), None)).await?;
        let Some(topic) = topic else { return Ok(views) };
        let offered = views.iter().filter(|view| !view.is_empty() || view.topic() == topic);
        let offered: Vec<_> = offered.map(|view| view.topic().clone()).collect();
        Ok(self.topic(topic, &offered).await?.into_iter().collect())
    }

    /// Step 3. `topics` are those that there are, with the one in question if it is registered.
    async fn topic(&mut self, topic: &Topic, topics: &[Topic]) -> Result<Option<TopicView>, Failure> {
        let (text, remedy, status) = match self.look.inspector.topic(topic).await {
            Ok(view) => {
                let text = match view.brokers().iter().find(|broker| broker.partitions.is_none()) {
                    Some(broker) => {
                        self.is_taken_by_pattern = true;
                        format!(
                            "names no partitions at broker {}, which may take it by a pattern",
                            broker.addr
                        )
                    }
                    None => {
                        let ids: Vec<_> = view.brokers().iter().map(|broker| broker_id(broker.id)).collect();
                        format!("is offered by broker {}", ids.join(", "))
                    }
                };
                self.report((Finding::ok(Step::Topic, topic, text), None)).await?;
                return Ok(Some(view));
            }
            Err(error) if error.kind() != InspectErrorKind::NoSuchTopic => {
                let remedy = "the registry answered before: try again, and see its log";
                (describe(&error), remedy, self.look.status_of(&error))
            }
            Err(_) if topics.contains(topic) => {
                let text = "it is registered, but none of its brokers is alive now".to_owned();
                (text, "start the brokers that have it, and see their logs", EXIT_NOT_FOUND)
            }
            Err(_) => {
                let shown: Vec<_> = topics.iter().take(SHOWN).map(Topic::as_str).collect();
                let more = if topics.len() > SHOWN { ", …" } else { "" };
                let text = format!("no broker offers it; there are {}{more}", shown.join(", "));
                let remedy = "check the name; or add [topic=NAME] with acceptPublish=true to a broker's server.ini, and \
                              restart it. A broker with [topic=*] takes any topic, but registers none";
                (text, remedy, EXIT_NOT_FOUND)
            }
        };
        self.report((Finding::failed(Step::Topic, topic, text, remedy), Some(status))).await?;
        Ok(None)
    }

    /// Steps 4 to 6, each for all brokers, up to the first in which something fails.
    async fn brokers(&mut self, addrs: &BTreeSet<BrokerAddr>) -> Result<(), Failure> {
        for step in [Step::Name, Step::Port, Step::Version] {
            for addr in addrs {
                let finding = match step {
                    Step::Name => self.name(addr).await,
                    Step::Port => self.port(addr).await,
                    _ => self.version(addr).await,
                };
                self.report(finding).await?;
            }
            if self.failed.is_some() {
                break;
            }
        }
        Ok(())
    }

    async fn name(&self, addr: &BrokerAddr) -> (Finding, Option<u8>) {
        let looked_up = timeout(self.timeout, lookup_host((addr.host(), addr.port()))).await;
        let found = looked_up.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let found = found.map(|all| all.map(|addr| addr.ip().to_string()).collect::<Vec<_>>());
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                let is_address = addresses.iter().any(|address| address == addr.host());
                let text = if is_address {
                    "is an address".to_owned()
                } else {
                    format!("is {}", addresses.join(", "))
                };
                (Finding::ok(Step::Name, addr.host(), text), None)
            }
            failed => {
                let text = failed.map_or_else(|error| describe(&error), |_| "has no address".to_owned());
                let remedy = "the broker registered this name; make it known to this machine (DNS, /etc/hosts), or set \
                              hostName in the broker's server.ini to one that is";
                let finding = Finding::failed(Step::Name, addr.host(), text, remedy);
                (finding, Some(EXIT_UNREACHABLE))
            }
        }
    }

    async fn port(&self, addr: &BrokerAddr) -> (Finding, Option<u8>) {
        let connected = timeout(self.timeout, TcpStream::connect((addr.host(), addr.port()))).await;
        match connected {
            Ok(Ok(_)) => (Finding::ok(Step::Port, addr, "accepts connections"), None),
            failed => {
                let remedy = match &failed {
                    Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        "nothing listens there: start the broker, or correct its serverPort; a broker that was killed \
                         stays registered until its session ends"
                    }
                    _ => {
                        "a firewall or a wrong address is in between: check that this machine may reach that port"
                    }
                };
                let text = match failed {
                    Ok(Err(error)) => describe(&error),
                    _ => format!("did not accept a connection within {:?}", self.timeout),
                };
                (Finding::failed(Step::Port, addr, text, remedy), Some(EXIT_UNREACHABLE))
            }
        }
    }

    async fn version(&self, addr: &BrokerAddr) -> (Finding, Option<u8>) {
        match self.look.inspector.version(addr).await {
            Ok(answer) => {
                let text = format!("answers in {:.1?}, version {}", answer.round_trip, answer.version);
                let flushed = self.flushes(addr).await.unwrap_or_default();
                (Finding::ok(Step::Version, addr, text + &flushed), None)
            }
            Err(error) => {
                let remedy = match error.kind() {
                    InspectErrorKind::Refused => "the broker is recovering or overloaded: see its log",
                    _ => {
                        "something accepts connections and does not answer as a MetaQ broker: check the port (the dashboard \
                         has another), whether TLS is needed, and whether the broker's process stands still"
                    }
                };
                let text = describe(&error);
                (Finding::failed(Step::Version, addr, text, remedy), Some(of_inspect_error(&error)))
            }
        }
    }

    /// Describes what an acknowledgement of the broker is worth, if its configuration says so.
    async fn flushes(&self, addr: &BrokerAddr) -> Option<String> {
        let config = self.look.inspector.config(addr).await.ok()?;
        let value = |name: &str| system_setting(&config, name);
        let threshold = value("unflushThreshold").unwrap_or_else(|| "1000".to_owned());
        let interval = value("unflushInterval").unwrap_or_else(|| "10000".to_owned());
        if threshold == "0" {
            return Some("; it flushes messages before it acknowledges them".to_owned());
        }
        Some(format!(
            "; it flushes after {threshold} messages or {interval} ms, so that a loss of power takes up to as many \
             acknowledged ones"
        ))
    }

    async fn partition(&self, place: &ListedPartition) -> (Finding, Option<u8>) {
        let asked = match self.look.inspector.offsets(place).await {
            // Only reading finds out that a partition is closed.
            Ok(offsets) => self.first_message(place, offsets.first).await.map(|()| offsets),
            Err(error) => Err(error),
        };
        match asked {
            Ok(offsets) => {
                let PartitionOffsets { first, end, .. } = offsets;
                let state = if first == end {
                    "is empty, and can be read"
                } else {
                    "can be read from its first message"
                };
                let text = format!("{state}; its offsets are {first} to {end}");
                (Finding::ok(Step::Partition, place.partition, text), None)
            }
            Err(error) => {
                let remedy = match error.kind() {
                    InspectErrorKind::Corrupt => "the log is damaged: see the broker's log and its disk",
                    _ => {
                        "the partition is closed, or the broker is recovering: open it again (openPartitions of the \
                         broker's JMX interface), or wait"
                    }
                };
                let finding = Finding::failed(Step::Partition, place.partition, describe(&error), remedy);
                (finding, Some(of_inspect_error(&error)))
            }
        }
    }

    async fn first_message(&self, place: &ListedPartition, first: i64) -> Result<(), InspectError> {
        self.look.inspector.reader(place, first).next().await.map(drop)
    }

    async fn put(&mut self, topic: &Topic, places: &[ListedPartition]) -> Result<(), Failure> {
        let producer = self.look.producer.clone();
        if let Err(error) = producer.publish_topic(topic).await {
            let remedy = "the steps before have succeeded: try again, and see the broker's log";
            let finding = Finding::failed(Step::Put, topic, describe(&error), remedy);
            return self.report((finding, Some(of_publish_error(&error)))).await;
        }
        let message = Message::new(topic.clone(), PAYLOAD);
        let messages = if self.is_taken_by_pattern {
            // Its broker chooses the partition.
            vec![(topic.to_string(), message)]
        } else {
            let to = |place: &ListedPartition| {
                (place.partition.to_string(), message.clone().with_partition(place.partition))
            };
            places.iter().map(to).collect()
        };
        for (subject, message) in messages {
            let reported = match producer.send(message).await {
                Ok(receipt) => {
                    let text = format!("stored a test message at offset {}", receipt.offset);
                    (Finding::ok(Step::Put, subject, text), None)
                }
                Err(error) => {
                    let remedy = match error.kind() {
                        SendErrorKind::Rejected => {
                            "the broker refused the message: see its text and its log (full disk, closed partition, \
                             acceptPublish)"
                        }
                        _ if error.outcome() == Outcome::NotSent => {
                            "the message never left this machine, as the connection was lost or the broker does not \
                             take more: see the broker's log and load, and try again"
                        }
                        _ => "the broker did not acknowledge in time: see its log, its disk and the network",
                    };
                    let status = match error.outcome() {
                        Outcome::NotSent => EXIT_NOT_SENT,
                        Outcome::Rejected => EXIT_REFUSED,
                        _ => EXIT_UNKNOWN,
                    };
                    let text = describe_send_error(&error);
                    (Finding::failed(Step::Put, subject, text, remedy), Some(status))
                }
            };
            self.report(reported).await?;
        }
        Ok(())
    }
}

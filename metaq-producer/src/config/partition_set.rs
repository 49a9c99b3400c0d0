//! The partitions of a topic that are configured, for selectors to choose from.

use std::{collections::BTreeMap, error::Error as StdError, fmt, str::FromStr, sync::Arc};

use metaq_discovery::MAX_PARTITIONS;
#[cfg(feature = "serde")]
use metaq_protocol::Topic;
use metaq_protocol::{BrokerId, Partition};

/// The partitions of a topic that a selector chooses from, whichever of their brokers are connected.
///
/// Without one, a selector chooses from the partitions of the brokers that are connected now, so that a key
/// moves when its broker dies. With one, a key keeps its partition: while the partition's broker is away, or
/// the registry doesn't name it any more, the message waits, within its timeout.
///
/// Set for a topic by [`ProducerBuilder::partitions`](crate::ProducerBuilder::partitions) or
/// [`ProducerConfig::partitions`](crate::ProducerConfig::partitions). The text form is that of the Java
/// client's `topic.num.TOPIC`: `BROKER:COUNT;BROKER:COUNT`, or else `ever-named`.
///
/// ```
/// use metaq_producer::{BrokerId, Partition, config::PartitionSet};
///
/// let set: PartitionSet = "0:2; 1:1".parse()?;
/// let partitions = [Partition::new(0, 0), Partition::new(0, 1), Partition::new(1, 0)];
/// assert_eq!(set.partitions(), Some(&partitions[..]));
/// assert_eq!(set, PartitionSet::new([(BrokerId(0), 2), (BrokerId(1), 1)])?);
/// assert_eq!(set.to_string(), "0:2;1:1");
/// # Ok::<(), metaq_producer::config::InvalidPartitionSet>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionSet(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Sorted, each once, at least one.
    Listed(Arc<[Partition]>),
    EverNamed,
}

const EVER_NAMED: &str = "ever-named";

impl PartitionSet {
    /// The partitions 0 to count - 1 of each broker. If a broker occurs more than once, its largest count is
    /// used.
    ///
    /// # Errors
    /// When there is no broker, an id is negative, or a count is 0 or above
    /// [`MAX_PARTITIONS`](crate::discovery::MAX_PARTITIONS).
    pub fn new(brokers: impl IntoIterator<Item = (BrokerId, u32)>) -> Result<Self, InvalidPartitionSet> {
        let mut counts = BTreeMap::new();
        for (id, count) in brokers {
            check(id, count.into())
                .map_err(|problem| InvalidPartitionSet::new(&format!("{id}:{count}"), problem))?;
            let known = counts.entry(id).or_insert(0);
            *known = count.max(*known);
        }
        if counts.is_empty() {
            return Err(InvalidPartitionSet::new("", "it names no broker"));
        }
        let of = |(id, count): (&BrokerId, &u32)| {
            let broker = *id;
            (0..count.cast_signed()).map(move |index| Partition { broker, index })
        };
        Ok(Self(Kind::Listed(counts.iter().flat_map(of).collect())))
    }

    /// All partitions that the registry has named since the topic was published on the producer. A broker
    /// that leaves keeps its partitions, and those that come are added, which may move keys. A program that
    /// is started while a broker is not registered doesn't know that broker's partitions.
    #[must_use]
    pub fn ever_named() -> Self {
        Self(Kind::EverNamed)
    }

    /// The partitions, sorted, if they are listed.
    #[must_use]
    pub fn partitions(&self) -> Option<&[Partition]> {
        self.listed().map(|listed| &**listed)
    }

    fn listed(&self) -> Option<&Arc<[Partition]>> {
        match &self.0 {
            Kind::Listed(listed) => Some(listed),
            Kind::EverNamed => None,
        }
    }

    /// The partitions to choose from when the registry names these and it was those `before`. None if there
    /// are none yet.
    pub(crate) fn choices(
        &self,
        named: &[Partition],
        before: Option<&Arc<[Partition]>>,
    ) -> Option<Arc<[Partition]>> {
        if let Some(listed) = self.listed() {
            return Some(Arc::clone(listed));
        }
        let before = before.map(|before| &**before).unwrap_or_default();
        // One whose broker's id isn't known is replaced when that becomes known.
        let is_new = |partition: &&Partition| {
            partition.broker != BrokerId::UNKNOWN && before.binary_search(partition).is_err()
        };
        let mut all: Vec<_> = named.iter().filter(is_new).copied().collect();
        all.extend_from_slice(before);
        all.sort_unstable();
        (!all.is_empty()).then(|| all.into())
    }
}

impl fmt::Display for PartitionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(partitions) = self.partitions() else { return f.write_str(EVER_NAMED) };
        let mut separator = "";
        for of_broker in partitions.chunk_by(|one, other| one.broker == other.broker) {
            if let [first, ..] = of_broker {
                write!(f, "{separator}{}:{}", first.broker, of_broker.len())?;
                separator = ";";
            }
        }
        Ok(())
    }
}

impl FromStr for PartitionSet {
    type Err = InvalidPartitionSet;

    /// Reads `0:4;1:4` or `ever-named`. Blanks around the parts are left out, and so are empty parts.
    fn from_str(text: &str) -> Result<Self, InvalidPartitionSet> {
        if text.trim() == EVER_NAMED {
            return Ok(Self::ever_named());
        }
        let mut brokers = Vec::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let wrong = |problem: &str| InvalidPartitionSet::new(part, problem);
            let Some((id, count)) = part.split_once(':') else {
                return Err(wrong("expected BROKER:COUNT such as 0:4, or ever-named"));
            };
            let id = id.trim().parse().map_err(|_| wrong("the id of a broker is a whole number"))?;
            let count = count.trim().parse().map_err(|_| wrong("the count is a whole number"))?;
            brokers.push((BrokerId(id), check(BrokerId(id), count).map_err(|problem| wrong(&problem))?));
        }
        Self::new(brokers)
    }
}

/// The count of partitions of a broker, or what is wrong with it.
fn check(id: BrokerId, count: i64) -> Result<u32, String> {
    if id.0 < 0 {
        return Err("the id of a broker can't be negative".to_owned());
    }
    let count = u32::try_from(count).ok().filter(|count| (1..=MAX_PARTITIONS).contains(count));
    count.ok_or_else(|| format!("a broker has from 1 to {MAX_PARTITIONS} partitions"))
}

/// The error of what is no set of partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPartitionSet {
    part: String,
    problem: String,
}

impl InvalidPartitionSet {
    fn new(part: &str, problem: impl Into<String>) -> Self {
        let part = part.chars().take(80).collect();
        Self { part, problem: problem.into() }
    }
}

impl fmt::Display for InvalidPartitionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, problem } = self;
        write!(f, "{part:?} is no set of partitions such as 0:4;1:4: {problem}")
    }
}

impl StdError for InvalidPartitionSet {}

/// Reads `TOPIC=SET TOPIC=SET`, where a set may contain blanks.
#[cfg(feature = "serde")]
pub(super) fn parse_by_topic(text: &str) -> Result<BTreeMap<Topic, PartitionSet>, String> {
    let mut entries: Vec<(&str, String)> = Vec::new();
    for word in text.split_whitespace() {
        // The name of a topic may contain a `=`; a set doesn't.
        match (word.rsplit_once('='), entries.last_mut()) {
            (Some((topic, set)), _) => entries.push((topic, set.to_owned())),
            (None, Some((_, set))) => set.push_str(word),
            (None, None) => return Err(format!("{word:?} has no topic; expected TOPIC={word}")),
        }
    }
    let mut sets = BTreeMap::new();
    for (topic, set) in entries {
        let topic = topic.parse::<Topic>().map_err(|error| error.to_string())?;
        let set = set.parse().map_err(|error| format!("of topic {topic}, {error}"))?;
        if let Some(first) = sets.insert(topic.clone(), set) {
            return Err(format!("topic {topic} has two sets of partitions, {first} and another one"));
        }
    }
    Ok(sets)
}

/// What [`parse_by_topic`] reads.
#[cfg(feature = "serde")]
pub(super) fn write_by_topic(sets: &BTreeMap<Topic, PartitionSet>) -> String {
    sets.iter().map(|(topic, set)| format!("{topic}={set}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(set: &PartitionSet) -> Vec<String> {
        set.partitions().unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_set_is_read_as_java_writes_it() {
        let set: PartitionSet = " 1 : 1; 0:3 ;; 0:2;".parse().unwrap();
        assert_eq!(texts(&set), ["0-0", "0-1", "0-2", "1-0"], "E-20, each once");
        assert_eq!(set.to_string(), "0:3;1:1");
        assert_eq!(set.to_string().parse(), Ok(set));
        assert_eq!(" ever-named ".parse(), Ok(PartitionSet::ever_named()));
        assert_eq!(PartitionSet::ever_named().to_string(), "ever-named");
    }

    #[test]
    fn what_is_no_set_is_named_with_the_reason() {
        for (text, part, problem) in [
            ("", "", "it names no broker"),
            (" ; ", "", "it names no broker"),
            ("0:1;4", "4", "expected BROKER:COUNT"),
            ("all", "all", "expected BROKER:COUNT such as 0:4, or ever-named"),
            ("0:0", "0:0", "from 1 to 65536"),
            ("1:-4", "1:-4", "from 1 to 65536"),
            ("0:65537", "0:65537", "from 1 to 65536"),
            ("0:99999999999", "0:99999999999", "from 1 to 65536"),
            ("-1:2", "-1:2", "can't be negative"),
            ("a:2", "a:2", "the id of a broker is a whole number"),
            ("0:two", "0:two", "the count is a whole number"),
        ] {
            let error = text.parse::<PartitionSet>().unwrap_err().to_string();
            let begin = format!("{part:?} is no set of partitions such as 0:4;1:4: ");
            assert!(error.starts_with(&begin) && error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn what_was_ever_named_stays_in_the_set() {
        let partition = Partition::new;
        let (set, listed) = (PartitionSet::ever_named(), "7:1".parse::<PartitionSet>().unwrap());
        assert_eq!(set.choices(&[Partition::ANY], None), None, "it is not known which it will be");
        let first = set.choices(&[partition(0, 0), partition(2, 0)], None).unwrap();
        let second = set.choices(&[partition(1, 0), partition(2, 0)], Some(&first)).unwrap();
        assert_eq!(*second, [partition(0, 0), partition(1, 0), partition(2, 0)]);
        assert_eq!(set.choices(&[], Some(&second)), Some(second));
        assert_eq!(*listed.choices(&[partition(0, 0)], Some(&first)).unwrap(), [partition(7, 0)]);
    }

    #[cfg(feature = "serde")]
    #[test]
    fn sets_of_topics_are_written_as_they_are_read() {
        let sets = parse_by_topic("a=b=0:4; 1:4\n c=ever-named").unwrap();
        assert_eq!(write_by_topic(&sets), "a=b=0:4;1:4 c=ever-named");
        assert_eq!(parse_by_topic(" "), Ok(BTreeMap::new()));
        for (text, problem) in [
            ("0:4", "\"0:4\" has no topic; expected TOPIC=0:4"),
            ("a=0:4 a=0:5", "topic a has two sets of partitions, 0:4 and another one"),
            ("a=", "of topic a, \"\" is no set"),
            ("=0:4", "topic"),
        ] {
            let error = parse_by_topic(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}

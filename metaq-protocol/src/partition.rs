//! Partitions and the brokers that hold them.

use alloc::{borrow::ToOwned, string::String};
use core::{fmt, str::FromStr};

/// The number of a broker in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a plain number with a name")]
pub struct BrokerId(pub i32);

impl BrokerId {
    /// The broker id of [`Partition::ANY`]: the id isn't known.
    pub const UNKNOWN: Self = Self(-1);
}

impl fmt::Display for BrokerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of a topic: the broker that holds it, and its index within that broker.
///
/// The wire format contains only the index, because a connection leads to one broker: the 1 in `put test 1 5
/// 0 907060870 1\r\nhello`. The text form is `broker-index`, for example `0-1`. Partitions are ordered by
/// broker, then by index.
///
/// ```
/// use metaq_protocol::{BrokerId, Partition};
///
/// let partition: Partition = "2-5".parse()?;
/// assert_eq!(partition, Partition { broker: BrokerId(2), index: 5 });
/// assert!(partition < Partition { broker: BrokerId(10), index: 0 });
/// # Ok::<(), metaq_protocol::InvalidPartition>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "the two parts of a partition's name")]
pub struct Partition {
    /// The broker that holds the partition.
    pub broker: BrokerId,
    /// The number of the partition within that broker. With -1 the broker chooses.
    pub index: i32,
}

impl Partition {
    /// The index with which the broker chooses one of its partitions.
    pub const ANY_INDEX: i32 = -1;

    /// "Any partition", text form `-1--1`: used when only a broker's address is known.
    pub const ANY: Self = Self { broker: BrokerId::UNKNOWN, index: Self::ANY_INDEX };

    /// Creates the partition `index` of the broker with the id `broker`.
    #[must_use]
    pub const fn new(broker: i32, index: i32) -> Self {
        Self { broker: BrokerId(broker), index }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.broker, self.index)
    }
}

impl FromStr for Partition {
    type Err = InvalidPartition;

    /// Parses `broker-index` as Java does: further parts are ignored, and `-1--1` is the only valid form with
    /// negative numbers.
    fn from_str(text: &str) -> Result<Self, InvalidPartition> {
        if text == "-1--1" {
            return Ok(Self::ANY);
        }
        let mut parts = text.split('-');
        let mut number = || parts.next().and_then(|part| crate::number::parse_i32(part.as_bytes()));
        match (number(), number()) {
            (Some(broker), Some(index)) => Ok(Self::new(broker, index)),
            _ => Err(InvalidPartition { text: crate::excerpt(text).to_owned() }),
        }
    }
}

/// The error of a text that isn't a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPartition {
    text: String,
}

impl fmt::Display for InvalidPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text } = self;
        write!(f, "{text:?} is not a partition; expected BROKER-INDEX such as 0-1")
    }
}

impl core::error::Error for InvalidPartition {}

impl InvalidPartition {
    /// The beginning of the text, at most 80 characters.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn reads_and_writes_the_text_form() {
        for text in ["0-0", "10-200", "-1--1", "2147483647-2147483647"] {
            assert_eq!(text.parse::<Partition>().unwrap().to_string(), text);
        }
        assert_eq!("0-1-2".parse(), Ok(Partition::new(0, 1)));
        for text in ["", "1", "-1", "-1-1", "0--1", "0-x", "test-0", "2147483648-0"] {
            assert!(text.parse::<Partition>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn partitions_are_ordered_by_number() {
        assert!(Partition::new(2, 5) < Partition::new(10, 0), "C-99");
        assert!(Partition::new(0, 9) < Partition::new(0, 10));
    }
}

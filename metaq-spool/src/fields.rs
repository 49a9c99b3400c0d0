//! Fields of rows: numbers in big-endian order, and texts and bytes behind their lengths.
//!
//! Each row begins with the version of its format and the CRC-32 of that and all the rest.

use std::fmt;

use metaq_producer::{Partition, Topic};

/// The version of the format of all rows.
const VERSION: u8 = 1;

/// The bytes of version and checksum.
const HEAD: usize = 5;

/// Why a row can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadRow {
    text: String,
    /// Set when it is no damage: a later version has written the row.
    pub(crate) is_newer: bool,
}

impl BadRow {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_newer: false }
    }
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A row that is being written.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// A row with space for this many bytes of fields.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        let mut row = Vec::with_capacity(HEAD + capacity);
        row.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
        Self(row)
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Bytes behind their length. What is longer than 4 GiB is no message of any broker.
    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value);
    }

    /// Bytes that are the rest of the row.
    pub(crate) fn rest(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    pub(crate) fn partition(&mut self, partition: Option<Partition>) {
        match partition {
            None => self.u8(0),
            Some(partition) => {
                self.u8(1);
                self.0.extend_from_slice(&partition.broker.0.to_be_bytes());
                self.0.extend_from_slice(&partition.index.to_be_bytes());
            }
        }
    }

    /// The row with its checksum.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let checksum = checksum(self.0[0], &self.0[HEAD..]);
        self.0[1..HEAD].copy_from_slice(&checksum.to_be_bytes());
        self.0
    }
}

/// The checksum of a row of any version.
fn checksum(version: u8, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[version]);
    hasher.update(rest);
    hasher.finalize()
}

/// The same row as a later version writes it.
#[cfg(test)]
pub(crate) fn as_newer(row: &[u8]) -> Vec<u8> {
    let mut row = row.to_vec();
    row[0] = VERSION + 1;
    let checksum = checksum(row[0], &row[HEAD..]);
    row[1..HEAD].copy_from_slice(&checksum.to_be_bytes());
    row
}

/// The fields of a row that are not read yet.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Checks version and checksum of a row.
    pub(crate) fn new(row: &'a [u8]) -> Result<Self, BadRow> {
        let [version, a, b, c, d, rest @ ..] = row else {
            return Err(BadRow::new(format!("it has only {} bytes", row.len())));
        };
        let (stored, computed) = (u32::from_be_bytes([*a, *b, *c, *d]), checksum(*version, rest));
        if stored != computed {
            return Err(BadRow::new(format!("its checksum is {computed:08x}, and {stored:08x} was written")));
        }
        if *version != VERSION {
            let text = format!("its format has version {version}, and this program reads version {VERSION}");
            return Err(BadRow { text, is_newer: true });
        }
        Ok(Self(rest))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], BadRow> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or_else(|| BadRow::new("a field is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadRow> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| BadRow::new("a field is cut off"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, BadRow> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, BadRow> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, BadRow> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], BadRow> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, BadRow> {
        str::from_utf8(self.bytes()?).map_err(|_| BadRow::new("a text is no UTF-8"))
    }

    pub(crate) fn topic(&mut self) -> Result<Topic, BadRow> {
        let name = self.text()?;
        Topic::new(name).map_err(|error| BadRow::new(error.to_string()))
    }

    pub(crate) fn partition(&mut self) -> Result<Option<Partition>, BadRow> {
        match self.u8()? {
            0 => Ok(None),
            1 => {
                let broker = i32::from_be_bytes(self.array()?);
                Ok(Some(Partition::new(broker, i32::from_be_bytes(self.array()?))))
            }
            other => Err(BadRow::new(format!("{other} is no kind of partition"))),
        }
    }

    /// The number of bytes that were not read yet, which are at the end of the row.
    pub(crate) fn remaining(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut writer = Writer::with_capacity(16);
        writer.u64(7);
        writer.partition(Some(Partition::new(1, 2)));
        writer.bytes(b"text");
        let row = writer.finish();
        let mut reader = Reader::new(&row).unwrap();
        assert_eq!(reader.u64(), Ok(7));
        assert_eq!(reader.partition(), Ok(Some(Partition::new(1, 2))));
        assert_eq!((reader.text(), reader.remaining()), (Ok("text"), 0));
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Reader::new(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..row.len() {
            assert!(Reader::new(&row[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_length_beyond_the_row_is_no_panic() {
        let mut writer = Writer::with_capacity(4);
        writer.u32(u32::MAX);
        let row = writer.finish();
        assert_eq!(Reader::new(&row).unwrap().bytes(), Err(BadRow::new("a field is cut off")));
    }
}

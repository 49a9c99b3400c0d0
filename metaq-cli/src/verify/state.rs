//! The file by which a run goes on after its program was killed.
//!
//! The first line is the [`Header`]; each further one a word and numbers: `r` reserves numbers up to one,
//! with the milliseconds of sending so far, before they are sent; `e` ends the sending with that number and
//! time; `a` is an acknowledgement with its partition and offset; `n`, `x` and `u` are other outcomes.
//! Numbers that were reserved and have no outcome were possibly sent. A last line that was cut off is
//! ignored.
//!
//! The file is locked while a run uses it.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use metaq_producer::Partition;
use serde::{Deserialize, Serialize};

use super::ledger::{Ledger, Place, Reported};
use crate::stderr::{describe, without_line};

/// The form of the file.
const VERSION: u32 = 2;

/// The most numbers that are reserved at a time: the limit on messages in flight.
pub(super) const MAX_RESERVED: u64 = 8192;

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) run: String,
    /// The cluster as it was named.
    pub(super) cluster: String,
    pub(super) topic: String,
    pub(super) count: Option<u64>,
    pub(super) during_ms: Option<u64>,
    pub(super) rate: Option<f64>,
    pub(super) size: usize,
    pub(super) in_flight: usize,
    pub(super) ordered: bool,
    /// The offset of each partition before the first message.
    pub(super) starts: BTreeMap<String, i64>,
}

impl Header {
    pub(super) const VERSION: u32 = VERSION;

    /// Returns the partitions that there were, with the offset of each before the first message.
    pub(super) fn starts(&self) -> BTreeMap<Partition, i64> {
        let parsed = self.starts.iter().map(|(name, start)| Some((name.parse().ok()?, *start)));
        parsed.flatten().collect()
    }
}

/// The file, if there is one.
#[derive(Debug)]
pub(super) struct State(Option<(BufWriter<File>, PathBuf)>);

/// What a file says of a run that was interrupted.
#[derive(Debug)]
pub(super) struct Interrupted {
    pub(super) header: Header,
    pub(super) ledger: Ledger,
    /// The time for which it had sent, at least.
    pub(super) elapsed: Duration,
}

impl State {
    /// No file.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// The name of the file; empty if there is none.
    pub(super) fn path(&self) -> &Path {
        self.0.as_ref().map_or_else(|| Path::new(""), |(_, path)| path)
    }

    /// Creates the file.
    ///
    /// # Errors
    /// When it exists, or can't be written.
    pub(super) fn create(path: &Path, header: &Header) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        lock(&file)?;
        let mut state = Self(Some((BufWriter::new(file), path.to_owned())));
        let line = serde_json::to_string(header).map_err(io::Error::from)?;
        state.line(format_args!("{line}"))?;
        state.sync()?;
        Ok(state)
    }

    /// Reads the file of an interrupted run, and goes on with it.
    ///
    /// # Errors
    /// A text that names the file and what to do when it can't be read or written, is none, or another run
    /// uses it.
    pub(super) fn resume(path: &Path) -> Result<(Interrupted, Self), String> {
        Self::reopen(path).map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::NotFound => {
                    "; check the name: a run has a file only where --state has named one when it began"
                }
                io::ErrorKind::PermissionDenied => "; it has to be readable and writable for this user",
                _ => "",
            };
            format!("the run in {} can't be resumed: {}{remedy}", path.display(), describe(&error))
        })
    }

    fn reopen(path: &Path) -> io::Result<(Interrupted, Self)> {
        let file = OpenOptions::new().append(true).open(path)?;
        lock(&file)?;
        let text = fs::read_to_string(path)?;
        let interrupted = parse(&text)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64)?;
        Ok((interrupted, Self(Some((BufWriter::new(file), path.to_owned())))))
    }

    /// Reserves the numbers up to `end`, before they are sent.
    pub(super) fn reserve(&mut self, end: u64, elapsed: Duration) -> io::Result<()> {
        self.note(end, elapsed)?;
        self.sync()
    }

    /// Notes the time of sending so far. `reserved` is the end of the last reservation.
    pub(super) fn note(&mut self, reserved: u64, elapsed: Duration) -> io::Result<()> {
        self.line(format_args!("r {reserved} {}", elapsed.as_millis()))
    }

    /// Notes that the sending is over, with the numbers before `end` as the only ones that were sent.
    pub(super) fn end(&mut self, end: u64, elapsed: Duration) -> io::Result<()> {
        self.line(format_args!("e {end} {}", elapsed.as_millis()))?;
        self.sync()
    }

    /// Notes an outcome, which reaches the file with [`flush`](Self::flush) at the latest.
    pub(super) fn report(&mut self, number: u64, reported: Reported, place: Option<Place>) -> io::Result<()> {
        let word = match (reported, place) {
            (Reported::Acknowledged, Some((partition, offset))) => {
                return self.line(format_args!("a {number} {partition} {offset}"));
            }
            (Reported::NotSent, _) => 'n',
            (Reported::Rejected, _) => 'x',
            _ => 'u',
        };
        self.line(format_args!("{word} {number}"))
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), |(file, _)| file.flush())
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), |(file, _)| writeln!(file, "{text}"))
    }

    /// Numbers that are used again after a loss of power would look like duplicates.
    fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        self.0.as_ref().map_or(Ok(()), |(file, _)| file.get_ref().sync_data())
    }
}

/// Takes the file for this process, until it ends.
fn lock(file: &File) -> io::Result<()> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => {
            let text = "another metaq verify uses the file; wait until it has ended";
            io::Error::new(io::ErrorKind::WouldBlock, text)
        }
        TryLockError::Error(error) => error,
    })
}

/// A line after the first.
enum Line {
    Reserved(u64, Duration),
    Ended(u64, Duration),
    Outcome(u64, Reported, Option<Place>),
}

/// Reads a line; `len` is the end of what was reserved before.
fn parse_line(line: &str, len: u64) -> Option<Line> {
    let words: Vec<_> = line.split(' ').collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    let millis = || number(2).map(Duration::from_millis);
    // Numbers are reserved before they are sent.
    let reserved = || number(1).filter(|number| *number < len);
    let outcome = |reported| Some(Line::Outcome(reserved()?, reported, None));
    match (words[0], words.len()) {
        // No more is reserved at a time, so that a damaged line takes no memory without an end.
        ("r", 3) => Some(Line::Reserved(number(1).filter(|end| *end <= len + MAX_RESERVED)?, millis()?)),
        ("e", 3) => Some(Line::Ended(number(1).filter(|end| *end <= len)?, millis()?)),
        ("a", 4) => {
            let place = (words[2].parse().ok()?, words[3].parse().ok()?);
            Some(Line::Outcome(reserved()?, Reported::Acknowledged, Some(place)))
        }
        ("n", 2) => outcome(Reported::NotSent),
        ("x", 2) => outcome(Reported::Rejected),
        ("u", 2) => outcome(Reported::Unknown),
        _ => None,
    }
}

fn parse(text: &str) -> io::Result<Interrupted> {
    let malformed = |line: usize, reason: String| {
        let text = format!(
            "line {line} is malformed ({reason}); it is no file of --state, or damaged: name another file, or begin a \
             new run"
        );
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let mut lines = text.split_inclusive('\n').enumerate();
    let first = lines.next().map(|(_, line)| line).unwrap_or_default();
    let header: Header = serde_json::from_str(first).map_err(|error| malformed(1, without_line(&error)))?;
    if header.version != VERSION {
        let text = format!(
            "line 1 has the version {}, and this metaq reads {VERSION}; resume it with the metaq that began the run",
            header.version
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let (mut ledger, mut elapsed) = (Ledger::default(), Duration::ZERO);
    for (at, line) in lines.filter(|(_, line)| line.ends_with('\n')) {
        match parse_line(line.trim_end(), ledger.len()) {
            Some(Line::Reserved(end, so_far)) => {
                ledger.extend_to(end);
                elapsed = elapsed.max(so_far);
            }
            Some(Line::Ended(end, so_far)) => {
                ledger.truncate_to(end);
                elapsed = elapsed.max(so_far);
            }
            Some(Line::Outcome(number, reported, place)) => ledger.report(number, reported, place),
            None => return Err(malformed(at + 1, format!("{:?}", line.trim_end()))),
        }
    }
    Ok(Interrupted { header, ledger, elapsed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            version: VERSION,
            run: "1f".to_owned(),
            cluster: "meta://h:1".to_owned(),
            topic: "t".to_owned(),
            count: Some(100),
            during_ms: None,
            rate: None,
            size: 64,
            in_flight: 8,
            ordered: true,
            starts: BTreeMap::from([("0-0".to_owned(), 7)]),
        }
    }

    #[test]
    fn run_comes_back_from_every_cut_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut state = State::create(&path, &header()).unwrap();
        state.reserve(4, Duration::from_millis(3)).unwrap();
        for (number, reported) in
            [Reported::Acknowledged, Reported::NotSent, Reported::Rejected].into_iter().enumerate()
        {
            let place = (number == 0).then_some((Partition::new(1, 2), -3));
            state.report(number as u64, reported, place).unwrap();
        }
        state.reserve(8, Duration::from_millis(12)).unwrap();
        drop(state);
        let text = fs::read_to_string(&path).unwrap();
        let start = text.find('\n').unwrap() + 1;
        for cut in start..=text.len() {
            let Interrupted { header: read, ledger, elapsed } = parse(&text[..cut]).unwrap();
            let (counts, _) = ledger.verdict();
            assert_eq!(read, header());
            assert!(counts.acknowledged <= 1 && counts.sent <= 8 && elapsed <= Duration::from_millis(12));
            assert_eq!(
                counts.sent,
                counts.acknowledged + counts.not_sent + counts.rejected + counts.possibly_sent
            );
        }
        fs::write(&path, &text[..text.len() - 1]).unwrap();
        let (Interrupted { ledger, .. }, mut state) = State::resume(&path).unwrap();
        assert_eq!(ledger.len(), 4, "the last line was cut off");
        let error = State::resume(&path).unwrap_err();
        assert!(error.contains("another metaq verify uses the file"), "{error}");
        state.reserve(9, Duration::ZERO).unwrap();
        state.end(7, Duration::from_millis(99)).unwrap();
        drop(state);
        let (Interrupted { mut ledger, elapsed, .. }, _) = State::resume(&path).unwrap();
        assert_eq!((ledger.len(), elapsed), (7, Duration::from_millis(99)), "the end is exact");
        assert_eq!(ledger.end_sending().into_iter().collect::<Vec<_>>(), [Partition::new(1, 2)]);
        assert_eq!(ledger.next_place(Partition::new(1, 2), i64::MIN), Some(-3));
    }

    #[test]
    fn damaged_lines_are_refused_without_taking_memory() {
        let header = serde_json::to_string(&header()).unwrap();
        for line in [
            "r 18446744073709551615 0",
            "r 8193 0",
            "e 1 0",
            "a 0",
            "a 0 1 2",
            "a 0 0-0 5",
            "u 0",
            "n 0 0",
            "r 1",
            "",
            "q 1 1",
        ] {
            let error = parse(&format!("{header}\n{line}\n")).unwrap_err();
            assert!(error.to_string().contains("line 2 is malformed"), "{line}: {error}");
        }
    }

    #[test]
    fn another_file_is_refused_and_none_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs::write(&path, "no state\n").unwrap();
        let error = State::resume(&path).unwrap_err();
        assert!(error.contains("no file of --state"), "{error}");
        assert_eq!(State::create(&path, &header()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}

//! The file by which a run goes on after its program was killed.
//!
//! The first line is the [`Header`]; each further one a word and a number: `r` reserves numbers up to one,
//! with the milliseconds since the start, before they are sent; `a`, `n`, `x` and `u` are outcomes. Numbers
//! that were reserved and have no outcome are unknown. A last line that was cut off is ignored.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::ledger::{Ledger, Reported};

/// The form of the file.
const VERSION: u32 = 1;

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) run: String,
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
}

/// The file, if there is one.
#[derive(Debug)]
pub(super) struct State(Option<BufWriter<File>>);

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

    /// Creates the file.
    ///
    /// # Errors
    /// When it exists, or can't be written.
    pub(super) fn create(path: &Path, header: &Header) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        let mut state = Self(Some(BufWriter::new(file)));
        let line = serde_json::to_string(header).map_err(io::Error::from)?;
        state.line(format_args!("{line}"))?;
        state.sync()?;
        Ok(state)
    }

    /// Reads the file of an interrupted run, and goes on with it.
    ///
    /// # Errors
    /// When it can't be read or written, or is none.
    pub(super) fn resume(path: &Path) -> io::Result<(Interrupted, Self)> {
        let text = fs::read_to_string(path)?;
        let interrupted = parse(&text)?;
        let file = OpenOptions::new().append(true).open(path)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64)?;
        Ok((interrupted, Self(Some(BufWriter::new(file)))))
    }

    /// Reserves the numbers up to `end`, before they are sent.
    pub(super) fn reserve(&mut self, end: u64, elapsed: Duration) -> io::Result<()> {
        self.line(format_args!("r {end} {}", elapsed.as_millis()))?;
        self.sync()
    }

    /// Notes an outcome, which reaches the file with [`flush`](Self::flush) at the latest.
    pub(super) fn report(&mut self, number: u64, reported: Reported) -> io::Result<()> {
        let word = match reported {
            Reported::Acknowledged => 'a',
            Reported::NotSent => 'n',
            Reported::Rejected => 'x',
            Reported::Unknown => 'u',
        };
        self.line(format_args!("{word} {number}"))
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), BufWriter::flush)
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), |file| writeln!(file, "{text}"))
    }

    /// Numbers that are used again after a loss of power would look like duplicates.
    fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        self.0.as_ref().map_or(Ok(()), |file| file.get_ref().sync_data())
    }
}

fn parse(text: &str) -> io::Result<Interrupted> {
    let malformed = |line: usize, reason: String| {
        let text = format!("line {line} is malformed ({reason}); it is no state of metaq verify, or damaged");
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let mut lines = text.split_inclusive('\n').enumerate();
    let first = lines.next().map(|(_, line)| line).unwrap_or_default();
    let header: Header = serde_json::from_str(first).map_err(|error| malformed(1, error.to_string()))?;
    if header.version != VERSION {
        return Err(malformed(1, format!("its version is {}, not {VERSION}", header.version)));
    }
    let (mut ledger, mut elapsed) = (Ledger::default(), Duration::ZERO);
    for (at, line) in lines.filter(|(_, line)| line.ends_with('\n')) {
        let words: Vec<_> = line.trim_end().split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        let (number, reported) = match (words[0], number(1), number(2)) {
            ("r", Some(end), Some(millis)) => {
                ledger.extend_to(end);
                elapsed = elapsed.max(Duration::from_millis(millis));
                continue;
            }
            ("a", Some(number), None) => (number, Reported::Acknowledged),
            ("n", Some(number), None) => (number, Reported::NotSent),
            ("x", Some(number), None) => (number, Reported::Rejected),
            ("u", Some(number), None) => (number, Reported::Unknown),
            _ => return Err(malformed(at + 1, format!("{:?}", line.trim_end()))),
        };
        ledger.report(number, reported);
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
            state.report(number as u64, reported).unwrap();
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
            assert_eq!(counts.sent, counts.acknowledged + counts.not_sent + counts.rejected + counts.unknown);
        }
        fs::write(&path, &text[..text.len() - 1]).unwrap();
        let (Interrupted { ledger, .. }, mut state) = State::resume(&path).unwrap();
        assert_eq!(ledger.len(), 4, "the last line was cut off");
        state.reserve(9, Duration::ZERO).unwrap();
        drop(state);
        let (Interrupted { ledger, .. }, _) = State::resume(&path).unwrap();
        assert_eq!(ledger.len(), 9);
    }

    #[test]
    fn another_file_is_refused_and_none_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs::write(&path, "no state\n").unwrap();
        let error = State::resume(&path).unwrap_err();
        assert!(error.to_string().contains("no state of metaq verify"), "{error}");
        assert_eq!(State::create(&path, &header()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}

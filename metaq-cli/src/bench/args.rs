//! The options of `metaq bench`.

use std::{
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use bytes::Bytes;
use metaq_producer::Topic;
use metaq_protocol::MAX_READABLE_DATA;

use crate::args::{ConnectionArgs, parse_timeout, timeout_text};

/// Sends messages as fast as they are acknowledged, and measures the rate. THE MESSAGES ARE STORED: use a
/// dedicated topic.
///
/// The latency of a message is the time from just before it is sent until the program has its
/// acknowledgement. CPU is the user and system time of this program; the rate counts acknowledged messages.
/// Messages of the warm-up are not measured; stderr reports the number of those that failed.
///
/// With --rate the latency counts from the time at which a message was due, so that a broker that stands
/// still is not measured too well by messages that were not sent meanwhile.
///
/// What limited the rate is one of: rate (it was what --rate asked for), caller (the CPU time of this
/// program), socket (the system held bytes that the broker did not take), broker (messages waited there: more
/// in flight would wait longer), permits (--in-flight: more in flight would be faster).
///
/// The status covers failures of the warm-up, too. SIGINT and SIGTERM stop sending; the figures so far are
/// printed, if they are read within --timeout. A second signal ends the program immediately, with a line on
/// stderr in place of the figures.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic
    #[arg(short, long)]
    pub(super) topic: Topic,
    /// The number of messages to measure
    #[arg(long, value_name = "N", required_unless_present = "duration",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) messages: Option<u64>,
    /// The time to measure for, in place of a number of messages, or at most
    #[arg(long, value_name = "TIME", value_parser = parse_timeout)]
    pub(super) duration: Option<Duration>,
    /// The size of each message's payload in bytes
    #[arg(long, value_name = "BYTES", required_unless_present = "payload", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u64).range(0..=MAX_READABLE_DATA as u64))]
    pub(super) size: Option<u64>,
    /// The payloads: zero or random bytes of that size, or the lines of a file in turn; letters by default
    #[arg(long, value_name = "zero|random|FILE")]
    pub(super) payload: Option<PayloadSource>,
    /// The number of unacknowledged messages at any time
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) in_flight: u32,
    /// The number of messages to send first, without measuring them
    #[arg(long, value_name = "W", default_value_t = 0)]
    pub(super) warmup: u64,
    /// The time limit for each message, retries included, 3s by default
    #[arg(long, value_name = "TIMEOUT", value_parser = timeout_text)]
    pub(super) timeout: Option<String>,
    /// Sends this number of messages each second, whether earlier ones are acknowledged or not, up to
    /// --in-flight. Latencies count from the time at which each should have been sent
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    pub(super) rate: Option<f64>,
    /// The number of connections to each broker, 1 by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) connections: Option<u32>,
    /// Prints also the 90th percentile, the maximum, MB/s and what limited the rate, as --rate, --duration,
    /// --connections, --payload, --compare and --plot do
    #[arg(long)]
    pub(super) details: bool,
    /// Prints how the figures differ from those of an earlier run: a file whose last line is that of --json
    #[arg(long, value_name = "OLD.json")]
    pub(super) compare: Option<PathBuf>,
    /// Writes the distribution of latencies to a file, in the text form of HdrHistogram, in microseconds
    #[arg(long, value_name = "FILE")]
    pub(super) hdr: Option<PathBuf>,
    /// Draws latencies by percentile, and rate and latencies over time, to a file
    #[arg(long, value_name = "FILE.svg")]
    pub(super) plot: Option<PathBuf>,
    /// Prints the figures also as one line of JSON, after the table; with --output json that line is all
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

/// Where payloads come from.
#[derive(Clone, Debug)]
pub(super) enum PayloadSource {
    Zero,
    Random,
    File(PathBuf),
}

impl FromStr for PayloadSource {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "zero" => Self::Zero,
            "random" => Self::Random,
            path => Self::File(path.into()),
        })
    }
}

/// The number of different random payloads.
const RANDOM_PAYLOADS: u64 = 64;

/// The largest file of payloads.
const MAX_FILE: u64 = 256 << 20;

impl Args {
    /// Makes the payloads, which are sent in turn; at least one.
    ///
    /// # Errors
    /// When the file can't be read, is empty, or has a line that is too long for a message, or a size is
    /// given beside it.
    pub(super) fn payloads(&self) -> io::Result<Vec<Bytes>> {
        let size = self.size.unwrap_or_default() as usize;
        if let (Some(PayloadSource::File(path)), Some(_)) = (&self.payload, self.size) {
            let text = format!("the lines of {} have their own sizes; leave --size out", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        match &self.payload {
            None => Ok(vec![vec![b'x'; size].into()]),
            Some(PayloadSource::Zero) => Ok(vec![vec![0; size].into()]),
            Some(PayloadSource::Random) => Ok((1..=RANDOM_PAYLOADS).map(|seed| random(seed, size)).collect()),
            Some(PayloadSource::File(path)) => lines(path),
        }
    }
    /// Returns whether the further figures are wanted.
    pub(super) fn has_details(&self) -> bool {
        self.details
            || self.rate.is_some()
            || self.duration.is_some()
            || self.connections.is_some_and(|connections| connections > 1)
            || self.payload.is_some()
            || self.compare.is_some()
            || self.plot.is_some()
    }
}

fn lines(path: &Path) -> io::Result<Vec<Bytes>> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let length = fs::metadata(path)?.len();
    if length > MAX_FILE {
        return Err(invalid(format!("it has {length} bytes, more than {MAX_FILE}")));
    }
    let text = Bytes::from(fs::read(path)?);
    let lines: Vec<_> = text
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| text.slice_ref(line.strip_suffix(b"\n").unwrap_or(line)))
        .collect();
    match lines.iter().position(|line| line.len() > MAX_READABLE_DATA) {
        _ if lines.is_empty() => Err(invalid("it has no line".to_owned())),
        Some(at) => Err(invalid(format!("its line {} is longer than {MAX_READABLE_DATA} bytes", at + 1))),
        None => Ok(lines),
    }
}

/// Bytes that don't repeat, the same ones for the same seed.
fn random(seed: u64, size: usize) -> Bytes {
    // Xorshift; the state must not be zero.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(size).collect::<Vec<_>>().into()
}

fn parse_rate(text: &str) -> Result<f64, &'static str> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0 && *rate <= 1e9);
    rate.ok_or("expected a number of messages each second that is greater than zero")
}

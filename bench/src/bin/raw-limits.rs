//! Measures what this machine allows a client, and prints it as JSON, one line a limit.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use clap::{Parser, ValueEnum};
use metaq_bench::limits::{Puts, Work, exchange, ping_pong, tcp_throughput};
use metaq_protocol::Topic;

/// Measures what this machine allows a client that has no runtime and makes no promises: puts over one connection, made
/// beforehand ("pre-encoded") or one by one ("no-async loop"), one at a time ("ping-pong"), and bytes that nobody looks
/// at ("TCP"). Prints one line of JSON for each.
#[derive(Debug, Parser)]
struct Args {
    /// The broker; without it a null broker is started
    #[arg(long, value_name = "IP:PORT")]
    broker: Option<SocketAddr>,
    /// The topic to send to
    #[arg(long, default_value = "bench")]
    topic: Topic,
    /// How many partitions it has
    #[arg(long, default_value_t = 4)]
    partitions: u32,
    /// Sizes of payloads in bytes
    #[arg(long, value_delimiter = ',', default_value = "128")]
    sizes: Vec<usize>,
    /// How many messages are in flight
    #[arg(long, value_delimiter = ',', default_value = "1,64,1024,8192", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    windows: Vec<u32>,
    /// How long each is measured, in milliseconds; as long again comes before, to warm up
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Only one of them
    #[arg(long, value_enum)]
    only: Option<What>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    PreEncoded,
    Loop,
    PingPong,
    Tcp,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A stderr that is gone can't be told about.
            let _ = writeln!(io::stderr(), "raw-limits: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<()> {
    let mut started = None;
    let broker = match args.broker {
        Some(broker) => broker,
        None => started.insert(NullBroker::start()?).addr,
    };
    let time = Duration::from_millis(args.millis);
    let wanted = |what| args.only.is_none_or(|only| only == what);
    for &size in &args.sizes {
        for &window in &args.windows {
            let puts = |work| Puts::new(work, args.topic.clone(), args.partitions, size, window as usize);
            if wanted(What::PreEncoded) {
                print(&exchange("pre-encoded", broker, puts(Work::PreEncoded), time)?)?;
            }
            if wanted(What::Loop) {
                print(&exchange("no-async loop", broker, puts(Work::Encode), time)?)?;
            }
        }
        if wanted(What::PingPong) {
            print(&ping_pong(broker, &args.topic, size, time)?)?;
        }
        if wanted(What::Tcp) {
            print(&tcp_throughput(size, time)?)?;
        }
    }
    Ok(())
}

fn print(limit: &metaq_bench::limits::Limit) -> io::Result<()> {
    writeln!(io::stdout(), "{}", serde_json::to_string(limit)?)
}

/// A null broker as a process, so that its work isn't counted as the client's.
struct NullBroker {
    /// Ends when this end of its input is closed, or this process ends.
    process: Child,
    addr: SocketAddr,
}

impl NullBroker {
    fn start() -> io::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("null-broker");
        let mut process = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let addr = line.trim().parse().map_err(|_| io::Error::other("the null broker did not start"))?;
        Ok(Self { process, addr })
    }
}

impl Drop for NullBroker {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // It ends with its input.
        let _ = self.process.wait();
    }
}

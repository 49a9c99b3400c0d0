//! Measures the limits that this machine sets to a client, and prints one line of JSON for each.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use clap::{Parser, ValueEnum};
use metaq_bench::limits::{Puts, Work, exchange, ping_pong, tcp_throughput};
use metaq_protocol::Topic;

/// Measures the rate of a client that has no runtime and gives no guarantees: puts over one connection,
/// encoded in advance ("pre-encoded") or one by one ("no-async loop"), one at a time ("ping-pong"), and bytes
/// that are not parsed ("TCP"). Prints one line of JSON for each.
#[derive(Debug, Parser)]
struct Args {
    /// The broker; by default a null broker is started
    #[arg(long, value_name = "IP:PORT")]
    broker: Option<SocketAddr>,
    /// The topic to send to
    #[arg(long, default_value = "bench")]
    topic: Topic,
    /// The number of its partitions
    #[arg(long, default_value_t = 4)]
    partitions: u32,
    /// Payload sizes in bytes
    #[arg(long, value_delimiter = ',', default_value = "128")]
    sizes: Vec<usize>,
    /// Numbers of messages in flight
    #[arg(long, value_delimiter = ',', default_value = "1,64,1024,8192", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    windows: Vec<u32>,
    /// The duration of each measurement in milliseconds; a warm-up of the same duration precedes it
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Measures only this limit
    #[arg(long, value_enum)]
    only: Option<LimitKind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LimitKind {
    PreEncoded,
    Loop,
    PingPong,
    Tcp,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Stderr may be closed, and there is no other place to report that.
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
    let wanted = |kind| args.only.is_none_or(|only| only == kind);
    for &size in &args.sizes {
        for &window in &args.windows {
            let puts = |work| Puts::new(work, args.topic.clone(), args.partitions, size, window as usize);
            if wanted(LimitKind::PreEncoded) {
                print(&exchange("pre-encoded", broker, puts(Work::PreEncoded), time)?)?;
            }
            if wanted(LimitKind::Loop) {
                print(&exchange("no-async loop", broker, puts(Work::Encode), time)?)?;
            }
        }
        if wanted(LimitKind::PingPong) {
            print(&ping_pong(broker, &args.topic, size, time)?)?;
        }
        if wanted(LimitKind::Tcp) {
            print(&tcp_throughput(size, time)?)?;
        }
    }
    Ok(())
}

fn print(limit: &metaq_bench::limits::Limit) -> io::Result<()> {
    writeln!(io::stdout(), "{}", serde_json::to_string(limit)?)
}

/// A null broker in its own process, so that its CPU time isn't counted as the client's.
struct NullBroker {
    /// Exits when its input is closed, at the latest when this process ends.
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
        // It exits at the end of its input.
        let _ = self.process.wait();
    }
}

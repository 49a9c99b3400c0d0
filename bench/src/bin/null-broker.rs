//! A broker that stores nothing and answers immediately. The first line of its output is its address.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    str::FromStr,
};

use clap::Parser;
use metaq_bench::null_broker::{Identity, start};

/// A MetaQ broker that stores nothing and answers immediately. It prints its address, and exits at the end of
/// its input.
#[derive(Debug, Parser)]
struct Args {
    /// A topic and its number of partitions; may be repeated. Messages to other topics are accepted, too
    #[arg(long = "topic", value_name = "NAME:PARTITIONS", default_value = "bench:4")]
    topics: Vec<TopicArg>,
    /// The broker's id
    #[arg(long, default_value_t = 0)]
    id: i32,
    /// The TCP port; 0 takes any free one
    #[arg(long, default_value_t = 0)]
    port: u16,
}

#[derive(Clone, Debug)]
struct TopicArg(String, u32);

impl FromStr for TopicArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, partitions) = text.rsplit_once(':').ok_or("expected NAME:PARTITIONS, such as orders:4")?;
        metaq_protocol::Topic::new(name).map_err(|_| "that is not the name of a topic")?;
        let partitions = partitions.parse().ok().filter(|partitions| *partitions > 0);
        Ok(Self(name.to_owned(), partitions.ok_or("the number of partitions is not a positive number")?))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let topics = args.topics.into_iter().map(|TopicArg(name, partitions)| (name, partitions)).collect();
    let served = start(args.port, Identity::new(args.id, topics)).and_then(|addr| {
        writeln!(io::stdout(), "{addr}")?;
        io::copy(&mut io::stdin().lock(), &mut io::sink())
    });
    match served {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            // Stderr may be closed, and there is no other place to report that.
            let _ = writeln!(io::stderr(), "null-broker can't serve on port {}: {error}", args.port);
            ExitCode::FAILURE
        }
    }
}

//! `metaq dev-broker`: the embedded broker as a program.

use std::{io::Write as _, str::FromStr};

use metaq_testkit::Broker;

use crate::{EXIT_DONE, complain, signals::StopSignals};

/// Runs a broker in memory on the loopback interface, until it is stopped by a signal.
///
/// The first line that it prints is its address, which `metaq produce --cluster` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A topic and its number of partitions; may be repeated
    #[arg(long = "topic", value_name = "NAME:PARTITIONS", required = true)]
    topics: Vec<TopicArg>,
    /// The TCP port; 0 takes any free one
    #[arg(long, default_value_t = 0)]
    port: u16,
}

#[derive(Clone, Debug)]
struct TopicArg {
    name: String,
    partitions: u32,
}

impl FromStr for TopicArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, partitions) = text.rsplit_once(':').ok_or("expected NAME:PARTITIONS, such as orders:4")?;
        metaq_producer::Topic::new(name).map_err(|error| error.to_string())?;
        let partitions = partitions.parse().ok().filter(|partitions| (1..=65_536).contains(partitions));
        let partitions = partitions.ok_or("the number of partitions is not between 1 and 65536")?;
        Ok(Self { name: name.to_owned(), partitions })
    }
}

pub(crate) async fn run(args: Args) -> u8 {
    let started = async {
        let signals = StopSignals::new()?;
        let mut builder = Broker::builder().port(args.port);
        for topic in &args.topics {
            builder = builder.topic(&topic.name, topic.partitions);
        }
        let broker = builder.start().await?;
        writeln!(std::io::stdout(), "{}", broker.addr())?;
        Ok::<_, std::io::Error>((signals, broker))
    };
    match started.await {
        Ok((mut signals, _broker)) => {
            signals.next().await;
            EXIT_DONE
        }
        Err(error) => complain(&format!("a broker can't be started on port {}", args.port), &error),
    }
}

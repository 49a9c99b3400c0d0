//! `metaq dev-broker`: the embedded broker as a program.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    path::PathBuf,
    pin::pin,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metaq_testkit::{Broker, Fault, Registry, Requests};
use tokio::time::{sleep, timeout};

use crate::{
    args::parse_timeout,
    exit_status::{self, EXIT_DONE, EXIT_LOCAL_IO, EXIT_UNREACHABLE},
    output::Output,
    shutdown::StopSignals,
    stderr::{print_error, print_message},
};

/// Limit on waiting for a registration in progress when a signal arrives, so that its entry can be removed
/// again.
const LAST_REGISTRATION: Duration = Duration::from_millis(500);

/// The time after which a registry that has not answered is named.
const NOTE_AFTER: Duration = Duration::from_secs(1);

/// Runs a broker until a signal stops it; on the loopback interface, unless --listen names another.
///
/// The broker speaks the whole protocol of a MetaQ 1.4.6.2 broker, also to Java clients, and keeps its
/// messages in memory unless --data-dir is given. The first line of the output is its address, for `metaq
/// produce --cluster`. SIGINT and SIGTERM shut it down in order: it leaves the registries first, then closes
/// its connections. It also leaves the registries when it can't register in one of several, or its address
/// can't be written.
///
/// The status is 0 when a signal shut it down in order, and that of the signal when it arrived before the
/// broker had started, or a second one interrupted the shutdown.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A topic and its number of partitions; may be repeated. A * in the name stands for any text
    #[arg(long = "topic", value_name = "NAME:PARTITIONS", required = true)]
    topics: Vec<TopicArg>,
    /// The address of the interface to listen on, such as 0.0.0.0. Who can reach it can do everything:
    /// brokers have no passwords
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    listen: IpAddr,
    /// The host in the broker's address, which clients connect to. By default the interface, or 127.0.0.1 if
    /// that stands for all
    #[arg(long, value_name = "NAME", value_parser = parse_host)]
    host: Option<String>,
    /// The TCP port; 0 takes any free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The broker's id in its cluster
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..))]
    id: i32,
    /// A registry to register in, zk://HOST:PORT,HOST:PORT/ROOT or etcd://…; may be repeated
    #[arg(long = "register", value_name = "REGISTRY")]
    registries: Vec<RegistryArg>,
    /// The time that registering may take in each registry. By default a registry that is away is tried for
    /// 21s, and the entry of another broker with this id may take its lifetime to expire
    #[arg(long, value_name = "TIMEOUT", value_parser = parse_timeout, requires = "registries")]
    timeout: Option<Duration>,
    /// The folder that keeps messages, in the format of a Java broker's dataPath; messages already there are
    /// served
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// The number of partitions of a topic that matches only a name with a *
    #[arg(long, value_name = "PARTITIONS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    default_partitions: u32,
    /// Reproduces the defects of the Java broker: no limits, and any word that begins with v or q is a
    /// command
    #[arg(long)]
    compat: bool,
    /// The time after which puts are answered; they are carried out at once
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    latency: Option<Duration>,
    /// A fault that puts meet with this chance, such as 1/100:refuse=503 or 0.01:close. Refused ones are
    /// answered with a status and not stored; swallow stores without an answer, ignore does neither, twice
    /// answers twice, cut closes the connection in the middle of the answer, and close does so before the put
    /// is carried out. May be repeated; the first that is met counts
    #[arg(long = "fault", value_name = "CHANCE:FAULT")]
    faults: Vec<FaultArg>,
    /// The seed of the chances, so that a run can be repeated
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// A fault and its chance.
#[derive(Clone, Debug)]
struct FaultArg {
    chance: f64,
    fault: Fault,
}

impl FromStr for FaultArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (chance, fault) = text.split_once(':').ok_or("expected CHANCE:FAULT, such as 1/100:close")?;
        let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
        let chance = match chance.split_once('/') {
            Some((part, whole)) => number(part).zip(number(whole)).map(|(part, whole)| part / whole),
            None => number(chance),
        };
        let chance = chance.filter(|chance| (0.0..=1.0).contains(chance));
        let chance =
            chance.ok_or("the chance is neither a number from 0 to 1 nor a fraction such as 1/100")?;
        let fault = match fault.split_once('=') {
            Some(("refuse", status)) => {
                let status = status.parse().map_err(|_| format!("{status} is not a status, such as 503"))?;
                Fault::refuse(status, "a fault of the embedded broker")
            }
            None if fault == "swallow" => Fault::Swallow,
            None if fault == "ignore" => Fault::Ignore,
            None if fault == "twice" => Fault::Twice,
            None if fault == "cut" => Fault::Cut(2),
            None if fault == "close" => Fault::Close,
            _ => {
                let known = "refuse=STATUS, swallow, ignore, twice, cut and close";
                return Err(format!("{fault} is not a fault; there are {known}"));
            }
        };
        Ok(Self { chance, fault })
    }
}

/// Checks that a text can be the host of an address.
fn parse_host(text: &str) -> Result<String, String> {
    metaq_producer::BrokerAddr::new(text, 1).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// A registry, and how the command line names it.
#[derive(Clone, Debug)]
struct RegistryArg {
    name: String,
    registry: Registry,
}

impl FromStr for RegistryArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("zk://") {
            // Checks the syntax.
            metaq_producer::discovery::ZooKeeperDiscovery::new(text).map_err(|error| error.to_string())?;
            return Ok(Self { name: text.to_owned(), registry: Registry::zookeeper(text) });
        }
        if text.starts_with("etcd://") {
            return Self::etcd(text);
        }
        Err("expected zk://HOST:PORT,HOST:PORT/ROOT or etcd://HOST:PORT,HOST:PORT/ROOT".to_owned())
    }
}

impl RegistryArg {
    #[cfg(feature = "etcd")]
    fn etcd(text: &str) -> Result<Self, String> {
        metaq_producer::discovery::EtcdDiscovery::new(text).map_err(|error| error.to_string())?;
        Ok(Self { name: text.to_owned(), registry: Registry::etcd(text) })
    }

    #[cfg(not(feature = "etcd"))]
    fn etcd(_: &str) -> Result<Self, String> {
        Err("this metaq was built without etcd; cargo install it with --features etcd".to_owned())
    }
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
    let Args { topics, listen, host, port, id, registries, data_dir, default_partitions, compat, .. } = args;
    let mut signals = match StopSignals::new() {
        Ok(signals) => signals,
        Err(error) => return print_error("signals can't be handled", &error),
    };
    let mut builder =
        Broker::builder().port(port).id(id).default_partitions(default_partitions).compat(compat);
    builder = builder.listen(listen).seed(args.seed);
    builder = match host {
        Some(host) => builder.host(&host),
        None if listen.is_unspecified() => builder,
        None => builder.host(&listen.to_string()),
    };
    for TopicArg { name, partitions } in &topics {
        builder = builder.topic(name, *partitions);
    }
    if let Some(folder) = data_dir {
        builder = builder.data_dir(folder);
    }
    let failed = if port == 0 {
        "a broker can't be started".to_owned()
    } else {
        format!("a broker can't be started on port {port}")
    };
    let mut broker = match builder.start().await {
        Ok(broker) => broker,
        Err(error) => {
            print_error(&failed, &error);
            return EXIT_LOCAL_IO;
        }
    };
    for FaultArg { chance, fault } in args.faults {
        broker.faults().plan(Requests::puts().with_chance(chance), fault);
    }
    if let Some(latency) = args.latency {
        broker.faults().plan(Requests::puts(), Fault::Late(latency));
    }
    for mut named in registries {
        if let Some(limit) = args.timeout {
            named.registry = named.registry.register_timeout(limit);
        }
        let (registered, status) = {
            let mut registered = pin!(register(&mut broker, named));
            tokio::select! {
                registered = &mut registered => (Some(registered), None),
                // Registering may take long. If it completes soon, its entry can be removed again.
                status = signals.next() => (timeout(LAST_REGISTRATION, registered).await.ok(), Some(status)),
            }
        };
        if let Some(status) = status {
            return shut_down(broker, &mut signals, status).await;
        }
        if let Some(Err(error)) = registered {
            print_error(&failed, &error);
            return shut_down(broker, &mut signals, EXIT_UNREACHABLE).await;
        }
    }
    let written = tokio::select! {
        written = write_address(&broker) => written,
        status = signals.next() => return shut_down(broker, &mut signals, status).await,
    };
    if let Err(error) = written {
        // That the reader of the address is gone is not worth a message.
        if error.kind() != io::ErrorKind::BrokenPipe {
            print_error("the broker's address can't be written", &error);
        }
        return shut_down(broker, &mut signals, exit_status::of_output_error(&error)).await;
    }
    signals.next().await;
    shut_down(broker, &mut signals, EXIT_DONE).await
}

/// Registers the broker, and prints to stderr what that waits for.
async fn register(broker: &mut Broker, RegistryArg { name, registry }: RegistryArg) -> io::Result<()> {
    let is_noted = Arc::new(AtomicBool::new(false));
    let registry = {
        let (name, is_noted) = (name.clone(), Arc::clone(&is_noted));
        registry.on_waiting(move |reason| {
            is_noted.store(true, Ordering::Relaxed);
            print_message(&format!("waiting to be registered in {name}: {reason}"));
        })
    };
    let note = async {
        sleep(NOTE_AFTER).await;
        if !is_noted.load(Ordering::Relaxed) {
            print_message(&format!("waiting to be registered in {name}: it has not answered yet"));
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        registered = broker.register(registry) => registered,
        never = note => match never {},
    }
}

async fn write_address(broker: &Broker) -> io::Result<()> {
    let mut output = Output::stdout()?;
    output.text().extend_from_slice(format!("{}\n", broker.addr()).as_bytes());
    output.written().await;
    output.take_failure().map_or(Ok(()), Err)
}

/// Shuts the broker down in order, or returns immediately when another signal arrives. Returns the exit
/// status, which is `status` if the shutdown succeeds.
async fn shut_down(broker: Broker, signals: &mut StopSignals, status: u8) -> u8 {
    tokio::select! {
        result = broker.shut_down() => match result {
            Ok(()) => status,
            Err(error) => {
                let failed = print_error("the broker could not be shut down in order", &error);
                if status == EXIT_DONE { failed } else { status }
            }
        },
        status = signals.next() => status,
    }
}

//! `metaq proxy`: a proxy in front of a broker that misbehaves on command.
//!
//! `control` parses the commands.

mod control;

use std::{str::FromStr, time::Duration};

use metaq_producer::BrokerAddr;
use metaq_testkit::proxy::{Direction, OnConnect, Plan, Proxy, StreamFault};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use self::control::{Control, Directions};
use crate::{
    args::parse_timeout,
    exit_status::{EXIT_DONE, of_output_error},
    output::Output,
    shutdown::StopSignals,
    stderr::{print_error, print_message},
};

/// Forwards connections to a broker, and misbehaves as the lines of its input
/// say.
///
/// The first line of the output is the address to connect to, for --cluster. Each
/// line of the input is one command, which is answered by a line:
/// {"command":"…","ok":true}, or with "ok":false and an "error". At the end of
/// the input, the proxy goes on until a signal.
///
/// Commands; DIR is to-server or to-client, or left out for both:
///   forward               forwards everything again, accepts new connections, and
///                         gives up a cut or a duplicate that is still to come
///   delay TIME [DIR]      delays every byte
///   bandwidth BYTES [DIR] forwards BYTES each second
///   freeze [DIR]          holds everything back
///   swallow [DIR]         loses everything; with to-client, the acknowledgements
///   cut BYTES [DIR]       closes each connection after BYTES bytes
///   duplicate AT BYTES [DIR]  sends the BYTES before position AT once more
///   close, reset, strand  ends all connections by FIN or RST, or loses what they
///                         carry from now on
///   refuse, ignore        refuses new connections, or accepts them and is silent
///   accept                accepts new connections again
///   status                also prints the numbers of connections and of bytes that
///                         were forwarded
///   quit                  ends the proxy
///
/// Examples:
///   metaq proxy broker:8123
///   (sleep 10; echo freeze; sleep 5; echo forward; cat) | metaq proxy broker:8123
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
#[allow(
    rustdoc::broken_intra_doc_links,
    reason = "the text is the command's help, where brackets are no links"
)]
pub(crate) struct Args {
    /// The address of the broker, HOST:PORT or meta://HOST:PORT
    #[arg(value_name = "UPSTREAM")]
    upstream: Upstream,
    /// Delays every byte from the beginning
    #[arg(long, value_name = "TIME", value_parser = parse_timeout)]
    delay: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Upstream(String);

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let addr = if text.contains("://") { text.to_owned() } else { format!("meta://{text}") };
        let addr: BrokerAddr = addr.parse().map_err(|error| format!("{error}"))?;
        let host = addr.host();
        let host =
            if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        Ok(Self(format!("{host}:{}", addr.port())))
    }
}

/// The answer to a command.
#[derive(Serialize)]
struct Answer<'a> {
    command: &'a str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Serialize)]
struct Status {
    accepted: usize,
    open: usize,
    to_server_bytes: u64,
    to_client_bytes: u64,
}

pub(crate) async fn run(args: Args) -> u8 {
    let mut signals = match StopSignals::new() {
        Ok(signals) => signals,
        Err(error) => return print_error("signals can't be handled", &error),
    };
    let mut output = match Output::stdout() {
        Ok(output) => output,
        Err(error) => return print_error("the output can't be set up", &error),
    };
    let proxy = match Proxy::start(args.upstream.0).await {
        Ok(proxy) => proxy,
        Err(error) => return print_error("the proxy can't be started", &error),
    };
    let mut controlled = Controlled { proxy, flows: [Flow::default(); 2] };
    if let Some(delay) = args.delay {
        controlled.change(Directions::BOTH, |flow| flow.delay = delay);
    }
    output.text().extend_from_slice(format!("meta://{}\n", controlled.proxy.addr()).as_bytes());
    let mut lines = BufReader::new(tokio::io::stdin()).split(b'\n');
    let mut is_read = true;
    loop {
        tokio::select! {
            () = output.written() => {}
            _ = signals.next() => return EXIT_DONE,
        }
        if let Some(error) = output.take_failure() {
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                print_error("the output can't be written", &error);
            }
            return of_output_error(&error);
        }
        let line = tokio::select! {
            line = lines.next_segment(), if is_read => line,
            _ = signals.next() => return EXIT_DONE,
        };
        let line = match line {
            Ok(Some(line)) => line,
            Ok(None) => {
                is_read = false;
                continue;
            }
            Err(error) => {
                print_message(&format!("no more commands can be read: {error}"));
                is_read = false;
                continue;
            }
        };
        let line = str::from_utf8(&line).map_err(|_| String::from_utf8_lossy(&line));
        let command = match &line {
            Ok(text) => text.trim(),
            Err(text) => text.trim(),
        };
        if command.is_empty() {
            continue;
        }
        let parsed = match line {
            Ok(_) => command.parse::<Control>(),
            Err(_) => Err("the line is not UTF-8".to_owned()),
        };
        if matches!(parsed, Ok(Control::Quit)) {
            return EXIT_DONE;
        }
        let done = match parsed {
            Ok(control) => controlled.apply(control).await,
            Err(error) => Err(error),
        };
        let status = (command == "status").then(|| controlled.status());
        let answer = Answer { command, ok: done.is_ok(), error: done.err(), status };
        match serde_json::to_string(&answer) {
            Ok(line) => output.text().extend_from_slice(format!("{line}\n").as_bytes()),
            Err(error) => return print_error("the answer can't be written", &error),
        }
    }
}

/// What holds for one direction until it is changed.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    delay: Duration,
    bandwidth: Option<u64>,
    stop: Stop,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stop {
    #[default]
    No,
    Freeze,
    Swallow,
}

impl Flow {
    fn plan(&self) -> Plan {
        let plan = Plan::new().delay(self.delay);
        let plan = self.bandwidth.map_or_else(|| plan.clone(), |bandwidth| plan.clone().bandwidth(bandwidth));
        match self.stop {
            Stop::No => plan,
            Stop::Freeze => plan.freeze(),
            Stop::Swallow => plan.swallow(),
        }
    }
}

/// The proxy, and what holds for its two directions.
struct Controlled {
    proxy: Proxy,
    flows: [Flow; 2],
}

impl Controlled {
    async fn apply(&mut self, control: Control) -> Result<(), String> {
        match control {
            Control::Forward => {
                self.flows = [Flow::default(); 2];
                self.proxy.plan_both(Plan::new());
                self.on_connect(OnConnect::Forward).await?;
            }
            Control::Delay(delay, directions) => self.change(directions, |flow| flow.delay = delay),
            Control::Bandwidth(bytes, directions) => {
                self.change(directions, |flow| flow.bandwidth = Some(bytes));
            }
            Control::Freeze(directions) => self.change(directions, |flow| flow.stop = Stop::Freeze),
            Control::Swallow(directions) => self.change(directions, |flow| flow.stop = Stop::Swallow),
            Control::Cut(at, directions) => self.plan_fault(directions, at, &StreamFault::Close),
            Control::Duplicate { at, bytes, directions } => {
                self.plan_fault(directions, at, &StreamFault::Duplicate(bytes));
            }
            Control::Close => self.proxy.close_all(),
            Control::Reset => self.proxy.reset_all(),
            Control::Strand => self.proxy.strand_all(),
            Control::Refuse => self.on_connect(OnConnect::Refuse).await?,
            Control::Ignore => self.on_connect(OnConnect::Ignore).await?,
            Control::Accept => self.on_connect(OnConnect::Forward).await?,
            Control::Status | Control::Quit => {}
        }
        Ok(())
    }

    fn change(&mut self, directions: Directions, change: impl Fn(&mut Flow)) {
        for direction in directions.all() {
            let flow = &mut self.flows[direction as usize];
            change(flow);
            self.proxy.adjust(direction, flow.plan());
        }
    }

    /// Plans a fault at a position that counts from now.
    fn plan_fault(&self, directions: Directions, at: u64, fault: &StreamFault) {
        for direction in directions.all() {
            self.proxy.adjust(direction, self.flows[direction as usize].plan().at(at, fault.clone()));
        }
    }

    async fn on_connect(&self, what: OnConnect) -> Result<(), String> {
        self.proxy.on_connect(what).await.map_err(|error| error.to_string())
    }

    fn status(&self) -> Status {
        let proxy = &self.proxy;
        Status {
            accepted: proxy.accepted(),
            open: proxy.open(),
            to_server_bytes: proxy.forwarded(Direction::ToServer),
            to_client_bytes: proxy.forwarded(Direction::ToClient),
        }
    }
}

//! `metaq produce`: each line of the input is one message.
//!
//! `options` are the options of the command, `compose` makes messages of lines, `rejects` keeps those that
//! were not acknowledged, `pace` limits the rate, `run` sends and reports, with what is `in_flight`,
//! `sending` hands messages to a producer or a spool, `spooled` is what a spool adds, and `dry_run` only
//! shows.

mod compose;
mod dry_run;
mod in_flight;
mod options;
mod pace;
mod rejects;
mod run;
mod sending;
mod spooled;

use std::{fs::File, io, path::Path, time::Duration};

pub(crate) use self::options::Args;
use self::{compose::Composer, pace::Pace, rejects::Rejects, run::Run, sending::Sender, spooled::SpoolRun};
use crate::{
    args::SelectorName,
    connect::{Connecting, connect},
    display::{self, OutputForm},
    exit_status::{EXIT_FAILED, EXIT_LOCAL_IO, EXIT_USAGE},
    input::{Lines, Source, are_same, checked_sources, is_stdout},
    report::{Destination, Report},
    settings::{Flag, Origin, Settings},
    shutdown::{Shutdown, StopSignals, close, on_thread},
    spooling::{Spool, WRITE_TIME},
    stderr::{print_error, print_message},
};

pub(crate) async fn run(args: Box<Args>) -> u8 {
    match start(&args).await {
        Ok(status) | Err(status) => status,
    }
}

/// Runs the command; the error is the exit status of a failure that was printed.
async fn start(args: &Args) -> Result<u8, u8> {
    let sources = sources(args)?;
    ensure_distinct(args)?;
    ensure_usable(args)?;
    let settings = settings(args)?;
    let form = match settings.output_form().map_err(|text| usage(&text))? {
        // The messages take the place of the results.
        _ if args.tee && args.ack_log.is_none() => OutputForm::Human,
        form => form.unwrap_or(OutputForm::Json),
    };
    if args.dry_run {
        return Ok(dry_run::run(sources, args, settings.config.max_message_size, form).await);
    }
    let mut signals = StopSignals::new().map_err(|error| print_error("signals can't be handled", &error))?;
    let way = Way::open(args, settings, &mut signals).await?;
    let (rejects, report) = outputs(args, form, &mut signals).await?;
    let is_typed = sources.iter().any(Source::is_terminal);
    let report = if is_typed { report.without_progress() } else { report };
    let lines = Lines::read(sources, args.framing()).map_err(|error| not_set_up(&error))?;
    let mut shutdown = Shutdown::new(signals, way.limit);
    let producer = way.sender.producer().clone();
    let run = Run::new(way.sender, Composer::new(args), report)
        .spool(way.spool)
        .in_flight(args.in_flight as usize)
        .pace(args.rate.map(Pace::new))
        .count(args.count)
        .stops_on_error(args.stops_on_error())
        .rejects(rejects);
    let shows_summary = form == OutputForm::Human && !display::is_quiet();
    let status = run.run(lines, &mut shutdown, shows_summary).await;
    Ok(close(&producer, &mut shutdown, status).await)
}

/// The sources of the input, which can be read and are not written.
fn sources(args: &Args) -> Result<Vec<Source>, u8> {
    let sources = checked_sources(&args.files).map_err(|(name, error)| {
        print_error(&format!("{name} can't be read"), &error);
        EXIT_USAGE
    })?;
    let mut written = [&args.rejects, &args.ack_log].into_iter().flatten();
    match written.find(|path| sources.iter().any(|source| source.is_file(path))) {
        Some(path) => {
            let path = path.display();
            Err(usage(&format!("{path} is read and written at the same time; use another file")))
        }
        None => Ok(sources),
    }
}

/// Fails when two outputs are one file.
fn ensure_distinct(args: &Args) -> Result<(), u8> {
    let uses_stdout = args.tee || args.ack_log.is_none();
    let outputs = [("--rejects", &args.rejects), ("--ack-log", &args.ack_log)];
    let outputs = outputs.map(|(option, path)| path.as_deref().map(|path| (option, path)));
    if let Some((option, path)) =
        outputs.into_iter().flatten().find(|(_, path)| uses_stdout && is_stdout(path))
    {
        return Err(usage(&format!("{} of {option} is stdout, too; use another file", path.display())));
    }
    match outputs {
        [Some((_, rejects)), Some((_, log))] if are_same(rejects, log) => {
            let path = rejects.display();
            Err(usage(&format!("{path} is the file of --rejects and of --ack-log; use two files")))
        }
        _ => Ok(()),
    }
}

/// Fails when an option has no effect, or not the one that is expected, beside others.
fn ensure_usable(args: &Args) -> Result<(), u8> {
    if args.rejects.is_some() && args.topics.len() > 1 {
        return Err(usage(
            "--rejects takes one --topic: fed in again, its lines would go to other topics; run the command for each",
        ));
    }
    let uses_keys = matches!(args.selector, None | Some(SelectorName::KeyHash | SelectorName::Rendezvous));
    if args.key.is_some() && !uses_keys {
        return Err(usage("--key has no effect with this --selector; use key-hash or rendezvous"));
    }
    Ok(())
}

fn settings(args: &Args) -> Result<Settings, u8> {
    let mut settings = args.connection.settings(&[
        Flag::new("send_timeout", "--timeout", args.timeout.as_deref()),
        Flag::new("max_message_size", "--max-message-size", args.max_message_size.as_deref()),
        Flag::new("default_topic", "--default-topic", args.default_topic.as_deref()),
        Flag::new("ordered", "--ordered", args.ordered.then_some("true")),
        Flag::new("spool.fsync", "--spool-fsync", args.spool_fsync.as_deref()),
    ])?;
    if let (None, Some(name)) = (&args.spool, settings.spool_option()) {
        return Err(usage(&format!("{}: {name} is of use with --spool only", settings.origin(name))));
    }
    // One broker can have at most half of the messages that a producer has in flight. A limit that was set
    // holds.
    if *settings.origin("max_in_flight") == Origin::Default {
        settings.config.max_in_flight = settings.config.max_in_flight.max(2 * args.in_flight as usize);
    }
    Ok(settings)
}

/// The way that messages take.
struct Way {
    sender: Sender,
    spool: Option<SpoolRun>,
    /// The time that the first signal leaves.
    limit: Duration,
}

impl Way {
    /// Connects, and opens the spool if there is one.
    async fn open(args: &Args, mut settings: Settings, signals: &mut StopSignals) -> Result<Self, u8> {
        // A folder may hold messages with keys from before.
        let has_keys = args.has_keys() || args.spool.is_some();
        let by_default = if has_keys { SelectorName::KeyHash } else { SelectorName::RoundRobin };
        let selector = args.selector.unwrap_or(by_default);
        let adapt = |builder| selector.configure(builder);
        let (timeout, max_size) = (settings.config.send_timeout, settings.config.max_message_size);
        let is_ordered = settings.config.ordered;
        let Some(folder) = args.spool.clone() else {
            let producer = connect(settings, &args.topics, args.wait, adapt, signals).await?;
            return Ok(Self {
                sender: Sender::Producer { producer, is_ordered },
                spool: None,
                limit: timeout,
            });
        };
        let options = settings.spool(&folder);
        let limit = timeout.saturating_add(WRITE_TIME);
        settings.lift_size_limit();
        let connecting = Connecting::new(settings, &args.topics, None, adapt, signals).await?;
        let open = Spool::open(connecting.producer.clone(), options).await?;
        connecting.publish_spooled(&open.producer, &args.topics, args.wait, signals).await?;
        let sender = Sender::Spool(open.producer.clone());
        let drain = args.drain.unwrap_or_default();
        Ok(Self { sender, spool: Some(SpoolRun { open, folder, drain, timeout, max_size }), limit })
    }
}

/// Opens what is written.
async fn outputs(
    args: &Args,
    form: OutputForm,
    signals: &mut StopSignals,
) -> Result<(Option<Rejects>, Report), u8> {
    let framing = args.framing();
    let rejects = match &args.rejects {
        None => None,
        Some(path) => {
            let rejects = Rejects::new(path, append(path, signals).await?, framing.clone());
            Some(rejects.map_err(|error| unwritable(path, &error))?)
        }
    };
    let destination = match &args.ack_log {
        None => Destination::Stdout,
        Some(path) => Destination::File(append(path, signals).await?),
    };
    let report = Report::new(form, destination, args.tee.then_some(framing));
    Ok((rejects, report.map_err(|error| not_set_up(&error))?))
}

/// Opens a file to append to. A named pipe is waited for until a signal.
async fn append(path: &Path, signals: &mut StopSignals) -> Result<File, u8> {
    let name = path.to_owned();
    let opened = signals.unless_stopped(on_thread(move || rejects::append(&name))).await?;
    opened.map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &io::Error) -> u8 {
    print_error(&format!("{} can't be written", path.display()), error);
    EXIT_LOCAL_IO
}

fn not_set_up(error: &io::Error) -> u8 {
    print_error("the input and the output can't be set up", error);
    EXIT_FAILED
}

fn usage(text: &str) -> u8 {
    print_message(text);
    EXIT_USAGE
}

//! `metaq produce`: each line of the input is one message.
//!
//! `options` are the options of the command, `compose` makes messages of lines, `rejects` keeps those that
//! were not acknowledged, `pace` limits the rate, `run` sends and reports, and `dry_run` only shows.

mod compose;
mod dry_run;
mod options;
mod pace;
mod rejects;
mod run;

use std::io;

use metaq_producer::{ProducerBuilder, selector};

pub(crate) use self::options::Args;
use self::{compose::Composer, options::SelectorName, pace::Pace, rejects::Rejects, run::Run};
use crate::{
    connect::connect,
    display::{self, OutputForm, output_form},
    exit_status::{EXIT_FAILED, EXIT_LOCAL_IO, EXIT_USAGE},
    input::{Lines, checked_sources},
    report::{Destination, Report},
    settings::Flag,
    shutdown::{Shutdown, StopSignals, close},
    stderr::{print_error, print_message},
};

pub(crate) async fn run(args: &Args) -> u8 {
    match start(args).await {
        Ok(status) | Err(status) => status,
    }
}

/// Runs the command; the error is the exit status of a failure that was printed.
async fn start(args: &Args) -> Result<u8, u8> {
    let sources = checked_sources(&args.files).map_err(|(name, error)| {
        print_error(&format!("{name} can't be read"), &error);
        EXIT_USAGE
    })?;
    if let Some(path) = [&args.rejects, &args.ack_log]
        .into_iter()
        .flatten()
        .find(|path| sources.iter().any(|source| source.is_file(path)))
    {
        return Err(usage(&format!(
            "{} is read and written at the same time; use another file",
            path.display()
        )));
    }
    let mut settings = args.connection.settings(&[
        Flag::new("send_timeout", "--timeout", args.timeout.as_deref()),
        Flag::new("max_message_size", "--max-message-size", args.max_message_size.as_deref()),
        Flag::new("default_topic", "--default-topic", args.default_topic.as_deref()),
        Flag::new("ordered", "--ordered", args.ordered.then_some("true")),
    ])?;
    // One broker can have at most half of the messages that a producer has in flight.
    settings.config.max_in_flight = settings.config.max_in_flight.max(2 * args.in_flight as usize);
    let form = match output_form(settings.get("output")).map_err(|text| usage(&text))? {
        // The messages take the place of the results.
        _ if args.tee && args.ack_log.is_none() => OutputForm::Human,
        form => form.unwrap_or(OutputForm::Json),
    };
    let framing = args.framing();
    let composer = Composer::new(args);
    if args.dry_run {
        return Ok(dry_run::run(sources, framing, composer, settings.config.max_message_size, form).await);
    }
    let mut signals = StopSignals::new().map_err(|error| print_error("signals can't be handled", &error))?;
    let by_default = if args.has_keys() { SelectorName::KeyHash } else { SelectorName::RoundRobin };
    let selector = args.selector.unwrap_or(by_default);
    let timeout = settings.config.send_timeout;
    let adapt = |builder| with_selector(builder, selector);
    let producer = connect(settings, &args.topics, args.wait, adapt, &mut signals).await?;
    let failed = |context: &str, error: &io::Error| {
        print_error(context, error);
        EXIT_LOCAL_IO
    };
    let rejects = match &args.rejects {
        None => None,
        Some(path) => Some(
            Rejects::open(path, framing.clone())
                .map_err(|error| failed(&format!("{} can't be written", path.display()), &error))?,
        ),
    };
    let destination = match &args.ack_log {
        None => Destination::Stdout,
        Some(path) => Destination::File(
            rejects::append(path)
                .map_err(|error| failed(&format!("{} can't be written", path.display()), &error))?,
        ),
    };
    let report = Report::new(form, destination, args.tee.then(|| framing.clone()));
    let started = report.and_then(|report| Ok((report, Lines::read(sources, framing)?)));
    let (report, lines) = started.map_err(|error| {
        print_error("the input and the output can't be set up", &error);
        EXIT_FAILED
    })?;
    let mut shutdown = Shutdown::new(signals, timeout);
    let run = Run::new(producer.clone(), composer, report)
        .in_flight(args.in_flight as usize)
        .pace(args.rate.map(Pace::new))
        .count(args.count)
        .stops_on_error(args.stops_on_error())
        .rejects(rejects);
    let shows_summary = form == OutputForm::Human && !display::is_quiet();
    let status = run.run(lines, &mut shutdown, shows_summary).await;
    Ok(close(&producer, &mut shutdown, status).await)
}

fn usage(text: &str) -> u8 {
    print_message(text);
    EXIT_USAGE
}

fn with_selector(builder: ProducerBuilder, name: SelectorName) -> ProducerBuilder {
    match name {
        SelectorName::RoundRobin => builder.selector(selector::RoundRobinSelector::new()),
        SelectorName::Random => builder.selector(selector::RandomSelector::new()),
        SelectorName::Sticky => builder.selector(selector::StickySelector::new()),
        SelectorName::KeyHash => builder.selector(selector::KeyHashSelector::new()),
        SelectorName::Rendezvous => builder.selector(selector::RendezvousSelector::new()),
        SelectorName::Latency => builder.selector(selector::LatencySelector::new()),
    }
}

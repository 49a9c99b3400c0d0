//! `metaq tx list`, `commit` and `rollback`: what brokers hold prepared of XA transactions.

use std::collections::BTreeSet;

use metaq_producer::{
    BrokerAddr, Producer, Topic,
    xa::{Recovery, UniqueQualifier, XaError, XaProducer, XaTransactionId},
};
use serde::Serialize;

use crate::{
    args::ConnectionArgs,
    connect::connect,
    display::{OutputForm, one_line},
    exit_status::{
        self, EXIT_DONE, EXIT_NOT_FOUND, EXIT_REFUSED, EXIT_UNKNOWN, EXIT_UNREACHABLE, EXIT_USAGE,
    },
    output::Output,
    shutdown::{Shutdown, StopSignals, close},
    stderr::{describe, print_error, print_message},
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Lists the prepared XA transactions of a producer, and the brokers that hold them
    List(ListArgs),
    /// Commits a prepared XA transaction. Do that only as the transaction manager has decided
    Commit(DecideArgs),
    /// Rolls a prepared XA transaction back. Do that only as the transaction manager has decided
    Rollback(DecideArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// A topic of the transactions; its brokers are asked. May be repeated
    #[arg(short, long = "topic", value_name = "TOPIC", required = true)]
    topics: Vec<Topic>,
    /// The unique qualifier of the producer that has begun them
    #[arg(long, value_name = "NAME", value_parser = qualifier)]
    qualifier: UniqueQualifier,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct DecideArgs {
    /// The transaction, as list shows it
    #[arg(value_name = "XID", value_parser = xid)]
    xid: XaTransactionId,
    /// A topic of the transaction; its brokers are asked. May be repeated
    #[arg(short, long = "topic", value_name = "TOPIC", required = true)]
    topics: Vec<Topic>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// One transaction at one broker, as a line of JSON.
#[derive(Serialize)]
struct Shown<'a> {
    xid: &'a str,
    broker: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Commit,
    Rollback,
}

fn qualifier(text: &str) -> Result<UniqueQualifier, String> {
    UniqueQualifier::new(text).map_err(|error| error.to_string())
}

fn xid(text: &str) -> Result<XaTransactionId, String> {
    text.parse().map_err(|error| describe(&error))
}

pub(super) async fn run(command: Command) -> u8 {
    let done = match command {
        Command::List(args) => start(&args.connection, &args.topics, args.qualifier, None).await,
        Command::Commit(args) => decide(args, Decision::Commit).await,
        Command::Rollback(args) => decide(args, Decision::Rollback).await,
    };
    done.unwrap_or_else(|status| status)
}

async fn decide(args: DecideArgs, decision: Decision) -> Result<u8, u8> {
    let qualifier = UniqueQualifier::new(args.xid.qualifier()).map_err(|error| {
        print_error(&format!("{} has no qualifier by which it can be found", args.xid), &error);
        EXIT_USAGE
    })?;
    start(&args.connection, &args.topics, qualifier, Some((&args.xid, decision))).await
}

/// Connects, and lists, or decides on one transaction. The error is the exit status of a failure that was
/// printed.
async fn start(
    connection: &ConnectionArgs,
    topics: &[Topic],
    qualifier: UniqueQualifier,
    decision: Option<(&XaTransactionId, Decision)>,
) -> Result<u8, u8> {
    let settings = connection.settings(&[])?;
    let form = settings.output_form().map_err(|text| {
        print_message(&text);
        EXIT_USAGE
    })?;
    let limit = settings.config.send_timeout;
    let mut signals = StopSignals::new().map_err(|error| print_error("signals can't be handled", &error))?;
    let producer = connect(settings, topics, None, |builder| builder, &mut signals).await?;
    let mut output = Output::stdout().map_err(|error| print_error("the output can't be set up", &error))?;
    let mut printer = Printer { form: form.unwrap_or(OutputForm::Json), output: &mut output };
    let worked = async {
        let held = held(&producer, topics, &qualifier).await?;
        match decision {
            None => Ok(list(&held, &mut printer)),
            Some((xid, decision)) => carry_out(&held, xid, decision, &mut printer).await,
        }
    };
    let status = tokio::select! {
        worked = worked => worked.unwrap_or_else(|status| status),
        status = signals.next() => {
            if let Some((xid, _)) = decision {
                print_message(&format!("stopped; list shows whether {xid} is still prepared"));
            }
            return Ok(status);
        }
    };
    output.written().await;
    if let Some(error) = output.take_failure() {
        print_error("the results can't be written", &error);
        return Ok(exit_status::of_output_error(&error));
    }
    Ok(close(&producer, &mut Shutdown::new(signals, limit), status).await)
}

/// The transactions that brokers hold, and the brokers that did not say.
struct Held {
    producers: Vec<XaProducer>,
    transactions: BTreeSet<(String, BrokerAddr)>,
    failures: Vec<(BrokerAddr, XaError)>,
}

/// Asks the brokers of each topic.
async fn held(producer: &Producer, topics: &[Topic], qualifier: &UniqueQualifier) -> Result<Held, u8> {
    let mut held = Held { producers: Vec::new(), transactions: BTreeSet::new(), failures: Vec::new() };
    for topic in topics {
        // One for each topic: the brokers of one need not have the others.
        let xa = XaProducer::new(producer, qualifier.clone());
        xa.publish_topic(topic).await.map_err(|error| {
            print_error(&format!("the brokers of topic {topic} can't be asked"), &error);
            EXIT_UNREACHABLE
        })?;
        let Recovery { transactions, failures, .. } = xa.recover().await;
        held.transactions.extend(transactions.into_iter().map(|found| (found.xid.to_string(), found.broker)));
        held.failures.extend(failures);
        held.producers.push(xa);
    }
    for (broker, error) in &held.failures {
        print_error(&format!("broker {broker} may hold more"), error);
    }
    Ok(held)
}

fn list(held: &Held, printer: &mut Printer<'_>) -> u8 {
    for (xid, broker) in &held.transactions {
        printer.print(xid, broker, "prepared", None);
    }
    if held.failures.is_empty() { EXIT_DONE } else { EXIT_UNREACHABLE }
}

async fn carry_out(
    held: &Held,
    xid: &XaTransactionId,
    decision: Decision,
    printer: &mut Printer<'_>,
) -> Result<u8, u8> {
    let mut holders = held.transactions.iter().filter(|(listed, _)| *listed == xid.as_str()).peekable();
    if holders.peek().is_none() {
        print_message(&format!("no broker that answered holds {xid}; it has ended, or was forgotten"));
        return Err(if held.failures.is_empty() { EXIT_NOT_FOUND } else { EXIT_UNREACHABLE });
    }
    let mut status = EXIT_DONE;
    for (_, broker) in holders {
        let Some(Ok(mut resource)) =
            held.producers.iter().map(|xa| xa.resource_at(broker)).find(Result::is_ok)
        else {
            print_message(&format!("broker {broker} is not connected any more"));
            status = EXIT_UNREACHABLE;
            continue;
        };
        let ended = match decision {
            Decision::Commit => resource.commit(xid, false).await,
            Decision::Rollback => resource.rollback(xid).await,
        };
        let outcome = match (&ended, decision) {
            (Ok(()), Decision::Commit) => "committed",
            (Ok(()), Decision::Rollback) => "rolled-back",
            (Err(error), _) if error.is_unknown() => "unknown",
            (Err(_), _) => "failed",
        };
        printer.print(xid.as_str(), broker, outcome, ended.as_ref().err().map(|error| describe(error)));
        status = match &ended {
            Ok(()) => status,
            Err(error) if error.is_unknown() => EXIT_UNKNOWN,
            Err(_) if status == EXIT_UNKNOWN => status,
            Err(_) => EXIT_REFUSED,
        };
    }
    Ok(status)
}

struct Printer<'a> {
    form: OutputForm,
    output: &'a mut Output,
}

impl Printer<'_> {
    fn print(&mut self, xid: &str, broker: &BrokerAddr, outcome: &'static str, error: Option<String>) {
        let line = match self.form {
            OutputForm::Json => {
                let shown = Shown { xid, broker: broker.to_string(), outcome, error };
                serde_json::to_string(&shown).unwrap_or_default()
            }
            OutputForm::Plain => {
                let error = error.unwrap_or_default();
                let error = one_line(&error);
                format!("{xid}\t{broker}\t{outcome}\t{error}")
            }
            OutputForm::Human => {
                let error = error.map(|error| format!(": {error}")).unwrap_or_default();
                format!("{xid} at {broker} {outcome}{error}")
            }
        };
        self.output.text().extend_from_slice(line.as_bytes());
        self.output.text().push(b'\n');
        self.output.flush();
    }
}

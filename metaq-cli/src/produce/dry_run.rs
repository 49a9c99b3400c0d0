//! `metaq produce --dry-run`: shows the messages that would be sent.

use std::io;

use metaq_producer::Message;
use serde::Serialize;

use super::{
    Args,
    compose::{Composer, Refused, checked},
};
use crate::{
    display::{self, OutputForm},
    exit_status::{self, EXIT_DONE, EXIT_FAILED, EXIT_LOCAL_IO, EXIT_NOT_SENT},
    input::{Lines, Source},
    output::Output,
    report::count_messages,
    stderr::print_error,
};

/// A message that would be sent, as a line of JSON.
#[derive(Serialize)]
struct Shown<'a> {
    line: u64,
    topic: &'a str,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    attribute: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<String>,
}

#[derive(Serialize)]
struct NotSent<'a> {
    line: u64,
    error: Reason<'a>,
}

#[derive(Serialize)]
struct Reason<'a> {
    kind: &'a str,
    outcome: &'a str,
    message: &'a str,
}

pub(super) async fn run(sources: Vec<Source>, args: &Args, max_size: usize, form: OutputForm) -> u8 {
    let composer = Composer::new(args);
    let started = Output::stdout().and_then(|output| Ok((output, Lines::read(sources, args.framing())?)));
    let (mut output, mut lines) = match started {
        Ok(started) => started,
        Err(error) => {
            print_error("the input and the output can't be set up", &error);
            return EXIT_FAILED;
        }
    };
    let (mut number, mut refused, mut bytes) = (0, 0, 0);
    let mut input_failed = false;
    let is_over = |number, refused| {
        args.count.is_some_and(|count| number >= count) || (args.stops_on_error() && refused > 0)
    };
    while !is_over(number, refused)
        && let Some(batch) = lines.next().await
    {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                print_error("the input can't be read", &error);
                input_failed = true;
                break;
            }
        };
        for line in batch {
            if is_over(number, refused) {
                break;
            }
            number += 1;
            let message = composer.message(number, line).and_then(|message| checked(message, max_size));
            match &message {
                Ok(message) => bytes += message.payload().len(),
                Err(_) => refused += 1,
            }
            show(&mut output, form, number, &message);
            while !output.has_capacity() && !output.has_failed() {
                output.changed().await;
            }
        }
        if output.has_failed() {
            break;
        }
        output.flush();
    }
    if form == OutputForm::Human && !display::is_quiet() {
        let text = format!(
            "{}, {bytes} bytes, would be sent; {refused} would not\n",
            count_messages(number - refused)
        );
        output.text().extend_from_slice(text.as_bytes());
    }
    output.written().await;
    match output.take_failure() {
        Some(error) => {
            if error.kind() != io::ErrorKind::BrokenPipe {
                print_error("the results can't be written", &error);
            }
            exit_status::of_output_error(&error)
        }
        None if input_failed => EXIT_LOCAL_IO,
        None if refused > 0 => EXIT_NOT_SENT,
        None => EXIT_DONE,
    }
}

fn show(output: &mut Output, form: OutputForm, line: u64, message: &Result<Message, Refused>) {
    let text = output.text();
    let key = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    // Numbers and texts always serialize, and writing to memory can't fail.
    let _ = match (form, message) {
        (OutputForm::Human, _) => return,
        (OutputForm::Json, Ok(message)) => serde_json::to_writer(
            &mut *text,
            &Shown {
                line,
                topic: message.topic().as_str(),
                bytes: message.payload().len(),
                attribute: message.attribute(),
                key: message.key().map(key),
                partition: message.partition().map(|partition| partition.to_string()),
            },
        ),
        (OutputForm::Json, Err((kind, reason))) => serde_json::to_writer(
            &mut *text,
            &NotSent { line, error: Reason { kind, outcome: "not-sent", message: reason } },
        ),
        (OutputForm::Plain, Ok(message)) => {
            let topic = display::escaped(message.topic().as_str());
            let shown = format!("{line}\tsend\t{topic}\t{}", message.payload().len());
            text.extend_from_slice(shown.as_bytes());
            Ok(())
        }
        (OutputForm::Plain, Err((kind, reason))) => {
            let reason = display::one_line(reason);
            text.extend_from_slice(format!("{line}\tnot-sent\t{kind}\t{reason}").as_bytes());
            Ok(())
        }
    };
    text.push(b'\n');
}

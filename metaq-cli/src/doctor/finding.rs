//! What a step of the examination found.

use serde::Serialize;

use crate::display::{one_line, wrapped};

/// The steps, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Registry = 1,
    Topics,
    Topic,
    Name,
    Port,
    Version,
    Partition,
    Put,
}

impl Step {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Topics => "topics",
            Self::Topic => "topic",
            Self::Name => "name",
            Self::Port => "port",
            Self::Version => "version",
            Self::Partition => "partition",
            Self::Put => "put",
        }
    }
}

/// The result of one step for one subject: a broker, a partition.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    step: u8,
    name: &'static str,
    ok: bool,
    subject: String,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

impl Finding {
    pub(super) fn ok(step: Step, subject: impl ToString, text: impl Into<String>) -> Self {
        let (name, subject) = (step.name(), subject.to_string());
        Self { step: step as u8, name, ok: true, subject, text: text.into(), remedy: None }
    }

    pub(super) fn failed(
        step: Step,
        subject: impl ToString,
        text: impl Into<String>,
        remedy: &'static str,
    ) -> Self {
        Self { ok: false, remedy: Some(remedy), ..Self::ok(step, subject, text) }
    }

    /// Formats the finding as words separated by tabs.
    pub(super) fn plain(&self) -> String {
        let Self { step, name, ok, subject, text, remedy } = self;
        let result = if *ok { "ok" } else { "failed" };
        let words = [subject, text, remedy.unwrap_or_default()].map(one_line);
        format!("{step}\t{name}\t{result}\t{}\n", words.join("\t"))
    }

    /// Formats the finding for people.
    pub(super) fn text(&self) -> String {
        let Self { step, name, ok, subject, text, remedy } = self;
        // The text of what works goes on with the subject, as in "orders is offered by broker 0".
        let (result, separator) = if *ok { ("ok    ", "") } else { ("FAILED", ":") };
        let mut line = wrapped(&format!("{step} {name:<10}{result}  {subject}{separator} {text}\n"), 20);
        if let Some(remedy) = remedy {
            line.push_str(&wrapped(&format!("            remedy: {remedy}\n"), 20));
        }
        line
    }
}

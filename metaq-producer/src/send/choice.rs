//! Asking the selector for the partition of a message, and judging its answer.

use std::sync::Arc;

use metaq_protocol::Partition;

use crate::{
    Message, SendError, SendErrorKind,
    route::{
        topic_state::{Route, RouteBroker, TopicState},
        wait_queue::WaitReason,
    },
    send::{
        submit::{MOST_ASKS, NotSubmitted, Submitter},
        unacknowledged::Submission,
    },
};

impl Submitter {
    /// Asks the selector. `unfit` is what it chose before, if it is asked again; then it may choose nothing.
    #[inline(always)]
    pub(crate) fn select<'r>(
        &self,
        topic: &Arc<TopicState>,
        route: &'r Route,
        submission: &Submission,
        unfit: Option<Partition>,
    ) -> Result<Option<(Partition, &'r RouteBroker)>, NotSubmitted> {
        let Some(pending) = &submission.pending else { return Ok(None) };
        let Some(partition) = ask(topic, route, &pending.message, unfit)? else { return Ok(None) };
        match route.broker(partition.broker) {
            Some(broker) if route.has(partition) => Ok(Some((partition, broker))),
            _ => select_absent(topic, route, &pending.message, unfit.is_some(), partition),
        }
    }
}

/// The selector's answer. None only if it has chosen before.
#[inline(always)]
fn ask(
    topic: &TopicState,
    route: &Route,
    message: &Message,
    unfit: Option<Partition>,
) -> Result<Option<Partition>, NotSubmitted> {
    let answer = topic.selector.select(&topic.topic, route.choices(), message, unfit);
    match answer.map_err(|text| wrong(topic, text))? {
        None if unfit.is_none() => Err(wrong(topic, "the partition selector refused it".to_owned())),
        answer => Ok(answer),
    }
}

/// What becomes of the choice of a partition that can't take messages now: the message waits for it if it was
/// the first choice, else the selector is asked for the next.
#[cold]
fn select_absent<'r>(
    topic: &Arc<TopicState>,
    route: &'r Route,
    message: &Message,
    is_next: bool,
    mut partition: Partition,
) -> Result<Option<(Partition, &'r RouteBroker)>, NotSubmitted> {
    for _ in 0..MOST_ASKS.min(route.choices().len()) {
        match route.absence(partition) {
            None => break,
            Some(absence) if !is_next => {
                // The task that would see it come may have ended with its runtime.
                topic.ensure_followed();
                return Err(NotSubmitted::Away(partition, absence));
            }
            Some(_) => {}
        }
        match ask(topic, route, message, Some(partition))? {
            Some(next) if next != partition => partition = next,
            _ => return Ok(None),
        }
    }
    match route.broker(partition.broker) {
        Some(broker) if route.has(partition) => Ok(Some((partition, broker))),
        _ if route.absence(partition).is_some() => Ok(None),
        _ => Err(wrong(topic, no_such_partition(message, partition))),
    }
}

/// A message that was chosen a partition for which isn't there waits for that one, whatever the selector
/// would answer when it looks again: else a selector that draws at random would have it go from one queue to
/// the next for ever.
#[cold]
pub(crate) fn keep_choice(submission: &mut Submission, not_submitted: NotSubmitted) -> NotSubmitted {
    if let NotSubmitted::Away(partition, _) = not_submitted
        && let Some(pending) = &mut submission.pending
    {
        pending.rare().partition = Some(partition);
    }
    not_submitted
}

/// The partition that a message has waited for, if it is there by now.
///
/// # Errors
/// When it isn't, and the message has to wait on.
pub(crate) fn decided<'r>(
    route: &'r Route,
    submission: &mut Submission,
) -> Result<Option<(Partition, &'r RouteBroker)>, NotSubmitted> {
    let Some(rare) = submission.pending.as_mut().and_then(|pending| pending.rare.as_mut()) else {
        return Ok(None);
    };
    let Some(partition) = rare.partition else { return Ok(None) };
    if let Some(absence) = route.absence(partition) {
        return Err(NotSubmitted::Away(partition, absence));
    }
    // If it can't take the message well, another one may.
    rare.partition = None;
    Ok(route.broker(partition.broker).filter(|_| route.has(partition)).map(|broker| (partition, broker)))
}

/// The partition that is chosen for a message now, as when it is sent for the first time.
pub(crate) fn partition_for(topic: &TopicState, message: &Message) -> Result<Partition, SendError> {
    let route = topic.route();
    if message.partition().is_none() && route.choices().is_empty() {
        return Err(WaitReason::NoBroker.error(topic));
    }
    let never = |not_submitted: NotSubmitted| match not_submitted.into_wait() {
        Ok(wait) => wait.reason.error(topic),
        Err(error) => error,
    };
    let Some(partition) = ask(topic, &route, message, None).map_err(never)? else {
        return Err(WaitReason::NoBroker.error(topic));
    };
    if route.has(partition) || route.absence(partition).is_some() || route.choices().is_empty() {
        return Ok(partition);
    }
    Err(SendError::new(SendErrorKind::NoPartition, &topic.topic, no_such_partition(message, partition)))
}

#[cold]
fn wrong(topic: &TopicState, text: String) -> NotSubmitted {
    NotSubmitted::Never(SendError::new(SendErrorKind::NoPartition, &topic.topic, text))
}

/// The text about a chosen partition that there is none of.
#[cold]
pub(crate) fn no_such_partition(message: &Message, partition: Partition) -> String {
    let chosen = match message.partition() {
        Some(_) => "it is for partition",
        None => "the partition selector chose",
    };
    format!("{chosen} {partition}, which the topic doesn't have")
}

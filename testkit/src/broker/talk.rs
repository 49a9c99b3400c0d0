//! The conversation over one connection, without I/O: bytes come in, answers go out.

use std::{collections::BTreeMap, time::Duration};

use bytes::{Bytes, BytesMut};
use metaq_protocol::{Command, DecodeError, Decoder, Frame, Response};
use tokio::time::Instant;

use super::{
    answers::result, compat::Lenience, faults::Fault, local_transactions::LocalTransactions,
    put_monitor::UnansweredPut, serve::OpenConnection,
};

/// The number of bytes of answers that are gathered before they are written: a client that doesn't read them isn't read from.
const MOST_OUTPUT: usize = 256 * 1024;

/// The next thing to do after the output was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for more bytes.
    Read,
    /// There is more to answer already.
    GoOn,
    /// Close the connection.
    Close,
}

#[derive(Debug)]
pub(super) struct Talk {
    open: OpenConnection,
    number: usize,
    decoder: Decoder,
    is_lenient: bool,
    locals: LocalTransactions,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    /// The number of bytes that were given out before what is in `output`.
    written: u64,
    /// Answers that have their time, with the order in which they were given.
    late: BTreeMap<(Instant, u64), (Bytes, Option<UnansweredPut>)>,
    lates: u64,
    /// Answers that so many others are to overtake.
    held: Vec<(usize, Bytes, Option<UnansweredPut>)>,
    /// The monitored puts whose answers are in `output`, and those that are never answered.
    answered: Vec<UnansweredPut>,
    never_answered: Vec<UnansweredPut>,
}

impl Talk {
    pub(super) fn new(open: OpenConnection, number: usize) -> Self {
        let settings = &open.0.settings;
        let is_lenient = settings.compat;
        let decoder =
            if settings.compat { Lenience::decoder() } else { Decoder::with_limits(settings.limits) };
        Self {
            open,
            number,
            decoder,
            is_lenient,
            locals: LocalTransactions::default(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            written: 0,
            late: BTreeMap::new(),
            lates: 0,
            held: Vec::new(),
            answered: Vec::new(),
            never_answered: Vec::new(),
        }
    }

    /// Notifies whoever waits for something to happen at the broker.
    pub(super) fn notify(&self) {
        self.open.0.activity.notify_waiters();
    }

    /// The time for which the client may be silent.
    pub(super) fn idle_timeout(&self) -> Duration {
        self.open.0.settings.idle_timeout
    }

    /// The time at which the next late answer is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.late.first_key_value().map(|((due, _), _)| *due)
    }

    /// Answers the complete requests of the input, and what is due.
    pub(super) fn answer_all(&mut self) -> Next {
        let now = Instant::now();
        while self.next_due().is_some_and(|due| due <= now) {
            if let Some((_, (answer, put))) = self.late.pop_first() {
                self.output.extend_from_slice(&answer);
                self.answered.extend(put);
            }
        }
        let next = loop {
            if self.output.len() >= MOST_OUTPUT {
                return Next::GoOn;
            }
            match self.decode() {
                Ok(Some(Frame::Command(Command::Quit(_)))) | Err(_) => break Next::Close,
                Ok(Some(Frame::Command(command))) => {
                    if !self.carry_out(&command) {
                        break Next::Close;
                    }
                }
                // A real broker reads answers and drops them (protocol §1).
                Ok(Some(_)) => {}
                Ok(None) => break Next::Read,
            }
        };
        for (_, answer, put) in self.held.drain(..) {
            self.output.extend_from_slice(&answer);
            self.answered.extend(put);
        }
        next
    }

    /// The output is about to be written: the client may send again what it has waited to send. It may even do so on another
    /// connection, before this one's task goes on.
    pub(super) fn begin_to_write(&mut self) {
        self.answered.clear();
    }

    /// The connection is about to be closed: what is unanswered stays so.
    pub(super) fn end(&mut self) {
        self.late.clear();
        self.held.clear();
        self.answered.clear();
        self.never_answered.clear();
    }

    /// Cuts the output where `after` bytes have been given out in all; true when that is the end.
    pub(super) fn cut_output(&mut self, after: Option<u64>) -> bool {
        let length = self.output.len() as u64;
        let room = after.map(|after| after.saturating_sub(self.written)).filter(|room| *room <= length);
        self.written += length;
        match room {
            Some(room) if length > 0 => {
                self.output.truncate(usize::try_from(room).unwrap_or(usize::MAX));
                true
            }
            _ => false,
        }
    }

    fn decode(&mut self) -> Result<Option<Frame>, DecodeError> {
        if self.is_lenient && !Lenience::prepare(&mut self.input) {
            return Ok(None);
        }
        self.decoder.decode(&mut self.input)
    }

    /// False when the connection is to be closed.
    fn carry_out(&mut self, command: &Command) -> bool {
        let shared = &self.open.0;
        let put = match command {
            Command::Put(put) if put.transaction.is_none() => {
                shared.put_monitor.get().map(|monitor| monitor.arrived(put))
            }
            _ => None,
        };
        shared.records.seen(command, self.number);
        let Some(fault) = shared.faults.meet(command, self.number) else {
            let response = shared.answer(command, &mut self.locals);
            // A refusal would be wrong: a process that has ended says nothing.
            if shared.topics.is_closed() {
                return false;
            }
            if let Some(response) = response {
                self.emit(&response, put);
            }
            return true;
        };
        match fault {
            Fault::Refuse(status, text) => {
                self.emit(&result(command.opaque(), status, text), put);
                return true;
            }
            Fault::Ignore => {
                self.never_answered.extend(put);
                return true;
            }
            Fault::Close => return false,
            _ => {}
        }
        let answer = shared.answer(command, &mut self.locals);
        if shared.topics.is_closed() {
            return false;
        }
        let Some(mut response) = answer else { return true };
        match fault {
            Fault::Answer(status, text) => self.emit(&result(command.opaque(), status, text), put),
            Fault::Late(time) => {
                self.lates += 1;
                let at = Instant::now() + time.min(crate::LONGEST);
                self.late.insert((at, self.lates), (encoded(&response), put));
            }
            Fault::Opaque(opaque) => {
                response.set_opaque(opaque);
                self.emit(&response, None);
                self.never_answered.extend(put);
            }
            Fault::Twice => {
                self.emit(&response, put);
                self.emit(&response, None);
            }
            Fault::Behind(others) if others > 0 => self.held.push((others, encoded(&response), put)),
            Fault::Behind(_) => self.emit(&response, put),
            Fault::Garbage(length) => {
                let garbage = self.open.0.faults.garbage(length);
                self.output.extend_from_slice(&garbage);
                self.never_answered.extend(put);
            }
            Fault::Bytes(bytes) => {
                self.output.extend_from_slice(&bytes);
                self.never_answered.extend(put);
            }
            Fault::Cut(length) => {
                let answer = encoded(&response);
                self.output.extend_from_slice(&answer[..length.min(answer.len())]);
                return false;
            }
            // Swallowed; the others were dealt with above.
            _ => self.never_answered.extend(put),
        }
        true
    }

    fn emit(&mut self, response: &Response, put: Option<UnansweredPut>) {
        response.encode(&mut self.output);
        self.answered.extend(put);
        if !self.held.is_empty() {
            for (others, ..) in &mut self.held {
                *others = others.saturating_sub(1);
            }
            for (_, answer, put) in self.held.extract_if(.., |(others, ..)| *others == 0) {
                self.output.extend_from_slice(&answer);
                self.answered.extend(put);
            }
        }
    }
}

fn encoded(response: &Response) -> Bytes {
    let mut bytes = BytesMut::new();
    response.encode(&mut bytes);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Broker;

    #[tokio::test]
    async fn a_client_that_does_not_read_its_answers_is_not_read_from() {
        let broker = Broker::builder().topic("t", 1).start_without_port().unwrap();
        let mut talk = Talk::new(OpenConnection(Arc::clone(&broker.shared)), 1);
        talk.input
            .extend_from_slice(format!("put t 0 1000000 0 -1 1\r\n{}", "x".repeat(1_000_000)).as_bytes());
        talk.input.extend_from_slice("get t g 0 0 1048576 1\r\n".repeat(1000).as_bytes());
        let mut written = 0;
        while talk.answer_all() == Next::GoOn {
            assert!(talk.output.len() < MOST_OUTPUT + (1 << 20) + 1000, "{}", talk.output.len());
            written += talk.output.len();
            talk.output.clear();
        }
        assert!(written > 1_000_000_000 - (1 << 20), "{written}");
    }
}

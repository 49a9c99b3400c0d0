//! The protocol of one connection, without I/O: bytes come in, responses go out.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use metaq_protocol::{Command, DecodeError, Decoder, Frame, Response};
use tokio::time::Instant;

use super::lenient_input;
use crate::broker::{
    faults::Fault, handlers::result, observe::UnansweredPut, shared::BrokerShared,
    transactions::LocalTransactions,
};

/// The number of bytes of responses after which the connection stops reading requests until they are written.
const MAX_OUTPUT: usize = 256 * 1024;

/// Counts a connection as open while it lives.
#[derive(Debug)]
pub(super) struct OpenConnection(pub(super) Arc<BrokerShared>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.activity.notify_waiters();
    }
}

/// The next step after the output was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Wait for more bytes.
    Read,
    /// Process more input that has arrived already.
    Continue,
    /// Close the connection.
    Close,
}

/// The state of one connection: its unprocessed input, its unwritten output, and the responses that faults
/// delay.
#[derive(Debug)]
pub(super) struct Connection {
    open: OpenConnection,
    number: usize,
    decoder: Decoder,
    is_lenient: bool,
    local_transactions: LocalTransactions,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    /// The number of bytes that were written before those in `output`.
    written: u64,
    /// Delayed responses by due time and order.
    delayed: BTreeMap<(Instant, u64), (Bytes, Option<UnansweredPut>)>,
    delayed_count: u64,
    /// Responses that this number of others is yet to overtake.
    held_back: Vec<(usize, Bytes, Option<UnansweredPut>)>,
    /// The monitored puts whose responses are in `output`, and those that never get a response.
    answered: Vec<UnansweredPut>,
    never_answered: Vec<UnansweredPut>,
}

impl Connection {
    pub(super) fn new(open: OpenConnection, number: usize) -> Self {
        let settings = &open.0.settings;
        let is_lenient = settings.compat;
        let decoder =
            if settings.compat { lenient_input::decoder() } else { Decoder::with_limits(settings.limits) };
        Self {
            open,
            number,
            decoder,
            is_lenient,
            local_transactions: LocalTransactions::default(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            written: 0,
            delayed: BTreeMap::new(),
            delayed_count: 0,
            held_back: Vec::new(),
            answered: Vec::new(),
            never_answered: Vec::new(),
        }
    }

    /// Notifies the methods that wait for changes at the broker.
    pub(super) fn notify(&self) {
        self.open.0.activity.notify_waiters();
    }

    /// Returns the time for which the client may be silent.
    pub(super) fn idle_timeout(&self) -> Duration {
        self.open.0.settings.idle_timeout
    }

    /// Returns the time at which the next delayed response is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.delayed.first_key_value().map(|((due, _), _)| *due)
    }

    /// Processes the complete requests of the input, and adds the delayed responses that are due.
    pub(super) fn process_input(&mut self) -> NextStep {
        let now = Instant::now();
        while self.next_due().is_some_and(|due| due <= now) {
            if let Some((_, (bytes, put))) = self.delayed.pop_first() {
                self.output.extend_from_slice(&bytes);
                self.answered.extend(put);
            }
        }
        let next = loop {
            if self.output.len() >= MAX_OUTPUT {
                return NextStep::Continue;
            }
            match self.decode() {
                Ok(Some(Frame::Command(Command::Quit(_)))) | Err(_) => break NextStep::Close,
                Ok(Some(Frame::Command(command))) => {
                    if !self.handle(&command) {
                        break NextStep::Close;
                    }
                }
                // A Java broker reads responses and drops them (protocol §1).
                Ok(Some(_)) => {}
                Ok(None) => break NextStep::Read,
            }
        };
        for (_, bytes, put) in self.held_back.drain(..) {
            self.output.extend_from_slice(&bytes);
            self.answered.extend(put);
        }
        next
    }

    /// Ends the monitoring of puts whose responses are about to be written: the client may react to them, on
    /// another connection even, before this task runs again.
    pub(super) fn mark_answered(&mut self) {
        self.answered.clear();
    }

    /// Discards everything that is still unanswered, before the connection is closed.
    pub(super) fn abandon(&mut self) {
        self.delayed.clear();
        self.held_back.clear();
        self.answered.clear();
        self.never_answered.clear();
    }

    /// Cuts the output where `after` bytes have been written in total. Returns true if the connection ends
    /// there.
    pub(super) fn cut_output(&mut self, after: Option<u64>) -> bool {
        let length = self.output.len() as u64;
        let remaining =
            after.map(|after| after.saturating_sub(self.written)).filter(|remaining| *remaining <= length);
        self.written += length;
        match remaining {
            Some(remaining) if length > 0 => {
                self.output.truncate(usize::try_from(remaining).unwrap_or(usize::MAX));
                true
            }
            _ => false,
        }
    }

    fn decode(&mut self) -> Result<Option<Frame>, DecodeError> {
        if self.is_lenient && !lenient_input::prepare(&mut self.input) {
            return Ok(None);
        }
        self.decoder.decode(&mut self.input)
    }

    /// Carries out a request, with its fault if it meets one. Returns false if the connection has to be
    /// closed.
    fn handle(&mut self, command: &Command) -> bool {
        let shared = &self.open.0;
        let put = match command {
            Command::Put(put) if put.transaction.is_none() => {
                shared.put_monitor.get().map(|monitor| monitor.put_arrived(put))
            }
            _ => None,
        };
        shared.records.observe(command, self.number);
        let Some(fault) = shared.faults.take_fault(command, self.number) else {
            let response = shared.handle(command, &mut self.local_transactions);
            // A process that has ended sends nothing, not even a refusal.
            if shared.topics.is_closed() {
                return false;
            }
            if let Some(response) = response {
                self.write_response(&response, put);
            }
            return true;
        };
        match fault {
            Fault::Refuse(status, text) => {
                self.write_response(&result(command.opaque(), status, text), put);
                return true;
            }
            Fault::Ignore => {
                self.never_answered.extend(put);
                return true;
            }
            Fault::Close => return false,
            _ => {}
        }
        let response = shared.handle(command, &mut self.local_transactions);
        if shared.topics.is_closed() {
            return false;
        }
        let Some(mut response) = response else { return true };
        match fault {
            Fault::Answer(status, text) => self.write_response(&result(command.opaque(), status, text), put),
            Fault::Late(time) => {
                self.delayed_count += 1;
                let at = Instant::now() + time.min(crate::MAX_DURATION);
                self.delayed.insert((at, self.delayed_count), (encode_response(&response), put));
            }
            Fault::Opaque(opaque) => {
                response.set_opaque(opaque);
                self.write_response(&response, None);
                self.never_answered.extend(put);
            }
            Fault::Twice => {
                self.write_response(&response, put);
                self.write_response(&response, None);
            }
            Fault::Behind(others) if others > 0 => {
                self.held_back.push((others, encode_response(&response), put))
            }
            Fault::Behind(_) => self.write_response(&response, put),
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
                let bytes = encode_response(&response);
                self.output.extend_from_slice(&bytes[..length.min(bytes.len())]);
                return false;
            }
            // `Swallow`; the other faults are handled above.
            _ => self.never_answered.extend(put),
        }
        true
    }

    fn write_response(&mut self, response: &Response, put: Option<UnansweredPut>) {
        response.encode(&mut self.output);
        self.answered.extend(put);
        if !self.held_back.is_empty() {
            for (others, ..) in &mut self.held_back {
                *others = others.saturating_sub(1);
            }
            for (_, bytes, put) in self.held_back.extract_if(.., |(others, ..)| *others == 0) {
                self.output.extend_from_slice(&bytes);
                self.answered.extend(put);
            }
        }
    }
}

fn encode_response(response: &Response) -> Bytes {
    let mut bytes = BytesMut::new();
    response.encode(&mut bytes);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Broker;

    #[tokio::test]
    async fn a_client_that_does_not_read_responses_is_not_read_from() {
        let broker = Broker::builder().topic("t", 1).start_without_port().unwrap();
        let mut connection = Connection::new(OpenConnection(Arc::clone(&broker.shared)), 1);
        connection
            .input
            .extend_from_slice(format!("put t 0 1000000 0 -1 1\r\n{}", "x".repeat(1_000_000)).as_bytes());
        connection.input.extend_from_slice("get t g 0 0 1048576 1\r\n".repeat(1000).as_bytes());
        let mut written = 0;
        while connection.process_input() == NextStep::Continue {
            assert!(connection.output.len() < MAX_OUTPUT + (1 << 20) + 1000, "{}", connection.output.len());
            written += connection.output.len();
            connection.output.clear();
        }
        assert!(written > 1_000_000_000 - (1 << 20), "{written}");
    }
}

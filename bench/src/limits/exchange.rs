//! Puts and their answers over one connection, on one thread.

use std::{
    io::{self, Read as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use metaq_protocol::{Decoder, Status};

use super::{Limit, Puts, Work};
use crate::usage::cpu_time;

/// The size of a read of answers.
const INPUT: usize = 256 * 1024;

/// Upper bound of the length of an answer to a put.
const MAX_ANSWER: usize = 16 * 1024;

/// Upper bound of recorded times, in nanoseconds: a minute. Longer ones are recorded as this.
const MAX_TIME: u64 = 60_000_000_000;

/// A connection with a window of puts in flight.
struct Window {
    stream: TcpStream,
    puts: Puts,
    input: Vec<u8>,
    filled: usize,
    decoder: Decoder,
    /// For each opaque, whether its put is in flight.
    in_flight: Vec<bool>,
}

impl Window {
    fn connect(broker: SocketAddr, puts: Puts) -> io::Result<Self> {
        let stream = TcpStream::connect(broker)?;
        stream.set_nodelay(true)?;
        let in_flight = vec![false; puts.window()];
        Ok(Self { stream, puts, input: vec![0; INPUT], filled: 0, decoder: Decoder::new(), in_flight })
    }

    fn write(&mut self, count: usize) -> io::Result<()> {
        self.puts.write(&mut self.stream, count)
    }

    /// Waits for answers, and returns their number.
    fn read(&mut self) -> io::Result<usize> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let count = self.stream.read(&mut self.input[self.filled..])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.filled += count;
        let (mut used, mut answers) = (0, 0);
        loop {
            let unread = &self.input[used..self.filled];
            let decoded = self.decoder.decode_response_in_place(unread);
            let Some((answer, length)) = decoded.map_err(|error| invalid(error.to_string()))? else { break };
            if answer.status() != Some(Status::SUCCESS) {
                return Err(invalid(format!("the broker refused a message: {answer:?}")));
            }
            answer.put_response().map_err(|error| invalid(error.to_string()))?;
            // Finds the put that the answer belongs to, as a producer does.
            let put = usize::try_from(answer.opaque.0).ok().and_then(|opaque| self.in_flight.get_mut(opaque));
            *put.ok_or_else(|| invalid("an answer to nothing".to_owned()))? ^= true;
            used += length;
            answers += 1;
        }
        self.input.copy_within(used..self.filled, 0);
        self.filled -= used;
        if self.filled > MAX_ANSWER {
            return Err(invalid("an answer without an end".to_owned()));
        }
        Ok(answers)
    }
}

/// Keeps the window of `puts` full for `time`, after an uncounted warm-up of the same duration. Each read of
/// answers is followed by one write of as many puts.
///
/// # Errors
/// When the connection is lost, or the broker refuses a message.
pub fn exchange(what: &str, broker: SocketAddr, puts: Puts, time: Duration) -> io::Result<Limit> {
    let (size, size_of_window) = (puts.size(), puts.window());
    let mut window = Window::connect(broker, puts)?;
    window.write(size_of_window)?;
    let (mut start, mut cpu, mut messages) = (Instant::now(), cpu_time(), 0);
    let mut warming_up = true;
    loop {
        let answers = window.read()?;
        messages += answers as u64;
        window.write(answers)?;
        let elapsed = start.elapsed();
        if elapsed >= time {
            if !warming_up {
                let limit = Limit::new(what, size, size_of_window, messages, elapsed);
                return Ok(limit.with_cpu(cpu_time().saturating_sub(cpu), messages));
            }
            (start, cpu, messages, warming_up) = (Instant::now(), cpu_time(), 0, false);
        }
    }
}

/// Sends one message at a time for `time`, and records the time of each, after an uncounted warm-up of the
/// same duration.
///
/// # Errors
/// When the connection is lost, or the broker refuses a message.
pub fn ping_pong(
    broker: SocketAddr,
    topic: &metaq_protocol::Topic,
    size: usize,
    time: Duration,
) -> io::Result<Limit> {
    let mut window = Window::connect(broker, Puts::new(Work::Encode, topic.clone(), 1, size, 1))?;
    let mut times = Histogram::<u64>::new_with_max(MAX_TIME, 3).map_err(io::Error::other)?;
    let (mut start, mut cpu) = (Instant::now(), cpu_time());
    let mut warming_up = true;
    loop {
        let sent = Instant::now();
        window.write(1)?;
        while window.read()? == 0 {}
        times.saturating_record(sent.elapsed().as_nanos() as u64);
        let elapsed = start.elapsed();
        if elapsed >= time {
            if !warming_up {
                let limit = Limit::new("ping-pong", size, 1, times.len(), elapsed);
                let mut limit = limit.with_cpu(cpu_time().saturating_sub(cpu), times.len());
                let quantile = |quantile| Some(times.value_at_quantile(quantile) as f64 / 1000.0);
                (limit.p50_us, limit.p99_us) = (quantile(0.5), quantile(0.99));
                return Ok(limit);
            }
            times.reset();
            (start, cpu, warming_up) = (Instant::now(), cpu_time(), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::null_broker::{Identity, start};

    #[test]
    fn every_answer_is_counted_and_timed() {
        let broker = start(0, Identity::new(0, Vec::new())).unwrap();
        let topic: metaq_protocol::Topic = "t".parse().unwrap();
        let time = Duration::from_millis(50);
        for (work, size, window) in
            [(Work::PreEncoded, 128, 64), (Work::Encode, 128, 1024), (Work::Encode, 1 << 20, 2)]
        {
            let puts = Puts::new(work, topic.clone(), 4, size, window);
            let limit = exchange("it", broker, puts, time).unwrap();
            assert!(limit.msgs_per_s > 0.0 && limit.cpu_us_per_msg.is_some(), "{limit:?}");
        }
        let limit = ping_pong(broker, &topic, 128, time).unwrap();
        let (p50, p99) = (limit.p50_us.unwrap(), limit.p99_us.unwrap());
        // More than half of the messages take at least the median, so the rate can't be more than twice its
        // inverse.
        assert!(p50 > 0.5 && p50 <= p99 && limit.msgs_per_s * p50 < 2e6, "{limit:?}");
    }
}

//! A broker that stores nothing and answers immediately.
//!
//! Each connection has a thread with blocking calls, so that no scheduling lies between a read and the write
//! of its answers. The data of a message is skipped, whatever its size, and its checksum is ignored.
//! Otherwise the broker behaves as a real one: complete requests are answered in order, and anything else
//! closes the connection.

use std::{
    fmt::Write as _,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    thread,
};

use crate::request::Request;

/// The size of a read. A larger one evicts the data from the processor's cache, a smaller one takes more
/// system calls.
const INPUT: usize = 256 * 1024;

/// The first message id: negative and of 20 characters, as the ids of real brokers.
const FIRST_ID: i64 = -5_468_927_679_426_199_552;

/// The distance between the first message ids of two connections.
const IDS_PER_CONNECTION: i64 = 1 << 40;

/// The length of a stored message's header (protocol §8).
const STORED_HEADER: i64 = 20;

/// The id and the topics that the broker reports.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Identity {
    /// The broker's id.
    pub id: i32,
    /// The broker's topics and the number of their partitions. Messages to other topics are accepted, too.
    pub topics: Vec<(String, u32)>,
}

impl Identity {
    /// Returns an identity with these values.
    #[must_use]
    pub fn new(id: i32, topics: Vec<(String, u32)>) -> Self {
        Self { id, topics }
    }
}

/// Starts a broker on `port` of the loopback interface, 0 for any free one, and returns its address. The
/// broker runs until the process ends.
///
/// # Errors
/// When the port can't be bound.
pub fn start(port: u16, identity: Identity) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let addr = listener.local_addr()?;
    let (identity, next_id) = (Arc::new(identity), Arc::new(AtomicI64::new(FIRST_ID)));
    thread::Builder::new().name("accept".to_owned()).spawn(move || {
        for stream in listener.incoming() {
            // A connection may be lost before it is accepted; others follow.
            let Ok(stream) = stream else { continue };
            let identity = Arc::clone(&identity);
            let next_id = next_id.fetch_add(IDS_PER_CONNECTION, Ordering::Relaxed);
            // If no thread can be started, the connection is closed, which its client notices.
            let _ = thread::Builder::new().name("connection".to_owned()).spawn(move || {
                // An error means that the client has closed the connection, or sent something that is no
                // request.
                let _ = Connection::new(stream, identity, next_id).serve();
            });
        }
    })?;
    Ok(addr)
}

/// A `put` whose data has not arrived completely.
#[derive(Clone, Copy)]
struct IncompletePut {
    missing: usize,
    put: Put,
}

#[derive(Clone, Copy)]
struct Put {
    partition: i32,
    length: usize,
    opaque: i32,
}

struct Connection {
    stream: TcpStream,
    identity: Arc<Identity>,
    input: Vec<u8>,
    /// The unread part of the input is `start..end`.
    start: usize,
    end: usize,
    incomplete: Option<IncompletePut>,
    output: Vec<u8>,
    next_id: i64,
    offset: i64,
}

impl Connection {
    fn new(stream: TcpStream, identity: Arc<Identity>, next_id: i64) -> Self {
        Self {
            stream,
            identity,
            input: vec![0; INPUT],
            start: 0,
            end: 0,
            incomplete: None,
            output: Vec::with_capacity(INPUT),
            next_id,
            offset: 0,
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        loop {
            let stays_open = self.answer_all();
            self.stream.write_all(&self.output)?;
            self.output.clear();
            if !stays_open {
                return Ok(());
            }
            // The unread part is the beginning of a line.
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == INPUT {
                // The line is longer than the input.
                return Ok(());
            }
            match self.stream.read(&mut self.input[self.end..])? {
                0 => return Ok(()),
                count => self.end += count,
            }
        }
    }

    /// Answers all complete requests. Returns false when the connection should be closed.
    fn answer_all(&mut self) -> bool {
        loop {
            if let Some(IncompletePut { missing, put }) = self.incomplete {
                let arrived = missing.min(self.end - self.start);
                self.start += arrived;
                if arrived < missing {
                    self.incomplete = Some(IncompletePut { missing: missing - arrived, put });
                    return true;
                }
                self.incomplete = None;
                self.acknowledge(put);
            }
            let unread = &self.input[self.start..self.end];
            let Some(line_end) = memchr::memchr(b'\n', unread) else { return true };
            let Some(request) = unread[..line_end].strip_suffix(b"\r").and_then(Request::parse) else {
                return false;
            };
            self.start += line_end + 1;
            match request {
                Request::Put { partition, length, opaque } => {
                    self.incomplete =
                        Some(IncompletePut { missing: length, put: Put { partition, length, opaque } });
                }
                Request::Stats { item, opaque } => {
                    let text = stats(&self.identity, item);
                    answer(&mut self.output, 200, opaque, text.as_bytes());
                }
                Request::Version { opaque } => answer(&mut self.output, 200, opaque, b"0.1"),
                Request::Other { opaque } => {
                    answer(&mut self.output, 503, opaque, b"The null broker does not handle this command.");
                }
                Request::Quit => return false,
            }
        }
    }

    /// Writes the answer to a stored message (protocol §3.1).
    #[inline]
    fn acknowledge(&mut self, put: Put) {
        let (mut id, mut partition, mut offset) =
            (itoa::Buffer::new(), itoa::Buffer::new(), itoa::Buffer::new());
        let id = id.format(self.next_id);
        // A client that sends to partition -1 lets the broker choose.
        let partition = partition.format(put.partition.max(0));
        let offset = offset.format(self.offset);
        let (mut length, mut opaque) = (itoa::Buffer::new(), itoa::Buffer::new());
        let length = length.format(id.len() + partition.len() + offset.len() + 2);
        let output = &mut self.output;
        output.extend_from_slice(b"result 200 ");
        output.extend_from_slice(length.as_bytes());
        output.push(b' ');
        output.extend_from_slice(opaque.format(put.opaque).as_bytes());
        output.extend_from_slice(b"\r\n");
        output.extend_from_slice(id.as_bytes());
        output.push(b' ');
        output.extend_from_slice(partition.as_bytes());
        output.push(b' ');
        output.extend_from_slice(offset.as_bytes());
        self.next_id += 1;
        self.offset += STORED_HEADER + put.length as i64;
    }
}

fn answer(output: &mut Vec<u8>, status: u16, opaque: i32, body: &[u8]) {
    output.extend_from_slice(format!("result {status} {} {opaque}\r\n", body.len()).as_bytes());
    output.extend_from_slice(body);
}

/// Returns the statistics that a client without a registry reads (protocol §3.4).
fn stats(identity: &Identity, item: &[u8]) -> String {
    let Identity { id, topics } = identity;
    let mut text = String::new();
    // Writing to a string can't fail.
    match item {
        b"config" => {
            let _ = write!(text, "[system]\nbrokerId={id}\n");
            for (topic, partitions) in topics {
                let _ = write!(text, "[topic={topic}]\nnumPartitions={partitions}\n");
            }
        }
        b"topics" => {
            text += "STATS\r\n";
            for (topic, _) in topics {
                let _ = write!(text, "{topic} *Empty*\r\n");
            }
            text += "END\r\n";
        }
        _ => {
            let count = topics.len();
            let _ = write!(
                text,
                "STATS\r\npid {}\r\nbroker_id {id}\r\nversion 0.1\r\nslave false\r\ntopics {count}\r\nEND\r\n",
                std::process::id()
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect() -> TcpStream {
        let identity = Identity::new(7, vec![("t".to_owned(), 3)]);
        let stream = TcpStream::connect(start(0, identity).unwrap()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Reads as many bytes as `expected` has, and compares them.
    fn expect(stream: &mut TcpStream, expected: &str) {
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), expected);
    }

    #[test]
    fn answers_puts_however_they_are_cut() {
        let mut stream = connect();
        let requests = b"put t 2 5 0 -1 1\r\nhelloput t -1 0 0 -1 -2\r\nput t 0 1 0 -1 3\r\n\n";
        for byte in requests {
            stream.write_all(&[*byte]).unwrap();
        }
        stream.write_all(requests).unwrap();
        for (id, offset) in [(2, 0), (3, 66)] {
            let offsets = [offset, offset + 25, offset + 45].map(|offset| offset.to_string());
            let id = |nth: i64| FIRST_ID + (id - 2) * 3 + nth;
            for (nth, (partition, opaque)) in [(2, 1), (0, -2), (0, 3)].into_iter().enumerate() {
                let body = format!("{} {partition} {}", id(nth as i64), offsets[nth]);
                expect(&mut stream, &format!("result 200 {} {opaque}\r\n{body}", body.len()));
            }
        }
    }

    #[test]
    fn takes_messages_larger_than_its_input() {
        let mut stream = connect();
        for opaque in 0..64 {
            stream.write_all(format!("put t 0 1048576 0 -1 {opaque}\r\n").as_bytes()).unwrap();
            stream.write_all(&vec![b'\n'; 1 << 20]).unwrap();
            let body = format!("{} 0 {}", FIRST_ID + i64::from(opaque), i64::from(opaque) * (20 + (1 << 20)));
            expect(&mut stream, &format!("result 200 {} {opaque}\r\n{body}", body.len()));
        }
    }

    #[test]
    fn reports_its_id_and_its_partitions() {
        let mut stream = connect();
        stream.write_all(b"version 1\r\nstats config 2\r\nstats  3\r\nget t g 0 0 1 4\r\n").unwrap();
        let config = "[system]\nbrokerId=7\n[topic=t]\nnumPartitions=3\n";
        expect(&mut stream, &format!("result 200 3 1\r\n0.1result 200 {} 2\r\n{config}", config.len()));
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("\r\nbroker_id 7\r\n") && rest.contains("result 503 "), "{rest}");
    }

    #[test]
    fn closes_on_what_is_no_request() {
        for request in
            [&b"bogus\r\n"[..], b"put t 0 x 0 -1 1\r\n", b"version 1\n", b"quit\r\n", &[b'x'; INPUT]]
        {
            let mut stream = connect();
            stream.write_all(request).unwrap();
            let mut rest = Vec::new();
            // The broker may have left bytes unread, which resets the connection.
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
        }
    }
}

//! Captured packets: files of pcap and pcapng, and the TCP segments in their packets.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read},
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap_file::{
    DataLink, PcapError,
    pcap::PcapReader,
    pcapng::{
        PcapNgReader,
        blocks::{
            Block,
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};
use serde::Serialize;

use super::{
    BUFFER, InspectError, Printer,
    decode::{Capture, Stream},
    reassembly::{Piece, Reassembly, Segment},
};

/// The first bytes of a file of pcap, in either order of bytes, with times in microseconds or nanoseconds.
const PCAP: [[u8; 4]; 4] =
    [[0xa1, 0xb2, 0xc3, 0xd4], [0xd4, 0xc3, 0xb2, 0xa1], [0xa1, 0xb2, 0x3c, 0x4d], [0x4d, 0x3c, 0xb2, 0xa1]];

/// The first bytes of a file of pcapng.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Limit on the number of packets whose headers can't be read and that are named.
const MAX_NAMED: u64 = 10;

/// A line about bytes that are missing in the capture.
#[derive(Serialize)]
struct Missing {
    #[serde(flatten)]
    capture: Capture,
    missing: u64,
}

/// A connection's direction: from where to where.
type Direction = (SocketAddr, SocketAddr);

/// One direction of a connection, and the frames in it.
struct Flow {
    reassembly: Reassembly,
    stream: Stream,
    /// Set after bytes that are no frame.
    is_malformed: bool,
}

/// The streams of a capture.
struct Flows<'a> {
    flows: BTreeMap<Direction, Flow>,
    ports: &'a [u16],
    raw: bool,
    unread: u64,
}

/// Prints the frames of all streams from and to these ports.
pub(super) fn packets(
    input: impl Read,
    output: &mut Printer,
    ports: &[u16],
    raw: bool,
) -> Result<(), InspectError> {
    let mut input = BufReader::with_capacity(BUFFER, input);
    let start = input.fill_buf().map_err(InspectError::Input)?;
    let is_pcapng = start.starts_with(&PCAPNG);
    let is_other =
        start.len() >= PCAPNG.len() && !is_pcapng && !PCAP.iter().any(|magic| start.starts_with(magic));
    if start.is_empty() || is_other {
        let text = if is_other { "it is no pcap or pcapng file" } else { "it is empty" };
        return Err(InspectError::Input(io::Error::new(io::ErrorKind::InvalidData, text)));
    }
    let mut flows = Flows { flows: BTreeMap::new(), ports, raw, unread: 0 };
    let done = flows.read(input, is_pcapng, output);
    if !matches!(done, Err(InspectError::Output(_))) {
        // What is known of the streams is of use also where the file is cut off.
        flows.end(output)?;
    }
    done
}

/// The error of a capture whose `part` could not be read.
fn unreadable(part: &str, error: PcapError) -> InspectError {
    let text = match error {
        PcapError::IoError(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            return InspectError::Input(error);
        }
        PcapError::IoError(_) | PcapError::IncompleteBuffer => format!("the capture ends within {part}"),
        error => format!("the capture is damaged in {part}: {error}"),
    };
    InspectError::Input(io::Error::new(io::ErrorKind::InvalidData, text))
}

impl Flows<'_> {
    /// Reads all packets.
    fn read(&mut self, input: impl Read, is_pcapng: bool, output: &mut Printer) -> Result<(), InspectError> {
        if !is_pcapng {
            let mut reader = PcapReader::new(input).map_err(|error| unreadable("its header", error))?;
            let link = reader.header().datalink;
            while let Some(packet) = reader.next_packet() {
                let packet = packet.map_err(|error| unreadable("a packet", error))?;
                self.packet(link, packet.timestamp.as_secs_f64(), &packet.data, output)?;
            }
            return Ok(());
        }
        let mut reader = PcapNgReader::new(input).map_err(|error| unreadable("its header", error))?;
        while let Some(block) = reader.next_block() {
            let (interface, time, data) = match block.map_err(|error| unreadable("a packet", error))? {
                Block::EnhancedPacket(packet) => {
                    (packet.interface_id, Some(packet.timestamp), packet.data.into_owned())
                }
                Block::SimplePacket(packet) => (0, None, packet.data.into_owned()),
                _ => continue,
            };
            let Some(interface) = reader.interfaces().get(interface as usize) else { continue };
            // The library takes every number for nanoseconds.
            let ticks = time.map_or(0.0, |time| time.as_nanos() as f64);
            self.packet(interface.linktype, ticks / ticks_of_second(interface), &data, output)?;
        }
        Ok(())
    }
}

/// The unit of an interface's times, as a number of them in a second: microseconds, unless an option says
/// otherwise.
fn ticks_of_second(interface: &InterfaceDescriptionBlock<'_>) -> f64 {
    let resolution = interface.options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
        _ => None,
    });
    match resolution.unwrap_or(6) {
        binary if binary & 0x80 != 0 => 2_f64.powi(i32::from(binary & 0x7f)),
        decimal => 10_f64.powi(i32::from(decimal)),
    }
}

impl Flows<'_> {
    /// Adds a packet.
    fn packet(
        &mut self,
        link: DataLink,
        time: f64,
        data: &[u8],
        output: &mut Printer,
    ) -> Result<(), InspectError> {
        let (direction, segment) = match segment(link, data) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(reason) => {
                self.unread += 1;
                if self.unread <= MAX_NAMED {
                    output.json(&serde_json::json!({"time": time, "error": reason}))?;
                }
                return Ok(());
            }
        };
        let (from, to) = direction;
        if !self.ports.contains(&from.port()) && !self.ports.contains(&to.port()) {
            return Ok(());
        }
        let capture = Capture { stream: format!("{from}>{to}"), time };
        if segment.is_start
            && let Some(mut former) = self.flows.remove(&direction)
        {
            // The ports are used again.
            former.end(time, output)?;
        }
        let raw = self.raw;
        let flow = self.flows.entry(direction).or_insert_with(|| Flow {
            reassembly: Reassembly::default(),
            stream: Stream::new(None, raw),
            is_malformed: false,
        });
        flow.stream.capture = Some(capture);
        let pieces = flow.reassembly.add(segment);
        if pieces.is_empty() {
            return Ok(());
        }
        for piece in pieces {
            flow.print(piece, output)?;
        }
        // The next packet may not be captured for a long time.
        output.flush()
    }

    fn end(self, output: &mut Printer) -> Result<(), InspectError> {
        for (_, mut flow) in self.flows {
            let time = flow.stream.capture.as_ref().map_or(0.0, |capture| capture.time);
            flow.end(time, output)?;
        }
        Ok(())
    }
}

impl Flow {
    fn print(&mut self, piece: Piece, output: &mut Printer) -> Result<(), InspectError> {
        match piece {
            _ if self.is_malformed => {}
            Piece::Bytes(bytes) => self.is_malformed = !self.stream.feed(&bytes, output)?,
            Piece::Missing(missing) => {
                if let Some(capture) = self.stream.capture.clone() {
                    output.json(&Missing { capture, missing })?;
                }
                self.is_malformed = true;
            }
        }
        Ok(())
    }

    fn end(&mut self, time: f64, output: &mut Printer) -> Result<(), InspectError> {
        if let Some(capture) = &mut self.stream.capture {
            capture.time = time;
        }
        if let Some(piece) = self.reassembly.end() {
            self.print(piece, output)?;
        } else if !self.is_malformed {
            self.stream.end(output)?;
        }
        Ok(())
    }
}

/// Returns the TCP segment in a packet; none if it has another protocol.
fn segment(link: DataLink, data: &[u8]) -> Result<Option<(Direction, Segment)>, String> {
    let sliced = match link {
        DataLink::ETHERNET => SlicedPacket::from_ethernet(data),
        DataLink::LINUX_SLL => SlicedPacket::from_linux_sll(data),
        DataLink::LINUX_SLL2 => SlicedPacket::from_ip(data.get(20..).unwrap_or_default()),
        DataLink::NULL | DataLink::LOOP => SlicedPacket::from_ip(data.get(4..).unwrap_or_default()),
        DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => SlicedPacket::from_ip(data),
        other => return Err(format!("packets of link type {other:?} can't be read")),
    };
    let sliced = sliced.map_err(|error| error.to_string())?;
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { return Ok(None) };
    let (from, to): (IpAddr, IpAddr) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        Some(NetSlice::Ipv6(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        _ => return Ok(None),
    };
    let direction = (SocketAddr::new(from, tcp.source_port()), SocketAddr::new(to, tcp.destination_port()));
    let payload = Bytes::copy_from_slice(tcp.payload());
    Ok(Some((direction, Segment { sequence: tcp.sequence_number(), is_start: tcp.syn(), payload })))
}

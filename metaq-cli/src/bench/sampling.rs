//! What limited the rate, by samples that are taken during the run.

use std::{collections::BTreeSet, fs, time::Duration};

use metaq_producer::{BrokerAddr, Producer};

/// The time between two samples.
pub(super) const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// The part of the elapsed time that the program's CPU time has when it is busy.
const BUSY: f64 = 0.9;

/// A median of this number of round trips of an idle broker means that messages wait at the broker.
const QUEUED_ROUND_TRIPS: f64 = 4.0;

/// Samples of one run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Samples {
    pub(super) count: u64,
    /// How often the system held bytes that a broker did not take.
    pub(super) unsent: u64,
}

/// What limited the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitedBy {
    Rate,
    Caller,
    Socket,
    Broker,
    Permits,
}

/// The figures of a run by which its limit is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observed {
    /// The rate that was asked for, and the one that was reached, in messages each second.
    pub(super) asked: Option<f64>,
    pub(super) reached: f64,
    /// The CPU time as a part of the elapsed time.
    pub(super) cpu: f64,
    pub(super) samples: Samples,
    pub(super) median: Duration,
    /// The round trip of a request while nothing else is in flight.
    pub(super) round_trip: Option<Duration>,
}

impl LimitedBy {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Caller => "caller",
            Self::Socket => "socket",
            Self::Broker => "broker",
            Self::Permits => "permits",
        }
    }

    /// Explains the limit to people.
    pub(super) fn explain(self, observed: &Observed) -> String {
        let Observed { cpu, samples, median, round_trip, .. } = *observed;
        match self {
            Self::Rate => "the rate that was asked for".to_owned(),
            Self::Caller => format!("the CPU time of this program ({:.0} % of one core)", cpu * 100.0),
            Self::Socket => format!(
                "the socket: in {} of {} samples the system held bytes that the broker did not take",
                samples.unsent, samples.count
            ),
            Self::Broker => format!(
                "the broker: half of the messages took {median:.0?} or more, and a round trip takes {:.0?} while it is \
                 idle; more in flight would wait longer",
                round_trip.unwrap_or_default()
            ),
            Self::Permits => "--in-flight: more messages in flight would be faster".to_owned(),
        }
    }

    pub(super) fn find(observed: &Observed) -> Self {
        let Observed { asked, reached, cpu, samples, median, round_trip } = *observed;
        if asked.is_some_and(|asked| reached >= 0.95 * asked) {
            return Self::Rate;
        }
        if cpu >= BUSY {
            return Self::Caller;
        }
        if samples.count > 0 && 2 * samples.unsent > samples.count {
            return Self::Socket;
        }
        let queued = round_trip.is_some_and(|round_trip| median > round_trip.mul_f64(QUEUED_ROUND_TRIPS));
        if queued { Self::Broker } else { Self::Permits }
    }
}

/// Measures the round trip of a request to one of the brokers while nothing else is in flight: the fastest of
/// several.
pub(super) async fn round_trip(producer: &Producer, brokers: &[BrokerAddr]) -> Option<Duration> {
    let inspector = producer.inspector().with_timeout(Duration::from_secs(1));
    let mut fastest = None::<Duration>;
    for broker in brokers {
        for _ in 0..5 {
            let round_trip = inspector.version(broker).await.ok()?.round_trip;
            fastest = Some(fastest.map_or(round_trip, |fastest| fastest.min(round_trip)));
        }
    }
    fastest
}

/// Returns whether the system holds bytes that one of these ports has not acknowledged or taken. Linux only:
/// false elsewhere.
pub(super) fn has_unsent_bytes(ports: &BTreeSet<u16>) -> bool {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let tables = tables.map(|path| fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines().skip(1)).any(|line| is_unsent(line, ports))
}

/// Reads a line of the system's table of connections: `sl local remote state tx_queue:rx_queue …`.
fn is_unsent(line: &str, ports: &BTreeSet<u16>) -> bool {
    let mut columns = line.split_whitespace().skip(2);
    let (Some(remote), Some("01"), Some(queues)) = (columns.next(), columns.next(), columns.next()) else {
        return false;
    };
    let port = remote.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
    let unsent = queues.split(':').next().and_then(|unsent| u64::from_str_radix(unsent, 16).ok());
    port.is_some_and(|port| ports.contains(&port)) && unsent.is_some_and(|unsent| unsent > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_apart() {
        let micros = Duration::from_micros;
        let observed = Observed {
            asked: None,
            reached: 1000.0,
            cpu: 0.3,
            samples: Samples { count: 10, unsent: 1 },
            median: micros(100),
            round_trip: Some(micros(80)),
        };
        let find = |change: &dyn Fn(&mut Observed)| {
            let mut observed = observed;
            change(&mut observed);
            let limit = LimitedBy::find(&observed);
            assert!(!limit.explain(&observed).is_empty());
            limit
        };
        assert_eq!(find(&|_| {}), LimitedBy::Permits);
        assert_eq!(find(&|observed| observed.median = micros(800)), LimitedBy::Broker);
        assert_eq!(find(&|observed| observed.samples.unsent = 6), LimitedBy::Socket);
        assert_eq!(find(&|observed| observed.cpu = 0.95), LimitedBy::Caller);
        assert_eq!(find(&|observed| observed.asked = Some(1001.0)), LimitedBy::Rate);
        assert_eq!(find(&|observed| observed.asked = Some(2000.0)), LimitedBy::Permits);
    }

    #[test]
    fn unsent_bytes_are_those_of_connections_to_the_ports() {
        let ports = BTreeSet::from([8123]);
        let line = |remote: &str, state: &str, queues: &str| {
            is_unsent(&format!("  1: 0100007F:A2C4 0100007F:{remote} {state} {queues} 01:0 0"), &ports)
        };
        assert!(line("1FBB", "01", "00000010:00000000"));
        assert!(!line("1FBB", "01", "00000000:00000010"));
        assert!(!line("1FBC", "01", "00000010:00000000"));
        assert!(!line("1FBB", "06", "00000010:00000000"));
        assert!(!is_unsent("", &ports));
    }
}

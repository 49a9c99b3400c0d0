//! The payload of a numbered message: text that begins with the run, the number and a checksum.
//!
//! ```text
//! MQV1 00f3a9c1d2e4b5a6 17 5d2c81aa rstuvwxyzabcdef…
//! ```

use metaq_protocol::Checksum;

/// The first word.
const MAGIC: &str = "MQV1";

/// The shortest payload, which the largest number fits into.
pub(super) const MIN_SIZE: usize = 64;

/// The word in place of a number of the message that ends a partition's part of a run.
const FENCE: &str = "fence";

/// The names of a run in its messages: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunId(pub(super) u64);

/// What a payload says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbered {
    /// It belongs to another run, or to no run.
    Other,
    Fence,
    /// The message with this number, whole.
    Whole(u64),
    /// A message of this run whose bytes have changed. The number is there if it can be read.
    Damaged(Option<u64>),
}

/// Makes the payload of a number. It is `size` bytes long, or [`MIN_SIZE`] if that is more.
pub(super) fn encode(run: RunId, number: u64, size: usize) -> Vec<u8> {
    let mut payload = head(run, &number.to_string(), &filler(number, size)).into_bytes();
    let missing = size.max(MIN_SIZE).saturating_sub(payload.len());
    let filler = filler(number, missing);
    payload.clear();
    payload.extend_from_slice(head(run, &number.to_string(), &filler).as_bytes());
    payload.extend_from_slice(&filler);
    payload
}

/// Makes the payload of the message that ends a partition's part of a run.
pub(super) fn encode_fence(run: RunId) -> Vec<u8> {
    head(run, FENCE, &[]).into_bytes()
}

/// Reads a payload.
pub(super) fn decode(run: RunId, payload: &[u8]) -> Numbered {
    let mut words = payload.splitn(5, |byte| *byte == b' ');
    let mut word = || words.next().and_then(|word| str::from_utf8(word).ok());
    let (Some(MAGIC), Some(of_run)) = (word(), word()) else { return Numbered::Other };
    if u64::from_str_radix(of_run, 16) != Ok(run.0) {
        return Numbered::Other;
    }
    let (number, checksum) = (word(), word().and_then(|word| u32::from_str_radix(word, 16).ok()));
    let filler = words.next().unwrap_or_default();
    let Some(number) = number else { return Numbered::Damaged(None) };
    let is_whole = checksum == Some(checksum_of(run, number, filler));
    match (number, number.parse()) {
        (FENCE, _) if is_whole => Numbered::Fence,
        (_, Ok(number)) if is_whole => Numbered::Whole(number),
        (_, number) => Numbered::Damaged(number.ok()),
    }
}

fn head(run: RunId, number: &str, filler: &[u8]) -> String {
    format!("{MAGIC} {:016x} {number} {:08x} ", run.0, checksum_of(run, number, filler))
}

fn checksum_of(run: RunId, number: &str, filler: &[u8]) -> u32 {
    Checksum::of_parts([&run.0.to_be_bytes(), number.as_bytes(), filler]).0 as u32
}

/// Letters that differ from number to number.
fn filler(number: u64, length: usize) -> Vec<u8> {
    let first = (number % 26) as usize;
    (first..first + length).map(|at| b'a' + (at % 26) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: RunId = RunId(0x1f);

    #[test]
    fn payloads_have_their_size_and_come_back() {
        for number in [0, 1, 25, 26, 4711, u64::MAX] {
            for size in [0, MIN_SIZE, 65, 1000] {
                let payload = encode(RUN, number, size);
                assert_eq!(payload.len(), size.max(MIN_SIZE));
                assert_eq!(decode(RUN, &payload), Numbered::Whole(number));
                assert_eq!(decode(RunId(2), &payload), Numbered::Other);
            }
        }
        assert_eq!(decode(RUN, &encode_fence(RUN)), Numbered::Fence);
        for other in [&b""[..], b"MQV1", b"an order", b"MQV1 zz 1 2 3", b"\xff\xff \xff"] {
            assert_eq!(decode(RUN, other), Numbered::Other);
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let payload = encode(RUN, 4711, 80);
        for at in 0..payload.len() {
            for bit in 0..8 {
                let mut changed = payload.clone();
                changed[at] ^= 1 << bit;
                let decoded = decode(RUN, &changed);
                // Upper and lower case digits are the same number.
                let is_same =
                    decoded == Numbered::Whole(4711) && changed.eq_ignore_ascii_case(&payload) && at < 40;
                assert!(matches!(decoded, Numbered::Other | Numbered::Damaged(_)) || is_same, "{at} {bit}");
            }
        }
        assert_eq!(decode(RUN, &payload[..79]), Numbered::Damaged(Some(4711)));
    }
}

//! The headers of requests, parsed only as far as a broker that stores nothing needs.

/// The header of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// `put`, whose data of `length` bytes follows the line.
    Put { partition: i32, length: usize, opaque: i32 },
    /// `stats`; the item is empty when none was asked for.
    Stats { item: &'a [u8], opaque: i32 },
    /// `version`.
    Version { opaque: i32 },
    /// A command that this broker doesn't support.
    Other { opaque: i32 },
    /// `quit`.
    Quit,
}

impl<'a> Request<'a> {
    /// Parses a header line without its line end. Returns `None` if it is malformed, or has a body of unknown
    /// length.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        if let Some(rest) = line.strip_prefix(b"put ") {
            return put(rest);
        }
        let (verb, rest) = word(line);
        match verb {
            b"version" => Some(Self::Version { opaque: number(rest)? }),
            b"stats" => {
                let (item, opaque) = word(rest);
                Some(Self::Stats { item, opaque: number(opaque)? })
            }
            b"quit" => Some(Self::Quit),
            b"get" | b"offset" | b"transaction" => Some(Self::Other { opaque: number(last_word(rest))? }),
            _ => None,
        }
    }
}

/// `topic partition length flag checksum [transaction] opaque` (protocol §3.1).
#[inline]
fn put(rest: &[u8]) -> Option<Request<'static>> {
    let (_topic, rest) = word(rest);
    let (partition, rest) = word(rest);
    let (length, rest) = word(rest);
    let (_flag, rest) = word(rest);
    let (_checksum, rest) = word(rest);
    Some(Request::Put {
        partition: number(partition)?,
        length: usize::try_from(number(length)?).ok()?,
        opaque: number(last_word(rest))?,
    })
}

/// Returns the first word, and the text after the space that follows it.
#[inline]
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|&byte| byte == b' ') {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, &[]),
    }
}

#[inline]
fn last_word(text: &[u8]) -> &[u8] {
    text.iter().rposition(|&byte| byte == b' ').map_or(text, |space| &text[space + 1..])
}

#[inline]
pub(crate) fn number(word: &[u8]) -> Option<i32> {
    let (negative, digits) = match word {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 10 {
        return None;
    }
    let mut value = 0_i64;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i64::from(digit);
    }
    i32::try_from(if negative { -value } else { value }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_clients_write() {
        let put = |partition, length, opaque| Some(Request::Put { partition, length, opaque });
        assert_eq!(Request::parse(b"put t 3 128 0 607740173 -2147483643"), put(3, 128, i32::MIN + 5));
        assert_eq!(Request::parse(b"put t -1 0 1 -1 TX:s:1 7"), put(-1, 0, 7));
        assert_eq!(Request::parse(b"version 60"), Some(Request::Version { opaque: 60 }));
        assert_eq!(Request::parse(b"stats  70"), Some(Request::Stats { item: b"", opaque: 70 }));
        assert_eq!(Request::parse(b"stats config 7"), Some(Request::Stats { item: b"config", opaque: 7 }));
        assert_eq!(Request::parse(b"get t g 0 0 100 9"), Some(Request::Other { opaque: 9 }));
        assert_eq!(Request::parse(b"quit"), Some(Request::Quit));
    }

    #[test]
    fn refuses_what_is_no_request() {
        for line in [
            &b""[..],
            b"put",
            b"put t",
            b"put t 0 -1 0 0 1",
            b"put t 0 2147483648 0 0 1",
            b"put t 0 1 0 0 x",
            b"put t x 1 0 0 1",
            b"version",
            b"sync t 0 5 0 1 1",
            b"result 200 0 1",
        ] {
            assert_eq!(Request::parse(line), None, "{}", String::from_utf8_lossy(line));
        }
    }
}

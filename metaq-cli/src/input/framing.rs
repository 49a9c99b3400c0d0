//! How the bytes of the input are divided into messages.

use std::str::FromStr;

use memchr::memmem;

/// How the bytes of the input are divided into messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Each message ends with this text, or with its file.
    Delimited {
        delimiter: Delimiter,
        /// A carriage return at the end of a message is removed.
        strips_cr: bool,
    },
    /// Each message follows its length, four bytes with the highest first.
    LengthPrefixed,
    /// Each file is a message.
    WholeFile,
}

impl Default for Framing {
    fn default() -> Self {
        Self::Delimited { delimiter: Delimiter::default(), strips_cr: false }
    }
}

impl Framing {
    /// Appends a message to `text` in the form in which it is read. Returns false, and appends nothing, if it
    /// would be read as another message: the last one of a file may end with the beginning of the delimiter.
    #[must_use]
    pub(crate) fn write(&self, message: &[u8], text: &mut Vec<u8>) -> bool {
        match self {
            Self::Delimited { delimiter: Delimiter(delimiter), strips_cr } => {
                let start = text.len();
                text.extend_from_slice(message);
                if *strips_cr && message.ends_with(b"\r") {
                    // Of two, one is left.
                    text.push(b'\r');
                }
                let end = text.len() - start;
                text.extend_from_slice(delimiter);
                if memmem::find(&text[start..], delimiter) != Some(end) {
                    text.truncate(start);
                    return false;
                }
            }
            Self::LengthPrefixed => {
                // No message is longer than `MAX_LINE`.
                text.extend_from_slice(&(message.len() as u32).to_be_bytes());
                text.extend_from_slice(message);
            }
            Self::WholeFile => text.extend_from_slice(message),
        }
        true
    }
}

/// The text that ends a message; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delimiter(Vec<u8>);

impl Default for Delimiter {
    fn default() -> Self {
        Self(b"\n".to_vec())
    }
}

impl Delimiter {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Delimiter {
    type Err = String;

    /// Takes the text as it is, except `\n`, `\r`, `\t`, `\0`, `\\` and `\xHH`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            if c != '\\' {
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            bytes.push(match rest.next() {
                Some('n') => b'\n',
                Some('r') => b'\r',
                Some('t') => b'\t',
                Some('0') => 0,
                Some('\\') => b'\\',
                Some('x') => {
                    let digits: String = rest.by_ref().take(2).collect();
                    let byte = (digits.len() == 2).then(|| u8::from_str_radix(&digits, 16).ok()).flatten();
                    byte.ok_or_else(|| format!("\\x{digits} is not \\x and two hexadecimal digits"))?
                }
                _ => return Err("a \\ is followed by one of n, r, t, 0, x and \\".to_owned()),
            });
        }
        if bytes.is_empty() {
            return Err(
                "it is empty, which ends no message; use --file-per-message for whole files".to_owned()
            );
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_only_as_it_is_read() {
        let written = |delimiter: &str, strips_cr, message: &[u8]| {
            let framing = Framing::Delimited { delimiter: delimiter.parse().unwrap(), strips_cr };
            let mut text = b"before".to_vec();
            let is_written = framing.write(message, &mut text);
            assert_eq!(is_written, text.len() > 6);
            is_written.then(|| text.split_off(6))
        };
        assert_eq!(written("\\n", false, b"a\r").unwrap(), b"a\r\n");
        assert_eq!(written("\\n", true, b"a\r").unwrap(), b"a\r\r\n", "one is stripped");
        assert_eq!(written("\\n", true, b"").unwrap(), b"\n");
        assert_eq!(written("\\n\\n", false, b"a\nb").unwrap(), b"a\nb\n\n");
        assert_eq!(written("\\n\\n", false, b"a\n"), None);
        assert_eq!(written("aab", false, b"xa").unwrap(), b"xaaab");
        assert_eq!(written("abab", false, b"xab"), None);
    }

    #[test]
    fn delimiters_have_escapes() {
        for (text, bytes) in [
            ("\\n", &b"\n"[..]),
            ("\\r\\n", b"\r\n"),
            ("\\0", b"\0"),
            ("\\x1eEND\\\\", b"\x1eEND\\"),
            ("é", "é".as_bytes()),
        ] {
            assert_eq!(text.parse::<Delimiter>().unwrap().bytes(), bytes, "{text}");
        }
        for text in ["", "\\", "\\q", "\\x1", "\\xzz"] {
            assert!(text.parse::<Delimiter>().is_err(), "{text}");
        }
    }
}

//! The commands of `metaq proxy`.

use std::{str::FromStr, time::Duration};

use metaq_testkit::proxy::Direction;

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    Forward,
    Delay(Duration, Directions),
    /// In bytes each second.
    Bandwidth(u64, Directions),
    Freeze(Directions),
    Swallow(Directions),
    /// Closes each connection after this number of bytes.
    Cut(u64, Directions),
    Duplicate {
        at: u64,
        bytes: usize,
        directions: Directions,
    },
    Close,
    Reset,
    Strand,
    Refuse,
    Ignore,
    Accept,
    Status,
    Quit,
}

/// One direction, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Directions(Option<Direction>);

impl Directions {
    pub(super) const BOTH: Self = Self(None);

    pub(super) fn all(self) -> impl Iterator<Item = Direction> {
        let both = [Direction::ToServer, Direction::ToClient];
        both.into_iter().filter(move |direction| self.0.is_none_or(|only| only == *direction))
    }
}

const COMMANDS: &str = "forward, delay, bandwidth, freeze, swallow, cut, duplicate, close, reset, strand, refuse, ignore, \
                        accept, status, quit";

impl FromStr for Control {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let command = words.next().unwrap_or_default();
        let mut words = words.peekable();
        let mut number = |what: &str| {
            let word = words.next().ok_or_else(|| format!("{command} needs {what}"))?;
            word.parse::<u64>().map_err(|_| format!("{word} is not {what}"))
        };
        let parsed = match command {
            "forward" => Self::Forward,
            "delay" => {
                let time = words.next().ok_or("delay needs a time, such as 50ms")?;
                let time = humantime::parse_duration(time)
                    .map_err(|_| format!("{time} is not a time, such as 50ms"))?;
                Self::Delay(time, directions(words.next())?)
            }
            "bandwidth" => {
                let bytes = number("a number of bytes each second")?;
                if bytes == 0 {
                    return Err("a bandwidth of zero forwards nothing; use freeze".to_owned());
                }
                Self::Bandwidth(bytes, directions(words.next())?)
            }
            "freeze" => Self::Freeze(directions(words.next())?),
            "swallow" => Self::Swallow(directions(words.next())?),
            "cut" => Self::Cut(number("a number of bytes")?, directions(words.next())?),
            "duplicate" => {
                let at = number("a position in bytes")?;
                let bytes = number("a number of bytes")?;
                let bytes =
                    usize::try_from(bytes).map_err(|_| format!("{bytes} is not a number of bytes"))?;
                Self::Duplicate { at, bytes, directions: directions(words.next())? }
            }
            "close" => Self::Close,
            "reset" => Self::Reset,
            "strand" => Self::Strand,
            "refuse" => Self::Refuse,
            "ignore" => Self::Ignore,
            "accept" => Self::Accept,
            "status" => Self::Status,
            "quit" => Self::Quit,
            _ => return Err(format!("there is no command {command}; there are {COMMANDS}")),
        };
        match words.next() {
            None => Ok(parsed),
            Some(more) => Err(format!("{more} is too much for {command}")),
        }
    }
}

fn directions(word: Option<&str>) -> Result<Directions, String> {
    match word {
        None => Ok(Directions::BOTH),
        Some("to-server") => Ok(Directions(Some(Direction::ToServer))),
        Some("to-client") => Ok(Directions(Some(Direction::ToClient))),
        Some(word) => Err(format!("{word} is not to-server or to-client")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_parsed_and_mistakes_explained() {
        let client = Directions(Some(Direction::ToClient));
        for (text, expected) in [
            ("forward", Control::Forward),
            (" delay  50ms ", Control::Delay(Duration::from_millis(50), Directions::BOTH)),
            ("delay 1s to-client", Control::Delay(Duration::from_secs(1), client)),
            ("bandwidth 1000 to-client", Control::Bandwidth(1000, client)),
            ("swallow to-client", Control::Swallow(client)),
            ("cut 17", Control::Cut(17, Directions::BOTH)),
            ("duplicate 10 5", Control::Duplicate { at: 10, bytes: 5, directions: Directions::BOTH }),
            ("quit", Control::Quit),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for (text, said) in [
            ("stop", "there is no command stop; there are forward, "),
            ("delay", "delay needs a time"),
            ("delay soon", "soon is not a time"),
            ("bandwidth 0", "use freeze"),
            ("bandwidth much", "much is not a number of bytes each second"),
            ("freeze left", "left is not to-server or to-client"),
            ("cut", "cut needs a number of bytes"),
            ("duplicate 5", "duplicate needs a number of bytes"),
            ("reset all", "all is too much for reset"),
        ] {
            let error = text.parse::<Control>().unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        assert_eq!(Directions::BOTH.all().count(), 2);
    }
}

//! The parts of an address in text form.

use super::{Kind, is_ipv6};

/// `scheme://user@host:port/path?query#fragment`
pub(super) struct Parts<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    /// Without brackets.
    pub(super) host: &'a str,
    pub(super) port: u16,
    /// With its leading slash, or empty.
    path: &'a str,
    pub(super) query: Option<&'a str>,
    fragment: Option<&'a str>,
}

impl<'a> Parts<'a> {
    pub(super) fn split(text: &'a str) -> Result<Self, Kind> {
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(Kind::WhiteSpace);
        }
        let (scheme, rest) = text.split_once("://").ok_or(Kind::Scheme)?;
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Kind::Scheme);
        }
        let (rest, fragment) = cut(rest, '#');
        let (rest, query) = cut(rest, '?');
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let (host, port) = host_and_port(place)?;
        if host.is_empty() {
            return Err(Kind::HostMissing);
        }
        let port = port.filter(|port| !port.is_empty()).ok_or(Kind::PortMissing)?;
        Ok(Self { scheme, user, host, port: number(port)?, path, query, fragment })
    }

    /// Refuses the parts that an address doesn't use.
    pub(super) fn check_no_more(&self) -> Result<(), Kind> {
        match self {
            Self { scheme, .. } if !scheme.eq_ignore_ascii_case("meta") => Err(Kind::Scheme),
            Self { user: Some(_), .. } => Err(Kind::User),
            Self { path, .. } if !path.is_empty() => Err(Kind::Path),
            Self { query: Some(_), .. } => Err(Kind::Query),
            Self { fragment: Some(_), .. } => Err(Kind::Fragment),
            _ => Ok(()),
        }
    }
}

/// Splits at the first `mark`, if there is one.
fn cut(text: &str, mark: char) -> (&str, Option<&str>) {
    match text.split_once(mark) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

fn host_and_port(place: &str) -> Result<(&str, Option<&str>), Kind> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(Kind::BracketOpen)?;
        if !host.is_empty() && !is_ipv6(cut(host, '%').0) {
            return Err(Kind::BracketsWithoutIpv6);
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(Kind::AfterBracket),
        };
    }
    match place.rsplit_once(':') {
        // Its last group would be taken for the port.
        Some((host, _)) if is_ipv6(place) || is_ipv6(host) => Err(Kind::Ipv6WithoutBrackets),
        Some((host, _)) if host.contains(':') => Err(Kind::Host),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((place, None)),
    }
}

fn number(port: &str) -> Result<u16, Kind> {
    let digits = port.strip_prefix('-').unwrap_or(port);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Kind::PortNotANumber);
    }
    port.parse().map_err(|_| Kind::PortOutOfRange)
}

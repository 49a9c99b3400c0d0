//! The number that links a response to its request.

use core::fmt;

/// The last word of a request, which its response repeats.
///
/// Any value may be used, including negative ones. It is the only link between request and response, because
/// responses may arrive in any order.
///
/// ```text
/// >> version 60\r\n
/// << result 200 3 60\r\n0.1
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a plain number with a name")]
pub struct Opaque(pub i32);

impl Opaque {
    /// The value of a request without an opaque: `quit`, a bare `version` or a bare `stats`.
    pub const NONE: Self = Self(i32::MAX);
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

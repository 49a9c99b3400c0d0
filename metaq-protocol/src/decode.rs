//! Decoding of frames from bytes, without I/O.

mod decoder;
mod error;
mod header;
mod in_place;
mod limits;
mod line;
mod response_head;

pub use decoder::{Decoder, RawFrame};
pub use error::{DecodeError, DecodeErrorKind};
pub use in_place::{ResponseKind, ResponseRef};
pub use limits::Limits;

//! The error of a failed call, in words.

use std::{error, fmt};

use etcd_client::Error;

/// The error of a call to etcd. The text of a gRPC status is its message and the cause of that, without the
/// debug text that the client library adds.
#[derive(Debug)]
pub(super) struct CallError(pub(super) Error);

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error::GRpcStatus(status) = &self.0 else { return self.0.fmt(f) };
        match status.message() {
            "" => status.code().fmt(f)?,
            message => f.write_str(message)?,
        }
        match root_cause(status) {
            Some(cause) if !status.message().contains(&cause) => write!(f, ": {cause}"),
            _ => Ok(()),
        }
    }
}

impl error::Error for CallError {}

/// Returns the text of the innermost source, if there is any.
fn root_cause(error: &dyn error::Error) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Some(cause.to_string())
}

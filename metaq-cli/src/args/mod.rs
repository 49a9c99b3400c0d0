//! Values of command-line options that more than one subcommand takes. Each type parses its own text.

mod connection;
mod selector;
mod timeout;

pub(crate) use self::{
    connection::ConnectionArgs,
    selector::SelectorName,
    timeout::{LONGEST, TransactionTimeout, parse_time, parse_timeout, timeout_text},
};

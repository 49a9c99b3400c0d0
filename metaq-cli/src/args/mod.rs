//! Values of command-line options that more than one subcommand takes. Each type parses its own text.

mod connection;
mod timeout;

pub(crate) use self::{
    connection::ConnectionArgs,
    timeout::{TransactionTimeout, parse_timeout},
};

//! Values of command-line options that more than one subcommand takes. Each type parses its own text.

mod cluster;
mod timeout;

pub(crate) use self::{
    cluster::Cluster,
    timeout::{TransactionTimeout, parse_timeout},
};

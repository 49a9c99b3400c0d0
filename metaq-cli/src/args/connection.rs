//! The options of every command that connects to a cluster.

use std::path::PathBuf;

use crate::{
    exit_status::EXIT_USAGE,
    settings::{Flag, Settings, Sources},
    stderr::print_message,
};

/// The heading of these options in the help. Each names it, so that those that follow are not below it.
const HEADING: &str = "Connection";

/// The options that name the cluster, say how it is connected to, and where further settings are.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ConnectionArgs {
    /// The source of broker addresses: zk://HOST:PORT,HOST:PORT[/ROOT] or, in builds with the feature etcd,
    /// etcd://HOST:PORT,HOST:PORT[/ROOT] for a registry (ROOT is /meta by default), meta://HOST:PORT for one
    /// broker without a registry, or file:PATH for a TOML or JSON file of brokers. Required, here, as
    /// METAQ_CLUSTER or in a file of settings
    #[arg(short = 'b', long, value_name = "CLUSTER", help_heading = HEADING)]
    cluster: Option<String>,
    /// Connects to the registry by TLS, and trusts the certificate authorities in this PEM file
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    tls_ca: Option<String>,
    /// The client's certificate for TLS to the registry, as PEM
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    tls_cert: Option<String>,
    /// The private key of that certificate, as PEM
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    tls_key: Option<String>,
    /// Connects to brokers by TLS, and trusts the certificate authorities in this PEM file. Brokers don't
    /// speak TLS themselves: each needs a proxy in front of it
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    broker_tls_ca: Option<String>,
    /// The client's certificate for TLS to brokers, as PEM
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    broker_tls_cert: Option<String>,
    /// The private key of that certificate, as PEM
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    broker_tls_key: Option<String>,
    /// The name that the certificates of brokers are for. The host of each broker's address by default
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    broker_tls_name: Option<String>,
    /// The credentials for ZooKeeper, digest:file:PATH or digest:env:VARIABLE, which hold USER:PASSWORD
    #[arg(long, value_name = "SCHEME:PLACE", help_heading = HEADING)]
    zk_auth: Option<String>,
    /// The credentials for etcd, file:PATH or env:VARIABLE, which hold USER:PASSWORD
    #[arg(long, value_name = "PLACE", help_heading = HEADING)]
    etcd_auth: Option<String>,
    /// Sets a producer's option, such as retry.max_attempts=3; may be repeated
    #[arg(short = 'X', long = "set", value_name = "NAME=VALUE", help_heading = HEADING)]
    set: Vec<String>,
    /// The file of settings, TOML. Without it $METAQ_CONFIG, or ~/.config/metaq/config.toml if that exists
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    config: Option<PathBuf>,
    /// The profile of the file of settings, a table [profiles.NAME]; else $METAQ_PROFILE, or the file's
    /// profile
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    profile: Option<String>,
}

impl ConnectionArgs {
    /// Collects the settings from these options, from `flags` of the command, the environment and the file.
    /// When they can't be used, prints the reason, and fails with the exit status.
    pub(crate) fn settings(&self, flags: &[Flag<'_>]) -> Result<Settings, u8> {
        let own = [
            Flag::new("cluster", "--cluster", self.cluster.as_deref()),
            Flag::new("tls.ca", "--tls-ca", self.tls_ca.as_deref()),
            Flag::new("tls.cert", "--tls-cert", self.tls_cert.as_deref()),
            Flag::new("tls.key", "--tls-key", self.tls_key.as_deref()),
            Flag::new("broker_tls.ca", "--broker-tls-ca", self.broker_tls_ca.as_deref()),
            Flag::new("broker_tls.cert", "--broker-tls-cert", self.broker_tls_cert.as_deref()),
            Flag::new("broker_tls.key", "--broker-tls-key", self.broker_tls_key.as_deref()),
            Flag::new("broker_tls.name", "--broker-tls-name", self.broker_tls_name.as_deref()),
            Flag::new("zk_auth", "--zk-auth", self.zk_auth.as_deref()),
            Flag::new("etcd_auth", "--etcd-auth", self.etcd_auth.as_deref()),
        ];
        let sources = Sources {
            flags: own.iter().chain(flags),
            set: &self.set,
            file: self.config.as_deref(),
            profile: self.profile.as_deref(),
        };
        Settings::collect(sources).map_err(|text| {
            print_message(&text);
            EXIT_USAGE
        })
    }
}

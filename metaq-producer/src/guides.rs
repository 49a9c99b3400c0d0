//! The guides: what the producer promises, how to configure, run and test it, and what it speaks.
//!
//! | guide | for |
//! |---|---|
//! | [`delivery`] | outcomes, order, duplicates, retries, timeouts, closing |
//! | [`configuration`] | all options, from a program, a file or the environment |
//! | [`transactions`] | what brokers keep of local and XA transactions, and recovery |
//! | [`operations`] | probes, alerts, log lines, tuning, a failover drill |
//! | [`migration`] | users of the Java client: the same tasks side by side |
//! | [`compatibility`] | the behaviour of both clients, rule by rule |
//! | [`embedded_broker`] | tests with `metaq_testkit::Broker` |
//! | [`cli`] | the command `metaq` |
//! | [`cli_json`] | the fields of its JSON |
//! | [`reliability`] | faults, promises, and measured figures |
//! | [`performance`] | how the send path is made fast, and how it is measured |
//! | [`protocol`] | the wire protocol |
//! | [`registry`] | what brokers and clients keep in ZooKeeper |
//! | [`java_client`] | the behaviour of the Java client and its defects |
//!
//! # In the repository
//!
//! The guides name files that are not part of this crate. They are in its repository: the examples
//! `transactions`, `xa_sqlite`, `health_endpoint`, `metrics_and_tracing` and `trace_context` in the folder
//! `examples`, the results of the benchmarks in `bench/results/latest.md`, `ARCHITECTURE.md` and
//! `CONTRIBUTING.md`.

/// A module whose documentation is a guide.
macro_rules! guide {
    ($name:ident, $file:literal, $about:literal) => {
        #[doc = $about]
        #[doc = ""]
        // The first definition of a link counts, so those of the file are replaced.
        #[doc = include_str!("guide_links.md")]
        #[doc = ""]
        #[doc = include_str!(concat!("../guides/", $file, ".md"))]
        pub mod $name {}
    };
}

guide!(cli, "cli", "The command `metaq`.");
guide!(cli_json, "cli-json", "The JSON that `metaq` prints.");
guide!(compatibility, "compatibility", "What the Java client does, rule by rule, and what metaq does.");
guide!(configuration, "configuration", "Every option of a producer.");
guide!(delivery, "delivery", "What becomes of a message.");
guide!(embedded_broker, "embedded-broker", "The embedded broker of `metaq_testkit`.");
guide!(java_client, "java-client", "The behaviour of the Java client, by the rules that other guides cite.");
guide!(migration, "migration", "From the Java client to this one.");
guide!(operations, "operations", "Operating a program that has a producer in it.");
guide!(performance, "performance", "How the send path is made fast, and figures.");
guide!(protocol, "protocol", "The wire protocol of MetaQ 1.4.");
guide!(registry, "registry", "What brokers and clients keep in ZooKeeper.");
guide!(reliability, "reliability", "Faults, what is promised then, and what was measured.");
guide!(transactions, "transactions", "What brokers keep of transactions, and what they forget.");

/// The examples of the repository's README, which are tested here.
#[cfg(doctest)]
#[doc = include_str!("../guides/repository.md")]
mod repository {}

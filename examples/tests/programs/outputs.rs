//! The examples print what `examples/README.md` says.

use std::process::Command;

use crate::program::{Program, assert_prints_as_documented};

/// Tests of examples that end by themselves.
macro_rules! printing_as_documented {
    ($($(#[$attribute:meta])* $name:ident)*) => {
        $(
            $(#[$attribute])*
            #[tokio::test]
            async fn $name() {
                assert_prints_as_documented(stringify!($name), &[]).await;
            }
        )*
    };
}

printing_as_documented! {
    quickstart
    #[cfg(feature = "file")]
    static_file
    custom_selector
    custom_discovery
    custom_transport
    pipelining
    transactions
    #[cfg(feature = "sqlite")]
    xa_sqlite
    #[cfg(feature = "metrics")]
    metrics_and_tracing
    #[cfg(feature = "log")]
    log_to_topic
    trace_context
    protocol_only
}

#[tokio::test]
async fn graceful_shutdown() {
    for signal in ["-TERM", "-INT"] {
        let mut program = Program::start("graceful_shutdown", &[]);
        program.line_that_begins("100 messages").await;
        let kill = Command::new("kill").arg(signal).arg(program.id().to_string()).status().unwrap();
        assert!(kill.success());
        assert!(program.finish().await, "{}", program.output);
        program.assert_as_documented();
    }
}

#[cfg(feature = "http")]
#[tokio::test]
async fn health_endpoint() {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    let mut program = Program::start("health_endpoint", &["127.0.0.1:0"]);
    let line = program.line_that_begins("answering").await;
    let (_, address) = line.rsplit_once("http://").unwrap();
    for path in ["/live", "/ready", "/health", "/other"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(&mut String::new()).await.unwrap();
        program.line_that_begins("GET").await;
    }
    program.assert_as_documented();
}

/// The README of the repository shows one run of the quickstart.
#[test]
fn quickstart_in_the_readme_of_the_repository() {
    let readme = include_str!("../../../README.md");
    let section = crate::document::section("quickstart");
    assert!(readme.contains(&format!("\n```sh\n{}\n```\n", section.command)), "the command differs");
    let (_, rest) = readme.split_once("```\n\n```text\n").unwrap();
    let (shown, _) = rest.split_once("```\n").unwrap();
    crate::pattern::Pattern::new(section.output).compare(shown).unwrap();
}

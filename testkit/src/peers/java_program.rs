//! Java programs of a test's own.

use std::time::Duration;

use tempfile::TempDir;

use super::{PeerError, Peers, process::PeerProcess};

/// A Java program that has the jars of MetaQ, client and broker, on its class path. Made by [`Peers::java_program`].
#[derive(Clone, Debug)]
pub struct JavaProgram {
    main: String,
    class_path: String,
}

impl Peers {
    /// Compiles a program of one file, whose main class is `main`, unless that was done before. Blocks.
    ///
    /// # Errors
    /// When it can't be compiled.
    pub fn java_program(&self, main: &str, source: &str) -> Result<JavaProgram, PeerError> {
        let class_path = self.compile(main, source)?;
        Ok(JavaProgram { main: main.to_owned(), class_path })
    }
}

impl JavaProgram {
    /// Runs it with these arguments until it ends. What it prints goes to a log, whose end the error shows.
    ///
    /// # Errors
    /// When it ends with another status than 0, or not in time.
    ///
    /// # Cancel safety
    /// The program is killed when the future is dropped.
    pub async fn run(&self, args: &[&str], patience: Duration) -> Result<(), PeerError> {
        let mut folder =
            TempDir::with_prefix("metaq-java-").map_err(PeerError::io("make a temporary folder"))?;
        let mut all = Peers::jvm_options(folder.path())?;
        all.extend(["-Xmx256m", "-cp", &self.class_path, &self.main].map(str::to_owned));
        all.extend(args.iter().map(|&arg| arg.to_owned()));
        let log = folder.path().join("program.log");
        let what = format!("the Java program {} {}", self.main, args.join(" "));
        let mut process = PeerProcess::start(&what, "java", &all, folder.path(), &log)?;
        let result = process.succeed(patience).await;
        if result.is_err() {
            folder.disable_cleanup(true);
        }
        result
    }
}

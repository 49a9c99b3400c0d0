//! A test's own Java programs.

use std::{path::Path, time::Duration};

use tempfile::TempDir;

use super::{PeerError, Peers, artifacts::fast_start, process::PeerProcess};

/// A Java program that has the jars of MetaQ, client and broker, on its class path. Made by
/// [`Peers::java_program`].
#[derive(Clone, Debug)]
pub struct JavaProgram {
    main: String,
    class_path: String,
}

impl Peers {
    /// Compiles a program of one file, whose main class is `main`, unless it was compiled before. Blocks.
    ///
    /// # Errors
    /// When it can't be compiled.
    pub fn java_program(&self, main: &str, source: &str) -> Result<JavaProgram, PeerError> {
        let class_path = self.compile(main, source)?;
        Ok(JavaProgram { main: main.to_owned(), class_path })
    }
}

impl JavaProgram {
    /// Returns the arguments with which `java` runs it in the folder `home`, where this writes the
    /// configuration of the client's log; the client logs to the standard output. The JVM has its default
    /// settings. Options may precede these arguments, the program's own arguments may follow.
    ///
    /// # Errors
    /// When the configuration can't be written.
    pub fn arguments(&self, home: &Path) -> Result<Vec<String>, PeerError> {
        let mut args = Peers::jvm_options(home)?;
        args.extend(["-cp", &self.class_path, &self.main].map(str::to_owned));
        Ok(args)
    }

    /// Runs it with these arguments until it ends. Its output goes to a log, whose end the error contains.
    ///
    /// # Errors
    /// When it ends with another status than 0, or not in time.
    ///
    /// # Cancel safety
    /// Dropping the future kills the program.
    pub async fn run(&self, args: &[&str], timeout: Duration) -> Result<(), PeerError> {
        let mut folder =
            TempDir::with_prefix("metaq-java-").map_err(PeerError::io("make a temporary folder"))?;
        let mut all = fast_start();
        all.push("-Xmx256m".to_owned());
        all.extend(self.arguments(folder.path())?);
        all.extend(args.iter().map(|&arg| arg.to_owned()));
        let log = folder.path().join("program.log");
        let what = format!("the Java program {} {}", self.main, args.join(" "));
        let mut process = PeerProcess::start(&what, "java", &all, folder.path(), &log)?;
        let result = process.succeed(timeout).await;
        if result.is_err() {
            folder.disable_cleanup(true);
        }
        result
    }
}

//! Fetching what the peers need, once.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

use super::{PeerError, target_folder};

const BROKER: &[(&str, &str, &str)] = &[
    ("com.taobao.metamorphosis", "metamorphosis-server", "1.4.6.2"),
    ("com.taobao.metamorphosis", "metamorphosis-client", "1.4.6.2"),
    ("com.taobao.metamorphosis", "metamorphosis-client-extension", "1.4.6.2"),
];

const ZOOKEEPER: &[(&str, &str, &str)] = &[
    ("org.apache.zookeeper", "zookeeper", "3.9.5"),
    ("io.dropwizard.metrics", "metrics-core", "4.2.33"),
    ("org.xerial.snappy", "snappy-java", "1.1.10.8"),
];

const READER: &str = include_str!("../../java/TopicReader.java");

/// What is needed to run real peers: the jars of ZooKeeper and of MetaQ, and a JDK.
#[derive(Clone, Debug)]
pub struct Peers {
    folder: PathBuf,
}

impl Peers {
    /// Fetches everything that isn't there yet into `target/peers`, by Maven. Several processes may do so at once.
    ///
    /// # Errors
    /// When the JDK or Maven is missing, or fetching fails.
    pub fn fetch() -> Result<Self, PeerError> {
        installed("java", "a JDK (java)", "openjdk-17-jdk-headless")?;
        installed("javac", "a JDK (javac)", "openjdk-17-jdk-headless")?;
        let folder = target_folder().join("peers");
        fs::create_dir_all(&folder).map_err(PeerError::io(format!("create {}", folder.display())))?;
        let lock_path = folder.join("lock");
        let locked = fs::File::create(&lock_path).and_then(|file| file.lock().map(|()| file));
        // Held until the end of this function: whoever comes second finds everything there.
        let _lock = locked.map_err(PeerError::io(format!("lock {}", lock_path.display())))?;
        let peers = Self { folder };
        peers.fetch_jars("zookeeper", ZOOKEEPER)?;
        peers.fetch_jars("broker", BROKER)?;
        peers.compile_reader()?;
        Ok(peers)
    }

    fn fetch_jars(&self, name: &str, artifacts: &[(&str, &str, &str)]) -> Result<(), PeerError> {
        let folder = self.folder.join(name);
        let pom = pom(artifacts);
        // Written last: it says that the folder holds exactly this.
        let done = folder.join("done.xml");
        if fs::read_to_string(&done).is_ok_and(|there| there == pom) {
            return Ok(());
        }
        installed("mvn", "Maven (mvn)", "maven")?;
        let fresh = || {
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("pom.xml"), &pom)
        };
        fresh().map_err(PeerError::io(format!("prepare {}", folder.display())))?;
        let mut maven = Command::new("mvn");
        maven
            .args(["-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"])
            .current_dir(&folder);
        run(&mut maven, &format!("fetching the jars for {name} with Maven"))?;
        fs::write(&done, &pom).map_err(PeerError::io(format!("write {}", done.display())))
    }

    fn compile_reader(&self) -> Result<(), PeerError> {
        let folder = self.folder.join("reader");
        let done = folder.join("done.java");
        if fs::read_to_string(&done).is_ok_and(|there| there == READER) {
            return Ok(());
        }
        let source = folder.join("TopicReader.java");
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&source, READER))
            .map_err(PeerError::io(format!("write {}", source.display())))?;
        let mut javac = Command::new("javac");
        javac.arg("-cp").arg(self.broker_class_path()).arg("-d").arg(&folder).arg(&source);
        run(&mut javac, "compiling the reader with javac")?;
        fs::write(&done, READER).map_err(PeerError::io(format!("write {}", done.display())))
    }

    pub(super) fn zookeeper_class_path(&self) -> String {
        all_jars(&self.folder.join("zookeeper/lib"))
    }

    pub(super) fn broker_class_path(&self) -> String {
        all_jars(&self.folder.join("broker/lib"))
    }

    pub(super) fn reader_class_path(&self) -> String {
        format!("{}:{}", self.folder.join("reader").display(), self.broker_class_path())
    }
}

fn all_jars(folder: &Path) -> String {
    folder.join("*").display().to_string()
}

/// Fails when there is no such program.
fn installed(program: &str, what: &'static str, package: &'static str) -> Result<(), PeerError> {
    match Command::new(program).arg("-version").output() {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(PeerError::Missing { what, package }),
        Err(error) => Err(PeerError::io(format!("run {program}"))(error)),
        Ok(_) => Ok(()),
    }
}

fn run(command: &mut Command, what: &str) -> Result<(), PeerError> {
    let output = command.output().map_err(PeerError::io(what))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(PeerError::Tool { what: what.to_owned(), output: String::from_utf8_lossy(&text).trim().to_owned() })
}

fn pom(artifacts: &[(&str, &str, &str)]) -> String {
    let dependency = |(group, artifact, version): &(&str, &str, &str)| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>\n"
        )
    };
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n<modelVersion>4.0.0</modelVersion>\n\
         <groupId>metaq</groupId><artifactId>peers</artifactId><version>1</version><packaging>pom</packaging>\n\
         <dependencies>\n{}</dependencies>\n</project>\n",
        artifacts.iter().map(dependency).collect::<String>()
    )
}

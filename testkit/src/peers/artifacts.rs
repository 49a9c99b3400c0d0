//! Fetching the artifacts of peers, once.

use std::{
    env,
    ffi::OsString,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::PeerError;

type Coordinates = (&'static str, &'static str, &'static str);

const BROKER: &[Coordinates] = &[
    ("com.taobao.metamorphosis", "metamorphosis-server", "1.4.6.2"),
    ("com.taobao.metamorphosis", "metamorphosis-client", "1.4.6.2"),
    ("com.taobao.metamorphosis", "metamorphosis-client-extension", "1.4.6.2"),
];

const ZOOKEEPER: &[Coordinates] = &[
    ("org.apache.zookeeper", "zookeeper", "3.9.5"),
    ("io.dropwizard.metrics", "metrics-core", "4.2.33"),
    ("org.xerial.snappy", "snappy-java", "1.1.10.8"),
    // Without it the log stays empty.
    ("org.slf4j", "slf4j-simple", "2.0.13"),
];

const READER: &str = include_str!("../../java/TopicReader.java");

/// For brokers and the reader, whose logs stay empty otherwise.
const LOGGING: &str = "\
log4j.rootLogger=INFO, out
log4j.logger.org.quartz=WARN
log4j.logger.org.apache.zookeeper.ZooKeeper=WARN
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %-5p [%t] %c{1} - %m%n
";

const JDK: &str = "openjdk-17-jdk-headless maven";

/// The artifacts that real peers need: the jars of ZooKeeper and of MetaQ, and a JDK.
///
/// The jars and the compiled reader lie in the folder that the environment variable `METAQ_PEERS_DIR` names,
/// or else in `metaq-peers` of the user's cache folder: `XDG_CACHE_HOME`, or `.cache` in `HOME`. Files in it
/// are added, never changed.
#[derive(Clone, Debug)]
pub struct Peers {
    zookeeper: PathBuf,
    broker: PathBuf,
    reader: PathBuf,
}

impl Peers {
    /// Fetches by Maven everything that is missing. Blocks. Several processes may call it at the same time:
    /// one fetches, the others wait for it.
    ///
    /// # Errors
    /// When the JDK, Maven or `setpriv` is missing, or fetching fails.
    pub fn fetch() -> Result<Self, PeerError> {
        ensure_installed("setpriv", "setpriv", "util-linux")?;
        ensure_installed("java", "a JDK (java)", JDK)?;
        // Held until the end of this function: the next process finds everything there.
        let (cache, _lock) = locked_cache()?;
        let zookeeper = fetch_jars(&cache, "zookeeper", ZOOKEEPER)?;
        let broker = fetch_jars(&cache, "broker", BROKER)?;
        let reader = compile(&cache, "TopicReader", READER, &broker)?;
        Ok(Self { zookeeper, broker, reader })
    }

    pub(super) fn zookeeper_class_path(&self) -> String {
        all_jars(&self.zookeeper)
    }

    pub(super) fn broker_class_path(&self) -> String {
        all_jars(&self.broker)
    }

    /// Compiles a Java program. Returns the class path to run it with.
    pub(super) fn compile(&self, main: &str, source: &str) -> Result<String, PeerError> {
        let (cache, _lock) = locked_cache()?;
        let classes = compile(&cache, main, source, &self.broker)?;
        Ok(format!("{}:{}", classes.display(), self.broker_class_path()))
    }

    pub(super) fn reader_class_path(&self) -> String {
        format!("{}:{}", self.reader.display(), self.broker_class_path())
    }

    /// Returns the arguments of the JVM of a broker or client, without its class path. The JVM runs in
    /// `home`, where this writes the configuration of its log.
    pub(super) fn jvm_options(home: &Path) -> Result<Vec<String>, PeerError> {
        let logging = home.join("log4j.properties");
        fs::write(&logging, LOGGING).map_err(PeerError::io(format!("write {}", logging.display())))?;
        let mut options = Vec::new();
        for package in ["java.nio", "sun.nio.ch", "java.lang", "java.util"] {
            options.push(format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
        }
        options.push(format!("-Dlog4j.configuration=file:{}", logging.display()));
        // They write below the home folder otherwise.
        options.push(format!("-Duser.home={}", home.display()));
        Ok(options)
    }
}

/// Returns the folder of fetched artifacts, and its lock.
pub(super) fn locked_cache() -> Result<(PathBuf, fs::File), PeerError> {
    let missing = || io::Error::new(ErrorKind::NotFound, "set METAQ_PEERS_DIR, XDG_CACHE_HOME or HOME");
    let cache = cache_folder(|name| env::var_os(name)).ok_or_else(missing).and_then(std::path::absolute);
    let cache = cache.map_err(PeerError::io("find a folder for what real peers need"))?;
    fs::create_dir_all(&cache).map_err(PeerError::io(format!("create {}", cache.display())))?;
    let lock_path = cache.join("lock");
    let locked = fs::File::create(&lock_path).and_then(|file| file.lock().map(|()| file));
    locked.map(|lock| (cache, lock)).map_err(PeerError::io(format!("lock {}", lock_path.display())))
}

/// Returns the options of a JVM that lives for seconds.
pub(super) fn fast_start() -> Vec<String> {
    ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"].map(str::to_owned).to_vec()
}

fn fetch_jars(cache: &Path, name: &str, artifacts: &[Coordinates]) -> Result<PathBuf, PeerError> {
    let pom = pom(artifacts);
    create_once(cache, name, &pom, |folder| {
        ensure_installed("mvn", "Maven (mvn)", "maven")?;
        fs::write(folder.join("pom.xml"), &pom).map_err(PeerError::io("write a pom.xml for Maven"))?;
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"]).current_dir(folder);
        let what = format!("the jars for {name}");
        run(&mut maven, &what).map_err(|error| match error {
            PeerError::Tool { what, output } => {
                PeerError::Fetch { tool: "Maven", registry: "Maven Central", what, output }
            }
            other => other,
        })
    })
}

/// Compiles a class that uses the client. Returns the folder that contains it.
fn compile(cache: &Path, class: &str, source: &str, broker: &Path) -> Result<PathBuf, PeerError> {
    create_once(cache, class, &format!("{source}{}", pom(BROKER)), |folder| {
        ensure_installed("javac", "a JDK (javac)", JDK)?;
        let file = folder.join(class).with_extension("java");
        fs::write(&file, source).map_err(PeerError::io(format!("write {}", file.display())))?;
        let mut javac = Command::new("javac");
        javac.arg("-cp").arg(all_jars(broker)).arg("-d").arg(folder).arg(&file);
        run(&mut javac, &format!("compiling {class} with javac"))
    })
}

/// Returns the folder whose name contains the hash of `recipe`. If there is none, `make` fills a new one,
/// which gets its name only once it is complete; so an existing one is complete, and may be in use.
pub(super) fn create_once(
    cache: &Path,
    name: &str,
    recipe: &str,
    make: impl FnOnce(&Path) -> Result<(), PeerError>,
) -> Result<PathBuf, PeerError> {
    let mut hasher = DefaultHasher::new();
    recipe.hash(&mut hasher);
    let finished = cache.join(format!("{name}-{:016x}", hasher.finish()));
    if finished.exists() {
        return Ok(finished);
    }
    let fresh = TempDir::with_prefix_in(format!("{name}-unfinished-"), cache)
        .map_err(PeerError::io(format!("make a folder in {}", cache.display())))?;
    make(fresh.path())?;
    fs::rename(fresh.keep(), &finished).map_err(PeerError::io(format!("name {}", finished.display())))?;
    Ok(finished)
}

fn all_jars(folder: &Path) -> String {
    folder.join("lib/*").display().to_string()
}

/// Returns the folder of fetched artifacts by environment variables, or `None` if they name none.
fn cache_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let absolute = |name: &str| folder(name).filter(|folder| folder.is_absolute());
    let in_cache = || {
        let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        Some(cache?.join("metaq-peers"))
    };
    folder("METAQ_PEERS_DIR").or_else(in_cache)
}

/// Fails if the program is not installed.
pub(super) fn ensure_installed(
    program: &str,
    what: &'static str,
    package: &'static str,
) -> Result<(), PeerError> {
    match Command::new(program).arg("-version").output() {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(PeerError::Missing { what, package }),
        Err(error) => Err(PeerError::io(format!("run {program}"))(error)),
        Ok(_) => Ok(()),
    }
}

pub(super) fn run(command: &mut Command, what: &str) -> Result<(), PeerError> {
    let output = command.output().map_err(PeerError::io(what))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(PeerError::Tool { what: what.to_owned(), output: String::from_utf8_lossy(&text).trim().to_owned() })
}

fn pom(artifacts: &[Coordinates]) -> String {
    let dependency = |(group, artifact, version): &Coordinates| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_folder_is_the_named_one_or_the_users() {
        for (variables, folder) in [
            (&[("METAQ_PEERS_DIR", "/p"), ("XDG_CACHE_HOME", "/c"), ("HOME", "/h")][..], Some("/p")),
            (&[("METAQ_PEERS_DIR", "p"), ("HOME", "/h")], Some("p")),
            (&[("METAQ_PEERS_DIR", ""), ("XDG_CACHE_HOME", "/c"), ("HOME", "/h")], Some("/c/metaq-peers")),
            (&[("XDG_CACHE_HOME", "relative"), ("HOME", "/h")], Some("/h/.cache/metaq-peers")),
            (&[("HOME", "/h")], Some("/h/.cache/metaq-peers")),
            (&[("HOME", "")], None),
            (&[], None),
        ] {
            let variable = |wanted: &str| {
                let found = variables.iter().find(|(name, _)| *name == wanted);
                found.map(|(_, value)| OsString::from(value))
            };
            assert_eq!(cache_folder(variable).as_deref(), folder.map(Path::new), "{variables:?}");
        }
    }
}

//! The brokers that the clients send to, and their ZooKeeper.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};
use tokio::runtime::{Builder, Runtime};
use zookeeper_client::{Acls, Client, CreateMode};

use super::{Result, plan::Target, print_message, program::Program};

pub(super) const TOPIC: &str = "bench";
pub(super) const PARTITIONS: u32 = 4;

/// The root of the registry with the null broker; the real one is under /meta.
const NULL_ROOT: &str = "/null";

/// A real ZooKeeper, and a null broker and a real broker that are registered there.
pub(super) struct Environment {
    pub(super) peers: Peers,
    zookeeper: ZooKeeper,
    null_addr: SocketAddr,
    real: JavaBroker,
    /// The folder of this workspace's programs.
    programs: PathBuf,
    _null: Program,
    _runtime: Runtime,
}

impl Environment {
    pub(super) fn start() -> Result<Self> {
        let programs = std::env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default();
        let peers = Peers::fetch()?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        print_message("starting ZooKeeper, a null broker and a real broker");
        let zookeeper = runtime.block_on(ZooKeeper::start(&peers))?;
        let mut null_broker = Command::new(programs.join("null-broker"));
        null_broker.args(["--topic", &format!("{TOPIC}:{PARTITIONS}")]);
        let mut null = Program::start("null-broker", &mut null_broker)?;
        let null_addr = null.line()?.parse()?;
        runtime.block_on(register(&zookeeper, null_addr))?;
        // Flushes to disk by number and time, as brokers with the shipped settings do.
        let real = JavaBroker::builder(0)
            .topic(TOPIC, PARTITIONS)
            .setting("unflushThreshold", "1000")
            .setting("unflushInterval", "10000")
            .in_service();
        let real = runtime.block_on(real.start(&peers, &zookeeper))?;
        Ok(Self { peers, zookeeper, null_addr, real, programs, _null: null, _runtime: runtime })
    }

    /// Returns the path of a program of this workspace.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    pub(super) fn zookeeper(&self) -> String {
        self.zookeeper.connect_string()
    }

    /// Returns the root of the registry with a broker.
    pub(super) fn root(&self, target: Target) -> &'static str {
        match target {
            Target::Null => NULL_ROOT,
            Target::Real => "/meta",
        }
    }

    /// Returns a cluster for `metaq --cluster`.
    pub(super) fn cluster(&self, target: Target) -> String {
        format!("zk://{}{}", self.zookeeper(), self.root(target))
    }

    pub(super) fn addr(&self, target: Target) -> SocketAddr {
        match target {
            Target::Null => self.null_addr,
            Target::Real => SocketAddr::from(([127, 0, 0, 1], self.real.port())),
        }
    }

    /// Keeps processors from halting until the returned program is dropped.
    pub(super) fn keep_awake(&self) -> Result<Program> {
        // It runs only on processors that are otherwise idle.
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(self.program("keep-awake"));
        Program::start("keep-awake by chrt", &mut command)
    }
}

/// Writes the registry entries of the null broker, as far as producers read them (`docs/registry.md`, section
/// 1).
async fn register(zookeeper: &ZooKeeper, addr: SocketAddr) -> Result<()> {
    let client = Client::connect(&zookeeper.connect_string()).await?;
    let persistent = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let topic = format!("{NULL_ROOT}/brokers/topics-pub/{TOPIC}");
    for path in [&format!("{NULL_ROOT}/brokers/ids/0"), &topic] {
        client.mkdir(path, &persistent).await?;
    }
    let address = format!("meta://{addr}");
    client.create(&format!("{NULL_ROOT}/brokers/ids/0/master"), address.as_bytes(), &persistent).await?;
    let partitions = format!(r#"{{"broker":"0-m","numParts":{PARTITIONS}}}"#);
    client.create(&format!("{topic}/0-m"), partitions.as_bytes(), &persistent).await?;
    Ok(())
}

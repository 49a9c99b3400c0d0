//! Handles of real peers: their effects, their errors, and their end.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use metaq_protocol::Partition;
use metaq_testkit::peers::{JavaBroker, JavaReader, PeerError, Peers, ReadMessage, ZooKeeper};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use zookeeper_client::{Client, Error};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Sends a put with this data and flag (whether an attribute precedes the payload), and no checksum. Returns
/// the id, the partition and the offset from the broker's response.
async fn put(broker: &JavaBroker, topic: &str, partition: i32, flag: i32, data: &[u8]) -> (i64, i32, i64) {
    let header = format!("put {topic} {partition} {} {flag} -1 1\r\n", data.len());
    let answer = ask(broker.port(), &[header.as_bytes(), data].concat()).await;
    let body = answer.strip_prefix("result 200 ").and_then(|rest| rest.split_once("\r\n"));
    let (_, body) = body.unwrap_or_else(|| panic!("the broker answered {answer:?}"));
    let numbers: Vec<i64> = body.split(' ').map(|number| number.parse().unwrap()).collect();
    (numbers[0], numbers[1].try_into().unwrap(), numbers[2])
}

/// Sends one raw request and returns the response.
async fn ask(port: u16, request: &[u8]) -> String {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_line(&mut answer).await.unwrap();
    let length = answer.split(' ').nth(2).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    answer + &String::from_utf8(body).unwrap()
}

/// The registry as a ZooKeeper client sees it.
struct Registry(Client);

impl Registry {
    async fn open(zookeeper: &ZooKeeper) -> Self {
        Self(timeout(TIMEOUT, Client::connect(&zookeeper.connect_string())).await.unwrap().unwrap())
    }

    /// Returns the text of a node, or `None` if there is no such node.
    async fn text(&self, path: &str) -> Option<String> {
        match self.0.get_data(path).await {
            Ok((data, _)) => Some(String::from_utf8(data).unwrap()),
            Err(Error::NoNode) => None,
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Waits until a node has this text, or is absent.
    async fn await_text(&self, path: &str, text: Option<&str>) {
        let started = Instant::now();
        while self.text(path).await.as_deref() != text {
            assert!(started.elapsed() < TIMEOUT, "{path} is {:?}, not {text:?}", self.text(path).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Returns whether a process runs. A zombie does not.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

async fn await_end(pid: u32) {
    let started = Instant::now();
    while runs(pid) {
        assert!(started.elapsed() < Duration::from_secs(10), "process {pid} goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_java_client_reads_every_byte_from_two_registered_brokers() {
    let test = "a_java_client_reads_every_byte_from_two_registered_brokers";
    let Some(peers) = Peers::get(test) else { return };
    let started = Instant::now();
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    println!("ZooKeeper was ready after {:?}", started.elapsed());
    let started = Instant::now();
    let start = |id, partitions| {
        let broker = JavaBroker::builder(id).root("/elsewhere").topic("t", partitions);
        broker.topic_with("quiet", 1, &[("acceptPublish", "false")]).start(&peers, &zookeeper)
    };
    let (zero, three) = tokio::join!(start(0, 1), start(3, 2));
    let (zero, three) = (zero.unwrap(), three.unwrap());
    println!("two brokers were ready after {:?}", started.elapsed());

    let registry = Registry::open(&zookeeper).await;
    for (broker, partitions) in [(&zero, 1), (&three, 2)] {
        let id = broker.id().0;
        let text = async |path: &str| registry.text(&format!("/elsewhere/brokers/{path}")).await;
        assert_eq!(text(&format!("ids/{id}/master")).await, Some(broker.addr().to_string()));
        assert_eq!(text(&format!("topics/t/{id}-m")).await, Some(partitions.to_string()));
        let published = text(&format!("topics-pub/t/{id}-m")).await.unwrap();
        assert!(published.contains(&format!(r#""numParts":{partitions}"#)), "{published}");
        assert_eq!(text(&format!("topics-pub/quiet/{id}-m")).await, None);
        assert!(text(&format!("topics-sub/quiet/{id}-m")).await.is_some());
    }

    // One put in its wire format, the others by the same means.
    let answer = ask(zero.port(), b"put t 0 5 0 907060870 1\r\nhello").await;
    assert!(answer.starts_with("result 200 "), "{answer}");
    let all_bytes: Vec<u8> = (0..=255).collect();
    let big: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let with_attribute = |attribute: &str, payload: &[u8]| {
        let length = u32::try_from(attribute.len()).unwrap().to_be_bytes();
        [&length[..], attribute.as_bytes(), payload].concat()
    };
    let sent = [
        (&three, 0, Some("attr"), &b"hello"[..]),
        (&three, 0, Some(""), b""),
        (&three, 0, None, b""),
        (&three, 1, Some("käse\r\n 芝士"), &all_bytes),
        (&three, 1, None, &big),
        (&three, 1, None, b"last"),
    ];
    let mut expected = vec![(Partition::new(0, 0), 0, None, b"hello".to_vec())];
    let mut ids = Vec::new();
    for (broker, index, attribute, payload) in sent {
        let data = attribute.map_or_else(|| payload.to_vec(), |attribute| with_attribute(attribute, payload));
        let (id, _, offset) = put(broker, "t", index, attribute.is_some().into(), &data).await;
        ids.push(id);
        let partition = Partition::new(broker.id().0, index);
        expected.push((partition, offset, attribute.map(str::to_owned), payload.to_vec()));
    }

    let reader = JavaReader::new(&peers).root("/elsewhere");
    let started = Instant::now();
    // Fewer messages are expected than there are: it reads to the end all the same.
    let read = reader.read_topic(&zookeeper.connect_string(), "t", 1, TIMEOUT).await.unwrap();
    println!("the reader was done after {:?}", started.elapsed());
    assert_eq!(read[1..].iter().map(|message| message.id).collect::<Vec<_>>(), ids);
    let plain =
        |message: ReadMessage| (message.partition, message.offset, message.attribute, message.payload);
    let read: Vec<_> = read.into_iter().map(plain).collect();
    assert!(read == expected, "what was read differs from what was put");

    // More messages are expected than there are: it waits for them until the deadline, and no longer.
    let started = Instant::now();
    let deadline = Duration::from_secs(2);
    let read = reader.read_topic(&zookeeper.connect_string(), "t", 8, deadline).await.unwrap();
    assert_eq!(read.len(), 7);
    assert!(started.elapsed() > deadline);
}

#[tokio::test]
async fn the_registry_shows_that_a_broker_stops_moves_dies_or_freezes() {
    let Some(peers) = Peers::get("the_registry_shows_that_a_broker_stops_moves_dies_or_freezes") else {
        return;
    };
    let mut zookeeper = ZooKeeper::start(&peers).await.unwrap();
    // Longer than the start of a JVM on a busy machine: it has to find the nodes of its former process once.
    let broker = JavaBroker::builder(3).topic("t", 2).session_timeout(Duration::from_secs(6));
    let mut broker = broker.start(&peers, &zookeeper).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    let (master, topic) = ("/meta/brokers/ids/3/master", "/meta/brokers/topics-pub/t/3-m");
    put(&broker, "t", 1, 0, b"first").await;

    // Shut down: it removes its nodes. Restarted: the same port and data.
    let old = (broker.port(), broker.pid().unwrap());
    broker.shut_down().await.unwrap();
    assert!(!runs(old.1));
    assert_eq!((registry.text(master).await, registry.text(topic).await), (None, None));
    assert!(TcpStream::connect(("127.0.0.1", old.0)).await.is_err());
    broker.restart(&zookeeper).await.unwrap();
    assert_eq!(broker.port(), old.0);
    assert_eq!(registry.text(master).await, Some(broker.addr().to_string()));
    assert_eq!(put(&broker, "t", 1, 0, b"again").await.2, 25, "behind the 20 + 5 bytes of the first");

    // Moved: another port, the same data.
    broker.restart_elsewhere(&zookeeper).await.unwrap();
    assert_ne!(broker.port(), old.0);
    assert_eq!(registry.text(master).await, Some(broker.addr().to_string()));
    assert_eq!(put(&broker, "t", 1, 0, b"moved").await.2, 50);

    // Its connections are counted.
    let client = TcpStream::connect(("127.0.0.1", broker.port())).await.unwrap();
    let port = client.local_addr().unwrap().port();
    let await_clients = async |broker: &JavaBroker, ports: &[u16]| {
        let started = Instant::now();
        while broker.client_ports() != ports.iter().copied().collect::<BTreeSet<_>>() {
            assert!(started.elapsed() < TIMEOUT, "clients: {:?}", broker.client_ports());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    await_clients(&broker, &[port]).await;
    assert_eq!(broker.connections(), 1);
    drop(client);
    await_clients(&broker, &[]).await;

    // Frozen: its nodes disappear while it keeps its port. Thawed: they return.
    broker.freeze();
    registry.await_text(master, None).await;
    TcpStream::connect(("127.0.0.1", broker.port())).await.unwrap();
    broker.thaw();
    broker.await_registration(&zookeeper).await.unwrap();
    assert_eq!(registry.text(master).await, Some(broker.addr().to_string()));

    // Killed: its nodes stay until its session has expired, and it is not restarted before that.
    let (addr, session) = (broker.addr().to_string(), session_of(&registry, master).await);
    broker.kill().await.unwrap();
    assert_eq!(registry.text(master).await, Some(addr.clone()));
    broker.restart(&zookeeper).await.unwrap();
    assert_eq!(registry.text(master).await, Some(addr));
    assert_ne!(session_of(&registry, master).await, session, "the nodes are those of the new process");

    // Killed and restarted too early: it answers, but is not registered.
    broker.kill().await.unwrap();
    broker.restart_at_once().await.unwrap();
    registry.await_text(master, None).await;
    assert!(ask(broker.port(), b"version 1\r\n").await.starts_with("result 200 "));

    // The registry itself is restarted with its data.
    zookeeper.kill().await.unwrap();
    assert!(zookeeper.ephemerals().await.is_empty());
    zookeeper.restart().await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    assert_eq!(registry.text("/meta/brokers/ids/3").await, Some(broker.addr().to_string()));
}

async fn session_of(registry: &Registry, path: &str) -> i64 {
    registry.0.get_data(path).await.unwrap().1.ephemeral_owner
}

#[tokio::test]
async fn errors_name_the_action_and_contain_the_log() {
    let Some(peers) = Peers::get("errors_name_the_action_and_contain_the_log") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();

    // A port that is taken: on all interfaces, as the broker listens on them.
    let taken = TcpListener::bind(("0.0.0.0", 0)).await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let started = Instant::now();
    let error = JavaBroker::builder(0).topic("t", 1).port(port).start(&peers, &zookeeper).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(30), "it did not wait in vain");
    let text = error.to_string();
    assert!(text.starts_with(&format!("broker 0 on port {port} could not start; its log ")), "{text}");
    assert!(text.contains("java.net.BindException"), "{text}");
    let PeerError::Failed { log_file, .. } = error else { panic!("{text}") };
    assert!(fs::read_to_string(&log_file).unwrap().contains("java.net.BindException"));
    fs::remove_dir_all(log_file.parent().unwrap()).unwrap();

    // A JVM that fails to start.
    let error = ZooKeeper::builder().tick_time(Duration::from_millis(0)).start(&peers).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("ZooKeeper on port ") && text.contains("tickTime"), "{text}");
    let PeerError::Ended { log_file, .. } = error else { panic!("{text}") };
    fs::remove_dir_all(log_file.parent().unwrap()).unwrap();

    // A topic that no broker has, and a message that no client can read past.
    let broker = JavaBroker::builder(0).topic("t", 1).setting("maxTransferSize", "1000");
    let broker = broker.start(&peers, &zookeeper).await.unwrap();
    put(&broker, "t", 0, 0, &[1; 2000]).await;
    for (topic, reason) in [("nosuch", "NoNode"), ("t", "only 1000 bytes of the message at 0")] {
        let deadline = Duration::from_secs(3);
        let error = peers.read_topic(&zookeeper, topic, 1, deadline).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!("reading topic {topic} with the Java client ended")), "{text}");
        assert!(text.contains(reason), "{text}");
        let PeerError::Ended { log_file, .. } = error else { panic!("{text}") };
        fs::remove_dir_all(log_file.parent().unwrap()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_live_as_long_as_their_handle_and_no_longer() {
    let Some(peers) = Peers::get("peers_live_as_long_as_their_handle_and_no_longer") else { return };
    // The thread that starts a peer may end before the peer.
    let runtime = tokio::runtime::Handle::current();
    let start =
        move || std::thread::spawn(move || runtime.block_on(ZooKeeper::start(&peers))).join().unwrap();
    let zookeeper = tokio::task::spawn_blocking(start).await.unwrap().unwrap();
    let pid = zookeeper.pid().unwrap();
    Registry::open(&zookeeper).await;
    assert!(runs(pid));
    // Also a frozen peer.
    zookeeper.freeze();
    drop(zookeeper);
    await_end(pid).await;
}

#[tokio::test]
async fn peers_end_with_a_test_that_is_killed() {
    if Peers::get("peers_end_with_a_test_that_is_killed").is_none() {
        return;
    }
    let mut victim = tokio::process::Command::new(env::current_exe().unwrap());
    victim.args(["--exact", "real_peers::victim", "--ignored", "--nocapture"]).env("METAQ_TEST_VICTIM", "1");
    // A killed process can't clean up.
    let folder = tempfile::tempdir().unwrap();
    victim.env("TMPDIR", folder.path());
    let mut victim = victim.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let pids: Vec<u32> = loop {
        let line = timeout(TIMEOUT, lines.next_line()).await.unwrap().unwrap();
        if let Some(pids) =
            line.expect("the victim ended").split_once("peers: ").map(|(_, pids)| pids.to_owned())
        {
            break pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
        }
    };
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|&pid| runs(pid)));
    // By SIGKILL.
    victim.kill().await.unwrap();
    for pid in pids {
        await_end(pid).await;
    }
}

/// Not a test: the process that `peers_end_with_a_test_that_is_killed` kills.
#[tokio::test]
#[ignore = "run by peers_end_with_a_test_that_is_killed"]
async fn victim() {
    if env::var_os("METAQ_TEST_VICTIM").is_none() {
        return;
    }
    let peers = Peers::get("victim").unwrap();
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = JavaBroker::builder(0).topic("t", 1).start(&peers, &zookeeper).await.unwrap();
    println!("peers: {} {}", zookeeper.pid().unwrap(), broker.pid().unwrap());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn dropping_a_peer_ends_it_and_removes_its_folder() {
    let Some(peers) = Peers::get("dropping_a_peer_ends_it_and_removes_its_folder") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = JavaBroker::builder(0).topic("t", 1).start(&peers, &zookeeper).await.unwrap();
    let ended = |pid: u32, log: PathBuf| {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "its process runs on");
        assert!(!log.parent().unwrap().exists(), "its folder is there");
    };
    let (pid, log) = (broker.pid().unwrap(), broker.log());
    drop(broker);
    ended(pid, log);
    let (pid, log) = (zookeeper.pid().unwrap(), zookeeper.log());
    drop(zookeeper);
    ended(pid, log);
}

/// Runs the test below in a separate process.
fn run_needs_peers(ci: &str, peers: &str, folder: &Path) -> Output {
    let mut this = Command::new(env::current_exe().unwrap());
    this.args(["--exact", "real_peers::needs_peers", "--ignored"]).env("CI", ci).env("METAQ_PEERS", peers);
    this.env("PATH", folder).env("METAQ_PEERS_DIR", folder).output().unwrap()
}

/// Runs the test below where nothing is installed.
fn where_nothing_is_installed(ci: &str, folder: &Path) -> Output {
    run_needs_peers(ci, "", folder)
}

#[test]
fn unwanted_peers_are_skipped_with_a_message_except_in_ci() {
    let folder = tempfile::tempdir().unwrap();
    let output = run_needs_peers("", "none", folder.path());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    assert_eq!(text, "skipped: needs_peers: METAQ_PEERS=none leaves out tests with real peers\n");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was looked for");
    assert!(!run_needs_peers("true", "none", folder.path()).status.success());
}

#[test]
fn missing_tools_skip_tests_with_a_message_except_in_ci() {
    let folder = tempfile::tempdir().unwrap();
    let output = where_nothing_is_installed("", folder.path());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    assert_eq!(text, "skipped: needs_peers: setpriv is missing; on Debian: apt-get install util-linux\n");
    assert!(!where_nothing_is_installed("true", folder.path()).status.success());

    // With one of the two programs.
    let link = |program: &str| {
        let path = env::var_os("PATH").unwrap();
        let found = env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.exists());
        found.map(|found| std::os::unix::fs::symlink(found, folder.path().join(program)).unwrap())
    };
    let skipped = || {
        let output = where_nothing_is_installed("", folder.path());
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let Some(()) = link("setpriv") else { return };
    assert_eq!(
        skipped(),
        "skipped: needs_peers: a JDK (java) is missing; on Debian: apt-get install openjdk-17-jdk-headless maven\n"
    );
    let Some(()) = link("java") else { return };
    assert_eq!(skipped(), "skipped: needs_peers: Maven (mvn) is missing; on Debian: apt-get install maven\n");

    // Maven is there, but no network.
    let mvn = folder.path().join("mvn");
    fs::write(&mvn, "#!/bin/sh\necho Unknown host repo.maven.apache.org\nexit 1\n").unwrap();
    fs::set_permissions(&mvn, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(
        skipped(),
        "skipped: needs_peers: Maven could not fetch the jars for zookeeper, which takes access to Maven Central the first \
         time: Unknown host repo.maven.apache.org\n"
    );
    let left: BTreeSet<_> =
        fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, ["java", "lock", "mvn", "setpriv"].map(Into::into).into(), "nothing half done is left");
}

/// Not a test: behaves like a test that needs peers.
#[test]
#[ignore = "run by the tests of what is skipped"]
fn needs_peers() {
    let _ = Peers::get("needs_peers");
}

//! The file of a spool: cut, flipped, on a full disk, and looked into without a producer. A full disk is a
//! limit of this process, so nothing else runs in it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use metaq_producer::{Message, Partition, Producer, Topic};
use metaq_spool::{
    Fsync, OpenErrorKind, Sent, SpoolEvent, SpoolFolder, SpoolId, SpoolOptions, SpoolSendErrorKind,
    SpoolingProducer,
};
use metaq_testkit::{Broker, Fault, Requests, unused_addr};

/// Far more time than what a test waits for takes, also on a busy machine.
const SOON: Duration = Duration::from_secs(120);

fn topic() -> Topic {
    "t".parse().unwrap()
}

/// A producer whose broker is not there.
fn away() -> Producer {
    let addr = format!("meta://{}", unused_addr().unwrap());
    Producer::builder().broker(addr.parse().unwrap()).build().unwrap()
}

fn with(broker: &Broker) -> Producer {
    let builder = Producer::builder().discovery(broker.discovery());
    builder.transport(broker.transport()).build().unwrap()
}

async fn open(producer: Producer, folder: &Path) -> SpoolingProducer {
    let mut options = SpoolOptions::new(folder);
    options.fsync = Fsync::Never;
    let spool = SpoolingProducer::open(producer, options).await.unwrap();
    // Without a broker it is published in the background.
    let _ = tokio::time::timeout(Duration::from_millis(50), spool.publish_topic(&topic())).await;
    spool
}

/// Spools a number of messages of 300 bytes in two queues, and closes the folder.
async fn filled(folder: &Path, count: usize) {
    let spool = open(away(), folder).await;
    let mut handles = Vec::new();
    for n in 0..count {
        let message = Message::new(topic(), format!("{n:0300}")).with_attribute("a");
        let message = if n % 2 == 0 { message } else { message.with_partition(Partition::new(0, 1)) };
        handles.push(spool.enqueue(message).await.unwrap());
    }
    for handle in handles {
        assert!(matches!(handle.await, Ok(Sent::Spooled(_))));
    }
    spool.close(Duration::ZERO).await;
}

fn file(folder: &Path) -> PathBuf {
    folder.join("spool.redb")
}

/// Replays what can be, and returns the number of messages at the broker.
async fn replayed(folder: &Path) -> (usize, metaq_spool::SpoolStats) {
    let broker = Broker::builder().topic("t", 4).start_without_port().unwrap();
    let spool = open(with(&broker), folder).await;
    assert_eq!(spool.drain(SOON).await, 0, "{:?}", spool.stats());
    let stats = spool.stats();
    let gone = stats.replayed + stats.set_aside + stats.dropped + stats.damaged;
    assert_eq!(stats.recovered + stats.spooled, gone + stats.waiting, "{stats:?}");
    spool.close(Duration::from_secs(1)).await;
    let messages = broker.messages("t");
    let payloads: BTreeSet<_> = messages.iter().map(|message| message.payload.clone()).collect();
    assert_eq!(payloads.len(), messages.len(), "none is doubled");
    // What is read is what was written.
    assert!(payloads.iter().all(|payload| payload.len() == 300 && payload.iter().all(u8::is_ascii_digit)));
    (messages.len(), stats)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_file_never_stops_the_spool() {
    let folder = tempfile::tempdir().unwrap();
    for share in [0.0, 0.1, 0.5, 0.9, 0.999] {
        let folder = folder.path().join(format!("{share}"));
        filled(&folder, 500).await;
        let len = fs::metadata(file(&folder)).unwrap().len();
        let left = (len as f64 * share) as u64;
        fs::File::options().write(true).open(file(&folder)).unwrap().set_len(left).unwrap();
        let (count, stats) = replayed(&folder).await;
        eprintln!("cut to {left} of {len} bytes: {count} of 500 replayed, {stats:?}");
        let (count, _) = replayed(&folder).await;
        assert_eq!(count, 0, "it works as an empty one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bytes_never_stop_the_spool_or_change_messages() {
    let folder = tempfile::tempdir().unwrap();
    let mut most_lost = 0;
    for round in 0..20 {
        let folder = folder.path().join(format!("{round}"));
        filled(&folder, 200).await;
        let mut bytes = fs::read(file(&folder)).unwrap();
        for _ in 0..=round / 4 {
            let at = fastrand::usize(..bytes.len());
            bytes[at] ^= 1 << fastrand::u32(..8);
        }
        fs::write(file(&folder), bytes).unwrap();
        let (count, _) = replayed(&folder).await;
        most_lost = most_lost.max(200 - count);
    }
    eprintln!("at most {most_lost} of 200 messages were lost by flipped bits");
}

#[tokio::test]
async fn a_file_that_is_none_is_set_aside_with_an_event() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(file(folder.path()), vec![7; 100_000]).unwrap();
    let spool = open(away(), folder.path()).await;
    let damaged = folder.path().join("damaged-1.redb");
    assert!(damaged.exists());
    let (mut first, mut second) = (spool.events(), spool.events());
    let event = first.next().await.unwrap();
    assert!(matches!(&event, SpoolEvent::FileSetAside { path, .. } if *path == damaged), "{event}");
    let message = Message::new(topic(), "x");
    assert!(matches!(spool.send(message).await, Ok(Sent::Spooled(_))));
    // Others have what comes from now on.
    let event = second.next().await.unwrap();
    assert!(matches!(event, SpoolEvent::Filling { .. }), "{event}");
    spool.close(Duration::ZERO).await;
}

#[tokio::test]
async fn a_folder_shows_drops_and_puts_back_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::builder().topic("t", 4).start_without_port().unwrap();
    broker.faults().plan(Requests::puts(), Fault::refuse(400, "malformed"));
    filled(folder.path(), 10).await;
    // Those of one queue are refused and set aside.
    let spool = open(with(&broker), folder.path()).await;
    assert_eq!(spool.drain(SOON).await, 0);
    assert!(matches!(
        SpoolFolder::open(folder.path()).map_err(|error| error.kind()),
        Err(OpenErrorKind::InUse)
    ));
    spool.close(Duration::ZERO).await;
    broker.faults().heal();

    let mut shown = SpoolFolder::open(folder.path()).unwrap();
    assert_eq!((shown.queues().len(), shown.set_aside_count()), (0, 10));
    let aside: Vec<_> = shown.set_aside().map(Result::unwrap).collect();
    let reason = aside[0].set_aside.as_ref().unwrap();
    assert!(reason.reason.contains("400") && reason.attempts == 1, "{reason:?}");
    assert_eq!(aside[3].message.as_ref().unwrap().partition(), Some(Partition::new(0, 1)));
    assert_eq!(shown.find(aside[3].id).unwrap(), Some(aside[3].clone()));
    assert!(shown.age(&aside[3]).unwrap() < SOON && SpoolFolder::exists(folder.path()));
    assert_eq!(shown.put_back(aside[..6].to_vec()).unwrap(), 6);
    assert_eq!(shown.remove(aside[6..8].to_vec()).unwrap(), 2);
    let queues = shown.queues();
    assert_eq!(queues.iter().map(|queue| queue.messages).collect::<Vec<_>>(), [3, 3]);
    let waiting: Vec<_> = shown.messages(&queues[0]).map(Result::unwrap).collect();
    assert!(waiting.len() == 3 && waiting.iter().all(|message| message.set_aside.is_none()));
    assert_eq!(shown.find(waiting[1].id).unwrap(), Some(waiting[1].clone()));
    assert_eq!(shown.find(SpoolId(99)).unwrap(), None);
    assert_eq!(shown.remove(waiting[..1].to_vec()).unwrap(), 1);
    assert_eq!(shown.set_aside_count(), 2);
    drop(shown);

    let (count, stats) = replayed(folder.path()).await;
    assert_eq!((count, stats.recovered, stats.held_aside), (5, 5, 2));
    let missing = folder.path().join("missing");
    assert!(SpoolFolder::open(&missing).is_err() && !SpoolFolder::exists(&missing));
    fs::create_dir(&missing).unwrap();
    let error = SpoolFolder::open(&missing).unwrap_err();
    assert_eq!(error.kind(), OpenErrorKind::NotASpool, "{error}");
    assert_eq!(fs::read_dir(&missing).unwrap().count(), 0, "nothing is made");
}

/// Mounts a small file system; none when this process may not.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder.path());
        mount.output().ok()?.status.success().then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Fills the disk of a folder to its last byte.
fn fill(folder: &Path) {
    let mut file = fs::File::create(folder.join("filler")).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_on_a_full_disk_is_opened_and_emptied() {
    let Some(disk) = SmallDisk::mount("16m") else {
        eprintln!("skipped: a small file system can't be mounted here, which takes root's rights");
        return;
    };
    let folders = ["replayed", "removed"].map(|name| disk.0.path().join(name));
    for folder in &folders {
        filled(folder, 3000).await;
    }
    fill(disk.0.path());
    let new = SpoolingProducer::open(away(), SpoolOptions::new(disk.0.path().join("new"))).await;
    let text = new.unwrap_err().to_string();
    assert!(text.contains("free some space on its disk"), "{text}");
    let mut folder = SpoolFolder::open(&folders[1]).unwrap();
    for queue in folder.queues() {
        // Each second one, so that as many pages are written.
        let messages = folder.messages(&queue).map(Result::unwrap);
        let messages: Vec<_> = messages.filter(|message| message.id.0 % 4 < 2).collect();
        let count = messages.len() as u64;
        assert!((600..900).contains(&count), "{count}");
        assert_eq!(folder.remove(messages).unwrap(), count);
    }
    drop(folder);
    let (count, stats) = replayed(&folders[0]).await;
    assert_eq!((count, stats.recovered, stats.was_closed), (3000, 3000, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_disk_refuses_and_keeps_what_it_took() {
    let Some(disk) = SmallDisk::mount("4m") else {
        eprintln!("skipped: a small file system can't be mounted here, which takes root's rights");
        return;
    };
    let folder = disk.0.path().join("spool");
    let spool = open(away(), &folder).await;
    let mut events = spool.events();
    let (mut spooled, mut refused) = (BTreeSet::new(), 0);
    for n in 0..400 {
        let payload = format!("{n:020000}");
        match spool.send(Message::new(topic(), payload.clone())).await {
            Ok(sent) => assert!(matches!(sent, Sent::Spooled(_)) && spooled.insert(payload)),
            Err(error) => {
                assert_eq!(error.kind(), SpoolSendErrorKind::Store, "{error}");
                assert!(error.into_message().is_some());
                refused += 1;
                if refused == 20 {
                    break;
                }
            }
        }
    }
    assert!(refused == 20 && spooled.len() > 20, "{}", spooled.len());
    let failed = async { while !matches!(events.next().await, Some(SpoolEvent::StoreFailed { .. })) {} };
    tokio::time::timeout(SOON, failed).await.unwrap();
    spool.close(Duration::ZERO).await;
    drop(spool);

    let broker = Broker::builder().topic("t", 4).start_without_port().unwrap();
    let spool = open(with(&broker), &folder).await;
    // Removals may need more space than there is: then they wait, and nothing is sent twice.
    let left = spool.drain(Duration::from_secs(3)).await;
    if left > 0 {
        let mut remount = Command::new("mount");
        remount.args(["-o", "remount,size=64m"]).arg(disk.0.path());
        assert!(remount.status().unwrap().success());
        assert_eq!(spool.drain(SOON).await, 0);
    }
    let stored = broker.messages("t");
    let payloads: BTreeSet<_> =
        stored.iter().map(|message| String::from_utf8(message.payload.to_vec()).unwrap()).collect();
    assert_eq!((payloads.len(), &payloads), (stored.len(), &spooled));
    spool.close(Duration::from_secs(1)).await;
}

//! The file of a store: on a disk that fails, in a folder that is left half done, and closed twice.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Arc, Barrier, Mutex, atomic::Ordering},
    thread,
};

use super::{append, assert_balanced, finished, message, options, payload, pinned, queue, read, replay_all};
use crate::{
    Fsync, SpoolFolder, SpoolOptions, SpoolSendErrorKind,
    lock::FolderLock,
    storage::Storage,
    store::{Store as _, disk::DiskStore, faulty_disk::FaultyDisk},
};

fn on(folder: &Path) -> SpoolOptions {
    SpoolOptions::new(folder)
}

/// Opens a folder on a disk that fails as it is asked for.
fn open_on(disk: &Arc<FaultyDisk>, folder: &Path) -> Storage {
    let mut store = DiskStore::new(folder, true);
    store.disk = Some(Arc::clone(disk));
    store.reopen().unwrap();
    Storage::start(&options(), Box::new(store), None).unwrap()
}

/// What the next process finds after a loss of power.
async fn found_after(disk: &FaultyDisk, folder: &Path) -> BTreeSet<String> {
    let left = tempfile::tempdir().unwrap();
    disk.lose_power(&folder.join("spool.redb"), &left.path().join("spool.redb"));
    let storage = Storage::open(&on(left.path())).unwrap();
    assert_eq!(storage.common.ledger.counts().files_set_aside, 0);
    let replayed = replay_all(&storage).await;
    assert_balanced(&storage);
    let found: BTreeSet<_> = replayed.iter().cloned().collect();
    assert_eq!(found.len(), replayed.len());
    found
}

#[tokio::test]
async fn a_failed_synchronisation_is_no_success() {
    for nth in 1..=2 {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultyDisk::default());
        let storage = open_on(&disk, folder.path());
        let before = disk.syncs.load(Ordering::Relaxed);
        append(&storage, message("a")).await.unwrap();
        assert_eq!(disk.syncs.load(Ordering::Relaxed) - before, 2, "as many as a commit makes");
        let queue = queue(&storage, &message(""));
        let rows = read(&storage, &queue).await.unwrap();
        disk.fails_after.store(nth, Ordering::Relaxed);
        let error = append(&storage, message("b")).await.unwrap_err();
        assert_eq!((error.kind(), error.into_message()), (SpoolSendErrorKind::Store, Some(message("b"))));
        assert_eq!(found_after(&disk, folder.path()).await, BTreeSet::from(["a".to_owned()]), "{nth}");
        // A removal counts once it is certain, and once.
        disk.fails_after.store(nth, Ordering::Relaxed);
        storage.finish(&queue, vec![finished(rows[0].0, &rows[0].1)]);
        storage.flush().await;
        storage.flush().await;
        append(&storage, message("c")).await.unwrap();
        let counts = storage.common.ledger.counts();
        assert_eq!((counts.spooled, counts.unwritten, counts.replayed, counts.waiting), (2, 1, 1, 1));
        assert_eq!((queue.held(), queue.unremoved()), (1, 0));
        assert_eq!(found_after(&disk, folder.path()).await, BTreeSet::from(["c".to_owned()]), "{nth}");
    }
}

/// A folder as the kill of a process leaves it that has spooled these.
async fn killed(payloads: &[&str]) -> tempfile::TempDir {
    let (folder, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = Storage::open(&on(folder.path())).unwrap();
    for payload in payloads {
        append(&storage, message(*payload)).await.unwrap();
    }
    fs::copy(folder.path().join("spool.redb"), left.path().join("spool.redb")).unwrap();
    left
}

#[tokio::test]
async fn opening_after_a_kill_does_not_wait_for_the_disk() {
    let folder = killed(&["a", "b"]).await;
    let disk = FaultyDisk::with(&folder.path().join("spool.redb"), false);
    let storage = open_on(&disk, folder.path());
    assert_eq!(storage.common.ledger.counts().recovered, 2);
    assert_eq!(disk.syncs.load(Ordering::Relaxed), 0, "while it was opened");
    // What is reported as stored is on the disk, and all that it refers to.
    append(&storage, message("c")).await.unwrap();
    assert_eq!(disk.syncs.load(Ordering::Relaxed), 2);
    let all = ["a", "b", "c"].map(str::to_owned);
    assert_eq!(found_after(&disk, folder.path()).await, BTreeSet::from(all));
}

#[tokio::test]
async fn a_loss_of_power_while_a_folder_is_opened_loses_nothing() {
    for is_closed in [false, true] {
        for _ in 0..8 {
            let folder = killed(&["a", "b"]).await;
            if is_closed {
                Storage::open(&on(folder.path())).unwrap().close();
            }
            let disk = FaultyDisk::with(&folder.path().join("spool.redb"), true);
            let storage = open_on(&disk, folder.path());
            let expected = BTreeSet::from(["a", "b"].map(str::to_owned));
            assert_eq!(found_after(&disk, folder.path()).await, expected);
            // Whoever replays it next finds out that this one may have.
            let left = tempfile::tempdir().unwrap();
            disk.lose_power(&folder.path().join("spool.redb"), &left.path().join("spool.redb"));
            assert!(!Storage::open(&on(left.path())).unwrap().common.was_closed, "{is_closed}");
            storage.close();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_spooled_survives_a_disk_that_forgets() {
    for _ in 0..8 {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultyDisk::default());
        let storage = Arc::new(open_on(&disk, folder.path()));
        disk.failing.store(fastrand::u64(50..300), Ordering::Relaxed);
        let (kept, refused) = (Arc::default(), Arc::default());
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let storage = Arc::clone(&storage);
                let (kept, refused) = (Arc::clone(&kept), Arc::clone(&refused));
                tokio::spawn(async move {
                    for n in 0..15 {
                        let payload = format!("{sender}-{n}");
                        let into: &Mutex<BTreeSet<String>> =
                            match append(&storage, pinned(&payload, n % 3)).await {
                                Ok(_) => &kept,
                                Err(_) => &refused,
                            };
                        into.lock().unwrap().insert(payload);
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.await.unwrap();
        }
        let kept = kept.lock().unwrap().clone();
        let found = found_after(&disk, folder.path()).await;
        assert!(kept.is_subset(&found), "{:?}", kept.difference(&found).collect::<Vec<_>>());
        // What was refused is gone once the disk works.
        disk.failing.store(0, Ordering::Relaxed);
        append(&storage, pinned("end", 0)).await.unwrap();
        let found = found_after(&disk, folder.path()).await;
        let refused = refused.lock().unwrap().clone();
        assert!(found.is_disjoint(&refused), "{:?}", found.intersection(&refused).collect::<Vec<_>>());
        assert_eq!(found.len(), kept.len() + 1);
        assert_balanced(&storage);
    }
}

#[tokio::test]
async fn a_salvage_that_was_killed_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spool.redb");
    let storage = Storage::open(&on(folder.path())).unwrap();
    for n in 0..20 {
        append(&storage, message(n.to_string())).await.unwrap();
    }
    storage.close();
    let mut bytes = fs::read(&file).unwrap();
    bytes[0] ^= 1;
    fs::write(&file, &bytes).unwrap();
    // What a process leaves that was killed meanwhile.
    fs::write(folder.path().join("spool.redb.new"), &bytes[..9000]).unwrap();
    let storage = Storage::open(&on(folder.path())).unwrap();
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.recovered, counts.files_set_aside), (20, 1));
    assert!(fs::read(folder.path().join("damaged-1.redb")).unwrap() == bytes, "it is as it was");
    storage.close();
    // Or between the two renames.
    fs::rename(&file, folder.path().join("spool.redb.new")).unwrap();
    assert!(SpoolFolder::exists(folder.path()));
    let storage = Storage::open(&on(folder.path())).unwrap();
    assert_eq!(replay_all(&storage).await.len(), 20);
}

#[tokio::test]
async fn what_is_missing_after_a_salvage_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&on(folder.path())).unwrap();
    for n in 0..5 {
        append(&storage, message(format!("{n}").repeat(3000))).await.unwrap();
    }
    storage.close();
    let file = folder.path().join("spool.redb");
    let mut bytes = fs::read(&file).unwrap();
    bytes[64] ^= 1;
    // Also one of the messages.
    let at = bytes.windows(9).position(|bytes| bytes == b"222222222").unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let storage = Storage::open(&on(folder.path())).unwrap();
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.recovered, counts.damaged, counts.waiting, counts.held_aside), (5, 1, 4, 1));
    assert_balanced(&storage);
    let mut events = storage.common.events.subscribe();
    let event = events.next().await.unwrap().to_string();
    assert!(event.contains("damaged-1.redb") && event.contains("4 messages were saved"), "{event}");
}

#[test]
fn each_of_two_who_close_leaves_the_folder_free() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let mut options = on(folder.path());
        options.fsync = Fsync::Never;
        let storage = Storage::open(&options).unwrap();
        let (barrier, one_at_a_time) = (Barrier::new(2), Mutex::new(()));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    barrier.wait();
                    storage.close();
                    let _guard = one_at_a_time.lock().unwrap();
                    FolderLock::acquire(folder.path()).unwrap();
                });
            }
        });
    }
}

#[tokio::test]
async fn rows_under_other_keys_are_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&on(folder.path())).unwrap();
    append(&storage, message("a")).await.unwrap();
    assert_eq!(payload(&read(&storage, &queue(&storage, &message(""))).await.unwrap()[0].1), "a");
    storage.close();
    let file = folder.path().join("spool.redb");
    let bytes = fs::read(&file).unwrap();
    let key = crate::store::Key::message(0, 0).encode();
    for at in 0..key.len() {
        let mut bytes = bytes.clone();
        let places: Vec<_> = (0..bytes.len() - key.len()).filter(|n| bytes[*n..].starts_with(&key)).collect();
        assert!(!places.is_empty());
        places.into_iter().for_each(|place| bytes[place + at] ^= 4);
        fs::write(&file, bytes).unwrap();
        let storage = Storage::open(&on(folder.path())).unwrap();
        assert!(replay_all(&storage).await.is_empty(), "byte {at}");
        assert_balanced(&storage);
    }
}

//! Flipped bits and missing ends of the file: whatever they do, the folder can be opened, and no message is
//! there again and again.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    ops::Range,
    path::Path,
};

use super::{append, assert_balanced, message, pinned, replay_all};
use crate::{Fsync, SpoolOptions, storage::Storage, store::Key};

/// Sets the number of random flips, of which there are few otherwise.
const FLIPS: &str = "METAQ_SPOOL_FLIPS";

fn flips() -> usize {
    env::var(FLIPS).ok().and_then(|flips| flips.parse().ok()).unwrap_or(20)
}

const MESSAGES: usize = 1000;

/// The bytes of a page.
const PAGE: usize = 4096;

fn options(folder: &Path) -> SpoolOptions {
    let mut options = SpoolOptions::new(folder);
    options.fsync = Fsync::Never;
    options
}

/// Spools messages to three queues.
async fn spool(storage: &Storage, numbers: Range<usize>) {
    let submit = |n| storage.try_submit(pinned(format!("{n:0100}"), (n % 3) as i32)).unwrap();
    let pending: Vec<_> = numbers.map(submit).collect();
    for pending in pending {
        pending.outcome().await.unwrap();
    }
}

/// The file of a spool with messages in three queues, closed or as a kill leaves it.
async fn file(is_closed: bool) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&options(folder.path())).unwrap();
    spool(&storage, 0..MESSAGES).await;
    if is_closed {
        storage.close();
    }
    fs::read(folder.path().join("spool.redb")).unwrap()
}

/// Opens a folder with this file, replays and spools, and returns the number of messages that were found.
async fn use_file(bytes: &[u8], what: &str) -> usize {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("spool.redb"), bytes).unwrap();
    let storage = Storage::open(&options(folder.path())).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_balanced(&storage);
    let mut found = replay_all(&storage).await;
    let count = found.len();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), count, "{what}: some were there again");
    assert!(found.iter().all(|payload| payload.len() == 100), "{what}");
    let late = append(&storage, message("late")).await;
    // It may be the first to meet the damage.
    if late.is_err() {
        append(&storage, message("late")).await.unwrap();
    }
    assert_eq!(replay_all(&storage).await, ["late"], "{what}");
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.waiting, storage.common.index.filled().len()), (0, 0), "{what}: {counts:?}");
    assert_balanced(&storage);
    storage.close();
    let storage = Storage::open(&options(folder.path())).unwrap();
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.recovered, storage.common.was_closed), (0, true), "{what}: {counts:?}");
    count
}

#[tokio::test]
async fn a_flipped_header_loses_the_last_commit_at_most() {
    for is_closed in [true, false] {
        let clean = file(is_closed).await;
        let mut lost = Vec::new();
        // The flags, and others.
        let all = flips() >= 320;
        for at in (0..320).filter(|at| all || *at == 9 || fastrand::u32(..16) == 0) {
            let mut bytes = clean.clone();
            bytes[at] ^= 1 << fastrand::u32(..8);
            let what = format!("byte {at}, closed {is_closed}");
            if use_file(&bytes, &what).await < MESSAGES {
                lost.push(at);
            }
        }
        // The flag of the current commit, and the place of its rows: those of the commit before are found.
        let is_place =
            |at: &usize| !is_closed && [9..10, 72..80, 200..208].iter().any(|place| place.contains(at));
        assert!(lost.iter().all(is_place), "closed {is_closed}: bytes {lost:?}");
    }
}

#[tokio::test]
async fn flipped_pages_prevent_nothing_and_repeat_nothing() {
    let mut most_lost = BTreeMap::<_, usize>::new();
    for is_closed in [true, false] {
        let clean = file(is_closed).await;
        let used: Vec<_> =
            (0..clean.len()).step_by(64).filter(|at| clean[*at..*at + 64] != [0; 64]).collect();
        for _ in 0..flips() {
            let at = used[fastrand::usize(..used.len())] + fastrand::usize(..64);
            let bit = fastrand::u32(..8);
            let mut bytes = clean.clone();
            bytes[at] ^= 1 << bit;
            let found = use_file(&bytes, &format!("bit {bit} of byte {at}, closed {is_closed}")).await;
            let lost = MESSAGES - found;
            *most_lost
                .entry(if lost > 100 {
                    "more"
                } else if lost > 0 {
                    "some"
                } else {
                    "none"
                })
                .or_default() += 1;
        }
    }
    eprintln!("{} flips each: messages lost {most_lost:?}", flips());
}

#[tokio::test]
async fn flipped_keys_repeat_nothing() {
    let clean = file(true).await;
    for _ in 0..flips() {
        let number = fastrand::u64(..MESSAGES as u64);
        let key = Key::message((number % 3) as u32, number).encode();
        let mut bytes = clean.clone();
        let at = fastrand::usize(..key.len());
        let bit = fastrand::u32(..8);
        let places: Vec<_> = (0..bytes.len() - key.len()).filter(|n| bytes[*n..].starts_with(&key)).collect();
        places.into_iter().for_each(|place| bytes[place + at] ^= 1 << bit);
        let found = use_file(&bytes, &format!("bit {bit} of byte {at} of key {number}")).await;
        assert!(found > MESSAGES / 2, "{found}");
    }
}

#[tokio::test]
async fn a_file_of_any_length_can_be_opened() {
    let clean = file(true).await;
    let lens = [0, 1, 8, 9, 10, 64, 191, 192, 300, 319, 320, 4095, 4096, 9000, clean.len() - 1];
    for len in lens {
        use_file(&clean[..len], &format!("{len} bytes")).await;
    }
}

#[tokio::test]
async fn keys_that_mislead_searches_repeat_nothing() {
    let clean = file(true).await;
    // In the last page of messages, where a search for what is behind them is led back.
    for number in (900..MESSAGES as u64).rev().filter(|number| number % 3 == 2).step_by(2) {
        let key = Key::message(2, number).encode();
        let mut bytes = clean.clone();
        let places: Vec<_> = (0..bytes.len() - key.len()).filter(|n| bytes[*n..].starts_with(&key)).collect();
        places.into_iter().for_each(|place| bytes[place + 6] ^= 1);
        let found = use_file(&bytes, &format!("key {number}")).await;
        assert!(found >= MESSAGES - 100, "key {number}: {found}");
    }
}

/// Spoils a page, from its first byte on, and describes how.
fn spoil(page: &mut [u8]) -> String {
    match fastrand::u32(..4) {
        0 => {
            page.fill(0);
            "zeros".to_owned()
        }
        1 => {
            page.fill_with(|| fastrand::u8(..));
            "anything".to_owned()
        }
        _ => {
            page[0] ^= 1 << fastrand::u32(..8);
            format!("of type {}", page[0])
        }
    }
}

/// The pages of the tree, and those that were replaced.
fn pages(file: &[u8]) -> impl Iterator<Item = usize> + '_ {
    (1..file.len() / PAGE).map(|page| page * PAGE).filter(|page| [1, 2].contains(&file[*page]))
}

/// The most rows of a page, which has 100 bytes of payload for each.
const ROWS: usize = 28;

#[tokio::test]
async fn a_page_that_is_none_any_more_loses_its_messages_at_most() {
    for is_closed in [true, false] {
        let clean = file(is_closed).await;
        for page in pages(&clean) {
            let mut bytes = clean.clone();
            let what = spoil(&mut bytes[page..page + PAGE]);
            let what = format!("page {} is {what}, closed {is_closed}", page / PAGE);
            let found = use_file(&bytes, &what).await;
            assert!(found >= MESSAGES - ROWS, "{what}: {found}");
        }
    }
}

#[tokio::test]
async fn a_page_that_is_none_any_more_brings_back_few_messages() {
    for is_closed in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(&options(folder.path())).unwrap();
        spool(&storage, 0..MESSAGES).await;
        assert_eq!(replay_all(&storage).await.len(), MESSAGES);
        spool(&storage, MESSAGES..MESSAGES + 300).await;
        if is_closed {
            storage.close();
        }
        let clean = fs::read(folder.path().join("spool.redb")).unwrap();
        let mut brought_back = Vec::new();
        for page in pages(&clean) {
            let mut bytes = clean.clone();
            let what = spoil(&mut bytes[page..page + PAGE]);
            let what = format!("page {} is {what}, closed {is_closed}", page / PAGE);
            let found = use_file(&bytes, &what).await;
            assert!(found >= 300 - ROWS, "{what}: {found}");
            if found > 300 + ROWS {
                brought_back.push(what);
            }
        }
        // The page with the rows about queues, and those above it.
        assert!(brought_back.len() <= 4, "{brought_back:?}");
    }
}

/// A file with queues that were emptied, and messages of a byte to twenty pages.
async fn varied_file(is_closed: bool, live: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&options(folder.path())).unwrap();
    let payload = |n: usize| format!("{n:06}{}", "x".repeat([1, 100, 5000, 80_000][n % 7 % 4]));
    let spool = async |numbers: Range<usize>, partitions: usize| {
        let submit = |n| storage.try_submit(pinned(payload(n), (n % partitions) as i32)).unwrap();
        for portion in numbers.collect::<Vec<_>>().chunks(100) {
            let pending: Vec<_> = portion.iter().copied().map(submit).collect();
            for pending in pending {
                pending.outcome().await.unwrap();
            }
        }
    };
    spool(0..400, 40).await;
    assert_eq!(replay_all(&storage).await.len(), 400);
    spool(400..400 + live, 17).await;
    if is_closed {
        storage.close();
    }
    fs::read(folder.path().join("spool.redb")).unwrap()
}

#[tokio::test]
async fn a_page_among_long_and_short_messages_hides_no_others() {
    const LIVE: usize = 300;
    for is_closed in [true, false] {
        let clean = varied_file(is_closed, LIVE).await;
        let mut brought_back = Vec::new();
        let all: Vec<_> = pages(&clean).collect();
        let tried: Vec<_> = if flips() >= 320 { all } else { all.into_iter().step_by(25).collect() };
        for page in tried {
            let mut bytes = clean.clone();
            let what = spoil(&mut bytes[page..page + PAGE]);
            let what = format!("page {} is {what}, closed {is_closed}", page / PAGE);
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("spool.redb"), &bytes).unwrap();
            let storage = Storage::open(&options(folder.path())).unwrap();
            let found = replay_all(&storage).await;
            let numbers: BTreeSet<usize> = found.iter().map(|text| text[..6].parse().unwrap()).collect();
            assert_eq!(numbers.len(), found.len(), "{what}: some were there again");
            let live = numbers.range(400..).count();
            assert!(live >= LIVE - 60, "{what}: {live}");
            if numbers.len() > live + 60 {
                brought_back.push((what, numbers.len() - live));
            }
            assert_balanced(&storage);
        }
        assert!(brought_back.len() <= 4, "{brought_back:?}");
    }
}

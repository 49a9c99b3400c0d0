//! The rows in the leaf pages of a redb file, version 3 of its format, found without its tree.
//!
//! A leaf has its type, the number of its rows, the ends of all keys, the ends of all values, the keys, and
//! the values. It begins where a page does, and is longer than one if its rows are.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
};

use super::{Key, seal};

const PAGE: usize = 4096;
const LEAF: u8 = 1;
/// The type, and the number of rows.
const HEAD: usize = 4;
/// The length of each of the ends.
const END: usize = 4;

/// Calls `each` with the rows of all leaves in the file: in no order, those included that were removed or
/// replaced since. It returns which rows are whole. Pages that the disk can't read are left out.
pub(super) fn each_row(
    path: &Path,
    each: &mut dyn FnMut(Key, Vec<u8>) -> io::Result<bool>,
) -> io::Result<()> {
    let mut file = File::open(path)?;
    let len = file.seek(SeekFrom::End(0))?;
    each_row_of(&mut file, len, each)
}

fn each_row_of(
    file: &mut (impl Read + Seek),
    len: u64,
    each: &mut dyn FnMut(Key, Vec<u8>) -> io::Result<bool>,
) -> io::Result<()> {
    let mut leaf = Vec::new();
    // The first page is the header.
    let mut at = PAGE as u64;
    while at < len {
        leaf.clear();
        let found = read(file, at, PAGE, &mut leaf).map(|()| rows(&leaf)).unwrap_or_default();
        let end = found.iter().map(|(_, value)| value.end).max().unwrap_or(0);
        // Rows that can't be read to their end are not whole.
        let _ = read(file, at + leaf.len() as u64, end.saturating_sub(leaf.len()), &mut leaf);
        at += PAGE as u64;
        let mut is_leaf = false;
        for (key, value) in found {
            let (Some(key), Some(value)) = (leaf.get(key), leaf.get(value)) else { continue };
            let mut row = value.to_vec();
            seal(key, &mut row);
            if let Some(key) = Key::decode(key) {
                is_leaf |= each(key, row)?;
            }
        }
        if is_leaf {
            // What is within a row is no page, whatever it looks like.
            at += (end.saturating_sub(1) / PAGE * PAGE) as u64;
        }
    }
    Ok(())
}

/// Appends what a file has at a place.
fn read(file: &mut (impl Read + Seek), at: u64, count: usize, into: &mut Vec<u8>) -> io::Result<()> {
    if count == 0 {
        return Ok(());
    }
    file.seek(SeekFrom::Start(at))?;
    file.by_ref().take(count as u64).read_to_end(into).map(drop)
}

/// The places of keys and values, if this is the first page of a leaf with keys of this table.
fn rows(page: &[u8]) -> Vec<(Range<usize>, Range<usize>)> {
    let [LEAF, _, a, b, ..] = *page else { return Vec::new() };
    let count = usize::from(u16::from_le_bytes([a, b]));
    let end = |n: usize| {
        let bytes = page.get(HEAD + n * END..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let first = HEAD + 2 * count * END;
    if end(0) != Some(first + Key::LEN) {
        return Vec::new();
    }
    // One key behind the other, as all have one length.
    let key = |n: usize| first + n * Key::LEN..first + (n + 1) * Key::LEN;
    let value = |n: usize| {
        let start = if n == 0 { first + count * Key::LEN } else { end(count + n - 1)? };
        Some(start..end(count + n)?).filter(|value| value.start <= value.end)
    };
    (0..count).filter_map(|n| Some((key(n), value(n)?))).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, HashSet},
        fs,
    };

    use super::*;
    use crate::store::{Change, Store as _, disk::DiskStore};

    #[test]
    fn rows_of_every_length_are_found_and_nothing_within_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = DiskStore::open(folder.path(), false).unwrap();
        let lens = [0, 5, 100, 4000, 4096, 9000, 100_000, 1 << 20, 3 << 20];
        let rows: Vec<_> = (0..300_usize)
            .map(|n| (Key::message(7, n as u64), vec![n as u8; 5 + lens[n % lens.len()] % (1 << 21)]))
            .collect();
        for rows in rows.chunks(50) {
            let changes: Vec<_> = rows.iter().map(|(key, row)| Change::Put(*key, row.clone())).collect();
            store.commit(&changes).unwrap();
        }
        // A row with a file in it, whose rows are none of this file.
        let other = tempfile::tempdir().unwrap();
        let mut inner = DiskStore::open(other.path(), false).unwrap();
        inner.commit(&[Change::Put(Key::message(8, 1), vec![9; 100])]).unwrap();
        drop(inner);
        let file = fs::read(other.path().join("spool.redb")).unwrap();
        store.commit(&[Change::Put(Key::message(9, 1), file.clone())]).unwrap();
        drop(store);
        let mut found = BTreeMap::new();
        each_row(&folder.path().join("spool.redb"), &mut |key, row| {
            let _ = found.insert(key, row);
            Ok(true)
        })
        .unwrap();
        let mut expected: BTreeMap<_, _> = rows.into_iter().collect();
        expected.insert(Key::message(9, 1), file);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        assert!(found == expected);
    }

    /// A file with a page that can't be read.
    struct BadDisk {
        file: File,
        at: u64,
        bad: u64,
    }

    impl Read for BadDisk {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.at / PAGE as u64 == self.bad {
                return Err(io::Error::from_raw_os_error(5));
            }
            let most = PAGE - (self.at % PAGE as u64) as usize;
            let most = most.min(into.len());
            let count = self.file.read(&mut into[..most])?;
            self.at += count as u64;
            Ok(count)
        }
    }

    impl Seek for BadDisk {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.at = self.file.seek(to)?;
            Ok(self.at)
        }
    }

    #[test]
    fn a_page_that_the_disk_cant_read_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = DiskStore::open(folder.path(), false).unwrap();
        let rows: Vec<_> = (0..200).map(|n| Change::Put(Key::message(7, n), vec![3; 500])).collect();
        store.commit(&rows).unwrap();
        store.commit(&[Change::Put(Key::message(8, 1), vec![4; 30_000])]).unwrap();
        drop(store);
        let path = folder.path().join("spool.redb");
        let len = path.metadata().unwrap().len();
        let count = |bad| {
            let mut disk = BadDisk { file: File::open(&path).unwrap(), at: 0, bad };
            let mut keys = HashSet::new();
            each_row_of(&mut disk, len, &mut |key, _| Ok(keys.insert(key))).unwrap();
            keys.len()
        };
        let all = count(u64::MAX);
        let fewest = (1..len / PAGE as u64).map(count).min();
        assert!(
            all > 200 && fewest.is_some_and(|fewest| (all - 8..all).contains(&fewest)),
            "{fewest:?} of {all}"
        );
    }

    #[test]
    fn pages_of_any_content_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        for _ in 0..200 {
            let mut bytes: Vec<u8> = (0..fastrand::usize(..20_000)).map(|_| fastrand::u8(..)).collect();
            for page in bytes.chunks_mut(PAGE) {
                page[0] = LEAF;
                if let Some(count) = page.get_mut(2..4) {
                    count.copy_from_slice(&fastrand::u16(..400).to_le_bytes());
                    let count = usize::from(u16::from_le_bytes([count[0], count[1]]));
                    if let Some(end) = page.get_mut(HEAD..HEAD + END) {
                        end.copy_from_slice(&((HEAD + 2 * count * END + Key::LEN) as u32).to_le_bytes());
                    }
                }
            }
            fs::write(&path, &bytes).unwrap();
            each_row(&path, &mut |_, _| Ok(fastrand::bool())).unwrap();
        }
    }
}

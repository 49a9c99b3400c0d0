//! The rows in the leaf pages of a redb file, version 3 of its format, found without its tree.
//!
//! A leaf has its type, the number of its rows, the ends of all keys, the ends of all values, the keys, and
//! the values. It begins where a page does, and is longer than one if its rows are.

use std::{
    fs::File,
    io::{self, BufReader, Read as _},
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
/// replaced since. It returns which rows are whole.
pub(super) fn each_row(
    path: &Path,
    each: &mut dyn FnMut(Key, Vec<u8>) -> io::Result<bool>,
) -> io::Result<()> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut leaf = Vec::new();
    let (mut at, mut read) = (0, 0);
    loop {
        file.seek_relative(at - read)?;
        leaf.clear();
        read = at + file.by_ref().take(PAGE as u64).read_to_end(&mut leaf)? as i64;
        if leaf.is_empty() {
            return Ok(());
        }
        at += PAGE as i64;
        let rows = rows(&leaf);
        let end = rows.iter().map(|(_, value)| value.end).max().unwrap_or(0);
        read += file.by_ref().take(end.saturating_sub(leaf.len()) as u64).read_to_end(&mut leaf)? as i64;
        let mut is_leaf = false;
        for (key, value) in rows {
            let (Some(key), Some(value)) = (leaf.get(key), leaf.get(value)) else { continue };
            let mut row = value.to_vec();
            seal(key, &mut row);
            if let Some(key) = Key::decode(key) {
                is_leaf |= each(key, row)?;
            }
        }
        if is_leaf {
            // What is within a row is no page, whatever it looks like.
            at += (end.saturating_sub(1) / PAGE * PAGE) as i64;
        }
    }
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
    use std::{collections::BTreeMap, fs};

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

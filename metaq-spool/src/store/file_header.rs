//! The header of a redb file, version 3 of its format, as far as damage in it is looked after here.
//!
//! It has a magic number, flags, the sizes of pages and regions, and two commit slots, of which a flag names
//! the current one. A slot has a version, the roots of two trees (rows, and the library's own tables) and a
//! checksum.

/// The length of the header.
pub(super) const LEN: usize = 320;

const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";
const FLAGS: usize = 9;
const SECOND_SLOT_IS_CURRENT: u8 = 1;
const NEEDS_RECOVERY: u8 = 2;
const TWO_PHASE: u8 = 4;
const PAGE_SIZE: usize = 12;
const REGION_HEADER_PAGES: usize = 16;
const REGION_PAGES: usize = 20;
const FULL_REGIONS: usize = 24;
const LAST_REGION_PAGES: usize = 28;
const SLOTS: [usize; 2] = [64, 192];
const VERSION: u8 = 3;
/// Within a slot: whether the tree of the library's own tables has a root.
const HAS_OWN_TABLES: usize = 2;

const PAGE: u64 = 4096;
/// The pages of a region, 4 GiB.
const PAGES: u64 = 1 << 20;

/// Has the library check the header that it reads, also after a clean end: otherwise damage in it would lead
/// to other rows, or to none.
pub(super) fn have_checked(offset: u64, read: &mut [u8]) {
    if offset == 0 && read.len() == LEN {
        read[FLAGS] |= NEEDS_RECOVERY;
    }
}

/// Whether the file is one of another version of the library, and not one with damage: both slots say so.
pub(super) fn is_of_other_version(header: &[u8; LEN]) -> bool {
    let [first, second] = SLOTS.map(|slot| header[slot]);
    header.starts_with(&MAGIC) && first == second && first != VERSION && first != 0
}

/// The length of the file that the header describes, if it makes sense.
pub(super) fn described_len(header: &[u8; LEN]) -> Option<u64> {
    let field = |at: usize| {
        u64::from(u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
    };
    let (full, last) = (field(FULL_REGIONS), field(LAST_REGION_PAGES));
    (full < 1 << 10 && last < PAGES).then(|| PAGE + (full * PAGES + last) * PAGE)
}

/// Headers under which the library may read a damaged file of this length, the most likely first: with the
/// constants as they have to be, for each slot, with the library's own tables and without them, as damage in
/// those makes no row unreadable. The checksums of slots are not looked at any more. Each is returned with
/// whether its slot is the current one.
pub(super) fn repaired(header: &[u8; LEN], len: u64) -> Vec<([u8; LEN], bool)> {
    let mut header = *header;
    header[..MAGIC.len()].copy_from_slice(&MAGIC);
    let mut set = |at: usize, value: u64| {
        header[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap_or(0).to_le_bytes());
    };
    set(PAGE_SIZE, PAGE);
    set(REGION_HEADER_PAGES, 0);
    set(REGION_PAGES, PAGES);
    let pages = len.saturating_sub(PAGE) / PAGE;
    set(FULL_REGIONS, pages / PAGES);
    set(LAST_REGION_PAGES, pages % PAGES);
    for slot in SLOTS {
        header[slot] = VERSION;
    }
    let current = header[FLAGS] & SECOND_SLOT_IS_CURRENT;
    let mut all = Vec::new();
    for slot in [current, current ^ SECOND_SLOT_IS_CURRENT] {
        for has_own_tables in [true, false] {
            let mut repaired = header;
            repaired[FLAGS] = slot | TWO_PHASE;
            if !has_own_tables {
                for slot in SLOTS {
                    repaired[slot + HAS_OWN_TABLES] = 0;
                }
            }
            all.push((repaired, slot == current));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slot_of_another_version_is_damage() {
        let mut header = [0; LEN];
        header[..MAGIC.len()].copy_from_slice(&MAGIC);
        for slot in SLOTS {
            header[slot] = VERSION;
        }
        assert!(!is_of_other_version(&header));
        header[SLOTS[0]] = 4;
        assert!(!is_of_other_version(&header));
        header[SLOTS[1]] = 4;
        assert!(is_of_other_version(&header));
        header[0] ^= 1;
        assert!(!is_of_other_version(&header), "it is no file of the library");
    }

    #[test]
    fn a_repaired_header_describes_the_length() {
        for pages in [1, 1000, PAGES, 3 * PAGES + 7] {
            let len = PAGE + pages * PAGE;
            let all = repaired(&[0xff; LEN], len);
            assert_eq!(all.len(), 4);
            assert!(all.iter().all(|(header, _)| described_len(header) == Some(len)), "{pages}");
        }
        assert_eq!(described_len(&[0xff; LEN]), None);
    }
}

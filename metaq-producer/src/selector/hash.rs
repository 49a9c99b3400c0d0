//! The hash that keys are spread by.

use xxhash_rust::xxh64::xxh64;

/// The hash of a key that [`KeyHashSelector`](crate::selector::KeyHashSelector) and
/// [`RendezvousSelector`](crate::selector::RendezvousSelector) choose by: XXH64 with seed 0, as it is
/// specified and to be had in every language. It never changes, so that other programs can find a key's
/// partition, too.
///
/// ```
/// use metaq_producer::selector::key_hash;
///
/// assert_eq!(key_hash(b""), 0xef46_db37_51d8_e999);
/// assert_eq!(key_hash(b"abc"), 0x44bc_2cf5_ad77_0999);
/// ```
#[must_use]
pub fn key_hash(key: &[u8]) -> u64 {
    xxh64(key, 0)
}

//! Taking over a session of ZooKeeper, whose id and password are all it takes.

/// What a server makes passwords of, as a seed of Java's random numbers.
const SECRET: i64 = 0xB341_5C00;

/// The request that closes a session: its length, an xid and the type.
pub(super) const CLOSE: [u8; 12] = [0, 0, 0, 8, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xf5];

/// The length of the answer to a [`takeover`].
pub(super) const ANSWER: usize = 4 + 37;

/// The request that takes over a session.
pub(super) fn takeover(id: i64) -> Vec<u8> {
    let mut request = Vec::with_capacity(49);
    for part in [
        &45_i32.to_be_bytes()[..], // its length
        &[0; 4],                   // version of the protocol
        &[0; 8],                   // the last change that was seen
        &10_000_i32.to_be_bytes(), // session timeout, milliseconds
        &id.to_be_bytes(),
        &16_i32.to_be_bytes(),
        &password(id),
        &[0], // not read-only
    ] {
        request.extend_from_slice(part);
    }
    request
}

/// Whether the answer to a [`takeover`] grants it; an expired session is answered with a timeout and an id of 0.
pub(super) fn is_taken_over(answer: &[u8], id: i64) -> bool {
    answer.get(12..20) == Some(&id.to_be_bytes())
}

/// The first 16 bytes of Java's random numbers.
fn password(id: i64) -> [u8; 16] {
    const MULTIPLIER: i64 = 0x5_DEEC_E66D;
    const MASK: i64 = (1 << 48) - 1;
    let mut seed = (id ^ SECRET ^ MULTIPLIER) & MASK;
    let mut password = [0; 16];
    for four in password.chunks_exact_mut(4) {
        seed = (seed.wrapping_mul(MULTIPLIER) + 0xB) & MASK;
        four.copy_from_slice(&((seed >> 16) as i32).to_le_bytes());
    }
    password
}

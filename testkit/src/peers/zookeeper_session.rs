//! Taking over a session of ZooKeeper, which takes its id and password only.

/// The seed from which a server makes passwords, by Java's random numbers.
const SECRET: i64 = 0xB341_5C00;

/// Returns the requests that take over a session and close it.
pub(super) fn takeover_and_close(id: i64) -> Vec<u8> {
    let mut requests = Vec::with_capacity(61);
    for part in [
        &45_i32.to_be_bytes()[..], // its length
        &[0; 4],                   // version of the protocol
        &[0; 8],                   // the last change that was seen
        &10_000_i32.to_be_bytes(), // session timeout, milliseconds
        &id.to_be_bytes(),
        &16_i32.to_be_bytes(),
        &password(id),
        &[0],                     // not read-only
        &8_i32.to_be_bytes(),     // the length of the second request
        &1_i32.to_be_bytes(),     // its xid
        &(-11_i32).to_be_bytes(), // close the session
    ] {
        requests.extend_from_slice(part);
    }
    requests
}

/// Returns whether the response grants the session; an expired one has an id of 0. `None` if there is no
/// response.
pub(super) fn is_taken_over(answer: &[u8], id: i64) -> Option<bool> {
    // After the response's length, the version of the protocol and the session timeout.
    answer.get(12..20).map(|granted| granted == id.to_be_bytes())
}

/// Returns the first 16 bytes of Java's random numbers.
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

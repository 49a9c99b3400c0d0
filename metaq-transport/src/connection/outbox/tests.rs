use super::*;
use metaq_protocol::{Opaque, PutCommand, Topic};

fn put(n: u16, size: usize) -> Command {
    let topic = Topic::new("t").unwrap();
    let mut put =
        PutCommand::new(topic, 0, Bytes::from(vec![b'a' + (n % 26) as u8; size]), Some("attribute"));
    put.opaque = Opaque(n.into());
    put.into()
}

fn puts(sizes: &[usize]) -> Vec<Command> {
    sizes.iter().enumerate().map(|(n, size)| put(n as u16, *size)).collect()
}

fn filled(commands: &[Command]) -> Outbox {
    let mut outbox = Outbox::default();
    commands.iter().enumerate().for_each(|(n, command)| outbox.push(n as u64, command));
    outbox
}

fn expected<'a>(commands: impl IntoIterator<Item = &'a Command>) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    commands.into_iter().for_each(|command| command.encode(&mut bytes));
    bytes.to_vec()
}

/// Writes everything through a few slices, at most `step` bytes at a time.
fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while !outbox.is_empty() {
        let mut slices = [IoSlice::new(&[]); 3];
        let used = outbox.fill_slices(&mut slices);
        let next: Vec<u8> =
            slices[..used].iter().flat_map(|slice| slice.iter().copied()).take(step).collect();
        assert!(!next.is_empty(), "something is left but no slice shows it");
        out.extend_from_slice(&next);
        outbox.advance(next.len());
    }
    assert_eq!((outbox.voids, outbox.void_inline, outbox.large_len, outbox.inline.len()), (0, 0, 0, 0));
    out
}

const SIZES: [usize; 7] = [5, BY_REFERENCE_FROM, 0, BY_REFERENCE_FROM + 1, BY_REFERENCE_FROM * 3, 17, 18];

#[test]
fn small_and_large_frames_are_in_order_however_writes_are_cut() {
    let commands = puts(&SIZES);
    let wanted = expected(&commands);
    for step in [1, 7, 100, BY_REFERENCE_FROM, usize::MAX] {
        let mut outbox = filled(&commands);
        assert!(drain(&mut outbox, step) == wanted, "step {step}");
        assert_eq!(outbox.first_unwritten(), None);
    }
}

#[test]
fn void_frames_are_skipped_wherever_they_are() {
    let commands = puts(&SIZES);
    for begun in [0, 1, 60, 200, BY_REFERENCE_FROM + 90] {
        let first = {
            let mut outbox = filled(&commands);
            outbox.advance(begun);
            outbox.first_unwritten().unwrap()
        };
        for pattern in 0..1_u32 << SIZES.len() {
            let is_void = |n: usize| n as u64 >= first && pattern & (1 << n) != 0;
            let kept = commands.iter().enumerate().filter(|(n, _)| !is_void(*n));
            let wanted = expected(kept.map(|(_, command)| command)).split_off(begun);
            for (step, removes) in [(7_000, false), (usize::MAX, false), (usize::MAX, true)] {
                let mut outbox = filled(&commands);
                outbox.advance(begun);
                let mut bodies = 0;
                for n in (0..SIZES.len()).filter(|n| is_void(*n)).rev() {
                    outbox.void(n as u64, |_| bodies += 1);
                    outbox.void(n as u64, |_| panic!("it is void already"));
                }
                if removes && !outbox.is_empty() {
                    outbox.remove_voids();
                }
                let large = |n: &usize| is_void(*n) && SIZES[*n] >= BY_REFERENCE_FROM;
                assert_eq!(bodies, (0..SIZES.len()).filter(large).count());
                assert!(drain(&mut outbox, step) == wanted, "begun {begun} pattern {pattern:b}");
            }
        }
    }
}

#[test]
fn what_was_written_is_known_also_if_a_destructor_panics() {
    struct Panics;
    impl AsRef<[u8]> for Panics {
        fn as_ref(&self) -> &[u8] {
            &[7; BY_REFERENCE_FROM]
        }
    }
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("the payload's destructor panics");
        }
    }
    for has_void in [false, true] {
        let mut outbox = filled(&puts(&[5]));
        if has_void {
            outbox.push(1, &puts(&[5])[0]);
            outbox.void(1, |_| {});
        }
        let topic = Topic::new("t").unwrap();
        outbox.push(2, &PutCommand::new(topic, 0, Bytes::from_owner(Panics), None).into());
        outbox.push(3, &puts(&[5])[0]);
        outbox.push(4, &puts(&[5])[0]);
        let all: usize = outbox.frames.iter().filter(|frame| !frame.void).map(QueuedFrame::len).sum();
        let last = outbox.frames.back().unwrap().len();
        let advanced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            outbox.advance(all - last);
        }));
        assert!(advanced.is_err());
        assert_eq!(outbox.first_unwritten(), Some(4), "with a void frame: {has_void}");
        std::mem::forget(outbox);
    }
}

#[test]
fn only_what_was_begun_remains_of_a_connection_that_stalls() {
    let commands = puts(&SIZES);
    for begun in [0, 1, 25, 60, 200, BY_REFERENCE_FROM + 30] {
        let mut outbox = filled(&commands);
        outbox.advance(begun);
        let first = outbox.first_unwritten().unwrap();
        let mut bodies = 0;
        outbox.remove_unwritten(|_| bodies += 1);
        let whole = expected(commands.iter().take(first as usize));
        assert!(drain(&mut outbox, usize::MAX) == whole[begun..], "begun {begun}");
        let large = SIZES[first as usize..].iter().filter(|size| **size >= BY_REFERENCE_FROM).count();
        assert_eq!(bodies, large);
    }
}

#[test]
fn a_small_frame_among_many_that_expire_is_moved_seldom() {
    let commands = puts(&[4096; 2_000]);
    let mut outbox = filled(&commands);
    let (mut moved, mut before) = (0, outbox.frames.len());
    for n in 0..1_999 {
        outbox.void(n, |_| {});
        if outbox.frames.len() < before {
            moved += outbox.frames.len();
            before = outbox.frames.len();
        }
    }
    assert!(moved <= 2_000, "{moved} frames were moved for 1999 that expired");
    assert!(outbox.inline.len() < 64 * 4200, "void frames take no memory for long");
    assert!(drain(&mut outbox, usize::MAX) == expected(&commands[1_999..]));
}

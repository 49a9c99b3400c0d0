use std::time::Duration;

use bytes::Bytes;
use metaq_protocol::{BooleanCommand, BrokerAddr, PutResponse, Response, Status};

use super::*;
use crate::{ResponseBody, TransportErrorKind};

fn request(deadline: Instant, frame: u64, bytes: u32) -> SlotRequest {
    SlotRequest { deadline, frame, bytes, is_put: true, listener: None }
}

fn deliver(slots: &mut Slots, key: SlotKey) -> (Delivered, Option<Completion>) {
    let response = BooleanCommand::new(Status::SUCCESS, Bytes::new(), key.opaque());
    let mut completion = None;
    let response = CompactResponse::Other(Box::new(response.into()));
    (
        slots.deliver(key.opaque(), response, Instant::now(), |completed| completion = Some(completed)),
        completion,
    )
}

fn poll(slots: &mut Slots, key: SlotKey) -> Option<ResponseResult> {
    slots.take_outcome(key)
}

/// Fails the overdue requests, where frames from number `first_unwritten` on were not written. With
/// `reporting`, the timeouts are not reported to the listeners yet.
fn expire(slots: &mut Slots, now: Instant, first_unwritten: u64, reporting: bool) -> Vec<(Progress, u32)> {
    let mut ended = Vec::new();
    let progress_of = |frame| if frame >= first_unwritten { Progress::NotWritten } else { Progress::Written };
    let mut keys = Vec::new();
    slots.expire(now, progress_of, error, |failed, completion| {
        ended.push((failed.progress, completion.bytes));
        keys.push(failed.key);
    });
    if !reporting {
        assert!(keys.into_iter().all(|key| slots.timeout_reported(key).is_none()));
    }
    ended
}

fn take(slots: &mut Slots, request: SlotRequest) -> SlotKey {
    slots.expect_by(request.deadline);
    slots.take(request).unwrap()
}

fn error(progress: Progress) -> TransportError {
    TransportError::new(TransportErrorKind::TimedOut, BrokerAddr::new("h", 1).unwrap())
        .with_progress(progress)
}

#[test]
fn an_opaque_leads_back_to_its_slot() {
    for (index, generation) in [(0, 0), (1, 0), (65535, 1), (7, 65535), (65535, 65535), (0, 32768)] {
        let key = SlotKey { index, generation };
        assert_eq!(SlotKey::from_opaque(key.opaque()), key);
    }
}

#[test]
fn a_repeated_answer_does_not_reach_the_next_user_of_the_slot() {
    let now = Instant::now();
    let mut slots = Slots::default();
    let first = take(&mut slots, request(now, 0, 1));
    assert!(matches!(deliver(&mut slots, first), (Delivered::Answered, Some(Completion { bytes: 1, .. }))));
    assert!(poll(&mut slots, first).unwrap().is_ok());
    let second = take(&mut slots, request(now, 1, 1));
    assert_eq!(second.index, first.index, "the slot is used again");
    assert!(matches!(deliver(&mut slots, first), (Delivered::Unknown, None)));
    assert!(poll(&mut slots, second).is_none());
}

#[test]
fn an_overdue_slot_is_kept_only_if_its_request_was_written() {
    let now = Instant::now();
    let mut slots = Slots::default();
    let written = take(&mut slots, request(now, 0, 10));
    let unwritten = take(&mut slots, request(now, 1, 20));
    let later = take(&mut slots, request(now + Duration::from_secs(1), 2, 30));
    let mut ended = expire(&mut slots, now, 1, false);
    ended.sort_by_key(|(_, bytes)| *bytes);
    assert_eq!(ended, [(Progress::Written, 10), (Progress::NotWritten, 20)]);
    for key in [written, unwritten] {
        let error = poll(&mut slots, key).unwrap().unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::TimedOut);
    }
    assert_eq!(slots.free, [unwritten.index]);
    assert!(matches!(deliver(&mut slots, written), (Delivered::Late(None), None)));
    assert_eq!(slots.free, [unwritten.index, written.index]);
    assert_eq!(slots.next_deadline(), Some(now + Duration::from_secs(1)));
    assert!(poll(&mut slots, later).is_none());
}

#[test]
fn an_abandoned_request_frees_its_slot_when_it_is_answered() {
    let mut slots = Slots::default();
    let key = take(&mut slots, request(Instant::now(), 0, 1));
    slots.abandon(key);
    assert!(slots.free.is_empty(), "its response is outstanding");
    assert!(matches!(deliver(&mut slots, key), (Delivered::Answered, Some(_))));
    assert_eq!(slots.free, [key.index]);
}

#[test]
fn a_lost_connection_ends_everything_and_frees_every_slot() {
    let now = Instant::now();
    let mut slots = Slots::default();
    let keys: Vec<_> = (0..4).map(|n| take(&mut slots, request(now, n, 1))).collect();
    expire(&mut slots, now, 1, false);
    let more = take(&mut slots, request(now, 9, 1));
    slots.abandon(more);
    let mut count = 0;
    slots.fail_all(9, error, |completion, _| count += usize::from(completion.is_some()));
    assert_eq!(count, 1, "the others had completed before");
    keys.iter().for_each(|key| assert!(poll(&mut slots, *key).unwrap().is_err()));
    let mut free = slots.free.clone();
    free.sort_unstable();
    assert_eq!(free, [0, 1, 2, 3, 4].map(|n| n as u16)[..slots.slots.len()]);
}

#[test]
fn what_was_not_written_can_be_taken_back() {
    let (now, mut slots) = (Instant::now(), Slots::default());
    let keys: Vec<_> = (0..4).map(|n| take(&mut slots, request(now, n, 1))).collect();
    let mut ended = Vec::new();
    slots.fail_unwritten(2, error, |completion| ended.push(completion.bytes));
    assert_eq!(ended, [1, 1]);
    assert!(poll(&mut slots, keys[0]).is_none() && poll(&mut slots, keys[1]).is_none());
    assert!(poll(&mut slots, keys[2]).unwrap().is_err());
    assert!(poll(&mut slots, keys[3]).unwrap().is_err());
    assert_eq!(slots.free, [2, 3]);
}

#[test]
fn only_a_put_is_answered_with_a_place() {
    let (now, mut slots) = (Instant::now(), Slots::default());
    let put = take(&mut slots, request(now, 0, 1));
    let other = take(&mut slots, SlotRequest { is_put: false, ..request(now, 1, 1) });
    let place = PutResponse::new(1, 2, 3);
    for key in [put, other] {
        slots.deliver(key.opaque(), CompactResponse::Stored(place), now, |_| {});
    }
    assert_eq!(poll(&mut slots, put).unwrap().unwrap().body, ResponseBody::Stored(place));
    let other = poll(&mut slots, other).unwrap().unwrap();
    assert!(matches!(other.into_response(), Some(Response::Boolean(answer)) if &*answer.body == b"1 2 3"));
}

#[test]
fn a_listener_learns_that_a_timed_out_request_is_released() {
    let (now, mut slots) = (Instant::now(), Slots::default());
    let with_listener = |token| SlotRequest { listener: Some((3, token)), ..request(now, 0, 1) };
    let keys: Vec<_> = (0..4).map(|token| take(&mut slots, with_listener(token))).collect();
    let unwritten = take(&mut slots, SlotRequest { listener: Some((3, 9)), ..request(now, 9, 1) });
    assert_eq!(expire(&mut slots, now, 9, false).len(), 5);
    let released = |token| Some(Released { listener: 3, token });
    assert_eq!(deliver(&mut slots, keys[1]).0, Delivered::Late(released(1)));
    assert_eq!(deliver(&mut slots, keys[1]).0, Delivered::Unknown);
    assert_eq!(deliver(&mut slots, unwritten).0, Delivered::Unknown);
    let mut all = Vec::new();
    slots.fail_all(9, error, |completion, released| {
        assert!(completion.is_none());
        all.extend(released.map(|released| released.token));
    });
    assert_eq!(all, [0, 2, 3]);
    assert_eq!(slots.free.len(), 5);
}

#[test]
fn a_request_is_not_released_before_its_timeout_was_reported() {
    let (now, mut slots) = (Instant::now(), Slots::default());
    let with_listener = |token| SlotRequest { listener: Some((3, token)), ..request(now, 0, 1) };
    let [early, late] = [0, 1].map(|token| take(&mut slots, with_listener(token)));
    assert_eq!(expire(&mut slots, now, 9, true).len(), 2);
    assert_eq!(deliver(&mut slots, early).0, Delivered::Late(None), "the other thread is still reporting");
    assert_eq!(slots.timeout_reported(early), Some(Released { listener: 3, token: 0 }));
    assert_eq!((slots.timeout_reported(late), slots.timeout_reported(early)), (None, None));
    assert_eq!(deliver(&mut slots, late).0, Delivered::Late(Some(Released { listener: 3, token: 1 })));
    assert_eq!(slots.free.len(), 2);
}

#[test]
fn deadlines_that_pass_in_a_row_take_one_look_at_all_slots() {
    let (start, mut slots) = (Instant::now(), Slots::default());
    let at = |n: u64| start + Duration::from_millis(n);
    let keys: Vec<_> = (0..8_000).map(|n| take(&mut slots, request(at(n), n, 1))).collect();
    for n in 0..8_000 {
        if n % 3 == 0 {
            deliver(&mut slots, keys[n as usize]);
        }
        let ended = expire(&mut slots, at(n), 9_000, false).len();
        assert_eq!(ended, usize::from(n % 3 != 0), "{n}");
    }
    assert!(slots.scanned <= 16_000, "{}", slots.scanned);
    assert_eq!(slots.next_deadline(), None);
    let next = take(&mut slots, request(at(1), 9_000, 1));
    assert_eq!(expire(&mut slots, at(9_000), 9_999, false), [(Progress::Written, 1)]);
    assert!(poll(&mut slots, next).is_some());
}

#[test]
fn a_deadline_is_not_that_of_a_later_request_in_the_slot() {
    let (start, mut slots) = (Instant::now(), Slots::default());
    let at = |n: u64| start + Duration::from_secs(n);
    let overdue = take(&mut slots, request(at(0), 0, 1));
    let mut key = take(&mut slots, request(at(1), 1, 1));
    let first = key;
    assert_eq!(expire(&mut slots, at(0), 9, false).len(), 1, "{overdue:?} leads to a scan of all deadlines");
    for n in 0..1 << 16 {
        deliver(&mut slots, key);
        assert!(poll(&mut slots, key).is_some());
        key = take(&mut slots, request(at(100), n, 1));
    }
    assert_eq!(key, first, "the generation has come again");
    assert_eq!(expire(&mut slots, at(1), 9, false), []);
    assert_eq!(expire(&mut slots, at(100), u64::MAX, false), [(Progress::Written, 1)]);
}

#[test]
fn a_slot_is_a_cache_line() {
    assert_eq!(size_of::<Slot>(), 64);
}

#[test]
fn there_is_an_end_to_the_slots() {
    let mut slots = Slots::default();
    let now = Instant::now();
    (0..MAX_SLOTS as u64).for_each(|n| assert!(slots.take(request(now, n, 0)).is_some()));
    assert!(slots.take(request(now, 0, 0)).is_none());
}

use metaq_producer::Outcome;

use super::*;

fn offer(buffer: &Buffer, text: &str) {
    let formatted = Formatted { text: text.into(), is_truncated: false, panics: 0 };
    buffer.offer(|| (formatted, None));
}

fn buffer(events: usize, bytes: usize) -> Arc<Buffer> {
    Arc::new(Buffer::new(Limits { events, bytes }))
}

fn take(buffer: &Arc<Buffer>) -> Taken {
    buffer.take().unwrap()
}

fn balances(buffer: &Buffer) -> LayerStats {
    let stats = buffer.stats();
    let sum = stats.sent + stats.dropped.total() + stats.failed.total() + stats.buffered;
    assert_eq!(stats.offered, sum, "{stats:?}");
    stats
}

#[test]
fn what_is_being_sent_counts_until_its_outcome() {
    let buffer = buffer(2, 1 << 20);
    offer(&buffer, "one");
    offer(&buffer, "two");
    let one = take(&buffer);
    offer(&buffer, "three");
    assert_eq!(balances(&buffer).dropped.full, 1);
    one.sent();
    offer(&buffer, "four");
    assert_eq!((balances(&buffer).buffered, balances(&buffer).sent), (2, 1));
    take(&buffer).failed(Outcome::Rejected);
    drop(take(&buffer));
    let stats = balances(&buffer);
    assert_eq!((stats.failed.rejected, stats.failed.unknown, stats.buffered_bytes), (1, 1, 0));
}

#[test]
fn bytes_are_limited() {
    let buffer = buffer(1000, 3 * (OVERHEAD + 100));
    for _ in 0..5 {
        offer(&buffer, &"x".repeat(100));
    }
    assert_eq!((balances(&buffer).buffered, balances(&buffer).dropped.full), (3, 2));
    // One that would fit alone doesn't beside others.
    take(&buffer).sent();
    offer(&buffer, &"x".repeat(101));
    assert_eq!(balances(&buffer).dropped.full, 3);
}

#[test]
fn what_is_put_back_keeps_its_place() {
    let buffer = buffer(10, 1 << 20);
    ["a", "b", "c", "d"].iter().for_each(|text| offer(&buffer, text));
    let taken: Vec<_> = (0..3).map(|_| take(&buffer)).collect();
    taken.into_iter().rev().for_each(Taken::put_back);
    for expected in ["a", "b", "c", "d"] {
        let taken = take(&buffer);
        assert_eq!(taken.content().0, expected);
        taken.sent();
    }
    assert_eq!(balances(&buffer).sent, 4);
}

#[test]
fn nothing_is_taken_after_the_end() {
    let buffer = buffer(10, 1 << 20);
    offer(&buffer, "one");
    buffer.close();
    offer(&buffer, "two");
    buffer.offer(|| panic!("what is dropped is not written"));
    buffer.drop_waiting();
    let stats = balances(&buffer);
    assert_eq!((stats.dropped.closed, stats.dropped.shutdown, stats.buffered), (2, 1, 0));
}

#[test]
fn delayed_events_give_way_down_to_their_share() {
    let buffer = buffer(8, 1 << 20);
    (0..8).for_each(|n| offer(&buffer, &n.to_string()));
    let taken: Vec<_> = (0..8).map(|_| take(&buffer)).collect();
    taken.into_iter().for_each(Taken::delay);
    assert!(buffer.take().is_none() && buffer.has_delayed());
    // Two are being sent again, and two stay.
    let again = [buffer.take_delayed().unwrap(), buffer.take_delayed().unwrap()];
    assert!(buffer.take_delayed().is_none());
    (0..6).for_each(|_| offer(&buffer, "new"));
    let stats = balances(&buffer);
    assert_eq!((stats.buffered, stats.dropped.full), (8, 6));
    let texts = again.each_ref().map(|taken| taken.content().0);
    assert_eq!(texts, ["0", "1"]);
    // One that fails again is behind the others.
    let [first, second] = again;
    first.delay();
    second.sent();
    let order: Vec<_> = std::iter::from_fn(|| {
        let taken = buffer.take_delayed()?;
        let text = taken.content().0;
        taken.sent();
        Some(text)
    })
    .collect();
    assert_eq!(order, ["2", "3", "0"]);
    assert!(!buffer.has_delayed());
    for _ in 0..4 {
        assert_eq!(take(&buffer).content().0, "new");
    }
    let stats = balances(&buffer);
    assert_eq!((stats.sent, stats.failed.unknown, stats.buffered_bytes), (4, 4, 0));
}

#[test]
fn delayed_bytes_give_way_and_are_dropped_at_the_shutdown() {
    let buffer = buffer(1000, 8 * (OVERHEAD + 100));
    (0..8).for_each(|_| offer(&buffer, &"x".repeat(100)));
    let taken: Vec<_> = (0..8).map(|_| take(&buffer)).collect();
    taken.into_iter().for_each(Taken::delay);
    offer(&buffer, &"y".repeat(200));
    let stats = balances(&buffer);
    assert_eq!((stats.buffered, stats.dropped.full), (7, 2));
    let again = buffer.take_delayed().unwrap();
    buffer.close();
    buffer.drop_waiting();
    again.put_back();
    buffer.drop_waiting();
    let stats = balances(&buffer);
    assert_eq!((stats.dropped.shutdown, stats.buffered, stats.buffered_bytes), (7, 0, 0));
    assert!(!buffer.has_delayed());
}

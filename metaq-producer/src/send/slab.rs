//! Places for messages, found again by a token that no other message ever has while it is in use.

use crate::token::Token;

/// Entries of one shard. Places are used again, and never given back to the allocator.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u16,
    shard: u16,
    /// The flush that waits for the entry; 0 for none.
    flush: u16,
    flags: u8,
    entry: Option<T>,
}

/// A handle has the token, and will come back with it.
const HELD: u8 = 1;
/// The caller has taken the entry back.
const CANCELLED: u8 = 2;
/// The token may still be named by a broker: the place isn't used again.
const PINNED: u8 = 4;
/// The token was given up, and the failure handler gets the message if it fails.
const OFFERED: u8 = 8;

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// The token that the next entry will have.
    #[inline(always)]
    pub(crate) fn next(&self, shard: usize) -> Token {
        let shard = shard as u16;
        match self.free.last() {
            Some(&index) => {
                let generation = self.places[index as usize].generation.wrapping_add(1);
                Token::new(shard, generation, index)
            }
            None => Token::new(shard, 0, self.places.len() as u32),
        }
    }

    /// Adds an entry, whose token is `next`, and held: what [`next`](Self::next) said, if nothing was added
    /// since.
    // Inlined, so that the entry is made where it stays.
    #[inline]
    pub(crate) fn add(&mut self, next: Token, entry: T) {
        let (index, generation, shard) = (next.index(), next.generation(), next.shard() as u16);
        match self.places.get_mut(index as usize) {
            Some(place) => {
                let free = self.free.pop();
                debug_assert_eq!(free, Some(index), "something was added meanwhile");
                place.generation = generation;
                place.flush = 0;
                place.flags = HELD;
                place.entry = Some(entry);
            }
            None => {
                self.places.push(Place { generation, shard, flush: 0, flags: HELD, entry: Some(entry) });
            }
        }
    }

    #[inline]
    fn place(&mut self, token: Token) -> Option<&mut Place<T>> {
        let place = self.places.get_mut(token.index() as usize)?;
        (place.generation == token.generation()).then_some(place)
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let place = self.places.get_mut(token.index() as usize)?;
        if place.generation == token.generation() { place.entry.as_mut() } else { None }
    }

    /// No handle has the token any more.
    pub(crate) fn let_go(&mut self, token: Token) {
        if let Some(place) = self.place(token) {
            place.flags &= !HELD;
        }
    }

    /// No handle has the token any more: the message was offered.
    pub(crate) fn offer(&mut self, token: Token) {
        if let Some(place) = self.place(token) {
            place.flags = (place.flags & !HELD) | OFFERED;
        }
    }

    /// Whether the message was offered.
    pub(crate) fn is_offered(&mut self, token: Token) -> bool {
        self.place(token).is_some_and(|place| place.flags & OFFERED != 0)
    }

    /// The caller takes the entry back, and has the token no more.
    pub(crate) fn cancel(&mut self, token: Token) {
        if let Some(place) = self.place(token) {
            place.flags = (place.flags & !HELD) | CANCELLED;
        }
    }

    /// Whether the entry was taken back.
    pub(crate) fn is_cancelled(&mut self, token: Token) -> bool {
        self.place(token).is_some_and(|place| place.flags & CANCELLED != 0)
    }

    /// Keeps the token from being used again, also when its entry is removed, until it is
    /// [unpinned](Self::unpin).
    pub(crate) fn pin(&mut self, token: Token) {
        if let Some(place) = self.place(token) {
            place.flags |= PINNED;
        }
    }

    /// The token may be used again, once its entry is removed.
    pub(crate) fn unpin(&mut self, token: Token) {
        let Some(place) = self.place(token) else { return };
        if place.flags & PINNED != 0 {
            place.flags &= !PINNED;
            if place.entry.is_none() {
                self.free.push(token.index());
            }
        }
    }

    /// Has the flush with this number wait for the entries that `waited_for` names and that no flush waits
    /// for yet; returns how many they are.
    pub(crate) fn mark(&mut self, flush: u16, waited_for: impl Fn(&T) -> bool) -> usize {
        let unmarked =
            |place: &&mut Place<T>| place.flush == 0 && place.entry.as_ref().is_some_and(&waited_for);
        self.places.iter_mut().filter(unmarked).map(|place| place.flush = flush).count()
    }

    /// The flush that waited for the entry, which now doesn't any more, 0 if none did; and the entry, if a
    /// handle has the token.
    #[inline]
    pub(crate) fn ended(&mut self, token: Token) -> (u16, Option<&mut T>) {
        match self.place(token) {
            Some(place) => {
                let flush = std::mem::take(&mut place.flush);
                (flush, if place.flags & HELD != 0 { place.entry.as_mut() } else { None })
            }
            None => (0, None),
        }
    }

    /// Removes the entry, if it is there, and drops it where it is: for entries that hold nothing of anybody
    /// else's any more.
    #[inline]
    pub(crate) fn discard(&mut self, token: Token) {
        if let Some(place) = self.place(token)
            && place.entry.is_some()
        {
            place.entry = None;
            if place.flags & PINNED == 0 {
                self.free.push(token.index());
            }
        }
    }

    /// Removes the entry, if it is there.
    #[must_use = "what it holds may run anybody's code when it is dropped"]
    pub(crate) fn remove(&mut self, token: Token) -> Option<T> {
        let place = self.place(token)?;
        let entry = place.entry.take()?;
        if place.flags & PINNED == 0 {
            self.free.push(token.index());
        }
        Some(entry)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let token = Token::new(place.shard, place.generation, index as u32);
            place.entry.as_ref().map(|entry| (token, entry))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_finds_the_next_user_of_its_place() {
        let mut slab = Slab::default();
        let insert = |slab: &mut Slab<_>, entry| {
            let token = slab.next(3);
            slab.add(token, entry);
            token
        };
        let one = insert(&mut slab, "one");
        assert_eq!(Token::from(u64::from(one)), one);
        assert_eq!(slab.remove(one), Some("one"));
        assert_eq!(slab.remove(one), None);
        assert_eq!(slab.next(3), slab.next(3), "a look takes nothing");
        let two = insert(&mut slab, "two");
        assert_eq!(two.index(), one.index(), "the place is used again");
        assert_eq!(slab.get_mut(one), None);
        assert_eq!(slab.remove(one), None);
        assert_eq!(slab.iter().collect::<Vec<_>>(), [(two, &"two")]);
        assert_eq!(slab.get_mut(two), Some(&mut "two"));
    }
    #[test]
    fn a_pinned_token_is_not_used_again() {
        let mut slab = Slab::default();
        let one = slab.next(0);
        slab.add(one, "one");
        slab.pin(one);
        assert_eq!(slab.remove(one), Some("one"));
        let two = slab.next(0);
        assert_ne!(two.index(), one.index());
        slab.add(two, "two");
        slab.unpin(one);
        slab.unpin(one);
        assert_eq!((slab.next(0).index(), slab.free.len()), (one.index(), 1));
    }

    #[test]
    fn a_flush_waits_for_what_was_there_before() {
        let mut slab = Slab::default();
        let tokens = [(); 3].map(|()| {
            let token = slab.next(0);
            slab.add(token, token.index());
            token
        });
        assert_eq!(slab.mark(7, |entry| *entry != 1), 2);
        assert_eq!(slab.mark(8, |_| true), 1, "the others are waited for by the flush before");
        slab.let_go(tokens[1]);
        assert_eq!(tokens.map(|token| slab.ended(token).0), [7, 8, 7]);
        assert_eq!(slab.ended(tokens[0]), (0, Some(&mut 0)));
        assert_eq!(slab.ended(tokens[1]), (0, None), "nobody has its token");
    }
}

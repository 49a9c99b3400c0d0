//! Places for messages, found again by a token that no other message ever has while it is in use.

/// Names an entry: its shard, its place there, and which of the place's successive users it is. One number, since it goes
/// from hand to hand, and what is written in parts is read as a whole only once all are in memory. The highest bits are
/// always zero, for [`SendHandle`](crate::SendHandle) to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token(u64);

impl Token {
    #[inline]
    fn new(shard: u16, generation: u16, index: u32) -> Self {
        Self(u64::from(index) | u64::from(generation) << 32 | u64::from(shard) << 48)
    }

    #[inline]
    pub(crate) fn shard(self) -> usize {
        (self.0 >> 48) as usize
    }

    #[inline]
    fn generation(self) -> u16 {
        (self.0 >> 32) as u16
    }

    #[inline]
    fn index(self) -> u32 {
        self.0 as u32
    }
}

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        token.0
    }
}

impl From<u64> for Token {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

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
    /// Whether somebody outside has the token, and will come back with it.
    is_held: bool,
    entry: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// The token that the next entry will have.
    #[inline]
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

    /// Adds an entry, whose token is `next`, and held: what [`next`](Self::next) said, if nothing was added since.
    // Inlined, so that the entry is made where it stays.
    #[inline]
    pub(crate) fn add(&mut self, next: Token, entry: T) {
        let (index, generation, shard) = (next.index(), next.generation(), next.shard() as u16);
        match self.places.get_mut(index as usize) {
            Some(place) => {
                let free = self.free.pop();
                debug_assert_eq!(free, Some(index), "something was added meanwhile");
                place.generation = generation;
                place.is_held = true;
                place.entry = Some(entry);
            }
            None => self.places.push(Place { generation, shard, is_held: true, entry: Some(entry) }),
        }
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let place = self.places.get_mut(token.index() as usize)?;
        if place.generation == token.generation() { place.entry.as_mut() } else { None }
    }

    /// Nobody outside has the token any more.
    pub(crate) fn let_go(&mut self, token: Token) {
        if let Some(place) = self.places.get_mut(token.index() as usize)
            && place.generation == token.generation()
        {
            place.is_held = false;
        }
    }

    /// Whether somebody outside has the token.
    pub(crate) fn is_held(&self, token: Token) -> bool {
        let place = self.places.get(token.index() as usize);
        place.is_some_and(|place| place.generation == token.generation() && place.is_held)
    }

    /// Removes the entry, if it is there.
    pub(crate) fn remove(&mut self, token: Token) {
        if let Some(place) = self.places.get_mut(token.index() as usize)
            && place.generation == token.generation()
            && place.entry.is_some()
        {
            place.entry = None;
            self.free.push(token.index());
        }
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
        slab.remove(one);
        slab.remove(one);
        assert_eq!(slab.next(3), slab.next(3), "a look takes nothing");
        let two = insert(&mut slab, "two");
        assert_eq!(two.index(), one.index(), "the place is used again");
        assert_eq!(slab.get_mut(one), None);
        slab.remove(one);
        assert_eq!(slab.iter().collect::<Vec<_>>(), [(two, &"two")]);
        assert_eq!(slab.get_mut(two), Some(&mut "two"));
    }
}

//! Places for messages, found again by a token that no other message ever has while it is in use.

/// Names an entry: its shard, its place there, and which of the place's successive users it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token {
    index: u32,
    generation: u16,
    shard: u16,
}

impl Token {
    pub(crate) fn shard(self) -> usize {
        usize::from(self.shard)
    }
}

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        Self::from(token.index) | Self::from(token.generation) << 32 | Self::from(token.shard) << 48
    }
}

impl From<u64> for Token {
    fn from(number: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
        Self {
            index: u32::from_le_bytes([a, b, c, d]),
            generation: u16::from_le_bytes([e, f]),
            shard: u16::from_le_bytes([g, h]),
        }
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
    /// Adds an entry, whose token is held.
    pub(crate) fn insert(&mut self, shard: usize, entry: T) -> Token {
        let shard = shard as u16;
        if let Some(index) = self.free.pop() {
            let place = &mut self.places[index as usize];
            place.generation = place.generation.wrapping_add(1);
            place.is_held = true;
            place.entry = Some(entry);
            return Token { index, generation: place.generation, shard };
        }
        let index = self.places.len() as u32;
        self.places.push(Place { generation: 0, shard, is_held: true, entry: Some(entry) });
        Token { index, generation: 0, shard }
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let place = self.places.get_mut(token.index as usize)?;
        if place.generation == token.generation { place.entry.as_mut() } else { None }
    }

    /// Nobody outside has the token any more.
    pub(crate) fn let_go(&mut self, token: Token) {
        if let Some(place) = self.places.get_mut(token.index as usize)
            && place.generation == token.generation
        {
            place.is_held = false;
        }
    }

    /// Whether somebody outside has the token.
    pub(crate) fn is_held(&self, token: Token) -> bool {
        let place = self.places.get(token.index as usize);
        place.is_some_and(|place| place.generation == token.generation && place.is_held)
    }

    /// Removes the entry, if it is there.
    pub(crate) fn remove(&mut self, token: Token) {
        if let Some(place) = self.places.get_mut(token.index as usize)
            && place.generation == token.generation
            && place.entry.is_some()
        {
            place.entry = None;
            self.free.push(token.index);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let token = Token { index: index as u32, generation: place.generation, shard: place.shard };
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
        let one = slab.insert(3, "one");
        assert_eq!(Token::from(u64::from(one)), one);
        slab.remove(one);
        slab.remove(one);
        let two = slab.insert(3, "two");
        assert_eq!(two.index, one.index, "the place is used again");
        assert_eq!(slab.get_mut(one), None);
        slab.remove(one);
        assert_eq!(slab.iter().collect::<Vec<_>>(), [(two, &"two")]);
        assert_eq!(slab.get_mut(two), Some(&mut "two"));
    }
}

//! The name of a message on its way.

/// Names an entry: its shard, its place there, and which of the place's successive users it is. One number,
/// since it goes from hand to hand, and what is written in parts is read as a whole only once all are in
/// memory. The highest bits are always zero, for [`SendHandle`](crate::SendHandle) to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token(u64);

impl Token {
    #[inline]
    pub(crate) fn new(shard: u16, generation: u16, index: u32) -> Self {
        Self(u64::from(index) | u64::from(generation) << 32 | u64::from(shard) << 48)
    }

    #[inline]
    pub(crate) fn shard(self) -> usize {
        (self.0 >> 48) as usize
    }

    #[inline]
    pub(crate) fn generation(self) -> u16 {
        (self.0 >> 32) as u16
    }

    #[inline]
    pub(crate) fn index(self) -> u32 {
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

//! An input as a series of small words, for targets that do several things in a row. Where it ends,
//! noughts follow.

/// What is left of an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    pub(crate) fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound.max(1)
    }

    pub(crate) fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// So many bytes, or what is left.
    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A piece that says its length in two bytes.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let length = self.short();
        self.take(usize::from(length))
    }
}

/// A piece with its length before it, for seeds.
pub(crate) fn piece(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len().min(usize::from(u16::MAX)) as u16;
    let bytes = &bytes[..usize::from(length)];
    [&length.to_le_bytes()[..], bytes].concat()
}

//! Mutants of real values: what the network, a disk and an attacker make of them.

use crate::Chance;

/// Changes of one mutant, at most.
const CHANGES_MAX: usize = 6;
/// The longest piece that is moved, doubled or taken away.
const PIECE_MAX: usize = 64;
/// Numbers at the ends of what types can hold, as bytes little and big endian, and as the lengths
/// that postcard writes.
const ODD: [&[u8]; 12] = [
    &[0; 8],
    &[0xff; 8],
    &[0xff, 0xff, 0xff, 0xff],
    &[0, 0, 0, 0x80],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x80, 0x00],
    &[0x0d],
    b"\n",
    "\u{e4}\u{1b}[31m".as_bytes(),
    b"999999999999999999999999",
];

/// Makes mutants of some values, the same ones each time.
#[derive(Debug)]
pub struct Mutator {
    seeds: Vec<Vec<u8>>,
    length_max: usize,
    chance: Chance,
}

impl Mutator {
    /// Of these seeds, `length_max` bytes long at most.
    pub fn new(seeds: Vec<Vec<u8>>, length_max: usize, seed: u64) -> Self {
        Self {
            seeds,
            length_max,
            chance: Chance::new(seed),
        }
    }

    /// The next one.
    pub fn mutant(&mut self) -> Vec<u8> {
        let mut bytes = self.seed();
        for _ in 0..=self.chance.below(CHANGES_MAX) {
            self.change(&mut bytes);
        }
        bytes.truncate(self.length_max);
        bytes
    }

    fn seed(&mut self) -> Vec<u8> {
        let at = self.chance.below(self.seeds.len());
        self.seeds.get(at).cloned().unwrap_or_default()
    }

    /// Where a piece begins and ends.
    fn piece(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.chance.below(bytes.len() + 1);
        let length = self.chance.below(PIECE_MAX.min(bytes.len() - start) + 1);
        start..start + length
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.chance.below(bytes.len());
        match self.chance.below(9) {
            0 => bytes.truncate(at),
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.chance.below(8);
                }
            }
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = self.chance.number() as u8;
                }
            }
            3 => {
                let piece = self.piece(bytes);
                bytes.drain(piece);
            }
            4 => {
                let piece = self.piece(bytes);
                let doubled = bytes[piece].to_vec();
                let times = 1 + self.chance.below(3);
                let at = self.chance.below(bytes.len() + 1);
                bytes.splice(at..at, doubled.repeat(times));
            }
            5 => {
                let odd = ODD[self.chance.below(ODD.len())];
                bytes.splice(at..at, odd.iter().copied());
            }
            6 => {
                let odd = ODD[self.chance.below(ODD.len())];
                let end = (at + odd.len()).min(bytes.len());
                bytes.splice(at..end, odd.iter().copied());
            }
            7 => {
                // The beginning of one and the end of another.
                let other = self.seed();
                let from = self.chance.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let length = self.chance.below(PIECE_MAX);
                let more: Vec<u8> = (0..length).map(|_| self.chance.number() as u8).collect();
                bytes.splice(at..at, more);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutants_are_the_same_each_time_bounded_and_not_their_seeds() {
        let seeds = vec![b"one value".to_vec(), b"another, longer value".to_vec()];
        let mutants = |seed| -> Vec<Vec<u8>> {
            let mut mutator = Mutator::new(seeds.clone(), 30, seed);
            (0..500).map(|_| mutator.mutant()).collect()
        };
        assert_eq!(mutants(1), mutants(1));
        assert_ne!(mutants(1), mutants(2));
        assert!(mutants(1).iter().all(|mutant| mutant.len() <= 30));
        let changed = mutants(1).iter().filter(|one| !seeds.contains(one)).count();
        assert!(changed > 400, "{changed}");
        let mut none = Mutator::new(Vec::new(), 30, 1);
        assert!((0..100).any(|_| !none.mutant().is_empty()));
    }
}

//! The only source of chance in a run. The same seed gives the same numbers on every machine.

/// A small generator (SplitMix64). Parts of the simulation get generators of their own, so that a change in one does
/// not shift what the others draw.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Random(seed ^ 0x5151_7264_6d65_7368)
    }

    /// A generator for one part of the simulation.
    #[must_use]
    pub fn fork(&mut self) -> Random {
        Random(self.next_u64())
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "there is no number below 0");
        ((u128::from(self.next_u64()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `low` up to and including `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "a range rises");
        low + self.below(high - low + 1)
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// An index below `len`, which is not 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// One of `items`, which are not empty.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.index(items.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed that meant something else tomorrow could not reproduce the bug it was kept for.
    #[test]
    fn a_seed_means_the_same_for_ever() {
        let mut random = Random::new(1);
        assert_eq!(random.next_u64(), 0x9236_053e_9b07_4a81);
        let drawn: Vec<u64> = (0..1_000).map(|_| random.between(3, 9)).collect();
        assert!((3..=9).all(|number| drawn.contains(&number)));
        assert!(drawn.iter().all(|number| (3..=9).contains(number)));
    }
}

//! A few things by numbers that rise: the requests that are open on one connection. Most have one at a time, and a tree would
//! take and give back a node for each.

use std::collections::VecDeque;

/// Things in the order of their numbers.
#[derive(Debug)]
pub(super) struct Rising<T>(VecDeque<(u64, T)>);

impl<T> Default for Rising<T> {
    fn default() -> Self {
        Rising(VecDeque::new())
    }
}

impl<T> Rising<T> {
    /// Adds one. Its number is not there; mostly it is the highest.
    pub(super) fn insert(&mut self, number: u64, thing: T) {
        let at = self.0.partition_point(|(known, _)| *known < number);
        assert!(self.0.get(at).is_none_or(|(known, _)| *known != number), "a number is given once");
        self.0.insert(at, (number, thing));
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        let at = self.place(number)?;
        self.0.get(at).map(|(_, thing)| thing)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let at = self.place(number)?;
        self.0.get_mut(at).map(|(_, thing)| thing)
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let at = self.place(number)?;
        self.0.remove(at).map(|(_, thing)| thing)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.0.iter().map(|(number, thing)| (*number, thing))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.0.iter_mut().map(|(number, thing)| (*number, thing))
    }

    /// Gives back memory that is not in use.
    pub(super) fn trim(&mut self) {
        self.0.shrink_to_fit();
    }

    fn place(&self, number: u64) -> Option<usize> {
        self.0.binary_search_by_key(&number, |(known, _)| *known).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;

    use super::*;

    /// An answer that is kept under another request's number goes to the wrong one.
    #[test]
    fn each_is_found_under_its_own_number() {
        let (mut rising, mut tree) = (Rising::default(), BTreeMap::new());
        let mut random = 7u64;
        for step in 0..2_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Mostly the next one, now and then one of before.
            let number = if random >> 62 == 0 { (random >> 33) % (step + 1) } else { step };
            if let Entry::Vacant(place) = tree.entry(number) {
                rising.insert(number, step);
                place.insert(step);
            }
            let gone = (random >> 40) % (step + 1);
            assert_eq!(rising.get(gone), tree.get(&gone));
            assert_eq!(rising.get_mut(gone), tree.get_mut(&gone));
            assert_eq!(rising.remove(gone), tree.remove(&gone));
            assert!(rising.iter().eq(tree.iter().map(|(number, thing)| (*number, thing))));
            assert_eq!(rising.is_empty(), tree.is_empty());
        }
    }
}

//! Which of a batch's events are meant: all, or those whose bits are set.

/// One bit an event of a batch; bit `i` is event `i`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// No bit set; room for `count` events.
    #[must_use]
    pub fn none(count: u32) -> Self {
        Bitmap { words: vec![0; count.div_ceil(64) as usize] }
    }

    /// The first `count` bits set.
    #[must_use]
    pub fn all(count: u32) -> Self {
        let mut bitmap = Self::none(count);
        for index in 0..bitmap.words.len() {
            let left = count - 64 * index as u32;
            bitmap.words[index] = if left >= 64 { u64::MAX } else { (1 << left) - 1 };
        }
        bitmap
    }

    /// Reads a bitmap from the wire: `ceil(count / 8)` bytes, bit 0 of byte 0 first. `None` if the length is another
    /// or a bit beyond `count` is set.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], count: u32) -> Option<Self> {
        if bytes.len() != count.div_ceil(8) as usize {
            return None;
        }
        let mut bitmap = Self::none(count);
        for (index, byte) in bytes.iter().enumerate() {
            bitmap.words[index / 8] |= u64::from(*byte) << (8 * (index % 8));
        }
        (bitmap.end() <= count).then_some(bitmap)
    }

    /// Appends `ceil(count / 8)` bytes in the form of [`Bitmap::from_bytes`].
    pub fn write_to(&self, count: u32, out: &mut Vec<u8>) {
        assert!(self.end() <= count, "no event is left out");
        for index in 0..count.div_ceil(8) as usize {
            let word = self.words.get(index / 8).copied().unwrap_or(0);
            out.push((word >> (8 * (index % 8))) as u8);
        }
    }

    /// Sets a bit. The bitmap grows as needed.
    pub fn set(&mut self, index: u32) {
        let word = (index / 64) as usize;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (index % 64);
    }

    /// Clears a bit.
    pub fn clear(&mut self, index: u32) {
        if let Some(word) = self.words.get_mut((index / 64) as usize) {
            *word &= !(1 << (index % 64));
        }
    }

    /// Whether a bit is set.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        self.words.get((index / 64) as usize).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    /// Bits set.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether no bit is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// One past the last set bit; 0 when none is set.
    #[must_use]
    pub fn end(&self) -> u32 {
        let last = self.words.iter().rposition(|word| *word != 0);
        last.map_or(0, |index| 64 * index as u32 + 64 - self.words[index].leading_zeros())
    }

    /// The set bits, rising.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(64 * index as u32 + bit)
            })
        })
    }

    /// Adds the bits of `other`.
    pub fn add(&mut self, other: &Bitmap) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Removes the bits of `other`.
    pub fn subtract(&mut self, other: &Bitmap) {
        for (word, less) in self.words.iter_mut().zip(&other.words) {
            *word &= !less;
        }
    }

    /// The bits that both have.
    #[must_use]
    pub fn common(&self, other: &Bitmap) -> Bitmap {
        Bitmap { words: self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect() }
    }
}

/// Which events of a delivery are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Every event of the batch, or of the delivery that is settled.
    All,
    /// Those whose bits are set. Bits count the batch's events, also when the delivery was a selection itself.
    Some(Bitmap),
}

impl Selection {
    /// The events of a batch of `count` that are meant.
    #[must_use]
    pub fn len(&self, count: u32) -> u32 {
        match self {
            Selection::All => count,
            Selection::Some(bitmap) => bitmap.len(),
        }
    }

    /// Whether event `index` is meant.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        match self {
            Selection::All => true,
            Selection::Some(bitmap) => bitmap.contains(index),
        }
    }

    /// The selection as a bitmap over `count` events.
    #[must_use]
    pub fn to_bitmap(&self, count: u32) -> Bitmap {
        match self {
            Selection::All => Bitmap::all(count),
            Selection::Some(bitmap) => bitmap.clone(),
        }
    }

    /// The shortest selection that means the same of `count` events.
    #[must_use]
    pub fn from_bitmap(bitmap: Bitmap, count: u32) -> Selection {
        assert!(bitmap.end() <= count, "only events of the batch are selected");
        if bitmap.len() == count { Selection::All } else { Selection::Some(bitmap) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A selection is an acknowledgement: a bit lost or added at a border settles an event nobody saw.
    #[test]
    fn bits_survive_every_border() {
        for count in [1, 7, 8, 9, 63, 64, 65, 127, 128, 200] {
            let mut bitmap = Bitmap::none(count);
            for index in (0..count).filter(|index| index % 3 == 0 || index + 1 == count) {
                bitmap.set(index);
            }
            let mut bytes = Vec::new();
            bitmap.write_to(count, &mut bytes);
            assert_eq!(bytes.len(), count.div_ceil(8) as usize);
            assert_eq!(Bitmap::from_bytes(&bytes, count).as_ref(), Some(&bitmap), "{count}");
            assert_eq!(bitmap.end(), count);
            assert_eq!(bitmap.iter().count() as u32, bitmap.len());
            assert!(bitmap.iter().all(|index| bitmap.contains(index)));
            let mut rest = Bitmap::all(count);
            assert_eq!(rest.len(), count);
            rest.subtract(&bitmap);
            assert!(rest.common(&bitmap).is_empty());
            rest.add(&bitmap);
            assert_eq!(Selection::from_bitmap(rest, count), Selection::All);
            if !count.is_multiple_of(8) {
                *bytes.last_mut().unwrap() |= 0x80;
                assert_eq!(Bitmap::from_bytes(&bytes, count), None, "a bit beyond the batch");
            }
        }
    }
}

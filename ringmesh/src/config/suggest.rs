//! "Did you mean": the known name that is nearest to an unknown one.

/// The candidate that takes the fewest edits to become, unless that is more than a third of the name's letters.
#[must_use]
pub fn nearest<'a>(unknown: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (unknown.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (distance(unknown, candidate), candidate))
        .filter(|(edits, _)| *edits <= limit)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, remove or replace, and neighbours to swap, to turn one name into the other.
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.to_lowercase().chars().collect();
    let to: Vec<char> = to.to_lowercase().chars().collect();
    let mut before: Vec<usize> = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 1..=from.len() {
        let mut row = vec![i; to.len() + 1];
        for j in 1..=to.len() {
            let replace = last[j - 1] + usize::from(from[i - 1] != to[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A suggestion that is far off sends the reader the wrong way; a near one saves the trip to the manual.
    #[test]
    fn only_near_names_are_suggested() {
        let known = ["log.segment_bytes", "log.cache_bytes", "server.shards", "native.listen"];
        let table = [
            ("log.segment_byte", Some("log.segment_bytes")),
            ("log.segmetn_bytes", Some("log.segment_bytes")),
            ("server.shard", Some("server.shards")),
            ("native.listne", Some("native.listen")),
            ("colour", None),
            ("", None),
        ];
        for (unknown, expected) in table {
            assert_eq!(nearest(unknown, known.into_iter()), expected, "{unknown}");
        }
    }
}

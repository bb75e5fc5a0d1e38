//! Seeds that once found a bug. The tests always run them.

/// Seeds of past bugs, with one line each on what they found, from `scenarios/seeds.txt`.
///
/// # Panics
/// A line does not start with a number; a test reads them all.
#[must_use]
pub fn seeds() -> Vec<u64> {
    numbers(include_str!("../scenarios/seeds.txt"))
}

fn numbers(text: &str) -> Vec<u64> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let seed = |line: &str| line.split_whitespace().next()?.parse().ok();
    lines.map(|line| seed(line).expect("a scenario starts with its seed")).collect()
}

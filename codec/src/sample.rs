//! Random events and mutated bytes for the tests, from a seed: a failing case is found again by its number.

use crate::attribute::{Key, Value};
use crate::batch::Batch;
use crate::builder::BatchBuilder;
use crate::event::{DataKind, Event};
use crate::header::HeaderSeed;
use crate::ids::{Partition, TopicId};

/// SplitMix64: every seed gives another sequence, also neighbouring ones.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn bytes(&mut self, len_end: usize) -> Vec<u8> {
        (0..self.below(len_end)).map(|_| self.next() as u8).collect()
    }

    /// Text with everything that forms have to escape, of at least one character.
    pub(crate) fn text(&mut self) -> String {
        const CHARS: &[char] = &[
            'a', 'Z', '0', ' ', '"', '\\', '%', '/', ',', ';', '=', '\'', '<', 'é', '€', '語', '🦀',
        ];
        (0..=self.below(12)).map(|_| CHARS[self.below(CHARS.len())]).collect()
    }

    fn name(&mut self) -> String {
        let names = ["a", "traceparent", "x1", "zz", "comexampleextension1", "sequence", "0"];
        names[self.below(names.len())].to_owned()
    }
}

/// An attribute that owns its text, to be lent as (`Key`, `Value`).
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) attributes: Vec<(String, Kind)>,
    pub(crate) kind: DataKind,
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    String(String),
    Boolean(bool),
    Integer(i32),
    Binary(Vec<u8>),
    Uri(String),
    UriReference(String),
    Timestamp(String),
}

impl Kind {
    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Kind::String(text) => Value::String(text),
            Kind::Boolean(on) => Value::Boolean(*on),
            Kind::Integer(number) => Value::Integer(*number),
            Kind::Binary(bytes) => Value::Binary(bytes),
            Kind::Uri(text) => Value::Uri(text),
            Kind::UriReference(text) => Value::UriReference(text),
            Kind::Timestamp(text) => Value::Timestamp(text),
        }
    }
}

impl Sample {
    /// A whole event: the required attributes, some of the optional ones, extensions of every type, any data.
    pub(crate) fn random(random: &mut Random) -> Sample {
        let mut attributes = vec![
            ("id".to_owned(), Kind::String(random.text())),
            ("source".to_owned(), Kind::UriReference("/a/b%20c?d#e".to_owned())),
            ("type".to_owned(), Kind::String(random.text())),
        ];
        let kind = DataKind::from_number(random.below(5) as u8).unwrap();
        if random.one_in(2) || kind == DataKind::Text {
            let content_type =
                if kind == DataKind::Text { "text/plain" } else { "application/json" };
            attributes.push(("datacontenttype".to_owned(), Kind::String(content_type.to_owned())));
        }
        let optional = [
            ("dataschema", Kind::Uri("urn:a:b".to_owned())),
            ("subject", Kind::String(random.text())),
            ("time", Kind::Timestamp("2018-04-05T17:31:00.123456789Z".to_owned())),
            ("partitionkey", Kind::String(random.text())),
        ];
        attributes.extend(
            optional.into_iter().filter(|_| random.one_in(2)).map(|(n, v)| (n.to_owned(), v)),
        );
        let mut names: Vec<_> = (0..random.below(4)).map(|_| random.name()).collect();
        names.sort_unstable();
        names.dedup();
        attributes.extend(names.into_iter().map(|name| (name, random_value(random))));
        for at in (1..attributes.len()).rev() {
            attributes.swap(at, random.below(at + 1));
        }
        Sample { attributes, kind, data: random_data(random, kind) }
    }

    pub(crate) fn pairs(&self) -> Vec<(Key<'_>, Value<'_>)> {
        self.attributes.iter().map(|(name, kind)| (Key::of(name), kind.value())).collect()
    }

    pub(crate) fn push_to(&self, batch: &mut BatchBuilder) {
        batch.push(&mut self.pairs(), self.kind, &self.data).unwrap();
    }

    /// The pairs in the order in which a batch gives them back.
    pub(crate) fn sorted_pairs(&self) -> Vec<(Key<'_>, Value<'_>)> {
        let mut pairs = self.pairs();
        pairs.sort_by(|(a, _), (b, _)| a.order(b));
        pairs
    }
}

fn random_value(random: &mut Random) -> Kind {
    match random.below(7) {
        0 => Kind::String(if random.one_in(4) { String::new() } else { random.text() }),
        1 => Kind::Boolean(random.one_in(2)),
        2 => Kind::Integer(random.next() as i32),
        3 => Kind::Binary(random.bytes(20)),
        4 => Kind::Uri("https://example.com/x".to_owned()),
        5 => Kind::UriReference("../y".to_owned()),
        _ => Kind::Timestamp("1999-12-31T23:59:59+01:00".to_owned()),
    }
}

fn random_data(random: &mut Random, kind: DataKind) -> Vec<u8> {
    const JSON: [&str; 6] =
        ["null", "{\"a\": [1,2.50 ,{}]}", "\"x\\u00e9\"", " [ ] ", "-0.0e+1", "\"\\ud800\""];
    match kind {
        DataKind::None => Vec::new(),
        DataKind::Binary => random.bytes(60),
        DataKind::Text => random.text().into_bytes(),
        DataKind::Json => JSON[random.below(JSON.len())].trim().as_bytes().to_vec(),
        DataKind::Protobuf => [&[0x12, 3][..], &[1, 2, 3]].concat(),
    }
}

/// A batch of one topic on the wire with these events in it.
pub(crate) fn batch_of(samples: &[Sample]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(&mut []).unwrap();
    samples.iter().for_each(|sample| sample.push_to(&mut builder));
    builder.finish(TopicId(1), Partition(0))
}

/// Calls `check` with the only event of a batch.
pub(crate) fn with_event<T>(batch: &[u8], check: impl FnOnce(&Event<'_>) -> T) -> T {
    let body = Batch::parse(batch, HeaderSeed::WIRE).unwrap().check().unwrap();
    assert_eq!(body.count(), 1);
    check(&body.event(0).unwrap())
}

/// One of `originals`, spoilt in up to four places: bits flipped, bytes replaced, cut, doubled or joined.
pub(crate) fn mutated(random: &mut Random, originals: &[Vec<u8>]) -> Vec<u8> {
    const TELLING: &[u8] = b"\"\\{}[],:0-9eEtfnu%;=\x00\x01\x7f\x80\xc0\xff \n";
    let mut bytes = originals[random.below(originals.len())].clone();
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            bytes.push(random.next() as u8);
        }
        let at = random.below(bytes.len());
        let to = at + random.below(bytes.len() - at + 1).min(16);
        match random.below(8) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at] = TELLING[random.below(TELLING.len())],
            3 => bytes.insert(at, TELLING[random.below(TELLING.len())]),
            4 => drop(bytes.drain(at..to)),
            5 => bytes.extend_from_within(at..to),
            6 => bytes.truncate(at),
            _ => {
                let other = &originals[random.below(originals.len())];
                let from = random.below(other.len().max(1)).min(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

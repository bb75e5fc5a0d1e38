//! Settling: tokens of polls and ids of streams, from any connection.

use std::borrow::Cow;
use std::collections::BTreeMap;

use codec::problem::Problem;
use codec::refusal::Code;
use dataplane::selection::{Bitmap, Selection};
use dataplane::session::{SessionKey, Verdict};
use dataplane::shard::Shard;
use dataplane::token::{TOKEN_BYTES, TokenFields};
use serde::Deserialize;

use super::body;
use super::place::{PLACES_MARK, Place, Reading};
use super::session::number;
use super::tokens;

/// Most tokens of one request: what the numbers of its parts have room for.
const TOKENS_MAX: usize = 10_000;

/// Most parts that tokens may make: their numbers have 16 bits.
const PARTS_MAX: usize = 60_000;
const _: () = assert!(TOKENS_MAX < PARTS_MAX && PARTS_MAX < 1 << 16);

/// What the body says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens<'a> {
    #[serde(borrow)]
    tokens: Vec<Cow<'a, str>>,
}

/// A settle under way.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// The tokens of each part that was asked for; emptied when it is answered.
    parts: Vec<Vec<String>>,
    unanswered: usize,
    settled: u64,
    stale: Vec<String>,
    /// Whether the client is one of EventMesh, and told only that it is done.
    is_eventmesh: bool,
}

impl Settling {
    /// Reads the tokens and asks for all of them. What is malformed is refused before anything is asked.
    pub(super) fn begin(
        body: &[u8],
        verdict: Verdict,
        node: u32,
        (id, key): (u64, SessionKey),
        shard: &mut Shard,
    ) -> Result<Settling, Problem> {
        let body: Tokens<'_> = serde_json::from_str(body::text(body)?).map_err(|error| {
            let detail = format!("the body is not {{\"tokens\":[...]}}: {error}");
            Problem::of("tokens", Code::MalformedRequest, detail)
        })?;
        let count = body.tokens.len();
        if count > TOKENS_MAX {
            return Err(Problem::limit("tokens", TOKENS_MAX as u64, count as u64));
        }
        Settling::of_tokens(&body.tokens, verdict, node, (id, key), shard)
    }

    /// Asks for what one delivery's name stands for, for a client of EventMesh.
    pub(super) fn of_delivery(
        name: Cow<'_, str>,
        node: u32,
        (id, key): (u64, SessionKey),
        shard: &mut Shard,
    ) -> Result<Settling, Problem> {
        // The names of a stream's events say one for each of its groups.
        let names: Vec<Cow<'_, str>> = name.split(PLACES_MARK).map(Cow::from).collect();
        let settling = Settling::of_tokens(&names, Verdict::Done, node, (id, key), shard);
        let settling = settling.map_err(|problem| match problem.refusal.code {
            Code::MalformedToken => not_delivered(),
            _ => problem,
        })?;
        Ok(Settling { is_eventmesh: true, ..settling })
    }

    fn of_tokens(
        texts: &[Cow<'_, str>],
        verdict: Verdict,
        node: u32,
        (id, key): (u64, SessionKey),
        shard: &mut Shard,
    ) -> Result<Settling, Problem> {
        let mut deliveries: BTreeMap<[u8; TOKEN_BYTES], (Bitmap, Vec<String>)> = BTreeMap::new();
        let mut places = Vec::new();
        for text in texts {
            if Place::is_one(text) {
                places.push(place(text, verdict, node)?);
                continue;
            }
            let (token, index) = tokens::read(text)?;
            let fields = TokenFields::decode(&token).filter(|fields| fields.node == node);
            if fields.is_none_or(|fields| index >= fields.count) {
                return Err(tokens::malformed(text));
            }
            let (events, texts) = deliveries.entry(token).or_default();
            events.set(index);
            texts.push(text.to_string());
        }
        let mut settling = Settling::default();
        for (token, (events, texts)) in deliveries {
            let request = number(id, settling.parts.len());
            let events = Selection::Some(events);
            shard.settle_and_tell(key, request, &token, events, verdict)?;
            settling.asked(texts);
        }
        for place in places {
            settling.ask_place(place, (id, key), shard)?;
        }
        Ok(settling)
    }

    fn asked(&mut self, texts: Vec<String>) {
        self.parts.push(texts);
        self.unanswered += 1;
    }

    fn ask_place(
        &mut self,
        place: Place,
        (id, key): (u64, SessionKey),
        shard: &mut Shard,
    ) -> Result<(), Problem> {
        let Reading::Group { group, logs } = place.read else { return Ok(()) };
        for (log, runs) in logs {
            if self.parts.len() >= PARTS_MAX {
                return Err(Problem::limit("parts", PARTS_MAX as u64, self.parts.len() as u64 + 1));
            }
            shard.settle_read(key, number(id, self.parts.len()), group, log, runs);
            // What is owed no longer is no fault: a place says the same again and again.
            self.asked(Vec::new());
        }
        Ok(())
    }

    /// A part is done.
    pub(super) fn settled(&mut self, part: usize, events: u32) {
        if self.take(part).is_some() {
            self.settled += u64::from(events);
        }
    }

    /// The delivery of a part was over.
    pub(super) fn refused(&mut self, part: usize) {
        let texts = self.take(part);
        self.stale.extend(texts.unwrap_or_default());
    }

    fn take(&mut self, part: usize) -> Option<Vec<String>> {
        let texts = std::mem::take(self.parts.get_mut(part)?);
        assert!(self.unanswered > 0, "each part is answered once");
        self.unanswered -= 1;
        Some(texts)
    }

    /// Whether all is answered.
    pub(super) fn is_over(&self) -> bool {
        self.unanswered == 0
    }

    /// The answer: how many events were settled, and which tokens came too late.
    pub(super) fn answer(&self) -> Result<Vec<u8>, Problem> {
        if self.is_eventmesh {
            let is_done = self.settled > 0;
            return is_done.then(|| b"{\"status\":\"acked\"}".to_vec()).ok_or_else(not_delivered);
        }
        if self.settled == 0 && !self.stale.is_empty() {
            let count = self.stale.len();
            let detail = format!(
                "{count} of the tokens are of deliveries that are over, and no other is there"
            );
            return Err(Problem::of("tokens", Code::StaleToken, detail));
        }
        let answer = serde_json::json!({ "settled": self.settled, "stale": self.stale });
        Ok(answer.to_string().into_bytes())
    }
}

/// The refusal of a name that stands for no delivery that is owed.
fn not_delivered() -> Problem {
    let detail =
        "no delivery of this name waits for an ack: it is acked, or too late, or never was";
    Problem::of("deliveryId", Code::NotFound, detail)
}

/// The place that a stream's id says; only what was read can be settled by it.
fn place(text: &str, verdict: Verdict, node: u32) -> Result<Place, Problem> {
    let place = Place::read(text).filter(|place| place.node == node);
    let place = place.ok_or_else(|| tokens::malformed(text))?;
    match (&place.read, verdict) {
        (Reading::Group { .. }, Verdict::Done) => Ok(place),
        (Reading::Alone { .. }, _) => {
            let detail = "the id is of a stream without a group, which has nothing to settle";
            Err(Problem::of("tokens", Code::MalformedToken, detail))
        }
        _ => {
            let detail = "the id of a stream says what was read; it cannot be handed back";
            Err(Problem::of("tokens", Code::MalformedToken, detail))
        }
    }
}

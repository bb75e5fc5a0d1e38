//! Kafka's requests and answers, in the oldest forms that brokers of today take: those without tagged fields.

use anyhow::Context;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// Version 7.
    Produce,
    /// Version 7, with a session.
    Fetch,
    /// Version 1.
    ListOffsets,
    /// Version 2.
    CreateTopics,
    /// Version 1.
    DescribeConfigs,
}

impl Api {
    fn key_and_version(self) -> (i16, i16) {
        match self {
            Api::Produce => (0, 7),
            Api::Fetch => (1, 7),
            Api::ListOffsets => (2, 1),
            Api::CreateTopics => (19, 2),
            Api::DescribeConfigs => (32, 1),
        }
    }
}

/// A request at the end of a buffer, whose length is filled in at its end.
pub(crate) struct Request<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Request<'a> {
    /// Starts a request whose answer is known by `number`.
    pub(crate) fn start(api: Api, number: i32, out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        let mut request = Request { out, start };
        let (key, version) = api.key_and_version();
        request.i32(0).i16(key).i16(version).i32(number).text(Some("loadtest"));
        request
    }

    /// Appends a number.
    pub(crate) fn i8(&mut self, value: i8) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends a number.
    pub(crate) fn i16(&mut self, value: i16) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends a number.
    pub(crate) fn i32(&mut self, value: i32) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends a number.
    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends a text, or null.
    pub(crate) fn text(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            None => self.i16(-1),
            Some(text) => {
                self.i16(text.len() as i16);
                self.out.extend_from_slice(text.as_bytes());
                self
            }
        }
    }

    /// Appends bytes whose length is known when `write` has written them.
    pub(crate) fn bytes(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        let start = self.out.len();
        self.i32(0);
        write(self.out);
        let length = (self.out.len() - start - 4) as i32;
        self.out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        self
    }

    /// Fills in the length.
    pub(crate) fn finish(self) {
        let length = (self.out.len() - self.start - 4) as i32;
        self.out[self.start..self.start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// An answer, read from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'a> {
    bytes: &'a [u8],
}

impl<'a> Answer<'a> {
    /// The first answer of `bytes`, the number of its request and its length, or `None` while it is not whole.
    pub(crate) fn parse(bytes: &'a [u8]) -> anyhow::Result<Option<(i32, Self, usize)>> {
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length =
            usize::try_from(i32::from_be_bytes(*length)).context("an answer has a length")?;
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let mut answer = Answer { bytes: body };
        let number = answer.i32()?;
        Ok(Some((number, answer, 4 + length)))
    }

    fn take<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        let (taken, rest) =
            self.bytes.split_first_chunk::<N>().context("an answer is shorter than its fields")?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// The next number.
    pub(crate) fn i8(&mut self) -> anyhow::Result<i8> {
        Ok(i8::from_be_bytes(self.take()?))
    }

    /// The next number.
    pub(crate) fn i16(&mut self) -> anyhow::Result<i16> {
        Ok(i16::from_be_bytes(self.take()?))
    }

    /// The next number.
    pub(crate) fn i32(&mut self) -> anyhow::Result<i32> {
        Ok(i32::from_be_bytes(self.take()?))
    }

    /// The next number.
    pub(crate) fn i64(&mut self) -> anyhow::Result<i64> {
        Ok(i64::from_be_bytes(self.take()?))
    }

    /// Length of the list that follows; null is empty.
    pub(crate) fn count(&mut self) -> anyhow::Result<u32> {
        Ok(u32::try_from(self.i32()?).unwrap_or(0))
    }

    /// The next text; null is empty.
    pub(crate) fn text(&mut self) -> anyhow::Result<&'a str> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        std::str::from_utf8(self.skip(length)?).context("an answer has a text")
    }

    /// The next bytes; null is empty.
    pub(crate) fn bytes(&mut self) -> anyhow::Result<&'a [u8]> {
        let length = usize::try_from(self.i32()?).unwrap_or(0);
        self.skip(length)
    }

    fn skip(&mut self, length: usize) -> anyhow::Result<&'a [u8]> {
        let (taken, rest) =
            self.bytes.split_at_checked(length).context("an answer is shorter than its fields")?;
        self.bytes = rest;
        Ok(taken)
    }
}

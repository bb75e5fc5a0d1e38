//! Event data for drivers that send events one by one, made before the load starts.

use super::template::STAMP_BYTES;
use crate::floor::raw_write::incompressible;

/// Memory for all data together: what fits the second level cache is not fetched from memory at each send.
const PAYLOADS_BYTES: usize = 1 << 20;

/// Incompressible data of one size, used in turn.
pub(crate) struct Payloads {
    bytes: Vec<u8>,
    data_bytes: usize,
    count: usize,
}

impl Payloads {
    /// Data of `data_bytes` bytes.
    pub(crate) fn new(data_bytes: usize) -> Self {
        assert!(data_bytes >= STAMP_BYTES, "the arguments leave room for a stamp");
        let count = (PAYLOADS_BYTES / data_bytes).clamp(8, 256);
        let bytes = (0..count * data_bytes).map(incompressible(1)).collect();
        Payloads { bytes, data_bytes, count }
    }

    /// Bytes of each.
    pub(crate) fn data_bytes(&self) -> usize {
        self.data_bytes
    }

    /// Appends data number `number` with the stamp at its start.
    pub(crate) fn append(&self, number: u64, stamp_ns: u64, out: &mut Vec<u8>) {
        let start = (number % self.count as u64) as usize * self.data_bytes;
        out.extend_from_slice(&stamp_ns.to_le_bytes());
        out.extend_from_slice(&self.bytes[start + STAMP_BYTES..start + self.data_bytes]);
    }
}

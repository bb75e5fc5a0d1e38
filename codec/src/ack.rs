//! What an acknowledgement promises.

/// How safe an acknowledged event is; when its publisher is told, and when subscribers may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AckLevel {
    /// In the server's memory, on its way to the disk: lost if the process ends before it is written.
    Received = 1,
    /// The write completed: survives the process, not a loss of power.
    Written = 2,
    /// The synced write completed: survives a loss of power.
    Durable = 3,
}

impl AckLevel {
    /// The level with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => AckLevel::Received,
            2 => AckLevel::Written,
            3 => AckLevel::Durable,
            _ => return None,
        })
    }

    /// The level's name on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            AckLevel::Received => "received",
            AckLevel::Written => "written",
            AckLevel::Durable => "durable",
        }
    }
}

//! Names of topics and filters over them, after MQTT's rules.
//!
//! Both are levels split by `/`. Case matters, an empty level is refused. In a filter `+` stands for exactly one level
//! and `#`, last, for its parent and everything below it. A first level that starts with `$` is the server's: it is
//! matched only by a filter that spells it out.

use std::fmt;
use std::str::Split;
use std::sync::Arc;

use codec::limits::{TOPIC_BYTES_MAX, TOPIC_LEVELS_MAX};

/// Stands for exactly one level of a topic.
pub const ANY_LEVEL: &str = "+";
/// Stands for the level before it and all below; only as the last level of a filter.
pub const ALL_BELOW: &str = "#";

/// A checked topic name: what an event is published to. Cloning shares the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// A checked topic filter: what a subscription asks for. Cloning shares the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter(Arc<str>);

/// Why a text is no topic name or no topic filter. Levels count from 1, bytes from 0. Every variant is the peer's fault.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicError {
    /// The text is empty.
    Empty,
    /// More bytes of UTF-8 than a topic may have.
    TooLong {
        /// Length found, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        bytes_max: usize,
    },
    /// More levels than a topic may have.
    TooManyLevels {
        /// Levels found.
        levels: usize,
        /// The limit.
        levels_max: usize,
    },
    /// A level holds nothing, as in `a//b`, `/a` or `a/`.
    EmptyLevel {
        /// Which level.
        level: usize,
    },
    /// A level holds the NUL character.
    Nul {
        /// Which level.
        level: usize,
    },
    /// A level of a name holds `+` or `#`, which only filters may use.
    WildcardInName {
        /// Which level.
        level: usize,
        /// The level's text.
        found: Box<str>,
    },
    /// A level of a filter mixes a wildcard with other characters.
    WildcardInLevel {
        /// Which level.
        level: usize,
        /// The level's text.
        found: Box<str>,
    },
    /// A `#` that is not the last level.
    AllBelowNotLast {
        /// Which level.
        level: usize,
    },
}

/// What a checked text is beyond its check.
macro_rules! levels_of_text {
    ($type:ident) => {
        impl $type {
            /// The whole text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text, shared.
            #[must_use]
            pub fn text(&self) -> &Arc<str> {
                &self.0
            }

            /// The levels, from the first; never none.
            #[must_use]
            pub fn levels(&self) -> Split<'_, char> {
                self.0.split('/')
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

levels_of_text!(TopicName);
levels_of_text!(TopicFilter);

impl TopicName {
    /// Checks `name` and keeps it.
    pub fn new(name: impl Into<Arc<str>>) -> Result<TopicName, TopicError> {
        let name = name.into();
        TopicName::check(&name)?;
        Ok(TopicName(name))
    }

    /// Whether `name` may be a topic's name, without keeping it.
    pub fn check(name: &str) -> Result<(), TopicError> {
        check_levels(name, |level, text| {
            if text.contains(['+', '#']) {
                return Err(TopicError::WildcardInName { level, found: text.into() });
            }
            Ok(())
        })
    }

    /// Whether the name is the server's own: clients may read it but not publish to it.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }
}

impl TopicFilter {
    /// Checks `filter` and keeps it.
    pub fn new(filter: impl Into<Arc<str>>) -> Result<TopicFilter, TopicError> {
        let filter = filter.into();
        TopicFilter::check(&filter)?;
        Ok(TopicFilter(filter))
    }

    /// Whether `filter` may be a topic filter, without keeping it.
    pub fn check(filter: &str) -> Result<(), TopicError> {
        let mut all_below = None;
        check_levels(filter, |level, text| {
            if let Some(level) = all_below {
                return Err(TopicError::AllBelowNotLast { level });
            }
            if text == ALL_BELOW {
                all_below = Some(level);
            } else if text != ANY_LEVEL && text.contains(['+', '#']) {
                return Err(TopicError::WildcardInLevel { level, found: text.into() });
            }
            Ok(())
        })
    }

    /// The one topic that this filter can match; none when it has a wildcard.
    #[must_use]
    pub fn exact_name(&self) -> Option<TopicName> {
        (!self.0.contains(['+', '#'])).then(|| TopicName(self.0.clone()))
    }

    /// Whether the filter matches `name`. This is the rule itself, level by level; the trie must agree with it.
    #[must_use]
    pub fn matches(&self, name: &TopicName) -> bool {
        if name.is_reserved() && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = name.levels();
        for expected in self.levels() {
            if expected == ALL_BELOW {
                return true;
            }
            match levels.next() {
                Some(found) if expected == ANY_LEVEL || expected == found => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

/// Checks what names and filters share, then each level with `check_level`.
fn check_levels<'a>(
    text: &'a str,
    mut check_level: impl FnMut(usize, &'a str) -> Result<(), TopicError>,
) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong { bytes: text.len(), bytes_max: TOPIC_BYTES_MAX });
    }
    let levels = text.split('/').count();
    if levels > TOPIC_LEVELS_MAX {
        return Err(TopicError::TooManyLevels { levels, levels_max: TOPIC_LEVELS_MAX });
    }
    for (index, level_text) in text.split('/').enumerate() {
        let level = index + 1;
        if level_text.is_empty() {
            return Err(TopicError::EmptyLevel { level });
        }
        if level_text.contains('\0') {
            return Err(TopicError::Nul { level });
        }
        check_level(level, level_text)?;
    }
    Ok(())
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicError::Empty => write!(f, "a topic has at least one level, found none"),
            TopicError::TooLong { bytes, bytes_max } => {
                write!(f, "a topic has at most {bytes_max} bytes, found {bytes}")
            }
            TopicError::TooManyLevels { levels, levels_max } => {
                write!(f, "a topic has at most {levels_max} levels, found {levels}")
            }
            TopicError::EmptyLevel { level } => write!(f, "level {level} is empty"),
            TopicError::Nul { level } => write!(f, "level {level} holds the NUL character"),
            TopicError::WildcardInName { level, found } => {
                write!(f, "level {level} of a topic's name holds a wildcard: {found:?}")
            }
            TopicError::WildcardInLevel { level, found } => {
                write!(f, "a wildcard must be a whole level, level {level} is {found:?}")
            }
            TopicError::AllBelowNotLast { level } => {
                write!(f, "'#' must be the last level of a filter, it is level {level}")
            }
        }
    }
}

impl std::error::Error for TopicError {}

//! Which pages of other origins may ask (the Fetch standard's CORS protocol).

use std::sync::Arc;

use http::HeaderValue;

/// Whom the door answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cors {
    /// Nobody: browsers then keep pages of other origins away.
    #[default]
    None,
    /// Every page.
    Any,
    /// Pages of these origins, such as `https://app.example`.
    Origins(Arc<[String]>),
}

impl Cors {
    /// What to say to a page of `origin`: the value of `access-control-allow-origin`, if it may ask.
    pub(super) fn allows(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        match self {
            Cors::None => None,
            Cors::Any => Some(HeaderValue::from_static("*")),
            Cors::Origins(origins) => {
                let is_known = origins.iter().any(|known| known.as_bytes() == origin.as_bytes());
                is_known.then(|| origin.clone())
            }
        }
    }
}

//! `/api/v1/`: what there is, by name, for people and programs. docs: admin/openapi.json, which is exact.

pub(crate) mod connections;
pub(crate) mod dead_letters;
pub(crate) mod delivery_policy;
pub(crate) mod node;
pub(crate) mod operating;
pub(crate) mod parking;
pub(crate) mod subscriptions;
pub(crate) mod topic_deletion;
pub(crate) mod topic_policies;
pub(crate) mod topics;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::http::header;
use axum::response::IntoResponse;
use codec::refusal::Code;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// The document that describes the API.
pub const OPENAPI: &str = include_str!("../../openapi.json");
/// Most things on one page of a list.
pub const PAGE_MAX: usize = dataplane::inquiry::PAGE_MAX;
/// Things on a page when the request does not say.
const PAGE_DEFAULT: usize = 100;

/// The document that describes the API.
pub(crate) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

/// Which page of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    limit: Option<usize>,
    /// Only what comes behind it: `next` of the page before.
    after: Option<String>,
}

/// Which page of a list, checked.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) limit: usize,
    pub(crate) after: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Given as `after`, the page behind this one; null at the end.
    pub(crate) next: Option<String>,
}

/// A request's query, or why it is none.
pub(crate) type AskedQuery<T> = Result<Query<T>, QueryRejection>;
/// A request's name in its path, or why it is none.
pub(crate) type AskedName = Result<Path<String>, PathRejection>;

/// How something is to be done.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DryRunQuery {
    /// Only say what would come of it.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

/// The page that is asked for.
pub(crate) fn wish(query: AskedQuery<PageQuery>) -> Result<Wish, Problem> {
    checked(query)?.wish()
}

impl PageQuery {
    /// The page, if it has a size that is allowed.
    pub(crate) fn wish(self) -> Result<Wish, Problem> {
        let PageQuery { limit, after } = self;
        let limit = limit.unwrap_or(PAGE_DEFAULT);
        if limit == 0 || limit > PAGE_MAX {
            let text = format!("limit is {limit}, 1 to {PAGE_MAX} are allowed");
            return Err(Problem::new(Code::MalformedRequest, text));
        }
        Ok(Wish { limit, after })
    }
}

/// The parameters of a request.
pub(crate) fn checked<T>(query: AskedQuery<T>) -> Result<T, Problem> {
    let Query(query) =
        query.map_err(|rejection| Problem::new(Code::MalformedRequest, rejection.body_text()))?;
    Ok(query)
}

/// The name in a request's path.
pub(crate) fn name(name: AskedName) -> Result<String, Problem> {
    let Path(name) = name.map_err(|_| Problem::new(Code::NotUtf8, "the name in the path"))?;
    Ok(name)
}

impl<T> Page<T> {
    /// A page of a list that is at hand whole, ordered by `key`.
    pub(crate) fn of(list: Vec<T>, wish: &Wish, key: impl Fn(&T) -> String) -> Page<T> {
        let is_behind = |item: &T| wish.after.as_ref().is_none_or(|after| key(item) > *after);
        let mut items: Vec<T> = list.into_iter().filter(is_behind).collect();
        items.sort_by_key(&key);
        let has_more = items.len() > wish.limit;
        items.truncate(wish.limit);
        let next = items.last().filter(|_| has_more).map(&key);
        Page { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that follows `next` must see everything once, whatever the page's size.
    #[test]
    fn pages_hold_everything_once() {
        for limit in 1..8 {
            let (mut after, mut seen) = (None, Vec::new());
            loop {
                let wish = Wish { limit, after };
                let page =
                    Page::of(vec!["d", "a", "c", "e", "b"], &wish, |name| (*name).to_owned());
                assert!(page.items.len() <= limit);
                seen.extend(page.items);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen, ["a", "b", "c", "d", "e"], "{limit} a page");
        }
    }
}

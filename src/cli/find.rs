//! From the part of an id that a person typed to the whole of it.

use protem_proto::wire::v1;
use protem_verify::codes::tool;
use protem_verify::ids::GrantId;
use tonic::Code;

use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};

/// The id of the one grant that begins or ends with `part`; a whole id is taken as it is.
///
/// # Errors
/// When no grant, or more than one, is like that.
pub async fn grant(client: &Client, part: &str) -> Result<String, Failure> {
    if let Some(whole) = whole(part) {
        return Ok(whole);
    }
    let part = typed(part);
    let mut found: Vec<String> = Vec::new();
    let mut page_token = String::new();
    // A part is typed by a person who has just seen the grant: the newest pages hold it.
    for _ in 0..PAGES {
        let asked = v1::ListGrantsRequest {
            page_size: PAGE,
            page_token,
            ..v1::ListGrantsRequest::default()
        };
        let page = match client.governance().list_grants(asked).await {
            Ok(page) => page.into_inner(),
            Err(status) if status.code() == Code::InvalidArgument => break,
            Err(status) => return Err(client.failure(&status)),
        };
        let ids = page.grants.into_iter().map(|grant| grant.id);
        found.extend(ids.filter(|id| matches(id, part)));
        page_token = page.next_page_token;
        if page_token.is_empty() || found.len() > 1 {
            break;
        }
    }
    one(part, found)
}

/// The one of `ids` that begins or ends with `part`; none when none does.
///
/// # Errors
/// When more than one is like that.
pub fn among(part: &str, ids: impl IntoIterator<Item = String>) -> Result<Option<String>, Failure> {
    let part = typed(part);
    let found: Vec<String> = ids.into_iter().filter(|id| matches(id, part)).collect();
    if found.is_empty() { Ok(None) } else { one(part, found).map(Some) }
}

fn one(part: &str, found: Vec<String>) -> Result<String, Failure> {
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            Err(Failure::of(Exit::NotFound, tool::NO_MATCH, format!("no grant is like `{part}`")))
        }
        [first, second, ..] => {
            let what = format!("`{part}` may be {first} or {second}");
            Err(Failure::of(Exit::Usage, tool::AMBIGUOUS, what))
        }
    }
}

/// The id, if all of it was typed.
#[must_use]
pub fn whole(part: &str) -> Option<String> {
    let part = typed(part);
    part.parse::<GrantId>().is_ok().then(|| part.to_owned())
}

/// What of an id was typed, without the dots that stand for the rest of it: `gr_…8kq` means `8kq`.
fn typed(part: &str) -> &str {
    part.rsplit(['…', '.']).next().unwrap_or(part)
}

const PAGE: u32 = 1_000;
const PAGES: usize = 10;

/// Whether a person who typed `part` can mean `id`: its beginning, with or without `gr_`, or its end.
fn matches(id: &str, part: &str) -> bool {
    let part = part.to_lowercase();
    let digits = id.strip_prefix("gr_").unwrap_or(id);
    !part.is_empty() && (id.starts_with(&part) || digits.starts_with(&part) || id.ends_with(&part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_beginning_or_an_end() {
        let id = "gr_01jd8kqxyz";
        for part in ["gr_01", "01jd", "xyz", "XYZ"] {
            assert!(matches(id, part), "{part}");
        }
        for part in ["", "jd8", "gr_02"] {
            assert!(!matches(id, part), "{part}");
        }
        for part in ["gr_…xyz", "…xyz", "gr_...xyz", "xyz"] {
            assert_eq!(typed(part), "xyz");
        }
    }

    #[test]
    fn a_part_of_two_is_told() {
        let ids = || ["gr_01jd8kqxyz", "gr_01jd8kqabc"].map(str::to_owned);
        assert_eq!(among("xyz", ids()).unwrap().as_deref(), Some("gr_01jd8kqxyz"));
        assert_eq!(among("zzz", ids()).unwrap(), None);
        assert_eq!(among("01jd", ids()).unwrap_err().exit, Exit::Usage);
    }
}

//! `protem review`: emergencies that nobody has looked at yet, and the looking at them.

use protem_proto::wire::v1;
use protem_verify::codes::law;

use crate::cli::args::Global;
use crate::cli::args_people::ReviewArgs;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure, in_a_line};
use crate::cli::output::columns;
use crate::cli::wait::brief;
use crate::cli::{find, show};

/// Lists them, shows one, or closes one.
///
/// # Errors
/// When the broker refuses it.
pub async fn review(global: &Global, args: &ReviewArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let Some(part) = &args.grant else {
        let reviews = list(&client, !args.all).await?;
        if screen.json {
            let all = v1::ListReviewsResponse { reviews, next_page_token: String::new() };
            screen.json("ListReviewsResponse", &all, false)?;
        } else if reviews.is_empty() {
            screen.say("no emergency waits for a review");
        } else {
            screen.print(table(&reviews));
        }
        return Ok(Exit::Done);
    };
    let one = find_one(list(&client, false).await?, part)?;
    let Some(note) = &args.note else {
        if screen.json {
            screen.json("Review", &one, false)?;
        } else {
            screen.print(whole(&one));
        }
        return Ok(Exit::Done);
    };
    let grant_id = one.grant.map(|grant| grant.id).unwrap_or_default();
    let asked = v1::CloseReviewRequest { grant_id, note: note.clone() };
    let answer = client.approvals().close_review(asked).await;
    let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
    if screen.json {
        screen.json("CloseReviewResponse", &answer, false)?;
    } else {
        let grant = answer.review.and_then(|review| review.grant).unwrap_or_default();
        let who = in_a_line(&grant.identity);
        screen.print(format!("{} is reviewed; {who} may use break-glass again", brief(&grant.id)));
    }
    Ok(Exit::Done)
}

async fn list(client: &Client, open_only: bool) -> Result<Vec<v1::Review>, Failure> {
    let mut asked = v1::ListReviewsRequest { open_only, page_size: PAGE, ..Default::default() };
    let mut all = Vec::new();
    loop {
        let page = client.approvals().list_reviews(asked.clone()).await;
        let page = page.map_err(|status| client.failure(&status))?.into_inner();
        let empty = page.reviews.is_empty();
        all.extend(page.reviews);
        if empty || page.next_page_token.is_empty() {
            return Ok(all);
        }
        asked.page_token = page.next_page_token;
    }
}

/// As many as the broker gives on one page.
const PAGE: u32 = 1_000;

fn id(review: &v1::Review) -> String {
    review.grant.as_ref().map(|grant| grant.id.clone()).unwrap_or_default()
}

fn find_one(reviews: Vec<v1::Review>, part: &str) -> Result<v1::Review, Failure> {
    let found = find::among(part, reviews.iter().map(id))?;
    let found = found.and_then(|found| reviews.into_iter().find(|review| id(review) == found));
    found.ok_or_else(|| {
        let what = format!("no emergency is like `{part}`");
        Failure::of(Exit::NotFound, law::NO_REVIEW, what)
    })
}

fn table(reviews: &[v1::Review]) -> String {
    let rows: Vec<Vec<String>> = reviews.iter().map(row).collect();
    columns(&["GRANT", "WHO", "HAD", "FROM", "WHY", "REVIEW"], &rows)
}

fn row(review: &v1::Review) -> Vec<String> {
    let grant = review.grant.clone().unwrap_or_default();
    vec![
        brief(&grant.id),
        in_a_line(&grant.identity),
        in_a_line(&format!("{} on {}", grant.scopes.join(" "), grant.resource)),
        show::at(grant.active_from.as_ref()),
        format!("\"{}\"", in_a_line(&grant.purpose)),
        closed(review).unwrap_or_else(|| "open".to_owned()),
    ]
}

/// Who looked at it, when, and what they found; none while it is open.
fn closed(review: &v1::Review) -> Option<String> {
    let at = review.closed_at.as_ref()?;
    let (by, note) = (in_a_line(&review.closed_by), in_a_line(&review.note));
    Some(format!("closed by {by} at {}: \"{note}\"", show::at(Some(at))))
}

fn whole(review: &v1::Review) -> String {
    let grant = review.grant.clone().unwrap_or_default();
    let end = closed(review).unwrap_or_else(|| match review.may_close {
        true => format!("open; `protem review {} --note …` closes it", brief(&grant.id)),
        false => format!("open, and not yours to close: {}", in_a_line(&review.why_not)),
    });
    format!("{}\n{:<12}{end}", show::grant(&grant), "review")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_and_closed_ones_are_told_apart_in_a_line_each() {
        let grant = v1::Grant {
            id: "gr_1".into(),
            identity: "payments/agent".into(),
            purpose: "down\u{1b}[2J\nopen".into(),
            emergency: true,
            ..v1::Grant::default()
        };
        let open = v1::Review { grant: Some(grant), may_close: true, ..v1::Review::default() };
        let closed = v1::Review {
            closed_by: "olga".into(),
            note: "was right".into(),
            closed_at: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            ..open.clone()
        };
        let text = table(&[open.clone(), closed.clone()]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].ends_with("open") && lines[2].contains("closed by olga"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(whole(&open).contains("protem review gr_1 --note"), "{}", whole(&open));
        assert!(whole(&closed).ends_with("\"was right\""), "{}", whole(&closed));
        assert_eq!(find_one(vec![open], "zz").unwrap_err().exit, Exit::NotFound);
    }
}

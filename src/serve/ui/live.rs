//! The word to an open page that what it shows has changed (server-sent events); it then asks for itself again.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::policy::login::Person;
use crate::serve::approvals::{pending, review};
use crate::serve::seats::Seated;
use crate::serve::status::Problem;
use crate::serve::ui::entered::Entered;
use crate::serve::ui::limits::{ALIVE_EVERY, LIVE_PAUSE};
use crate::serve::ui::problem;
use crate::serve::ui::site::Site;

/// What an open page may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topic {
    /// What waits for people.
    Waiting,
    /// Emergencies.
    Reviews,
}

impl Topic {
    fn named(name: &str) -> Option<Self> {
        match name {
            "waiting" => Some(Self::Waiting),
            "reviews" => Some(Self::Reviews),
            _ => None,
        }
    }
}

/// A stream of words. It ends with the session, and counts among the person's open streams.
///
/// # Errors
/// When there is no such topic, or the person has as many streams open as one may.
pub async fn events(
    State(site): State<Arc<Site>>,
    entered: Entered,
    Path(topic): Path<String>,
) -> Result<Response, Response> {
    let Some(topic) = Topic::named(&topic) else { return Err(problem::nothing(Some(&entered))) };
    let refuse = |no: Problem| problem::page(&site, Some(&entered), &no.status());
    let caller = entered.caller().map_err(refuse)?;
    let seat = site.entrance.stream(Some(caller)).map_err(refuse)?;
    let (words, heard) = mpsc::channel::<&'static str>(WORDS_WAITING);
    let (session, person) = (Arc::clone(&entered.session), entered.person.clone());
    let of = Arc::clone(&site);
    tokio::spawn(async move {
        tokio::select! {
            () = follow(&of, topic, &person, &words) => {}
            _ = of.watch.over(Arc::clone(&session.signed_in)) => { let _ = words.send(ENDED).await; }
            () = session.ended() => { let _ = words.send(ENDED).await; }
            () = words.closed() => {}
        }
    });
    let words = ReceiverStream::new(heard);
    let words = words.map(|word| Ok::<_, Infallible>(Bytes::from_static(word.as_bytes())));
    let mut body = Body::from_stream(words);
    if let Some(seat) = seat {
        body = Body::new(Seated::new(body, seat));
    }
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, body).into_response())
}

/// Tells of each change of what this person sees, and now and then that the connection lives.
async fn follow(site: &Site, topic: Topic, person: &Person, words: &mpsc::Sender<&'static str>) {
    let mut changed = site.broker.pending_changed();
    let mut seen = None;
    loop {
        changed.mark_unchanged();
        let now = match topic {
            Topic::Waiting => waiting(site, person).await,
            Topic::Reviews => reviews(site, person).await,
        };
        // What changed before the first look may be news to the page as well; what nobody sees changes nothing.
        let word = if seen == Some(now) { ALIVE } else { CHANGED };
        seen = Some(now);
        if words.send(word).await.is_err() {
            return;
        }
        if let Ok(Err(_)) = tokio::time::timeout(ALIVE_EVERY, changed.changed()).await {
            return;
        }
        tokio::time::sleep(LIVE_PAUSE).await;
    }
}

/// What this person sees of what waits, as a number.
async fn waiting(site: &Site, person: &Person) -> u64 {
    let mut hash = DefaultHasher::new();
    if let Ok(found) = site.broker.pending(person).await {
        found.iter().for_each(|one| pending(one).encode_to_vec().hash(&mut hash));
    }
    hash.finish()
}

/// What this person sees of emergencies, as a number.
async fn reviews(site: &Site, person: &Person) -> u64 {
    let mut hash = DefaultHasher::new();
    if let Ok(found) = site.broker.reviews(person, true).await {
        found.iter().for_each(|one| review(one).encode_to_vec().hash(&mut hash));
    }
    hash.finish()
}

const CHANGED: &str = "event: changed\ndata: \n\n";
const ENDED: &str = "event: ended\ndata: \n\n";
const ALIVE: &str = ": alive\n\n";
/// Words that may wait for a slow reader: the next look is as good as those it missed.
const WORDS_WAITING: usize = 2;

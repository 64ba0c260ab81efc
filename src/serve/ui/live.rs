//! The word to an open page that what it shows has changed (server-sent events); it then asks for itself again.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use prost::Message;
use protem_verify::ids::{GrantId, Seq};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::policy::ask::Object;
use crate::policy::login::{Caller, Person};
use crate::serve::approvals::{pending, review};
use crate::serve::inventory;
use crate::serve::methods::Streams;
use crate::serve::seats::Seated;
use crate::serve::status::Problem;
use crate::serve::ui::entered::Entered;
use crate::serve::ui::limits::{ALIVE_EVERY, LIVE_PAUSE, LOOK_EVERY};
use crate::serve::ui::problem;
use crate::serve::ui::receipts;
use crate::serve::ui::sessions::Session;
use crate::serve::ui::site::Site;
use crate::serve::used;
use crate::serve::who;

/// What an open page may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topic {
    /// What waits for people.
    Waiting,
    /// Emergencies.
    Reviews,
    /// One grant.
    Grant(GrantId),
    /// How a revocation takes force.
    Revocation(Seq),
    /// Who enforces.
    Gateways,
}

impl Topic {
    fn named(name: &str) -> Option<Self> {
        match name.split_once('-') {
            None if name == "waiting" => Some(Self::Waiting),
            None if name == "reviews" => Some(Self::Reviews),
            None if name == "gateways" => Some(Self::Gateways),
            Some(("grant", id)) => id.parse().ok().map(Self::Grant),
            Some(("revocation", seq)) => seq.parse().ok().map(Seq).map(Self::Revocation),
            None | Some(_) => None,
        }
    }

    /// What tells that it may have changed.
    fn changed(self, site: &Site) -> watch::Receiver<u64> {
        match self {
            Self::Waiting | Self::Reviews => site.broker.pending_changed(),
            Self::Grant(_) | Self::Revocation(_) | Self::Gateways => {
                site.broker.enforcement_changed()
            }
        }
    }

    /// How often it is looked at without a word.
    fn every(self) -> Duration {
        match self {
            Self::Waiting | Self::Reviews | Self::Revocation(_) => ALIVE_EVERY,
            Self::Grant(_) | Self::Gateways => LOOK_EVERY,
        }
    }

    /// What this person sees of it, as a number. What they may not look at is always the same.
    async fn seen(self, site: &Site, session: &Session, person: &Person) -> u64 {
        let Ok(caller) = session.signed_in.caller() else { return 0 };
        match self {
            Self::Waiting => waiting(site, person).await,
            Self::Reviews => reviews(site, person).await,
            Self::Grant(id) => grant(site, caller, id).await,
            Self::Revocation(seq) => receipts::seen(site, caller, seq).await,
            Self::Gateways => gateways(site, caller).await,
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
    let seat = site.entrance.stream(Streams::Following, Some(caller)).map_err(refuse)?;
    let (words, heard) = mpsc::channel::<&'static str>(WORDS_WAITING);
    let (session, person) = (Arc::clone(&entered.session), entered.person.clone());
    let of = Arc::clone(&site);
    tokio::spawn(async move {
        tokio::select! {
            () = follow(&of, topic, &session, &person, &words) => {}
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
async fn follow(
    site: &Site,
    topic: Topic,
    session: &Session,
    person: &Person,
    words: &mpsc::Sender<&'static str>,
) {
    let mut changed = topic.changed(site);
    let mut seen = None;
    loop {
        changed.mark_unchanged();
        let now = topic.seen(site, session, person).await;
        // What changed before the first look may be news to the page as well; what nobody sees changes nothing.
        let word = if seen == Some(now) { ALIVE } else { CHANGED };
        seen = Some(now);
        if words.send(word).await.is_err() {
            return;
        }
        if let Ok(Err(_)) = tokio::time::timeout(topic.every(), changed.changed()).await {
            return;
        }
        tokio::time::sleep(LIVE_PAUSE).await;
    }
}

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

async fn grant(site: &Site, caller: &Caller, id: GrantId) -> u64 {
    let mut hash = DefaultHasher::new();
    if let Ok(record) = who::visible(&site.broker, caller, id).await
        && let Ok(shown) = used::grant(&site.broker, &record).await
    {
        shown.encode_to_vec().hash(&mut hash);
    }
    hash.finish()
}

async fn gateways(site: &Site, caller: &Caller) -> u64 {
    let mut hash = DefaultHasher::new();
    if who::may_view(&site.broker, caller, &[Object::Broker]).is_ok()
        && let Ok(all) = inventory::gateways(&site.broker).await
    {
        all.iter().for_each(|one| one.encode_to_vec().hash(&mut hash));
    }
    hash.finish()
}

const CHANGED: &str = "event: changed\ndata: \n\n";
const ENDED: &str = "event: ended\ndata: \n\n";
const ALIVE: &str = ": alive\n\n";
/// Words that may wait for a slow reader: the next look is as good as those it missed.
const WORDS_WAITING: usize = 2;

//! `RevocationService`: the feed, encoded once for all who follow the same part of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use prost::Message;
use protem_clock::random;
use protem_proto::encoded::Encoded;
use protem_proto::wire::feed::revocation_service_server::RevocationService;
use protem_proto::wire::v1;
use protem_proto::wire::v1::subscribe_request::Message as Said;
use protem_proto::wire::v1::subscribe_response::Message as Told;
use protem_verify::codes::wire;
use protem_verify::ids::{Epoch, JournalId, Seq};
use protem_verify::names::{IdentityName, Malformed, ResourceName};
use tonic::{Code as Grpc, Request, Response, Status, Streaming};

use crate::engine::broker::Broker;
use crate::engine::filter::{Cursor, Filter};
use crate::engine::proof;
use crate::engine::seats::FILTER_KEPT;
use crate::engine::subscribe::{NONCE_MAX, Peer, Subscribe, Unsubscribed};
use crate::engine::subscription::Subscription;
use crate::journal::fault::Fault;
use crate::policy::ask::{Action, Object, Unknown};
use crate::policy::finding::{did_you_mean, nearest};
use crate::policy::login::{Caller, Person, Principal};
use crate::serve::answers::{Answers, Gone, Sink};
use crate::serve::caller::SignedIn;
use crate::serve::limits::{HEAD_ITEMS_MAX, INSTANCE_MAX, RECONNECT_AFTER, RESOURCES_MAX};
use crate::serve::parse;
use crate::serve::show;
use crate::serve::status::Problem;
use crate::serve::watch::Watch;
use crate::serve::who;

/// The service.
pub struct Revocations {
    /// What answers.
    pub broker: Broker,
    /// What ends streams.
    pub watch: Watch,
}

#[tonic::async_trait]
impl RevocationService for Revocations {
    type SubscribeStream = Answers<Encoded>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let signed_in = who::signed_in(&request)?;
        let mut said = request.into_inner();
        let first = said.message().await.map_err(|_| undecodable())?;
        let Some(v1::SubscribeRequest { message: Some(Said::Open(open)) }) = first else {
            return Err(parse::missing("open").into());
        };
        let named = open.resources.clone();
        let subscribe = self.opened(&signed_in, open).await?;
        let (broker, follows) = (self.broker.clone(), subscribe.filter.clone());
        let may = move |signed_in: &SignedIn| still(&broker, signed_in, &named, &follows);
        let mut subscription = self.broker.subscribe(subscribe).await.map_err(unsubscribed)?;
        let peer = subscription.peer();
        let (sink, answers) = Sink::new();
        let watch = self.watch.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = send(&mut subscription, &sink) => {}
                end = listen(&peer, &mut said) => if let Err(problem) = end {
                    sink.fail(problem);
                },
                problem = watch.feed_over(Arc::clone(&signed_in), may) => {
                    // A client that knows goes elsewhere at once; the status says why.
                    sink.send_now(go_away(problem.title()));
                    sink.fail(problem);
                }
            }
        });
        Ok(Response::new(answers))
    }

    async fn head(
        &self,
        request: Request<v1::HeadRequest>,
    ) -> Result<Response<v1::HeadResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let wire = request.into_inner();
        if wire.nonce.len() > NONCE_MAX {
            return Err(Problem::from(LONG_NONCE).into());
        }
        let open = v1::Open { resources: wire.resources, after: wire.after, ..v1::Open::default() };
        let subscribe = self.opened(&signed_in, open).await?;
        let subscription = self.broker.subscribe(subscribe).await.map_err(unsubscribed)?;
        Ok(Response::new(poll(subscription, wire.nonce).await?))
    }
}

impl Revocations {
    /// What a caller may follow. Beside the other calls: policy may be asked about each identity.
    async fn opened(
        &self,
        signed_in: &Arc<SignedIn>,
        open: v1::Open,
    ) -> Result<Subscribe, Problem> {
        let (broker, signed_in) = (self.broker.clone(), Arc::clone(signed_in));
        let asked = tokio::task::spawn_blocking(move || opened(&broker, signed_in.caller()?, open));
        asked.await.unwrap_or_else(|_| Err(Fault::Stopping.into()))
    }
}

async fn send(subscription: &mut Subscription, sink: &Sink<Encoded>) -> Result<(), Gone> {
    while let Some(message) = subscription.next().await {
        sink.send(message).await?;
    }
    Ok(())
}

/// What a subscriber says until it stops: a closed or lost stream ends the subscription.
async fn listen(peer: &Peer, said: &mut Streaming<v1::SubscribeRequest>) -> Result<(), Problem> {
    while let Ok(Some(message)) = said.message().await {
        match message.message {
            Some(Said::Ack(ack)) => peer.ack(Seq(ack.seq)),
            Some(Said::Ping(ping)) => {
                if ping.nonce.len() > NONCE_MAX {
                    return Err(LONG_NONCE.into());
                }
                let age = ping.view_age.map(|age| parse::span("view_age", &age)).transpose()?;
                peer.ping(ping.nonce, ping.state, age);
            }
            Some(Said::Open(_)) => {
                let why = "comes only once, as the first message";
                return Err(Malformed { field: "open", why }.into());
            }
            // A newer client may say what this broker does not know.
            None => {}
        }
    }
    Ok(())
}

/// One poll: everything up to the proof of this nonce, in one answer.
async fn poll(mut subscription: Subscription, nonce: Vec<u8>) -> Result<v1::HeadResponse, Problem> {
    let asked = if nonce.is_empty() { vec![0] } else { nonce.clone() };
    subscription.peer().ping(asked.clone(), String::new(), None);
    let mut answer = v1::HeadResponse::default();
    let mut items = Vec::new();
    while let Some(message) = subscription.next().await {
        let told = v1::SubscribeResponse::decode(message.0).ok().and_then(|told| told.message);
        match told {
            Some(Told::Batch(batch)) => {
                items.extend(batch.items);
                if items.len() > HEAD_ITEMS_MAX {
                    let why = "more came after the cursor than one answer holds; subscribe instead";
                    return Err(Problem::new(Grpc::FailedPrecondition, wire::TOO_LARGE, why));
                }
            }
            Some(Told::Reset(reset)) => {
                items.clear();
                answer.reset = Some(reset);
            }
            Some(Told::Keys(keys)) => answer.keys = Some(keys),
            Some(Told::Catalog(catalog)) => answer.catalog = Some(catalog),
            Some(Told::Checkpoint(mut checkpoint)) if checkpoint.nonce == asked => {
                checkpoint.nonce = nonce;
                let cursor = checkpoint.cursor.clone();
                answer.batch = Some(v1::RevocationBatch { items, cursor });
                answer.checkpoint = Some(checkpoint);
                return Ok(answer);
            }
            Some(
                Told::Opened(_)
                | Told::SnapshotBegin(_)
                | Told::SnapshotEnd(_)
                | Told::Checkpoint(_)
                | Told::GoAway(_),
            )
            | None => {}
        }
    }
    Err(Fault::Stopping.into())
}

/// What a caller may follow of what it asks for.
fn opened(broker: &Broker, caller: &Caller, open: v1::Open) -> Result<Subscribe, Problem> {
    let named = resources(&open.resources)?;
    let expiries = open.expiries;
    let filter = |resources| Filter { resources, identity: None, observed: None, expiries };
    let (gateway, filter) = match &caller.principal {
        Principal::Gateway { name, resources } => {
            if !open.gateway.is_empty() && open.gateway != name.as_str() {
                return Err(who::wrong_kind(&format!("gateway `{}`", parse::plain(&open.gateway))));
            }
            let given: BTreeSet<_> = resources.iter().cloned().collect();
            (Some(name.clone()), filter(Some(within(named, given)?)))
        }
        Principal::Workload { by, .. } => {
            let resources = askable(broker, &by.identity, named)?;
            (None, Filter { identity: Some(by.identity.clone()), ..filter(resources) })
        }
        Principal::Person(person) => {
            let resources = seen(broker, person, named)?;
            (None, Filter { observed: observed(broker, person), ..filter(resources) })
        }
    };
    if open.enforcing && gateway.is_none() {
        return Err(who::wrong_kind("gateways; observers do not enforce"));
    }
    if open.enforcing && (open.instance.is_empty() || open.gateway.is_empty()) {
        return Err(parse::missing("instance"));
    }
    if open.instance.len() > INSTANCE_MAX || open.instance.chars().any(char::is_control) {
        return Err(
            Malformed { field: "instance", why: "is longer than 64 bytes, or not plain" }.into()
        );
    }
    let last = open.last.as_ref().map(|last| proof::signed(last).ok_or(BAD_CHECKPOINT));
    Ok(Subscribe {
        who: caller.actor(),
        gateway,
        instance: open.instance,
        process: process(&open.process)?,
        filter,
        after: open.after.map(cursor).transpose()?,
        enforcing: open.enforcing,
        history: open.history,
        last: last.transpose()?,
    })
}

/// The process that a subscriber is. One that does not say is another with each stream: nothing is taken for the word of
/// another process.
fn process(named: &[u8]) -> Result<String, Problem> {
    if named.len() > NONCE_MAX {
        return Err(Malformed { field: "process", why: "is longer than 32 bytes" }.into());
    }
    if named.is_empty() {
        return Ok(HEXLOWER.encode(&random::bytes::<16>()));
    }
    Ok(HEXLOWER.encode(named))
}

/// The resources that a subscriber names; none: it names none.
fn resources(named: &[String]) -> Result<Option<BTreeSet<ResourceName>>, Problem> {
    if named.is_empty() {
        return Ok(None);
    }
    if named.len() > RESOURCES_MAX {
        return Err(Malformed { field: "resources", why: "names more than 1,000" }.into());
    }
    let names: Result<_, Malformed> =
        named.iter().map(|name| ResourceName::try_from(name.as_str())).collect();
    let names = names.map_err(|bad| Malformed { field: "resources", why: bad.why })?;
    Ok(Some(names))
}

/// What was asked for, if all of it is given; all that is given when nothing was asked for.
fn within(
    named: Option<BTreeSet<ResourceName>>,
    given: BTreeSet<ResourceName>,
) -> Result<BTreeSet<ResourceName>, Problem> {
    let Some(named) = named else { return Ok(given) };
    match named.iter().find(|name| !given.contains(*name)) {
        None => Ok(named),
        Some(foreign) => {
            Err(who::wrong_kind(&format!("gateways that the catalog gives `{foreign}`")))
        }
    }
}

/// What a workload names, if it may ask for all of it. Of what else there is it learns nothing, not even that it is there.
fn askable(
    broker: &Broker,
    identity: &IdentityName,
    named: Option<BTreeSet<ResourceName>>,
) -> Result<Option<BTreeSet<ResourceName>>, Problem> {
    let Some(named) = named else { return Ok(None) };
    let bundle = broker.bundle();
    let askable = bundle.askable(identity);
    let askable = askable.unwrap_or_else(|| bundle.catalog().resources.keys().cloned().collect());
    let Some(unknown) = named.difference(&askable).next() else { return Ok(Some(named)) };
    let hint = did_you_mean(unknown.as_str(), askable.iter().map(ResourceName::as_str));
    let why =
        format!("names `{unknown}`, which is no resource that `{identity}` may ask for{hint}");
    Err(Problem::field(wire::UNKNOWN_NAME, "resources", &why))
}

/// What a person may look at: everything with `view` on the broker and nothing forbidden, else the resources that policy names.
fn seen(
    broker: &Broker,
    person: &Person,
    named: Option<BTreeSet<ResourceName>>,
) -> Result<Option<BTreeSet<ResourceName>>, Problem> {
    let bundle = broker.bundle();
    let known = &bundle.catalog().resources;
    let may = |name: &ResourceName| {
        let objects = [Object::Resource(name.clone()), Object::Broker];
        who::permit(broker, person, Action::View, &objects)
    };
    if let Some(named) = named {
        named.iter().try_for_each(may)?;
        let Some(unknown) = named.iter().find(|name| !known.contains_key(*name)) else {
            return Ok(Some(named));
        };
        // Of names that are near, too, only those are told that this person may look at.
        let near = nearest(unknown.as_str(), known.keys().map(ResourceName::as_str));
        let near =
            near.filter(|near| ResourceName::try_from(*near).is_ok_and(|it| may(&it).is_ok()));
        let (name, did_you_mean) = (unknown.to_string(), near.map(str::to_owned));
        return Err(parse::unknown(Unknown { field: "resources", name, did_you_mean }));
    }
    let seen: BTreeSet<_> = known.keys().filter(|name| may(name).is_ok()).cloned().collect();
    match who::permit(broker, person, Action::View, &[Object::Broker]) {
        Ok(()) if seen.len() == known.len() => Ok(None),
        Err(no) if seen.is_empty() => Err(no),
        Ok(()) | Err(_) => Ok(Some(seen)),
    }
}

/// The identities whose names a person may read in the feed; `None`: all, by `view` on the broker.
fn observed(broker: &Broker, person: &Person) -> Option<BTreeSet<IdentityName>> {
    who::permit(broker, person, Action::View, &[Object::Broker]).err()?;
    let may = |name: &&IdentityName| {
        who::permit(broker, person, Action::View, &[Object::Identity((*name).clone())]).is_ok()
    };
    Some(broker.bundle().identities().keys().filter(may).cloned().collect())
}

/// Whether policy gives a person the same part of the feed as when the stream began; for others who they are says it all.
fn still(broker: &Broker, signed_in: &SignedIn, named: &[String], follows: &Filter) -> bool {
    let Ok(Caller { principal: Principal::Person(person), .. }) = signed_in.caller() else {
        return signed_in.caller().is_ok();
    };
    // Asking about each identity again, for each such stream, would take longer than to have it opened again.
    if follows.observed.is_some() {
        return false;
    }
    let now = resources(named).and_then(|named| seen(broker, person, named));
    now.is_ok_and(|now| now == follows.resources)
}

fn cursor(wire: v1::Cursor) -> Result<Cursor, Problem> {
    let bad = Malformed { field: "after", why: "is no cursor of this feed" };
    if wire.filter.len() > CURSOR_FILTER_MAX {
        return Err(bad.into());
    }
    let journal = JournalId(wire.journal.as_slice().try_into().map_err(|_| bad)?);
    let (epoch, seq) = (Epoch(wire.epoch), Seq(wire.seq));
    Ok(Cursor { journal, epoch, seq, filter: wire.filter })
}

fn unsubscribed(why: Unsubscribed) -> Problem {
    match why {
        Unsubscribed::TooMany => {
            let problem =
                Problem::new(Grpc::ResourceExhausted, wire::TOO_MANY_STREAMS, why.to_string());
            problem.retry(crate::serve::limits::FAULT_RETRY)
        }
        Unsubscribed::TooVaried => {
            let why = why.to_string();
            Problem::new(Grpc::ResourceExhausted, wire::TOO_MANY_STREAMS, why).retry(FILTER_KEPT)
        }
        Unsubscribed::Unfit => Malformed { field: "enforcing", why: "takes no `history`" }.into(),
        Unsubscribed::Fault(fault) => fault.into(),
    }
}

fn go_away(reason: &str) -> Encoded {
    let go_away = v1::GoAway {
        reconnect_after: Some(show::duration(RECONNECT_AFTER)),
        reason: reason.to_owned(),
    };
    let message = v1::SubscribeResponse { message: Some(Told::GoAway(go_away)) };
    Encoded(message.encode_to_vec().into())
}

fn undecodable() -> Problem {
    let why = "the stream's first message cannot be decoded";
    Problem::new(Grpc::InvalidArgument, wire::UNDECODABLE, why)
}

const LONG_NONCE: Malformed = Malformed { field: "nonce", why: "is longer than 32 bytes" };
const BAD_CHECKPOINT: Malformed = Malformed { field: "last", why: "is no signed checkpoint" };
/// A filter's digest and a place: 40 bytes, and some room for later ones.
const CURSOR_FILTER_MAX: usize = 128;

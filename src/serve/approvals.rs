//! `ApprovalService`: people see what waits, with what helps to decide, and decide.

use std::collections::BTreeMap;
use std::sync::Arc;

use protem_proto::wire::v1;
use protem_proto::wire::v1::approval_service_server::ApprovalService;
use protem_verify::names::{Malformed, Words};
use tonic::{Request, Response, Status};

use crate::engine::approvals::{Decision, DecisionKind, Narrow, Page, Review, Waiting, Whose};
use crate::engine::broker::Broker;
use crate::policy::login::Person;
use crate::serve::answers::{Answers, Gone, Sink};
use crate::serve::limits::PENDING_PAUSE;
use crate::serve::parse;
use crate::serve::rates::Rates;
use crate::serve::show;
use crate::serve::status::Problem;
use crate::serve::watch::Watch;
use crate::serve::who;

/// The service.
#[derive(Clone)]
pub struct Approvals {
    /// What answers.
    pub broker: Broker,
    /// What ends streams.
    pub watch: Watch,
    /// How often each person approves, here and on the page.
    pub rates: Arc<Rates>,
}

#[tonic::async_trait]
impl ApprovalService for Approvals {
    type WatchPendingStream = Answers<v1::WatchPendingResponse>;

    async fn list_pending(
        &self,
        request: Request<v1::ListPendingRequest>,
    ) -> Result<Response<v1::ListPendingResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let person = who::person(signed_in.caller()?)?;
        let wire = request.into_inner();
        let size = usize::try_from(parse::page_size(wire.page_size)?).unwrap_or(usize::MAX);
        let after = match wire.page_token.as_str() {
            "" => None,
            token => Some(parse::grant_id("page_token", token)?),
        };
        let whose = match (wire.mine_only, wire.others_only) {
            (false, false) => Whose::All,
            (true, false) => Whose::Mine,
            (false, true) => Whose::Others,
            (true, true) => {
                let why = "and `mine_only` leave nothing";
                return Err(Problem::from(Malformed { field: "others_only", why }).into());
            }
        };
        let (found, more) = match wire.grant_id.as_str() {
            "" => self.broker.pending_page(person, Page { after, size, whose }).await,
            id => {
                let id = parse::grant_id("grant_id", id)?;
                let one = self.broker.pending_one(person, id).await;
                one.map(|one| (one.into_iter().filter(|one| whose.is(&one.may)).collect(), false))
            }
        }
        .map_err(Problem::from)?;
        let next = found.last().filter(|_| more).map(|last| last.grant.id.text());
        Ok(Response::new(v1::ListPendingResponse {
            pending: found.iter().map(pending).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn watch_pending(
        &self,
        request: Request<v1::WatchPendingRequest>,
    ) -> Result<Response<Self::WatchPendingStream>, Status> {
        let signed_in = who::signed_in(&request)?;
        let person = who::person(signed_in.caller()?)?.clone();
        let mine_only = request.get_ref().mine_only;
        let (sink, answers) = Sink::new();
        let (broker, watch) = (self.broker.clone(), self.watch.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = follow(&broker, &person, mine_only, &sink) => {}
                problem = watch.over(Arc::clone(&signed_in)) => { sink.fail(problem); }
                () = sink.closed() => {}
            }
        });
        Ok(Response::new(answers))
    }

    async fn decide(
        &self,
        request: Request<v1::DecideRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        let person = who::person(caller)?;
        let decision = decision(&request.into_inner())?;
        if matches!(decision.kind, DecisionKind::Approve { .. }) {
            self.rates.approves(&person.name)?;
        }
        let grant = self.broker.decide(caller, decision).await.map_err(Problem::from)?;
        Ok(Response::new(v1::DecideResponse { grant: Some(show::grant(&grant)) }))
    }

    async fn list_reviews(
        &self,
        request: Request<v1::ListReviewsRequest>,
    ) -> Result<Response<v1::ListReviewsResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let person = who::person(signed_in.caller()?)?;
        let wire = request.into_inner();
        let size = usize::try_from(parse::page_size(wire.page_size)?).unwrap_or(usize::MAX);
        let after = match wire.page_token.as_str() {
            "" => None,
            token => Some(parse::grant_id("page_token", token)?),
        };
        let found = self.broker.reviews(person, !wire.open_only).await.map_err(Problem::from)?;
        let from = after.and_then(|after| found.iter().position(|one| one.grant.id == after));
        let from = from.map_or(0, |at| at.saturating_add(1));
        let page: Vec<&Review> = found.iter().skip(from).take(size).collect();
        let more = found.len() > from.saturating_add(page.len());
        let next = page.last().filter(|_| more).map(|last| last.grant.id.text());
        Ok(Response::new(v1::ListReviewsResponse {
            reviews: page.into_iter().map(review).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn close_review(
        &self,
        request: Request<v1::CloseReviewRequest>,
    ) -> Result<Response<v1::CloseReviewResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        who::person(caller)?;
        let wire = request.into_inner();
        let id = parse::grant_id("grant_id", &wire.grant_id)?;
        let note = parse::required_words("note", &wire.note)?;
        let closed = self.broker.close_review(caller, id, note).await.map_err(Problem::from)?;
        Ok(Response::new(v1::CloseReviewResponse { review: Some(review(&closed)) }))
    }
}

/// All that waits, then each arrival, change and end, until the reader has gone.
async fn follow(
    broker: &Broker,
    person: &Person,
    mine_only: bool,
    sink: &Sink<v1::WatchPendingResponse>,
) -> Result<(), Gone> {
    let mut changed = broker.pending_changed();
    let mut known: BTreeMap<String, v1::PendingGrant> = BTreeMap::new();
    let mut caught_up = false;
    loop {
        changed.mark_unchanged();
        let found = match broker.pending(person).await {
            Ok(found) => found,
            Err(stop) => return Err(sink.fail(stop.into())),
        };
        let found = found.iter().filter(|one| !mine_only || one.may.is_ok());
        let now: BTreeMap<String, v1::PendingGrant> =
            found.map(|one| (one.grant.id.text(), pending(one))).collect();
        for settled in known.keys().filter(|id| !now.contains_key(*id)) {
            let settled = settled.clone();
            sink.send(v1::WatchPendingResponse { settled, ..Default::default() }).await?;
        }
        for (id, one) in &now {
            if known.get(id) != Some(one) {
                let pending = Some(one.clone());
                sink.send(v1::WatchPendingResponse { pending, ..Default::default() }).await?;
            }
        }
        known = now;
        if !caught_up {
            caught_up = true;
            sink.send(v1::WatchPendingResponse { caught_up, ..Default::default() }).await?;
        }
        if changed.changed().await.is_err() {
            return Ok(());
        }
        tokio::time::sleep(PENDING_PAUSE).await;
    }
}

/// A decision as it is meant: what contradicts itself is refused.
fn decision(wire: &v1::DecideRequest) -> Result<Decision, Problem> {
    let grant = parse::grant_id("grant_id", &wire.grant_id)?;
    let reason = Words::parse("reason", &wire.reason)?;
    let narrow = Narrow {
        lifetime: wire.lifetime.as_ref().map(parse::lifetime).transpose()?,
        scopes: match wire.scopes.as_slice() {
            [] => None,
            some => Some(parse::scopes(some)?),
        },
    };
    let narrows = narrow != Narrow::default();
    if narrows && (wire.undo || !wire.approve) {
        let why = "or `scopes` narrows what is approved; nothing is approved here";
        return Err(Malformed { field: "lifetime", why }.into());
    }
    if wire.undo && wire.approve {
        let why = "takes an approval back; it approves nothing";
        return Err(Malformed { field: "undo", why }.into());
    }
    let digest = parse::digest("digest", &wire.digest)?;
    if wire.undo {
        let digest = digest.unwrap_or_default();
        return Ok(Decision { grant, digest, kind: DecisionKind::TakeBack });
    }
    let digest = digest.ok_or_else(|| parse::missing("digest"))?;
    let kind = if wire.approve {
        DecisionKind::Approve { note: reason, narrow: Some(narrow).filter(|_| narrows) }
    } else {
        DecisionKind::Deny { reason: parse::required_words("reason", &wire.reason)? }
    };
    Ok(Decision { grant, digest, kind })
}

/// A waiting request as its approver sees it.
#[must_use]
pub fn pending(one: &Waiting) -> v1::PendingGrant {
    let identity = one.identity.as_ref();
    let of = |text: fn(&crate::engine::approvals::IdentityShown) -> &String| {
        identity.map(|known| text(known).clone()).unwrap_or_default()
    };
    let risk = |risk: Option<crate::policy::catalog::Risk>| {
        risk.map_or("", crate::policy::catalog::Risk::as_str).to_owned()
    };
    let scopes = one.scopes.iter().map(|scope| v1::ScopeUse {
        name: scope.name.to_string(),
        purpose: scope.purpose.clone(),
        risk: risk(scope.risk),
        operations: scope.operations.clone(),
    });
    v1::PendingGrant {
        grant: Some(show::grant(&one.grant)),
        may_decide: one.may.is_ok(),
        why_not: one.may.as_ref().err().cloned().unwrap_or_default(),
        owner_business: of(|known| &known.owner_business),
        owner_technical: of(|known| &known.owner_technical),
        identity_purpose: of(|known| &known.purpose),
        trust_tier: of(|known| &known.tier),
        team: of(|known| &known.team),
        risk: risk(one.risk),
        operations: one.scopes.iter().flat_map(|scope| scope.operations.clone()).collect(),
        similar_granted: one.similar.granted,
        similar_denied: one.similar.denied,
        similar_last: one.similar.last.map(show::time),
        scopes: scopes.collect(),
        remind_at: one.rule.remind_at.map(show::time),
        then_group: one.rule.then.as_ref().map_or_else(String::new, ToString::to_string),
        approved_by_me: one.approved,
        findings: one.findings.clone(),
        resource_purpose: one.resource_purpose.clone(),
    }
}

/// An emergency as whoever reviews it sees it.
#[must_use]
pub fn review(one: &Review) -> v1::Review {
    let closed = one.grant.reviewed.as_ref();
    v1::Review {
        grant: Some(show::grant(&one.grant)),
        closed_by: closed.map_or_else(String::new, |closed| closed.by.to_string()),
        note: closed.map_or_else(String::new, |closed| closed.note.to_string()),
        closed_at: closed.map(|closed| show::time(closed.at)),
        may_close: closed.is_none() && one.may.is_ok(),
        why_not: one.may.as_ref().err().cloned().unwrap_or_default(),
    }
}

//! Asking for access: policy's verdict, a turn, and the credential of what was committed.

use std::sync::Arc;

use protem_core::command::Command;
use protem_core::event::{CredentialIssued, EndReason, Event};
use protem_core::grant::{Grant, Newest, renew_at};
use protem_core::request::{AccessRequest, Workload};
use protem_core::state::State;
use protem_core::verdict::Ruling;
use protem_verify::ids::{GrantId, Seq};
use protem_verify::names::{KeyId, PersonName};
use protem_verify::time::Time;

use crate::engine::again::again;
use crate::engine::broker::Broker;
use crate::engine::changes::{Changes, Watched};
use crate::engine::granted::{Credential, Granted};
use crate::engine::lane::Lane;
use crate::engine::sequencer::Answered;
use crate::engine::stop::Stop;
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::records::GrantRecord;
use crate::mint::Token;
use crate::policy::ask::Ask;
use crate::policy::login::{Caller, Login, Principal};

/// How often a request is evaluated again because what policy saw changed before its turn. More would be a livelock.
pub const REEVALUATIONS_MAX: u32 = 3;

/// What a turn left of a request.
enum Found {
    /// This grant answers it.
    Grant(Box<Answer>),
    /// Policy said no; that is on record.
    Refused(Box<Ruling>),
    /// It was answered before, and is forgotten.
    Nothing,
}

/// The grant that answers a request or a renewal.
struct Answer {
    id: GrantId,
    by: Workload,
    /// Whether a credential of it may be handed out now.
    active: bool,
    newest: Option<Newest>,
    /// The entry of this very turn that records a credential.
    row: Option<Committed<Event>>,
}

impl Broker {
    /// Asks for access: policy's verdict, a turn, and, where it is granted at once, a credential. A repeated request
    /// answers the grant that it made, with its newest credential. It finishes although the caller goes away.
    ///
    /// # Errors
    /// When the law or policy says no, or the world broke.
    pub async fn request_access(
        &self,
        caller: &Caller,
        request: AccessRequest,
    ) -> Result<Granted, Stop> {
        self.may_issue()?;
        let behind = behind(caller);
        let mut tries = 0;
        let found = loop {
            let verdict = self.verdict(&caller.login, &request).await?;
            let command = Command::RequestAccess {
                request: request.clone(),
                verdict,
                behind: behind.clone(),
            };
            let (asked, sets) = (request.clone(), Arc::clone(&self.0.sets));
            let read = move |answered: &Answered<'_>| {
                let found = find(answered, &asked);
                let issued = match &found {
                    Found::Grant(answer) => answer.to_sign(answered, &sets.load().ids),
                    Found::Refused(_) | Found::Nothing => None,
                };
                (found, issued)
            };
            match self.submit_and_sign(Lane::Ordinary, caller.actor(), command, read).await {
                Err(stop) if stop.is_stale_verdict() && tries < REEVALUATIONS_MAX => tries += 1,
                answer => break answer?,
            }
        };
        let (found, token) = found;
        match found {
            Found::Grant(answer) => {
                let id = answer.id;
                let signer = answer.newest.as_ref().filter(|_| answer.active);
                let void = signer.is_some_and(|newest| !self.key_ids().contains(&newest.key));
                // Its key was cut off, which ended no grant: whoever asks again gets what a renewal would bring.
                if void { self.renew(caller, id).await } else { self.answer(*answer, token).await }
            }
            Found::Refused(ruling) => Err(Stop::Denied(ruling)),
            Found::Nothing => Err(Fault::Store("the answer cannot be found".to_owned()).into()),
        }
    }

    /// What policy would say, with nothing recorded and nothing issued.
    #[must_use]
    pub fn explain_access(&self, login: &Login, request: &AccessRequest, active: u32) -> Ruling {
        self.evaluate(login, request, active).ruling().clone()
    }

    /// A fresh credential for an active grant, or, before its `renew_at`, the newest again. Policy is asked again; the
    /// grant's end never moves.
    ///
    /// # Errors
    /// When the grant is not the caller's, has ended, or policy would no longer permit it.
    pub async fn renew(&self, caller: &Caller, grant: GrantId) -> Result<Granted, Stop> {
        self.may_issue()?;
        let by = workload(caller, grant)?;
        let record = self.read(move |reader| reader.grant(&grant)).await?;
        let record = record.filter(|record| record.request.by == by);
        let Some(record) = record else {
            return Err(protem_core::refusal::Refusal::UnknownGrant(grant).into());
        };
        let mut tries = 0;
        loop {
            let bundle = self.bundle();
            let active = self.active(&by).await?;
            let now = self.now();
            let of_use = self.usage_findings(&by.identity, now);
            let verdict = again(&bundle, &record, &record.request, now, (active, &of_use));
            let ruling = verdict.ruling().clone();
            let command = Command::RenewCredential { by: by.clone(), grant, verdict };
            let sets = Arc::clone(&self.0.sets);
            let read = move |answered: &Answered<'_>| {
                let ended = answered.rows.iter().any(|row| ends_by_policy(row.what()));
                let found = look(answered, &grant).filter(|_| !ended);
                let issued = found.as_ref();
                let issued = issued.and_then(|found| found.to_sign(answered, &sets.load().ids));
                ((ended, found), issued)
            };
            match self.submit_and_sign(Lane::Ordinary, caller.actor(), command, read).await {
                Err(stop) if stop.is_stale_verdict() && tries < REEVALUATIONS_MAX => tries += 1,
                Err(stop) => return Err(stop),
                Ok(((true, _), _)) => return Err(Stop::Denied(Box::new(ruling))),
                Ok(((false, None), _)) => {
                    return Err(protem_core::refusal::Refusal::UnknownGrant(grant).into());
                }
                Ok(((false, Some(answer)), token)) => return self.answer(answer, token).await,
            }
        }
    }

    /// Each change of a grant after now; with credentials when the caller holds it.
    #[must_use]
    pub fn watch_grant(&self, caller: &Caller, grant: GrantId) -> Changes {
        let holder = match &caller.principal {
            Principal::Workload { by, .. } => Some(by.clone()),
            Principal::Person(_) | Principal::Gateway { .. } => None,
        };
        self.0.watchers.watch(Watched::Grant(grant), self, holder)
    }

    /// The newest credential of an active grant, for its holder alone.
    ///
    /// # Errors
    /// When the grant is not the caller's, or the store cannot be asked.
    pub async fn current(&self, caller: &Caller, grant: GrantId) -> Result<Granted, Stop> {
        let by = workload(caller, grant)?;
        let granted = self.granted(grant, Some(&by)).await?;
        if granted.grant.request.by != by {
            return Err(protem_core::refusal::Refusal::UnknownGrant(grant).into());
        }
        Ok(granted)
    }

    /// Nothing is issued that could not be signed, or on a journal that went back.
    pub(in crate::engine) fn may_issue(&self) -> Result<(), Fault> {
        self.0.prover.intact()?;
        match &**self.0.signing.load() {
            Some(id) if self.0.keys.find(id).is_none() => Err(Fault::NoPrivateKey(id.clone())),
            Some(_) | None => Ok(()),
        }
    }

    async fn verdict(
        &self,
        login: &Login,
        request: &AccessRequest,
    ) -> Result<protem_core::verdict::Verdict, Stop> {
        let active = self.active(&request.by).await?;
        Ok(self.evaluate(login, request, active))
    }

    pub(in crate::engine) async fn active(&self, by: &Workload) -> Result<u32, Stop> {
        if !self.bundle().reads_active() {
            return Ok(0);
        }
        let identity = by.identity.clone();
        self.ask(move |state| state.active(&identity)).await
    }

    fn evaluate(
        &self,
        login: &Login,
        request: &AccessRequest,
        active: u32,
    ) -> protem_core::verdict::Verdict {
        let now = self.now();
        let findings = self.findings(request, now);
        let ask = Ask { request, login, now, active, findings: &findings, region: &self.0.region };
        self.bundle().evaluate(&ask)
    }

    /// The record of a grant, and its credential while it is active: `token`, when its turn recorded one.
    async fn answer(&self, answer: Answer, token: Option<Token>) -> Result<Granted, Stop> {
        let Answer { id, by, active, newest, row } = answer;
        // A grant that this turn made and left active is all in its own row: the store need not be asked.
        let made = row.as_ref().filter(|_| active);
        let made =
            made.and_then(|row| GrantRecord::from_entries(id, std::slice::from_ref(row), None));
        let credential = match (active, newest, row) {
            (false, ..) | (true, None, _) => None,
            (true, Some(newest), Some(_)) => token.map(|token| Credential {
                token,
                expires_at: newest.exp,
                renew_at: newest.renew_at(),
            }),
            (true, Some(newest), None) => self.newest(newest.seq).await?,
        };
        let record = match made {
            Some(record) => Some(record),
            None => self.read(move |reader| reader.grant(&id)).await?,
        };
        let record = record.filter(|record| record.request.by == by);
        let grant = record.ok_or(Fault::Store(format!("grant `{id}` cannot be read")))?;
        Ok(Granted { grant, credential })
    }

    /// The credential that an entry records.
    pub(in crate::engine) async fn newest(&self, seq: Seq) -> Result<Option<Credential>, Stop> {
        let row = self.read(move |reader| reader.entry(seq)).await?;
        match row {
            Some(row) => self.credential(row).await,
            None => Err(Fault::Damaged { seq, why: "the entry is not there".to_owned() }.into()),
        }
    }

    async fn credential(&self, row: Committed<Event>) -> Result<Option<Credential>, Stop> {
        let Some(issued) = row.credential() else { return Ok(None) };
        let (iat, exp) = (issued.what().iat, issued.what().exp);
        // Nobody accepts it: its time is over, or its key was cut off, which never signs again. A renewal brings another.
        if exp <= Time::from(self.0.clock.unix()) || !self.key_ids().contains(&issued.what().key) {
            return Ok(None);
        }
        let token = self.0.minting.token(issued).await?;
        Ok(Some(Credential { token, expires_at: exp, renew_at: renew_at(iat, exp) }))
    }
}

impl Answer {
    /// What is to be signed for this answer: what its own turn recorded, unless a later command of the turn undid it.
    fn to_sign(
        &self,
        answered: &Answered<'_>,
        keys: &[KeyId],
    ) -> Option<Committed<CredentialIssued>> {
        let issued = self.row.as_ref().filter(|_| self.active)?.credential()?;
        let alive = issued.what().exp > answered.now && keys.contains(&issued.what().key);
        alive.then_some(issued)
    }
}

/// The workload that a caller is; anybody else has no grant of its own.
pub(in crate::engine) fn workload(caller: &Caller, grant: GrantId) -> Result<Workload, Stop> {
    match &caller.principal {
        Principal::Workload { by, .. } => Ok(by.clone()),
        Principal::Person(_) | Principal::Gateway { .. } => {
            Err(protem_core::refusal::Refusal::UnknownGrant(grant).into())
        }
    }
}

fn behind(caller: &Caller) -> Option<PersonName> {
    match &caller.principal {
        Principal::Workload { behind, .. } => behind.clone(),
        Principal::Person(_) | Principal::Gateway { .. } => None,
    }
}

fn find(answered: &Answered<'_>, request: &AccessRequest) -> Found {
    #[expect(clippy::wildcard_enum_match_arm, reason = "three kinds of entry answer a request")]
    let made = answered.rows.iter().find_map(|row| match row.what() {
        Event::AccessRefused(asked) => Some(Err(Box::new(asked.ruling.clone()))),
        Event::GrantActivated(activated) => Some(Ok(activated.credential.grant)),
        Event::GrantRequested(requested) => Some(Ok(requested.grant)),
        _ => None,
    });
    let id = match made {
        Some(Err(ruling)) => return Found::Refused(ruling),
        Some(Ok(id)) => Some(id),
        None => known(answered.state, request),
    };
    let answer = id.and_then(|id| look(answered, &id));
    answer.map_or(Found::Nothing, |answer| Found::Grant(Box::new(answer)))
}

/// The grant that answered the request before.
fn known(state: &State, request: &AccessRequest) -> Option<GrantId> {
    let by_key = request.key.and_then(|key| state.by_key(&request.by.identity, &key));
    by_key.or_else(|| state.standing(request))
}

fn look(answered: &Answered<'_>, id: &GrantId) -> Option<Answer> {
    let grant: &Grant = answered.state.grant(id)?;
    // A later command of the same turn may have ended it or brought a newer credential: then this row is not the answer.
    let newest = grant.newest.clone();
    let row = answered.rows.iter().find(|row| {
        row.credential().is_some() && newest.as_ref().is_some_and(|newest| newest.seq == row.seq())
    });
    Some(Answer {
        id: grant.id,
        by: grant.by.clone(),
        active: grant.active_at(answered.now),
        newest,
        row: row.cloned(),
    })
}

fn ends_by_policy(event: &Event) -> bool {
    matches!(event, Event::GrantEnded(ended) if ended.reason == EndReason::Policy)
}

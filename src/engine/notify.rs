//! Which entries people are told of, what each says and whose groups it concerns: a journal and a bundle in, a notice out.

use std::collections::BTreeSet;

use data_encoding::HEXLOWER;
use protem_core::event::{Activated, Actor, Asked, EndReason, Ended, Event, Requested};
use protem_core::request::AccessRequest;
use protem_core::verdict::Ruling;
use protem_verify::ids::{GrantId, Hash, Seq};
use protem_verify::names::{GroupName, IdentityName, PersonName, ScopeName, Words};
use protem_verify::time::Time;
use sha2::{Digest, Sha256};

use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::reader::{Reader, Stage};
use crate::journal::records::{GrantRecord, Shown};
use crate::policy::bundle::Bundle;
use crate::policy::catalog::{Owners, Risk};

/// What people are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Occasion {
    /// A request waits for approvers, or for others than before, or says something else than before.
    Pending,
    /// It still does, and policy says to remind, or to ask another group.
    Reminder,
    /// Somebody broke the glass: access without those who would have decided.
    Emergency,
    /// People decided: a request was approved or denied.
    Decided,
    /// What waited ended undecided; what was approved was ended early; an emergency ended.
    Ended,
    /// An identity gets no grants until somebody lifts it.
    Quarantined,
}

impl Occasion {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Reminder,
        Self::Emergency,
        Self::Decided,
        Self::Ended,
        Self::Quarantined,
    ];

    /// Its word in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Reminder => "reminder",
            Self::Emergency => "emergency",
            Self::Decided => "decided",
            Self::Ended => "ended",
            Self::Quarantined => "quarantined",
        }
    }

    /// The occasion of a word.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }

    /// What an entry may be an occasion for; whether it is, only its grant tells.
    #[must_use]
    #[expect(clippy::wildcard_enum_match_arm, reason = "people are told of these and no others")]
    pub fn of(event: &Event) -> Option<Self> {
        match event {
            Event::GrantRequested(_) | Event::RequestReevaluated { .. } => Some(Self::Pending),
            Event::RequestReminded { .. } => Some(Self::Reminder),
            Event::GrantActivated(activated) => match &activated.asked {
                None => Some(Self::Decided),
                Some(asked) => asked.request.emergency.then_some(Self::Emergency),
            },
            Event::GrantEnded(ended) if ended.reason == EndReason::Denied => Some(Self::Decided),
            Event::GrantEnded(_) => Some(Self::Ended),
            Event::IdentityQuarantined { .. } => Some(Self::Quarantined),
            _ => None,
        }
    }
}

/// Something that people are told.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The same for all who are told and for every try; no other notice has it.
    pub id: String,
    /// Of what.
    pub occasion: Occasion,
    /// The entry that it is about.
    pub seq: Seq,
    /// When it happened.
    pub at: Time,
    /// Who caused it.
    pub actor: Actor,
    /// Whom it concerns, under the bundle in force.
    pub groups: BTreeSet<GroupName>,
    /// Whose.
    pub identity: IdentityName,
    /// Who answers for the identity; absent: the bundle in force has it no more.
    pub owners: Option<Owners>,
    /// What it says.
    pub about: About,
}

/// What a notice is about.
#[derive(Clone, Debug)]
pub enum About {
    /// A grant, or a request for one.
    Grant(Box<GrantNews>),
    /// The identity itself, in an operator's words.
    Identity(Words),
}

/// What is told of a grant.
#[derive(Clone, Debug)]
pub struct GrantNews {
    /// Its id.
    pub grant: GrantId,
    /// People were reminded of it.
    pub reminded: bool,
    /// It says something else than before, so that no earlier approval counts.
    pub changed: bool,
    /// The human behind the request, if it is known.
    pub behind: Option<PersonName>,
    /// What was asked, as narrowed.
    pub request: AccessRequest,
    /// What policy said.
    pub ruling: Ruling,
    /// What the scopes are.
    pub scopes: Vec<ScopeNews>,
    /// Until when it waits.
    pub decide_by: Option<Time>,
    /// When it ends by itself.
    pub until: Option<Time>,
    /// Who said yes.
    pub approved_by: Vec<PersonName>,
    /// Why and in whose words it ended.
    pub end: Option<(EndReason, Words)>,
}

/// A scope as the bundle in force describes it.
#[derive(Clone, Debug)]
pub struct ScopeNews {
    /// Its name.
    pub name: ScopeName,
    /// Its class's risk; absent: the bundle has it no more.
    pub risk: Option<Risk>,
    /// What it is for.
    pub purpose: String,
}

impl Notice {
    /// What an entry says to people; none when it is nothing that they are told of.
    ///
    /// # Errors
    /// When the journal cannot be asked.
    pub fn of(
        row: &Committed<Event>,
        bundle: &Bundle,
        reader: &dyn Reader,
    ) -> Result<Option<Self>, Fault> {
        let Some(occasion) = Occasion::of(row.what()) else { return Ok(None) };
        if let Event::IdentityQuarantined { identity, note } = row.what() {
            let about = About::Identity(note.clone());
            let notice = Self::new(row, occasion, identity, bundle, reader, about)?;
            return Ok(Some(notice));
        }
        if let Event::RequestReevaluated { grant, ruling, digest } = row.what() {
            let Some(before) = before(grant, row.seq(), reader)? else { return Ok(None) };
            return Self::anew(row, before, ruling, *digest, bundle, reader);
        }
        let Some(news) = news(row.what(), reader)? else { return Ok(None) };
        Self::of_grant(row, occasion, news, bundle, reader).map(Some)
    }

    /// Says that a request waits by other rules: to all whom they name when it says something else than `before`, to those
    /// alone who were not asked before when it says the same. Every bundle looks at all that waits, and most change nothing.
    fn anew(
        row: &Committed<Event>,
        before: GrantRecord,
        ruling: &Ruling,
        digest: Hash,
        bundle: &Bundle,
        reader: &dyn Reader,
    ) -> Result<Option<Self>, Fault> {
        let changed = before.digest != Some(digest);
        let asked = asked(&before.ruling, before.reminded);
        let news = GrantNews { changed, ruling: ruling.clone(), ..of_record(before) };
        let approved_by = if changed { Vec::new() } else { news.approved_by.clone() };
        let news = GrantNews { approved_by, ..news };
        let mut notice = Self::of_grant(row, Occasion::Pending, news, bundle, reader)?;
        if !changed {
            notice.groups.retain(|group| !asked.contains(group));
        }
        Ok((changed || !notice.groups.is_empty()).then_some(notice))
    }

    fn of_grant(
        row: &Committed<Event>,
        occasion: Occasion,
        mut news: GrantNews,
        bundle: &Bundle,
        reader: &dyn Reader,
    ) -> Result<Self, Fault> {
        let request = &news.request;
        let resource = bundle.catalog().resources.get(&request.resource);
        for name in request.scopes.iter() {
            let scope = resource.and_then(|resource| resource.scopes.get(name));
            let purpose = scope.map_or_else(String::new, |scope| scope.purpose.clone());
            let risk = scope.map(|scope| scope.risk);
            news.scopes.push(ScopeNews { name: name.clone(), risk, purpose });
        }
        let mut groups = asked(&news.ruling, news.reminded);
        if request.emergency {
            // Everyone who was skipped, and who answers for what was opened.
            for scope in request.scopes.iter() {
                let skipped = bundle.approvers(&request.resource, std::slice::from_ref(scope));
                groups.extend(skipped);
            }
            groups.extend(resource.iter().flat_map(|resource| resource.owner.groups()));
        }
        let identity = request.by.identity.clone();
        let about = About::Grant(Box::new(news));
        let notice = Self::new(row, occasion, &identity, bundle, reader, about)?;
        Ok(Self { groups, ..notice })
    }

    /// A notice that concerns the identity's owners.
    fn new(
        row: &Committed<Event>,
        occasion: Occasion,
        identity: &IdentityName,
        bundle: &Bundle,
        reader: &dyn Reader,
        about: About,
    ) -> Result<Self, Fault> {
        let owners = bundle.identities().get(identity).map(|known| known.owner.clone());
        Ok(Self {
            id: id(row.seq(), occasion, reader)?,
            occasion,
            seq: row.seq(),
            at: row.at(),
            actor: row.actor().clone(),
            groups: owners.iter().flat_map(Owners::groups).collect(),
            identity: identity.clone(),
            owners,
            about,
        })
    }
}

/// A waiting request as it was just before an entry of its own.
fn before(id: &GrantId, seq: Seq, reader: &dyn Reader) -> Result<Option<GrantRecord>, Fault> {
    let mut entries = Vec::new();
    for earlier in reader.grant_entries(id)?.into_iter().filter(|one| *one < seq) {
        entries.extend(reader.entry(earlier)?);
    }
    Ok(GrantRecord::from_entries(*id, &entries, None))
}

/// Whom a request asks. Who is asked by a reminder alone hears of nothing before it, and of how it ended after it.
fn asked(ruling: &Ruling, reminded: bool) -> BTreeSet<GroupName> {
    let Some(rule) = &ruling.rule else { return BTreeSet::new() };
    rule.groups.iter().chain(rule.then.iter().filter(|_| reminded)).cloned().collect()
}

/// What an entry says of a grant, if it is worth telling.
#[expect(clippy::wildcard_enum_match_arm, reason = "people are told of these and no others")]
fn news(event: &Event, reader: &dyn Reader) -> Result<Option<GrantNews>, Fault> {
    let found = match event {
        Event::GrantRequested(requested) => {
            let Requested { grant, asked, decide_by, behind, .. } = &**requested;
            let (decide_by, behind) = (Some(*decide_by), behind.clone());
            Some(GrantNews { decide_by, behind, ..of_asked(*grant, asked) })
        }
        // One that waits no more needs nobody.
        Event::RequestReminded { grant, .. } => {
            let record = reader.grant(grant)?;
            record.filter(|record| record.stage() == Stage::Pending).map(of_record)
        }
        Event::GrantActivated(activated) => {
            let Activated { asked, until, credential } = &**activated;
            let news = match asked {
                Some(asked) => Some(of_asked(credential.grant, asked)),
                None => reader.grant(&credential.grant)?.map(of_record),
            };
            news.map(|news| GrantNews { until: Some(*until), ..news })
        }
        Event::GrantEnded(ended) => {
            let end = Some((ended.reason, ended.note.clone()));
            let record = reader.grant(&ended.grant)?.filter(|record| worth_telling(record, ended));
            record.map(|record| GrantNews { end, ..of_record(record) })
        }
        _ => None,
    };
    Ok(found)
}

/// Of emergencies every end; of what waited, that nobody will decide; of what was approved, that it was cut short. Nobody has
/// to know that approved work is done.
fn worth_telling(record: &GrantRecord, ended: &Ended) -> bool {
    if record.request.emergency {
        return true;
    }
    if record.ruling.rule.is_none() {
        return false;
    }
    match ended.reason {
        EndReason::Completed | EndReason::Expired => false,
        EndReason::Abandoned
        | EndReason::Revoked
        | EndReason::Denied
        | EndReason::Lapsed
        | EndReason::Withdrawn
        | EndReason::Policy
        | EndReason::Quarantined
        | EndReason::Fenced => true,
    }
}

fn of_asked(grant: GrantId, asked: &Asked) -> GrantNews {
    GrantNews {
        grant,
        reminded: false,
        changed: false,
        behind: None,
        request: asked.request.clone(),
        ruling: asked.ruling.clone(),
        scopes: Vec::new(),
        decide_by: None,
        until: None,
        approved_by: Vec::new(),
        end: None,
    }
}

fn of_record(record: GrantRecord) -> GrantNews {
    let asked = Asked { request: record.request, ruling: record.ruling };
    let yes = record.approvals.into_iter().filter(|one| one.approve);
    let approved_by = yes.map(|one| one.by).collect();
    let decide_by = match record.status {
        Shown::Pending { decide_by } => Some(decide_by),
        Shown::Active { .. } | Shown::Ended { .. } => None,
    };
    let GrantRecord { id, reminded, behind, .. } = record;
    GrantNews { approved_by, reminded, behind, decide_by, ..of_asked(id, &asked) }
}

/// Made from the entry itself, so that it is the same after a restart, and another one in a journal that was restored and
/// went on otherwise.
fn id(seq: Seq, occasion: Occasion, reader: &dyn Reader) -> Result<String, Fault> {
    let missing = || Fault::Damaged { seq, why: "the entry is missing".into() };
    let body = reader.body(seq)?.ok_or_else(missing)?;
    let hash: [u8; 32] = Sha256::new()
        .chain_update(occasion.as_str())
        .chain_update([0])
        .chain_update(body)
        .finalize()
        .into();
    let (short, _) = hash.split_at(16);
    Ok(format!("msg_{}", HEXLOWER.encode(short)))
}

/// A reason as people and machines read it.
#[must_use]
pub fn reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Completed => "completed",
        EndReason::Expired => "expired",
        EndReason::Abandoned => "abandoned",
        EndReason::Revoked => "revoked",
        EndReason::Denied => "denied",
        EndReason::Lapsed => "lapsed",
        EndReason::Withdrawn => "withdrawn",
        EndReason::Policy => "policy",
        EndReason::Quarantined => "quarantined",
        EndReason::Fenced => "fenced",
    }
}

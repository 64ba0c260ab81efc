//! The charter: what a journal says of itself, apart from every grant. A feed is opened from it before the rest is read.

use protem_verify::ids::{Epoch, Hash, JournalId, Seq};
use protem_verify::names::KeyId;
use protem_verify::time::Time;

use crate::event::{Event, KeyPurpose, Target};
use crate::grant::{CutOff, KeyRecord};
use crate::parts::Parts;
use crate::state::State;

/// Whose the journal is, its signing keys, and the bundle in force: the fold of the few entries that say so.
#[derive(Clone, Debug, Default)]
pub struct Charter {
    /// A state without grants: of it only what an entry of [`concerns`] says is true.
    few: State,
    keys_seq: Seq,
}

/// Whether an entry says what the journal is.
#[must_use]
pub fn concerns(event: &Event) -> bool {
    changes_keys(event)
        || matches!(
            event,
            Event::JournalOpened { .. }
                | Event::EpochBegan { .. }
                | Event::BundleActivated { .. }
                | Event::KeyRotationAsked { .. }
        )
}

/// Whether an entry changes what gateways must know of the keys.
#[must_use]
pub fn changes_keys(event: &Event) -> bool {
    match event {
        Event::KeyPublished(_)
        | Event::KeyActivated { .. }
        | Event::KeyRetired { .. }
        | Event::KeyForgotten { .. } => true,
        Event::CutOff { target, .. } => matches!(target, Target::Key(_)),
        Event::JournalOpened { .. }
        | Event::EpochBegan { .. }
        | Event::BundleActivated { .. }
        | Event::BundleSettled { .. }
        | Event::GrantsConfirmed { .. }
        | Event::KeyRotationAsked { .. }
        | Event::GrantRequested(_)
        | Event::RequestReevaluated { .. }
        | Event::GrantActivated(_)
        | Event::CredentialIssued(_)
        | Event::RequestRepeated { .. }
        | Event::AccessRefused(_)
        | Event::GrantEnded(_)
        | Event::RequestReminded { .. }
        | Event::ApprovalGiven { .. }
        | Event::ApprovalTakenBack { .. }
        | Event::RequestNarrowed { .. }
        | Event::ReviewClosed { .. }
        | Event::TaskHeld { .. }
        | Event::TaskEnded { .. }
        | Event::IdentityQuarantined { .. }
        | Event::QuarantineLifted { .. } => false,
    }
}

impl Charter {
    /// Folds the entry at `seq`; one that says nothing of the journal itself changes nothing.
    pub fn apply(&mut self, seq: Seq, at: Time, event: &Event) {
        if !concerns(event) {
            return;
        }
        self.few.facts.seq = Seq(seq.0.saturating_sub(1));
        self.few.apply(at, event);
        if changes_keys(event) {
            self.keys_seq = seq;
        }
    }

    /// The journal's id, once it is open.
    #[must_use]
    pub fn journal(&self) -> Option<JournalId> {
        self.few.journal()
    }

    /// The journal's life.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.few.epoch()
    }

    /// The `iss` of its credentials.
    #[must_use]
    pub fn issuer(&self) -> &str {
        self.few.issuer()
    }

    /// Whether `protem dev` made the journal.
    #[must_use]
    pub fn dev(&self) -> bool {
        self.few.dev()
    }

    /// The digest of the bundle in force.
    #[must_use]
    pub fn bundle(&self) -> Option<Hash> {
        self.few.bundle()
    }

    /// The entry that put it in force.
    #[must_use]
    pub fn bundle_seq(&self) -> Seq {
        self.few.bundle_seq()
    }

    /// Every key that was published and not forgotten. When the last that one signed dies is not known here.
    pub fn keys(&self) -> impl Iterator<Item = &KeyRecord> + Clone {
        self.few.keys()
    }

    /// A key by its id.
    #[must_use]
    pub fn key(&self, id: &KeyId) -> Option<&KeyRecord> {
        self.few.key(id)
    }

    /// The key that signs for a purpose.
    #[must_use]
    pub fn signing(&self, purpose: KeyPurpose) -> Option<&KeyId> {
        self.few.signing(purpose)
    }

    /// Whether a key was cut off; it may be forgotten since.
    #[must_use]
    pub fn is_cut_off(&self, key: &KeyId) -> bool {
        self.few.is_cut_off(&Target::Key(key.clone()))
    }

    /// The entry that changed the keys last, or a later one.
    #[must_use]
    pub fn keys_seq(&self) -> Seq {
        self.keys_seq
    }

    /// Whether the other says the same of journal, keys and bundle.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        let facts = |it: &Self| {
            let (journal, epoch, dev) = (it.journal(), it.epoch(), it.dev());
            (journal, epoch, dev, it.issuer().to_owned(), it.bundle(), it.bundle_seq())
        };
        let key = |it: &KeyRecord| (it.key.clone(), it.state, it.published, it.activated);
        facts(self) == facts(other) && self.keys().map(key).eq(other.keys().map(key))
    }
}

impl From<Parts> for Charter {
    /// What a snapshot says; of the keys it knows no more than that nothing after it changed them.
    fn from(parts: Parts) -> Self {
        let Parts { facts, cut_offs, keys, .. } = parts;
        let keys_seq = facts.seq;
        let few = Parts { facts, cut_offs: of_keys(cut_offs), keys, ..Parts::default() };
        Self { few: State::from_parts(few), keys_seq }
    }
}

impl Parts {
    /// The few of them that a charter is made from.
    #[must_use]
    pub fn charter(&self) -> Self {
        let (facts, keys) = (self.facts.clone(), self.keys.clone());
        let cut_offs = of_keys(self.cut_offs.iter().cloned());
        Self { facts, cut_offs, keys, ..Self::default() }
    }
}

impl State {
    /// What the journal says of itself.
    #[must_use]
    pub fn charter(&self) -> Charter {
        let cut_offs = self.cut_offs.map().iter().map(|(seq, cut)| (*seq, cut.clone()));
        let (facts, keys) = (self.facts.clone(), self.keys().cloned().collect());
        Parts { facts, cut_offs: of_keys(cut_offs), keys, ..Parts::default() }.into()
    }
}

fn of_keys(cut_offs: impl IntoIterator<Item = (Seq, CutOff)>) -> Vec<(Seq, CutOff)> {
    let of_key = |(_, cut): &(Seq, CutOff)| matches!(cut.target, Target::Key(_));
    cut_offs.into_iter().filter(of_key).collect()
}

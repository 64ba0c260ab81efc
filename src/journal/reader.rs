//! What everybody may read of a journal, from many threads. Calls block.

use protem_core::charter::Charter;
use protem_core::event::Event;
use protem_core::parts::Parts;
use protem_verify::ids::{GrantId, Hash, Seq};
use protem_verify::names::{IdentityName, ResourceName, ScopeName, TaskId};
use protem_verify::time::Time;

use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::outbox::Outbox;
use crate::journal::past::{Like, Past};
use crate::journal::port::Head;
use crate::journal::records::GrantRecord;
use crate::journal::usage::Usage;

/// Reads a journal. Every method fails when the store cannot be asked or holds what cannot be.
pub trait Reader: Outbox + Usage + Send + Sync {
    /// How far it has come.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn head(&self) -> Result<Head, Fault>;
    /// At most `limit` entries after `after`, in order.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn read(&self, after: Seq, limit: u32) -> Result<Vec<Committed<Event>>, Fault>;
    /// One entry.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn entry(&self, seq: Seq) -> Result<Option<Committed<Event>>, Fault>;
    /// One entry as it is encoded: its leaf is `merkle::leaf` of it.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn body(&self, seq: Seq) -> Result<Option<Vec<u8>>, Fault>;
    /// The entry that put in force the bundle that was so just before `seq`.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn bundle_before(&self, seq: Seq) -> Result<Option<Seq>, Fault>;
    /// One grant.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn grant(&self, id: &GrantId) -> Result<Option<GrantRecord>, Fault>;
    /// Grants, newest first. It looks through a limited number of them, so a page may hold few or none and still have a next.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn grants(&self, filter: &GrantFilter) -> Result<GrantPage, Fault>;
    /// Grants whose id begins or ends with `part`.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn resolve(&self, part: &str) -> Result<Vec<GrantId>, Fault>;
    /// When an identity was last granted anything; what only waited or was refused is no grant.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn last_granted(&self, identity: &IdentityName) -> Result<Option<Time>, Fault>;
    /// What came before a request of the same identity.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn past(&self, like: &Like) -> Result<Past, Fault>;
    /// At most `limit` grants whose review was closed, newest first.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn closed_reviews(&self, limit: u32) -> Result<Vec<GrantId>, Fault>;
    /// Every entry that concerns a grant.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn grant_entries(&self, id: &GrantId) -> Result<Vec<Seq>, Fault>;
    /// The inclusion proof of an entry in the tree of `size` (RFC 6962 §2.1.1).
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn inclusion(&self, seq: Seq, size: u64) -> Result<Vec<Hash>, Fault>;
    /// The proof that the tree of `new` holds that of `old` (RFC 6962 §2.1.2).
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, Fault>;
    /// The root of the tree of `size`.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn root_at(&self, size: u64) -> Result<Hash, Fault>;
    /// What the journal says of itself, without a look at its grants: from the newest snapshot's front and the few entries
    /// after it that say so.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn charter(&self) -> Result<Charter, Fault>;
    /// The newest snapshot.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn snapshot(&self) -> Result<Option<(Head, Parts)>, Fault>;
    /// How much room it takes, in bytes.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn size(&self) -> Result<u64, Fault>;
    /// Keeps a snapshot, beside the turns.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn keep_snapshot(&self, head: &Head, parts: &Parts) -> Result<(), Fault>;
}

/// Which grants. An absent field takes all.
#[derive(Clone, Debug, Default)]
pub struct GrantFilter {
    /// Of this identity.
    pub identity: Option<IdentityName>,
    /// Under this task; names its identity too.
    pub task: Option<TaskId>,
    /// On this resource.
    pub resource: Option<ResourceName>,
    /// With this scope.
    pub scope: Option<ScopeName>,
    /// In one of these states; empty: all.
    pub states: Vec<Stage>,
    /// Requested at or after.
    pub since: Option<Time>,
    /// Requested before.
    pub until: Option<Time>,
    /// Older than this one: the next page.
    pub before: Option<GrantId>,
    /// At most so many.
    pub limit: u32,
    /// Look through at most so many; absent: as many as one page may.
    pub looks: Option<u32>,
}

/// Some of the grants that a filter takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantPage {
    /// Newest first.
    pub grants: Vec<GrantRecord>,
    /// There are older ones that were not looked at: go on before this one.
    pub next: Option<GrantId>,
}

/// A grant's state as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waits for approvals.
    Pending,
    /// Credentials may exist.
    Active,
    /// Final.
    Ended,
}

/// Ids that a part resolves to at most: two say already that it is not unique, more help to choose.
pub const RESOLVED_MAX: usize = 16;

/// Whether an id begins or ends with `part`; the `gr_` in front may be left out.
#[must_use]
pub fn named_by(id: &GrantId, part: &str) -> bool {
    let text = id.text();
    let digits = text.strip_prefix("gr_").unwrap_or(&text);
    let part = part.strip_prefix("gr_").unwrap_or(part);
    !part.is_empty() && (digits.starts_with(part) || digits.ends_with(part))
}

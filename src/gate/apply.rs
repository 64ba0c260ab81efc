//! Feed messages to changes of a view, without IO: what a message means, and what it proves.

use std::collections::VecDeque;
use std::time::Duration;

use protem_proto::wire::v1;
use protem_proto::wire::v1::revocation::Target as Wire;
use protem_proto::wire::v1::subscribe_response::Message;
use protem_verify::checkpoint::{Checkpoint, Signed};
use protem_verify::fences::{Revocation, Target};
use protem_verify::ids::{Epoch, GrantId, Hash, JournalId, Seq};
use protem_verify::known::Moment;
use protem_verify::names::{IdentityName, KeyId, ResourceName, ScopeName, TaskId};
use protem_verify::time::Time;
use protem_verify::view::{Broken, Claimed, Opened, View};

/// A view and what one gateway needs beside it to follow the feed.
#[derive(Debug)]
pub struct Follower {
    /// What is known.
    pub view: View,
    /// Tells this process from any other that holds the same instance id: random, made at its start.
    pub process: Vec<u8>,
    pings: VecDeque<(Vec<u8>, Moment)>,
    cursor: Option<v1::Cursor>,
}

/// What a message asks of the one who read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Nothing,
    /// The stream is open; ping this often.
    Opened(Duration),
    /// Tell the broker that everything up to here is being enforced.
    Applied(Seq),
    /// Connect again after this time.
    GoAway(Duration),
}

/// Pings that may be unanswered: at one a second, the greatest `fresh` of a credential.
pub const PINGS_MAX: usize = 64;
/// How often to ping when the broker does not say, and the bounds of what it may say.
const PING_EVERY: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(10)];

impl Follower {
    /// Follows with this view.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self { view, process: Vec::new(), pings: VecDeque::new(), cursor: None }
    }

    /// What to open a stream with. Pings of an earlier stream prove nothing any more.
    pub fn open(&mut self, gateway: &str, resources: &[ResourceName], instance: &str) -> v1::Open {
        self.pings.clear();
        v1::Open {
            gateway: gateway.into(),
            resources: resources.iter().map(ToString::to_string).collect(),
            after: self.view.resume().and_then(|_| self.cursor.clone()),
            enforcing: true,
            expiries: false,
            history: false,
            last: self.view.newest().map(checkpoint_message),
            instance: instance.into(),
            process: self.process.clone(),
            version: 1,
        }
    }

    /// Remembers a ping. `now` is read before it is sent, so the view never seems younger than it is.
    pub fn pinged(&mut self, nonce: Vec<u8>, now: Moment) {
        if self.pings.len() == PINGS_MAX {
            self.pings.pop_front();
        }
        self.pings.push_back((nonce, now));
    }

    /// Applies one message.
    ///
    /// # Errors
    /// When the stream cannot go on.
    pub fn message(&mut self, message: v1::SubscribeResponse, now: Moment) -> Result<Told, Broken> {
        let Some(message) = message.message else {
            self.view.not_understood();
            return Ok(Told::Nothing);
        };
        match message {
            Message::Opened(opened) => return self.opened(opened),
            Message::SnapshotBegin(begin) => {
                self.view.snapshot_begin(Seq(begin.at_seq), begin.entries);
                return Ok(Told::Nothing);
            }
            Message::Batch(batch) => {
                let items: Vec<Revocation> = batch.items.iter().map(revocation).collect();
                self.view.revoked(&items)?;
                self.moved(batch.cursor);
            }
            Message::SnapshotEnd(end) => {
                self.view.snapshot_end(Seq(end.at_seq), end.entries, Seq(end.last_sent))?;
                self.moved(end.cursor);
            }
            Message::Checkpoint(checkpoint) => self.checkpoint(checkpoint, now)?,
            Message::Reset(_) => {
                self.view.reset();
                self.cursor = None;
                return Ok(Told::Nothing);
            }
            Message::Keys(keys) => {
                self.view.keys(&keys.jwks, &keys.checkpoint_jwks, Seq(keys.seq));
            }
            Message::Catalog(catalog) => {
                if let Some(ceiling) = catalog.max_staleness {
                    self.view.ceiling(span(ceiling), Seq(catalog.seq));
                }
                self.view.catalog(&catalog.json, Seq(catalog.seq));
            }
            Message::GoAway(away) => {
                return Ok(Told::GoAway(away.reconnect_after.map(span).unwrap_or_default()));
            }
        }
        // While something is missing nothing may be acknowledged: a receipt would lie.
        let whole = self.view.resume().is_some() && !self.view.known().blind;
        Ok(if whole { Told::Applied(self.view.enforced()) } else { Told::Nothing })
    }

    fn opened(&mut self, opened: v1::Opened) -> Result<Told, Broken> {
        let journal = opened.journal.try_into().map_err(|_| Broken::Gap)?;
        self.view.opened(&Opened {
            journal: JournalId(journal),
            epoch: Epoch(opened.epoch),
            issuer: opened.issuer.into(),
            max_staleness: opened.max_staleness.map(span).unwrap_or_default(),
        })?;
        let [least, usual, most] = PING_EVERY;
        Ok(Told::Opened(opened.ping_every.map_or(usual, |every| span(every).clamp(least, most))))
    }

    fn checkpoint(&mut self, message: v1::Checkpoint, now: Moment) -> Result<(), Broken> {
        let signed = signed(&message).ok_or(Broken::Forged)?;
        let claimed = Claimed {
            last_sent: Seq(message.last_sent),
            keys_seq: Seq(message.keys_seq),
            catalog_seq: Seq(message.catalog_seq),
        };
        let nonce = message.nonce;
        let answered = self.pings.iter().position(|(sent, _)| !nonce.is_empty() && *sent == nonce);
        let ping = answered.and_then(|at| self.pings.get(at)).map(|(_, sent)| *sent);
        self.view.checkpoint(&signed, claimed, ping, now)?;
        if let Some(at) = answered {
            self.pings.drain(..=at);
        }
        self.moved(message.cursor);
        Ok(())
    }

    fn moved(&mut self, cursor: Option<v1::Cursor>) {
        self.cursor = cursor.or_else(|| self.cursor.take());
    }
}

/// A target that cannot be read is `everything`.
fn revocation(item: &v1::Revocation) -> Revocation {
    let target = item.target.as_ref().and_then(target).unwrap_or(Target::Everything);
    let forget_after = item.forget_after.as_ref().and_then(time);
    Revocation { seq: Seq(item.seq), prev: Seq(item.prev_seq), target, forget_after }
}

fn target(wire: &Wire) -> Option<Target> {
    Some(match wire {
        Wire::Grant(id) => Target::Grant(GrantId(id.as_slice().try_into().ok()?)),
        Wire::Identity(name) => Target::Identity(IdentityName::try_from(name.as_str()).ok()?),
        Wire::Task(joined) => {
            let (identity, task) = joined.split_once('#')?;
            Target::Task(IdentityName::try_from(identity).ok()?, TaskId::try_from(task).ok()?)
        }
        Wire::Resource(name) => Target::Resource(ResourceName::try_from(name.as_str()).ok()?),
        Wire::Scope(joined) => {
            let (resource, scope) = joined.split_once('#')?;
            Target::Scope(ResourceName::try_from(resource).ok()?, ScopeName::try_from(scope).ok()?)
        }
        Wire::KeyId(id) => Target::Key(KeyId::try_from(id.as_str()).ok()?),
        Wire::Everything(_) => Target::Everything,
    })
}

fn signed(message: &v1::Checkpoint) -> Option<Signed> {
    Some(Signed {
        checkpoint: Checkpoint {
            journal: JournalId(message.journal.as_slice().try_into().ok()?),
            epoch: Epoch(message.epoch),
            seq: Seq(message.seq),
            at: message.at.as_ref().and_then(time)?,
            root: Hash(message.audit_root.as_slice().try_into().ok()?),
        },
        signature: message.signature.as_slice().try_into().ok()?,
    })
}

/// A signed checkpoint as the wire has it, without what only a stream can say.
#[must_use]
pub fn checkpoint_message(signed: &Signed) -> v1::Checkpoint {
    let Signed { checkpoint, signature } = signed;
    let millis = checkpoint.at.as_millis();
    v1::Checkpoint {
        journal: checkpoint.journal.0.to_vec(),
        epoch: checkpoint.epoch.0,
        seq: checkpoint.seq.0,
        at: Some(prost_types::Timestamp {
            seconds: i64::try_from(millis / 1_000).unwrap_or(i64::MAX),
            nanos: i32::try_from(millis % 1_000).unwrap_or(0).saturating_mul(1_000_000),
        }),
        audit_root: checkpoint.root.0.to_vec(),
        signature: signature.to_vec(),
        ..v1::Checkpoint::default()
    }
}

fn time(stamp: &prost_types::Timestamp) -> Option<Time> {
    let seconds = u64::try_from(stamp.seconds).ok()?.checked_mul(1_000)?;
    let millis = u64::try_from(stamp.nanos).ok()? / 1_000_000;
    Some(Time::from_millis(seconds.checked_add(millis)?))
}

fn span(span: prost_types::Duration) -> Duration {
    Duration::try_from(span).unwrap_or_default()
}

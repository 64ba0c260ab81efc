//! What must be in a journal before a broker serves it: its first entry, keys that are here, a bundle that loads.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protem_clock::clock::Clock;
use protem_core::command::Command;
use protem_core::event::{Event, KeyPurpose};
use protem_core::grant::KeyState;
use protem_core::limits::SIGNING_KEYS_MAX;
use protem_core::state::State;
use protem_verify::ids::{Epoch, Seq};
use protem_verify::time::Time;

use crate::engine::keys::{KeyRing, Unkept, public};
use crate::engine::proof::{check_anchor, own_keys, read_anchor};
use crate::engine::sequencer::{Job, Sequencer, Tail, Work};
use crate::engine::start::{changes_keys, journal_id};
use crate::engine::stop::{StartError, Stop};
use crate::engine::thread::system;
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::port::{Head, Journal};
use crate::journal::reader::Reader;
use crate::policy::bundle::{Bundle, Files, Load};

/// What a start knows.
pub(in crate::engine) struct About<'a> {
    pub(in crate::engine) issuer: Arc<str>,
    pub(in crate::engine) dev: bool,
    pub(in crate::engine) first: Files,
    pub(in crate::engine) anchor: Option<&'a Path>,
    pub(in crate::engine) keys: &'a KeyRing,
    pub(in crate::engine) reader: &'a dyn Reader,
    pub(in crate::engine) clock: &'a dyn Clock,
    pub(in crate::engine) keys_seq: Seq,
}

/// A journal that can be served.
pub(in crate::engine) struct Opened<J> {
    pub(in crate::engine) sequencer: Sequencer<J>,
    pub(in crate::engine) bundle: Arc<Bundle>,
    pub(in crate::engine) keys_seq: Seq,
}

/// Remembers what changed the keys last.
struct Noting(Seq);

impl Tail for Noting {
    fn committed(&mut self, rows: &Arc<[Committed<Event>]>, _: &State, _: &Head, _: Duration) {
        if let Some(last) = rows.iter().rfind(|row| changes_keys(row.what())) {
            self.0 = last.seq();
        }
    }
}

/// Makes a new journal's first entries, or checks an old one's, and sees to keys and bundle.
pub(in crate::engine) fn open<J: Journal>(
    mut sequencer: Sequencer<J>,
    about: &About<'_>,
) -> Result<Opened<J>, StartError> {
    let mut noting = Noting(about.keys_seq);
    let shown = about.anchor.map(read_anchor).transpose()?.flatten();
    // A new journal gets its bundle with its first entries: one that does not load leaves no journal behind.
    let bundle = if sequencer.state().journal().is_none() {
        let bundle = load(&about.first, about.dev)?;
        let seen = shown.map_or(0, |shown| shown.checkpoint.epoch.0);
        let now = Time::from(about.clock.unix()).as_millis();
        let open = Command::OpenJournal {
            journal: journal_id(),
            epoch: Epoch(now.max(seen.saturating_add(1))),
            issuer: Arc::clone(&about.issuer),
            dev: about.dev,
        };
        turn(&mut sequencer, &mut noting, vec![open])?;
        bundle
    } else {
        same_owner(sequencer.state(), about)?;
        if let (Some(path), Some(shown)) = (about.anchor, &shown) {
            let journal: Vec<[u8; 32]> = checkpoint_keys(sequencer.state());
            let keys = own_keys(about.keys, &journal);
            check_anchor(path, shown, &keys, sequencer.head(), about.reader)?;
        }
        in_force(sequencer.state(), about)?
    };
    let bad = |why: Unkept| about.keys.unusable(&why);
    about.keys.reconcile(sequencer.state()).map_err(bad)?;
    let commands = missing_keys(sequencer.state(), about.keys)?;
    if !commands.is_empty() {
        turn(&mut sequencer, &mut noting, commands)?;
        about.keys.reconcile(sequencer.state()).map_err(bad)?;
    }
    if sequencer.state().bundle().is_none() {
        let (digest, files) = (bundle.digest(), Arc::clone(bundle.files()));
        let first = Command::ActivateBundle { digest, files, expect: None };
        turn(&mut sequencer, &mut noting, vec![first])?;
    }
    Ok(Opened { sequencer, bundle: Arc::new(bundle), keys_seq: noting.0 })
}

fn same_owner(state: &State, about: &About<'_>) -> Result<(), StartError> {
    if state.dev() != about.dev {
        return Err(StartError::DevJournal);
    }
    if state.issuer() != &*about.issuer {
        let (asked, found) = (about.issuer.to_string(), state.issuer().to_owned());
        return Err(StartError::OtherIssuer { asked, found });
    }
    Ok(())
}

fn in_force(state: &State, about: &About<'_>) -> Result<Bundle, StartError> {
    if state.bundle().is_none() {
        return load(&about.first, about.dev);
    }
    let seq = state.bundle_seq();
    let row = about.reader.entry(seq)?;
    match row.as_ref().map(Committed::what) {
        Some(Event::BundleActivated { files, .. }) => load(files, about.dev),
        Some(_) | None => {
            Err(Fault::Damaged { seq, why: "it is not the bundle in force".to_owned() }.into())
        }
    }
}

fn load(files: &Files, dev: bool) -> Result<Bundle, StartError> {
    Bundle::load(Arc::clone(files), Load::Activate, dev).map_err(|findings| StartError::Bundle {
        findings: findings.iter().map(ToString::to_string).collect(),
    })
}

/// What the journal must learn of keys before anybody is served: a journal's first ones, which sign at once, as nobody
/// knows another; a checkpoint key when the one that signs is not here, which gateways learn on the stream that it signs
/// for; and one more of each purpose, known ahead for the day when the first must go. All else is [`Rotation`]'s.
///
/// [`Rotation`]: crate::engine::rotation::Rotation
fn missing_keys(state: &State, ring: &KeyRing) -> Result<Vec<Command>, StartError> {
    let mut commands = Vec::new();
    for purpose in [KeyPurpose::Credential, KeyPurpose::Checkpoint] {
        let generate = || ring.generate(purpose).map_err(|why| ring.unusable(&why));
        let here = state.signing(purpose).is_some_and(|id| ring.find(id).is_some());
        let mut waiting = state.keys().filter(|record| {
            let own = record.key.purpose == purpose && ring.find(&record.key.id).is_some();
            own && record.state == KeyState::Published
        });
        let mut ahead = waiting.next();
        // After its key was cut off a restart is no shortcut: gateways must know the next one first.
        let first = state.keys().all(|record| record.key.purpose != purpose);
        if first || (purpose == KeyPurpose::Checkpoint && !here) {
            let key = match ahead.take() {
                Some(record) => record.key.id.clone(),
                None => {
                    let key = generate()?;
                    commands.push(Command::PublishKey(public(&key)));
                    key.id().clone()
                }
            };
            commands.push(Command::ActivateKey { key });
        }
        let full = state.keys().filter(|record| record.key.purpose == purpose).count();
        if ahead.is_none() && full.saturating_add(1) < SIGNING_KEYS_MAX {
            commands.push(Command::PublishKey(public(&generate()?)));
        }
    }
    Ok(commands)
}

/// Also those that were cut off: a file beside the journal that claims too much stops a start, and no more.
fn checkpoint_keys(state: &State) -> Vec<[u8; 32]> {
    let keys = state.keys().filter(|record| record.key.purpose == KeyPurpose::Checkpoint);
    keys.map(|record| record.key.public).collect()
}

/// One turn of all these, of which none may be refused.
fn turn<J: Journal>(
    sequencer: &mut Sequencer<J>,
    tail: &mut dyn Tail,
    commands: Vec<Command>,
) -> Result<(), StartError> {
    let failed: Arc<Mutex<Option<Stop>>> = Arc::default();
    let job = |command: Command| {
        let failed = Arc::clone(&failed);
        Job {
            actor: system(),
            work: Work::Command(Box::new(command)),
            answer: Box::new(move |answered| {
                if let Err(stop) = answered {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(stop);
                }
            }),
        }
    };
    let batch = commands.into_iter().map(job).collect();
    sequencer.turn(batch, tail);
    let stop = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    stop.map_or(Ok(()), |stop| Err(stop.into()))
}

//! What must be in a journal before a broker serves it: its first entry, keys that are here, a bundle that loads.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protem_clock::clock::Clock;
use protem_clock::random;
use protem_core::charter::Charter;
use protem_core::command::Command;
use protem_core::event::{Event, KeyPurpose};
use protem_core::grant::KeyState;
use protem_core::limits::SIGNING_KEYS_MAX;
use protem_core::state::State;
use protem_verify::checkpoint::Signed;
use protem_verify::ids::{Epoch, JournalId};
use protem_verify::time::Time;

use crate::engine::dice::SystemDice;
use crate::engine::keys::{KeyRing, public};
use crate::engine::proof::{check_anchor, own_keys, read_anchor};
use crate::engine::sequencer::{Job, Sequencer, Tail, Work};
use crate::engine::stop::{StartError, Stop};
use crate::engine::thread::system;
use crate::journal::committed::Committed;
use crate::journal::fault::Fault;
use crate::journal::port::{Head, Journal};
use crate::journal::reader::Reader;
use crate::policy::bundle::{Bundle, Files, Load};

/// Entries that a journal has at most before its first bundle: itself, and a few keys.
const FOUNDING_MAX: u32 = 64;

/// What a start knows.
pub(in crate::engine) struct About<'a> {
    pub(in crate::engine) issuer: Arc<str>,
    pub(in crate::engine) dev: bool,
    pub(in crate::engine) first: Files,
    pub(in crate::engine) anchor: Option<&'a Path>,
    pub(in crate::engine) keys: &'a KeyRing,
    pub(in crate::engine) reader: &'a dyn Reader,
    pub(in crate::engine) clock: &'a Arc<dyn Clock>,
}

/// Nobody follows a journal that is being founded.
struct Nobody;

impl Tail for Nobody {
    fn committed(&mut self, _: &Arc<[Committed<Event>]>, _: &State, _: &Head, _: Duration) {}
}

/// Whether a stored journal is this broker's and holds what others saw of it; the bundle in force.
pub(in crate::engine) fn fit(
    charter: &Charter,
    head: &Head,
    about: &About<'_>,
) -> Result<Bundle, StartError> {
    same_owner(charter, about)?;
    if let (Some(path), Some(shown)) = (about.anchor, shown(about)?) {
        let journal: Vec<[u8; 32]> = checkpoint_keys(charter);
        let keys = own_keys(about.keys, &journal);
        check_anchor(path, &shown, &keys, head, about.reader)?;
    }
    in_force(charter, about)
}

/// Makes a new journal's first entries, or what is missing of them when a process ended between two.
pub(in crate::engine) fn found(
    journal: Box<dyn Journal>,
    about: &About<'_>,
) -> Result<(Sequencer<Box<dyn Journal>>, Bundle), StartError> {
    let (mut state, head) = (State::new(), about.reader.head()?);
    for row in about.reader.read(state.seq(), FOUNDING_MAX)? {
        state.apply(row.at(), row.what());
    }
    if state.seq() != head.seq {
        let why = "it is no journal that is being founded, and has no bundle".to_owned();
        return Err(Fault::Damaged { seq: head.seq, why }.into());
    }
    let (clock, dice) = (Arc::clone(about.clock), Box::new(SystemDice));
    let mut sequencer = Sequencer::new(journal, state, head, clock, dice);
    // A new journal gets its bundle with its first entries: one that does not load leaves no journal behind.
    let bundle = if sequencer.state().journal().is_none() {
        let bundle = load(&about.first, about.dev)?;
        let seen = shown(about)?.map_or(0, |shown| shown.checkpoint.epoch.0);
        let now = Time::from(about.clock.unix()).as_millis();
        let open = Command::OpenJournal {
            journal: journal_id(),
            epoch: Epoch(now.max(seen.saturating_add(1))),
            issuer: Arc::clone(&about.issuer),
            dev: about.dev,
        };
        turn(&mut sequencer, &mut Nobody, vec![open])?;
        bundle
    } else {
        fit(&sequencer.state().charter(), sequencer.head(), about)?
    };
    complete_keys(&mut sequencer, &mut Nobody, about.keys)?;
    let (digest, files) = (bundle.digest(), Arc::clone(bundle.files()));
    let first = Command::ActivateBundle { digest, files, expect: None };
    turn(&mut sequencer, &mut Nobody, vec![first])?;
    Ok((sequencer, bundle))
}

/// Sees to it that the keys that must be here are, and that the journal knows them.
pub(in crate::engine) fn complete_keys<J: Journal>(
    sequencer: &mut Sequencer<J>,
    tail: &mut dyn Tail,
    keys: &KeyRing,
) -> Result<(), StartError> {
    reconcile(keys, &sequencer.state().charter())?;
    let commands = missing_keys(sequencer.state(), keys)?;
    if !commands.is_empty() {
        turn(sequencer, tail, commands)?;
        reconcile(keys, &sequencer.state().charter())?;
    }
    Ok(())
}

/// Holds the key folder against the journal.
pub(in crate::engine) fn reconcile(keys: &KeyRing, charter: &Charter) -> Result<(), StartError> {
    keys.reconcile(charter).map_err(|why| keys.unusable(&why))
}

fn shown(about: &About<'_>) -> Result<Option<Signed>, StartError> {
    Ok(about.anchor.map(read_anchor).transpose()?.flatten())
}

fn same_owner(charter: &Charter, about: &About<'_>) -> Result<(), StartError> {
    if charter.dev() != about.dev {
        return Err(StartError::DevJournal);
    }
    if charter.issuer() != &*about.issuer {
        let (asked, found) = (about.issuer.to_string(), charter.issuer().to_owned());
        return Err(StartError::OtherIssuer { asked, found });
    }
    Ok(())
}

fn in_force(charter: &Charter, about: &About<'_>) -> Result<Bundle, StartError> {
    if charter.bundle().is_none() {
        return load(&about.first, about.dev);
    }
    let seq = charter.bundle_seq();
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
fn checkpoint_keys(charter: &Charter) -> Vec<[u8; 32]> {
    let keys = charter.keys().filter(|record| record.key.purpose == KeyPurpose::Checkpoint);
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

/// A fresh journal id.
fn journal_id() -> JournalId {
    JournalId(random::bytes())
}

//! What must be in a journal before a broker serves it: its first entry, keys that are here, a bundle that loads.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protem_clock::clock::Clock;
use protem_core::command::Command;
use protem_core::event::{Event, KeyPurpose};
use protem_core::grant::KeyState;
use protem_core::state::State;
use protem_verify::ids::{Epoch, Seq};
use protem_verify::time::Time;

use crate::engine::keys::{KeyRing, public};
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
    let commands = missing_keys(sequencer.state(), about.keys)?;
    if !commands.is_empty() {
        turn(&mut sequencer, &mut noting, commands)?;
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

/// What the journal must learn of keys. A journal's first keys sign at once; later a credential key is published first,
/// and comes into force when gateways know it. One more is always known ahead, for the day when the first must go.
fn missing_keys(state: &State, ring: &KeyRing) -> Result<Vec<Command>, StartError> {
    let mut commands = Vec::new();
    let here = |purpose| state.signing(purpose).is_some_and(|id| ring.find(id).is_some());
    // After its key was cut off a restart is no shortcut: gateways must know the next one first.
    let first = |purpose| state.keys().all(|record| record.key.purpose != purpose);
    for purpose in [KeyPurpose::Credential, KeyPurpose::Checkpoint] {
        // A checkpoint key may change at once: gateways learn it on the stream that it signs for.
        if first(purpose) || (purpose == KeyPurpose::Checkpoint && !here(purpose)) {
            let key = ring.generate(purpose)?;
            commands.push(Command::PublishKey(public(&key)));
            commands.push(Command::ActivateKey { key: key.id().clone() });
        }
    }
    let waiting = state.keys().any(|record| {
        record.key.purpose == KeyPurpose::Credential
            && record.state == KeyState::Published
            && ring.find(&record.key.id).is_some()
    });
    if !waiting {
        commands.push(Command::PublishKey(public(&ring.generate(KeyPurpose::Credential)?)));
    }
    Ok(commands)
}

fn checkpoint_keys(state: &State) -> Vec<[u8; 32]> {
    let keys = state.keys().filter(|record| record.key.purpose == KeyPurpose::Checkpoint);
    keys.filter(|record| record.state != KeyState::CutOff).map(|record| record.key.public).collect()
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

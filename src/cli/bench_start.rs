//! `protem bench start`: how long a broker with many live grants takes until gateways can follow it, and until it has its state.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_clock::random;
use protem_core::event::{Activated, Actor, Draft, Event};
use protem_core::request::{AccessRequest, Scopes, Task, Workload};
use protem_core::state::State;
use protem_verify::codes::tool;
use protem_verify::ids::{GrantId, Seq, TurnId};
use protem_verify::names::{
    IdentityName, Malformed, ResourceName, ScopeName, TaskId, TaskKind, Words,
};
use protem_verify::time::Time;

use crate::cli::args_operate::StartArgs;
use crate::cli::bench::{Figures, Report};
use crate::cli::bench_stage::{IDENTITIES, bundle, identity};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Screen;
use crate::cli::scene::Scene;
use crate::engine::broker::{Broker, Start};
use crate::engine::lane::LaneLimits;
use crate::engine::minder::SNAPSHOT_EVERY;
use crate::engine::plan::Schedule;
use crate::journal::port::{Journal, Turn};
use crate::journal::reader::Reader;
use crate::journal::sqlite::SqliteJournal;
use crate::policy::bundle::Files;
use crate::policy::login::{Caller, Login, Principal};

/// Starts that are measured.
const ROUNDS: usize = 5;
/// Grants of one turn while the journal is made.
const TURN: u64 = 1_000;

/// `protem bench start`: a broker in this process, on a store of its own.
///
/// # Errors
/// When the broker does not start.
pub async fn start(screen: &Screen, args: &StartArgs) -> Result<Report, Failure> {
    let scene = Scene::new()?;
    let files = bundle(&scene)?;
    let home = Home { folder: scene.path().to_owned(), files };
    let template = home.first().await?;
    screen.say(format!("  writing {} live grants", args.grants));
    let (home, grants) = (Arc::new(home), args.grants);
    let made = Arc::clone(&home);
    blocking(move || made.fill(&template, grants)).await?;
    screen.say(format!("  starting {ROUNDS} times"));
    let (mut proofs, mut loads) = (Vec::new(), Vec::new());
    let mut bare = Vec::new();
    for _ in 0..ROUNDS {
        let (bundle, opening) = (home.files.clone(), Arc::clone(&home));
        let began = SystemClock.boot();
        let (broker, loading) = blocking(move || {
            let (broker, loading) = Broker::open(opening.start(bundle)?).map_err(failed)?;
            Ok((broker, loading))
        })
        .await?;
        broker.prove(b"bench".to_vec()).await.map_err(failed)?;
        proofs.push(nanos(began));
        blocking(move || loading.wait().map_err(failed)).await?;
        loads.push(nanos(began));
        broker.stop().await;
        drop(broker);
        let reading = Arc::clone(&home);
        bare.push(blocking(move || reading.read_file()).await?);
    }
    let over = |nanos: &[u64]| Duration::from_nanos(nanos.iter().sum());
    let figures = |name: &str, nanos: Vec<u64>| {
        let total = over(&nanos);
        Figures::of_nanos(name, nanos, 0, total)
    };
    let proof = figures("start to the first proof for gateways", proofs);
    let load = figures("start to the first turn", loads);
    let read = figures("probe: reading the snapshot's file", bare);
    let ratios = vec![
        ("first turn / first proof, p50".to_owned(), load.p50_ms / proof.p50_ms.max(1e-9)),
        ("first turn / reading the file, p50".to_owned(), load.p50_ms / read.p50_ms.max(1e-9)),
    ];
    scene.clean()?;
    Ok(Report { bench: "start", concurrency: 1, result: proof, probes: vec![load, read], ratios })
}

/// A broker's store, keys and bundle.
struct Home {
    folder: PathBuf,
    files: Files,
}

impl Home {
    fn store(&self) -> PathBuf {
        self.folder.join("start.db")
    }

    fn start(&self, bundle: Files) -> Result<Start, Failure> {
        let (journal, reader) = SqliteJournal::open(&self.store()).map_err(failed)?;
        Ok(Start {
            journal: Box::new(journal),
            reader,
            clock: Arc::new(SystemClock),
            issuer: "https://broker.example".to_owned(),
            dev: true,
            bundle,
            keys: self.folder.join("start-keys"),
            anchor: Some(self.folder.join("start-anchor")),
            region: String::new(),
            rotation: Schedule { rotate_every: None, jwks_wait: Duration::ZERO },
            limits: LaneLimits::default(),
        })
    }

    /// Makes the journal, and the one grant that all others are like.
    async fn first(&self) -> Result<Activated, Failure> {
        let broker = Broker::start(self.start(Arc::clone(&self.files))?).map_err(failed)?;
        let login = Login::dev_identity(&identity(0));
        let principal = broker.bundle().who(&login).map_err(|_| failed("nobody asks"))?;
        let caller = Caller { principal, login: Arc::new(login) };
        let Principal::Workload { by, .. } = caller.principal.clone() else {
            return Err(failed("the caller is no workload"));
        };
        let request = asked(by).map_err(failed)?;
        let granted = broker.request_access(&caller, request).await;
        let granted = granted.map_err(|stop| failed(format!("{stop:?}")))?;
        let rows = broker.reader().grant_entries(&granted.grant.id).map_err(failed)?;
        let seq = rows.first().copied().unwrap_or(Seq(0));
        let row = broker.reader().entry(seq).map_err(failed)?;
        broker.stop().await;
        match row.map(|row| row.what().clone()) {
            Some(Event::GrantActivated(activated)) => Ok(*activated),
            Some(_) | None => Err(failed("the first grant is not there")),
        }
    }

    /// Writes so many more, and a snapshot half of the way between two.
    fn fill(&self, template: &Activated, grants: u64) -> Result<(), Failure> {
        let (mut journal, reader) = SqliteJournal::open(&self.store()).map_err(failed)?;
        let reader: &dyn Reader = &*reader;
        let mut state = State::new();
        let mut head = fold(reader, &mut state)?;
        let kept = (head.0 + grants).saturating_sub(SNAPSHOT_EVERY / 2);
        let mut is_kept = false;
        for turn in 0..grants.div_ceil(TURN) {
            let known = journal.head().map_err(failed)?;
            let numbers = turn * TURN..grants.min((turn + 1) * TURN);
            let drafts: Result<Vec<Draft>, Failure> =
                numbers.map(|number| like(template, number, known.at)).collect();
            let drafts = drafts?;
            let id = TurnId(random::bytes());
            match journal.turn(&known, id, &mut |_| drafts.clone()).map_err(failed)? {
                Turn::Done { .. } => {}
                Turn::Behind => return Err(failed("somebody else writes")),
            }
            head = fold(reader, &mut state)?;
            if !is_kept && head.0 >= kept {
                is_kept = true;
                let at = reader.head().map_err(failed)?;
                reader.keep_snapshot(&at, &state.parts()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// How long the machine takes to read the snapshot alone.
    fn read_file(&self) -> Result<u64, Failure> {
        let began = SystemClock.boot();
        let found = std::fs::read_dir(&self.folder).map_err(failed)?;
        for file in found.flatten() {
            if file.file_name().to_string_lossy().contains(".snapshot-") {
                std::fs::read(file.path()).map_err(failed)?;
            }
        }
        Ok(nanos(began))
    }
}

fn fold(reader: &dyn Reader, state: &mut State) -> Result<Seq, Failure> {
    let head = reader.head().map_err(failed)?.seq;
    while state.seq() < head {
        for row in reader.read(state.seq(), 1_000).map_err(failed)? {
            state.apply(row.at(), row.what());
        }
    }
    Ok(head)
}

/// One more grant: another caller's, under another task.
fn like(template: &Activated, number: u64, at: Time) -> Result<Draft, Failure> {
    let mut more = template.clone();
    let caller = usize::try_from(number).unwrap_or(0) % IDENTITIES;
    let name = IdentityName::try_from(identity(caller).as_str()).map_err(failed)?;
    let task = TaskId::try_from(format!("start-{number}").as_str()).map_err(failed)?;
    let issued = &mut more.credential;
    issued.grant = GrantId((u128::MAX / 3 + u128::from(number)).to_be_bytes());
    issued.by.identity = name.clone();
    issued.task = task.clone();
    if let Some(asked) = &mut more.asked {
        asked.request.key = None;
        asked.request.by.identity = name;
        asked.request.task.id = task;
    }
    let actor = Actor(format!("identity:{}", identity(caller)).into());
    Ok(Draft { actor, at, event: Event::GrantActivated(Box::new(more)) })
}

fn asked(by: Workload) -> Result<AccessRequest, Malformed> {
    let (id, kind) = (TaskId::try_from("start")?, TaskKind::try_from("bench")?);
    Ok(AccessRequest {
        by,
        task: Task { id, kind, url: Words::default() },
        resource: ResourceName::try_from("orders-api")?,
        scopes: Scopes::new(vec![ScopeName::try_from("orders:read")?])?,
        lifetime: None,
        purpose: Words::default(),
        key: None,
        emergency: false,
        proof: None,
    })
}

fn nanos(since: Duration) -> u64 {
    u64::try_from(SystemClock.boot().saturating_sub(since).as_nanos()).unwrap_or(u64::MAX)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

fn failed(why: impl ToString) -> Failure {
    Failure::of(Exit::Failed, tool::STEP, why.to_string())
}

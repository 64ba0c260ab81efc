//! `protem bench verify`: what a gateway's check costs beside a bare signature, with an empty view and with a full one.

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use protem_clock::clock::{Clock, SystemClock};
use protem_clock::random;
use protem_gate::follow::moment;
use protem_verify::checkpoint::Checkpoint;
use protem_verify::claims::Claims;
use protem_verify::codes::tool;
use protem_verify::fences::{ENTRIES_MAX, Revocation, Target};
use protem_verify::ids::{Epoch, GrantId, Hash, JournalId, Seq};
use protem_verify::jws::{ACCESS_TOKEN, Jws, encode};
use protem_verify::keys::{jwks, thumbprint};
use protem_verify::names::ResourceName;
use protem_verify::time::{Staleness, Time};
use protem_verify::verifier::{Call, Verdict, Verifier};
use protem_verify::view::{Claimed, Opened, View};

use crate::cli::args_operate::VerifyArgs;
use crate::cli::bench::{Figures, Report};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Screen;

const ISSUER: &str = "https://broker.example";
const EPOCH: Epoch = Epoch(1);
const JOURNAL: JournalId = JournalId([7; 16]);
const CATALOG: &str = r#"{"resources":{"orders-api":{"audience":"https://orders.example","scopes":{
    "orders:read":{"risk":"low","operations":["GET /v1/orders","GET /v1/orders/{id}"]},
    "orders:refund":{"risk":"high","operations":["POST /v1/orders/{id}/refund"]}}}}}"#;
/// Tokens that take turns, so that no check finds all that it needs in the processor's cache.
const TOKENS: usize = 2_000;
/// Entries of one message of the feed.
const CHUNK: usize = 1_000;
/// Revocations that are applied one by one, each published before the next.
const ONE_BY_ONE: usize = 5_000;
/// What is revoked may be forgotten within this many seconds: credentials of a quarter of an hour.
const LIFE: u64 = 900;

/// A gateway's view without a network, and tokens that it allows.
struct Bed {
    key: SigningKey,
    checkpoint_key: SigningKey,
    view: View,
    seq: Seq,
    last: Seq,
    tokens: Arc<[String]>,
}

/// `protem bench verify`, on one core.
///
/// # Errors
/// When a check refuses what it must allow.
pub async fn verify(screen: &Screen, args: &VerifyArgs) -> Result<Report, Failure> {
    screen.say(format!("  checking {TOKENS} tokens on one core, with {} revoked", args.entries));
    let (entries, time) = (args.entries.clamp(1, ENTRIES_MAX), args.duration);
    // It computes and never waits, so it belongs beside the runtime's threads.
    let measured = tokio::task::spawn_blocking(move || measure(entries, time)).await;
    measured.map_err(|why| Failure::of(Exit::Failed, tool::STEP, why.to_string()))?
}

fn measure(entries: usize, time: Duration) -> Result<Report, Failure> {
    let mut bed = Bed::new()?;
    bed.snapshot(0)?;
    let raw = bed.raw(time)?;
    let empty = bed.checks("check, nothing revoked", time)?;
    let before = resident();
    let filled = bed.snapshot(entries)?;
    let bytes = per_entry(resident().saturating_sub(before), entries);
    let full = bed.checks(&format!("check, {entries} revoked"), time)?;
    let applied = bed.one_by_one()?;
    let forgotten = bed.forgetting(entries)?;
    let ratio = |one: &Figures, other: &Figures| one.p50_ms / other.p50_ms.max(1e-9);
    let ratios = vec![
        ("check / signature, p50, nothing revoked".to_owned(), ratio(&empty, &raw)),
        (format!("check / signature, p50, {entries} revoked"), ratio(&full, &raw)),
        ("bytes of memory for each that is revoked".to_owned(), bytes),
    ];
    let probes = vec![empty, raw, filled, applied, forgotten];
    Ok(Report { bench: "verify", concurrency: 1, result: full, probes, ratios })
}

impl Bed {
    fn new() -> Result<Self, Failure> {
        let [key, checkpoint_key] =
            [random::bytes(), random::bytes()].map(|bytes| SigningKey::from_bytes(&bytes));
        let mut view = View::new(ISSUER, None);
        let opened = Opened {
            journal: JOURNAL,
            epoch: EPOCH,
            issuer: ISSUER.into(),
            max_staleness: Duration::from_secs(60),
        };
        view.opened(&opened).map_err(|why| bad(&why))?;
        let set = |key: &SigningKey| jwks(&[key.verifying_key().to_bytes()]);
        view.keys(&set(&key), &set(&checkpoint_key), Seq(1));
        view.catalog(CATALOG, Seq(2));
        let tokens: Result<Vec<_>, _> = (0..TOKENS).map(|_| token(&key)).collect();
        let (seq, last, tokens) = (Seq(2), Seq(0), tokens?.into());
        Ok(Self { key, checkpoint_key, view, seq, last, tokens })
    }

    /// A snapshot as the feed brings it; how long each message took to be applied.
    fn snapshot(&mut self, entries: usize) -> Result<Figures, Failure> {
        let (mut left, mut seq, mut nanos) = (entries, Seq(0), Vec::new());
        let end = Seq(count(entries).saturating_add(2));
        self.view.snapshot_begin(end, count(entries));
        while left > 0 {
            let part = left.min(CHUNK);
            let items: Vec<_> = (0..part)
                .map(|_| {
                    seq = seq.next();
                    revocation(seq, Seq(0))
                })
                .collect();
            let from = now();
            self.view.revoked(&items).map_err(|why| bad(&why))?;
            nanos.push(since(from));
            left = left.saturating_sub(part);
        }
        self.view.snapshot_end(end, count(entries), seq).map_err(|why| bad(&why))?;
        (self.seq, self.last) = (end, seq);
        self.prove()?;
        Ok(over("a message of a snapshot, 1000 entries, applied", nanos))
    }

    fn prove(&mut self) -> Result<(), Failure> {
        let now = moment(&SystemClock);
        self.prove_at(now)
    }

    fn prove_at(&mut self, now: protem_verify::known::Moment) -> Result<(), Failure> {
        let at = Time::from_secs(now.unix.as_secs().saturating_add(1));
        let (journal, epoch, seq, root) = (JOURNAL, EPOCH, self.seq, Hash([9; 32]));
        let signed = Checkpoint { journal, epoch, seq, at, root }.sign(&self.checkpoint_key);
        let claimed = Claimed { last_sent: self.last, keys_seq: Seq(1), catalog_seq: Seq(2) };
        let proven = self.view.checkpoint(&signed, claimed, Some(now), now);
        proven.map(drop).map_err(|why| bad(&why))
    }

    /// Checks one token after the other until time is up, reading both clocks for each as a gateway does.
    fn checks(&mut self, name: &str, time: Duration) -> Result<Figures, Failure> {
        self.prove()?;
        let verifier = Verifier::new(self.view.reader());
        let resource = orders()?;
        let call = Call { resource: &resource, method: "GET", path: "/v1/orders/4711" };
        let (began, mut nanos) = (now(), Vec::new());
        for token in self.tokens.iter().cycle() {
            let from = now();
            if from.saturating_sub(began) > time {
                break;
            }
            let verdict = verifier.check(token, &call, moment(&SystemClock));
            nanos.push(since(from));
            if let Verdict::Deny(reason) = verdict {
                return Err(bad(&reason.code().id));
            }
        }
        Ok(over(name, nanos))
    }

    /// The signatures of the same tokens and nothing else.
    fn raw(&self, time: Duration) -> Result<Figures, Failure> {
        let key: VerifyingKey = self.key.verifying_key();
        let parsed: Result<Vec<_>, _> =
            self.tokens.iter().map(|token| Jws::parse(token, ACCESS_TOKEN)).collect();
        let parsed = parsed.map_err(|why| bad(&why))?;
        let (began, mut nanos) = (now(), Vec::new());
        for jws in parsed.iter().cycle() {
            let from = now();
            if from.saturating_sub(began) > time {
                break;
            }
            let signature = Signature::from_bytes(&jws.signature);
            key.verify_strict(jws.signed, &signature).map_err(|why| bad(&why))?;
            nanos.push(since(from));
        }
        Ok(over("probe: Ed25519 verification of the same tokens", nanos))
    }

    /// Revocations in order, each published before the next comes.
    fn one_by_one(&mut self) -> Result<Figures, Failure> {
        let mut nanos = Vec::with_capacity(ONE_BY_ONE);
        for _ in 0..ONE_BY_ONE {
            let items = [revocation(self.seq.next(), self.last)];
            (self.seq, self.last) = (self.seq.next(), self.seq.next());
            let from = now();
            self.view.revoked(&items).map_err(|why| bad(&why))?;
            nanos.push(since(from));
        }
        Ok(over("one more revocation, applied and published", nanos))
    }

    /// Proofs as time goes by, until all is forgotten.
    fn forgetting(&mut self, entries: usize) -> Result<Figures, Failure> {
        let (mut nanos, mut at) = (Vec::new(), moment(&SystemClock));
        while !self.view.known().fences.is_empty() {
            let minute = Duration::from_secs(60);
            (at.boot, at.unix) = (at.boot.saturating_add(minute), at.unix.saturating_add(minute));
            let from = now();
            self.prove_at(at)?;
            nanos.push(since(from));
        }
        Ok(over(&format!("a proof a minute, that forgets the {entries} bit by bit"), nanos))
    }
}

fn token(key: &SigningKey) -> Result<String, Failure> {
    let now = Time::from_secs(SystemClock.unix().as_secs());
    let name = |why: protem_verify::names::Malformed| bad(&why);
    let claims = Claims {
        issuer: ISSUER.into(),
        subject: "spiffe://shop.example/ns/pay/sa/agent".try_into().map_err(name)?,
        identity: "payments/agent".try_into().map_err(name)?,
        grant: GrantId(id()),
        number: 0,
        issued: now,
        not_before: now,
        expires: now + Duration::from_secs(3_600),
        scopes: vec!["orders:read".try_into().map_err(name)?],
        audience: "https://orders.example".into(),
        proof: None,
        seq: Seq(u64::from(u32::MAX)),
        until: now + Duration::from_secs(3_600),
        task: "nightly-2026-11-28".try_into().map_err(name)?,
        epoch: EPOCH,
        fresh: Staleness(Duration::from_secs(60)),
        status: None,
        template: Vec::new(),
    };
    let kid = thumbprint(&key.verifying_key().to_bytes());
    Ok(encode(ACCESS_TOKEN, &kid, &claims.encode(), |bytes| key.sign(bytes).to_bytes()))
}

fn revocation(seq: Seq, prev: Seq) -> Revocation {
    let after = Duration::from_secs(seq.0 % LIFE);
    let forget_after = Some(Time::from_secs(SystemClock.unix().as_secs()) + after);
    Revocation { seq, prev, target: Target::Grant(GrantId(id())), forget_after }
}

/// As a grant's id is made: a clock, then chance.
fn id() -> [u8; 16] {
    let millis = SystemClock.unix().as_millis() << 80;
    let chance = u128::from_be_bytes(random::bytes()) >> 48;
    (millis | chance).to_be_bytes()
}

fn orders() -> Result<ResourceName, Failure> {
    ResourceName::try_from("orders-api").map_err(|why| bad(&why))
}

fn now() -> Duration {
    SystemClock.boot()
}

fn since(from: Duration) -> u64 {
    u64::try_from(now().saturating_sub(from).as_nanos()).unwrap_or(u64::MAX)
}

/// Its rate is of the time that it took by itself, without what was made ready in between.
fn over(name: &str, nanos: Vec<u64>) -> Figures {
    let sum = nanos.iter().fold(0_u64, |sum, one| sum.saturating_add(*one));
    Figures::of_nanos(name, nanos, 0, Duration::from_nanos(sum))
}

fn count(of: usize) -> u64 {
    u64::try_from(of).unwrap_or(u64::MAX)
}

fn per_entry(bytes: u64, entries: usize) -> f64 {
    let whole = |count: u64| f64::from(u32::try_from(count / 1_024).unwrap_or(u32::MAX));
    let entries = u32::try_from(entries).unwrap_or(u32::MAX).max(1);
    whole(bytes) * 1_024.0 / f64::from(entries)
}

/// The memory that this process has in use, in bytes (proc_pid_status(5), `VmRSS`); 0 where there is no such file.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok());
    kib.map_or(0, |kib: u64| kib.saturating_mul(1_024))
}

fn bad(why: &dyn std::fmt::Display) -> Failure {
    Failure::of(Exit::Failed, tool::STEP, why.to_string())
}

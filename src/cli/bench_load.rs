//! Closed loops: many callers, each with one call at a time, that ask for access or end it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use data_encoding::HEXLOWER;
use protem_clock::random;
use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use protem_verify::codes::tool;
use tokio::task::JoinSet;

use crate::cli::args::Global;
use crate::cli::args_operate::LoadArgs;
use crate::cli::ask::fresh_key;
use crate::cli::bench::{Figures, Report, cpu_of, now_us};
use crate::cli::bench_apart::Apart;
use crate::cli::bench_probe;
use crate::cli::bench_stage::{BenchStage, OPERATOR, identity};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Screen;

/// What one caller saw.
#[derive(Default)]
pub struct Seen {
    /// How long each answered call took, in microseconds.
    pub micros: Vec<u64>,
    /// Calls that were refused or failed.
    pub failed: u64,
    first_failure: Option<Failure>,
    grants: Vec<String>,
}

/// `protem bench issue`.
///
/// # Errors
/// When the broker does not start, or nothing was granted.
pub async fn issue(global: &Global, screen: &Screen, args: &LoadArgs) -> Result<Report, Failure> {
    let stage = BenchStage::open(global).await?;
    let apart = Apart::start()?;
    let callers = callers(&stage, args, &apart)?;
    screen.say(format!("  warming up for {:?}", args.warmup));
    ask_for(&callers, args.warmup, &apart).await?;
    screen.say(format!("  {} callers ask for {:?}", args.callers, args.duration));
    let (before, began) = (cpu_of(stage.pid), now_us());
    let seen = ask_for(&callers, args.duration, &apart).await?;
    let over = Duration::from_micros(now_us().saturating_sub(began));
    let cpu = spent(before, cpu_of(stage.pid));
    let figures = Figures::of("issue, durable", seen.micros, seen.failed, over).cpu(cpu);
    finish("issue", args, screen, stage, figures).await
}

/// `protem bench revoke`: ends grants that were made before, one by one.
///
/// # Errors
/// When the broker does not start, or nothing was revoked.
pub async fn revoke(global: &Global, screen: &Screen, args: &LoadArgs) -> Result<Report, Failure> {
    let stage = BenchStage::open(global).await?;
    let apart = Apart::start()?;
    let callers = callers(&stage, args, &apart)?;
    screen.say(format!("  making grants to revoke, for {:?}", args.duration));
    let mut made = ask_for(&callers, args.duration, &apart).await?.grants;
    let operators = callers.iter().map(|caller| stage.same_line(caller, OPERATOR));
    let operators: Vec<Client> = operators.collect::<Result<_, _>>()?;
    screen.say(format!("  {} callers revoke {} grants", args.callers, made.len()));
    let share = made.len().div_ceil(operators.len().max(1)).max(1);
    let (before, began) = (cpu_of(stage.pid), now_us());
    let until = began.saturating_add(micros(args.duration));
    let mut work = JoinSet::new();
    for operator in operators {
        let mine = made.split_off(made.len().saturating_sub(share));
        work.spawn_on(revoke_all(operator, mine, until), apart.handle());
    }
    let seen = gather(work).await?;
    let over = Duration::from_micros(now_us().saturating_sub(began));
    let cpu = spent(before, cpu_of(stage.pid));
    let figures = Figures::of("revoke, durable", seen.micros, seen.failed, over).cpu(cpu);
    finish("revoke", args, screen, stage, figures).await
}

async fn finish(
    bench: &'static str,
    args: &LoadArgs,
    screen: &Screen,
    stage: BenchStage,
    result: Figures,
) -> Result<Report, Failure> {
    let folder = stage.folder();
    let mut probes = Vec::new();
    if !args.no_probes {
        screen.say("  probing the disk and SQLite");
        probes = bench_probe::durable(&folder).await?;
    }
    stage.close().await?;
    let ratios = probes.iter().map(|probe| {
        let ratio = result.per_second / probe.per_second.max(1e-9);
        (format!("{bench} / {}", probe.name), ratio)
    });
    let ratios = ratios.collect();
    Ok(Report { bench, concurrency: args.callers, result, probes, ratios })
}

fn callers(stage: &BenchStage, args: &LoadArgs, apart: &Apart) -> Result<Vec<Client>, Failure> {
    let _there = apart.handle().enter();
    let lines = (0..args.connections.max(1)).map(|at| stage.client(&identity(at)));
    let lines: Vec<Client> = lines.collect::<Result<_, _>>()?;
    let callers = lines.iter().cycle().take(args.callers.max(1)).enumerate();
    callers.map(|(at, line)| stage.same_line(line, &identity(at))).collect()
}

/// Every caller asks for access, one task after the other, until time is up.
async fn ask_for(callers: &[Client], time: Duration, apart: &Apart) -> Result<Seen, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut work = JoinSet::new();
    for caller in callers {
        work.spawn_on(ask_on(caller.clone(), Arc::clone(&stop)), apart.handle());
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    gather(work).await
}

/// What all callers saw, once they have ended.
///
/// # Errors
/// When no call was answered.
pub async fn gather(mut work: JoinSet<Seen>) -> Result<Seen, Failure> {
    let mut all = Seen::default();
    while let Some(seen) = work.join_next().await {
        let Ok(seen) = seen else { continue };
        all.micros.extend(seen.micros);
        all.grants.extend(seen.grants);
        all.failed += seen.failed;
        all.first_failure = all.first_failure.or(seen.first_failure);
    }
    if all.micros.is_empty() {
        let nothing = || Failure::of(Exit::Failed, tool::STEP, "no call was answered in time");
        return Err(all.first_failure.unwrap_or_else(nothing));
    }
    Ok(all)
}

/// Asks for access, one task after the other, until told to stop.
pub async fn ask_on(caller: Client, stop: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen::default();
    let me = HEXLOWER.encode(&random::bytes::<6>());
    let mut access = caller.access();
    let mut count = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let task = v1::Task { id: format!("bench-{me}-{count}"), ..v1::Task::default() };
        let request = v1::RequestAccessRequest {
            task: Some(task),
            resource: "orders-api".to_owned(),
            scopes: vec!["orders:read".to_owned()],
            request_id: fresh_key().to_string(),
            ..v1::RequestAccessRequest::default()
        };
        let began = now_us();
        match access.request_access(request).await {
            Ok(answer) => {
                seen.micros.push(now_us().saturating_sub(began));
                seen.grants.extend(answer.into_inner().grant.map(|grant| grant.id));
            }
            Err(status) => failed(&mut seen, &caller, &status).await,
        }
    }
    seen
}

async fn revoke_all(operator: Client, grants: Vec<String>, until: u64) -> Seen {
    let mut seen = Seen::default();
    let mut governance = operator.governance();
    for grant in grants {
        if now_us() > until {
            break;
        }
        let selector = v1::Selector { by: Some(By::Grant(grant)) };
        let note = "bench".to_owned();
        let request = v1::RevokeRequest { selector: Some(selector), note, wait: None };
        let began = now_us();
        let answered = match governance.revoke(request).await {
            Ok(answers) => answers.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        };
        match answered {
            Ok(()) => seen.micros.push(now_us().saturating_sub(began)),
            Err(status) => failed(&mut seen, &operator, &status).await,
        }
    }
    seen
}

/// A refused call is counted, and never turns the loop into a busy one.
async fn failed(seen: &mut Seen, caller: &Client, status: &tonic::Status) {
    seen.failed += 1;
    if seen.first_failure.is_none() {
        seen.first_failure = Some(caller.failure(status));
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
}

fn micros(of: Duration) -> u64 {
    u64::try_from(of.as_micros()).unwrap_or(u64::MAX)
}

fn spent(before: Option<Duration>, after: Option<Duration>) -> Option<Duration> {
    Some(after?.saturating_sub(before?))
}

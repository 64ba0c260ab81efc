//! Ending access while requests flood the broker, beside the same when nobody else calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use tokio::task::JoinSet;

use crate::cli::args::Global;
use crate::cli::args_operate::LoadArgs;
use crate::cli::ask::fresh_key;
use crate::cli::bench::{Figures, Report, cpu_of, now_us};
use crate::cli::bench_apart::Apart;
use crate::cli::bench_load::{ask_on, gather};
use crate::cli::bench_stage::{BenchStage, OPERATOR, hasty, identity};
use crate::cli::client::Client;
use crate::cli::exit::Failure;
use crate::cli::output::Screen;

/// Ends of access that are measured, idle and again under the flood: enough for a median.
const ENDS: usize = 300;

/// `protem bench flood`. Half of the flood's callers ask faster than their rate allows, half have no such limit.
///
/// # Errors
/// When the broker does not start, or access cannot be ended.
pub async fn flood(global: &Global, screen: &Screen, args: &LoadArgs) -> Result<Report, Failure> {
    let stage = BenchStage::open(global).await?;
    let (worker, operator) = (stage.client(&identity(0))?, stage.client(OPERATOR)?);
    let mut grants = Vec::new();
    for number in 0..2 * ENDS {
        grants.push(make(&worker, number).await?);
    }
    let under_flood = grants.split_off(ENDS);
    screen.say("  ending access while nobody else calls");
    let (idle, over) = end_all(&worker, &operator, &grants).await?;
    let idle = Figures::of("ending access, idle", idle, 0, over);
    screen.say(format!("  the same while {} callers ask", args.callers));
    let stop = Arc::new(AtomicBool::new(false));
    let apart = Apart::start()?;
    let mut work = JoinSet::new();
    let lines: Vec<Client> = {
        let _there = apart.handle().enter();
        let lines = (0..args.connections.max(1)).map(|at| stage.client(&identity(at + 1)));
        lines.collect::<Result<_, _>>()?
    };
    for (at, line) in lines.iter().cycle().take(args.callers.max(1)).enumerate() {
        let name = if at % 2 == 0 { identity(at + 1) } else { hasty(at) };
        let caller = stage.same_line(line, &name)?;
        work.spawn_on(ask_on(caller, Arc::clone(&stop)), apart.handle());
    }
    tokio::time::sleep(args.warmup).await;
    let (before, began) = (cpu_of(stage.pid), now_us());
    let (busy, over) = end_all(&worker, &operator, &under_flood).await?;
    let cpu = cpu_of(stage.pid).zip(before).map(|(after, before)| after.saturating_sub(before));
    stop.store(true, Ordering::Relaxed);
    let flood = gather(work).await?;
    let flooded = Duration::from_micros(now_us().saturating_sub(began)).saturating_add(args.warmup);
    stage.close().await?;
    let result = Figures::of("ending access, under flood", busy, 0, over).cpu(cpu);
    let flood = Figures::of("the flood's requests", flood.micros, flood.failed, flooded);
    let ratio = |name: &str, busy: f64, idle: f64| (name.to_owned(), busy / idle.max(1e-9));
    let ratios = vec![
        ratio("ending access, p50 under flood / idle", result.p50_ms, idle.p50_ms),
        ratio("ending access, p99 under flood / idle", result.p99_ms, idle.p99_ms),
    ];
    let probes = vec![idle, flood];
    Ok(Report { bench: "flood", concurrency: args.callers, result, probes, ratios })
}

async fn make(worker: &Client, number: usize) -> Result<v1::Grant, Failure> {
    let request = v1::RequestAccessRequest {
        task: Some(v1::Task { id: format!("flood-{number}"), ..v1::Task::default() }),
        resource: "orders-api".to_owned(),
        scopes: vec!["orders:read".to_owned()],
        request_id: fresh_key().to_string(),
        ..v1::RequestAccessRequest::default()
    };
    let answer = worker.access().request_access(request).await;
    let answer = answer.map_err(|status| worker.failure(&status))?;
    Ok(answer.into_inner().grant.unwrap_or_default())
}

/// Completes, returns and revokes in turn, one after the other: microseconds of each, and the time of all.
async fn end_all(
    worker: &Client,
    operator: &Client,
    grants: &[v1::Grant],
) -> Result<(Vec<u64>, Duration), Failure> {
    let (mut micros, all) = (Vec::new(), now_us());
    for (at, grant) in grants.iter().enumerate() {
        let began = now_us();
        match at % 3 {
            0 => complete(worker, grant).await?,
            1 => give_back(worker, grant).await?,
            _ => revoke(operator, grant).await?,
        }
        micros.push(now_us().saturating_sub(began));
    }
    Ok((micros, Duration::from_micros(now_us().saturating_sub(all))))
}

async fn complete(worker: &Client, grant: &v1::Grant) -> Result<(), Failure> {
    let task_id = grant.task.clone().unwrap_or_default().id;
    let request = v1::CompleteTaskRequest { task_id, ..v1::CompleteTaskRequest::default() };
    let done = worker.access().complete_task(request).await;
    done.map(drop).map_err(|status| worker.failure(&status))
}

async fn give_back(worker: &Client, grant: &v1::Grant) -> Result<(), Failure> {
    let request = v1::ReturnGrantRequest { grant_id: grant.id.clone(), note: "bench".to_owned() };
    let done = worker.access().return_grant(request).await;
    done.map(drop).map_err(|status| worker.failure(&status))
}

async fn revoke(operator: &Client, grant: &v1::Grant) -> Result<(), Failure> {
    let selector = Some(v1::Selector { by: Some(By::Grant(grant.id.clone())) });
    let request = v1::RevokeRequest { selector, note: "bench".to_owned(), wait: None };
    let failed = |status| operator.failure(&status);
    let mut answers = operator.governance().revoke(request).await.map_err(failed)?.into_inner();
    answers.message().await.map(drop).map_err(failed)
}

//! `UsageService`: gateways say what was done with credentials, each of the resources that the catalog gives it alone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use protem_proto::wire::v1;
use protem_proto::wire::v1::usage_service_server::UsageService;
use protem_verify::codes::{caller, wire};
use protem_verify::ids::GrantId;
use protem_verify::names::{GatewayName, Malformed, ResourceName};
use protem_verify::time::Time;
use tokio::sync::Semaphore;
use tonic::{Code as Grpc, Request, Response, Status, Streaming};

use crate::engine::broker::Broker;
use crate::engine::stop::Stop;
use crate::journal::fault::Fault;
use crate::journal::usage::{Counted, How, Line, Report};
use crate::policy::login::Principal;
use crate::serve::limits::{BUSY_RETRY, INSTANCE_MAX};
use crate::serve::parse;
use crate::serve::status::Problem;
use crate::serve::who;

/// The service.
#[derive(Clone)]
pub struct Usage {
    broker: Broker,
    /// Reports that are being counted or wait for that.
    waiting: Arc<Semaphore>,
    /// One at a time writes.
    writing: Arc<Semaphore>,
}

/// Lines that are counted in one step: it takes the store's one lock for writing, so a turn waits for a millisecond at most.
const STEP: usize = 64;
/// How much longer than a step took the next one waits, so that turns find the lock free nine times out of ten.
const REST: u32 = 9;
/// The shortest such rest.
const REST_LEAST: Duration = Duration::from_millis(2);
/// Lines of one report: a gateway that counted more reports again; 64 KiB each could otherwise come without end.
pub const LINES_MAX: usize = 1_000;
/// Reports that may wait: 64 replicas that report at once.
const WAITING_MAX: usize = 64;
/// How often what is too old is looked for.
const FORGET_EVERY: Duration = Duration::from_secs(60 * 60);
/// Rows that are forgotten in one step, as few as are counted in one.
const FORGET_STEP: u32 = 256;
/// The pause between two such steps.
const FORGET_PAUSE: Duration = Duration::from_millis(50);

impl Usage {
    /// Counts for `broker`.
    #[must_use]
    pub fn new(broker: Broker) -> Self {
        let waiting = Arc::new(Semaphore::new(WAITING_MAX));
        Self { broker, waiting, writing: Arc::new(Semaphore::new(1)) }
    }

    /// Counts some lines, when it is their turn.
    async fn count(&self, report: Report) -> Result<Counted, Problem> {
        let stopping = || Problem::from(Stop::Faulted(Fault::Stopping));
        let turn = Arc::clone(&self.writing).acquire_owned().await.map_err(|_| stopping())?;
        let broker = self.broker.clone();
        let begun = tokio::time::Instant::now();
        let done = tokio::task::spawn_blocking(move || broker.count_usage(&report)).await;
        let rest = begun.elapsed().saturating_mul(REST).max(REST_LEAST);
        tokio::spawn(async move {
            tokio::time::sleep(rest).await;
            drop(turn);
        });
        Ok(done.map_err(|_| stopping())??)
    }
}

#[tonic::async_trait]
impl UsageService for Usage {
    async fn report_usage(
        &self,
        request: Request<Streaming<v1::ReportUsageRequest>>,
    ) -> Result<Response<v1::ReportUsageResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let Principal::Gateway { name, resources } = &signed_in.caller()?.principal else {
            return Err(who::wrong_kind("gateways").into());
        };
        let full = |_| {
            let why = "as many usage reports wait as the broker takes at once";
            Problem::new(Grpc::ResourceExhausted, wire::BUSY, why).retry(BUSY_RETRY)
        };
        let _place = self.waiting.try_acquire().map_err(full)?;
        let bundle = self.broker.bundle();
        let known = Known::of(&bundle, resources);
        let resources = resources.to_vec();
        let mut said = request.into_inner();
        let mut answer = v1::ReportUsageResponse::default();
        let (mut lines, mut lost) = (0_usize, 0_u64);
        let mut report: Option<Report> = None;
        while let Some(message) = said.message().await? {
            lines = lines.saturating_add(1);
            if lines > LINES_MAX {
                let why = "a report has more than 1,000 messages; send the rest in another one";
                return Err(Problem::new(Grpc::InvalidArgument, wire::TOO_LARGE, why).into());
            }
            let now = self.broker.now();
            let instance = instance(&message, name)?;
            let into = report.get_or_insert_with(|| Report {
                gateway: name.clone(),
                instance: instance.to_owned(),
                resources: resources.clone(),
                now,
                lines: Vec::new(),
            });
            if into.instance != instance {
                let why = "changes within a report";
                return Err(Problem::from(Malformed { field: "instance", why }).into());
            }
            lost = lost.saturating_add(message.dropped);
            match known.line(message, now)? {
                Some(line) => {
                    into.lines.push(Line { dropped: std::mem::take(&mut lost), ..line });
                }
                None => answer.unknown = answer.unknown.saturating_add(1),
            }
            if into.lines.len() >= STEP {
                let next = Report { lines: Vec::new(), ..into.clone() };
                let full = std::mem::replace(into, next);
                add(&mut answer, &self.count(full).await?);
            }
        }
        if let Some(rest) = report {
            add(&mut answer, &self.count(rest).await?);
        }
        Ok(Response::new(answer))
    }
}

fn add(answer: &mut v1::ReportUsageResponse, counted: &Counted) {
    answer.accepted = answer.accepted.saturating_add(counted.counted);
    answer.repeated_before = answer.repeated_before.saturating_add(counted.repeated);
    answer.unknown = answer.unknown.saturating_add(counted.unknown);
}

fn instance<'m>(
    message: &'m v1::ReportUsageRequest,
    name: &GatewayName,
) -> Result<&'m str, Problem> {
    if !message.gateway.is_empty() && message.gateway != name.as_str() {
        let other = parse::plain(&message.gateway);
        let why = format!("this report is gateway `{other}`'s, and the caller is `{name}`");
        return Err(Problem::new(Grpc::PermissionDenied, caller::WRONG_KIND, why));
    }
    let instance = message.instance.as_str();
    if instance.is_empty() {
        return Err(parse::missing("instance"));
    }
    if instance.len() > INSTANCE_MAX || instance.chars().any(char::is_control) {
        let why = "is longer than 64 bytes, or not plain";
        return Err(Malformed { field: "instance", why }.into());
    }
    Ok(instance)
}

/// What the catalog has on a gateway's resources: what is counted by name is one of these, so that a gateway cannot fill the
/// store with names of its own.
struct Known<'b> {
    operations: HashSet<&'b str>,
    scopes: HashSet<&'b str>,
}

impl<'b> Known<'b> {
    fn of(bundle: &'b crate::policy::bundle::Bundle, resources: &[ResourceName]) -> Self {
        let mut known = Self { operations: HashSet::new(), scopes: HashSet::new() };
        let resources = resources.iter().filter_map(|name| bundle.catalog().resources.get(name));
        for (name, scope) in resources.flat_map(|resource| &resource.scopes) {
            known.scopes.insert(name.as_str());
            known.operations.extend(scope.operations.iter().map(|operation| &**operation));
        }
        known
    }

    /// `None`: of a scope that the catalog does not have there, or has no more.
    fn line(&self, message: v1::ReportUsageRequest, now: Time) -> Result<Option<Line>, Problem> {
        let bad = |field, why| Problem::from(Malformed { field, why });
        if message.report == 0 {
            return Err(parse::missing("report"));
        }
        let grant = message.grant.as_slice().try_into().map(GrantId);
        let grant = grant.map_err(|_| bad("grant", "is not 16 bytes"))?;
        let (how, count) = match (message.allowed, message.refused) {
            (0, 0) => return Err(bad("allowed", "counts nothing, and neither does `refused`")),
            (count, 0) if self.scopes.contains(message.scope.as_str()) => {
                (How::Allowed(message.scope), count)
            }
            (_, 0) => return Ok(None),
            (0, count) => (How::Refused(refusal(message.refusal)?), count),
            (_, _) => return Err(bad("refused", "stands beside `allowed`; send two messages")),
        };
        if count > COUNT_MAX {
            return Err(bad("allowed", "is more than anybody counts in one report"));
        }
        let last = message.last.map(|last| parse::moment("last", &last)).transpose()?;
        // What the catalog no longer spells is counted all the same, without its name.
        let known = self.operations.contains(message.operation.as_str());
        let operation = if known { message.operation } else { String::new() };
        let last = last.unwrap_or(now).min(now);
        Ok(Some(Line { number: message.report, grant, operation, how, count, last, dropped: 0 }))
    }
}

/// A reason's code, of the range that gateways have.
fn refusal(code: String) -> Result<String, Problem> {
    let digits = code.strip_prefix("PT-04");
    let is =
        digits.is_some_and(|two| two.len() == 2 && two.bytes().all(|one| one.is_ascii_digit()));
    let bad = Malformed { field: "refusal", why: "is no code of a gateway's reasons" };
    if is { Ok(code) } else { Err(bad.into()) }
}

/// More than a gateway lets through in a year; sums stay far below what a store holds.
const COUNT_MAX: u64 = 1_000_000_000_000;

/// Forgets what is too old, again and again.
pub async fn forget(broker: Broker) {
    loop {
        loop {
            let (reader, now) = (Arc::clone(broker.reader()), broker.now());
            let work = move || reader.forget_usage(now, FORGET_STEP);
            match tokio::task::spawn_blocking(work).await {
                Ok(Ok(1..)) => tokio::time::sleep(FORGET_PAUSE).await,
                Ok(Ok(0)) | Err(_) => break,
                Ok(Err(fault)) => {
                    tracing::warn!(%fault, "old usage was not forgotten");
                    break;
                }
            }
        }
        tokio::time::sleep(FORGET_EVERY).await;
    }
}

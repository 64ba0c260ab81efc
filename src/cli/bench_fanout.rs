//! One revocation, many subscribers: the time from the call to the last of them.

use std::time::Duration;

use protem_proto::wire::v1;
use protem_proto::wire::v1::revocation::Target;
use protem_proto::wire::v1::selector::By;
use protem_proto::wire::v1::subscribe_request::Message as Ask;
use protem_proto::wire::v1::subscribe_response::Message as Said;
use protem_verify::codes::tool;
use protem_verify::ids::GrantId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::cli::args::Global;
use crate::cli::args_operate::FanoutArgs;
use crate::cli::bench::{Figures, Report, cpu_of, now_us};
use crate::cli::bench_stage::{BenchStage, OPERATOR, gateway, identity};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Screen;
use crate::cli::scene::{Scene, Stage};
use crate::cli::token::Login;

/// A message for all has reached everyone within this, or is lost.
const ROUND_MAX: Duration = Duration::from_secs(10);
/// Streams are opened this many at a time, as gateways would come: not all in one instant.
const OPEN_AT_ONCE: usize = 50;

/// `protem bench fanout`.
///
/// # Errors
/// When the broker does not start, or a subscriber misses a revocation.
pub async fn fanout(
    global: &Global,
    screen: &Screen,
    args: &FanoutArgs,
) -> Result<Report, Failure> {
    let stage = BenchStage::open(global).await?;
    let clients = (0..args.subscribers).map(|at| stage.client(&gateway(at)));
    let clients: Vec<Client> = clients.collect::<Result<_, _>>()?;
    screen.say(format!("  {} subscribers connect", args.subscribers));
    let mut crowd = Crowd::gather(clients, true).await?;
    let caller = stage.client(&identity(0))?;
    let operator = stage.client(OPERATOR)?;
    let before = cpu_of(stage.pid);
    let began = now_us();
    let mut micros = Vec::new();
    for round in 0..args.rounds {
        let grant = make(&caller, round).await?;
        let id: GrantId = grant.parse().map_err(|_| step("the broker's grant has no id"))?;
        let from = now_us();
        let revoked = tokio::spawn(revoke(operator.clone(), grant));
        let last = crowd.all_have(&id.0).await;
        // A refused revocation explains why nobody got it.
        revoked.await.map_err(|why| step(&why.to_string()))??;
        micros.push(last?.saturating_sub(from));
    }
    let over = Duration::from_micros(now_us().saturating_sub(began));
    let cpu = cpu_of(stage.pid).zip(before).map(|(after, before)| after.saturating_sub(before));
    let result = Figures::of("revocation to the last subscriber", micros, 0, over).cpu(cpu);
    drop(crowd);
    stage.close().await?;
    let mut probes = Vec::new();
    if !args.no_probes {
        screen.say("  the raw fan-out probe");
        probes.push(raw(args).await?);
    }
    let ratios = probes.iter().map(|probe| {
        let ratio = result.p50_ms / probe.p50_ms.max(1e-9);
        (format!("fan-out p50 / {} p50", probe.name), ratio)
    });
    let ratios = ratios.collect();
    Ok(Report { bench: "fanout", concurrency: args.subscribers, result, probes, ratios })
}

fn step(what: &str) -> Failure {
    Failure::of(Exit::Failed, tool::STEP, what)
}

async fn make(caller: &Client, round: usize) -> Result<String, Failure> {
    let request = v1::RequestAccessRequest {
        task: Some(v1::Task { id: format!("fanout-{round}"), ..v1::Task::default() }),
        resource: "orders-api".to_owned(),
        scopes: vec!["orders:read".to_owned()],
        ..v1::RequestAccessRequest::default()
    };
    let answer = caller.access().request_access(request).await;
    let answer = answer.map_err(|status| caller.failure(&status))?.into_inner();
    answer.grant.map(|grant| grant.id).ok_or_else(|| step("the broker answered without a grant"))
}

async fn revoke(operator: Client, grant: String) -> Result<(), Failure> {
    let selector = Some(v1::Selector { by: Some(By::Grant(grant)) });
    let request = v1::RevokeRequest { selector, note: "bench".to_owned(), wait: None };
    let answers = operator.governance().revoke(request).await;
    let mut answers = answers.map_err(|status| operator.failure(&status))?.into_inner();
    answers.message().await.map(drop).map_err(|status| operator.failure(&status))
}

/// The same crowd on bare streams.
async fn raw(args: &FanoutArgs) -> Result<Figures, Failure> {
    let scene = Scene::new()?;
    let stage = scene.process(&["fanout-probe"]).await?;
    let clients = (0..args.subscribers).map(|_| Client::new(stage.uri.clone(), Login::nobody()));
    let mut crowd = Crowd::gather(clients.collect(), false).await?;
    let figures = raw_rounds(args, &stage, &mut crowd).await;
    drop(crowd);
    stage.stop().await;
    scene.clean()?;
    figures
}

async fn raw_rounds(
    args: &FanoutArgs,
    stage: &Stage,
    crowd: &mut Crowd,
) -> Result<Figures, Failure> {
    let publisher = Client::new(stage.uri.clone(), Login::nobody());
    let (before, began) = (cpu_of(stage.pid()), now_us());
    let mut micros = Vec::new();
    for _ in 0..args.rounds {
        let id = protem_clock::random::bytes::<16>();
        let from = now_us();
        let poll = v1::HeadRequest { nonce: id.to_vec(), ..v1::HeadRequest::default() };
        let published = publisher.feed().head(poll).await;
        published.map_err(|status| publisher.failure(&status))?;
        micros.push(crowd.all_have(&id).await?.saturating_sub(from));
    }
    let over = Duration::from_micros(now_us().saturating_sub(began));
    let cpu = cpu_of(stage.pid()).zip(before).map(|(after, before)| after.saturating_sub(before));
    Ok(Figures::of("raw tonic fan-out", micros, 0, over).cpu(cpu))
}

/// Subscribers, each with a stream on a connection of its own.
struct Crowd {
    got: mpsc::UnboundedReceiver<Got>,
    count: usize,
    _asks: Vec<mpsc::Sender<v1::SubscribeRequest>>,
}

/// A subscriber got something.
enum Got {
    /// The revocation of this grant, at this moment.
    Grant(Vec<u8>, u64),
    /// The end of its stream.
    End(String),
}

impl Crowd {
    async fn gather(clients: Vec<Client>, named: bool) -> Result<Self, Failure> {
        let (tell, got) = mpsc::unbounded_channel();
        let mut crowd = Self { got, count: clients.len(), _asks: Vec::new() };
        for (some, clients) in clients.chunks(OPEN_AT_ONCE).enumerate() {
            let opened = clients.iter().enumerate().map(|(at, client)| {
                let name = if named { gateway(some * OPEN_AT_ONCE + at) } else { String::new() };
                tokio::spawn(open(client.clone(), name, tell.clone()))
            });
            for opened in opened.collect::<Vec<_>>() {
                let ask = opened.await.map_err(|why| step(&why.to_string()))??;
                crowd._asks.push(ask);
            }
        }
        Ok(crowd)
    }

    /// Waits until each has the revocation of `grant`; the moment of the last.
    async fn all_have(&mut self, grant: &[u8; 16]) -> Result<u64, Failure> {
        let (mut have, mut last) = (0, 0);
        let all = async {
            while have < self.count {
                match self.got.recv().await {
                    Some(Got::Grant(id, at)) if id == grant => {
                        have += 1;
                        last = last.max(at);
                    }
                    Some(Got::Grant(..)) => {}
                    Some(Got::End(why)) => return Err(step(&format!("a stream ended: {why}"))),
                    None => return Err(step("all streams ended")),
                }
            }
            Ok(last)
        };
        let ended = tokio::time::timeout(ROUND_MAX, all).await;
        ended.unwrap_or_else(|_| Err(step("a subscriber missed a revocation")))
    }
}

/// Opens a stream and reads it on in the background, once its opening part is over.
async fn open(
    client: Client,
    gateway: String,
    tell: mpsc::UnboundedSender<Got>,
) -> Result<mpsc::Sender<v1::SubscribeRequest>, Failure> {
    let (ask, asked) = mpsc::channel(4);
    let named = !gateway.is_empty();
    let instance = data_encoding::HEXLOWER.encode(&protem_clock::random::bytes::<8>());
    let open = v1::Open { gateway, instance, version: 1, ..v1::Open::default() };
    let first = v1::SubscribeRequest { message: Some(Ask::Open(open)) };
    ask.send(first).await.map_err(|_| step("the stream has ended"))?;
    let said = client.feed().subscribe(ReceiverStream::new(asked)).await;
    let mut said = said.map_err(|status| client.failure(&status))?.into_inner();
    loop {
        let message = said.message().await.map_err(|status| client.failure(&status))?;
        match message.and_then(|message| message.message) {
            Some(Said::Opened(_)) if !named => break,
            Some(Said::SnapshotEnd(_)) => break,
            Some(_) => {}
            None => return Err(step("the stream ended while it opened")),
        }
    }
    tokio::spawn(async move {
        loop {
            let message = match said.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return drop(tell.send(Got::End("it was closed".to_owned()))),
                Err(status) => return drop(tell.send(Got::End(status.message().to_owned()))),
            };
            let at = now_us();
            let Some(Said::Batch(batch)) = message.message else { continue };
            for item in batch.items {
                if let Some(Target::Grant(id)) = item.target {
                    let _ = tell.send(Got::Grant(id, at));
                }
            }
        }
    });
    Ok(ask)
}

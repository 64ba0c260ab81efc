//! `AccessService`: workloads ask, hold, renew and complete; each sees and ends its own only.

use std::sync::Arc;

use protem_core::request::{AccessRequest, Workload};
use protem_proto::wire::v1;
use protem_proto::wire::v1::access_service_server::AccessService;
use protem_verify::codes::wire as codes;
use protem_verify::names::{IdentityName, Subject, Words};
use tonic::{Request, Response, Status, Streaming};

use crate::engine::broker::Broker;
use crate::engine::granted::Granted;
use crate::journal::records::{GrantRecord, Shown};
use crate::policy::ask::Object;
use crate::policy::bundle::Bundle;
use crate::policy::login::{Caller, Claim, Login, Principal};
use crate::serve::answers::{Answers, Gone, Sink};
use crate::serve::caller::SignedIn;
use crate::serve::grounds::Grounds;
use crate::serve::hold;
use crate::serve::parse;
use crate::serve::places::Room;
use crate::serve::show;
use crate::serve::status::Problem;
use crate::serve::waits::{OfBroker, enforced};
use crate::serve::watch::Watch;
use crate::serve::who;
use crate::serve::work::Work;

/// The service.
pub struct Access {
    /// What answers.
    pub broker: Broker,
    /// What ends streams.
    pub watch: Watch,
    /// Where requests for access are worked on.
    pub work: Work,
}

#[tonic::async_trait]
impl AccessService for Access {
    type WatchGrantStream = Answers<v1::WatchGrantResponse>;
    type HoldTaskStream = Answers<v1::HoldTaskResponse>;

    async fn request_access(
        &self,
        request: Request<v1::RequestAccessRequest>,
    ) -> Result<Response<v1::RequestAccessResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let (broker, wire) = (self.broker.clone(), request.into_inner());
        let answer = self.work.run(async move {
            let caller = signed_in.caller()?;
            let by = who::workload(caller)?.clone();
            let asked = parse::access(by, wire, &broker.bundle())?;
            let granted = broker.request_access(caller, asked).await?;
            let (grant, credential) = show::granted(&granted);
            Ok(v1::RequestAccessResponse { grant: Some(grant), credential })
        });
        Ok(Response::new(answer.await?))
    }

    async fn explain_access(
        &self,
        request: Request<v1::ExplainAccessRequest>,
    ) -> Result<Response<v1::ExplainAccessResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let (broker, wire) = (self.broker.clone(), request.into_inner());
        let answer = self.work.run(async move { explain(&broker, &signed_in, wire).await });
        Ok(Response::new(answer.await?))
    }

    async fn watch_grant(
        &self,
        request: Request<v1::WatchGrantRequest>,
    ) -> Result<Response<Self::WatchGrantStream>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        let by = who::workload(caller)?;
        let id = parse::grant_id("grant_id", &request.get_ref().grant_id)?;
        // The watch begins before the first look, so that no change falls between them.
        let mut changes = self.broker.watch_grant(caller, id);
        let grant = who::own(&self.broker, by, id).await?;
        // Another subject of the same identity sees the grant, and never its credential.
        let first = if grant.request.by == *by {
            self.broker.current(caller, id).await.map_err(Problem::from)?
        } else {
            Granted { grant, credential: None }
        };
        let (sink, answers) = Sink::new();
        let watch = self.watch.clone();
        tokio::spawn(async move {
            let changed = async {
                send_grant(&sink, &first).await?;
                while let Some(change) = changes.next().await {
                    match change {
                        Ok(granted) => send_grant(&sink, &granted).await?,
                        Err(stop) => return Err(sink.fail(stop.into())),
                    }
                }
                Ok::<(), Gone>(())
            };
            tokio::select! {
                _ = changed => {}
                problem = watch.over(signed_in) => { sink.fail(problem); }
                () = sink.closed() => {}
            }
        });
        Ok(Response::new(answers))
    }

    async fn renew_credential(
        &self,
        request: Request<v1::RenewCredentialRequest>,
    ) -> Result<Response<v1::RenewCredentialResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let (broker, wire) = (self.broker.clone(), request.into_inner());
        let answer = self.work.run(async move {
            let caller = signed_in.caller()?;
            who::workload(caller)?;
            let id = parse::grant_id("grant_id", &wire.grant_id)?;
            let granted = broker.renew(caller, id).await?;
            let (grant, credential) = show::granted(&granted);
            Ok(v1::RenewCredentialResponse { credential, grant: Some(grant) })
        });
        Ok(Response::new(answer.await?))
    }

    async fn hold_task(
        &self,
        request: Request<Streaming<v1::HoldTaskRequest>>,
    ) -> Result<Response<Self::HoldTaskStream>, Status> {
        let signed_in = who::signed_in(&request)?;
        let answers =
            hold::open(&self.broker, &self.watch, signed_in, request.into_inner()).await?;
        Ok(Response::new(answers))
    }

    async fn complete_task(
        &self,
        request: Request<v1::CompleteTaskRequest>,
    ) -> Result<Response<v1::CompleteTaskResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        who::workload(caller)?;
        let room = request.extensions().get::<Arc<Room>>().cloned();
        let wire = request.into_inner();
        let task = parse::task_id("task_id", &wire.task_id)?;
        let outcome = Words::parse("outcome", &wire.outcome).map_err(Problem::from)?;
        let wait = parse::wait(wire.wait.as_ref())?;
        let finished =
            self.broker.complete_task(caller, task, outcome).await.map_err(Problem::from)?;
        // It is done; while it waits for gateways, perhaps for one that is away, others may end access.
        let mut waiting = None;
        if let Some(room) = room {
            waiting = wait.and_then(|wait| Some((wait, room.waits().of_task(caller)?)));
            room.leave();
        }
        let sight = OfBroker { broker: &self.broker, mark: &finished.mark };
        let known = enforced(&sight, waiting).await;
        Ok(Response::new(v1::CompleteTaskResponse {
            ended: finished.ended.iter().map(show::grant).collect(),
            seq: finished.mark.seq.0,
            gateways: show::acknowledged(&known),
            enforced_everywhere: known.everywhere,
            enforcement: show::enforcement(&known),
        }))
    }

    async fn return_grant(
        &self,
        request: Request<v1::ReturnGrantRequest>,
    ) -> Result<Response<v1::ReturnGrantResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        who::workload(caller)?;
        let wire = request.into_inner();
        let id = parse::grant_id("grant_id", &wire.grant_id)?;
        let note = Words::parse("note", &wire.note).map_err(Problem::from)?;
        let finished = self.broker.return_grant(caller, id, note).await.map_err(Problem::from)?;
        Ok(Response::new(v1::ReturnGrantResponse {
            grant: finished.ended.first().map(show::grant),
            seq: finished.mark.seq.0,
        }))
    }

    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        Ok(Response::new(who_am_i(&*who::signed_in(&request)?, &self.broker.bundle())))
    }
}

async fn explain(
    broker: &Broker,
    signed_in: &SignedIn,
    wire: v1::ExplainAccessRequest,
) -> Result<v1::ExplainAccessResponse, Problem> {
    let inner = wire.request.ok_or(parse::missing("request"))?;
    let bundle = broker.bundle();
    let (login, by) = explained(broker, signed_in.caller()?, &wire.as_identity, &bundle)?;
    let asked: AccessRequest = parse::access(by, inner, &bundle)?;
    let identity = asked.by.identity.clone();
    let active = broker.ask(move |state| state.active(&identity)).await?;
    let ruling = broker.explain_access(&login, &asked, active);
    let rule = ruling.rule.as_ref();
    Ok(v1::ExplainAccessResponse {
        verdict: Some(show::verdict(&ruling)),
        lifetime: Some(show::duration(ruling.terms.lifetime.0)),
        approvals_required: rule.map_or(0, |rule| rule.required.into()),
        approver_groups: rule
            .map_or_else(Vec::new, |rule| rule.groups.iter().map(ToString::to_string).collect()),
    })
}

/// Whose request is explained: the caller's own, or for those who may look, any identity's under its first login.
fn explained(
    broker: &Broker,
    caller: &Caller,
    as_identity: &str,
    bundle: &Bundle,
) -> Result<(Arc<Login>, Workload), Problem> {
    if as_identity.is_empty() {
        return Ok((Arc::clone(&caller.login), who::workload(caller)?.clone()));
    }
    let name = IdentityName::try_from(as_identity)?;
    who::may_view(broker, caller, &[Object::Identity(name.clone())])?;
    let known = bundle.identities().get(&name).ok_or_else(|| {
        let why = format!("names `{name}`, which the bundle does not have");
        Problem::field(codes::UNKNOWN_NAME, "as_identity", &why)
    })?;
    let login = match known.logins.first() {
        None => Login::dev_identity(name.as_str()),
        Some(rule) => {
            let texts = rule.claims.iter().map(|(n, v)| (n.clone(), Claim::Text(v.clone())));
            let subject = rule.claims.get("sub").map_or(name.as_str(), String::as_str);
            let (issuer, subject) = (rule.issuer.to_string(), subject.to_owned());
            Login { issuer, subject, claims: texts.collect() }
        }
    };
    let subject = Subject::try_from(format!("{}|{}", login.issuer, login.subject).as_str())?;
    Ok((Arc::new(login), Workload { identity: name, subject }))
}

async fn send_grant(sink: &Sink<v1::WatchGrantResponse>, granted: &Granted) -> Result<(), Gone> {
    let (grant, credential) = show::granted(granted);
    sink.send(v1::WatchGrantResponse { grant: Some(grant), credential }).await?;
    // "Until it ends": nothing comes after the end.
    if has_ended(&granted.grant) { Err(Gone) } else { Ok(()) }
}

fn has_ended(grant: &GrantRecord) -> bool {
    match &grant.status {
        Shown::Ended { .. } => true,
        Shown::Pending { .. } | Shown::Active { .. } => false,
    }
}

fn who_am_i(signed_in: &SignedIn, bundle: &Bundle) -> v1::WhoAmIResponse {
    let login = &signed_in.login;
    let seen = bundle.seen(login);
    let audience = match login.claims.get("aud") {
        Some(Claim::Text(one)) => vec![one.clone()],
        Some(Claim::List(all)) => all.clone(),
        None => match &signed_in.grounds {
            Grounds::Token { audience, .. } => vec![audience.clone()],
            Grounds::Certificate(_) => Vec::new(),
        },
    };
    let mut answer = v1::WhoAmIResponse {
        subject: login.subject.clone(),
        issuer: signed_in.issuer.clone(),
        audience,
        expires: Some(show::time(signed_in.expires)),
        claims: seen.claims.into_iter().collect(),
        login: seen.rule,
        ..v1::WhoAmIResponse::default()
    };
    match signed_in.who.as_ref().map(|caller| &caller.principal) {
        Ok(Principal::Workload { by, behind }) => {
            answer.subject = by.subject.to_string();
            answer.identity = by.identity.to_string();
            answer.person = behind.as_ref().map_or_else(String::new, ToString::to_string);
        }
        Ok(Principal::Person(person)) => {
            answer.person = person.name.to_string();
            answer.groups = person.groups.iter().map(ToString::to_string).collect();
        }
        Ok(Principal::Gateway { name, .. }) => answer.gateway = name.to_string(),
        Err(no) => answer.why_not.clone_from(&no.why_not),
    }
    answer
}

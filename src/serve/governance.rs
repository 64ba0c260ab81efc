//! `GovernanceService`: people see everything they may, stop what they may, and prove what happened.

use std::sync::Arc;

use protem_core::event::Target;
use protem_proto::wire::v1;
use protem_proto::wire::v1::governance_service_server::GovernanceService;
use protem_verify::ids::GrantId;
use protem_verify::names::Words;
use tonic::{Request, Response, Status};

use crate::engine::broker::Broker;
use crate::engine::granted::Revoked;
use crate::engine::receipts::Enforcement;
use crate::policy::ask::{Action, Object};
use crate::policy::login::Caller;
use crate::serve::answers::{Answers, Sink};
use crate::serve::audit;
use crate::serve::inventory;
use crate::serve::later::not_built;
use crate::serve::listing;
use crate::serve::parse;
use crate::serve::places::Room;
use crate::serve::rates::Guess;
use crate::serve::selector::{self, Selected};
use crate::serve::show;
use crate::serve::signing_keys;
use crate::serve::status::Problem;
use crate::serve::used;
use crate::serve::waits::{OfBroker, follow};
use crate::serve::watch::Watch;
use crate::serve::webhook::Webhooks;
use crate::serve::webhook_list;
use crate::serve::who;

/// The service.
pub struct Governance {
    /// What answers.
    pub broker: Broker,
    /// What ends streams.
    pub watch: Watch,
    /// Who is told what happens.
    pub webhooks: Webhooks,
}

#[tonic::async_trait]
impl GovernanceService for Governance {
    type RevokeStream = Answers<v1::RevokeResponse>;
    type ReadJournalStream = Answers<v1::ReadJournalResponse>;
    type BackupStream = Answers<v1::BackupResponse>;

    async fn list_grants(
        &self,
        request: Request<v1::ListGrantsRequest>,
    ) -> Result<Response<v1::ListGrantsResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        let answer = listing::grants(&self.broker, caller, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn get_grant(
        &self,
        request: Request<v1::GetGrantRequest>,
    ) -> Result<Response<v1::GetGrantResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        let id = selector::grant(&self.broker, caller, &request.get_ref().grant_id).await?;
        let grant = who::visible(&self.broker, caller, id).await?;
        Ok(Response::new(used::grant(&self.broker, &grant).await?))
    }

    async fn revoke(
        &self,
        request: Request<v1::RevokeRequest>,
    ) -> Result<Response<Self::RevokeStream>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        let room = request.extensions().get::<Arc<Room>>().cloned();
        let wire = request.into_inner();
        let by = wire.selector.and_then(|selector| selector.by);
        let by = by.ok_or(parse::missing("selector"))?;
        selector::may_select(&self.broker, caller, &by)?;
        let note = parse::required_words("note", &wire.note)?;
        let wait = parse::wait(wire.wait.as_ref())?;
        let targets = match selector::read(&self.broker, caller, by).await? {
            Selected::Leaked(grant) => {
                let seq = self.leaked(caller, grant, note).await?;
                let answer = only(v1::RevokeResponse { seq, ..Default::default() });
                let mut answer: Response<Self::RevokeStream> = Response::new(answer);
                answer.extensions_mut().insert(Guess);
                return Ok(answer);
            }
            Selected::Targets(targets) => targets,
        };
        let revoked = self.end(caller, targets, note).await?;
        let (sink, answers) = Sink::new();
        let (broker, watch) = (self.broker.clone(), self.watch.clone());
        let waiting = wait
            .zip(room)
            .and_then(|(wait, room)| Some((wait, room.waits().of_revocation(caller)?)));
        tokio::spawn(async move {
            let sight = OfBroker { broker: &broker, mark: &revoked.mark };
            let tell = |known: &Enforcement| sink.send(receipts(&revoked, known));
            tokio::select! {
                _ = follow(&sight, waiting, tell) => {}
                // What is revoked stays so: only its receipts end, with the caller who follows them.
                problem = watch.over(signed_in) => { sink.fail(problem); }
                () = sink.closed() => {}
            }
        });
        Ok(Response::new(answers))
    }

    async fn list_identities(
        &self,
        request: Request<v1::ListIdentitiesRequest>,
    ) -> Result<Response<v1::ListIdentitiesResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        let answer = inventory::identities(&self.broker, caller, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn set_quarantine(
        &self,
        request: Request<v1::SetQuarantineRequest>,
    ) -> Result<Response<v1::SetQuarantineResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        let wire = request.into_inner();
        let identity = selector::identity("identity", &wire.identity)?;
        let note = parse::required_words("note", &wire.note)?;
        self.may_quarantine(caller)?;
        inventory::must_know(&self.broker, &identity)?;
        let mark = self
            .broker
            .set_quarantine(caller, identity.clone(), wire.quarantined, note)
            .await
            .map_err(Problem::from)?;
        let identity = inventory::identity(&self.broker, &identity).await?;
        Ok(Response::new(v1::SetQuarantineResponse { identity: Some(identity), seq: mark.seq.0 }))
    }

    async fn list_gateways(
        &self,
        request: Request<v1::ListGatewaysRequest>,
    ) -> Result<Response<v1::ListGatewaysResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        who::may_view(&self.broker, caller, &[Object::Broker])?;
        let gateways = inventory::gateways(&self.broker).await?;
        Ok(Response::new(v1::ListGatewaysResponse { gateways }))
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        // Who may replace a key, at night and in a hurry, may also see which there are.
        who::may_view(&self.broker, caller, &[Object::Broker]).or_else(|no| {
            who::on_broker(&self.broker, caller, Action::Administer).map_err(|_| no)
        })?;
        let keys = signing_keys::list(&self.broker).await?;
        Ok(Response::new(v1::ListKeysResponse { keys }))
    }

    async fn rotate_key(
        &self,
        request: Request<v1::RotateKeyRequest>,
    ) -> Result<Response<v1::RotateKeyResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        who::permit(&self.broker, who::person(caller)?, Action::Administer, &[Object::Broker])?;
        let answer = signing_keys::rotate(&self.broker, caller, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn list_secrets(
        &self,
        request: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::ListSecretsResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        who::may_view(&self.broker, caller, &[Object::Broker])?;
        let secrets = inventory::secrets(&self.broker);
        Ok(Response::new(v1::ListSecretsResponse { secrets }))
    }

    async fn read_journal(
        &self,
        request: Request<v1::ReadJournalRequest>,
    ) -> Result<Response<Self::ReadJournalStream>, Status> {
        let signed_in = who::signed_in(&request)?;
        let wire = request.into_inner();
        let answers = audit::read(&self.broker, &self.watch, signed_in, wire).await?;
        Ok(Response::new(answers))
    }

    async fn get_proof(
        &self,
        request: Request<v1::GetProofRequest>,
    ) -> Result<Response<v1::GetProofResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        let wire = request.into_inner();
        let answer = audit::prove(&self.broker, caller, &wire).await?;
        Ok(Response::new(answer))
    }

    async fn get_report(
        &self,
        _: Request<v1::GetReportRequest>,
    ) -> Result<Response<v1::GetReportResponse>, Status> {
        Err(not_built("the report", "list identities, gateways and secrets").into())
    }

    async fn backup(
        &self,
        _: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        Err(not_built("a backup while serving", "copy the data folder of a stopped broker").into())
    }

    async fn list_webhooks(
        &self,
        request: Request<v1::ListWebhooksRequest>,
    ) -> Result<Response<v1::ListWebhooksResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        who::may_view(&self.broker, caller, &[Object::Broker])?;
        let webhooks = webhook_list::list(&self.webhooks, &self.broker).await?;
        Ok(Response::new(v1::ListWebhooksResponse { webhooks }))
    }

    async fn retry_webhook(
        &self,
        request: Request<v1::RetryWebhookRequest>,
    ) -> Result<Response<v1::RetryWebhookResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        who::permit(&self.broker, who::person(caller)?, Action::Administer, &[Object::Broker])?;
        let name = &request.get_ref().name;
        let messages = webhook_list::retry(&self.webhooks, &self.broker, name).await?;
        Ok(Response::new(v1::RetryWebhookResponse { messages }))
    }
}

impl Governance {
    /// Ends what a person may end.
    ///
    /// # Errors
    /// PERMISSION_DENIED with policy's reason; NOT_FOUND for what the person may not even see.
    pub async fn end(
        &self,
        caller: &Caller,
        targets: Vec<Target>,
        note: Words,
    ) -> Result<Revoked, Problem> {
        selector::may_revoke(&self.broker, who::person(caller)?, &targets).await?;
        self.broker.revoke(caller, targets, note).await.map_err(Problem::from)
    }

    /// Whether a person may quarantine identities, and lift that.
    ///
    /// # Errors
    /// PERMISSION_DENIED with policy's reason.
    pub fn may_quarantine(&self, caller: &Caller) -> Result<(), Problem> {
        who::permit(&self.broker, who::person(caller)?, Action::Administer, &[Object::Broker])
    }

    /// Ends the grant of a leaked credential, if it still counts. The answer is the same if not: a place in the journal.
    async fn leaked(
        &self,
        caller: &Caller,
        grant: Option<GrantId>,
        note: Words,
    ) -> Result<u64, Problem> {
        let Some(grant) = grant else { return Ok(self.broker.head().seq.0) };
        let revoked = self.broker.revoke(caller, vec![Target::Grant(grant)], note).await;
        match revoked.map_err(Problem::from) {
            Ok(revoked) => Ok(revoked.mark.seq.0),
            Err(problem) if problem.is_refusal() => Ok(self.broker.head().seq.0),
            Err(problem) => Err(problem),
        }
    }
}

fn receipts(revoked: &Revoked, known: &Enforcement) -> v1::RevokeResponse {
    v1::RevokeResponse {
        seq: revoked.mark.seq.0,
        grants_ended: revoked.grants_ended,
        enforcement: show::enforcement(known),
        enforced_everywhere: known.everywhere,
    }
}

fn only<T: Send + 'static>(answer: T) -> Answers<T> {
    Box::pin(tokio_stream::once(Ok(answer)))
}
